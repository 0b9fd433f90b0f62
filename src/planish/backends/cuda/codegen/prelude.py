# mypy: ignore-errors
"""Triton functions that generated kernels call. Imported by compiler workers only."""

import triton
import triton.language as tl
from triton.language.extra import libdevice
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait


@triton.jit
def planish_begin():
    """Nothing: kernels are launched after what they read is complete."""


@triton.jit
def planish_begin_programmatic():
    """Let the next kernel take its place, and wait until the one before has ended."""
    gdc_launch_dependents()
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
    """X times the normal distribution function at x."""
    return 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))


@triton.jit
def planish_gelu_tanh(x):
    """GELU by its approximation with tanh."""
    return 0.5 * x * (1.0 + libdevice.tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)))


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
def planish_quantize(x, scale, zero, low, high):
    """saturate(round half to even(x / scale) + zero), as float32."""
    whole = libdevice.rint(x / scale) + zero
    return tl.minimum(tl.maximum(whole, low), high)
