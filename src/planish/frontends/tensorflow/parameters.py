"""Parameters of a TF-TRT conversion: names, defaults, validation and older spellings.

Names, defaults and error texts are those of TensorFlow 2.17's ``trt_convert``; the differences of
earlier releases are accepted with a warning, so that a script need not know which one it runs on.
"""

from __future__ import annotations

import warnings
from collections import namedtuple
from typing import Any

DEFAULT_TRT_MAX_WORKSPACE_SIZE_BYTES = 1 << 30

PROFILE_STRATEGY_RANGE = "Range"
PROFILE_STRATEGY_OPTIMAL = "Optimal"
PROFILE_STRATEGY_RANGE_OPTIMAL = "Range+Optimal"
PROFILE_STRATEGY_IMPLICIT_BATCH_MODE_COMPATIBLE = "ImplicitBatchModeCompatible"

# TensorFlow 2.0 to 2.6 had these fields; none of them means anything here.
_OLD_FIELDS = {
    "rewriter_config_template": "the graph is optimized by Planish",
    "is_dynamic_op": "engines are built ahead and also serve other shapes",
    "max_batch_size": "engines serve a range of batch sizes",
}


class TrtPrecisionMode:
    """Precisions that a conversion may ask for."""

    FP32 = "FP32"
    FP16 = "FP16"
    INT8 = "INT8"

    @staticmethod
    def supported_precision_modes() -> list[str]:
        """Return the accepted strings."""
        precisions = [TrtPrecisionMode.FP32, TrtPrecisionMode.FP16, TrtPrecisionMode.INT8]
        return precisions + [precision.lower() for precision in precisions]


def supported_profile_strategies() -> list[str]:
    """Return the strategies that make ranges of shapes out of the inputs given to ``build``."""
    return [
        PROFILE_STRATEGY_RANGE,
        PROFILE_STRATEGY_OPTIMAL,
        PROFILE_STRATEGY_RANGE_OPTIMAL,
        PROFILE_STRATEGY_IMPLICIT_BATCH_MODE_COMPATIBLE,
    ]


_FIELDS = {
    "max_workspace_size_bytes": DEFAULT_TRT_MAX_WORKSPACE_SIZE_BYTES,
    "precision_mode": TrtPrecisionMode.FP32,
    "minimum_segment_size": 3,
    "maximum_cached_engines": 1,
    "use_calibration": True,
    "allow_build_at_runtime": True,
}
# the order of TensorFlow 2.3 and 2.4
_OLD_ORDER = (
    "rewriter_config_template", "max_workspace_size_bytes", "precision_mode",
    "minimum_segment_size", "is_dynamic_op", "maximum_cached_engines", "use_calibration",
    "max_batch_size", "allow_build_at_runtime",
)  # fmt: skip

_Fields = namedtuple("TrtConversionParams", list(_FIELDS))  # type: ignore[misc]


class TrtConversionParams(_Fields):
    """Parameters of a conversion; a named tuple, to be changed with `_replace`.

    Attributes
    ----------
    max_workspace_size_bytes : int
        Bytes of scratch memory that one kernel of an engine may use.
    precision_mode : str
        "FP32", "FP16" or "INT8", in capital or small letters.
    minimum_segment_size : int
        Least number of operations that become an engine; -1 converts nothing.
    maximum_cached_engines : int
        Engines for different shapes that one operation keeps.
    use_calibration : bool
        With INT8: measure the ranges of activations with ``calibration_input_fn``.
    allow_build_at_runtime : bool
        Build an engine when inputs of a new shape arrive; otherwise TensorFlow runs them.

    Notes
    -----
    `rewriter_config_template`, `is_dynamic_op` and `max_batch_size` of TensorFlow 2.0 to 2.6 are
    taken, with a warning, and ignored.
    """

    __slots__ = ()

    def __new__(cls, *args: Any, **fields: Any) -> TrtConversionParams:
        """Return parameters in today's order, or in that of 2.3, or by name."""
        # 2.3 and 2.4 began with rewriter_config_template: None, or a message
        old = bool(args) and not isinstance(args[0], int)
        names = _OLD_ORDER if old else tuple(_FIELDS)
        if len(args) > len(names):
            raise TypeError(f"expected at most {len(names)} parameters, got {len(args)}")
        given = dict(zip(names, args, strict=False))
        twice = [name for name in fields if name in given]
        if twice:
            raise TypeError(f"got multiple values for parameter {twice[0]!r}")
        kept = _without_old_fields({**given, **fields})
        return super().__new__(cls, **{**_FIELDS, **kept})

    def _replace(self, /, **fields: Any) -> TrtConversionParams:
        """Return a copy with some fields changed."""
        kept = _without_old_fields(fields)
        return type(self)(**{**self._asdict(), **kept})


def _without_old_fields(fields: dict[str, Any]) -> dict[str, Any]:
    for name, reason in _OLD_FIELDS.items():
        if fields.get(name) is None:
            continue
        warnings.warn(
            f"{name} is a parameter of TensorFlow 2.0 to 2.6 and is ignored: {reason}",
            DeprecationWarning,
            stacklevel=4,
        )
    return {name: value for name, value in fields.items() if name not in _OLD_FIELDS}


DEFAULT_TRT_CONVERSION_PARAMS = TrtConversionParams()


def check_conversion_params(parameters: Any) -> None:
    """Raise ValueError, with TF-TRT's texts, when a parameter has a wrong value.

    Parameters
    ----------
    parameters : TrtConversionParams
        Or anything with its fields, like TensorFlow's own named tuple.
    """
    supported = TrtPrecisionMode.supported_precision_modes()
    if parameters.precision_mode not in supported:
        raise ValueError(
            f"precision mode '{parameters.precision_mode}' is not supported."
            f"It should be one of {supported}"
        )
    size = parameters.minimum_segment_size
    if size <= 0 and size != -1:
        raise ValueError(
            "minimum segment size should be positive or -1 (to disable main graph conversion)."
        )
    if parameters.max_workspace_size_bytes < 0:
        raise ValueError(
            f"max_workspace_size_bytes is {parameters.max_workspace_size_bytes}, expected a "
            "number of bytes"
        )


def check_profile_strategy(strategy: str) -> None:
    """Raise ValueError for an unknown strategy; the deprecated one warns."""
    if strategy.lower() not in [known.lower() for known in supported_profile_strategies()]:
        raise ValueError(
            f"profile_strategy '{strategy}' is not supported. It should be one of "
            f"{supported_profile_strategies()}"
        )
    if strategy == PROFILE_STRATEGY_IMPLICIT_BATCH_MODE_COMPATIBLE:
        warnings.warn(
            "ImplicitBatchModeCompatible strategy is deprecated; Range serves the same shapes",
            DeprecationWarning,
            stacklevel=4,
        )
