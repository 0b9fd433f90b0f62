"""Making planish.Extents nodes: a value that holds given extents, wherever it is needed.

A symbol is read off a value whose shape has it as a plain extent. Graph inputs are preferred: they
exist everywhere. Symbols that only data decides ("?...") are read off the first value that has
them, for nodes behind it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from planish.ir.dtypes import I64, DType
from planish.ir.graph import Graph, Node, Value
from planish.ir.shape import Atom, Dim, Expression, symbols_of
from planish.passes.building import emit


class ExtentSources:
    """Where each symbol of one graph can be read, in execution order.

    Parameters
    ----------
    graph : Graph
        Sources are this graph's inputs and the values that its nodes compute.
    outer : ExtentSources, optional
        Sources of the graph around it, as far as they come before the node that holds it.
    """

    def __init__(self, graph: Graph, outer: ExtentSources | None = None) -> None:
        self._graph = graph
        self._outer = outer
        self._places: dict[str, tuple[Value, int]] = {}
        for value in graph.inputs:
            self.add(value)

    def add(self, value: Value) -> None:
        """Remember the symbols that the shape of `value` shows; earlier values are kept."""
        for axis, dim in enumerate(value.shape or ()):
            name = plain_symbol(dim)
            if name is not None:
                self._places.setdefault(name, (value, axis))

    def place(self, name: str) -> tuple[Value, int] | None:
        """Return (value, axis) where symbol `name` can be read."""
        if name in self._places or self._outer is None:
            return self._places.get(name)
        return self._outer.place(name)

    def emit(
        self, before: Node, dims: Sequence[Dim], scalar: bool = False, dtype: DType = I64
    ) -> Value | None:
        """Return a value that holds `dims`, or None where a symbol cannot be read yet.

        All numbers give a constant; otherwise a planish.Extents node is put before `before`.
        """
        if all(isinstance(dim, int) for dim in dims):
            array: np.ndarray[Any, Any] = np.array(dims, dtype.numpy)
            value = self._graph.constant(array.reshape(()) if scalar else array)
            value.content = tuple(dims)
            return value
        names = sorted({name for dim in dims for name in symbols_of(dim)})
        found = [self.place(name) for name in names]
        sources = [place for place in found if place is not None]
        if len(sources) < len(found):
            return None
        inputs = list(dict.fromkeys(value for value, _ in sources))
        places = [part for value, axis in sources for part in (inputs.index(value), axis)]
        attributes = {
            "dims": tuple(map(str, dims)),
            "symbols": tuple(names),
            "places": tuple(places),
            "scalar": int(scalar),
            "dtype": dtype,
        }
        return emit(self._graph, before, "planish.Extents", inputs, attributes)


def extents_before(graph: Graph, node: Node, dims: Sequence[Dim]) -> Value | None:
    """Return a value that holds `dims`, made of what is known before `node`; None if it cannot."""
    sources = ExtentSources(graph)
    for each in graph:
        if each is node:
            break
        for output in each.outputs:
            sources.add(output)
    return sources.emit(node, dims)


def plain_symbol(dim: Dim) -> str | None:
    """Return the name where `dim` is one symbol and nothing else."""
    if isinstance(dim, Expression) and len(dim.terms) == 1:
        (monomial, coefficient), *_ = dim.terms
        if coefficient == 1 and len(monomial) == 1 and not monomial[0].arguments:
            atom: Atom = monomial[0]
            return atom.name
    return None
