"""Matrix products of bf16 or bytes by constant weights on AMX tiles; kernel in codegen/amx.py.

Rows may be dynamic: tiles then have the most even number of rows that the extent at run time
allows. Few rows (a classifier at batch 1) are bound by the streaming of weights, as elsewhere.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from planish.backends.cpu.codegen.amx import print_amx
from planish.backends.cpu.codegen.amx_blocking import candidate_amx_blockings
from planish.backends.cpu.codegen.amx_plan import AmxBlocking, pack_tiles, unfolded
from planish.backends.cpu.codegen.packing import pack_columns
from planish.backends.cpu.tactics.amx_convolution import features_of, refuse_steps, refuse_target
from planish.backends.cpu.tactics.matmul import matmul_problem, read_product
from planish.errors import TacticError
from planish.ir.dtypes import BF16
from planish.tactics.tactic import YES, Config, Kernel, Region, Support, Tactic, no
from planish.tactics.target import Target


class AmxMatMul(Tactic):
    """Matrix product of rows of bf16 or bytes by constant weights on AMX tiles."""

    name: ClassVar[str] = "amx_tile_matmul"
    rank: ClassVar[int] = 5

    def supports(self, region: Region, target: Target) -> Support:
        """Accept a left operand with contiguous rows and constant weights."""
        product = read_product(region, integers=True)
        if isinstance(product, str):
            return no(product)
        left, right = product.left, product.right
        reason = refuse_target(target, left.dtype)
        if reason is not None:
            return no(reason)
        if left.array is not None or right.array is None:
            return no("the right operand is not a constant")
        if left.dtype is BF16 and right.dtype is not BF16:
            return no("the operands are not bf16")
        reason = refuse_steps(unfolded(matmul_problem(region, target, tiles=True)[0]))
        return YES if reason is None else no(reason)

    def configs(self, region: Region, target: Target) -> list[Config]:
        """Return blockings, the best guess of the cost model first."""
        problem = unfolded(matmul_problem(region, target, tiles=True)[0])
        bindings = {name: opt for name, (_, opt, _) in region.ranges.items()}
        return [b.as_config() for b in candidate_amx_blockings(problem, target, bindings)]

    def build(self, region: Region, config: Config, target: Target) -> Kernel:
        """Return the kernel of one blocking."""
        folded, constants = matmul_problem(region, target, tiles=True)
        problem = unfolded(folded)
        weights = constants.right
        if weights is None:
            raise TacticError("amx_tile_matmul needs constant weights", where=region.name)
        printed = print_amx(problem, AmxBlocking.of(config))
        packed = [*problem.epilogue.arrays]
        packed.append(pack_tiles(weights, printed.steps, printed.columns, problem.kind))
        if problem.bias_pointer is not None and problem.epilogue.bias is not None:
            bias = problem.epilogue.bias
            bias = np.broadcast_to(bias, (len(weights), bias.shape[-1]))
            packed.append(pack_columns(bias, printed.columns))
        isa = (*problem.unit.isa, *features_of(region.inputs[problem.input_pointer].dtype))
        return Kernel(
            printed.source, printed.items, tuple(packed), printed.scratch_bytes, isa,
            problem.overwrites(len(region.inputs)),
        )  # fmt: skip
