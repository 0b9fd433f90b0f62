"""Convolutions, pooling, and what else slides over or mixes channels.

TensorFlow's tensors are mostly NHWC, the operators' NCHW: `to_channels_first` and its inverse
wrap them in transposes that the passes turn into views.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from planish.importers.tensorflow_builder import Builder, rule
from planish.importers.tensorflow_graph import TfNode
from planish.ir.graph import Value
from planish.ir.shape import Dim
from planish.ops.convolution import same_padding


def channels_last(builder: Builder) -> bool:
    """Whether the node's tensors have their channels behind the spatial axes."""
    layout = str(builder.attribute("data_format", "NHWC"))
    if layout.startswith("NCHW_VECT") or layout not in ("NHWC", "NCHW", "NDHWC", "NCDHW"):
        builder.refuse(f"the data format is {layout}")
    return layout.endswith("C")


def to_channels_first(builder: Builder, value: Value) -> Value:
    """Return `value` as NC..., whatever the node's data format is."""
    if not channels_last(builder):
        return value
    rank = builder.rank(value)
    return builder.transpose(value, (0, rank - 1, *range(1, rank - 1)))


def from_channels_first(builder: Builder, value: Value) -> Value:
    """Return NC... `value` in the node's data format."""
    if not channels_last(builder):
        return value
    rank = builder.rank(value)
    return builder.transpose(value, (0, *range(2, rank), 1))


def spatial_entries(builder: Builder, name: str, axes: int) -> tuple[int, ...]:
    """Return the spatial entries of a list with one number a tensor axis (all 1 by default)."""
    given = builder.attribute(name)
    if not given:
        return (1,) * axes
    return spatial_part(builder, tuple(int(item) for item in given), name)


def spatial_part(builder: Builder, numbers: tuple[int, ...], name: str) -> tuple[int, ...]:
    """Return the spatial entries of `numbers`; refuse steps over the batch and the channels."""
    last = channels_last(builder)
    outer = (numbers[0], numbers[-1] if last else numbers[1])
    if outer != (1, 1):
        builder.refuse(f"{name} {list(numbers)} step over the batch or the channels")
    return numbers[1:-1] if last else numbers[2:]


def padding(
    builder: Builder,
    extents: Sequence[Dim],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
) -> dict[str, Any]:
    """Return the attributes that pad as TensorFlow does; SAME puts an odd one behind.

    Numbers where the extents are known, so that other rewrites can read them.
    """
    mode, axes = str(builder.attribute("padding", "VALID")), len(kernel)
    if mode == "VALID":
        return {"pads": (0,) * (2 * axes)}
    if mode == "EXPLICIT":
        given = tuple(int(item) for item in builder.attribute("explicit_paddings"))
        pairs = list(zip(given[::2], given[1::2], strict=True))
        spatial = pairs[1:-1] if channels_last(builder) else pairs[2:]
        return {"pads": (*(pair[0] for pair in spatial), *(pair[1] for pair in spatial))}
    if mode != "SAME":
        builder.refuse(f"the padding is {mode}")
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    same = [
        same_padding(extent, taps, stride, upper=True)
        for extent, taps, stride in zip(extents, reach, strides, strict=True)
    ]
    pads = (*(before for before, _ in same), *(after for _, after in same))
    if all(isinstance(pad, int) for pad in pads):
        return {"pads": pads}
    return {"auto_pad": "SAME_UPPER"}


def filter_extents(builder: Builder, value: Value, axes: int) -> tuple[int, ...]:
    """Return the spatial extents of a filter, which have to be numbers."""
    extents = tuple(dim for dim in value.known_shape[:axes] if isinstance(dim, int))
    if len(extents) < axes:
        builder.refuse("the extents of the filter are not known")
    return extents


def channels_of(builder: Builder, value: Value, axis: int) -> int:
    """Return one extent as a number; refuse where it is open."""
    found = value.known_shape[axis]
    if not isinstance(found, int):
        builder.refuse("the number of channels is not known")
    return found


# -- convolutions ---------------------------------------------------------------------------------


def convolve(builder: Builder, x: Value, weight: Value) -> Value:
    """Return the convolution of `x` with a filter [spatial..., channels, filters], as NC...."""
    image = to_channels_first(builder, x)
    axes = builder.rank(image) - 2
    kernel = filter_extents(builder, weight, axes)
    strides = spatial_entries(builder, "strides", axes)
    dilations = spatial_entries(builder, "dilations", axes)
    channels, each = channels_of(builder, image, 1), channels_of(builder, weight, axes)
    if each == 0 or channels % each:
        builder.refuse(f"{channels} channels do not divide into groups of {each}")
    turned = builder.transpose(weight, (axes + 1, axes, *range(axes)))
    return builder.emit(
        "Conv",
        image,
        turned,
        group=channels // each,
        kernel_shape=kernel,
        strides=strides,
        dilations=dilations,
        **padding(builder, image.known_shape[2:], kernel, strides, dilations),
    )


@rule("Conv2D", "Conv3D")
def convolution(node: TfNode, builder: Builder) -> Value:
    """Convolve; the filter's channels tell the groups."""
    x, weight = builder.inputs[:2]
    _refuse_integers(builder, x)
    return from_channels_first(builder, convolve(builder, x, weight))


@rule("DepthwiseConv2dNative")
def depthwise(node: TfNode, builder: Builder) -> Value:
    """Convolve every channel with filters of its own [height, width, channels, filters]."""
    x, weight = builder.inputs
    image = to_channels_first(builder, x)
    kernel = filter_extents(builder, weight, 2)
    strides = spatial_entries(builder, "strides", 2)
    dilations = spatial_entries(builder, "dilations", 2)
    channels, each = (channels_of(builder, weight, axis) for axis in (2, 3))
    turned = builder.reshape(builder.transpose(weight, (2, 3, 0, 1)), channels * each, 1, *kernel)
    result = builder.emit(
        "Conv",
        image,
        turned,
        group=channels,
        kernel_shape=kernel,
        strides=strides,
        dilations=dilations,
        **padding(builder, image.known_shape[2:], kernel, strides, dilations),
    )
    return from_channels_first(builder, result)


@rule("Conv2DBackpropInput", "Conv3DBackpropInputV2", "DepthwiseConv2dNativeBackpropInput")
def transposed_convolution(node: TfNode, builder: Builder) -> Value:
    """Convolve transposed: the result has the extents that the first operand tells."""
    weight, x = builder.input(1), builder.input(2)
    image = to_channels_first(builder, x)
    axes = builder.rank(image) - 2
    kernel = filter_extents(builder, weight, axes)
    strides = spatial_entries(builder, "strides", axes)
    dilations = spatial_entries(builder, "dilations", axes)
    sizes = _wanted_extents(builder, axes)
    begin, end, extra = _transposed_padding(
        builder, sizes, image.known_shape[2:], kernel, strides, dilations
    )
    if node.op.startswith("Depthwise"):
        channels, each = (channels_of(builder, weight, axis) for axis in (2, 3))
        turned = builder.transpose(weight, (2, 3, 0, 1))
        turned, group = builder.reshape(turned, channels * each, 1, *kernel), channels
    else:
        turned, group = builder.transpose(weight, (axes + 1, axes, *range(axes))), 1
    result = builder.emit(
        "ConvTranspose",
        image,
        turned,
        group=group,
        kernel_shape=kernel,
        strides=strides,
        dilations=dilations,
        pads=(*begin, *end),
        output_padding=extra,
    )
    return from_channels_first(builder, result)


def _wanted_extents(builder: Builder, axes: int) -> tuple[Dim, ...]:
    found = builder.dims(builder.input(0))
    if found is None:
        builder.refuse("the extents of the result depend on data")
    if len(found) == axes:
        return found
    return found[1:-1] if channels_last(builder) else found[2:]


def _transposed_padding(
    builder: Builder,
    sizes: Sequence[Dim],
    extents: Sequence[Dim],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
) -> tuple[list[int], list[int], list[int]]:
    """Return what is cut off before and behind the full result, and what is added to it.

    The convolution whose gradient this is tells how much was padded in front of the result: for
    SAME, half of what all taps need beyond `sizes`.
    """
    explicit: tuple[int, ...] | None = None
    if builder.attribute("padding") != "SAME":
        explicit = padding(builder, extents, kernel, strides, dilations)["pads"]
    begin, end, extra = [], [], []
    for axis, (size, extent) in enumerate(zip(sizes, extents, strict=True)):
        reach = (kernel[axis] - 1) * dilations[axis] + 1
        total = (extent - 1) * strides[axis] + reach - size
        if not isinstance(total, int):
            builder.refuse(f"the extent {size} of the result does not follow from {extent}")
        front = max(total, 0) // 2 if explicit is None else explicit[axis]
        begin.append(front)
        end.append(max(total - front, 0))
        extra.append(max(front - total, 0))
    return begin, end, extra


# -- pooling --------------------------------------------------------------------------------------


@rule("MaxPool", "MaxPoolV2", "AvgPool", "MaxPool3D", "AvgPool3D")
def pooling(node: TfNode, builder: Builder) -> Value:
    """Pool; averages leave padding out."""
    x = builder.input(0)
    _refuse_integers(builder, x)
    image = to_channels_first(builder, x)
    axes = builder.rank(image) - 2
    if node.op == "MaxPoolV2":
        kernel = spatial_part(builder, builder.integers(1, "the window"), "the window")
        strides = spatial_part(builder, builder.integers(2, "the strides"), "the strides")
    else:
        kernel = spatial_entries(builder, "ksize", axes)
        strides = spatial_entries(builder, "strides", axes)
    pads = padding(builder, image.known_shape[2:], kernel, strides, (1,) * axes)
    op = "AveragePool" if node.op.startswith("Avg") else "MaxPool"
    result = builder.emit(op, image, kernel_shape=kernel, strides=strides, **pads)
    return from_channels_first(builder, result)


@rule("LRN")
def local_response_normalization(node: TfNode, builder: Builder) -> Value:
    """Divide by a power of a sum of squares of neighbouring channels."""
    image = builder.transpose(builder.input(), (0, 3, 1, 2))
    size = 2 * int(builder.attribute("depth_radius", 5)) + 1
    result = builder.emit(
        "LRN",
        image,
        size=size,
        alpha=float(builder.attribute("alpha", 1.0)) * size,
        beta=float(builder.attribute("beta", 0.5)),
        bias=float(builder.attribute("bias", 1.0)),
    )
    return builder.transpose(result, (0, 2, 3, 1))


@rule("DepthToSpace", "SpaceToDepth")
def depth_and_space(node: TfNode, builder: Builder) -> Value:
    """Move blocks of pixels to channels or back."""
    image = to_channels_first(builder, builder.input())
    size = int(builder.attribute("block_size"))
    mode = {"mode": "DCR"} if node.op == "DepthToSpace" else {}
    return from_channels_first(builder, builder.emit(node.op, image, blocksize=size, **mode))


@rule("BiasAdd", "BiasAddV1")
def bias_add(node: TfNode, builder: Builder) -> Value:
    """Add one number a channel."""
    x, bias = builder.inputs
    return builder.emit("Add", x, channel_vector(builder, bias, builder.rank(x)))


def channel_vector(builder: Builder, vector: Value, rank: int) -> Value:
    """Return one number a channel in a shape that broadcasts against the node's tensors."""
    if channels_last(builder) or rank <= 2:
        return vector
    return builder.reshape(vector, -1, *(1,) * (rank - 2))


def _refuse_integers(builder: Builder, x: Value) -> None:
    if not x.dtype.is_float:
        builder.refuse(f"its tensors are {x.dtype}")


@rule("ExtractImagePatches")
def extract_image_patches(node: TfNode, builder: Builder) -> Value:
    """Return every window's pixels as channels: a convolution with ones in the right places."""
    x = builder.input()
    image = builder.transpose(x, (0, 3, 1, 2))
    kernel, strides, dilations = (
        tuple(int(item) for item in builder.attribute(name)[1:3])
        for name in ("ksizes", "strides", "rates")
    )
    channels, taps = channels_of(builder, image, 1), kernel[0] * kernel[1]
    _refuse_integers(builder, x)
    weight = np.eye(taps * channels, dtype=x.dtype.numpy)
    turned = weight.reshape(taps * channels, *kernel, channels).transpose(0, 3, 1, 2)
    patches = builder.emit(
        "Conv",
        image,
        builder.constant(np.ascontiguousarray(turned)),
        kernel_shape=kernel,
        strides=strides,
        dilations=dilations,
        **padding(builder, image.known_shape[2:], kernel, strides, dilations),
    )
    return builder.transpose(patches, (0, 2, 3, 1))
