"""Matrix products by cuBLASLt, where asked for (`tactic_sources`) and installed.

It is compared like all candidates, on the machine of the GPU only, because the library ranks its
algorithms there. Engines that use it need the library where they run.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from planish.backends.cuda.libraries import cublaslt
from planish.backends.cuda.libraries.find import is_installed
from planish.backends.cuda.libraries.linear import Linear, read_linear
from planish.ir.shape import evaluate
from planish.runtime.cuda.driver import is_present
from planish.tactics.tactic import YES, Config, ExternalKernel, Region, Support, Tactic, no
from planish.tactics.target import Target

CANDIDATES = 4  # of the library's ranking


class CublasLtMatmul(Tactic):
    """See the module's docstring."""

    name: ClassVar[str] = "cublaslt"
    device: ClassVar[str] = "cuda"
    rank: ClassVar[int] = 40
    optional: ClassVar[bool] = True

    def supports(self, region: Region, target: Target) -> Support:
        """Accept products with constant weights whose epilogue the library has."""
        found = read_linear(region)
        if isinstance(found, str):
            return no(found)
        if not is_present() or not is_installed("cublasLt"):
            return no("there is no GPU or no cuBLASLt here")
        if found.activation == "Gelu" and found.residual is not None:
            return no("the library has no such epilogue")
        return YES

    def configs(self, region: Region, target: Target) -> list[Config]:
        """Return places in the library's ranking."""
        found = read_linear(region)
        if isinstance(found, str):
            return []
        known = cublaslt.algorithms(_parameters(region, found), _rows(region, found), CANDIDATES)
        return [{"rank": rank} for rank in range(len(known))]

    def build(self, region: Region, config: Config, target: Target) -> ExternalKernel:
        """Return the call with the algorithm at one place of the ranking."""
        found = read_linear(region)
        if isinstance(found, str):
            raise ValueError(found)
        given, rows = _parameters(region, found), _rows(region, found)
        parameters = cublaslt.with_algorithm(given, rows, int(config["rank"]))
        return ExternalKernel(cublaslt.KIND, parameters, _packed(found))


def _parameters(region: Region, found: Linear) -> dict[str, Any]:
    return cublaslt.parameters_of(found, len(region.inputs) + len(region.outputs))


def _rows(region: Region, found: Linear) -> int:
    sizes = {name: bounds[1] for name, bounds in region.ranges.items()}
    return evaluate(found.source.rows, sizes)


def _packed(found: Linear) -> tuple[np.ndarray, ...]:
    kind = found.dtype.numpy
    arrays = [found.weights] if found.bias is None else [found.weights, found.bias]
    return tuple(np.ascontiguousarray(array.astype(kind)) for array in arrays)
