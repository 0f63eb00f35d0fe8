"""The host's ends of streams of bytes: a pseudo-terminal, a Unix socket, a file, or an object of one's own.

A device that carries bytes, such as a console, gives what its guest writes to an `End` and brings the guest what comes
from it. Nothing here knows of virtio.

>>> import tempfile
>>> end = end_of(f"file:{tempfile.mkdtemp()}/log")
>>> end.open()
>>> end.put(b"hello")
5
>>> end.close()
"""

from pyvirtio.ends.end import End
from pyvirtio.ends.names import end_of, split_list
from pyvirtio.ends.outlet import Outlet
from pyvirtio.ends.sockets import SocketEnd

__all__ = ["End", "Outlet", "SocketEnd", "end_of", "split_list"]
