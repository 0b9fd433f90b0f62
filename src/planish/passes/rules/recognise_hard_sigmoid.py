"""clip(x + 3, 0, 6) / 6 => HardSigmoid(x)."""

from __future__ import annotations

from planish.ir.graph import Graph, Node, Value
from planish.ir.rewrite import Rule, private_producer, scalar_of, split_constant
from planish.passes.building import emit, finish
from planish.passes.matching import close, strip_scale


class RecogniseHardSigmoid(Rule):
    """ReLU6 of a shifted input, divided by six: MobileNetV3's gate."""

    name = "clip(x + 3, 0, 6) / 6 => HardSigmoid(x, 1/6, 1/2)"
    label = "HardSigmoid"
    roots = ("Mul", "Div")
    stage = "recognise"
    example = """
    graph example(%x: f32[2,3]) {
      @three: f32[] = 3.0
      @zero: f32[] = 0.0
      @six: f32[] = 6.0
      %1 = Add(%x, @three)
      %2 = Clip(%1, @zero, @six)
      %3 = Div(%2, @six)
      return %3
    }"""

    @classmethod
    def rewrite(cls, node: Node, graph: Graph) -> bool:
        """See the class."""
        clip, scale = _scaled_clip(node, graph)
        x = None if clip is None else shifted_relu6(clip, graph)
        if x is None or not close(scale, 1 / 6):
            return False
        attributes = {"alpha": 1 / 6, "beta": 0.5}
        return finish(node, graph, emit(graph, node, "HardSigmoid", [x], attributes))


def _scaled_clip(node: Node, graph: Graph) -> tuple[Value | None, float]:
    if node.op == "Div":
        divisor = scalar_of(node.inputs[1])
        return (None, 0.0) if not divisor else (node.inputs[0], 1 / divisor)
    pair = split_constant(node)
    factor = None if pair is None else scalar_of(pair[1])
    if pair is None or factor is None:
        return None, 0.0
    value, scale = strip_scale(pair[0], graph)
    return value, scale * factor


def shifted_relu6(value: Value, graph: Graph) -> Value | None:
    """Return x where value = clip(x + 3, 0, 6), which nothing else reads."""
    clip = private_producer(value, graph, "Clip")
    if clip is None or scalar_of(clip.input(1)) != 0 or scalar_of(clip.input(2)) != 6:
        return None
    add = private_producer(clip.inputs[0], graph, "Add")
    pair = None if add is None else split_constant(add)
    if pair is None or scalar_of(pair[1]) != 3:
        return None
    return pair[0]
