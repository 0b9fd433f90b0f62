"""FP16 safety: layers whose numbers do not fit into float16 stay float32, and the report says so.

A user who asks for fp16 means float16's range. Where 16-bit floats are bfloat16 nothing overflows,
but the model would on a device with float16; so its layers are treated alike everywhere. Ranges of
activations are those on the user's data; without data they are estimated from the weights
(magnitudes.py).

Masks that are added to scores before a softmax (-10000, -1e9, -inf) keep no layer in float32: what
float16 makes of them is as good as minus infinity, and so is its share, zero.
"""

from __future__ import annotations

import glob
import math
from collections.abc import Callable, Iterator

import numpy as np

from planish.ir.dtypes import F32
from planish.ir.graph import Graph, Node, Value
from planish.passes.lower_precision import FLOAT_SLOTS, PRODUCTS, nodes_to_lower
from planish.passes.quantized import MOVING
from planish.quantize.magnitudes import Numbers, magnitudes
from planish.quantize.scheme import Ranges, tensor_name

LARGEST = 65504.0  # the largest float16
SMALLEST_NORMAL = 2.0**-14  # below it float16 loses digits
KEEPS_ORDER = MOVING | {"Add", "Cast", "Clip", "Max", "Min", "Sub", "Where"}
MASKED = {"Attention": 3, "com.microsoft.MultiHeadAttention": 4}  # operands from here on are masks

Reach = tuple[float, str]  # largest magnitude, and how that is said
ReachOf = Callable[[Value], Reach]


def measured_values(graph: Graph) -> list[Value]:
    """Return the float tensors that layers in 16-bit floats read or write."""
    found: dict[Value, None] = {}
    for node in nodes_to_lower(graph):
        found.update(dict.fromkeys((*node.present_inputs, *node.outputs)))
    return [value for value in found if value.dtype is F32 and not value.is_constant]


def kept_in_float32(graph: Graph, ranges: Ranges | None) -> tuple[dict[str, str], list[str]]:
    """Return layers as `BuildConfig.layer_precisions` wants them, and a line for each with why.

    Parameters
    ----------
    graph : Graph
        Simplified, float32.
    ranges : Ranges or None
        Of `measured_values`; None without data.
    """
    reach = _estimated(graph) if ranges is None else _measured(ranges)
    precisions: dict[str, str] = {}
    lines: list[str] = []
    for node in nodes_to_lower(graph):
        reason = next(_reasons(node, reach), None)
        if reason is None:
            continue
        precisions |= {glob.escape(tensor_name(output)): "fp32" for output in node.outputs}
        lines.append(f"{node.source} stays float32: {reason}")
    return precisions, lines


def _measured(ranges: Ranges) -> ReachOf:
    def reach(value: Value) -> Reach:
        name = tensor_name(value)
        masks = _is_masked_score(value)
        if name in ranges.infinite and not masks:
            return math.inf, f"{name} is infinite on the calibration data"
        if name not in ranges:
            return 0.0, ""
        amax = max(ranges[name].maximum, 0.0) if masks else ranges[name].amax
        return amax, f"{name} reaches {amax:.4g}"

    return reach


def _estimated(graph: Graph) -> ReachOf:
    found: dict[Value, Numbers] = magnitudes(graph)

    def reach(value: Value) -> Reach:
        likely = found[value].likely if value in found else math.nan
        if math.isnan(likely) or _is_masked_score(value):
            return 0.0, ""
        return likely, (
            f"{tensor_name(value)} is estimated from the weights to reach {likely:.4g} "
            "(calibration data would tell)"
        )

    return reach


def _is_masked_score(value: Value) -> bool:
    """Whether `value` is a mask or a score that only a softmax reads, where order is all."""
    pending, seen = [value], {value}
    while pending:
        for node, index in pending.pop().uses:
            if node.op == "Softmax" or index >= MASKED.get(node.op, index + 1):
                continue
            if node.op not in KEEPS_ORDER or (node.op == "Sub" and index == 1):
                return False
            pending += [output for output in node.outputs if output not in seen]
            seen.update(node.outputs)
    return bool(value.uses)


def _reasons(node: Node, reach: ReachOf) -> Iterator[str]:
    wide = FLOAT_SLOTS.get(node.op, ())  # operands that are float32 in any case
    inputs = [value for slot, value in enumerate(node.inputs) if slot not in wide]
    for value in (*inputs, *node.outputs):
        if value is None or value.dtype is not F32:
            continue
        if value.is_constant:
            amax = float(np.abs(value.array).max(initial=0)) if node.op in PRODUCTS else 0.0
            said = f"its weights reach {amax:.4g}"
        else:
            amax, said = reach(value)
        if amax == math.inf:
            yield said
        elif amax > LARGEST:
            yield f"{said}, and float16 ends at 65504"
        elif 0 < amax < SMALLEST_NORMAL:
            yield f"{said} only, where float16 loses digits"
