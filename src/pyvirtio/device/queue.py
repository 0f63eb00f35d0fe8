"""The declaration of a device's queue: its structures, its size, and the method that answers."""

from __future__ import annotations

from pyvirtio.device.records import RecordAnswer, write_answer
from pyvirtio.device.streams import Reader, Writer
from pyvirtio.errors import LocalError
from pyvirtio.spec import split

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    from pyvirtio.device.records import Answer
    from pyvirtio.ring import Chain
    from pyvirtio.spec.struct import ByteOrder, Struct

    Method = TypeVar("Method", bound=Callable[..., Any])


class Queue:
    """One queue of a device, or ``count`` equal ones.

    ``request`` and ``response`` are structures; ``size`` is the most entries that the driver may use, a power of
    two up to 32768. Decorate one method of the device with `each` or `stream`, and perhaps one more with `batch`.

    Raises:
        LocalError: the size is not possible.
    """

    def __init__(
        self,
        request: type[Struct] | None = None,
        response: type[Struct] | None = None,
        *,
        size: int = 128,
        count: int = 1,
    ) -> None:
        if not split.is_valid_size(size):
            raise LocalError(f"a queue of {size} entries: use a power of two from 1 to 32768", section="2.7")
        self.request = request
        self.response = response
        self.size = size
        self.count = count
        self.name = ""
        self._method = ""
        self._batch = ""
        self._typed = False

    def __set_name__(self, _owner: type, name: str) -> None:
        self.name = name

    def each(self, method: Method) -> Method:
        """Let ``method(self, request)`` answer: a structure in, a structure out.

        A response with a single number may be given as that number.
        """
        self._typed = True
        return self._declare(method)

    def stream(self, method: Method) -> Method:
        """Let ``method(self, reader, writer)`` answer: bytes in, bytes out."""
        return self._declare(method)

    def batch(self, method: Method) -> Method:
        """Let ``method(self, requests)`` answer many at once, where NumPy is there and many wait.

        It takes a record array of the request's structure, which it may not change, and gives an array of the
        response's, or of plain values where the response has one field. It may give NotImplemented; then, and
        where few requests wait, and for a device that is not `repeatable`, the queue's other method answers one by
        one.
        """
        if self._batch:
            raise LocalError(f"two methods answer the batches of one queue: {self._batch} and {method.__name__}")
        if self.request is None or self.response is None:
            raise LocalError("a method that answers batches needs the queue's two structures")
        self._batch = method.__name__
        return method

    def _declare(self, method: Method) -> Method:
        if self._method:
            raise LocalError(f"two methods answer one queue: {self._method} and {method.__name__}")
        self._method = method.__name__
        return method

    def bind(self, device: object, order: ByteOrder) -> Answer:
        """Give the function that has ``device`` answer a chain, its numbers being in byte order ``order``.

        Raises:
            LocalError: no method of the device answers this queue.
        """
        if not self._method:
            raise LocalError(
                f"no method answers the queue {self.name!r}; put @{self.name}.each or @{self.name}.stream above one"
            )
        if self._method == self._batch:
            raise LocalError(
                f"two methods of one name answer the queue {self.name!r}: {self._method}; give each its own"
            )
        method = getattr(device, self._method)
        answer = _typed_answer(method, self.request, self.response, order) if self._typed else _stream(method, order)
        if self.request is None or self.response is None or order != "little":
            return answer
        if not (self.request.nbytes and self.response.nbytes and (self._typed or self._batch)):
            return answer
        return RecordAnswer(
            answer,
            self.request,
            self.response,
            method=method if self._typed else None,
            batch=getattr(device, self._batch) if self._batch else None,
        )


def _stream(method: Callable[[Reader, Writer], Any], order: ByteOrder) -> Answer:
    def answer(chain: Chain) -> None:
        method(Reader(chain, order), Writer(chain, order))

    return answer


def _typed_answer(
    method: Callable[[Any], Any],
    request: type[Struct] | None,
    response: type[Struct] | None,
    order: ByteOrder,
) -> Answer:
    if request is None or response is None:
        raise LocalError("a method that answers each request needs the queue's two structures; or use stream")
    unpack, size = request.unpack, request.nbytes

    def answer(chain: Chain) -> None:
        write_answer(chain, method(unpack(chain.read(size), order)), response, order)

    return answer
