"""No NaN leaves silently: outputs of engines in float16 are looked at, and the first one is told.

Numbers beyond 65504 become infinite in float16, and NaN from there on. Layers that overflow on the
data of a build stay in float32, but other data may be larger. bfloat16 has float32's range, and
integers saturate, so that engines without float16 need no look.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


class NonFiniteWarning(RuntimeWarning):
    """An engine in float16 gave NaN or infinity."""


def may_overflow(report: Mapping[str, Any]) -> bool:
    """Whether a region of an engine with this report runs in float16."""
    return any(layer.get("precision") == "f16" for layer in report.get("layers", ()))


def first_not_finite(names: Sequence[str], results: Sequence[Any]) -> str:
    """Return the name of the first output on the host with NaN or infinity in it; "" for none."""
    for name, result in zip(names, results, strict=True):
        if not isinstance(result, np.ndarray) or result.dtype.kind != "f":
            continue
        with np.errstate(all="ignore"):
            total = np.add.reduce(result, axis=None, dtype=np.float32)  # a tenth of isfinite's time
        if not np.isfinite(total) and not np.isfinite(result).all():
            return name
    return ""


def warn_of(name: str) -> None:
    """Tell the caller of an engine that an output is not finite."""
    warnings.warn(
        f"output {name!r} holds NaN or infinity, and layers of this engine run in float16, which "
        "ends at 65504. If float32 gives finite numbers, build with calibration data like these "
        'inputs (layers that overflow then stay in float32), or with layer_precisions={"NAME": '
        '"fp32"}. This is said once for each engine',
        NonFiniteWarning,
        stacklevel=5,
    )
