"""9P2000.L, the file protocol of Linux's 9p: messages, a server's states, and two kinds of trees to serve.

It knows no virtio: `Server.answer` takes a message from a *source* and writes the reply into a *sink*, and whoever
calls it says where these bytes come from.
"""

from pyvirtio.ninep.folder import Folder
from pyvirtio.ninep.objects import Objects
from pyvirtio.ninep.server import Server
from pyvirtio.ninep.tree import File, Tree

__all__ = ["File", "Folder", "Objects", "Server", "Tree"]
