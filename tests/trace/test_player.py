"""The page that plays a recording: what is in it, and a browser in which somebody clicks through it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from selenium.webdriver.common.keys import Keys

from pyvirtio.errors import LocalError
from pyvirtio.trace.events import Event, Recording, beginning, encode
from pyvirtio.trace.page import steps as page_steps
from pyvirtio.trace.page.joining import harmless
from pyvirtio.trace.page.player import player
from pyvirtio.trace.page.steps import page_data
from pyvirtio.trace.text import EXPLANATIONS, said

if TYPE_CHECKING:
    import random

    from tests.support.browser import Browser

CONTRAST = (Path(__file__).parents[1] / "support" / "contrast.js").read_text()

WRITE, NEXT, INDIRECT = 2, 1, 4
AREAS = {"descriptor_area": 0x1000, "driver_area": 0x2000, "device_area": 0x3000}
LIFE = ["descriptors", "available", "kick", "pop", "used", "used_index", "interrupt", "reap"]
HOSTILE = '</script><script>window.pwned = 1</script><img src="x" onerror="window.pwned = 1"><!--\u2028{{script}}'


def recording(*events: Event) -> Recording:
    return Recording(map(encode, [beginning(0, 0), *events]))


def device(name: str = "Double") -> Event:
    return Event(0, "device", "device", name=name, id=63, features=0, sizes=[8, 8], config="c0ffee")


def set_up(at: int, queue: int = 0, position: int = 0) -> Event:
    return Event(at, "driver", "queue", queue, size=8, features=1 << 32, position=position, **AREAS)


def request(at: int, queue: int = 0, *, head: int = 0, index: int = 1, answer: bytes = b"done") -> list[Event]:
    """Return the whole life of a request."""
    chain = [[head, 0x8000, 5, NEXT, head + 1], [head + 1, 0x9000, 64, WRITE, 0]]
    described = {"head": head, "chain": chain, "length": 5, "room": 64, "data": b"hello".hex()}
    return [
        Event(at, "driver", "descriptors", queue, **described),
        Event(at + 1000, "driver", "available", queue, index=index, heads=[head]),
        Event(at + 2000, "driver", "kick", queue),
        Event(at + 3000, "device", "pop", queue, head=head, sequence=index),
        Event(at + 4000, "device", "used", queue, head=head, written=len(answer), data=answer.hex()),
        Event(at + 5000, "device", "used_index", queue, index=index),
        Event(at + 6000, "device", "interrupt", queue),
        Event(at + 7000, "driver", "reap", queue, head=head, written=len(answer)),
    ]


def two_queues() -> Recording:
    """Return a recording of 19 steps: the device, two queues, a request on the first, and one on the second."""
    return recording(device(), set_up(10), *request(1000), set_up(20_000, 1), *request(30_000, 1, head=2))


def many(number: int) -> Recording:
    """Return a recording of so many requests, eight steps each, that go round the ring."""
    lives = [
        request(10_000 * at, head=2 * at % 8, index=(at + 1) & 0xFFFF, answer=at.to_bytes(4, "little"))
        for at in range(number)
    ]
    return recording(set_up(0), *(event for life in lives for event in life))


# What is in it.


class Parsed(HTMLParser):
    """The elements of a page, and what is in its scripts and styles."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.inside: dict[str, list[str]] = {}
        self._open = ""
        self.feed(page.decode())

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))
        self._open = f"{tag} {dict(attributes).get('type') or ''}".strip()

    def handle_endtag(self, tag: str) -> None:
        self._open = ""

    def handle_data(self, data: str) -> None:
        if self._open:
            self.inside.setdefault(self._open, []).append(data)

    @property
    def data(self) -> Any:
        (text,) = self.inside["script application/json"]
        return json.loads(text)


def test_each_step_has_a_row_and_each_request_the_steps_of_its_life():
    data = page_data(two_queues())
    assert [data["whats"][row[2]] for row in data["steps"]] == ["device", "queue", *LIFE, "queue", *LIFE]
    assert data["requests"] == [[0, 0, 2, 3, 5, 6, 7, 9], [1, 2, 11, 12, 14, 15, 16, 18]]
    assert data["title"].startswith("Double")
    (used,) = [row for row in data["steps"] if data["whats"][row[2]] == "used" and row[3] == 0]
    assert used[5] == {"head": 0, "written": 4, "hex": b"done".hex(), "bytes": 4}
    assert all(data["kinds"][what][0] for what in data["whats"])


def test_what_is_said_is_what_the_text_says():
    data = page_data(two_queues())
    assert {what: why for what, (_, why) in data["kinds"].items() if why} == {
        what: why for what, why in EXPLANATIONS.items() if what in data["whats"]
    }
    assert [said(event) for event in two_queues().events] == [
        data["texts"][row[4]].split("\n") for row in data["steps"]
    ]


def test_a_page_has_a_bounded_part_of_a_recording(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(page_steps, "MOST_STEPS", 20)
    data = page_data(many(10))
    assert (len(data["steps"]), data["total"]) == (20, 81)
    monkeypatch.undo()
    queues = page_data(recording(*(set_up(number, number) for number in range(300))))
    assert len(queues["steps"]) == 255
    large = recording(
        set_up(0),
        Event(
            1,
            "driver",
            "descriptors",
            0,
            head=0,
            chain=[[n, n, n, 1, n] for n in range(500)],
            length=10**6,
            room=0,
            data="ab" * 10**6,
        ),
    )
    (row,) = [row for row in page_data(large)["steps"] if row[1] == 0 and "chain" in row[5]]
    assert (len(row[5]["hex"]), row[5]["bytes"]) == (512, 10**6)
    assert (len(row[5]["chain"]), row[5]["descriptors"]) == (64, 500)


def hostile() -> Recording:
    """Return a recording in which everything that can be text is an attack."""
    return recording(
        device(HOSTILE),
        Event(1, "front-end", "message", request=1, name=HOSTILE, flags=1, payload="", fds=0),
        Event(2, HOSTILE, "connected", connection=1),
        Event(3, "recorder", "disconnected", connection=1, why=HOSTILE),
        set_up(4),
        Event(5, "driver", "damaged", 0, error=HOSTILE),
        Event(
            6,
            "driver",
            "descriptors",
            0,
            head=0,
            chain=[],
            length=9,
            room=0,
            data=HOSTILE.encode().hex(),
            error=HOSTILE,
        ),
    )


@pytest.mark.parametrize("made", [two_queues(), hostile()], ids=["ordinary", "hostile"])
def test_a_page_is_one_file_whose_policy_allows_its_own_script_and_style_alone(made: Recording):
    parsed = Parsed(player(made))
    tags = [tag for tag, _ in parsed.elements]
    assert (tags.count("script"), tags.count("style"), tags.count("img"), tags.count("link")) == (2, 1, 0, 0)
    for _, attributes in parsed.elements:
        assert not [name for name in attributes if name.startswith("on") or name in ("src", "style")]
        assert (attributes.get("href") or "#").startswith("#")
    (policy,) = [str(a["content"]) for tag, a in parsed.elements if a.get("http-equiv") == "Content-Security-Policy"]
    for kind in ("style", "script"):
        digest = base64.b64encode(hashlib.sha256("".join(parsed.inside[kind]).encode()).digest()).decode()
        assert re.findall(rf"{kind}-src ([^;]*);", policy) == [f"'sha256-{digest}'"]
    assert policy.startswith("default-src 'none';")
    assert "'unsafe" not in policy
    assert "https://" not in player(made).decode()


def test_data_holds_no_character_that_html_gives_a_meaning():
    text = harmless({HOSTILE: [HOSTILE, 1]})
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == {HOSTILE: [HOSTILE, 1]}


def test_a_recording_with_anything_in_its_fields_makes_a_page_or_is_refused(rng: random.Random):
    whole = [*two_queues().events, *hostile().events]
    junk: list[object] = [
        None,
        -1,
        0,
        1 << 64,
        (1 << 64) - 1,
        1.5,
        True,
        "",
        "zz",
        "0",
        [],
        [1],
        [[1, 2, 3, 4, 5]],
        {},
        HOSTILE,
    ]
    accepted = 0
    for _ in range(1000):
        lines = [encode(event) for event in (beginning(0, 0), *whole)]
        place = rng.randrange(1, len(lines))
        record = json.loads(lines[place])
        record[rng.choice(list(record))] = rng.choice(junk)
        lines[place] = json.dumps(record).encode() + b"\n"
        try:
            changed = Recording(lines)
        except LocalError:
            continue
        accepted += 1
        parsed = Parsed(player(changed))
        assert len(parsed.data["steps"]) <= len(changed.events)
        assert [tag for tag, _ in parsed.elements].count("script") == 2
    assert accepted > 50


def test_the_command_writes_it(tmp_path: Path):
    file = tmp_path / "run.jsonl"
    file.write_bytes(b"".join(map(encode, [beginning(0, 0), *two_queues().events])))
    command = [sys.executable, "-m", "pyvirtio", "trace", str(file), "--html"]
    subprocess.run([*command, str(tmp_path / "run.html")], check=True)
    done = subprocess.run([*command, "-"], check=True, capture_output=True)
    assert done.stdout == (tmp_path / "run.html").read_bytes()
    assert Parsed(done.stdout).data["total"] == 19


# In a browser, which comes from the same packages as a guest does.


def shown(window: Browser, made: Recording, folder: Path, fragment: str = "") -> None:
    """Open the page of a recording."""
    file = folder / "run.html"
    file.write_bytes(player(made))
    window.open(f"{file.as_uri()}{fragment}")
    window.wait(lambda: window.text("#now-title"))


def rows(window: Browser, area: str) -> list[list[str]]:
    """Return the cells of an area of the ring, without the mark of what has changed."""
    cells = "[...row.children].map((cell) => cell.textContent.replace('▸', ''))"
    script = f"return [...document.querySelectorAll(arguments[0])].map((row) => {cells})"
    found: list[list[str]] = window.run(script, f"#{area} tbody tr")
    return found


def changed(window: Browser) -> list[str]:
    """Return the areas in which something is marked as written by this step."""
    return [area for area in ("table", "available", "used") if window.all(f"#{area} tr.changed")]


def at_step(window: Browser, number: int) -> None:
    window.wait_for("#position", f"Step {number} of ")


@pytest.mark.guest
@pytest.mark.long
def test_the_life_of_a_request_is_stepped_through_with_keys(window: Browser, tmp_path: Path):
    shown(window, two_queues(), tmp_path, "#step=2")
    at_step(window, 2)
    assert rows(window, "table") == rows(window, "available") == rows(window, "used") == []
    seen = []
    for number in range(3, 11):
        window.press(Keys.ARROW_RIGHT)
        at_step(window, number)
        seen.append((window.text("#now-title"), changed(window)))
        if number == 3:
            assert rows(window, "table") == [
                ["0", "0x8000", "5", "reads", "1", "driver's"],
                ["1", "0x9000", "64", "writes", "-", "driver's"],
            ]
            assert "hello" in window.text("#buffers pre")
            assert "nothing yet" in window.text("#buffers")
        if number == 4:
            assert rows(window, "available") == [["0", "0", "0", "waiting"]]
            assert rows(window, "table")[0][-1] == "device's"
        if number == 6:
            assert rows(window, "available") == [["0", "0", "0", "popped"]]
        if number == 7:
            assert rows(window, "used") == [["0", "0", "0", "4", "unannounced"]]
            assert "done" in window.text("#buffers div:last-child pre")
        if number == 8:
            assert rows(window, "used") == [["0", "0", "0", "4", "waiting"]]
        if number == 10:
            assert rows(window, "used") == [["0", "0", "0", "4", "taken"]]
            assert rows(window, "table") == []
    assert [areas for _, areas in seen] == [
        ["table"],
        ["available"],
        [],
        ["available"],
        ["used"],
        ["used"],
        [],
        ["used"],
    ]
    assert seen[2][0] == "kicks"
    assert window.text("#wires .wire:nth-child(2)").startswith("kick")
    window.press(Keys.ARROW_LEFT)
    at_step(window, 9)
    assert rows(window, "used") == [["0", "0", "0", "4", "waiting"]]


@pytest.mark.guest
@pytest.mark.long
def test_a_table_that_a_descriptor_refers_to_is_shown_beside_it(window: Browser, tmp_path: Path):
    chain = [[5, 0xA000, 32, INDIRECT, 0], [0, 0x8000, 16, NEXT, 1], [1, 0x9000, 512, WRITE, 0]]
    described = {"head": 5, "chain": chain, "length": 16, "room": 512, "data": bytes(16).hex()}
    shown(window, recording(set_up(0), Event(1, "driver", "descriptors", 0, **described)), tmp_path, "#step=2")
    at_step(window, 2)
    assert rows(window, "table") == [["5", "0xa000", "32", "a table", "-", "driver's"]]
    assert rows(window, "indirect") == [["0", "0x8000", "16", "reads", "1"], ["1", "0x9000", "512", "writes", "-"]]
    window.press(Keys.HOME)
    at_step(window, 1)
    assert rows(window, "indirect") == []


@pytest.mark.guest
@pytest.mark.long
def test_mouse_slider_list_keys_and_address_all_lead_to_steps(window: Browser, tmp_path: Path):
    shown(window, two_queues(), tmp_path)
    at_step(window, 1)
    for selector, number in (
        ("#next", 2),
        ("#next-request", 3),
        ("#next-request", 12),
        ("#back-request", 3),
        ("#last", 19),
        ("#back", 18),
        ("#first", 1),
    ):
        window.click(selector)
        at_step(window, number)
    for key, number in ((Keys.END, 19), (Keys.PAGE_UP, 9), (Keys.PAGE_DOWN, 19), (Keys.HOME, 1)):
        window.press(key)
        at_step(window, number)
    window.chord(Keys.SHIFT, Keys.ARROW_RIGHT)
    at_step(window, 3)
    window.run("document.querySelector('#slider').focus()")
    window.press(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    at_step(window, 5)
    window.run("const s = document.querySelector('#slider'); s.value = 15; s.dispatchEvent(new Event('input'))")
    at_step(window, 15)
    window.click("#step-13")
    at_step(window, 13)
    window.click("#overview")
    at_step(window, 10)
    window.press(Keys.HOME)
    window.click("#list")
    window.press(Keys.ARROW_DOWN)
    window.wait(lambda: window.run("return document.activeElement.id") == "list")
    window.wait(lambda: window.run("return location.hash") == f"#step={window.text('#position').split()[1]}")
    window.run("location.hash = '#step=7'")
    at_step(window, 7)
    window.click("#life li:nth-child(1) a")
    at_step(window, 3)
    window.run("document.querySelector('#life a').focus()")
    window.press(Keys.ARROW_RIGHT)  # a link leaves the arrows alone
    at_step(window, 4)
    for wrong in ("#step=0", "#step=99999999", "#step=<img>", "#now"):
        window.run("location.hash = arguments[0]", wrong)
    window.press(Keys.HOME)
    at_step(window, 1)


@pytest.mark.guest
@pytest.mark.long
def test_space_plays_to_the_end_and_pauses(window: Browser, tmp_path: Path):
    shown(window, two_queues(), tmp_path)
    window.run("const s = document.querySelector('#speed'); s.value = '40'; s.dispatchEvent(new Event('change'))")
    assert window.run("return document.querySelector('#said').getAttribute('aria-live')") == "polite"
    window.press(" ")
    window.wait_for("#play", "Pause")
    assert window.run("return document.querySelector('#said').getAttribute('aria-live')") == "off"
    at_step(window, 19)
    window.wait_for("#play", "Play")
    window.click("#play")
    window.wait_for("#play", "Pause")
    window.press(" ")
    window.wait_for("#play", "Play")


@pytest.mark.guest
@pytest.mark.long
def test_one_queue_alone_can_be_stepped_through(window: Browser, tmp_path: Path):
    shown(window, two_queues(), tmp_path)
    window.run("const s = document.querySelector('#filter'); s.value = '1'; s.dispatchEvent(new Event('change'))")
    window.press(Keys.HOME)
    at_step(window, 11)
    assert "1 of 9 shown" in window.text("#position")
    window.press(Keys.ARROW_RIGHT)
    at_step(window, 12)
    assert "queue 1" in window.text("#memory-title")
    window.run("location.hash = '#step=3'")  # a step that is not among those shown
    at_step(window, 3)
    assert window.run("return document.querySelector('#filter').value") == "all"


@pytest.mark.guest
@pytest.mark.long
def test_a_hundred_thousand_steps_are_few_elements_and_each_is_there_at_once(window: Browser, tmp_path: Path):
    shown(window, many(12_500), tmp_path)
    assert window.run("return steps.length") == 100_001
    for key, number in ((Keys.END, 100_001), (Keys.HOME, 1)):
        window.press(key)
        window.wait_for("#position", f"Step {number:,} of 100,001")
        assert window.run("return document.querySelectorAll('*').length") < 500
    window.run("location.hash = '#step=99994'")
    window.wait_for("#position", "Step 99,994 of")
    assert rows(window, "used")[-1][0] == str(12_498)
    whole = window.run("return stateAt(99993).queues.get(0).used.index")
    assert whole == window.run(
        "const s = newState(); while (s.step < 99993) applied(s); return s.queues.get(0).used.index"
    )
    each = window.run(
        "const t = performance.now(); for (let i = 0; i < 50; i++) { place = (i * 1999) % steps.length; show(); }"
        "return (performance.now() - t) / 50"
    )
    assert each < 250  # milliseconds, on a machine that does much else; some 10 on a quiet one


@pytest.mark.guest
@pytest.mark.long
def test_what_a_hostile_recording_says_is_shown_and_never_obeyed(window: Browser, tmp_path: Path):
    shown(window, hostile(), tmp_path)
    for number in range(1, 8):
        at_step(window, number)
        assert window.run("return [window.pwned ?? null, document.images.length, document.scripts.length]") == [
            None,
            0,
            2,
        ]
        window.press(Keys.ARROW_RIGHT)
    assert "<script>window.pwned" in window.text("#list")
    assert "WRONG: </script>" in window.text("#details")
    assert window.run("try { document.body.innerHTML = '<p>'; return 'taken' } catch { return 'refused' }") == "refused"
    assert window.driver.title.startswith("</script>")
    assert [line for line in window.complaints() if "TrustedHTML" not in line] == []


@pytest.mark.guest
@pytest.mark.long
def test_light_and_dark_follow_the_system_until_one_is_chosen_and_can_be_read(window: Browser, tmp_path: Path):
    background = "return getComputedStyle(document.body).backgroundColor"
    window.prefer(prefers_color_scheme="light", prefers_reduced_motion="reduce")
    shown(window, two_queues(), tmp_path, "#step=7")
    at_step(window, 7)
    light = window.run(background)
    assert window.run(CONTRAST) == []
    window.prefer(prefers_color_scheme="dark", prefers_reduced_motion="reduce")
    window.wait(lambda: window.run(background) != light)
    dark = window.run(background)
    assert window.run(CONTRAST) == []
    window.click("#theme")
    assert window.run(background) == light
    window.prefer(prefers_color_scheme="light", prefers_reduced_motion="reduce")
    window.click("#theme")
    assert window.run(background) == dark


@pytest.mark.guest
@pytest.mark.long
def test_a_screen_reader_finds_its_way(window: Browser, tmp_path: Path):
    shown(window, two_queues(), tmp_path, "#step=7")
    at_step(window, 7)
    nodes = window.accessible()

    def named(role: str) -> list[str]:
        return [node["name"] for node in nodes if node["role"] == role]

    assert named("main")
    assert named("banner")
    assert {"Player", "All steps", "The two sides"} <= set(named("region"))
    assert named("heading")[0].startswith("Double")
    assert named("slider") == ["Step"]
    assert {"First step", "Previous request", "Next step", "Last step"} <= set(named("button"))
    assert all(named("button") + named("combobox"))
    assert {"index", "address", "bytes", "whose"} <= set(named("columnheader"))
    assert named("rowheader")
    (selected,) = [
        node for node in nodes if node["role"] == "option" and node.get("selected") and "answers" in node["name"]
    ]
    assert "answers request 0" in selected["name"]
    assert [node["live"] for node in nodes if node.get("live") and "atomic" in node] == ["polite"]
    for selector in ("#theme", "#first", "#slider", "#list", "#filter"):
        window.run("document.querySelector(arguments[0]).focus({ focusVisible: true })", selector)
        assert window.run("return getComputedStyle(document.activeElement).outlineStyle") == "solid", selector
    window.prefer(prefers_reduced_motion="reduce")
    assert window.run("return getComputedStyle(document.querySelector('.wire')).transitionDuration") == "0s"


@pytest.mark.guest
@pytest.mark.long
@pytest.mark.parametrize("width", [360, 768, 1280])
def test_no_width_needs_sideways_scrolling(window: Browser, tmp_path: Path, width: int):
    window.resize(width, 740)
    shown(window, two_queues(), tmp_path, "#step=7")
    at_step(window, 7)
    assert window.run("return document.documentElement.scrollWidth") <= width
    for selector in ("#next", "#slider", "#theme", "#filter"):
        box = window.find(selector).rect
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width
