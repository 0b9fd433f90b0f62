"""One convolution with its epilogue by cuDNN's graph interface, recorded into an engine's graph.

    y = relu(conv(x, w) + bias + residual)

with data channels-last, sums in float32. The build stores the chosen execution plan, serialized;
another version of the library makes one anew.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

from planish.backends.cuda.libraries import cudnn_api as api
from planish.backends.cuda.libraries.cudnn_api import Descriptor
from planish.errors import DeviceError
from planish.ir.dtypes import DType, dtype_by_name
from planish.runtime.external import ExternalRequest, register

KIND = "cudnn"
MOST_WORKSPACE = 256 << 20
_SOURCE, _WEIGHTS, _BIAS, _RESIDUAL, _TARGET, _VIRTUAL = 1, 2, 3, 4, 5, 100  # tensors' numbers

# attributes of descriptors
_MODE, _PRECISION = 0, 1  # of a pointwise operation
_X, _B, _Y, _OPERATION = 751, 752, 753, 750
_PLAN_HANDLE, _PLAN_CONFIG, _PLAN_WORKSPACE, _PLAN_TEXT = 400, 401, 402, 405


class ConvolutionCall:
    """A convolution ready to be recorded; `workspace_bytes` are what it may overwrite.

    Parameters
    ----------
    request : ExternalRequest
        Its parameters are those of `with_plan`.
    """

    def __init__(self, request: ExternalRequest) -> None:
        self._given = given = request.parameters
        self._lock = threading.Lock()
        self._handle = api.Handle()
        if given["version"] == api.version():
            text = str(given["plan"]).encode()
            self._plan = Descriptor(
                api.PLAN,
                (_PLAN_HANDLE, api.HANDLE, self._handle),
                (_PLAN_TEXT, api.TEXT, [bytes([each]) for each in text]),
            )
        else:
            self._plan = plans(given, self._handle)[0]
        self.workspace_bytes = _workspace(self._plan)

    def record(
        self, stream: int, pointers: Sequence[int], symbols: Mapping[str, int], workspace: int
    ) -> None:
        """Put the convolution on a stream; see `runtime.cuda.libraries.LibraryCall`."""
        given = self._given
        count = int(given["operands"])
        places = {
            _SOURCE: pointers[int(given["source"])],
            _TARGET: pointers[count - 1],
            _WEIGHTS: pointers[count],
        }
        if given["bias"]:
            places[_BIAS] = pointers[count + 1]
        if given["residual"] is not None:
            places[_RESIDUAL] = pointers[int(given["residual"])]
        pack = Descriptor(
            api.VARIANT_PACK,
            (1000, api.INT64, list(places)),
            (1001, api.POINTER, list(places.values())),
            (1003, api.POINTER, workspace),
        )
        with self._lock:
            self._handle.use_stream(stream)
            api.call("cudnnBackendExecute", self._handle.pointer, self._plan.pointer, pack.pointer)


def with_plan(given: Mapping[str, Any], rank: int) -> dict[str, Any]:
    """Return the parameters with the execution plan at one place of the library's ranking.

    Raises
    ------
    DeviceError
        When it has fewer plans.
    """
    found = plans(given, api.Handle(), rank + 1)
    if len(found) <= rank:
        raise DeviceError(f"cuDNN has {len(found)} plans for this convolution")
    text = bytes(found[rank].get(_PLAN_TEXT, api.TEXT, 1 << 20)).rstrip(b"\0").decode()
    return {**given, "plan": text, "version": api.version()}


def plans(given: Mapping[str, Any], handle: api.Handle, most: int = 1) -> list[Descriptor]:
    """Return the library's best plans for a convolution, the best guess first.

    Raises
    ------
    DeviceError
        When there is none.
    """
    graph = _graph(given, handle)
    found: list[Descriptor] = []
    problem = ""
    for mode in (api.HEURISTIC_A, api.HEURISTIC_B):
        heuristic = Descriptor(
            api.ENGINE_HEURISTIC,
            (201, api.DESCRIPTOR, graph),
            (200, api.HEURISTIC_MODE, mode),
        )
        configs = [Descriptor(api.ENGINE_CONFIG, final=False) for _ in range(most + 2)]
        for config in configs[: heuristic.fill(202, configs)]:
            try:
                plan = Descriptor(
                    api.PLAN,
                    (_PLAN_HANDLE, api.HANDLE, handle),
                    (_PLAN_CONFIG, api.DESCRIPTOR, config),
                )
            except DeviceError as error:
                problem = str(error)
                continue
            if _workspace(plan) <= MOST_WORKSPACE:
                found.append(plan)
    if not found:
        raise DeviceError(f"cuDNN has no plan for this convolution ({problem})")
    return found[:most]


def _workspace(plan: Descriptor) -> int:
    return int(plan.get(_PLAN_WORKSPACE, api.INT64, 1)[0])


def _graph(given: Mapping[str, Any], handle: api.Handle) -> Descriptor:
    """Return the operations as a graph."""
    dtype = dtype_by_name(str(given["dtype"]))
    f32 = dtype_by_name("f32")
    axes = len(given["shape"]) - 2
    source = _tensor(_SOURCE, dtype, given["shape"], given["steps"][0])
    weights = _tensor(_WEIGHTS, dtype, given["weights"], _channels_last(given["weights"]))
    shape = given["target"]
    target = _tensor(_TARGET, dtype, shape, given["steps"][2])
    rest = _epilogue(given)
    inner = [
        _tensor(_VIRTUAL + i, f32, shape, _channels_last(shape), virtual=True)
        for i in range(len(rest))
    ]
    values = [*inner, target]
    convolution = Descriptor(
        api.CONVOLUTION,
        (100, api.DATA_TYPE, api.DATA_TYPES[f32]),
        (101, api.CONVOLUTION_MODE, api.CROSS_CORRELATION),
        (102, api.INT64, list(given["dilations"])),
        (103, api.INT64, list(given["strides"])),
        (104, api.INT64, list(given["pads"][axes:])),
        (105, api.INT64, list(given["pads"][:axes])),
        (106, api.INT64, axes),
    )
    operations = [
        Descriptor(
            api.CONVOLUTION_FORWARD,
            (702, api.DESCRIPTOR, convolution),
            (703, api.DESCRIPTOR, weights),
            (704, api.DESCRIPTOR, source),
            (705, api.DESCRIPTOR, values[0]),
            (700, api.FLOAT, 1.0),
            (701, api.FLOAT, 0.0),
        )
    ]
    for index, (mode, other) in enumerate(rest):
        function = Descriptor(
            api.POINTWISE,
            (_MODE, api.POINTWISE_MODE, mode),
            (_PRECISION, api.DATA_TYPE, api.DATA_TYPES[f32]),
        )
        second = [] if other is None else [(_B, api.DESCRIPTOR, other)]
        operations.append(
            Descriptor(
                api.POINTWISE_OPERATION,
                (_OPERATION, api.DESCRIPTOR, function),
                (_X, api.DESCRIPTOR, values[index]),
                *second,
                (_Y, api.DESCRIPTOR, values[index + 1]),
            )
        )
    return Descriptor(
        api.GRAPH, (800, api.HANDLE, handle), (801, api.DESCRIPTOR, operations)
    )  # fmt: skip


def _epilogue(given: Mapping[str, Any]) -> list[tuple[int, Descriptor | None]]:
    """Return what follows the convolution: pointwise modes with their second operands."""
    dtype, shape = dtype_by_name(str(given["dtype"])), given["target"]
    found: list[tuple[int, Descriptor | None]] = []
    if given["bias"]:
        extents = [1, shape[1], *[1] * (len(shape) - 2)]
        found.append((api.ADD, _tensor(_BIAS, dtype, extents, _channels_last(extents))))
    if given["residual"] is not None:
        found.append((api.ADD, _tensor(_RESIDUAL, dtype, shape, given["steps"][1])))
    if given["activation"]:
        found.append((api.RELU, None))
    return found


def _tensor(
    number: int, dtype: DType, shape: Sequence[int], strides: Sequence[int], virtual: bool = False
) -> Descriptor:
    return Descriptor(
        api.TENSOR,
        (901, api.DATA_TYPE, api.DATA_TYPES[dtype]),
        (902, api.INT64, list(shape)),
        (903, api.INT64, list(strides)),
        (906, api.INT64, number),
        (900, api.INT64, 16),
        (907, api.BOOLEAN, virtual),
    )


def _channels_last(shape: Sequence[int]) -> list[int]:
    """Return the strides of channels-last memory for extents [n, c, ...]."""
    strides, step = [0] * len(shape), shape[1]
    strides[1] = 1
    for axis in (*range(len(shape) - 1, 1, -1), 0):
        strides[axis] = step
        step *= shape[axis]
    return strides


register(KIND, ConvolutionCall, api.library)
