"""softmax(scale * q @ k^T + mask) @ v => Attention(q, k, v, mask)."""

from __future__ import annotations

from planish.ir.graph import Graph, Node, Value
from planish.ir.rewrite import Rule
from planish.passes.building import emit, finish
from planish.passes.scores import Scores, find_scores, four_axes, keys_of, mask_of, ungrouped


class RecogniseAttention(Rule):
    """Scaled dot-product attention as exporters spell it.

    Scales may stand before or behind the product, on either operand; masks are added (also in a
    five-axis form, as Swin's shifted windows do) or selected with Where; the transpose of the keys
    is undone; repeated key heads (grouped queries) are read once; a guard that turns NaN rows into
    zeros is what Attention does anyway.
    """

    name = "softmax(scale * q @ k^T + mask) @ v => Attention(q, k, v, mask)"
    label = "attention"
    roots = ("MatMul",)
    stage = "recognise"
    example = """
    graph example(%q: f32[2,3,5,8], %k: f32[2,3,7,8], %v: f32[2,3,7,4], %m: f32[2,1,1,7]) {
      @scale: f32[] = 0.25
      %1 = Transpose(%k) {perm=[0,1,3,2]}
      %2 = MatMul(%q, %1)
      %3 = Mul(%2, @scale)
      %4 = Add(%3, %m)
      %5 = Softmax(%4) {axis=-1}
      %6 = MatMul(%5, %v)
      return %6
    }"""

    @classmethod
    def rewrite(cls, node: Node, graph: Graph) -> bool:
        """See the class."""
        v = node.inputs[1]
        scores = find_scores(node.inputs[0], graph)
        if v is None or v.is_constant or scores is None or v.shape is None:
            return False
        q = scores.query
        if q.is_constant or q.shape is None or q.rank not in (3, 4) or v.rank != q.rank:
            return False
        if not q.dtype.is_float or scores.shape != (*q.known_shape[:-1], v.known_shape[-2]):
            return False
        return _rewrite(node, graph, scores)


def _rewrite(node: Node, graph: Graph, scores: Scores) -> bool:
    v = node.inputs[1]
    keys = keys_of(node, graph, scores)
    if v is None or keys is None or keys.shape is None:
        return False
    short_k, short_v = ungrouped(keys, graph), ungrouped(v, graph)
    if short_k is not None and short_v is not None and _same_heads(short_k, short_v):
        keys, v = short_k, short_v
    elif keys.known_shape[:-2] != scores.query.known_shape[:-2]:
        return False  # a broadcast batch or head axis
    elif v.known_shape[:-2] != scores.query.known_shape[:-2]:
        return False
    mask = mask_of(node, graph, scores)
    if scores.masks and mask is None:
        return False
    rank = scores.query.rank
    q, k, v = (four_axes(graph, node, value) for value in (scores.query, keys, v))
    attributes = {"scale": scores.scale}
    result = emit(graph, node, "Attention", [q, k, v, mask], attributes, scores.nodes)
    if rank == 3:
        result = four_axes(graph, node, result, back=node.output)
    return finish(node, graph, result)


def _same_heads(keys: Value, values: Value) -> bool:
    """Whether keys and values agree in batch, heads and sequence."""
    return keys.known_shape[:3] == values.known_shape[:3]
