"""Chooses what serves a queue, by what the device declares."""

from __future__ import annotations

from pyvirtio.device.queue import OutgoingQueue, Queue
from pyvirtio.runtime.requests import RequestService

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvirtio.device import Device
    from pyvirtio.ring.queue import DeviceQueue
    from pyvirtio.runtime.service import Interrupter, QueueService, Surroundings
    from pyvirtio.runtime.tasks import Tasks


def service_for(
    device: Device, index: int, queue: DeviceQueue, notifier: Interrupter, around: Surroundings, tasks: Tasks | None
) -> QueueService:
    """Return what serves the queue ``index`` of ``device`` on the ring ``queue``."""
    declared = device.each_queue()[index]
    if isinstance(declared, OutgoingQueue):
        from pyvirtio.runtime.outgoing import OutgoingService  # most devices only answer

        return OutgoingService(index, queue, notifier, around, device.ports(declared)[device.number_of(index)])
    assert isinstance(declared, Queue)
    return RequestService(index, queue, notifier, around, declared, device, tasks)
