from __future__ import annotations

import pytest

from planish.errors import InputError, PlanError
from planish.ir.shape import ceildiv, symbol
from planish.plan.plan import MemoryReport, Plan, TensorInfo
from planish.runtime.shapes import ShapeResolver

N, S = symbol("N"), symbol("S")


def resolver(*shapes: tuple, outputs: tuple = (), symbols: tuple = ("N", "S")) -> ShapeResolver:
    return ShapeResolver(
        Plan(
            inputs=tuple(TensorInfo(f"i{k}", "f32", shape) for k, shape in enumerate(shapes)),
            outputs=tuple(TensorInfo(f"o{k}", "f32", shape) for k, shape in enumerate(outputs)),
            symbols=symbols,
            ranges={"N": (1, 2, 8), "S": (4, 8, 64)},
            steps=(),
            memory=MemoryReport(0, 0, 0, 0),
        )
    )


def test_symbols_and_outputs():
    bound = resolver((N, 3, S), (S,), outputs=((N, ceildiv(S, 2)), (7,))).bind(((2, 3, 9), (9,)))
    assert bound.symbols == {"N": 2, "S": 9}
    assert bound.outputs == ((2, 5), (7,))


def test_a_linear_extent_is_solved():
    assert resolver((2 * N + 1,), symbols=("N",)).bind(((7,),)).symbols == {"N": 3}
    with pytest.raises(InputError, match="a value of 2\\*N"):
        resolver((2 * N + 1,), symbols=("N",)).bind(((8,),))


def test_data_dependent_outputs_are_open():
    bound = resolver((N,), outputs=((symbol("?count"), 3), (N,))).bind(((4,),))
    assert bound.outputs == (None, (4,))


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((9, 5), (5,)), "N from 1 to 8 on axis 0"),
        (((1, 3), (3,)), "S from 4 to 64"),
        (((1, 5), (6,)), r"input 'i1' has shape \[6\], expected 5 on axis 0"),
        (((1, 5, 1), (5,)), "rank 2"),
    ],
)
def test_refusals_give_the_allowed_range(shapes: tuple, message: str):
    with pytest.raises(InputError, match=message):
        resolver((N, S), (S,)).bind(shapes)


def test_a_symbol_without_a_source_is_an_error_of_the_plan():
    with pytest.raises(PlanError, match="symbol N"):
        resolver((N * S, S))
