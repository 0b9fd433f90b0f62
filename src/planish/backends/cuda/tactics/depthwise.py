"""Depthwise convolutions: every channel with its own filter, on the ordinary cores.

    y[p, c] = sum over taps t of x[pixel(p, t), c] * w[t, c]

A block is a tile of pixels by channels; neighbouring taps find their pixels in the L1 cache.
Bound by memory: one read of x and one write of y at best.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from planish.backends.cuda.codegen.printer import Group, Printer, unprintable
from planish.backends.cuda.codegen.product_tile import print_epilogue
from planish.backends.cuda.tactics.convolution import Convolution, read_convolution
from planish.backends.cuda.tactics.window import Window2D
from planish.ir.shape import ceildiv
from planish.tactics.tactic import YES, Config, Region, Support, Tactic, TritonKernel, no
from planish.tactics.target import Target


class Depthwise(Tactic):
    """Convolution with one input channel a group."""

    name: ClassVar[str] = "triton_depthwise"
    device: ClassVar[str] = "cuda"
    rank: ClassVar[int] = 10

    def supports(self, region: Region, target: Target) -> Support:
        """Accept one input and one output channel a group."""
        found = read_convolution(region)
        if isinstance(found, str):
            return no(found)
        if found.channels != 1 or found.outputs != 1:
            return no("it is not depthwise")
        reason = unprintable(found.region, found.anchor)
        return YES if reason is None else no(reason)

    def configs(self, region: Region, target: Target) -> list[Config]:
        """Return pixels by channels of a block."""
        sizes = ((16, 64, 4), (8, 64, 4), (32, 32, 4), (8, 32, 2), (32, 64, 4), (4, 128, 4),
                 (16, 32, 2), (64, 32, 4))  # fmt: skip
        return [{"pixels": p, "channels": c, "warps": w} for p, c, w in sizes]

    def build(self, region: Region, config: Config, target: Target) -> TritonKernel:
        """Return the kernel."""
        found = read_convolution(region)
        if isinstance(found, str):
            raise ValueError(found)
        printer, element = Printer(found.region), found.element
        source = printer.memory_of(found.data)
        shape = found.anchor.output.known_shape
        window = Window2D(printer, found.window, source, shape, config)
        weights = printer.pack(_packed(found))
        pixels, channels = int(config["pixels"]), int(config["channels"])
        lines = [*window.header(), f"total = tl.zeros(({pixels}, {channels}), {element.sums})"]
        mask = window.channel_mask
        for number, tap in enumerate(np.ndindex(*found.window.kernel)):
            rest = "" if mask is None else f", mask={mask}[None, :], other=0"
            weight = f"tl.load({weights} + {number * found.group} + channels[None, :]{rest})"
            pointer, present = window.tap(tap, element.padding)
            lines += [f"x = tl.load({pointer}{present})", *element.converted("x")]
            lines.append(f"total += x.to({element.sums}) * {weight}.to({element.sums})")
        groups = [
            Group((0, *range(2, len(shape))), "pixels[:, None]", window.pixel_mask_2d),
            Group((1,), "channels[None, :]", None if mask is None else f"{mask}[None, :]"),
        ]
        lines += element.settled(printer, found.weight, shape, groups)
        lines += print_epilogue(printer, found.region, found.anchor.output, shape, groups)
        grid = (ceildiv(window.count, pixels), ceildiv(found.group, channels))
        return printer.kernel(lines, grid, warps=int(config["warps"]))


def _packed(found: Convolution) -> np.ndarray:
    """Return the filters as [tap][channel]."""
    return np.ascontiguousarray(found.weight.reshape(found.group, -1).T)
