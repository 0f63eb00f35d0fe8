"""Events and their lines: what is written is read again, and what is no recording is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvirtio.errors import LocalError
from pyvirtio.trace.events import KINDS, SIDES, VERSION, Event, Recording, beginning, check, decode, encode

numbers = st.integers(0, 2**63)
values = numbers | st.text() | st.booleans() | st.lists(numbers)


def written(*events: Event, first: Event | None = None) -> list[bytes]:
    return [encode(event) for event in (first or beginning(0, 10**18), *events)]


@given(numbers, st.sampled_from(SIDES), st.text(), st.integers(-1, 2**16), st.dictionaries(st.text(min_size=1), values))
def test_an_event_is_read_as_it_was_written(at: int, by: str, what: str, queue: int, fields: dict[str, object]):
    for name in ("at", "by", "what", "queue", "self"):
        fields.pop(name, None)
    event = Event(at, by, what, queue)
    event.fields = fields
    line = encode(event)
    assert line.count(b"\n") == 1
    assert decode(line) == event


@given(st.binary())
def test_any_line_is_an_event_or_refused(line: bytes):
    try:
        event = decode(line)
    except LocalError:
        return
    assert isinstance(event.at, int)


@pytest.mark.parametrize("line", [b"[1]", b"{}", b"null", b"{", b'{"at":"x","by":"driver","what":"kick"}', b"[" * 5000])
def test_what_is_no_event_is_refused(line: bytes):
    with pytest.raises(LocalError):
        decode(line)


def test_events_of_several_processes_are_put_in_order():
    recording = Recording(written(Event(30, "device", "pop", 0, head=0, sequence=1), Event(20, "driver", "kick", 0)))
    assert [event.what for event in recording.events] == ["kick", "pop"]
    assert recording.start == 20
    assert recording.wall(recording.events[1]) == 10**18 + 30


def test_a_last_line_that_is_cut_is_told_and_left_out():
    lines = written(Event(1, "driver", "kick", 0))
    recording = Recording([*lines, encode(Event(2, "driver", "kick", 0))[:-9]])
    assert recording.cut
    assert len(recording.events) == 1


def test_another_file_and_a_later_version_are_refused():
    for lines in ([], [b"hello\n"], [b'{"at":0,"by":"recorder","what":"recording","format":"x","version":1}\n']):
        with pytest.raises(LocalError, match="not a recording"):
            Recording(lines)
    later = beginning(0, 0)
    later.fields["version"] = VERSION + 1
    with pytest.raises(LocalError, match="version"):
        Recording(written(first=later))


@pytest.mark.parametrize(
    "event",
    [
        Event(0, "driver", "available", 0, index=1),
        Event(0, "driver", "available", 0, index="1", heads=[]),
        Event(0, "device", "used", 0, head=0, written=1, data="xx"),
        Event(0, "driver", "descriptors", 0, head=0, chain=[[1, 2]], length=0, room=0, data=""),
    ],
)
def test_an_event_that_lacks_what_its_kind_has_is_refused(event: Event):
    with pytest.raises(LocalError):
        check(event)
    with pytest.raises(LocalError, match="line 2"):
        Recording(written(event))


def test_events_that_a_later_pyvirtio_may_write_are_passed_over():
    recording = Recording(written(Event(0, "driver", "thought", 0, about="rings")))
    assert recording.events[0]["about"] == "rings"


def test_the_page_lists_every_event_and_field():
    page = (Path(__file__).parents[2] / "docs" / "trace-format.md").read_text()
    for kind, (meaning, fields) in KINDS.items():
        row = next(line for line in page.splitlines() if line.startswith(f"| `{kind}` | {meaning} |"))
        for name, what in fields.items():
            assert f"`{name}`: {what}" in row


def test_a_line_is_compact_json():
    line = encode(Event(1, "driver", "kick", 0))
    assert json.loads(line) == {"at": 1, "by": "driver", "what": "kick", "queue": 0}
    assert b" " not in line
