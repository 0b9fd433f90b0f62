"""Moving blocks of space to the batch and back, and the dilated convolution that this spells.

TensorFlow's layers compute a convolution with dilation d as SpaceToBatchND, a plain convolution of
the d * d smaller images, BatchToSpaceND. Where that is what the nodes say, the convolution on the
whole image is emitted instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from planish.importers.savedmodel_rules.shape import END, slice_axis
from planish.importers.tensorflow_builder import Builder, rule
from planish.importers.tensorflow_graph import TfNode
from planish.ir.graph import Node, Value

Pairs = Sequence[tuple[int, int]]
CHAIN = 8  # operators between the two ends


@dataclass(frozen=True)
class Blocks:
    """What SpaceToBatchND was given."""

    source: Value
    blocks: tuple[int, ...]
    pairs: tuple[tuple[int, int], ...]


@rule("SpaceToBatchND", "SpaceToBatch")
def space_to_batch(node: TfNode, builder: Builder) -> Value:
    """Move blocks of space to the batch."""
    x, blocks, pairs = _arguments(node, builder)
    result = _space_to_batch(builder, x, blocks, pairs)
    builder.notes[result] = Blocks(x, tuple(blocks), tuple(pairs))
    return result


@rule("BatchToSpaceND", "BatchToSpace")
def batch_to_space(node: TfNode, builder: Builder) -> Value:
    """Move the batch back to space, or undo both ends of a dilated convolution."""
    x, blocks, pairs = _arguments(node, builder)
    dilated = _dilated(builder, x, tuple(blocks), pairs)
    return dilated or _batch_to_space(builder, x, blocks, pairs)


def _arguments(node: TfNode, builder: Builder) -> tuple[Value, Sequence[int], Pairs]:
    if node.op.endswith("ND"):
        blocks, edges = builder.integers(1, "the block"), builder.integers(2, "the paddings")
    else:
        blocks = (int(builder.attribute("block_size")),) * 2
        edges = builder.integers(1, "the paddings")
    return builder.input(0), blocks, list(zip(edges[::2], edges[1::2], strict=True))


# -- dilated convolutions -------------------------------------------------------------------------


def _dilated(builder: Builder, y: Value, blocks: tuple[int, ...], crops: Pairs) -> Value | None:
    """Return the dilated convolution of the whole image, if `y` convolves its blocks."""
    chain: list[Node] = []
    value = y
    while value not in builder.notes:
        node = value.producer
        if node is None or len(chain) == CHAIN or node.op not in _STEPS:
            return None
        chain.append(node)
        value = _followed(node)
    given = builder.notes[value]
    convolutions = [node for node in chain if node.op == "Conv"]
    if not isinstance(given, Blocks) or given.blocks != blocks or len(convolutions) != 1:
        return None
    window = _window(convolutions[0], given, crops)
    if window is None:
        return None
    result = given.source
    for node in reversed(chain):
        attributes = {**node.attributes, **(window if node.op == "Conv" else {})}
        operands = [result if each is _followed(node) else each for each in node.inputs]
        result = builder.emit(node.op, *operands, **attributes)
    return result


_STEPS = ("Add", "Conv", "Relu", "Squeeze", "Transpose", "Unsqueeze")


def _followed(node: Node) -> Value:
    """Return the operand through which the image comes."""
    if node.op == "Add" and node.present_inputs[0].is_constant:
        return node.present_inputs[1]
    return node.present_inputs[0]


def _window(conv: Node, given: Blocks, crops: Pairs) -> dict[str, Any] | None:
    """Return dilations and pads of the whole convolution, None where the blocks' was not plain."""
    axes = len(conv.attributes["kernel_shape"])
    plain = (1,) * axes
    if conv.attributes["strides"] != plain or conv.attributes["dilations"] != plain:
        return None
    if any(conv.attributes["pads"] or (1,)):
        return None
    missing = axes - len(given.blocks)  # a signal is an image of height 1
    before = [pair[0] - crop[0] for pair, crop in zip(given.pairs, crops, strict=True)]
    after = [pair[1] - crop[1] for pair, crop in zip(given.pairs, crops, strict=True)]
    if missing < 0 or min(*before, *after) < 0:
        return None
    front = (0,) * missing
    return {
        "dilations": (*(1,) * missing, *given.blocks),
        "pads": (*front, *before, *front, *after),
    }


# -- blocks ---------------------------------------------------------------------------------------


def _space_to_batch(
    builder: Builder, x: Value, blocks: Sequence[int], pairs: Sequence[tuple[int, int]]
) -> Value:
    rank, count = builder.rank(x), len(blocks)
    rest = rank - 1 - count
    before = [0, *(pair[0] for pair in pairs), *[0] * rest]
    after = [0, *(pair[1] for pair in pairs), *[0] * rest]
    if any(before) or any(after):
        x = builder.emit("Pad", x, builder.constant(np.array([*before, *after], np.int64)))
    shape = builder.shape_of(x)
    pieces = [_element(builder, shape, 0)]
    for axis, block in enumerate(blocks, start=1):
        number = builder.constant(np.array([block], np.int64))
        pieces += [builder.emit("Div", _element(builder, shape, axis), number), number]
    pieces += [_element(builder, shape, axis) for axis in range(1 + count, rank)]
    split_ = builder.emit("Reshape", x, builder.concat(pieces))
    inner = [2 + 2 * i for i in range(count)]
    outer = [1 + 2 * i for i in range(count)]
    order = (*inner, 0, *outer, *range(1 + 2 * count, 1 + 2 * count + rest))
    turned = builder.transpose(split_, order)
    extents = [
        builder.emit("Div", _element(builder, shape, 1 + i), pieces[2 + 2 * i])
        for i in range(count)
    ]
    batch = builder.emit("Mul", pieces[0], builder.constant(np.array([np.prod(blocks)])))
    tail = pieces[1 + 2 * count :]
    return builder.emit("Reshape", turned, builder.concat([batch, *extents, *tail]))


def _batch_to_space(
    builder: Builder, x: Value, blocks: Sequence[int], pairs: Sequence[tuple[int, int]]
) -> Value:
    rank, count = builder.rank(x), len(blocks)
    shape = builder.shape_of(x)
    total = builder.constant(np.array([np.prod(blocks)], np.int64))
    batch = builder.emit("Div", _element(builder, shape, 0), total)
    numbers = [builder.constant(np.array([block], np.int64)) for block in blocks]
    extents = [_element(builder, shape, axis) for axis in range(1, rank)]
    split_ = builder.emit("Reshape", x, builder.concat([*numbers, batch, *extents]))
    order = [count]
    for axis in range(count):
        order += [count + 1 + axis, axis]
    order += range(2 * count + 1, count + rank)
    turned = builder.transpose(split_, order)
    wide = [builder.emit("Mul", extents[i], numbers[i]) for i in range(count)]
    y = builder.emit("Reshape", turned, builder.concat([batch, *wide, *extents[count:]]))
    for axis, (before, after) in enumerate(pairs, start=1):
        if before or after:
            y = slice_axis(builder, y, axis, before, -after or END)
    return y


def _element(builder: Builder, vector: Value, index: int) -> Value:
    return slice_axis(builder, vector, 0, index, index + 1)
