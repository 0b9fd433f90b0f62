from __future__ import annotations

from planish.quantize.half_range import kept_in_float32
from tests.passes.checks import parse

GRAPH = """
    graph g(%x: f32[1,2,4,4]) {{
      @w: f32[2,2,1,1] = [{weight}, 0.5, -0.25, 0.125]
      @b: f32[2] = [{bias}, 0.0]
      %y: f32[1,2,4,4] = Conv(%x, @w, @b) {{kernel_shape=[1,1]}}
      return %y
    }}"""


def test_weights_beyond_float16_keep_their_layer_in_float32() -> None:
    precisions, lines = kept_in_float32(parse(GRAPH.format(weight="1e5", bias="1.0")), None)
    assert list(precisions.values()) == ["fp32"]
    assert "its weights reach(es) 1e+05" in lines[0]


def test_a_bias_is_float32_in_any_case_and_keeps_no_layer() -> None:
    for bias in ("1e-9", "1e6"):
        assert kept_in_float32(parse(GRAPH.format(weight="1.0", bias=bias)), None) == ({}, [])
