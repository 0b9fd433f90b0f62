"""Operators that move blocks: DepthToSpace, SpaceToDepth, ReverseSequence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from planish.errors import ShapeError
from planish.ir.graph import Node
from planish.ir.requirement import Requirement, equal
from planish.ir.shape import Dim, mod
from planish.ops.numeric import required
from planish.ops.op import REQUIRED, Array, Attributes, Inferred, Inputs, Sample
from planish.ops.sample_data import floats, indices
from planish.ops.shape_ops import Movement, unknown_shape


def _divided(dim: Dim, divisor: int, what: str, node: Node) -> Dim:
    if isinstance(dim, int) and dim % divisor:
        raise ShapeError(f"{what} of {dim} is not a multiple of {divisor}", where=str(node))
    return dim // divisor


class DepthToSpace(Movement):
    """Channels moved into blocks of `blocksize` x `blocksize` pixels.

    `mode` "DCR" takes the block position from the outer part of the channel axis, "CRD" from the
    inner part (pixel shuffle).
    """

    name = "DepthToSpace"
    attributes: ClassVar[Mapping[str, Any]] = {"blocksize": REQUIRED, "mode": "DCR"}

    @classmethod
    def infer(cls, node: Node) -> list[Inferred]:
        """Return fewer channels and more pixels."""
        value, block = node.present_inputs[0], node.attributes["blocksize"]
        if value.shape is None:
            return [Inferred(value.dtype, unknown_shape(node, 4))]
        batch, depth, height, width = value.shape
        channels = _divided(depth, block * block, "a depth", node)
        return [Inferred(value.dtype, (batch, channels, height * block, width * block))]

    @classmethod
    def requirements(cls, node: Node) -> list[Requirement]:
        """Return that the depth is a multiple of a block."""
        x, block = node.present_inputs[0].shape, int(node.attributes["blocksize"])
        return [] if x is None else equal(mod(x[1], block * block), 0)

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Reshape, transpose, reshape."""
        x, block = required(inputs, 0), attributes["blocksize"]
        batch, depth, height, width = x.shape
        channels = depth // (block * block)
        if attributes["mode"] == "DCR":
            parts = x.reshape(batch, block, block, channels, height, width)
            parts = parts.transpose(0, 3, 4, 1, 5, 2)
        else:
            parts = x.reshape(batch, channels, block, block, height, width)
            parts = parts.transpose(0, 1, 4, 2, 5, 3)
        return [parts.reshape(batch, channels, height * block, width * block)]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Return both modes and two block sizes."""
        return [
            Sample((floats(2, 8, 2, 3),), {"blocksize": 2}, name="dcr"),
            Sample((floats(2, 8, 2, 3),), {"blocksize": 2, "mode": "CRD"}, name="crd"),
            Sample((floats(1, 9, 2, 2),), {"blocksize": 3, "mode": "CRD"}, name="crd_3"),
        ]


class SpaceToDepth(Movement):
    """Blocks of `blocksize` x `blocksize` pixels moved into channels.

    `mode` "DCR" puts the block position in the outer part of the channel axis, "CRD" in the inner.
    """

    name = "SpaceToDepth"
    attributes: ClassVar[Mapping[str, Any]] = {"blocksize": REQUIRED, "mode": "DCR"}

    @classmethod
    def infer(cls, node: Node) -> list[Inferred]:
        """Return more channels and fewer pixels."""
        value, block = node.present_inputs[0], node.attributes["blocksize"]
        if value.shape is None:
            return [Inferred(value.dtype, unknown_shape(node, 4))]
        batch, depth, height, width = value.shape
        rows = _divided(height, block, "a height", node)
        columns = _divided(width, block, "a width", node)
        return [Inferred(value.dtype, (batch, depth * block * block, rows, columns))]

    @classmethod
    def requirements(cls, node: Node) -> list[Requirement]:
        """Return that height and width are multiples of the block's."""
        x, block = node.present_inputs[0].shape, int(node.attributes["blocksize"])
        return [] if x is None else [each for dim in x[2:] for each in equal(mod(dim, block), 0)]

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Reshape, transpose, reshape."""
        x, block = required(inputs, 0), attributes["blocksize"]
        batch, depth, height, width = x.shape
        parts = x.reshape(batch, depth, height // block, block, width // block, block)
        order = (0, 3, 5, 1, 2, 4) if attributes["mode"] == "DCR" else (0, 1, 3, 5, 2, 4)
        shape = (batch, depth * block * block, height // block, width // block)
        return [parts.transpose(order).reshape(shape)]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Return two block sizes."""
        return [
            Sample((floats(2, 3, 4, 6),), {"blocksize": 2}),
            Sample((floats(1, 2, 3, 3),), {"blocksize": 3}, name="three"),
        ]


class ReverseSequence(Movement):
    """Each sequence of a batch reversed over its own length (input 1); the rest stays."""

    name = "ReverseSequence"
    attributes: ClassVar[Mapping[str, Any]] = {"batch_axis": 1, "time_axis": 0}

    @classmethod
    def infer(cls, node: Node) -> list[Inferred]:
        """Return the input's type."""
        value = node.present_inputs[0]
        return [Inferred(value.dtype, value.shape)]

    @classmethod
    def requirements(cls, node: Node) -> list[Requirement]:
        """Return that there is one length for each sequence."""
        x, lengths = node.present_inputs[0].shape, node.present_inputs[1].shape
        if x is None or not lengths:
            return []
        return equal(lengths[0], x[int(node.attributes["batch_axis"])])

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Reverse sequence by sequence."""
        x, lengths = required(inputs, 0), required(inputs, 1)
        order = (attributes["batch_axis"], attributes["time_axis"])
        result = x.copy()
        source, target = np.moveaxis(x, order, (0, 1)), np.moveaxis(result, order, (0, 1))
        for item, length in enumerate(lengths.tolist()):
            target[item, :length] = source[item, :length][::-1]
        return [result]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Return both arrangements of batch and time."""
        lengths = indices(4, 2, 1)
        return [
            Sample((floats(4, 3, 2), lengths), name="time_first"),
            Sample((floats(3, 4), lengths), {"batch_axis": 0, "time_axis": 1}, name="batch_first"),
        ]
