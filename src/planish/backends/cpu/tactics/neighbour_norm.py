"""LRN: y[c] = x[c] / (bias + alpha / size * sum over neighbouring channels of x^2)^beta.

Each element reads its `size` neighbours again (they are in L1); neighbours outside the channels
read the nearest one inside and count zero. The power is exp(-beta * log(...)), or square roots for
the usual beta of 3/4 and 1/2. Bound by that power, or by the loads for wide windows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from planish.backends.cpu.codegen.indexing import identity_map, term_index
from planish.backends.cpu.codegen.injection import Builder, Describe, Injection, InjectiveTactic
from planish.ir.dtypes import F64

LARGEST_SIZE = 32


def _neighbours(builder: Builder) -> list[Injection] | str:
    node, x, shape = builder.node, builder.value(0), builder.shape(0)
    rank, size = len(shape), int(node.attributes["size"])
    if not x.dtype.is_float or x.dtype is F64 or rank < 2:
        return f"LRN of {x.dtype} with {rank} axes is left to the reference"
    if size > LARGEST_SIZE:
        return f"a window of {size} channels is left to the reference"
    index, channels = identity_map(rank), builder.writer.dim(shape[1])
    shifts = [k - (size - 1) // 2 for k in range(size)]
    reads = [(x, index)]
    for shift in shifts:
        at = term_index(rank, f"planish_clamp_i64(i1 + {shift}, 0, {channels} - 1)", (1,))
        reads.append((x, (index[0], at, *index[2:])))
    alpha, bias = float(node.attributes["alpha"]), float(node.attributes["bias"])
    beta = float(node.attributes["beta"])

    def expression(names: Sequence[str]) -> str:
        squares = []
        for shift, name in zip(shifts, names[1:], strict=True):
            inside = f"(i1 + {shift} >= 0 && i1 + {shift} < {channels})"
            squares.append(f"({inside} ? {name} * {name} : 0.0f)")
        base = f"({bias!r}f + {alpha / size!r}f * ({' + '.join(squares)}))"
        return f"{names[0]} * {_inverse_power(base, beta)}"

    return [Injection(shape, tuple(reads), index, 0, expression, frozenset({1}))]


def _inverse_power(base: str, beta: float) -> str:
    root = f"planish_sqrt({base})"
    if beta == 0.75:
        return f"(1.0f / ({root} * planish_sqrt({root})))"
    if beta == 0.5:
        return f"(1.0f / {root})"
    return f"planish_exp({-beta!r}f * planish_log({base}))"


class NeighbourNormTactic(InjectiveTactic):
    """A window of channels read again for every element."""

    name: ClassVar[str] = "neighbour_norm"
    describe: ClassVar[dict[str, Describe]] = {"LRN": _neighbours}
