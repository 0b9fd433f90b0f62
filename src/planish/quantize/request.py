"""What of the precision that was asked for this machine and this model can have."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace

from planish.config import BuildConfig
from planish.errors import ConfigError
from planish.ir.dtypes import F8E4M3, I8, U8, DType
from planish.ir.graph import Graph, Node
from planish.passes.fuse_siblings import FuseSiblings
from planish.passes.overrides import check_overrides
from planish.passes.quantized import DEQUANTIZE, QUANTIZE
from planish.quantize.calibrate import Workbench, calibrate
from planish.quantize.calibrators import MinMaxCalibrator
from planish.quantize.corrections import (
    Quantization,
    find_corrections,
    needs_corrections,
    quantize_corrected,
)
from planish.quantize.corrections_file import read_corrections, write_corrections
from planish.quantize.half_range import kept_in_float32, measured_values
from planish.quantize.insert_qdq import QuantizationSummary, quantizable_values
from planish.quantize.samples import Samples
from planish.quantize.scheme import Corrections, Ranges, tensor_name
from planish.quantize.weight_only import WeightOnly, compress_weights
from planish.report_weights import CompressedLayer
from planish.tactics.target import Target

INTEGERS = ("int8", "best")
QUANTIZED = (*INTEGERS, "fp8")
HALVES = ("fp16", "fp8", "best")  # 16-bit floats of the kind that the device is fast with
SMALL_FLOATS = 89  # architecture from which on GPUs multiply floats of eight bits


class PrecisionWarning(UserWarning):
    """The precision that was asked for was not reached."""


@dataclass
class PrecisionRequest:
    """Carries out `BuildConfig.precision` on one graph, and remembers what came of it.

    Attributes
    ----------
    config : BuildConfig
    floats : str
        What layers in floating point are lowered to: "fp32" or "bf16".
    layer_precisions : dict of str to str
        Those of `config`, and after `quantize` also the layers that 16-bit floats do not suit.
    notes : list of str
        What the user has to be told.
    ranges : Ranges or None
        What calibration found, or found before: then it is not run again. None without a
        calibrator.
    summary : QuantizationSummary or None
        What was quantized; None when nothing was asked to be.
    compressed : list of CompressedLayer
        The layers whose weights alone were quantized.
    """

    config: BuildConfig
    floats: str
    layer_precisions: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    ranges: Ranges | None = None
    summary: QuantizationSummary | None = None
    compressed: list[CompressedLayer] = field(default_factory=list)
    _warned: bool = False

    @staticmethod
    def of(config: BuildConfig, target: Target, graph: Graph) -> PrecisionRequest:
        """Return the request for an imported graph; raise ConfigError when it is none.

        Raises
        ------
        ConfigError
            When `layer_precisions` names no layer, or, with `strict`, the target cannot do what
            is asked for.
        """
        check_overrides(graph, config.layer_precisions)
        may_be_integers = config.precision in INTEGERS or config.weights is not None
        if not may_be_integers and "int8" in config.layer_precisions.values():
            raise ConfigError(
                f"layers cannot run on integers in a build with precision={config.precision!r}",
                where="BuildConfig.layer_precisions",
                fix='ask for precision="int8" or "best", which need a calibrator',
            )
        if config.precision == "fp8" and not _multiplies_small_floats(target):
            raise ConfigError(
                "fp8 was asked for, and the target does not multiply floats of eight bits",
                where="BuildConfig.precision = 'fp8'",
                fix='NVIDIA GPUs do from sm_89 on; elsewhere ask for precision="int8" or "best"',
            )
        floats = floats_of(config.precision, target)
        request = PrecisionRequest(config, floats, dict(config.layer_precisions))
        if config.precision == "fp16" and floats == "bf16":
            request.notes.append(
                "fp16 runs as bfloat16 on this CPU: products of bfloat16 are summed in float32"
            )
        elif config.precision == "fp16" and floats == "fp32":
            request.unmet(
                "fp16 was asked for, but this CPU has no fast 16-bit floats (AVX512-BF16 or "
                "AMX-BF16): every layer runs in float32"
            )
        return request

    def lower(self, graph: Graph, prints: Callable[[Node], bool], bench: Workbench) -> bool:
        """Quantize the layers of a simplified graph, then the weights of others, as asked for.

        Returns
        -------
        bool
            Whether the graph changed.
        """
        quantized = self.quantize(graph, prints, bench)
        return self.compress_weights(graph, bench) or quantized

    def quantize(self, graph: Graph, prints: Callable[[Node], bool], bench: Workbench) -> bool:
        """Make integers of the layers of a simplified graph, when they are asked for.

        Returns
        -------
        bool
            Whether the graph changed.

        Raises
        ------
        ConfigError
            When there is nothing to take scales from.
        """
        if self.floats == "fp16" or (self.config.precision == "fp16" and self.floats != "fp32"):
            self._keep_wide_layers(graph, bench)
        if self.config.precision not in QUANTIZED:
            return False
        calibrator = self.config.calibrator
        if any(node.op in (QUANTIZE, DEQUANTIZE) for node in graph):
            if calibrator is not None:
                self.notes.append(
                    "the model is quantized already: its own scales are used, the calibrator is not"
                )
            return False
        if calibrator is None:
            if self.config.precision != "best":
                raise _no_scales(self.config.precision)
            return False
        changed = FuseSiblings().run(graph)
        overrides = self.config.layer_precisions
        values = quantizable_values(graph, overrides, prints)
        if not values:
            self.unmet("no layer can run on integers: none has constant weights, or all are "
                       "kept in floating point")  # fmt: skip
            return changed
        samples = Samples()
        if self.ranges is None:
            self.ranges = calibrate(graph, values, calibrator, bench, samples)
        self.notes += self.ranges.notes
        lacking = [tensor_name(v) for v in values if tensor_name(v) not in self.ranges]
        if lacking and self.config.strict:
            self.unmet(f"no range is known of {', '.join(lacking)}, so that their layers would "
                       "stay in floating point")  # fmt: skip
        dtypes = self._dtypes()
        quantization = Quantization(self.ranges.thresholds, overrides, prints, dtypes)
        corrections = self._corrections(graph, quantization, samples, bench)
        self.summary = quantize_corrected(graph, quantization, corrections)
        self.notes += self.summary.notes
        if not self.summary.layers:
            self.unmet(self._nothing_quantized)
        return True

    @property
    def _lowest(self) -> str:
        """What quantized layers run in."""
        return "fp8" if self.config.precision == "fp8" else "int8"

    @property
    def _nothing_quantized(self) -> str:
        kind = "integers" if self._lowest == "int8" else "8-bit floats"
        return f"{self._lowest} was asked for, but no layer runs on {kind}"

    def _dtypes(self) -> tuple[DType, ...]:
        """Return what quantized tensors may become: tensor cores multiply signed bytes."""
        if self._lowest == "fp8":
            return (F8E4M3,)
        return (I8,) if self.config.device == "cuda" else (U8, I8)

    def compress_weights(self, graph: Graph, bench: Workbench) -> bool:
        """Store the weights of a simplified graph in few bits, when that is asked for.

        Returns
        -------
        bool
            Whether the graph changed.

        Raises
        ------
        ConfigError
            When GPTQ has no data.
        """
        wanted = self.config.weights
        if wanted is None:
            return False
        found = compress_weights(
            graph,
            WeightOnly.of(wanted),
            self.config.layer_precisions,
            self.config.calibrator,
            bench,
        )
        self.compressed, self.notes = found.layers, self.notes + found.notes
        if not self.compressed:
            self.unmet("no layer has weights to compress: none is a large product by constants, or "
                       "all are kept in floating point")  # fmt: skip
        return True

    def _corrections(
        self, graph: Graph, quantization: Quantization, samples: Samples, bench: Workbench
    ) -> Corrections:
        """Return what lowers the error of a depthwise network, where there are data to see it."""
        calibrator, ranges = self.config.calibrator, self.ranges
        if not self.config.corrections or calibrator is None or ranges is None:
            return Corrections()
        if not needs_corrections(quantization.selection(graph)):
            return Corrections()
        found, cache = ranges.corrections, calibrator.cache
        if found is None and cache is not None:
            found = read_corrections(cache)
        if found is None and calibrator.has_data:
            found = find_corrections(graph, quantization, calibrator, samples, bench)
            if cache is not None and cache.is_file():
                write_corrections(cache, found)
        elif found is None:
            found = Corrections(
                notes=("a calibration cache alone has no data to correct a depthwise network by",)
            )
        self.ranges = calibrator.ranges = replace(ranges, corrections=found)
        self.notes += found.notes
        return found

    def _keep_wide_layers(self, graph: Graph, bench: Workbench) -> None:
        """Keep layers in float32 whose numbers float16 does not hold."""
        calibrator, ranges = self.config.calibrator, None
        is_free = self.config.precision not in INTEGERS  # else calibration reads the data later
        if calibrator is not None and calibrator.has_data and (is_free or calibrator.is_repeatable):
            names = list(graph.input_names)
            measure = MinMaxCalibrator(lambda: calibrator.batches(names))
            ranges = calibrate(graph, measured_values(graph), measure, bench)
        kept, lines = kept_in_float32(graph, ranges)
        asked = dict(self.layer_precisions)  # what the user asks for overrules what is found
        self.layer_precisions.clear()
        self.layer_precisions.update(kept | asked)
        self.notes += lines

    def check(self, precisions: Collection[str]) -> None:
        """Compare with the precisions that the regions run in.

        A model that is lowered nowhere is said to be so: with integers always, with 16-bit floats
        (which small models may not gain from) when that is strict.
        """
        wanted = "bf16" if self.floats == "bf16" else ""
        quantizes = self.config.precision in ("int8", "fp8") or self.summary is not None
        if quantizes and self._lowest not in precisions and not self._warned:
            self.unmet(self._nothing_quantized)
        elif self.config.strict and wanted and not {wanted, "int8"}.intersection(precisions):
            self.unmet(
                f"{self.config.precision} was asked for, but every layer runs in float32: none is "
                "a product that would gain"
            )

    def unmet(self, reason: str) -> None:
        """Warn that the precision was not reached; raise ConfigError when that is strict."""
        if self.config.strict:
            raise ConfigError(
                reason,
                where=f"BuildConfig.precision = {self.config.precision!r}, strict=True",
                fix="strict=False builds an engine in the precision that can be had",
            )
        self._warned = True
        self.notes.append(reason)
        warnings.warn(reason, PrecisionWarning, stacklevel=4)


def floats_of(precision: str, target: Target) -> str:
    """Return what layers in floating point run in on `target`: "fp32", "bf16" or "fp16"."""
    if target.device == "cuda" and precision in HALVES:
        return "fp16"
    fast = target.has("avx512_bf16") or target.has("amx_bf16")
    return "bf16" if precision == "bf16" or (precision in HALVES and fast) else "fp32"


def levels_of(precision: str, target: Target) -> tuple[str, ...]:
    """Return what layers may run in when `precision` is asked for, the lowest first."""
    integers = ("int8",) if precision in INTEGERS else ()
    half = floats_of(precision, target)
    return (*integers, *((half,) if half != "fp32" else ()), "fp32")


def _multiplies_small_floats(target: Target) -> bool:
    names = [name[3:] for name in target.features if name.startswith("sm_")]
    return target.device == "cuda" and any(int(name) >= SMALL_FLOATS for name in names)


def _no_scales(precision: str) -> ConfigError:
    return ConfigError(
        f"{precision} needs to know the ranges of the activations, and the model is not quantized",
        where=f"BuildConfig.precision = {precision!r}",
        fix="give calibrator=planish.EntropyCalibrator2(batches) with some of your own data "
        "(on the command line --calibrate DATA), or a model with QuantizeLinear nodes",
    )
