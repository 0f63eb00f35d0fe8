"""Bring a driver and a device together, wherever the device is.

>>> from pyvirtio.devices.factorial import Factorial
>>> from pyvirtio.drivers.factorial import FactorialDriver
>>> with open_driver(FactorialDriver, Factorial()) as driver:
...     list(driver.factorials([5, 13]))
[120, 6227020800]
"""

from __future__ import annotations

from pyvirtio.connect.in_process import InProcessTransport
from pyvirtio.connect.own_process import serving
from pyvirtio.device import Device
from pyvirtio.errors import LocalError
from pyvirtio.memory.files import PAGE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeVar

    from pyvirtio.driver import Driver
    from pyvirtio.transport import DriverTransport

    D = TypeVar("D", bound=Driver)

__all__ = ["open_driver", "open_transport", "serving"]


def open_driver(
    driver: type[D], device: Device | str, *, memory: int | None = None, reconnect: float | None = None, **options: Any
) -> D:
    """Open ``driver`` on a device in this process, or on one at an address: ``"vhost-user:/run/f.sock"``.

    ``memory`` is how many bytes driver and device share: what all requests in flight and their answers take. The
    other ``options`` go to the driver's constructor.

    With ``reconnect``, a back-end may end and be started again within so many seconds: requests that it had not
    answered are answered by the new one. Some may be carried out twice, so this is for devices that can bear that.

    Raises:
        LocalError: the address is not understood, nobody serves it, or that much memory cannot be shared.
        NoAnswer: the back-end is busy with another front-end, or hangs.
        NegotiationError: driver and device have no common ground.
    """
    transport = open_transport(device, memory=memory, reconnect=reconnect, device_name=driver.device_name)
    return driver(transport, **options)


def open_transport(
    device: Device | str, *, memory: int | None = None, reconnect: float | None = None, device_name: str = "DEVICE"
) -> DriverTransport:
    """Open the way to a device, without a driver; see `open_driver`.

    ``device_name`` is what ``pyvirtio serve`` calls the device, for the error that says how to start a back-end.
    """
    if memory is not None and memory < PAGE:
        raise LocalError(f"memory={memory}: driver and device share at least a page; give {PAGE} bytes or more")
    shared: dict[str, Any] = {} if memory is None else {"memory": memory}
    if isinstance(device, Device):
        if reconnect is not None:
            raise LocalError("a device in this process does not go away; leave reconnect out")
        return InProcessTransport(device, **shared)
    kind, _, place = device.partition(":")
    if kind != "vhost-user" or not place:
        raise LocalError(f"the address {device!r} is not understood; write vhost-user:/path/of/the/socket")
    if reconnect is not None:
        from pyvirtio.vhost_user.resume import ResumingTransport

        return ResumingTransport(place, device=device_name, patience=reconnect, **shared)
    from pyvirtio.vhost_user.client import VhostUserTransport

    return VhostUserTransport.connect(place, device=device_name, **shared)
