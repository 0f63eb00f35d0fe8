"""The back-end's end of vhost-user: what a front-end says, turned into calls of a `DeviceHost`.

A message that is wrong is refused and changes nothing: with REPLY_ACK the front-end gets a NACK, otherwise the log
tells. Only a question that cannot be answered, and a stream that cannot be understood, end the connection.
"""

from __future__ import annotations

import os
import stat

from pyvirtio.errors import ChainError, LocalError, PeerError, ProtocolError
from pyvirtio.memory.files import check_sealed, map_file, shared_file
from pyvirtio.memory.table import MAXIMUM_REGIONS
from pyvirtio.ring.journal import region_size
from pyvirtio.spec import split
from pyvirtio.spec.features import Status
from pyvirtio.spec.struct import Struct
from pyvirtio.transport import Outgoing
from pyvirtio.vhost_user import messages as m
from pyvirtio.vhost_user.framing import Frame, Framer, encode
from pyvirtio.vhost_user.memory import SharedRegion, check_regions, close_regions
from pyvirtio.vhost_user.vring import Vring

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from pyvirtio.transport import DeviceHost, HostEvents

    Reply = tuple[bytes, list[int]]

OFFERED = m.Protocol(sum(m.Protocol))
"""The protocol features that a back-end offers: all that have a name, and not the gaps between them.

As a number it has to be negated: ~OFFERED knows no bit above the highest that has a name.
"""


class BackendSession:
    """One connection's state.

    ``host`` runs the device; ``refused`` is told of each message that was refused and not answered.
    """

    def __init__(self, host: DeviceHost, refused: Callable[[str], None]) -> None:
        self.host = host
        self.events: HostEvents = self
        self.wake: Callable[[], object] = lambda: None
        self.features = 0
        self.protocol = m.Protocol(0)
        self.status = Status(0)
        self.regions: list[SharedRegion] = []
        self.backend_fd = -1
        self._refused = refused
        self._framer = Framer(m.MAXIMUM_PAYLOAD)
        self._outgoing: list[Outgoing] = []
        self._inflight: tuple[int, m.Inflight] | None = None
        self.vrings = [Vring(index, size) for index, size in enumerate(host.description.queue_sizes)]

    @property
    def wanted(self) -> int:
        """The most bytes to read before the next call of `receive`."""
        return self._framer.wanted

    def receive(self, data: bytes, fds: Iterable[int] = ()) -> None:
        """Take what came from the socket.

        Raises:
            ProtocolError: close the connection.
        """
        for frame in self._framer.feed(data, fds):
            try:
                if reply := self._handle(frame):
                    self._outgoing.append(Outgoing(*reply))
            finally:
                frame.close_fds()

    def close(self) -> None:
        """The connection is over: stop every queue, close every descriptor."""
        self._framer.close()
        for vring in self.vrings:
            self._stop(vring)
            vring.close()
        close_regions(self.regions)
        self.regions = []
        self._drop_inflight()
        self._set_backend_fd(-1)

    def outgoing(self) -> list[Outgoing]:
        """Return what is to be sent, in order, and forget it."""
        messages, self._outgoing = self._outgoing, []
        return messages

    def config_changed(self) -> None:
        """Tell the front-end of a changed configuration space, if it wants to know."""
        if self.backend_fd >= 0:
            self._outgoing.append(Outgoing(encode(m.CONFIG_CHANGE_MSG), socket=self.backend_fd, lossy=True))

    def queue_broken(self, index: int) -> None:
        """Signal the queue's err fd."""
        self.vrings[index].signal_error()

    # One message.

    def _handle(self, frame: Frame) -> Reply | None:
        message = m.TABLE.get(frame.request)  # type: ignore[call-overload]  # an IntEnum is found by its number
        acknowledge = frame.needs_reply and self.protocol & m.Protocol.REPLY_ACK
        try:
            if message is None:
                raise ProtocolError(f"the message {frame.request} is not known here")
            payload, rest = self._check(message, frame)
            handler = getattr(self, f"_{message.request.name.lower()}")
            result = handler(payload, rest, frame.fds)
        except (ProtocolError, ChainError, LocalError) as error:
            name = message.request.name if message else str(frame.request)
            if message and message.reply:
                return self._cannot_answer(message, error)
            if not acknowledge:
                self._refused(f"{name} is refused: {error}")
                return None
            self._refused(f"{name} is refused, and the front-end told so: {error}")
            return self._reply(frame.request, m.Number(1).pack())
        if message.reply:
            data, fds = result if isinstance(result, tuple) and not isinstance(result, Struct) else (result, [])
            return self._reply(frame.request, data if isinstance(data, bytes) else data.pack(), fds)
        return self._reply(frame.request, m.Number(0).pack()) if acknowledge else None

    def _check(self, message: m.Message, frame: Frame) -> tuple[Any, bytes]:
        fixed = message.payload.nbytes if message.payload else 0
        if not fixed <= len(frame.payload) <= fixed + message.more:
            raise ProtocolError(f"{len(frame.payload)} bytes of payload; {fixed} to {fixed + message.more} are right")
        fewest, most = message.fds
        if not fewest <= len(frame.fds) <= most:
            raise ProtocolError(f"{len(frame.fds)} file descriptors came; {fewest} to {most} are right")
        if message.needs & ~(OFFERED if message.early else self.protocol):
            raise ProtocolError(f"the protocol feature {message.needs.name} was not negotiated")
        return message.payload and message.payload.unpack(frame.payload), frame.payload[fixed:]

    def _reply(self, request: int, payload: bytes, fds: list[int] | None = None) -> Reply:
        return encode(request, payload, m.F_REPLY), fds or []

    def _cannot_answer(self, message: m.Message, error: Exception) -> Reply:
        # GET_CONFIG has a way to say no: a reply without payload. Nothing else has.
        if message.request is m.Request.GET_CONFIG:
            self._refused(f"GET_CONFIG is refused: {error}")
            return self._reply(message.request, b"")
        raise ProtocolError(f"{message.request.name} cannot be answered: {error}") from error

    # Features, status, ownership.

    def _get_features(self, *_: Any) -> m.Number:
        return m.Number(self.host.description.features | m.F_PROTOCOL_FEATURES)

    def _set_features(self, payload: m.Number, *_: Any) -> None:
        offered = self.host.description.features | m.F_PROTOCOL_FEATURES
        if extra := payload.value & ~offered:
            raise ProtocolError(f"the feature bits {extra:#x} were never offered")
        if any(vring.running for vring in self.vrings) and payload.value != self.features:
            raise ProtocolError("features cannot change while a queue runs")
        self.features = payload.value

    def _get_protocol_features(self, *_: Any) -> m.Number:
        return m.Number(OFFERED)

    def _set_protocol_features(self, payload: m.Number, *_: Any) -> None:
        if extra := payload.value & ~int(OFFERED):
            raise ProtocolError(f"the protocol features {extra:#x} were never offered")
        self.protocol = m.Protocol(payload.value)

    def _get_queue_num(self, *_: Any) -> m.Number:
        return m.Number(len(self.vrings))

    def _set_owner(self, *_: Any) -> None:
        """Nothing to do: who is connected is the owner."""

    def _reset_owner(self, *_: Any) -> None:
        for vring in self.vrings:
            self._stop(vring)
            vring.enabled = False

    def _reset_device(self, *_: Any) -> None:
        self._forget_driver()
        self.host.reset()

    def _forget_driver(self) -> None:
        self._reset_owner()
        for vring in self.vrings:
            vring.forget()
        self.status = Status(0)

    def _set_status(self, payload: m.Number, *_: Any) -> None:
        """Take note of the driver's status; 0 ends all queues.

        It does not reset the device: QEMU sends 0 whenever it stops the queues, so when the machine is paused as well,
        and what a driver wrote into the configuration space has to outlive that. RESET_DEVICE is the reset.
        """
        if payload.value == 0:
            self._forget_driver()
            return
        self.status = Status(payload.value & 0xFF)
        for vring in self.vrings:
            self._update(vring)

    def _get_status(self, *_: Any) -> m.Number:
        return m.Number(self.status)

    # Memory.

    def _set_mem_table(self, payload: m.MemoryHeader, rest: bytes, fds: list[int]) -> None:
        size = m.MemoryRegion.nbytes
        if not payload.number or len(rest) != payload.number * size or len(fds) != payload.number:
            raise ProtocolError(f"a table of {payload.number} regions came with {len(rest)} bytes and {len(fds)} fds")
        sent = [m.MemoryRegion.unpack(rest[at : at + size]) for at in range(0, len(rest), size)]
        regions = [SharedRegion(region, fd) for region, fd in zip(sent, fds, strict=True)]
        self._replace_memory(regions)
        fds.clear()

    def _add_mem_reg(self, payload: m.SingleRegion, _rest: bytes, fds: list[int]) -> None:
        self._replace_memory([*self.regions, SharedRegion(payload, fds[0])])
        fds.clear()

    def _rem_mem_reg(self, payload: m.SingleRegion, *_: Any) -> None:
        kept = [region for region in self.regions if not region.same_place(payload)]
        if len(kept) == len(self.regions):
            raise ProtocolError(f"there is no region of {payload.size} bytes at {payload.guest:#x}")
        self._replace_memory(kept)

    def _get_max_mem_slots(self, *_: Any) -> m.Number:
        return m.Number(MAXIMUM_REGIONS)

    def _replace_memory(self, regions: list[SharedRegion]) -> None:
        """Check the new table, hand it on, then look whether the running queues are still in it.

        The table stands whatever becomes of the queues: one that is no longer in it is stopped, its err fd tells.
        """
        check_regions(regions, self.regions)
        self.host.set_memory(regions)
        kept = {id(region) for region in regions}
        close_regions([region for region in self.regions if id(region) not in kept])
        self.regions = regions
        for vring in self.vrings:
            if vring.running:
                try:
                    self._start(vring)
                except ProtocolError as error:
                    self._refused(f"the memory changed under a queue: {error}")

    # Queues.

    def _vring(self, index: int) -> Vring:
        if index >= len(self.vrings):
            raise ProtocolError(f"there is no queue {index}; the device has {len(self.vrings)}")
        return self.vrings[index]

    def _stopped(self, index: int) -> Vring:
        vring = self._vring(index)
        if vring.running:
            raise ProtocolError(f"queue {index} is running; stop it with GET_VRING_BASE first")
        return vring

    def _set_vring_num(self, payload: m.VringState, *_: Any) -> None:
        vring = self._stopped(payload.queue)
        if not split.is_valid_size(payload.num):
            raise ProtocolError(f"a queue of {payload.num} entries: use a power of two from 1 to 32768")
        vring.size = payload.num

    def _set_vring_base(self, payload: m.VringState, *_: Any) -> None:
        if payload.num > 0xFFFF:
            raise ProtocolError(f"an available index of {payload.num}; it has 16 bits")
        self._stopped(payload.queue).base = payload.num

    def _set_vring_addr(self, payload: m.VringAddr, *_: Any) -> None:
        vring = self._vring(payload.queue)
        vring.locate(payload, self.regions)
        vring.address = payload
        if vring.running:
            self._start(vring)
        else:
            self._update(vring)

    def _get_vring_base(self, payload: m.VringState, *_: Any) -> m.VringState:
        vring = self._vring(payload.queue)
        self._stop(vring)
        vring.set_fd("kick", -1)
        vring.kicked = False
        return m.VringState(vring.index, vring.base)

    def _set_vring_kick(self, payload: m.Number, _rest: bytes, fds: list[int]) -> None:
        vring = self._take_fd("kick", payload, fds)
        vring.kicked = True
        self._update(vring)

    def _set_vring_call(self, payload: m.Number, _rest: bytes, fds: list[int]) -> None:
        self._update(self._take_fd("call", payload, fds))

    def _set_vring_err(self, payload: m.Number, _rest: bytes, fds: list[int]) -> None:
        self._update(self._take_fd("err", payload, fds))

    def _take_fd(self, name: str, payload: m.Number, fds: list[int]) -> Vring:
        vring = self._vring(payload.value & 0xFF)
        if payload.value & ~(0xFF | m.NO_FD) or bool(payload.value & m.NO_FD) == bool(fds):
            raise ProtocolError(f"the payload {payload.value:#x} does not fit the {len(fds)} fds that came with it")
        vring.set_fd(name, fds.pop() if fds else -1)
        return vring

    def _set_vring_enable(self, payload: m.VringState, *_: Any) -> None:
        if not self.features & m.F_PROTOCOL_FEATURES:
            raise ProtocolError("queues are enabled one by one only where PROTOCOL_FEATURES was negotiated")
        if payload.num > 1:
            raise ProtocolError(f"a queue is enabled with 1 or disabled with 0, not with {payload.num}")
        vring = self._vring(payload.queue)
        vring.enabled = bool(payload.num)
        self._update(vring)

    def _may_run(self, vring: Vring) -> bool:
        """Tell whether everything is there that a queue needs to run.

        A front-end that tells of a driver (DRIVER) tells DRIVER_OK as well. QEMU 11's vhost-user-test-device negotiates
        STATUS and tells FEATURES_OK and nothing further, so neither of these is a reason to wait.
        """
        enabled = vring.enabled or not self.features & m.F_PROTOCOL_FEATURES
        driver_ok = not self.status & Status.DRIVER or self.status & Status.DRIVER_OK
        return bool(vring.kicked and vring.address and enabled and driver_ok)

    def _update(self, vring: Vring) -> None:
        if self._may_run(vring):
            self._start(vring)
        else:
            self._stop(vring)

    def _start(self, vring: Vring) -> None:
        """Start a queue, or tell the host of a change; one that cannot run is stopped and its err fd signalled."""
        try:
            self.host.start_queue(vring.setup(self.regions, self.features, self._inflight_of(vring)))
        except PeerError as error:
            self._stop(vring)
            vring.signal_error()
            raise ProtocolError(f"queue {vring.index} cannot run: {error}") from None
        vring.running = True

    def _stop(self, vring: Vring) -> None:
        if vring.running:
            vring.running = False
            vring.base = self.host.stop_queue(vring.index).result

    # In-flight regions.

    def _get_inflight_fd(self, payload: m.Inflight, *_: Any) -> tuple[m.Inflight, list[int]]:
        self._check_inflight(payload)
        size = payload.queues * region_size(payload.queue_size)
        fd = shared_file("pyvirtio-inflight", size)
        return m.Inflight(size, 0, payload.queues, payload.queue_size), [fd]

    def _set_inflight_fd(self, payload: m.Inflight, _rest: bytes, fds: list[int]) -> None:
        self._check_inflight(payload)
        if any(vring.running for vring in self.vrings):
            raise ProtocolError("the in-flight region cannot change while a queue runs")
        if payload.size < payload.queues * region_size(payload.queue_size):
            raise ProtocolError(f"an in-flight region of {payload.size} bytes is too small for what it shall track")
        map_file(fds[0], payload.offset, payload.size)  # a trial
        check_sealed(fds[0])
        self._drop_inflight()
        self._inflight = (fds.pop(), payload)

    def _check_inflight(self, payload: m.Inflight) -> None:
        if not 0 < payload.queues <= len(self.vrings) or not split.is_valid_size(payload.queue_size):
            raise ProtocolError(
                f"an in-flight region for {payload.queues} queues of {payload.queue_size} entries; "
                f"the device has {len(self.vrings)} queues"
            )

    def _inflight_of(self, vring: Vring) -> tuple[int, int, int] | None:
        if self._inflight is None or vring.index >= self._inflight[1].queues:
            return None
        fd, sent = self._inflight
        if vring.size > sent.queue_size:
            raise ProtocolError(f"the in-flight region tracks {sent.queue_size} entries; the queue has {vring.size}")
        size = region_size(sent.queue_size)
        return fd, sent.offset + vring.index * size, size

    def _drop_inflight(self) -> None:
        if self._inflight:
            os.close(self._inflight[0])
            self._inflight = None

    # The configuration space, and the back-end's own channel.

    def _get_config(self, payload: m.ConfigHeader, _rest: bytes, _fds: list[int]) -> bytes:
        self._check_config(payload)
        return payload.pack() + self.host.read_config(payload.offset, payload.size)

    def _set_config(self, payload: m.ConfigHeader, rest: bytes, _fds: list[int]) -> None:
        self._check_config(payload)
        if len(rest) != payload.size or payload.flags > 1:
            raise ProtocolError(f"{payload.size} bytes were announced with flags {payload.flags}, {len(rest)} came")
        self.host.write_config(payload.offset, rest, by_driver=not payload.flags)

    def _check_config(self, payload: m.ConfigHeader) -> None:
        length = len(self.host.description.config)
        if payload.offset + payload.size > length:
            raise ProtocolError(
                f"bytes {payload.offset} to {payload.offset + payload.size} of a configuration space of {length}"
            )

    def _set_backend_req_fd(self, _payload: None, _rest: bytes, fds: list[int]) -> None:
        if not stat.S_ISSOCK(os.fstat(fds[0]).st_mode):
            raise ProtocolError("the descriptor for the back-end's own messages is no socket")
        self._set_backend_fd(fds.pop())

    def _set_backend_fd(self, fd: int) -> None:
        if self.backend_fd >= 0:
            os.close(self.backend_fd)
        self.backend_fd = fd
