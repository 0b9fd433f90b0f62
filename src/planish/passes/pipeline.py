"""THE ordered list of passes. Order is a decision; this file is where it is taken."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from planish.config import BuildConfig, environment
from planish.ir.graph import Graph, Node
from planish.passes.apply_rules import ApplyRules
from planish.passes.assign_layouts import AssignLayouts
from planish.passes.assign_storage import AssignStorage
from planish.passes.collect_requirements import CollectRequirements
from planish.passes.common_subexpressions import CommonSubexpressions
from planish.passes.dead_code import DeadCode
from planish.passes.fold_constants import FoldConstants
from planish.passes.fold_shapes import FoldShapes
from planish.passes.fuse_regions import FuseRegions
from planish.passes.fuse_siblings import FuseSiblings
from planish.passes.graph_pass import (
    FixedPoint,
    ForLoops,
    GraphPass,
    PassStatistics,
    dump_to,
    run_pipeline,
)
from planish.passes.hoist_projections import HoistProjections
from planish.passes.inline_if import InlineIf
from planish.passes.lower_precision import HALVES, LowerPrecision
from planish.passes.native_loops import NativeLoops
from planish.passes.raise_pads import RaisePads
from planish.passes.refine_types import RefineTypes
from planish.passes.rules import RULES
from planish.passes.settle_extents import SettleExtents
from planish.passes.settle_quantized import SettleQuantized
from planish.passes.tidy_loops import TidyLoops
from planish.passes.unroll_loops import UnrollLoops


def optimize(
    graph: Graph,
    config: BuildConfig,
    prints: Callable[[Node], bool] = lambda node: True,
    quantize: Callable[[Graph], bool] | None = None,
) -> list[PassStatistics]:
    """Run the whole pipeline on `graph`; return what every pass did.

    Parameters
    ----------
    graph : Graph
    config : BuildConfig
        See `lowering`.
    prints : callable, optional
        Whether the device has code for a pointwise node; others are not fused.
    quantize : callable, optional
        Called with the simplified graph, before it is lowered: may make integers of its layers,
        and returns whether it did.

    With PLANISH_DUMP set, the graph's text is written to that folder after each pass.

    Raises
    ------
    PassError
        Naming the pass that failed.
    """
    folder = environment("PLANISH_DUMP")
    observer = None if not folder else dump_to(Path(folder), graph)
    name_tensors(graph)
    first = preparation()
    record = run_pipeline(graph, first, check=config.verify, observer=observer)
    changed = quantize is not None and quantize(graph)
    then = [*([simplify()] if changed else []), *lowering(config, prints)]
    start = len(first) + 1
    return record + run_pipeline(graph, then, check=config.verify, observer=observer, start=start)


def name_tensors(graph: Graph) -> None:
    """Let every tensor remember the name that the user knows it by."""
    for value in [*graph.inputs, *(output for node in graph for output in node.outputs)]:
        value.origin = value.name


def pipeline(
    config: BuildConfig, prints: Callable[[Node], bool] = lambda node: True
) -> list[GraphPass]:
    """Return all passes of a build, in order; see `lowering` for the parameters."""
    return [*preparation(), *lowering(config, prints)]


def preparation() -> list[GraphPass]:
    """Return the passes that bring a graph into its simplest form, whatever it is lowered to."""
    return [
        CollectRequirements(),
        tidy_loops(),
        recurrent(),
        simplify(),
        recognise(),
        HoistProjections(),
        NativeLoops(),
        simplify(),
    ]


def lowering(
    config: BuildConfig, prints: Callable[[Node], bool] = lambda node: True
) -> list[GraphPass]:
    """Return the passes from a simplified graph to regions with storage.

    Parameters
    ----------
    config : BuildConfig
        `precision` decides which values are lowered.
    prints : callable, optional
        See `optimize`.
    """
    floats = (config.precision, config.layer_precisions)
    has_halves = not HALVES.keys().isdisjoint((floats[0], *floats[1].values()))
    halos = config.device == "cpu"  # GPU kernels mask what lies outside of their operands
    return [
        SettleQuantized(_decodes(config), small_floats=config.device == "cuda"),
        *([LowerPrecision(*floats, prints)] if has_halves else []),
        FuseSiblings(),
        RaisePads(),
        FuseRegions(prints, gates=config.device == "cuda"),
        AssignLayouts(halos),
        AssignStorage(halos),
    ]


def _decodes(config: BuildConfig) -> bool:
    """Whether kernels that decode compressed weights may be used."""
    sources = ("default",) if config.tactic_sources is None else config.tactic_sources
    return config.device == "cpu" and not {"default", "compressed_matmul"}.isdisjoint(sources)


def simplify() -> GraphPass:
    """Return the passes that bring a graph into its simplest form, run until nothing changes."""
    return FixedPoint("simplify", [UnrollLoops(), *_simplifications()])


def tidy_loops() -> GraphPass:
    """Return the passes that bring loops into the form in which recurrent layers are found."""
    gates = [rule for rule in RULES if rule.label == "HardSigmoid"]
    return ForLoops("tidy_loops", [TidyLoops(), *_simplifications(), ApplyRules(gates)])


def recurrent() -> GraphPass:
    """Return the pass that finds recurrent layers in loops, before loops are unrolled."""
    return ForLoops(
        "recurrent",
        [ApplyRules(rule for rule in RULES if rule.stage == "recurrent"), DeadCode()],
    )


def _simplifications() -> list[GraphPass]:
    return [
        InlineIf(),
        RefineTypes(),
        SettleExtents(),
        FoldConstants(),
        FoldShapes(),
        ApplyRules(rule for rule in RULES if rule.stage == "simplify"),
        CommonSubexpressions(),
        DeadCode(),
    ]


def recognise() -> GraphPass:
    """Return the passes that find operators which the model spells out in primitives."""
    return FixedPoint(
        "recognise",
        [ApplyRules(rule for rule in RULES if rule.stage == "recognise"), DeadCode()],
    )
