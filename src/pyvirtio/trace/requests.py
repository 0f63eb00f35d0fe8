"""The requests of a recording: what the driver asked, and what the device answered."""

from __future__ import annotations

from pyvirtio.spec import split

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pyvirtio.trace.events import Event


class Request:
    """One request.

    Attributes:
        queue: the index of its queue.
        parts: what the device could read, buffer by buffer.
        rooms: the bytes that it could write, buffer by buffer; ``room`` is all of them.
        answer: what it wrote; None where the recording ends before that.
        is_whole: whether what the driver sent is known for certain, and to its end.
        asked, answered: when it became available and was used, on the recording's clock.
    """

    def __init__(self, described: Event) -> None:
        self.queue = described.queue
        self.room: int = described["room"]
        data = bytes.fromhex(described["data"])
        self.is_whole = len(data) == described["length"] and not described.get("error") and not described.get("late")
        chain = described["chain"]
        self.parts = list(_parts(data, chain))
        self.rooms = [
            length for _, _, length, flags, _ in chain if flags & split.F_WRITE and not flags & split.F_INDIRECT
        ]
        self.answer: bytes | None = None
        self.written = 0
        self.is_late = False
        self.asked = described.at
        self.answered: int | None = None

    @property
    def data(self) -> bytes:
        """What the device could read, as one piece."""
        return b"".join(self.parts)

    def complete(self, used: Event) -> None:
        """Take the answer."""
        self.answer = bytes.fromhex(used["data"])
        self.written = used["written"]
        self.is_late = bool(used.get("late"))
        self.answered = used.at

    @property
    def answer_is_whole(self) -> bool:
        """Whether the answer is known for certain, and to its end."""
        return self.answer is not None and len(self.answer) == self.written and not self.is_late


def _parts(data: bytes, chain: list[list[int]]) -> Iterator[bytes]:
    at = 0
    for _, _, length, flags, _ in chain:
        if not flags & (split.F_INDIRECT | split.F_WRITE):
            yield data[at : at + length]
            at += length


def steps(events: Iterable[Event]) -> Iterator[tuple[str, Request]]:
    """Yield each request twice: ``("ask", request)`` when it is available, ``("answer", request)`` when it is used.

    What was not seen from its beginning to its end is left out where its part is missing.
    """
    # Where requests of one name were seen at once, the oldest comes first.
    described: dict[tuple[int, int], list[Event]] = {}
    outstanding: dict[tuple[int, int], list[Request]] = {}
    for event in events:
        if event.what == "queue":  # a new beginning
            for key in [key for key in (*described, *outstanding) if key[0] == event.queue]:
                described.pop(key, None)
                outstanding.pop(key, None)
        elif event.what == "descriptors":
            described.setdefault((event.queue, event["head"]), []).append(event)
        elif event.what == "available":
            for head in event["heads"]:
                if found := described.get((event.queue, head)):
                    request = Request(found.pop(0))
                    request.asked = event.at
                    outstanding.setdefault((event.queue, head), []).append(request)
                    yield "ask", request
        elif event.what == "used" and (asked := outstanding.get((event.queue, event["head"]))):
            request = asked.pop(0)
            request.complete(event)
            yield "answer", request


def requests(events: Iterable[Event]) -> list[Request]:
    """Return the requests of a recording in the order in which they were asked."""
    return [request for kind, request in steps(events) if kind == "ask"]
