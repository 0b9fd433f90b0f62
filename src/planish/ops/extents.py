"""Extents of the inputs, and expressions of them, as a small integer tensor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from planish.ir.dtypes import I64
from planish.ir.graph import Node
from planish.ir.shape import Dim, evaluate, parse_dim, substitute
from planish.ops.op import REQUIRED, Array, Attributes, Cost, Inferred, Inputs, Op, Sample


class Extents(Op):
    """All shape arithmetic of a model that must exist at run time, in one step.

    The output holds the expressions `dims` ("N", "2*N+1") over `symbols`; symbol i is the extent of
    axis places[2*i+1] of input places[2*i]. Inputs are read for their shapes only, so a kernel
    needs nothing but the values of the symbols. The pass fold_shapes makes these nodes in place of
    Shape, Gather, Concat and the arithmetic between them.
    """

    name = "planish.Extents"
    attributes: ClassVar[Mapping[str, Any]] = {
        "dims": REQUIRED,
        "symbols": REQUIRED,
        "places": REQUIRED,
        "scalar": 0,
        "dtype": I64,
    }

    @classmethod
    def infer(cls, node: Node) -> list[Inferred]:
        """Return the type; the contents are the expressions over the inputs' extents."""
        attributes = node.attributes
        bindings: dict[str, Dim] = {
            name: node.present_inputs[place].known_shape[axis]
            for name, place, axis in _places(attributes)
        }
        content = tuple(substitute(parse_dim(text), bindings) for text in attributes["dims"])
        shape = () if attributes["scalar"] else (len(content),)
        return [Inferred(attributes["dtype"], shape, content)]

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Evaluate the expressions with the inputs' extents."""
        bindings: dict[str, int] = {}
        for name, place, axis in _places(attributes):
            array = inputs[place]
            if array is not None:
                bindings[name] = array.shape[axis]
        numbers = [evaluate(parse_dim(text), bindings) for text in attributes["dims"]]
        result = np.array(numbers, attributes["dtype"].numpy)
        return [result.reshape(()) if attributes["scalar"] else result]

    @classmethod
    def cost(cls, node: Node) -> Cost:
        """Count the result only: inputs are not read."""
        return Cost(len(node.attributes["dims"]), 8 * len(node.attributes["dims"]))

    @classmethod
    def samples(cls) -> list[Sample]:
        """One vector over two inputs, one scalar."""
        x, y = np.zeros((2, 3), np.float32), np.zeros(5, np.float32)
        shared = {"symbols": ("N", "M"), "places": (0, 1, 1, 0)}
        return [
            Sample((x, y), {**shared, "dims": ("N", "2*N+M", "7")}, name="vector"),
            Sample((x, y), {**shared, "dims": ("floordiv(M,2)",), "scalar": 1}, name="scalar"),
        ]


def _places(attributes: Attributes) -> list[tuple[str, int, int]]:
    """Return (symbol, input, axis) of every symbol."""
    places = attributes["places"]
    return [
        (name, int(places[2 * index]), int(places[2 * index + 1]))
        for index, name in enumerate(attributes["symbols"])
    ]
