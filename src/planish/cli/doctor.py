"""`planish doctor`: what this machine has, what is missing, and the command that installs it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

import planish
from planish.backends.cpu.codegen.compile import compile_source, find_compiler
from planish.backends.cpu.device import compile_flags, detect
from planish.backends.cpu.onednn.library import library, waiting_policy, why_unavailable
from planish.cli.common import EXIT_DIFFERENT, AsJson, emit, guarded, table
from planish.config import ENVIRONMENT, environment
from planish.errors import CompatibilityError, CompileError, ConfigError
from planish.ir.graph import OPSET
from planish.ops import OPS
from planish.runtime.cuda.driver import device

OPTIONAL = {
    "ziglang": ("C compiler where the system has none", 'pip install "planish[cpu]"'),
    "onednn-cpu-gomp": ("oneDNN kernels", 'pip install "planish[cpu]"'),
    "onnxruntime": ("compare, bench --against onnxruntime", "pip install onnxruntime"),
    "triton": ("building for NVIDIA GPUs", 'pip install "planish[cuda]"'),
    "openvino": ("bench --against openvino", "pip install openvino"),
}
SHOWN_FEATURES = (
    "avx2",
    "fma",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_tile",
    "amx_bf16",
    "amx_int8",
)
TRIAL = "int planish_trial(int x) { return x + 1; }\n"


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's report.

    Attributes
    ----------
    what, detail : str
        What was looked at, and what was found.
    ok : bool
    fix : str
        What to do when it is not ok; a command where one helps.
    essential : bool
        Without it no engine can be built or run natively.
    """

    what: str
    ok: bool
    detail: str
    fix: str = ""
    essential: bool = False


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("doctor")(guarded(doctor_command))


def doctor_command(
    operators: Annotated[
        bool, typer.Option("--operators", help="List the supported operators instead.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Examine this machine; the exit code is 0 when engines can be built and run natively."""
    if operators:
        emit(sorted(OPS), as_json, "\n".join(sorted(OPS)))
        return
    findings = list(examine())
    healthy = all(finding.ok or not finding.essential for finding in findings)
    rows = [(_state(finding), finding.what, finding.detail) for finding in findings]
    lines = table(rows)
    lines += [f"to fix {finding.what}: {finding.fix}" for finding in findings
              if not finding.ok and finding.fix]  # fmt: skip
    data = {"ok": healthy, "findings": [asdict(finding) for finding in findings]}
    emit(data, as_json, "\n".join(lines))
    if not healthy:
        raise typer.Exit(EXIT_DIFFERENT)


def examine() -> Iterator[Finding]:
    """Yield what was found, the essential things first."""
    yield Finding("planish", True, f"{planish.__version__}, {len(OPS)} operators, opset {OPSET}")
    yield Finding(
        "python",
        sys.version_info >= (3, 11),
        platform.python_version(),
        "use Python 3.11 or newer",
        essential=True,
    )
    yield Finding(
        "system",
        sys.platform == "linux" and platform.machine() == "x86_64",
        f"{platform.system()} {platform.release()} on {platform.machine()}",
        "use Linux on x86-64; elsewhere regions run through their numpy reference only",
        essential=True,
    )
    yield _cpu()
    yield _compiler()
    yield _huge_pages()
    for name, (purpose, fix) in OPTIONAL.items():
        yield _package(name, purpose, fix)
    yield _onednn()
    yield _gpu()
    yield _environment()


def _state(finding: Finding) -> str:
    if finding.ok:
        return "ok"
    return "MISSING" if finding.essential else "missing"


def _cpu() -> Finding:
    target = detect()
    features = [name for name in SHOWN_FEATURES if target.has(name)]
    caches = f"L1 {target.l1 >> 10} KiB, L2 {target.l2 >> 10} KiB, L3 {target.l3 >> 20} MiB"
    return Finding(
        "CPU",
        "avx2" in features,
        f"{target.threads} core(s) for this process, {caches}; {' '.join(features)}",
        "fast kernels need AVX2: use another machine",
    )


def _compiler() -> Finding:
    """Compile something for this machine: a compiler that only answers is not enough."""
    try:
        compiler = find_compiler()
        compile_source(TRIAL, compile_flags(detect().features), timeout=60, compiler=compiler)
    except (CompileError, ConfigError) as error:
        fix = error.fix or 'pip install "planish[cpu]"'
        return Finding("C compiler", False, error.what, fix, essential=True)
    detail = f"{' '.join(compiler.command)}: {compiler.version}"
    return Finding("C compiler", True, detail, essential=True)


def _huge_pages() -> Finding:
    path = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    setting = path.read_text() if path.is_file() else ""
    chosen = setting[setting.find("[") + 1 : setting.find("]")] if "[" in setting else "unknown"
    return Finding(
        "huge pages",
        chosen in ("always", "madvise"),
        f"transparent huge pages: {chosen}",
        f"as root: echo madvise > {path} (weights and arena then need fewer TLB entries)",
    )


def _package(name: str, purpose: str, fix: str) -> Finding:
    try:
        return Finding(name, True, f"{importlib.metadata.version(name)} ({purpose})")
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, False, f"not installed ({purpose})", fix)


def _onednn() -> Finding:
    """Load it: an installed wheel without the system's libgomp is of no use."""
    reason = why_unavailable()
    if reason is not None:
        return Finding("oneDNN", False, reason)
    return Finding("oneDNN", True, f"{library().version}, {waiting_policy()}")


def _gpu() -> Finding:
    try:
        gpu = device()
    except CompatibilityError as error:
        return Finding("NVIDIA GPU", False, error.what)
    memory = f"{gpu.free_bytes() / 2**30:.1f} GiB free"
    return Finding("NVIDIA GPU", True, f"{gpu.name}, sm_{gpu.arch}, {memory}")


def _environment() -> Finding:
    given = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
    shown = ", ".join(f"{name}={value}" for name, value in given.items()) or "nothing is set"
    try:
        environment("PLANISH_CACHE")
    except ConfigError as error:
        return Finding("environment", False, error.what, error.fix or "", essential=True)
    return Finding("environment", True, shown)
