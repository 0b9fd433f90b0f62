"""GPU kernels in an engine file: the cubins one after the other, their facts in the manifest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from planish.engine.parts import DeviceCode, DeviceKernel

FIELDS: dict[str, type] = {
    "bytes": int, "entry": str, "shared": int, "warps": int, "workspace_bytes": int,
    "counters": int,
}  # fmt: skip
LIMIT = 1 << 40


def device_manifest(code: DeviceCode) -> dict[str, Any]:
    """Return what the manifest says of `code`."""
    return {
        "arch": code.arch,
        "compiler": code.compiler,
        "functions": dict(code.functions),
        "kernels": [
            {
                "bytes": len(kernel.cubin),
                "entry": kernel.entry,
                "shared": kernel.shared,
                "warps": kernel.warps,
                "symbols": list(kernel.symbols),
                "workspace_bytes": kernel.workspace_bytes,
                "counters": kernel.counters,
            }
            for kernel in code.kernels
        ],
    }


def device_code(manifest: Mapping[str, Any], source: str, cubins: bytes) -> DeviceCode | None:
    """Return the code that a manifest describes; None when it is not sound."""
    if not _is_sound(manifest, len(cubins)):
        return None
    kernels, start = [], 0
    for facts in manifest["kernels"]:
        end = start + facts["bytes"]
        kernels.append(
            DeviceKernel(
                cubins[start:end], facts["entry"], facts["shared"], facts["warps"],
                tuple(facts["symbols"]), facts["workspace_bytes"], facts["counters"],
            )
        )  # fmt: skip
        start = end
    return DeviceCode(
        source, manifest["arch"], tuple(kernels), dict(manifest["functions"]), manifest["compiler"]
    )


def _is_sound(manifest: Any, size: int) -> bool:
    if not isinstance(manifest, dict) or not isinstance(manifest.get("kernels"), list):
        return False
    kernels, functions = manifest["kernels"], manifest.get("functions")
    return (
        all(_kernel_is_sound(kernel) for kernel in kernels)
        and sum(kernel["bytes"] for kernel in kernels) == size
        and isinstance(functions, dict)
        and all(type(index) is int and 0 <= index < len(kernels) for index in functions.values())
        and type(manifest.get("arch")) is int
        and isinstance(manifest.get("compiler"), str)
    )


def _kernel_is_sound(kernel: Any) -> bool:
    if not isinstance(kernel, dict) or set(kernel) != {*FIELDS, "symbols"}:
        return False
    numbers = [kernel[name] for name, kind in FIELDS.items() if kind is int]
    return (
        all(type(kernel[name]) is kind for name, kind in FIELDS.items())
        and all(0 <= number < LIMIT for number in numbers)
        and 1 <= kernel["warps"] <= 32
        and isinstance(kernel["symbols"], list)
        and all(isinstance(name, str) for name in kernel["symbols"])
    )
