"""What every transport ends in: memory, queue set-ups, and the interfaces on both sides of them.

A transport carries what a driver and a device must tell each other before and while a ring runs. Its wire
protocol is its own business; on the device's side it ends in calls of a `DeviceHost`, which answers through
`HostEvents`, and on the driver's side a `Driver` calls a `DriverTransport`. Everything behind these is common to
all transports.

::

    socket ─ Session ─► DeviceHost: set_memory, start_queue, kick, set_interrupt, stop_queue, write_config, reset
              (bytes)       │
                  ◄─────────┘ HostEvents: config_changed, queue_broken; and a Completion for what takes time
"""

from pyvirtio.transport.completion import Completion
from pyvirtio.transport.driver import DriverTransport
from pyvirtio.transport.host import MAXIMUM_STRIKES, DeviceHost
from pyvirtio.transport.session import Outgoing
from pyvirtio.transport.setup import DeviceDescription, FileRegion, QueueSetup

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvirtio.transport.host import HostEvents as HostEvents
    from pyvirtio.transport.session import Session as Session

__all__ = [
    "MAXIMUM_STRIKES",
    "Completion",
    "DeviceDescription",
    "DeviceHost",
    "DriverTransport",
    "FileRegion",
    "Outgoing",
    "QueueSetup",
]
