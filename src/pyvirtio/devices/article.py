"""The tutorial's device as it was: n! modulo 2**32, and two lines in the log for each request."""

from math import factorial

from pyvirtio import Device, Queue, Struct, chars, le32

CAN_PRINT = 1  # feature bit 0: the device logs each request


class Article(Device):
    class Request(Struct):
        arg1: int = le32()
        arg2: str = chars(32)

    class Response(Struct):
        ret: int = le32()

    class Config(Struct):
        num_pages: int = le32()
        actual: int = le32(writable=True)
        event: int = le32(writable=True)

    device_id = 45
    features = CAN_PRINT
    config = Config()
    compute = Queue(Request, Response, size=128)

    @compute.each
    def answer(self, request: Request) -> Response:
        if self.negotiated & CAN_PRINT:
            self.info("QEMU: >>> get arg1 [ %d ] form the front end <<<", request.arg1)
            self.info("QEMU: >>> get arg2 [ %s ] form the front end <<<", request.arg2)
        return self.Response(factorial(min(request.arg1, 34)) % 2**32)
