"""An input device (VIRTIO 1.4, 5.8): a keyboard, a mouse, a tablet or a touch screen that a program operates.

    pyvirtio serve input,kind=keyboard,script=hello.txt --socket /tmp/s

From Python, in the event loop of the device or by `serving(...).call`:

>>> from pyvirtio.spec.input_codes import Key
>>> keyboard = Input("keyboard")
>>> keyboard.type("Hi!")
>>> keyboard.tap(Key.KEY_LEFTCTRL, Key.KEY_C)
"""

from __future__ import annotations

import asyncio
from collections import deque
from enum import IntEnum
from pathlib import Path  # noqa: TC003  # the command line makes the option from it
from typing import Literal

from pyvirtio.device import Device, OutgoingQueue, Queue, Reader, Writer
from pyvirtio.devices.input_actions import Actions
from pyvirtio.devices.input_kinds import KINDS
from pyvirtio.devices.input_script import Step, read_script
from pyvirtio.errors import LocalError
from pyvirtio.spec.input_codes import BUS_VIRTUAL, Led, Type
from pyvirtio.spec.struct import Struct, le16, le32, raw, u8

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

MOST_WAITING = 4096  # events that wait for a driver that takes none; further ones are dropped, movement by movement


class Select(IntEnum):
    """What a driver asks for (5.8.4)."""

    UNSET, ID_NAME, ID_SERIAL, ID_DEVIDS = range(4)
    PROP_BITS, EV_BITS, ABS_INFO = 0x10, 0x11, 0x12


class Config(Struct):
    select: int = u8(writable=True)
    subsel: int = u8(writable=True)
    size: int = u8()
    reserved: bytes = raw(5)
    u: bytes = raw(128)


class AbsInfo(Struct):
    min: int = le32()
    max: int = le32()
    fuzz: int = le32()
    flat: int = le32()
    res: int = le32()


class DevIds(Struct):
    bustype: int = le16()
    vendor: int = le16()
    product: int = le16()
    version: int = le16()


class Event(Struct):
    type: int = le16()
    code: int = le16()
    value: int = le32()


def bitmap(bits: Collection[int]) -> bytes:
    r"""Return bytes in which the numbered bits are set, and no more than it takes.

    >>> bitmap([0, 9])
    b'\x01\x02'
    """
    return sum(1 << bit for bit in set(bits)).to_bytes(max(bits, default=-1) // 8 + 1, "little")


class Input(Actions, Device):
    """A keyboard, mouse, tablet or touch screen, which does what its methods are told, and first what ``script`` says.

    There are ``pace`` seconds between two movements: Linux keeps a few dozen events for a program, and loses what comes
    faster than that reads.

    Attributes:
        leds: the lights that the guest has switched on.
        dropped: how many movements were dropped, for the driver took no events.
    """

    device_id = 18
    kept_size = 8  # bytes, see `_note`
    config = Config()
    eventq = OutgoingQueue(size=64)
    statusq = Queue(size=64)

    def __init__(
        self,
        kind: Literal["keyboard", "mouse", "tablet", "touch"] = "keyboard",
        *,
        script: Path | None = None,
        pace: float = 0.005,
        name: str = "",
    ) -> None:
        super().__init__()
        if kind not in KINDS:
            raise LocalError(f"{kind!r} is no kind of input device; there are: {', '.join(KINDS)}")
        self.kind = KINDS[kind]
        self._name = (name or f"pyvirtio {kind}").encode()[:128]
        self._identity: dict[int, bytes] = {
            Select.ID_NAME: self._name,
            Select.ID_SERIAL: b"pyvirtio",
            Select.ID_DEVIDS: DevIds(BUS_VIRTUAL, 0x1AF4, list(KINDS).index(kind) + 1, 1).pack(),
            Select.PROP_BITS: bitmap(self.kind.properties),
        }
        self._steps: list[Step] = read_script(script, self, Input(kind)) if script else []
        self._step = 0
        self._pace = pace
        self._waiting: deque[Event] = deque()
        self._news, self._idle = asyncio.Event(), asyncio.Event()
        self.leds: set[Led] = set()
        self.dropped = 0

    # What the driver asks (5.8.4) and says.

    def config_written(self) -> None:
        """Answer what is selected."""
        answer = self._selected(self.config.select, self.config.subsel)
        self.update_config(size=len(answer), u=answer)

    def _selected(self, select: int, of: int) -> bytes:
        if select == Select.EV_BITS:
            return bitmap(self.kind.codes.get(of, ()))
        if select == Select.ABS_INFO:
            return AbsInfo(max=self.kind.axes[of]).pack() if of in self.kind.axes else b""
        return self._identity.get(select, b"") if of == 0 else b""

    @statusq.stream
    def status(self, reader: Reader, _writer: Writer) -> None:
        """Take note of a light that the guest switches."""
        event = reader.take(Event)
        if event.type == Type.EV_LED and event.code in self.kind.codes.get(Type.EV_LED, ()):
            (self.leds.add if event.value else self.leds.discard)(Led(event.code))
            self._note()

    def _note(self) -> None:
        """Keep the lights and the place in the script, in one store: the process may end at any moment."""
        if self.kept_memory is not None:
            self.kept_memory.cast("Q")[0] = self._step << 32 | sum(1 << led for led in self.leds)

    def queue_started(self, _index: int, *, resumed: bool) -> None:
        """Go on with the lights as they are and the script where it was, if that was in a process before this one."""
        if self.kept_memory is not None:
            self._step, lights = divmod(self.kept_memory.cast("Q")[0], 1 << 32)
            self.leds = {led for led in Led if lights >> led & 1}

    async def run(self) -> None:
        """Give the driver its events, and follow the script."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._send())
            tasks.create_task(self._follow_script())

    async def _send(self) -> None:
        while await self._news.wait():
            while self._waiting:
                try:
                    await self.eventq.send(self._waiting[0].pack())
                except LocalError as error:  # the driver's buffer is too small
                    self.info("an event is lost: %s", str(error))
                if self._waiting.popleft().type == Type.EV_SYN and self._pace:
                    await asyncio.sleep(self._pace)
            self._news.clear()
            self._idle.set()

    async def _follow_script(self) -> None:
        while self._step < len(self._steps):
            step = self._steps[self._step]
            if step.seconds:
                await asyncio.sleep(step.seconds)
            step.act()
            await self.sent()
            self._step += 1
            self._note()

    # What a program does.

    def emit(self, *events: tuple[Type, int, int]) -> None:
        """Send events that belong together, as one movement; dropped as a whole if the driver takes none (5.8.6.2).

        Raises:
            LocalError: this kind of device has no such event.
        """
        for kind, code, _ in events:
            if code not in self.kind.codes.get(kind, ()):
                raise LocalError(
                    f"{self._name.decode(errors='replace')} has no {kind.name} {code}; see KINDS for what it has"
                )
        if len(self._waiting) + len(events) >= MOST_WAITING:
            self.dropped += 1
            return
        self._waiting.extend(Event(kind, code, value & 0xFFFFFFFF) for kind, code, value in (*events, (0, 0, 0)))
        self._idle.clear()
        self._news.set()

    async def sent(self) -> None:
        """Return once the driver has taken every event."""
        if self._waiting:
            await self._idle.wait()
