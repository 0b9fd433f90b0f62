"""Convolutions in Winograd's domain against the numpy reference."""

from __future__ import annotations

from dataclasses import dataclass

import ml_dtypes
import numpy as np
import pytest

from planish.backends.cpu.codegen.winograd_matrices import transforms
from planish.backends.cpu.device import detect
from planish.backends.cpu.tactics.winograd import WinogradConvolution
from planish.ir.layout import Layout
from planish.ir.text import parse_text
from planish.ops.interpreter import run_graph
from planish.tactics.region import make_region
from planish.tactics.target import Target
from tests.backends.cpu.kernel_harness import Case, Library, run_case

TARGET = Target("cpu", detect().features, threads=2, l2=1 << 20)
NARROW = Target("cpu", TARGET.features - {"avx512f", "avx512_bf16"}, threads=1, l2=1 << 19)
LAYOUT = Layout((0, 2, 3, 1), ((0, 0), (0, 0), (1, 1), (1, 1)))


@dataclass(frozen=True)
class Shape:
    """One convolution: sizes, and the epilogue's text."""

    channels: int
    outputs: int
    height: int
    width: int
    pad: int = 1
    epilogue: str = ""
    batch: str = "2"


SHAPES = [
    Shape(16, 16, 8, 8),
    Shape(32, 48, 9, 7, epilogue="relu"),
    Shape(16, 20, 11, 13, pad=0),
    Shape(48, 24, 6, 17, epilogue="residual"),
    Shape(16, 16, 12, 8, epilogue="sigmoid"),
    Shape(16, 40, 14, 14, epilogue="relu", batch="N"),
]


def region_text(shape: Shape, dtype: str) -> str:
    """Return the body as text."""
    out_h, out_w = shape.height - 2 + 2 * shape.pad, shape.width - 2 + 2 * shape.pad
    result = f"{dtype}[{shape.batch},{shape.outputs},{out_h},{out_w}]"
    symbols = "symbols N=(1,2,4)\n" if shape.batch == "N" else ""
    extra = f", %r: {result}" if shape.epilogue == "residual" else ""
    after = {
        "": ("%y", ""),
        "relu": ("%z", f"  %z: {result} = Relu(%y)\n"),
        "sigmoid": ("%z", f"  %z: {result} = Sigmoid(%y)\n"),
        "residual": ("%z", f"  %s: {result} = Add(%y, %r)\n  %z: {result} = Relu(%s)\n"),
    }[shape.epilogue]
    pads = f"[{shape.pad},{shape.pad},{shape.pad},{shape.pad}]"
    return (
        f"{symbols}graph g(%x: {dtype}[{shape.batch},{shape.channels},{shape.height},{shape.width}]"
        f"{extra}) {{\n"
        f"  @w: {dtype}[{shape.outputs},{shape.channels},3,3]\n  @b: {dtype}[{shape.outputs}]\n"
        f"  %y: {result} = Conv(%x, @w, @b) {{kernel_shape=[3,3], pads={pads}}}\n"
        f"{after[1]}  return {after[0]}\n}}\n"
    )


def cases(target: Target, dtype: str) -> list[Case]:
    """Return every configuration of every shape."""
    tactic, found = WinogradConvolution(), []
    generator = np.random.default_rng(0)
    numpy_type = np.float32 if dtype == "f32" else ml_dtypes.bfloat16
    for shape in SHAPES:
        graph = parse_text(region_text(shape, dtype))
        ranges = {"N": (1, 2, 4)} if shape.batch == "N" else {}
        region = make_region(graph, "Conv", {v.name: LAYOUT for v in graph.inputs}, ranges)
        support = tactic.supports(region, target)
        assert support, support.reason
        bindings = {"N": 2}
        inputs = [
            generator.standard_normal([bindings.get(str(d), d) for d in v.shape]).astype(numpy_type)
            for v in graph.inputs
        ]
        wide = [array.astype(np.float32).astype(numpy_type) for array in inputs]
        expected = run_graph(graph, wide)
        for config in tactic.configs(region, target):
            kernel = tactic.build(region, config, target)
            label = f"{shape} {dict(config)}"
            found.append(Case(label, region, kernel, inputs, expected, bindings))
    return found


@pytest.mark.parametrize(
    ("target", "dtype"), [(TARGET, "f32"), (TARGET, "bf16"), (NARROW, "f32"), (NARROW, "bf16")],
    ids=["f32", "bf16", "avx2-f32", "avx2-bf16"],
)  # fmt: skip
def test_every_configuration_matches_the_reference(target: Target, dtype: str) -> None:
    """Results of all shapes and configurations are close to the interpreter's."""
    if not target.has("avx2", "fma"):
        pytest.skip("the CPU has no AVX2")
    prepared = cases(target, dtype)
    library = Library([case.kernel for case in prepared], target.features)
    tolerance = 2e-5 if dtype == "f32" else 3e-2
    for index, case in enumerate(prepared):
        got = run_case(library, index, case)[0].astype(np.float64)
        want = case.expected[0].astype(np.float64)
        error = np.abs(got - want).max() / np.abs(want).max()
        assert error < tolerance, f"{case.label}: {error}"


@pytest.mark.parametrize("m", [2, 4])
def test_matrices_compute_a_correlation(m: int) -> None:
    """A^T ((G g) * (B^T d)) is exactly the sliding dot product, in fractions."""
    matrices = transforms(m)
    data = [3, -1, 4, 1, -5, 9][: m + 2]
    taps = [2, 7, -1]

    def apply(matrix: tuple, vector: list) -> list:
        return [sum(a * b for a, b in zip(row, vector, strict=True)) for row in matrix]

    products = [
        a * b
        for a, b in zip(apply(matrices.filter, taps), apply(matrices.input, data), strict=True)
    ]
    want = [sum(data[i + k] * taps[k] for k in range(3)) for i in range(m)]
    assert apply(matrices.output, products) == want


def test_refusals_give_reasons() -> None:
    """What the tactic cannot do is refused in words."""
    text = region_text(SHAPES[0], "f32")
    strided = parse_text(text.replace("kernel_shape", "strides=[2,2], kernel_shape")
                         .replace("f32[2,16,8,8] = Conv", "f32[2,16,4,4] = Conv"))  # fmt: skip
    region = make_region(strided, "Conv", {"x": LAYOUT})
    assert (
        WinogradConvolution().supports(region, TARGET).reason
        == "the convolution is grouped or strided"
    )
    row_major = make_region(parse_text(text), "Conv")
    assert "innermost" in str(WinogradConvolution().supports(row_major, TARGET).reason)
