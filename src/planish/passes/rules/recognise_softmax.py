"""exp(x - max(x)) / sum(exp(x - max(x))) => Softmax(x)."""

from __future__ import annotations

from planish.ir.graph import Graph, Node
from planish.ir.rewrite import Rule, integers_of, producer_in
from planish.passes.building import emit, finish


class RecogniseSoftmax(Rule):
    """With or without the maximum subtracted; over one axis."""

    name = "exp(x - max(x)) / sum(exp(x - max(x))) => Softmax(x)"
    label = "Softmax"
    roots = ("Div",)
    stage = "recognise"
    example = """
    graph example(%x: f32[2,3,8]) {
      @axis: i64[1] = [1]
      %1 = ReduceMax(%x, @axis)
      %2 = Sub(%x, %1)
      %3 = Exp(%2)
      %4 = ReduceSum(%3, @axis)
      %5 = Div(%3, %4)
      return %5
    }"""

    @classmethod
    def rewrite(cls, node: Node, graph: Graph) -> bool:
        """See the class."""
        exp = producer_in(node.inputs[0], graph, "Exp")
        total = producer_in(node.inputs[1], graph, "ReduceSum")
        if exp is None or total is None or total.inputs[0] is not exp.output:
            return False
        axis = _single_axis(total)
        x = exp.inputs[0]
        if axis is None or x is None:
            return False
        shifted = producer_in(x, graph, "Sub")
        if shifted is not None:
            largest = producer_in(shifted.inputs[1], graph, "ReduceMax")
            if largest is not None and largest.inputs[0] is shifted.inputs[0]:
                x = shifted.inputs[0] if _single_axis(largest) == axis else x
        return finish(node, graph, emit(graph, node, "Softmax", [x], {"axis": axis}))


def _single_axis(reduction: Node) -> int | None:
    axes, x = integers_of(reduction.input(1)), reduction.inputs[0]
    if axes is None or len(axes) != 1 or x is None or x.shape is None:
        return None
    return axes[0] % x.rank if reduction.attributes.get("keepdims", 1) else None
