"""Calibration: runs the model in float32 on the user's data and collects histograms.

The engine that runs is a build of the same simplified graph whose outputs are the tensors to be
quantized. Batches stream through it; what stays in memory is one histogram a tensor, and the
tensors of one piece of a batch, cut so that they take at most `PIECE_BYTES`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np

from planish.errors import ConfigError, InputError
from planish.ir.clone import clone_graph
from planish.ir.declarations import DECLARED
from planish.ir.dtypes import U8
from planish.ir.graph import Graph, Node, Value
from planish.ir.shape import evaluate, symbols_of
from planish.ops.infer import infer_node
from planish.passes.dead_code import DeadCode
from planish.quantize.cache import CalibrationCache, format_cache
from planish.quantize.calibrators import CACHE, Calibrator
from planish.quantize.data import BatchAxis, Inputs, batch_axis, named, pieces
from planish.quantize.files import check_place
from planish.quantize.histogram import FineHistogram
from planish.quantize.insert_qdq import LARGEST
from planish.quantize.non_negative import is_non_negative
from planish.quantize.samples import Samples
from planish.quantize.scheme import LEVELS, Ranges, TensorRange, tensor_name
from planish.runtime.engine import Engine

Array = np.ndarray[Any, Any]

PIECE_BYTES = 48 << 20
SPATIAL = frozenset({"AveragePool", "Conv", "ConvTranspose", "GlobalAveragePool", "MaxPool"})
SMALLEST_SCALE = float(np.finfo(np.float32).tiny)
Observe = Callable[[Array, Array, Array], None]  # array, bins and state of a histogram


class Workbench(Protocol):
    """What calibration needs of the build."""

    def engine(self, graph: Graph) -> Engine:
        """Return an engine that runs a simplified graph in float32."""

    def engines(self, graphs: Sequence[Graph]) -> list[Engine]:
        """Return an engine for each of several graphs."""

    def observer(self) -> Observe:
        """Return the device's code that counts magnitudes."""

    def stop(self) -> str:
        """Return why calibration has to end now; empty while it may go on."""

    def progress(self, done: int, total: int, doing: str = "calibrating") -> None:
        """Tell the user how many batches were seen, of how many (0 when that is not known)."""


def calibrate(
    graph: Graph,
    values: Sequence[Value],
    calibrator: Calibrator,
    bench: Workbench,
    samples: Samples | None = None,
) -> Ranges:
    """Return the ranges of `values`, from the calibrator's cache or else from its data.

    Parameters
    ----------
    graph : Graph
        Simplified, float32; left as it is.
    values : sequence of Value
        Tensors of `graph` to observe.
    calibrator : Calibrator
        Its `ranges` are set, also when an interruption ends the run.
    bench : Workbench
    samples : Samples, optional
        Offered what is read of the data.

    Raises
    ------
    ConfigError
        When there are neither data nor a cache, the data have no batches, or the cache is for
        another model.
    InputError
        When a batch does not fit the model, or its activations are not numbers.
    """
    names = list(dict.fromkeys(tensor_name(value) for value in values))
    cached = _from_cache(calibrator, names)
    if cached is not None:
        calibrator.ranges = cached
        return cached
    if not calibrator.has_data:
        raise _no_data(calibrator)
    if calibrator.cache is not None:
        check_place(calibrator.cache, CACHE)  # not after minutes of calibrating
    run = _Run(graph, values, calibrator, bench)
    run.samples = samples
    try:
        run.collect()
    except KeyboardInterrupt:  # what was collected is kept
        run.stopped = run.stopped or "calibration was interrupted: it did not see every batch"
        if run.batches:
            run.finish()
        raise
    return run.finish()


def _no_data(calibrator: Calibrator) -> ConfigError:
    path, kind = calibrator.cache, type(calibrator).__name__
    lack = ""
    if path is not None:
        reason = (
            "is empty" if path.is_file() else "is a folder" if path.is_dir() else "does not exist"
        )
        lack = f", and the calibration cache {path} {reason}"
    return ConfigError(
        f"there are no calibration data{lack}",
        where=kind,
        fix=f"write planish.{kind}(batches), or give the path of an existing cache: cache=...",
    )


def _from_cache(calibrator: Calibrator, names: list[str]) -> Ranges | None:
    """Return what the calibrator's cache says; None when there is none that may be used."""
    contents = calibrator.read_calibration_cache()
    if not contents:
        return None
    where = str(calibrator.cache or type(calibrator).__name__)
    cache = CalibrationCache.parse(contents, where)
    if cache.algorithm != calibrator.algorithm and calibrator.has_data:
        return None  # as in TensorRT: calibrate again
    return cache.ranges(names, where)


class _Run:
    """One pass over the data."""

    def __init__(
        self, graph: Graph, values: Sequence[Value], calibrator: Calibrator, bench: Workbench
    ) -> None:
        self.calibrator = calibrator
        self.bench = bench
        self.names = {tensor_name(value): str(value.producer or "an input") for value in values}
        self.levels = {
            tensor_name(value): int(LARGEST[U8]) if is_non_negative(value) else LEVELS
            for value in values
        }
        self.histograms = {name: FineHistogram() for name in self.names}
        self.batches = 0
        self.stopped = ""
        self.observe = bench.observer()
        self.engine = bench.engine(_observed(graph, values))
        self.axis = _axis(self.engine)
        self.inputs = {
            tensor_name(value): name
            for value, name in zip(graph.inputs, graph.input_names, strict=True)
            if tensor_name(value) in self.names
        }
        self.samples: Samples | None = None
        self._buffers: dict[str, Array] = {}
        self._sizes: dict[str, tuple[int, ...]] = {}
        known = set(self.engine.ranges)
        self._fixed = {
            info.name
            for info in self.engine.outputs
            if all(symbols_of(dim) <= known for dim in info.shape)
        }

    def collect(self) -> None:
        """Run every batch until the data, the time, or the user's patience end."""
        total = self.calibrator.count
        input_names = [info.name for info in self.engine.inputs]
        with ThreadPoolExecutor(max(self.engine.threads, 1)) as pool:
            for batch in self.calibrator.batches(input_names):
                self.stopped = self.bench.stop() if self.batches else ""
                if self.stopped:  # and there is more to see
                    return
                self._batch(batch, pool)
                self.batches += 1
                self.bench.progress(self.batches, total)
                if self.stopped:
                    return
        if not self.batches:
            raise ConfigError(
                "the calibration data are empty: there is no batch",
                where=type(self.calibrator).__name__,
                fix="give at least one batch; an iterator can be read only once, so give a list "
                "or a function that returns an iterator",
            )

    def finish(self) -> Ranges:
        """Hand what was found so far to the calibrator and its cache, and return it."""
        self.calibrator.ranges = self._ranges()
        self.calibrator.write_calibration_cache(format_cache(self.calibrator.ranges))
        return self.calibrator.ranges

    def _ranges(self) -> Ranges:
        found: dict[str, TensorRange] = {}
        zero, infinite = [], []
        for name, fine in self.histograms.items():
            if fine["not_finite"]:
                infinite.append(name)
            elif not fine.amax:
                zero.append(name)
            else:
                found[name] = self._range(fine, self.levels[name])
        notes = [self.stopped] if self.stopped else []
        if zero:
            notes.append(f"always zero on the calibration data, not quantized: {', '.join(zero)}")
        if infinite:
            notes.append(f"infinite on the calibration data, not quantized: {', '.join(infinite)}")
        return Ranges(
            found,
            self.calibrator.algorithm,
            self.batches,
            tuple(notes),
            tuple(infinite),
            partial=bool(self.stopped),
        )

    def _range(self, fine: FineHistogram, levels: int) -> TensorRange:
        histogram, amax = fine.finish(levels), fine.amax
        threshold = float(self.calibrator.threshold(histogram, amax))
        if not 0 < threshold < np.inf:
            raise ConfigError(
                f"the calibrator chose the threshold {threshold}, expected a positive number",
                where=type(self.calibrator).__name__,
            )
        # rounded as in the cache: a build from the cache gives the same engine
        scale = max(float(np.float32(threshold / LEVELS)), SMALLEST_SCALE)
        return TensorRange(
            threshold=scale * LEVELS,
            amax=amax,
            minimum=fine["minimum"],
            maximum=fine["maximum"],
            clipped_share=histogram.share_above(threshold) if threshold < amax else 0.0,
            histogram=histogram,
        )

    def _batch(self, batch: Any, pool: ThreadPoolExecutor) -> None:
        where, begun = f"calibration batch {self.batches}", False
        for piece in pieces(named(batch, self.engine.inputs, where), self.axis, where):
            self.stopped = self.bench.stop() if begun else ""
            if self.stopped:
                break
            begun = True
            if self.samples is not None:
                self.samples.offer(piece, self.axis)
            list(pool.map(self._count, *zip(*self._tensors(piece, where).items(), strict=True)))
        for name, fine in self.histograms.items():
            if fine["nan"]:
                raise InputError(
                    f"the activations of tensor {name!r} are NaN",
                    where=f"{where}, computed by {self.names[name]}",
                    fix="run the float32 model on this batch: its preprocessing may differ from "
                    "the training's, or the model divides by zero there",
                )

    def _tensors(self, piece: Inputs, where: str) -> Mapping[str, Array]:
        """Return the observed tensors of one inference, largest first."""
        sizes = {name: array.shape for name, array in piece.items()}
        if self._sizes != sizes:  # else the arrays of the piece before are written again
            self._sizes, self._buffers = sizes, {}
        try:
            results = self.engine.run(piece, self._buffers)
        except InputError as error:
            raise InputError(error.what, where=f"{where}: {error.where}", fix=error.fix) from error
        self._buffers = {name: results[name] for name in self._fixed}
        found = {name: results[name] for name in self.names if name in results}
        found |= {name: piece[public] for name, public in self.inputs.items()}
        return dict(sorted(found.items(), key=lambda entry: -entry[1].size))

    def _count(self, name: str, array: Array) -> None:
        histogram = self.histograms[name]
        contiguous = np.ascontiguousarray(array, np.float32)
        self.observe(contiguous, histogram.bins, histogram.state)


def _observed(graph: Graph, values: Sequence[Value]) -> Graph:
    """Return a copy of `graph` whose outputs are `values`, by their tensor names."""
    marked = clone_graph(graph)
    copies = _matching(graph, marked)
    computed = {tensor_name(value): value for value in values if value.producer is not None}
    if not computed:  # inputs alone: the batches themselves are observed
        return marked
    marked.outputs = [_as_stored(marked, copies[value]) for value in computed.values()]
    marked.output_names = list(computed)
    DeadCode().run(marked)
    return marked


def _as_stored(graph: Graph, value: Value) -> Value:
    """Return `value` with its elements in the order in which convolutions store them.

    A histogram does not care about the order, and a tensor that is an output as it lies in memory
    is not copied once more.
    """
    nodes = [value.producer, *value.users]
    if (
        value.shape is None
        or value.rank < 3
        or not any(node is not None and node.op in SPATIAL for node in nodes)
    ):
        return value
    result = graph.new_value(value.dtype, None, value.name)
    order = (0, *range(2, value.rank), 1)
    node = Node("Transpose", [value], [result], {**DECLARED["Transpose"], "perm": order})
    infer_node(graph.append(node))
    return result


def _matching(graph: Graph, copy: Graph) -> dict[Value, Value]:
    """Return the values of the nodes of `graph` with their counterparts in a copy."""
    return {
        mine: other
        for node, twin in zip(graph, copy, strict=True)
        for mine, other in zip(node.outputs, twin.outputs, strict=True)
    }


def _axis(engine: Engine) -> BatchAxis:
    """Return how batches are cut for `engine`, so that a piece's outputs fit into the limit."""
    smallest = {name: max(low, 1) for name, (low, _, _) in engine.ranges.items()}
    opt = {name: opt for name, (_, opt, _) in engine.ranges.items()}
    first = next((str(info.shape[0]) for info in engine.inputs if info.shape), "")
    sizes = {**opt, first: 1} if first in smallest else opt
    shapes = [info.shape for info in (*engine.inputs, *engine.outputs)]
    known = [s for s in shapes if all(symbols_of(dim) <= set(sizes) for dim in s)]
    elements = sum(int(np.prod([evaluate(dim, sizes) for dim in shape])) for shape in known)
    return batch_axis(engine.inputs, engine.ranges, max(PIECE_BYTES // max(4 * elements, 1), 1))
