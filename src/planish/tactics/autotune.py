"""The autotuner: times candidate kernels through the real runtime and keeps the fastest.

Work goes in *waves*. A wave takes every group that still has untried candidates, in network
order, and gives each a few challengers beside its current best. The kernels of a batch of groups
are compiled at once and become the steps of one plan, which the real runtime executes many times:
candidates are interleaved, and between two runs of one kernel the rest of the network passes
through the caches, as it does in an inference. A challenger counts only if its results agree
with the current best's on the same inputs.

The median is used, and a challenger's time is scaled by how the incumbent moved between waves, so
slow drifts of a shared machine do not decide.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from planish.errors import CompileError
from planish.tactics.bench import Measured, Trial
from planish.tactics.select import Candidate, Group
from planish.tactics.target import Target

MINIMUM_SHARE = 0.003  # groups below this share of the network's estimated time are not tuned
HOPELESS = 1.3  # a tactic whose measured best is this much slower gets no more configurations
ROUNDS = 9
MINIMUM_TIMEOUT = 10.0  # seconds for the compiler, when less is left of the budget
BATCH_GROUPS = 24


class Bench(Protocol):
    """A device's way to compile and time trials.

    Attributes
    ----------
    challengers : int
        Candidates of a group that are compiled and measured in one wave.
    shortlist : int
        Candidates of a group that are measured at most.
    batch_bytes : int
        Weights of the groups that are measured together. Every contender has its own copy, and all
        of them pass through the caches between two runs of one: far more than a network has, and
        what is measured is memory.
    """

    challengers: int
    shortlist: int
    batch_bytes: int

    def measure(self, trials: Sequence[Trial], rounds: int, timeout: float) -> list[Measured]:
        """Return a measurement of each trial; compilers are stopped after `timeout` seconds.

        Raises CompileError when the compiler refuses the trials as a whole.
        """


@dataclass
class Tuner:
    """Runs waves until the candidates or the time are used up.

    Attributes
    ----------
    groups : list of Group
        In network order; their `times` and `rejected` are filled in.
    target : Target
    bench : Bench
    time_left : callable
        Seconds that tuning may still take; tuning stops when it is not positive.
    progress : callable
        Receives (candidates done, candidates in all, detail).
    """

    groups: Sequence[Group]
    target: Target
    bench: Bench
    time_left: Callable[[], float]
    progress: Callable[[int, int, str], None]
    _longest_batch: float = field(default=0.0, init=False)

    def run(self) -> None:
        """Tune until no candidate is left untried or time is up."""
        total = sum(group.estimate for group in self.groups) or 1.0
        active = [g for g in self.groups if len(g.candidates) > 1
                  and g.estimate >= MINIMUM_SHARE * total]  # fmt: skip
        untried = {g.key: _shortlist(g.candidates, self.bench.shortlist) for g in active}
        planned = sum(len(candidates) for candidates in untried.values())
        while any(untried.values()):
            wave = [group for group in active if untried[group.key]]
            for batch in _batches(wave, self.bench.batch_bytes):
                if not self._has_time():
                    return
                self._measure_batch(batch, untried)
                left = sum(len(candidates) for candidates in untried.values())
                self.progress(planned - left, planned, f"{len(batch)} regions at once")

    def _has_time(self) -> bool:
        return self.time_left() > self._longest_batch

    def _measure_batch(self, batch: Sequence[Group], untried: dict[str, list[Candidate]]) -> None:
        before = self.time_left()
        self._measure([trial for group in batch for trial in self._trials(group, untried)])
        self._longest_batch = max(self._longest_batch, before - self.time_left())
        for group in batch:
            untried[group.key] = _hopeful(group, untried[group.key])

    def _trials(self, group: Group, untried: dict[str, list[Candidate]]) -> list[Trial]:
        """Return the group's next challengers, beside its best so far."""
        waiting = untried[group.key]
        first = waiting[0] is group.candidates[0]
        count = self.bench.challengers + first
        fresh, untried[group.key] = waiting[:count], waiting[count:]
        contenders = [c for c in fresh if c.label not in group.times]
        if not first or len(contenders) < len(fresh):
            contenders.insert(0, group.best)
        timed = [Trial(group, c) for c in contenders if c.tactic.name != "reference"]
        return timed if len(timed) > 1 else []

    def _measure(self, trials: Sequence[Trial]) -> None:
        """Time `trials`; when the compiler refuses the lot, halve it until the culprit is alone."""
        if not trials:
            return
        try:
            results = self.bench.measure(trials, ROUNDS, max(self.time_left(), MINIMUM_TIMEOUT))
        except CompileError as error:
            if len(trials) == 1:
                trials[0].group.rejected[trials[0].candidate.label] = f"does not compile: {error}"
                return
            middle = len(trials) // 2
            self._measure(trials[:middle])
            self._measure(trials[middle:])
            return
        for group in dict.fromkeys(trial.group.key for trial in trials):
            self._judge([(t, r) for t, r in zip(trials, results, strict=True)
                         if t.group.key == group])  # fmt: skip

    def _judge(self, measured: Sequence[tuple[Trial, Measured]]) -> None:
        group = measured[0][0].group
        incumbent, first = measured[0]
        known = group.times.get(incumbent.candidate.label)
        drift = known / first.microseconds if known else 1.0
        for trial, result in measured:
            label = trial.candidate.label
            if result.difference is not None:
                group.rejected[label] = f"not as {incumbent.candidate.label}: {result.difference}"
            elif label not in group.times:
                group.times[label] = result.microseconds * drift


def _shortlist(candidates: Sequence[Candidate], count: int) -> list[Candidate]:
    """Return the first configurations of every tactic in turn, `count` in all."""
    by_tactic: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        by_tactic.setdefault(candidate.tactic.name, []).append(candidate)
    rounds = itertools.zip_longest(*by_tactic.values())
    turns = [candidate for turn in rounds for candidate in turn if candidate is not None]
    return turns[:count]


def _hopeful(group: Group, candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return the candidates whose tactic was not measured yet, or measured to be near the best."""
    times: dict[str, float] = {}
    for candidate in group.candidates:
        if candidate.label in group.times:
            name = candidate.tactic.name
            times[name] = min(group.times[candidate.label], times.get(name, float("inf")))
    limit = HOPELESS * min(times.values(), default=float("inf"))
    return [c for c in candidates if times.get(c.tactic.name, 0.0) <= limit]


def _batches(groups: Sequence[Group], most_bytes: int) -> list[list[Group]]:
    """Return `groups` in lists of bounded number and weight."""
    batches: list[list[Group]] = [[]]
    size = 0
    for group in groups:
        constants = group.representative.body.constants()
        weights = sum(value.array.nbytes for value in constants)
        if size + weights > most_bytes or len(batches[-1]) == BATCH_GROUPS:
            batches.append([])
            size = 0
        batches[-1].append(group)
        size += weights
    return [batch for batch in batches if batch]
