"""Engines written to files and read back: same bytes, same results, and no damage goes unseen."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from planish.engine import container, writer
from planish.engine.parts import EngineParts
from planish.engine.reader import read_engine
from planish.engine.writer import check_writable, write_engine
from planish.errors import CompatibilityError, EngineFileError
from planish.plan.weights import WeightPool
from planish.runtime.engine import Engine, load
from tests.runtime.engines import row_sums, row_sums_expected

X = np.random.default_rng(0).standard_normal((7, 48)).astype(np.float32)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    Engine(row_sums()).save(tmp_path / "model.plan")
    return tmp_path / "model.plan"


def test_loaded_engine_gives_the_same_results(path: Path):
    engine = Engine(row_sums())
    loaded = load(path)
    np.testing.assert_array_equal(loaded(X), engine(X))
    np.testing.assert_allclose(loaded(X), row_sums_expected(X), rtol=1e-5, atol=1e-3)
    assert loaded.plan == engine.plan
    assert loaded.source == engine.source
    assert loaded.graph_text == engine.graph_text


def test_bytes_do_not_depend_on_time_or_place(path: Path, tmp_path: Path):
    again = tmp_path / "again.plan"
    load(path).save(again)
    assert again.read_bytes() == path.read_bytes()
    assert [entry.name for entry in tmp_path.iterdir() if entry.name.startswith(".")] == []


def test_how_long_a_build_took_is_not_in_the_file(tmp_path: Path):
    contents = []
    for seconds in (1.0, 2.0):
        report = {"precision": "fp32", "stages": [{"name": "import", "seconds": seconds}]}
        write_engine(tmp_path / "a.plan", dataclasses.replace(row_sums(), report=report))
        contents.append((tmp_path / "a.plan").read_bytes())
    assert contents[0] == contents[1]


def test_weights_are_aligned_in_the_file(path: Path):
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo("weights.bin")
    header = path.read_bytes()[info.header_offset :]
    sizes = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    assert (info.header_offset + 30 + sizes) % 64 == 0


@pytest.mark.parametrize("seed", range(8))
def test_every_flipped_bit_is_noticed(path: Path, tmp_path: Path, seed: int):
    good = path.read_bytes()
    damaged = tmp_path / "damaged.plan"
    generator = random.Random(seed)
    for _ in range(60):
        data = bytearray(good)
        bit = generator.randrange(8 * len(data))
        data[bit // 8] ^= 1 << bit % 8
        damaged.write_bytes(data)
        with pytest.raises(EngineFileError):
            load(damaged)


def test_every_flipped_bit_of_headers_and_manifest_is_noticed(path: Path, tmp_path: Path):
    good = path.read_bytes()
    damaged = tmp_path / "damaged.plan"
    with zipfile.ZipFile(path) as archive:
        infos = archive.infolist()
    manifest_end = infos[1].header_offset
    directory = len(good) - container.TAIL_BYTES - 300
    positions = [*range(0, manifest_end, 3), *range(directory, len(good))]
    for position in positions:
        data = bytearray(good)
        data[position] ^= 1 << position % 8
        damaged.write_bytes(data)
        with pytest.raises(EngineFileError):
            read_engine(damaged)


@pytest.mark.parametrize("seed", range(4))
def test_cut_and_grown_files_are_refused(path: Path, tmp_path: Path, seed: int):
    good = path.read_bytes()
    damaged = tmp_path / "damaged.plan"
    generator = random.Random(seed)
    cuts = [generator.randrange(len(good)) for _ in range(25)]
    variants = [good[:cut] for cut in [0, 1, len(good) - 1, *cuts]]
    variants += [good + b"\0", b"\0" + good, good + good, good[100:]]
    for data in variants:
        damaged.write_bytes(data)
        with pytest.raises(EngineFileError, match="damaged"):
            load(damaged)


def test_random_noise_is_refused(tmp_path: Path):
    for seed in range(30):
        (tmp_path / "noise").write_bytes(random.Random(seed).randbytes(5000))
        with pytest.raises(EngineFileError):
            load(tmp_path / "noise")


def rewritten(path: Path, change: Any) -> None:
    """Change members of an engine file and write it again with right checksums."""
    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    change(contents)
    members = [
        container.Member(name, len(data), zlib.crc32(data)) for name, data in contents.items()
    ]
    placed, directory = container.lay_out(members)
    body = b"".join(one.header + contents[one.member.name] for one in placed)
    path.write_bytes(body + directory)


def edit_manifest(path: Path, **fields: Any) -> None:
    def change(contents: dict[str, bytes]) -> None:
        manifest = {**json.loads(contents["manifest.json"]), **fields}
        contents["manifest.json"] = json.dumps(manifest).encode()

    rewritten(path, change)


def test_code_whose_digest_is_not_in_the_manifest_is_not_loaded(path: Path):
    rewritten(path, lambda contents: contents.update({"kernels/engine.so": b"evil"}))
    with pytest.raises(EngineFileError, match="manifest's digest"):
        load(path)


def test_missing_and_unknown_members_are_refused(path: Path):
    for change in (
        lambda contents: contents.pop("graph.txt"),
        lambda contents: contents.pop("kernels/engine.so"),
        lambda contents: contents.update({"extra": b""}),
    ):
        good = path.read_bytes()
        rewritten(path, change)
        with pytest.raises(EngineFileError, match="it holds"):
            load(path)
        path.write_bytes(good)


@pytest.mark.parametrize(
    "fields",
    [
        {"blake2b": None},
        {"weights": {}},
        {"native": {"features": 3}},
        {"native": None},
        {"gpu": {"kernels": [{"bytes": 1}]}},
        {"byte_order": 7},
        {"weights": {"bytes": 256, "chunk": 0, "crc32": [], "crc32_of_all": 0}},
    ],
)
def test_wrong_types_in_the_manifest_are_refused(path: Path, fields: Any):
    edit_manifest(path, **fields)
    with pytest.raises(EngineFileError, match=r"manifest\.json"):
        load(path)


@pytest.mark.parametrize(("version", "fix"), [(0, "build the engine"), (99, "upgrade"), ("x", "")])
def test_other_format_versions_are_named(path: Path, version: Any, fix: str):
    edit_manifest(path, format=version)
    with pytest.raises(CompatibilityError, match=f"format version {version}.*version 3") as caught:
        load(path)
    assert fix in str(caught.value)


def test_missing_instructions_are_listed(path: Path, monkeypatch):
    edit_manifest(
        path,
        native={"features": ["avx2", "amx_xyz"], "machine": "x86_64", "compiler": "", "threads": 1},
    )
    with pytest.raises(CompatibilityError, match="does not have: amx_xyz"):
        load(path)
    rebuilt: list[EngineParts] = []

    def rebuild(parts: EngineParts) -> EngineParts:
        rebuilt.append(parts)
        return dataclasses.replace(row_sums(), weights=parts.weights)

    np.testing.assert_array_equal(load(path, rebuild=rebuild)(X), Engine(row_sums())(X))
    assert rebuilt[0].plan == row_sums().plan


def test_another_architecture_is_refused(path: Path):
    edit_manifest(path, native={"features": [], "machine": "riscv64", "compiler": "", "threads": 1})
    with pytest.raises(CompatibilityError, match="Linux on riscv64"):
        load(path)


def test_native_code_can_be_forbidden(path: Path):
    with pytest.raises(CompatibilityError, match="allow_native_code=False"):
        load(path, allow_native_code=False)
    calls: list[EngineParts] = []

    def rebuild(parts: EngineParts) -> EngineParts:
        calls.append(parts)
        return parts

    load(path, allow_native_code=False, rebuild=rebuild)
    assert len(calls) == 1


def test_a_missing_file_is_an_engine_file_error(tmp_path: Path):
    with pytest.raises(EngineFileError, match="No such file"):
        load(tmp_path / "none.plan")
    with pytest.raises(EngineFileError, match="directory"):
        load(tmp_path)


@pytest.mark.parametrize("name", ["missing/model.plan", "folder", "x" * 300])
def test_paths_that_cannot_be_written(tmp_path: Path, name: str):
    (tmp_path / "folder").mkdir()
    for attempt in (check_writable, Engine(row_sums()).save):
        with pytest.raises(EngineFileError, match="cannot write") as caught:
            attempt(tmp_path / name)
        assert str(tmp_path) in str(caught.value)
    assert list(tmp_path.iterdir()) == [tmp_path / "folder"]


def test_check_writable_leaves_nothing(tmp_path: Path):
    check_writable(tmp_path / "a.plan")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_keeps_the_old_file(path: Path, monkeypatch):
    good = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(EngineFileError, match="No space left"):
        Engine(row_sums()).save(path)
    assert path.read_bytes() == good
    assert list(path.parent.iterdir()) == [path]


def test_large_weights_are_read_in_chunks(tmp_path: Path, monkeypatch):
    pool = WeightPool()
    arrays = [
        np.random.default_rng(0).standard_normal(300_000).astype(np.float32),
        np.arange(5, dtype=np.float32),
    ]
    offsets = [pool.add(array) for array in arrays]
    monkeypatch.setattr(writer, "CHUNK", 1 << 17)
    monkeypatch.setattr("planish.engine.reader._THREADED_FROM", 1)
    path = tmp_path / "large.plan"
    write_engine(path, dataclasses.replace(row_sums(), weights=pool.memory()))
    memory = read_engine(path).parts.weights
    for offset, array in zip(offsets, arrays, strict=True):
        np.testing.assert_array_equal(memory[offset : offset + array.nbytes].view("f4"), array)
    assert memory.nbytes == pool.bytes
    data = bytearray(path.read_bytes())
    data[data.index(np.float32(4).tobytes(), 600_000) + 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(EngineFileError, match="weights after byte"):
        read_engine(path)
