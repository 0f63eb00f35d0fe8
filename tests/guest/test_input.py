"""Input devices under Linux's own driver, in one real guest: what the host does is an event there, and lights shine."""

from __future__ import annotations

import contextlib
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pyvirtio import serving
from pyvirtio.devices.input import Input
from pyvirtio.devices.input_actions import LARGEST
from pyvirtio.spec.input_codes import KEYS_OF, Abs, Key, Led, Rel, Type
from pyvirtio.testing.served import served
from pyvirtio.vm import VhostUserDevice
from tests.guest.conftest import PROGRAMS
from tests.support.guests import guest, pause, unremarkable
from tests.support.vhost import until, worker_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pyvirtio.vm import Guest

pytestmark = [pytest.mark.guest, pytest.mark.timeout(300)]

DRIVER = "/sys/bus/virtio/drivers/virtio_input"
TYPIST = '''
from pyvirtio.devices.input import Input


class Typist(Input):
    """Types its answer whenever a light is switched."""

    answer = "old"

    def status(self, reader, writer):
        super().status(reader, writer)
        self.type(self.answer)
'''


def read(machine: Guest, name: str, count: int, act: Callable[[], object]) -> list[tuple[int, ...]]:
    """Return the events that a program in the guest reads while something is done."""
    machine.send(f"events.py '{name}' read {count}")
    machine.wait_for("events are read")
    act()
    result = machine.result()
    assert result.returncode == 0, result.stdout
    return [tuple(map(int, line.split())) for line in result.lines[1:]]


def typed(text: str) -> list[tuple[int, int, int]]:
    """Return the events of a text on a keyboard."""
    events = []
    for key, shift in map(KEYS_OF.__getitem__, text):
        keys = [*([Key.KEY_LEFTSHIFT] * shift), key]
        events += [(Type.EV_KEY, one, 1) for one in keys] + [(Type.EV_KEY, one, 0) for one in reversed(keys)]
    return [tuple(map(int, event)) for event in events]  # type: ignore[misc]  # of three


@contextlib.contextmanager
def host_of(device: Input, path: Path) -> Iterator[serving[Input]]:
    with serving(device, str(path)) as host:
        yield host
    assert host.faults == []


def test_input_devices_under_qemu(tmp_path: Path) -> None:
    keyboard, mouse, touch = Input("keyboard"), Input("mouse"), Input("touch")
    source = tmp_path / "typist.py"
    source.write_text(TYPIST)
    with contextlib.ExitStack() as stack:
        typist = stack.enter_context(served(f"{source}:Typist,name=typist", "--reload", "-v"))
        hosts = [
            stack.enter_context(host_of(device, tmp_path / name))
            for device, name in ((keyboard, "k"), (mouse, "m"), (touch, "t"))
        ]
        of_typist = VhostUserDevice.of(keyboard.description(), Path(typist.path))
        files = {"/bin/events.py": (PROGRAMS / "events.py").read_bytes()}
        machine = stack.enter_context(guest(*hosts, of_typist, files=files))
        on_keyboard, on_mouse, on_touch = (host.call for host in hosts)
        with unremarkable(machine):
            names = machine.run("cat /sys/class/input/event*/device/name").lines
            assert set(names) >= {"pyvirtio keyboard", "pyvirtio mouse", "pyvirtio touch", "typist"}

            # Keys, the wheel, fingers. Linux keeps 64 events for a program that may be slow here: a few at a time.
            def types(text: str, act: Callable[[], object] = lambda: None) -> None:
                events = typed(text)
                found = read(
                    machine, "pyvirtio keyboard", len(events), lambda: (on_keyboard(keyboard.type, text), act())
                )
                assert found == events

            for text in ("Hello, ", "World!\n", "~`{}|\\"):
                types(text)
            assert read(
                machine,
                "pyvirtio mouse",
                4,
                lambda: (on_mouse(mouse.move, 7, -9), on_mouse(mouse.wheel, -1), on_mouse(mouse.press, Key.BTN_RIGHT)),
            ) == [
                (Type.EV_REL, Rel.REL_X, 7),
                (Type.EV_REL, Rel.REL_Y, -9),
                (Type.EV_REL, Rel.REL_WHEEL, -1),
                (Type.EV_KEY, Key.BTN_RIGHT, 1),
            ]
            assert machine.run(f"events.py 'pyvirtio touch' axis {int(Abs.ABS_MT_POSITION_X)}").lines == [
                f"0 {LARGEST}"
            ]
            # A slot that is selected already is no event: Linux passes on what changes.
            assert read(machine, "pyvirtio touch", 8, lambda: (on_touch(touch.touch, 5, 6), on_touch(touch.lift))) == [
                (Type.EV_ABS, Abs.ABS_MT_TRACKING_ID, 1),
                (Type.EV_ABS, Abs.ABS_MT_POSITION_X, 5),
                (Type.EV_ABS, Abs.ABS_MT_POSITION_Y, 6),
                (Type.EV_ABS, Abs.ABS_X, 5),
                (Type.EV_ABS, Abs.ABS_Y, 6),
                (Type.EV_KEY, Key.BTN_TOUCH, 1),
                (Type.EV_ABS, Abs.ABS_MT_TRACKING_ID, -1),
                (Type.EV_KEY, Key.BTN_TOUCH, 0),
            ]

            # Lights.
            machine.run(f"events.py 'pyvirtio keyboard' led {int(Led.LED_CAPSL)} 1")
            until(lambda: keyboard.leds == {Led.LED_CAPSL})
            machine.run(f"events.py 'pyvirtio keyboard' led {int(Led.LED_CAPSL)} 0")
            until(lambda: keyboard.leds == set())

            def pauses() -> None:
                for _ in range(4):
                    pause(machine)

            # The machine pauses while somebody types: nothing is lost, and nothing comes twice.
            for _ in range(3):
                types("pause 123", pauses)

            # The driver goes and comes back.
            bound = machine.run(f"basename $(ls -d {DRIVER}/virtio0)").lines
            assert bound == ["virtio0"]
            machine.run(f"echo virtio0 >{DRIVER}/unbind; echo virtio0 >{DRIVER}/bind")
            types("again")

            # A worker dies, and its successor goes on; then new code takes over.
            def switch(value: int) -> None:
                assert machine.run(f"events.py typist led {int(Led.LED_NUML)} {value}").returncode == 0

            for number in range(1, 4):
                pid = worker_of(typist)
                os.kill(pid, signal.SIGKILL)
                switch(number % 2)
                typist.wait_for("[worker-ended]", count=number)
            source.write_text(TYPIST.replace('"old"', '"new"'))
            typist.wait_for("[device-reloaded]")
            ready = "until grep -q 'are read' /tmp/read; do usleep 10000; done"
            machine.send(f"events.py typist read 6 >/tmp/read & {ready}; events.py typist led 0 0; wait; cat /tmp/read")
            assert machine.result().lines[1:] == [" ".join(map(str, event)) for event in typed("new")]

            # It is unplugged while somebody touches it.
            machine.send("(events.py 'pyvirtio touch' read 1000; echo left) 2>&1")
            machine.wait_for("events are read")
            on_touch(touch.touch, 1, 1)
            with ThreadPoolExecutor(1) as beside:
                unplugged = beside.submit(machine.unplug, 2)
                for place in range(100):
                    on_touch(touch.touch, place, place)
                unplugged.result()
            assert "left" in machine.result().lines

            # It reboots.
            machine.reboot()
            types("back")
        assert typist.lines("[method-failed]") == typist.lines("[run-failed]") == typist.lines("[request-failed]") == 0
