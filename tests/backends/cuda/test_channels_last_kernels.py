"""Convolutions and reductions over channels-last data, every way to print them, interpreted."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from planish.backends.cuda.device import detect
from planish.backends.cuda.tactics.convolution import ImplicitProduct
from planish.backends.cuda.tactics.depthwise import Depthwise
from planish.backends.cuda.tactics.image_convolution import ImageConvolution
from planish.backends.cuda.tactics.spatial_reduction import SpatialReduction
from planish.backends.cuda.tactics.vector_product import RowProduct
from planish.ir.constant import Constant
from planish.ir.dtypes import F16, dtype_of
from planish.ir.layout import Layout
from planish.ops.infer import graph_from_text
from planish.ops.interpreter import run_graph
from planish.ops.tolerance import mismatch, tolerance_of
from planish.tactics.region import make_region
from planish.tactics.tactic import Config, Region, Tactic, TritonKernel
from tests.backends.cuda.interpreter import interpret

pytest.importorskip("triton")

TARGET = detect("sm_90")
LAST = Layout.channels_last(4)
TILE = {"m": 16, "n": 32, "k": 32, "warps": 4, "stages": 2}
CONV = """
    graph g(%x: f16[{n},{c},{h},{h}]{more}) {{
      @w: f16[{o},{i},{k},{k}]
      @b: f32[{o}]
      %1: f16[{n},{o},{e},{e}] = Conv(%x, @w, @b) {{{attributes}}}
      %2: f16[{n},{o},{e},{e}] = {tail}
      return %2
    }}"""
GATED = """
    graph g(%x: f16[{n},40,3,3], %g: f16[{n},40,1,1]) {{
      @w: f16[24,40,1,1]
      %1: f16[{n},40,3,3] = Mul(%g, %x)
      %2: f16[{n},24,3,3] = Conv(%1, @w) {{kernel_shape=[1,1]}}
      return %2
    }}"""
IMAGE = """
    graph g(%x: f32[2,3,{h},{w}]) {{
      @w: f16[24,3,{k},{k}]
      @b: f32[24]
      %1: f16[2,3,{h},{w}] = Cast(%x) {{to=f16}}
      %2: f16[2,24,{e},{f}] = Conv(%1, @w, @b) {{kernel_shape=[{k},{k}], pads=[{p}], strides=[2,2]}}
      return %2
    }}"""
MATMUL = """
    graph g(%x: f16[2,1,72]) {
      @w: f16[72,20]
      @b: f16[20]
      %1: f16[2,1,20] = MatMul(%x, @w)
      %2: f16[2,1,20] = Add(%1, @b)
      return %2
    }"""
REDUCTION = """
    graph g(%x: f16[{n},{c},{h},{h}]) {{
      @axes: i64[2] = [2, 3]
      %1: f16[{n},{c},{h},{h}] = Sigmoid(%x)
      %2: f16[{n},{c},1,1] = {op}(%1, @axes)
      %3: f16[{n},{c},1,1] = Neg(%2)
      return %3
    }}"""
Case = tuple[str, TritonKernel, Region, list[np.ndarray], np.ndarray]


def convolution(
    n: int, c: int, h: int, o: int, k: int, s: int, g: int = 1, residual: bool = False
) -> Region:
    """Return a convolution with "same" padding, and Relu or an addition behind it."""
    e = (h - 1) // s + 1
    more = f", %z: f16[{n},{o},{e},{e}]" if residual else ""
    tail = "Add(%1, %z)" if residual else "Relu(%1)"
    pads = f"pads=[{k // 2},{k // 2},{k // 2},{k // 2}]"
    attributes = f"kernel_shape=[{k},{k}], {pads}, strides=[{s},{s}], group={g}"
    text = CONV.format(
        n=n, c=c, h=h, o=o, i=c // g, k=k, e=e, attributes=attributes, more=more, tail=tail
    )
    return channels_last(text, "Conv")


def channels_last(text: str, kind: str, images: bool = False) -> Region:
    """Return the region of a graph whose operands of rank 4 lie channels-last; fill constants.

    With `images` the inputs lie as planes.
    """
    graph = graph_from_text(text)
    generator = np.random.default_rng(2)
    for value in graph.constants():
        if value.array.dtype.kind == "f":
            random = generator.standard_normal(value.array.shape) / 8
            value.constant = Constant(random.astype(value.array.dtype))
    names = [value.name for value in (*(() if images else graph.inputs), *graph.outputs)]
    layouts = dict.fromkeys(names, LAST) if graph.inputs[0].rank == 4 else {}
    return make_region(graph, kind, layouts)


def cases() -> Iterator[tuple[str, Tactic, Region, Config]]:
    """Yield what is interpreted."""
    shapes = {
        "pointwise": (2, 72, 3, 20, 1, 1),
        "strided": (1, 32, 7, 40, 3, 2),
        "stem": (1, 3, 7, 24, 5, 2),
        "grouped": (1, 32, 3, 48, 3, 1, 2),
    }
    for label, shape in shapes.items():
        region = convolution(*shape, residual=label == "pointwise")
        for extra in ({"split": 1, "ahead": 1}, {"split": 3}):
            yield f"{label} {extra}", ImplicitProduct(), region, {**TILE, **extra}
    for shape in ((1, 24, 14, 24, 3, 1, 24), (1, 20, 8, 20, 5, 2, 20)):
        region = convolution(*shape)
        configs = Depthwise().configs(region, TARGET)
        for across in sorted({config["across"] for config in configs}):
            same = [config for config in configs if config["across"] == across]
            config = max(same, key=lambda config: config["pixels"] * config["channels"])
            yield f"depthwise {shape} {dict(config)}", Depthwise(), region, config
    for k, pads, (h, w) in (
        (7, "3,3,3,3", (9, 10)),
        (3, "1,1,1,1", (6, 8)),
        (3, "0,0,0,0", (7, 9)),
    ):
        e, f = ((n + 2 * int(pads[0]) - k) // 2 + 1 for n in (h, w))
        text = IMAGE.format(h=h, w=w, k=k, e=e, f=f, p=pads)
        region = channels_last(text, "Conv", images=True)
        yield f"image {k} {pads}", ImageConvolution(), region, {**TILE, "split": 1}
    for batch in (1, 3):
        gated = channels_last(GATED.format(n=batch), "Conv")
        yield f"gated {batch}", ImplicitProduct(), gated, {**TILE, "split": 2}
    rows = (convolution(1, 40, 1, 24, 1, 1), convolution(3, 8, 1, 30, 1, 1, residual=True))
    for region in (*rows, channels_last(MATMUL, "MatMul")):
        for config in RowProduct().configs(region, TARGET)[:2]:
            yield f"{region.kind} of rows {dict(config)}", RowProduct(), region, config
    for op in ("ReduceMean", "ReduceMax"):
        region = channels_last(REDUCTION.format(n=2, c=24, h=7, op=op), op)
        configs = SpatialReduction().configs(region, TARGET)
        for split in (1, 4):
            config = next(config for config in configs if config["split"] == split)
            yield f"{op} {dict(config)}", SpatialReduction(), region, config


def test_interpreted_kernels_agree_with_the_reference() -> None:
    generator = np.random.default_rng(1)
    found: list[Case] = []
    for label, tactic, region, config in cases():
        support = tactic.supports(region, TARGET)
        assert support, f"{label}: {support.reason}"
        shapes = [tuple(int(str(dim)) for dim in operand.shape) for operand in region.inputs]
        arrays = [
            generator.standard_normal(shape).astype(operand.dtype.numpy)
            for shape, operand in zip(shapes, region.inputs, strict=True)
        ]
        kernel = tactic.build(region, config, TARGET)
        assert isinstance(kernel, TritonKernel)
        found.append((label, kernel, region, arrays, run_graph(region.body, arrays)[0]))
    results = interpret([(kernel, region, arrays, {}) for _, kernel, region, arrays, _ in found])
    for (label, *_, expected), result in zip(found, results, strict=True):
        assert not isinstance(result, str), f"{label}: {result}"
        assert dtype_of(np.asarray(expected)) is F16
        assert mismatch(result[0], np.asarray(expected), tolerance_of(F16)) is None, label
