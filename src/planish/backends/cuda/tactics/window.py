"""Tiles of pixels by channels that slide a window over channels-last data."""

from __future__ import annotations

from collections.abc import Sequence

from planish.backends.cuda.codegen.printer import Memory, Printer, load_text
from planish.ir.shape import Dim, Shape, product
from planish.ops.convolution import Window
from planish.tactics.tactic import Config


class Window2D:
    """Prints the coordinates of a tile's pixels and the address of each tap.

    Parameters
    ----------
    printer : Printer
    window : Window
        With static padding.
    source : Memory
        The data, [N, C, spatial...] with any strides.
    shape : Shape
        Of the result.
    config : dict
        "pixels" and "channels" of a tile. With "across" a pixel of the tile stands for so many
        neighbours along the last axis, a divisor of its extent; their windows share what they read.
    """

    def __init__(
        self, printer: Printer, window: Window, source: Memory, shape: Shape, config: Config
    ) -> None:
        self.printer, self.window, self.source, self.shape = printer, window, source, shape
        self.pixels, self.channels = int(config["pixels"]), int(config["channels"])
        self.across = int(config.get("across", 1))
        self.spatial: Shape = (*shape[2:-1], shape[-1] // self.across)
        self.count: Dim = shape[0] * product(self.spatial)
        whole = isinstance(self.count, int) and self.count % self.pixels == 0
        self.pixel_mask = None if whole else f"(pixels < {printer.dim(self.count)})"
        extent = shape[1]
        divides = isinstance(extent, int) and extent % self.channels == 0
        self.channel_mask = None if divides else f"(channels < {printer.dim(extent)})"

    @property
    def pixel_mask_2d(self) -> str | None:
        """The mask of pixels, shaped to broadcast in the tile."""
        return None if self.pixel_mask is None else f"{self.pixel_mask}[:, None]"

    def header(self) -> list[str]:
        """Return the statements that give ``pixels``, ``channels`` and the first positions."""
        printer, window, spatial = self.printer, self.window, self.spatial
        lines = [
            f"pixels = tl.program_id(0) * {self.pixels} + tl.arange(0, {self.pixels})",
            f"channels = tl.program_id(1) * {self.channels} + tl.arange(0, {self.channels})",
        ]
        rest = "pixels"
        for axis in reversed(range(len(spatial))):
            begin = (window.padding.static or ())[axis][0]
            extent = printer.dim(spatial[axis])
            step = window.strides[axis] * (self.across if axis == len(spatial) - 1 else 1)
            lines.append(f"o{axis} = ({rest} % {extent}) * {step} - {begin}")
            lines.append(f"r{axis} = {rest} // {extent}")
            rest = f"r{axis}"
        wide = printer.is_wide(self.source)
        image = f"{rest}.to(tl.int64)" if wide else rest
        terms = [f"{image} * {printer.dim(self.source.strides[0])}"]
        terms += [
            f"o{axis} * {printer.dim(stride)}"
            for axis, stride in enumerate(self.source.strides[2:])
        ]
        channel = printer.dim(self.source.strides[1])
        lines.append(f"x_pixels = {self.source.pointer} + {' + '.join(terms)}")
        lines.append(f"x_tile = x_pixels[:, None] + (channels * {channel})[None, :]")
        return lines

    def tap(self, tap: Sequence[int], rest: str = "0") -> str:
        """Return the load of one tap, `rest` where there is no element."""
        return self.place(self._places(tap), rest)

    def place(self, places: Sequence[int], rest: str = "0") -> str:
        """Return the load of what lies so far behind the first element along each axis."""
        shift = " + ".join(
            f"{place} * {self.printer.dim(stride)}"
            for place, stride in zip(places, self.source.strides[2:], strict=True)
            if place
        )
        pointer = f"x_tile + {shift}" if shift else "x_tile"
        masks = [f"({mask})[:, None]" for mask in self._conditions(places)]
        masks += [self.pixel_mask_2d] if self.pixel_mask_2d else []
        masks += [f"{self.channel_mask}[None, :]"] if self.channel_mask else []
        return load_text(pointer, masks, rest)

    def inside(self, tap: Sequence[int]) -> list[str]:
        """Return the conditions under which the tap's pixel exists, as vectors over pixels."""
        return self._conditions(self._places(tap))

    def neighbour(self, position: int) -> str:
        """Return the numbers of every tile pixel's neighbour `position`."""
        return "pixels" if self.across == 1 else f"(pixels * {self.across} + {position})"

    def _places(self, tap: Sequence[int]) -> list[int]:
        return [position * d for position, d in zip(tap, self.window.dilations, strict=True)]

    def _conditions(self, places: Sequence[int]) -> list[str]:
        found = []
        for axis, place in enumerate(places):
            begin, _ = (self.window.padding.static or ())[axis]
            if begin > place:
                found.append(f"o{axis} + {place} >= 0")
            if self._may_exceed(axis, place):
                extent = self.printer.dim(self.source.shape[2 + axis])
                found.append(f"o{axis} + {place} < {extent}")
        return found

    def _may_exceed(self, axis: int, place: int) -> bool:
        """Whether `place` elements behind some pixel's first one lies behind the data's end."""
        begin, end = (self.window.padding.static or ())[axis]
        is_last = axis == len(self.spatial) - 1
        if end <= 0:
            return False
        count, extent = self.spatial[axis], self.source.shape[2 + axis]
        if not isinstance(count, int) or not isinstance(extent, int):
            return True
        step = self.window.strides[axis] * (self.across if is_last else 1)
        return (count - 1) * step - begin + place >= extent
