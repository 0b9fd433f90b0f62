"""FP16 safety: layers whose numbers do not fit into float16 stay float32, and the report says so.

A user who asks for fp16 means float16's range. Where 16-bit floats are bfloat16 nothing overflows,
but the model would on a device with float16; so its layers are treated alike everywhere. Ranges of
activations are those on the user's data; without data, the weights alone are looked at.
"""

from __future__ import annotations

import glob
from collections.abc import Iterator

import numpy as np

from planish.ir.dtypes import F32
from planish.ir.graph import Graph, Node, Value
from planish.passes.lower_precision import FLOAT_SLOTS, LOWERABLE, PRODUCTS
from planish.quantize.scheme import Ranges, tensor_name

LARGEST = 65504.0  # the largest float16
SMALLEST_NORMAL = 2.0**-14  # below it float16 loses digits


def measured_values(graph: Graph) -> list[Value]:
    """Return the float tensors that products and what surrounds them read or write."""
    found: dict[Value, None] = {}
    for node in graph:
        if node.op in PRODUCTS or node.op in LOWERABLE:
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
    precisions: dict[str, str] = {}
    lines: list[str] = []
    for node in graph:
        if node.op not in PRODUCTS and node.op not in LOWERABLE:
            continue
        reason = next(_reasons(node, ranges), None)
        if reason is None:
            continue
        precisions |= {glob.escape(tensor_name(output)): "fp32" for output in node.outputs}
        lines.append(f"{node.source} stays float32: {reason}")
    return precisions, lines


def _reasons(node: Node, ranges: Ranges | None) -> Iterator[str]:
    wide = FLOAT_SLOTS.get(node.op, ())  # operands that are float32 in any case
    inputs = [value for slot, value in enumerate(node.inputs) if slot not in wide]
    for value in (*inputs, *node.outputs):
        if value is None or value.dtype is not F32:
            continue
        name = tensor_name(value)
        if value.is_constant:
            amax = float(np.abs(value.array).max(initial=0)) if node.op in PRODUCTS else 0.0
            name = "its weights"
        elif ranges is None:
            continue
        elif name in ranges.infinite:
            yield f"{name} is infinite on the calibration data"
            continue
        else:
            amax = ranges[name].amax if name in ranges else 0.0
        if amax > LARGEST:
            yield f"{name} reach(es) {amax:.4g}, and float16 ends at 65504"
        elif 0 < amax < SMALLEST_NORMAL:
            yield f"{name} reach(es) {amax:.2g} only, where float16 loses digits"
