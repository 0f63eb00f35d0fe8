"""The kinds of projects, as a table: what each is, and what a user sees of it.

The texts are templates as the files are; what is shown is compared with what projects really print.
"""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT = ""
"""The kind of a project that is like no shipped device."""


@dataclass(frozen=True)
class Kind:
    """One kind of project.

    Attributes:
        about: what the device is, as a sentence without its full stop.
        shown: what ``make run`` prints.
        guest_shown: what ``make guest`` prints.
        change: where to begin with changes.
        packages: Debian packages that the guest needs.
        files: the project's files for the guest, and where they are there.
        own_driver: whether Linux has no driver for it, so that the project brings one.
    """

    about: str
    shown: str
    guest_shown: str
    change: str
    packages: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    own_driver: bool = False


KINDS = {
    DEFAULT: Kind(
        about="A virtio device that keeps a few numbers, with drivers in Python and for Linux",
        shown="channel 2 of 4 is 42",
        guest_shown="42",
        change="""\
1. Say in `{{name}}.py` what a request, an answer and the configuration space look like, and what the device does.
2. `make linux/{{name}}.h` writes them down for C; `make test` and `make guest` do it by themselves or say so.
3. Change both drivers: `{{name}}_driver.py`, and `linux/{{name}}.c` with `linux/ask.py`, the guest's program for it.

The virtio id is 38, which QEMU forwards and no driver of Linux claims. In the guest the device is `/dev/{{name}}0`.""",
        files=("linux/ask.py:/bin/ask",),
        own_driver=True,
    ),
    "block": Kind(
        about="A disk that is an object of Python, for Linux's virtio_blk",
        shown="hello: 512 bytes of 16777216 were written",
        guest_shown="hello",
        change="""\
`Content` in `{{name}}.py` is the disk: `__len__` says how large it is, `__getitem__` makes what a guest reads, and
`__setitem__` takes what it writes. It need not exist anywhere: any object whose slices are bytes is a disk. What the
device keeps lives in its worker process, and goes with it; what is to last belongs into a file.""",
    ),
    "console": Kind(
        about="A serial port whose other end is Python, for Linux's virtio_console",
        shown="HELLO",
        guest_shown="HELLO",
        change="""\
`answer` in `{{name}}.py` is what the host's end says to a line of the guest's. `Answering` makes lines of bytes; an
`End` of your own takes bytes in `put`, and gives some in `read` whenever it likes. In a guest with udev the port is
`/dev/virtio-ports/{{name}}`.""",
    ),
    "net": Kind(
        about="A network card with a function at the end of its cable, for Linux's virtio_net",
        shown="192.0.2.1 is at 02:00:00:00:00:01",
        guest_shown="192.0.2.1 answers",
        change="""\
`answer` in `{{name}}.py` is called with each frame of the guest's and returns a frame, a list of frames, or None. To
send a frame that nobody asked for, call `inject` of the device's `end`.""",
    ),
    "entropy": Kind(
        about="A source of random bytes of one's own, for Linux's virtio_rng",
        shown="600 bytes from 1 to 6",
        guest_shown="0 of 600 bytes are no throw of a die",
        change="""\
`throws` in `{{name}}.py` is called for at most so many bytes. It may take its time, for it runs in a thread, and may
return fewer. In a test, `random.Random(1).randbytes` gives a guest the same bytes each time.""",
    ),
    "input": Kind(
        about="A keyboard that a program operates, for Linux's virtio_input",
        shown="{{name}} KEY_H KEY_I KEY_H KEY_I",
        guest_shown="keys 23 35",
        change="""\
`work` in `{{name}}.py` is what happens as long as there is a driver: `type` writes a text, `press`, `release` and `tap`
are for any keys. `super().__init__("mouse")`, `"tablet"` and `"touch"` are the other kinds, with `move`, `point` and
`touch`. The guest sees keys by the numbers of Linux's input-event-codes.h: 23 is KEY_I, 35 is KEY_H.""",
    ),
    "9p": Kind(
        about="Files that are functions, for Linux's 9p",
        shown="about, lamp: the lamp says 1",
        guest_shown="1",
        change="""\
`files` in `{{name}}.py` says what there is: a mapping is a folder, text or a function is a file to be read, a pair of
functions one to be read and written. A function may be `async def`, and one that raises `OSError` chooses the error
that the guest's program sees.""",
    ),
    "vsock": Kind(
        about="Sockets between a guest and functions of Python, for Linux's vsock",
        shown="HELLO",
        guest_shown="HELLO",
        change="""\
`answer` in `{{name}}.py` serves one connection to port 1234 of the host: it reads from the stream until nothing comes,
and writes to it. `services` has a function for each port. `await device.connect(port)` is the other direction.""",
    ),
    "sound": Kind(
        about="A sound card on functions, for Linux's virtio_snd",
        shown="a tenth of a second was recorded and played; the loudest sample is 32767",
        guest_shown="16000 bytes were recorded and played",
        change="""\
`listen` in `{{name}}.py` gets what a guest plays, `speak` makes what it records. Both are called with whole frames, a
few milliseconds of them, and with what these look like: a guest chooses their width, channels and rate.""",
        packages=("alsa-utils",),
    ),
    "echo": Kind(
        about="A virtio device that answers bytes with bytes, with drivers in Python and for Linux",
        shown="HELLO",
        guest_shown="HELLO",
        change="""\
`answer` in `{{name}}.py` makes what comes back. In the guest, what is written to `/dev/{{name}}0` is a request,
and what is then read is its answer. Where you change structures, `make linux/{{name}}.h` writes them down for C, and
both drivers have to follow: `{{name}}_driver.py` and `linux/{{name}}.c`.

The virtio id is 38, which QEMU forwards and no driver of Linux claims.""",
        own_driver=True,
    ),
    "factorial": Kind(
        about="A function of a number as a device, for the driver that comes with pyvirtio",
        shown="the answer to 12 is 144",
        guest_shown="144",
        change="""\
`compute` in `{{name}}.py` is the function. A request has the structure of the factorial device's, so that its driver
and its program in the guest work here as well; a device with structures of its own, and a driver for Linux, is what
`pyvirtio new` makes without `--like`.""",
    ),
}
