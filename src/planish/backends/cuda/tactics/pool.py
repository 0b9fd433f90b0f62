"""Max and average pooling over channels-last data; bound by memory."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from planish.backends.cuda.codegen.printer import Group, Printer, unprintable
from planish.backends.cuda.codegen.product_tile import print_epilogue
from planish.backends.cuda.codegen.triton_types import compute_type
from planish.backends.cuda.tactics.window import Window2D
from planish.ir.dtypes import I8, U8
from planish.ir.shape import ceildiv
from planish.ops.convolution import window_of
from planish.tactics.tactic import YES, Config, Region, Support, Tactic, TritonKernel, no
from planish.tactics.target import Target

POOLS = ("MaxPool", "AveragePool")
BYTES = (I8, U8)  # of which only maxima are taken: a mean of them is a depthwise convolution
LEAST = {I8: "-128", U8: "0"}


class Pool(Tactic):
    """MaxPool and AveragePool; see the module's docstring."""

    name: ClassVar[str] = "triton_pool"
    device: ClassVar[str] = "cuda"
    rank: ClassVar[int] = 20

    def supports(self, region: Region, target: Target) -> Support:
        """Accept static padding and one output."""
        anchor = region.anchor
        if anchor is None or region.kind not in POOLS:
            return no("it is no pooling")
        window = window_of(anchor)
        if window.padding.static is None or window.ceil_mode:
            return no("the padding is symbolic or ceil_mode is set")
        data = anchor.present_inputs[0]
        if all(operand.value is not data for operand in region.inputs):
            return no("pointwise nodes are fused before it")
        if len(anchor.outputs) > 1:
            return no("it has indices")
        if not data.dtype.is_float and data.dtype not in BYTES:
            return no(f"it is of {data.dtype}")
        reason = unprintable(region, anchor)
        return YES if reason is None else no(reason)

    def configs(self, region: Region, target: Target) -> list[Config]:
        """Return pixels by channels of a block."""
        sizes = ((16, 64, 4), (8, 64, 2), (32, 32, 4), (8, 128, 4), (4, 64, 2))
        return [{"pixels": p, "channels": c, "warps": w} for p, c, w in sizes]

    def build(self, region: Region, config: Config, target: Target) -> TritonKernel:
        """Return the kernel."""
        anchor = region.anchor
        if anchor is None:
            raise ValueError("no anchor")
        printer = Printer(region)
        source = printer.memory_of(anchor.present_inputs[0])
        shape = anchor.output.known_shape
        slide = window_of(anchor)
        window = Window2D(printer, slide, source, shape, config)
        pixels, channels = int(config["pixels"]), int(config["channels"])
        tile = f"({pixels}, {channels})"
        is_max, kind = anchor.op == "MaxPool", compute_type(source.dtype)
        rest = LEAST.get(source.dtype, 'float("-inf")') if is_max else "0"
        lines = [*window.header(), f"total = tl.full({tile}, {rest}, {kind})"]
        included = bool(anchor.attributes.get("count_include_pad", 0))
        counts: list[str] = []
        for tap in np.ndindex(*slide.kernel):
            value = f"{window.tap(tap, rest)}.to({kind})"
            combined = f"tl.maximum(total, {value})" if is_max else f"total + {value}"
            lines.append(f"total = {combined}")
            inside = window.inside(tap)
            counts.append(" & ".join(f"({text})" for text in inside) if inside else "")
        if not is_max:
            lines += _divide(counts, included)
        mask = window.channel_mask
        groups = [
            Group((0, *range(2, len(shape))), "pixels[:, None]", window.pixel_mask_2d),
            Group((1,), "channels[None, :]", None if mask is None else f"{mask}[None, :]"),
        ]
        lines += print_epilogue(printer, region, anchor.output, shape, groups)
        grid = (ceildiv(window.count, pixels), ceildiv(shape[1], channels))
        return printer.kernel(lines, grid, warps=int(config["warps"]))


def _divide(counts: list[str], included: bool) -> list[str]:
    """Return the division of the sum by the number of elements in the window."""
    if included or not any(counts):
        return [f"total = total * {1.0 / len(counts)!r}"]
    always = sum(not text for text in counts)
    terms = [f"({text}).to(tl.float32)" for text in counts if text]
    return [f"total = total / ({float(always)} + {' + '.join(terms)})[:, None]"]
