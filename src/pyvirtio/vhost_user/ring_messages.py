"""The messages about single rings: size, base, address, event descriptors, enabling, and the end."""

from __future__ import annotations

import os

from pyvirtio.errors import ProtocolError
from pyvirtio.system.eventfd import can_be_awaited, can_be_signalled
from pyvirtio.vhost_user import messages as m
from pyvirtio.vhost_user.handlers import Answer, on
from pyvirtio.vhost_user.vring import RingEvent

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvirtio.transport import DeviceHost
    from pyvirtio.vhost_user.framing import Frame
    from pyvirtio.vhost_user.handlers import Handlers, Steps
    from pyvirtio.vhost_user.negotiation import Negotiation
    from pyvirtio.vhost_user.rings import Rings
    from pyvirtio.vhost_user.vring import Vring


class RingMessages:
    """Handles SET_VRING_* and GET_VRING_BASE."""

    def __init__(self, host: DeviceHost, negotiation: Negotiation, rings: Rings) -> None:
        self._host = host
        self._negotiation = negotiation
        self._rings = rings

    def handlers(self) -> Handlers:
        """Return what handles each message."""
        return {
            m.Request.SET_VRING_NUM: on(m.VringState, self._set_num),
            m.Request.SET_VRING_BASE: on(m.VringState, self._set_base),
            m.Request.SET_VRING_ADDR: on(m.VringAddr, self._set_addr),
            m.Request.SET_VRING_KICK: on(m.Number, self._set_kick),
            m.Request.SET_VRING_CALL: on(m.Number, self._set_call),
            m.Request.SET_VRING_ERR: on(m.Number, self._set_err),
            m.Request.SET_VRING_ENABLE: on(m.VringState, self._set_enable),
            m.Request.GET_VRING_BASE: on(m.VringState, self._get_base),
        }

    def _set_num(self, payload: m.VringState, _frame: Frame) -> Steps[None]:
        vring = self._rings.vring(payload.queue)
        vring.check_size(payload.num)

        def apply() -> None:
            vring.size = payload.num

        yield from self._rings.change([vring], apply)

    def _set_base(self, payload: m.VringState, _frame: Frame) -> Steps[None]:
        vring = self._rings.vring(payload.queue)
        if payload.num > 0xFFFF:
            raise ProtocolError(f"an available index of {payload.num}; it has 16 bits")

        def apply() -> None:
            vring.base = payload.num

        yield from self._rings.change([vring], apply)

    def _set_addr(self, payload: m.VringAddr, _frame: Frame) -> Steps[None]:
        vring = self._rings.vring(payload.queue)
        if payload.flags:
            # F_LOG asks for a dirty log, which is not offered; other flags do not exist.
            raise ProtocolError(f"the address of queue {vring.index} has the flags {payload.flags:#x}; use 0")
        places = vring.locate(payload, self._rings.regions)
        if places != vring.places(self._rings.regions):
            yield from self._rings.stop([vring])
        vring.set_address(payload)
        self._rings.start(vring)

    def _get_base(self, payload: m.VringState, _frame: Frame) -> Steps[Answer]:
        vring = self._rings.vring(payload.queue)
        yield from self._rings.stop([vring])
        vring.apply(RingEvent.STOP)
        vring.address_is_old = True
        vring.close_fd("kick")
        return Answer(m.VringState(vring.index, vring.base))

    def _set_kick(self, payload: m.Number, frame: Frame) -> None:
        vring = self._take_fd("kick", payload, frame, can_be_awaited, self._host.set_kick)
        vring.was_used &= vring.is_held  # a ring that is not served starts now; one that is gets another descriptor
        vring.apply(RingEvent.START)
        self._rings.start(vring)

    def _set_call(self, payload: m.Number, frame: Frame) -> None:
        self._take_fd("call", payload, frame, can_be_signalled, self._host.set_interrupt)

    def _set_err(self, payload: m.Number, frame: Frame) -> None:
        self._take_fd("err", payload, frame, can_be_signalled, lambda _index, _fd: None)

    def _take_fd(
        self,
        name: str,
        payload: m.Number,
        frame: Frame,
        usable: Callable[[int], bool],
        tell_host: Callable[[int, int], None],
    ) -> Vring:
        """Replace a descriptor of a ring, also under a ring that is served: that is not a restart."""
        vring = self._rings.vring(payload.value & m.VRING_INDEX)
        if payload.value & ~(m.VRING_INDEX | m.NO_FD) or bool(payload.value & m.NO_FD) == bool(frame.fds):
            raise ProtocolError(
                f"the payload {payload.value:#x} contradicts the {len(frame.fds)} fds that came with it"
            )
        for fd in frame.fds:
            if not usable(fd):
                raise ProtocolError(
                    f"the {name} descriptor of queue {vring.index} cannot carry events: "
                    "use an eventfd, a socket, or the right end of a pipe"
                )
            # Shared with the peer, who would otherwise make us wait in a write to a full counter.
            os.set_blocking(fd, False)
        fd = frame.fds.pop() if frame.fds else -1
        old = vring.replace_fd(name, fd)
        try:
            if vring.is_held:
                tell_host(vring.index, fd)
        finally:
            if old >= 0:
                os.close(old)
        return vring

    def _set_enable(self, payload: m.VringState, _frame: Frame) -> Steps[None]:
        if not self._negotiation.rings_are_switched:
            raise ProtocolError("queues are enabled one by one only where PROTOCOL_FEATURES was negotiated")
        if payload.num > 1:
            raise ProtocolError(f"a queue is enabled with 1 or disabled with 0, not with {payload.num}")
        vring = self._rings.vring(payload.queue)
        vring.apply(RingEvent.ENABLE if payload.num else RingEvent.DISABLE)
        yield from self._rings.update([vring])
