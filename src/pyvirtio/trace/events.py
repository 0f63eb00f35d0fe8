r"""What a recording is made of: events, as JSON lines. Nothing here reads or writes a file.

>>> event = Event(1_500, "driver", "kick", 0)
>>> line = encode(event)
>>> line
b'{"at":1500,"by":"driver","what":"kick","queue":0}\n'
>>> decode(line) == event
True
"""

from __future__ import annotations

import json

from pyvirtio.errors import LocalError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

FORMAT = "pyvirtio-trace"
VERSION = 1
"""The version of the format. A reader refuses a higher one; fields and events that it does not know it passes over."""

SNAP = 256 << 10
"""The most bytes of one buffer's content that are recorded, unless told otherwise."""

NO_QUEUE = -1

_SET_UP = {
    "size": "its entries",
    "descriptor_area": "the guest address of the descriptor table",
    "driver_area": "of the available ring",
    "device_area": "of the used ring",
    "features": "all negotiated bits",
    "position": "the available index to begin at",
}

SIDES = ("driver", "device", "front-end", "back-end", "recorder")
"""Who can do something. On a socket the driver's side is the front-end, the device's the back-end."""

KINDS: dict[str, tuple[str, dict[str, str]]] = {
    "recording": (
        "the first line: how to read the others",
        {
            "format": f"always {FORMAT!r}",
            "version": "the version of the format",
            "wall": "the time of day that belongs to `at`, in nanoseconds since 1970",
            "snap": "the most bytes of a buffer's content that are recorded",
        },
    ),
    "device": (
        "what the device says of itself, where the recorder knows",
        {
            "name": "its class or name",
            "id": "its virtio id",
            "features": "the feature bits that it offers",
            "sizes": "the entries of each of its queues",
            "config": "its configuration space, in hexadecimal",
        },
    ),
    "config": (
        "the configuration space is not what it was: the device or the driver changed it",
        {"config": "all of it, in hexadecimal"},
    ),
    "log": (
        "whoever serves the device logged something",
        {"name": "the name of the event, such as `worker-ended`", "text": "in words"},
    ),
    "connected": ("a front-end connected", {"connection": "its number, from 1 on"}),
    "disconnected": ("the connection ended", {"connection": "its number", "why": "who ended it, in words"}),
    "message": (
        "a vhost-user message went over the socket",
        {
            "request": "its number",
            "name": "its name",
            "flags": "of its header: 4 is a reply, 8 asks for one",
            "payload": "its payload, in hexadecimal",
            "fds": "how many descriptors came with it",
            "channel": "true on the back-end's own channel",
        },
    ),
    "queue": ("a queue is set up; what follows on this queue is a new beginning", _SET_UP),
    "resumed": (
        "the device goes on with a queue as somebody left it: a worker that died, a stop, an earlier back-end",
        _SET_UP,
    ),
    "stopped": ("a queue was stopped", {"position": "the available index that it stopped at"}),
    "descriptors": (
        "the driver described a request",
        {
            "head": "the first descriptor, which names the request",
            "chain": "its descriptors in order, each as [index, address, length, flags, next]; those of an indirect "
            "table follow the one that refers to it",
            "length": "the bytes that the device may read",
            "room": "the bytes that the device may write",
            "data": "what the device may read, in hexadecimal; shorter than `length` where it was cut",
            "error": "what is wrong with the chain, where something is",
            "late": "true where it was answered before it was seen: the driver may have reused its memory by then",
        },
    ),
    "available": (
        "the driver stored the available index: the device may take what is before it",
        {"index": "the new index", "heads": "the heads that became available"},
    ),
    "kick": ("the driver kicked the device", {}),
    "pop": ("the device took a request off the ring", {"head": "its head", "sequence": "its number on this queue"}),
    "used": (
        "the device wrote a used element: a request is answered",
        {
            "head": "the request's head",
            "written": "the bytes that the device says it wrote",
            "data": "what is in the buffers for the device to write, up to `written`, in hexadecimal",
            "late": "true where no interrupt announced it: the driver may have reused its memory before it was seen",
        },
    ),
    "used_index": ("the device stored the used index: the driver may take what is before it", {"index": "the new one"}),
    "interrupt": ("the device interrupted the driver", {}),
    "reap": ("the driver took an answer", {"head": "the request's head", "written": "the bytes that it may read"}),
    "suppression": (
        "one side said when it wants to be notified",
        {
            "flags": "the new flags: 1 is `not now`",
            "event": "the new event index: `when you pass this` (EVENT_IDX)",
        },
    ),
    "error": ("the device signalled that a queue is broken", {}),
    "damaged": ("something is against the rules, or cannot be followed", {"error": "what, in words"}),
    "missed": ("requests went by too fast to be seen", {"count": "how many, at least"}),
    "full": ("the recording has reached its limit and ends here; what runs goes on", {"limit": "the limit, in bytes"}),
}
"""The events by name: what happened, and the fields that say more."""


class Event:
    """Something that happened.

    ``at`` is nanoseconds of the machine's monotonic clock, ``by`` one of `SIDES`, ``what`` one of `KINDS`, ``queue``
    the index of a queue or `NO_QUEUE`. ``fields`` hold what else `KINDS` lists for the event.
    """

    __slots__ = ("at", "by", "fields", "queue", "what")

    def __init__(self, at: int, by: str, what: str, queue: int = NO_QUEUE, **fields: Any) -> None:
        self.at = at
        self.by = by
        self.what = what
        self.queue = queue
        self.fields = fields

    def __getitem__(self, name: str) -> Any:
        return self.fields[name]

    def get(self, name: str, default: Any = None) -> Any:
        """Return a field, or ``default`` where the event has none of that name."""
        return self.fields.get(name, default)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Event) and encode(self) == encode(other)

    __hash__ = None  # type: ignore[assignment]  # its fields can change

    def __repr__(self) -> str:
        return f"Event({encode(self).decode().strip()})"


def beginning(at: int, wall: int, snap: int = SNAP) -> Event:
    """Return the first event of a recording."""
    return Event(at, "recorder", "recording", format=FORMAT, version=VERSION, wall=wall, snap=snap)


_to_json = json.JSONEncoder(separators=(",", ":")).encode


def encode(event: Event) -> bytes:
    """Return an event as a line of JSON."""
    record: dict[str, object] = {"at": event.at, "by": event.by, "what": event.what}
    if event.queue != NO_QUEUE:
        record["queue"] = event.queue
    return _to_json(record | event.fields).encode() + b"\n"


def decode(line: bytes | str) -> Event:
    """Return the event of a line.

    Raises:
        LocalError: the line is not an event.
    """
    try:
        record = json.loads(line)
        at, by, what = record.pop("at"), record.pop("by"), record.pop("what")
        queue = record.pop("queue", NO_QUEUE)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise LocalError(f"this is no event of a recording: {line[:60]!r}") from error
    if not (_is_number(at) and _is_number(queue) and queue < 1 << 32 and isinstance(by, str) and isinstance(what, str)):
        raise LocalError(f"an event with fields of the wrong type: {line[:60]!r}")
    return Event(at, by, what, queue, **{str(name): value for name, value in record.items()})


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -1 <= value < 1 << 64


def _are_numbers(values: Iterable[object]) -> bool:
    return all(_is_number(value) and value != NO_QUEUE for value in values)


class Recording:
    """The events of a run, in the order in which they happened.

    ``lines`` come from one or several processes, each of which wrote in its own order.

    Raises:
        LocalError: they are not a recording, or one of a later format.
    """

    def __init__(self, lines: Iterable[bytes]) -> None:
        each = iter(lines)
        first = next(each, b"")
        try:
            self.head = decode(first)
        except LocalError as error:
            raise LocalError("this is not a recording of pyvirtio; `pyvirtio tap` and --trace make one") from error
        if self.head.get("format") != FORMAT:
            raise LocalError("this is not a recording of pyvirtio; `pyvirtio tap` and --trace make one")
        if not _is_number(version := self.head.get("version")) or version > VERSION:
            raise LocalError(
                f"the recording has version {version} of its format, and this pyvirtio reads {VERSION}; "
                "read it with a newer one"
            )
        self.cut = False
        """Whether the last line is not whole: whoever wrote it was ended."""
        self.events = sorted(self._decoded(each), key=lambda event: event.at)

    def _decoded(self, lines: Iterator[bytes]) -> Iterator[Event]:
        for number, line in enumerate(lines, 2):
            try:
                event = decode(line)
                check(event)
            except LocalError as error:
                if not line.endswith(b"\n"):
                    self.cut = True
                    return
                raise LocalError(f"line {number}: {error}; correct or remove that line") from error
            yield event

    @property
    def start(self) -> int:
        """The time of the first event."""
        return min([event.at for event in self.events[:1]], default=self.head.at)

    def wall(self, event: Event) -> int:
        """Return when an event happened, in nanoseconds since 1970."""
        wall = self.head.get("wall", 0)
        return max(0, (wall if isinstance(wall, int) else 0) + event.at - self.head.at)

    def device_id(self) -> int:
        """Return the virtio id of the device, 0 where it is not known."""
        return next((event["id"] for event in self.events if event.what == "device"), 0)


_TYPES: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("head", "index", "written", "length", "room", "size", "features", "request", "flags", "id"), int),
    **dict.fromkeys(("position", "sequence", "connection", "count", "limit", "event", "fds", "flags"), int),
    **dict.fromkeys(("descriptor_area", "driver_area", "device_area"), int),
    **dict.fromkeys(("data", "payload", "config", "name", "error", "why", "text"), str),
    **dict.fromkeys(("heads", "chain", "sizes"), list),
    "channel": bool,
    "late": bool,
}
_OPTIONAL = {"error", "channel", "flags", "event", "late"}


def check(event: Event) -> None:
    """Refuse an event whose fields are not what `KINDS` says; one of an unknown kind passes.

    Raises:
        LocalError: a field is missing, or is of another type.
    """
    for name in KINDS.get(event.what, ("", {}))[1]:
        if name not in event.fields:
            if name in _OPTIONAL:
                continue
            raise LocalError(f"the event {event.what!r} lacks its field {name!r}")
        value = event[name]
        if not isinstance(value, _TYPES.get(name, object)):
            raise LocalError(f"the field {name!r} of an event {event.what!r} is {value!r:.40}")
        if isinstance(value, int) and not 0 <= value < 1 << 64:
            raise LocalError(f"the field {name!r} of an event {event.what!r} is {value}; numbers have up to 64 bits")
        if name in ("heads", "sizes") and not _are_numbers(event[name]):
            raise LocalError(f"the field {name!r} of an event {event.what!r} holds something other than numbers")
        if name in ("data", "payload", "config"):
            _check_hexadecimal(name, event[name])
    for descriptor in event.get("chain", ()) if event.what == "descriptors" else ():
        if not (isinstance(descriptor, list) and len(descriptor) == 5 and _are_numbers(descriptor)):
            raise LocalError(f"a descriptor is five numbers, and this is {descriptor!r:.40}")


def _check_hexadecimal(name: str, value: str) -> None:
    try:
        bytes.fromhex(value)
    except ValueError as error:
        raise LocalError(f"the field {name!r} is not hexadecimal: {value[:20]!r}") from error
