"""Compile kernels in batches and run them on arrays: what the driver does, for tests."""

from __future__ import annotations

import ctypes
import itertools
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from planish.backends.cpu.codegen.compile import compile_source
from planish.backends.cpu.codegen.driver import prelude_text
from planish.backends.cpu.device import compile_flags, detect
from planish.ir.layout import Layout
from planish.ir.shape import Shape, evaluate
from planish.tactics.tactic import Kernel, Operand, Region

GUARD = 64  # bytes after every buffer that a kernel must leave alone
PATTERN = 0xFF  # a NaN in every float type: reading the guard shows


@dataclass
class Case:
    """A kernel with its inputs and what it has to give."""

    label: str
    region: Region
    kernel: Kernel
    inputs: Sequence[np.ndarray]
    expected: Sequence[np.ndarray] = ()
    bindings: Mapping[str, int] = field(default_factory=dict)


class Library:
    """Several kernels compiled as one shared object."""

    def __init__(
        self,
        kernels: Sequence[Kernel],
        features: frozenset[str] | None = None,
        preamble: str = "",
    ) -> None:
        features = detect().features if features is None else features
        parts = [preamble + prelude_text()]
        names: dict[str, int] = {}
        self._slots = []
        for kernel in kernels:
            slot = names.setdefault(kernel.source, len(names))
            self._slots.append(slot)
            if slot < len(names) - 1 or f"k{slot}" in parts[-1]:
                continue
            parts.append(kernel.source.replace("@NAME@", f"k{slot}"))
            parts.append(
                f'__attribute__((visibility("default"))) void run_{slot}(char *const *p, '
                "const int64_t *d, int64_t begin, int64_t end, char *scratch) "
                f"{{ k{slot}(p, d, begin, end, scratch); }}"
            )
        self.source = "\n".join(parts)
        built = compile_source(self.source, compile_flags(features))
        with tempfile.NamedTemporaryFile(suffix=".so") as file:
            file.write(built)
            file.flush()
            self._library = ctypes.CDLL(file.name)

    def function(self, index: int) -> ctypes._NamedFuncPointer:
        """Return the foreign function of kernel `index`."""
        function = getattr(self._library, f"run_{self._slots[index]}")
        function.restype = None
        function.argtypes = [
            ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p,
        ]  # fmt: skip
        return function


class Buffer:
    """Aligned memory for one operand, with a guard behind it."""

    def __init__(self, operand: Operand, layout: Layout, bindings: Mapping[str, int]) -> None:
        shape = operand.shape
        self.shape = concrete(shape, bindings)
        self.dtype = operand.dtype.numpy
        itemsize = operand.dtype.itemsize
        elements = evaluate(layout.elements(shape), bindings)
        self._bytes = elements * itemsize
        self._raw = np.full(self._bytes + 64 + GUARD, PATTERN, np.uint8)
        self._start = -self._raw.ctypes.data % 64
        self._offset = evaluate(layout.origin(shape), bindings) * itemsize
        strides = [evaluate(s, bindings) * itemsize for s in layout.strides(shape)]
        body = self._raw[self._start : self._start + self._bytes].view(self.dtype)
        if layout.has_halo:
            body[...] = 0
        self.view = np.lib.stride_tricks.as_strided(
            body[self._offset // itemsize :], self.shape, strides
        )

    @property
    def address(self) -> int:
        """Address of the logical element (0, ..., 0)."""
        return self._raw.ctypes.data + self._start + self._offset

    @property
    def guard_intact(self) -> bool:
        """Whether nothing was written behind the buffer."""
        guard = self._raw[self._start + self._bytes :]
        return bool((guard == PATTERN).all())


def concrete(shape: Shape, bindings: Mapping[str, int]) -> tuple[int, ...]:
    """Return `shape` with symbols replaced."""
    return tuple(evaluate(dim, bindings) for dim in shape)


def prepare(case: Case) -> tuple[list[Buffer], np.ndarray, np.ndarray, np.ndarray, int, list]:
    """Return buffers, the pointer array, symbol values, scratch, items, and what to keep alive."""
    region, bindings = case.region, case.bindings
    outer = (*region.node.inputs, *region.node.outputs)
    operands = (*region.inputs, *region.outputs)
    buffers = [
        Buffer(operand, value.layout or Layout.row_major(operand.value.rank), bindings)
        for operand, value in zip(operands, outer, strict=True)
    ]
    for buffer, array in zip(buffers, case.inputs, strict=False):
        buffer.view[...] = array
    packed = []
    for array in case.kernel.packed:
        raw = np.zeros(array.nbytes + 128, np.uint8)
        start = -raw.ctypes.data % 64
        raw[start : start + array.nbytes] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        packed.append((raw, raw.ctypes.data + start))
    pointers = np.array([b.address for b in buffers] + [a for _, a in packed] + [0], np.uint64)
    symbols = np.array([bindings[name] for name in region.symbols] + [0], np.int64)
    scratch = np.full(case.kernel.scratch_bytes + 64 + GUARD, PATTERN, np.uint8)
    items = evaluate(case.kernel.items, bindings)
    return buffers, pointers, symbols, scratch, items, packed


def run_case(library: Library, index: int, case: Case, pieces: int = 2) -> list[np.ndarray]:
    """Run kernel `index` of `library`, its items in `pieces` calls, and return the outputs.

    Raises AssertionError when memory behind an operand or the scratch area was written.
    """
    buffers, pointers, symbols, scratch, items, _keep = prepare(case)
    function = library.function(index)
    start = -scratch.ctypes.data % 64
    cuts = sorted({items * k // pieces for k in range(pieces + 1)})
    for begin, end in reversed(list(itertools.pairwise(cuts))):
        function(pointers.ctypes.data, symbols.ctypes.data, begin, end, scratch.ctypes.data + start)
    for position, buffer in enumerate(buffers):
        assert buffer.guard_intact, f"{case.label}: wrote behind operand {position}"
    tail = scratch[start + case.kernel.scratch_bytes :]
    assert (tail == PATTERN).all(), f"{case.label}: wrote behind scratch"
    outputs = len(case.region.outputs)
    return [np.array(buffer.view) for buffer in buffers[len(buffers) - outputs :]]
