"""ConvTranspose and Col2Im: both scatter patches into an image, adding where they overlap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from planish.errors import ShapeError
from planish.ir.graph import Node
from planish.ir.requirement import Requirement, equal
from planish.ir.shape import Dim, floordiv, product
from planish.ops.content import contents, integers
from planish.ops.convolution import (
    WINDOW_ATTRIBUTES,
    Window,
    add_channel_bias,
    kernel_of,
    tap,
    transposed_extents,
    transposed_window,
    window_for,
)
from planish.ops.numeric import (
    narrow,
    optional,
    plain,
    random_array,
    required,
    widen,
)
from planish.ops.op import (
    Array,
    Attributes,
    Cost,
    Inferred,
    Inputs,
    Op,
    Sample,
    bytes_of,
    unknown_extent,
)


def fold_patches(
    patches: Array, window: Window, counts: Sequence[int], extents: Sequence[int]
) -> Array:
    """Return the image [N,C,*extents] that sums `patches` [N,C,taps,*counts] at their places."""
    pairs = window.padding.static
    if pairs is None:
        raise TypeError("the padding is symbolic")
    shape = [
        max(extent + begin + end, (count - 1) * stride + reach)
        for extent, (begin, end), count, stride, reach in zip(
            extents, pairs, counts, window.strides, window.reach, strict=True
        )
    ]
    image = np.zeros((*patches.shape[:2], *shape), dtype=patches.dtype)
    for index, offset in enumerate(window.offsets()):
        tap(image, window, offset, counts)[...] += patches[:, :, index]
    inner = tuple(
        slice(begin, begin + extent) for extent, (begin, _) in zip(extents, pairs, strict=True)
    )
    return image[(slice(None), slice(None), *inner)]


def positions_outside(
    window: Window, extents: Sequence[Dim], outputs: Sequence[Dim]
) -> tuple[tuple[int, int], ...] | None:
    """Return how far before and behind the input a ConvTranspose's taps reach, an axis each.

    Output position o and tap t meet at input position (o + pad - t * dilation) / stride where
    that is whole; outside the input there are zeros. None when an extent is symbolic.
    """
    pairs = []
    for axis, (extent, count) in enumerate(zip(extents, outputs, strict=True)):
        pad = window.padding.begin[axis]
        if not (isinstance(extent, int) and isinstance(count, int) and isinstance(pad, int)):
            return None
        stride, dilation = window.strides[axis], window.dilations[axis]
        at = [
            (position + pad - tap_ * dilation) // stride
            for position in (*range(min(stride, count)), *range(max(count - stride, 0), count))
            for tap_ in range(window.kernel[axis])
            if (position + pad - tap_ * dilation) % stride == 0
        ]
        pairs.append((max(0, -min(at, default=0)), max(0, max(at, default=0) - extent + 1)))
    return tuple(pairs)


class ConvTranspose(Op):
    """Transposed convolution: the gradient of a convolution with respect to its input.

    x [N,C,D1,...], weight [C,M/group,K1,...], bias [M] -> [N,M,O1,...].
    """

    name = "ConvTranspose"
    attributes: ClassVar[Mapping[str, Any]] = {
        **WINDOW_ATTRIBUTES,
        "group": 1,
        "output_padding": None,
        "output_shape": None,
    }

    @classmethod
    def infer(cls, node: Node) -> list[Inferred]:
        """Return the output's type; extents from `output_shape`, `auto_pad` or `pads`."""
        x, weight = node.present_inputs[:2]
        if x.shape is None or weight.shape is None:
            return [Inferred(x.dtype, None)]
        channels, expected = x.shape[1], weight.shape[0]
        if isinstance(channels, int) and isinstance(expected, int) and channels != expected:
            raise ShapeError(
                f"input has {channels} channels, the weight {list(weight.shape)} expects "
                f"{expected}",
                where=str(node),
            )
        window = transposed_window(node.attributes, x.shape[2:], kernel_of(node))
        spatial = transposed_extents(node.attributes, x.shape[2:], window)
        filters = weight.shape[1] * node.attributes["group"]
        return [Inferred(x.dtype, (x.shape[0], filters, *spatial))]

    @classmethod
    def requirements(cls, node: Node) -> list[Requirement]:
        """Return that the weight has the input's channels."""
        x, weight = node.present_inputs[:2]
        if x.shape is None or weight.shape is None:
            return []
        return equal(x.shape[1], weight.shape[0])

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Multiply matrices into patches, then add the patches into the output."""
        x, weight = required(inputs, 0), required(inputs, 1)
        group, kernel, counts = attributes["group"], weight.shape[2:], x.shape[2:]
        window = transposed_window(attributes, counts, kernel)
        extents = transposed_extents(attributes, counts, window)
        batch, channels = x.shape[:2]
        grouped = widen(x).reshape(batch, group, channels // group, -1)
        matrix = widen(weight).reshape(group, channels // group, -1)
        patches = np.matmul(matrix.transpose(0, 2, 1), grouped)
        filters, taps = weight.shape[1] * group, int(np.prod(kernel))
        patches = patches.reshape(batch, filters, taps, *counts)
        out = fold_patches(patches, window, counts, plain(extents))
        return [narrow(add_channel_bias(out, optional(inputs, 2)), x)]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Cover groups, bias, padding modes, output_padding, output_shape and one to three axes."""

        def case(name: str, x: Array, weight: Array, **attributes: object) -> Sample:
            group = attributes.get("group", 1)
            bias = random_array(3, weight.shape[1] * int(str(group)))
            return Sample((x, weight, bias), attributes, constant=(1, 2), name=name)

        image, weight = random_array(1, 2, 4, 5, 6), random_array(2, 4, 3, 3, 4)
        same = {"strides": (2, 2), "dilations": (1, 1)}
        return [
            Sample((image, weight), {}, constant=(1,), name="plain"),
            case("strides_pads", image, weight, strides=(2, 3), pads=(1, 0, 2, 1)),
            case("groups", image, weight, group=2, pads=(1, 1, 1, 1)),
            case("output_padding", image, weight, strides=(3, 2), output_padding=(2, 1)),
            case("dilations", image, weight, dilations=(2, 1), pads=(1, 1, 1, 1)),
            case("output_shape", image, weight, strides=(3, 2), output_shape=(16, 14)),
            case("same_upper", image, weight, auto_pad="SAME_UPPER", **same),
            case("same_lower", image, weight, auto_pad="SAME_LOWER", **same),
            case("one_axis", random_array(1, 1, 2, 7), random_array(2, 2, 3, 4), strides=(2,)),
            case("three_axes", random_array(1, 1, 2, 3, 4, 2), random_array(2, 2, 2, 2, 3, 2)),
        ]

    @classmethod
    def cost(cls, node: Node) -> Cost:
        """Count two operations for every product of an input element and a tap."""
        x, weight = node.present_inputs[:2]
        operations = product(x.shape or ()) * product((weight.shape or ())[1:]) * 2
        return Cost(operations, bytes_of(node))


class Col2Im(Op):
    """Rearrange columns [N, C*taps, positions] into the image whose patches they are, summing.

    Inputs: columns, image_shape and block_shape (both integer vectors over the spatial axes).
    """

    name = "Col2Im"
    attributes: ClassVar[Mapping[str, Any]] = {"dilations": None, "pads": None, "strides": None}

    @classmethod
    def infer(cls, node: Node) -> list[Inferred]:
        """Return the image's type; image and block shape should be known."""
        columns = node.present_inputs[0]
        image, block = contents(node.input(1)), integers(node.input(2))
        if columns.shape is None or image is None:
            return [Inferred(columns.dtype, None)]
        channels: Dim = unknown_extent(node, 0, 1)
        if block is not None:
            channels = floordiv(columns.shape[1], int(np.prod(block)))
        return [Inferred(columns.dtype, (columns.shape[0], channels, *image))]

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Add every tap's plane at its place."""
        columns, image, block = (required(inputs, index) for index in range(3))
        extents, kernel = [int(dim) for dim in image], tuple(int(dim) for dim in block)
        window = window_for(attributes, extents, kernel)
        counts = plain(window.output(extents))
        taps = int(np.prod(kernel))
        patches = widen(columns).reshape(columns.shape[0], -1, taps, *counts)
        return [narrow(fold_patches(patches, window, counts, extents), columns)]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Cover strides, dilations, pads and three axes."""

        def case(image: tuple[int, ...], block: tuple[int, ...], **attributes: object) -> Sample:
            window = window_for(attributes, image, block)
            counts = plain(window.output(image))
            columns = random_array(1, 2, 3 * int(np.prod(block)), int(np.prod(counts)))
            shapes = (np.array(image, np.int64), np.array(block, np.int64))
            return Sample((columns, *shapes), attributes, constant=(1, 2))

        return [
            case((5, 6), (1, 5)),
            case((5, 6), (3, 2), strides=(2, 1), pads=(1, 0, 1, 0)),
            case((7, 6), (3, 2), dilations=(2, 3)),
            case((3, 4, 5), (1, 2, 3)),
        ]
