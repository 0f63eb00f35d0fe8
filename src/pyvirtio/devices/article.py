from math import factorial

from pyvirtio import Device, Queue, Struct, chars, le32


class Article(Device):  # the tutorial's device as it was: n! modulo 2**32, and nothing else
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
