"""Collects what the stages of a build did into a BuildReport."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from planish.build_clock import BuildClock
from planish.config import BuildConfig
from planish.ir.graph import Node
from planish.passes.graph_pass import PassStatistics
from planish.passes.lower_precision import PRODUCTS
from planish.passes.quantized import is_quantized_product
from planish.plan.plan import Plan
from planish.quantize.insert_qdq import QuantizationSummary
from planish.quantize.request import PrecisionRequest
from planish.quantize.scheme import Ranges
from planish.report import BuildReport, LayerReport, PassReport
from planish.report_calibration import TensorReport
from planish.tactics.select import FALLBACK, operations_of
from planish.tactics.tactic import Choice
from planish.tactics.target import Target

BARS = 128  # of a tensor's histogram


def make_report(
    model: object,
    imported: int,
    notes: Sequence[str],
    passes: Sequence[PassStatistics],
    choices: Mapping[Node, Choice],
    plan: Plan,
    target: Target,
    config: BuildConfig,
    clock: BuildClock,
    tuned: str,
    request: PrecisionRequest,
) -> BuildReport:
    """Return the report of a finished build.

    `imported` is the number of nodes of the model, `notes` what the importer has to say about it,
    `request` what came of the precision that was asked for.
    """
    return BuildReport(
        model=Path(model).name if isinstance(model, str | Path) else "model",
        target={"device": target.device, "threads": target.threads,
                "features": sorted(target.features)},
        precision=config.precision,
        stages=tuple(clock.stages),
        passes=tuple(PassReport(s.name, s.before, s.after, round(s.seconds, 4), dict(s.counts))
                     for s in passes),
        layers=tuple(_layer(choice) for choice in choices.values()),
        memory=asdict(plan.memory),
        warnings=(*notes, *request.notes, *_fallbacks(choices)),
        nodes_imported=imported,
        tuned=tuned,
        calibrator="" if request.ranges is None else request.ranges.title,
        tensors=() if request.ranges is None else tensor_reports(request.ranges, request.summary),
        compressed=tuple(request.compressed),
    )  # fmt: skip


def tensor_reports(
    ranges: Ranges, summary: QuantizationSummary | None = None
) -> tuple[TensorReport, ...]:
    """Return the calibrated tensors, in the order of the graph, and how an engine stores them."""
    stored = summary.tensors if summary is not None else {}
    return tuple(
        TensorReport(
            name=name,
            stored=stored.get(name, ""),
            threshold=entry.threshold,
            amax=entry.amax,
            minimum=entry.minimum,
            maximum=entry.maximum,
            clipped_share=entry.clipped_share,
            bars=entry.histogram.bars(BARS) if entry.histogram is not None else (),
            end=entry.histogram.end if entry.histogram is not None else 0.0,
        )
        for name, entry in ranges.items()
    )


def choice_lines(choices: Mapping[Node, Choice]) -> list[str]:
    """Return a line for every region: what was chosen, and why nothing else (PLANISH_DEBUG=3)."""
    lines = []
    for choice in choices.values():
        layer = _layer(choice)
        lines.append(
            f"{layer.name}: {layer.tactic}{layer.config} {layer.microseconds or ''}".strip()
        )
        lines += [f"    {label} {time} us" for label, time in layer.alternatives]
        lines += [f"    not {name}: {reason}" for name, reason in layer.refusals]
    return lines


def _fallbacks(choices: Mapping[Node, Choice]) -> tuple[str, ...]:
    """Return a warning for every region that runs in numpy."""
    return tuple(
        f"{choice.region.name} ({choice.region.node.source}) runs through its numpy reference; "
        f"planish inspect --region {choice.region.name} says why"
        for choice in choices.values()
        if choice.tactic == FALLBACK
    )


def _layer(choice: Choice) -> LayerReport:
    region = choice.region
    settings = ",".join(f"{key}={value}" for key, value in sorted(choice.config.items()))
    return LayerReport(
        name=region.name,
        layers=str(region.node.source),
        operations=operations_of(region),
        shape="x".join(str(dim) for dim in region.outputs[0].shape),
        precision=precision_of(choice),
        tactic=choice.tactic,
        config="{" + settings + "}",
        microseconds=None if choice.microseconds is None else round(choice.microseconds, 2),
        alternatives=tuple((label, round(t, 2)) for label, t in choice.alternatives),
        refusals=choice.refusals,
        products=tuple(
            name for node in region.body if node.op in PRODUCTS for name in node.source.names
        ),
    )


def precision_of(choice: Choice) -> str:
    """Return what a region runs in: what its products multiply, else its narrowest float."""
    region = choice.region
    products = [node for node in region.body if node.op in PRODUCTS]
    quantized = [node for node in products if is_quantized_product(node)]
    if quantized:
        dequantize = quantized[0].present_inputs[0].producer
        is_float = dequantize is not None and dequantize.present_inputs[0].dtype.is_float
        return "fp8" if is_float else "int8"
    values: list[Any] = [operand.value for operand in (*region.inputs, *region.outputs)]
    values += region.body.constants()
    values = [value for node in products for value in node.present_inputs[:2]] or values
    floats = {value.dtype for value in values if value.dtype.is_float}
    if not floats:
        return str(region.outputs[0].dtype)
    return str(min(floats, key=lambda dtype: (dtype.bits, dtype.name)))
