from __future__ import annotations

import re

from planish.ir.graph import Graph
from planish.ir.layout import Layout
from planish.passes.fuse_regions import FuseRegions
from planish.tactics.region import body_lines, make_region, region_key, region_name, regions_of
from planish.tactics.tactic import Region
from planish.tactics.target import Target
from tests.passes.checks import parse

TARGET = Target("cpu", frozenset({"avx2", "fma"}))
BODY = """
    graph conv(%x: f32[N,4,8,8]) {
      @w: f32[4,4,3,3]
      @s: f32[] = [0.5]
      %1: f32[N,4,8,8] = Conv(%x, @w) {kernel_shape=[3,3], pads=[1,1,1,1]}
      %2: f32[N,4,8,8] = Mul(%1, @s)
      return %2
    }"""
RANGES = {"N": (1, 1, 8)}


def region(text: str = BODY, **layouts: Layout) -> Region:
    return make_region(parse(text), "Conv", layouts, RANGES)


def key(made: Region) -> str:
    return region_key(made, TARGET)


def test_operands_follow_the_layout() -> None:
    made = region(x=Layout((0, 2, 3, 1), ((0, 0), (0, 0), (1, 1), (1, 1))))
    assert made.inputs[0].strides == (400, 1, 40, 4)
    assert made.inputs[0].halo == ((0, 0), (0, 0), (1, 1), (1, 1))
    assert made.outputs[0].strides == (256, 64, 8, 1)
    assert made.symbols == ("N",)
    assert made.kind == "Conv"
    assert made.anchor is not None
    assert made.anchor.op == "Conv"


def test_keys_do_not_depend_on_names_or_weights() -> None:
    renamed = BODY.replace("%x", "%input").replace("%1", "%hidden").replace("@w", "@kernel")
    assert key(region(renamed)) == key(region())
    other = region()
    weight = other.body.constants()[0]
    assert weight.constant is not None
    weight.constant = type(weight.constant)(weight.array * 2 + 1)
    assert key(other) == key(region())


def test_keys_depend_on_everything_declared() -> None:
    keys = {
        key(region()),
        key(region(BODY.replace("0.5", "0.25"))),  # a literal in generated code
        key(region(BODY.replace("Mul", "Add"))),
        key(region(BODY.replace("f32", "bf16"))),
        key(region(x=Layout.channels_last(4))),
        key(region(x=Layout((0, 2, 3, 1), ((0, 0), (0, 0), (1, 1), (1, 1))))),
        key(make_region(parse(BODY), "Conv", {}, {"N": (1, 4, 8)})),
        region_key(region(), Target("cpu", frozenset({"avx512f"}))),
        region_key(region(), Target("cpu", frozenset({"avx2", "fma"}), threads=2)),
    }
    assert len(keys) == 9


def test_body_lines_name_values_by_position() -> None:
    assert body_lines(region().body)[0] == "i0: f32[N,4,8,8]"
    assert body_lines(region().body)[-1] == "return v2"


def test_names_are_identifiers_made_from_layers() -> None:
    graph = parse("""
        graph g(%x: f32[1,4,8,8]) {
          @w: f32[4,4,1,1]
          %1: f32[1,4,8,8] = Conv(%x, @w) {kernel_shape=[1,1]}  # /layer1/layer1.0/conv1/Conv
          %2: f32[1,4,8,8] = Relu(%1)  # /layer1/layer1.0/relu/Relu
          return %2
        }""")
    FuseRegions().run(graph)
    name = region_name(regions_of(graph)[0])
    assert name == "conv_layer1_layer1_0_conv1_conv_relu_relu"
    assert re.fullmatch(r"[a-z]\w*", name)


def test_long_names_are_cut() -> None:
    graph: Graph = parse(BODY)
    for node in graph:
        node.source = type(node.source)("onnx", ("layer/" * 40,))
    assert len(make_region(graph, "Conv", {}, RANGES).name) <= 56


def test_regions_that_only_compute_shapes_are_left_out() -> None:
    graph = parse("""
        symbols N=(1, 2, 3)
        graph g(%x: f32[N,6]) {
          %s: i64[2] = Shape(%x) {end=2, start=0}
          %t: i64[2] = Add(%s, %s)
          %u: i64[2] = Sub(%t, %s)
          %y: f32[N,6] = Reshape(%x, %u)
          %z: f32[N,6] = Neg(%y)
          return %z
        }""")
    FuseRegions().run(graph)
    assert [node.outputs[0].dtype.name for node in regions_of(graph)] == ["f32"]
