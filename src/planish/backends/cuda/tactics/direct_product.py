"""Matrix products of any type and rank, one element a lane: the last resort.

y[..., m, n] = sum over k of a[..., m, k] b[..., k, n]; vectors have no m or n. For what tensor
cores do not multiply (32-bit integers, float64) and operands that do not lie as their kernel asks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from planish.backends.cuda.codegen.elements import Describe, Elements, ElementTactic, typed
from planish.backends.cuda.codegen.triton_types import compute_type, sum_type
from planish.errors import TacticError
from planish.ir.dtypes import BOOL
from planish.ir.graph import Value
from planish.ir.shape import Dim


def _product(e: Elements) -> Sequence[str]:
    a, b = e.node.present_inputs
    if BOOL in (a.dtype, b.dtype):
        raise TacticError("it is of booleans")
    kind = sum_type(a.dtype)
    rows, columns = min(a.rank, 2) - 1, min(b.rank, 2) - 1
    batch = len(e.at) - rows - columns
    row, column = e.at[batch : batch + rows], e.at[batch + rows :]
    total = e.let("total", e.full("0", compute_type(kind)))
    with e.block_of(f"for step in range({e.dim(a.known_shape[-1])}):"):
        depth = e.let("k", f"tl.arange(0, {e.block}) * 0 + step")
        x = e.read(a, [*_batch(e, a, batch), *row, depth])
        y = e.read(b, [*_batch(e, b, batch), depth, *column])
        e.say(f"{total} += {typed(x, kind)} * {typed(y, kind)}")
    return [e.let("total", typed(total, e.node.output.dtype))]


def _batch(e: Elements, operand: Value, batch: int) -> list[str | Dim]:
    """Return the coordinates along an operand's batch axes, which broadcast."""
    count = max(operand.rank - 2, 0)
    return list(e.at[batch - count : batch])


class DirectProduct(ElementTactic):
    """See the module's docstring."""

    name: ClassVar[str] = "triton_direct_product"
    rank: ClassVar[int] = 60
    describe: ClassVar[dict[str, Describe]] = {"MatMul": _product}
