"""The messages of 9P2000.L, byte by byte, and what Linux's own header says of them."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from pyvirtio.errors import ProtocolError, ProvisionError
from pyvirtio.files import structures as files
from pyvirtio.ninep import structures as s
from pyvirtio.ninep.messages import FORMATS, pack, unpack
from pyvirtio.vm.launch import GuestOptions, default_builder

if TYPE_CHECKING:
    from pyvirtio.spec.struct import Struct
    from tests.support.uapi import Uapi

QID = files.Qid(0x80, 2, 3)
BYTES: dict[str, tuple[str, dict[str, Any]]] = {
    "Tversion": ("13000000 64 ffff 00001000 0600 39503230 3030", {"msize": 1 << 20, "version": b"9P2000"}),
    "Tattach": (
        "1b000000 68 0100 00000000 ffffffff 0400 726f6f74 0000 e8030000",
        {"fid": 0, "afid": s.NO_FID, "uname": b"root", "aname": b"", "n_uname": 1000},
    ),
    "Twalk": (
        "17000000 6e 0100 00000000 01000000 0200 0100 61 0100 62",
        {"fid": 0, "newfid": 1, "names": [b"a", b"b"]},
    ),
    "Rwalk": ("16000000 6f 0100 0100 80 02000000 0300000000000000", {"qids": [QID]}),
    "Tread": ("17000000 74 0100 01000000 0800000000000000 00100000", {"fid": 1, "offset": 8, "count": 4096}),
    "Rlerror": ("0b000000 07 0100 02000000", {"ecode": 2}),
    "Rlopen": ("18000000 0d 0100 80 02000000 0300000000000000 00000000", {"qid": QID, "iounit": 0}),
    "Tlcreate": (
        "1a000000 0e 0100 01000000 0100 78 42000000 a4010000 00000000",
        {"fid": 1, "name": b"x", "flags": 0o102, "mode": 0o644, "gid": 0},
    ),
    "Tunlinkat": ("12000000 4c 0100 01000000 0100 78 00020000", {"fid": 1, "name": b"x", "flags": s.REMOVE_DIRECTORY}),
    "Trenameat": (
        "15000000 4a 0100 01000000 0100 78 02000000 0100 79",
        {"fid": 1, "name": b"x", "dirfid": 2, "newname": b"y"},
    ),
    "Tflush": ("09000000 6c 0100 0700", {"oldtag": 7}),
    "Rflush": ("07000000 6d 0100", {}),
    "Rlock": ("08000000 35 0100 01", {"status": 1}),
}


@pytest.mark.parametrize("kind", BYTES)
def test_bytes_of_a_message(kind):
    text, fields = BYTES[kind]
    data = bytes.fromhex(text)
    tag = int.from_bytes(data[5:7], "little")
    assert pack(kind, tag, **fields) == data
    message = unpack(data)
    assert (message.kind, message.message_tag) == (kind, tag)
    assert {name: getattr(message, name) for name in fields} == fields


@pytest.mark.parametrize("kind", BYTES)
def test_a_message_that_is_cut_or_too_long_is_none(kind):
    data = bytes.fromhex(BYTES[kind][0])
    for length in range(len(data)):
        with pytest.raises(ProtocolError):
            unpack(data[:length])
        with pytest.raises(ProtocolError):  # also where the size agrees
            unpack(length.to_bytes(4, "little") + data[4:length])
    longer = (len(data) + 1).to_bytes(4, "little") + data[4:] + b"\0"
    with pytest.raises(ProtocolError):
        unpack(longer)


def test_each_request_has_a_reply_and_each_number_one_message():
    numbers = {kind: known.number for kind, known in FORMATS.items()}
    assert len(set(numbers.values())) == len(numbers)
    assert {kind for kind in numbers if kind[0] == "T"} == {"T" + kind[1:] for kind in numbers if kind[0] == "R"} - {
        "Tlerror"
    }
    assert all(numbers["R" + kind[1:]] == number + 1 for kind, number in numbers.items() if kind[0] == "T")


# What Linux says, in a header of the kernel's own. Its structures are those of the messages but for the padding, and
# for names that are other ones here.

TYPES = """#pragma pack(1)
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32, kuid_t, kgid_t;
typedef unsigned long long u64;
typedef __SIZE_TYPE__ size_t;
"""


@pytest.fixture(scope="module")
def linux(uapi: Uapi, tmp_path_factory: pytest.TempPathFactory) -> Uapi:
    """Return the headers of a guest's kernel, of which ``9p.h`` can be compiled."""
    try:
        kernel = default_builder().kernel(GuestOptions())
    except ProvisionError as error:
        pytest.skip(f"no headers of Linux can be provisioned here: {error}")
    assert kernel.headers is not None
    header = next(kernel.headers.parent.glob("linux-headers-*-common/include/net/9p/9p.h"))
    folder = tmp_path_factory.mktemp("linux")
    (folder / "9p.h").write_text(TYPES + re.sub(r"\bst_", "", header.read_text().replace("st_result_mask", "valid")))
    return replace(uapi, headers=folder)


@pytest.mark.guest  # it needs what is provisioned for guests
def test_numbers_are_those_of_linux(linux: Uapi):
    ours = {f"P9_{kind.upper()}": known.number for kind, known in FORMATS.items()}
    assert not linux.differences("9p.h", numbers=ours)
    body = re.search(r"enum p9_msg_t \{(.*?)\}", (linux.headers / "9p.h").read_text(), re.DOTALL)
    assert body
    theirs = set(re.findall(r"\bP9_[A-Z]+", body[1]))
    # What 9P2000 and 9P2000.u have and Linux does not send in 9P2000.L, and Tlerror, which nobody sends.
    older = {f"P9_{way}{name}" for way in "TR" for name in ("ERROR", "OPEN", "CREATE", "STAT", "WSTAT")}
    assert theirs - ours.keys() == older | {"P9_TLERROR"}


@pytest.mark.guest
def test_structures_are_those_of_linux(linux: Uapi):
    structures: dict[type[Struct], str] = {
        files.Qid: "p9_qid",
        files.Attributes: "p9_stat_dotl",
        files.Changes: "p9_iattr_dotl",
        files.FileSystem: "p9_rstatfs",
    }
    assert not linux.differences("9p.h", structs=structures)


CONSTANTS = {
    "P9_NOFID": s.NO_FID,
    "P9_NOTAG": s.NO_TAG,
    "P9_MAXWELEM": s.MOST_NAMES,
    "P9_STATS_BASIC": files.BASIC,
    "P9_DOTL_AT_REMOVEDIR": s.REMOVE_DIRECTORY,
    "P9_LOCK_FLAGS_BLOCK": s.BLOCK,
    "P9_QTDIR": files.QidType.DIRECTORY,
    "P9_QTSYMLINK": files.QidType.LINK,
    "P9_DOTL_WRONLY": files.Open.WRITE_ONLY,
    "P9_DOTL_RDWR": files.Open.READ_WRITE,
    "P9_DOTL_CREATE": files.Open.CREATE,
    "P9_DOTL_EXCL": files.Open.EXCLUSIVE,
    "P9_DOTL_TRUNC": files.Open.TRUNCATE,
    "P9_DOTL_APPEND": files.Open.APPEND,
    "P9_DOTL_DSYNC": files.Open.DSYNC,
    "P9_DOTL_DIRECTORY": files.Open.DIRECTORY,
    "P9_LOCK_TYPE_RDLCK": files.Lock.READ,
    "P9_LOCK_TYPE_WRLCK": files.Lock.WRITE,
    "P9_LOCK_TYPE_UNLCK": files.Lock.UNLOCK,
    "P9_LOCK_SUCCESS": files.LockStatus.SUCCESS,
    "P9_LOCK_BLOCKED": files.LockStatus.BLOCKED,
    "P9_LOCK_ERROR": files.LockStatus.ERROR,
}


@pytest.mark.guest
def test_constants_are_those_of_linux(linux: Uapi):
    assert not linux.differences("9p.h", numbers=CONSTANTS)
