"""Products of bytes, and what surrounds them, through the CUDA tactics.

Without a GPU the kernels run in Triton's interpreter; with one (marker gpu) every configuration
runs there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from planish.backends.cuda.codegen.compile import compile_kernels
from planish.backends.cuda.device import detect
from planish.backends.cuda.tactics.convolution import ImplicitProduct
from planish.backends.cuda.tactics.depthwise import Depthwise
from planish.backends.cuda.tactics.matmul import MatrixProduct
from planish.errors import CompileError
from planish.ops.interpreter import run_graph
from planish.tactics.tactic import Config, Region, Tactic, TritonKernel
from tests.backends.cpu.quantized_cases import Quantized, difference, region_of
from tests.backends.cpu.test_quantized_products import (
    CONVOLUTIONS,
    DEPTHWISE,
    MEANS,
    OTHERS,
    PRODUCTS,
)
from tests.backends.cuda.interpreter import interpret
from tests.backends.cuda.kernel_harness import run_kernel

pytest.importorskip("triton")

TARGET = detect("sm_90")
Found = tuple[str, TritonKernel, Region, list[np.ndarray], np.ndarray]
CASES: list[tuple[Tactic, Sequence[Quantized]]] = [
    (ImplicitProduct(), [*CONVOLUTIONS, *OTHERS[:1]]),
    (Depthwise(), [*DEPTHWISE, *MEANS]),
    (MatrixProduct(), PRODUCTS),
]
IDS = ["convolution", "depthwise", "matmul"]


def _kernels(
    tactic: Tactic, cases: Sequence[Quantized], configs: int | None = None
) -> Iterator[Found]:
    for case in cases:
        region, arrays = region_of(case)
        support = tactic.supports(region, TARGET)
        assert support, f"{case.label}: {support.reason}"
        (expected,) = run_graph(region.body, arrays)
        for config in _chosen(tactic.configs(region, TARGET), configs):
            kernel = tactic.build(region, config, TARGET)
            assert isinstance(kernel, TritonKernel)
            yield f"{case.label} {dict(config)}", kernel, region, arrays, expected


def _chosen(configs: list[Config], count: int | None) -> list[Config]:
    """Return `count` configurations: the first, and those that split the sum."""
    if count is None:
        return configs
    splits = [config for config in configs[1:] if config.get("split", 1) > 1]
    return [*configs[:1], *splits][:count]


def _problems(found: Sequence[Found], results: Sequence[list[np.ndarray] | str]) -> list[str]:
    problems = []
    for (label, *_, expected), result in zip(found, results, strict=True):
        problem = result if isinstance(result, str) else difference(result[0], expected)
        if problem is not None:
            problems.append(f"{label}: {problem}")
    return problems


@pytest.mark.parametrize(("tactic", "cases"), CASES, ids=IDS)
def test_interpreted_kernels_agree_with_the_reference(
    tactic: Tactic, cases: Sequence[Quantized]
) -> None:
    found = list(_kernels(tactic, cases, configs=2))
    results = interpret([(kernel, region, arrays, {}) for _, kernel, region, arrays, _ in found])
    problems = _problems(found, results)
    assert not problems, "\n".join(problems)


@pytest.mark.gpu
@pytest.mark.parametrize(("tactic", "cases"), CASES, ids=IDS)
def test_kernels_agree_with_the_reference(tactic: Tactic, cases: Sequence[Quantized]) -> None:
    found = list(_kernels(tactic, cases))
    arch = int(next(iter(detect(None).features))[3:])
    results: list[list[np.ndarray] | str] = []
    cubins = compile_kernels([kernel for _, kernel, *_ in found], arch)
    for (_, kernel, region, arrays, _), cubin in zip(found, cubins, strict=True):
        failed = isinstance(cubin, CompileError)
        results.append(str(cubin) if failed else run_kernel(kernel, cubin, region, arrays, {}))
    problems = _problems(found, results)
    assert not problems, "\n".join(problems)
