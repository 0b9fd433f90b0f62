from __future__ import annotations

import numpy as np
import pytest

from planish.importers.crc32c import crc32c, unmasked


def plain(data: bytes) -> int:
    state = 0xFFFFFFFF
    for byte in data:
        state ^= byte
        for _ in range(8):
            state = state >> 1 ^ (0x82F63B78 if state & 1 else 0)
    return state ^ 0xFFFFFFFF


def test_the_check_value_of_the_standard() -> None:
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA  # RFC 3720, B.4


@pytest.mark.parametrize("size", [0, 1, 255, 256, 257, 1023, 4096, 40003])
def test_lanes_give_what_single_bits_give(size: int) -> None:
    data = np.random.default_rng(size).integers(0, 256, size, np.uint8)
    assert crc32c(data) == plain(data.tobytes())
    assert crc32c(data, crc32c(b"before")) == plain(b"before" + data.tobytes())


def test_a_stored_checksum_is_rotated_and_shifted() -> None:
    checksum = crc32c(b"text")
    stored = ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF
    assert unmasked(stored) == checksum
