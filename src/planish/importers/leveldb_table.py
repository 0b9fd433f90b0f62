"""Reads the sorted string tables of LevelDB, which hold the index of a tensor bundle.

File: data blocks, other blocks, index block, footer of 48 bytes (places of the meta-index block and
of the index block as varints, padded; a magic number). A block is followed by a byte that says how
it is compressed (0: not, 1: snappy) and its masked CRC-32C. Within a block every key shares a
prefix with the one before. Format: ``leveldb/doc/table_format.md``, ``snappy/format_description``.
"""

from __future__ import annotations

from collections.abc import Iterator

from planish.errors import ModelError
from planish.importers.crc32c import crc32c, unmasked

MAGIC = 0xDB4775248B80FB57
FOOTER = 48
TRAILER = 5  # compression, checksum
MAX_KEY = 1 << 16  # bytes; a key is a variable's name
MAX_BLOCK = 1 << 28  # bytes of a block after decompression


def read_table(data: bytes, where: str) -> dict[bytes, bytes]:
    """Return the entries of a table; every checksum and length is verified.

    Raises
    ------
    ModelError
        When the file is damaged; `where` names it.
    """
    try:
        return dict(_entries(data))
    except (ValueError, IndexError) as error:
        raise ModelError(
            f"the index of the variables is damaged: {error or 'it ends too early'}",
            where=where,
            fix="copy the whole SavedModel folder again, or save the model again",
        ) from error


def _entries(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    if len(data) < FOOTER or int.from_bytes(data[-8:], "little") != MAGIC:
        raise ValueError("it does not end like a table")
    place = len(data) - FOOTER
    for _ in range(2):  # the meta-index block
        _, place = varint(data, place)
    offset, place = varint(data, place)
    size, place = varint(data, place)
    end = 0
    for _, handle in _pairs(_block(data, offset, size)):
        start, after = varint(handle, 0)
        length, _ = varint(handle, after)
        if start < end:
            raise ValueError("its blocks overlap")
        end = start + length
        yield from _pairs(_block(data, start, length))


def varint(data: bytes, place: int) -> tuple[int, int]:
    """Return the number at `place` and where it ends; raise ValueError when it is too long."""
    number = 0
    for shift in range(0, 64, 7):
        byte = data[place]
        place += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number, place
    raise ValueError("a number is too long")


def _block(data: bytes, offset: int, size: int) -> bytes:
    end = offset + size
    if end + TRAILER > len(data) - FOOTER:
        raise ValueError(f"a block at {offset} reaches past the end of the file")
    stored = int.from_bytes(data[end + 1 : end + TRAILER], "little")
    if crc32c(data[offset : end + 1]) != unmasked(stored):
        raise ValueError(f"the checksum of the block at {offset} does not match")
    compression = data[end]
    if compression == 0:
        return data[offset:end]
    if compression == 1:
        return unsnappy(data[offset:end])
    raise ValueError(f"a block is compressed in an unknown way ({compression})")


def _pairs(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the keys and values of a block."""
    if len(block) < 4:
        raise ValueError("a block is too short")
    end = len(block) - 4 - 4 * int.from_bytes(block[-4:], "little")  # before the restart points
    if end < 0:
        raise ValueError("a block has more restart points than bytes")
    place, key = 0, b""
    while place < end:
        shared, place = varint(block, place)
        rest, place = varint(block, place)
        length, place = varint(block, place)
        if shared > len(key) or shared + rest > MAX_KEY or place + rest + length > end:
            raise ValueError("an entry reaches past its block")
        key = key[:shared] + block[place : place + rest]
        place += rest
        yield key, block[place : place + length]
        place += length


def unsnappy(data: bytes) -> bytes:
    """Return snappy-compressed `data` decompressed; raise ValueError or IndexError if damaged."""
    size, place = varint(data, 0)
    if size > min(MAX_BLOCK, 64 * len(data)):  # an element of three bytes gives at most 64
        raise ValueError("a compressed block claims more than it can hold")
    out = bytearray()
    while place < len(data):
        tag = data[place]
        place += 1
        if tag & 3 == 0:
            place = _literal(data, place, tag, out)
            continue
        extra = (1, 2, 4)[(tag & 3) - 1]  # bytes of the distance
        distance = int.from_bytes(data[place : place + extra], "little")
        length = (tag >> 2) + 1
        if extra == 1:
            distance |= tag >> 5 << 8
            length = (tag >> 2 & 7) + 4
        place += extra
        if place > len(data) or not 0 < distance <= len(out):
            raise ValueError("a compressed block refers to bytes before it")
        repeated = bytes(out[len(out) - distance :][:length])
        out += (repeated * (length // len(repeated) + 1))[:length]
        if len(out) > size:
            break
    if len(out) != size:
        raise ValueError("a compressed block has another size than it claims")
    return bytes(out)


def _literal(data: bytes, place: int, tag: int, out: bytearray) -> int:
    length = tag >> 2
    if length >= 60:
        extra = length - 59
        length = int.from_bytes(data[place : place + extra], "little")
        place += extra
    end = place + length + 1
    if end > len(data):
        raise ValueError("a compressed block ends too early")
    out += data[place:end]
    return end
