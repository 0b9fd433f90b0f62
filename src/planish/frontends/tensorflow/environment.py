"""The environment variables of TF-TRT that mean something here, one row each.

They are NVIDIA's names, read when a conversion or an engine needs them, so that existing
deployments keep their switches.
"""

from __future__ import annotations

import os

from planish.errors import ConfigError

TF_TRT_VARIABLES = {
    "TF_TRT_OP_DENYLIST": "operations, separated by commas, that stay TensorFlow's",
    "TF_TRT_MAX_ALLOWED_ENGINES": "most engines of one conversion (20); 0 or less: any number",
    "TF_TRT_SHOW_DETAILED_REPORT": "1: print why operations stay outside; a path: write it there",
    "TF_TRT_ALLOW_ENGINE_NATIVE_SEGMENT_EXECUTION": "false: an engine that cannot run is an error",
    "TF_TRT_ABORT_CUDA_ENGINE_BUILD": "true: building an engine fails (for tests)",
    "TF_TRT_EXPERIMENTAL_FEATURES": "remove_native_segments: leave them out of what is saved",
    "TF_TRT_EXPORT_GRAPH_VIZ_PATH": "a file for the converted graph in Graphviz's language",
    "TF_TRT_EXPORT_TRT_ENGINES_PATH": "a folder for a copy of every engine that is built",
}
DEFAULT_MAX_ENGINES = 20


def denied_ops() -> frozenset[str]:
    """Return the operations of TF_TRT_OP_DENYLIST."""
    text = os.environ.get("TF_TRT_OP_DENYLIST", "")
    return frozenset(name.strip() for name in text.split(",") if name.strip())


def max_engines() -> int | None:
    """Return the limit of TF_TRT_MAX_ALLOWED_ENGINES, None for no limit.

    Raises
    ------
    ConfigError
        When the variable holds no whole number.
    """
    text = os.environ.get("TF_TRT_MAX_ALLOWED_ENGINES", "").strip()
    if not text:
        return DEFAULT_MAX_ENGINES
    try:
        number = int(text)
    except ValueError as error:
        raise ConfigError(
            f"TF_TRT_MAX_ALLOWED_ENGINES is {text!r}, expected a whole number",
            where="environment variable TF_TRT_MAX_ALLOWED_ENGINES",
            fix="20 is the default; 0 allows any number of engines",
        ) from error
    return number if number > 0 else None


def is_feature_on(name: str) -> bool:
    """Return whether TF_TRT_EXPERIMENTAL_FEATURES names a feature."""
    features = os.environ.get("TF_TRT_EXPERIMENTAL_FEATURES", "").split(",")
    return name in [feature.strip() for feature in features]


def detailed_report() -> str | None:
    """Return TF_TRT_SHOW_DETAILED_REPORT: None, "print", or the path of a table to write."""
    text = os.environ.get("TF_TRT_SHOW_DETAILED_REPORT", "").strip()
    if not text or text == "0":
        return None
    return "print" if text.lstrip("-").isdecimal() else text


def graphviz_path() -> str | None:
    """Return TF_TRT_EXPORT_GRAPH_VIZ_PATH."""
    return os.environ.get("TF_TRT_EXPORT_GRAPH_VIZ_PATH") or None


def export_path() -> str | None:
    """Return TF_TRT_EXPORT_TRT_ENGINES_PATH."""
    return os.environ.get("TF_TRT_EXPORT_TRT_ENGINES_PATH") or None


def is_native_execution_allowed() -> bool:
    """Return whether TensorFlow may run the segment of an engine that cannot run."""
    return _is_on("TF_TRT_ALLOW_ENGINE_NATIVE_SEGMENT_EXECUTION", True)


def is_build_aborted() -> bool:
    """Return whether TF_TRT_ABORT_CUDA_ENGINE_BUILD makes every build fail."""
    return _is_on("TF_TRT_ABORT_CUDA_ENGINE_BUILD", False)


def _is_on(variable: str, default: bool) -> bool:
    text = os.environ.get(variable, "").strip().lower()
    return text in ("1", "true") if text else default
