"""Every operator x every sample: inference, reference and ONNX Runtime must agree."""

from __future__ import annotations

import inspect

import numpy as np
import pytest

from planish.ir.dtypes import dtype_of
from planish.ir.graph import Node
from planish.ir.shape import Dim, evaluate, symbols_of
from planish.ops import OPS, Sample
from planish.ops.infer import infer_node
from planish.ops.op import Array, Inferred, Op
from planish.ops.tolerance import Tolerance, mismatch, tolerance_of
from tests.ops.onnx_oracle import bindings_of, expected_outputs, node_of, run_subgraph, saturates

CASES = [
    pytest.param(op, sample, id=f"{name}-{index}" + (f"-{sample.name}" if sample.name else ""))
    for name, op in sorted(OPS.items())
    if not inspect.isabstract(op)
    for index, sample in enumerate(op.samples())
]
# Integer results of these may differ by one: ONNX Runtime multiplies by the scales in another order
# (or in fixed point), so a value halfway between two steps can fall to either side.
ONE_STEP = {
    "QLinearConv",
    "QLinearMatMul",
    "DynamicQuantizeLinear",
    *(name for name in OPS if name.startswith("com.microsoft.Q")),
}
NEVER_COMPUTES = {"planish.Refuse"}
# (operator, sample name): why no independent implementation takes this case.
NO_ORACLE: dict[tuple[str, str], str] = {}


def infer(node: Node) -> list[Inferred]:
    if node.subgraphs:
        infer_node(node)  # types the subgraphs first
    return OPS[node.op].infer(node)


def run_sample(op: type[Op], sample: Sample) -> list[Array]:
    with np.errstate(all="ignore"):
        outputs = op.evaluate(node_of(op, sample), sample.inputs, run_subgraph)
    return outputs[: sample.outputs]


def agreed_tolerance(op: type[Op], arrays: list[Array], result: Array) -> Tolerance:
    """The tolerance of the coarsest float type that took part, or one step for some integers."""
    if result.dtype.kind in "iu" and op.name in ONE_STEP:
        return Tolerance(1.0 / max(1.0, float(np.abs(result.astype(np.float64)).max())), 0.0)
    tolerances = [tolerance_of(dtype_of(result))]
    if dtype_of(result).is_float:
        tolerances += [tolerance_of(dtype_of(a)) for a in arrays if dtype_of(a).bits >= 16]
    return max(tolerances, key=lambda tolerance: tolerance.rtol)


def check_extents(inferred: tuple[Dim, ...], real: tuple[int, ...], known: dict[str, int]) -> None:
    """Every inferred extent is the real one; extents that only data decides ("?...") may be any."""
    assert len(inferred) == len(real), f"inferred {inferred}, got {real}"
    for dim, extent in zip(inferred, real, strict=True):
        if not any(name.startswith("?") for name in symbols_of(dim)):
            assert evaluate(dim, known) == extent, f"inferred {inferred}, got {real}"


@pytest.mark.parametrize(("op", "sample"), CASES)
def test_inference_agrees_with_reference(op: type[Op], sample: Sample) -> None:
    node = node_of(op, sample)
    inferred = infer(node)
    outputs = run_sample(op, sample)
    assert len(inferred) >= sample.outputs
    assert len(outputs) == sample.outputs
    for each, output in zip(inferred, outputs, strict=False):
        assert isinstance(output, np.ndarray), f"{op.name} returned {type(output)}"
        assert each.dtype == dtype_of(output)
        if each.shape is None:
            assert node.subgraphs, "only operators with subgraphs may leave the rank open"
            continue
        check_extents(each.shape, output.shape, {})
        if each.content is not None and all(isinstance(item, int) for item in each.content):
            assert [int(item) for item in output.reshape(-1)] == list(each.content)


@pytest.mark.parametrize(("op", "sample"), CASES)
def test_reference_agrees_with_onnx(op: type[Op], sample: Sample) -> None:
    if not op.pure:
        pytest.skip("random numbers")
    if op.name == "Region" or op.name.startswith("planish."):
        pytest.skip("Planish's own operator")
    if (op.name, sample.name) in NO_ORACLE:
        pytest.skip(NO_ORACLE[op.name, sample.name])
    dtypes = [each.dtype for each in infer(node_of(op, sample))][: sample.outputs]
    try:
        expected, oracle = expected_outputs(op, sample, dtypes)
    except LookupError:
        if saturates():
            pytest.skip("ONNX Runtime's sums of bytes saturate on this processor")
        raise
    arrays = [array for array in sample.inputs if array is not None]
    for index, (got, want) in enumerate(zip(run_sample(op, sample), expected, strict=True)):
        difference = mismatch(got, want, agreed_tolerance(op, arrays, got))
        assert difference is None, f"output {index} against {oracle}: {difference}"


@pytest.mark.parametrize(("op", "sample"), CASES)
def test_symbolic_inference_evaluates_to_real_shapes(op: type[Op], sample: Sample) -> None:
    known = bindings_of(sample)
    node = node_of(op, sample, symbolic=True)
    outputs = run_sample(op, sample)
    for each, output in zip(infer(node), outputs, strict=False):
        assert each.dtype == dtype_of(output)
        if each.shape is not None:
            check_extents(each.shape, output.shape, known)
        content = each.content or ()
        if each.content is not None and not any(
            name.startswith("?") for item in content for name in symbols_of(item)
        ):
            values = [evaluate(item, known) for item in content]
            assert values == [int(item) for item in output.reshape(-1)]


@pytest.mark.parametrize("name", sorted(OPS))
def test_operator_is_complete(name: str) -> None:
    op = OPS[name]
    assert not inspect.isabstract(op), f"{name} lacks {sorted(op.__abstractmethods__)}"
    samples = op.samples()
    if name in NEVER_COMPUTES:
        return
    assert samples, f"{name} has no sample"
    node = node_of(op, samples[0])
    for value, each in zip(node.outputs, infer(node), strict=False):
        value.dtype, value.shape = each.dtype, each.shape
    cost = op.cost(node)
    for amount in (cost.operations, cost.bytes):
        assert evaluate(amount, dict.fromkeys(symbols_of(amount), 1)) >= 0
