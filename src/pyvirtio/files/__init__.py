"""Files for guests, whatever protocol asks for them: two kinds of trees, and what a client has found and opened there.

It knows neither virtio nor a protocol; `pyvirtio.ninep` and `pyvirtio.fuse` are those that there are.
"""

from pyvirtio.files.folder import Folder
from pyvirtio.files.objects import Objects
from pyvirtio.files.tree import File, Tree

__all__ = ["File", "Folder", "Objects", "Tree"]
