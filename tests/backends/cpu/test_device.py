from __future__ import annotations

from pathlib import Path

from planish.backends.cpu import device
from planish.backends.cpu.device import cache_sizes, compile_flags, detect
from planish.runtime.cpu import cpu_flags


def test_detects_this_machine():
    target = detect()
    assert target.device == "cpu"
    assert target.threads >= 1
    assert target.features <= cpu_flags() & device.COMPILER_OPTIONS.keys()
    assert 0 < target.l1 <= target.l2


def test_threads_are_the_callers_choice():
    assert detect(3).threads == 3


def test_flags_are_ordered_and_explicit():
    options = compile_flags({"fma", "avx2", "avx512f", "amx_bf16", "unknown"})
    assert options == ("-mfma", "-mavx2", "-mavx512f", "-mamx-bf16", "-mprefer-vector-width=512")
    assert not any(option.startswith("-march") for option in compile_flags(detect().features))


def test_reads_flags_of_the_first_cpu(tmp_path: Path):
    path = tmp_path / "cpuinfo"
    path.write_text("processor\t: 0\nflags\t\t: fpu avx2 fma\n\nprocessor\t: 1\nflags\t\t: fpu\n")
    assert cpu_flags(path) == {"fpu", "avx2", "fma"}
    assert cpu_flags(tmp_path / "absent") == frozenset()


def test_amx_counts_only_with_permission(monkeypatch):
    monkeypatch.setattr("planish.runtime.cpu.cpu_flags", lambda: frozenset({"avx2", "amx_tile"}))
    monkeypatch.setattr("planish.runtime.cpu.request_amx", lambda: False)
    assert detect().features == {"avx2"}
    monkeypatch.setattr("planish.runtime.cpu.request_amx", lambda: True)
    assert detect().features == {"avx2", "amx_tile"}


def test_cache_sizes(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {5})
    caches = [
        ("1", "Data", "48K"),
        ("1", "Instruction", "32K"),
        ("2", "Unified", "2M"),
        ("3", "Unified", "odd"),
    ]
    for index, (level, kind, size) in enumerate(caches):
        folder = tmp_path / "cpu5" / "cache" / f"index{index}"
        folder.mkdir(parents=True)
        for name, value in (("level", level), ("type", kind), ("size", size)):
            (folder / name).write_text(value + "\n")
    assert cache_sizes(tmp_path) == {1: 48 << 10, 2: 2 << 20}
