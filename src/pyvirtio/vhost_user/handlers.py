"""What handles a message: functions of its payload, some of which have to wait for the host on their way.

A handler that waits is a generator. It yields each `Completion` that it needs, is resumed with the result, and so
reads like one that does not wait. Who drives it (`backend.BackendSession`) takes no other message meanwhile.
"""

from __future__ import annotations

from pyvirtio.errors import LocalError, PeerError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence
    from typing import Any, TypeAlias, TypeVar

    from pyvirtio.spec.struct import Struct
    from pyvirtio.transport import Completion
    from pyvirtio.vhost_user import messages as m
    from pyvirtio.vhost_user.framing import Frame

    T = TypeVar("T")
    P = TypeVar("P", bound=Struct)
    Steps: TypeAlias = Generator[Completion[Any], Any, T]
    Result: TypeAlias = "Answer | Steps[Answer | None] | Steps[Answer] | Steps[None] | None"
    Handler: TypeAlias = "Callable[[Frame], Result]"
    Handlers: TypeAlias = "dict[m.Request, Handler]"

REFUSALS = (PeerError, LocalError, OSError)
"""What a handler raises for a message that is refused. An OSError says that the system gives no more of something."""


class Answer:
    """What goes back in the reply to a question: its payload, and descriptors, which are closed once they are sent."""

    __slots__ = ("fds", "payload")

    def __init__(self, payload: Struct | bytes, fds: Sequence[int] = ()) -> None:
        self.payload = payload if isinstance(payload, bytes) else payload.pack()
        self.fds = fds


def on(payload: type[P], handler: Callable[[P, Frame], Result]) -> Handler:
    """Return the handler of a message with a payload; ``handler`` gets it unpacked, and the whole frame beside it."""
    return lambda frame: handler(payload.unpack(frame.payload), frame)


def plain(handler: Callable[[], Result]) -> Handler:
    """Return the handler of a message that has no payload and no descriptor."""
    return lambda _frame: handler()


def steps_of(result: Result) -> Steps[Answer | None]:
    """Go through the steps of what a handler returned, if it has any, to its answer."""
    if result is None or isinstance(result, Answer):
        return result
    return (yield from result)
