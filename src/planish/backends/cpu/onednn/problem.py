"""One convolution or matrix product with its post-operations, as data.

`parameters` of an external kernel (JSON) say what to compute; where the operands lie comes from the
plan's operands. `read_problem` joins the two into tensors with plain numbers. It is used on both
sides: the tactic asks oneDNN whether it has an implementation, the runtime builds it.

Parameters
----------
``anchor``
    "convolution" or "matmul".
``dtype``
    "f32" or "bf16": the type that products are computed in; operands of another type are converted.
``source``, ``weights``
    ``source`` is an operand's index. ``weights`` is one too (matmul), or the extents of the first
    packed constant: [N, C / group, *kernel], or [..., K, N].
``bias``
    Whether the next packed constant holds float32 values, one a channel or column.
``post``
    Post-operations in order: ["eltwise", algorithm, alpha, beta], ["binary", algorithm,
    {"operand": index}] or ["binary", algorithm, {"constant": extents}] (the next packed constant).
``strides``, ``dilations``, ``begin``, ``end``, ``group``, ``halo``
    Of a convolution: the window, the padding, and the zeros that lie around the source's spatial
    axes.
``pixels``
    Of a matmul that is a 1x1 convolution: the window's strides; operands are read channels-last.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from planish.errors import EngineFileError
from planish.plan.plan import Operand

ELTWISE = {
    "relu": 32, "tanh": 33, "elu": 34, "square": 35, "abs": 36, "sqrt": 37, "linear": 38,
    "soft_relu": 39, "hardsigmoid": 40, "logistic": 41, "exp": 42, "gelu_tanh": 43, "swish": 44,
    "log": 45, "clip": 46, "pow": 48, "gelu_erf": 49, "mish": 51, "hardswish": 52,
}  # fmt: skip
BINARY = {
    "add": 0x1FFF0, "mul": 0x1FFF1, "max": 0x1FFF2, "min": 0x1FFF3, "div": 0x1FFF4, "sub": 0x1FFF5,
}  # fmt: skip
ITEM_BYTES = {"f32": 4, "bf16": 2}

Sizes = tuple[int, ...]


@dataclass(frozen=True)
class Tensor:
    """Extents and strides (in elements, oneDNN's axis order) of memory with a known start.

    `operand` is the index of a kernel operand, `packed` that of a packed constant; both None for
    memory of our own. `shift` is the position of the first element relative to the operand's.
    """

    dims: Sizes
    strides: Sizes
    dtype: str
    operand: int | None = None
    packed: int | None = None
    shift: int = 0

    @property
    def bytes(self) -> int:
        """Bytes from the first element to the last."""
        reach = sum((n - 1) * s for n, s in zip(self.dims, self.strides, strict=True))
        return (reach + 1) * ITEM_BYTES[self.dtype]

    @property
    def is_nested(self) -> bool:
        """Whether each axis steps over all of the axes inside it: what oneDNN can describe."""
        axes = sorted((s, n) for n, s in zip(self.dims, self.strides, strict=True) if n != 1)
        spans = [1, *(stride * extent for stride, extent in axes)]
        return all(axis[0] >= span for axis, span in zip(axes, spans, strict=False))


@dataclass(frozen=True)
class Eltwise:
    """An element-wise function of the result so far."""

    algorithm: str
    alpha: float
    beta: float


@dataclass(frozen=True)
class Binary:
    """An operation with a second tensor, which broadcasts to the result."""

    algorithm: str
    tensor: Tensor


@dataclass(frozen=True)
class Window:
    """A convolution's window; `begin` and `end` are the padding that oneDNN has to add."""

    strides: Sizes
    dilations: Sizes
    begin: Sizes
    end: Sizes


@dataclass(frozen=True)
class Problem:
    """A convolution (`window` is set) or matrix product.

    `order` is the order of axes in memory, outermost first, in which oneDNN is fast; `padded` is
    the source with its padding as part of the tensor, where the zeros lie around it.
    """

    dtype: str
    source: Tensor
    weights: Tensor
    bias: Tensor | None
    target: Tensor
    post: tuple[Eltwise | Binary, ...]
    order: Sizes
    window: Window | None = None
    padded: tuple[Tensor, Window] | None = None

    @property
    def name(self) -> str:
        """Text form for messages, in the manner of oneDNN's verbose output."""
        kind = "matmul" if self.window is None else "convolution"
        shapes = ":".join(
            "x".join(map(str, t.dims)) for t in (self.source, self.weights, self.target)
        )
        post = "+".join(operation.algorithm for operation in self.post)
        return (
            f"{kind} {self.dtype} {shapes}"
            + (f" {self.window}" if self.window else "")
            + (f" post={post}" if post else "")
        )


def read_problem(
    parameters: Mapping[str, Any], operands: Sequence[Operand], outputs: int
) -> Problem:
    """Return the problem of an external kernel.

    Parameters
    ----------
    parameters : dict
        See the module's docstring.
    operands : sequence of planish.plan.plan.Operand
        Types, extents and strides of the inputs, then of the outputs; no symbols.
    outputs : int
        How many of the operands are outputs; has to be 1.

    Raises
    ------
    EngineFileError
        When the parameters are not those of such a kernel, or do not fit the operands.
    """
    try:
        reader = _Reader(parameters, operands, outputs)
        return reader.convolution() if parameters["anchor"] == "convolution" else reader.matmul()
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise EngineFileError(
            f"the parameters of a oneDNN kernel are damaged: {type(error).__name__}: {error}",
            fix="build the engine again from its model",
        ) from error


def dense(dims: Sizes, order: Sizes) -> Sizes:
    """Return strides without gaps, axes in memory in the given order."""
    strides, step = [0] * len(dims), 1
    for axis in reversed(order):
        strides[axis] = step
        step *= dims[axis]
    return tuple(strides)


class _Reader:
    """Joins parameters and operands."""

    def __init__(
        self, parameters: Mapping[str, Any], operands: Sequence[Operand], outputs: int
    ) -> None:
        if outputs != 1:
            raise ValueError(f"{outputs} outputs")
        if parameters["dtype"] not in ITEM_BYTES:
            raise ValueError(f"type {parameters['dtype']}")
        self.parameters = parameters
        self.operands = operands
        self.packed = 0

    # -- convolution -----------------------------------------------------------------------------

    def convolution(self) -> Problem:
        """Return a convolution's problem."""
        source, target = self._operand(self.parameters["source"]), self._operand(-1)
        rank = len(target.dims)
        order = (0, *range(2, rank), 1)
        weights = self._packed(self.parameters["weights"], self.parameters["dtype"])
        group = _positive(self.parameters["group"])
        if group > 1:
            split = (group, weights.dims[0] // group, *weights.dims[1:])
            weights = replace(weights, dims=split, strides=dense(split, tuple(range(rank + 1))))
        bias = self._bias((target.dims[1],))
        fields = ("strides", "dilations", "begin", "end")
        window = Window(*(_numbers(self.parameters[name], rank - 2) for name in fields))
        post = tuple(self._post(entry, target.dims) for entry in self.parameters["post"])
        problem = Problem(
            dtype=self.parameters["dtype"],
            source=_settled(source, order),
            weights=weights,
            bias=bias,
            target=_settled(target, order),
            post=tuple(_settled_post(operation, order) for operation in post),
            order=order,
            window=window,
        )
        halo = [_numbers(pair, 2) for pair in self.parameters["halo"]]
        return replace(problem, padded=_padded(problem, window, halo))

    # -- matmul ----------------------------------------------------------------------------------

    def matmul(self) -> Problem:
        """Return a product's problem: batch axes, rows, columns, as few axes as possible."""
        source, target = self._operand(self.parameters["source"]), self._operand(-1)
        pixels = self.parameters.get("pixels")
        if pixels is not None:
            source = _channels_last(_subsampled(source, _numbers(pixels, len(source.dims) - 2)))
            target = _channels_last(target)
        given = self.parameters["weights"]
        dtype = self.parameters["dtype"]
        weights = self._operand(given) if isinstance(given, int) else self._packed(given, dtype)
        bias = self._bias((target.dims[-1],))
        post = []
        for entry in self.parameters["post"]:
            shape = target.dims if pixels is None else _channels_first(target.dims)
            operation = self._post(entry, shape)
            if isinstance(operation, Binary) and pixels is not None:
                operation = replace(operation, tensor=_channels_last(operation.tensor))
            post.append(operation)
        return _merged(Problem(dtype, source, weights, bias, target, tuple(post), ()))

    # -- tensors ---------------------------------------------------------------------------------

    def _operand(self, index: Any) -> Tensor:
        position = range(len(self.operands))[index]
        operand = self.operands[position]
        dims, strides = _numbers(operand.shape), _numbers(operand.strides)
        if len(dims) != len(strides) or 0 in dims or operand.dtype not in ITEM_BYTES:
            raise ValueError(f"operand {operand}")
        return Tensor(dims, strides, operand.dtype, operand=position)

    def _packed(self, dims: Any, dtype: str) -> Tensor:
        numbers = tuple(map(_positive, dims))
        self.packed += 1
        strides = dense(numbers, tuple(range(len(numbers))))
        return Tensor(numbers, strides, dtype, packed=self.packed - 1)

    def _bias(self, dims: Sizes) -> Tensor | None:
        return self._packed(dims, "f32") if self.parameters["bias"] else None

    def _post(self, entry: Any, shape: Sizes) -> Eltwise | Binary:
        """Return a post-operation; a binary one's tensor has the result's rank."""
        kind, algorithm, *rest = entry
        if kind == "eltwise" and algorithm in ELTWISE:
            return Eltwise(algorithm, float(rest[0]), float(rest[1]))
        if kind != "binary" or algorithm not in BINARY:
            raise ValueError(f"post-operation {entry}")
        where = rest[0]
        if "operand" in where:
            tensor = self._operand(where["operand"])
        else:
            tensor = self._packed(where["constant"], "f32")
        missing = len(shape) - len(tensor.dims)
        dims = (1,) * missing + tensor.dims
        if missing < 0 or any(n not in (1, m) for n, m in zip(dims, shape, strict=True)):
            raise ValueError(f"{tensor.dims} does not broadcast to {shape}")
        return Binary(
            algorithm, replace(tensor, dims=dims, strides=(0,) * missing + tensor.strides)
        )


def _numbers(values: Any, count: int | None = None) -> Sizes:
    numbers = tuple(values)
    if any(type(n) is not int for n in numbers) or count not in (None, len(numbers)):
        raise ValueError(f"{values} is not {'some' if count is None else count} numbers")
    return numbers


def _positive(value: Any) -> int:
    if type(value) is not int or value < 1:
        raise ValueError(f"{value} is not a positive number")
    return value


def _settled(tensor: Tensor, order: Sizes) -> Tensor:
    """Return `tensor` with the strides of axes of extent 1 as if there were no gaps."""
    strides, step = list(tensor.strides), 1
    for axis in reversed(order):
        if tensor.dims[axis] == 1:
            strides[axis] = step
        step = max(step, strides[axis] * tensor.dims[axis])
    if any(stride < 1 for stride in strides):
        raise ValueError(f"strides {tensor.strides}")
    return replace(tensor, strides=tuple(strides))


def _settled_post(operation: Eltwise | Binary, order: Sizes) -> Eltwise | Binary:
    if isinstance(operation, Eltwise):
        return operation
    return replace(operation, tensor=_settled(operation.tensor, order))


def _padded(
    problem: Problem, window: Window, halo: Sequence[Sizes]
) -> tuple[Tensor, Window] | None:
    """Return the source with the zeros around it as part of it; None where that is not dense.

    Rows then follow each other without a gap, which is what oneDNN's fast implementations need, and
    there is no padding left to do for them.
    """
    source = problem.source
    pixel = source.strides[2:]
    if source.strides[1] != 1 or pixel[-1] != source.dims[1]:
        return None
    kernel = problem.weights.dims[-len(pixel) :]
    dims, end, shift = list(source.dims[:2]), [], 0
    for axis, (before, after) in enumerate(halo):
        step, begin, extent = window.strides[axis], window.begin[axis], source.dims[axis + 2]
        reach = (kernel[axis] - 1) * window.dilations[axis] + 1
        needed = (problem.target.dims[axis + 2] - 1) * step + reach
        if begin > before or needed > begin + extent + after:
            return None
        pitch = needed
        if axis > 0 or source.dims[0] > 1:
            outer = pixel[axis - 1] if axis > 0 else source.strides[0]
            pitch = begin + extent + after
            if before != begin or outer != pitch * pixel[axis]:
                return None
        dims.append(pitch)
        end.append(needed - pitch)
        shift -= begin * pixel[axis]
    padded = replace(
        source, dims=tuple(dims), strides=dense(tuple(dims), problem.order), shift=shift
    )
    return padded, replace(window, begin=(0,) * len(pixel), end=tuple(end))


def _subsampled(tensor: Tensor, steps: Sizes) -> Tensor:
    """Return every steps[i]-th position of each spatial axis."""
    dims = (*tensor.dims[:2], *(-(-n // s) for n, s in zip(tensor.dims[2:], steps, strict=True)))
    strides = (
        *tensor.strides[:2],
        *(n * s for n, s in zip(tensor.strides[2:], steps, strict=True)),
    )
    return replace(tensor, dims=dims, strides=strides)


def _channels_last(tensor: Tensor) -> Tensor:
    def moved(sizes: Sizes) -> Sizes:
        return (sizes[0], *sizes[2:], sizes[1])

    return replace(tensor, dims=moved(tensor.dims), strides=moved(tensor.strides))


def _channels_first(sizes: Sizes) -> Sizes:
    return (sizes[0], sizes[-1], *sizes[1:-1])


def _merged(problem: Problem) -> Problem:
    """Return a product with axes of extent 1 dropped and evenly strided neighbours merged.

    Rows of a batch that share their weights become rows of one matrix.
    """
    target = problem.target
    count = len(target.dims) - 1  # all but the columns
    binaries = [o.tensor for o in problem.post if isinstance(o, Binary)]
    left = _outer_strides(problem.source, count, rows=True)
    right = _outer_strides(problem.weights, count, rows=False)
    others = [_outer_strides(tensor, count, rows=True) for tensor in (target, *binaries)]
    axes: list[tuple[int, Sizes]] = []
    for extent, *strides in zip(target.dims[:-1], left, right, *others, strict=True):
        if extent == 1:
            continue
        if axes and all(o == i * extent for o, i in zip(axes[-1][1], strides, strict=True)):
            axes[-1] = (axes[-1][0] * extent, tuple(strides))
            continue
        axes.append((extent, tuple(strides)))
    if not axes or axes[-1][1][1] != 0:
        axes.append((1, (0,) * (len(others) + 2)))  # the weights differ along all axes: no rows
    extents = tuple(extent for extent, _ in axes)
    by_tensor = [tuple(strides[i] for _, strides in axes) for i in range(len(others) + 2)]
    source = _matrices(problem.source, extents, by_tensor[0])
    weights = _matrices(problem.weights, extents[:-1], by_tensor[1][:-1], tail=2)
    target = _matrices(target, extents, by_tensor[2])
    fitted = iter(_matrices(t, extents, s) for t, s in zip(binaries, by_tensor[3:], strict=True))
    post = tuple(
        replace(o, tensor=next(fitted)) if isinstance(o, Binary) else o for o in problem.post
    )
    bias = problem.bias
    if bias is not None:
        dims = (*(1,) * len(extents), *bias.dims)
        bias = replace(bias, dims=dims, strides=dense(dims, tuple(range(len(dims)))))
    order = tuple(range(len(extents) + 1))
    return replace(
        problem, source=source, weights=weights, target=target, post=post, bias=bias, order=order
    )


def _outer_strides(tensor: Tensor, count: int, rows: bool) -> Sizes:
    """Return a stride for each of the result's axes but the last; 0 where `tensor` is broadcast.

    `rows` tells whether the axis before the last is the result's row axis, too (not of weights).
    """
    own = list(zip(tensor.dims, tensor.strides, strict=True))
    outer = own[:-1] if rows else [*own[:-2], (1, 0)]
    if len(outer) > count:
        raise ValueError(f"{tensor.dims} has more axes than the product")
    fitted = [0 if extent == 1 else stride for extent, stride in outer]
    return (0,) * (count - len(fitted)) + tuple(fitted)


def _matrices(tensor: Tensor, extents: Sizes, strides: Sizes, tail: int = 1) -> Tensor:
    """Return `tensor` with merged outer axes; its last `tail` axes stay."""
    outer = tuple(1 if s == 0 else n for n, s in zip(extents, strides, strict=True))
    dims = outer + tensor.dims[-tail:]
    changed = replace(tensor, dims=dims, strides=strides + tensor.strides[-tail:])
    return _settled(changed, tuple(range(len(dims))))


def check_packed(problem: Problem, sizes: Sequence[int]) -> None:
    """Raise EngineFileError when packed constants of these sizes (bytes) are too few or small."""
    binaries = [o.tensor for o in problem.post if isinstance(o, Binary)]
    for tensor in (problem.weights, problem.bias, *binaries):
        if tensor is None or tensor.packed is None:
            continue
        needed = int(np.prod(tensor.dims)) * ITEM_BYTES[tensor.dtype]
        if tensor.packed >= len(sizes) or sizes[tensor.packed] < needed:
            raise EngineFileError(
                "a packed constant of a oneDNN kernel is missing or too small",
                where=problem.name,
                fix="build the engine again from its model",
            )
