"""One element of a tensor along an axis, by a number that is certain to be in range."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from planish.ir.graph import Node
from planish.ops.numeric import random_array, required
from planish.ops.op import (
    REQUIRED,
    Array,
    Attributes,
    Cost,
    Inferred,
    Inputs,
    Op,
    Sample,
    normalize_axis,
)


class Element(Op):
    """x[..., index, ...] along `axis`, where 0 <= index < extent for certain: a view of x.

    The pass native_loops makes it from a Gather whose index is the number of an iteration.
    """

    name = "planish.Element"
    attributes: ClassVar[Mapping[str, Any]] = {"axis": REQUIRED}
    view = True

    @classmethod
    def infer(cls, node: Node) -> list[Inferred]:
        """Return the type without the axis."""
        x = node.present_inputs[0]
        if x.shape is None:
            return [Inferred(x.dtype, None)]
        axis = normalize_axis(node.attributes["axis"], len(x.shape), node)
        return [Inferred(x.dtype, (*x.shape[:axis], *x.shape[axis + 1 :]))]

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Index."""
        index = int(required(inputs, 1).reshape(-1)[0])
        return [np.take(required(inputs, 0), index, axis=attributes["axis"])]

    @classmethod
    def cost(cls, node: Node) -> Cost:
        """Return nothing: it is a view."""
        return Cost(0, 0)

    @classmethod
    def samples(cls) -> list[Sample]:
        """Cover the first, a middle and the last axis."""
        x = random_array(1, 3, 4, 5)
        return [
            Sample((x, np.array(index, np.int64)), {"axis": axis}, (1,), name=f"axis{axis}")
            for axis, index in ((0, 0), (1, 3), (-1, 2))
        ]
