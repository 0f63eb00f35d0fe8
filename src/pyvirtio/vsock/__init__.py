"""Virtio sockets (VIRTIO 1.4, 5.10) without sockets: packets, connections and their credits, for both ends.

Driver and device speak the same protocol, so both use one `Endpoint`. It knows no virtqueue, no descriptor and no
clock: packets go in, packets come out, and whoever uses a `Connection` hears that something changed.
"""

from pyvirtio.vsock.connection import BUFFER, Connection, State
from pyvirtio.vsock.endpoint import MOST_CONNECTIONS, Endpoint
from pyvirtio.vsock.ledger import Ledger
from pyvirtio.vsock.packets import Header
from pyvirtio.vsock.stream import Stream

__all__ = ["BUFFER", "MOST_CONNECTIONS", "Connection", "Endpoint", "Header", "Ledger", "State", "Stream"]
