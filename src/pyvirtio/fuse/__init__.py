"""FUSE as a virtio file system speaks it: a server's side, for any tree of `pyvirtio.files`.

It knows no virtio: `Server.answer` takes a request from a *source* and writes the answer into a *sink*, and whoever
calls it says where these bytes come from. The structures are in `pyvirtio.spec.fuse`.
"""

from pyvirtio.fuse.server import Server

__all__ = ["Server"]
