"""Convolutions and matrix products on AMX tiles: the GEMM tactics' problems, other tiles.

Only bf16 operands that lie as tiles need them: runs of K that are whole steps, packed weights.
Everything else is left to the AVX-512 tactics. See codegen/gemm_amx.py for the structure.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from planish.backends.cpu.codegen.gemm_amx import (
    AmxBlocking,
    candidate_amx_blockings,
    print_gemm_amx,
    step_of,
)
from planish.backends.cpu.codegen.gemm_problem import Problem
from planish.backends.cpu.codegen.packing import pack_columns, pack_matrix
from planish.backends.cpu.tactics.convolution import GemmConvolution, convolution_problem
from planish.backends.cpu.tactics.matmul import GemmMatMul, matmul_problem
from planish.tactics.tactic import YES, Config, Kernel, Region, Support, Tactic, no
from planish.tactics.target import Target

Array = np.ndarray[Any, Any]
FEATURES = ("amx_tile", "amx_bf16")


class _AmxTactic(Tactic):
    """What both tactics share; `gemm` accepts the region, `problem` reads it."""

    rank: ClassVar[int] = 15
    gemm: ClassVar[type[Tactic]]

    def problem(self, region: Region, target: Target) -> tuple[Problem, Array | None]:
        """Return the GEMM and its weight matrices [groups, K, N] (None if not constant)."""
        raise TypeError(f"{type(self).__name__} does not read regions")

    def supports(self, region: Region, target: Target) -> Support:
        """Accept what the GEMM tactic accepts, in bf16 and in whole tile steps."""
        if not target.has(*FEATURES):
            return no("the CPU has no AMX tiles for bf16")
        support = self.gemm().supports(region, target)
        if not support:
            return support
        problem, matrices = self.problem(region, target)
        if matrices is None or step_of(problem) is None:
            return no("the operands are not constant bf16 weights by whole tile steps of K")
        return YES

    def configs(self, region: Region, target: Target) -> list[Config]:
        """Return blocks of tiles by loop orders."""
        problem, _ = self.problem(region, target)
        bindings = {name: opt for name, (_, opt, _) in region.ranges.items()}
        found = candidate_amx_blockings(problem, target.threads, target.l2, bindings)
        return [blocking.as_config() for blocking in found]

    def build(self, region: Region, config: Config, target: Target) -> Kernel:
        """Return the kernel of one blocking."""
        problem, matrices = self.problem(region, target)
        printed = print_gemm_amx(problem, AmxBlocking.of(config))
        packed = [*problem.epilogue.arrays]
        run = problem.run if isinstance(problem.run, int) else 1
        if matrices is not None:
            packed.append(pack_matrix(matrices, run, printed.columns, problem.kind))
            if problem.bias_pointer is not None and problem.epilogue.bias is not None:
                bias = problem.epilogue.bias
                if bias.size == len(matrices) * printed.columns.count:
                    bias = bias.reshape(len(matrices), -1)
                else:
                    bias = np.broadcast_to(bias, (len(matrices), bias.size))
                packed.append(pack_columns(bias, printed.columns))
        isa = (*problem.unit.isa, *FEATURES)
        return Kernel(printed.source, printed.items, tuple(packed), printed.scratch_bytes, isa)


class AmxConvolution(_AmxTactic):
    """Convolution with constant bf16 weights on AMX tiles."""

    name: ClassVar[str] = "amx_conv"
    gemm: ClassVar[type[Tactic]] = GemmConvolution

    def problem(self, region: Region, target: Target) -> tuple[Problem, Array | None]:
        """Read a convolution."""
        return convolution_problem(region, target)


class AmxMatMul(_AmxTactic):
    """Matrix product with constant bf16 weights on AMX tiles."""

    name: ClassVar[str] = "amx_matmul"
    gemm: ClassVar[type[Tactic]] = GemmMatMul

    def problem(self, region: Region, target: Target) -> tuple[Problem, Array | None]:
        """Read a product; a constant left operand is left to the other tactic."""
        problem, constants = matmul_problem(region, target)
        return problem, None if constants.left is not None else constants.right
