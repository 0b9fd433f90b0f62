"""Builds the engine of a segment, ahead of time or while a model runs: the one place for both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from planish.builder import build
from planish.config import BuildConfig, Profile, Progress
from planish.frontends.tensorflow.calibration import ByteCalibrator
from planish.frontends.tensorflow.engine_rules import EngineSettings
from planish.importers.tensorflow import read_graph_def
from planish.runtime.engine import Engine

_PRECISIONS = {"FP32": "fp32", "FP16": "fp16", "INT8": "int8"}


@dataclass(frozen=True)
class SegmentGraph:
    """A segment as a graph of its own.

    Attributes
    ----------
    graph_def : GraphDef
        With a ``Placeholder`` for each input, and every function that it calls.
    inputs, outputs : tuple of str
        Tensor names ("x", "split:1") in the engine operation's order.
    """

    graph_def: Any
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def build_engine(
    segment: SegmentGraph,
    profiles: Sequence[Profile],
    settings: EngineSettings,
    time_budget: float,
    *,
    calibrator: Any = None,
    progress: Callable[[Progress], None] | None = None,
    cancel: Callable[[], bool] | None = None,
) -> Engine:
    """Return an engine for a segment.

    Parameters
    ----------
    segment : SegmentGraph
    profiles : sequence of Profile
        For each input; see `engine_rules.implicit_batch_profiles` and `profiles_for`.
    settings : EngineSettings
        Precision and workspace.
    time_budget : float
        Seconds.
    calibrator, progress, cancel : optional
        See `planish.BuildConfig`; without a calibrator `settings.calibration_data` count.

    Raises
    ------
    PlanishError
        A subclass, where the segment cannot become an engine.
    """
    if calibrator is None and settings.calibration_data:
        calibrator = ByteCalibrator(None, settings.calibration_data)
    names = [_node(name) for name in segment.inputs]
    graph_def = type(segment.graph_def)()
    graph_def.CopyFrom(segment.graph_def)
    given = dict(zip(names, profiles, strict=True))
    for node in graph_def.node:
        if node.name in given:
            _declare(node, given[node.name])
    model = read_graph_def(graph_def.SerializeToString(), names, segment.outputs)
    config = BuildConfig(
        precision=_PRECISIONS[settings.precision.upper()],
        calibrator=calibrator,
        profiles={name: profile for name, profile in given.items() if profile.min != profile.max},
        time_budget=max(time_budget, 0.001),
        workspace_limit=settings.workspace_bytes,
        progress=progress,
        cancel=cancel,
    )
    return build(model, config)


def _node(tensor: str) -> str:
    return tensor.partition(":")[0]


def _declare(placeholder: Any, profile: Profile) -> None:
    """Make the extents that a profile fixes numbers, and the others unknown."""
    shape = placeholder.attr["shape"].shape
    shape.Clear()
    for low, high in zip(profile.min, profile.max, strict=True):
        shape.dim.add().size = low if low == high else -1
    shape.SetInParent()
