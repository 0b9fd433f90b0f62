"""GridSample and AffineGrid: read a tensor at computed coordinates."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product as cartesian
from typing import Any, ClassVar

import numpy as np

from planish.errors import ShapeError
from planish.ir.graph import Node
from planish.ir.requirement import Requirement, equal
from planish.ir.shape import product
from planish.ops.content import contents
from planish.ops.numeric import narrow, random_array, required, widen
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
from planish.ops.resize import cubic_kernel

CUBIC_COEFFICIENT = -0.75
# opset 16 used PyTorch's names
MODE_ALIASES = {"bilinear": "linear", "bicubic": "cubic"}


def sampling_mode(attributes: Attributes) -> str:
    """Return the interpolation: "linear", "nearest" or "cubic", under their current names."""
    mode = str(attributes["mode"])
    return MODE_ALIASES.get(mode, mode)


def unnormalize(grid: Array, extent: int, align_corners: bool) -> Array:
    """Return pixel coordinates for `grid` in [-1, 1]: centres of the corners, or their edges."""
    if align_corners:
        return (grid + 1) / 2 * (extent - 1)
    return ((grid + 1) * extent - 1) / 2


def reflect(x: Array, low: float, high: float) -> Array:
    """Return `x` mirrored at `low` and `high` until it lies between them."""
    span = high - low
    if span <= 0:
        return np.full_like(x, low)
    distance = np.abs(x - low) % (2 * span)
    return np.asarray(low + np.where(distance > span, 2 * span - distance, distance))


class Sampler:
    """Reads x [N,C,...] at pixel coordinates, one array [N,P] an axis."""

    def __init__(self, x: Array, padding: str, align_corners: bool) -> None:
        self.extents = x.shape[2:]
        self.flat = x.reshape(*x.shape[:2], -1)
        self.padding = padding
        edge = 0.0 if align_corners else -0.5
        self.bounds = [(edge, extent - 1 - edge) for extent in self.extents]

    def settle(self, coordinates: list[Array]) -> list[Array]:
        """Return coordinates moved into the tensor, as the padding mode asks."""
        settled = []
        for x, (low, high), extent in zip(coordinates, self.bounds, self.extents, strict=True):
            if self.padding == "border":
                settled.append(np.clip(x, 0, extent - 1))
            elif self.padding == "reflection":
                settled.append(np.where((x < low) | (x > high), reflect(x, low, high), x))
            else:
                settled.append(x)
        return settled

    def read(self, positions: list[Array]) -> Array:
        """Return the elements [N,C,P] at whole `positions`; zeros outside in mode "zeros"."""
        index = np.zeros(positions[0].shape, np.int64)
        inside = np.ones(positions[0].shape, np.bool_)
        for position, extent in zip(self.settle(positions), self.extents, strict=True):
            whole = np.rint(np.nan_to_num(position, nan=-1)).astype(np.int64)
            inside &= (whole >= 0) & (whole < extent)
            index = index * extent + np.clip(whole, 0, extent - 1)
        values = np.take_along_axis(self.flat, index[:, None, :], axis=2)
        return np.where(inside[:, None, :], values, self.flat.dtype.type(0))

    def interpolate(self, coordinates: list[Array], mode: str) -> Array:
        """Return [N,C,P]: the weighted sum over neighbours along every axis."""
        if mode == "nearest":
            return self.read([np.rint(x) for x in coordinates])
        reach = (0, 1) if mode == "linear" else (-1, 0, 1, 2)
        lows = [np.floor(x) for x in coordinates]
        total = np.zeros((*self.flat.shape[:2], coordinates[0].shape[1]), self.flat.dtype)
        for offsets in cartesian(reach, repeat=len(coordinates)):
            weight = np.ones_like(coordinates[0])
            for x, low, offset in zip(coordinates, lows, offsets, strict=True):
                distance = x - low - offset
                weight = weight * (
                    1 - np.abs(distance)
                    if mode == "linear"
                    else cubic_kernel(distance, CUBIC_COEFFICIENT)
                )
            neighbours = [low + offset for low, offset in zip(lows, offsets, strict=True)]
            total += self.read(neighbours) * weight[:, None, :].astype(total.dtype)
        return total


class GridSample(Op):
    """Sample x [N,C,H,W] (or 3-D) at the points of a grid [N,P,Q,2] whose range is [-1, 1].

    The grid's last axis holds x, y(, z): the last spatial axis of x first.
    """

    name = "GridSample"
    attributes: ClassVar[Mapping[str, Any]] = {
        "align_corners": 0,
        "mode": "linear",
        "padding_mode": "zeros",
    }

    @classmethod
    def infer(cls, node: Node) -> list[Inferred]:
        """Return the output's type."""
        x, grid = node.present_inputs
        mode = sampling_mode(node.attributes)
        if mode not in ("linear", "nearest", "cubic"):
            raise ShapeError(f"unknown mode {mode!r}", where=str(node))
        if node.attributes["padding_mode"] not in ("zeros", "border", "reflection"):
            raise ShapeError(
                f"unknown padding_mode {node.attributes['padding_mode']!r}", where=str(node)
            )
        if x.shape is None or grid.shape is None:
            return [Inferred(x.dtype, None)]
        numbers, axes = grid.shape[-1], len(x.shape) - 2
        if len(grid.shape) != axes + 2 or (isinstance(numbers, int) and numbers != axes):
            raise ShapeError(f"the grid {grid} does not fit {x}", where=str(node))
        return [Inferred(x.dtype, (*x.shape[:2], *grid.shape[1:-1]))]

    @classmethod
    def requirements(cls, node: Node) -> list[Requirement]:
        """Return that there is a grid for every image."""
        x, grid = node.present_inputs
        return equal(x.shape[0], grid.shape[0]) if x.shape and grid.shape else []

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Gather neighbours and weigh them, in float32 at least."""
        x, grid = required(inputs, 0), required(inputs, 1)
        mode = sampling_mode(attributes)
        align = bool(attributes["align_corners"])
        sampler = Sampler(widen(x), attributes["padding_mode"], align)
        points = widen(grid).reshape(grid.shape[0], -1, grid.shape[-1])
        axes = len(sampler.extents)
        coordinates = [
            unnormalize(points[:, :, axes - 1 - axis], extent, align)
            for axis, extent in enumerate(sampler.extents)
        ]
        if mode != "cubic":  # cubic only moves its neighbours, as PyTorch does
            coordinates = sampler.settle(coordinates)
        out = sampler.interpolate(coordinates, mode)
        return [narrow(out.reshape(*x.shape[:2], *grid.shape[1:-1]), x)]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Cover all modes, paddings and alignments, and three axes."""
        x, grid = random_array(1, 2, 3, 4, 5), random_array(2, 2, 3, 4, 2)
        cases = [
            Sample(
                (x, grid),
                {"mode": mode, "padding_mode": padding, "align_corners": align},
                name=f"{mode}_{padding}_{align}",
            )
            for mode in ("linear", "nearest", "cubic")
            for padding in ("zeros", "border", "reflection")
            for align in (0, 1)
        ]
        volume, points = random_array(3, 1, 2, 3, 4, 5), random_array(4, 1, 2, 3, 2, 3)
        return [
            *cases,
            Sample((volume, points), name="volume"),
            Sample(
                (volume, points), {"mode": "nearest", "align_corners": 1}, name="volume_nearest"
            ),
        ]

    @classmethod
    def cost(cls, node: Node) -> Cost:
        """Count two operations a neighbour."""
        mode = sampling_mode(node.attributes)
        taps = {"nearest": 1, "linear": 2, "cubic": 4}[mode]
        axes = len(node.present_inputs[0].shape or ()) - 2
        elements = product(node.outputs[0].shape or ())
        return Cost(elements * taps ** max(axes, 1) * 2, bytes_of(node))


class AffineGrid(Op):
    """Grid of sampling points: affine maps theta [N,2,3] (or [N,3,4]) of a regular grid.

    Input `size` is (N,C,H,W) or (N,C,D,H,W); the output is [N,H,W,2] or [N,D,H,W,3].
    """

    name = "AffineGrid"
    attributes: ClassVar[Mapping[str, Any]] = {"align_corners": 0}
    operations_per_element = 8

    @classmethod
    def infer(cls, node: Node) -> list[Inferred]:
        """Return the grid's type."""
        theta, size = node.present_inputs[0], contents(node.input(1))
        if theta.shape is None:
            return [Inferred(theta.dtype, None)]
        axes = theta.shape[1]
        if size is not None:
            return [Inferred(theta.dtype, (theta.shape[0], *size[2:], axes))]
        count = axes if isinstance(axes, int) else 2
        spatial = tuple(unknown_extent(node, 0, 1 + axis) for axis in range(count))
        return [Inferred(theta.dtype, (theta.shape[0], *spatial, axes))]

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Multiply homogeneous positions by theta."""
        theta, size = required(inputs, 0), required(inputs, 1)
        extents = [int(extent) for extent in size[2:]]
        lines = [_line(extent, bool(attributes["align_corners"])) for extent in extents]
        # the last axis varies fastest and is the first coordinate
        places = np.stack(np.meshgrid(*lines, indexing="ij")[::-1], axis=-1)
        flat = places.reshape(-1, len(extents))
        homogeneous = np.concatenate([flat, np.ones((len(flat), 1))], axis=1)
        grid = homogeneous @ widen(theta).astype(np.float64).swapaxes(1, 2)
        return [narrow(grid.reshape(len(theta), *extents, len(extents)), theta)]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Cover two and three axes and both alignments."""
        flat, solid = random_array(1, 2, 2, 3), random_array(2, 2, 3, 4)
        small, large = np.array([2, 1, 3, 4], np.int64), np.array([2, 1, 2, 3, 4], np.int64)
        return [
            Sample((flat, small), {}, (1,)),
            Sample((flat, small), {"align_corners": 1}, (1,), name="aligned"),
            Sample((solid, large), {}, (1,), name="volume"),
        ]


def _line(extent: int, align_corners: bool) -> Array:
    if align_corners:
        return np.linspace(-1, 1, extent)
    return (2 * np.arange(extent) + 1) / extent - 1
