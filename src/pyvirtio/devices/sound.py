"""A sound card (VIRTIO 1.4, 5.14): what is played goes into WAV files, a WAV file or a function is what it hears."""

from pathlib import Path
from typing import Any

from pyvirtio.audio import Play, Playback, Record, Recording, Samples
from pyvirtio.audio.stream import Command, Stream
from pyvirtio.device import Device, OutgoingQueue, Queue, Reader, Writer
from pyvirtio.errors import ChainError, LocalError, ShortData
from pyvirtio.spec.struct import Struct, array, chars, le16, le32, le64, u8

CTLS = 1  # feature bit 0: the card has controls
OK, BAD_MSG, NOT_SUPP, IO_ERR = range(0x8000, 0x8004)  # statuses
OUTPUT, INPUT = 0, 1  # directions; here also the numbers of the two streams, jacks and channel maps
VOLUME, SWITCH = 0, 1  # the two controls
LARGEST_BUFFER = 1 << 20  # bytes; a driver's ring of periods takes no more


JACK_INFO, CHMAP_INFO, CTL_INFO, CTL_READ, CTL_WRITE = 1, 0x200, 0x300, 0x302, 0x303  # codes of requests
PCM_INFO, SET_PARAMS, PREPARE, RELEASE, START, STOP = range(0x100, 0x106)
CONNECTED, DISCONNECTED, CONTROL_CHANGED = 0x1000, 0x1001, 0x1200  # codes of events
READ_WRITE, VALUE_CHANGED = 3, 1
COMMANDS = {PREPARE: Command.PREPARE, START: Command.START, STOP: Command.STOP, RELEASE: Command.RELEASE}
LINE_OUT, MICROPHONE = 0x0101_4010, 0x01A1_9020  # what High Definition Audio calls a pin's configuration
FORMATS = {4: 1, 5: 2, 17: 4}  # U8, S16 and S32, and their width in bytes
RATES = dict(enumerate([5512, 8000, 11025, 16000, 22050, 32000, 44100, 48000, 64000, 88200, 96000, 176400, 192000]))
FRONT_LEFT, FRONT_RIGHT = 3, 4  # positions of channels


class Config(Struct):
    jacks: int = le32()
    streams: int = le32()
    chmaps: int = le32()
    controls: int = le32()


class Header(Struct):
    code: int = le32()


class Event(Struct):
    code: int = le32()
    data: int = le32()


class QueryInfo(Struct):
    start_id: int = le32()
    count: int = le32()
    size: int = le32()


class JackInfo(Struct):
    hda_fn_nid: int = le32()
    features: int = le32()
    hda_reg_defconf: int = le32()
    hda_reg_caps: int = le32()
    connected: int = u8()
    padding: tuple[int, ...] = array(u8(), 7)


class PcmInfo(Struct):
    hda_fn_nid: int = le32()
    features: int = le32()
    formats: int = le64()
    rates: int = le64()
    direction: int = u8()
    channels_min: int = u8()
    channels_max: int = u8()
    padding: tuple[int, ...] = array(u8(), 5)


class PcmParams(Struct):
    buffer_bytes: int = le32()
    period_bytes: int = le32()
    features: int = le32()
    channels: int = u8()
    format: int = u8()
    rate: int = u8()
    padding: int = u8()


class PcmXfer(Struct):
    stream_id: int = le32()


class PcmStatus(Struct):
    status: int = le32()
    latency_bytes: int = le32()


class ChmapInfo(Struct):
    hda_fn_nid: int = le32()
    direction: int = u8()
    channels: int = u8()
    positions: tuple[int, ...] = array(u8(), 18)


class ControlInfo(Struct):  # the union at its end as far as integers need it; Linux aligns it, so there is padding
    hda_fn_nid: int = le32()
    role: int = le32()
    type: int = le32()
    access: int = le32()
    count: int = le32()
    index: int = le32()
    name: str = chars(44)
    padding: int = le32()
    min: int = le32()
    max: int = le32()
    step: int = le32()
    others: tuple[int, ...] = array(le32(), 3)


class ControlHeader(Struct):
    control_id: int = le32()


class Value(Struct):
    value: int = le32()
    others: tuple[int, ...] = array(le32(), 127)


class ControlEvent(Struct):
    code: int = le32()
    control_id: int = le16()
    mask: int = le16()


CONTROLS = [
    ControlInfo(0, 1 << 1 | OUTPUT, 1, READ_WRITE, 1, 0, "Master Playback Volume", max=100, step=1),
    ControlInfo(0, 2 << 1 | OUTPUT, 0, READ_WRITE, 1, 0, "Master Playback Switch", max=1, step=1),
]


class Refusal(Exception):
    """A request gets a status, and nothing else."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class Sound(Device):
    """A card with an output, a microphone, and a master volume.

    ``output`` is a WAV file, one for each stream that is played (see `WavWriter`), or a function; without it nobody
    hears anything. ``input`` is a WAV file or a function; without it there is silence. A second of sound takes a
    second. `plug` and `adjust` are hands on the card.
    """

    device_id = 25
    features = CTLS
    controlq = Queue(size=64, held=True)
    eventq = OutgoingQueue(size=64)
    txq = Queue(size=64, held=True)
    rxq = Queue(size=64, held=True)

    def __init__(self, output: Path | Play | None = None, input: Path | Record | None = None) -> None:  # noqa: A002  # the option's name
        self._output = Playback(output)
        self._input = Recording(input)
        self._streams = [Stream(), Stream()]
        self._jacks = [JackInfo(0, 0, LINE_OUT, 0x10, 1), JackInfo(0, 0, MICROPHONE, 0x20, 1)]
        self._pcms = [_pcm_info(OUTPUT, None), _pcm_info(INPUT, self._input.samples)]
        chmaps = [ChmapInfo(0, direction, 2, (FRONT_LEFT, FRONT_RIGHT, *[0] * 16)) for direction in (0, 1)]
        self._values = [100, 1]
        self._items: dict[int, list[Any]] = {
            JACK_INFO: self._jacks,
            PCM_INFO: self._pcms,
            CHMAP_INFO: chmaps,
            CTL_INFO: CONTROLS,
        }
        self._requests = dict.fromkeys(self._items, self._info) | dict.fromkeys(COMMANDS, self._command)
        self._requests |= {SET_PARAMS: self._set_params, CTL_READ: self._read_control, CTL_WRITE: self._write_control}
        self.config = Config(len(self._jacks), len(self._streams), len(chmaps), len(CONTROLS))

    def close(self) -> None:
        """Complete the file that is written."""
        self._output.end()

    # Hands on the card.

    async def plug(self, jack: int, *, connected: bool) -> None:
        """Put a plug into the jack OUTPUT or INPUT, or pull it out."""
        self._jacks[jack] = self._jacks[jack].replace(connected=int(connected))
        if self.negotiated:  # a driver that comes later asks
            await self.eventq.send(Event(CONNECTED if connected else DISCONNECTED, jack).pack())

    async def adjust(self, control: int, value: int) -> None:
        """Set the control VOLUME (0 to 100) or SWITCH (0 or 1), as a guest does.

        Raises:
            LocalError: it cannot have that value.
        """
        if not CONTROLS[control].min <= value <= CONTROLS[control].max:
            raise LocalError(
                f"{value} cannot be set; give a value from {CONTROLS[control].min} to {CONTROLS[control].max}"
            )
        self._values[control] = value
        if self.negotiated & CTLS:
            await self.eventq.send(ControlEvent(CONTROL_CHANGED, control, VALUE_CHANGED).pack())

    # Requests.

    @controlq.stream
    async def control(self, reader: Reader, writer: Writer) -> None:
        answer = b""
        try:
            code = reader.take(Header).code
            if code not in self._requests:
                raise Refusal(NOT_SUPP)
            answer, status = await self._requests[code](code, reader, writer.room - Header.nbytes), OK
        except Refusal as refusal:
            status = refusal.status
        except ShortData:
            status = BAD_MSG
        writer.put(Header(status))
        writer.write(answer)

    async def _info(self, code: int, reader: Reader, room: int) -> bytes:
        query, items = reader.take(QueryInfo), self._items[code]
        if query.start_id + query.count > len(items) or query.count * query.size > room:  # 5.14.6.2
            raise Refusal(BAD_MSG)
        wanted = items[query.start_id :][: query.count]
        return b"".join(item.pack()[: query.size].ljust(query.size, b"\0") for item in wanted)

    async def _set_params(self, code: int, reader: Reader, room: int) -> bytes:
        number, params = reader.take(PcmXfer).stream_id, reader.take(PcmParams)
        stream, pcm = self._stream(number), self._pcms[number]
        if not params.period_bytes or params.buffer_bytes % params.period_bytes:  # 5.14.6.6.3.2
            raise Refusal(BAD_MSG)
        is_offered = (
            pcm.formats >> params.format & pcm.rates >> params.rate & 1
            and pcm.channels_min <= params.channels <= pcm.channels_max
            and params.buffer_bytes <= LARGEST_BUFFER
            and not params.features
        )
        if not is_offered:
            raise Refusal(NOT_SUPP)
        if not stream.command(Command.SET_PARAMS):
            raise Refusal(BAD_MSG)
        stream.samples = Samples(FORMATS[params.format], params.channels, RATES[params.rate])
        stream.buffer = params.buffer_bytes
        return b""

    async def _command(self, code: int, reader: Reader, room: int) -> bytes:
        number = reader.take(PcmXfer).stream_id
        stream, command = self._stream(number), COMMANDS[code]
        if not stream.command(command):
            raise Refusal(BAD_MSG)
        if command is Command.RELEASE:
            await stream.drain()
        if command in (Command.PREPARE, Command.RELEASE) and number == OUTPUT:
            self._output.end()
        return b""

    async def _read_control(self, code: int, reader: Reader, room: int) -> bytes:
        return Value(self._values[self._control(reader)]).pack()

    async def _write_control(self, code: int, reader: Reader, room: int) -> bytes:
        control = self._control(reader)
        value = reader.take(Value).value
        if not CONTROLS[control].min <= value <= CONTROLS[control].max:
            raise Refusal(BAD_MSG)
        self._values[control] = value
        return b""

    def _control(self, reader: Reader) -> int:
        number: int = reader.take(ControlHeader).control_id
        if number >= len(CONTROLS) or not self.negotiated & CTLS:
            raise Refusal(BAD_MSG)
        return number

    def _stream(self, number: int) -> Stream:
        if number >= len(self._streams):
            raise Refusal(BAD_MSG)
        return self._streams[number]

    # Sound.

    @txq.stream
    async def play(self, reader: Reader, writer: Writer) -> None:
        stream = self._stream_of(reader, OUTPUT, reader.left - PcmXfer.nbytes)
        async with stream.turn(reader.left) as is_running:
            if is_running:
                gain = self._values[VOLUME] / 100 * self._values[SWITCH]
                self._output.play(stream.samples, stream.samples.scaled(reader.read(), gain))
        writer.put(PcmStatus(OK))

    @rxq.stream
    async def record(self, reader: Reader, writer: Writer) -> None:
        number = writer.room - PcmStatus.nbytes
        stream = self._stream_of(reader, INPUT, number)
        async with stream.turn(number) as is_running:
            writer.write(self._input.record(stream.samples, number) if is_running else bytes(number))
        writer.put(PcmStatus(OK))

    def _stream_of(self, reader: Reader, direction: int, number: int) -> Stream:
        """Return the stream that a buffer of ``number`` bytes is for."""
        stream_id = reader.take(PcmXfer).stream_id
        stream = self._streams[direction]
        if stream_id != direction or not 0 <= number <= stream.buffer or number % stream.samples.frame:
            raise ChainError(f"a buffer of {number} bytes does not belong to stream {stream_id}", section="5.14.6.8")
        return stream

    @txq.failed
    @rxq.failed
    def fail(self, writer: Writer) -> None:
        if writer.room >= PcmStatus.nbytes:
            writer.skip(writer.room - PcmStatus.nbytes)
            writer.put(PcmStatus(IO_ERR))


def _pcm_info(direction: int, samples: Samples | None) -> PcmInfo:
    """Return what a stream can be: anything, or what ``samples`` are and nothing else."""
    formats = [code for code, width in FORMATS.items() if samples is None or width == samples.width]
    rates = [code for code, rate in RATES.items() if samples is None or rate == samples.rate]
    if not formats or not rates:
        raise LocalError(f"no stream has {samples}; convert the WAV file to 8, 16 or 32 bits and a usual rate")
    least, most = (samples.channels, samples.channels) if samples else (1, 2)
    return PcmInfo(0, 0, sum(1 << code for code in formats), sum(1 << code for code in rates), direction, least, most)
