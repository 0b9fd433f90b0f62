"""Store float32 values as bf16 where that makes the model faster (``precision="bf16"``).

What gains from bf16 are products: convolutions and matmuls, whose weights and operands shrink and
whose instructions are twice as fast or better. So the pass finds them (*products*), runs them on
bf16 operands, and stores in bf16 whatever lies between two products: normalizations, activations,
residual additions, pooling, softmax. What comes before the first product (embedding of positions,
spectrograms, masks) and after the last one (box decoding, scores) stays float32, because there is
nothing to gain and coordinates do not fit into eight bits of mantissa. Operators whose results
jump with small changes (TopK, ArgMax, CumSum, ...) and recurrent cells read and write float32.

Arithmetic is float32 in registers everywhere: a Cast only says how a value is stored, and fuses
into the region that writes or reads it. Graph inputs and outputs keep their types.

The regions of quantized products are left as they are, but for what they read and store in floats.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from planish.ir.declarations import DECLARED
from planish.ir.dtypes import BF16, F16, F32, DType
from planish.ir.graph import Graph, Node, Value
from planish.ir.rewrite import remove_dead
from planish.ir.source import Source
from planish.ops.op import op_of
from planish.passes.compressed import is_compressed_product
from planish.passes.fuse_regions import integer_regions
from planish.passes.graph_pass import GraphPass
from planish.passes.overrides import wanted_precision
from planish.passes.quantized import QUANTIZE, dequantize_of, widening_of

HALVES = {"bf16": BF16, "fp16": F16}
LARGEST = {BF16: float(np.finfo(np.float32).max) * (1 - 2.0**-8), F16: 65504.0}
PRODUCTS = frozenset(
    {
        "Attention",
        "Conv",
        "ConvTranspose",
        "FusedMatMul",
        "Gemm",
        "MatMul",
        "com.microsoft.Attention",
        "com.microsoft.FusedConv",
        "com.microsoft.FusedGemm",
        "com.microsoft.FusedMatMul",
        "com.microsoft.MultiHeadAttention",
    }
)
# not pointwise, but as good on rounded operands as on exact ones
LOWERABLE = frozenset(
    {
        "AveragePool",
        "BatchNormalization",
        "Concat",
        "DepthToSpace",
        "Expand",
        "Flatten",
        "Gather",
        "GlobalAveragePool",
        "GlobalMaxPool",
        "GroupNormalization",
        "Identity",
        "InstanceNormalization",
        "LRN",
        "LayerNormalization",
        "LogSoftmax",
        "LpNormalization",
        "MaxPool",
        "Pad",
        "RMSNormalization",
        "ReduceMax",
        "ReduceMean",
        "ReduceMin",
        "ReduceSum",
        "Reshape",
        "Resize",
        "Slice",
        "Softmax",
        "SpaceToDepth",
        "Split",
        "Squeeze",
        "Tile",
        "Transpose",
        "Unsqueeze",
    }
)
# pointwise, but their operands are angles, exponents or bits that rounding would spoil
EXACT = frozenset({"Cast", "Cos", "Sin", "Tan", "Mod", "BitCast", "CastLike", "Round", "Floor"})
# operands that stay float32 in a bf16 node: accumulated in registers, or no data
FLOAT_SLOTS: dict[str, tuple[int, ...]] = {
    "BatchNormalization": (1, 2, 3, 4),
    "Conv": (2,),
    "ConvTranspose": (2,),
    "GroupNormalization": (1, 2),
    "InstanceNormalization": (1, 2),
    "LayerNormalization": (1, 2),
    "RMSNormalization": (1,),
    "Resize": (1, 2),
    "com.microsoft.FusedConv": (2,),
}
TABLE_ELEMENTS = 1 << 16  # a constant that a Gather reads is an embedding table from this size on


class LowerPrecision(GraphPass):
    """Runs products, and what lies between them, on bf16 values."""

    name = "lower_precision"

    def __init__(
        self,
        precision: str = "bf16",
        layer_precisions: Mapping[str, str] | None = None,
        prints: Callable[[Node], bool] = lambda node: True,
    ) -> None:
        super().__init__()
        self.prints = prints
        self.dtype = HALVES.get(precision, BF16)
        self.precision = precision
        self.overrides = dict(layer_precisions or {})

    def run(self, graph: Graph) -> bool:
        """Lower the values of one graph; its inputs and outputs keep their types."""
        inside, results = integer_regions(graph, self.prints)
        allowed = {node for node in graph if node not in inside and self._is_allowed(node)}
        lowered_nodes = _nodes_to_lower(graph, allowed, inside, results)
        if not lowered_nodes:
            return False
        nodes, stored = lowered_nodes
        self.count(f"operators on {self.dtype.name}", len(nodes))
        self.count(f"products on {self.dtype.name}", sum(map(_is_product, nodes)))
        _Lowering(graph, self.dtype, nodes, stored, inside).apply(results)
        return True

    def _is_allowed(self, node: Node) -> bool:
        """Whether the user lets `node` go lower."""
        return (wanted_precision(node, self.overrides) or self.precision) in HALVES


def nodes_to_lower(graph: Graph) -> list[Node]:
    """Return the nodes of a float32 graph that run on 16-bit floats where these are asked for."""
    found = _nodes_to_lower(graph, set(graph), set(), ())
    return [] if found is None else list(found[0])


def _nodes_to_lower(
    graph: Graph, allowed: set[Node], inside: set[Node], results: Sequence[Value]
) -> tuple[dict[Node, None], set[Value]] | None:
    """Return the nodes that run on bf16 and the values that are stored so; None for nothing.

    The nodes `inside` the regions of quantized products compute as they did; only their `results`,
    and what they read besides integers, may be stored as bf16.
    """
    # computed from a product or an embedding table
    before: set[Value] = {value for value in results if value.dtype is F32}
    for node in graph:
        if node not in allowed:
            continue
        if _is_source(node) or (_is_lowerable(node) and before.intersection(node.present_inputs)):
            before.update(output for output in node.outputs if output.dtype is F32)
    after: set[Value] = set()  # read by a product, perhaps through other operators
    for node in reversed(graph):
        if node not in allowed and node not in inside:
            continue
        is_product = _is_product(node) and node in allowed
        feeds = not after.isdisjoint(node.outputs) or _is_quantized_next(node)
        if is_product or (feeds and _is_lowerable(node)):
            after.update(value for value in node.present_inputs if value.dtype is F32)
    stored = {value for value in before & after if not value.is_constant}
    nodes = {
        node: None
        for node in graph
        if node in allowed and (_is_product(node) or stored.intersection(node.outputs))
    }
    return (nodes, stored) if nodes else None


def _is_product(node: Node) -> bool:
    """Whether `node` multiplies float32 matrices, one of its operands at least not yet bf16."""
    return node.op in PRODUCTS and node.outputs[0].dtype is F32


def _is_quantized_next(node: Node) -> bool:
    """Whether a result of `node` becomes integers, in its own region."""
    return any(user.op == QUANTIZE for output in node.outputs for user, _ in output.uses)


def _is_source(node: Node) -> bool:
    if node.op == "Gather":
        table = node.inputs[0]
        return (
            table is not None
            and table.constant is not None
            and table.dtype is F32
            and table.array.size >= TABLE_ELEMENTS
        )
    return _is_product(node)


def _is_lowerable(node: Node) -> bool:
    if node.subgraphs or any(output.dtype is not F32 for output in node.outputs):
        return False
    if node.op in LOWERABLE or node.op in PRODUCTS:
        return len(node.outputs) == 1 or node.op == "Split"
    return op_of(node).pointwise and node.op not in EXACT


class _Lowering:
    """One run over a graph."""

    def __init__(
        self,
        graph: Graph,
        dtype: DType,
        nodes: dict[Node, None],
        stored: set[Value],
        inside: set[Node],
    ) -> None:
        self.graph = graph
        self.dtype = dtype
        self.nodes = nodes
        self.stored = stored
        self.inside = inside
        self.casts: dict[tuple[Value, DType], Value] = {}
        self.constants: dict[Value, Value] = {}

    def apply(self, results: Sequence[Value]) -> None:
        """Rewrite the nodes in order; `results` of integer regions are stored as they are read."""
        for result in results:
            if result in self.stored:
                self._store(result)
        for node in list(self.graph):
            if node in self.nodes:
                self._lower(node)
                continue
            for index, value in enumerate(node.inputs):
                if value is not None and value in self.stored:
                    node.replace_input(index, self._cast(value, F32, node))
            if node in self.inside:
                self._widen_itself(node)
        for value in list(self.casts.values()):
            if value.producer is not None:
                remove_dead(value.producer, self.graph)
        for value in [value for value in self.graph.outputs if value in self.stored]:
            original = self._cast(value, F32, None)
            self.graph.outputs = [original if o is value else o for o in self.graph.outputs]

    def _store(self, value: Value) -> None:
        """Let every reader of an integer region's result read it rounded to bf16."""
        self.stored.discard(value)
        uses = list(value.uses)
        narrow = self._cast(value, self.dtype, None)
        wide = self._cast(narrow, F32, None)
        self.casts[wide, self.dtype] = narrow
        for reader, index in uses:
            reader.replace_input(index, wide)

    def _widen_itself(self, node: Node) -> None:
        """Give `node` a Cast of its own for each bf16 operand, which fuses into its region."""
        for index, value in enumerate(node.inputs):
            cast = widening_of(value)
            if cast is None or value is None or cast.op != "Cast" or len(value.uses) == 1:
                continue
            own = self.graph.new_value(F32, value.shape, value.name)
            again = Node("Cast", cast.inputs, [own], cast.attributes, cast.source)
            self.graph.insert_after(cast, again)
            node.replace_input(index, own)

    def _lower(self, node: Node) -> None:
        if is_compressed_product(node):
            self._lower_compressed(node)
        kept = FLOAT_SLOTS.get(node.op, ())
        for index, value in enumerate(node.inputs):
            if value is None:
                continue
            if index in kept:
                if value in self.stored:
                    node.replace_input(index, self._cast(value, F32, node))
            elif value.dtype is F32:
                node.replace_input(index, self._lowered(value, node))
        for output in node.outputs:
            if output.dtype is F32:
                self._retype(node, output)

    def _lower_compressed(self, node: Node) -> None:
        """Let the weights of few bits that `node` multiplies by become 16-bit floats."""
        old = dequantize_of(node.inputs[1])
        if old is None:
            return
        result = self.graph.new_value(self.dtype, old.output.shape, old.output.name)
        attributes = {**old.attributes, "output_dtype": self.dtype.onnx}
        self.graph.insert_before(node, Node(old.op, old.inputs, [result], attributes, old.source))
        node.replace_input(1, result)
        remove_dead(old, self.graph)

    def _lowered(self, value: Value, node: Node) -> Value:
        if value.is_constant:
            if value not in self.constants:
                self.constants[value] = self._lower_constant(value)
            return self.constants[value]
        return self._cast(value, self.dtype, node)

    def _lower_constant(self, value: Value) -> Value:
        """Round a constant; finite numbers stay finite (a mask's -3.4e38 would become -inf)."""
        limit = LARGEST[self.dtype]
        array = value.array
        finite = np.isfinite(array)
        clipped = np.where(finite, np.clip(array, -limit, limit), array)
        return self.graph.constant(clipped.astype(self.dtype.numpy), f"{value.name}.bf16")

    def _retype(self, node: Node, output: Value) -> None:
        """Store an output as bf16; readers that want float32 get it from a Cast."""
        output.dtype = self.dtype
        readers_elsewhere = [use for use in output.uses if use[0].graph is not self.graph]
        if output in self.stored:
            for reader, index in readers_elsewhere:
                reader.replace_input(index, self._cast(output, F32, None, node))
            return
        if not output.uses and not self.graph.is_output(output):
            return
        uses = list(output.uses)
        original = self._cast(output, F32, None, node)
        for reader, index in uses:
            reader.replace_input(index, original)
        self.graph.outputs = [original if o is output else o for o in self.graph.outputs]

    def _cast(
        self, value: Value, dtype: DType, before: Node | None, after: Node | None = None
    ) -> Value:
        """Return `value` in another type, cast once, right behind its producer."""
        known = self.casts.get((value, dtype))
        if known is not None:
            return known
        result = self.graph.new_value(dtype, value.shape, f"{value.name}.{dtype.name}")
        origin = value.producer or before or after
        source = origin.source if origin is not None else Source()
        attributes = {**DECLARED["Cast"], "to": dtype}
        cast = Node("Cast", [value], [result], attributes, source)
        producer = value.producer
        if producer is not None and producer.graph is self.graph:
            self.graph.insert_after(producer, cast)
        else:
            self._insert_first(cast)
        self.casts[value, dtype] = result
        return result

    def _insert_first(self, cast: Node) -> None:
        first = next(iter(self.graph), None)
        if first is None:
            self.graph.append(cast)
            return
        self.graph.insert_before(first, cast)
