"""An entropy device (VIRTIO 1.4, 5.4) whose bytes a test knows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyvirtio import Device, Queue

if TYPE_CHECKING:
    from pyvirtio.device import Reader, Writer

PATTERN = b"0123456789abcdef"


class Entropy(Device):
    """Fills each buffer with a pattern, from its beginning."""

    device_id = 4
    requests = Queue(size=4)

    @requests.stream
    def fill(self, reader: Reader, writer: Writer) -> None:
        """Fill the buffer."""
        writer.write((PATTERN * (writer.room // len(PATTERN) + 1))[: writer.room])
