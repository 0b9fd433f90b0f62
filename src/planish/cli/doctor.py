"""`planish doctor`: what this machine has, what is missing, and the command that installs it."""

from __future__ import annotations

import importlib.metadata
import platform
from dataclasses import dataclass
from typing import Annotated

import typer

import planish
from planish.backends.cpu.codegen.compile import find_compiler
from planish.backends.cpu.device import detect
from planish.cli.common import emit
from planish.errors import CompileError
from planish.ir.graph import OPSET
from planish.ops import OPS

OPTIONAL = {
    "ziglang": ("a C compiler where the system has none", "pip install 'planish[cpu]'"),
    "onednn-cpu-gomp": ("oneDNN kernels beside the generated ones", "pip install 'planish[cpu]'"),
    "onnxruntime": ("planish compare, planish bench --against", "pip install onnxruntime"),
    "openvino": ("planish bench --against openvino", "pip install openvino"),
}
SHOWN_FEATURES = (
    "avx2",
    "fma",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "amx_tile",
    "amx_bf16",
    "amx_int8",
)


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's report."""

    what: str
    ok: bool
    detail: str
    fix: str = ""


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("doctor")(doctor_command)


def doctor_command(
    operators: Annotated[bool, typer.Option(help="list every supported operator")] = False,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Examine this machine; the exit code is 0 when engines can be built and run natively."""
    if operators:
        emit(sorted(OPS), as_json, "\n".join(sorted(OPS)))
        return
    findings = examine()
    text = "\n".join(f"{'ok     ' if f.ok else 'missing'} {f.what:16s} {f.detail}"
                     + (f"   -> {f.fix}" if not f.ok else "") for f in findings)  # fmt: skip
    emit([vars(finding) for finding in findings], as_json, text)
    if not next(f for f in findings if f.what == "C compiler").ok:
        raise typer.Exit(1)


def examine() -> list[Finding]:
    """Return what was found, the essential things first."""
    target = detect()
    features = [name for name in SHOWN_FEATURES if target.has(name)]
    return [
        Finding("planish", True, f"{planish.__version__}, {len(OPS)} operators, opset {OPSET}"),
        Finding("python", True, f"{platform.python_version()} on {platform.platform()}"),
        Finding("CPU", "avx2" in features, f"{target.threads} thread(s), L2 {target.l2 >> 10} KiB, "
                + " ".join(features), "AVX2 is needed for fast kernels"),
        _compiler(),
        *(_package(name, *purpose) for name, purpose in OPTIONAL.items()),
    ]  # fmt: skip


def _compiler() -> Finding:
    try:
        compiler = find_compiler()
    except CompileError as error:
        return Finding("C compiler", False, error.what, error.fix or "pip install 'planish[cpu]'")
    return Finding("C compiler", True, str(compiler))


def _package(name: str, purpose: str, fix: str) -> Finding:
    try:
        return Finding(name, True, f"{importlib.metadata.version(name)} ({purpose})")
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, False, purpose, fix)
