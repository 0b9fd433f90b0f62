"""Operators' samples through the CUDA tactics, in Triton's interpreter, against the reference.

By default one or two samples of every pair of operator and tactic; all of them are slow.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pytest

from planish.backends.cuda.device import detect
from planish.backends.cuda.tactics import discover
from planish.ir.dtypes import dtype_of
from planish.ir.shape import evaluate, product
from planish.ops.op import OPS
from planish.ops.tolerance import mismatch, tolerance_of
from planish.tactics.tactic import Tactic, TritonKernel
from tests.backends.cpu.cases import CONTROL, QUICK, THOROUGH, Setting, Variant, variants
from tests.backends.cuda.interpreter import interpret

pytest.importorskip("triton")

TARGET = detect("sm_90")
GROUPS = 8
NAMES = sorted(name for name in OPS if name not in CONTROL)
GENERATED = [tactic for tactic in discover() if tactic.name.startswith("triton_")]
STATIC, SYMBOLIC = THOROUGH[:2]
# tactics whose operators have one sample: slow to interpret, or many operators of one kind
ONCE = ("triton_conv", "triton_depthwise", "triton_direct_window", "triton_pointwise",
        "triton_recurrent", "triton_reduce")  # fmt: skip
MOST_BLOCKS = 16


@dataclass(frozen=True)
class Case:
    """One kernel for one sample."""

    label: str
    variant: Variant
    kernel: TritonKernel


def _case(variant: Variant, tactic: Tactic) -> Case | None:
    """Return the case of a tactic's first configuration, None when it does not do the sample."""
    if not tactic.supports(variant.region, TARGET):
        return None
    config = tactic.configs(variant.region, TARGET)[0]
    kernel = tactic.build(variant.region, config, TARGET)
    assert isinstance(kernel, TritonKernel)
    return Case(f"{variant.label} {tactic.name} {dict(config)}", variant, kernel)


def _cases(names: Sequence[str], settings: Sequence[Setting]) -> Iterator[Case]:
    for variant in variants(names, settings):
        for tactic in GENERATED:
            case = _case(variant, tactic)
            if case is not None:
                yield case


def _chosen() -> Iterator[Case]:
    """Yield one or two samples of each operator and tactic, with symbolic extents if possible."""
    count: dict[tuple[str, str], int] = {}
    for setting in (SYMBOLIC, STATIC):
        for variant in variants(NAMES, [setting]):
            for tactic in GENERATED:
                key = (variant.op, tactic.name)
                most = 1 if tactic.name in ONCE or setting is STATIC else 2
                if count.get(key, 0) >= most:
                    continue
                case = _case(variant, tactic)
                if case is None or _blocks(case) > MOST_BLOCKS:
                    continue
                count[key] = count.get(key, 0) + 1
                yield case


def _blocks(case: Case) -> int:
    return evaluate(product(case.kernel.grid), case.variant.bindings)


def _problems(cases: Sequence[Case], seconds: float) -> list[str]:
    found = []
    results = interpret(
        [(c.kernel, c.variant.region, c.variant.inputs, c.variant.bindings) for c in cases], seconds
    )
    for case, outputs in zip(cases, results, strict=True):
        if isinstance(outputs, str):
            found.append(f"{case.label}: {outputs}")
            continue
        for got, expected in zip(outputs, case.variant.expected, strict=True):
            problem = mismatch(got, np.asarray(expected), tolerance_of(dtype_of(expected)))
            if problem is not None:
                found.append(f"{case.label}: {problem}")
    return found


def test_a_sample_of_each_operator_and_tactic() -> None:
    cases = list(_chosen())
    assert len({case.variant.op for case in cases}) > 100
    problems = _problems(cases, 120.0)
    assert not problems, "\n".join(problems)


@pytest.mark.slow
@pytest.mark.parametrize("group", range(GROUPS))
def test_every_sample(group: int) -> None:
    cases = list(_cases(NAMES[group::GROUPS], QUICK))
    problems = _problems(cases, 1200.0)
    assert not problems, "\n".join(problems)
