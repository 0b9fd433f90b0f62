"""The first convolution of a network, from the planes of an image, which it lowers by itself.

    y[p, o] = sum over channels c, rows i, columns j of x[c, y(p) + i, x(p) + j] * w[o, c, i, j]

Few channels make no vectors, but neighbours in a row do. K runs over (c, i, j), the columns padded
with zero weights so that every window begins at an even position: with an even stride and width a
pair of columns is then inside of the image or outside as a whole, and is read as one vector.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from planish.backends.cuda.codegen.printer import indent, unprintable
from planish.backends.cuda.codegen.product_tile import masked_load, print_dot
from planish.backends.cuda.tactics.convolution import (
    Convolution,
    ConvolutionWriter,
    read_convolution,
)
from planish.ir.dtypes import I8
from planish.passes.images import MOST_CHANNELS
from planish.tactics.tactic import YES, Config, Region, Support, Tactic, TritonKernel, no
from planish.tactics.target import Target


class ImageConvolution(Tactic):
    """See the module's docstring."""

    name: ClassVar[str] = "triton_image_conv"
    device: ClassVar[str] = "cuda"
    rank: ClassVar[int] = 10

    def supports(self, region: Region, target: Target) -> Support:
        """Accept images of few channels whose rows lie together."""
        found = read_convolution(region)
        if isinstance(found, str):
            return no(found)
        operand = next(o for o in found.region.inputs if o.value is found.data)
        if found.channels > MOST_CHANNELS or found.group != 1 or found.gate is not None:
            return no("it reads no image")
        if len(operand.shape) != 4 or operand.strides[3] != 1:
            return no("rows of the image do not lie together")
        if found.element.stored.itemsize == 1:
            return no("the image is of bytes")
        if any(dilation != 1 for dilation in found.window.dilations):
            return no("it is dilated")
        reason = unprintable(found.region, found.anchor)
        return YES if reason is None else no(reason)

    def configs(self, region: Region, target: Target) -> list[Config]:
        """Return tile sizes and pipeline depths."""
        found = read_convolution(region)
        if isinstance(found, str):
            return []
        n = max(16, min(128, 1 << (found.outputs - 1).bit_length()))
        return [
            {"m": m, "n": n, "k": k, "warps": warps, "stages": stages, "split": 1}
            for k, stages in ((16, 4), (32, 3), (16, 5), (32, 4))
            for m, warps in ((64, 4), (128, 8), (128, 4), (256, 8))
        ]

    def build(self, region: Region, config: Config, target: Target) -> TritonKernel:
        """Return the kernel of one configuration."""
        found = read_convolution(region)
        if isinstance(found, str):
            raise ValueError(found)
        return _Writer(found, config).kernel()


class _Writer(ConvolutionWriter):
    """Prints one kernel."""

    def __init__(self, found: Convolution, config: Config) -> None:
        super().__init__(found, config)
        (_, _), (self.begin, _) = found.window.padding.static or ()
        width, stride = self.source.shape[3], found.window.strides[1]
        self.paired = isinstance(width, int) and width % 2 == 0 and stride % 2 == 0
        self.begin += self.begin % 2 if self.paired else 0  # where a window begins to be read
        self.height, reach = found.window.kernel
        self.shift = self.begin - (found.window.padding.static or ())[1][0]
        self.columns = 1 << (reach + self.shift - 1).bit_length()
        self.depth = found.channels * self.height * self.columns

    def coordinates(self) -> list[str]:
        """Image and first input position of each row."""
        window, printer = self.found.window, self.printer
        down, across = (printer.dim(n) for n in self.found.anchor.output.known_shape[2:])
        above = (window.padding.static or ())[0][0]
        stride = window.strides[1]
        lines = [
            f"o0 = (rows // {across} % {down}) * {window.strides[0]} - {above}",
            f"o1 = (rows % {across}) * {stride} - {self.begin}",
            f"image = rows // {across} // {down}",
        ]
        if self.paired:
            lines.append(f"half = (rows % {across}) * {stride // 2} - {self.begin // 2}")
        return lines

    def packed_weights(self) -> str:
        """Pack weights [o][channel][row][column], and K to whole vectors; return the pointer."""
        weight = self.found.weight
        reach = weight.shape[3]
        padded = np.zeros((*weight.shape[:3], self.columns), weight.dtype)
        padded[..., self.shift : self.shift + reach] = weight
        flat = padded.reshape(len(weight), -1)
        vector = 16 // self.element.multiplied.itemsize
        self.weight_depth = -(-self.depth // vector) * vector
        packed = np.zeros((len(weight), self.weight_depth), weight.dtype)
        packed[:, : self.depth] = flat
        return self.printer.pack(packed)

    def loop(self) -> list[str]:
        """Return the loop over blocks of K."""
        source, printer, element = self.source, self.printer, self.element
        row_mask, column_mask = self.tile.masks(printer)
        deep = [] if self.depth % self.k == 0 else [f"(k < {self.depth})"]
        x_mask = [f"{row_mask}[:, None]"] if row_mask else []
        x_mask += [*self._inside(), *(f"{mask}[None, :]" for mask in deep)]
        w_mask = [f"{mask}[:, None]" for mask in deep]
        w_mask += [f"{column_mask}[None, :]"] if column_mask else []
        plane, row = printer.dim(source.strides[1]), printer.dim(source.strides[2])
        inner = [
            f"k = step * {self.k} + tl.arange(0, {self.k})",
            f"j = k % {self.columns}",
            *([f"pair = k // 2 % {self.columns // 2}"] if self.paired else []),
            f"i = k // {self.columns} % {self.height}",
            f"at = k // {self.columns * self.height} * {plane} + i * {row} + j",
            masked_load("a", "x_rows[:, None] + at[None, :]", x_mask, element.padding),
            *self._trimmed(),
            *element.converted("a"),
            masked_load("b", "w_columns[None, :] + k[:, None]", w_mask, element.nothing),
            print_dot(element.multiplied),
        ]
        first, last = self.tile.steps(-(-self.depth // self.k))
        return [f"for step in range({first}, {last}):", *indent(inner)]

    def _trimmed(self) -> list[str]:
        """Return the statement that drops what only padded columns read: it may be infinite."""
        reach = self.found.window.kernel[1]
        if self.columns == reach or self.element.multiplied is I8:
            return []
        real = f"((j >= {self.shift}) & (j < {self.shift + reach}))[None, :]"
        return [f"a = tl.where({real}, a, 0)"]

    def _inside(self) -> list[str]:
        """Return the conditions under which a position of the window is in the image."""
        (above, below), (_, right) = self.found.window.padding.static or ()
        height, width = self.source.shape[2:]
        place = "(o0[:, None] + i[None, :])"
        found = [f"({place} >= 0)"] if above > 0 else []
        found += [f"({place} < {self.printer.dim(height)})"] if below > 0 else []
        place, extent = "(o1[:, None] + j[None, :])", self.printer.dim(width)
        if self.paired:
            place, extent = "(half[:, None] + pair[None, :])", str(int(str(width)) // 2)
        found += [f"({place} >= 0)"] if self.begin > 0 else []
        reach = self.found.window.kernel[1] + self.shift
        if right > 0 or self.columns > reach:
            found.append(f"({place} < {extent})")
        return found
