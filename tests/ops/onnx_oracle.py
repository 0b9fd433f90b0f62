"""Runs one sample of an operator through ONNX Runtime, or through onnx's own evaluator."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnxruntime.capi import onnxruntime_pybind11_state as state

import planish.ops  # noqa: F401  (registers every operator)
from planish.ir.dtypes import BF16, F8E4M3, F8E5M2, F16, F32, I4, I8, I32, U4, U8, DType, dtype_of
from planish.ir.graph import OPSET, Graph, Node, Value
from planish.ir.shape import Dim, static_shape, symbol
from planish.ops.op import OPS, REQUIRED, Array, Op, Sample

REFUSALS = (
    state.Fail,
    state.InvalidArgument,
    state.InvalidGraph,
    state.NotImplemented,
    state.RuntimeException,
)
ORT_OPSETS = (21, 24, OPSET)
# element types that ONNX Runtime neither takes from numpy nor returns
FOREIGN = (BF16, F8E4M3, F8E5M2, I4, U4)


# (operator, input, axis): extents that the operator itself fixes, so no model has them symbolic
FIXED_EXTENTS = {
    ("GridSample", 1, 3),  # coordinates of a point in a plane
    ("GridSample", 1, 4),  # and in space
    ("NonMaxSuppression", 0, 2),  # the four numbers of a box
}


def attributes_of(op: type[Op], sample: Sample) -> dict[str, Any]:
    """Return all attributes of a node for `sample`, defaults filled in."""
    unknown = set(sample.attributes) - set(op.attributes)
    assert not unknown, f"{op.name}: the sample sets undeclared attributes {sorted(unknown)}"
    attributes = {**op.attributes, **sample.attributes}
    missing = [name for name, value in attributes.items() if value is REQUIRED]
    assert not missing, f"{op.name}: the sample lacks required attributes {missing}"
    return attributes


def node_of(op: type[Op], sample: Sample, symbolic: bool = False) -> Node:
    """Return a node for `sample`; with `symbolic`, extents above 1 become symbols "s<extent>"."""
    graph = Graph("sample")
    inputs: list[Value | None] = []
    for index, array in enumerate(sample.inputs):
        if array is None:
            inputs.append(None)
        elif index in sample.constant:
            inputs.append(graph.constant(array, f"c{index}"))
        else:
            shape: tuple[Dim, ...] = array.shape
            if symbolic:
                shape = tuple(
                    symbol(f"s{dim}")
                    if dim > 1 and (op.name, index, axis) not in FIXED_EXTENTS
                    else dim
                    for axis, dim in enumerate(array.shape)
                )
            inputs.append(graph.add_input(f"x{index}", dtype_of(array), shape))
    outputs = [Value(f"y{index}", F32, None) for index in range(sample.outputs)]
    return graph.append(Node(op.name, inputs, outputs, attributes_of(op, sample)))


def bindings_of(sample: Sample) -> dict[str, int]:
    """Return the extents that the symbols of `node_of(..., symbolic=True)` stand for."""
    arrays = [array for array in sample.inputs if array is not None]
    return {f"s{dim}": dim for array in arrays for dim in array.shape}


def expected_outputs(
    op: type[Op], sample: Sample, dtypes: Sequence[DType]
) -> tuple[list[Array], str]:
    """Return the outputs of an independent implementation and its name.

    Raises
    ------
    LookupError
        Neither ONNX Runtime nor onnx implements this case.
    """
    refusals = []
    for opset in () if _multiplies_bytes(sample) and saturates() else ORT_OPSETS:
        try:
            return _run_onnxruntime(
                _model(op, sample, dtypes, opset), _fed(sample)
            ), f"onnxruntime {opset}"
        except REFUSALS as error:
            refusals.append(str(error).strip().splitlines()[0][:200])
    wide = _widened(sample)
    if wide is not None:
        outputs, oracle = expected_outputs(
            op, wide, [F32 if d in (F16, BF16) else d for d in dtypes]
        )
        return outputs, f"{oracle} in f32"
    try:
        return _run_evaluator(op, sample, dtypes), "onnx.reference"
    except (NotImplementedError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        refusals.append(f"{type(error).__name__}: {error}"[:200])
    raise LookupError("; ".join(dict.fromkeys(refusals)))


@functools.cache
def saturates() -> bool:
    """Return whether ONNX Runtime adds products of u8 and s8 in 16 bits, as it does without VNNI.

    Then its sums of large bytes are wrong, and it is no oracle for them.
    """
    products = OPS["MatMulInteger"]
    x, w = np.full((1, 64), 255, np.uint8), np.full((64, 1), 127, np.int8)
    sample = Sample((x, w, None, None))
    (got,) = _run_onnxruntime(_model(products, sample, [I32], ORT_OPSETS[0]), _fed(sample))
    return int(got[0, 0]) != 255 * 127 * 64


def _multiplies_bytes(sample: Sample) -> bool:
    dtypes = {dtype_of(a) for a in sample.inputs if a is not None and a.size > 1}
    return I8 in dtypes


def _widened(sample: Sample) -> Sample | None:
    half = [dtype_of(a) in (F16, BF16) for a in sample.inputs if a is not None]
    if not any(half):
        return None
    inputs = tuple(
        a if a is None or dtype_of(a) not in (F16, BF16) else a.astype(np.float32)
        for a in sample.inputs
    )
    return Sample(inputs, sample.attributes, sample.constant, sample.outputs, sample.name)


def _fed(sample: Sample) -> dict[str, Array]:
    """Return the inputs that are fed; the others are initializers."""
    return {
        f"x{index}": array
        for index, array in enumerate(sample.inputs)
        if array is not None and index not in sample.constant and dtype_of(array) not in FOREIGN
    }


def _fetchable(dtype: DType) -> DType:
    """Return the type as which an output is fetched."""
    if dtype not in FOREIGN:
        return dtype
    return {U4: U8, I4: I8}.get(dtype, F32)


def _model(op: type[Op], sample: Sample, dtypes: Sequence[DType], opset: int) -> onnx.ModelProto:
    fed = _fed(sample)
    names = ["" if array is None else f"x{index}" for index, array in enumerate(sample.inputs)]
    initializers = [
        numpy_helper.from_array(_plain(array), f"x{index}")
        for index, array in enumerate(sample.inputs)
        if array is not None and f"x{index}" not in fed
    ]
    results = [f"y{index}" for index in range(sample.outputs)]
    nodes = [onnx_node(op.name, names, results, sample.attributes)]
    outputs = []
    for result, dtype in zip(results, dtypes, strict=True):
        fetched = _fetchable(dtype)
        name = result
        if fetched is not dtype:
            name = f"{result}_fetched"
            nodes.append(helper.make_node("Cast", [result], [name], to=fetched.onnx))
        outputs.append(helper.make_tensor_value_info(name, fetched.onnx, None))
    inputs = [
        helper.make_tensor_value_info(name, dtype_of(array).onnx, array.shape)
        for name, array in fed.items()
    ]
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    graph = helper.make_graph(nodes, "sample", inputs, outputs, initializers)
    return helper.make_model(graph, opset_imports=opsets, ir_version=10 if opset <= 22 else 13)


def _plain(array: Array) -> Array:
    return (
        array.astype(object)
        if array.dtype.kind in "US"
        else np.ascontiguousarray(array).reshape(array.shape)
    )


def onnx_node(
    op: str, inputs: Sequence[str], outputs: Sequence[str], attributes: Any
) -> onnx.NodeProto:
    """Return an ONNX node; the domain is what stands before the operator's last dot."""
    domain, _, kind = op.rpartition(".")
    node = helper.make_node(kind, inputs, outputs, domain=domain)
    for key, value in attributes.items():
        if value is not None and not (
            isinstance(value, tuple) and not value
        ):  # an empty list is the same as an absent one
            node.attribute.append(_attribute(key, value))
    return node


def _attribute(key: str, value: Any) -> onnx.AttributeProto:
    if isinstance(value, np.ndarray):
        return helper.make_attribute(key, numpy_helper.from_array(_plain(value)))
    if isinstance(value, DType):
        return helper.make_attribute(key, value.onnx)
    if isinstance(value, Graph):
        return helper.make_attribute(key, onnx_graph(value))
    return helper.make_attribute(key, list(value) if isinstance(value, tuple) else value)


def onnx_graph(graph: Graph) -> onnx.GraphProto:
    """Return `graph` (a subgraph of a sample) as a proto; names of values are kept."""

    def info(value: Value) -> onnx.ValueInfoProto:
        shape = None if value.shape is None else static_shape(value.shape)
        return helper.make_tensor_value_info(value.name, value.dtype.onnx, shape)

    nodes = [
        onnx_node(
            node.op,
            ["" if v is None else v.name for v in node.inputs],
            [v.name for v in node.outputs],
            node.attributes,
        )
        for node in graph
    ]
    initializers = [numpy_helper.from_array(_plain(v.array), v.name) for v in graph.constants()]
    inputs, outputs = [info(v) for v in graph.inputs], [info(v) for v in graph.outputs]
    return helper.make_graph(nodes, graph.name, inputs, outputs, initializers)


def _run_onnxruntime(model: onnx.ModelProto, fed: dict[str, Array]) -> list[Array]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return list(session.run(None, fed))


def _run_evaluator(op: type[Op], sample: Sample, dtypes: Sequence[DType]) -> list[Array]:
    model = _model(op, sample, dtypes, OPSET)
    with np.errstate(all="ignore"):
        return [np.asarray(out) for out in ReferenceEvaluator(model).run(None, _fed(sample))]


def run_subgraph(graph: Graph, inputs: Sequence[Array]) -> list[Array]:
    """Run a sample's subgraph on `inputs`; it may not read values of outer graphs."""
    known = dict(zip(graph.inputs, inputs, strict=True))
    known.update((value, value.array) for value in graph.constants())
    for node in graph:
        arrays = [None if value is None else known[value] for value in node.inputs]
        outputs = OPS[node.op].evaluate(node, arrays, run_subgraph)
        known.update(zip(node.outputs, outputs, strict=False))
    return [known[value] for value in graph.outputs]
