"""The requests of a recording: what the driver asked, and what the device answered."""

from __future__ import annotations

from pyvirtio.spec import split

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from pyvirtio.trace.events import Event

    Waiting = dict[tuple[int, int], list["Request"]]
    """Requests by queue and head, the oldest first."""
    Found = Iterator[tuple[str, "Request"]]


class Request:
    """One request.

    Attributes:
        queue: the index of its queue.
        head: its first descriptor, which names it.
        parts: what the device could read, buffer by buffer, as far as it was recorded; ``length`` is all of it.
        rooms: the bytes that it could write, buffer by buffer; ``room`` is all of them.
        answer: what it wrote; None where the recording ends before that.
        is_whole: whether what the driver sent is known for certain, and to its end.
        asked, answered: when it became available and was used, on the recording's clock.
    """

    def __init__(self, described: Event) -> None:
        self.queue = described.queue
        self.head: int = described["head"]
        self.length: int = described["length"]
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


STAGES = ("describe", "ask", "take", "answer", "publish", "reap")
"""What happens to a request, in order: it is described, available, popped, answered, before the used index, reaped."""


class Matching:
    """Finds the request that an event is about.

    What was not seen from its beginning is left out. Where requests of one name were seen at once, the oldest comes
    first.
    """

    def __init__(self) -> None:
        self._described: Waiting = {}
        self._asked: Waiting = {}
        self._untaken: Waiting = {}
        self._answered: dict[int, list[Request]] = {}
        self._unreaped: Waiting = {}

    def take(self, event: Event) -> list[tuple[str, Request]]:
        """Return the requests to which something happened, each with the stage of `STAGES` that it reached."""
        if event.what == "queue":  # a new beginning
            self.forget(event.queue)
            return []
        find = _FINDERS.get(event.what)
        return [] if find is None else list(find(self, event))

    def forget(self, queue: int) -> None:
        """Forget the requests of a queue."""
        for waiting in (self._described, self._asked, self._untaken, self._unreaped):
            for key in [key for key in waiting if key[0] == queue]:
                del waiting[key]
        self._answered.pop(queue, None)

    def _describe(self, event: Event) -> Found:
        request = Request(event)
        self._unreaped.pop((event.queue, request.head), None)  # where reaping is not seen: it was, for it is reused
        _wait(self._described, event.queue, request.head, request)
        yield "describe", request

    def _ask(self, event: Event) -> Found:
        for head in event["heads"]:
            if request := _oldest(self._described, event.queue, head):
                request.asked = event.at
                _wait(self._asked, event.queue, head, request)
                _wait(self._untaken, event.queue, head, request)
                yield "ask", request

    def _take(self, event: Event) -> Found:
        if request := _oldest(self._untaken, event.queue, event["head"]):
            yield "take", request

    def _answer(self, event: Event) -> Found:
        if request := _oldest(self._asked, event.queue, event["head"]):
            if request in (untaken := self._untaken.get((event.queue, event["head"]), [])):
                untaken.remove(request)  # nobody saw it popped
            request.complete(event)
            self._answered.setdefault(event.queue, []).append(request)
            yield "answer", request

    def _publish(self, event: Event) -> Found:
        for request in self._answered.pop(event.queue, ()):
            _wait(self._unreaped, event.queue, request.head, request)
            yield "publish", request

    def _reap(self, event: Event) -> Found:
        if request := _oldest(self._unreaped, event.queue, event["head"]):
            yield "reap", request


def _wait(waiting: Waiting, queue: int, head: int, request: Request) -> None:
    waiting.setdefault((queue, head), []).append(request)


def _oldest(waiting: Waiting, queue: int, head: int) -> Request | None:
    found = waiting.get((queue, head))
    if not found:
        return None
    request = found.pop(0)
    if not found:
        del waiting[queue, head]
    return request


_FINDERS: dict[str, Callable[[Matching, Event], Found]] = {
    "descriptors": Matching._describe,
    "available": Matching._ask,
    "pop": Matching._take,
    "used": Matching._answer,
    "used_index": Matching._publish,
    "reap": Matching._reap,
}


def steps(events: Iterable[Event]) -> Iterator[tuple[str, Request]]:
    """Yield each request twice: ``("ask", request)`` when it is available, ``("answer", request)`` when it is used.

    What was not seen from its beginning to its end is left out where its part is missing.
    """
    matching = Matching()
    for event in events:
        yield from (found for found in matching.take(event) if found[0] in ("ask", "answer"))


def requests(events: Iterable[Event]) -> list[Request]:
    """Return the requests of a recording in the order in which they were asked."""
    return [request for kind, request in steps(events) if kind == "ask"]
