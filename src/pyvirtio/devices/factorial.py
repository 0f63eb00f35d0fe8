"""n! as a virtio device: the tutorial's device byte for byte, and exact values on request."""

from math import factorial

from pyvirtio.device import Device, Queue, Reader, RecordArray, Writer, lookup
from pyvirtio.spec.struct import Struct, chars, le32

CAN_PRINT, EXACT = 1, 2  # feature bits: the device logs each request; it answers with the exact value
DONE, TOO_SMALL, TOO_LARGE = range(3)  # status of an exact answer: done, the buffer is too small, n too large
WRAPPED = tuple(factorial(n) % 2**32 for n in range(35))  # 0 from there on


class Request(Struct):
    arg1: int = le32()  # n
    arg2: str = chars(32, "hello back end!")


class Response(Struct):
    ret: int = le32()  # n! modulo 2**32


RESPONSES = tuple(map(Response, WRAPPED))  # made once: most requests ask for nothing else


class ExactResponse(Response):  # and behind it the value, ``size`` bytes, little-endian
    status: int = le32()
    size: int = le32()


class Config(Struct):
    num_pages: int = le32()
    actual: int = le32(writable=True)
    event: int = le32(writable=True)
    max_exact: int = le32()


def put_exact(writer: Writer, n: int, value: int) -> None:
    """Answer n with its factorial ``value``; 0 says that n is too large."""
    size = (value.bit_length() + 7) // 8
    room = writer.room - ExactResponse.nbytes
    status = TOO_LARGE if not value else TOO_SMALL if size > room else DONE
    writer.put(ExactResponse(WRAPPED[min(n, 34)], status, size))
    if status == DONE:
        writer.write(value.to_bytes(size, "little"))


class Factorial(Device):
    """Answers a number n with n! modulo 2**32, or exactly for n up to ``max_exact``."""

    device_id = 45
    features = CAN_PRINT | EXACT
    config = Config(max_exact=20000)
    compute = Queue(Request, Response, size=128)

    @compute.stream
    def answer(self, reader: Reader, writer: Writer) -> None:
        request = reader.take(Request)
        n = request.arg1
        if self.logs and self.negotiated & CAN_PRINT:
            self.info("QEMU: >>> get arg1 [ %d ] form the front end <<<", n)
            self.info("QEMU: >>> get arg2 [ %s ] form the front end <<<", request.arg2)
        if not self.negotiated & EXACT:
            writer.put(RESPONSES[n] if n < 34 else RESPONSES[34])
        else:
            put_exact(writer, n, factorial(n) if n <= self.config.max_exact else 0)

    @compute.batch
    def answer_all(self, requests: RecordArray) -> object:
        return NotImplemented if self.negotiated & EXACT or self.logs else lookup(WRAPPED, requests["arg1"])
