"""What a worker says of the device that it has loaded, before it serves."""

from __future__ import annotations

import os

from pyvirtio.host.messages import description_from_json, description_to_json, pack_sources, unpack_sources
from pyvirtio.memory.files import shared_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Self

    from pyvirtio.host.channel import Channel
    from pyvirtio.transport import DeviceDescription


class Introduction:
    """The report ``ready``.

    Attributes:
        description: what drivers may know of the device.
        patience: the seconds that its code may take; None is any time.
        needs_one_worker: whether it is one object, which two workers cannot share.
        watched: the source files whose change means that the device changed.
        sources: what it was loaded from, by path, for other workers to run the same.
    """

    def __init__(
        self,
        description: DeviceDescription,
        *,
        patience: float | None,
        needs_one_worker: bool,
        watched: list[str],
        sources: dict[str, bytes],
    ) -> None:
        self.description = description
        self.patience = patience
        self.needs_one_worker = needs_one_worker
        self.watched = watched
        self.sources = sources

    @classmethod
    def of(cls, fields: dict[str, Any]) -> Self:
        """Return what `send` sent."""
        return cls(
            description_from_json(fields["description"]),
            patience=None if fields["patience"] is None else float(fields["patience"]),
            needs_one_worker=fields["needs_one_worker"],
            watched=fields["sources"],
            sources=unpack_sources(fields["files"][0]) if fields["files"] else {},
        )

    def send(self, channel: Channel) -> None:
        """Tell the keeper; the sources travel in a file, for they may be longer than a message."""
        text = pack_sources(self.sources)
        fd = shared_file("pyvirtio-sources", max(1, len(text)))
        os.pwrite(fd, text, 0)
        channel.send(
            "ready",
            [fd],
            description=description_to_json(self.description),
            patience=self.patience,
            needs_one_worker=self.needs_one_worker,
            sources=self.watched,
        )
        os.close(fd)
