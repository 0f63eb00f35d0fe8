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

WIDTH = 80
_INDENT = 22  # behind the time and who it was
_SHOWN = 48  # bytes of a buffer
_ROW = 16

EXPLANATIONS = {
    "message": "The socket is for setting up only: who can do what, where memory is, where the queues lie. Requests do "
    "not pass through it.",
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


def render(recording: Recording, *, explain: bool = False, start: int | None = None) -> Iterator[str]:
    """Yield the lines of a recording, each of at most `WIDTH` columns.

    Times count from ``start``, in nanoseconds of the recording's clock; by default from its first event.
    """
    yield from lines(recording.events, explain=explain, start=recording.start if start is None else start)
    if recording.cut:
        yield "The last line of the recording is not whole: whoever wrote it was ended."


def lines(events: Iterable[Event], *, explain: bool, start: int) -> Iterator[str]:
    """Yield the lines of some events; see `render`."""
    explained: set[str] = set()
    for event in events:
        if (say := _SAYINGS.get(event.what)) is None:
            continue
        body = list(say(event))
        time = f"{(event.at - start) / 1000:9.1f}"
        queue = "" if event.queue == NO_QUEUE else f"q{event.queue}"
        margin = f"{time} {event.by:9} {queue:<2}"
        for line in _wrapped(body[0]):
            yield f"{margin:<{_INDENT}} {line}".rstrip()
            margin = ""
        for detail in body[1:]:
            yield f"{'':<{_INDENT}} {detail}"[:WIDTH].rstrip()
        if explain and event.what in EXPLANATIONS and event.what not in explained:
            explained.add(event.what)
            for line in textwrap.wrap(EXPLANATIONS[event.what], WIDTH - 6):
                yield f"    | {line}"


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(one_line(text), WIDTH - _INDENT - 1, subsequent_indent="  ") or [""]


def _dump(data: str) -> Iterator[str]:
    """Yield the beginning of a buffer as bytes and as characters."""
    content = bytes.fromhex(data)
    for at in range(0, min(len(content), _SHOWN), _ROW):
        row = content[at : at + _ROW]
        shown = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in row)
        yield f" {row.hex(' ', -2):<{5 * _ROW // 2}}{shown}"
    if len(content) > _SHOWN:
        yield f"  … and {len(content) - _SHOWN} bytes more"


def _message(event: Event) -> Iterator[str]:
    name, flags = event["name"], event.get("flags", 0)
    payload = bytes.fromhex(event["payload"])
    row = None if event.get("channel") else m.TABLE.get(event["request"])
    is_reply = bool(flags & m.F_REPLY)
    if is_reply and not (row and row.reply):
        yield f"{name}: done" if payload == m.Number(0).pack() else f"{name}: refused"
        return
    content = _content((row.reply if is_reply else row.payload) if row else None, payload)
    fds = f", with {event['fds']} file descriptor{'s' if event['fds'] > 1 else ''}" if event["fds"] else ""
    purpose = f" ({row.purpose})" if row and not is_reply else ""
    yield f"{name}{' answers' if is_reply else ''}{content}{fds}{purpose}"


def _content(structure: type[Struct] | None, payload: bytes) -> str:
    """Return the numbers of a payload in words."""
    if structure is None or len(payload) < structure.nbytes:
        return f" {payload[:8].hex()}" if payload else ""
    values = structure.unpack(payload[: structure.nbytes]).as_dict()
    shown = {name: str(value) if value < 1 << 16 else f"{value:#x}" for name, value in values.items()}
    if structure is m.Number:
        return f" {shown['value']}"
    return " " + ", ".join(f"{name} {value}" for name, value in shown.items() if name != "padding")


def _queue(event: Event) -> Iterator[str]:
    yield f"sets up queue {event.queue} of {event['size']} entries"
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
    yield from _dump(event["data"])
    if error := event.get("error"):
        yield from (f"  WRONG: {line}" for line in textwrap.wrap(one_line(error), WIDTH - _INDENT - 12))


def _used(event: Event) -> Iterator[str]:
    yield f"answers request {event['head']}: used element ({event['head']}, {event['written']} bytes)"
    yield from _dump(event["data"])


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
    "connected": lambda event: [f"connects (connection {event['connection']})"],
    "disconnected": lambda event: [f"connection {event['connection']} is over: {event['why']}"],
    "message": _message,
    "queue": _queue,
    "stopped": lambda event: [f"stops at available index {event['position']}"],
    "descriptors": _descriptors,
    "available": _available,
    "kick": lambda _event: ["kicks"],
    "pop": lambda event: [f"pops request {event['head']}"],
    "used": _used,
    "used_index": lambda event: [f"stores used index {event['index']}"],
    "interrupt": lambda _event: ["interrupts"],
    "reap": lambda event: [f"takes the answer to request {event['head']}: {event['written']} bytes"],
    "suppression": _suppression,
    "error": lambda _event: ["signals that the queue is broken"],
    "damaged": lambda event: [f"DAMAGED: {event['error']}"],
    "missed": lambda event: [f"{event['count']} requests went by unseen"],
    "full": lambda _event: ["the recording is full, and ends here"],
}
"""What is said of each kind of event: a sentence, and lines that say more."""
