"""Which layers float16 does not suit: by their weights, by data, and by estimates without data."""

from __future__ import annotations

import numpy as np

from planish.passes.lower_precision import LowerPrecision
from planish.quantize.half_range import kept_in_float32
from planish.quantize.scheme import Ranges, TensorRange
from tests.passes.checks import parse

GRAPH = """
    graph g(%x: f32[1,2,4,4]) {{
      @w: f32[2,2,1,1] = [{weight}, 0.5, -0.25, 0.125]
      @b: f32[2] = [{bias}, 0.0]
      %y: f32[1,2,4,4] = Conv(%x, @w, @b) {{kernel_shape=[1,1]}}
      return %y
    }}"""

CHAIN = """
    graph chain(%x: f32[2,8]) {{
      @w0: f32[8,8] = [{first}]
      @w1: f32[8,8] = [{second}]
      @w2: f32[8,8] = [{third}]
      %a: f32[2,8] = MatMul(%x, @w0)
      %b: f32[2,8] = Relu(%a)
      %c: f32[2,8] = MatMul(%b, @w1)
      %d: f32[2,8] = MatMul(%c, @w2)
      return %d
    }}"""

MASKED = """
    graph masked(%q: f32[1,4,16], %k: f32[1,16,4], %v: f32[1,4,16]) {{
      @mask: f32[1,4,4] = [{mask}]
      @scale: f32[] = 0.25
      %s: f32[1,4,4] = MatMul(%q, %k)
      %t: f32[1,4,4] = Mul(%s, @scale)
      %m: f32[1,4,4] = Add(%t, @mask)
      %p: f32[1,4,4] = Softmax(%m) {{axis=-1}}
      %y: f32[1,4,16] = MatMul(%p, %v)
      return %y
    }}"""

RMS = """
    graph rms(%x: f32[2,64]) {
      @w0: f32[64,64] = [WEIGHTS]
      @scale: f32[64] = [ONES]
      @w1: f32[64,64] = [SMALL]
      %h: f32[2,64] = MatMul(%x, @w0)
      %n: f32[2,64] = RMSNormalization(%h, @scale)
      %y: f32[2,64] = MatMul(%n, @w1)
      return %y
    }"""


def numbers(array: object) -> str:
    return ", ".join(f"{number:.6g}" for number in np.asarray(array).reshape(-1))


def chain(first: float = 0.3, second: float = 0.3, third: float = 0.3) -> str:
    generator = np.random.default_rng(2)
    sizes = dict(first=first, second=second, third=third)
    return CHAIN.format(
        **{name: numbers(size * generator.standard_normal(64)) for name, size in sizes.items()}
    )


def ranges(**tensors: tuple[float, float]) -> Ranges:
    found = {
        name: TensorRange(1.0, amax=max(-low, high), minimum=low, maximum=high)
        for name, (low, high) in tensors.items()
    }
    return Ranges(found, "MinMaxCalibration")


def test_weights_beyond_float16_keep_their_layer_in_float32() -> None:
    precisions, lines = kept_in_float32(parse(GRAPH.format(weight="1e5", bias="1.0")), None)
    assert list(precisions.values()) == ["fp32"]
    assert "its weights reach 1e+05" in lines[0]


def test_a_bias_is_float32_in_any_case_and_keeps_no_layer() -> None:
    assert kept_in_float32(parse(GRAPH.format(weight="1.0", bias="1e-9")), None) == ({}, [])
    data = ranges(x=(0, 1), y=(0, 1))
    assert kept_in_float32(parse(GRAPH.format(weight="1.0", bias="1e6")), data) == ({}, [])


def test_without_data_large_products_are_estimated() -> None:
    assert kept_in_float32(parse(chain()), None) == ({}, [])
    kept, lines = kept_in_float32(parse(chain(second=1e5)), None)
    assert set(kept) == {"c", "d"}  # the one that gives c, the one that reads it
    assert all("%" not in name for name in kept)
    assert "c is estimated from the weights to reach" in lines[-1]
    assert "float16 ends at 65504" in lines[-1]


def test_without_data_a_lost_signal_is_estimated() -> None:
    kept, lines = kept_in_float32(parse(chain(second=1e-6)), None)
    assert set(kept) == {"c", "d"}
    assert "where float16 loses digits" in lines[0]


def test_data_overrule_the_estimate() -> None:
    seen = ranges(x=(-1, 1), a=(-1, 1), b=(0, 1), c=(-70000, 5), d=(-3, 3))
    kept, lines = kept_in_float32(parse(chain()), seen)
    assert set(kept) == {"c", "d"}
    assert "c reaches 7e+04" in lines[0]


def test_masks_keep_nothing_in_float32() -> None:
    for mask in ("-65504", "-1e9", "-3.4e38", "-inf"):
        text = MASKED.format(mask=", ".join(["0.0", mask] * 8))
        assert kept_in_float32(parse(text), None) == ({}, [])
        low = max(float(mask), -3.4e38)
        seen = ranges(q=(-1, 1), k=(-1, 1), v=(-1, 1), s=(-9, 9), t=(-3, 3), m=(low, 3),
                      p=(0, 1), y=(-1, 1))  # fmt: skip
        assert kept_in_float32(parse(text), seen) == ({}, [])


def test_scores_that_overflow_upwards_stay_float32() -> None:
    text = MASKED.format(mask=", ".join(["0.0"] * 16))
    seen = ranges(q=(-1, 1), k=(-1, 1), v=(-1, 1), s=(0, 4e5), t=(0, 1e5), m=(0, 1e5),
                  p=(0, 1), y=(-1, 1))  # fmt: skip
    kept, _ = kept_in_float32(parse(text), seen)
    assert set(kept) == {"s", "t", "m", "p"}


def test_a_normalization_bounds_what_follows_large_values() -> None:
    generator = np.random.default_rng(1)
    text = (
        RMS.replace("WEIGHTS", numbers(3e4 * generator.standard_normal(64 * 64)))
        .replace("ONES", numbers(np.ones(64)))
        .replace("SMALL", numbers(generator.standard_normal(64 * 64) / 8))
    )
    kept, _ = kept_in_float32(parse(text), None)
    assert set(kept) == {"h", "n"}  # what it reads is large; what it gives is not


def test_finite_masks_stay_finite_in_float16() -> None:
    graph = parse(MASKED.format(mask=", ".join(["0.0", "-1e9"] * 8)))
    LowerPrecision("fp16").run(graph)
    masks = [v.array for v in graph.constants() if v.array.shape == (1, 4, 4)]
    assert len(masks) == 1
    assert masks[0].dtype == np.float16
    assert masks[0].min() == -65504
