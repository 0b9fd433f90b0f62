"""Taking an attention's scores apart: which query and keys, what scale, which masks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from planish.ir.dtypes import BOOL
from planish.ir.graph import Graph, Node, Value
from planish.ir.rewrite import private_producer, producer_in, scalar_of
from planish.ir.shape import Shape
from planish.passes.building import constant, emit, integers, transpose
from planish.passes.extents import extents_before
from planish.passes.matching import permutation, reshape_target, strip_scale

MASKED = -1e3  # scores at or below this take no part in a softmax of ordinary scores
ABSORBING = -1e8  # added to an ordinary score, such a number swallows it


@dataclass
class Mask:
    """What is added to the scores: `value * factor`, or where `keep` is false minus infinity.

    `grouped` is the five-axis shape in which the mask was added, if it was.
    """

    value: Value
    factor: float = 1.0
    boolean: bool = False
    grouped: Shape | None = None


@dataclass
class Scores:
    """scores = scale * query @ product_keys + masks; `product_keys` are transposed keys."""

    query: Value
    product_keys: Value
    scale: float
    shape: Shape
    masks: list[Mask] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)


def find_scores(weights: Value | None, graph: Graph) -> Scores | None:
    """Return the scores behind `weights` = softmax(scores), or None.

    Parameters
    ----------
    weights : Value
        The left operand of the product with the values.
    """
    softmax = _softmax(weights, graph)
    if softmax is None or softmax.inputs[0] is None or softmax.output.shape is None:
        return None
    if int(softmax.attributes["axis"]) not in (-1, softmax.output.rank - 1):
        return None
    masks: list[Mask] = []
    nodes = [softmax]
    value, scale = softmax.inputs[0], 1.0
    grouped: Shape | None = None
    for _ in range(12):
        node = private_producer(value, graph, "MatMul", "Mul", "Div", "Add", "Where", "Reshape")
        if node is None or node.output.shape is None:
            return None
        nodes.append(node)
        if node.op == "MatMul":
            if grouped is not None or node.inputs[0] is None or node.inputs[1] is None:
                return None
            return _assemble(node, graph, scale, masks, nodes)
        step = _peel(node, graph, scale, grouped)
        if step is None:
            return None
        value, factor, mask, grouped = step
        scale *= factor
        if mask is not None:
            masks.append(mask)
    return None


def _assemble(
    product: Node, graph: Graph, scale: float, masks: list[Mask], nodes: list[Node]
) -> Scores | None:
    left, right = product.inputs[0], product.inputs[1]
    if left is None or right is None:
        return None
    query, query_scale = strip_scale(left, graph)
    keys, key_scale = strip_scale(right, graph)
    total = scale * query_scale * key_scale
    if total <= 0:  # Attention splits the scale into two square roots
        return None
    return Scores(query, keys, total, product.output.known_shape, masks, nodes[::-1])


def _softmax(weights: Value | None, graph: Graph) -> Node | None:
    """Return the Softmax that computes `weights`, also from behind Where(IsNaN(w), 0, w)."""
    direct = private_producer(weights, graph, "Softmax")
    if direct is not None:
        return direct
    guard = private_producer(weights, graph, "Where")
    if guard is None or scalar_of(guard.inputs[1]) != 0:
        return None
    softmax = producer_in(guard.inputs[2], graph, "Softmax")
    check = private_producer(guard.inputs[0], graph, "IsNaN")
    if softmax is None or check is None or check.inputs[0] is not softmax.output:
        return None
    readers = {user for user, _ in softmax.output.uses}
    return softmax if readers == {guard, check} and not graph.is_output(softmax.output) else None


Step = tuple[Value, float, Mask | None, Shape | None]


def _peel(node: Node, graph: Graph, scale: float, grouped: Shape | None) -> Step | None:
    """Return (inner value, factor, mask, grouped shape) of one step towards the product."""
    if node.op in ("Mul", "Div"):
        base, factor = strip_scale(node.output, graph)
        return None if base is node.output else (base, factor, None, grouped)
    if node.op == "Reshape":
        return _regrouped(node, grouped)
    if node.op == "Where":
        return _selected(node, graph, scale, grouped)
    left, right = node.inputs[0], node.inputs[1]
    for inner, added in ((left, right), (right, left)):
        if inner is None or added is None or inner.shape != node.output.shape:
            continue
        if _leads_to_product(inner, graph):
            return inner, 1.0, Mask(added, scale, grouped=grouped), grouped
    return None


def _regrouped(node: Node, grouped: Shape | None) -> Step | None:
    """Follow a reshape between [B*W,H,S,S] and [B,W,H,S,S] (windows of a Swin transformer)."""
    inner = node.inputs[0]
    if inner is None or inner.shape is None or node.output.shape is None:
        return None
    if grouped is None:
        if inner.rank != node.output.rank + 1:
            return None
        same = inner.known_shape[2:] == node.output.known_shape[1:]
        return (inner, 1.0, None, inner.known_shape) if same else None
    same = node.output.known_shape == grouped and inner.rank == len(grouped) - 1
    return (inner, 1.0, None, None) if same else None


def _selected(node: Node, graph: Graph, scale: float, grouped: Shape | None) -> Step | None:
    """Follow Where(keep, scores, very negative) and Where(drop, very negative, scores)."""
    condition, first, second = node.inputs
    if condition is None or first is None or second is None or grouped is not None:
        return None
    for inner, fill, keep in ((first, second, True), (second, first, False)):
        number = scalar_of(fill)
        if number is None or number * scale > MASKED or inner.shape != node.output.shape:
            continue
        if not _leads_to_product(inner, graph):
            continue
        if -math.inf < number <= ABSORBING and not _leaves_some(condition, keep):
            zero = constant(graph, np.zeros(()), fill)
            operands = [zero, fill] if keep else [fill, zero]
            added = emit(graph, node, "Where", [condition, *operands])
            return inner, 1.0, Mask(added, scale), None
        if not keep:
            condition = emit(graph, node, "Not", [condition])
        return inner, 1.0, Mask(condition, boolean=True), None
    return None


def _leaves_some(condition: Value, keep: bool) -> bool:
    """Whether a constant mask leaves every row an element: others may be hidden in any way then.

    A row that is hidden as a whole has equal weights where the number is finite, as Keras has it,
    and none where it is minus infinity.
    """
    if condition.constant is None:
        return False
    kept = condition.array if keep else ~condition.array
    return bool(kept.any(axis=-1).all())


def _leads_to_product(value: Value, graph: Graph) -> bool:
    for _ in range(8):
        node = private_producer(value, graph, "MatMul", "Mul", "Div", "Add", "Where", "Reshape")
        if node is None:
            return False
        if node.op == "MatMul":
            return True
        tensors = [v for v in node.present_inputs if v.producer is not None and not v.is_constant]
        inner = next((v for v in tensors if v.shape == node.output.shape), None)
        following = node.inputs[0] if node.op == "Reshape" else inner
        if following is None:
            return False
        value = following
    return False


def keys_of(node: Node, graph: Graph, scores: Scores) -> Value | None:
    """Return the keys [.., S, D]: the product's right operand with its last axes swapped back."""
    keys = scores.product_keys
    if keys.is_constant or keys.shape is None or keys.rank != scores.query.rank:
        return None
    swap = (*range(keys.rank - 2), keys.rank - 1, keys.rank - 2)
    turned = producer_in(keys, graph, "Transpose")
    if turned is not None and permutation(turned) == swap:
        return turned.inputs[0]
    if turned is not None and turned.inputs[0] is not None:
        first = permutation(turned)
        if first is not None:
            composed = tuple(first[axis] for axis in swap)
            return transpose(graph, node, turned.inputs[0], composed)
    return transpose(graph, node, keys, swap)


def ungrouped(value: Value, graph: Graph) -> Value | None:
    """Return x [B,G,S,D] where value [B,G*r,S,D] repeats each of its heads r times."""
    merged = producer_in(value, graph, "Reshape")
    spread = None if merged is None else producer_in(merged.inputs[0], graph, "Expand")
    split = None
    if spread is not None:
        split = producer_in(spread.inputs[0], graph, "Reshape", "Unsqueeze")
    if split is None or spread is None or split.inputs[0] is None:
        return None
    x, wide = split.inputs[0], spread.output.shape
    if x.shape is None or x.rank != 4 or wide is None or len(wide) != 5 or value.shape is None:
        return None
    b, g, s, d = x.shape
    narrow = split.output.known_shape
    if narrow != (b, g, 1, s, d) or (wide[0], wide[1], *wide[3:]) != (b, g, s, d):
        return None
    return x if value.shape == (b, g * wide[2], s, d) else None


def mask_of(node: Node, graph: Graph, scores: Scores) -> Value | None:
    """Return all masks as one operand with four axes that broadcasts to the scores, or None."""
    grouped = next((mask.grouped for mask in scores.masks if mask.grouped is not None), None)
    total: Value | None = None
    for mask in scores.masks:
        if mask.boolean and len(scores.masks) > 1:
            return None
        value = _plain(node, graph, mask, grouped)
        if value is None or value.shape is None:
            return None
        if not mask.boolean and value.dtype is not scores.query.dtype:
            return None
        total = value if total is None else emit(graph, node, "Add", [total, value])
    if total is not None and grouped is not None:
        total = _ungrouped_mask(node, graph, total, grouped, scores.shape)
    if total is None or total.shape is None:
        return None
    if total.shape[-1:] != scores.shape[-1:]:
        return None
    if total.dtype is not BOOL and not total.dtype.is_float:
        return None
    return _leading_axes(graph, node, total, len(scores.shape))


def _plain(node: Node, graph: Graph, mask: Mask, grouped: Shape | None) -> Value | None:
    """Return one mask, scaled, with the axes of the grouped form if there is one."""
    value = mask.value
    if value.shape is None or value.rank > (4 if mask.grouped is None else 5):
        return None
    if grouped is not None and mask.grouped is None and value.rank == 4:
        if value.known_shape[0] != 1:
            return None
        value = emit(graph, node, "Unsqueeze", [value, integers(graph, 1)])
    if mask.factor != 1.0:
        factor = constant(graph, np.array(mask.factor), value)
        value = emit(graph, node, "Mul", [value, factor])
    return value


def _ungrouped_mask(
    node: Node, graph: Graph, mask: Value, grouped: Shape, shape: Shape
) -> Value | None:
    """Return a mask [B,W,H,S,S] (extents may be 1) as [B*W,H,S,S]."""
    if mask.shape is None:
        return None
    wide = (
        tuple(
            dim if axis < 2 else have
            for axis, (dim, have) in enumerate(zip(grouped, mask.shape, strict=True))
        )
        if mask.rank == 5
        else grouped
    )
    target = reshape_target(wide, (shape[0], *wide[2:]))
    dims = extents_before(graph, node, wide)
    if target is None or dims is None:
        return None
    spread = emit(graph, node, "Expand", [mask, dims])
    return emit(graph, node, "Reshape", [spread, integers(graph, *target)])


def _leading_axes(graph: Graph, node: Node, value: Value, rank: int) -> Value | None:
    """Return `value` with four axes; a three-axis score tensor has its heads axis in front."""
    shape: Sequence[int | None] = [
        dim if isinstance(dim, int) else None for dim in value.known_shape
    ]
    if value.rank > rank:
        return None
    missing = tuple(range(rank - len(shape)))
    if missing:
        value = emit(graph, node, "Unsqueeze", [value, integers(graph, *missing)])
    return four_axes(graph, node, value) if rank == 3 else value


def four_axes(graph: Graph, node: Node, value: Value, back: Value | None = None) -> Value:
    """Return a three-axis tensor [B,S,D] as [B,1,S,D] (or undo it when `back` is given)."""
    if back is not None:
        return emit(graph, node, "Squeeze", [value, integers(graph, 1)])
    if value.rank == 4:
        return value
    return emit(graph, node, "Unsqueeze", [value, integers(graph, 1)])
