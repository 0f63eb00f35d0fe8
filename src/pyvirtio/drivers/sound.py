"""The driver of a sound card, for programs that play and record by themselves."""

from __future__ import annotations

from pyvirtio.devices.sound import (
    CTL_INFO,
    CTL_READ,
    CTL_WRITE,
    CTLS,
    FORMATS,
    INPUT,
    JACK_INFO,
    OK,
    OUTPUT,
    PCM_INFO,
    PREPARE,
    RATES,
    RELEASE,
    SET_PARAMS,
    START,
    STOP,
    Config,
    ControlHeader,
    ControlInfo,
    Header,
    JackInfo,
    PcmInfo,
    PcmParams,
    PcmStatus,
    PcmXfer,
    QueryInfo,
    Value,
)
from pyvirtio.driver import Driver, RequestQueue
from pyvirtio.errors import DeviceError, LocalError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeVar

    from pyvirtio.audio import Samples
    from pyvirtio.driver import Ticket
    from pyvirtio.spec.struct import Struct

    S = TypeVar("S", bound=Struct)

PERIODS = 4
"""How many buffers make up the ring of a stream."""


class SoundDriver(Driver):
    r"""Plays and records whole sounds.

    >>> from pyvirtio.audio import Samples
    >>> from pyvirtio.connect import open_driver
    >>> from pyvirtio.devices.sound import Sound
    >>> heard = []
    >>> with open_driver(SoundDriver, Sound(output=lambda data, samples: heard.append(data))) as card:
    ...     card.play(Samples(2, 1, 8000), b"\x01\x00" * 80)
    >>> len(b"".join(heard))
    160
    """

    device_id = 25
    device_name = "sound"
    features = CTLS
    config = Config
    controlq = RequestQueue(size=64)
    eventq = RequestQueue(size=64)
    txq = RequestQueue(PcmXfer, tail=PcmStatus, size=64)
    rxq = RequestQueue(PcmXfer, tail=PcmStatus, size=64)

    # What it is.

    def jacks(self) -> list[JackInfo]:
        """Return what the jacks are."""
        return self._query(JACK_INFO, JackInfo, "jacks")

    def streams(self) -> list[PcmInfo]:
        """Return what the streams can do."""
        return self._query(PCM_INFO, PcmInfo, "streams")

    def controls(self) -> list[ControlInfo]:
        """Return what the controls are; without VIRTIO_SND_F_CTLS there are none."""
        return self._query(CTL_INFO, ControlInfo, "controls") if self.negotiated & CTLS else []

    def _query(self, code: int, kind: type[S], field: str) -> list[S]:
        number = self.read_config().as_dict()[field]
        data = self.ask(code, QueryInfo(0, number, kind.nbytes).pack(), room=number * kind.nbytes)
        return [kind.unpack(data[start:]) for start in range(0, len(data), kind.nbytes)]

    def read_control(self, control: int) -> int:
        """Return the value of a control.

        Raises:
            DeviceError: the card does not say.
        """
        value: int = Value.unpack(self.ask(CTL_READ, ControlHeader(control).pack(), room=Value.nbytes)).value
        return value

    def write_control(self, control: int, value: int) -> None:
        """Set a control; raises as `read_control` does."""
        self.ask(CTL_WRITE, ControlHeader(control).pack() + Value(value).pack())

    # Sound.

    def play(self, samples: Samples, data: bytes) -> None:
        """Play whole frames, and return when they were heard.

        Raises:
            LocalError: no card plays such samples.
            DeviceError: this one does not.
        """
        period = self._begin(OUTPUT, samples)
        pieces = [data[start : start + period] for start in range(0, len(data), period)]
        tickets = [self.txq.submit(PcmXfer(OUTPUT), piece) for piece in pieces[:PERIODS]]
        self.ask(START, PcmXfer(OUTPUT).pack())
        for piece in pieces[PERIODS:]:
            self._check(tickets.pop(0))
            tickets.append(self.txq.submit(PcmXfer(OUTPUT), piece))
        for ticket in tickets:
            self._check(ticket)
        self._end(OUTPUT)

    def record(self, samples: Samples, number: int) -> bytes:
        """Return ``number`` bytes of whole frames, as they come; raises as `play` does."""
        period = self._begin(INPUT, samples)
        pieces = [min(period, number - start) for start in range(0, number, period)]
        tickets = [self.rxq.submit(PcmXfer(INPUT), room=piece + PcmStatus.nbytes) for piece in pieces[:PERIODS]]
        self.ask(START, PcmXfer(INPUT).pack())
        data = b""
        for piece in pieces[PERIODS:]:
            data += self._check(tickets.pop(0))
            tickets.append(self.rxq.submit(PcmXfer(INPUT), room=piece + PcmStatus.nbytes))
        for ticket in tickets:
            data += self._check(ticket)
        self._end(INPUT)
        return data

    def _begin(self, stream: int, samples: Samples) -> int:
        """Prepare a stream; return the bytes of a period, some 10 ms."""
        try:
            code = next(code for code, width in FORMATS.items() if width == samples.width)
            rate = next(code for code, rate in RATES.items() if rate == samples.rate)
        except StopIteration as error:
            raise LocalError(f"no sound card has {samples}; use 1, 2 or 4 bytes and a usual rate") from error
        period = max(1, samples.rate // 100) * samples.frame
        params = PcmParams(PERIODS * period, period, 0, samples.channels, code, rate)
        self.ask(SET_PARAMS, PcmXfer(stream).pack() + params.pack())
        self.ask(PREPARE, PcmXfer(stream).pack())
        return period

    def _end(self, stream: int) -> None:
        self.ask(STOP, PcmXfer(stream).pack())
        self.ask(RELEASE, PcmXfer(stream).pack())

    def _check(self, ticket: Ticket) -> bytes:
        answer = ticket.result()
        if answer.tail.status != OK:
            raise DeviceError(f"the card answers a buffer with the status {answer.tail.status:#x}; look at its log")
        data: bytes = answer.data
        return data

    def ask(self, code: int, request: bytes = b"", *, room: int = 0) -> bytes:
        """Send a control request; return what came with its answer.

        Raises:
            DeviceError: the status is not VIRTIO_SND_S_OK.
        """
        answer = self.controlq.call(Header(code).pack() + request, room=Header.nbytes + room)
        status = Header.unpack(answer).code if len(answer) >= Header.nbytes else 0
        if status != OK:
            raise DeviceError(f"the card answers the request {code:#x} with the status {status:#x}; look at its log")
        data: bytes = answer[Header.nbytes :]
        return data
