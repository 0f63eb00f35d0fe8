"""A device that returns what it is sent: a page to learn from, and a peer to test drivers with."""

from pyvirtio.device import Device, Queue, Reader, Writer

PIECE = 1 << 16  # bytes that are copied at a time: a request may have gigabytes


class Echo(Device):
    """Answers each request with its own bytes, for which the driver has to leave room."""

    requests = Queue(size=128)

    @requests.stream
    def answer(self, reader: Reader, writer: Writer) -> None:
        writer.write(reader.read(PIECE))
        while reader.left:
            writer.write(reader.read(PIECE))
