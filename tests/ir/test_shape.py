from __future__ import annotations

import itertools

import pytest

from planish.ir.shape import (
    Dim,
    ceildiv,
    evaluate,
    floordiv,
    mod,
    parse_dim,
    product,
    symbol,
)

N, H, W = symbol("N"), symbol("H"), symbol("W")
HALF = floordiv(H - 1, 2) + 1

EXACT = [
    (N * H, N, H),
    (N * HALF * W * 64, HALF, N * W * 64),
    ((N + 1) * (H + 2) * 3, H + 2, 3 * N + 3),
    (N * N - H * H, N - H, N + H),
    (6 * N + 4, 2, 3 * N + 2),
    (6 * N * H, 3 * N, 2 * H),
]


@pytest.mark.parametrize(("dividend", "divisor", "quotient"), EXACT)
def test_products_divide_exactly(dividend: Dim, divisor: Dim, quotient: Dim) -> None:
    assert floordiv(dividend, divisor) == quotient
    assert mod(dividend, divisor) == 0


@pytest.mark.parametrize(("a", "b"), [(N + 1, 2), (2 * N + 1, N), (N * H + 1, H), (N, H)])
def test_inexact_quotients_stay_functions(a: Dim, b: Dim) -> None:
    for n, h in itertools.product((1, 2, 5), (1, 3, 4)):
        known = {"N": n, "H": h}
        x, y = evaluate(a, known), evaluate(b, known)
        assert evaluate(floordiv(a, b), known) == x // y
        assert evaluate(mod(a, b), known) == x % y
        assert evaluate(ceildiv(a, b), known) == -(-x // y)


def test_text_reads_back() -> None:
    for dim in (N, 3 * N * H - 2, HALF * W, mod(N, 4), symbol("?y_0") + 1, product([N, N, H])):
        assert parse_dim(str(dim)) == dim
