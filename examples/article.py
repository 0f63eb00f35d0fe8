from math import factorial

from pyvirtio import Device, Queue, Struct, chars, le32


class Factorial(Device):
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
    config = Config()
    compute = Queue(Request, Response, size=128)

    @compute.each
    def answer(self, request: Request) -> Response:
        return self.Response(factorial(min(request.arg1, 34)) % 2**32)
