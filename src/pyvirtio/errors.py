"""Every error that pyvirtio raises, in one tree.

::

    VirtioError
    ├── LocalError             your call is wrong (also a ValueError)
    │   ├── UsageError         ... because what it names does not exist
    │   └── NegotiationError   the two sides cannot agree on features or queues
    ├── PeerError              the other side broke the rules
    │   ├── ShortData          ... it sent fewer bytes than a structure takes
    │   ├── NotMapped          ... it named an address outside the guest's memory
    │   ├── DriverError        ... and it is the driver (or whoever fills the rings)
    │   │   ├── RingError      ... so that the queue cannot be trusted any further
    │   │   └── ChainError     ... in one request only; the queue goes on
    │   ├── DeviceError        ... and it is the device
    │   │   └── NoAnswer       ... which has not answered in time (also a TimeoutError)
    │   └── ProtocolError      ... in a message of vhost-user or vfio-user
    ├── NotNow                 a device cannot take a request yet; it stays on the ring
    ├── ProvisionError         QEMU, a kernel or a package is not available
    └── GuestError             a virtual machine did not do what it should

An error about a rule of VIRTIO 1.4 names the section that states the rule.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

__all__ = [
    "ChainError",
    "DeviceError",
    "DriverError",
    "GuestError",
    "LocalError",
    "NegotiationError",
    "NoAnswer",
    "NotMapped",
    "NotNow",
    "PeerError",
    "ProtocolError",
    "ProvisionError",
    "RingError",
    "ShortData",
    "UsageError",
    "VirtioError",
]


class VirtioError(Exception):
    """The root of every error that pyvirtio raises on purpose.

    ``section`` names what states the broken rule, e.g. ``"VIRTIO 1.4, 2.7.5.3.1"``; it is empty
    where no rule is involved.

    >>> str(VirtioError("the descriptor chain never ends", section="2.7.5"))
    'the descriptor chain never ends (VIRTIO 1.4, 2.7.5)'
    """

    def __init__(self, message: str, *, section: str = "") -> None:
        super().__init__(message)
        self.section = f"VIRTIO 1.4, {section}" if section[:1].isdigit() else section

    def __str__(self) -> str:
        message = super().__str__()
        return f"{message} ({self.section})" if self.section else message

    def again(self) -> Self:
        """Return an error like this one, caused by it, for another place that meets what ended long ago.

        Each has a traceback of its own, where raising one object again and again would grow its own.

        >>> gone = VirtioError("the device is gone")
        >>> again = gone.again()
        >>> (str(again), again.__cause__ is gone, again is gone)
        ('the device is gone', True, False)
        """
        from copy import copy  # only where something failed

        another = copy(self)
        another.__cause__ = self
        return another


class LocalError(VirtioError, ValueError):
    """The caller of pyvirtio asked for something impossible; the peer did nothing wrong."""


class UsageError(LocalError):
    """A device or an option was named that does not exist; the message lists those that do."""


class NegotiationError(LocalError):
    """Driver and device have no common ground: a feature, a queue or a size is missing."""


class PeerError(VirtioError):
    """The other side broke a rule."""


class ShortData(PeerError):
    """Fewer bytes came than the structure takes that they should hold."""


class NotMapped(PeerError):
    """An address, or a part of the bytes behind it, lies in no region of the guest's memory."""


class DriverError(PeerError):
    """The driver, which the device must not trust, broke a rule."""


class RingError(DriverError):
    """The ring itself is broken: nothing further on this queue can be believed."""


class ChainError(DriverError):
    """One descriptor chain cannot be used; it is returned as a failed request and the queue goes on."""


class DeviceError(PeerError):
    """The device, which the driver must not trust, broke a rule."""


class NoAnswer(DeviceError, TimeoutError):
    """The device, or its back-end, did not answer in time; where a request waits, the message shows the ring."""


class ProtocolError(PeerError):
    """A message that the protocol does not allow here."""


class NotNow(VirtioError):
    """A device's method raises it to take no request now: it has done nothing of the one that it was given.

    The request waits, for any time, and with it all that follow on its queue, until the device calls
    `Device.resume`. A stop of the queue gives it back to the ring. That is for a plain method: an ``async def`` can
    wait by itself, and fails its request if it raises this; see `Queue` for requests that are *held*.
    """

    def __init__(self, message: str = "the device takes no request now") -> None:
        super().__init__(message)


class ProvisionError(VirtioError):
    """Something that a guest needs (QEMU, a kernel, a package) is not available."""


class GuestError(VirtioError):
    """A virtual machine failed. The message ends with the last lines of its console."""
