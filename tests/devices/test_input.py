"""The input device with its driver in one process, its scripts, and drivers that break its rules."""

from __future__ import annotations

import asyncio
import itertools
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest

from pyvirtio import open_driver
from pyvirtio.devices.input import (
    MOST_WAITING,
    AbsInfo,
    Config,
    DevIds,
    Event,
    Input,
    Select,
)
from pyvirtio.devices.input_actions import LARGEST
from pyvirtio.devices.input_kinds import KINDS
from pyvirtio.drivers.input import InputDriver
from pyvirtio.errors import LocalError, ShortData, UsageError
from pyvirtio.spec.input_codes import KEYS_OF, Abs, Key, Led, Property, Rel, Type
from pyvirtio.testing.served import served
from tests.support.runner import Scene, in_loop, rounds, until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SYN = (Type.EV_SYN, 0, 0)


def received(device: Input, act: Callable[[Input], object]) -> list[tuple[int, ...]]:
    """Return the events that a driver receives when something is done; there is a mark at their end."""
    with open_driver(InputDriver, device) as driver:
        act(device)
        device.emit()  # nothing but the end of a movement
        found = [tuple(event) for event in itertools.islice(driver.events(), len(device._waiting))]
    assert found.pop() == SYN
    return found


# What it says of itself.


@pytest.mark.parametrize("kind", KINDS)
def test_a_driver_learns_what_the_device_has(kind: Any) -> None:
    with open_driver(InputDriver, Input(kind, name="a name of my own")) as driver:
        assert driver.name == "a name of my own"
        assert driver.identity.bustype == 6
        known = KINDS[kind]
        for event in range(256):
            assert driver.codes(event) == set(known.codes.get(event, ())), event
        assert driver.properties() == set(known.properties)
        for axis in range(256):
            if axis in known.axes:
                assert driver.axis(axis) == AbsInfo(max=known.axes[axis])
            else:
                with pytest.raises(ShortData):
                    driver.axis(axis)


def test_nothing_is_said_of_what_is_not_there() -> None:
    """5.8.5.2: size is zero for a combination that is not supported."""
    with open_driver(InputDriver, Input("mouse")) as driver:
        for select in range(256):
            for subsel in (0, 1, 5, 255):
                data = driver.select(select, subsel)
                supported = select in set(Select) and (subsel == 0 or select >= Select.EV_BITS)
                assert supported or data == b"", (select, subsel)
        assert driver.select(Select.UNSET) == b""


def test_a_name_longer_than_the_space_for_it_is_cut() -> None:
    with open_driver(InputDriver, Input("mouse", name="x" * 500)) as driver:
        assert driver.name == "x" * 128


def test_only_what_selects_can_be_written() -> None:
    with open_driver(InputDriver, Input("mouse")) as driver:
        driver.select(Select.ID_NAME)
        driver.transport.write_config(2, b"\xff" * (Config.nbytes - 2))
        assert driver.select(Select.ID_NAME) == b"pyvirtio mouse"


# What it sends.


def key(code: Key, value: int) -> tuple[int, int, int]:
    return (Type.EV_KEY, code, value)


@pytest.mark.parametrize(
    ("kind", "act", "events"),
    [
        ("keyboard", lambda d: d.press(Key.KEY_A), [key(Key.KEY_A, 1), SYN]),
        ("keyboard", lambda d: d.release(Key.KEY_A), [key(Key.KEY_A, 0), SYN]),
        (
            "keyboard",
            lambda d: d.type("a?"),
            [
                *(key(Key.KEY_A, 1), SYN, key(Key.KEY_A, 0), SYN),
                *(key(Key.KEY_LEFTSHIFT, 1), SYN, key(Key.KEY_SLASH, 1), SYN),
                *(key(Key.KEY_SLASH, 0), SYN, key(Key.KEY_LEFTSHIFT, 0), SYN),
            ],
        ),
        ("mouse", lambda d: d.move(3, -4), [(Type.EV_REL, Rel.REL_X, 3), (Type.EV_REL, Rel.REL_Y, 2**32 - 4), SYN]),
        ("mouse", lambda d: d.wheel(-1), [(Type.EV_REL, Rel.REL_WHEEL, 2**32 - 1), SYN]),
        ("mouse", lambda d: d.tap(Key.BTN_LEFT), [key(Key.BTN_LEFT, 1), SYN, key(Key.BTN_LEFT, 0), SYN]),
        ("tablet", lambda d: d.point(0, LARGEST), [(Type.EV_ABS, 0, 0), (Type.EV_ABS, 1, LARGEST), SYN]),
        (
            "touch",
            lambda d: (d.touch(1, 2), d.touch(5, 6, finger=9), d.touch(3, 4), d.lift(), d.lift(9)),
            [
                *((Type.EV_ABS, Abs.ABS_MT_SLOT, 0), (Type.EV_ABS, Abs.ABS_MT_TRACKING_ID, 1)),
                *((Type.EV_ABS, Abs.ABS_MT_POSITION_X, 1), (Type.EV_ABS, Abs.ABS_MT_POSITION_Y, 2)),
                *((Type.EV_ABS, Abs.ABS_X, 1), (Type.EV_ABS, Abs.ABS_Y, 2), key(Key.BTN_TOUCH, 1), SYN),
                *((Type.EV_ABS, Abs.ABS_MT_SLOT, 9), (Type.EV_ABS, Abs.ABS_MT_TRACKING_ID, 2)),
                *((Type.EV_ABS, Abs.ABS_MT_POSITION_X, 5), (Type.EV_ABS, Abs.ABS_MT_POSITION_Y, 6)),
                *((Type.EV_ABS, Abs.ABS_X, 5), (Type.EV_ABS, Abs.ABS_Y, 6), SYN),
                *((Type.EV_ABS, Abs.ABS_MT_SLOT, 0), (Type.EV_ABS, Abs.ABS_MT_TRACKING_ID, 1)),
                *((Type.EV_ABS, Abs.ABS_MT_POSITION_X, 3), (Type.EV_ABS, Abs.ABS_MT_POSITION_Y, 4)),
                *((Type.EV_ABS, Abs.ABS_X, 3), (Type.EV_ABS, Abs.ABS_Y, 4), SYN),
                *((Type.EV_ABS, Abs.ABS_MT_SLOT, 0), (Type.EV_ABS, Abs.ABS_MT_TRACKING_ID, 2**32 - 1), SYN),
                *((Type.EV_ABS, Abs.ABS_MT_SLOT, 9), (Type.EV_ABS, Abs.ABS_MT_TRACKING_ID, 2**32 - 1)),
                *(key(Key.BTN_TOUCH, 0), SYN),
            ],
        ),
    ],
)
def test_what_a_program_does_arrives_as_events(
    kind: Any, act: Callable[[Input], object], events: list[tuple[int, int, int]]
) -> None:
    assert received(Input(kind), act) == events


def test_every_key_of_the_layout_is_a_key_of_the_keyboard() -> None:
    assert {key for key, _ in KEYS_OF.values()} <= set(KINDS["keyboard"].codes[Type.EV_KEY])
    printable = {chr(code) for code in range(0x20, 0x7F)}
    assert printable <= KEYS_OF.keys()


@pytest.mark.parametrize(
    ("kind", "act", "hint"),
    [
        ("mouse", lambda d: d.press(Key.KEY_A), "EV_KEY"),
        ("keyboard", lambda d: d.move(1, 1), "EV_REL"),
        ("mouse", lambda d: d.point(1, 1), "EV_ABS"),
        ("tablet", lambda d: d.point(-1, 1), "edge"),
        ("tablet", lambda d: d.point(1, LARGEST + 1), "edge"),
        ("touch", lambda d: d.touch(1, 1, finger=10), "finger 10"),
        ("touch", lambda d: d.lift(), "does not touch"),
        ("keyboard", lambda d: d.type("naïve"), "ï"),
    ],
)
def test_what_a_device_cannot_do_is_refused_and_sends_nothing(
    kind: Any, act: Callable[[Input], object], hint: str
) -> None:
    device = Input(kind)
    with pytest.raises(LocalError, match=hint):
        act(device)
    assert not device._waiting


def test_a_kind_that_there_is_not_is_refused() -> None:
    with pytest.raises(LocalError, match="keyboard, mouse, tablet, touch"):
        Input("trackball")  # type: ignore[arg-type]  # what is tested


def test_a_light_is_seen_on_the_host() -> None:
    device = Input("keyboard")
    with open_driver(InputDriver, device) as driver:
        driver.switch(Led.LED_CAPSL)
        driver.switch(Led.LED_NUML)
        assert device.leds == {Led.LED_CAPSL, Led.LED_NUML}
        driver.switch(Led.LED_CAPSL, is_on=False)
        assert device.leds == {Led.LED_NUML}


# Scripts.


def test_a_script_is_done_once_in_its_order(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("# greet\n\ntype  Hi  \nwait 0.01\ntap KEY_LEFTCTRL KEY_C\npress KEY_UP\nrelease KEY_UP\n")
    device = Input("keyboard", script=script)
    with open_driver(InputDriver, device) as driver:
        events = list(itertools.islice(driver.events(), 2 * (4 + 2 + 4 + 2)))
    pressed = [Key(event.code).name for event in events if event.value == 1]
    assert pressed == ["KEY_LEFTSHIFT", "KEY_H", "KEY_I", "KEY_LEFTCTRL", "KEY_C", "KEY_UP"]


def test_a_script_may_type_more_than_can_wait(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text(f"type {'a' * 3000}\n")
    device = Input("keyboard", script=script, pace=0)
    with open_driver(InputDriver, device) as driver:
        assert sum(event.type == Type.EV_KEY for event in itertools.islice(driver.events(), 12000)) == 6000
    assert device.dropped == 0


@pytest.mark.parametrize(
    ("kind", "line", "hint"),
    [
        ("keyboard", "jump", "there is no step 'jump'"),
        ("keyboard", "tap KEY_NONE", "KEY_NONE"),
        ("keyboard", "tap", "1 to 10"),
        ("keyboard", "move 1 1", "EV_REL"),
        ("keyboard", "type ü", "no key for"),
        ("mouse", "move 1", "2 to 2"),
        ("mouse", "move one two", "one"),
        ("tablet", "point 1 40000", "edge"),
        ("touch", "lift", "does not touch"),
        ("mouse", "wait long", "long"),
    ],
)
def test_a_line_that_makes_no_sense_is_refused_by_its_number(tmp_path: Path, kind: Any, line: str, hint: str) -> None:
    script = tmp_path / "script"
    script.write_text(f"# first\n{line}\n")
    with pytest.raises(UsageError, match="line 2") as refused:
        Input(kind, script=script)
    assert hint in str(refused.value)


def test_a_worker_goes_on_with_lights_and_script_where_the_one_before_it_was(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("tap KEY_A\ntap KEY_B\ntap KEY_C\n")
    kept = memoryview(bytearray(Input.kept_size))
    first, second = (Input("keyboard", script=script) for _ in range(2))

    async def main() -> None:
        async with Scene(first) as scene:
            scene.runner.keep(kept)
            scene.start(0).start(1)
            scene.submit(*[b""] * 4, room=8, index=0)
            scene.submit(Event(Type.EV_LED, Led.LED_CAPSL, 1).pack(), room=0, index=1)
            await scene.back(4, 0)
            await until(lambda: first._step == 1 and bool(first.leds))
        async with Scene(second) as scene:
            scene.runner.keep(kept)
            scene.start(0)
            assert second.leds == {Led.LED_CAPSL}
            scene.submit(*[b""] * 8, room=8, index=0)
            codes = [Event.unpack(data).code for data in (await scene.back(8, 0)).values()]
            assert codes[::4] == [Key.KEY_B, Key.KEY_C]

    in_loop(main)


# A driver that takes no events, and drivers that break the rules.


def test_a_driver_that_takes_no_events_costs_no_memory_and_gets_whole_movements() -> None:
    async def main() -> None:
        device = Input("mouse", pace=0)
        async with Scene(device) as scene:
            scene.start(0)
            tracemalloc.start()
            try:
                for number in range(100_000):
                    device.move(number, -number)
                assert tracemalloc.get_traced_memory()[1] < 4 << 20
            finally:
                tracemalloc.stop()
            assert device.dropped == 100_000 - MOST_WAITING // 3
            events = []
            while device._waiting:
                scene.submit(*[b""] * 32, room=8, index=0)
                await rounds(200)
                events += [Event.unpack(data) for data in scene.reap(0).values()]
            assert len(events) == 3 * (MOST_WAITING // 3)
            assert all(tuple(event) == SYN for event in events[2::3])

    in_loop(main)


MISUSE = {
    "nothing": b"",
    "one byte": b"\x11",
    "an event less a byte": Event(Type.EV_LED, 0, 1).pack()[:7],
    "a light that there is not": Event(Type.EV_LED, 3, 1).pack(),
    "the last light of all": Event(Type.EV_LED, 0xFFFF, 1).pack(),
    "a key pressed by the driver": Event(Type.EV_KEY, Key.KEY_A, 1).pack(),
    "a type that there is not": Event(0xFFFF, 0, 1).pack(),
    "a sound": Event(Type.EV_SND, 0, 1).pack(),
    "a repeat rate": Event(Type.EV_REP, 0, 0xFFFFFFFF).pack(),
    "more than an event": Event(Type.EV_SND, 0, 1).pack() + bytes(5000),
}


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("data", MISUSE.values(), ids=MISUSE)
def test_a_status_that_makes_no_sense_changes_nothing(data: bytes) -> None:
    async def main() -> None:
        device = Input("keyboard")
        async with Scene(device) as scene:
            scene.start(0).start(1)
            heads = scene.submit(data, room=0 if data else 8, index=1)
            back = await scene.back(1, 1)
            assert back == {heads[0]: b""}
            assert device.leds == set()
            scene.submit(Event(Type.EV_LED, Led.LED_NUML, 7).pack(), room=0, index=1)
            await scene.back(1, 1)
            assert device.leds == {Led.LED_NUML}

    in_loop(main)


@pytest.mark.parametrize("room", [1, 7])
def test_a_buffer_too_small_for_an_event_costs_events_and_nothing_else(room: int) -> None:
    async def main() -> None:
        device = Input("mouse")
        async with Scene(device) as scene:
            scene.start(0).start(1)
            scene.submit(b"", room=room, index=0)
            for _ in range(100):
                device.move(1, 1)
            await asyncio.wait_for(device.sent(), 5)
            assert scene.reap(0) == {}
            assert scene.events == []
            scene.runner.write_config(0, bytes([Select.ID_NAME, 0]))
            assert Config.unpack(scene.runner.read_config(0, Config.nbytes)).size == len(b"pyvirtio mouse")

    in_loop(main)


def test_a_buffer_that_the_device_may_not_write_is_returned_empty() -> None:
    async def main() -> None:
        device = Input("mouse")
        async with Scene(device) as scene:
            scene.start(0)
            readable = scene.submit(b"readable", room=0, index=0)
            good = scene.submit(b"", b"", b"", room=64, index=0)
            device.move(1, 1)
            back = await scene.back(4, 0)
            assert back[readable[0]] == b""
            assert [len(back[head]) for head in good] == [8, 8, 8]

    in_loop(main)


def test_whatever_is_selected_over_a_socket_is_answered_or_empty() -> None:
    """Every combination, as QEMU writes it: the whole space, of which only two bytes count."""
    with served("input,kind=touch") as server, open_driver(InputDriver, f"vhost-user:{server.path}") as driver:
        for select in (*Select, 4, 0x13, 0xFF):
            for subsel in (0, 1, 3, 0x2F, 0xFF):
                whole = bytes([select, subsel]) + b"\xff" * (Config.nbytes - 2)
                driver.transport.write_config(0, whole)
                answer = Config.unpack(driver.read_config().pack())
                assert (answer.select, answer.subsel, answer.reserved) == (select, subsel, bytes(5))
                assert answer.size == len(answer.u.rstrip(b"\0")) or answer.u[answer.size :] == bytes(128 - answer.size)
        assert driver.properties() == {Property.INPUT_PROP_DIRECT}
        for data in MISUSE.values():
            driver.statusq.call(data, room=0 if data else 8)
        assert driver.name == "pyvirtio touch"
        assert server.lines("[run-failed]") == server.lines("[worker-ended]") == 0


# Linux's numbers.


@pytest.mark.guest
def test_it_speaks_as_linux_does(uapi: Any) -> None:
    assert not uapi.differences(
        "linux/virtio_input.h",
        structs={
            Config: "virtio_input_config",
            AbsInfo: "virtio_input_absinfo",
            DevIds: "virtio_input_devids",
            Event: "virtio_input_event",
        },
        numbers={"VIRTIO_INPUT_CFG_": Select},
    )
    for kind in (Type, Key, Rel, Abs, Led, Property):
        assert not uapi.differences("linux/input-event-codes.h", numbers={"": kind})
