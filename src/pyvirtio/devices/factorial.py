"""n! as a virtio device: the tutorial's device byte for byte, and exact values on request."""

from enum import IntFlag
from math import factorial

from pyvirtio.device import Device, Queue, Reader, Writer
from pyvirtio.spec.ids import FACTORIAL
from pyvirtio.spec.struct import Struct, chars, le32

WRAPPED = tuple(factorial(n) % 2**32 for n in range(35))  # and 0 from there on
DONE, TOO_SMALL, TOO_LARGE = range(3)  # the status of an exact answer: done, small buffer, large n


class Feature(IntFlag):
    """The device's own feature bits: log each request; answer with the exact value."""

    CAN_PRINT = 1
    EXACT = 2


class Request(Struct):
    """A number n, and a greeting."""

    arg1: int = le32()
    arg2: str = chars(32, "hello back end!")


class Response(Struct):
    """The number n! modulo 2**32."""

    ret: int = le32()


class ExactResponse(Response):
    """With EXACT: n! modulo 2**32, then this, then ``size`` bytes of n!, little-endian."""

    status: int = le32()
    size: int = le32()


class Config(Struct):
    """The configuration space; a tutorial's driver knows its first two fields."""

    num_pages: int = le32()
    actual: int = le32(writable=True)
    event: int = le32(writable=True)
    max_exact: int = le32()


class Factorial(Device):
    """Answers a number n with n! modulo 2**32, or exactly for n up to ``max_exact``."""

    device_id = FACTORIAL
    features = Feature.CAN_PRINT | Feature.EXACT
    config = Config(max_exact=20000)
    compute = Queue(Request, Response, size=128)

    @compute.stream
    def answer(self, reader: Reader, writer: Writer) -> None:
        """Answer one request."""
        request = reader.take(Request)
        if self.negotiated & Feature.CAN_PRINT:
            self.info("QEMU: >>> get arg1 [ %d ] form the front end <<<", request.arg1)
            self.info("QEMU: >>> get arg2 [ %s ] form the front end <<<", request.arg2)
        wrapped = WRAPPED[min(request.arg1, 34)]
        if not self.negotiated & Feature.EXACT:
            return writer.put(Response(wrapped))
        if request.arg1 > self.config.max_exact:
            return writer.put(ExactResponse(wrapped, TOO_LARGE))
        exact = factorial(request.arg1)
        size = (exact.bit_length() + 7) // 8
        if writer.room < ExactResponse.nbytes + size:
            return writer.put(ExactResponse(wrapped, TOO_SMALL, size))
        writer.put(ExactResponse(wrapped, DONE, size))
        return writer.write(exact.to_bytes(size, "little"))
