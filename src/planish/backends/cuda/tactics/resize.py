"""Resize: nearest, linear and cubic interpolation, separately along every axis that changes.

y[n, c, h, w] = sum over taps a, b of u[h, a] * v[w, b] * x[n, c, s[h, a], t[w, b]]

Where the extents are known, s, t, u, v are tables computed at build time by the reference's own
functions, so all modes are exact; for symbolic extents lanes compute them. Bound by loads that hit
caches: neighbours read the same elements.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product as cartesian
from typing import ClassVar

import numpy as np

from planish.backends.cuda.codegen.elements import Describe, Elements, ElementTactic, typed
from planish.errors import TacticError
from planish.ir.dtypes import F32, F64
from planish.ir.graph import Node
from planish.ir.shape import Dim, static_shape
from planish.ops.content import contents
from planish.ops.resize import (
    AxisMap,
    axis_maps,
    interpolation_matrix,
    nearest_indices,
    outside,
    resized_axes,
)

LARGEST_TAPS = 64
CROP = "tf_crop_and_resize"
ROUNDED = {
    "round_prefer_floor": "tl.ceil({0} - 0.5)",
    "round_prefer_ceil": "tl.floor({0} + 0.5)",
    "floor": "tl.floor({0})",
    "ceil": "tl.ceil({0})",
}
COORDINATES = {
    "half_pixel": "tl.div_rn({x} + 0.5, {s}) - 0.5",
    "pytorch_half_pixel": "tl.where({many}, tl.div_rn({x} + 0.5, {s}) - 0.5, 0.0)",
    "half_pixel_symmetric": "{source} * 0.5 * (1.0 - tl.div_rn({target}, {s} * {source})) "
    "+ tl.div_rn({x} + 0.5, {s}) - 0.5",
    "align_corners": "tl.where({many}, tl.div_rn({x} * ({source} - 1.0), "
    "tl.maximum({target} - 1.0, 1.0)), 0.0)",
    "asymmetric": "tl.div_rn({x}, {s})",
}


@dataclass(frozen=True)
class Taps:
    """Names of the source indices along one axis, of their weights (none when nearest)."""

    axis: int
    places: tuple[str, ...]
    weights: tuple[str, ...]


def _resize(e: Elements) -> Sequence[str]:
    node, x = e.node, e.node.present_inputs[0]
    mode = node.attributes["mode"]
    if mode != "nearest" and not x.dtype.is_float:
        raise TacticError(f"it interpolates {x.dtype}")
    is_crop = node.attributes["coordinate_transformation_mode"] == CROP
    beyond: list[str] = []
    if static_shape(x.known_shape + node.output.known_shape) is not None:
        maps = _maps(node, everything=is_crop)
        taps = [_from_tables(e, each) for each in maps]
        beyond = [_outside(e, each) for each in maps if is_crop]
    else:
        taps = _computed(e)
    total = _sum(e, taps)
    for condition in beyond:
        rest = float(node.attributes["extrapolation_value"])
        total = e.let("total", f"tl.where({condition}, {rest!r}, {total})")
    return [total]


def _sum(e: Elements, taps: Sequence[Taps]) -> str:
    x = e.node.present_inputs[0]
    if np.prod([len(each.places) for each in taps], dtype=int) > LARGEST_TAPS:
        raise TacticError("it has too many taps an element")
    total = ""
    for chosen in cartesian(*(range(len(each.places)) for each in taps)):
        at = list(e.at)
        weights: list[str] = []
        for each, tap in zip(taps, chosen, strict=True):
            at[each.axis] = each.places[tap]
            weights += each.weights[tap : tap + 1]
        text = " * ".join([e.read(x, at), *weights])
        total = e.let("total", f"{total} + {text}" if total else text)
    return total


# -- known extents -------------------------------------------------------------------------------


def _maps(node: Node, everything: bool) -> list[AxisMap]:
    """Return how each axis is resized: those that change, the most shrinking first."""
    x = node.present_inputs[0]
    image = np.broadcast_to(np.float32(0), static_shape(x.known_shape) or ())
    inputs: list[np.ndarray | None] = []
    for value in (*node.inputs, *[None] * (4 - len(node.inputs))):
        known = None if value is None or value.constant is None else value.array
        if value is not None and known is None and len(inputs) == 3:
            known = np.array(contents(value), np.int64)
        elif value is not None and known is None and inputs and value.known_shape != (0,):
            raise TacticError("the scales are known only at run time")
        inputs.append(known)
    found = axis_maps(image, inputs, node.attributes)
    changing = [each for each in found if each.scale != 1 or each.source != each.target]
    return found if everything else changing


def _from_tables(e: Elements, each: AxisMap) -> Taps:
    """Pack the source indices and weights of an axis, and print their loads."""
    attributes = e.node.attributes
    if attributes["mode"] == "nearest":
        places = nearest_indices(each, attributes)[:, None]
        return Taps(each.axis, _loads(e, each.axis, places.astype(np.int32)), ())
    matrix = interpolation_matrix(each, attributes)
    count = max(1, int((matrix != 0).sum(axis=1).max()))
    order = np.sort(np.argsort(matrix == 0, axis=1, kind="stable")[:, :count], axis=1)
    weights = np.take_along_axis(matrix, order, axis=1)
    kind = np.float64 if e.node.output.dtype is F64 else np.float32
    return Taps(
        each.axis,
        _loads(e, each.axis, order.astype(np.int32)),
        _loads(e, each.axis, weights.astype(kind)),
    )


def _outside(e: Elements, each: AxisMap) -> str:
    """Return the name of whether a position along an axis lies beyond the input."""
    table = outside(each, e.node.attributes).astype(np.int32)[:, None]
    (name,) = _loads(e, each.axis, table)
    return e.let("beyond", f"{name} != 0")


def _loads(e: Elements, axis: int, table: np.ndarray) -> tuple[str, ...]:
    """Return the names of the entries [position][tap] of a table."""
    pointer, taps = e.printer.pack(table), table.shape[1]
    rest = "" if e.mask is None else f", mask={e.mask}, other=0"
    return tuple(
        e.let("tap", f"tl.load({pointer} + {e.at[axis]} * {taps} + {tap}{rest})")
        for tap in range(taps)
    )


# -- symbolic extents ----------------------------------------------------------------------------


def _computed(e: Elements) -> list[Taps]:
    """Print the coordinates, indices and weights of the axes that change."""
    node, x = e.node, e.node.present_inputs[0]
    attributes = node.attributes
    mode = attributes["coordinate_transformation_mode"]
    if mode not in COORDINATES or attributes["antialias"]:
        raise TacticError("its extents are symbolic, with antialias or a crop")
    if attributes["keep_aspect_ratio_policy"] != "stretch":
        raise TacticError("its extents are symbolic and keep their aspect ratio")
    scales = node.input(2)
    if scales is not None and scales.known_shape != (0,) and not scales.is_constant:
        raise TacticError("the scales are known only at run time")
    given = None if scales is None or scales.known_shape == (0,) else scales.array.reshape(-1)
    found = []
    for position, axis in enumerate(resized_axes(attributes, x.rank)):
        source, target = x.known_shape[axis], node.output.known_shape[axis]
        scale = None if given is None else float(given[position])
        if source == target and scale in (None, 1.0):
            continue
        found.append(_computed_axis(e, axis, source, target, scale))
    return found


def _computed_axis(e: Elements, axis: int, source: Dim, target: Dim, scale: float | None) -> Taps:
    attributes = e.node.attributes
    here = e.let("x", f"{e.at[axis]}.to(tl.float32)")
    from_, to = (e.let("n", f"{here} * 0.0 + {e.dim(n)}") for n in (source, target))
    factor = repr(scale) if scale is not None else f"tl.div_rn({to}, {from_})"
    s = e.let("scale", f"{here} * 0.0 + {factor}")
    text = COORDINATES[attributes["coordinate_transformation_mode"]].format(
        x=here, s=s, source=from_, target=to, many=f"({to} > 1.0)"
    )
    x, last = e.let("x", text), f"{e.dim(source)} - 1"
    if attributes["mode"] == "nearest":
        picked = ROUNDED[attributes["nearest_mode"]].format(x)
        place = e.let("place", f"planish_clamp(({picked}).to(tl.int32), 0, {last})")
        return Taps(axis, (place,), ())
    is_linear = attributes["mode"] == "linear"
    if is_linear:
        x = e.let("x", f"tl.minimum(tl.maximum({x}, 0.0), {from_} - 1.0)")
    first = e.let("first", f"tl.floor({x} - {1 if is_linear else 2}.0) + 1.0")
    places, weights = [], []
    for tap in range(2 if is_linear else 4):
        distance = f"tl.abs({first} + {tap}.0 - {x})"
        weight = f"tl.maximum(1.0 - {distance}, 0.0)"
        if not is_linear:
            weight = f"planish_cubic({distance}, {float(attributes['cubic_coeff_a'])!r})"
        at = e.let("at", f"({first} + {tap}.0).to(tl.int32)")
        if attributes["exclude_outside"]:
            weight = f"tl.where(({at} >= 0) & ({at} <= {last}), {weight}, 0.0)"
        weights.append(e.let("weight", weight))
        places.append(e.let("place", f"planish_clamp({at}, 0, {last})"))
    total = e.let("sum", " + ".join(weights))
    dtype = e.node.output.dtype if e.node.output.dtype is F64 else F32
    scaled = tuple(e.let("weight", typed(f"{weight} / {total}", dtype)) for weight in weights)
    return Taps(axis, tuple(places), scaled)


class Resize(ElementTactic):
    """See the module's docstring."""

    name: ClassVar[str] = "triton_resize"
    describe: ClassVar[dict[str, Describe]] = {"Resize": _resize}
