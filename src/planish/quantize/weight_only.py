"""Weight-only quantization: what `BuildConfig.weights` asks for, carried out on a graph.

Weights of matrix products become four or eight bits with a scale for each group of rows and column
(or one for each column), and stay so in the engine; activations stay floating point. The result is
the form of passes/compressed.py. Tables that Gather reads become eight bits with a scale a row.

Rounding to nearest needs no data. GPTQ (gptq.py) spreads the error of a row over the rows that are
still to be rounded, by the second moments of the layer's inputs, which come from calibration data.
Layers are done in the order of execution, so that later ones see the inputs that the rounded ones
before them give.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from planish.errors import ConfigError
from planish.ir.dtypes import F32, I4, I8, U4, U8
from planish.ir.graph import Graph, Node, Value
from planish.passes.building import emit
from planish.passes.compressed import FEWEST_COLUMNS, OCTET
from planish.passes.fuse_siblings import FuseSiblings
from planish.passes.linear import LINEAR
from planish.passes.overrides import wanted_precision
from planish.passes.quantized import DEQUANTIZE
from planish.quantize.calibrators import Calibrator, MinMaxCalibrator
from planish.quantize.gptq import Hessian, quantize_by_hessian
from planish.quantize.group_scales import Grid, GroupedWeights, round_to_nearest, signal_to_noise
from planish.quantize.second_moments import SecondMoments
from planish.report_weights import CompressedLayer

if TYPE_CHECKING:
    from planish.quantize.calibrate import Workbench

Array = np.ndarray[Any, Any]
Batches = Iterable[Any] | Callable[[], Iterable[Any]]

METHODS = ("round", "gptq")
SMALLEST_LAYER = 1 << 16  # weights; smaller layers stay floating point
GROUP_OF_FOUR_BITS = 32
WAVES = 8  # engines that are built for GPTQ at most; each measures the inputs of some layers
MOMENT_BYTES = 1 << 30  # of the second moments of one wave


@dataclass(frozen=True)
class WeightOnly:
    """How weights of matrix products are stored; `BuildConfig(weights=...)` takes one.

    Attributes
    ----------
    bits : int
        4 or 8.
    group : int or None
        Rows that share a scale, a multiple of 8; 0 for a whole column. None for 32 with four bits,
        a whole column with eight.
    symmetric : bool
        Whether zero is the middle of the numbers; else each group has a zero point.
    method : str
        "round" (to nearest) or "gptq" (needs data).
    data : iterable, or function that returns one
        Batches for GPTQ, as calibrators take them; by default those of `BuildConfig.calibrator`.
    last_bits : int
        Bits of the last layers, whose results the user reads; never fewer than `bits`.
    """

    bits: int = 4
    group: int | None = None
    symmetric: bool = True
    method: str = "round"
    data: Batches | None = None
    last_bits: int = 8

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("bits", self.bits, (4, 8)),
            ("last_bits", self.last_bits, (4, 8)),
            ("method", self.method, METHODS),
            ("symmetric", self.symmetric, (True, False)),
        ):
            if value not in allowed:
                raise ConfigError(
                    f"{name} is {value!r}, expected {' or '.join(map(repr, allowed))}",
                    where="planish.WeightOnly",
                    fix=f"leave {name} out for the default",
                )
        group = self.group
        if group is not None and (type(group) is not int or group < 0 or group % OCTET):
            raise ConfigError(
                f"group is {group!r}, expected a multiple of {OCTET}, or 0 for a whole column",
                where="planish.WeightOnly",
                fix="32, 64 and 128 are usual",
            )

    @staticmethod
    def of(wanted: str | WeightOnly) -> WeightOnly:
        """Return what "int4" or "int8" stand for."""
        return wanted if isinstance(wanted, WeightOnly) else WeightOnly(bits=int(wanted[-1]))

    def grid(self, bits: int, depth: int) -> Grid:
        """Return the numbers and groups of a layer with `depth` rows."""
        group = self.group
        if group is None:
            group = GROUP_OF_FOUR_BITS if bits == 4 else 0
        return Grid(bits, min(group or depth, depth), self.symmetric)


@dataclass
class WeightSummary:
    """What `compress_weights` did: the layers, and what the user has to be told."""

    layers: list[CompressedLayer]
    notes: list[str]


def compress_weights(
    graph: Graph,
    wanted: WeightOnly,
    overrides: Mapping[str, str],
    calibrator: Calibrator | None,
    bench: Workbench,
) -> WeightSummary:
    """Store the weights of a simplified graph's products in few bits.

    Parameters
    ----------
    graph : Graph
    wanted : WeightOnly
    overrides : dict
        `BuildConfig.layer_precisions`: floats keep a layer as it is, "int8" gives it eight bits.
    calibrator : Calibrator or None
        Its data, for GPTQ.
    bench : Workbench
        Runs engines, for GPTQ.

    Raises
    ------
    ConfigError
        When GPTQ has no data.
    InputError
        When a batch does not fit the model.
    """
    FuseSiblings().run(graph)
    layers = _layers(graph, wanted, overrides)
    summary = WeightSummary([], [])
    if wanted.method == "gptq" and layers:
        _compress_in_waves(graph, layers, wanted, calibrator, bench, summary)
    for node, bits in layers.items():
        if not _is_done(node):
            grid = wanted.grid(bits, len(_weights(node)))
            _replace(graph, node, round_to_nearest(_weights(node), grid), "round", summary)
    for node in [node for node in graph if _is_table(node, overrides)]:
        _compress_table(graph, node, summary)
    return summary


def _layers(graph: Graph, wanted: WeightOnly, overrides: Mapping[str, str]) -> dict[Node, int]:
    """Return the layers whose weights become few bits, and how many."""
    found: dict[Node, int] = {}
    before: set[Value] = set()  # values that a later product depends on
    for node in reversed(graph):
        is_last = not before.intersection(node.outputs)
        if node.op in LINEAR or not is_last:
            before.update(node.present_inputs)
        asked = wanted_precision(node, overrides)
        if not _may_be_few(node) or asked not in (None, "int8"):
            continue
        bits = max(wanted.bits, wanted.last_bits) if is_last else wanted.bits
        found[node] = 8 if asked == "int8" else bits
    return dict(reversed(found.items()))


def _may_be_few(node: Node) -> bool:
    """Whether `node` is a large product of floats by constants."""
    if node.op != "MatMul":
        return False
    x, weight = node.present_inputs[:2]
    if not weight.is_constant or weight.dtype is not F32 or weight.rank != 2:
        return False
    if x.dtype is not F32 or x.shape is None or x.rank < 2 or x.is_constant:
        return False
    array = weight.array
    if array.size < SMALLEST_LAYER or array.shape[1] < FEWEST_COLUMNS:
        return False
    return bool(np.isfinite(array).all())


def _is_done(node: Node) -> bool:
    producer = node.present_inputs[1].producer
    return producer is not None and producer.op == DEQUANTIZE


def _weights(node: Node) -> Array:
    return node.present_inputs[1].array


def _replace(
    graph: Graph, node: Node, weights: GroupedWeights, method: str, summary: WeightSummary
) -> None:
    """Let `node` multiply by `weights`, and note it."""
    grid, old = weights.grid, _weights(node)
    types = {4: (I4, U4), 8: (I8, U8)}[grid.bits]
    dtype = types[0] if grid.symmetric else types[1]
    stem = node.present_inputs[1].name
    operands = [
        graph.constant(weights.numbers.astype(dtype.numpy), graph.fresh_name(stem)),
        graph.constant(weights.scales, graph.fresh_name(f"{stem}.scales")),
    ]
    if weights.zeros is not None:
        zeros = weights.zeros.astype(dtype.numpy)
        operands.append(graph.constant(zeros, graph.fresh_name(f"{stem}.zeros")))
    attributes: dict[str, Any] = {"axis": 0, "block_size": grid.group}
    if grid.group == len(old):  # a whole column
        attributes = {"axis": 1}
        operands[1:] = [graph.constant(each.array.reshape(-1)) for each in operands[1:]]
    node.replace_input(1, emit(graph, node, DEQUANTIZE, operands, attributes))
    summary.layers.append(
        CompressedLayer(
            name=str(node.source),
            shape=(int(old.shape[0]), int(old.shape[1])),
            bits=grid.bits,
            group=0 if grid.group == len(old) else grid.group,
            method=method,
            decibels=signal_to_noise(old, weights.real()),
        )
    )


# -- GPTQ ----------------------------------------------------------------------------------------


def _compress_in_waves(
    graph: Graph,
    layers: Mapping[Node, int],
    wanted: WeightOnly,
    calibrator: Calibrator | None,
    bench: Workbench,
    summary: WeightSummary,
) -> None:
    """Quantize layers by GPTQ, some at a time; what time leaves is rounded afterwards."""
    data = _data(wanted, calibrator)
    for wave in _waves(layers):
        if bench.stop():
            summary.notes.append(
                "the time budget ended during GPTQ: the layers from "
                f"{wave[0].source} on are rounded to nearest"
            )
            return
        moments = SecondMoments(graph, [node.present_inputs[0] for node in wave], bench)
        moments.collect(data)
        for node in wave:
            hessian = moments.of(node.present_inputs[0])
            grid = wanted.grid(layers[node], len(_weights(node)))
            found, method = _by_hessian(_weights(node), grid, hessian)
            _replace(graph, node, found, method, summary)


def _by_hessian(weights: Array, grid: Grid, hessian: Hessian) -> tuple[GroupedWeights, str]:
    """Return the better of GPTQ and rounding, by the error of the layer's output."""
    rounded = round_to_nearest(weights, grid)
    better = quantize_by_hessian(weights, grid, hessian)
    if better is None or hessian.error(weights - rounded.real()) <= hessian.error(
        weights - better.real()
    ):
        return rounded, "round"
    return better, "gptq"


def _data(wanted: WeightOnly, calibrator: Calibrator | None) -> Calibrator:
    if wanted.data is not None:
        return MinMaxCalibrator(wanted.data)
    if calibrator is None or not calibrator.has_data:
        raise ConfigError(
            "GPTQ needs calibration data",
            where="planish.WeightOnly(method='gptq')",
            fix="give data=batches, or method='round'",
        )
    return calibrator


def _waves(layers: Iterable[Node]) -> list[list[Node]]:
    """Return layers in the order of execution, those with one input together."""
    by_input: dict[Value, list[Node]] = {}
    for node in layers:
        by_input.setdefault(node.present_inputs[0], []).append(node)
    groups: Sequence[list[Node]] = list(by_input.values())
    most = math.ceil(len(groups) / WAVES)
    waves: list[list[Node]] = []
    inputs, size = 0, 0
    for group in groups:
        own = len(_weights(group[0])) ** 2 * 8
        if not waves or inputs == most or size + own > MOMENT_BYTES:
            waves.append([])
            inputs, size = 0, 0
        waves[-1] += group
        inputs, size = inputs + 1, size + own
    return waves


# -- tables --------------------------------------------------------------------------------------


def _is_table(node: Node, overrides: Mapping[str, str]) -> bool:
    """Whether `node` gathers rows of a large constant matrix of floats."""
    if node.op != "Gather" or node.attributes["axis"] not in (0, -2):
        return False
    table, rows = node.present_inputs[:2]
    if not table.is_constant or table.dtype is not F32 or table.rank != 2 or rows.is_constant:
        return False
    if wanted_precision(node, overrides) not in (None, "int8"):
        return False
    return table.array.size >= SMALLEST_LAYER and bool(np.isfinite(table.array).all())


def _compress_table(graph: Graph, node: Node, summary: WeightSummary) -> None:
    """Gather rows of eight bits, and multiply each by its scale."""
    table, rows = node.present_inputs[:2]
    turned = round_to_nearest(table.array.T, Grid(8, table.array.shape[1], symmetric=True))
    numbers = np.ascontiguousarray(turned.numbers.T.astype(np.int8))
    scales = np.ascontiguousarray(turned.scales.T)
    operands = [graph.constant(numbers), graph.constant(scales)]
    gathered, scale = (emit(graph, node, "Gather", [each, rows]) for each in operands)
    real = emit(graph, node, "Cast", [gathered], {"to": F32})
    result = emit(graph, node, "Mul", [real, scale])
    summary.layers.append(
        CompressedLayer(
            name=str(node.source),
            shape=(int(numbers.shape[0]), int(numbers.shape[1])),
            bits=8,
            group=0,
            method="round",
            decibels=signal_to_noise(table.array, turned.real().T),
        )
    )
    graph.replace_value(node.output, result)
    graph.remove(node)
