"""BatchNormalization that no pass could fold: one multiply and add a channel.

y = (x - mean) * (scale / sqrt(variance + epsilon)) + shift, parameters read along axis 1. Bound by
memory; the per-channel factor is computed once for a run of elements of one channel, or is
vectorised with them in channels-last images.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from planish.backends.cpu.codegen.indexing import identity_map, loop_index
from planish.backends.cpu.codegen.injection import Builder, Describe, Injection, InjectiveTactic
from planish.backends.cpu.codegen.scalar import literal
from planish.ir.dtypes import F32, F64


def _batch_normalization(builder: Builder) -> list[Injection] | str:
    node, shape = builder.node, builder.shape(0)
    rank, dtype = len(shape), builder.value(0).dtype
    if node.attributes.get("training_mode", 0) or len(node.outputs) > 1:
        return "training mode is left to the reference"
    if not dtype.is_float or rank < 2:
        return f"BatchNormalization of {dtype} with {rank} axes is left to the reference"
    index, channel = identity_map(rank), (loop_index(1, rank),)
    wide = F64 if dtype is F64 else F32
    suffix = "_f64" if dtype is F64 else ""
    epsilon = literal(node.attributes["epsilon"], wide)

    def expression(names: Sequence[str]) -> str:
        x, scale, shift, mean, variance = names
        return (
            f"({x} - {mean}) * ({scale} / planish_sqrt{suffix}({variance} + {epsilon})) + {shift}"
        )

    parameters = tuple((value, channel) for value in node.present_inputs[1:5])
    return [Injection(shape, ((builder.value(0), index), *parameters), index, 0, expression)]


class ScaleShiftTactic(InjectiveTactic):
    """A multiply and an add with parameters of the channel."""

    name: ClassVar[str] = "scale_shift"
    describe: ClassVar[dict[str, Describe]] = {"BatchNormalization": _batch_normalization}
