# mypy: ignore-errors
"""Triton functions that generated kernels call. Imported by compiler workers only."""

import triton
import triton.language as tl
from triton.language.extra import libdevice
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait


@triton.jit
def planish_begin():
    """Nothing: kernels are launched one after the other."""


@triton.jit
def planish_begin_programmatic():
    """Let the next kernel take its place."""
    gdc_launch_dependents()


@triton.jit
def planish_wait():
    """Nothing: kernels are launched after what they read is complete."""


@triton.jit
def planish_wait_programmatic():
    """Wait until the kernel before has ended."""
    gdc_wait()


@triton.jit
def planish_sigmoid(x):
    """1 / (1 + exp(-x))."""
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def planish_tanh(x):
    """Hyperbolic tangent."""
    return libdevice.tanh(x)


@triton.jit
def planish_expm1(x):
    """exp(x) - 1 without cancellation."""
    return libdevice.expm1(x)


@triton.jit
def planish_softplus(x):
    """log(1 + exp(x)) without overflow."""
    return tl.maximum(x, 0.0) + libdevice.log1p(tl.exp(-tl.abs(x)))


@triton.jit
def planish_gelu(x):
    """X times the normal distribution function at x, to 2.2e-7.

    The function's tail is Abramowitz and Stegun 7.1.26: one exponential and one division, where erf
    would take an epilogue longer than the product itself.
    """
    size = tl.abs(x)
    t = 1.0 / (1.0 + 0.3275911 * 0.7071067811865476 * size)
    series = t * (-1.453152027 + t * 1.061405429)
    series = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + series)))
    tail = 0.5 * size * series * tl.exp(-0.5 * x * x)
    return planish_max(x, 0.0) - tl.where(size < 14.0, tail, 0.0)


@triton.jit
def planish_gelu_tanh(x):
    """GELU by its approximation with tanh, that is x times a sigmoid."""
    return x / (1.0 + tl.exp(-1.5957691216057308 * (x + 0.044715 * x * x * x)))


@triton.jit
def planish_max(a, b):
    """Return the larger number, NaN when either is."""
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def planish_min(a, b):
    """Return the smaller number, NaN when either is."""
    return tl.minimum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def planish_clip(x, low, high):
    """Return x within [low, high]."""
    return planish_min(planish_max(x, low), high)


@triton.jit
def planish_sign(x):
    """-1, 0 or 1; NaN for NaN."""
    return tl.where(x > 0, 1.0, tl.where(x < 0, -1.0, x * 0.0))


@triton.jit
def planish_floormod(a, b):
    """Remainder with the sign of the divisor."""
    rest = libdevice.fmod(a, b)
    return tl.where((rest != 0) & ((rest < 0) != (b < 0)), rest + b, rest)


@triton.jit
def planish_floordiv(a, b):
    """Integer quotient rounded to zero, as C and ONNX do; b = 0 gives 0."""
    return tl.where(b == 0, 0, a // tl.where(b == 0, 1, b))


@triton.jit
def planish_mod(a, b):
    """Integer remainder with the sign of the divisor."""
    safe = tl.where(b == 0, 1, b)
    rest = a % safe
    return tl.where((rest != 0) & ((rest < 0) != (safe < 0)), rest + safe, rest)


@triton.jit
def planish_i8(x):
    """Round half to even and saturate to a signed byte."""
    return tl.minimum(tl.maximum(libdevice.rint(x), -128.0), 127.0).to(tl.int8)


@triton.jit
def planish_load(pointer, mask, other):
    """Read bytes, `other` where the mask says no.

    Triton 3.6 fills the lanes of a vector of bytes with the bits of a negative `other` as of one
    32-bit number, so that all but the first are -1.
    """
    value = tl.load(pointer, mask=mask, other=0)
    return tl.where(mask, value, other).to(value.dtype)


@triton.jit
def planish_i8_packed(x):
    """Convert each element, then saturate and pack four of them with two instructions."""
    return tl.inline_asm_elementwise(
        """{
        .reg .s32 a, b, c, d;
        .reg .b32 upper;
        cvt.rni.s32.f32 a, $1;
        cvt.rni.s32.f32 b, $2;
        cvt.rni.s32.f32 c, $3;
        cvt.rni.s32.f32 d, $4;
        cvt.pack.sat.s8.s32.b32 upper, d, c, 0;
        cvt.pack.sat.s8.s32.b32 $0, b, a, upper;
        }""",
        "=r,r,r,r,r",
        [x],
        dtype=tl.int8,
        is_pure=True,
        pack=4,
    )


@triton.jit
def planish_u8(x):
    """Round half to even and saturate to an unsigned byte."""
    return tl.minimum(tl.maximum(libdevice.rint(x), 0.0), 255.0).to(tl.uint8)


@triton.jit
def planish_u8_packed(x):
    """Do what planish_i8_packed does, for unsigned bytes."""
    return tl.inline_asm_elementwise(
        """{
        .reg .s32 a, b, c, d;
        .reg .b32 upper;
        cvt.rni.s32.f32 a, $1;
        cvt.rni.s32.f32 b, $2;
        cvt.rni.s32.f32 c, $3;
        cvt.rni.s32.f32 d, $4;
        cvt.pack.sat.u8.s32.b32 upper, d, c, 0;
        cvt.pack.sat.u8.s32.b32 $0, b, a, upper;
        }""",
        "=r,r,r,r,r",
        [x],
        dtype=tl.uint8,
        is_pure=True,
        pack=4,
    )


@triton.jit
def planish_f8(x):
    """Saturate to the range of f8e4m3 and round to its numbers, which stay float32."""
    return tl.minimum(tl.maximum(x, -448.0), 448.0).to(tl.float8e4nv).to(tl.float32)


@triton.jit
def planish_quantize(x, scale, zero, low, high):
    """saturate(round half to even(x / scale) + zero), as float32."""
    whole = libdevice.rint(x / scale) + zero
    return tl.minimum(tl.maximum(whole, low), high)


@triton.jit
def planish_clamp(i, low, high):
    """Return the whole number i within [low, high]."""
    return tl.minimum(tl.maximum(i, low), high)


@triton.jit
def planish_wrap(i, n):
    """Return the index i, which may lie outside, of a sequence of n that repeats."""
    return (i % n + n) % n


@triton.jit
def planish_reflect(i, n):
    """Return the index i, which may lie outside, of a sequence of n mirrored at both ends."""
    period = tl.maximum(2 * (n - 1), 1)
    place = planish_wrap(i, period)
    return tl.where(place < n, place, period - place)


@triton.jit
def planish_index(i, n):
    """Return an index of n elements: negative ones count from the end, others are clamped."""
    return tl.minimum(tl.maximum(tl.where(i < 0, i + n, i), 0), n - 1)


@triton.jit
def planish_cubic(d, a):
    """Return the cubic convolution kernel (Keys 1981) with coefficient a at distance d >= 0."""
    near = ((a + 2.0) * d - (a + 3.0)) * d * d + 1.0
    far = ((a * d - 5.0 * a) * d + 8.0 * a) * d - 4.0 * a
    return tl.where(d <= 1.0, near, tl.where(d < 2.0, far, 0.0))


@triton.jit
def planish_mirror(x, low, high):
    """Return the coordinate x mirrored at low and high until it lies between them."""
    span = high - low
    distance = libdevice.fmod(tl.abs(x - low), tl.zeros_like(x) + tl.maximum(2.0 * span, 1e-30))
    inside = low + tl.where(distance > span, 2.0 * span - distance, distance)
    inside = tl.where(span > 0, inside, low)
    return tl.where((x < low) | (x > high), inside, x)


@triton.jit
def planish_multiply(a, b):
    """Return a * b, for running products."""
    return a * b


@triton.jit
def planish_add(a, b):
    """Return a + b, for running sums."""
    return a + b
