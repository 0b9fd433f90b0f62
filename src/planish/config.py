"""Build options and the table of environment variables."""

from __future__ import annotations

import difflib
import inspect
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from planish.errors import ConfigError

if TYPE_CHECKING:
    from planish.quantize.budget import Budget
    from planish.quantize.calibrators import Calibrator
    from planish.quantize.weight_only import WeightOnly

DEVICES = ("cpu", "cuda")
WEIGHTS = ("int8", "int4")
PRECISIONS = ("fp32", "fp16", "bf16", "fp8", "int8", "best")
LAYER_PRECISIONS = ("fp32", "fp16", "bf16", "int8")
TUNE_MODES = ("off", "cache", "measure")
FALLBACKS = ("reference", "error")
DEFAULT_BATCH_RANGE = (1, 1, 32)  # a symbolic batch without a profile: min, opt, max


@dataclass(frozen=True)
class Profile:
    """Allowed shapes of one input: smallest, the one to tune for, largest.

    Each is a full shape; extents that the model fixes must be equal in all three.
    """

    min: tuple[int, ...]
    opt: tuple[int, ...]
    max: tuple[int, ...]

    def __post_init__(self) -> None:
        for field_name in ("min", "opt", "max"):
            shape = getattr(self, field_name)
            if not isinstance(shape, tuple | list) or not all(type(x) is int for x in shape):
                raise ConfigError(
                    f"{field_name} of a profile is {shape!r}, expected a shape",
                    fix="give a tuple of whole numbers like (1, 3, 224, 224)",
                )
            object.__setattr__(self, field_name, tuple(shape))
        if not len(self.min) == len(self.opt) == len(self.max):
            raise ConfigError(
                f"min, opt and max of a profile have ranks {len(self.min)}, {len(self.opt)}, "
                f"{len(self.max)}",
                fix="give three shapes of one rank",
            )
        for low, middle, high in zip(self.min, self.opt, self.max, strict=True):
            if not 0 <= low <= middle <= high:
                raise ConfigError(
                    f"a profile needs min <= opt <= max for every axis, got {self}",
                    fix="order the three shapes",
                )


@dataclass(frozen=True)
class Progress:
    """What `BuildConfig.progress` receives: the stage, how far it is, and what is left.

    Attributes
    ----------
    stage : str
        "import", "passes", "tactics", "tune", "plan" or "compile".
    done, total : int
        Units finished and known in this stage.
    remaining : float
        Seconds left of the time budget.
    detail : str
        What is being worked on.
    """

    stage: str
    done: int
    total: int
    remaining: float
    detail: str = ""


@dataclass(frozen=True)
class BuildConfig:
    """Options of a build; None means the default.

    Attributes
    ----------
    device : str
        "cpu", or "cuda" for NVIDIA GPUs.
    target : str or None
        GPU architecture to build for ("sm_90"); None for the GPU that is here.
    precision : str
        What activations and weights may be lowered to: "fp32", "bf16", "fp16" (16-bit floats of
        the kind that the device is fast with), "int8" (quantized where a calibrator gave scales,
        float32 elsewhere), "fp8" (8-bit floats where a calibrator gave scales, 16-bit floats
        elsewhere; on GPUs from sm_89 on) or "best" (int8 where there are scales, 16-bit floats
        elsewhere).
    calibrator : Calibrator or None
        Gives "int8", "fp8" and "best" the ranges of activations: one of planish.EntropyCalibrator2,
        EntropyCalibrator, MinMaxCalibrator, LegacyCalibrator and MseCalibrator.
    corrections : bool
        Whether to equalize channels and to correct biases of depthwise networks on integers, where
        that lowers the error on the calibration data.
    accuracy : planish.Budget or None
        What lower precision may cost: the build then tries mixes of precisions on the user's data
        and returns the fastest within the budget. None takes what `precision` asks for as it is.
    weights : str, planish.WeightOnly or None
        How weights of large matrix products are stored while their data stay floating point:
        "int8" (a scale a column), "int4" (a scale for 32 rows of a column) or a
        planish.WeightOnly. Device "cpu" only.
    layer_precisions : dict of str to str
        Pattern of layer or tensor names (``*`` and ``?`` as in file names) to "fp32", "int8", or
        "fp16" or "bf16" (16-bit floats of the build's kind): these layers may go no lower. A later
        pattern overrules an earlier one.
    strict : bool
        True makes a precision that was asked for but not reached an error, not a warning.
    profiles : dict of str to Profile
        Ranges of inputs with symbolic extents. Without one, a symbolic batch (axis 0) serves 1
        to 32; any other symbolic extent asks for a profile.
    signature : str or None
        Of a TensorFlow SavedModel, the signature to build; by default ``serving_default``, else
        the only one.
    tags : tuple of str or None
        Of a TensorFlow SavedModel, the tag set of the graph; by default the one for serving.
    time_budget : float
        Seconds that the whole build may take. A correct engine exists early; tuning improves it
        until the budget ends.
    max_aux_streams : int or None
        Streams of a GPU besides the first that independent branches may use, where a measuring
        build finds that faster; None for up to 3.
    workspace_limit : int or None
        Bytes of scratch memory that one kernel may use, all threads together.
    threads : int or None
        Threads of one inference; None for the cores this process may use.
    tune : str
        "off" (heuristic choice), "cache" (only what the timing cache knows), "measure".
    timing_cache : path or None
        File of earlier measurements; read, and updated after a measuring build.
    fallback : str
        "reference" runs regions without a kernel in numpy and says so; "error" refuses them.
    tactic_sources : tuple of str or None
        Tactics to choose from, by name; "default" (and None) stands for all that need no library
        where the engine runs: ``("default", "cublaslt")`` lets cuBLASLt compete.
    progress : callable or None
        Called with `Progress` now and then.
    cancel : callable or None
        Polled during the build; returning True ends tuning (the engine so far is returned) or,
        before an engine exists, raises BuildCancelled.
    verify : bool
        Check the graph's invariants after every pass.
    """

    device: str = "cpu"
    target: str | None = None
    precision: str = "fp32"
    calibrator: Calibrator | None = None
    corrections: bool = True
    accuracy: Budget | None = None
    weights: str | WeightOnly | None = None
    layer_precisions: Mapping[str, str] = field(default_factory=dict)
    strict: bool = False
    profiles: Mapping[str, Profile] = field(default_factory=dict)
    signature: str | None = None
    tags: tuple[str, ...] | None = None
    time_budget: float = 120.0
    max_aux_streams: int | None = None
    workspace_limit: int | None = None
    threads: int | None = None
    tune: str = "measure"
    timing_cache: str | Path | None = None
    fallback: str = "reference"
    tactic_sources: tuple[str, ...] | None = None
    progress: Callable[[Progress], None] | None = None
    cancel: Callable[[], bool] | None = None
    verify: bool = True

    def __post_init__(self) -> None:
        _one_of("device", self.device, DEVICES)
        _one_of("precision", self.precision, PRECISIONS)
        _one_of("tune", self.tune, TUNE_MODES)
        _one_of("fallback", self.fallback, FALLBACKS)
        if not _is_number(self.time_budget) or not 0 < self.time_budget < math.inf:
            raise ConfigError(
                f"time_budget is {self.time_budget!r}, expected seconds above 0",
                where="BuildConfig.time_budget",
                fix='give a positive number, or tune="off" for the shortest build',
            )
        _at_least("threads", self.threads, 1)
        _at_least("workspace_limit", self.workspace_limit, 0)
        _at_least("max_aux_streams", self.max_aux_streams, 0)
        _check_calibrator(self.calibrator)
        _check_accuracy(self.accuracy, self.precision)
        _check_weights(self.weights, self.device)
        for pattern, precision in dict(self.layer_precisions).items():
            _one_of(f"layer_precisions[{pattern!r}]", precision, LAYER_PRECISIONS)
        for name, profile in dict(self.profiles).items():
            if not isinstance(name, str) or not isinstance(profile, Profile):
                raise ConfigError(
                    f"the profile of {name!r} is {profile!r}, expected a planish.Profile",
                    where="BuildConfig.profiles",
                    fix='write {"input name": planish.Profile(min=..., opt=..., max=...)}',
                )
        if isinstance(self.tags, str):
            raise ConfigError(
                f"tags is {self.tags!r}, expected a tuple of tags",
                where="BuildConfig.tags",
                fix=f"write ({self.tags!r},)",
            )
        if isinstance(self.tactic_sources, str) or self.tactic_sources == ():
            raise ConfigError(
                f"tactic_sources is {self.tactic_sources!r}, expected names of tactics",
                where="BuildConfig.tactic_sources",
                fix='give a tuple like ("gemm_conv", "gemm_matmul"), or None for all',
            )

    @property
    def thread_count(self) -> int:
        """Threads of one inference, with the default filled in."""
        return self.threads or len(os.sched_getaffinity(0))


def _check_calibrator(calibrator: object) -> None:
    if calibrator is None or (hasattr(calibrator, "threshold") and not inspect.isclass(calibrator)):
        return
    raise ConfigError(
        f"calibrator is a {type(calibrator).__name__}, expected a calibrator",
        where="BuildConfig.calibrator",
        fix="write planish.EntropyCalibrator2(batches): an instance, with your data in it",
    )


def _check_accuracy(accuracy: object, precision: str) -> None:
    if accuracy is None:
        return
    if not hasattr(accuracy, "max_drop") or inspect.isclass(accuracy):
        raise ConfigError(
            f"accuracy is {accuracy!r:.60}, expected a planish.Budget",
            where="BuildConfig.accuracy",
            fix="write planish.Budget(batches, labels=labels, max_drop=0.5)",
        )
    if precision == "fp32":
        raise ConfigError(
            "an accuracy budget needs a precision that it may be spent on",
            where="BuildConfig.precision = 'fp32'",
            fix='give precision="best", which takes integers and 16-bit floats where they are fast',
        )


def _check_weights(weights: object, device: str) -> None:
    if weights is None:
        return
    if device != "cpu":
        raise ConfigError(
            f"weights of few bits have no kernels on device {device!r}",
            where="BuildConfig.weights",
            fix="leave weights out, or build for the CPU",
        )
    if isinstance(weights, str):
        _one_of("weights", weights, WEIGHTS)
    elif not hasattr(weights, "last_bits") or inspect.isclass(weights):
        raise ConfigError(
            f"weights is {weights!r:.60}, expected 'int4', 'int8' or a planish.WeightOnly",
            where="BuildConfig.weights",
            fix="write planish.WeightOnly(bits=4, group=128)",
        )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _at_least(name: str, value: int | None, smallest: int) -> None:
    if value is None or (type(value) is int and value >= smallest):
        return
    raise ConfigError(
        f"{name} is {value!r}, expected a whole number of at least {smallest}",
        where=f"BuildConfig.{name}",
        fix="leave it out for the default",
    )


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value in allowed:
        return
    near = difflib.get_close_matches(str(value), allowed, n=1)
    raise ConfigError(
        f"{name} is {value!r}, expected one of {', '.join(allowed)}",
        where=f"BuildConfig.{name}",
        fix=f"did you mean {near[0]!r}?" if near else f"use {allowed[0]!r}",
    )


ENVIRONMENT = {
    "PLANISH_DEBUG": "0..4: how much a build prints (1 stages, 2 passes, 3 tactics, 4 source)",
    "PLANISH_DUMP": "a folder that receives numbered text after each pass, the plan and the source",
    "PLANISH_STOP_AFTER": "a stage (import, passes, tactics, tune, plan, compile) to stop after",
    "PLANISH_CACHE": "folder of the default timing cache and compiled objects",
    "PLANISH_TF_TRT": "1: TensorFlow's own trt_convert module converts with Planish",
    "PLANISH_TF_TIME_BUDGET": "seconds of building engines inside a running TensorFlow model (120)",
    "PLANISH_SHARED": "tests only: folder that holds models/ with recorded outputs",
    "PLANISH_TENSORFLOWS": "tests only: folder of virtual environments, one a TensorFlow version",
    "PLANISH_TEST_TENSORFLOWS": "tests only: folder of virtual environments tf213, tf215, tf217",
    "PLANISH_TEST_VENV": "the README's test command only: where its virtual environment goes",
}


def environment(name: str) -> str | None:
    """Return a PLANISH_ variable; raise ConfigError when an unknown one is set."""
    for key in os.environ:
        if key.startswith("PLANISH_") and key not in ENVIRONMENT:
            near = difflib.get_close_matches(key, ENVIRONMENT, n=1)
            raise ConfigError(
                f"unknown environment variable {key}",
                fix=f"did you mean {near[0]}?" if near else f"known: {', '.join(ENVIRONMENT)}",
            )
    return os.environ.get(name)
