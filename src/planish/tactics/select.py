"""Selection: every region gets a tactic and a configuration.

Regions with one key (same body, shapes, strides; only weights differ) form a *group* and share
one decision. The heuristic choice is the first configuration of the supporting tactic of lowest
rank; measured times, from the timing cache or the autotuner, replace it.
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from planish.config import BuildConfig
from planish.errors import ConfigError, TacticError
from planish.ir.graph import Graph, Node
from planish.ops.op import op_of
from planish.plan.plan import Plan
from planish.plan.weights import WeightPool
from planish.tactics.cost_model import estimate_microseconds
from planish.tactics.region import region_key, region_of, regions_of, repetitions
from planish.tactics.tactic import (
    Choice,
    Config,
    ExternalKernel,
    Kernel,
    Region,
    Tactic,
    TritonKernel,
)
from planish.tactics.target import Target
from planish.tactics.timing_cache import TimingCache

FALLBACK = "reference"  # the tactic that runs a region in numpy
NOT_ASKED_FOR = "not among tactic_sources"
DEFAULT = "default"  # in `tactic_sources`: all tactics but the optional ones
LISTED = 10  # regions that a warning names


class FallbackWarning(UserWarning):
    """A region has no kernel and runs through its numpy reference."""


@dataclass
class Candidate:
    """One tactic with one configuration for a group of regions."""

    tactic: Tactic
    config: Config

    @property
    def label(self) -> str:
        """Text form, used in reports and as the key in the timing cache."""
        settings = ",".join(f"{key}={value}" for key, value in sorted(self.config.items()))
        return f"{self.tactic.name}{{{settings}}}"


@dataclass
class Group:
    """Regions that share a key, their candidates (best guess first) and measured times.

    `times` maps a candidate's label to microseconds at the profile's opt shape; `estimate` is the
    cost model's microseconds for all regions of the group together.
    """

    key: str
    nodes: list[Node]
    regions: list[Region]
    candidates: list[Candidate]
    refusals: tuple[tuple[str, str], ...]
    estimate: float
    times: dict[str, float] = field(default_factory=dict)
    rejected: dict[str, str] = field(default_factory=dict)

    @property
    def representative(self) -> Region:
        """The region that stands for the group in measurements."""
        return self.regions[0]

    @property
    def best(self) -> Candidate:
        """The fastest measured candidate, or the heuristic one when none was measured."""
        usable = [c for c in self.candidates if c.label not in self.rejected]
        measured = [c for c in usable if c.label in self.times]
        if measured:
            return min(measured, key=lambda c: self.times[c.label])
        return usable[0]


def group_regions(
    graph: Graph, target: Target, config: BuildConfig, tactics: Sequence[Tactic]
) -> list[Group]:
    """Collect the regions of `graph` into groups, each with its candidates.

    Raises
    ------
    ConfigError
        When the configuration names a tactic that does not exist.
    TacticError
        When regions have no kernel and the configuration forbids the reference fallback; all of
        them are listed.
    """
    _check_sources(tactics, config)
    symbols = tuple(sorted(graph.ranges))
    groups: dict[str, Group] = {}
    for node in regions_of(graph):
        region = region_of(node, symbols, graph.ranges)
        key = region_key(region, target)
        if key not in groups:
            groups[key] = _new_group(key, region, target, config, tactics)
        groups[key].nodes.append(node)
        groups[key].regions.append(region)
    found = list(groups.values())
    repeated = repetitions(graph, graph.ranges)
    for group in found:
        runs = sum(repeated.get(node, 1) for node in group.nodes)
        group.estimate = estimate_microseconds(group.representative, target) * runs
    _report_fallbacks(found, config)
    return found


def choices_of(
    groups: Sequence[Group],
    target: Target,
    constants: WeightPool,
    workspace_limit: int | None = None,
) -> dict[Node, Choice]:
    """Build the kernel of every region with its group's best candidate.

    The kernels' packed constants go into `constants` one kernel at a time, so that weights are
    never in memory twice. Candidates that need more than `workspace_limit` bytes of scratch
    memory, all threads together, are rejected.

    Raises
    ------
    TacticError
        When every candidate of a region needs more.
    """
    choices: dict[Node, Choice] = {}
    for group in groups:
        best = group.best if workspace_limit is None else _fitting(group, target, workspace_limit)
        alternatives = sorted((t, label) for label, t in group.times.items() if label != best.label)
        for node, region in zip(group.nodes, group.regions, strict=True):
            kernel = build_kernel(best, region, target)
            choices[node] = Choice(
                region=region,
                tactic=best.tactic.name,
                config=best.config,
                kernel=replace(kernel, packed=()),
                constants=tuple(constants.add(array) for array in kernel.packed),
                microseconds=group.times.get(best.label),
                alternatives=tuple((label, t) for t, label in alternatives),
                refusals=(*group.refusals, *sorted(group.rejected.items())),
            )
    return choices


def _fitting(group: Group, target: Target, limit: int) -> Candidate:
    """Return the best candidate of `group` that keeps the workspace limit; reject better ones."""
    for _ in range(len(group.candidates) - len(group.rejected)):
        best = group.best
        kernel = build_kernel(best, group.representative, target)
        needed = kernel.scratch_bytes * target.threads if isinstance(kernel, Kernel) else 0
        if needed <= limit:
            return best
        group.rejected[best.label] = f"needs {needed} bytes of scratch memory, allowed are {limit}"
    raise TacticError(
        f"no kernel runs within a workspace_limit of {limit} bytes: "
        + "; ".join(f"{label}: {reason}" for label, reason in group.rejected.items()),
        where=str(group.nodes[0].source),
        fix="raise BuildConfig.workspace_limit",
    )


def build_kernel(
    candidate: Candidate, region: Region, target: Target
) -> Kernel | TritonKernel | ExternalKernel:
    """Build `candidate` for `region`."""
    return candidate.tactic.build(region, candidate.config, target)


def kernels_of(
    graph: Graph, plan: Plan, choices: Mapping[Node, Choice]
) -> dict[str, Kernel | TritonKernel]:
    """Return the native kernels of `plan`, which was made from `graph`, by `Step.function`."""
    chosen = [choices[node].kernel for node in regions_of(graph)]
    return {
        step.function: kernel
        for step, kernel in zip(plan.steps, chosen, strict=True)
        if step.function is not None and isinstance(kernel, Kernel | TritonKernel)
    }


def apply_cache(groups: Sequence[Group], cache: TimingCache) -> None:
    """Give every group the times that `cache` knows of its candidates."""
    for group in groups:
        known = cache.times(group.key)
        labels = {candidate.label for candidate in group.candidates}
        group.times.update({label: t for label, t in known.items() if label in labels})


def _new_group(
    key: str, region: Region, target: Target, config: BuildConfig, tactics: Sequence[Tactic]
) -> Group:
    candidates: list[Candidate] = []
    refusals: list[tuple[str, str]] = []
    empty = _has_no_elements(region)
    for tactic in sorted(tactics, key=lambda t: (t.rank, t.name)):
        if not _is_asked_for(tactic, config.tactic_sources):
            refusals.append((tactic.name, NOT_ASKED_FOR))
            continue
        if empty and tactic.name != FALLBACK:
            refusals.append((tactic.name, "an operand has no elements"))
            continue
        support = tactic.supports(region, target)
        if not support:
            refusals.append((tactic.name, support.reason or ""))
            continue
        candidates.extend(Candidate(tactic, c) for c in tactic.configs(region, target))
    return Group(key, [], [], candidates, tuple(refusals), 0.0)


def _has_no_elements(region: Region) -> bool:
    """Whether an operand or constant of an anchored region is empty; kernels rely on one element.

    Pointwise regions have loops only, and those run as often as there are elements.
    """
    values = [operand.value for operand in (*region.inputs, *region.outputs)]
    values += region.body.constants()
    return region.kind != "pointwise" and any(0 in value.known_shape for value in values)


def _is_asked_for(tactic: Tactic, sources: Sequence[str] | None) -> bool:
    """Whether `tactic_sources` has the tactic, by name or, unless it is optional, as a default."""
    if sources is not None and tactic.name in sources:
        return True
    return not tactic.optional and (sources is None or DEFAULT in sources)


def _check_sources(tactics: Sequence[Tactic], config: BuildConfig) -> None:
    """Raise ConfigError when `tactic_sources` names a tactic that does not exist."""
    known = sorted(tactic.name for tactic in tactics)
    for name in config.tactic_sources or ():
        if name not in (*known, DEFAULT):
            near = difflib.get_close_matches(str(name), known, n=1)
            raise ConfigError(
                f"there is no tactic {name!r}",
                where="BuildConfig.tactic_sources",
                fix=f"did you mean {near[0]!r}?" if near else f"use some of {', '.join(known)}",
            )


def _report_fallbacks(groups: Sequence[Group], config: BuildConfig) -> None:
    lacking = [
        (node, group)
        for group in groups
        for node in group.nodes
        if not any(c.tactic.name != FALLBACK for c in group.candidates)
    ]
    if not lacking:
        return
    if config.fallback == "error" or any(not group.candidates for group in groups):
        listing = "\n".join(
            f"    {node.source} ({group.representative.kind}): {_reasons(group)}"
            for node, group in lacking
        )
        raise TacticError(
            f"{len(lacking)} region(s) have no kernel:\n{listing}",
            fix='BuildConfig(fallback="reference") runs them in numpy, slowly; tactic_sources, '
            "when given, has to name every tactic that may be used",
        )
    shown = [f"{node.source} ({group.representative.kind})" for node, group in lacking]
    more = f" and {len(shown) - LISTED} more" if len(shown) > LISTED else ""
    warnings.warn(
        f"{len(lacking)} region(s) run through their numpy reference, slowly: "
        f"{', '.join(shown[:LISTED])}{more}; the report says why",
        FallbackWarning,
        stacklevel=4,
    )


def _reasons(group: Group) -> str:
    """Return why the tactics refuse a group, each reason once with the tactics that give it."""
    names: dict[str, list[str]] = {}
    for name, reason in group.refusals:
        if reason != NOT_ASKED_FOR:
            names.setdefault(reason, []).append(name)
    return "; ".join(f"{reason} ({', '.join(given)})" for reason, given in names.items())


def operations_of(region: Region) -> str:
    """Return the region's body as one line ("Conv -> Relu"), for reports."""
    return " -> ".join(op_of(node).name for node in region.body)
