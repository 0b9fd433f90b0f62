"""Ungrouped convolutions of bf16 or of bytes on AMX tiles; see codegen/amx.py for the kernel.

The same implicit GEMM as gemm_conv with another inner loop: a row of an input tile is one pixel's
channels (or several taps' where they are neighbours in memory), read in place, halo included.
"""

from __future__ import annotations

from typing import ClassVar

from planish.backends.cpu.codegen.amx import print_amx
from planish.backends.cpu.codegen.amx_blocking import candidate_amx_blockings
from planish.backends.cpu.codegen.amx_plan import AmxBlocking, Array, pack_tiles, steps_of, unfolded
from planish.backends.cpu.codegen.element import vector_unit
from planish.backends.cpu.codegen.gemm_problem import Problem
from planish.backends.cpu.codegen.packing import pack_columns
from planish.backends.cpu.tactics.convolution import (
    convolution_problem,
    read_convolution,
    refuse_integers,
    refuse_memory,
)
from planish.ir.dtypes import BF16, I8, U8, DType
from planish.tactics.tactic import YES, Config, Kernel, Region, Support, Tactic, no
from planish.tactics.target import Target

FEATURES = {BF16: "amx_bf16", I8: "amx_int8", U8: "amx_int8"}


def features_of(dtype: DType) -> tuple[str, ...]:
    """Return the CPU features that products of operands of `dtype` take."""
    return ("amx_tile", FEATURES[dtype])


def refuse_target(target: Target, dtype: DType) -> str | None:
    """Return why the CPU cannot run AMX kernels with AVX-512 epilogues, or None when it can."""
    if dtype not in FEATURES:
        return f"AMX does not multiply {dtype}: the input or the weights are not bf16, i8 or u8"
    if not target.has(*features_of(dtype)):
        return f"the CPU has no AMX for {dtype}"
    unit = vector_unit(target)
    if unit is None or unit.lanes != 16 or (dtype is BF16 and not target.has("avx512_bf16")):
        return "the CPU has AMX but not AVX-512 with bf16"
    return None


def refuse_steps(problem: Problem) -> str | None:
    """Return why K cannot be walked in tiles, or None when it can."""
    if not isinstance(problem.run, int) or not isinstance(problem.columns, int):
        return "K or N is symbolic"
    if steps_of(problem.run, problem.kind) is None:
        return f"K has runs of {problem.run} elements: no groups of {problem.kind.group}"
    return None


def _problem(region: Region, target: Target) -> tuple[Problem, Array]:
    """Return the GEMM of a region that is supported, and its weight matrices [groups, K, N]."""
    problem, matrices = convolution_problem(region, target, tiles=True)
    return unfolded(problem), matrices


class AmxConvolution(Tactic):
    """Convolution of bf16 or bytes with constant weights on AMX tiles."""

    name: ClassVar[str] = "amx_tile_conv"
    rank: ClassVar[int] = 5

    def supports(self, region: Region, target: Target) -> Support:
        """Accept ungrouped convolutions of channels-last inputs that hold their padding."""
        shape = read_convolution(region, integers=True)
        if isinstance(shape, str):
            return no(shape)
        reason = refuse_target(target, shape.operand.dtype)
        if reason is not None:
            return no(reason)
        if shape.group != 1:
            return no("the convolution is grouped")
        weight = shape.anchor.input(1)
        if not shape.is_integer and (weight is None or weight.dtype is not BF16):
            return no("the input or the weights are not bf16")
        reason = refuse_memory(shape) or refuse_steps(_problem(region, target)[0])
        if reason is None and shape.is_integer:
            reason = refuse_integers(shape.weights)
        return YES if reason is None else no(reason)

    def configs(self, region: Region, target: Target) -> list[Config]:
        """Return blockings, the best guess of the cost model first."""
        problem, _ = _problem(region, target)
        bindings = {name: opt for name, (_, opt, _) in region.ranges.items()}
        return [b.as_config() for b in candidate_amx_blockings(problem, target, bindings)]

    def build(self, region: Region, config: Config, target: Target) -> Kernel:
        """Return the kernel of one blocking."""
        problem, matrices = _problem(region, target)
        printed = print_amx(problem, AmxBlocking.of(config))
        packed = [*problem.epilogue.arrays]
        packed.append(pack_tiles(matrices, printed.steps, printed.columns, problem.kind))
        if problem.bias_pointer is not None and problem.epilogue.bias is not None:
            packed.append(pack_columns(problem.epilogue.bias, printed.columns))
        isa = (*problem.unit.isa, *features_of(region.inputs[problem.input_pointer].dtype))
        return Kernel(
            printed.source, printed.items, tuple(packed), printed.scratch_bytes, isa,
            problem.overwrites(len(region.inputs)),
        )  # fmt: skip
