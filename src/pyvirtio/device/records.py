"""How a queue's typed methods answer requests: one chain, one record, or a batch of records."""

from __future__ import annotations

from pyvirtio.errors import LocalError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pyvirtio.ring import Chain
    from pyvirtio.spec.struct import ByteOrder, Struct

    Answer = Callable[[Chain], None]


class Records:
    """What a batch method is given, for its annotation: a NumPy array of records that it may not change."""

    def __getitem__(self, field: str) -> Any:
        """Give the values of one field, an array."""
        raise NotImplementedError


def lookup(table: tuple[int, ...], indexes: Any) -> Any:
    """Look each of ``indexes``, an array of numbers, up in ``table``; what is beyond its end gets the last item.

    >>> import numpy as np
    >>> lookup((1, 1, 2, 6, 0), np.array([3, 100]))
    array([6, 0], dtype=uint8)
    """
    array = _arrays.get(id(table)) or _array(table)
    if indexes.dtype.char in _NARROW:
        return array[1].take(indexes, mode="clip")
    import numpy as np

    return array[1][np.minimum(indexes, len(table) - 1)]


_NARROW = "BHI"
"""NumPy's letters for unsigned numbers that can be no negative index."""

_arrays: dict[int, tuple[tuple[int, ...], Any]] = {}
"""Tables as arrays. The key is where a table is, for its hash takes longer than a look-up; it is kept, so it stays."""


def _array(table: tuple[int, ...]) -> tuple[tuple[int, ...], Any]:
    import numpy as np

    if len(_arrays) > 64:  # somebody makes a new table each time
        _arrays.clear()
    array = _arrays[id(table)] = table, np.array(table, np.min_scalar_type(max(table)))
    return array


def write_answer(chain: Chain, answer: Any, response: type[Struct], order: ByteOrder) -> None:
    """Write what a typed method gave: a structure, or the number that is its only field.

    Raises:
        TypeError: it is neither.
        LocalError: a number does not fit in its field.
        ChainError: the driver left no room for it.
    """
    if response.is_number and isinstance(answer, int):
        answer = response(answer)
    if not isinstance(answer, response):
        raise TypeError(f"the device's method gave {answer!r}; it has to give a {response.__name__}")
    chain.write(answer.pack(order))


class RecordAnswer:
    """Answers a chain when it is called, and knows what is needed to answer records instead.

    ``one`` answers a chain. ``method`` is the device's typed method, which answers a structure, and ``batch`` the one
    that answers NumPy's record arrays; either may be missing.
    """

    def __init__(
        self,
        one: Answer,
        request: type[Struct],
        response: type[Struct],
        *,
        method: Callable[[Any], Any] | None = None,
        batch: Callable[[Any], Any] | None = None,
    ) -> None:
        self.one = one
        self.request = request
        self.response = response
        self.method = method
        self.batch = batch
        self._numpy: Any = None

    def __call__(self, chain: Chain) -> None:
        """Answer a chain."""
        self.one(chain)

    def answers(self, requests: Any) -> Any:
        """Give the answers to all ``requests`` in a buffer, or None where the device does not want a batch.

        Raises:
            ImportError: there is no NumPy.
            TypeError, LocalError: the method gave something else than as many answers of the right type.
        """
        assert self.batch is not None
        np = self._numpy or self._use_numpy()
        records = np.frombuffer(requests, self._kind)
        answers = self.batch(records)
        if answers is NotImplemented:
            return None
        # What a good method gives, told in the time that a small batch has for it.
        if type(answers) is np.ndarray and answers.dtype is self._value and answers.shape == records.shape:
            return np.ascontiguousarray(answers)
        return _as_records(np, answers, self._wanted, len(records))

    def _use_numpy(self) -> Any:
        import numpy as np

        self._kind, self._wanted = self.request.numpy_dtype(), self.response.numpy_dtype()
        self._value = self._wanted[0] if self.response.is_number else self._wanted
        self._numpy = np
        return np


def _as_records(np: Any, answers: Any, kind: Any, number: int) -> Any:
    """Check what a batch method gave, and give it as the wire has it."""
    if not isinstance(answers, np.ndarray) or answers.shape != (number,):
        raise TypeError(f"the device's batch method has to give an array of {number} answers; it gave {answers!r}")
    if answers.dtype == kind or (answers.dtype == kind[0] and len(kind) == 1):
        return np.ascontiguousarray(answers)
    if kind.names is None or len(kind.names) != 1 or answers.dtype.names is not None:
        raise TypeError(f"the device's batch method gave {answers.dtype}; the response is {kind}")
    # One field: an array of plain values will do.
    values = answers.astype(kind[0], casting="unsafe", copy=False)
    if values.dtype != answers.dtype and not np.array_equal(values, answers):
        raise LocalError(f"answers of the batch method do not fit into {kind}")
    return np.ascontiguousarray(values)
