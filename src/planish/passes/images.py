"""Images: float32 inputs of few channels, which a network's first convolution lowers by itself.

A Cast or QuantizeLinear in between would read and write the image once more, and turn it to
channels-last, where rows of taps are no vectors. A kernel that reads the planes as they came saves
both.
"""

from __future__ import annotations

from planish.ir.dtypes import BF16, F16, F32, I8
from planish.ir.graph import Node
from planish.ir.rewrite import scalar_of

MOST_CHANNELS = 4


def image_cast(anchor: Node) -> Node | None:
    """Return the Cast or QuantizeLinear through which a convolution reads an image, or None."""
    if anchor.op != "Conv" or int(anchor.attributes.get("group", 1)) != 1:
        return None
    data = anchor.present_inputs[0]
    node = data.producer
    if node is not None and node.op == "DequantizeLinear":
        data = node.present_inputs[0]
        node = data.producer
    if node is None or not is_lowering(node):
        return None
    image = node.present_inputs[0]
    channels = image.known_shape[1] if image.rank == 4 else None
    if image.producer is not None or image.is_constant or image.dtype is not F32:
        return None
    return node if isinstance(channels, int) and channels <= MOST_CHANNELS else None


def is_lowering(node: Node) -> bool:
    """Whether `node` rounds each number to a 16-bit float, or to signed bytes around zero."""
    if node.op == "Cast":
        return node.output.dtype in (F16, BF16)
    if node.op != "QuantizeLinear" or node.output.dtype is not I8:
        return False
    zero = node.input(2)
    return scalar_of(node.input(1)) is not None and (zero is None or scalar_of(zero) == 0)
