from __future__ import annotations

import pytest

from planish.errors import ModelError
from planish.importers.crc32c import crc32c
from planish.importers.leveldb_table import FOOTER, MAGIC, read_table, unsnappy


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def block(entries: list[tuple[int, bytes, bytes]], restarts: int = 1) -> bytes:
    out = b"".join(
        varint(shared) + varint(len(rest)) + varint(len(value)) + rest + value
        for shared, rest, value in entries
    )
    return out + bytes(4 * restarts) + restarts.to_bytes(4, "little")


def stored(content: bytes, kind: int = 0) -> bytes:
    checksum = crc32c(content + bytes([kind]))
    masked = ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF
    return content + bytes([kind]) + masked.to_bytes(4, "little")


def table(data: bytes, kind: int = 0) -> bytes:
    """Return a table whose only data block is `data`."""
    index = block([(0, b"z", varint(0) + varint(len(data)))])
    first, second = stored(data, kind), stored(index)
    handles = varint(0) + varint(0) + varint(len(first)) + varint(len(index))
    return first + second + handles.ljust(FOOTER - 8, b"\0") + MAGIC.to_bytes(8, "little")


ENTRIES = [(0, b"", b"head"), (0, b"alpha", b"1"), (3, b"umn", b"22")]
WANT = {b"": b"head", b"alpha": b"1", b"alpumn": b"22"}


def literal(data: bytes) -> bytes:
    return bytes([(len(data) - 1) << 2]) + data


def test_keys_share_prefixes() -> None:
    assert read_table(table(block(ENTRIES)), "index") == WANT


def test_a_compressed_block() -> None:
    data = block(ENTRIES)
    packed = varint(len(data)) + literal(data[:20]) + literal(data[20:])
    assert read_table(table(packed, kind=1), "index") == WANT


def test_snappy_copies_may_overlap() -> None:
    near = bytes([1 | (8 - 4) << 2, 2])  # eight bytes from two back
    far = bytes([2 | (3 - 1) << 2, 10, 0])  # three bytes from ten back
    wide = bytes([3 | (1 - 1) << 2, 1, 0, 0, 0])
    packed = varint(14) + literal(b"ab") + near + far + wide
    assert unsnappy(packed) == b"ababababab" + b"aba" + b"a"


@pytest.mark.parametrize(
    "packed",
    [
        varint(4) + literal(b"ab"),  # too short
        varint(2) + literal(b"abc"),  # too long
        varint(9) + bytes([1 | 4 << 2, 1]),  # before the beginning
        varint(9) + bytes([63 << 2, 255, 255, 255, 127]),
        varint(1 << 40) + literal(b"ab"),
    ],
)
def test_damaged_snappy_is_refused(packed: bytes) -> None:
    with pytest.raises(ValueError, match="compressed"):
        unsnappy(packed)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "does not end like a table"),
        (table(block(ENTRIES))[:-1], "does not end like a table"),
        (table(block([(9, b"a", b"")])), "reaches past"),
        (table(block([(0, b"a" * 70_000, b"")])), "reaches past"),
        (table(block(ENTRIES, restarts=1)[:-4] + b"\xff\xff\xff\xff"), "restart points"),
        (table(block(ENTRIES), kind=7), "unknown way"),
        (table(block(ENTRIES)).replace(b"alpha", b"alphb"), "checksum"),
    ],
)
def test_damaged_tables_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        read_table(data, "folder/variables.index")
    assert caught.value.where == "folder/variables.index"
