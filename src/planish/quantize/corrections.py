"""Corrections of what integers cost depthwise networks, kept where they lower the measured error.

Two of them: channels are stretched to use their tensor's range (equalize.py), and shifts of the
means are taken off the biases (bias_correction.py). Depthwise convolutions need them most: their
sums have few terms, so that errors do not average out.

What is measured is the error of the model's outputs against float32 on some of the calibration
data. A correction that raises it over all samples, or does not lower that of the typical sample by
a tenth, is dropped: on other data it may do harm.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from planish.ir.clone import clone_graph
from planish.ir.dtypes import DType, dtype_by_name
from planish.ir.graph import Graph, Node
from planish.ir.shape import symbols_of
from planish.passes.graph_pass import run_pipeline
from planish.passes.pipeline import simplify
from planish.quantize.bias_correction import (
    add_means,
    add_statistics,
    channel_shape,
    correct_biases,
    open_corrections,
)
from planish.quantize.calibrate import Workbench
from planish.quantize.calibrators import Calibrator
from planish.quantize.data import Inputs
from planish.quantize.equalize import ChannelRange, channels_of, gains, stretch, stretchable
from planish.quantize.insert_qdq import (
    BYTES,
    QuantizationSummary,
    quantizable_layers,
    quantize_graph,
    steps_of,
)
from planish.quantize.samples import Samples
from planish.quantize.scheme import Corrections, tensor_name
from planish.quantize.select_layers import Selection
from planish.runtime.engine import Engine

Array = np.ndarray[Any, Any]

ENOUGH = 6  # samples for the mean over all positions
BETTER = 0.81  # of the squared error is left at most: less of a gain is chance
TINY = 1e-12  # squared error that nobody sees


@dataclass(frozen=True)
class Quantization:
    """What a graph is quantized with; see `quantize_graph` for the attributes."""

    thresholds: Mapping[str, float]
    layer_precisions: Mapping[str, str]
    prints: Callable[[Node], bool]
    dtypes: Sequence[DType] = BYTES

    def selection(self, graph: Graph) -> Selection:
        """Return the layers and tensors of `graph` that become integers."""
        return quantizable_layers(graph, self.thresholds, self.layer_precisions, self.prints)


def quantize_corrected(
    graph: Graph, how: Quantization, corrections: Corrections
) -> QuantizationSummary:
    """Make integers of a simplified float32 graph as `quantize_graph` does, with corrections.

    Corrections of layers and tensors that stay floating point, or of other shapes (a file of
    another model), are left out.
    """
    layers, summary, _ = _quantized(graph, how, corrections.gains)
    known = {node: corrections.shifts.get(tensor_name(node.output)) for node in layers}
    shifts = {
        node: shift
        for node, shift in known.items()
        if shift is not None and shift.shape == channel_shape(node)
    }
    correct_biases(graph, list(shifts), list(shifts.values()))
    return summary


def _quantized(
    graph: Graph, how: Quantization, gain: Mapping[str, Array]
) -> tuple[list[Node], QuantizationSummary, dict[str, Array]]:
    """Stretch and quantize a graph.

    Returns
    -------
    layers : list of Node
        Those on integers.
    summary : QuantizationSummary
    factors : dict of str to float64[channels]
        What the sums of a layer are multiplied by, by the name of its result.
    """
    factors = {}
    for value in stretchable(how.selection(graph)) if gain else []:
        name = tensor_name(value)
        if name in gain and gain[name].shape == (channels_of(value),):
            factors[stretch(graph, value, gain[name], how.thresholds[name])] = gain[name]
    layers = list(how.selection(graph).layers)
    summary = quantize_graph(graph, how.thresholds, how.layer_precisions, how.prints, how.dtypes)
    return layers, summary, factors


def needs_corrections(selection: Selection) -> bool:
    """Whether depthwise convolutions run on integers."""
    return any(
        node.op == "Conv"
        and node.attributes["group"] > 1
        and node.present_inputs[1].known_shape[1] == 1
        for node in selection.layers
    )


def find_corrections(
    graph: Graph,
    how: Quantization,
    calibrator: Calibrator,
    samples: Samples,
    bench: Workbench,
) -> Corrections:
    """Return the corrections that lower the error of a graph's outputs on samples.

    Parameters
    ----------
    graph : Graph
        Simplified, float32; left as it is.
    how : Quantization
    calibrator : Calibrator
        Where samples come from when there are none yet.
    samples : Samples
    bench : Workbench
    """
    if bench.stop():
        return Corrections(notes=("no corrections were looked for: the time budget is over",))
    exact = _Exact.of(graph, how, bench, samples, calibrator)
    if not exact.outputs or not samples.pieces:
        return Corrections(notes=("no corrections were looked for: no output can be compared",))
    found = exact.gains(graph, how)
    trials = [_Trial.of(graph, how, {}, exact, bench)]
    if found and not bench.stop():
        trials.append(_Trial.of(graph, how, found, exact, bench))
    before = trials[0].error
    best = trials[-1] if trials[-1].error.is_clearly_below(before) else trials[0]
    stretched, after = best.error, best.correct(exact, bench)
    is_better = after.is_clearly_below(stretched)
    shifts = {name: s for name, s in best.shifts.items() if s.any()} if is_better else {}
    lowest = after if is_better else stretched
    sizes = len(best.gains), len(shifts)
    notes = _notes(before.total, lowest.total, *sizes, samples.count)
    return Corrections(best.gains, shifts, notes)


def _notes(before: float, after: float, tensors: int, layers: int, samples: int) -> tuple[str, ...]:
    if not tensors and not layers:
        return (
            "channel equalization and bias correction do not clearly lower the error of "
            f"{math.sqrt(before):.3%} on {samples} samples, so nothing is corrected",
        )
    return (
        f"depthwise network: the channels of {tensors} tensor(s) are equalized and the biases of "
        f"{layers} layer(s) corrected, which lowers the relative error of the outputs on {samples} "
        f"samples from {math.sqrt(before):.3%} to {math.sqrt(after):.3%}",
    )


@dataclass(frozen=True)
class _Error:
    """Squared errors of the outputs over the squared outputs, averaged over the outputs.

    `total` is that of all samples together, `typical` the geometric mean over the samples: a few
    with large errors, or hardly any output, do not decide it.
    """

    total: float = math.inf
    typical: float = math.inf

    def is_clearly_below(self, other: _Error) -> bool:
        """Whether this error is lower than another one, and not by chance."""
        return self.total <= other.total and self.typical < BETTER * other.typical


@dataclass
class _Exact:
    """What float32 computes from the samples.

    `means` are those of the first `few` pieces: each layer's correction costs a run over them.
    """

    samples: Samples
    few: int
    outputs: list[str]
    results: list[Inputs]
    means: list[Array]
    ranges: dict[str, ChannelRange]

    @staticmethod
    def of(
        graph: Graph, how: Quantization, bench: Workbench, samples: Samples, calibrator: Calibrator
    ) -> _Exact:
        probe = clone_graph(graph)
        selection = how.selection(probe)
        wanted, candidates = list(probe.output_names), stretchable(selection)
        means = add_means(probe, list(selection.layers))
        statistics = {tensor_name(value): add_statistics(probe, value) for value in candidates}
        engine = bench.engine(probe)
        if not samples.pieces:
            samples.read(calibrator, engine)
        outputs = _comparable(engine, wanted)
        found = [engine.run(piece) for piece in samples.pieces]
        ranges = {
            name: ChannelRange(
                np.max([_rows(r[amax]).max(axis=0) for r in found], axis=0).astype(np.float64),
                _mean(found, square),
            )
            for name, (amax, square) in statistics.items()
        }
        kept = [{name: result[name] for name in outputs} for result in found]
        few = max(len(found) * ENOUGH // max(samples.count, 1), 1)
        exact_means = [_mean(found[:few], name) for name in means]
        return _Exact(samples, few, outputs, kept, exact_means, ranges)

    def gains(self, graph: Graph, how: Quantization) -> dict[str, Array]:
        """Return the gains of the tensors that are worth stretching."""
        selection = how.selection(graph)
        steps = steps_of(selection, how.thresholds, how.dtypes)
        found = {}
        for value in stretchable(selection):
            name = tensor_name(value)
            step = float(steps[selection.classes[value]][1])
            gain = gains(value, self.ranges[name], how.thresholds[name], step)
            if gain is not None:
                found[name] = gain
        return found

    def error(self, results: Sequence[Inputs]) -> _Error:
        """Return what separates results on integers from those of float32."""
        totals, ratios = [], []
        for name in self.outputs:
            pairs = [
                _squares(want[name], got[name], piece)
                for want, got, piece in zip(self.results, results, self.samples.pieces, strict=True)
            ]
            signal = np.concatenate([pair[0] for pair in pairs])
            noise = np.concatenate([pair[1] for pair in pairs])
            totals.append(noise.sum() / signal.sum() if signal.any() else float(noise.any()))
            ratios.append(noise[signal > 0] / signal[signal > 0])
        typical = np.exp(np.mean(np.log(np.maximum(np.concatenate(ratios), TINY))))
        total = float(np.mean(totals))
        return _Error(total if math.isfinite(total) else math.inf, float(typical))


@dataclass
class _Trial:
    """An engine on integers whose biases can be corrected."""

    engine: Engine
    gains: dict[str, Array]
    names: list[str]
    inputs: list[str]
    means: list[str]
    wanted: list[Array]
    shifts: dict[str, Array]
    error: _Error = _Error()

    @staticmethod
    def of(
        graph: Graph, how: Quantization, gain: dict[str, Array], exact: _Exact, bench: Workbench
    ) -> _Trial:
        copy = clone_graph(graph)
        layers, _, factors = _quantized(copy, how, gain)
        names = [tensor_name(node.output) for node in layers]
        shifts = {
            name: np.zeros(channel_shape(node), np.float32)
            for name, node in zip(names, layers, strict=True)
        }
        inputs, means = open_corrections(copy, layers)
        run_pipeline(copy, [simplify()])
        opened = [value.name for value in inputs]
        wanted = [
            mean * factors.get(name, 1.0) for name, mean in zip(names, exact.means, strict=True)
        ]
        trial = _Trial(bench.engine(copy), gain, names, opened, means, wanted, shifts)
        trial.error = exact.error(trial.run(exact.samples.pieces))
        return trial

    def run(self, pieces: Sequence[Inputs]) -> list[Inputs]:
        added = {name: self.shifts[of] for name, of in zip(self.inputs, self.names, strict=True)}
        return [self.engine.run(piece | added) for piece in pieces]

    def correct(self, exact: _Exact, bench: Workbench) -> _Error:
        """Correct the biases, layer by layer; return the error that is left."""
        for index, name in enumerate(self.names):
            bench.progress(index, len(self.names), "correcting biases")
            if bench.stop():
                break
            results = self.run(exact.samples.pieces[: exact.few])
            moved = _mean(results, self.means[index]) - self.wanted[index]
            shift = self.shifts[name]
            self.shifts[name] = shift - moved.reshape(shift.shape).astype(np.float32)
        return exact.error(self.run(exact.samples.pieces))


def _squares(want: Array, got: Array, piece: Inputs) -> tuple[Array, Array]:
    """Return the squares of what is wanted and of the error, summed over each sample.

    Elements that float32 gives as infinite or no number are masked, and left out.
    """
    first = next(iter(piece.values()))
    is_batch = want.ndim > 1 and first.ndim and want.shape[0] == first.shape[0]
    shape = (want.shape[0] if is_batch else 1, -1)
    counted = np.isfinite(want).reshape(shape)
    exact = np.where(counted, want.reshape(shape), 0).astype(np.float64)
    error = np.where(counted, got.reshape(shape) - exact, 0)
    return np.square(exact).sum(axis=1), np.square(error).sum(axis=1)


def _rows(array: Array) -> Array:
    """Return statistics of channels with one row a sample."""
    return array.reshape(array.shape[0], -1) if array.ndim > 1 else array[None]


def _mean(results: Sequence[Inputs], name: str) -> Array:
    rows = np.concatenate([_rows(result[name]) for result in results])
    return np.asarray(rows.mean(axis=0, dtype=np.float64))


def _comparable(engine: Engine, names: Sequence[str]) -> list[str]:
    """Return the outputs of floats whose shape the inputs decide."""
    known = set(engine.ranges)
    return [
        info.name
        for info in engine.outputs
        if info.name in names
        and dtype_by_name(info.dtype).is_float
        and all(symbols_of(dim) <= known for dim in info.shape)
    ]
