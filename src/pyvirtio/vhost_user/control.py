"""The messages about the connection and the device as a whole: features, owner, status, reset."""

from __future__ import annotations

from pyvirtio.spec.features import Status
from pyvirtio.vhost_user import messages as m
from pyvirtio.vhost_user.handlers import Answer, on, plain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvirtio.transport import DeviceHost
    from pyvirtio.vhost_user.framing import Frame
    from pyvirtio.vhost_user.handlers import Handlers, Steps
    from pyvirtio.vhost_user.negotiation import Negotiation
    from pyvirtio.vhost_user.rings import Rings


class ControlMessages:
    """Handles what concerns no single ring."""

    def __init__(self, host: DeviceHost, negotiation: Negotiation, rings: Rings) -> None:
        self._host = host
        self._negotiation = negotiation
        self._rings = rings

    def handlers(self) -> Handlers:
        """Return what handles each message."""
        return {
            m.Request.GET_FEATURES: plain(lambda: Answer(m.Number(self._negotiation.offered))),
            m.Request.SET_FEATURES: on(m.Number, self._set_features),
            m.Request.GET_PROTOCOL_FEATURES: plain(lambda: Answer(m.Number(self._negotiation.offered_protocol))),
            m.Request.SET_PROTOCOL_FEATURES: on(m.Number, self._set_protocol_features),
            m.Request.GET_QUEUE_NUM: plain(lambda: Answer(m.Number(len(self._rings.vrings)))),
            m.Request.SET_OWNER: plain(lambda: None),  # who is connected is the owner
            m.Request.RESET_OWNER: plain(self._rings.disable_all),
            m.Request.RESET_DEVICE: plain(self._reset_device),
            m.Request.SET_STATUS: on(m.Number, self._set_status),
            m.Request.GET_STATUS: plain(self._get_status),
        }

    def _set_features(self, payload: m.Number, _frame: Frame) -> Steps[None]:
        """Take note of the features; without PROTOCOL_FEATURES, enable all rings ("Ring states")."""
        self._negotiation.check_features(payload.value)
        if payload.value != self._negotiation.features:
            self._rings.check_idle()
            self._negotiation.features = payload.value
        if not self._negotiation.rings_are_switched:
            self._rings.enable_all()
        yield from self._rings.update(self._rings.vrings)

    def _set_protocol_features(self, payload: m.Number, _frame: Frame) -> None:
        self._negotiation.accept_protocol(payload.value)

    def _reset_device(self) -> Steps[None]:
        yield from self._forget_driver()
        yield self._host.reset()

    def _set_status(self, payload: m.Number, _frame: Frame) -> Steps[None]:
        """Take note of the driver's status; 0 ends all rings.

        It does not reset the device: QEMU sends 0 whenever it stops the rings, so when the machine is paused as well,
        and what a driver wrote into the configuration space has to outlive that. RESET_DEVICE is the reset.
        """
        if payload.value == 0:
            yield from self._forget_driver()
            return
        self._negotiation.accept_status(payload.value)
        yield from self._rings.update(self._rings.vrings)

    def _get_status(self) -> Answer:
        needs_reset = Status.DEVICE_NEEDS_RESET if self._rings.broken else Status(0)
        return Answer(m.Number(self._negotiation.status | needs_reset))

    def _forget_driver(self) -> Steps[None]:
        yield from self._rings.reset()
        self._negotiation.status = Status(0)
