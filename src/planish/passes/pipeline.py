"""THE ordered list of passes. Order is a decision; this file is where it is taken."""

from __future__ import annotations

from planish.config import BuildConfig
from planish.passes.apply_rules import ApplyRules
from planish.passes.common_subexpressions import CommonSubexpressions
from planish.passes.dead_code import DeadCode
from planish.passes.fold_constants import FoldConstants
from planish.passes.fold_shapes import FoldShapes
from planish.passes.fuse_regions import FuseRegions
from planish.passes.fuse_siblings import FuseSiblings
from planish.passes.graph_pass import FixedPoint, GraphPass
from planish.passes.inline_if import InlineIf
from planish.passes.rules import RULES


def pipeline(config: BuildConfig) -> list[GraphPass]:
    """Return the passes of a build, in order.

    Parameters
    ----------
    config : BuildConfig
        `precision` decides which values are lowered.
    """
    return [
        simplify(),
        recognise(),
        simplify(),
        FuseSiblings(),
        FuseRegions(),
    ]


def simplify() -> GraphPass:
    """Return the passes that bring a graph into its simplest form, run until nothing changes."""
    return FixedPoint(
        "simplify",
        [
            InlineIf(),
            FoldConstants(),
            FoldShapes(),
            ApplyRules(rule for rule in RULES if rule.stage == "simplify"),
            CommonSubexpressions(),
            DeadCode(),
        ],
    )


def recognise() -> GraphPass:
    """Return the passes that find operators which the model spells out in primitives."""
    return FixedPoint(
        "recognise",
        [ApplyRules(rule for rule in RULES if rule.stage == "recognise"), DeadCode()],
    )
