"""Plays a recording again: to a device, as its driver did; and compares what the device answers."""

from __future__ import annotations

from pyvirtio.driver import Driver, RequestQueue
from pyvirtio.driver.answer import AnswerFormat
from pyvirtio.errors import LocalError, NoAnswer
from pyvirtio.spec.features import DEVICE_FEATURES
from pyvirtio.trace.requests import steps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pyvirtio.driver import Ticket
    from pyvirtio.trace.events import Event, Recording
    from pyvirtio.trace.requests import Request
    from pyvirtio.transport import DriverTransport

MOST_QUEUES = 1024

PATIENCE = 30.0
"""The seconds that a device has to answer."""


class Difference:
    """An answer that is not the recorded one.

    ``number`` counts the requests from 0 on, in the order in which they were asked; ``answer`` is None where the device
    did not answer at all.
    """

    def __init__(self, number: int, request: Request, answer: bytes | None) -> None:
        self.number = number
        self.request = request
        self.answer = answer

    def __str__(self) -> str:
        where = f"request {self.number} on queue {self.request.queue}"
        expected = self.request.answer or b""
        if self.answer is None:
            return f"{where} is not answered; {len(expected)} bytes were recorded"
        pairs = enumerate(zip(expected, self.answer, strict=False))
        at = next((at for at, (one, other) in pairs if one != other), min(len(expected), len(self.answer)))
        return (
            f"{where} is answered with {len(self.answer)} bytes, {len(expected)} were recorded; "
            f"they differ from byte {at} on: {self.answer[at : at + 8].hex()}, recorded {expected[at : at + 8].hex()}"
        )


class Outcome:
    """What came of playing a recording.

    Attributes:
        compared: how many answers were compared.
        skipped: how many requests or answers were left out, for the recording is not certain of them.
        differences: the answers that are not as recorded.
    """

    def __init__(self) -> None:
        self.compared = 0
        self.skipped = 0
        self.differences: list[Difference] = []


class _Buffers(AnswerFormat):
    """Offers the buffers that the recorded driver offered: a device may depend on where one ends."""

    rooms: Sequence[int] = ()

    def buffers(self, room: int) -> list[int]:  # noqa: ARG002  # the rooms add up to it
        """Return the lengths of the buffers of the request that is being submitted."""
        return list(self.rooms)


def replaying_driver(device_id: int, sizes: Sequence[int], features: int) -> type[Driver]:
    """Return a driver that has queues of ``sizes`` entries and takes what of ``features`` is offered."""
    declared = [RequestQueue(size=size) for size in sizes]
    for index, queue in enumerate(declared):
        queue.name = f"queue{index}"
        queue.answer = _Buffers(None)
    namespace = {
        "device_id": device_id,
        "features": features & DEVICE_FEATURES,
        "each_queue": lambda _self: declared,
        "__doc__": "Drives a device as a recording says.",
    }
    return type("Replaying", (Driver,), namespace)


def set_up_of(events: Iterable[Event]) -> tuple[list[int], int]:
    """Return the sizes of the queues that a recording uses, and the features that were agreed on.

    Raises:
        LocalError: no queue is set up in it.
    """
    set_ups = {event.queue: event for event in events if event.what in ("queue", "resumed")}
    if not set_ups:
        raise LocalError("no queue is set up in this recording; record a run from its beginning")
    if max(set_ups) >= MOST_QUEUES:
        raise LocalError(f"this recording has a queue {max(set_ups)}; record one with {MOST_QUEUES} at most")
    sizes = [set_ups[index]["size"] if index in set_ups else 2 for index in range(max(set_ups) + 1)]
    return sizes, next(iter(set_ups.values()))["features"]


def replay_into(transport: DriverTransport, recording: Recording, *, timeout: float = PATIENCE) -> Outcome:
    """Ask a device what the recorded driver asked, in the same order and with as much in flight; close the transport.

    A request is asked when the recording's driver asked it, and its answer awaited where the recording's device
    answered. Buffers without anything to read are offered, too; what comes in them is not compared, for it comes when
    the device wants to say something.

    Raises:
        LocalError: the recording has no queue.
        NegotiationError: the device is not what was recorded.
    """
    sizes, features = set_up_of(recording.events)
    device_id = transport.device_id or recording.device_id()
    with replaying_driver(device_id, sizes, features)(transport) as driver:
        queues = [driver.bound[f"queue{index}"][0] for index in range(len(sizes))]
        outcome, number = Outcome(), 0
        tickets: dict[int, tuple[int, Ticket]] = {}
        for kind, request in steps(recording.events):
            if kind == "ask" and not request.is_whole:
                outcome.skipped += 1
            elif kind == "ask":
                queue = queues[request.queue]
                queue.declared.answer.rooms = request.rooms  # type: ignore[attr-defined]  # a `_Buffers`
                ticket = queue.submit(*(request.parts or [b""]), room=request.room)
                tickets[id(request)] = number, ticket
                number += 1
            elif (asked := tickets.pop(id(request), None)) is not None and request.parts:
                _compare(outcome, *asked, request, timeout)
        return outcome


def _compare(outcome: Outcome, number: int, ticket: Ticket, request: Request, timeout: float) -> None:
    if request.is_late:
        ticket.data(timeout)
        outcome.skipped += 1
        return
    outcome.compared += 1
    try:
        answer: bytes | None = ticket.data(timeout)
    except NoAnswer:
        answer = None
    expected = (request.answer or b"")[: request.room]
    if answer is None or (answer if request.answer_is_whole else answer[: len(expected)]) != expected:
        outcome.differences.append(Difference(number, request, answer))


def open_device(device: str) -> DriverTransport:
    """Open the way to a device: the path of a back-end's socket, or what ``pyvirtio serve`` takes, in this process.

    Raises:
        LocalError: there is no such device, or nobody serves the socket.
    """
    from pyvirtio.connect import open_transport

    if _is_socket(device):
        return open_transport(f"vhost-user:{device}")
    from pyvirtio.host.loader import DeviceLoader

    return open_transport(DeviceLoader(device).new_device())


def _is_socket(path: str) -> bool:
    import os
    import stat

    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False


def replay_text(device: str, text: str) -> Outcome:
    """Play a recording that is given as its lines to a device; see `open_device` and `replay_into`."""
    from pyvirtio.trace.events import Recording

    return replay_into(open_device(device), Recording(text.strip().encode().splitlines(keepends=True)))
