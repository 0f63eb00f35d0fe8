"""What the two ends of a connection agreed on: feature bits, protocol features, the device status."""

from __future__ import annotations

from pyvirtio.errors import ProtocolError
from pyvirtio.spec.features import Status
from pyvirtio.vhost_user import messages as m

OFFERED = m.Protocol(sum(m.Protocol))
"""The protocol features that a back-end can offer: all that have a name, and not the gaps between them."""


class Negotiation:
    """The agreements of one connection.

    ``offered`` are the back-end's feature bits, ``offered_protocol`` its protocol features: access to the
    configuration space only where the device has one, for QEMU complains otherwise. ``features`` are those that the
    front-end accepted, None before it said so; ``protocol`` the protocol features that it uses; ``status`` the
    driver's device status.
    """

    def __init__(self, device_features: int, *, has_config: bool = True) -> None:
        self.offered_protocol = OFFERED if has_config else OFFERED & ~m.Protocol.CONFIG
        self.offered = device_features | m.F_PROTOCOL_FEATURES
        self.features: int | None = None
        self.protocol = m.Protocol(0)
        self.status = Status(0)
        self._last_were_refused = False

    def check_features(self, features: int) -> None:
        """Refuse features that were not offered.

        Raises:
            ProtocolError: the front-end sent bits that the back-end does not know.
        """
        extra = features & ~self.offered
        self._last_were_refused = bool(extra)
        if extra:
            raise ProtocolError(f"the feature bits {extra:#x} were never offered")

    def accept_protocol(self, features: int) -> None:
        """Take note of the protocol features that the front-end uses.

        Raises:
            ProtocolError: it sent bits that were not offered.
        """
        # As a number: the flag's own ~ knows no bit above the highest that has a name.
        if extra := features & ~int(self.offered_protocol):
            raise ProtocolError(f"the protocol features {extra:#x} were never offered")
        self.protocol = m.Protocol(features)

    def accept_status(self, status: int) -> None:
        """Take note of the driver's device status (VIRTIO 1.4, 2.1).

        FEATURES_OK does not stand where the features were refused (3.1.1), which is how a front-end without REPLY_ACK
        can tell; DEVICE_NEEDS_RESET is the device's own bit.

        Raises:
            ProtocolError: a device status has 8 bits.
        """
        if status > 0xFF:
            raise ProtocolError(f"a device status of {status:#x}; it has 8 bits", section="2.1")
        refused = Status.FEATURES_OK if self._last_were_refused else 0
        self.status = Status(status & ~(refused | Status.DEVICE_NEEDS_RESET))

    @property
    def rings_are_switched(self) -> bool:
        """Whether rings are enabled one by one: what a front-end without PROTOCOL_FEATURES does not know about."""
        return self.features is None or bool(self.features & m.F_PROTOCOL_FEATURES)

    @property
    def is_settled(self) -> bool:
        """Whether driver and device agree on the features, and the driver lets the device use the rings.

        A front-end that tells of a driver (DRIVER) tells DRIVER_OK as well. QEMU 11's vhost-user-test-device negotiates
        STATUS and tells FEATURES_OK and nothing further, so neither of these is a reason to wait.
        """
        driver_is_ready = not self.status & Status.DRIVER or bool(self.status & Status.DRIVER_OK)
        return self.features is not None and driver_is_ready
