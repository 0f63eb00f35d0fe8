r"""The messages of 9P2000.L: one table, in the notation of the protocol's manuals, and what packs and unpacks them.

``name[4]`` is a number of 4 bytes, ``name[s]`` is text with its length before it, ``name[qid]`` and the like are
structures, ``name[*s]`` and ``name[*qid]`` are as many as a number of 2 bytes before them says. ``count[4] data`` is
last: the data is not part of what is unpacked here, for it goes straight between the guest's memory and a file.

>>> data = pack("Tlcreate", 7, fid=1, name=b"notes", flags=2, mode=0o644, gid=0)
>>> data.hex(" ", -4)
'1e000000 0e070001 00000005 006e6f74 65730200 0000a401 00000000 0000'
>>> unpack(data).name, unpack(data).mode == 0o644
(b'notes', True)
"""

from __future__ import annotations

import struct

from pyvirtio.errors import ProtocolError
from pyvirtio.files.structures import Attributes, Changes, FileSystem, Qid
from pyvirtio.ninep.structures import Header

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyvirtio.spec.struct import Struct

TABLE = """
7   Rlerror      ecode[4]
8   Tstatfs      fid[4]
9   Rstatfs      body[statfs]
12  Tlopen       fid[4] flags[4]
13  Rlopen       qid[qid] iounit[4]
14  Tlcreate     fid[4] name[s] flags[4] mode[4] gid[4]
15  Rlcreate     qid[qid] iounit[4]
16  Tsymlink     fid[4] name[s] target[s] gid[4]
17  Rsymlink     qid[qid]
18  Tmknod       fid[4] name[s] mode[4] major[4] minor[4] gid[4]
19  Rmknod       qid[qid]
20  Trename      fid[4] dirfid[4] name[s]
21  Rrename
22  Treadlink    fid[4]
23  Rreadlink    target[s]
24  Tgetattr     fid[4] mask[8]
25  Rgetattr     body[attributes]
26  Tsetattr     fid[4] changes[changes]
27  Rsetattr
30  Txattrwalk   fid[4] newfid[4] name[s]
31  Rxattrwalk   size[8]
32  Txattrcreate fid[4] name[s] size[8] flags[4]
33  Rxattrcreate
40  Treaddir     fid[4] offset[8] count[4]
41  Rreaddir     count[4] data
50  Tfsync       fid[4] datasync[4]
51  Rfsync
52  Tlock        fid[4] type[1] flags[4] start[8] length[8] proc_id[4] client_id[s]
53  Rlock        status[1]
54  Tgetlock     fid[4] type[1] start[8] length[8] proc_id[4] client_id[s]
55  Rgetlock     type[1] start[8] length[8] proc_id[4] client_id[s]
70  Tlink        dirfid[4] fid[4] name[s]
71  Rlink
72  Tmkdir       fid[4] name[s] mode[4] gid[4]
73  Rmkdir       qid[qid]
74  Trenameat    fid[4] name[s] dirfid[4] newname[s]
75  Rrenameat
76  Tunlinkat    fid[4] name[s] flags[4]
77  Runlinkat
100 Tversion     msize[4] version[s]
101 Rversion     msize[4] version[s]
102 Tauth        afid[4] uname[s] aname[s] n_uname[4]
103 Rauth        qid[qid]
104 Tattach      fid[4] afid[4] uname[s] aname[s] n_uname[4]
105 Rattach      qid[qid]
108 Tflush       oldtag[2]
109 Rflush
110 Twalk        fid[4] newfid[4] names[*s]
111 Rwalk        qids[*qid]
116 Tread        fid[4] offset[8] count[4]
117 Rread        count[4] data
118 Twrite       fid[4] offset[8] count[4] data
119 Rwrite       count[4]
120 Tclunk       fid[4]
121 Rclunk
122 Tremove      fid[4]
123 Rremove
"""
"""The number, the name and the fields of each message; size[4], type[1] and tag[2] come before the fields."""

_NUMBERS = {"1": "B", "2": "H", "4": "I", "8": "Q"}
_STRUCTURES: dict[str, type[Struct]] = {
    "qid": Qid,
    "attributes": Attributes,
    "changes": Changes,
    "statfs": FileSystem,
}


class Message:
    """A message that was unpacked: its ``kind``, its ``message_tag``, its bytes (``raw``), its fields as attributes."""

    if TYPE_CHECKING:

        def __getattr__(self, _name: str) -> Any: ...

    def __init__(self, kind: str, tag: int, raw: bytes, fields: dict[str, Any]) -> None:
        self.__dict__.update(fields)
        self.kind = kind
        self.message_tag = tag
        self.raw = raw

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={value!r}" for name, value in vars(self).items() if name not in {"kind", "raw"})
        return f"{self.kind}({fields})"


class _Format:
    """The fields of one kind of message."""

    def __init__(self, number: int, kind: str, fields: list[str]) -> None:
        self.number = number
        self.kind = kind
        self.has_data = fields[-1:] == ["data"]
        self.fields = [tuple(field.rstrip("]").split("[")) for field in fields if field != "data"]
        codes = [_NUMBERS.get(size) for _, size in self.fields]
        # Most messages are numbers alone; they need no walk from field to field.
        self.numbers = struct.Struct("<" + "".join(map(str, codes))) if all(codes) else None
        self.names = [name for name, _ in self.fields]

    def unpack(self, data: bytes) -> dict[str, Any]:
        if self.numbers is not None:
            if len(data) != self.numbers.size:
                raise ProtocolError(f"{self.kind} has {self.numbers.size} bytes of fields; {len(data)} came")
            return dict(zip(self.names, self.numbers.unpack(data), strict=True))
        fields, at = {}, 0
        try:
            for name, size in self.fields:
                fields[name], at = _read(size, data, at)
        except (struct.error, ValueError) as error:
            raise ProtocolError(f"{self.kind} ends before its field {name}") from error
        if at != len(data):
            raise ProtocolError(f"{self.kind} has {len(data) - at} bytes behind its last field")
        return fields

    def pack(self, fields: dict[str, Any]) -> bytes:
        if self.numbers is not None:
            return self.numbers.pack(*[fields[name] for name in self.names])
        return b"".join(_written(size, fields[name]) for name, size in self.fields)


def _read(size: str, data: bytes, at: int) -> tuple[Any, int]:
    if code := _NUMBERS.get(size):
        return struct.unpack_from("<" + code, data, at)[0], at + int(size)
    if size == "s":
        (length,) = struct.unpack_from("<H", data, at)
        end = at + 2 + length
        if end > len(data):
            raise ValueError(length)
        return data[at + 2 : end], end
    if size[0] == "*":
        (number,) = struct.unpack_from("<H", data, at)
        items, at = [], at + 2
        for _ in range(number):  # each takes bytes, so there are no more than the message has
            item, at = _read(size[1:], data, at)
            items.append(item)
        return items, at
    kind = _STRUCTURES[size]
    if at + kind.nbytes > len(data):
        raise ValueError(size)
    return kind.unpack(data[at:]), at + kind.nbytes


def _written(size: str, value: Any) -> bytes:
    if code := _NUMBERS.get(size):
        return struct.pack("<" + code, value)
    if size == "s":
        return b"".join((struct.pack("<H", len(value)), value))
    if size[0] == "*":
        return struct.pack("<H", len(value)) + b"".join(_written(size[1:], item) for item in value)
    packed: bytes = value.pack()
    return packed


def _formats() -> dict[str, _Format]:
    rows = (line.split() for line in TABLE.strip().splitlines())
    return {kind: _Format(int(number), kind, fields) for number, kind, *fields in rows}


FORMATS = _formats()
BY_NUMBER = {one.number: one for one in FORMATS.values()}


def pack(kind: str, tag: int, /, *, data_length: int = 0, **fields: Any) -> bytes:
    """Return the bytes of a message, up to ``data_length`` bytes of data that follow it."""
    body = FORMATS[kind].pack(fields)
    return Header(Header.nbytes + len(body) + data_length, FORMATS[kind].number, tag).pack() + body


def unpack(data: bytes) -> Message:
    """Return the message that ``data`` is, without the data that it may have behind its fields.

    Raises:
        ProtocolError: it is none.
    """
    if len(data) < Header.nbytes:
        raise ProtocolError(f"a message of 9P has {Header.nbytes} bytes or more; {len(data)} came")
    header = Header.unpack(data)
    if (known := BY_NUMBER.get(header.type)) is None:
        raise ProtocolError(f"there is no message {header.type} in 9P2000.L")
    body = data[Header.nbytes :]
    if known.has_data and known.numbers is not None:
        body = body[: known.numbers.size]
    elif header.size != len(data):
        raise ProtocolError(f"{known.kind} says that it has {header.size} bytes; {len(data)} came")
    return Message(known.kind, header.tag, data, known.unpack(body))
