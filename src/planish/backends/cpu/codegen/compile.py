"""Generated C in, the bytes of a shared object out.

Any C compiler of this decade will do: gcc, clang, or the clang inside the ``ziglang`` wheel where
the system has none. It runs in a child process with a time limit, in a temporary folder, with
relative paths and no build id, so that the same source gives the same bytes.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from planish.config import environment
from planish.errors import CompileError

DEFAULT_TIMEOUT = 300.0  # seconds; the largest engine measured takes about a tenth of it

# Kernels rely on infinities and NaNs but neither on errno, traps, nor the sign of zero. Reductions
# that may be reordered say so themselves ("#pragma omp simd reduction"), hence no -ffast-math.
# Kernels look at one arena through several types, hence no strict aliasing (they use restrict).
_COMMON_OPTIONS = (
    "-std=gnu11", "-O2", "-ftree-vectorize", "-fopenmp-simd", "-fno-math-errno",
    "-fno-trapping-math", "-fno-signed-zeros", "-ffp-contract=fast", "-fno-strict-aliasing",
    "-fno-stack-protector", "-fno-semantic-interposition", "-fvisibility=hidden", "-fPIC",
    "-shared", "-pthread", "-w", "-g0", "-Wl,--build-id=none", "-Wl,-z,noexecstack",
)  # fmt: skip
_OPTIONS_BY_KIND = {
    # gcc's -O2 vectorises only loops without a remainder unless it may use the -O3 cost model
    "gcc": ("-fvect-cost-model=dynamic", "-fno-ident"),
    "clang": ("-fno-ident",),
    # zig's default is the CPU it runs on; features come from our own options alone
    "zig": ("-target", "x86_64-linux-gnu.2.28", "-mcpu=x86_64", "-fno-sanitize=undefined"),
}
_INSTALL = 'install one: "apt-get install gcc", or "pip install ziglang" (part of planish[cpu])'
_REGION_MARK = re.compile(r"^/\* kernel (\S+): (.*) \*/$")


@dataclass(frozen=True)
class Compiler:
    """A C compiler that was found and answers.

    Attributes
    ----------
    command : tuple of str
        How it is called.
    kind : str
        "gcc", "clang" or "zig".
    version : str
        First line of ``--version``.
    """

    command: tuple[str, ...]
    kind: str
    version: str

    @property
    def options(self) -> tuple[str, ...]:
        """Options of every compilation, besides the instruction sets."""
        return _COMMON_OPTIONS + _OPTIONS_BY_KIND[self.kind]


def find_compiler() -> Compiler:
    """Return the first of $CC, gcc, clang, ``python -m ziglang cc`` that works.

    Raises
    ------
    CompileError
        When there is none, or $CC names one that does not answer.
    """
    return _find(os.environ.get("CC"), os.environ.get("PATH"))


def compile_source(
    source: str,
    flags: Sequence[str],
    *,
    timeout: float | None = None,
    compiler: Compiler | None = None,
) -> bytes:
    """Compile one translation unit and return the shared object.

    Parameters
    ----------
    source : str
        C source without includes of its own files.
    flags : sequence of str
        Instruction-set options, from `planish.backends.cpu.device.compile_flags`.
    timeout : float, optional
        Seconds after which the compiler is killed.
    compiler : Compiler, optional
        The one to use instead of `find_compiler()`.

    Raises
    ------
    CompileError
        When there is no compiler, it refuses the source, or it exceeds the time limit. The
        message holds the compiler's first errors and the layers of the kernel they are in.
    """
    compiler = compiler or find_compiler()
    options = (*compiler.options, *flags)
    cached = _cache_path(source, options, compiler)
    hit = _read_cache(cached)
    if hit is not None:
        return hit
    with tempfile.TemporaryDirectory(prefix="planish-compile-") as folder:
        Path(folder, "engine.c").write_text(source)
        command = (*compiler.command, *options, "engine.c", "-o", "engine.so", "-lm")
        _run(command, folder, source, timeout or DEFAULT_TIMEOUT)
        built = _object_in(folder, compiler)
    _write_cache(cached, built)
    return built


@functools.cache
def _find(requested: str | None, path: str | None) -> Compiler:
    """`path` ($PATH) is only here so that a change of it searches again."""
    if requested:
        found = _probe(tuple(shlex.split(requested)))
        if found is None:
            raise CompileError(
                f"the compiler that $CC names does not run: {requested}",
                where="environment variable CC",
                fix=f"unset CC, or {_INSTALL}",
            )
        return found
    for name in ("gcc", "clang", "cc"):
        found = _probe((name,)) if shutil.which(name) else None
        if found is not None:
            return found
    if importlib.util.find_spec("ziglang") is not None:
        found = _probe((sys.executable, "-m", "ziglang", "cc"))
        if found is not None:
            return found
    raise CompileError("no C compiler was found (gcc, clang, ziglang)", fix=_INSTALL)


def _probe(command: tuple[str, ...]) -> Compiler | None:
    try:
        answer = subprocess.run(
            (*command, "--version"), capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = answer.stdout.splitlines()
    if answer.returncode != 0 or not lines:
        return None
    if "ziglang" in command or Path(command[0]).name == "zig":
        return Compiler(command, "zig", lines[0])
    return Compiler(command, "clang" if "clang" in lines[0] else "gcc", lines[0])


def _object_in(folder: str, compiler: Compiler) -> bytes:
    path = Path(folder, "engine.so")
    if path.is_file():
        return path.read_bytes()
    raise CompileError(
        f"{' '.join(compiler.command)} ended without an error but wrote no object: it is no C "
        "compiler",
        fix=f"unset CC, or {_INSTALL}",
    )


def _run(command: Sequence[str], folder: str, source: str, timeout: float) -> None:
    # the compiler starts children of its own (cc1, ld): a session of its own ends all of them
    child = subprocess.Popen(
        command,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        env={**os.environ, "LC_ALL": "C", "SOURCE_DATE_EPOCH": "0", "TMPDIR": folder},
    )
    try:
        output, _ = child.communicate(timeout=timeout)
    except BaseException as error:  # also on Ctrl-C: nothing may be left running
        _kill(child)
        if not isinstance(error, subprocess.TimeoutExpired):
            raise
        raise CompileError(
            f"the compiler was stopped after {timeout:.0f} s",
            where=f"{len(source.splitlines())} lines of generated C",
            fix="build with a larger time_budget",
        ) from None
    if child.returncode != 0:
        raise _refused(output.decode(errors="replace"), source, command)


def _kill(child: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):  # it may have ended in the meantime
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _refused(output: str, source: str, command: Sequence[str]) -> CompileError:
    errors = [line for line in output.splitlines() if "error" in line] or output.splitlines()
    kernels: dict[str, None] = {}
    for line in errors:
        match = re.match(r"(?:\./)?engine\.c:(\d+):", line)
        if match:
            kernels.setdefault(_kernel_at(source, int(match[1])))
    shown = "\n".join(f"    {line}" for line in errors[:10])
    return CompileError(
        f"{command[0]} refused generated code:\n{shown}",
        where="; ".join(filter(None, kernels)) or None,
        fix="set PLANISH_DUMP=dir to keep the source, and report it: this is a defect of Planish",
    )


def _kernel_at(source: str, number: int) -> str:
    """Return name and layers of the kernel that line `number` of `source` belongs to."""
    for line in reversed(source.splitlines()[:number]):
        match = _REGION_MARK.match(line)
        if match:
            return f"{match[1]} ({match[2]})"
    return ""


def _cache_path(source: str, options: Sequence[str], compiler: Compiler) -> Path | None:
    folder = environment("PLANISH_CACHE")
    if folder is None:
        return None
    hasher = hashlib.blake2b(digest_size=16)
    for part in (source, *options, *compiler.command, compiler.version):
        hasher.update(part.encode() + b"\0")
    return Path(folder) / "objects" / f"{hasher.hexdigest()}.so"


def _read_cache(path: Path | None) -> bytes | None:
    """Return a cached object; None when there is none or it is damaged."""
    if path is None:
        return None
    try:
        stored = path.read_bytes()
    except OSError:
        return None
    digest, built = stored[:16], stored[16:]
    return built if hashlib.blake2b(built, digest_size=16).digest() == digest else None


def _write_cache(path: Path | None, built: bytes) -> None:
    """Store an object; a cache that cannot be written is no reason to fail a build."""
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(hashlib.blake2b(built, digest_size=16).digest() + built)
        os.replace(file.name, path)
    except OSError:
        return
