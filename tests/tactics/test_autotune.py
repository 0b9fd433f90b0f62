"""The tuner's decisions, on a bench that answers from a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from planish.errors import CompileError
from planish.ops.infer import graph_from_text
from planish.tactics.autotune import BATCH_GROUPS, Tuner
from planish.tactics.bench import Measured, Trial
from planish.tactics.region import make_region
from planish.tactics.select import Candidate, Group
from planish.tactics.tactic import YES, Config, Kernel, Region, Support, Tactic
from planish.tactics.target import Target

TARGET = Target("cpu", frozenset())
CHALLENGERS, SHORTLIST = 3, 8


class Named(Tactic):
    """A tactic that exists only by name."""

    def __init__(self, name: str) -> None:
        self.name = name  # type: ignore[misc]

    def supports(self, region: Region, target: Target) -> Support:
        return YES

    def configs(self, region: Region, target: Target) -> list[Config]:
        return [{}]

    def build(self, region: Region, config: Config, target: Target) -> Kernel:
        return Kernel("", 1)


@dataclass
class TableBench:
    """Gives microseconds by label; labels in `wrong` differ, those in `refused` do not compile."""

    times: dict[str, float]
    wrong: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)
    measured: list[list[str]] = field(default_factory=list)
    challengers: int = CHALLENGERS
    shortlist: int = SHORTLIST
    batch_bytes: int = 24 << 20

    def measure(self, trials: Sequence[Trial], rounds: int, timeout: float) -> list[Measured]:
        labels = [trial.candidate.label for trial in trials]
        if self.refused & set(labels):
            raise CompileError("no")
        self.measured.append(labels)
        return [Measured(self.times[label], "off by 1" if label in self.wrong else None)
                for label in labels]  # fmt: skip


def group_of(key: str, candidates: list[tuple[str, int]], estimate: float = 1.0) -> Group:
    """Return a group whose candidates are (tactic name, config number)."""
    body = graph_from_text("graph g(%x: f32[4]) {\n  %y = Relu(%x)\n  return %y\n}\n")
    region = make_region(body, "pointwise")
    tactics = {name: Named(name) for name, _ in candidates}
    made = [Candidate(tactics[name], {"n": n}) for name, n in candidates]
    return Group(key, [region.node], [region], made, (), estimate)


def tune(bench: TableBench, groups: list[Group], seconds: float = 1e9) -> None:
    """Run the tuner; every batch takes one second of `seconds`."""
    Tuner(groups, TARGET, bench, lambda: seconds - len(bench.measured), lambda *_: None).run()  # type: ignore[arg-type]


def test_the_fastest_candidate_wins_whatever_its_place() -> None:
    group = group_of("a", [("gemm", n) for n in range(SHORTLIST)])
    bench = TableBench({f"gemm{{n={n}}}": 10.0 - n if n < 6 else 30.0 for n in range(SHORTLIST)})
    assert group.best.label == "gemm{n=0}"
    tune(bench, [group])
    assert group.best.label == "gemm{n=5}"
    assert len(group.times) == SHORTLIST


def test_every_tactic_is_measured_before_the_shortlist_is_full() -> None:
    group = group_of("a", [*(("gemm", n) for n in range(20)), ("library", 0)])
    bench = TableBench({"library{n=0}": 1.0, **{f"gemm{{n={n}}}": 1.1 for n in range(20)}})
    tune(bench, [group])
    assert group.best.label == "library{n=0}"
    assert len(group.times) == SHORTLIST


def test_challengers_meet_the_best_so_far_and_drift_is_scaled_out() -> None:
    group = group_of("a", [("gemm", n) for n in range(CHALLENGERS + 2)])
    bench = TableBench({f"gemm{{n={n}}}": 10.0 for n in range(CHALLENGERS + 2)})
    bench.times["gemm{n=1}"] = 8.0
    slow = TableBench({label: 2 * time for label, time in bench.times.items()})
    slow.times[f"gemm{{n={CHALLENGERS + 1}}}"] = 15.0  # 7.5 when the machine is as fast as before

    class Drifting(TableBench):
        def measure(self, trials: Sequence[Trial], rounds: int, timeout: float) -> list[Measured]:
            self.measured.append([trial.candidate.label for trial in trials])
            source = bench if len(self.measured) == 1 else slow
            return [Measured(source.times[t.candidate.label], None) for t in trials]

    drifting = Drifting({})
    tune(drifting, [group])
    assert drifting.measured[1][0] == "gemm{n=1}"
    assert group.times[f"gemm{{n={CHALLENGERS + 1}}}"] == 7.5


def test_a_candidate_with_other_results_is_rejected_however_fast() -> None:
    group = group_of("a", [("gemm", 0), ("gemm", 1)])
    tune(TableBench({"gemm{n=0}": 5.0, "gemm{n=1}": 1.0}, wrong={"gemm{n=1}"}), [group])
    assert group.best.label == "gemm{n=0}"
    assert "off by 1" in group.rejected["gemm{n=1}"]


def test_a_kernel_that_does_not_compile_costs_only_itself() -> None:
    groups = [group_of(key, [("gemm", 0), (key, 1)]) for key in "abcd"]
    times = {"gemm{n=0}": 5.0, **{f"{key}{{n=1}}": 1.0 for key in "abcd"}}
    tune(TableBench(times, refused={"c{n=1}"}), groups)
    assert [group.best.tactic.name for group in groups] == ["a", "b", "gemm", "d"]
    assert "does not compile" in groups[2].rejected["c{n=1}"]


def test_a_tactic_that_is_far_behind_gets_no_more_configurations() -> None:
    candidates = [("fast", 0), *(("slow", n) for n in range(20))]
    group = group_of("a", candidates)
    bench = TableBench({"fast{n=0}": 1.0, **{f"slow{{n={n}}}": 2.0 for n in range(20)}})
    tune(bench, [group])
    assert sum(len(labels) for labels in bench.measured) == CHALLENGERS + 1


def test_tuning_stops_when_the_time_is_up() -> None:
    groups = [group_of(str(n), [("gemm", 0), ("gemm", 1)]) for n in range(5 * BATCH_GROUPS)]
    bench = TableBench({"gemm{n=0}": 2.0, "gemm{n=1}": 1.0})
    tune(bench, groups, seconds=3.5)
    assert len(bench.measured) == 3
    assert groups[0].best.label == "gemm{n=1}"
    assert groups[-1].best.label == "gemm{n=0}"


def test_regions_that_hardly_matter_are_left_alone() -> None:
    groups = [
        group_of("a", [("gemm", 0), ("gemm", 1)], 1000.0),
        group_of("b", [("x", 0), ("x", 1)]),
    ]
    bench = TableBench({"gemm{n=0}": 2.0, "gemm{n=1}": 1.0})
    tune(bench, groups)
    assert bench.measured == [["gemm{n=0}", "gemm{n=1}"]]
