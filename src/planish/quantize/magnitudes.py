"""How large the numbers of a model get, read off its weights: range analysis without data.

Of each tensor an interval is known that its numbers cannot leave, if the inputs keep theirs.
Softmax, sigmoids, normalizations (|x| <= sqrt(n) before their scale) and averages bound it; each
product, however, adds magnitudes as if all its terms agreed in sign, so that intervals of deep
networks grow without end. Beside it stands an estimate: mean and standard deviation of every
channel, as if the terms of a sum were independent. Numbers up to `DEVIATIONS` deviations from the
mean count as likely, and never more than the interval allows.

Nothing is said (NaN) of what comes from operators that have no rule here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from planish.ir.dtypes import BOOL
from planish.ir.graph import Graph, Node, Value
from planish.ir.shape import Dim, is_static
from planish.ops.op import OPS
from planish.passes.building import channel_vector
from planish.passes.linear import LINEAR
from planish.passes.quantized import MOVING

Array = np.ndarray[Any, Any]

DEVIATIONS = 4.0  # one of 16,000 normal numbers lies farther out
LARGEST_PIXEL = 255.0
LARGEST_SURE = 65504.0  # intervals without an estimate say something up to here: float16's range
POINTS = np.array([-3.0, -2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0, 3.0])  # of a normal one
WEIGHTS = np.exp(-0.5 * POINTS**2) / np.exp(-0.5 * POINTS**2).sum()
ENDLESS = 1e30  # the largest finite point at which functions are evaluated


@dataclass(frozen=True)
class Numbers:
    """What is known of the numbers in one tensor.

    Attributes
    ----------
    low, high : float
        Interval; infinite where nothing bounds it.
    mean, deviation : float64[channels] or float64[1]
        Estimates, for every channel or one for all; NaN where there are none.
    axis : int
        Along which the channels lie; -1 with one estimate for all.
    is_average : bool
        Whether a product with it averages: rows are not negative and add up to 1.
    """

    low: float
    high: float
    mean: Array
    deviation: Array
    axis: int = -1
    is_average: bool = False

    @staticmethod
    def between(low: float, high: float, mean: float = 0.0, deviation: float = math.nan) -> Numbers:
        """Return numbers in an interval, with one estimate for all."""
        return Numbers(low, high, np.array([mean]), np.array([deviation]))

    @property
    def largest(self) -> float:
        """Magnitude that is certainly not exceeded; infinite where nothing bounds it."""
        return max(abs(self.low), abs(self.high))

    @property
    def likely(self) -> float:
        """Largest magnitude to reckon with; NaN where nothing is known."""
        reach = float(np.max(np.abs(self.mean) + DEVIATIONS * self.deviation))
        if math.isnan(reach):  # of use where it is small; how far numbers go inside is not known
            return self.largest if self.largest < LARGEST_SURE else math.nan
        return min(reach, self.largest)

    def merged(self) -> Numbers:
        """Return the same with one estimate for all channels."""
        if self.axis == -1:
            return replace(self, is_average=False)
        mean = float(self.mean.mean())
        variance = float((self.deviation**2 + (self.mean - mean) ** 2).mean())
        return Numbers.between(self.low, self.high, mean, math.sqrt(variance))


UNKNOWN = Numbers.between(-math.inf, math.inf)


def magnitudes(graph: Graph) -> dict[Value, Numbers]:
    """Return what is known of the tensors of a simplified graph.

    Inputs are taken to be standardized: mean 0 and deviation 1. The certain bounds of images (four
    axes, at most four channels) are those of pixels, 255; others have none.
    """
    found: dict[Value, Numbers] = {value: _input(value) for value in graph.inputs}

    def known(value: Value) -> Numbers:
        if value.is_constant and value not in found:
            found[value] = _constant(value)
        return found.get(value, UNKNOWN)

    with np.errstate(all="ignore"):
        for node in graph:
            weights = node.op in LINEAR  # their rules look at the weights themselves
            results = _results(
                node,
                [
                    UNKNOWN if weights and value.is_constant else known(value)
                    for value in node.present_inputs
                ],
            )
            found.update(zip(node.outputs, results, strict=False))
    return found


def _input(value: Value) -> Numbers:
    if value.dtype is BOOL:
        return Numbers.between(0.0, 1.0)
    shape = value.shape or ()
    if len(shape) == 4 and any(extent in (1, 3, 4) for extent in (shape[1], shape[3])):
        return Numbers.between(-LARGEST_PIXEL, LARGEST_PIXEL, 0.0, 1.0)
    return Numbers.between(-math.inf, math.inf, 0.0, 1.0 if value.dtype.is_float else math.nan)


def _constant(value: Value) -> Numbers:
    array = value.array
    if array.dtype.kind not in "fiu" or not array.size:
        return UNKNOWN
    wide = array.astype(np.float64)
    return Numbers.between(float(wide.min()), float(wide.max()), wide.mean(), wide.std())


def _results(node: Node, inputs: Sequence[Numbers]) -> list[Numbers]:
    """Return what is known of the outputs of `node`; nothing of those that are left out."""
    rule = RULES.get(node.op)
    if rule is not None:
        return rule(node, inputs)
    if node.op in SAME or node.op in MOVING:
        return [_moved(node, inputs[0])] * len(node.outputs)
    if node.op == "Cast":
        source = node.present_inputs[0].dtype
        return [inputs[0]] if source.is_float or source is BOOL else []
    if node.outputs[0].dtype is BOOL:
        return [Numbers.between(0.0, 1.0)]
    if OPS[node.op].pointwise and node.outputs[0].dtype.is_float:
        return [_pointwise(node, inputs)]
    return []


def _moved(node: Node, x: Numbers) -> Numbers:
    """Elements of x, averages or choices of them, and zeros that pad."""
    fill = node.input(2) if node.op == "Pad" else None
    filled = [0.0] if fill is None or not fill.is_constant else [float(fill.array.reshape(()))]
    around = filled if node.op in ("Pad", "AveragePool", "Resize") else []
    x = replace(x, low=min([x.low, *around]), high=max([x.high, *around]), is_average=False)
    axis = x.axis
    if node.op == "Transpose" and axis >= 0 and node.attributes["perm"]:
        axis = node.attributes["perm"].index(axis)
    elif node.op not in SPATIAL:
        return x.merged()
    return replace(x, axis=axis)


def _hull(node: Node, inputs: Sequence[Numbers]) -> list[Numbers]:
    """Any of the operands' numbers."""
    low, high = min(x.low for x in inputs), max(x.high for x in inputs)
    axis = node.attributes.get("axis")
    if node.op == "Concat" and axis is not None and all(x.axis == axis for x in inputs):
        means = np.concatenate([x.mean for x in inputs])
        return [Numbers(low, high, means, np.concatenate([x.deviation for x in inputs]), axis)]
    single = [x.merged() for x in inputs]
    widest = max(single, key=lambda x: math.inf if math.isnan(x.likely) else x.likely)
    return [replace(widest, low=low, high=high)]


def _convolution(node: Node, inputs: Sequence[Numbers]) -> list[Numbers]:
    """Bound w x + b, where pixels beyond the border are zeros."""
    weight, bias = node.present_inputs[1], node.input(2)
    if not weight.is_constant or (bias is not None and not bias.is_constant):
        return []
    w = weight.array.astype(np.float32, copy=False)
    groups = int(node.attributes["group"])
    if node.op == "ConvTranspose":  # at most all taps meet in one result
        grouped = w.reshape(groups, w.shape[0] // groups, *w.shape[1:])
        w = np.swapaxes(grouped, 1, 2).reshape(-1, w.shape[0] // groups, *w.shape[2:])
    taps = w.reshape(groups, w.shape[0] // groups, w.shape[1], -1)
    b = np.zeros(w.shape[0]) if bias is None else bias.array.astype(np.float64)
    x = inputs[0]
    wide = replace(x, low=min(x.low, 0.0), high=max(x.high, 0.0))
    per = _channels(wide, groups * taps.shape[2], 1).reshape(2, groups, 1, taps.shape[2])
    mean = (taps.sum(axis=3) * per[0]).sum(axis=2).reshape(-1) + b
    variance = (np.square(taps).sum(axis=3) * per[1] ** 2).sum(axis=2).reshape(-1)
    return [_linear(wide, taps.reshape(len(b), -1), b, mean, np.sqrt(variance), 1)]


def _matmul(node: Node, inputs: Sequence[Numbers]) -> list[Numbers]:
    left, right = node.present_inputs[:2]
    a, b = inputs[:2]
    if left.shape is None or right.shape is None or not left.rank or not right.rank:
        return []
    if a.is_average:
        return [replace(b.merged(), axis=-1)]
    if right.is_constant and right.rank == 2 and node.output.shape is not None:
        w = right.array.astype(np.float32, copy=False)
        mean, deviation = _channels(a, w.shape[0], left.rank - 1).astype(np.float32)
        spread = np.sqrt(np.square(deviation) @ np.square(w))
        return [_linear(a, w.T, np.zeros(w.shape[1]), mean @ w, spread, node.output.rank - 1)]
    terms = left.known_shape[-1]
    if not isinstance(terms, int):
        return []
    return [_sum_of(_product(a.merged(), b.merged()), terms)]


def _linear(
    x: Numbers, weights: Array, bias: Array, mean: Array, deviation: Array, axis: int
) -> Numbers:
    """Return weights @ x + bias; `weights` has a row for each output channel."""
    up, down = np.maximum(weights, 0).sum(axis=1), np.minimum(weights, 0).sum(axis=1)
    high = float(np.max(_times(up, x.high) + _times(down, x.low) + bias, initial=-math.inf))
    low = float(np.min(_times(up, x.low) + _times(down, x.high) + bias, initial=math.inf))
    return Numbers(low, high, mean, deviation, axis)


def _times(factors: Array, bound: float) -> Array:
    return np.where(factors == 0, 0.0, factors * bound)


def _channels(x: Numbers, channels: int, axis: int) -> Array:
    """Return mean and deviation of every channel along `axis`: float64[2, channels]."""
    if x.axis != axis or len(x.mean) != channels:
        x = x.merged()
    return np.stack([np.broadcast_to(x.mean, channels), np.broadcast_to(x.deviation, channels)])


def _sum_of(x: Numbers, terms: int) -> Numbers:
    deviation = x.deviation * math.sqrt(terms)
    return replace(x, low=x.low * terms, high=x.high * terms, mean=x.mean * terms,
                   deviation=deviation)  # fmt: skip


def _reduce_sum(node: Node, inputs: Sequence[Numbers]) -> list[Numbers]:
    axes, x = node.input(1), node.present_inputs[0]
    if x.shape is None or (axes is not None and not axes.is_constant):
        return []
    chosen = range(x.rank) if axes is None else [int(axis) for axis in axes.array.reshape(-1)]
    terms = _extent([x.known_shape[axis] for axis in chosen])
    return [] if terms is None else [_sum_of(inputs[0].merged(), terms)]


def _extent(dims: Sequence[Dim]) -> int | None:
    if not all(is_static(dim) for dim in dims):
        return None
    return math.prod(int(str(dim)) for dim in dims)


def _normalized(node: Node, inputs: Sequence[Numbers]) -> list[Numbers]:
    """Bound n numbers of mean square 1, times a scale, plus a shift."""
    x = node.present_inputs[0]
    parameters = node.present_inputs[1:]
    if x.shape is None or not all(value.is_constant for value in parameters):
        return []
    if "axis" in node.attributes:  # LayerNormalization, RMSNormalization
        axis = int(node.attributes["axis"]) % x.rank
        among, channels = x.known_shape[axis:], x.rank - 1
    else:
        groups = node.attributes.get("num_groups")
        channels = 1
        among = x.known_shape[2:] if groups is None else x.known_shape[1:]
    scale = parameters[0].array.astype(np.float64) if parameters else np.ones(1)
    shift = parameters[1].array.astype(np.float64) if len(parameters) > 1 else np.zeros(1)
    terms = _extent(among)
    reach = math.inf if terms is None else math.sqrt(terms)
    bound = float(np.abs(scale).max(initial=0)) * reach
    low, high = float(shift.min(initial=0)) - bound, float(shift.max(initial=0)) + bound
    if scale.ndim == 1 and shift.shape in ((1,), scale.shape):
        mean = np.broadcast_to(shift, scale.shape)
        return [Numbers(low, high, mean, np.abs(scale), channels)]
    return [Numbers.between(low, high, shift.mean(), float(np.abs(scale).max(initial=0)))]


def _softmax(node: Node, inputs: Sequence[Numbers]) -> list[Numbers]:
    rank = node.output.rank if node.output.shape is not None else 0
    last = rank > 0 and int(node.attributes["axis"]) % rank == rank - 1
    return [replace(Numbers.between(0.0, 1.0, 0.0, 1.0 / DEVIATIONS), is_average=last)]


def _attention(node: Node, inputs: Sequence[Numbers]) -> list[Numbers]:
    """Averages of the values."""
    return [inputs[2].merged()]


def _recurrent(node: Node, inputs: Sequence[Numbers]) -> list[Numbers]:
    """Hidden states lie between -1 and 1; the cells of an LSTM do not."""
    bounded = Numbers.between(-1.0, 1.0, 0.0, 1.0)
    usual = node.attributes["activations"] in (None, ()) and not node.attributes["clip"]
    return [bounded, bounded] if usual else []


def _pointwise(node: Node, inputs: Sequence[Numbers]) -> Numbers:
    """Return what is known of a function of the operands, element by element."""
    data = {value for value in node.present_inputs if not value.is_constant}
    if len(data) == 1 and all(value.dtype.is_float for value in node.present_inputs):
        found = _function(node, data.pop(), inputs)
        if found is not None:
            return found
    if len(inputs) == 2 and node.op in PAIRS:
        return PAIRS[node.op](*_aligned(node, inputs))
    return _hull(node, inputs)[0] if node.op in ("Max", "Min", "Mean") else UNKNOWN


def _function(node: Node, data: Value, inputs: Sequence[Numbers]) -> Numbers | None:
    """Evaluate a function of one tensor over its interval and its spread.

    None where another operand is a constant that varies along more axes than the channels'.
    """
    x = inputs[node.present_inputs.index(data)]
    rank = data.rank if data.shape is not None else 0
    axis = x.axis if x.axis >= 0 else _channel_axis(node, rank)
    width = _width(data, axis)
    operands = [_operand(value, rank, axis, width) for value in node.inputs if value is not data]
    if width is None or any(operand is None for operand in operands):
        axis, width = -1, 1
        x = x.merged()
        operands = [_operand(value, 0, -1, 1) for value in node.inputs if value is not data]
    if any(operand is None for operand in operands):
        return None
    constants = iter(operands)
    slots = [None if value is data else next(constants) for value in node.inputs]

    def evaluate(points: Array) -> Array:
        filled = points.astype(np.float32)
        arrays = [filled if value is data else _present(value, slot)
                  for value, slot in zip(node.inputs, slots, strict=True)]  # fmt: skip
        return OPS[node.op].reference(arrays, node.attributes)[0].astype(np.float64)

    grid = evaluate(_grid(x)[:, None])
    per = _channels(x, width, axis) if axis >= 0 else np.stack([x.mean[:1], x.deviation[:1]])
    spread = evaluate(np.clip(per[0] + POINTS[:, None] * per[1], x.low, x.high))
    mean = WEIGHTS @ spread
    deviation = np.sqrt(WEIGHTS @ np.square(spread - mean))
    low, high = _ends(grid)
    return Numbers(low, high, mean, deviation, axis)


def _present(value: Value | None, slot: Array | None) -> Array | None:
    return None if value is None else slot


def _operand(value: Value | None, rank: int, axis: int, width: int | None) -> Array | None:
    """Return a constant as one number a channel, as float32[1, width]; None where it is not."""
    if value is None:
        return np.zeros((1, 1), np.float32)
    if value.array.size == 1:
        return value.array.reshape(1, 1)
    if width is None or axis < 0:
        return None
    vector = channel_vector(value, rank, axis, width)
    return None if vector is None else vector.astype(np.float32)[None]


def _channel_axis(node: Node, rank: int) -> int:
    """Return the axis along which a constant operand varies; -1 for none or several."""
    for value in node.present_inputs:
        if value.is_constant and value.array.size > 1:
            shape = (1,) * (rank - value.array.ndim) + value.array.shape
            wide = [axis for axis, extent in enumerate(shape) if extent > 1]
            return wide[0] if len(wide) == 1 else -1
    return -1


def _width(data: Value, axis: int) -> int | None:
    if axis < 0 or data.shape is None:
        return 1 if axis < 0 else None
    extent = data.known_shape[axis] if axis < data.rank else None
    return extent if isinstance(extent, int) else None


def _grid(x: Numbers) -> Array:
    """Return points of an interval: its ends, infinite or not, and points of every size."""
    low, high = max(x.low, -ENDLESS), min(x.high, ENDLESS)
    decades = np.power(10.0, np.arange(-3, 31, 0.25))
    points = np.concatenate([-decades, [0.0], decades, np.linspace(low, high, 33)])
    return np.unique([x.low, *np.clip(points, low, high), x.high])


def _ends(results: Array) -> tuple[float, float]:
    known = results[~np.isnan(results)]
    return (float(known.min()), float(known.max())) if known.size else (-math.inf, math.inf)


def _aligned(node: Node, inputs: Sequence[Numbers]) -> list[Numbers]:
    """Return both operands with estimates for the same channels."""
    a, b = inputs
    ranks = [value.rank if value.shape is not None else -1 for value in node.present_inputs]
    same = ranks[0] == ranks[1] and a.axis == b.axis and len(a.mean) == len(b.mean)
    return [a, b] if same else [_widest(a), _widest(b)]


def _widest(x: Numbers) -> Numbers:
    """Return one estimate for all channels that is no lower than any channel's."""
    at = int(np.argmax(np.abs(x.mean) + x.deviation))
    return Numbers(x.low, x.high, x.mean[at : at + 1], x.deviation[at : at + 1])


def _sum(a: Numbers, b: Numbers) -> Numbers:
    deviation = np.hypot(a.deviation, b.deviation)
    return Numbers(a.low + b.low, a.high + b.high, a.mean + b.mean, deviation, a.axis)


def _difference(a: Numbers, b: Numbers) -> Numbers:
    return _sum(a, replace(b, low=-b.high, high=-b.low, mean=-b.mean))


def _product(a: Numbers, b: Numbers) -> Numbers:
    corners = [_corner(x, y) for x in (a.low, a.high) for y in (b.low, b.high)]
    squares = (a.mean**2 + a.deviation**2) * (b.mean**2 + b.deviation**2)
    mean = a.mean * b.mean
    deviation = np.sqrt(np.maximum(squares - mean**2, 0.0))
    return Numbers(min(corners), max(corners), mean, deviation, a.axis)


def _corner(x: float, y: float) -> float:
    return 0.0 if x == 0 or y == 0 else x * y


Rule = Callable[[Node, Sequence[Numbers]], list[Numbers]]
PAIRS: dict[str, Callable[[Numbers, Numbers], Numbers]] = {
    "Add": _sum,
    "Sub": _difference,
    "Mul": _product,
}
RULES: dict[str, Rule] = {
    "Attention": _attention,
    "com.microsoft.MultiHeadAttention": _attention,
    "Concat": _hull,
    "Conv": _convolution,
    "ConvTranspose": _convolution,
    "GRU": _recurrent,
    "GroupNormalization": _normalized,
    "InstanceNormalization": _normalized,
    "LSTM": _recurrent,
    "LayerNormalization": _normalized,
    "MatMul": _matmul,
    "RMSNormalization": _normalized,
    "RNN": _recurrent,
    "ReduceSum": _reduce_sum,
    "SimplifiedLayerNormalization": _normalized,
    "Softmax": _softmax,
    "Where": lambda node, inputs: _hull(node, inputs[1:]),
}
SPATIAL = frozenset(
    {
        "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Identity", "MaxPool", "Pad",
        "Resize", "Transpose",
    }
)  # fmt: skip
SAME = SPATIAL | {"ReduceMax", "ReduceMean", "ReduceMin"}
