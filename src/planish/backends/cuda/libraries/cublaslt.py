"""One matrix product by cuBLASLt, recorded into an engine's graph.

The library is column-major: y = x w^T in rows is y^T = w x^T in columns, so the weights are its
first operand, transposed, and the bias is along its rows. The build stores the chosen algorithm;
another version of the library chooses anew.
"""

from __future__ import annotations

import base64
import ctypes
from collections.abc import Mapping, Sequence
from ctypes import c_float, c_int, c_size_t, c_void_p
from dataclasses import dataclass
from typing import Any

from planish.backends.cuda.libraries import cublaslt_api as api
from planish.backends.cuda.libraries.linear import Linear, Matrix
from planish.errors import DeviceError
from planish.ir.dtypes import DType, dtype_by_name
from planish.ir.shape import evaluate, product
from planish.runtime.external import ExternalRequest, register

KIND = "cublaslt"
WORKSPACE_BYTES = 32 << 20  # what NVIDIA advises for Hopper
_EPILOGUES = {"": 0, "Relu": api.RELU, "Gelu": api.GELU_TANH}


@dataclass(frozen=True)
class _Layouts:
    """Descriptors of one product with a given number of rows."""

    product: api.Owned
    weights: api.Owned
    source: api.Owned
    residual: api.Owned
    target: api.Owned


class MatmulCall:
    """A product ready to be recorded; `workspace_bytes` are what it may overwrite.

    Parameters
    ----------
    request : ExternalRequest
        Its parameters are those of `parameters_of`.
    """

    workspace_bytes = WORKSPACE_BYTES

    def __init__(self, request: ExternalRequest) -> None:
        self._parameters = request.parameters
        self._shape = request.operands[int(self._parameters["source"])].shape

    def record(
        self, stream: int, pointers: Sequence[int], symbols: Mapping[str, int], workspace: int
    ) -> None:
        """Put the product on a stream that is being captured, or runs.

        Parameters
        ----------
        stream : int
            Handle.
        pointers : sequence of int
            Addresses of the region's inputs, its output, the packed weights and the bias.
        symbols : dict
            Values of symbolic extents.
        workspace : int
            Address of `workspace_bytes` bytes.
        """
        given = self._parameters
        rows = evaluate(product(self._shape), symbols) // int(given["depth"])
        if rows == 0:
            return
        count = int(given["operands"])
        layouts = _layouts(given, rows, pointers[count + 1] if given["bias"] else 0)
        algorithm = _stored(given) or algorithms(given, rows, 1)[0]
        source, target = pointers[int(given["source"])], pointers[count - 1]
        residual = target if given["residual"] is None else pointers[int(given["residual"])]
        one, beta = c_float(1.0), c_float(0.0 if given["residual"] is None else 1.0)
        api.call(
            "cublasLtMatmul", api.handle(), layouts.product.pointer, ctypes.byref(one),
            pointers[count], layouts.weights.pointer, source, layouts.source.pointer,
            ctypes.byref(beta), residual, layouts.residual.pointer, target,
            layouts.target.pointer, ctypes.byref(algorithm), workspace,
            self.workspace_bytes, stream,
        )  # fmt: skip


def parameters_of(linear: Linear, operands: int) -> dict[str, Any]:
    """Return a product as JSON, without an algorithm."""

    def steps(matrix: Matrix | None) -> int:
        return 0 if matrix is None else matrix.step

    return {
        "depth": linear.source.columns,
        "columns": linear.target.columns,
        "steps": [steps(linear.source), steps(linear.residual), steps(linear.target)],
        "residual": None if linear.residual is None else linear.residual.operand,
        "bias": linear.bias is not None,
        "activation": linear.activation,
        "dtype": linear.dtype.name,
        "operands": operands,
        "source": linear.source.operand,
    }


def with_algorithm(given: Mapping[str, Any], rows: int, rank: int) -> dict[str, Any]:
    """Return the parameters with the algorithm that the library ranks at this place.

    Raises
    ------
    DeviceError
        When it knows fewer.
    """
    found = algorithms(given, rows, rank + 1)
    if len(found) <= rank:
        raise DeviceError(f"cuBLASLt has {len(found)} algorithms for this product")
    text = base64.b64encode(bytes(found[rank])).decode()
    return {**given, "algorithm": text, "version": api.version()}


def algorithms(given: Mapping[str, Any], rows: int, count: int) -> list[api.Algorithm]:
    """Return the library's best guesses for a product, the best first."""
    layouts = _layouts(given, rows, 256 if given["bias"] else 0)
    preference = api.Owned("cublasLtMatmulPreference")
    preference.set(api.WORKSPACE_LIMIT, c_size_t(WORKSPACE_BYTES))
    results = (api.Heuristic * count)()
    returned = c_int()
    api.call(
        "cublasLtMatmulAlgoGetHeuristic", api.handle(), layouts.product.pointer,
        layouts.weights.pointer, layouts.source.pointer, layouts.residual.pointer,
        layouts.target.pointer, preference.pointer, count, results, ctypes.byref(returned),
    )  # fmt: skip
    return [each.algorithm for each in results[: returned.value] if each.state == 0]


def _stored(given: Mapping[str, Any]) -> api.Algorithm | None:
    """Return the engine's algorithm, None where it is of another version of the library."""
    if "algorithm" not in given or int(given["version"]) != api.version():
        return None
    return api.Algorithm.from_buffer_copy(base64.b64decode(given["algorithm"]))


def _layouts(given: Mapping[str, Any], rows: int, bias: int) -> _Layouts:
    dtype: DType = dtype_by_name(str(given["dtype"]))
    kind, columns, depth = api.TYPES[dtype], int(given["columns"]), int(given["depth"])
    matmul = api.Owned("cublasLtMatmulDesc", api.COMPUTE_F32, api.TYPES[dtype_by_name("f32")])
    matmul.set(api.TRANSPOSE_A, api.unsigned(api.TRANSPOSED))
    epilogue = _EPILOGUES[str(given["activation"])] + (api.BIAS if bias else 0)
    matmul.set(api.EPILOGUE, api.unsigned(epilogue or api.PLAIN))
    if bias:
        matmul.set(api.BIAS_POINTER, c_void_p(bias))
        matmul.set(api.BIAS_TYPE, api.unsigned(kind))
    source, residual, target = (int(step) for step in given["steps"])

    def layout(first: int, second: int, step: int) -> api.Owned:
        return api.Owned("cublasLtMatrixLayout", kind, first, second, step)

    return _Layouts(
        matmul,
        layout(depth, columns, depth),
        layout(depth, rows, source),
        layout(columns, rows, residual or target),
        layout(columns, rows, target),
    )


register(KIND, MatmulCall, api.library)
