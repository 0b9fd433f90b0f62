"""The runner: truthful statistics, errors that name the pass, dumps, subgraphs."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest

from planish.errors import GraphError, PassError
from planish.ir.graph import Graph
from planish.passes.dead_code import DeadCode
from planish.passes.fold_constants import FoldConstants
from planish.passes.graph_pass import (
    FixedPoint,
    GraphPass,
    PassStatistics,
    dump_to,
    run_pipeline,
)
from tests.passes.checks import parse

DEAD = """
graph g(%x: f32[2], %c: bool[]) {
  %1 = Exp(%x)
  %2 = If(%c) {then_branch=graph a() {
    %3: f32[2] = Relu(%x)
    %4: f32[2] = Exp(%3)
    return %3
  }, else_branch=graph b() {
    %5: f32[2] = Neg(%x)
    return %5
  }}
  return %2
}"""


class Refuses(GraphPass):
    name: ClassVar[str] = "refuses"

    def run(self, graph: Graph) -> bool:
        raise GraphError("cannot go on", where="layer7")


class Breaks(GraphPass):
    name: ClassVar[str] = "breaks"

    def run(self, graph: Graph) -> bool:
        graph.outputs[0].producer = None
        return True


class Crashes(GraphPass):
    name: ClassVar[str] = "crashes"

    def run(self, graph: Graph) -> bool:
        raise ZeroDivisionError


class CountsDown(GraphPass):
    name: ClassVar[str] = "counts_down"

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times

    def run(self, graph: Graph) -> bool:
        self.times -= 1
        if self.times >= 0:
            self.count("steps")
        return self.times >= 0


def test_passes_run_on_subgraphs_and_count_their_nodes() -> None:
    graph = parse(DEAD)
    (statistics,) = run_pipeline(graph, [DeadCode()])
    assert (statistics.before, statistics.after) == (5, 3)
    assert statistics.counts == {"dead nodes": 2}
    assert statistics.modified


def test_a_pass_without_effect_says_so() -> None:
    graph = parse(DEAD)
    record = run_pipeline(graph, [DeadCode(), DeadCode()])
    assert [statistics.modified for statistics in record] == [True, False]
    assert record[1].counts == {}


def test_failure_names_the_pass_and_those_before() -> None:
    with pytest.raises(PassError) as caught:
        run_pipeline(parse(DEAD), [DeadCode(), FoldConstants(), Refuses()])
    text = str(caught.value)
    assert "pass refuses failed (passes before it: dead_code, fold_constants)" in text
    assert "cannot go on" in text
    assert "where: layer7" in text


def test_a_broken_graph_is_found_after_the_pass_that_broke_it() -> None:
    with pytest.raises(PassError, match="pass breaks failed"):
        run_pipeline(parse(DEAD), [DeadCode(), Breaks(), DeadCode()])
    run_pipeline(parse(DEAD), [Breaks()], check=False)


def test_a_bug_carries_a_note_with_its_pass() -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        run_pipeline(parse(DEAD), [FixedPoint("group", [Crashes()])])
    assert any("crashes" in note for note in caught.value.__notes__)
    assert any("group" in note for note in caught.value.__notes__)


def test_fixed_point_adds_up_counts_and_stops() -> None:
    member = CountsDown(3)
    (statistics,) = run_pipeline(parse("graph g(%x: f32[2]) {\n return %x\n}"), [
        FixedPoint("group", [member]),
    ])  # fmt: skip
    assert statistics.counts == {"steps": 3}
    assert member.times == -1


def test_fixed_point_is_bounded() -> None:
    graph = parse("graph g(%x: f32[2]) {\n return %x\n}")
    assert FixedPoint("group", [CountsDown(10**9)], rounds=5).run(graph)


def test_observer_dumps_numbered_text(tmp_path: Path) -> None:
    graph = parse(DEAD)
    seen: list[PassStatistics] = []
    write = dump_to(tmp_path / "dump", graph)

    def observe(statistics: PassStatistics, graph: Graph) -> None:
        seen.append(statistics)
        write(statistics, graph)

    run_pipeline(graph, [DeadCode(), FoldConstants()], observer=observe)
    assert [statistics.index for statistics in seen] == [1, 2]
    names = sorted(path.name for path in (tmp_path / "dump").iterdir())
    assert names == ["00_import.txt", "01_dead_code.txt", "02_fold_constants.txt"]
    text = (tmp_path / "dump" / "01_dead_code.txt").read_text()
    assert text.startswith("#  1 dead_code: 5 -> 3 layers (dead nodes: 2)")
    assert "Exp" not in text
