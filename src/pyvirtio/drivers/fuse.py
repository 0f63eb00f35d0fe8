"""A driver's FUSE session (VIRTIO 1.4, 5.11.6): requests and answers, and nodes that are given back."""

from __future__ import annotations

import os
from itertools import count

from pyvirtio.devices.fs import Config
from pyvirtio.driver import Driver, RequestQueue
from pyvirtio.errors import DeviceError, NegotiationError
from pyvirtio.spec import fuse
from pyvirtio.spec.fuse import Opcode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from pyvirtio.driver import Ticket
    from pyvirtio.spec.struct import Struct
    from pyvirtio.transport import DriverTransport

LARGEST_PIECE = 128 << 10
"""The most bytes that one request reads or writes."""

LARGEST_ERROR = 4095
"""The largest errno there is; Linux gives no answer with another one to a program."""

_WANTED = fuse.InitFlags.ASYNC_READ | fuse.InitFlags.BIG_WRITES | fuse.InitFlags.MAX_PAGES


class FuseDriver(Driver):
    """Speaks FUSE with a device: any request about any node. `pyvirtio.drivers.fs.FsDriver` knows paths and files.

    Errors of the file system are those of the operating system, as from `os`: FileNotFoundError, PermissionError and
    so on. Requests are made as the user of this process.
    """

    device_id = 26
    device_name = "fs"
    config = Config
    hiprio = RequestQueue(fuse.InHeader, size=16)
    requests = RequestQueue(fuse.InHeader, fuse.OutHeader, data=True, size=64)

    def __init__(self, transport: DriverTransport, **options: Any) -> None:
        self._unique = count(2, 2)  # odd numbers are for interrupts
        self._identity = {"uid": os.getuid(), "gid": os.getgid(), "pid": os.getpid()}
        super().__init__(transport, **options)
        try:
            self._begin()
        except BaseException:
            self.close()
            raise

    def _begin(self) -> None:
        question = fuse.InitIn(fuse.MAJOR, fuse.MINOR, LARGEST_PIECE, _WANTED)
        session = self.ask(Opcode.INIT, 0, question, answer=fuse.InitOut)
        if session.major != fuse.MAJOR:
            raise NegotiationError(
                f"the device speaks version {session.major} of FUSE; "
                f"use one that speaks {fuse.MAJOR}, as this driver does"
            )
        self.piece = min(max(session.max_write, 4096), LARGEST_PIECE)
        """The most bytes that one request reads or writes here."""

    def ask(self, opcode: Opcode, node: int, *parts: Struct | bytes, answer: type[Struct]) -> Any:
        """Send a request about a node and return its answer, a structure.

        Raises:
            OSError: the file system says no.
            DeviceError: the device broke a rule, or is gone.
        """
        data = self.take(self.submit(opcode, node, *parts, room=answer.nbytes))
        if len(data) < answer.nbytes:
            raise DeviceError(f"the device answers {opcode.name} with {len(data)} bytes, not {answer.nbytes}")
        return answer.unpack(data)

    def tell(self, opcode: Opcode, node: int, *parts: Struct | bytes) -> None:
        """Send a request whose answer says only whether it worked; raises as `ask` does."""
        self.take(self.submit(opcode, node, *parts, room=0))

    def submit(self, opcode: Opcode, node: int, *parts: Struct | bytes, room: int) -> Ticket:
        """Submit any request on the request queue; ``room`` is how many bytes the answer may have behind its header."""
        request, data = self._request(opcode, node, parts)
        return self.requests.submit(request, *data, room=fuse.OutHeader.nbytes + room)

    def _request(self, opcode: Opcode, node: int, parts: Sequence[Struct | bytes]) -> tuple[Struct, list[bytes]]:
        data = [part if isinstance(part, bytes) else part.pack() for part in parts]
        length = fuse.InHeader.nbytes + sum(map(len, data))
        return fuse.InHeader(length, opcode, next(self._unique), node, **self._identity), data

    def take(self, ticket: Ticket) -> bytes:
        """Wait for an answer and return what is behind its header; raises as `ask` does."""
        answer = ticket.result()
        if answer.head.error:
            number = (1 << 32) - answer.head.error
            if number > LARGEST_ERROR:
                raise DeviceError(f"the device answers with the error {answer.head.error}, which is none")
            raise OSError(number, os.strerror(number))
        data: bytes = answer.data
        return data

    def forget(self, nodes: Sequence[int]) -> None:
        """Give nodes back, each of which was looked up once, so that the back-end can close what it has of them."""
        if not nodes:
            return
        ones = b"".join(fuse.ForgetOne(node, 1).pack() for node in nodes)
        request, data = self._request(Opcode.BATCH_FORGET, 0, [fuse.BatchForgetIn(len(nodes)), ones])
        self.hiprio.call(request, *data, room=0)  # it has no answer (5.11.6.2)

    @property
    def tag(self) -> str:
        """The name under which a guest mounts the folder.

        Raises:
            LocalError: this back-end leaves that to the front-end.
        """
        config = self.read_config()
        assert isinstance(config, Config)
        return config.tag
