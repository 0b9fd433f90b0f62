"""Windows of any rank, padding, dilation and type, one output element a lane.

    Conv           y[n, m, o] = sum over c, t of x[n, c, o*stride - pad + t*dilation] w[m, c, t]
    ConvTranspose  y[n, m, o] = sum over c, t of x[n, c, (o + pad - t*dilation) / stride] w[c, m, t]
    pools          y[n, c, o] = f over t of x[n, c, o*stride - pad + t*dilation]

The last resort for what the tiled kernels refuse: symbolic padding, weights that are data, narrow
groups, indices of maxima. A loop over channels and taps; neighbours share loads in caches only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from planish.backends.cuda.codegen.elements import Describe, Elements, ElementTactic, typed
from planish.backends.cuda.codegen.triton_types import compute_type, literal, sum_type
from planish.errors import TacticError
from planish.ir.dtypes import BOOL, DType
from planish.ir.graph import Node
from planish.ir.shape import Dim, product
from planish.ops.convolution import Window, kernel_of, transposed_window, window_of

UNROLLED = 32  # taps of a pool that are printed one after the other


def _start(e: Elements, dtype: DType, value: str = "0") -> str:
    return e.let("total", e.full(value, compute_type(dtype)))


def _tap_coordinates(e: Elements, kernel: Sequence[int], tap: str) -> list[str]:
    """Return the tap's position along each axis of the window, of its number."""
    places = []
    step = 1
    for extent in reversed(kernel):
        text = tap if step == 1 else f"({tap} // {step})"
        step *= extent
        places.append(e.let("t", f"{text} % {extent}" if extent > 1 else f"{tap} * 0"))
    return places[::-1]


def _convolution(e: Elements) -> Sequence[str]:
    node = e.node
    x, weight = node.present_inputs[:2]
    window, group = window_of(node), int(node.attributes.get("group", 1))
    filters, channels = weight.known_shape[:2]
    taps = int(np.prod(window.kernel))
    kind = sum_type(x.dtype)
    first = _first_channel(e, filters, group, channels)
    total = _start(e, kind)
    with e.block_of(f"for step in range({e.dim(channels * taps)}):"):
        channel, tap = e.let("channel", f"step // {taps}"), e.let("tap", f"step % {taps}")
        places = _tap_coordinates(e, window.kernel, tap)
        at, inside = _window_places(e, window, x.known_shape[2:], places)
        a = e.read(x, [e.at[0], f"({first} + {channel})", *at], inside)
        b = e.read(weight, [e.at[1], f"({e.at[1]} * 0 + {channel})", *_each(e, places)])
        e.say(f"{total} += {typed(a, kind)} * {typed(b, kind)}")
    return [_with_bias(e, total)]


def _transposed(e: Elements) -> Sequence[str]:
    node = e.node
    x, weight = node.present_inputs[:2]
    extents = x.known_shape[2:]
    window = transposed_window(node.attributes, extents, kernel_of(node))
    group = int(node.attributes.get("group", 1))
    channels, filters = weight.known_shape[:2]
    if not isinstance(channels, int):
        raise TacticError("the number of channels is symbolic")
    taps, depth = int(np.prod(window.kernel)), channels // group
    kind = sum_type(x.dtype)
    first = _first_channel(e, filters * group, group, depth)
    output = e.let("filter", f"{e.at[1]} % {e.dim(filters)}")
    total = _start(e, kind)
    with e.block_of(f"for step in range({depth * taps}):"):
        channel, tap = e.let("channel", f"step // {taps}"), e.let("tap", f"step % {taps}")
        places = _tap_coordinates(e, window.kernel, tap)
        at, inside = [], []
        for axis, place in enumerate(places):
            pad, stride = window.padding.begin[axis], window.strides[axis]
            shift = f"{e.at[2 + axis]} + {e.dim(pad)} - {place} * {window.dilations[axis]}"
            from_ = e.let("from", shift)
            whole = e.let("at", f"{from_} // {stride}")
            inside.append(f"({from_} >= 0) & ({from_} % {stride} == 0)")
            inside.append(f"({whole} < {e.dim(extents[axis])})")
            at.append(whole)
        a = e.read(x, [e.at[0], f"({first} + {channel})", *at], " & ".join(inside))
        b = e.read(weight, [f"({first} + {channel})", output, *_each(e, places)])
        e.say(f"{total} += {typed(a, kind)} * {typed(b, kind)}")
    return [_with_bias(e, total)]


def _first_channel(e: Elements, filters: Dim, group: int, channels: Dim) -> str:
    """Return the name of the first input channel that a lane's filter reads."""
    if group == 1:
        return e.let("first", f"{e.at[1]} * 0")
    return e.let("first", f"{e.at[1]} // ({e.dim(filters)} // {group}) * {e.dim(channels)}")


def _each(e: Elements, places: Sequence[str]) -> list[str]:
    """Return scalars as coordinates of every lane."""
    return [f"({e.at[0]} * 0 + {place})" for place in places]


def _window_places(
    e: Elements, window: Window, extents: Sequence[Dim], places: Sequence[str]
) -> tuple[list[str], str]:
    """Return where the tap at `places` reads along each axis, and whether that exists."""
    at, inside = [], []
    for axis, (place, extent) in enumerate(zip(places, extents, strict=True)):
        begin, stride = window.padding.begin[axis], window.strides[axis]
        shift = f"{place} * {window.dilations[axis]} - {e.dim(begin)}"
        name = e.let("at", f"{e.at[2 + axis]} * {stride} + ({shift})")
        inside.append(f"({name} >= 0) & ({name} < {e.dim(extent)})")
        at.append(name)
    return at, " & ".join(inside)


def _with_bias(e: Elements, total: str) -> str:
    """Return the sum in the compute type of the result, the node's own bias added."""
    bias = e.node.input(2)
    if bias is not None:
        kind = sum_type(e.node.present_inputs[0].dtype)
        e.say(f"{total} += {typed(e.read(bias, [e.at[1]]), kind)}")
    return e.let("total", typed(total, e.node.output.dtype))


# -- pools ---------------------------------------------------------------------------------------


def _taps(e: Elements, window: Window) -> Sequence[tuple[str, list[str], str]]:
    """Return number, places and existence of every tap; pools have few."""
    extents = e.node.present_inputs[0].known_shape[2:]
    found = []
    for number, tap in enumerate(np.ndindex(*window.kernel)):
        at, inside = _window_places(e, window, extents, [str(place) for place in tap])
        found.append((str(number), at, e.let("inside", inside)))
    if len(found) > UNROLLED * 32:
        raise TacticError(f"a window of {len(found)} elements is too large")
    return found


def _max_pool(e: Elements) -> Sequence[str]:
    node, x = e.node, e.node.present_inputs[0]
    window, taps = window_of(node), []
    if x.dtype is BOOL:
        raise TacticError("it is of booleans")
    low = 'float("-inf")' if x.dtype.is_float else str(np.iinfo(x.dtype.numpy).min)
    total = _start(e, x.dtype, low)
    place = e.let("winner", e.full("-1", "tl.int64"))
    for _, at, inside in _taps(e, window):
        value = e.read(x, [*e.at[:2], *at], inside)
        better = e.let("better", f"{inside} & (({value} > {total}) | ({place} < 0))")
        total = e.let("total", f"tl.where({better}, {value}, {total})")
        place = e.let("winner", f"tl.where({better}, {_position(e, node, at)}, {place})")
        taps.append(inside)
    return [total, place]


def _position(e: Elements, node: Node, at: Sequence[str]) -> str:
    """Return the flat position of an input element, as MaxPool's second output counts it."""
    shape = node.present_inputs[0].known_shape
    axes = list(range(len(at)))
    order = axes if node.attributes["storage_order"] else axes[::-1]
    step: Dim = 1
    terms = []
    for axis in order:
        terms.append(f"{at[axis]}.to(tl.int64) * {e.dim(step)}")
        step = step * shape[2 + axis]
    plane = f"({e.at[0]} * {e.dim(shape[1])} + {e.at[1]}).to(tl.int64)"
    return f"({' + '.join([*terms, f'{plane} * {e.dim(product(shape[2:]))}'])})"


def _average_pool(e: Elements) -> Sequence[str]:
    node, x = e.node, e.node.present_inputs[0]
    if not x.dtype.is_float:
        raise TacticError(f"it is of {x.dtype}")
    window = window_of(node)
    total = _start(e, x.dtype, "0.0")
    count = _start(e, x.dtype, "0.0")
    for _, at, inside in _taps(e, window):
        value = e.read(x, [*e.at[:2], *at], inside)
        total = e.let("total", f"{total} + {value}")
        counted = _in_padding(e, window, at) if node.attributes["count_include_pad"] else inside
        count = e.let("count", f"{count} + {typed(counted, x.dtype)}")
    return [e.let("total", f"{total} / tl.maximum({count}, 1.0)")]


def _in_padding(e: Elements, window: Window, at: Sequence[str]) -> str:
    """Return whether a tap lies in the input or its declared padding."""
    extents = e.node.present_inputs[0].known_shape[2:]
    pairs = zip(at, extents, window.padding.end, strict=True)
    return " & ".join(f"({place} < {e.dim(extent + end)})" for place, extent, end in pairs)


def _lp_pool(e: Elements) -> Sequence[str]:
    node, x = e.node, e.node.present_inputs[0]
    if not x.dtype.is_float:
        raise TacticError(f"it is of {x.dtype}")
    p = int(node.attributes.get("p", 2))
    power, root = norm_of(p)
    total = _start(e, x.dtype, literal(0, x.dtype))
    for _, at, inside in _taps(e, window_of(node)):
        value = e.read(x, [*e.at[:2], *at], inside)
        total = e.let("total", f"{total} + {power.format(x=value)}")
    return [e.let("total", root.format(x=total))]


def norm_of(p: int) -> tuple[str, str]:
    """Return |x|^p and its inverse as text with the field x."""
    if p == 1:
        return "tl.abs({x})", "{x}"
    if p == 2:
        return "({x} * {x})", "tl.sqrt({x})"
    power = f"libdevice.pow(tl.abs({{x}}), tl.zeros_like({{x}}) + {p}.0)"
    return power, f"libdevice.pow({{x}}, tl.zeros_like({{x}}) + {1.0 / p!r})"


class DirectWindow(ElementTactic):
    """See the module's docstring."""

    name: ClassVar[str] = "triton_direct_window"
    rank: ClassVar[int] = 50
    describe: ClassVar[dict[str, Describe]] = {
        "AveragePool": _average_pool,
        "Conv": _convolution,
        "ConvTranspose": _transposed,
        "LpPool": _lp_pool,
        "MaxPool": _max_pool,
    }
