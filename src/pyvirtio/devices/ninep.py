"""A 9P file server (device 9): a folder of this machine, or a tree of Python objects, mounted in the guest.

VIRTIO 1.4 gives the device its id and no chapter; the configuration space and the feature bit are those that Linux's
``virtio_9p.h`` has, and each request is one message of 9P2000.L. What these do is in `pyvirtio.ninep`.
"""

from pathlib import Path

from pyvirtio.device import Device, Queue, Reader, Writer
from pyvirtio.errors import LocalError
from pyvirtio.files import Folder, Tree
from pyvirtio.files.fids import LOG_SIZE
from pyvirtio.ninep import Server
from pyvirtio.ninep.server import FAILURE
from pyvirtio.spec.struct import Struct, chars, le16

MOUNT_TAG = 1  # feature bit 0: the configuration space has the name that the guest mounts
LONGEST_TAG = 254  # so that length and name fit into what QEMU reads


class Config(Struct):
    tag_len: int = le16()


def tagged(tag: str) -> Struct:
    """Return the configuration space: the length of the name, and the name without any padding."""
    length = len(tag.encode())
    if not 0 < length <= LONGEST_TAG:
        raise LocalError(f"tag={tag!r} cannot be the name that a guest mounts; give one of 1 to {LONGEST_TAG} bytes")

    class TaggedConfig(Config):
        tag: str = chars(length)

    return TaggedConfig(length, tag)


class NineP(Device):
    """Serves a tree, under the name ``tag``, to one guest.

    In the guest, ``mount -t 9p -o trans=virtio,version=9p2000.L TAG /mnt`` mounts it.
    """

    device_id = 9
    features = MOUNT_TAG
    patience = 30.0  # a disk that has to wake up, or has much to write, takes long for one request
    kept_size = LOG_SIZE
    requests = Queue(size=128)

    def __init__(self, tree: Tree, tag: str = "pyvirtio") -> None:
        self.config = tagged(tag)
        self.tree = tree
        self.server: Server | None = None

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


class SharedFolder(NineP):
    """Serves the folder ``path`` of this machine."""

    def __init__(self, path: Path, tag: str = "pyvirtio", *, readonly: bool = False) -> None:
        tagged(tag)  # refuse a wrong one before anything is open
        super().__init__(Folder(path, readonly=readonly), tag)
