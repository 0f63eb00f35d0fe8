"""The result of what takes time, without a thread or an event loop."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any, Generic, Self, TypeVar

    T = TypeVar("T")
else:
    from pyvirtio.system.typing import Generic

    T = None


class Completion(Generic[T]):
    """The result of something that may take a while, set exactly once; a callback waits for it.

    It knows no thread and no event loop: who completes it runs the callbacks.

    >>> stopped = Completion[int]()
    >>> stopped.then(print)
    >>> stopped.complete(7)
    7
    >>> Completion.of(3).then(print)
    3
    """

    __slots__ = ("_callbacks", "_result", "done")

    def __init__(self) -> None:
        self.done = False
        self._result: Any = None
        self._callbacks: list[Callable[[T], object]] = []

    @classmethod
    def of(cls, result: T) -> Self:
        """Return a completion that is done already."""
        completion = cls()
        completion.complete(result)
        return completion

    @classmethod
    def all(cls, parts: Iterable[Completion[Any]]) -> Completion[None]:
        """Return a completion that is done when all ``parts`` are.

        >>> one = Completion[None]()
        >>> both = Completion.all([one, Completion.of(None)])
        >>> both.done
        False
        >>> one.complete(None)
        >>> both.done
        True
        """
        whole: Completion[None] = Completion()
        left = list(parts)
        missing = len(left)

        def one_is_done(_result: object) -> None:
            nonlocal missing
            missing -= 1
            if not missing:
                whole.complete(None)

        if not left:
            whole.complete(None)
        for part in left:
            part.then(one_is_done)
        return whole

    def complete(self, result: T) -> None:
        """Set the result and run what waits for it."""
        assert not self.done, "completed twice"
        self.done, self._result = True, result
        for callback in self._callbacks:
            callback(result)
        self._callbacks.clear()

    def then(self, callback: Callable[[T], object]) -> None:
        """Call ``callback`` with the result, now if it is there."""
        if self.done:
            callback(self._result)
        else:
            self._callbacks.append(callback)

    @property
    def result(self) -> T:
        """The result; only to be read when `done`."""
        assert self.done, "not completed yet"
        result: T = self._result
        return result
