"""9P2000.L, the file protocol of Linux's 9p: messages and a server's states, for any tree of `pyvirtio.files`.

It knows no virtio: `Server.answer` takes a message from a *source* and writes the reply into a *sink*, and whoever
calls it says where these bytes come from.
"""

from pyvirtio.ninep.server import Server

__all__ = ["Server"]
