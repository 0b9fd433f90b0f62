from __future__ import annotations

import sys

import pytest

from planish.backends.cpu.codegen.compile import Compiler, compile_source, find_compiler
from planish.errors import CompileError

SOURCE = """
__attribute__((visibility("default"))) float total(const float *x, int n)
{
    float sum = 0;
    for (int i = 0; i < n; i++) sum += x[i];
    return sum;
}
"""


def test_same_source_gives_the_same_bytes():
    first = compile_source(SOURCE, ("-mavx2",))
    assert first.startswith(b"\x7fELF")
    assert first == compile_source(SOURCE, ("-mavx2",))
    assert first != compile_source(SOURCE.replace("= 0;", "= 1;"), ("-mavx2",))


def test_an_error_names_the_kernel_and_its_layers():
    source = "/* kernel k_one: conv1 */\nint a;\n/* kernel k_two: conv2 + relu */\nint b(;\n"
    with pytest.raises(CompileError) as caught:
        compile_source(source, ())
    assert "k_two (conv2 + relu)" in str(caught.value)
    assert "k_one" not in str(caught.value)
    assert "error:" in str(caught.value)


def test_a_compiler_that_hangs_is_stopped(tmp_path):
    script = tmp_path / "slow"
    script.write_text("#!/bin/sh\nsleep 60 & wait\n")
    script.chmod(0o755)
    with pytest.raises(CompileError, match="stopped after"):
        compile_source(SOURCE, (), timeout=0.2, compiler=Compiler((str(script),), "gcc", "1"))


def test_cc_is_honoured(monkeypatch, tmp_path):
    script = tmp_path / "mycc"
    script.write_text("#!/bin/sh\necho my clang version 17\n")
    script.chmod(0o755)
    monkeypatch.setenv("CC", f"{script} --some-option")
    compiler = find_compiler()
    assert compiler.command == (str(script), "--some-option")
    assert compiler.kind == "clang"


def test_a_cc_that_does_not_run_is_an_error(monkeypatch):
    monkeypatch.setenv("CC", "/nowhere/cc")
    with pytest.raises(CompileError, match="/nowhere/cc"):
        find_compiler()


def test_no_compiler_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(CompileError, match="pip install ziglang"):
        find_compiler()


def test_objects_are_cached_and_damage_is_noticed(monkeypatch, tmp_path):
    monkeypatch.setenv("PLANISH_CACHE", str(tmp_path))
    built = compile_source(SOURCE, ())
    (entry,) = (tmp_path / "objects").iterdir()
    counting = Compiler((sys.executable, "-c", "raise SystemExit(3)"), "gcc", "none")
    assert compile_source(SOURCE, ()) == built
    entry.write_bytes(entry.read_bytes()[:-1] + b"?")
    assert compile_source(SOURCE, ()) == built
    assert entry.read_bytes().endswith(built)
    with pytest.raises(CompileError):  # another compiler is another key
        compile_source(SOURCE, (), compiler=counting)
