"""The rings of a connection: when the host serves them, and under which set-up."""

from __future__ import annotations

from pyvirtio.errors import ProtocolError
from pyvirtio.transport import Completion
from pyvirtio.vhost_user.handlers import REFUSALS
from pyvirtio.vhost_user.vring import RingEvent, RingState, Service, Vring

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from pyvirtio.transport import DeviceHost
    from pyvirtio.vhost_user.handlers import Steps
    from pyvirtio.vhost_user.inflight import InflightRegion
    from pyvirtio.vhost_user.memory import SharedRegion
    from pyvirtio.vhost_user.negotiation import Negotiation


class Rings:
    """All rings, for those who handle messages; ``regions`` is the guest's memory, which the rings lie in."""

    def __init__(self, host: DeviceHost, negotiation: Negotiation) -> None:
        self.vrings = [Vring(index, size) for index, size in enumerate(host.description.queue_sizes)]
        self.regions: list[SharedRegion] = []
        self._host = host
        self._negotiation = negotiation
        self._inflight: InflightRegion | None = None
        self._stops: dict[int, Completion[int]] = {}

    @property
    def suspended(self) -> bool:
        """Whether all rings are stopped: then the device keeps quiet ("Suspended device state")."""
        return not any(vring.state.started for vring in self.vrings)

    @property
    def broken(self) -> bool:
        """Whether the device gave up a ring that is not set up again yet."""
        return any(vring.service is Service.BROKEN for vring in self.vrings)

    def vring(self, index: int) -> Vring:
        """Return a ring.

        Raises:
            ProtocolError: the device does not have as many.
        """
        if index >= len(self.vrings):
            raise ProtocolError(f"there is no queue {index}; the device has {len(self.vrings)}")
        return self.vrings[index]

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
            vring.signal("err")
            raise ProtocolError(f"queue {vring.index} cannot run: {error}") from error
        vring.service = Service.RUNNING
        # The driver may wait for an interrupt that a back-end before this one did not live to send.
        vring.signal("call")

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
        yield from self.stop(vring for vring in vrings if vring.service is Service.RUNNING and not self._may_run(vring))
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
        vring.signal("err")

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
