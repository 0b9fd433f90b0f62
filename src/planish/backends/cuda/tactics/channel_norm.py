"""Normalizations that need no sums over rows: BatchNormalization that no pass folded, and LRN.

BatchNormalization: y = (x - mean) * (scale / sqrt(variance + epsilon)) + shift, by channel.
LRN: y[c] = x[c] / (bias + alpha / size * sum over neighbouring channels of x^2)^beta; neighbours
are read again for every element (from a cache). Bound by memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from planish.backends.cuda.codegen.elements import Describe, Elements, ElementTactic, typed
from planish.errors import TacticError


def _batch_normalization(e: Elements) -> Sequence[str]:
    x, dtype = e.node.present_inputs[0], e.node.outputs[0].dtype
    if e.node.attributes.get("training_mode", 0) or len(e.node.outputs) > 1:
        raise TacticError("it is in training mode")
    if not dtype.is_float or x.rank < 2:
        raise TacticError(f"it is of {dtype} with {x.rank} axes")
    scale, shift, mean, variance = (e.read(v, [e.at[1]]) for v in e.node.present_inputs[1:5])
    factor = f"{scale} / tl.sqrt({variance} + {float(e.node.attributes['epsilon'])!r})"
    text = f"({e.read(x, e.at)} - {mean}) * ({factor}) + {shift}"
    return [e.let("total", typed(text, dtype))]


def _neighbours(e: Elements) -> Sequence[str]:
    node, x = e.node, e.node.present_inputs[0]
    if not x.dtype.is_float or x.rank < 2:
        raise TacticError(f"it is of {x.dtype} with {x.rank} axes")
    size = int(node.attributes["size"])
    total = e.let("total", typed(e.full("0.0", "tl.float32"), x.dtype))
    with e.block_of(f"for step in range({size}):"):
        channel = e.let("channel", f"{e.at[1]} + (step - {(size - 1) // 2})")
        inside = f"({channel} >= 0) & ({channel} < {e.dim(x.known_shape[1])})"
        near = e.read(x, [e.at[0], channel, *e.at[2:]], inside)
        e.say(f"{total} += {near} * {near}")
    alpha, beta, bias = (float(node.attributes[name]) for name in ("alpha", "beta", "bias"))
    base = e.let("base", f"{bias!r} + {alpha / size!r} * {total}")
    return [e.let("total", f"{e.read(x, e.at)} * tl.exp({-beta!r} * tl.log({base}))")]


class ChannelNorm(ElementTactic):
    """See the module's docstring."""

    name: ClassVar[str] = "triton_channel_norm"
    describe: ClassVar[dict[str, Describe]] = {
        "BatchNormalization": _batch_normalization,
        "LRN": _neighbours,
    }
