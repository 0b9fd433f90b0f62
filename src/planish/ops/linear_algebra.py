"""Small linear algebra and geometry: determinants, centred crops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from planish.errors import ShapeError
from planish.ir.graph import Node
from planish.ops.content import contents
from planish.ops.numeric import narrow, random_array, required, widen
from planish.ops.op import (
    Array,
    Attributes,
    Inferred,
    Inputs,
    Op,
    Sample,
    normalize_axis,
    unknown_extent,
)


class Det(Op):
    """Determinants of square matrices [...,M,M]."""

    name = "Det"
    operations_per_element = 100

    @classmethod
    def infer(cls, node: Node) -> list[Inferred]:
        """Return the shape without the last two axes."""
        x = node.present_inputs[0]
        if x.shape is None:
            return [Inferred(x.dtype, None)]
        if len(x.shape) < 2:
            raise ShapeError(f"a determinant needs matrices, got {x}", where=str(node))
        return [Inferred(x.dtype, x.shape[:-2])]

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Call numpy's determinant."""
        x = required(inputs, 0)
        return [narrow(np.asarray(np.linalg.det(widen(x))), x)]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Cover one matrix and a batch."""
        return [Sample((random_array(1, 4, 4),)), Sample((random_array(2, 2, 3, 3, 3),))]


class CenterCropPad(Op):
    """Crop or zero-pad axes around their centre to the extents in the second input."""

    name = "CenterCropPad"
    attributes: ClassVar[Mapping[str, Any]] = {"axes": None}

    @classmethod
    def infer(cls, node: Node) -> list[Inferred]:
        """Return the input's shape with the given extents; they should be known."""
        x, wanted = node.present_inputs[0], contents(node.input(1))
        if x.shape is None:
            return [Inferred(x.dtype, None)]
        rank = len(x.shape)
        chosen: Sequence[int] = node.attributes["axes"] or range(rank)
        shape = list(x.shape)
        for index, axis in enumerate(chosen):
            place = normalize_axis(axis, rank, node)
            shape[place] = unknown_extent(node, 0, place) if wanted is None else wanted[index]
        return [Inferred(x.dtype, tuple(shape))]

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Copy the common centre; an odd rest is cut or added at the end."""
        x, wanted = required(inputs, 0), required(inputs, 1)
        shape = list(x.shape)
        for axis, extent in zip(attributes["axes"] or range(x.ndim), wanted, strict=True):
            shape[axis] = int(extent)
        read, write = [], []
        for have, want in zip(x.shape, shape, strict=True):
            common = min(have, want)
            read.append(slice((have - common) // 2, (have - common) // 2 + common))
            write.append(slice((want - common) // 2, (want - common) // 2 + common))
        out = np.zeros(shape, x.dtype)
        out[tuple(write)] = x[tuple(read)]
        return [out]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Cover crops, pads, and chosen axes with odd and even rests."""
        x = random_array(1, 10, 7, 3)
        return [
            Sample((x, np.array([20, 4, 3], np.int64)), {}, (1,)),
            Sample((x, np.array([5, 9], np.int64)), {"axes": (0, -2)}, (1,), name="axes"),
        ]
