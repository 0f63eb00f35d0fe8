"""The host's side of a network device: what is at the other end of the cable.

An `End` takes packets from a guest and has packets for it: a TAP device (`pyvirtio.network.tap`), a Unix socket as
QEMU's ``-netdev dgram`` and ``-netdev stream`` (`pyvirtio.network.sockets`), a port of a learning switch
(`pyvirtio.network.switch`), a Python function (`pyvirtio.network.function`). None of them knows virtqueues.
"""

from pyvirtio.network.end import End
from pyvirtio.network.ethernet import Mac
from pyvirtio.network.function import FunctionEnd
from pyvirtio.network.packet import PLAIN, Offload, VnetHeader
from pyvirtio.network.sockets import DatagramEnd, StreamEnd
from pyvirtio.network.switch import Switch
from pyvirtio.network.tap import TapEnd

__all__ = [
    "PLAIN",
    "DatagramEnd",
    "End",
    "FunctionEnd",
    "Mac",
    "Offload",
    "StreamEnd",
    "Switch",
    "TapEnd",
    "VnetHeader",
]
