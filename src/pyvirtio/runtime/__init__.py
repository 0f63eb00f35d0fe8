"""What runs a device: its queues, its configuration space, its coroutines; behind the interface `DeviceHost`.

`DeviceRunner` is the one runtime. A worker process steps it until it is told to drain, a driver in the same process
calls it directly, and a program that serves a device of its own gives it to its event loop. It knows no socket, no
process and no loop: it has a descriptor to wait for, and a step to take.
"""

from pyvirtio.runtime.config_space import ConfigSpace
from pyvirtio.runtime.runner import DeviceRunner

__all__ = ["ConfigSpace", "DeviceRunner"]
