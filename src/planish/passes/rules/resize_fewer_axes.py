"""Resize(x, all sizes) => Resize(x, sizes of the axes that change)."""

from __future__ import annotations

import numpy as np

from planish.ir.graph import Graph, Node
from planish.ir.rewrite import Rule
from planish.ops.content import contents
from planish.passes.building import emit, finish, integers


class ResizeFewerAxes(Rule):
    """Axes that keep their extent are not named, so that a computed batch size is not needed."""

    name = "Resize(x, sizes) => Resize(x, sizes[changed], axes=changed)"
    label = "shape arithmetic"
    roots = ("Resize",)
    example = """
    symbols N=(1,2,4)
    graph example(%x: f32[N,2,3,4]) {
      @rest: i64[3] = [2, 6, 8]
      %n = Shape(%x) {end=1}
      %s = Concat(%n, @rest) {axis=0}
      %1 = Resize(%x, _, _, %s)
      return %1
    }"""

    @classmethod
    def rewrite(cls, node: Node, graph: Graph) -> bool:
        """See the class."""
        x, sizes = node.inputs[0], contents(node.input(3))
        attributes = node.attributes
        if x is None or x.shape is None or sizes is None or node.input(2) is not None:
            return False
        if attributes["axes"] or attributes["keep_aspect_ratio_policy"] != "stretch":
            return False
        if attributes["coordinate_transformation_mode"] == "tf_crop_and_resize":
            return False
        pairs = enumerate(zip(x.known_shape, sizes, strict=True))
        changed = [axis for axis, (have, wanted) in pairs if have != wanted]
        numbers = [sizes[axis] for axis in changed]
        if not changed or len(changed) == x.rank or not all(isinstance(n, int) for n in numbers):
            return False
        wanted = integers(graph, *np.array(numbers, np.int64).tolist())
        inputs = [x, None, None, wanted]
        filled = {**attributes, "axes": tuple(changed)}
        return finish(node, graph, emit(graph, node, "Resize", inputs, filled))
