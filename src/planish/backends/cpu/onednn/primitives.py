"""From a problem to oneDNN's primitives: which operands are read in place, which are copied first.

oneDNN's fast convolutions want dense channels-last memory, ours may have zeros around it (a halo)
or gaps (a slice of a concat). So several *arrangements* are tried, the ones without copies first,
until oneDNN offers an implementation that is not its slow reference: the source as it lies, with
its padding as part of it, or copied; the result written in place, or copied from a dense buffer. A
second tensor of the epilogue (residual) is read in place when it lies as the result does;
otherwise it is copied into the result and added by the "sum" post-operation, or copied to a buffer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from planish.backends.cpu.onednn.library import STATUSES, UNIMPLEMENTED, Dims, Library, Owned
from planish.backends.cpu.onednn.problem import (
    BINARY,
    ELTWISE,
    Binary,
    Eltwise,
    Problem,
    Tensor,
    Window,
    dense,
)

_FORWARD_INFERENCE = 96
_DIRECT = 1


@dataclass(frozen=True)
class Arrangement:
    """The tensors that the main primitive itself reads and writes.

    Where one differs from the problem's, the operand is copied before or after. `post` has an
    entry a post-operation: the tensor read, None for functions of the result, or "sum" where the
    tensor was added up in the result's memory before.
    """

    source: Tensor
    window: Window | None
    target: Tensor
    post: tuple[Tensor | str | None, ...]


@dataclass(frozen=True)
class Chosen:
    """An arrangement with oneDNN's primitive descriptor for it."""

    arrangement: Arrangement
    descriptor: Owned
    implementation: str

    @property
    def is_reference(self) -> bool:
        """Whether the implementation is a plain loop that is only there to be right."""
        return self.implementation.startswith("ref")


def choose(library: Library, problem: Problem) -> Chosen | str:
    """Return the first arrangement with a fast implementation, else any, else why there is none.

    Call it with the number of threads set that the primitive is going to use.
    """
    slow: Chosen | None = None
    reason = "no arrangement of the operands"
    for arrangement in _arrangements(problem):
        descriptor = _descriptor(library, problem, arrangement)
        if isinstance(descriptor, int):
            reason = STATUSES.get(descriptor, f"status {descriptor}")
            if descriptor == UNIMPLEMENTED:
                reason = f"oneDNN has no implementation of {problem.name} on this CPU"
            continue
        chosen = Chosen(arrangement, descriptor, library.implementation(descriptor.address))
        if not chosen.is_reference:
            return chosen
        slow = slow or chosen
    return slow or reason


def describe(library: Library, tensor: Tensor) -> Owned:
    """Return the memory descriptor of a tensor."""
    return library.describe(tensor.dims, tensor.dtype, tensor.strides)


def _arrangements(problem: Problem) -> Iterator[Arrangement]:
    for target in _targets(problem):
        post = _post(problem, target)
        for source, window in _sources(problem):
            if source.is_nested and target.is_nested:
                yield Arrangement(source, window, target, post)


def _sources(problem: Problem) -> Iterator[tuple[Tensor, Window | None]]:
    """Yield the tensors that the primitive could read, those that need no copy first."""
    source = problem.source
    if source.dtype == problem.dtype:
        if _usable_in_place(problem, source):
            yield source, problem.window
        if problem.padded is not None and problem.padded[0].dims != source.dims:
            yield problem.padded
    copy = _buffer(problem, source, problem.dtype)
    if copy.strides != source.strides or copy.dtype != source.dtype:
        yield copy, problem.window


def _targets(problem: Problem) -> Iterator[Tensor]:
    if _usable_in_place(problem, problem.target):
        yield problem.target
    for dtype in dict.fromkeys((problem.target.dtype, problem.dtype)):
        copy = _buffer(problem, problem.target, dtype)
        if copy.strides != problem.target.strides or dtype != problem.target.dtype:
            yield copy


def _usable_in_place(problem: Problem, tensor: Tensor) -> bool:
    """Whether it is worth asking: products take any strides, convolutions no gaps."""
    return problem.window is None or tensor.strides == dense(tensor.dims, problem.order)


def _buffer(problem: Problem, tensor: Tensor, dtype: str) -> Tensor:
    """Return dense memory of our own for what `tensor` holds."""
    return Tensor(tensor.dims, dense(tensor.dims, problem.order), dtype)


def _post(problem: Problem, target: Tensor) -> tuple[Tensor | str | None, ...]:
    found: list[Tensor | str | None] = []
    for operation in problem.post:
        if isinstance(operation, Eltwise):
            found.append(None)
            continue
        tensor = operation.tensor
        if tensor.strides == dense(tensor.dims, problem.order) and (
            tensor.dims != target.dims or tensor.strides == target.strides
        ):
            found.append(tensor)
            continue
        adds = operation.algorithm == "add" and tensor.dims == target.dims
        if adds and tensor.dtype == target.dtype and "sum" not in found:
            found.append("sum")
            continue
        strides = (
            target.strides if tensor.dims == target.dims else dense(tensor.dims, problem.order)
        )
        found.append(Tensor(tensor.dims, strides, tensor.dtype))
    return tuple(found)


def _descriptor(library: Library, problem: Problem, arrangement: Arrangement) -> Owned | int:
    source = describe(library, arrangement.source)
    target = describe(library, arrangement.target)
    bias = None if problem.bias is None else describe(library, problem.bias)
    # constant weights are laid out as oneDNN likes; others lie where they lie
    weights = problem.weights
    chosen = None if weights.packed is not None else weights.strides
    layout = library.describe(weights.dims, problem.dtype, chosen)
    attributes, _keep = _attributes(library, problem, arrangement)
    bias_address = None if bias is None else bias.address
    window = arrangement.window
    if window is None:
        return library.primitive_descriptor(
            "dnnl_matmul_primitive_desc_create",
            source.address, layout.address, bias_address, target.address, attributes.address,
        )  # fmt: skip
    return library.primitive_descriptor(
        "dnnl_convolution_forward_primitive_desc_create",
        _FORWARD_INFERENCE, _DIRECT,
        source.address, layout.address, bias_address, target.address,
        Dims(*window.strides), Dims(*(d - 1 for d in window.dilations)),  # oneDNN counts the gaps
        Dims(*window.begin), Dims(*window.end), attributes.address,
    )  # fmt: skip


def _attributes(
    library: Library, problem: Problem, arrangement: Arrangement
) -> tuple[Owned, list[Owned]]:
    append: list[tuple[object, ...]] = []
    keep: list[Owned] = []
    for operation, tensor in zip(problem.post, arrangement.post, strict=True):
        if isinstance(operation, Eltwise):
            append.append(
                ("eltwise", ELTWISE[operation.algorithm], operation.alpha, operation.beta)
            )
        elif tensor == "sum":
            append.append(("sum", 1.0))
        elif isinstance(operation, Binary) and isinstance(tensor, Tensor):
            keep.append(describe(library, tensor))
            append.append(("binary", BINARY[operation.algorithm], keep[-1].address))
    return library.attributes(append), keep
