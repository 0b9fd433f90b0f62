"""From a region to the parameters of a oneDNN kernel, or the reason why there are none.

The anchor's constant weights are packed as they are; oneDNN lays them out before the first
inference. The epilogue has to be a chain: every operation takes the result so far, and at most one
other tensor that broadcasts to it. Casts between float32 and bf16 disappear, as arithmetic is
float32 in registers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from planish.backends.cpu.codegen.epilogue import split_body
from planish.backends.cpu.codegen.scalar import scalar_constant
from planish.backends.cpu.tactics.convolution import FLOATS, input_behind_casts
from planish.ir.graph import Node, Value
from planish.ops.convolution import Window, window_of
from planish.plan.plan import Operand as PlanOperand
from planish.tactics.tactic import Region

Array = np.ndarray[Any, Any]
LARGEST = float(np.finfo(np.float32).max)


@dataclass
class Lowered:
    """Parameters and packed constants of an external kernel, and its operands for the plan."""

    parameters: dict[str, Any]
    packed: list[Array]
    operands: tuple[PlanOperand, ...]


class RefusalError(ValueError):
    """Why a region cannot be done; the text completes "oneDNN does not do it because ..."."""


def lower(region: Region, as_matmul: bool = False) -> Lowered:
    """Return what oneDNN needs for `region`.

    Parameters
    ----------
    region : Region
    as_matmul : bool
        Make a convolution a matrix product; only 1x1 convolutions without groups and padding.

    Raises
    ------
    RefusalError
        With the reason.
    """
    anchor = region.anchor
    if anchor is None or region.kind not in ("Conv", "MatMul"):
        raise RefusalError("the region is neither a convolution nor a matrix product")
    operands = _static_operands(region)
    if region.kind == "MatMul":
        parameters, packed = _matmul(region, anchor)
    elif as_matmul:
        parameters, packed = _pixel_matmul(region, anchor)
    else:
        parameters, packed = _convolution(region, anchor)
    column_axis = 1 if region.kind == "Conv" else anchor.output.rank - 1
    post = _Post(region, anchor, column_axis, _bias(region, anchor))
    post.read()
    parameters["bias"] = post.bias is not None
    parameters["post"] = post.entries
    if post.bias is not None:
        packed.append(np.ascontiguousarray(post.bias, np.float32))
    return Lowered(parameters, [*packed, *post.packed], operands)


def _static_operands(region: Region) -> tuple[PlanOperand, ...]:
    if len(region.outputs) != 1:
        raise RefusalError("the region has several outputs")
    for operand in (*region.inputs, *region.outputs):
        if not all(isinstance(dim, int) for dim in (*operand.shape, *operand.strides)):
            raise RefusalError("extents are dynamic")
        if operand.dtype not in FLOATS:
            raise RefusalError(f"an operand is {operand.dtype}")
        if 0 in operand.shape:
            raise RefusalError("an operand is empty")
        steps = [s for n, s in zip(operand.shape, operand.strides, strict=True) if n != 1]
        if not all(isinstance(step, int) and step > 0 for step in steps):
            raise RefusalError("an operand repeats its elements or runs backwards")
    if region.outputs[0].shape != _anchor(region).output.known_shape:
        raise RefusalError("the epilogue changes the shape")
    return tuple(
        PlanOperand(operand.dtype.name, operand.shape, operand.strides)
        for operand in (*region.inputs, *region.outputs)
    )


def _anchor(region: Region) -> Node:
    anchor = region.anchor
    if anchor is None:
        raise RefusalError("the region has no anchor")
    return anchor


# -- anchors -------------------------------------------------------------------------------------


def _convolution(region: Region, anchor: Node) -> tuple[dict[str, Any], list[Array]]:
    window = _static_window(anchor)
    source, weights = _operand_index(region, anchor.present_inputs[0]), _weights(anchor)
    pairs = window.padding.static or ()
    parameters = {
        "anchor": "convolution",
        "dtype": anchor.present_inputs[0].dtype.name,
        "source": source,
        "weights": list(weights.shape),
        "strides": list(window.strides),
        "dilations": list(window.dilations),
        "begin": [before for before, _ in pairs],
        "end": [after for _, after in pairs],
        "group": int(anchor.attributes.get("group", 1)),
        "halo": [list(pair) for pair in region.inputs[source].halo[2:]],
    }
    return parameters, [weights]


def _pixel_matmul(region: Region, anchor: Node) -> tuple[dict[str, Any], list[Array]]:
    window, weights = _static_window(anchor), _weights(anchor)
    if int(anchor.attributes.get("group", 1)) != 1 or set(window.kernel) != {1}:
        raise RefusalError("only 1x1 convolutions without groups are matrix products")
    if not window.padding.is_zero:
        raise RefusalError("the convolution has padding")
    matrix = np.ascontiguousarray(weights.reshape(weights.shape[:2]).T)
    parameters = {
        "anchor": "matmul",
        "dtype": anchor.present_inputs[0].dtype.name,
        "source": _operand_index(region, anchor.present_inputs[0]),
        "weights": list(matrix.shape),
        "pixels": list(window.strides),
    }
    return parameters, [matrix]


def _matmul(region: Region, anchor: Node) -> tuple[dict[str, Any], list[Array]]:
    left, right = anchor.present_inputs
    if left.rank < 2 or right.rank < 2:
        raise RefusalError("an operand is a vector")
    if left.constant is not None:
        raise RefusalError("the left operand is a constant")
    parameters: dict[str, Any] = {
        "anchor": "matmul",
        "dtype": left.dtype.name,
        "source": _operand_index(region, left),
    }
    if right.constant is not None:
        weights = right.array
        parameters["weights"] = list(weights.shape)
        return parameters, [weights]
    parameters["weights"] = _operand_index(region, right)
    if region.inputs[parameters["weights"]].dtype is not left.dtype:
        raise RefusalError("the right operand is of another type in memory")
    return parameters, []


def _static_window(anchor: Node) -> Window:
    window = window_of(anchor)
    if window.padding.static is None:
        raise RefusalError("the padding is symbolic")
    if window.ceil_mode:
        raise RefusalError("ceil_mode")
    return window


def _weights(anchor: Node) -> Array:
    weights = anchor.inputs[1]
    if weights is None or weights.constant is None:
        raise RefusalError("the weights are not constants")
    if weights.dtype is not anchor.present_inputs[0].dtype:
        raise RefusalError("the weights are of another type than the input")
    return weights.array


def _bias(region: Region, anchor: Node) -> Array | None:
    bias = anchor.input(2) if region.kind == "Conv" else None
    if bias is None:
        return None
    if bias.constant is None:
        raise RefusalError("the bias is not a constant")
    return np.asarray(bias.array.astype(np.float32))


def _operand_index(region: Region, value: Value) -> int:
    source = input_behind_casts(value)
    if source is None or source not in region.body.inputs:
        raise RefusalError(f"there are operations before the {region.kind}")
    if value.dtype not in FLOATS:
        raise RefusalError(f"an operand is {value.dtype}")
    return region.body.inputs.index(source)


# -- epilogues -----------------------------------------------------------------------------------


@dataclass
class _Post:
    """Reads the epilogue of a region into post-operations."""

    region: Region
    anchor: Node
    column_axis: int
    bias: Array | None
    entries: list[list[Any]] = field(default_factory=list)
    packed: list[Array] = field(default_factory=list)

    def read(self) -> None:
        """Fill `entries`, `packed` and `bias`."""
        body = self.region.body
        parts = split_body(body, self.anchor)
        if any(node.op != "Cast" for node in parts.prologue):
            raise RefusalError(f"there are operations before the {self.region.kind}")
        value = self.anchor.output
        for node in parts.epilogue:
            if value not in node.present_inputs:
                raise RefusalError(f"the epilogue is not a chain at {node.op}")
            if len(value.uses) != 1 or body.is_output(value):
                raise RefusalError(f"the epilogue reads a result twice at {node.op}")
            self._append(node, value)
            value = node.output
        if value is not body.outputs[0]:
            raise RefusalError("the epilogue is not a chain")

    def _append(self, node: Node, value: Value) -> None:
        if node.output.dtype not in FLOATS:
            raise RefusalError(f"{node.op} gives {node.output.dtype}")
        if node.op == "Cast":
            return
        if node.op in _FUNCTIONS:
            self.entries.append(["eltwise", *_FUNCTIONS[node.op](node)])
            return
        if node.op not in _BINARY or len(node.present_inputs) != 2:
            raise RefusalError(f"{node.op} is not one of its post-operations")
        first, second = node.present_inputs
        self._binary(node.op, second if first is value else first, first is value)

    def _binary(self, op: str, other: Value, result_first: bool) -> None:
        scalar = scalar_constant(other)
        if scalar is not None:
            self.entries.append(["eltwise", *_with_scalar(op, float(scalar), result_first)])
            return
        if op == "Div" and not result_first:
            raise RefusalError("it does not divide by the result")
        if op == "Sub" and not result_first:
            self.entries.append(["eltwise", "linear", -1.0, 0.0])
            op = "Add"
        if other.constant is None:
            where: dict[str, Any] = {"operand": _operand_index(self.region, other)}
            self.entries.append(["binary", _BINARY[op], where])
            return
        array = other.array.astype(np.float32)
        if op == "Add" and not self.entries and self._takes_bias(array):
            return
        where = {"constant": list(array.shape)}
        self.packed.append(np.ascontiguousarray(array))
        self.entries.append(["binary", _BINARY[op], where])

    def _takes_bias(self, array: Array) -> bool:
        """Add a leading per-column constant to the bias; False when it is something else."""
        shape = self.anchor.output.known_shape
        full = (1,) * (len(shape) - array.ndim) + array.shape
        columns = shape[self.column_axis]
        if full[self.column_axis] != array.size or not isinstance(columns, int):
            return False
        addend = np.broadcast_to(array.reshape(-1), (columns,))
        self.bias = addend if self.bias is None else self.bias + addend
        return True


_BINARY = {"Add": "add", "Mul": "mul", "Sub": "sub", "Div": "div", "Max": "max", "Min": "min"}


def _with_scalar(op: str, scalar: float, result_first: bool) -> tuple[str, float, float]:
    """Return the function that an operation with one number is."""
    if op == "Div" and not result_first:
        return "pow", scalar, -1.0
    if op == "Sub":
        return ("linear", 1.0, -scalar) if result_first else ("linear", -1.0, scalar)
    return {
        "Add": ("linear", 1.0, scalar),
        "Mul": ("linear", scalar, 0.0),
        "Div": ("linear", 1.0 / scalar if scalar else float("inf"), 0.0),
        "Max": ("clip", scalar, LARGEST),
        "Min": ("clip", -LARGEST, scalar),
    }[op]


def _clip(node: Node) -> tuple[str, float, float]:
    bounds = []
    for value, default in zip((node.input(1), node.input(2)), (-LARGEST, LARGEST), strict=True):
        bound = default if value is None else scalar_constant(value)
        if bound is None:
            raise RefusalError("the bounds of Clip are not constants")
        bounds.append(float(bound))
    return "clip", bounds[0], bounds[1]


def _gelu(node: Node) -> tuple[str, float, float]:
    tanh = node.attributes["approximate"] in ("tanh", b"tanh")
    return ("gelu_tanh" if tanh else "gelu_erf"), 0.0, 0.0


def _fixed(algorithm: str, alpha: float = 0.0, beta: float = 0.0) -> _Function:
    return lambda node: (algorithm, alpha, beta)


def _with_alpha(algorithm: str) -> _Function:
    return lambda node: (algorithm, float(node.attributes["alpha"]), 0.0)


_Function = Callable[[Node], tuple[str, float, float]]
_FUNCTIONS: dict[str, _Function] = {
    "Abs": _fixed("abs"),
    "Clip": _clip,
    "Elu": _with_alpha("elu"),
    "Exp": _fixed("exp"),
    "Gelu": _gelu,
    "HardSigmoid": lambda node: (
        "hardsigmoid", float(node.attributes["alpha"]), float(node.attributes["beta"])
    ),
    "HardSwish": _fixed("hardswish", 1 / 6, 0.5),
    "LeakyRelu": _with_alpha("relu"),
    "Log": _fixed("log"),
    "Mish": _fixed("mish"),
    "Neg": _fixed("linear", -1.0),
    "Relu": _fixed("relu"),
    "Sigmoid": _fixed("logistic"),
    "Softplus": _fixed("soft_relu", 1.0),
    "Sqrt": _fixed("sqrt"),
    "Swish": _with_alpha("swish"),
    "Tanh": _fixed("tanh"),
}  # fmt: skip


def supported_functions() -> Sequence[str]:
    """Return the operators that are post-operations."""
    return sorted(_FUNCTIONS)
