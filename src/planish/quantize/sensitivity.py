"""Which layers suffer from integers: each alone on integers, the rest of the model in float32.

One float32 engine serves all layers. In it a product of data x and weights w is

    x' = x + f (q(x) - x)                    # f: an input of the engine, 0 or 1, one for each layer
    y  = product(x', w) + f product(x', q(w) - w)

where q rounds to the steps of the integers and back. With every f = 0 this is the model in float32,
bit for bit; with one f = 1 that layer computes what integers would (up to the rounding of float32
sums). Twice the arithmetic of the model, but nothing is built or compiled again for a layer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from planish.errors import ConfigError
from planish.ir.clone import clone_graph
from planish.ir.dtypes import F32, DType, dtype_by_name
from planish.ir.graph import Graph, Node, Value
from planish.ir.shape import symbols_of
from planish.ops.quantize import LIMITS, spread
from planish.passes.building import emit
from planish.passes.fuse_siblings import FuseSiblings
from planish.passes.graph_pass import run_pipeline
from planish.passes.pipeline import simplify
from planish.quantize.calibrate import Workbench
from planish.quantize.data import Inputs, batch_axis, named, pieces
from planish.quantize.insert_qdq import quantizable_layers, quantized_weights, steps_of
from planish.quantize.request import PrecisionRequest
from planish.report_sensitivity import LayerError, Sensitivity
from planish.runtime.engine import Engine

Array = np.ndarray[Any, Any]

AT_ONCE = 8  # samples in one inference: the time budget is looked at in between


def rank_layers(
    graph: Graph,
    request: PrecisionRequest,
    prints: Callable[[Node], bool],
    benches: tuple[Workbench, Workbench],
    batches: Callable[[list[str]], Iterable[Any]],
    samples: int,
) -> Sensitivity:
    """Return the error that every layer of a graph brings when it alone runs on integers.

    Parameters
    ----------
    graph : Graph
        Simplified, float32; used up.
    request : PrecisionRequest
        Of int8, with a calibrator.
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
        When no layer can run on integers, no output can be compared, or there are no data.
    """
    whole = clone_graph(graph)
    if not request.quantize(whole, prints, benches[0]) or request.summary is None:
        raise _nothing_to_rank(request.notes)
    if request.ranges is None or not request.summary.layers:
        raise _nothing_to_rank(request.notes)
    run_pipeline(whole, [simplify()])
    FuseSiblings().run(graph)
    overrides = request.config.layer_precisions
    flags = _simulate(graph, request.ranges.thresholds, overrides, prints)
    names = request.summary.layers
    run = _Run(benches[1].engine(graph), benches[1].engine(whole), flags, benches[1])
    run.collect(batches, samples)
    layers = [_error(name, run.layers[flag]) for name, flag in zip(names, flags, strict=True)]
    layers.sort(key=lambda entry: entry.signal_to_noise)  # stable: equal ones stay in model order
    notes = (*request.notes, *([run.stopped] if run.stopped else []))
    return Sensitivity("int8", tuple(layers), _error("", run.whole), run.samples, notes)


def _simulate(
    graph: Graph,
    thresholds: Mapping[str, float],
    overrides: Mapping[str, str],
    prints: Callable[[Node], bool],
) -> list[str]:
    """Give every layer that can run on integers its switch; return their names, in order."""
    selection = quantizable_layers(graph, thresholds, overrides, prints)
    steps = steps_of(selection, thresholds)
    flags = []
    for node, source in selection.layers.items():
        flag = graph.fresh_name("on_integers")
        _switch(graph, node, graph.add_input(flag, F32, ()), *steps[selection.classes[source]])
        flags.append(flag)
    return flags


def _switch(graph: Graph, node: Node, flag: Value, dtype: DType, scale: np.float32) -> None:
    """Let `flag` choose between a product of float32 numbers and one of rounded numbers."""

    def op(name: str, *inputs: Value, **attributes: Any) -> Value:
        return emit(graph, node, name, inputs, attributes)

    x, weight = node.present_inputs[:2]
    step = graph.constant(np.array(scale))
    low, high = (graph.constant(np.array(limit, np.float32)) for limit in LIMITS[dtype])
    near = op("Mul", op("Clip", op("Round", op("Div", x, step)), low, high), step)
    data = op("Add", x, op("Mul", flag, op("Sub", near, x)))
    rounded, scales, axis = quantized_weights(node)
    error = rounded * spread(scales, rounded.shape, axis) - weight.array
    shift = op(node.op, data, graph.constant(error.astype(np.float32)), **node.attributes)
    plain = op(node.op, data, *node.present_inputs[1:], **node.attributes)
    graph.replace_value(node.output, op("Add", plain, op("Mul", flag, shift)))
    graph.remove(node)


@dataclass
class _Sums:
    """Sums over the elements of one output: of squares, and of products with float32's.

    Elements that are masked in float32 (infinite or no number) are left out.
    """

    signal: float = 0.0
    noise: float = 0.0
    own: float = 0.0
    product: float = 0.0

    def add(self, want: Array, got: Array) -> None:
        counted = np.isfinite(want)
        a, b = want[counted].astype(np.float64), got[counted].astype(np.float64)
        self.signal += float(a @ a)
        self.noise += float((a - b) @ (a - b))
        self.own += float(b @ b)
        self.product += float(a @ b)

    @property
    def decibels(self) -> float:
        if not math.isfinite(self.noise):
            return -math.inf
        if not self.noise:
            return math.inf
        return 10 * math.log10(self.signal / self.noise) if self.signal else -math.inf

    @property
    def cosine(self) -> float:
        if not math.isfinite(self.noise):
            return 0.0
        length = math.sqrt(self.signal) * math.sqrt(self.own)
        return self.product / length if length else float(self.signal == self.own)


_Outputs = dict[str, _Sums]


@dataclass
class _Run:
    """The data's way through the engine with switches and through the one with integers."""

    switched: Engine
    integers: Engine
    flags: list[str]
    bench: Workbench
    samples: int = 0
    stopped: str = ""
    layers: dict[str, _Outputs] = field(default_factory=dict)
    whole: _Outputs = field(default_factory=dict)

    def __post_init__(self) -> None:
        known = set(self.switched.ranges)
        compared = [
            info.name
            for info in self.switched.outputs
            if dtype_by_name(info.dtype).is_float
            and all(symbols_of(dim) <= known for dim in info.shape)
        ]
        if not compared:
            raise ConfigError(
                "the model has no output of floats whose shape its inputs decide, so that errors "
                "cannot be measured",
                where="planish.sensitivity",
                fix="cut the model before it selects (TopK, NonMaxSuppression, ArgMax)",
            )
        self.whole = {name: _Sums() for name in compared}
        self.layers = {flag: {name: _Sums() for name in compared} for flag in self.flags}

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
        inputs = self.integers.inputs
        axis = batch_axis(inputs, self.integers.ranges, AT_ONCE)
        if axis.exists:  # one engine may need fewer samples than asked for
            axis = replace(axis, largest=max(min(axis.largest, AT_ONCE), axis.smallest))
        left = samples
        for index, batch in enumerate(batches([info.name for info in inputs])):
            where = f"batch {index}"
            for piece in pieces(named(batch, inputs, where), axis, where):
                size = len(next(iter(piece.values()))) if axis.exists else 1
                yield piece, size
                left -= size
                if left <= 0:
                    return

    def _run(self, piece: Inputs) -> None:
        off = {flag: np.zeros((), np.float32) for flag in self.flags}
        want = self._outputs(self.switched, piece | off)
        self._compare(self.whole, want, self._outputs(self.integers, piece))
        on = np.ones((), np.float32)
        for flag, sums in self.layers.items():
            self._compare(sums, want, self._outputs(self.switched, {**piece, **off, flag: on}))

    def _outputs(self, engine: Engine, inputs: Inputs) -> Inputs:
        results = engine.run(inputs)
        return {name: results[name] for name in self.whole}

    @staticmethod
    def _compare(sums: _Outputs, want: Inputs, got: Inputs) -> None:
        for name, each in sums.items():
            each.add(want[name], got[name])


def _error(name: str, outputs: _Outputs) -> LayerError:
    worst = min(each.decibels for each in outputs.values())
    return LayerError(name, worst, min(each.cosine for each in outputs.values()))


def _nothing_to_rank(notes: Iterable[str]) -> ConfigError:
    return ConfigError(
        "no layer can run on integers" + "".join(f"; {note}" for note in notes),
        where="planish.sensitivity",
        fix="give a float32 model with convolutions or matrix products by constants",
    )
