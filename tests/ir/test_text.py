from __future__ import annotations

import numpy as np
import pytest

import planish.ops  # noqa: F401 (registers the operators' attributes)
from planish.errors import GraphError
from planish.ir.graph import Graph, Node, Value
from planish.ir.text import node_text, parse_text, to_text

PLAIN = """\
symbols N=(1, 4, 32)
graph block(%x: f32[N,64,56,56] as "input:0") {
  @w: f32[64,64,3,3]
  @b: f32[2] = [1.0, -0.5]
  %1: f32[N,64,56,56] nhwc+0:0,0:0,1:1,1:1 = Custom(%x, @w, _, @b) {pads=[1,1,1,1], mode="same"}  # layer1.0.conv1
  %2: f32[N,64,56,56], %3: i64? = Other(%1)  # a + b
  %"a b": f32[2*N-1,floordiv(N, 2)] = Third(%2, %3)
  return %"a b", %2 as "result"
}
"""  # noqa: E501

NESTED = """\
graph main(%x: f32[4,8], %c: bool[]) {
  @shared: f32[] = [2.0]
  %1: f32[4,8] = Region(%x) {kind="pointwise", body=graph region(%x: f32[4,8]) {
    @local: f32[1] = [0.1]
    %1: f32[4,8] = Custom(%x, @local, @shared)  # mul
    return %1
  }}  # mul + add
  %2: f32[4,8] = Choice(%c) {yes=graph yes() {
    %t: f32[4,8] = Custom(%1, @shared)
    return %t
  }, no=graph no() {
    return %1
  }}
  return %2
}
"""

STORED = """\
graph main(%x: f32[4,8]) {
  %a: f32[4,4] at %y[0; 8,1] = Custom(%x)
  %y: f32[4,8] = Custom(%a)
  return %y
}
"""


@pytest.mark.parametrize("text", [PLAIN, NESTED, STORED])
def test_text_round_trips(text: str) -> None:
    assert to_text(parse_text(text)) == text


def test_attribute_kinds_round_trip() -> None:
    attributes = (
        'i=3, f=2.5, g=1e-05, s="a\\"b", raw=b"00ff", empty=[], strings=["a","b"], absent=none, '
        "to=bf16, table=f32[2] = [nan, -inf], big=i64[20], nested=[[1,2],[3]]"
    )
    text = f"graph g() {{\n  Custom() {{{attributes}}}\n  return\n}}\n"
    graph = parse_text(text)
    assert to_text(graph) == text
    node = next(iter(graph))
    assert node.attributes["s"] == 'a"b'
    assert node.attributes["raw"] == b"\x00\xff"
    assert node.attributes["nested"] == ((1, 2), (3,))
    assert np.isneginf(node.attributes["table"][1])


@pytest.mark.parametrize(
    ("dtype", "numbers"),
    [
        ("f32", "0.1, 3.4e+38"), ("f16", "0.1, -2.0"), ("bf16", "0.5, 1.0"), ("i4", "-8, 7"),
        ("u64", "18446744073709551615, 0"), ("i64", "-9223372036854775808, 1"), ("bool", "1, 0"),
        ("f8e4m3", "448.0, -0.5"), ("string", '"a", "b,c"'),
    ],
)  # fmt: skip
def test_small_constants_keep_their_contents(dtype: str, numbers: str) -> None:
    text = f"graph g() {{\n  @c: {dtype}[2] = [{numbers}]\n  return @c\n}}\n"
    assert to_text(parse_text(text)) == text


def test_elided_constants_depend_on_label_and_type_only() -> None:
    text = "graph g() {\n  @a: f32[3,4]\n  @b: f32[3,4]\n  return @a, @b\n}\n"
    first, second = parse_text(text), parse_text(text)
    assert np.array_equal(first.outputs[0].array, second.outputs[0].array)
    assert not np.array_equal(first.outputs[0].array, first.outputs[1].array)
    given = np.ones((3, 4), np.float32)
    assert parse_text(text, {"a": given}).outputs[0].array is given
    with pytest.raises(GraphError, match="given array"):
        parse_text(text, {"a": np.ones((4, 3), np.float32)})


def test_a_single_number_fills_a_constant() -> None:
    graph = parse_text("graph g() { @a: f32[20] = 0.5 return @a }")
    assert graph.outputs[0].array.tolist() == [0.5] * 20


def test_defaults_are_elided_and_restored() -> None:
    text = (
        'graph g(%x: f32[2]) {\n  %y: f32[2] = Region(%x) {kind="pointwise", body=graph b(%x: f32['
        "2]) {\n    return %x\n  }}\n  return %y\n}\n"
    )
    assert to_text(parse_text(text)) == text
    with pytest.raises(GraphError, match=r"needs the attribute\(s\) body"):
        parse_text('graph g() { Region() {kind="a"} return }')
    with pytest.raises(GraphError, match="no attribute color; known: kind, body"):
        parse_text('graph g() { Region() {color="a"} return }')


def test_equal_labels_of_different_values_are_made_unique() -> None:
    graph = Graph("g")
    x = graph.add_input("x", parse_text("graph g(%x: f32[2]) { return %x }").inputs[0].dtype, (2,))
    first, second = Value("v", x.dtype, (2,)), Value("v", x.dtype, (2,))
    graph.append(Node("Custom", [x], [first]))
    graph.append(Node("Custom", [first], [second]))
    graph.add_output(second)
    text = to_text(graph)
    assert "%v_2: f32[2] = Custom(%v)" in text
    assert to_text(parse_text(text)) == text


def test_fresh_names_avoid_parsed_ones() -> None:
    graph = parse_text("graph g(%x.7: f32[1]) { return %x.7 }")
    assert graph.fresh_name("x") == "x.8"


def test_a_region_sees_constants_only() -> None:
    with pytest.raises(GraphError, match="%x is not defined before its use"):
        parse_text('graph g(%x: f32[1]) { %y = Region() {kind="a", body=graph b() { return %x }} }')


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("graph g(%x: f33[1]) {", "line 1, column 13"),
        ("graph g() {\n  %y = Custom(%x)\n", "line 2, column 15"),
        ("graph g(%x: f32[1]) {\n  %x = Custom()\n", "line 2, column 4"),
        ("graph g(%x: f32[a b]) {", "line 1, column 17"),
        ("graph g(%x: f32[2] nhwc) {", "line 1, column 24"),
        ("graph g() {\n  @c: f32[2] = [1.0, 2.0, 3.0]\n", "line 2, column 5"),
        ("graph g() { return } x", "line 1, column 22"),
        ("graph g() { @c: f32[N] return }", "line 1, column 15"),
        ("graph g() {", "line 1, column 12"),
        ("", "line 1, column 1"),
    ],
)
def test_errors_have_line_and_column(text: str, where: str) -> None:
    with pytest.raises(GraphError) as error:
        parse_text(text)
    assert where in str(error.value)


def test_node_text_is_one_line() -> None:
    node = next(iter(parse_text(NESTED)))
    assert node_text(node) == '%1: f32[4,8] = Region(%x) {kind="pointwise", body=graph region}'
