"""Run oneDNN kernels on arrays in the memory that a region's operands describe."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from planish.backends.cpu.onednn.kernel import OneDnnRunner
from planish.backends.cpu.onednn.library import why_unavailable
from planish.ir.dtypes import BF16, F32
from planish.ir.graph import Graph, Node, Value
from planish.ir.layout import Layout
from planish.ops.infer import infer_node
from planish.ops.op import OPS
from planish.plan.plan import Operand as PlanOperand
from planish.runtime.external import ExternalRequest
from planish.tactics.region import make_region
from planish.tactics.tactic import ExternalKernel, Operand, Region

needs_onednn = pytest.mark.skipif(
    why_unavailable() is not None, reason=f"oneDNN: {why_unavailable()}"
)
needs_bf16 = pytest.mark.skipif(
    "avx512bw" not in Path("/proc/cpuinfo").read_text(), reason="bf16 needs AVX-512"
)
DTYPES = ["f32", pytest.param("bf16", marks=needs_bf16)]
NUMPY = {"f32": np.dtype(np.float32), "bf16": np.dtype(ml_dtypes.bfloat16)}
IR = {"f32": F32, "bf16": BF16}
SPACE = 256  # bytes around every operand that stay as they are
PATTERN = 0xFF  # a NaN in every float type

Epilogue = Callable[[Graph, Value], Value]


class Memory:
    """An operand's memory: zeros in its halo, a pattern everywhere else."""

    def __init__(self, operand: Operand) -> None:
        sizes = list(zip(operand.strides, operand.shape, operand.halo, strict=True))
        before = sum(stride * halo[0] for stride, _, halo in sizes)
        after = sum(stride * (dim - 1 + halo[1]) for stride, dim, halo in sizes)
        itemsize = operand.dtype.itemsize
        self._raw = np.full((before + after + 1) * itemsize + 2 * SPACE, PATTERN, np.uint8)
        strides = tuple(stride * itemsize for stride in operand.strides)
        shape = tuple(dim + sum(halo) for _, dim, halo in sizes)
        whole = np.ndarray(shape, operand.dtype.numpy, self._raw.data, SPACE, strides)
        if any(sum(halo) for _, _, halo in sizes):
            whole[...] = 0
        inner = tuple(slice(halo[0], halo[0] + dim) for _, dim, halo in sizes)
        self.view = whole[inner]
        self._before = self._outside()

    @property
    def intact(self) -> bool:
        """Whether only the elements themselves were written since the start."""
        return self._outside() == self._before

    def _outside(self) -> bytes:
        copy = self._raw.copy()
        offset = self.view.__array_interface__["data"][0] - self._raw.ctypes.data
        np.ndarray(self.view.shape, self.view.dtype, copy.data, offset, self.view.strides)[...] = 0
        return copy.tobytes()


def make_runner(region: Region, kernel: ExternalKernel, threads: int = 1) -> OneDnnRunner:
    """Return the runner of a kernel, as an engine makes it."""
    operands = (*region.inputs, *region.outputs)
    constants = [np.ascontiguousarray(a).reshape(-1).view(np.uint8) for a in kernel.packed]
    request = ExternalRequest(
        kernel.parameters,
        tuple(constants),
        tuple(PlanOperand(o.dtype.name, o.shape, o.strides) for o in operands),
        len(region.outputs),
        threads,
    )
    return OneDnnRunner(request)


def run(runner: OneDnnRunner, region: Region, arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Return the only output for `arrays`; fail when other memory was written."""
    memories = [Memory(operand) for operand in (*region.inputs, *region.outputs)]
    for memory, array in zip(memories, arrays, strict=False):
        memory.view[...] = array
    count = len(region.inputs)
    runner([m.view for m in memories[:count]], [m.view for m in memories[count:]])
    assert all(memory.intact for memory in memories), "memory around an operand was written"
    return np.array(memories[-1].view)


def add_node(graph: Graph, op: str, inputs: Sequence[Value], **attributes: object) -> Value:
    """Append a node with inferred type and return its output."""
    value = Value(graph.fresh_name("v"), F32, None)
    infer_node(graph.append(Node(op, list(inputs), [value], {**OPS[op].attributes, **attributes})))
    return value


def convolution_region(
    dtype: str,
    epilogue: Epilogue | None = None,
    *,
    shape: tuple[int, ...] = (2, 8, 9, 7),
    outputs: int = 16,
    kernel: int = 3,
    pad: int = 1,
    stride: int = 1,
    layouts: dict[str, Layout] | None = None,
    cast_input: bool = False,
) -> Region:
    """Return a channels-last convolution region; its output is "y", its input "x"."""
    random = np.random.default_rng(5)
    graph = Graph("conv")
    rank = len(shape) - 2
    x = graph.add_input("x", F32 if cast_input else IR[dtype], shape)
    source = add_node(graph, "Cast", [x], to=BF16.onnx) if cast_input else x
    extents = (kernel,) * rank
    weights = random.standard_normal((outputs, shape[1], *extents)) / kernel / shape[1] ** 0.5
    bias = random.standard_normal(outputs)
    constants = [graph.constant(array.astype(NUMPY[dtype])) for array in (weights, bias)]
    window = {"kernel_shape": extents, "pads": (pad,) * rank * 2, "strides": (stride,) * rank}
    result = add_node(graph, "Conv", [source, *constants], **window, dilations=(1,) * rank, group=1)
    result = result if epilogue is None else epilogue(graph, result)
    result.name = "y"
    graph.add_output(result)
    plain = {v.name: Layout.channels_last(v.rank) for v in (*graph.inputs, *graph.outputs)}
    return make_region(graph, "Conv", {**plain, **(layouts or {})})


def product_region(
    dtype: str,
    epilogue: Epilogue | None = None,
    *,
    left: tuple[int, ...] = (2, 9, 24),
    right: tuple[int, ...] = (24, 20),
    constant: bool = True,
    layouts: dict[str, Layout] | None = None,
) -> Region:
    """Return a matrix product region; its operands are "a" and, if not constant, "b"."""
    random = np.random.default_rng(6)
    graph = Graph("product")
    a = graph.add_input("a", IR[dtype], left)
    if constant:
        b = graph.constant((random.standard_normal(right) / left[-1] ** 0.5).astype(NUMPY[dtype]))
    else:
        b = graph.add_input("b", IR[dtype], right)
    result = add_node(graph, "MatMul", [a, b])
    result = result if epilogue is None else epilogue(graph, result)
    result.name = "y"
    graph.add_output(result)
    return make_region(graph, "MatMul", layouts)


def random_inputs(region: Region) -> list[np.ndarray]:
    """Return normal random arrays for a region's inputs."""
    random = np.random.default_rng(7)
    return [random.standard_normal(o.shape).astype(o.dtype.numpy) for o in region.inputs]
