"""Quantized products as products of integers with the scales behind them.

The normal form of a quantized region multiplies dequantized numbers:

    Conv | MatMul(DequantizeLinear(x, sx, zx), DequantizeLinear(w, sw, zw)), bias, epilogue

Its *integer form*, which kernels are printed from, is the same function without rounding:

    ConvInteger | MatMulInteger(x, w, zx, zw) -> Cast -> Mul(sx * sw) -> Add(bias), epilogue

Floats of eight bits (f8e4m3) have the same form without the Cast: their product is a Conv or
MatMul whose sums are float32. A transposed convolution, for which ONNX has no operator of integers,
keeps its name, and no zero points: its kernel reads them from the region.
Sums are exact. A scale that only the data tells (sx) is a factor of its own, and a zero point that
only the data tells is taken off afterwards, times the sums of the weights. A mean over windows is a
depthwise product by ones. Padding is zeros in memory; where zero is not the zero point, the bias
makes up for it at the border and has one number for each position. An epilogue that ends in
QuantizeLinear absorbs its scale where it can (`absorb_scale`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from planish.ir.declarations import DECLARED
from planish.ir.dtypes import F8E4M3, F32, I8, I32, U8, DType
from planish.ir.graph import Graph, Node, Value
from planish.ir.rewrite import scalar_of
from planish.ops.convolution import window_of
from planish.tactics.byte_table import byte_function
from planish.tactics.tactic import Region

Array = np.ndarray[Any, Any]
BYTES = (I8, U8)
PADDING_BYTES = 16 << 20  # a larger correction of the padding is not worth its memory
INTEGER_OPS = {
    "AveragePool": "ConvInteger",
    "Conv": "ConvInteger",
    "ConvTranspose": "ConvTranspose",
    "MatMul": "MatMulInteger",
}
# kernels of others do not read padding, or allow for it themselves
PADDED = ("AveragePool", "Conv")


def largest_sum(depth: int) -> float:
    """Return a bound of sums of `depth` products of eight bits."""
    return depth * 255.0 * 128.0


def integer_form(region: Region, masked: bool = False) -> Region | None:
    """Return the integer form of a region whose anchor is a quantized product, else None.

    With `masked`, kernels do not read the padding as zeros from memory but put the zero point
    there, so that nothing has to make up for it; and they multiply f8e4m3, too.
    """
    anchor = region.anchor
    if anchor is None or anchor.op not in INTEGER_OPS:
        return None
    factors = factors_of(anchor, masked)
    if factors is None or not _is_padding_known(anchor, factors):
        return None
    body = _Lowering(region, anchor, factors).body()
    node = Node("Region", [], [], {"kind": factors.operator(anchor), "body": body})
    operands = [
        tuple(replace(operand, value=value) for operand, value in zip(given, values, strict=True))
        for given, values in ((region.inputs, body.inputs), (region.outputs, body.outputs))
    ]
    return replace(region, node=node, body=body, inputs=operands[0], outputs=operands[1])


@dataclass(frozen=True)
class Factors:
    """What a quantized product multiplies.

    Attributes
    ----------
    data : Node
        The DequantizeLinear of the data.
    weight : Node or None
        That of the weights; None for a mean, which is a sum with weights of one.
    weights : numpy.ndarray
        Eight bits, zero points not taken off.
    zero : Value or None
        Zero points of the weights.
    scale : numpy.ndarray
        Scale of the weights: a number, one a column, or (a mean at borders) one a position.
    axis : int
        Axis of the weights along which the columns (output channels) lie.
    masked : bool
        See `integer_form`.
    """

    data: Node
    weight: Node | None
    weights: Array
    zero: Value | None
    scale: Array
    axis: int = 0
    masked: bool = False

    def operator(self, anchor: Node) -> str:
        """Return the operator of the product in its integer form."""
        return INTEGER_OPS[anchor.op] if self.weights.dtype.kind in "iu" else anchor.op

    @property
    def plain_weights(self) -> Array:
        """The weights minus their zero points."""
        return without_zero_point(self.weights, self.zero, self.axis)


def factors_of(anchor: Node, masked: bool = False) -> Factors | None:
    """Return the factors of a quantized product, or None when it is none."""
    data = _dequantize_of(anchor.input(0))
    if data is None or not _is_quantized_data(anchor, data):
        return None
    stored = data.present_inputs[0].dtype
    if stored not in BYTES and not (masked and stored is F8E4M3):
        return None
    if anchor.op == "AveragePool":
        found = _factors_of_mean(anchor, data) if stored in BYTES else None
        return None if found is None else replace(found, masked=masked)
    weight = _dequantize_of(anchor.input(1))
    if weight is None or not _is_quantized_weight(anchor, weight):
        return None
    w, scale = weight.present_inputs[:2]
    if (w.dtype in BYTES) != (stored in BYTES):
        return None
    axis, steps = column_axis(anchor, w.rank), scale.array.astype(np.float64)
    return Factors(data, weight, w.array, weight.input(2), steps, axis, masked)


def column_axis(anchor: Node, rank: int) -> int:
    """Return the axis of a product's weights along which its columns lie."""
    return {"Conv": 0, "ConvTranspose": 1}.get(anchor.op, rank - 1)


def _factors_of_mean(anchor: Node, data: Node) -> Factors | None:
    """Return a mean over windows as a depthwise sum with the reciprocal of the window as scale."""
    window, x = window_of(anchor), anchor.present_inputs[0]
    channels, extents = x.known_shape[1], (*x.known_shape[2:], *anchor.output.known_shape[2:])
    static = window.padding.static is not None and not window.ceil_mode
    if not static or not all(isinstance(extent, int) for extent in (channels, *extents)):
        return None
    ones = np.ones((int(str(channels)), 1, *window.kernel), np.int8)
    scale = np.full((), 1 / math.prod(window.kernel))
    if not window.padding.is_zero and not anchor.attributes["count_include_pad"]:
        scale = 1 / _taps_inside(np.ones((1, *window.kernel)), anchor)
    return Factors(data, None, ones, None, scale)


def _dequantize_of(value: Value | None) -> Node | None:
    if value is None or value.producer is None or value.producer.op != "DequantizeLinear":
        return None
    return value.producer


def _is_quantized_data(anchor: Node, data: Node) -> bool:
    """Whether the data have one scale, and a zero point that kernels can allow for."""
    if data.output.dtype is not F32 or anchor.output.dtype is not F32:
        return False
    scale, zero = data.input(1), data.input(2)
    if scale is None or any(dim != 1 for dim in scale.known_shape):
        return False
    if anchor.op == "ConvTranspose" and zero is not None and zero.constant is None:
        return False
    return zero is None or all(dim == 1 for dim in zero.known_shape)


def _is_padding_known(anchor: Node, factors: Factors) -> bool:
    """Whether kernels that take padding for zeros can allow for the data's zero point."""
    if not _has_shifted_padding(anchor, factors):
        return True
    extents = anchor.output.known_shape[1:]
    static = [extent for extent in extents if isinstance(extent, int)]
    known = len(static) == len(extents) and window_of(anchor).padding.static is not None
    return known and 4 * math.prod(static) <= PADDING_BYTES


def _is_quantized_weight(anchor: Node, weight: Node) -> bool:
    """Whether the weights are constant bytes with one scale or one for each column."""
    w, bias = weight.present_inputs[0], anchor.input(2)
    if w.dtype not in (*BYTES, F8E4M3) or w.constant is None:
        return False
    if bias is not None and bias.constant is None:
        return False
    parameters = [value for value in weight.inputs[1:] if value is not None]
    if any(value.constant is None for value in parameters):
        return False
    if all(value.array.size == 1 for value in parameters):
        return True
    if anchor.op == "ConvTranspose" and int(anchor.attributes["group"]) != 1:
        return False
    along = int(weight.attributes.get("axis", 1)) % w.rank == column_axis(anchor, w.rank)
    return along and not int(weight.attributes.get("block_size", 0) or 0)


# -- padding with a zero point ---------------------------------------------------------------------


def _has_shifted_padding(anchor: Node, factors: Factors) -> bool:
    """Whether a padding, which is zeros in memory, stands for another number than zero."""
    zero = factors.data.input(2)
    if factors.masked or anchor.op not in PADDED or zero is None or scalar_of(zero) == 0:
        return False
    return not window_of(anchor).padding.is_zero


def padding_sums(anchor: Node, factors: Factors) -> Array:
    """Return the zero point times the weights that lie on padding, as [O, *extents].

    Kernels subtract zero point times *all* weights from each sum, whereas a tap on the padding adds
    nothing to begin with.
    """
    taps = factors.plain_weights.sum(axis=1, dtype=np.float64)
    inside = _taps_inside(taps, anchor)
    total = taps.reshape(len(taps), -1).sum(axis=1)
    outside: Array = total.reshape(-1, *(1,) * (inside.ndim - 1)) - inside
    return float(scalar_of(factors.data.input(2)) or 0) * outside


def _taps_inside(taps: Array, anchor: Node) -> Array:
    """Return the sums [O, *extents] of those `taps` [O, *kernel] that lie inside the input."""
    window, inside = window_of(anchor), taps
    axes = zip(
        window.kernel, window.strides, window.dilations, window.padding.static or (),
        anchor.present_inputs[0].known_shape[2:], anchor.output.known_shape[2:], strict=True,
    )  # fmt: skip
    for kernel, stride, dilation, (begin, _), extent, positions in axes:
        at = np.arange(kernel)[:, None] * dilation + np.arange(int(str(positions))) * stride - begin
        # the first axis of taps becomes the last one, of positions
        inside = np.tensordot(inside, ((at >= 0) & (at < int(str(extent)))) * 1.0, axes=(1, 0))
    return inside


def without_zero_point(weights: Array, zero: Value | None, axis: int) -> Array:
    """Return weights of eight bits minus their zero points, which vary along `axis` at most."""
    if zero is None or not zero.array.any():
        return weights
    offset = zero.array.astype(np.int16).reshape(-1)
    if offset.size > 1:
        offset = offset.reshape(-1, *(1,) * (weights.ndim - 1 - axis % weights.ndim))
    return weights.astype(np.int16) - offset


class _Lowering:
    """The body of the integer form; values of the old body are looked up by `_values`."""

    def __init__(self, region: Region, anchor: Node, factors: Factors) -> None:
        self.region, self.anchor, self.factors = region, anchor, factors
        self.graph = Graph(region.body.name)
        self._values: dict[Value, Value] = {}

    def body(self) -> Graph:
        """Return the new body."""
        for value in self.region.body.inputs:
            self._values[value] = self.graph.add_input(value.name, value.dtype, value.shape)
        for node in self.region.body:
            if node is self.anchor:
                self._values[node.output] = self._product()
            elif not self._is_absorbed(node):
                self._copy(node)
        for value in self.region.body.outputs:
            self.graph.add_output(self._values[value], value.name)
        absorb_scale(self.graph)
        absorb_relu(self.graph)
        return self.graph

    def _is_absorbed(self, node: Node) -> bool:
        """Whether only the product reads a node's output."""
        if node not in (self.factors.data, self.factors.weight):
            return False
        if self.region.body.is_output(node.output):
            return False
        return all(reader is self.anchor for reader, _ in node.output.uses)

    def _copy(self, node: Node) -> None:
        source = node.present_inputs[0]
        if node.op == "Cast" and node.output.dtype is I32 and self._is_sum(source):
            sums = self._values[source].producer
            if sums is not None:
                self._values[node.output] = sums.present_inputs[0]
                return
        inputs = [None if value is None else self._value(value) for value in node.inputs]
        output = self.graph.new_value(node.output.dtype, node.output.shape, node.output.name)
        self.graph.append(Node(node.op, inputs, [output], node.attributes, node.source))
        self._values[node.output] = output

    def _is_sum(self, value: Value) -> bool:
        """Whether the new value is the product's sum itself, as floats."""
        found = self._values.get(value)
        if found is None or found.producer is None or found.producer.op != "Cast":
            return False
        before = found.producer.present_inputs[0].producer
        return before is not None and before.op in INTEGER_OPS.values()

    def _value(self, value: Value) -> Value:
        if value not in self._values:
            self._values[value] = self.graph.constant(value.array)
        return self._values[value]

    # -- the product -----------------------------------------------------------------------------

    def _product(self) -> Value:
        """Append the product, its scale and its bias; return the result."""
        anchor, data = self.anchor, self.factors.data
        given_zero = data.input(2)
        known_zero = scalar_of(given_zero) is not None
        zeros = [given_zero if known_zero else None, self.factors.zero]
        operands = [self._value(data.present_inputs[0]), self.graph.constant(self.factors.weights)]
        parameters = [None if value is None else self._value(value) for value in zeros]
        op = self.factors.operator(anchor)
        attributes = {key: anchor.attributes[key] for key in DECLARED[op] if
                      key in anchor.attributes}  # fmt: skip
        if self.factors.weight is None:
            attributes["group"] = len(self.factors.weights)
        if op == anchor.op:
            parameters = []
        if self.factors.weights.dtype.kind in "iu":
            sums = self._append(op, [*operands, *parameters], I32, attributes)
            total = self._append("Cast", [sums], F32, {"to": F32})
        else:
            total = self._append(op, operands, F32, attributes)
        if given_zero is not None and not known_zero:
            total = self._append("Sub", [total, self._zero_sums(given_zero)], F32)
        scale = self.factors.scale
        given = data.present_inputs[1]
        known = scalar_of(given)
        if known is None:
            total = self._append("Mul", [total, self._value(given)], F32)
        else:
            scale = scale * float(known)
        if not (scale == 1.0).all():
            total = self._append("Mul", [total, self._columns(scale)], F32)
        bias = self._bias(scale)
        return total if bias is None else self._append("Add", [total, bias], F32)

    def _zero_sums(self, zero: Value) -> Value:
        """Return a zero point that only the data tells times the sums of all weights."""
        weights, columns = self.factors.plain_weights, self.factors.axis % self.factors.weights.ndim
        others = tuple(axis for axis in range(weights.ndim) if axis != columns)
        if self.anchor.op == "MatMul":
            others = (weights.ndim - 2,)
        totals = weights.sum(axis=others, dtype=np.float64)
        if _has_shifted_padding(self.anchor, self.factors):
            totals = _taps_inside(weights.sum(axis=1, dtype=np.float64), self.anchor)
        one = self.graph.constant(np.ones((), np.float32))
        single = self.graph.new_value(F32, zero.shape, "zero")
        attributes = dict(DECLARED["DequantizeLinear"])
        self.graph.append(Node("DequantizeLinear", [self._value(zero), one], [single], attributes))
        columned = totals.astype(np.float32)
        if self.anchor.op != "MatMul" and columned.ndim == 1:
            columned = columned.reshape(-1, *(1,) * (self.anchor.output.rank - 2))
        elif self.anchor.op == "MatMul" and weights.ndim > 2:
            columned = columned[..., None, :]
        return self._append("Mul", [single, self.graph.constant(columned)], F32)

    def _bias(self, scale: Array) -> Value | None:
        """Return what is added to the scaled sums: the bias, and what the padding leaves out."""
        given = self.anchor.input(2)
        bias = None if given is None or self.factors.weight is None else given.array.reshape(-1)
        shifted = _has_shifted_padding(self.anchor, self.factors)
        if not shifted or scalar_of(self.factors.data.input(2)) is None:
            return None if bias is None else self._columns(bias)
        border = padding_sums(self.anchor, self.factors)
        ones = (1,) * (border.ndim - 1)
        total = border * (scale if scale.ndim > 1 else scale.reshape(-1, *ones))
        if bias is not None:
            total = total + bias.reshape(-1, *ones)
        return self.graph.constant(total.astype(np.float32))

    def _columns(self, array: Array) -> Value:
        """Return per-column numbers as a constant that broadcasts against the product."""
        if array.ndim > 1:
            return self.graph.constant(array.astype(np.float32))
        flat = array.astype(np.float32).reshape(-1)
        if flat.size > 1 and self.anchor.op != "MatMul":
            return self.graph.constant(flat.reshape(-1, *(1,) * (self.anchor.output.rank - 2)))
        return self.graph.constant(flat)

    def _append(
        self,
        op: str,
        inputs: Sequence[Value | None],
        dtype: DType,
        attributes: dict[str, Any] | None = None,
    ) -> Value:
        output = self.graph.new_value(dtype, self.anchor.output.shape, op.lower())
        self.graph.append(Node(op, inputs, [output], attributes, self.anchor.source))
        return output


# -- scales --------------------------------------------------------------------------------------


def absorb_scale(graph: Graph) -> None:
    """Divide what a final QuantizeLinear reads by its scale where the numbers come from.

    saturate(round(y / s) + z) with y made of products with constants, sums, ReLUs and bounds:
    these all commute with a positive factor, so that the factor moves into constants, and the scale
    becomes one. Does nothing where another value would have to be multiplied for it.
    """
    for node in _last_quantizations(graph):
        scale = scalar_of(node.input(1))
        if scale is None or not float(scale) > 0 or float(scale) == 1.0:
            continue
        if _takes(graph, node, node.present_inputs[0]):
            _divide(graph, node.present_inputs[0], float(scale))
            node.replace_input(1, graph.constant(np.ones((), np.float32)))


def _takes(graph: Graph, reader: Node, value: Value) -> bool:
    """Whether `value`, which only `reader` may read, can be divided by changing constants."""
    if value.constant is not None:
        return value.dtype is F32
    node = value.producer
    if node is None or graph.is_output(value) or any(user is not reader for user in value.users):
        return False
    if len(value.uses) != 1:
        return False
    match node.op:
        case "Relu":
            return _takes(graph, node, node.present_inputs[0])
        case "Add":
            return all(_takes(graph, node, operand) for operand in node.present_inputs)
        case "Clip":
            bounds = node.inputs[1:]
            known = all(b is None or scalar_of(b) is not None for b in bounds)
            return known and _takes(graph, node, node.present_inputs[0])
        case "Mul":
            return any(v.constant is not None and v.dtype is F32 for v in node.present_inputs)
        case "DequantizeLinear":
            return scalar_of(node.input(1)) is not None
    return False


def _divide(graph: Graph, value: Value, scale: float) -> Value:
    """Divide `value` by `scale` (see `_takes`); return it, or the constant that replaces it."""
    if value.constant is not None:
        quotient = value.array.astype(np.float64) / scale
        return graph.constant(quotient.astype(np.float32).reshape(value.array.shape))
    node = value.producer
    if node is None:
        raise ValueError(f"%{value.name} has no producer")
    if node.op == "DequantizeLinear":
        positions = [1]
    elif node.op == "Mul":
        positions = [next(i for i, v in enumerate(node.inputs) if v and v.constant is not None)]
    else:
        positions = [i for i, v in enumerate(node.inputs) if v is not None]
    for position in positions:
        operand = node.inputs[position]
        if operand is not None:
            node.replace_input(position, _divide(graph, operand, scale))
    return value


def _last_quantizations(graph: Graph) -> list[Node]:
    """Return the QuantizeLinear nodes that floats end in, or what is looked up starts with."""
    found = byte_function(list(graph), graph.outputs)
    if found is not None:
        return [found.source]
    producers = [value.producer for value in graph.outputs]
    return [node for node in producers if node is not None and node.op == "QuantizeLinear"]


def absorb_relu(graph: Graph) -> None:
    """Remove a Relu in front of a final QuantizeLinear to u8 that saturates at zero anyway."""
    for node in _last_quantizations(graph):
        if node.output.dtype is not U8:
            continue
        zero, relu = node.input(2), node.present_inputs[0].producer
        if relu is None or relu.op != "Relu" or (zero is not None and scalar_of(zero) != 0):
            continue
        node.replace_input(0, relu.present_inputs[0])
        if not relu.output.uses and not graph.is_output(relu.output):
            graph.remove(relu)
