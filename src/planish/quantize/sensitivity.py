"""Which layers suffer from lower precision: each alone in it, the rest of the model in float32.

In a float32 engine with a switch f for each layer, 0 or 1, a product of data x and weights w is

    x' = x + f (q(x) - x)
    y  = product(x', w) + f product(x', q(w) - w)

where q rounds to the steps of the integers and back (for 16-bit floats, whose rounding of data and
of weights makes noise of one size, the weights alone are rounded). With f = 0 this is float32; with
one f = 1 that layer computes what integers would (up to the rounding of float32 sums).

A larger model is cut into segments, each an engine with switches and one without. What comes
before the layer's segment is float32's and run once for all layers; its own segment runs with
switches, at twice the arithmetic, and those behind without. So a layer costs little more than half
an inference on average, and nothing is built or compiled again for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from planish.errors import ConfigError
from planish.ir.clone import clone_graph
from planish.ir.dtypes import F32, DType
from planish.ir.graph import Graph, Node, Value
from planish.ir.shape import symbols_of
from planish.ops.quantize import LIMITS, spread
from planish.passes.building import emit
from planish.passes.fuse_siblings import FuseSiblings
from planish.passes.graph_pass import run_pipeline
from planish.passes.lower_precision import HALVES
from planish.passes.overrides import wanted_precision
from planish.passes.pipeline import simplify
from planish.passes.quantized import PRODUCTS
from planish.quantize.agreement import Agreement
from planish.quantize.calibrate import Workbench
from planish.quantize.data import Inputs, batch_axis, named, pieces
from planish.quantize.half_range import LARGEST
from planish.quantize.insert_qdq import quantizable_layers, quantized_weights, steps_of
from planish.quantize.request import PrecisionRequest
from planish.quantize.scheme import tensor_name
from planish.quantize.segments import (
    Segment,
    Tensors,
    cut,
    operations_of_node,
    opt_sizes,
    run_from,
)
from planish.report_sensitivity import LayerError, Sensitivity

Array = np.ndarray[Any, Any]

AT_ONCE = 8  # samples in one inference: the time budget is looked at in between
MOST_SEGMENTS = 6
OPERATIONS_OF_SEGMENT = 6e10  # of all runs together: less is run sooner than two engines compiled
FLAG = "planish.lowered"


@dataclass(frozen=True)
class _Layer:
    """A layer to rank: its product, and what rounding does to it.

    `error` is what the weights lose; `step` type and scale of its integer data, None for floats.
    """

    node: Node
    error: Array
    step: tuple[DType, np.float32] | None


def rank_layers(
    graph: Graph,
    request: PrecisionRequest,
    prints: Callable[[Node], bool],
    benches: tuple[Workbench, Workbench],
    batches: Callable[[list[str]], Iterable[Any]],
    samples: int,
) -> Sensitivity:
    """Return the error that every layer of a graph brings when it alone runs in lower precision.

    Parameters
    ----------
    graph : Graph
        Simplified, float32; used up.
    request : PrecisionRequest
        Of int8, with a calibrator; or of 16-bit floats.
    prints : callable
        As in `FuseRegions`.
    benches : pair of Workbench
        The one that calibrates, and the one that runs the layers.
    batches : callable
        Given the names of the inputs, returns the data.
    samples : int
        How many samples to run.

    Raises
    ------
    ConfigError
        When no layer can run in lower precision, no output can be compared, or there are no data.
    """
    whole = None
    if request.config.precision == "int8":
        whole = clone_graph(graph)
        if not request.quantize(whole, prints, benches[0]) or request.summary is None:
            raise _nothing_to_rank(request.notes)
        if request.ranges is None or not request.summary.layers:
            raise _nothing_to_rank(request.notes)
        run_pipeline(whole, [simplify()])
    FuseSiblings().run(graph)
    layers = _integer_layers(graph, request, prints) if whole else _half_layers(graph, request)
    if not layers:
        raise _nothing_to_rank(request.notes)
    sizes = opt_sizes(graph)
    once = 2 * sum(operations_of_node(node, sizes) for node in graph)
    number = int(once * len(layers) * samples / OPERATIONS_OF_SEGMENT)
    run = _Run(graph, layers, whole, benches[1], min(max(number, 1), MOST_SEGMENTS))
    run.collect(batches, samples)
    found = [_error(each, run.layers[each.node], sizes) for each in layers]
    found.sort(key=lambda entry: entry.signal_to_noise)  # stable: equal ones stay in model order
    notes = (*request.notes, *([run.stopped] if run.stopped else []))
    together = _worst("", run.whole) if whole else None
    return Sensitivity(request.config.precision, tuple(found), together, run.samples, notes)


def _integer_layers(
    graph: Graph, request: PrecisionRequest, prints: Callable[[Node], bool]
) -> list[_Layer]:
    thresholds = request.ranges.thresholds if request.ranges else {}
    selection = quantizable_layers(graph, thresholds, request.config.layer_precisions, prints)
    steps = steps_of(selection, thresholds)
    layers = []
    for node, source in selection.layers.items():
        rounded, scales, axis = quantized_weights(node)
        error = rounded * spread(scales, rounded.shape, axis) - node.present_inputs[1].array
        layers.append(_Layer(node, error, steps[selection.classes[source]]))
    return layers


def _half_layers(graph: Graph, request: PrecisionRequest) -> list[_Layer]:
    """Return the products by constants that 16-bit floats would take."""
    layers = []
    for node in graph:
        wanted = wanted_precision(node, request.layer_precisions) or request.floats
        if node.op not in PRODUCTS or wanted not in HALVES:
            continue
        x, weight = node.inputs[0], node.inputs[1]
        if x is None or weight is None or not weight.is_constant or weight.dtype is not F32:
            continue
        half = HALVES[request.floats].numpy
        inside = np.clip(weight.array, -LARGEST, LARGEST)
        layers.append(_Layer(node, inside.astype(half).astype(np.float32) - weight.array, None))
    return layers


def _switch(graph: Graph, node: Node, flag: Value, layer: _Layer) -> None:
    """Let `flag` choose between a product of float32 numbers and one of rounded numbers."""

    def op(name: str, *inputs: Value, **attributes: Any) -> Value:
        return emit(graph, node, name, inputs, attributes)

    data = node.present_inputs[0]
    if layer.step is not None:
        dtype, scale = layer.step
        step = graph.constant(np.array(scale))
        low, high = (graph.constant(np.array(limit, np.float32)) for limit in LIMITS[dtype])
        near = op("Mul", op("Clip", op("Round", op("Div", data, step)), low, high), step)
        data = op("Add", data, op("Mul", flag, op("Sub", near, data)))
    error = graph.constant(layer.error.astype(np.float32))
    shift = op(node.op, data, error, **node.attributes)
    plain = op(node.op, data, *node.present_inputs[1:], **node.attributes)
    graph.replace_value(node.output, op("Add", plain, op("Mul", flag, shift)))
    graph.remove(node)


_Outputs = dict[str, Agreement]


@dataclass
class _Run:
    """The data's way through the segments, and through the engine with integers.

    Attributes
    ----------
    graph : Graph
    to_rank : sequence of _Layer
    integers : Graph or None
        The model with all layers on integers; used up.
    bench : Workbench
    number : int
        Of segments, at most.
    samples : int
    stopped : str
        Why not all samples were run.
    layers : dict of Node to dict of Agreement
        By layer and name of the output; `whole` is that of `integers`.
    """

    graph: Graph
    to_rank: Sequence[_Layer]
    integers: Graph | None
    bench: Workbench
    number: int
    samples: int = 0
    stopped: str = ""
    layers: dict[Node, _Outputs] = field(default_factory=dict)
    whole: _Outputs = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.outputs = _compared(self.graph)
        self.whole = {name: Agreement() for name in self.outputs}
        for layer in self.to_rank:
            self.layers[layer.node] = {name: Agreement() for name in self.outputs}
        by_node = {layer.node: layer for layer in self.to_rank}
        segments = cut(self.graph, by_node.keys(), self.number)
        self._flags: dict[Node, tuple[int, str]] = {}  # a layer's segment and switch
        switched: dict[int, Graph] = {}
        for index, segment in enumerate(segments):
            graph = self._with_switches(index, segment, by_node)
            if graph is not None:
                switched[index] = graph
        # a single segment has switches only, all of them off for float32
        plain = [segment.graph for segment in segments] if len(segments) > 1 else []
        whole = [] if self.integers is None else [self.integers]
        engines = iter(self.bench.engines([*switched.values(), *plain, *whole]))
        self._switched = {index: next(engines) for index in switched}
        self._plain = [next(engines) for _ in plain]
        self._whole = next(engines, None)

    def _with_switches(
        self, index: int, segment: Segment, by_node: Mapping[Node, _Layer]
    ) -> Graph | None:
        """Return a copy of a segment whose layers have switches; None when it has no layer."""
        inside = [(by_node[node], twin) for node, twin in segment.nodes.items() if node in by_node]
        if not inside:
            return None
        graph = clone_graph(segment.graph)
        copies = dict(zip(segment.graph, graph, strict=True))
        for layer, twin in inside:
            flag = f"{FLAG}{len(self._flags)}"
            self._flags[layer.node] = (index, flag)
            _switch(graph, copies[twin], graph.add_input(flag, F32, ()), layer)
        return graph

    def collect(self, batches: Callable[[list[str]], Iterable[Any]], samples: int) -> None:
        """Run the data until there are enough, or the time budget ends."""
        for piece, size in self._pieces(batches, samples):
            self._run(piece)
            self.samples += size
            self.bench.progress(self.samples, samples, "ranking layers")
            if self.bench.stop():
                self.stopped = (
                    f"the time budget ended after {self.samples} samples; a larger one ranks more "
                    "surely"
                )
                return
        if not self.samples:
            raise ConfigError(
                "there are no data to rank layers on",
                where="planish.sensitivity",
                fix="give at least one batch, in a list or a function that returns an iterator",
            )

    def _pieces(
        self, batches: Callable[[list[str]], Iterable[Any]], samples: int
    ) -> Iterator[tuple[Inputs, int]]:
        engine = self._plain[0] if self._plain else self._switched[0]
        inputs = [replace(info, name=name) for info, name in
                  zip(engine.inputs, self.graph.input_names, strict=False)]  # fmt: skip
        axis = batch_axis(inputs, engine.ranges, AT_ONCE)
        if axis.exists:  # one engine may need fewer samples than asked for
            axis = replace(axis, largest=max(min(axis.largest, AT_ONCE), axis.smallest))
        left = samples
        for index, batch in enumerate(batches(list(self.graph.input_names))):
            where = f"batch {index}"
            for piece in pieces(named(batch, inputs, where), axis, where):
                size = len(next(iter(piece.values()))) if axis.exists else 1
                yield piece, size
                left -= size
                if left <= 0:
                    return

    def _run(self, piece: Inputs) -> None:
        pairs = zip(self.graph.inputs, self.graph.input_names, strict=True)
        given = {value.name: piece[name] for value, name in pairs}
        exact = run_from(self._plain, 0, given)
        if not self._plain:
            exact |= self._lowered(0, "", given)
        want = {name: exact[value.name] for name, value in self.outputs.items()}
        if self._whole is not None:
            self._compare(self.whole, want, self._whole.run(piece))
        for layer in self.to_rank:
            index, flag = self._flags[layer.node]
            changed = run_from(self._plain, index + 1, exact | self._lowered(index, flag, exact))
            got = {name: changed[value.name] for name, value in self.outputs.items()}
            self._compare(self.layers[layer.node], want, got)

    def _lowered(self, index: int, flag: str, exact: Tensors) -> Tensors:
        """Run a segment with one layer in lower precision."""
        engine = self._switched[index]
        inputs = {
            info.name: np.array(info.name == flag, np.float32)
            if info.name.startswith(FLAG)
            else exact[info.name]
            for info in engine.inputs
        }
        return engine.run(inputs)

    @staticmethod
    def _compare(sums: _Outputs, want: Tensors, got: Tensors) -> None:
        for name, each in sums.items():
            each.add(want[name], got[name])


def _compared(graph: Graph) -> dict[str, Value]:
    """Return the outputs whose errors can be measured, by name."""
    known = set(graph.ranges)
    found = {
        name: value
        for name, value in zip(graph.output_names, graph.outputs, strict=True)
        if value.dtype.is_float
        and value.shape is not None
        and all(symbols_of(dim) <= known for dim in value.shape)
    }
    if not found:
        raise ConfigError(
            "the model has no output of floats whose shape its inputs decide, so that errors "
            "cannot be measured",
            where="planish.sensitivity",
            fix="cut the model before it selects (TopK, NonMaxSuppression, ArgMax)",
        )
    return found


def _error(layer: _Layer, outputs: _Outputs, sizes: Mapping[str, int]) -> LayerError:
    node = layer.node
    names = node.source.names or (tensor_name(node.output),)
    operations = operations_of_node(node, sizes)
    return replace(_worst(str(node.source), outputs), operations=operations, names=names)


def _worst(name: str, outputs: _Outputs) -> LayerError:
    worst = min(each.decibels for each in outputs.values())
    return LayerError(name, worst, min(each.cosine for each in outputs.values()))


def _nothing_to_rank(notes: Iterable[str]) -> ConfigError:
    return ConfigError(
        "no layer can run in lower precision" + "".join(f"; {note}" for note in notes),
        where="planish.sensitivity",
        fix="give a float32 model with convolutions or matrix products by constants",
    )
