"""DeformConv: a convolution whose taps are moved by learned offsets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from planish.ir.graph import Node
from planish.ir.requirement import Requirement, equal, equal_shapes
from planish.ops.convolution import (
    Window,
    add_channel_bias,
    convolution_cost,
    infer_convolution,
    window_for,
)
from planish.ops.numeric import narrow, optional, plain, random_array, required, widen
from planish.ops.op import Array, Attributes, Cost, Inferred, Inputs, Op, Sample
from planish.ops.sampling import Sampler


class DeformConv(Op):
    """Convolution that reads each tap at its place plus an offset, interpolated, times a mask.

    Inputs x [N,C,H,W], weight [M,C/group,KH,KW], offset [N,2*offset_group*KH*KW,OH,OW] (y, x for
    every tap), bias [M], mask [N,offset_group*KH*KW,OH,OW].
    """

    name = "DeformConv"
    attributes: ClassVar[Mapping[str, Any]] = {
        "dilations": None,
        "group": 1,
        "kernel_shape": None,
        "offset_group": 1,
        "pads": None,
        "strides": None,
    }

    @classmethod
    def infer(cls, node: Node) -> list[Inferred]:
        """Return the same type as Conv does."""
        return infer_convolution(node)

    @classmethod
    def requirements(cls, node: Node) -> list[Requirement]:
        """Return that offsets and mask cover the output."""
        x, weight = node.present_inputs[:2]
        result = node.outputs[0].shape
        if x.shape is None or weight.shape is None or result is None:
            return []
        found = equal(x.shape[1], weight.shape[1] * node.attributes["group"])
        for value in (node.input(2), node.input(4)):
            if value is not None and value.shape is not None:
                found += equal(value.shape[0], x.shape[0])
                found += equal_shapes(value.shape[2:], result[2:])
        return found

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Sample patches, then multiply matrices, in float32 at least."""
        x, weight, offset = (required(inputs, index) for index in range(3))
        window = window_for(attributes, x.shape[2:], weight.shape[2:])
        mask = optional(inputs, 4)
        patches = sampled_patches(widen(x), widen(offset), mask, window, attributes)
        batch, counts = len(x), plain(window.output(x.shape[2:]))
        group = attributes["group"]
        matrix = widen(weight).reshape(group, len(weight) // group, -1)
        grouped = patches.reshape(batch, group, -1, int(np.prod(counts)))
        out = np.matmul(matrix, grouped).reshape(batch, len(weight), *counts)
        return [narrow(add_channel_bias(out, optional(inputs, 3)), x)]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Cover groups, offset groups, masks, strides, pads and dilations."""
        x, weight = random_array(1, 2, 4, 6, 7), random_array(2, 6, 4, 3, 3)
        offset, mask = random_array(3, 2, 18, 4, 5), random_array(4, 2, 9, 4, 5)
        bias = random_array(5, 6)
        grouped = random_array(6, 6, 2, 2, 2), random_array(7, 2, 16, 4, 4)
        spread = {"group": 2, "offset_group": 2, "strides": (2, 2), "pads": (1, 1, 1, 1)}
        wide = random_array(8, 2, 18, 2, 3)
        return [
            Sample((x, weight, offset), {}, (1,)),
            Sample((x, weight, offset, bias, mask), {}, (1, 3), name="mask"),
            Sample((x, *grouped), spread, (1,), name="groups"),
            Sample((x, weight, wide), {"dilations": (2, 2)}, (1,), name="dilations"),
        ]

    @classmethod
    def cost(cls, node: Node) -> Cost:
        """Count as a plain convolution."""
        return convolution_cost(node)


def sampled_patches(
    x: Array, offset: Array, mask: Array | None, window: Window, attributes: Attributes
) -> Array:
    """Return patches [N,C,taps,OH,OW] of `x`, each tap read at its offset place."""
    groups, taps = attributes["offset_group"], int(np.prod(window.kernel))
    batch, counts = x.shape[0], plain(window.output(x.shape[2:]))
    shifts = offset.reshape(batch, groups, taps, 2, *counts)
    begins = plain(window.padding.begin)
    base = [
        np.arange(count).reshape(-1, *(1,) * (1 - axis)) * window.strides[axis] - begins[axis]
        for axis, count in enumerate(counts)
    ]
    parts = []
    for group, channels in enumerate(np.split(x, groups, axis=1)):
        sampler = Sampler(channels, "zeros", align_corners=True)
        for index, place in enumerate(window.offsets()):
            coordinates = [
                (base[axis] + place[axis] + shifts[:, group, index, axis]).reshape(batch, -1)
                for axis in range(2)
            ]
            values = sampler.interpolate(coordinates, "linear")
            if mask is not None:
                weights = widen(mask).reshape(batch, groups, taps, -1)[:, group, index]
                values = values * weights[:, None]
            parts.append(values)
    stacked = np.stack(parts, axis=1).reshape(batch, groups, taps, -1, *counts)
    return stacked.swapaxes(2, 3).reshape(batch, x.shape[1], taps, *counts)
