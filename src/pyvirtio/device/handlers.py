"""How a method of a device answers one chain, whatever the method takes and whether it is asynchronous."""

from __future__ import annotations

from pyvirtio.device.streams import open_streams

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

    from pyvirtio.device.streams import Reader, Writer
    from pyvirtio.ring import Chain
    from pyvirtio.spec.struct import Struct

    Handler = Callable[[Chain], Coroutine[Any, Any, None] | None]
    """Answers a chain: at once, or by a coroutine that it returns."""

_CO_GENERATOR, _CO_COROUTINE, _CO_ASYNC_GENERATOR = 0x20, 0x80, 0x200  # as in ``inspect``, which is slow to import


def _flags(method: Any) -> int:
    while (wrapped := getattr(method, "__wrapped__", None)) is not None:
        method = wrapped
    code = getattr(getattr(method, "__func__", method), "__code__", None)
    return code.co_flags if code else 0


def is_async(method: Any) -> bool:
    """Return whether ``method`` was defined by ``async def``."""
    return bool(_flags(method) & _CO_COROUTINE)


def is_plainly_async(method: Any) -> bool:
    """Return whether each call of ``method`` returns a coroutine: it is an ``async def`` itself, and not around one."""
    code = getattr(getattr(method, "__func__", None), "__code__", None)
    return bool(code and code.co_flags & _CO_COROUTINE)


def is_generator(method: Any) -> bool:
    """Return whether calling ``method`` would only make a generator."""
    return bool(_flags(method) & (_CO_GENERATOR | _CO_ASYNC_GENERATOR))


def _parameters(method: Any) -> int:
    """Return how many parameters the author's method takes, below all that wraps it, without ``self``."""
    is_bound = 0
    while True:
        if (function := getattr(method, "__func__", None)) is not None:
            method, is_bound = function, 1
        elif (wrapped := getattr(method, "__wrapped__", None)) is not None:
            method = wrapped
        else:
            break
    code = getattr(method, "__code__", None)
    return code.co_argcount - is_bound if code else 0


def numbered(method: Callable[..., Any], number: int) -> Callable[[Reader, Writer], Any]:
    """Return a ``stream`` method that knows its queue: one with a third parameter is given ``number``."""
    if _parameters(method) < 3:
        return method
    if is_async(method):

        async def answer_later(reader: Reader, writer: Writer) -> None:
            await method(reader, writer, number)

        return answer_later
    return lambda reader, writer: method(reader, writer, number)


def stream_handler(method: Callable[[Reader, Writer], Any]) -> Handler:
    """Return the handler for a method that takes a `Reader` and a `Writer`."""
    if is_async(method):

        async def answer_later(chain: Chain) -> None:
            reader, writer = open_streams(chain)
            try:
                await method(reader, writer)
            finally:
                if not reader.close() & writer.close():  # both, whatever the first says
                    raise StillInUse(chain)

        return answer_later

    def answer(chain: Chain) -> None:
        reader, writer = open_streams(chain)
        try:
            if (result := method(reader, writer)) is not None:
                _nothing_to_await(result)
        finally:
            if not reader.close() & writer.close():  # both, whatever the first says
                raise StillInUse(chain)

    return answer


def accept_outcome(chain: Chain, outcome: object, is_closed: bool) -> None:
    """Accept what came of a call of a stream method that the engine made, where that is unusual.

    ``outcome`` is what the method raised, or something that it returned to be awaited; ``is_closed`` says whether
    nobody uses the request's memory any more.

    Raises:
        Exception: why the request failed.
    """
    if not is_closed:
        raise StillInUse(chain)
    if isinstance(outcome, Exception):
        raise outcome
    _nothing_to_await(outcome)


def typed_handler(method: Callable[[Any], Any], request: type[Struct], response: type[Struct]) -> Handler:
    """Return the handler for a method that takes and returns structures."""
    unpack, size = request.unpack, request.nbytes
    if is_async(method):

        async def answer_later(chain: Chain) -> None:
            write_response(chain, await method(unpack(chain.read(size))), response)

        return answer_later

    def answer(chain: Chain) -> None:
        write_response(chain, method(unpack(chain.read(size))), response)

    return answer


def write_response(chain: Chain, value: Any, response: type[Struct]) -> None:
    """Write what a typed method returned: a structure, or the number that is its only field.

    Raises:
        TypeError: it is neither.
        LocalError: a number does not fit in its field.
        ChainError: the driver left no room for it.
    """
    if response.is_number and isinstance(value, int):
        value = response(value)
    if not isinstance(value, response):
        raise TypeError(f"the device's method returned {value!r}; it has to return a {response.__name__}")
    chain.write(value.pack())


def write_outcome(chain: Chain, outcome: object, response: type[Struct]) -> None:
    """Write what a typed method returned; raise what it raised."""
    if isinstance(outcome, Exception):
        raise outcome
    write_response(chain, outcome, response)


class StillInUse(Exception):
    """Somebody still works on memory that a request lent, such as a system call in another thread."""

    def __init__(self, chain: Chain) -> None:
        super().__init__(f"the method returned while {chain!r} was still being read or written in another thread")


def _nothing_to_await(result: object) -> None:
    """Refuse a coroutine from a method that does not look like ``async def``, such as a decorated one."""
    if hasattr(result, "__await__"):
        if close := getattr(result, "close", None):
            close()
        raise TypeError(
            "the device's method returned something to be awaited, and is not itself an `async def`; "
            "make the method that the queue's decorator stands above `async def`"
        )
