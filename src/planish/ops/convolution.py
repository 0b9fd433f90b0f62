"""Convolutions, and the arithmetic of sliding windows that pooling, passes and kernels share.

A window slides over the spatial axes (those after batch and channel) with a kernel extent, a
stride, a dilation and a padding for each. ``window_of(node)`` reads all of it from a node;
``resolve_padding(node)`` answers the padding alone, ``auto_pad`` resolved, symbolic extents
included; ``Window.output`` and ``output_extent`` give the number of window positions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product as cartesian
from typing import Any, ClassVar

import numpy as np

from planish.errors import ShapeError
from planish.ir.graph import Node, Value
from planish.ir.requirement import Requirement, equal
from planish.ir.shape import Dim, Shape, ceildiv, dim_max, dim_min, floordiv, product
from planish.ops.numeric import narrow, optional, plain, random_array, required, widen
from planish.ops.op import (
    Array,
    Attributes,
    Cost,
    Inferred,
    Inputs,
    Op,
    Sample,
    bytes_of,
)

PATCH_BYTES = 64 << 20  # the unfolded patches of one matrix product stay below this

WINDOW_ATTRIBUTES = {
    "auto_pad": "NOTSET",
    "dilations": None,
    "kernel_shape": None,
    "pads": None,
    "strides": None,
}


@dataclass(frozen=True)
class Padding:
    """Elements added before and after each spatial axis."""

    begin: tuple[Dim, ...]
    end: tuple[Dim, ...]

    @property
    def pairs(self) -> tuple[tuple[Dim, Dim], ...]:
        """(before, after) for each spatial axis."""
        return tuple(zip(self.begin, self.end, strict=True))

    @property
    def is_zero(self) -> bool:
        """Whether nothing is added anywhere."""
        return all(dim == 0 for dim in (*self.begin, *self.end))

    @property
    def static(self) -> tuple[tuple[int, int], ...] | None:
        """`pairs` as plain numbers, or None where one depends on a symbol."""
        numbers = tuple((a, b) for a, b in self.pairs if isinstance(a, int) and isinstance(b, int))
        return numbers if len(numbers) == len(self.pairs) else None


@dataclass(frozen=True)
class Window:
    """A window sliding over spatial axes; every tuple has one entry an axis.

    `ceil_mode` counts a last window that reaches beyond the padding, if it starts before the end.
    `same` says that the padding makes it ceil(extent / stride) windows.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    padding: Padding
    ceil_mode: bool = False
    same: bool = False

    @property
    def reach(self) -> tuple[int, ...]:
        """Input elements from the first to the last tap, inclusive."""
        return tuple((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True))

    def output(self, extents: Sequence[Dim]) -> Shape:
        """Return the number of window positions along each axis of input `extents`."""
        if self.same:
            pairs = zip(extents, self.strides, strict=True)
            return tuple(ceildiv(extent, stride) for extent, stride in pairs)
        return tuple(
            output_extent(extent, reach, stride, begin, end, self.ceil_mode)
            for extent, reach, stride, (begin, end) in zip(
                extents, self.reach, self.strides, self.padding.pairs, strict=True
            )
        )

    def offsets(self) -> Iterator[tuple[int, ...]]:
        """Yield the tap positions (kernel index times dilation) in row-major order."""
        yield from cartesian(
            *(range(0, k * d, d) for k, d in zip(self.kernel, self.dilations, strict=True))
        )


def output_extent(
    extent: Dim, reach: int, stride: int, begin: Dim, end: Dim, ceil_mode: bool = False
) -> Dim:
    """Return how many windows that reach over `reach` elements fit along one padded axis.

    With `ceil_mode` the quotient is rounded up, but a window that would start beyond the input
    and its front padding is not counted.
    """
    room = extent + begin + end - reach
    if not ceil_mode:
        return floordiv(room, stride) + 1
    rounded, starting = room + stride - 1, extent + begin - 1
    # floor is monotone, so the smaller dividend decides, symbolic extents or not
    return floordiv(dim_min(rounded, starting), stride) + 1


def same_padding(extent: Dim, reach: int, stride: int, upper: bool) -> tuple[Dim, Dim]:
    """Return (before, after) so that ceil(extent / stride) windows fit.

    An odd total has its larger part behind the axis with `upper`, else before it.
    """
    total = dim_max((ceildiv(extent, stride) - 1) * stride + reach - extent, 0)
    smaller = floordiv(total, 2)
    return (smaller, total - smaller) if upper else (total - smaller, smaller)


def padding_for(
    attributes: Attributes,
    extents: Sequence[Dim],
    reach: Sequence[int],
    strides: Sequence[int],
) -> Padding:
    """Return the padding that `auto_pad` or `pads` ask for on spatial `extents`."""
    mode = attributes.get("auto_pad") or "NOTSET"
    axes = len(extents)
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        pairs = [
            same_padding(extent, taps, stride, mode == "SAME_UPPER")
            for extent, taps, stride in zip(extents, reach, strides, strict=True)
        ]
        return Padding(tuple(a for a, _ in pairs), tuple(b for _, b in pairs))
    pads = attributes.get("pads")
    if mode == "VALID" or not pads:
        return Padding((0,) * axes, (0,) * axes)
    return Padding(tuple(pads[:axes]), tuple(pads[axes:]))


def window_for(attributes: Attributes, extents: Sequence[Dim], kernel: Sequence[int]) -> Window:
    """Return the window that `attributes` describe over spatial `extents`."""
    axes = len(kernel)
    strides = tuple(attributes.get("strides") or (1,) * axes)
    dilations = tuple(attributes.get("dilations") or (1,) * axes)
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    padding = padding_for(attributes, extents, reach, strides)
    mode = attributes.get("auto_pad")
    same = mode in ("SAME_UPPER", "SAME_LOWER")
    ceil_mode = bool(attributes.get("ceil_mode", 0)) and not same and mode != "VALID"
    return Window(tuple(kernel), strides, dilations, padding, ceil_mode, same)


def window_of(node: Node) -> Window:
    """Return the window of a convolution or pooling node; raise ShapeError when it is malformed."""
    extents = node.present_inputs[0].known_shape[2:]
    kernel = kernel_of(node)
    for name, count in (("strides", 1), ("dilations", 1), ("pads", 2)):
        given = node.attributes.get(name)
        if given and len(given) != count * len(kernel):
            raise ShapeError(
                f"{name} has {len(given)} entries, expected {count * len(kernel)} "
                f"for a kernel of rank {len(kernel)}",
                where=str(node),
            )
    if len(kernel) != len(extents):
        raise ShapeError(
            f"a kernel of rank {len(kernel)} cannot slide over {len(extents)} spatial axes",
            where=str(node),
        )
    return window_for(node.attributes, extents, kernel)


def kernel_of(node: Node) -> tuple[int, ...]:
    """Return the kernel's extents: `kernel_shape`, or those of the weight (input 1)."""
    given = node.attributes.get("kernel_shape")
    if given:
        return tuple(given)
    weight = node.input(1)
    if weight is None:
        raise ShapeError("kernel_shape is missing", where=str(node))
    extents = [dim for dim in weight.known_shape[2:] if isinstance(dim, int)]
    if len(extents) != weight.rank - 2:
        raise ShapeError(f"the kernel's extents are not known: {weight}", where=str(node))
    return tuple(extents)


def resolve_padding(node: Node) -> Padding:
    """Return the padding of a Conv, FusedConv, ConvTranspose or pooling node, auto_pad resolved."""
    if node.op != "ConvTranspose":
        return window_of(node).padding
    extents = node.present_inputs[0].known_shape[2:]
    return transposed_window(node.attributes, extents, kernel_of(node)).padding


def transposed_window(
    attributes: Attributes, extents: Sequence[Dim], kernel: Sequence[int]
) -> Window:
    """Return the window of a ConvTranspose: it slides over the output and reads the input.

    `output_shape`, or SAME padding (output extent = input extent * stride), decides the padding;
    an odd total goes to the front except for SAME_UPPER.
    """
    axes = len(kernel)
    window = window_for({**attributes, "auto_pad": "NOTSET"}, extents, kernel)
    mode = attributes.get("auto_pad") or "NOTSET"
    wanted = attributes.get("output_shape")
    if not wanted and mode not in ("SAME_UPPER", "SAME_LOWER"):
        none = Padding((0,) * axes, (0,) * axes)
        return replace(window, padding=none) if mode == "VALID" else window
    sizes = (
        tuple(wanted[-axes:])
        if wanted
        else tuple(extent * s for extent, s in zip(extents, window.strides, strict=True))
    )
    extra = attributes.get("output_padding") or (0,) * axes
    begin: list[Dim] = []
    end: list[Dim] = []
    for axis, extent in enumerate(extents):
        full = (extent - 1) * window.strides[axis] + extra[axis] + window.reach[axis]
        total = dim_max(full - sizes[axis], 0)
        smaller = floordiv(total, 2)
        first = smaller if mode == "SAME_UPPER" else total - smaller
        begin.append(first)
        end.append(total - first)
    return replace(window, padding=Padding(tuple(begin), tuple(end)))


def transposed_extents(
    attributes: Attributes, extents: Sequence[Dim], window: Window
) -> tuple[Dim, ...]:
    """Return the spatial extents of a ConvTranspose's output."""
    axes = len(window.kernel)
    if attributes.get("output_shape"):
        return tuple(attributes["output_shape"][-axes:])
    extra = attributes.get("output_padding") or (0,) * axes
    return tuple(
        (extent - 1) * stride + more + reach - begin - end
        for extent, stride, more, reach, (begin, end) in zip(
            extents, window.strides, extra, window.reach, window.padding.pairs, strict=True
        )
    )


def without_dead_taps(
    window: Window, extents: Shape, outputs: Shape
) -> tuple[Window, tuple[slice, ...]]:
    """Return `window` without the taps at its rims that only ever see padding, and what is kept.

    A dilation wider than the input leaves the centre alone of a 3x3 kernel.
    """
    kernel, begin, end, kept = [], [], [], []
    for axis, (extent, count) in enumerate(zip(extents, outputs, strict=True)):
        taps, step, dilation = window.kernel[axis], window.strides[axis], window.dilations[axis]
        before, after = window.padding.begin[axis], window.padding.end[axis]
        live = list(range(taps))
        if isinstance(extent, int) and isinstance(count, int) and isinstance(before, int):
            first = -before
            live = [
                tap
                for tap in live
                if any(
                    0 <= first + position * step + tap * dilation < extent
                    for position in range(count)
                )
            ]
        if not live:  # nothing but the bias is left: keep one tap, its weights meet zeros
            live = list(range(taps))
        kept.append(slice(live[0], live[-1] + 1))
        kernel.append(live[-1] + 1 - live[0])
        begin.append(before - live[0] * dilation)
        end.append(after - (taps - 1 - live[-1]) * dilation)
    trimmed = replace(window, kernel=tuple(kernel), padding=Padding(tuple(begin), tuple(end)))
    return trimmed, tuple(kept)


# -- numpy kernels -------------------------------------------------------------------------------


def pad_spatial(x: Array, window: Window, fill: float) -> Array:
    """Return `x` padded with `fill` so that every window position lies inside.

    Negative padding crops. Ceil mode may add elements behind the declared padding.
    """
    extents = x.shape[2:]
    counts = plain(window.output(extents))
    pairs = []
    for axis, (begin, end) in enumerate(_plain(window.padding)):
        needed = (counts[axis] - 1) * window.strides[axis] + window.reach[axis]
        pairs.append((begin, max(end, needed - extents[axis] - begin)))
    crop = tuple(
        slice(max(-begin, 0), extent - max(-end, 0))
        for extent, (begin, end) in zip(extents, pairs, strict=True)
    )
    x = x[(slice(None), slice(None), *crop)]
    widths = [(max(begin, 0), max(end, 0)) for begin, end in pairs]
    if not any(a or b for a, b in widths):
        return x
    return np.pad(x, [(0, 0), (0, 0), *widths], constant_values=fill)


def tap(padded: Array, window: Window, offset: Sequence[int], counts: Sequence[int]) -> Array:
    """Return the view of `padded` that the tap at `offset` sees, one element a window position."""
    slices = tuple(
        slice(start, start + (count - 1) * stride + 1, stride)
        for start, count, stride in zip(offset, counts, window.strides, strict=True)
    )
    lead = (slice(None),) * (padded.ndim - len(slices))
    return padded[(*lead, *slices)]


def convolve(x: Array, weight: Array, window: Window, group: int = 1) -> Array:
    """Return the convolution (cross-correlation) of `x` [N,C,...] with `weight` [M,C/group,...].

    Depthwise convolutions are sums of shifted products; all others unfold patches (im2col,
    Chellapilla et al. 2006) and multiply matrices, in slabs of the first spatial axis so that the
    patches stay below PATCH_BYTES.
    """
    counts = plain(window.output(x.shape[2:]))
    batch, filters = x.shape[0], weight.shape[0]
    padded = pad_spatial(x, window, 0)
    out = np.zeros((batch, filters, *counts), dtype=np.result_type(x, weight))
    if out.size == 0:
        return out
    if weight.shape[1] == 1 and group > 1:
        return _convolve_depthwise(padded, weight, window, out, group)
    matrix = weight.reshape(group, filters // group, -1)
    slab_bytes = max(x[0].nbytes // max(x.shape[2], 1), 1) * int(np.prod(window.kernel))
    rows = min(max(PATCH_BYTES // slab_bytes, 1), counts[0])
    for image in range(batch):
        for first in range(0, counts[0], rows):
            part = (min(rows, counts[0] - first), *counts[1:])
            start = first * window.strides[0]
            patches = _unfold(padded[image, :, start:], window, part, group)
            product_ = np.matmul(matrix, patches)
            out[image, :, first : first + part[0]] = product_.reshape(filters, *part)
    return out


def _unfold(image: Array, window: Window, counts: Sequence[int], group: int) -> Array:
    """Return patches of one image as [group, C/group * taps, positions]."""
    channels = image.shape[0]
    offsets = list(window.offsets())
    if len(offsets) == 1:
        return tap(image, window, offsets[0], counts).reshape(group, channels // group, -1)
    patches = np.empty((channels, len(offsets), *counts), dtype=image.dtype)
    for index, offset in enumerate(offsets):
        patches[:, index] = tap(image, window, offset, counts)
    return patches.reshape(group, channels // group * len(offsets), -1)


def _convolve_depthwise(
    padded: Array, weight: Array, window: Window, out: Array, group: int
) -> Array:
    multiplier = weight.shape[0] // group
    batch, counts = out.shape[0], out.shape[2:]
    taps = weight.reshape(group, multiplier, -1)
    sums = out.reshape(batch, group, multiplier, *counts)
    ones = (1,) * len(counts)
    for index, offset in enumerate(window.offsets()):
        view = tap(padded, window, offset, counts)[:, :, None]
        sums += view * taps[None, :, :, index].reshape(1, group, multiplier, *ones)
    return sums.reshape(out.shape)


def add_channel_bias(out: Array, bias: Array | None) -> Array:
    """Return `out` [N,M,...] plus `bias` [M] on every position."""
    if bias is None:
        return out
    return out + widen(bias).reshape(1, -1, *(1,) * (out.ndim - 2))


def _plain(padding: Padding) -> tuple[tuple[int, int], ...]:
    return tuple(zip(plain(padding.begin), plain(padding.end), strict=True))


# -- Conv ----------------------------------------------------------------------------------------


def infer_convolution(node: Node) -> list[Inferred]:
    """Return the output type of a Conv-like node; raise ShapeError when operands do not fit."""
    x, weight = node.present_inputs[:2]
    if x.shape is None or weight.shape is None:
        return [Inferred(x.dtype, None)]
    if x.rank < 3 or x.rank != weight.rank:
        raise ShapeError(f"ranks do not fit: input {x}, weight {weight}", where=str(node))
    group = node.attributes["group"]
    channels, expected = x.shape[1], weight.shape[1] * group
    if isinstance(channels, int) and isinstance(expected, int) and channels != expected:
        raise ShapeError(
            f"input has {channels} channels, the weight {list(weight.shape)} with group={group} "
            f"expects {expected}",
            where=str(node),
        )
    _check_operands(node, weight)
    spatial = window_of(node).output(x.shape[2:])
    empty = [dim for dim in spatial if isinstance(dim, int) and dim < 0]
    if empty:
        raise ShapeError(f"the kernel is larger than the padded input: {x}", where=str(node))
    return [Inferred(x.dtype, (x.shape[0], weight.shape[0], *spatial))]


def _check_operands(node: Node, weight: Value) -> None:
    """Raise ShapeError when `kernel_shape` is not the weight's, or the bias not one number each."""
    given, extents = node.attributes.get("kernel_shape"), weight.known_shape[2:]
    if given and not _agree(tuple(given), extents):
        raise ShapeError(
            f"kernel_shape is {list(given)}, the weight has {list(extents)}", where=str(node)
        )
    bias = node.input(2)
    takes_bias = node.op in ("Conv", "com.microsoft.FusedConv")
    if not takes_bias or bias is None or bias.shape is None:
        return
    if not _agree(bias.shape, weight.known_shape[:1]):
        raise ShapeError(
            f"the bias has shape {list(bias.shape)}, expected [{weight.known_shape[0]}]",
            where=str(node),
        )


def _agree(have: Shape, want: Shape) -> bool:
    """Whether shapes can be equal: of one rank, and no two numbers differ."""
    return len(have) == len(want) and all(
        mine == theirs or not isinstance(mine, int) or not isinstance(theirs, int)
        for mine, theirs in zip(have, want, strict=True)
    )


def convolution_requirements(node: Node) -> list[Requirement]:
    """Return that the weight has the input's channels, and the bias one number an output's."""
    x, weight = node.present_inputs[:2]
    if x.shape is None or weight.shape is None:
        return []
    found = equal(x.shape[1], weight.shape[1] * node.attributes["group"])
    bias = node.input(2)
    return found + (
        equal(bias.shape[0], weight.shape[0]) if bias is not None and bias.shape else []
    )


def convolution_cost(node: Node) -> Cost:
    """Count two operations a tap of the kernel."""
    weight = node.present_inputs[1]
    taps = product((weight.shape or ())[1:])
    elements = product(node.outputs[0].shape or ())
    return Cost(elements * taps * 2, bytes_of(node))


def _convolution_samples() -> list[Sample]:
    def case(
        name: str, x: Array, weight: Array, bias: bool = False, **attributes: object
    ) -> Sample:
        extra = (random_array(3, weight.shape[0]),) if bias else ()
        return Sample((x, weight, *extra), attributes, constant=(1, 2)[: 1 + bias], name=name)

    image, uneven = random_array(1, 2, 4, 9, 8), random_array(2, 3, 4, 3, 4)
    return [
        case("plain", image, random_array(2, 5, 4, 3, 3)),
        case("pointwise", image, random_array(2, 5, 4, 1, 1), bias=True),
        case("bias_pads", image, random_array(2, 5, 4, 3, 2), bias=True, pads=(1, 0, 2, 1)),
        case("strides", image, random_array(2, 3, 4, 3, 3), strides=(2, 3), pads=(1, 1, 1, 1)),
        case("dilations", image, random_array(2, 3, 4, 3, 3), dilations=(2, 3), pads=(2, 2, 3, 3)),
        case("groups", image, random_array(2, 6, 2, 3, 3), bias=True, group=2, pads=(1, 1, 1, 1)),
        case("depthwise", image, random_array(2, 8, 1, 3, 3), group=4, pads=(1, 1, 1, 1)),
        case("same_upper", image, uneven, auto_pad="SAME_UPPER", strides=(2, 2)),
        case("same_lower", image, uneven, auto_pad="SAME_LOWER", strides=(2, 1)),
        case("valid", image, random_array(2, 3, 4, 3, 2), auto_pad="VALID", kernel_shape=(3, 2)),
        case("one_axis", random_array(1, 2, 4, 11), random_array(2, 3, 4, 5), pads=(2, 2)),
        case(
            "three_axes",
            random_array(1, 1, 2, 5, 6, 4),
            random_array(2, 3, 2, 3, 2, 2),
            bias=True,
            strides=(1, 2, 1),
            pads=(1, 0, 0, 1, 1, 1),
        ),
    ]


class Conv(Op):
    """Convolution (cross-correlation) over any number of spatial axes, with an optional bias.

    x [N,C,D1,...], weight [M,C/group,K1,...], bias [M] -> [N,M,O1,...].
    """

    name = "Conv"
    attributes: ClassVar[Mapping[str, Any]] = {**WINDOW_ATTRIBUTES, "group": 1}

    @classmethod
    def infer(cls, node: Node) -> list[Inferred]:
        """Return the output's type; the weight's extents must be known."""
        return infer_convolution(node)

    @classmethod
    def requirements(cls, node: Node) -> list[Requirement]:
        """Return that channels fit."""
        return convolution_requirements(node)

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Unfold patches and multiply matrices, accumulating in float32 at least."""
        x, weight = required(inputs, 0), required(inputs, 1)
        window = window_for(attributes, x.shape[2:], weight.shape[2:])
        out = convolve(widen(x), widen(weight), window, attributes["group"])
        return [narrow(add_channel_bias(out, optional(inputs, 2)), x)]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Cover groups, depthwise, padding modes, strides, dilations and one to three axes."""
        return _convolution_samples()

    @classmethod
    def cost(cls, node: Node) -> Cost:
        """Count two operations a tap of the kernel."""
        return convolution_cost(node)
