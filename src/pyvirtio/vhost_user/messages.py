"""The messages of vhost-user as data: what a front-end may send, with which payload, and what comes back.

Names and numbers are those of QEMU's "Vhost-user Protocol" (docs/interop/vhost-user.rst).
"""

from __future__ import annotations

from enum import IntEnum, IntFlag

from pyvirtio.spec.struct import Struct, le16, le32, le64

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

F_PROTOCOL_FEATURES = 1 << 30
"""The feature bit by which a back-end says that it knows protocol features."""

VERSION = 1
F_VERSION, F_REPLY, F_NEED_REPLY = 3, 4, 8
"""The flags of a header: the mask of the version, "this is a reply", "the sender asks for a reply"."""

BASELINE_REGIONS = 8
"""The most regions of one SET_MEM_TABLE."""

MAXIMUM_CONFIG = 256
"""The most bytes of configuration space in one message."""

NO_FD = 1 << 8
"""In the payload of SET_VRING_KICK, CALL and ERR: no fd comes along. The ring is polled, or nobody is notified."""

VRING_INDEX = 0xFF
"""The part of that payload which is the queue's index."""

F_LOG = 1 << 0
"""In the flags of SET_VRING_ADDR: writes to the used ring are to be logged, for a migration."""


class Protocol(IntFlag):
    """The protocol features that pyvirtio speaks."""

    MQ = 1 << 0
    REPLY_ACK = 1 << 3
    BACKEND_REQ = 1 << 5
    CONFIG = 1 << 9
    INFLIGHT_SHMFD = 1 << 12
    RESET_DEVICE = 1 << 13
    CONFIGURE_MEM_SLOTS = 1 << 15
    STATUS = 1 << 16


class Request(IntEnum):
    """The numbers of those messages of a front-end that pyvirtio understands."""

    GET_FEATURES = 1
    SET_FEATURES = 2
    SET_OWNER = 3
    RESET_OWNER = 4
    SET_MEM_TABLE = 5
    SET_VRING_NUM = 8
    SET_VRING_ADDR = 9
    SET_VRING_BASE = 10
    GET_VRING_BASE = 11
    SET_VRING_KICK = 12
    SET_VRING_CALL = 13
    SET_VRING_ERR = 14
    GET_PROTOCOL_FEATURES = 15
    SET_PROTOCOL_FEATURES = 16
    GET_QUEUE_NUM = 17
    SET_VRING_ENABLE = 18
    SET_BACKEND_REQ_FD = 21
    GET_CONFIG = 24
    SET_CONFIG = 25
    GET_INFLIGHT_FD = 31
    SET_INFLIGHT_FD = 32
    RESET_DEVICE = 34
    GET_MAX_MEM_SLOTS = 36
    ADD_MEM_REG = 37
    REM_MEM_REG = 38
    SET_STATUS = 39
    GET_STATUS = 40


CONFIG_CHANGE_MSG = 2
"""The number of the back-end's message that the configuration space changed."""


# Payloads are in the machine's byte order, which here is little-endian.


class Header(Struct):
    """What precedes each message; ``size`` is the payload's."""

    request: int = le32()
    flags: int = le32()
    size: int = le32()


class Number(Struct):
    """A single number."""

    value: int = le64()


class VringState(Struct):
    """A queue, and a number about it."""

    queue: int = le32()
    num: int = le32()


class VringAddr(Struct):
    """Where a queue lies, in the front-end's addresses."""

    queue: int = le32()
    flags: int = le32()
    descriptors: int = le64()
    used: int = le64()
    available: int = le64()
    log: int = le64()


class MemoryHeader(Struct):
    """What precedes the regions of SET_MEM_TABLE."""

    number: int = le32()
    padding: int = le32()


class MemoryRegion(Struct):
    """A region: its guest address, its bytes, its address in the front-end, its offset in the file."""

    guest: int = le64()
    size: int = le64()
    user: int = le64()
    offset: int = le64()


class SingleRegion(Struct):
    """The payload of ADD_MEM_REG and REM_MEM_REG."""

    padding: int = le64()
    guest: int = le64()
    size: int = le64()
    user: int = le64()
    offset: int = le64()


class ConfigHeader(Struct):
    """What precedes the bytes of the configuration space; flag 1 is a live migration."""

    offset: int = le32()
    size: int = le32()
    flags: int = le32()


class Inflight(Struct):
    """An in-flight region: its place in the file, and for how many queues of which size."""

    size: int = le64()
    offset: int = le64()
    queues: int = le16()
    queue_size: int = le16()


INFLIGHT_PADDING = 4
"""The bytes behind an `Inflight` that QEMU and others send, whose structure is a multiple of 8 bytes long.

They refuse a reply of another length than theirs, so it has that of the question.
"""


class Message:
    """One row of the table.

    ``payload`` is the fixed part of what the front-end sends, ``max_trailing`` the most bytes that may follow it;
    ``fds`` are the fewest and the most descriptors; ``reply`` is the payload that always comes back, ``refusal`` the
    bytes that come back instead where the protocol has a reply that says no, ``needs`` is the protocol feature that
    must have been negotiated, or only offered where ``offered_is_enough``.
    """

    __slots__ = (
        "fds",
        "max_trailing",
        "needs",
        "offered_is_enough",
        "payload",
        "purpose",
        "refusal",
        "reply",
        "request",
    )

    def __init__(
        self,
        request: Request,
        purpose: str,
        payload: type[Struct] | None = None,
        reply: type[Struct] | None = None,
        *,
        max_trailing: int = 0,
        fds: tuple[int, int] = (0, 0),
        refusal: bytes | None = None,
        needs: Protocol = Protocol(0),  # noqa: B008  # an IntFlag is immutable
        offered_is_enough: bool = False,
    ) -> None:
        self.request = request
        self.purpose = purpose
        self.payload = payload
        self.reply = reply
        self.max_trailing = max_trailing
        self.fds = fds
        self.refusal = refusal
        self.needs = needs
        self.offered_is_enough = offered_is_enough

    @property
    def sizes(self) -> tuple[int, int]:
        """The fewest and the most bytes of payload."""
        fixed = self.payload.nbytes if self.payload else 0
        return fixed, fixed + self.max_trailing

    def refusal_of(self, length: int) -> bytes:
        """Return the reply that says no to a question of ``length`` bytes: nothing, or what is as long as that."""
        assert self.refusal is not None, f"{self.request.name} has no reply that says no"
        return self.refusal and self.refusal.ljust(min(length, self.sizes[1]), b"\0")


_R, _P = Request, Protocol
TABLE: Final = {
    message.request: message
    for message in (
        Message(_R.GET_FEATURES, "which feature bits the back-end offers", reply=Number),
        Message(_R.SET_FEATURES, "which of them driver and device agreed on", Number),
        Message(_R.SET_OWNER, "a session begins"),
        Message(_R.RESET_OWNER, "disable all queues (deprecated)"),
        Message(
            _R.SET_MEM_TABLE,
            "replace the guest's memory",
            MemoryHeader,
            max_trailing=BASELINE_REGIONS * MemoryRegion.nbytes,
            fds=(1, BASELINE_REGIONS),
        ),
        Message(_R.SET_VRING_NUM, "a queue's number of entries", VringState),
        Message(_R.SET_VRING_ADDR, "where a queue lies", VringAddr),
        Message(_R.SET_VRING_BASE, "the available index at which a queue starts", VringState),
        Message(_R.GET_VRING_BASE, "stop a queue; the available index at which it stopped", VringState, VringState),
        Message(_R.SET_VRING_KICK, "the descriptor by which the driver kicks; starts the queue", Number, fds=(0, 1)),
        Message(_R.SET_VRING_CALL, "the descriptor by which the device interrupts", Number, fds=(0, 1)),
        Message(_R.SET_VRING_ERR, "the descriptor by which the device reports a broken queue", Number, fds=(0, 1)),
        Message(_R.GET_PROTOCOL_FEATURES, "which protocol features the back-end offers", reply=Number),
        Message(_R.SET_PROTOCOL_FEATURES, "which of them the front-end uses", Number),
        Message(_R.GET_QUEUE_NUM, "how many queues there are", reply=Number, needs=_P.MQ, offered_is_enough=True),
        Message(_R.SET_VRING_ENABLE, "enable or disable a queue", VringState),
        Message(
            _R.SET_BACKEND_REQ_FD,
            "the socket for the back-end's own messages",
            fds=(1, 1),
            needs=_P.BACKEND_REQ,
        ),
        Message(
            _R.GET_CONFIG,
            "read the configuration space",
            ConfigHeader,
            ConfigHeader,
            max_trailing=MAXIMUM_CONFIG,
            refusal=b"",
            needs=_P.CONFIG,
        ),
        Message(
            _R.SET_CONFIG, "write the configuration space", ConfigHeader, max_trailing=MAXIMUM_CONFIG, needs=_P.CONFIG
        ),
        Message(
            _R.GET_INFLIGHT_FD,
            "make an in-flight region",
            Inflight,
            Inflight,
            max_trailing=INFLIGHT_PADDING,
            refusal=Inflight().pack(),
            needs=_P.INFLIGHT_SHMFD,
        ),
        Message(
            _R.SET_INFLIGHT_FD,
            "bring the in-flight region back",
            Inflight,
            max_trailing=INFLIGHT_PADDING,
            fds=(1, 1),
            needs=_P.INFLIGHT_SHMFD,
        ),
        Message(_R.RESET_DEVICE, "bring the device back to its first state", needs=_P.RESET_DEVICE),
        Message(_R.GET_MAX_MEM_SLOTS, "how many regions there may be", reply=Number, needs=_P.CONFIGURE_MEM_SLOTS),
        Message(_R.ADD_MEM_REG, "add a region", SingleRegion, fds=(1, 1), needs=_P.CONFIGURE_MEM_SLOTS),
        # Some front-ends send the region's descriptor along, which is to be closed.
        Message(_R.REM_MEM_REG, "remove a region", SingleRegion, fds=(0, 1), needs=_P.CONFIGURE_MEM_SLOTS),
        Message(_R.SET_STATUS, "the driver's device status", Number, needs=_P.STATUS),
        Message(_R.GET_STATUS, "the device status as the back-end sees it", reply=Number, needs=_P.STATUS),
    )
}
"""Every message that a front-end may send to a pyvirtio back-end."""

MAXIMUM_PAYLOAD = max(message.sizes[1] for message in TABLE.values())
"""The bytes of the longest payload; what a header announces beyond that is not even read."""

MAXIMUM_FDS = 8
"""The most descriptors that come with one message."""
