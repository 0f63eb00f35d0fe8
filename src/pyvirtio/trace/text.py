"""A recording as text: a line or two for each step, in 80 columns, for those who meet a virtqueue first.

Times are microseconds since the first event. With ``explain``, the first step of each kind is followed by what it
means.
"""

from __future__ import annotations

import textwrap

from pyvirtio.spec import split
from pyvirtio.spec.ids import device_name
from pyvirtio.system.log import one_line
from pyvirtio.trace.events import NO_QUEUE
from pyvirtio.vhost_user import messages as m

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from pyvirtio.spec.struct import Struct
    from pyvirtio.trace.events import Event, Recording

    Structures = tuple[type[Struct], type[Struct]]

WIDTH = 80
_INDENT = 22  # behind the time and who it was
_SHOWN = 48  # bytes of a buffer
_ROW = 16

_CHAPTERS = {"message": "The two sides meet", "queue": "A queue", "descriptors": "A request and its answer"}
"""What begins where a kind of step happens first."""

EXPLANATIONS = {
    "message": "The socket is for setting up only: what both sides can do, which memory they share, where the queues "
    "lie in it. Requests do not pass through it.",
    "queue": "A virtqueue is three areas in memory that both sides share. The driver writes the descriptor table and "
    "the available ring; the device writes the used ring. Neither writes what is the other's, so no lock is needed.",
    "descriptors": "A descriptor says where a buffer lies, how long it is, and which side uses it. Those of a request "
    "are chained; the first one, the head, names the request. The device knows nothing of it yet.",
    "available": "The head is in the available ring, and now the index says so. This store hands the request over: "
    "from here on its memory is the device's.",
    "kick": "The device may be asleep. A kick, a write to an eventfd, wakes it; a driver kicks only where the device "
    "asked for that.",
    "pop": "The device saw the index, took the head from the ring, followed the chain, and checked each address before "
    "it touches anything.",
    "used": "The answer is in the buffer that the driver left for it. A used element says which request that was, and "
    "how many bytes were written.",
    "used_index": "One more store, and the answer is the driver's. Several answers may share it.",
    "interrupt": "The driver may be asleep, too. An interrupt, another eventfd, tells it to look.",
    "reap": "The driver found the used element, and its program gets the answer. The descriptors are free again.",
    "suppression": "Waking somebody is what costs most, so each side says when it wants that: while it looks at the "
    "ring anyway, it need not be woken.",
}
"""What a step means, for those who meet it first."""


def render(recording: Recording, *, explain: bool = False, structures: Structures | None = None) -> Iterator[str]:
    """Yield the lines of a recording, each of at most `WIDTH` columns.

    With ``explain``, steps are explained where they happen first. ``structures`` are those of a request and its answer.
    """
    yield from lines(recording.events, explain=explain, start=recording.start, structures=structures)
    if recording.cut:
        yield "The last line of the recording is not whole: whoever wrote it was ended."


def lines(events: Iterable[Event], *, explain: bool, start: int, structures: Structures | None = None) -> Iterator[str]:
    """Yield the lines of some events, whose times count from ``start``, in nanoseconds; see `render`."""
    explained: set[str] = set()
    for event in events:
        body = said(event)
        if not body or (explain and _is_plain_acknowledgement(event)):
            continue
        if explain and event.what in _CHAPTERS and event.what not in explained:
            yield from ("", f"-- {_CHAPTERS[event.what]} ".ljust(WIDTH, "-"), "")
        time = f"{(event.at - start) / 1000:9.1f}"
        queue = "" if event.queue == NO_QUEUE else f"q{event.queue}"
        margin = f"{time} {one_line(event.by)[:9]:9} {queue:<2}"
        for line in _wrapped(body[0]):
            yield f"{margin:<{_INDENT}} {line}"[:WIDTH].rstrip()
            margin = ""
        for detail in body[1:]:
            for line in _wrapped(detail, "    "):
                yield f"{'':<{_INDENT}} {line}"[:WIDTH].rstrip()
        for row in (*_dump(event.get("data", "")), *_meaning(event, structures)):
            yield f"{'':<{_INDENT}} {row}"[:WIDTH].rstrip()
        if explain and event.what in EXPLANATIONS and event.what not in explained:
            explained.add(event.what)
            for line in textwrap.wrap(EXPLANATIONS[event.what], WIDTH - 6):
                yield f"    | {line}"


def said(event: Event) -> list[str]:
    """Return what is said of an event: a sentence, and lines that say more; nothing where its kind is not known.

    What they say may come from a guest: whoever shows them makes them harmless.

    >>> from pyvirtio.trace.events import Event
    >>> said(Event(0, "device", "pop", 0, head=3, sequence=0))
    ['pops request 3']
    """
    say = _SAYINGS.get(event.what)
    return [] if say is None else list(say(event))


def _is_plain_acknowledgement(event: Event) -> bool:
    """Return whether a message only says that the one before it was dealt with, which a beginner need not read."""
    if event.what != "message" or not event.get("flags", 0) & m.F_REPLY or event.get("channel"):
        return False
    row = m.TABLE.get(event["request"])
    return row is not None and row.reply is None and event["payload"] == m.Number(0).pack().hex()


def _wrapped(text: str, indent: str = "  ") -> list[str]:
    return textwrap.wrap(one_line(text), WIDTH - _INDENT - 1, subsequent_indent=indent) or [""]


def _dump(data: str) -> Iterator[str]:
    """Yield the beginning of a buffer as bytes and as characters."""
    content = bytes.fromhex(data)
    for at in range(0, min(len(content), _SHOWN), _ROW):
        row = content[at : at + _ROW]
        shown = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in row)
        yield f" {row.hex(' ', -2):<{5 * _ROW // 2}}{shown}"
    if len(content) > _SHOWN:
        yield f"  … and {len(content) - _SHOWN} bytes more"


def _meaning(event: Event, structures: Structures | None) -> Iterator[str]:
    """Yield what a request or an answer says, where its structure is known."""
    if structures is None or event.what not in ("descriptors", "used"):
        return
    structure = structures[event.what == "used"]
    data = bytes.fromhex(event["data"])
    if len(data) >= structure.nbytes:
        yield f"  = {one_line(repr(structure.unpack(data[: structure.nbytes])))}"


def _message(event: Event) -> Iterator[str]:
    name, flags = event["name"], event.get("flags", 0)
    payload = bytes.fromhex(event["payload"])
    row = None if event.get("channel") else m.TABLE.get(event["request"])
    is_reply = bool(flags & m.F_REPLY)
    if is_reply and not (row and row.reply):
        yield f"{name}: done" if payload == m.Number(0).pack() else f"{name}: refused"
        return
    content = _content((row.reply if is_reply else row.payload) if row else None, payload)
    if is_reply:
        yield f"{name} answers {content}"
        return
    yield f"{name}: {row.purpose}" if row else name
    if event["fds"]:
        yield f"  with {event['fds']} file descriptor{'s' if event['fds'] > 1 else ''}"
    if content:
        yield f"  {content}"


def _content(structure: type[Struct] | None, payload: bytes) -> str:
    """Return the numbers of a payload in words."""
    if structure is None or len(payload) < structure.nbytes:
        return payload[:8].hex()
    values = structure.unpack(payload[: structure.nbytes]).as_dict()
    shown = {name: str(value) if value < 1 << 16 else f"{value:#x}" for name, value in values.items()}
    if structure is m.Number:
        return shown["value"]
    return ", ".join(f"{name} {value}" for name, value in shown.items() if name != "padding")


def _queue(event: Event, does: str = "sets up") -> Iterator[str]:
    yield f"{does} queue {event.queue} of {event['size']} entries"
    yield f"  descriptor table at {event['descriptor_area']:#x}"
    yield f"  available ring   at {event['driver_area']:#x}"
    yield f"  used ring        at {event['device_area']:#x}"


def _descriptors(event: Event) -> Iterator[str]:
    chain = event["chain"]
    yield f"writes {len(chain)} descriptor{'s' if len(chain) != 1 else ''}: request {event['head']}"
    for index, address, length, flags, following in chain[:8]:
        use = "an indirect table" if flags & split.F_INDIRECT else "to write" if flags & split.F_WRITE else "to read"
        behind = f", next {following}" if flags & split.F_NEXT else ""
        yield f"  [{index}] {length} bytes at {address:#x} {use}{behind}"
    if len(chain) > 8:
        yield f"  … and {len(chain) - 8} more"
    if error := event.get("error"):
        yield f"  WRONG: {error}"


def _suppression(event: Event) -> Iterator[str]:
    what = "interrupts" if event.by == "driver" else "kicks"
    if (index := event.get("event")) is not None:
        yield f"wants {what} when the index passes {index}"
    else:
        yield f"wants no {what} for now" if event.get("flags", 0) & 1 else f"wants {what} again"


def _device(event: Event) -> Iterator[str]:
    yield f"is {event['name']}, a {device_name(event['id'])} (virtio id {event['id']})"


def _available(event: Event) -> Iterator[str]:
    heads = event["heads"]
    more = " …" if len(heads) > 8 else ""
    yield f"stores available index {event['index']}: request {', '.join(map(str, heads[:8]))}{more}"


_SAYINGS: dict[str, Callable[[Event], Iterable[str]]] = {
    "device": _device,
    "config": lambda event: ["has another configuration space", f"  {event['config']}"],
    "log": lambda event: [f"[{event['name']}] {event['text']}"],
    "connected": lambda event: [f"connects (connection {event['connection']})"],
    "disconnected": lambda event: [f"connection {event['connection']} is over: {event['why']}"],
    "message": _message,
    "queue": _queue,
    "resumed": lambda event: _queue(event, "goes on with"),
    "stopped": lambda event: [f"stops at available index {event['position']}"],
    "descriptors": _descriptors,
    "available": _available,
    "kick": lambda _event: ["kicks"],
    "pop": lambda event: [f"pops request {event['head']}"],
    "used": lambda event: [
        f"answers request {event['head']}: used element ({event['head']}, {event['written']} bytes)"
    ],
    "used_index": lambda event: [f"stores used index {event['index']}"],
    "interrupt": lambda _event: ["interrupts"],
    "reap": lambda event: [f"takes the answer to request {event['head']}: {event['written']} bytes"],
    "suppression": _suppression,
    "error": lambda _event: ["signals that the queue is broken"],
    "damaged": lambda event: [f"DAMAGED: {event['error']}"],
    "missed": lambda event: [f"{event['count']} requests went by unseen"],
    "full": lambda _event: ["the recording is full, and ends here"],
}
"""What is said of each kind of event: a sentence, and lines that say more. Bytes are shown apart from it."""
