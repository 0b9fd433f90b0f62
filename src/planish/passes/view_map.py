"""Where every value lies, as far as it is known while a pass walks over the graph."""

from __future__ import annotations

from planish.ir.graph import Node, Value
from planish.ir.layout import Layout, Storage
from planish.passes.views import VIEWS, Ranges, View, forward, order_of, whole


class ViewMap:
    """Views of values, filled in graph order.

    Parameters
    ----------
    ranges : dict
        Symbol to (min, opt, max).
    """

    def __init__(self, ranges: Ranges) -> None:
        self.ranges = ranges
        self._views: dict[Value, View] = {}

    def own(self, value: Value, layout: Layout) -> None:
        """Record that `value` owns memory in `layout`."""
        self._views[value] = whole(value, layout)

    def put(self, value: Value, view: View) -> None:
        """Record that `value` lies where `view` says."""
        self._views[value] = view

    def get(self, value: Value) -> View | None:
        """Return the view of `value`, or None when it has no place yet."""
        return self._views.get(value)

    def storage(self, value: Value) -> Storage | None:
        """Return the place of `value` if plain strides describe it, else None."""
        view = self._views.get(value)
        return None if view is None else view.storage()

    def order(self, value: Value) -> tuple[int, ...] | None:
        """Return the axis order of `value` in memory, or None when it has no plain place."""
        storage = self.storage(value)
        if storage is None:
            return None
        return order_of(storage.strides, value.known_shape, self.ranges)

    def follow(self, node: Node) -> bool:
        """Record the outputs of a view operator; return whether all of them are views."""
        source = node.inputs[0]
        view = None if source is None else self._views.get(source)
        if view is None or node.op not in VIEWS:
            return False
        found = [forward(node, index, view, self.ranges) for index in range(len(node.outputs))]
        for output, result in zip(node.outputs, found, strict=True):
            if result is not None:
                self._views[output] = result
        return all(result is not None for result in found)
