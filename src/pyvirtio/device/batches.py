"""Batch methods: many requests of one shape, given to the device as a NumPy array."""

from __future__ import annotations

from pyvirtio.errors import LocalError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pyvirtio.spec.struct import Struct


class RecordArray:
    """What a batch method is given, for its annotation: a NumPy array of records that it may not change."""

    def __getitem__(self, field: str) -> Any:
        """Return the values of one field, an array."""
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


class BatchMethod:
    """A device's batch method, between the buffers of a ring and the arrays of NumPy.

    ``method`` takes a record array of ``request`` and returns an array of ``response``.
    """

    def __init__(self, method: Callable[[Any], Any], request: type[Struct], response: type[Struct]) -> None:
        self._method = method
        self._request = request
        self._response = response
        self._numpy: Any = None

    def use_numpy(self) -> bool:
        """Import NumPy; return False where it is not installed."""
        try:
            import numpy as np
        except ImportError:
            return False
        self._kind, self._wanted = self._request.numpy_dtype(), self._response.numpy_dtype()
        self._value = self._wanted[0] if self._response.is_number else self._wanted
        self._numpy = np
        return True

    def answers(self, requests: Any) -> Any:
        """Return the answers to all ``requests`` in a buffer, or None where the device does not want a batch.

        Raises:
            TypeError, LocalError: the method returned something else than as many answers of the right type.
            Exception: what the method raised.
        """
        np = self._numpy
        records = np.frombuffer(requests, self._kind)
        answers = self._method(records)
        if answers is NotImplemented:
            return None
        # What a good method returns, recognized in the time that a small batch has for it.
        if type(answers) is np.ndarray and answers.dtype is self._value and answers.shape == records.shape:
            return np.ascontiguousarray(answers)
        return _as_records(np, answers, self._wanted, len(records))


def _as_records(np: Any, answers: Any, kind: Any, number: int) -> Any:
    """Check what a batch method returned, and return it as the wire has it."""
    if not isinstance(answers, np.ndarray) or answers.shape != (number,):
        raise TypeError(
            f"the device's batch method has to return an array of {number} answers; it returned {answers!r}"
        )
    if answers.dtype == kind or (answers.dtype == kind[0] and len(kind) == 1):
        return np.ascontiguousarray(answers)
    if kind.names is None or len(kind.names) != 1 or answers.dtype.names is not None:
        raise TypeError(f"the device's batch method returned {answers.dtype}; the response is {kind}")
    # One field: an array of plain values will do.
    values = answers.astype(kind[0], casting="unsafe", copy=False)
    if values.dtype != answers.dtype and not np.array_equal(values, answers):
        raise LocalError(
            f"answers of the batch method do not fit into {kind}; return smaller ones, or declare a wider field"
        )
    return np.ascontiguousarray(values)
