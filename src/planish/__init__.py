"""Planish: an open inference optimizer and runtime. Trained model in, fast engine out."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from planish.builder import build, calibrate, sensitivity
    from planish.config import BuildConfig, Profile, Progress
    from planish.quantize.budget import Budget
    from planish.quantize.calibrators import (
        EntropyCalibrator,
        EntropyCalibrator2,
        LegacyCalibrator,
        MinMaxCalibrator,
        MseCalibrator,
    )
    from planish.quantize.scheme import Ranges
    from planish.quantize.weight_only import WeightOnly
    from planish.report import BuildReport
    from planish.report_sensitivity import Sensitivity
    from planish.runtime.cuda.arrays import DeviceArray
    from planish.runtime.engine import Engine, load
    from planish.runtime.finite import NonFiniteWarning

__version__ = "0.1.0"

# Name to module. Loaded on first use: `import planish` stays under 0.3 s, and a process that only
# runs engines never imports the build side.
_PUBLIC = {
    "Budget": "planish.quantize.budget",
    "BuildConfig": "planish.config",
    "BuildReport": "planish.report",
    "DeviceArray": "planish.runtime.cuda.arrays",
    "Engine": "planish.runtime.engine",
    "EntropyCalibrator": "planish.quantize.calibrators",
    "EntropyCalibrator2": "planish.quantize.calibrators",
    "LegacyCalibrator": "planish.quantize.calibrators",
    "MinMaxCalibrator": "planish.quantize.calibrators",
    "MseCalibrator": "planish.quantize.calibrators",
    "NonFiniteWarning": "planish.runtime.finite",
    "Profile": "planish.config",
    "Progress": "planish.config",
    "Ranges": "planish.quantize.scheme",
    "Sensitivity": "planish.report_sensitivity",
    "WeightOnly": "planish.quantize.weight_only",
    "build": "planish.builder",
    "calibrate": "planish.builder",
    "load": "planish.runtime.engine",
    "sensitivity": "planish.builder",
}

__all__ = [
    "Budget",
    "BuildConfig",
    "BuildReport",
    "DeviceArray",
    "Engine",
    "EntropyCalibrator",
    "EntropyCalibrator2",
    "LegacyCalibrator",
    "MinMaxCalibrator",
    "MseCalibrator",
    "NonFiniteWarning",
    "Profile",
    "Progress",
    "Ranges",
    "Sensitivity",
    "WeightOnly",
    "build",
    "calibrate",
    "load",
    "sensitivity",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'planish' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
