"""Guest memory: regions, translation, mapped files, fences, and an allocator for drivers.

A 16-bit index that the other side may read at any moment is stored and loaded through a view cast
to its width (`words`), one access each; ``struct.pack_into`` would clear it first.
"""

import sys

from pyvirtio.errors import LocalError
from pyvirtio.memory.fence import full_fence, read_barrier, write_barrier
from pyvirtio.memory.table import MemoryTable, Region, words

__all__ = ["MemoryTable", "Region", "full_fence", "read_barrier", "words", "write_barrier"]

if sys.byteorder != "little":
    raise LocalError(
        "pyvirtio needs a little-endian host: it reads rings in the host's byte order; use another machine"
    )
