"""GridSample: x read at the points of a grid, interpolated between neighbours.

A lane computes one element: the coordinates of its point (shared by all channels, computed again
for each), then 1, 2^axes or 4^axes reads. Bound by scattered loads.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product as cartesian
from typing import ClassVar

from planish.backends.cuda.codegen.elements import Describe, Elements, ElementTactic
from planish.errors import TacticError
from planish.ir.dtypes import F64
from planish.ir.shape import Dim
from planish.ops.sampling import CUBIC_COEFFICIENT, sampling_mode

REACH = {"nearest": (0,), "linear": (0, 1), "cubic": (-1, 0, 1, 2)}
LARGEST_TAPS = 64


class _Sampler:
    """Prints coordinates and reads of one GridSample."""

    def __init__(self, e: Elements) -> None:
        self.e, self.x = e, e.node.present_inputs[0]
        self.extents = self.x.known_shape[2:]
        self.padding = str(e.node.attributes["padding_mode"])
        self.aligned = bool(e.node.attributes["align_corners"])

    def coordinate(self, text: str, extent: Dim) -> str:
        """Return a coordinate in elements, of one in [-1, 1]."""
        n = self.e.dim(extent)
        if self.aligned:
            return self.e.let("x", f"({text} + 1.0) * 0.5 * ({n} - 1)")
        return self.e.let("x", f"(({text} + 1.0) * {n} - 1.0) * 0.5")

    def settle(self, x: str, extent: Dim) -> str:
        """Return a coordinate moved into the tensor, as the padding mode asks."""
        n = self.e.dim(extent)
        if self.padding == "border":
            return self.e.let("x", f"tl.minimum(tl.maximum({x}, 0.0), {n} - 1.0)")
        if self.padding == "zeros":
            return x
        edge = "0.0" if self.aligned else "-0.5"
        return self.e.let("x", f"planish_mirror({x}, {edge}, {n} - 1.0 - ({edge}))")

    def read(self, places: Sequence[str]) -> str:
        """Return the element at whole coordinates, 0 outside."""
        at, inside = list(self.e.at[:2]), []
        for place, extent in zip(places, self.extents, strict=True):
            settled = self.settle(place, extent)
            whole = self.e.let("place", f"libdevice.rint({settled}).to(tl.int32)")
            inside.append(f"({whole} >= 0) & ({whole} < {self.e.dim(extent)})")
            at.append(whole)
        return self.e.read(self.x, at, " & ".join(inside))


def _grid_sample(e: Elements) -> Sequence[str]:
    x, grid = e.node.present_inputs
    mode, axes = sampling_mode(e.node.attributes), x.rank - 2
    if not x.dtype.is_float or x.dtype is F64:
        raise TacticError(f"it samples {x.dtype}")
    if len(REACH[mode]) ** axes > LARGEST_TAPS:
        raise TacticError("a point has too many neighbours")
    sampler = _Sampler(e)
    coordinates = []
    for axis, extent in enumerate(sampler.extents):
        text = e.read(grid, [e.at[0], *e.at[2:], axes - 1 - axis])
        place = sampler.coordinate(text, extent)
        coordinates.append(place if mode == "cubic" else sampler.settle(place, extent))
    if mode == "nearest":
        return [sampler.read([e.let("x", f"libdevice.rint({x})") for x in coordinates])]
    lows = [e.let("low", f"tl.floor({x})") for x in coordinates]
    total = ""
    for offsets in cartesian(REACH[mode], repeat=axes):
        places, weights = [], []
        for x_, low, offset in zip(coordinates, lows, offsets, strict=True):
            place = e.let("near", f"{low} + {offset}.0")
            distance = f"tl.abs({x_} - {place})"
            weights.append(
                f"(1.0 - {distance})"
                if mode == "linear"
                else f"planish_cubic({distance}, {CUBIC_COEFFICIENT!r})"
            )
            places.append(place)
        text = " * ".join([sampler.read(places), *weights])
        total = e.let("total", f"{total} + {text}" if total else text)
    return [total]


class GridSample(ElementTactic):
    """See the module's docstring."""

    name: ClassVar[str] = "triton_grid_sample"
    describe: ClassVar[dict[str, Describe]] = {"GridSample": _grid_sample}
