"""Images that a convolution computes and a Transpose shows channels-last, as TensorFlow has them.

Rules move such a transpose towards the graph's outputs, until it meets the one in front of the
next convolution and both disappear. Everything between two convolutions then works on their own
axes and can become their epilogue. Matrices of attention heads, which are turned for other
reasons, are left alone: only what a window slides over (or images are made of) counts.
"""

from __future__ import annotations

from planish.ir.graph import Graph, Node, Value
from planish.ir.rewrite import producer_in
from planish.ops.op import OPS
from planish.passes.building import constant, transpose
from planish.passes.matching import permutation

# operators whose result is an image, channels first
WINDOWS = frozenset(
    {
        "AveragePool", "Conv", "ConvInteger", "ConvTranspose", "DepthToSpace", "GridSample", "LRN",
        "LpPool", "MaxPool", "QLinearConv", "Resize", "SpaceToDepth",
    }
)  # fmt: skip
_STEPS = 64  # operators between an image and the window that made it
_THROUGH = frozenset({"Concat", "Pad", "Slice", "Split", "Squeeze", "Unsqueeze"})

Order = tuple[int, ...]


def to_channels_last(rank: int) -> Order:
    """Return the permutation that moves the channels of N, C, spatial... behind the others."""
    return (0, *range(2, rank), 1)


def to_channels_first(rank: int) -> Order:
    """Return the inverse of `to_channels_last`."""
    return (0, rank - 1, *range(1, rank - 1))


def shown_channels_last(value: Value | None, graph: Graph) -> Value | None:
    """Return the image NC... whose transpose to channels-last `value` is, None if it is none."""
    node = producer_in(value, graph, "Transpose")
    x = None if node is None else node.inputs[0]
    if node is None or x is None or x.shape is None or x.rank not in (3, 4, 5):
        return None
    if permutation(node) != to_channels_last(x.rank) or not _is_image(x):
        return None
    return x


def in_front(value: Value, graph: Graph, before: Node, rank: int) -> Value | None:
    """Return the operand NC... that means in front of the transpose what `value` means behind it.

    None where that would move data: `value` is neither such a transpose itself, nor a constant,
    nor one number a channel.
    """
    shown = shown_channels_last(value, graph)
    if shown is not None:
        return shown
    if value.shape is None or value.rank > rank:
        return None
    if value.rank == 0:
        return value
    order = to_channels_first(rank)
    if value.is_constant:
        array = value.array.reshape((1,) * (rank - value.rank) + value.array.shape)
        return constant(graph, array.transpose(order), value)
    if value.rank < rank or any(dim != 1 for dim in value.known_shape[1:-1]):
        return None
    return transpose(graph, before, value, order)


def _is_image(value: Value) -> bool:
    """Whether a window made `value`, perhaps with what works pixel by pixel behind it."""
    current: Value | None = value
    for _ in range(_STEPS):
        node = None if current is None else current.producer
        if current is None or node is None:
            return False
        if node.op in WINDOWS:
            return True
        if node.op not in _THROUGH and not OPS[node.op].pointwise:
            return False
        current = next((each for each in node.present_inputs if _has_pixels(each)), None)
    return False


def _has_pixels(value: Value) -> bool:
    """Whether `value` may be an image: one number a channel, or a constant, is none."""
    if value.is_constant or value.shape is None or value.rank < 3:
        return False
    return any(dim != 1 for dim in value.shape[2:])
