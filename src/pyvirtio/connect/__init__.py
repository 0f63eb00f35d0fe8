"""Bring a driver and a device together, wherever the device is.

>>> from pyvirtio.devices.factorial import Factorial
>>> from pyvirtio.drivers.factorial import FactorialDriver
>>> with open_driver(FactorialDriver, Factorial()) as driver:
...     list(driver.factorials([5, 13]))
[120, 6227020800]
"""

from __future__ import annotations

from pyvirtio.connect.in_process import InProcessTransport
from pyvirtio.device import Device
from pyvirtio.errors import LocalError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeVar

    from pyvirtio.driver import Driver
    from pyvirtio.transport import DriverTransport

    D = TypeVar("D", bound=Driver)

__all__ = ["open_driver", "open_transport"]


def open_driver(driver: type[D], device: Device | str, **options: Any) -> D:
    """Open ``driver`` on a device in this process, or on one at an address: ``"vhost-user:/run/f.sock"``.

    ``options`` go to the driver's constructor.

    Raises:
        LocalError: the address is not understood, or nobody serves it.
        NegotiationError: driver and device have no common ground.
    """
    return driver(open_transport(device), **options)


def open_transport(device: Device | str) -> DriverTransport:
    """Open the way to a device, without a driver; see `open_driver`."""
    if isinstance(device, Device):
        return InProcessTransport(device)
    kind, _, place = device.partition(":")
    if kind != "vhost-user" or not place:
        raise LocalError(f"the address {device!r} is not understood; write vhost-user:/path/of/the/socket")
    from pyvirtio.vhost_user.client import VhostUserTransport

    return VhostUserTransport.connect(place)
