"""The prelude's functions against numpy in double precision, and its bit conversions."""

from __future__ import annotations

import ctypes
import math
import tempfile
from collections.abc import Callable

import ml_dtypes
import numpy as np
import pytest

from planish.backends.cpu.codegen.compile import compile_source
from planish.backends.cpu.codegen.driver import prelude_text
from planish.backends.cpu.device import compile_flags, detect

BF16 = np.dtype(ml_dtypes.bfloat16)
Function = Callable[[np.ndarray], np.ndarray]

erf = np.vectorize(math.erf)
gelu = np.vectorize(lambda x: 0.5 * x * (1 + math.erf(x / math.sqrt(2))))

# C name: numpy in float64, range, units in the last place of the largest of |y| and `floor`
ACCURACY: dict[str, tuple[Function, tuple[float, float], float, float]] = {
    "exp": (np.exp, (-87, 88), 2.5, 0),
    "exp_nonpositive": (np.exp, (-87, 0), 2.5, 0),
    "log": (np.log, (1e-30, 1e30), 1.5, 0),
    "tanh": (np.tanh, (-12, 12), 6, 0),
    "erf": (erf, (-5, 5), 7, 0),
    "sigmoid": (lambda x: 1 / (1 + np.exp(-x)), (-30, 30), 5, 0),
    "softplus": (lambda x: np.logaddexp(0, x), (-20, 40), 6, 0),
    "expm1": (np.expm1, (-5, 5), 20, 0),
    "sin": (np.sin, (-1000, 1000), 2, 0.1),
    "cos": (np.cos, (-1000, 1000), 2, 0.1),
    "gelu": (gelu, (-6, 6), 7, 1),
    "gelu_tanh": (
        lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
        (-6, 6),
        7,
        1,
    ),
}
SPECIAL = np.array([0, np.inf, -np.inf, np.nan, 3e38, -3e38, 1e-40], np.float32)


@pytest.fixture(scope="module")
def library() -> ctypes.CDLL:
    lines = [prelude_text(), '#define EXPORT __attribute__((visibility("default")))']
    template = (
        "EXPORT void run_{0}({1} *restrict y, const {2} *restrict x, long n) "
        "{{ for (long i = 0; i < n; ++i) y[i] = planish_{0}(x[i]); }}"
    )
    lines += [template.format(name, "float", "float") for name in ACCURACY]
    for name, to, source in (
        ("to_bf16", "uint16_t", "float"),
        ("to_f16", "uint16_t", "float"),
        ("from_bf16", "float", "uint16_t"),
        ("from_f16", "float", "uint16_t"),
    ):
        lines.append(template.format(name, to, source))
    for bits in (16, 32):
        lines.append(
            f"EXPORT void transpose{bits}(const uint{bits}_t *x, long a, uint{bits}_t *y, long b, "
            f"long rows, long cols) {{ planish_transpose_u{bits}(x, a, y, b, rows, cols); }}"
        )
    lines.append(
        "EXPORT void narrow_bf16(uint16_t *y, const float *x, long n) "
        "{ planish_narrow_bf16(y, x, n); }"
    )
    lines.append(
        "EXPORT void power(float *y, const float *x, const float *e, long n) "
        "{ for (long i = 0; i < n; ++i) y[i] = planish_pow(x[i], e[i]); }"
    )
    built = compile_source("\n".join(lines), compile_flags(detect().features))
    with tempfile.NamedTemporaryFile(suffix=".so") as file:
        file.write(built)
        file.flush()
        return ctypes.CDLL(file.name)


def call(function: object, *arguments: object) -> None:
    converted = [
        ctypes.c_void_p(a.ctypes.data) if isinstance(a, np.ndarray) else ctypes.c_long(a)
        for a in arguments
    ]
    function(*converted)  # type: ignore[operator]


def apply(library: ctypes.CDLL, name: str, x: np.ndarray, to: type = np.float32) -> np.ndarray:
    y = np.empty(x.shape, to)
    call(getattr(library, f"run_{name}"), y, x, x.size)
    return y


@pytest.mark.parametrize("name", ACCURACY)
def test_function_is_accurate(library: ctypes.CDLL, name: str) -> None:
    exact, (low, high), units, floor = ACCURACY[name]
    generator = np.random.default_rng(0)
    x = generator.uniform(low, high, 20000).astype(np.float32)
    if name == "log":
        x = np.exp(generator.uniform(math.log(low), math.log(high), 20000)).astype(np.float32)
    expected = exact(x.astype(np.float64))
    scale = np.maximum(np.abs(expected), floor).astype(np.float32)
    error = np.abs(apply(library, name, x) - expected) / np.spacing(np.maximum(scale, 1e-30))
    assert error.max() <= units


@pytest.mark.parametrize("name", ["exp", "tanh", "erf", "sigmoid", "log", "softplus"])
def test_function_treats_special_values_as_numpy_does(library: ctypes.CDLL, name: str) -> None:
    exact = ACCURACY[name][0]
    with np.errstate(all="ignore"):
        expected = exact(SPECIAL.astype(np.float64)).astype(np.float32)
    np.testing.assert_allclose(apply(library, name, SPECIAL), expected, rtol=1e-6, atol=1e-37)


def test_power_follows_c(library: ctypes.CDLL) -> None:
    inf, nan = np.inf, np.nan
    x = np.array([0, 0, 0, -2, -2, -2, 1, inf, -0.0, nan, 2, inf, -inf, 9.5, 3], np.float32)
    e = np.array([0, 2, -1, 3, 2, 0.5, inf, 0.5, 3, 0, nan, -1, 3, 1.7, 200], np.float32)
    y = np.empty_like(x)
    call(library.power, y, x, e, x.size)
    with np.errstate(all="ignore"):
        np.testing.assert_allclose(y, np.power(x, e), rtol=1e-6)


def test_narrow_floats_round_to_nearest_even(library: ctypes.CDLL) -> None:
    generator = np.random.default_rng(1)
    normal = generator.standard_normal((3, 5000)) * [[1e-6], [1], [1e4]]
    x = np.concatenate([normal.reshape(-1).astype(np.float32), SPECIAL])
    with np.errstate(over="ignore"):
        half, brain = x.astype(np.float16).view(np.uint16), x.astype(BF16).view(np.uint16)
    assert (apply(library, "to_bf16", x, np.uint16) == brain).all()
    assert (apply(library, "to_f16", x, np.uint16) == half).all()
    strip = np.zeros(x.size + 16, np.float32)
    strip[: x.size] = x
    y = np.full(x.size + 1, 7, np.uint16)
    call(library.narrow_bf16, y, strip, x.size)
    tame = np.isfinite(x) & (np.abs(x) > 1e-30)
    assert (y[:-1] == x.astype(BF16).view(np.uint16))[tame].all()
    assert y[-1] == 7


def test_every_16_bit_float_widens(library: ctypes.CDLL) -> None:
    every = np.arange(65536).astype(np.uint16)
    for name, dtype in (("from_bf16", BF16), ("from_f16", np.dtype(np.float16))):
        np.testing.assert_array_equal(
            apply(library, name, every), every.view(dtype).astype(np.float32)
        )


@pytest.mark.parametrize("bits", [16, 32])
@pytest.mark.parametrize(("rows", "cols"), [(16, 16), (37, 50), (5, 3), (64, 17), (1, 40)])
def test_transposition(library: ctypes.CDLL, bits: int, rows: int, cols: int) -> None:
    dtype = np.dtype(f"uint{bits}")
    x = np.arange(rows * (cols + 2)).astype(dtype).reshape(rows, cols + 2)
    y = np.full((cols, rows + 3), 9, dtype)
    call(getattr(library, f"transpose{bits}"), x, cols + 2, y, rows + 3, rows, cols)
    np.testing.assert_array_equal(y[:, :rows], x[:, :cols].T)
    assert (y[:, rows:] == 9).all()
