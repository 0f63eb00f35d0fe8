"""The sound card: what is played is heard, what is recorded comes from its source, and time passes."""

from __future__ import annotations

import math
import time
import wave
from array import array
from itertools import product
from typing import TYPE_CHECKING

import pytest

from pyvirtio import open_driver, serving
from pyvirtio.audio import Command, Samples, Stream
from pyvirtio.audio.stream import TRANSITIONS, State
from pyvirtio.devices import sound
from pyvirtio.devices.sound import (
    BAD_MSG,
    CONNECTED,
    CONTROL_CHANGED,
    CTL_READ,
    CTL_WRITE,
    CTLS,
    DISCONNECTED,
    INPUT,
    JACK_INFO,
    LARGEST_BUFFER,
    NOT_SUPP,
    OUTPUT,
    PCM_INFO,
    PREPARE,
    RELEASE,
    SET_PARAMS,
    START,
    STOP,
    SWITCH,
    VOLUME,
    ControlEvent,
    ControlHeader,
    Event,
    Header,
    PcmParams,
    PcmStatus,
    PcmXfer,
    QueryInfo,
    Sound,
    Value,
)
from pyvirtio.drivers.sound import SoundDriver
from pyvirtio.errors import DeviceError, LocalError

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.uapi import Uapi

CD = Samples(2, 2, 44100)
VOICE = Samples(1, 1, 8000)


def tone(samples: Samples, seconds: float) -> bytes:
    """Return a tone of 440 Hz in all channels."""
    times = [frame / samples.rate for frame in range(int(samples.rate * seconds)) for _ in range(samples.channels)]
    values = [math.sin(2 * math.pi * 440 * at) for at in times]
    if samples.width == 1:
        return bytes(128 + int(127 * value) for value in values)
    largest = 2 ** (8 * samples.width - 1) - 1
    return array("h" if samples.width == 2 else "i", [int(value * largest) for value in values]).tobytes()


def write_wav(path: Path, samples: Samples, data: bytes) -> None:
    with wave.open(str(path), "wb") as file:
        file.setparams((samples.channels, samples.width, samples.rate, 0, "NONE", ""))
        file.writeframes(data)


def read_wav(path: Path) -> tuple[Samples, bytes]:
    with wave.open(str(path), "rb") as file:
        samples = Samples(file.getsampwidth(), file.getnchannels(), file.getframerate())
        return samples, file.readframes(file.getnframes())


@pytest.mark.parametrize("samples", [CD, VOICE, Samples(4, 2, 48000)], ids=str)
def test_each_stream_that_is_played_is_a_file_of_its_own(place, tmp_path: Path, samples: Samples):
    path = tmp_path / "out.wav"
    path.write_bytes(b"somebody's file")
    sounds = [tone(samples, 0.1), tone(samples, 0.05)]
    with place(lambda: Sound(path), f"sound,output={path}") as device, open_driver(SoundDriver, device) as card:
        for data in sounds:
            card.play(samples, data)
    assert path.read_bytes() == b"somebody's file"
    assert [read_wav(tmp_path / f"out-{number}.wav") for number in (1, 2)] == [(samples, data) for data in sounds]


def test_a_file_is_recorded_as_it_is_and_then_there_is_silence(place, tmp_path: Path):
    path = tmp_path / "in.wav"
    write_wav(path, VOICE, data := tone(VOICE, 0.1))
    with place(lambda: Sound(input=path), f"sound,input={path}") as device, open_driver(SoundDriver, device) as card:
        assert card.record(VOICE, 1200) == data + b"\x80" * 400
        with pytest.raises(DeviceError):
            card.record(CD, CD.frame)  # the file has other samples


def test_a_function_is_heard_and_hears():
    heard: list[bytes] = []
    card = Sound(lambda data, samples: heard.append(data), lambda number, samples: b"\x07" * number)
    with open_driver(SoundDriver, card) as driver:
        driver.play(CD, data := tone(CD, 0.05))
        assert b"".join(heard) == data
        assert driver.record(CD, 400) == b"\x07" * 400


def test_a_second_of_sound_takes_a_second():
    with open_driver(SoundDriver, Sound()) as card:
        before = time.monotonic()
        card.play(CD, tone(CD, 0.3))
        assert time.monotonic() - before >= 0.29


def test_the_volume_is_heard_and_each_side_learns_of_the_other_s_hand(place):
    heard: list[bytes] = []
    with open_driver(SoundDriver, Sound(lambda data, samples: heard.append(data))) as card:
        assert [control.name for control in card.controls()] == ["Master Playback Volume", "Master Playback Switch"]
        card.write_control(VOLUME, 50)
        card.play(CD, b"\x00\x40" * 800)
        assert b"".join(heard) == b"\x00\x20" * 800
        heard.clear()
        card.write_control(SWITCH, 0)
        card.play(CD, b"\x00\x40" * 800)
        assert b"".join(heard) == bytes(1600)
        assert (card.read_control(VOLUME), card.read_control(SWITCH)) == (50, 0)


def test_plugs_and_knobs_on_the_host_are_events(tmp_path: Path):
    path = str(tmp_path / "s")
    with serving(Sound(), path) as served, open_driver(SoundDriver, f"vhost-user:{path}") as card:
        events = card.eventq.incoming(room=8, timeout=30)
        assert [jack.connected for jack in card.jacks()] == [1, 1]
        served.call(served.device.plug, OUTPUT, connected=False)
        assert next(events) == Event(DISCONNECTED, OUTPUT).pack()
        assert [jack.connected for jack in card.jacks()] == [0, 1]
        served.call(served.device.plug, OUTPUT, connected=True)
        assert next(events) == Event(CONNECTED, OUTPUT).pack()
        served.call(served.device.adjust, VOLUME, 10)
        assert next(events) == ControlEvent(CONTROL_CHANGED, VOLUME, 1).pack()
        assert card.read_control(VOLUME) == 10
        with pytest.raises(LocalError):
            served.call(served.device.adjust, VOLUME, 101)


def test_a_file_that_no_stream_can_have_is_refused(tmp_path: Path):
    (tmp_path / "text.wav").write_text("no sound")
    write_wav(tmp_path / "odd.wav", Samples(3, 1, 44100), bytes(30))
    for name in ("text.wav", "odd.wav"):
        with pytest.raises(LocalError):
            Sound(input=tmp_path / name)


@pytest.mark.parametrize(("command", "state"), list(product(Command, State)))
def test_a_command_in_the_wrong_state_changes_nothing(command: Command, state: State):
    stream = Stream()
    stream.state = state
    allowed, after = TRANSITIONS[command]
    assert stream.command(command) is (state in allowed)
    assert stream.state is (after if state in allowed else state)


def test_a_release_passes_back_every_buffer_before_it_is_answered(place):
    """VIRTIO 1.4, 5.14.6.6.5.1."""
    with place(Sound, "sound") as device, open_driver(SoundDriver, device) as card:
        period = card._begin(OUTPUT, VOICE)
        tickets = [card.txq.submit(PcmXfer(OUTPUT), bytes(period)) for _ in range(4)]
        card.ask(RELEASE, PcmXfer(OUTPUT).pack())
        card.txq.reap()
        assert [ticket.done for ticket in tickets] == [True] * 4


# What no driver should ask.

GOOD = PcmParams(4000, 1000, 0, 2, 5, 7)
REFUSED = {
    "S1 an unknown request": (0x999, b"", NOT_SUPP),
    "S2 jacks cannot be mapped anew": (2, bytes(12), NOT_SUPP),
    "S3 a query that is cut": (JACK_INFO, bytes(8), BAD_MSG),
    "S4 more items than there are": (JACK_INFO, QueryInfo(0, 3, 24).pack(), BAD_MSG),
    "S5 items whose numbers overflow": (PCM_INFO, QueryInfo(2**32 - 1, 2**32 - 1, 2**32 - 1).pack(), BAD_MSG),
    "S6 an item of 4 GiB": (PCM_INFO, QueryInfo(0, 1, 2**32 - 1).pack(), BAD_MSG),
    "S7 a stream that is not there": (PREPARE, PcmXfer(2).pack(), BAD_MSG),
    "S8 a start out of nothing": (START, PcmXfer(0).pack(), BAD_MSG),
    "S9 a release out of nothing": (RELEASE, PcmXfer(1).pack(), BAD_MSG),
    "S10 no period": (SET_PARAMS, PcmXfer(0).pack() + GOOD.replace(period_bytes=0).pack(), BAD_MSG),
    "S11 a period that is no part": (SET_PARAMS, PcmXfer(0).pack() + GOOD.replace(period_bytes=999).pack(), BAD_MSG),
    "S12 an enormous buffer": (
        SET_PARAMS,
        PcmXfer(0).pack() + GOOD.replace(buffer_bytes=2 * LARGEST_BUFFER, period_bytes=LARGEST_BUFFER).pack(),
        NOT_SUPP,
    ),
    "S13 a format that is not offered": (SET_PARAMS, PcmXfer(0).pack() + GOOD.replace(format=255).pack(), NOT_SUPP),
    "S14 a rate that is not offered": (SET_PARAMS, PcmXfer(0).pack() + GOOD.replace(rate=200).pack(), NOT_SUPP),
    "S15 too many channels": (SET_PARAMS, PcmXfer(0).pack() + GOOD.replace(channels=9).pack(), NOT_SUPP),
    "S16 no channel": (SET_PARAMS, PcmXfer(0).pack() + GOOD.replace(channels=0).pack(), NOT_SUPP),
    "S17 shared memory": (SET_PARAMS, PcmXfer(0).pack() + GOOD.replace(features=1).pack(), NOT_SUPP),
    "S18 a control that is not there": (CTL_READ, ControlHeader(7).pack(), BAD_MSG),
    "S19 a volume above all": (CTL_WRITE, ControlHeader(0).pack() + Value(101).pack(), BAD_MSG),
    "S20 a volume that is cut": (CTL_WRITE, ControlHeader(0).pack() + bytes(8), BAD_MSG),
    "S21 a stop of what does not run": (STOP, PcmXfer(0).pack(), BAD_MSG),
}


def test_a_malformed_request_gets_its_status_and_changes_nothing(place):
    with place(Sound, "sound") as device, open_driver(SoundDriver, device) as card:
        for name, (code, request, status) in REFUSED.items():
            answer = card.controlq.call(Header(code).pack() + request, room=600)
            assert answer == Header(status).pack(), name
        assert card.controlq.call(b"\x01", room=600) == Header(BAD_MSG).pack()  # S22: no code
        assert card.controlq.call(Header(PCM_INFO).pack(), room=3) == b""  # S23: no room for a status
        assert len(card.streams()) == 2


def test_buffers_for_no_stream_fail_and_cost_nothing(place):
    with place(Sound, "sound") as device, open_driver(SoundDriver, device) as card:
        bad = [
            card.txq.call(PcmXfer(OUTPUT), bytes(400)),  # S24: nothing is set up
            card.txq.call(PcmXfer(INPUT), bytes(400)),  # S25: the wrong direction
            card.txq.call(PcmXfer(99), bytes(400)),  # S26: no such stream
            card.rxq.call(PcmXfer(INPUT), room=400 + PcmStatus.nbytes),  # S27
        ]
        period = card._begin(OUTPUT, VOICE)
        bad += [
            card.txq.call(PcmXfer(OUTPUT), bytes(4 * period + 1)),  # S28: more than the whole ring
            card.rxq.call(PcmXfer(INPUT), room=1 << 20),  # S29: for a stream that is not set up
        ]
        assert {answer.tail.status for answer in bad} == {0x8003}
        card.ask(RELEASE, PcmXfer(OUTPUT).pack())
        card.play(VOICE, bytes(80))


def test_controls_need_their_feature():
    with open_driver(SoundDriver, Sound(), features=0) as card:
        assert not card.negotiated & CTLS
        assert card.controls() == []
        with pytest.raises(DeviceError):
            card.read_control(0)


@pytest.mark.guest  # it needs what is provisioned for guests
def test_a_card_speaks_as_linux_does(uapi: Uapi):
    structures = {
        sound.Config: ("virtio_snd_config", {}),
        sound.JackInfo: ("virtio_snd_jack_info", {"hda_fn_nid": "hdr"}),
        sound.PcmInfo: ("virtio_snd_pcm_info", {"hda_fn_nid": "hdr"}),
        sound.ChmapInfo: ("virtio_snd_chmap_info", {"hda_fn_nid": "hdr"}),
        PcmXfer: ("virtio_snd_pcm_xfer", {}),
        PcmStatus: ("virtio_snd_pcm_status", {}),
        Value: ("virtio_snd_ctl_value", {"value": "value.integer[0]", "others": "value.integer[1]"}),
        ControlEvent: ("virtio_snd_ctl_event", {"code": "hdr"}),
        sound.ControlInfo: (
            "virtio_snd_ctl_info",
            {"hda_fn_nid": "hdr", "padding": "name[44]", "min": "value.integer.min", "max": "value.integer.max"}
            | {"step": "value.integer.step", "others": "value.integer64.max + 4"},
        ),
    }
    for ours, (theirs, names) in structures.items():
        fields = [name for name in ours().as_dict() if name != "others" or ours is Value]
        places = [f"__builtin_offsetof(struct {theirs}, {names.get(name, name)})" for name in fields]
        found = uapi.evaluate("linux/virtio_snd.h", [*places, f"sizeof(struct {theirs})"])
        assert found == [*map(ours.offset_of, fields), ours.nbytes], theirs
    codes = ("JACK_INFO", "PCM_INFO", "CHMAP_INFO", "CTL_INFO", "CTL_READ", "CTL_WRITE")
    pcm = ("SET_PARAMS", "PREPARE", "RELEASE", "START", "STOP")
    statuses = ("OK", "BAD_MSG", "NOT_SUPP", "IO_ERR")
    assert not uapi.differences(
        "linux/virtio_snd.h",
        bits={"VIRTIO_SND_F_CTLS": CTLS},
        numbers={f"VIRTIO_SND_R_{name}": getattr(sound, name) for name in codes}
        | {f"VIRTIO_SND_R_PCM_{name}": getattr(sound, name) for name in pcm}
        | {f"VIRTIO_SND_S_{name}": getattr(sound, name) for name in statuses}
        | {"VIRTIO_SND_EVT_JACK_CONNECTED": CONNECTED, "VIRTIO_SND_EVT_CTL_NOTIFY": CONTROL_CHANGED}
        | {"VIRTIO_SND_PCM_FMT_U8": 4, "VIRTIO_SND_PCM_FMT_S16": 5, "VIRTIO_SND_PCM_FMT_S32": 17}
        | {f"VIRTIO_SND_PCM_RATE_{rate}": code for code, rate in sound.RATES.items()},
    )
    assert list(sound.FORMATS) == [4, 5, 17]
