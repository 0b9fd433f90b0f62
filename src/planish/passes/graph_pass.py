"""The pass contract and the runner: what a pass promises, and what is recorded about it.

A pass changes a graph in place and says truthfully whether it did. It sees one graph at a time:
the runner applies it to the main graph and to every subgraph of If, Loop and Scan (a region's body
is finished when it is made, so passes do not enter it). A pass is deterministic and idempotent,
keeps the source of the nodes it rewrites, and leaves the graph's invariants intact, which the
runner verifies after each pass when asked.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import ClassVar

from planish.errors import ConfigError, PassError, PlanishError
from planish.ir.graph import Graph
from planish.ir.text import to_text
from planish.ir.verify import verify


@dataclass(frozen=True)
class PassStatistics:
    """What one run of a pass did; `report` and `planish inspect` show it.

    Attributes
    ----------
    index : int
        Position in the pipeline, from 1.
    name : str
        The pass.
    before, after : int
        Nodes of the graph and its subgraphs (a region counts as one layer).
    seconds : float
        Time of the pass alone, without verification.
    modified : bool
        Whether the graph changed.
    counts : dict
        What was done how often: a rule's or a fusion's label to the number of times.
    """

    index: int
    name: str
    before: int
    after: int
    seconds: float
    modified: bool
    counts: Mapping[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        details = ", ".join(f"{label}: {count}" for label, count in self.counts.items())
        line = f"{self.index:2d} {self.name}: {self.before} -> {self.after} layers"
        return f"{line} ({details})" if details else line


Observer = Callable[[PassStatistics, Graph], None]


class GraphPass(ABC):
    """Base class of passes.

    Class attributes
    ----------------
    name : str
        The file's name; shown in reports, dumps and errors.

    Attributes
    ----------
    counts : dict
        Labels counted with `count` during the current run; the runner clears and records it.
    """

    name: ClassVar[str] = ""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}

    @abstractmethod
    def run(self, graph: Graph) -> bool:
        """Change `graph` (not its subgraphs) in place; return whether anything changed."""

    def count(self, label: str, times: int = 1) -> None:
        """Record that something was done; `label` is what the user reads ("BatchNorm folding")."""
        self.counts[label] = self.counts.get(label, 0) + times


class FixedPoint(GraphPass):
    """Runs a group of passes on a graph until none of them changes it.

    Every round costs time linear in the nodes. Rounds are bounded, because a pair of rules that
    undo each other must not hang a build; five rounds are more than any real model has needed.
    """

    def __init__(self, name: str, passes: Sequence[GraphPass], rounds: int = 8) -> None:
        super().__init__()
        self.label = name
        self.passes = tuple(passes)
        self.rounds = rounds

    def run(self, graph: Graph) -> bool:
        """Run the group in order, again and again, until a whole round changes nothing."""
        modified = False
        for _ in range(self.rounds):
            if not self._round(graph):
                break
            modified = True
        return modified

    def _round(self, graph: Graph) -> bool:
        changed = False
        for member in self.passes:
            member.counts = {}
            with _Located(f"pass {member.name}"):
                changed |= member.run(graph)
            for label, times in member.counts.items():
                self.count(label, times)
        return changed


class ForLoops(FixedPoint):
    """A group that runs on models with loops only: on the graph and everything inside it."""

    def __init__(self, name: str, passes: Sequence[GraphPass], rounds: int = 8) -> None:
        super().__init__(name, passes, rounds)
        self._chosen: dict[Graph, bool] = {}

    def run(self, graph: Graph) -> bool:
        """Run the group where the outermost graph, which comes first, holds a loop."""
        if graph not in self._chosen:
            nested = list(graphs_of(graph))
            loops = any(node.op in ("Loop", "Scan") for each in nested for node in each)
            self._chosen.update(dict.fromkeys(nested, loops))
        return self._chosen[graph] and super().run(graph)


def pass_name(graph_pass: GraphPass) -> str:
    """Return the name under which `graph_pass` is shown."""
    return graph_pass.label if isinstance(graph_pass, FixedPoint) else graph_pass.name


def run_pipeline(
    graph: Graph,
    passes: Sequence[GraphPass],
    *,
    check: bool = True,
    observer: Observer | None = None,
    start: int = 1,
) -> list[PassStatistics]:
    """Run `passes` in order on `graph` and all its subgraphs.

    Parameters
    ----------
    graph : Graph
        Changed in place.
    passes : sequence of GraphPass
    check : bool
        Check the graph's invariants after every pass.
    observer : callable, optional
        Called after every pass with its statistics and the graph (see `dump_to`).
    start : int
        Number of the first pass, where others ran before.

    Returns
    -------
    list of PassStatistics
        One a pass, in order.

    Raises
    ------
    PassError
        A pass failed or left a broken graph; the message names it and the passes before it.
    """
    record: list[PassStatistics] = []
    for index, graph_pass in enumerate(passes, start=start):
        with _Located(f"pass {pass_name(graph_pass)} of {_listing(passes)}"):
            statistics = _run_one(graph, graph_pass, index, record, check)
        record.append(statistics)
        if observer is not None:
            observer(statistics, graph)
    return record


def dump_to(folder: Path, graph: Graph) -> Observer:
    """Return an observer that writes numbered text after each pass; `graph` is written as 00."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "00_import.txt").write_text(to_text(graph))

    def write(statistics: PassStatistics, graph: Graph) -> None:
        path = folder / f"{statistics.index:02d}_{statistics.name}.txt"
        path.write_text(f"# {statistics}\n{to_text(graph)}")

    return write


def graphs_of(graph: Graph) -> Iterator[Graph]:
    """Yield `graph` and every subgraph inside it, outer ones first, regions' bodies excluded."""
    yield graph
    for node in graph:
        if node.op == "Region":
            continue
        for subgraph in node.subgraphs:
            yield from graphs_of(subgraph)


def count_layers(graph: Graph) -> int:
    """Return the number of nodes of `graph` and its subgraphs, a region counting as one."""
    return sum(len(each) for each in graphs_of(graph))


def _run_one(
    graph: Graph,
    graph_pass: GraphPass,
    index: int,
    done: Sequence[PassStatistics],
    check: bool,
) -> PassStatistics:
    before = count_layers(graph)
    graph_pass.counts = {}
    start = time.perf_counter()
    modified = False
    try:
        for each in graphs_of(graph):
            modified |= graph_pass.run(each)
        seconds = time.perf_counter() - start
        if check:
            verify(graph)
    except ConfigError:  # nothing failed: the model cannot run as it was asked to
        raise
    except PlanishError as error:
        raise _failure(error, graph_pass, done) from error
    counts = dict(sorted(graph_pass.counts.items()))
    name = pass_name(graph_pass)
    return PassStatistics(index, name, before, count_layers(graph), seconds, modified, counts)


def _failure(
    error: PlanishError, graph_pass: GraphPass, done: Sequence[PassStatistics]
) -> PassError:
    before = ", ".join(each.name for each in done) or "none"
    return PassError(
        f"pass {pass_name(graph_pass)} failed (passes before it: {before}):\n{error.what}",
        where=error.where,
        fix=error.fix
        or "set PLANISH_DUMP=<folder> to see the graph after each pass, and report "
        "it with the text of the last one",
    )


def _listing(passes: Sequence[GraphPass]) -> str:
    return ", ".join(map(pass_name, passes))


class _Located:
    """Adds a line to any exception that leaves the block, so that a bug names its pass."""

    def __init__(self, note: str) -> None:
        self.note = note

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Attach the note; the exception goes on."""
        if error is not None:
            error.add_note(self.note)
