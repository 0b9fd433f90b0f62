"""Depthwise convolutions: every channel with its own filter, on the ordinary cores.

    y[p, c] = sum over taps t of x[pixel(p, t), c] * w[t, c]

A block is a tile of pixels by channels; rows of taps find their pixels in the L1 cache. A thread
computes `across` neighbouring results, so that it reads and converts each element once for all taps
of a row. Bound by memory at best, one read of x and one write of y; by arithmetic for 25 taps.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from planish.backends.cuda.codegen.printer import Group, Printer, unprintable
from planish.backends.cuda.codegen.product_tile import print_epilogue
from planish.backends.cuda.tactics.convolution import Convolution, read_convolution
from planish.backends.cuda.tactics.window import Window2D
from planish.ir.shape import ceildiv, product
from planish.tactics.tactic import YES, Config, Region, Support, Tactic, TritonKernel, no
from planish.tactics.target import Target

SIZES = ((16, 64, 4), (8, 64, 4), (32, 32, 4), (8, 32, 2), (4, 128, 4), (16, 32, 2), (8, 32, 1),
         (64, 16, 4), (32, 16, 2))  # fmt: skip


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
        if found.channels != 1 or found.outputs != 1 or found.gate is not None:
            return no("it is not depthwise")
        reason = unprintable(found.region, found.anchor)
        return YES if reason is None else no(reason)

    def configs(self, region: Region, target: Target) -> list[Config]:
        """Return pixels by channels of a block, and how many results a thread computes."""
        found = read_convolution(region)
        if isinstance(found, str):
            return []
        width = found.anchor.output.known_shape[-1]
        across = [n for n in (4, 7, 2) if isinstance(width, int) and width % n == 0]
        configs = [
            {"pixels": p, "channels": c, "warps": w, "across": n}
            for p, c, w in SIZES
            for n in (*across[:2], 1)
        ]
        return sorted(configs, key=lambda config: _cost(found, config, target))

    def build(self, region: Region, config: Config, target: Target) -> TritonKernel:
        """Return the kernel."""
        found = read_convolution(region)
        if isinstance(found, str):
            raise ValueError(found)
        return _Writer(found, config).kernel()


class _Writer:
    """Prints one depthwise kernel."""

    def __init__(self, found: Convolution, config: Config) -> None:
        self.found, self.config, self.element = found, config, found.element
        self.printer = Printer(found.region)
        self.shape = found.anchor.output.known_shape
        source = self.printer.memory_of(found.data)
        self.window = Window2D(self.printer, found.window, source, self.shape, config)
        self.weights = self.printer.pack(_packed(found))

    def kernel(self) -> TritonKernel:
        """Return the kernel."""
        window, printer, shape = self.window, self.printer, self.shape
        early = window.header()
        tile = f"({window.pixels}, {window.channels})"
        lines = [f"total{n} = tl.zeros({tile}, {self.element.sums})" for n in range(window.across)]
        for row in np.ndindex(*self.found.window.kernel[:-1]):
            lines += self._row(row)
        mask = window.channel_mask
        channels = Group((1,), "channels[None, :]", None if mask is None else f"{mask}[None, :]")
        for position in range(window.across):
            pixels = f"{window.neighbour(position)}[:, None]"
            groups = [Group((0, *range(2, len(shape))), pixels, window.pixel_mask_2d), channels]
            lines.append(f"total = total{position}")
            lines += self.element.settled(printer, self.found.weight, shape, groups)
            lines += print_epilogue(
                printer, self.found.region, self.found.anchor.output, shape, groups
            )
        grid = (ceildiv(window.count, window.pixels), ceildiv(self.found.group, window.channels))
        return printer.kernel(lines, grid, warps=int(self.config["warps"]), early=early)

    def _row(self, row: tuple[int, ...]) -> list[str]:
        """Return the sums over the taps of one row of the filter, with all that they share."""
        slide, window, element = self.found.window, self.window, self.element
        width, stride, dilation = slide.kernel[-1], slide.strides[-1], slide.dilations[-1]
        mask = window.channel_mask
        rest = "" if mask is None else f", mask={mask}[None, :], other=0"
        lines = []
        for tap in range(width):
            number = int(np.ravel_multi_index((*row, tap), slide.kernel)) * self.found.group
            pointer = f"{self.weights} + {number} + channels[None, :]"
            lines.append(f"w{tap}_ = tl.load({pointer}{rest}).to({element.sums})")
        above = [tap * d for tap, d in zip(row, slide.dilations[:-1], strict=True)]
        uses: dict[int, list[str]] = {}
        for position, tap in np.ndindex(window.across, width):
            sums = f"total{position} += x * w{tap}_"
            uses.setdefault(position * stride + tap * dilation, []).append(sums)
        for place in sorted(uses):
            load = window.place([*above, place], element.padding)
            lines += [f"x = {load}", *element.converted("x")]
            lines += [f"x = x.to({element.sums})", *uses[place]]
        return lines


def _cost(found: Convolution, config: Config, target: Target) -> float:
    """Return about how many cycles a configuration takes: full rounds of all threads."""
    printer = Printer(found.region)
    shape = found.anchor.output.known_shape
    across, warps = int(config["across"]), int(config["warps"])
    pixels = printer.tune_size(shape[0] * product(shape[2:])) // across
    blocks = -(-pixels // int(config["pixels"])) * -(-found.group // int(config["channels"]))
    resident = target.multiprocessors * (32 // warps)  # half of the threads that would fit
    results = int(config["pixels"]) * int(config["channels"]) // (32 * warps) * across
    kernel, strides = found.window.kernel, found.window.strides
    taps = int(np.prod(kernel))
    reads = taps // kernel[-1] * ((across - 1) * strides[-1] + kernel[-1]) / across
    return max(1.0, blocks / resident) * (500.0 + results * (taps + 1.5 * reads))


def _packed(found: Convolution) -> np.ndarray:
    """Return the filters as [tap][channel]."""
    return np.ascontiguousarray(found.weight.reshape(found.group, -1).T)
