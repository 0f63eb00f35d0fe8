"""A file system device (VIRTIO 1.4, 5.11): a folder of this machine, or a tree of Python objects, as virtiofs.

Each request is one of FUSE's. What these do is in `pyvirtio.fuse`; the trees are those of the 9P device.
"""

from pathlib import Path

from pyvirtio.device import Device, Queue, Reader, Writer
from pyvirtio.errors import LocalError
from pyvirtio.files import Folder, Tree
from pyvirtio.files.fids import LOG_SIZE
from pyvirtio.fuse.server import FAILURE, Server
from pyvirtio.spec.struct import Struct, chars, le32

LONGEST_TAG = 36  # bytes


class Config(Struct):
    tag: str = chars(LONGEST_TAG)
    num_request_queues: int = le32()


def described(tag: str) -> Config:
    """Return the configuration space: the name that a guest mounts."""
    if not 0 < len(tag.encode()) <= LONGEST_TAG:
        raise LocalError(f"tag={tag!r}: the name that a guest mounts has 1 to {LONGEST_TAG} bytes", section="5.11.4")
    return Config(tag, num_request_queues=1)


class FileSystem(Device):
    """Serves a tree, under the name ``tag``, to one guest.

    In the guest, ``mount -t virtiofs TAG /mnt`` mounts it.
    """

    device_id = 26
    patience = 30.0  # a disk that has to wake up, or has much to write, takes long for one request
    kept_size = LOG_SIZE
    hiprio = Queue(size=128)
    requests = Queue(size=128)

    def __init__(self, tree: Tree, tag: str = "pyvirtio") -> None:
        self.config = described(tag)
        self.tree = tree
        self.server: Server | None = None

    @property
    def needs_one_worker(self) -> bool:
        """Always: both queues are about the same nodes."""
        return True

    @hiprio.stream
    @requests.stream
    async def answer(self, reader: Reader, writer: Writer) -> None:
        if self.server is None:
            self.server = Server(self.tree, self.kept_memory)
        await self.server.answer(reader, writer, repeats=self.repeats)

    @requests.failed
    def fail(self, writer: Writer) -> None:
        if writer.room >= len(FAILURE):
            writer.write(FAILURE)

    def close(self) -> None:
        if self.server is not None:
            self.server.close()
        self.tree.close()


class SharedFolder(FileSystem):
    """Serves the folder ``path`` of this machine."""

    def __init__(self, path: Path, tag: str = "pyvirtio", *, readonly: bool = False) -> None:
        described(tag)  # refuse a wrong one before anything is open
        super().__init__(Folder(path, readonly=readonly), tag)
