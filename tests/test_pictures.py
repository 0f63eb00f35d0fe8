"""The pictures of docs/explanation: what they show is what is in memory, and everybody can read them."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from pictures import FOLDER, boxes, pictures
from pictures.ring_picture import draw
from pictures.ring_run import one_request, out_of_order

ROOT = Path(__file__).parents[1]
SVG = "{http://www.w3.org/2000/svg}"
MADE = pictures(ROOT)
TEXT = """
title   Two
desc    One beside the other.
columns 100 80 100
rows    50
box     left 0 0 1 1 driver | left
box     right 2 0 1 1 device | right
arrow   left right driver | goes
"""


def test_each_picture_is_made_and_none_is_left_over():
    assert {str(path.relative_to(ROOT)) for path in (ROOT / FOLDER).glob("*.svg")} == set(MADE)


@pytest.mark.parametrize("name", MADE, ids=lambda name: Path(name).stem)
def test_a_picture_says_what_it_shows_and_its_words_are_in_it(name):
    root = ElementTree.fromstring(MADE[name]())
    title, desc = root.find(f"{SVG}title"), root.find(f"{SVG}desc")
    assert title is not None
    assert title.text
    assert desc is not None
    assert len(desc.text or "") > 40
    width, height = map(float, root.attrib["viewBox"].split()[2:])
    for words in root.iter(f"{SVG}text"):
        x, half = float(words.attrib["x"]), 3.6 * len(words.text or "")  # a letter takes some 7 units
        anchor = words.attrib.get("text-anchor")
        first = {"middle": x - half, "end": x - 2 * half}.get(anchor or "", x)
        assert first >= 0, words.text
        assert first + 2 * half <= width, words.text
        assert 0 < float(words.attrib["y"]) < height


@pytest.mark.parametrize("name", MADE, ids=lambda name: Path(name).stem)
def test_a_page_shows_the_picture_with_words_in_its_place(name):
    pages = [path.read_text() for path in (ROOT / "docs").rglob("*.md")]
    link = re.compile(rf"!\[[^\]]{{20,}}\]\({Path(name).parent.name}/{re.escape(Path(name).name)}\)")
    assert any(map(link.search, pages))


def test_the_steps_are_those_of_the_specification():
    """VIRTIO 1.4, 2.7.13 and 2.7.14: what is new in each step, and nothing else."""
    states = list(one_request())
    assert len(states) == 10
    fields = ("descriptors", "available", "available_idx", "buffers", "position", "used", "used_idx", "reaped")
    changes = [
        {field for field in fields if getattr(before, field) != getattr(after, field)}
        for before, after in itertools.pairwise(states)
    ]
    assert changes == [
        {"descriptors", "buffers"},
        {"available"},
        {"available_idx"},
        set(),  # a kick writes nothing
        {"position"},  # nor does popping
        {"buffers"},
        {"used"},
        {"used_idx"},
        {"reaped"},
    ]
    assert [state.signal for state in states if state.signal] == ["kick", "interrupt"]


def test_what_is_new_is_marked():
    before, after = list(one_request())[2:4]
    marked = [
        words for words in ElementTree.fromstring(draw(after, before)).iter() if "changed" in words.get("class", "")
    ]
    assert [words.text for words in marked if words.text] == ["1"]
    assert "changed" not in draw(after, None).partition("</style>")[2]


def test_answers_may_come_in_any_order():
    state = out_of_order()
    assert (state.available_idx, state.used_idx) == (5, 4)
    assert state.used[3].id == state.available[0] == 3


def test_a_text_becomes_boxes_and_arrows():
    root = ElementTree.fromstring(boxes.draw(TEXT))
    assert [words.text for words in root.iter(f"{SVG}text")] == ["Two", "left", "right", "goes"]
    [line] = root.iter(f"{SVG}line")
    assert float(line.attrib["x2"]) > float(line.attrib["x1"])


@pytest.mark.parametrize("line", ["circle 0 0", "arrow left nobody driver", "box up 0 9 1 1 driver | up"])
def test_a_line_that_cannot_be_drawn_is_named(line):
    with pytest.raises(ValueError, match="line 9"):
        boxes.draw(TEXT + line)
