"""Which layers run on integers, and which tensors become integers for them.

A *layer* here is a product: a convolution or matmul with constant weights. It runs on integers
unless a reason speaks against it, which the report gives the user. Integers are

- the data of every such layer, taken where they are computed: before operators that only move
  elements or choose among them (a transpose, a max pool), which then move integers;
- what else is stored between two such layers and comes from integers: the shortcut of a residual
  block, the operands of a concat, the input of a pool.

Normalization, softmax, attention, and all that comes after the last layer stay floating point:
they read dequantized numbers in registers and store floats. Tensors that are joined by operators
that only move elements share one scale.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from planish.ir.dtypes import F32
from planish.ir.graph import Graph, Node, Value
from planish.ops.op import OPS
from planish.passes.fuse_regions import fused_results
from planish.passes.linear import LINEAR
from planish.passes.moving import is_move
from planish.passes.overrides import wanted_precision
from planish.passes.quantized import MOVING, PRODUCTS
from planish.quantize.scheme import tensor_name

POOLS = frozenset({"AveragePool", "GlobalAveragePool", "GlobalMaxPool", "ReduceMax", "ReduceMean"})
WITHOUT_WEIGHTS = frozenset({"Attention", "com.microsoft.Attention"})
NO_DATA = ("Cast", "CastLike", "Mod", "BitCast", "QuantizeLinear", "DequantizeLinear")


@dataclass
class Selection:
    """What `select_layers` decided.

    Attributes
    ----------
    layers : dict of Node to Value
        The layers that run on integers, in order, each with the tensor that its data come from.
    tensors : list of Value
        The tensors that become integers, in order.
    classes : dict of Value to int
        Tensors with equal numbers share one scale.
    kept : list of (Node, str)
        Layers that stay floating point, and why.
    """

    layers: dict[Node, Value] = field(default_factory=dict)
    tensors: list[Value] = field(default_factory=list)
    classes: dict[Value, int] = field(default_factory=dict)
    kept: list[tuple[Node, str]] = field(default_factory=list)


def select_layers(
    graph: Graph,
    layer_precisions: Mapping[str, str] | None = None,
    prints: Callable[[Node], bool] = lambda node: True,
    unknown: Iterable[str] = (),
) -> Selection:
    """Return the layers and tensors of a simplified float32 graph that become integers.

    Parameters
    ----------
    layer_precisions : dict, optional
        As in `BuildConfig`.
    prints : callable, optional
        As in `FuseRegions`.
    unknown : iterable of str
        Names of tensors whose range is not known; layers that read them stay floating point.
    """
    selection = Selection()
    missing = set(unknown)
    overrides = dict(layer_precisions or {})
    position = _Positions(graph)
    for node in graph:
        if node.op not in PRODUCTS:
            continue
        wanted = wanted_precision(node, overrides)
        reason = _impossible(node)
        if wanted not in (None, "int8"):
            reason = f"layer_precisions asks for {wanted}"
        elif wanted is None:
            reason = reason or _unwise(node) or position.reason(node)
        source = None if reason else _source_of(node.present_inputs[0], graph)
        if source is not None and tensor_name(source) in missing:
            reason = "no range is known of its data"
        if reason is not None or source is None:
            selection.kept.append((node, reason or "its data are a constant"))
            continue
        selection.layers[node] = source
    _select_tensors(graph, selection, prints, missing)
    return selection


def _impossible(node: Node) -> str | None:
    """Return why the operands of a product cannot be integers, or None."""
    x, weight = node.inputs[0], node.inputs[1]
    if x is None or weight is None or x.dtype is not F32 or x.shape is None:
        return "its data are not float32 numbers of known rank"
    if node.op == "MatMul" and x.rank < 2:
        return "its data are a vector"
    if not weight.is_constant:
        return "its weights come first" if x.is_constant else "it multiplies two activations"
    if node.op == "ConvTranspose" and node.attributes["group"] != 1:
        return "it is a transposed convolution in groups"
    return "its weights are no matrix" if node.op == "MatMul" and weight.rank != 2 else None


def _unwise(node: Node) -> str | None:
    """Return why a layer stays floating point unless the user asks for integers, or None."""
    if node.op == "Conv" and all(dim == 1 for dim in node.output.known_shape[2:]):
        return "it works on one pixel, where integers gain nothing"
    return None


class _Positions:
    """Knows which products come last."""

    def __init__(self, graph: Graph) -> None:
        self._before: set[Value] = set()  # values that a later product depends on
        for node in reversed(graph):
            is_product = node.op in LINEAR or node.op in WITHOUT_WEIGHTS
            if is_product or self._before.intersection(node.outputs):
                self._before.update(node.present_inputs)

    def reason(self, node: Node) -> str | None:
        """Return why the place of `node` in the network keeps it floating point, or None."""
        if node.output in self._before:
            return None
        return "it is a last layer, whose result the user reads"


def _source_of(value: Value, graph: Graph) -> Value | None:
    """Return the tensor whose elements `value` consists of; None for a constant."""
    if value.is_constant:
        return None
    node = value.producer
    while node is not None and node.graph is graph and moves_alone(node):
        if node.present_inputs[0].is_constant:  # rows of a table
            break
        value = node.present_inputs[0]
        node = value.producer
    return value


def moves_alone(node: Node) -> bool:
    """Whether `node` makes its results of the elements of one tensor and of zeros."""
    if not is_move(node):
        return False
    if node.op != "Pad":
        return True
    fill = node.input(2)
    plain = fill is None or (fill.is_constant and not fill.array.any())
    return plain or node.attributes["mode"] != "constant"


def _select_tensors(
    graph: Graph, selection: Selection, prints: Callable[[Node], bool], missing: set[str]
) -> None:
    after: set[Value] = set()  # what a layer on integers reads, perhaps through other operators
    for node in reversed(graph):
        if node in selection.layers:
            after.add(node.present_inputs[0])
        elif _carries(node) and after.intersection(node.outputs):
            after.update(value for value in node.present_inputs if value.dtype is F32)
    before: set[Value] = set()  # what comes from such a layer
    for node in graph:
        if node in selection.layers or (
            _carries(node) and before.intersection(node.present_inputs)
        ):
            before.update(output for output in node.outputs if output.dtype is F32)
    chosen = set(selection.layers.values())
    stored = before.intersection(fused_results(graph, prints))
    chosen |= stored & after
    chosen |= _joined_with(graph, chosen, stored)
    order = [*graph.inputs, *(output for node in graph for output in node.outputs)]
    known = [value for value in order if value in chosen and tensor_name(value) not in missing]
    selection.tensors = known
    selection.classes = _classes(graph, known)


def _joined_with(graph: Graph, chosen: set[Value], stored: set[Value]) -> set[Value]:
    """Return the stored tensors that a Concat joins with chosen ones, and with nothing else."""
    found: set[Value] = set()
    for node in graph:
        operands = set(node.present_inputs) if node.op == "Concat" else set()
        if operands & chosen and operands <= chosen | stored:
            found |= operands
    return found


def _carries(node: Node) -> bool:
    """Whether integers in make integers out worth having: pools, moves, pointwise operators."""
    if node.subgraphs or any(output.dtype is not F32 for output in node.outputs):
        return False
    if node.op in MOVING or node.op in POOLS:
        return True
    return OPS[node.op].pointwise and node.op not in NO_DATA


def _classes(graph: Graph, tensors: list[Value]) -> dict[Value, int]:
    """Return a number for each tensor, one for all that moving operators join."""
    parent: dict[Value, Value] = {}

    def root(value: Value) -> Value:
        while value in parent:
            value = parent[value]
        return value

    for node in graph:
        if not (node.op == "Concat" or moves_alone(node)):
            continue
        data = node.present_inputs if node.op == "Concat" else node.present_inputs[:1]
        joined = [value for value in (*data, *node.outputs) if not value.is_constant]
        for value in joined[1:]:
            first, other = root(joined[0]), root(value)
            if first is not other:
                parent[other] = first
    numbers: dict[Value, int] = {}
    return {value: numbers.setdefault(root(value), len(numbers)) for value in tensors}
