"""A sound card under Linux's own driver, with ALSA's own programs. One boot, much in it."""

from __future__ import annotations

import os
import signal
import wave
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pyvirtio import serving
from pyvirtio.devices.sound import INPUT, SWITCH, VOLUME, Sound
from pyvirtio.errors import GuestError
from pyvirtio.testing.served import served
from pyvirtio.vm import VhostUserDevice
from tests.support.guests import guest, unremarkable

if TYPE_CHECKING:
    import random

    from pyvirtio.vm import Guest

pytestmark = [pytest.mark.guest, pytest.mark.timeout(900)]  # the first run downloads a kernel with sound

CARD = "-D hw:0,0"
PROMPT = "until grep -q SoundCard /proc/asound/cards; do usleep 10000; done"


def write_wav(path: Path, data: bytes) -> bytes:
    with wave.open(str(path), "wb") as file:
        file.setparams((2, 2, 44100, 0, "NONE", ""))
        file.writeframes(data)
    return data


def read_wav(path: Path) -> bytes:
    with wave.open(str(path), "rb") as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (2, 2, 44100)
        return file.readframes(file.getnframes())


def control(machine: Guest, name: str) -> str:
    return machine.run(f"amixer cget name='{name}'").stdout.rsplit("values=", 1)[1].strip()


def test_linux_plays_records_and_turns_knobs(tmp_path: Path, rng: random.Random) -> None:
    tone = write_wav(tmp_path / "tone.wav", rng.randbytes(4 * 22050))
    heard, path = tmp_path / "heard.wav", str(tmp_path / "s")
    with (
        serving(Sound(heard, tmp_path / "tone.wav"), path) as card,
        guest(card, packages=["alsa-utils"], files={"/root/tone.wav": tmp_path / "tone.wav"}) as machine,
        unremarkable(machine),
    ):
        # What is played is heard, and what is recorded comes from the file; silence fills a last period.
        assert machine.run(f"aplay {CARD} /root/tone.wav").returncode == 0
        assert read_wav(heard).rstrip(b"\0") == tone.rstrip(b"\0")
        recorded = machine.run(f"arecord -q {CARD} -f cd -t raw -d 1 | head -c {len(tone)} | md5sum").stdout
        assert recorded == machine.run(f"tail -c {len(tone)} /root/tone.wav | md5sum").stdout

        # A hand on either side, and the other one sees it.
        assert machine.run("amixer -q cset name='Master Playback Volume' 50").returncode == 0
        assert control(machine, "Master Playback Volume") == "50"
        card.call(card.device.adjust, VOLUME, 70)
        card.call(card.device.adjust, SWITCH, 0)
        assert control(machine, "Master Playback Volume") == "70"
        assert control(machine, "Master Playback Switch") == "off"
        jacks = "amixer controls | grep -c Jack"
        assert machine.run(jacks).lines == ["2"]
        microphone = machine.run("amixer controls | grep -o \"name='.*Mic.*Jack'\" | cut -d\\' -f2").lines[0]
        assert control_of_jack(machine, microphone) == "on"
        card.call(card.device.plug, INPUT, connected=False)
        assert control_of_jack(machine, microphone) == "off"
        card.call(card.device.adjust, SWITCH, 1)
        card.call(card.device.adjust, VOLUME, 100)

        # The machine pauses in the midst of a sound, which then goes on.
        machine.send(f"aplay {CARD} /root/tone.wav; echo played")
        machine.stop()
        machine.cont()
        assert machine.result().lines[-1] == "played"

        # The driver lets go of the card and takes it again; the guest starts anew.
        device = "$(basename $(ls -d /sys/bus/virtio/drivers/virtio_snd/virtio*))"
        assert (
            machine.run(f"cd /sys/bus/virtio/drivers/virtio_snd; d={device}; echo $d >unbind; echo $d >bind").returncode
            == 0
        )
        assert machine.run(f"{PROMPT}; aplay {CARD} /root/tone.wav").returncode == 0
        machine.reset()
        assert machine.run(f"{PROMPT}; aplay {CARD} /root/tone.wav").returncode == 0
        last = max(tmp_path.glob("heard*.wav"), key=lambda one: one.stat().st_mtime_ns)
        assert read_wav(last).rstrip(b"\0") == tone.rstrip(b"\0")

        # The card is pulled out while it plays: the program gets an error, and the kernel lives.
        machine.send(f"aplay {CARD} -d 30 /dev/zero -t raw -f cd; echo ended")
        try:
            machine.unplug()
        except GuestError:
            if machine._process is not None and machine._process.wait(10) < 0:
                pytest.xfail("QEMU 11.1 itself was seen to crash here, once in some twenty times")
            raise
        assert machine.result().lines[-1] == "ended"
        assert "SoundCard" not in machine.run("cat /proc/asound/cards").stdout


def control_of_jack(machine: Guest, name: str) -> str:
    return machine.run(f"amixer cget iface=CARD,name='{name}'").stdout.rsplit("values=", 1)[1].strip()


def test_a_card_whose_worker_dies_while_it_plays_plays_again(tmp_path: Path, rng: random.Random) -> None:
    tone = write_wav(tmp_path / "tone.wav", rng.randbytes(4 * 22050))
    with served(f"sound,output={tmp_path}/heard.wav") as server:
        attached = VhostUserDevice.of(Sound().description(), Path(server.path))
        with guest(attached, packages=["alsa-utils"], files={"/root/tone.wav": tmp_path / "tone.wav"}) as machine:
            machine.send(f"aplay {CARD} -d 5 /dev/zero -t raw -f cd; echo ended")
            while not (tmp_path / "heard.wav").exists():
                assert server.is_alive()
            [worker] = server.workers()
            os.kill(worker, signal.SIGKILL)
            assert machine.result().lines[-1] == "ended"
            assert machine.run(f"aplay {CARD} /root/tone.wav").returncode == 0
            assert server.workers() != [worker]
    last = max(tmp_path.glob("heard*.wav"), key=lambda one: one.stat().st_mtime_ns)
    assert read_wav(last).rstrip(b"\0") == tone.rstrip(b"\0")
