"""Time convolution and matrix product kernels alone, one thread, beside ONNX Runtime.

    python benchmarks/kernels.py --model resnet50 --precision fp32 [--configs 1] [--json out.json]

Weights are cold, as in an inference: each call uses another copy until they exceed the last-level
cache; activations are warm. The time is the least of many calls. `--configs n` times the first n
configurations of each tactic (0: all). ONNX Runtime runs a model of the one node, with
intra_op_num_threads=1; its weights are warm, so the comparison favours it.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import tempfile
import time
from dataclasses import dataclass

import ml_dtypes
import numpy as np

from planish.backends.cpu.codegen.compile import compile_source
from planish.backends.cpu.codegen.driver import prelude_text
from planish.backends.cpu.device import compile_flags, detect
from planish.backends.cpu.tactics import discover
from planish.ir.dtypes import BF16, F32
from planish.ir.graph import Graph, Node, Value
from planish.ir.layout import Layout
from planish.ir.shape import evaluate
from planish.ops.infer import infer_node
from planish.ops.op import OPS
from planish.tactics.region import make_region
from planish.tactics.tactic import Kernel, Region
from planish.tactics.target import Target

PEAK = {"fp32": 244.0, "bf16": 485.0}  # GFLOP/s of one core of the machine this was written on
COLD_BYTES = 80 << 20

TIMER = """
#include <time.h>
typedef void kernel_type(char *const *, const int64_t *, int64_t, int64_t, char *);
static double seconds(void) {
    struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec + 1e-9 * t.tv_nsec;
}
/* Calls with copy after copy of the packed constants; returns the least time of one call. */
__attribute__((visibility("default"))) double planish_time(
    kernel_type *kernel, char **pointers, int64_t first, int64_t count, int64_t copies,
    const int64_t *steps, int64_t items, char *scratch, int64_t calls) {
    double best = 1e9;
    char *p[64];
    for (int64_t call = 0; call < calls; call++) {
        for (int64_t i = 0; i < count; i++)
            p[i] = pointers[i] + (i < first ? 0 : (call % copies) * steps[i]);
        const double start = seconds();
        kernel(p, 0, 0, items, scratch);
        const double taken = seconds() - start;
        if (taken < best) best = taken;
    }
    return best;
}
"""


@dataclass(frozen=True)
class Shape:
    """A convolution (pixels, channels, outputs, kernel, stride, group) or a product (m, k, n)."""

    label: str
    kind: str
    sizes: tuple[int, ...]
    epilogue: str = "relu"
    batch: int = 1

    @property
    def operations(self) -> int:
        if self.kind == "matmul":
            m, k, n = self.sizes
            return 2 * m * k * n * self.batch
        if self.kind == "attention":
            heads, queries, features = self.sizes
            return 4 * heads * queries * queries * features * self.batch
        pixels, channels, outputs, kernel, stride, group = self.sizes
        out = -(-pixels // stride)
        return 2 * self.batch * out * out * channels // group * outputs * kernel * kernel


def conv(pixels: int, channels: int, outputs: int, kernel: int, stride: int = 1, group: int = 1,
         epilogue: str = "relu") -> Shape:  # fmt: skip
    name = f"conv {kernel}x{kernel}/{stride} {channels}->{outputs} @{pixels}"
    name += f" g{group}" if group > 1 else ""
    return Shape(name, "conv", (pixels, channels, outputs, kernel, stride, group), epilogue)


def matmul(m: int, k: int, n: int, epilogue: str = "bias") -> Shape:
    return Shape(f"matmul {m}x{k}x{n}", "matmul", (m, k, n), epilogue)


def _resnet50() -> list[Shape]:
    shapes = [conv(224, 3, 64, 7, 2)]
    channels = 64
    for pixels, middle, out in ((56, 64, 256), (28, 128, 512), (14, 256, 1024), (7, 512, 2048)):
        if pixels == 56:
            shapes += [conv(56, 64, 64, 1), conv(56, 64, 256, 1, epilogue="")]
        else:
            before = pixels * 2
            shapes += [
                conv(before, channels, middle, 1),
                conv(before, middle, middle, 3, 2),
                conv(before, channels, out, 1, 2, epilogue=""),
            ]
        shapes += [
            conv(pixels, out, middle, 1),
            conv(pixels, middle, middle, 3),
            conv(pixels, middle, out, 1, epilogue="residual"),
        ]
        channels = out
    return [*shapes, matmul(1, 2048, 1000)]


MODELS = {
    "resnet50": _resnet50(),
    "mobilenetv3": [
        conv(224, 3, 16, 3, 2, epilogue="hardswish"), conv(112, 16, 16, 3, group=16),
        conv(112, 16, 64, 1), conv(112, 64, 64, 3, 2, 64), conv(56, 64, 24, 1, epilogue=""),
        conv(56, 24, 72, 1), conv(56, 72, 72, 5, 2, 72), conv(28, 72, 40, 1, epilogue=""),
        conv(28, 120, 120, 5, 1, 120), conv(28, 40, 240, 1, epilogue="hardswish"),
        conv(14, 200, 200, 3, 1, 200, "hardswish"), conv(14, 480, 112, 1, epilogue=""),
        conv(14, 112, 672, 1, epilogue="hardswish"), conv(7, 960, 960, 5, 1, 960, "hardswish"),
        conv(7, 960, 160, 1, epilogue="residual"), conv(7, 160, 960, 1, epilogue="hardswish"),
        matmul(1, 960, 1280), matmul(1, 1280, 1000),
    ],
    "inception": [
        conv(299, 3, 32, 3, 2), conv(149, 32, 32, 3), conv(147, 32, 64, 3), conv(73, 64, 80, 1),
        conv(73, 80, 192, 3), conv(35, 192, 64, 1), conv(35, 48, 64, 5), conv(35, 64, 96, 3),
        conv(35, 288, 384, 3, 2), conv(17, 768, 192, 1), conv(8, 2048, 320, 1),
        conv(8, 448, 384, 3),
    ],
    "bert": [
        matmul(128, 768, 2304), matmul(128, 768, 768, "residual"), matmul(128, 768, 3072, "gelu"),
        matmul(128, 3072, 768, "residual"),
        Shape("attention 12x128x64", "attention", (12, 128, 64)),
    ],
    "vit": [
        matmul(197, 768, 2304), matmul(197, 768, 768, "residual"), matmul(197, 768, 3072, "gelu"),
        matmul(197, 3072, 768, "residual"),
        Shape("attention 12x197x64", "attention", (12, 197, 64)),
    ],
}  # fmt: skip


# -- regions -------------------------------------------------------------------------------------


def _node(graph: Graph, op: str, inputs: list[Value], **attributes: object) -> Value:
    value = Value(graph.fresh_name("v"), F32, None)
    infer_node(graph.append(Node(op, inputs, [value], {**OPS[op].attributes, **attributes})))
    return value


def region_of(shape: Shape, precision: str) -> Region:
    """Return the region of one shape, its input with the halo that the layout pass gives it."""
    numpy_type = np.dtype(np.float32 if precision == "fp32" else ml_dtypes.bfloat16)
    element = F32 if precision == "fp32" else BF16
    random = np.random.default_rng(0)

    def weights(*extents: int) -> np.ndarray:
        return random.standard_normal(extents, np.float32).astype(numpy_type)

    graph, layouts = Graph("g"), {}
    if shape.kind == "attention":
        heads, queries, features = shape.sizes
        extents = (shape.batch, heads, queries, features)
        values = [graph.add_input(name, element, extents) for name in "qkv"]
        result = _node(graph, "Attention", values)
        layouts = {n: Layout((0, 2, 1, 3), ((0, 0),) * 4) for n in ("q", "k", "v", result.name)}
    elif shape.kind == "matmul":
        m, k, n = shape.sizes
        x = graph.add_input("x", element, (shape.batch, m, k))
        result = _node(graph, "MatMul", [x, graph.constant(weights(k, n))])
        result = _node(graph, "Add", [result, graph.constant(weights(n))])
    else:
        pixels, channels, outputs, kernel, stride, group = shape.sizes
        x = graph.add_input("x", element, (shape.batch, channels, pixels, pixels))
        pad = kernel // 2
        result = _node(
            graph, "Conv",
            [x, graph.constant(weights(outputs, channels // group, kernel, kernel)),
             graph.constant(weights(outputs))],
            kernel_shape=(kernel, kernel), pads=(pad,) * 4, strides=(stride, stride), group=group,
        )  # fmt: skip
        slack = (0, 1) if precision == "bf16" and channels == 3 else (0, 0)
        layouts["x"] = Layout((0, 2, 3, 1), ((0, 0), slack, (pad, pad), (pad, pad)))
    result = _epilogue(graph, result, shape.epilogue if shape.kind != "attention" else "")
    graph.add_output(result)
    if shape.kind == "conv":
        for name in (result.name, "r"):
            layouts[name] = Layout((0, 2, 3, 1), ((0, 0),) * 4)
    kind = {"attention": "Attention", "matmul": "MatMul", "conv": "Conv"}[shape.kind]
    return make_region(graph, kind, layouts)


def _epilogue(graph: Graph, value: Value, kind: str) -> Value:
    if kind == "residual":
        other = graph.add_input("r", value.dtype, value.known_shape)
        return _node(graph, "Relu", [_node(graph, "Add", [value, other])])
    names = {"relu": "Relu", "hardswish": "HardSwish", "gelu": "Gelu"}
    return _node(graph, names[kind], [value]) if kind in names else value


# -- running -------------------------------------------------------------------------------------


def _huge(size: int) -> np.ndarray:
    """Return zeroed memory aligned for huge pages."""
    raw = np.zeros(size + (2 << 20), np.uint8)
    start = -raw.ctypes.data % (2 << 20)
    return raw[start : start + size]


class Bench:
    """Kernels compiled together, timed one by one."""

    def __init__(self, kernels: list[Kernel], target: Target) -> None:
        parts = [prelude_text(), TIMER]
        for index, kernel in enumerate(kernels):
            parts.append(kernel.source.replace("@NAME@", f"k{index}"))
            parts.append(
                f'__attribute__((visibility("default"))) kernel_type *const f{index} = k{index};'
            )
        started = time.perf_counter()
        built = compile_source("\n".join(parts), compile_flags(target.features))
        self.compile_seconds = time.perf_counter() - started
        with tempfile.NamedTemporaryFile(suffix=".so") as file:
            file.write(built)
            file.flush()
            self.library = ctypes.CDLL(file.name)
        self.library.planish_time.restype = ctypes.c_double
        self.memory = _huge(512 << 20)

    def seconds(self, index: int, region: Region, kernel: Kernel, budget: float) -> float:
        """Return the least time of one call of kernel `index`."""
        offset, pointers = 0, []

        def take(size: int) -> int:
            nonlocal offset
            place, offset = offset, -(-(offset + size) // 256) * 256 + 256
            return place

        outer = (*region.node.inputs, *region.node.outputs)
        for operand, value in zip((*region.inputs, *region.outputs), outer, strict=True):
            layout = value.layout or Layout.row_major(operand.value.rank)
            size = evaluate(layout.elements(operand.shape), {}) * operand.dtype.itemsize
            start = take(size)
            origin = evaluate(layout.origin(operand.shape), {}) * operand.dtype.itemsize
            self._fill(start, size, operand.dtype.numpy)
            pointers.append(start + origin)
        scratch = take(kernel.scratch_bytes)
        first, packed = len(pointers), sum(array.nbytes + 512 for array in kernel.packed)
        copies = max(1, min(64, COLD_BYTES // max(packed, 1)))
        steps = [0] * first
        for array in kernel.packed:
            step = -(-array.nbytes // 256) * 256 + 256
            start = take(step * copies)
            data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
            for copy in range(copies):
                self.memory[start + copy * step : start + copy * step + array.nbytes] = data
            pointers.append(start)
            steps.append(step)
        addresses = np.array([self.memory.ctypes.data + p for p in pointers], np.uint64)
        items = evaluate(kernel.items, {})
        function = ctypes.c_void_p.in_dll(self.library, f"f{index}")
        step_array = np.array(steps, np.int64)

        def run(calls: int) -> float:
            return float(self.library.planish_time(
                function, ctypes.c_void_p(addresses.ctypes.data), ctypes.c_int64(first),
                ctypes.c_int64(len(pointers)), ctypes.c_int64(copies),
                ctypes.c_void_p(step_array.ctypes.data), ctypes.c_int64(items),
                ctypes.c_void_p(self.memory.ctypes.data + scratch), ctypes.c_int64(calls),
            ))  # fmt: skip

        once = run(3)
        return run(max(copies, min(3000, int(budget / once))))

    def _fill(self, start: int, size: int, dtype: np.dtype) -> None:
        count = size // dtype.itemsize
        self.memory[start : start + size].view(dtype)[:count] = 0.5


def onnxruntime_seconds(shape: Shape) -> float | None:
    """Return ONNX Runtime's least time for the same node and epilogue in FP32, one thread."""
    try:
        import onnx
        import onnxruntime
        from onnx import TensorProto, helper, numpy_helper
    except ImportError:
        return None
    if shape.kind == "attention":
        return None
    random = np.random.default_rng(0)
    nodes, constants = [], []

    def constant(name: str, *extents: int) -> str:
        array = random.standard_normal(extents, np.float32)
        constants.append(numpy_helper.from_array(array, name))
        return name

    if shape.kind == "matmul":
        m, k, n = shape.sizes
        extents = [shape.batch, m, k]
        out = [shape.batch, m, n]
        nodes.append(helper.make_node("MatMul", ["x", constant("w", k, n)], ["y0"]))
        nodes.append(helper.make_node("Add", ["y0", constant("b", n)], ["y"]))
    else:
        pixels, channels, outputs, kernel, stride, group = shape.sizes
        extents = [shape.batch, channels, pixels, pixels]
        side = -(-pixels // stride)
        out = [shape.batch, outputs, side, side]
        names = [constant("w", outputs, channels // group, kernel, kernel), constant("b", outputs)]
        nodes.append(helper.make_node(
            "Conv", ["x", *names], ["y"], kernel_shape=[kernel] * 2, pads=[kernel // 2] * 4,
            strides=[stride] * 2, group=group))  # fmt: skip
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, extents)]
    if shape.epilogue == "residual":
        inputs.append(helper.make_tensor_value_info("r", TensorProto.FLOAT, out))
        nodes.append(helper.make_node("Add", ["y", "r"], ["s"]))
        nodes.append(helper.make_node("Relu", ["s"], ["z"]))
    else:
        names_of = {"relu": "Relu", "hardswish": "HardSwish", "gelu": "Gelu"}
        op = names_of.get(shape.epilogue, "Identity")
        nodes.append(helper.make_node(op, ["y"], ["z"]))
    graph = helper.make_graph(
        nodes, "g", inputs, [helper.make_tensor_value_info("z", TensorProto.FLOAT, out)], constants
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        onnx.ModelProto.SerializeToString(model), options, providers=["CPUExecutionProvider"]
    )
    feeds = {i.name: random.standard_normal([d.dim_value for d in i.type.tensor_type.shape.dim],
                                            np.float32) for i in inputs}  # fmt: skip
    best = 1e9
    for _ in range(40):
        started = time.perf_counter()
        session.run(None, feeds)
        best = min(best, time.perf_counter() - started)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="resnet50", choices=[*MODELS, "all"])
    parser.add_argument("--precision", default="fp32", choices=list(PEAK))
    parser.add_argument("--configs", type=int, default=1)
    parser.add_argument("--tactic", default="")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--filter", default="")
    parser.add_argument("--against", action="store_true", help="time ONNX Runtime too")
    parser.add_argument("--json", default="")
    arguments = parser.parse_args()
    target = Target("cpu", detect().features, threads=1, l1=detect().l1, l2=detect().l2)
    shapes = [s for n, m in MODELS.items() if arguments.model in (n, "all") for s in m]
    shapes = [Shape(s.label, s.kind, s.sizes, s.epilogue, arguments.batch)
              for s in shapes if arguments.filter in s.label]  # fmt: skip
    trials = []
    for shape in shapes:
        region = region_of(shape, arguments.precision)
        for tactic in discover():
            wanted = arguments.tactic in tactic.name and tactic.rank < 80
            if not wanted or not tactic.supports(region, target):
                continue
            for config in tactic.configs(region, target)[: arguments.configs or None]:
                kernel = tactic.build(region, config, target)
                if isinstance(kernel, Kernel):
                    trials.append((shape, region, tactic.name, dict(config), kernel))
    bench = Bench([trial[-1] for trial in trials], target)
    print(f"compiled {len(trials)} kernels in {bench.compile_seconds:.1f} s")
    peers = {shape.label: onnxruntime_seconds(shape) for shape in shapes if arguments.against}
    results = []
    for index, (shape, region, tactic, config, kernel) in enumerate(trials):
        seconds = bench.seconds(index, region, kernel, 0.25)
        rate = shape.operations / seconds / 1e9
        peer = peers.get(shape.label)
        results.append({"shape": shape.label, "tactic": tactic, "config": config,
                        "microseconds": seconds * 1e6, "gflops": rate,
                        "peak": rate / PEAK[arguments.precision],
                        "onnxruntime_fp32_microseconds": peer and peer * 1e6})  # fmt: skip
        compared = f" ort {peer * 1e6:8.1f} us {peer / seconds:5.2f}x" if peer else ""
        print(f"{shape.label:28s} {seconds * 1e6:8.1f} us {rate:6.0f} GF "
              f"{100 * rate / PEAK[arguments.precision]:5.1f} %{compared}  {tactic} "
              + " ".join(f"{k}={v}" for k, v in config.items() if v))  # fmt: skip
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump({"precision": arguments.precision, "results": results}, file, indent=1)


if __name__ == "__main__":
    main()
