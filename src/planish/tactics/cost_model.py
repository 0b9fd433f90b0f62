"""Roofline estimate of a region's time, used to order tuning work before anything is measured."""

from __future__ import annotations

from planish.ir.dtypes import I8, U8
from planish.ir.shape import Dim, evaluate, product, symbols_of
from planish.ops.op import op_of
from planish.tactics.tactic import Region
from planish.tactics.target import Target

# Sustained rates of one core, deliberately round: only the order of the estimates matters.
OPERATIONS_PER_MICROSECOND = {"avx512f": 150_000.0, "avx2": 60_000.0, "": 8_000.0}
EIGHT_BITS = 4.0  # times as many operations on integers of eight bits
BYTES_PER_MICROSECOND = 30_000.0
STEP_OVERHEAD_MICROSECONDS = 0.3
# those of a GPU: of one multiprocessor's tensor cores, and of all its memory
GPU_OPERATIONS = 4_000_000.0
GPU_BYTES = 3_000_000.0
GPU_OVERHEAD = 2.0


def bindings_at_opt(region: Region) -> dict[str, int]:
    """Return every symbol of `region` at the extent that the profile says to tune for."""
    return {name: opt for name, (_, opt, _) in region.ranges.items()}


def estimate_microseconds(region: Region, target: Target) -> float:
    """Return max(arithmetic time, memory time) of one run at the profile's opt shape.

    The roofline model: S. Williams, A. Waterman, D. Patterson, "Roofline", CACM 52(4), 2009.
    """
    bindings = bindings_at_opt(region)
    operations = sum(_size(op_of(node).cost(node).operations, bindings) for node in region.body)
    moved = sum(_bytes(value.known_shape, value.dtype.itemsize, bindings) for value in
                (*(operand.value for operand in (*region.inputs, *region.outputs)),
                 *region.body.constants()))  # fmt: skip
    if target.device == "cuda":
        return max(operations / (GPU_OPERATIONS * target.multiprocessors), moved / GPU_BYTES) + (
            GPU_OVERHEAD
        )
    rate = next(r for name, r in OPERATIONS_PER_MICROSECOND.items() if not name or target.has(name))
    if region.anchor is not None and any(o.dtype in (I8, U8) for o in region.inputs):
        rate *= EIGHT_BITS
    arithmetic = operations / (rate * target.threads)
    return max(arithmetic, moved / BYTES_PER_MICROSECOND) + STEP_OVERHEAD_MICROSECONDS


def _bytes(shape: tuple[Dim, ...], itemsize: int, bindings: dict[str, int]) -> int:
    return _size(product(shape), bindings) * itemsize


def _size(dim: Dim, bindings: dict[str, int]) -> int:
    """Return `dim` as a number; extents that only the data decides count as 1."""
    unknown = symbols_of(dim) - bindings.keys()
    return evaluate(dim, bindings | dict.fromkeys(unknown, 1))
