"""Ranges of symbolic extents, from the profiles that the user gives."""

from __future__ import annotations

from collections.abc import Mapping

from planish.config import DEFAULT_BATCH_RANGE, Profile
from planish.errors import ConfigError
from planish.ir.graph import Graph, Value
from planish.ir.shape import Dim, Expression, substitute, symbols_of
from planish.ops.infer import infer_graph

Range = tuple[int, int, int]


def apply_profiles(graph: Graph, profiles: Mapping[str, Profile]) -> None:
    """Fill `graph.ranges` from `profiles`; symbols with a single extent become that number.

    A symbol on axis 0 of an input without a profile serves DEFAULT_BATCH_RANGE.

    Parameters
    ----------
    graph : Graph
        Types are inferred again where a symbol became a number.
    profiles : dict of str to Profile
        Keys are the graph's public input names.

    Raises
    ------
    ConfigError
        For unknown inputs, wrong ranks, contradictions, and symbols without a range.
    """
    ranges = profile_ranges(graph, profiles)
    numbers = {name: low for name, (low, _, high) in ranges.items() if low == high}
    graph.ranges = {name: entry for name, entry in ranges.items() if name not in numbers}
    if not numbers:
        return
    for value in graph.inputs:
        value.shape = tuple(substitute(dim, numbers) for dim in value.known_shape)
    infer_graph(graph)


def default_ranges(graph: Graph) -> dict[str, Range]:
    """Return the default range of every symbol that is the first extent of an input."""
    return {
        name: DEFAULT_BATCH_RANGE
        for name in _symbols(graph)
        if any(_is_symbol(value, 0, name) for value in graph.inputs)
    }


def profile_ranges(graph: Graph, profiles: Mapping[str, Profile]) -> dict[str, Range]:
    """Return (min, opt, max) of every symbol of the inputs; raise ConfigError as above."""
    given = _given_ranges(graph, profiles)
    ranges: dict[str, Range] = {}
    missing: dict[str, None] = {}
    for name in _symbols(graph):
        if name in given:
            ranges[name] = given[name]
        elif any(_is_symbol(value, 0, name) for value in graph.inputs):
            ranges[name] = DEFAULT_BATCH_RANGE
        else:
            missing[name] = None
    if missing:
        raise ConfigError(
            f"the extent(s) {', '.join(missing)} are symbolic and have no range",
            where="BuildConfig.profiles",
            fix=f"pass min, opt and max shapes, for example {_example(graph, list(missing))}",
        )
    return ranges


def _given_ranges(graph: Graph, profiles: Mapping[str, Profile]) -> dict[str, Range]:
    unknown = [name for name in profiles if name not in graph.input_names]
    if unknown:
        raise ConfigError(
            f"profiles for unknown input(s) {', '.join(unknown)}",
            where="BuildConfig.profiles",
            fix=f"the model's inputs are {', '.join(graph.input_names)}",
        )
    ranges: dict[str, Range] = {}
    for value, name in zip(graph.inputs, graph.input_names, strict=True):
        if name not in profiles:
            continue
        shape, profile = value.known_shape, profiles[name]
        if len(profile.min) != len(shape):
            raise ConfigError(
                f"the profile of input {name} has rank {len(profile.min)}, the input {len(shape)}",
                where="BuildConfig.profiles",
                fix=f"give shapes like [{', '.join(map(str, shape))}]",
            )
        triples = zip(profile.min, profile.opt, profile.max, strict=True)
        for axis, (dim, triple) in enumerate(zip(shape, triples, strict=True)):
            _note_range(ranges, dim, triple, f"axis {axis} of input {name}")
    return ranges


def _note_range(ranges: dict[str, Range], dim: Dim, triple: Range, where: str) -> None:
    if not isinstance(dim, Expression):
        if triple != (dim, dim, dim):
            raise ConfigError(
                f"the profile says {triple} for {where}, which the model fixes to {dim}",
                where="BuildConfig.profiles",
                fix=f"use {dim} in min, opt and max",
            )
        return
    name = str(dim)
    if ranges.setdefault(name, triple) != triple:
        raise ConfigError(
            f"the profiles give two ranges for the extent {name}: {ranges[name]} and {triple} "
            f"({where})",
            where="BuildConfig.profiles",
            fix="extents of one name are equal at run time: give them one range",
        )


def _symbols(graph: Graph) -> list[str]:
    """Return the symbols of the inputs' shapes in order of appearance."""
    names: dict[str, None] = {}
    for value in graph.inputs:
        for dim in value.known_shape:
            names.update(dict.fromkeys(sorted(symbols_of(dim))))
    return list(names)


def _is_symbol(value: Value, axis: int, name: str) -> bool:
    shape = value.known_shape
    return axis < len(shape) and str(shape[axis]) == name


def _example(graph: Graph, missing: list[str]) -> str:
    """Return a profile for the first input that has a missing extent, as code."""
    for value, name in zip(graph.inputs, graph.input_names, strict=True):
        if not any(str(dim) in missing for dim in value.known_shape):
            continue
        shapes = (_sizes(value, missing, pick) for pick in range(3))
        return f'profiles={{"{name}": Profile({", ".join(shapes)})}}'
    return "profiles={...}"


def _sizes(value: Value, missing: list[str], pick: int) -> str:
    sizes = [
        str(dim)
        if isinstance(dim, int)
        else str((1, 128, 512)[pick] if str(dim) in missing else DEFAULT_BATCH_RANGE[pick])
        for dim in value.known_shape
    ]
    return "(" + ", ".join(sizes) + ("," if len(sizes) == 1 else "") + ")"
