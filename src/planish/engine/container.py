"""The zip container of engines: uncompressed, and with exactly one way to write given members.

Because there is one way, reading needs no tolerance: the reader takes names, sizes and checksums
from the central directory, lays the members out as the writer does, and compares every byte of
every header. Nothing in the file is ignored, so no damaged bit goes unseen.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

ALIGNMENT = 64
MAX_MEMBERS = 16
MAX_NAME = 64

_LOCAL = struct.Struct("<4sHHHHHIIIHH")
_CENTRAL = struct.Struct("<4sHHHHHHIIIHHHHHII")
_END = struct.Struct("<4sHHHHIIH")
_END64 = struct.Struct("<4sQHHIIQQQQ")
_LOCATOR64 = struct.Struct("<4sIQI")
_ZIP64 = struct.Struct("<HHQQ")  # local extra field: id, size, uncompressed, compressed
_ZIP64_CENTRAL = struct.Struct("<HHQQQ")  # the same and the offset of the local header

_VERSION = 45  # of the zip format: with 64-bit sizes
_MADE_BY = 3 << 8 | _VERSION  # on Unix: names are UTF-8 or ASCII, permissions in the upper half
_PERMISSIONS = 0o100644 << 16
_DATE = 1 << 5 | 1  # 1 January 1980, the first date there is: files do not depend on the clock
_PADDING_ID = 0x4C50  # "PL": an extra field of zeros that aligns the data after it
_ZIP64_ID = 1
_ALL_ONES = 0xFFFFFFFF

TAIL_BYTES = _END64.size + _LOCATOR64.size + _END.size


@dataclass(frozen=True)
class Member:
    """One file of the container: name, size in bytes, CRC-32."""

    name: str
    size: int
    crc: int


@dataclass(frozen=True)
class Placed:
    """A member and where it is: the local header's bytes and offset, the data's offset."""

    member: Member
    header: bytes
    header_offset: int

    @property
    def offset(self) -> int:
        """Where the data begins."""
        return self.header_offset + len(self.header)


def lay_out(members: Sequence[Member]) -> tuple[list[Placed], bytes]:
    """Return the members' places, and the directory that follows the last one's data."""
    placed, end = [], 0
    for member in members:
        one = Placed(member, _local_header(member, end), end)
        placed.append(one)
        end = one.offset + member.size
    return placed, _directory(placed, end)


def parse_directory(tail: bytes, file_size: int) -> tuple[int, int] | None:
    """Return offset and size of the central directory, told by a file's last TAIL_BYTES bytes.

    None when they are not the end of a container. The numbers are checked against the file's
    size; what they point to is not.
    """
    if len(tail) != TAIL_BYTES:
        return None
    fields = _END64.unpack_from(tail)
    size, offset = fields[8], fields[9]
    if fields[0] != b"PK\x06\x06" or tail[_END64.size :][:4] != b"PK\x06\x07":
        return None
    limit = MAX_MEMBERS * (_CENTRAL.size + _ZIP64_CENTRAL.size + MAX_NAME)
    if size > limit or offset + size + TAIL_BYTES != file_size:
        return None
    return offset, size


def parse_members(directory: bytes) -> list[Member] | None:
    """Return the members that a central directory lists; None when it is not one of ours."""
    members: list[Member] = []
    position = 0
    while position < len(directory):
        if len(members) == MAX_MEMBERS or position + _CENTRAL.size > len(directory):
            return None
        fields = _CENTRAL.unpack_from(directory, position)
        name_size, extra_size = fields[10], fields[11]
        name = directory[position + _CENTRAL.size :][:name_size]
        extra = directory[position + _CENTRAL.size + name_size :][:extra_size]
        if name_size > MAX_NAME or not name.isascii() or len(extra) != _ZIP64_CENTRAL.size:
            return None
        members.append(Member(name.decode("ascii"), _ZIP64_CENTRAL.unpack(extra)[2], fields[7]))
        position += _CENTRAL.size + name_size + extra_size
    return members


def _local_header(member: Member, offset: int) -> bytes:
    name = member.name.encode("ascii")
    extra = _ZIP64.pack(_ZIP64_ID, 16, member.size, member.size)
    start = offset + _LOCAL.size + len(name) + len(extra) + 4  # 4: head of the padding field
    padding = -start % ALIGNMENT
    extra += struct.pack("<HH", _PADDING_ID, padding) + bytes(padding)
    fixed = _LOCAL.pack(
        b"PK\x03\x04", _VERSION, 0, 0, 0, _DATE, member.crc, _ALL_ONES, _ALL_ONES, len(name),
        len(extra),
    )  # fmt: skip
    return fixed + name + extra


def _directory(placed: Sequence[Placed], start: int) -> bytes:
    entries = b"".join(map(_central_entry, placed))
    count = len(placed)
    end = start + len(entries)
    return (
        entries
        + _END64.pack(
            b"PK\x06\x06", _END64.size - 12, _MADE_BY, _VERSION, 0, 0, count, count, len(entries),
            start,
        )
        + _LOCATOR64.pack(b"PK\x06\x07", 0, end, 1)
        + _END.pack(b"PK\x05\x06", 0, 0, count, count, _ALL_ONES, _ALL_ONES, 0)
    )  # fmt: skip


def _central_entry(placed: Placed) -> bytes:
    member = placed.member
    name = member.name.encode("ascii")
    extra = _ZIP64_CENTRAL.pack(_ZIP64_ID, 24, member.size, member.size, placed.header_offset)
    fixed = _CENTRAL.pack(
        b"PK\x01\x02", _MADE_BY, _VERSION, 0, 0, 0, _DATE, member.crc, _ALL_ONES, _ALL_ONES,
        len(name), len(extra), 0, 0, 0, _PERMISSIONS, _ALL_ONES,
    )  # fmt: skip
    return fixed + name + extra
