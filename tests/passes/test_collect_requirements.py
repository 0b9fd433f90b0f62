"""What a model needs of its extents: collected, solved where that is plain, checked at run time."""

from __future__ import annotations

import pytest

from planish.errors import ConfigError, GraphError, ShapeError
from planish.ir.graph import Graph
from planish.passes.collect_requirements import CollectRequirements
from planish.passes.settle_extents import SettleExtents
from tests.passes.checks import parse

RANGE = (1, 2, 8)


def collected(text: str, **ranges: tuple[int, int, int]) -> Graph:
    graph = parse(text)
    graph.ranges = ranges
    CollectRequirements().run(graph)
    return graph


def texts(graph: Graph) -> list[str]:
    return [str(requirement) for requirement in graph.requirements]


def one(operands: str, call: str, constants: str = "") -> str:
    return f"graph g({operands}) {{\n{constants}%y = {call}\nreturn %y\n}}"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (one("%x: f32[N,4], %z: f32[M,4]", "Add(%x, %z)"), ["M == N"]),
        (one("%x: f32[N,4], %z: f32[1,4]", "Add(%x, %z)"), []),
        (one("%x: f32[4,N], %z: f32[M,4]", "MatMul(%x, %z)"), ["N == M"]),
        (one("%x: f32[N,4], %z: f32[M,4]", "Concat(%x, %z) {axis=1}"), ["M == N"]),
        (one("%x: f32[N,4], %z: f32[M,4]", "Concat(%x, %z) {axis=0}"), []),
        (one("%x: f32[N,6]", "Reshape(%x, @s)", "@s: i64[2] = [4, -1]\n"),
         ["6*N == 4*floordiv(6*N, 4)"]),
        (one("%x: f32[N,6]", "Reshape(%x, @s)", "@s: i64[2] = [-1, 3]\n"), []),
        (one("%x: f32[2,N]", "TopK(%x, @k)", "@k: i64[1] = [5]\n").replace("%y =", "%y, %i ="),
         ["5 <= N"]),
        (one("%x: f32[N,4], %i: i64[M,4]", "GatherElements(%x, %i) {axis=1}"), ["M <= N"]),
        (one("%x: f32[1,2,N,N], %w: f32[3,2,3,3]", "Conv(%x, %w)"), ["0 <= N-2"]),
    ],
)  # fmt: skip
def test_operators_say_what_they_need(text: str, wanted: list[str]) -> None:
    assert texts(collected(text, N=RANGE, M=RANGE)) == wanted


def test_ranges_settle_what_needs_no_check() -> None:
    text = one("%x: f32[1,2,N,N], %w: f32[3,2,3,3]", "Conv(%x, %w)")
    assert texts(collected(text, N=(3, 4, 9))) == []


def test_what_can_never_be_met_is_an_error() -> None:
    text = one("%x: f32[N]", "TopK(%x, @k)", "@k: i64[1] = [9]\n").replace("%y =", "%y, %i =")
    with pytest.raises(ConfigError, match=r"TopK needs 9 <= N, which is never true for N in 1..8"):
        collected(text, N=RANGE)


def test_numbers_that_do_not_fit_are_an_error() -> None:
    with pytest.raises(ShapeError, match="5 <= 4 is not true"):
        parse(one("%x: f32[4,4], %i: i64[5,2]", "GatherElements(%x, %i) {axis=1}"))


def test_equal_symbols_become_one() -> None:
    graph = collected(one("%x: f32[N,4], %z: f32[M,4]", "Add(%x, %z)"), N=(1, 4, 8), M=(2, 4, 16))
    assert SettleExtents().run(graph)
    assert [str(value.shape) for value in graph.inputs] == ["(N, 4)", "(N, 4)"]
    assert graph.ranges == {"N": (2, 4, 8)}
    assert graph.requirements == []
    assert graph.notes == ["N is 2 to 8, not 1 to 8: node (onnx) needs M == N"]
    assert not SettleExtents().run(graph)


def test_a_symbol_that_can_only_be_one_number_becomes_it() -> None:
    text = one("%x: f32[N,4]", "Add(%x, @c)", "@c: f32[3,4]\n")
    graph = collected(text, N=RANGE)
    assert SettleExtents().run(graph)
    assert (graph.inputs[0].shape, graph.ranges) == ((3, 4), {})
    assert "N is 3, not 1 to 8" in graph.notes[0]


def test_ranges_that_exclude_each_other_are_an_error() -> None:
    graph = collected(
        one("%x: f32[N,4], %z: f32[M,4]", "Concat(%x, %z) {axis=1}"), N=(1, 4, 8), M=(1, 4, 8)
    )
    graph.ranges["M"] = (9, 9, 10)
    with pytest.raises(GraphError, match="runs only with M == N"):
        SettleExtents().run(graph)


BRANCHES = """
graph g(%x: f32[N,4], %z: f32[M,4], %c: bool[]) {
  %y = If(CONDITION) {else_branch=graph e() {
    %a = Neg(%x)
    return %a
  }, then_branch=graph t() {
    %b = Add(%x, %z)
    return %b
  }}
  return %y
}"""


def test_a_branch_that_data_chooses_is_checked_but_settles_nothing() -> None:
    graph = collected(BRANCHES.replace("CONDITION", "%c"), N=RANGE, M=RANGE)
    assert texts(graph) == ["M == N"]
    assert not SettleExtents().run(graph)


def test_a_branch_that_shapes_choose_has_checked_by_itself() -> None:
    text = BRANCHES.replace("CONDITION", "%d").replace(
        "%y = If",
        "%s = Shape(%x)\n%t = Shape(%z)\n%e = Equal(%s, %t)\n%i: i64[2] = Cast(%e) {to=i64}\n"
        "%m = ReduceMin(%i) {keepdims=0}\n%d: bool[] = Cast(%m) {to=bool}\n%y = If",
    )
    assert texts(collected(text, N=RANGE, M=RANGE)) == []
