from __future__ import annotations

import io
import zipfile

from planish.engine.container import (
    ALIGNMENT,
    TAIL_BYTES,
    Member,
    lay_out,
    parse_directory,
    parse_members,
)

MEMBERS = [Member("a.json", 5, 0x3610A686), Member("b/c.bin", 0, 0), Member("w.bin", 1 << 40, 7)]


def test_data_is_aligned_and_follows_without_gaps():
    placed, _ = lay_out(MEMBERS)
    end = 0
    for one in placed:
        assert one.header_offset == end
        assert one.offset % ALIGNMENT == 0
        end = one.offset + one.member.size


def test_directory_parses_back_beyond_four_gigabytes():
    placed, directory = lay_out(MEMBERS)
    start = placed[-1].offset + MEMBERS[-1].size
    size = len(directory) - TAIL_BYTES
    assert parse_directory(directory[-TAIL_BYTES:], start + len(directory)) == (start, size)
    assert parse_members(directory[:size]) == MEMBERS


def test_zip_programs_read_it():
    members = MEMBERS[:2]
    placed, directory = lay_out(members)
    data = placed[0].header + b"hello" + placed[1].header + directory
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.namelist() == ["a.json", "b/c.bin"]
        assert archive.read("a.json") == b"hello"
        assert archive.testzip() is None


def test_other_ends_are_refused():
    _, directory = lay_out(MEMBERS)
    tail = directory[-TAIL_BYTES:]
    assert parse_directory(tail, len(directory)) is None  # the offset points beyond the file
    assert parse_directory(tail[1:], 10) is None
    assert parse_directory(bytes(TAIL_BYTES), 1000) is None
    assert parse_members(b"PK\x01\x02" * 40) is None
