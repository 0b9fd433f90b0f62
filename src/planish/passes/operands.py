"""What kernels of each kind of region expect of their operands' places in memory.

Kernels get strides and can read any arrangement; some are only fast on one. The table is short on
purpose: a kind that is not listed takes its operands wherever they lie and writes row-major.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from planish.ir.graph import Node, Value
from planish.ir.layout import Halo, Layout, Storage
from planish.ir.shape import Dim, Shape
from planish.ops.convolution import kernel_of, resolve_padding, transposed_window
from planish.ops.transposed_convolution import positions_outside
from planish.passes.images import image_cast
from planish.passes.views import Ranges, follows, no_halo

# work channels-last: every operand of full rank lies N, spatial..., C
CHANNELS_LAST = frozenset(
    {
        "AveragePool",
        "Conv",
        "ConvTranspose",
        "DepthToSpace",
        "GlobalAveragePool",
        "GlobalMaxPool",
        "LRN",
        "LpPool",
        "MaxPool",
        "Resize",
        "SpaceToDepth",
        "Upsample",
    }
)
# convolutions read their padding as a halo of zeros
HALO_READERS = frozenset({"Conv", "ConvTranspose"})
# write their output in the order in which their first full operand lies, whatever that is
FOLLOW = frozenset(
    {
        "BatchNormalization",
        "GroupNormalization",
        "InstanceNormalization",
        "LayerNormalization",
        "LogSoftmax",
        "LpNormalization",
        "MeanVarianceNormalization",
        "Pad",
        "RMSNormalization",
        "Softmax",
        "Tile",
        "pointwise",
    }
)
# reduce rows to scalars: results go anywhere
REDUCTIONS = frozenset(
    {
        "ReduceL1",
        "ReduceL2",
        "ReduceLogSum",
        "ReduceLogSumExp",
        "ReduceMax",
        "ReduceMean",
        "ReduceMin",
        "ReduceProd",
        "ReduceSum",
        "ReduceSumSquare",
    }
)
# read rows as vectors: the last axis of every operand is contiguous; outer axes are free, also
# in the output (attention heads are written straight into the order their reader wants)
CONTIGUOUS_ROWS = frozenset(
    {
        "Attention",
        "com.microsoft.Attention",
        "com.microsoft.FusedMatMul",
        "com.microsoft.MultiHeadAttention",
        "FusedMatMul",
        "Gemm",
        "GRU",
        "LSTM",
        "MatMul",
        "RNN",
    }
)
FREE_OUTER_AXES = CONTIGUOUS_ROWS - {"GRU", "LSTM", "RNN"}
# the second operand may have either of its last two axes contiguous: the kernel packs it anyway
EITHER_LAST_AXIS = frozenset({"MatMul", "Gemm", "FusedMatMul", "com.microsoft.FusedMatMul"})

CHANNEL_RANKS = (3, 4, 5)
TRANSPARENT = ("Cast", "DequantizeLinear")  # between a convolution and the halo of its data


@dataclass(frozen=True)
class Requirement:
    """What a region asks of one operand.

    Attributes
    ----------
    order : tuple of int or None
        Axis order in memory, innermost axis contiguous; None when any order will do.
    rows : tuple of int
        Axes of which one must be contiguous (stride 1); empty for no such wish.
    halo : tuple of (int, int)
        Zeros that must lie around the operand.
    """

    order: tuple[int, ...] | None
    rows: tuple[int, ...]
    halo: Halo

    def met_by(self, storage: Storage, halo: Halo, shape: Shape, ranges: Ranges) -> bool:
        """Whether an operand that lies at `storage` with `halo` around it will do."""
        if not covers(halo, self.halo):
            return False
        if self.order is not None:
            return follows(storage.strides, shape, self.order, ranges)
        wide = [axis for axis in self.rows if shape[axis] != 1]
        return len(wide) < len(self.rows) or _any_contiguous(storage, wide)


def _any_contiguous(storage: Storage, axes: Sequence[int]) -> bool:
    return not axes or any(storage.strides[axis] == 1 for axis in axes)


def requirement(node: Node, index: int, halos: bool = True) -> Requirement:
    """Return what Region node `node` asks of its input `index`.

    Without `halos`, kernels mask what lies outside of their operands.
    """
    kind = str(node.attributes["kind"])
    value = node.body.inputs[index]
    rank = value.rank
    free = Requirement(None, (), no_halo(rank))
    anchor = anchor_of(node)
    if kind in CHANNELS_LAST:
        if rank not in CHANNEL_RANKS or _is_parameter(anchor, value) or not _is_full(node, value):
            return free
        cast = None if halos or anchor is None else image_cast(anchor)
        if cast is not None and cast.present_inputs[0] is value:
            return free  # without halos kernels read the planes of an image
        halo = halo_of(node, index) if halos else no_halo(rank)
        return Requirement(Layout.channels_last(rank).order, (), halo)
    if kind not in CONTIGUOUS_ROWS or rank == 0:
        return free
    if kind in EITHER_LAST_AXIS and rank > 1 and anchor is not None and anchor.input(1) is value:
        return Requirement(None, (rank - 1, rank - 2), no_halo(rank))
    return Requirement(None, (rank - 1,), no_halo(rank))


def halo_of(node: Node, index: int) -> Halo:
    """Return the zeros that a region wants around input `index`: a convolution's padding.

    Only an operand that the convolution reads directly qualifies: a prologue would have to leave
    zeros at zero.
    """
    value = node.body.inputs[index]
    none = no_halo(value.rank)
    anchor = anchor_of(node)
    if anchor is None or not _reads_halo(anchor) or _data_of(anchor) is not value:
        return none
    pairs = _reach(anchor)
    if pairs is None or any(before < 0 or after < 0 for before, after in pairs):
        return none
    return ((0, 0), (0, 0), *pairs)


def _reads_halo(anchor: Node) -> bool:
    """Whether kernels of `anchor` read its padding; a mean of bytes is a depthwise convolution."""
    if anchor.op != "AveragePool" or anchor.attributes["ceil_mode"]:
        return anchor.op in HALO_READERS
    producer = anchor.present_inputs[0].producer
    return producer is not None and producer.op == "DequantizeLinear"


def _reach(anchor: Node) -> tuple[tuple[int, int], ...] | None:
    """Return how far before and behind its input a convolution reads, None where not known."""
    if anchor.op != "ConvTranspose":
        return resolve_padding(anchor).static
    extents = anchor.present_inputs[0].known_shape[2:]
    window = transposed_window(anchor.attributes, extents, kernel_of(anchor))
    return positions_outside(window, extents, anchor.output.known_shape[2:])


def anchor_of(node: Node) -> Node | None:
    """Return the node that a region is built around; None for pointwise regions."""
    kind = node.attributes["kind"]
    return next((inner for inner in node.body if inner.op == kind), None)


def covers(have: Halo, need: Halo) -> bool:
    """Whether a halo is at least as wide as another on every side."""
    return all(a[0] >= b[0] and a[1] >= b[1] for a, b in zip(have, need, strict=True))


def widest(a: Halo, b: Halo) -> Halo:
    """Return the smallest halo that covers both."""
    return tuple((max(x[0], y[0]), max(x[1], y[1])) for x, y in zip(a, b, strict=True))


def _data_of(anchor: Node) -> Value | None:
    """Return the value that a convolution's data comes from.

    Casts keep zeros at zero. So does dequantizing but for the zero point, which kernels of integers
    allow for (tactics/integer_form.py).
    """
    value = anchor.input(0)
    while value is not None and value.producer is not None and value.producer.op in TRANSPARENT:
        value = value.producer.input(0)
    return value


def _is_parameter(anchor: Node | None, value: Value) -> bool:
    """Whether a body input is the anchor's weight, scale or zero point, not its data."""
    return anchor is not None and any(value is other for other in anchor.inputs[1:])


def _is_full(node: Node, value: Value) -> bool:
    """Whether a body input has the rank, and not broadcast spatial extents, of the region."""
    anchor = anchor_of(node)
    if anchor is None or _is_source(anchor, value):
        return True
    shape: tuple[Dim, ...] = value.known_shape
    return any(value.rank == out.rank and shape == out.known_shape for out in node.body.outputs)


def _is_source(anchor: Node, value: Value) -> bool:
    """Whether the anchor's data comes from `value`, through a pointwise prologue or directly."""
    pending, seen = [anchor.input(0)], set()
    while pending:
        current = pending.pop()
        if current is value:
            return True
        if current is None or current in seen or current.producer is None:
            continue
        seen.add(current)
        pending.extend(current.producer.inputs)
    return False
