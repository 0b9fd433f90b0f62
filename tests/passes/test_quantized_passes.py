"""Integers flow between the regions of a quantized graph; the results are those of the model."""

from __future__ import annotations

import pytest

from planish.config import BuildConfig
from planish.ir.dtypes import BF16, F32, I8
from planish.ir.graph import Graph, Node
from planish.ir.verify import verify
from planish.ops.interpreter import run_graph
from planish.passes.graph_pass import run_pipeline
from planish.passes.pipeline import optimize, simplify
from planish.passes.quantized import is_quantized_product, keeps_weight, product_reason
from planish.passes.raise_pads import RaisePads
from planish.passes.settle_quantized import SettleQuantized
from tests.passes.checks import assert_equal_results, parse, random_inputs

CONSTANTS = """
      @s: f32[] = [0.05]
      @z: i8[] = [0]
      @k: f32[4] = [0.01, 0.02, 0.01, 0.03]
      @w: i8[4,4,3,3]
      @v: i8[4,4,3,3]"""
WEIGHTS = """
      %dw = DequantizeLinear(@w, @k) {axis=0}
      %dv = DequantizeLinear(@v, @k) {axis=0}"""


def quantized(name: str, source: str) -> str:
    """Return lines that make %name_d, dequantized, of %source."""
    return f"""
      %{name}_q = QuantizeLinear(%{source}, @s, @z)
      %{name}_d = DequantizeLinear(%{name}_q, @s, @z)"""


def block(body: str, result: str, inputs: str = "%x: f32[1,4,6,6]") -> Graph:
    """Return a graph that reads %x_d, dequantized."""
    text = f"graph block({inputs}) {{{CONSTANTS}{WEIGHTS}{quantized('x', 'x')}{body}\n"
    return parse(f"{text}      return {result}\n    }}")


def regions(graph: Graph) -> list[tuple[str, list[str]]]:
    """Return kind and operators of every region, but for dequantizing and for copies."""
    found = []
    for node in graph:
        if node.op == "Region":
            ops = [inner.op for inner in node.body if inner.op != "DequantizeLinear"]
            found.append((node.attributes["kind"], ops))
    return [region for region in found if region[1] != ["Identity"]]


def fused(graph: Graph, precision: str = "fp32") -> Graph:
    """Run all passes and check that the results are the same."""
    inputs = random_inputs(graph)
    expected = run_graph(graph, inputs)
    optimize(graph, BuildConfig(precision=precision))
    if precision == "fp32":
        assert_equal_results(expected, graph, inputs)
    return graph


def test_a_residual_block_is_two_regions_of_integers() -> None:
    body = f"""
      %a = Conv(%x_d, %dw) {{pads=[1,1,1,1]}}
      %b = Relu(%a){quantized("b", "b")}
      %c = Conv(%b_d, %dv) {{pads=[1,1,1,1]}}
      %d = Add(%c, %x_d)
      %e = Relu(%d){quantized("e", "e")}"""
    graph = fused(block(body, "%e_q"))
    assert regions(graph)[1:] == [
        ("Conv", ["Conv", "Relu", "QuantizeLinear"]),
        ("Conv", ["Conv", "Add", "Relu", "QuantizeLinear"]),
    ]
    for node in graph:
        for value in node.present_inputs:
            assert value.dtype is I8 or value in graph.inputs


def test_the_later_of_two_added_products_reads_the_other_as_integers() -> None:
    body = f"""
      %a = Conv(%x_d, %dw) {{pads=[1,1,1,1]}}{quantized("a", "a")}
      %b = Conv(%x_d, %dv) {{pads=[1,1,1,1]}}{quantized("b", "b")}
      %c = Add(%a_d, %b_d){quantized("c", "c")}"""
    graph = fused(block(body, "%c_q"))
    (_, first), (_, second) = regions(graph)[1:]
    assert first == ["Conv", "QuantizeLinear"]
    assert second == ["Conv", "QuantizeLinear", "Add", "QuantizeLinear"]


def test_a_padded_shortcut_is_computed_before_the_sum() -> None:
    body = f"""
      @p: i64[8] = [0,0,1,1,0,0,1,1]
      %a = Conv(%x_d, %dw) {{pads=[2,2,2,2]}}
      %b = Pad(%x_d, @p)
      %c = Add(%a, %b){quantized("c", "c")}"""
    graph = fused(block(body, "%c_q"))
    assert regions(graph)[1:] == [
        ("Pad", ["Pad"]),
        ("Conv", ["Conv", "Add", "QuantizeLinear"]),
    ]


def test_pads_rise_only_for_sums() -> None:
    graph = parse("""
    graph pads(%x: f32[1,4,4,4]) {
      @w: f32[4,4,3,3]
      @p: i64[8] = [0,0,1,1,0,0,1,1]
      %y = Relu(%x)
      %a = Conv(%y, @w) {pads=[2,2,2,2]}
      %b = Pad(%y, @p)
      %c = Add(%a, %b)
      %d = Pad(%y, @p)
      return %c, %d
    }""")
    graph_pass = RaisePads()
    assert graph_pass.run(graph)
    assert [node.output.name for node in graph] == ["y", "b", "a", "c", "d"]
    assert not graph_pass.run(graph)
    verify(graph)


def test_weights_of_a_product_of_floats_are_folded() -> None:
    body = """
      %a = Conv(%x_d, %dw)
      %b = Conv(%x, %dw)"""
    graph = fused(block(body, "%a, %b"))
    anchors = [node for r in graph if r.op == "Region" for node in r.body if node.op == "Conv"]
    assert [is_quantized_product(node) for node in anchors] == [True, False]
    assert anchors[1].present_inputs[1].is_constant


def test_every_reader_dequantizes_itself() -> None:
    graph = block("\n      %a = Relu(%x_d)\n      %b = Sigmoid(%x_d)", "%a, %b")
    run_pipeline(graph, [simplify(), SettleQuantized()])
    readers = [node for node in graph if node.op in ("Relu", "Sigmoid")]
    assert len({node.inputs[0] for node in readers}) == 2
    assert not SettleQuantized().run(graph)


REFUSED = {
    "per_row_data": ("DequantizeLinear(%x, @r) {axis=0}", "DequantizeLinear(@w, @s)", "more than"),
    "wide_data": ("DequantizeLinear(%h, @s)", "DequantizeLinear(@w, @s)", "i16"),
    "float_data": ("Cast(%x) {to=f32}", "DequantizeLinear(@w, @s)", "do not come from"),
    "scales_of_rows": ("DequantizeLinear(%x, @s)", "DequantizeLinear(@w, @r) {axis=0}", "another"),
    "blocks": (
        "DequantizeLinear(%x, @s)", "DequantizeLinear(@w, @m) {axis=0,block_size=2}", "block",
    ),
    "computed": ("DequantizeLinear(%x, @s)", "DequantizeLinear(%y, @s)", "not constant"),
}  # fmt: skip


@pytest.mark.parametrize(("data", "weights", "words"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_product_of_integers_says_why(data: str, weights: str, words: str) -> None:
    graph = parse(f"""
    graph refused(%x: i8[4,4], %y: i8[4,4], %h: i16[4,4]) {{
      @s: f32[] = [0.05]
      @r: f32[4] = [0.1, 0.2, 0.3, 0.4]
      @m: f32[2,4] = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]
      @w: i8[4,4]
      %a = {data}
      %b = {weights}
      %c = MatMul(%a, %b)
      return %c
    }}""")
    (product,) = [node for node in graph if node.op == "MatMul"]
    assert words in (product_reason(product) or "")


def test_weights_are_kept_for_data_that_are_moved() -> None:
    graph = block("\n      %a = Transpose(%x_d) {perm=[0,1,3,2]}\n      %b = Conv(%a, %dw)", "%b")
    (weight,) = [node for node in graph if node.output.name == "dw"]
    assert keeps_weight(weight)
    (other,) = [node for node in graph if node.output.name == "dv"]
    assert not keeps_weight(other)


def test_floats_between_regions_of_integers_are_stored_as_bf16() -> None:
    graph = parse("""
    graph stream(%x: f32[8,16], %r: f32[8,16]) {
      @s: f32[] = [0.05]
      @w: i8[16,16]
      @g: f32[16]
      @h: f32[16,16]
      %q = QuantizeLinear(%x, @s)
      %xd = DequantizeLinear(%q, @s)
      %wd = DequantizeLinear(@w, @s)
      %r0 = MatMul(%r, @h)
      %a = MatMul(%xd, %wd)
      %b = Add(%a, %r0)
      %c = LayerNormalization(%b, @g)
      %q1 = QuantizeLinear(%c, @s)
      %cd = DequantizeLinear(%q1, @s)
      %d = MatMul(%cd, %wd)
      %e = Add(%d, %b)
      %f = MatMul(%e, @h)
      return %f
    }""")
    fused(graph, "bf16")
    found = [node for node in graph if node.op == "Region"]
    stored = {value.dtype for node in found[1:] for value in node.present_inputs}
    assert F32 not in {v.dtype for n in found[2:] for v in n.present_inputs if v.producer}
    assert BF16 in stored
    kinds = {node.attributes["kind"]: node for node in found}
    assert [inner.op for inner in kinds["LayerNormalization"].body] == [
        "Cast", "LayerNormalization", "QuantizeLinear",
    ]  # fmt: skip
    for product in _products(found):
        assert all(value.dtype is not BF16 for value in product.present_inputs)


def _products(found: list[Node]) -> list[Node]:
    return [node for region in found for node in region.body if is_quantized_product(node)]
