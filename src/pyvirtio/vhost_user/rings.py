"""The rings of a connection: when the host serves them, and under which set-up."""

from __future__ import annotations

import os

from pyvirtio.errors import ProtocolError
from pyvirtio.system.eventfd import can_be_awaited, can_be_signalled
from pyvirtio.transport import Completion
from pyvirtio.vhost_user import messages as m
from pyvirtio.vhost_user.handlers import REFUSALS, Answer, on
from pyvirtio.vhost_user.vring import RingEvent, RingState, Service, Vring

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from pyvirtio.transport import DeviceHost
    from pyvirtio.vhost_user.framing import Frame
    from pyvirtio.vhost_user.handlers import Handlers, Steps
    from pyvirtio.vhost_user.inflight import InflightRegion
    from pyvirtio.vhost_user.memory import SharedRegion
    from pyvirtio.vhost_user.negotiation import Negotiation


class Rings:
    """Handles the messages about single rings, and starts and stops rings for those who handle others.

    ``regions`` is the guest's memory, which the rings lie in.
    """

    def __init__(self, host: DeviceHost, negotiation: Negotiation) -> None:
        self.vrings = [Vring(index, size) for index, size in enumerate(host.description.queue_sizes)]
        self.regions: list[SharedRegion] = []
        self._host = host
        self._negotiation = negotiation
        self._inflight: InflightRegion | None = None
        self._stops: dict[int, Completion[int]] = {}

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

    @property
    def suspended(self) -> bool:
        """Whether all rings are stopped: then the device keeps quiet ("Suspended device state")."""
        return not any(vring.state.started for vring in self.vrings)

    @property
    def broken(self) -> bool:
        """Whether the device gave up a ring that is not set up again yet."""
        return any(vring.service is Service.BROKEN for vring in self.vrings)

    # Messages.

    def _set_num(self, payload: m.VringState, _frame: Frame) -> Steps[None]:
        vring = self._vring(payload.queue)
        vring.check_size(payload.num)

        def apply() -> None:
            vring.size = payload.num

        yield from self.change([vring], apply)

    def _set_base(self, payload: m.VringState, _frame: Frame) -> Steps[None]:
        vring = self._vring(payload.queue)
        if payload.num > 0xFFFF:
            raise ProtocolError(f"an available index of {payload.num}; it has 16 bits")

        def apply() -> None:
            vring.base = payload.num

        yield from self.change([vring], apply)

    def _set_addr(self, payload: m.VringAddr, _frame: Frame) -> Steps[None]:
        vring = self._vring(payload.queue)
        if payload.flags:
            # F_LOG asks for a dirty log, which is not offered; other flags do not exist.
            raise ProtocolError(f"the address of queue {vring.index} has the flags {payload.flags:#x}; use 0")
        places = vring.locate(payload, self.regions)
        if places != vring.places(self.regions):
            yield from self.stop([vring])
        vring.set_address(payload)
        self.start(vring)

    def _get_base(self, payload: m.VringState, _frame: Frame) -> Steps[Answer]:
        vring = self._vring(payload.queue)
        yield from self.stop([vring])
        vring.apply(RingEvent.STOP)
        vring.address_is_old = True
        vring.close_fd("kick")
        return Answer(m.VringState(vring.index, vring.base))

    def _set_kick(self, payload: m.Number, frame: Frame) -> None:
        vring = self._take_fd("kick", payload, frame, can_be_awaited, self._host.set_kick)
        vring.was_used &= vring.is_held
        vring.apply(RingEvent.START)
        self.start(vring)

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
        vring = self._vring(payload.value & m.VRING_INDEX)
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
        vring = self._vring(payload.queue)
        vring.apply(RingEvent.ENABLE if payload.num else RingEvent.DISABLE)
        yield from self.update([vring])

    def _vring(self, index: int) -> Vring:
        if index >= len(self.vrings):
            raise ProtocolError(f"there is no queue {index}; the device has {len(self.vrings)}")
        return self.vrings[index]

    # Starting and stopping.

    def start(self, vring: Vring) -> None:
        """Have the host serve a ring, if it does not yet and nothing is missing.

        Raises:
            ProtocolError: the ring cannot be served as it was set up, which its err fd says, too.
        """
        if vring.service is not Service.IDLE or not self._may_run(vring):
            return
        if vring.address_is_old and not vring.can_resume(self.regions):
            return
        try:
            self._host.start_queue(vring.setup(self.regions, self._negotiation.features or 0, self._part_of(vring)))
        except REFUSALS as error:
            vring.signal_error()
            raise ProtocolError(f"queue {vring.index} cannot run: {error}") from error
        vring.service = Service.RUNNING

    def stop(self, vrings: Iterable[Vring]) -> Steps[None]:
        """Have the host stop those rings that it has, all at once, and note where each goes on."""
        held = [vring for vring in vrings if vring.is_held]
        for vring in held:
            vring.service = Service.STOPPING
            self._stops[vring.index] = self._host.stop_queue(vring.index)
        for vring in held:
            position: int = yield self._stops[vring.index]
            del self._stops[vring.index]
            vring.was_used |= position != vring.base
            vring.base = position
            vring.service = Service.IDLE

    def update(self, vrings: Sequence[Vring]) -> Steps[None]:
        """Stop rings that may not run any more, and start those that may now.

        Raises:
            ProtocolError: one of them cannot be served as it was set up; the others are.
        """
        # A broken one stays what it is until it is set up again.
        yield from self.stop(
            vring for vring in vrings if vring.service is Service.RUNNING and not self._may_run(vring)
        )
        failures = []  # in words, for an error kept here would keep what it was about alive
        for vring in vrings:
            try:
                self.start(vring)
            except ProtocolError as error:
                failures.append(str(error))
        if failures:
            raise ProtocolError("; ".join(failures))

    def change(self, vrings: Sequence[Vring], apply: Callable[[], object]) -> Steps[None]:
        """Change what rings run under, provided that none of those that are served has taken a request yet.

        By the letter such a ring is still stopped, for nobody has kicked it, and may be set up otherwise. If it lies at
        an old address, a new set-up has begun now, and the ring is not served before SET_VRING_ADDR has come, too.

        Raises:
            ProtocolError: a ring is in use; it goes on as before.
        """
        held = [vring for vring in vrings if vring.is_held]
        enabled = [vring for vring in held if vring.state is RingState.STARTED_ENABLED]
        if used := [vring for vring in enabled if vring.was_used or vring.service is Service.BROKEN]:
            raise _in_use(used[0])
        yield from self.stop(held)
        used = [vring for vring in enabled if vring.was_used]
        if not used:
            apply()
            for vring in vrings:
                if vring.address_is_old and vring.state.started:
                    vring.set_address(None)
        # Where the ring does not fit into memory, the rest of its set-up is still to come.
        yield from self.update([vring for vring in vrings if vring.places(self.regions)])
        if used:
            raise _in_use(used[0])

    def check_idle(self) -> None:
        """Refuse to go on while a ring is served.

        Raises:
            ProtocolError: one is.
        """
        for vring in self.vrings:
            if vring.is_held:
                raise _in_use(vring)

    def enable_all(self) -> None:
        """Enable all rings, for a front-end that does not know how."""
        for vring in self.vrings:
            vring.apply(RingEvent.ENABLE)

    def disable_all(self) -> Steps[None]:
        """Disable all rings."""
        for vring in self.vrings:
            vring.apply(RingEvent.DISABLE)
        yield from self.update(self.vrings)

    def reset(self) -> Steps[None]:
        """Stop and disable all rings, and forget what the driver set up.

        Where the front-end cannot enable rings, they stay enabled.
        """
        yield from self.stop(self.vrings)
        for vring in self.vrings:
            vring.reset()
            if self._negotiation.rings_are_switched:
                vring.apply(RingEvent.DISABLE)

    def set_inflight(self, region: InflightRegion | None) -> None:
        """Take over the front-end's in-flight region in place of the one before."""
        if self._inflight:
            self._inflight.close()
        self._inflight = region

    def mark_broken(self, index: int) -> None:
        """Take note that the host has given a ring up, and signal its err fd."""
        vring = self.vrings[index]
        if vring.service is Service.RUNNING:
            vring.service = Service.BROKEN
        vring.signal_error()

    def abandon(self) -> Completion[None]:
        """Have the host stop every ring; it is done when the host needs their descriptors no more."""
        stops = [*self._stops.values(), *(self._host.stop_queue(vring.index) for vring in self.vrings if vring.is_held)]
        for vring in self.vrings:
            vring.service = Service.STOPPING
        return Completion.all(stops)

    def close(self) -> None:
        """Close the rings' descriptors."""
        for vring in self.vrings:
            vring.close()
        self.set_inflight(None)

    def _may_run(self, vring: Vring) -> bool:
        is_set_up = vring.state is RingState.STARTED_ENABLED and vring.address is not None
        return is_set_up and self._negotiation.is_settled

    def _part_of(self, vring: Vring) -> tuple[int, int, int] | None:
        return self._inflight.part_of(vring.index, vring.size) if self._inflight else None


def _in_use(vring: Vring) -> ProtocolError:
    return ProtocolError(f"queue {vring.index} is running; stop it with GET_VRING_BASE first")
