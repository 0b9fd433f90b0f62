"""Assembling one kernel: pointers, packed constants, extents, and the function around the loops."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from planish.backends.cpu.codegen.element import vector_unit
from planish.backends.cpu.codegen.scalar import c_dim, memory_type
from planish.errors import TacticError
from planish.ir.dtypes import BOOL, DType, dtype_of
from planish.ir.graph import Value
from planish.ir.shape import Dim, Shape, evaluate
from planish.tactics.tactic import Kernel, Region
from planish.tactics.target import Target

SIGNATURE = (
    "static void @NAME@(char *const *p, const int64_t *d, int64_t begin, int64_t end, "
    "char *scratch)"
)


class KernelWriter:
    """Collects what a kernel's function needs while its loops are printed.

    Every operand of the region has a C variable: ``x0``... inputs, ``y0``... outputs, ``w0``...
    packed constants, each a restrict pointer of its memory type.
    """

    def __init__(self, region: Region, target: Target | None = None) -> None:
        self.region = region
        # whether the compiler can turn a condition around loads and stores into masks
        self.masked = target is not None and target.has("avx512bw", "avx512vl")
        # whether loops mix element sizes, so that the compiler's own half vectors do not fit
        self.mixed = any(o.dtype.itemsize < 4 for o in (*region.inputs, *region.outputs))
        # what loops are printed with where compilers would vectorise them badly
        self.unit = None if target is None else vector_unit(target)
        self.isa: tuple[str, ...] = ()  # CPU features that the printed loops need
        self.helpers: list[str] = []
        self.scratch_start = 0  # bytes at the start of scratch memory that loops leave alone
        self._packed: list[np.ndarray[Any, Any]] = []
        self._packed_names: dict[tuple[str, bytes], str] = {}
        self._declared: dict[str, tuple[str, str]] = {}
        self._fresh = 0

    def fresh(self, stem: str = "t") -> str:
        """Return a C identifier that this kernel has not used."""
        self._fresh += 1
        return f"{stem}_{self._fresh}"

    def dim(self, dim: Dim) -> str:
        """Return an extent as C."""
        return c_dim(dim, self.region.symbols)

    def size(self, dim: Dim) -> int:
        """Return an extent at the shapes to tune for, to decide between forms of loops."""
        return evaluate(dim, {name: r[1] for name, r in self._ranges().items()})

    def largest(self, dim: Dim) -> int:
        """Return the largest extent that the profile allows, to size scratch memory."""
        corners = [{name: r[i] for name, r in self._ranges().items()} for i in (0, 2)]
        return max(evaluate(dim, corner) for corner in corners)

    def _ranges(self) -> dict[str, tuple[int, int, int]]:
        return {name: self.region.ranges.get(name, (1, 8, 64)) for name in self.region.symbols}

    def pointer(self, value: Value) -> str:
        """Return the C variable of a body input or output."""
        region = self.region
        for index, operand in enumerate(region.outputs):
            if operand.value is value:
                slot = len(region.inputs) + index
                return self._declare(f"y{index}", operand.dtype, f"p[{slot}]", constant=False)
        for index, operand in enumerate(region.inputs):
            if operand.value is value:
                return self._declare(f"x{index}", operand.dtype, f"p[{index}]", constant=True)
        raise TacticError(f"%{value.name} is no operand of the region", where=region.name)

    def output_pointer(self, index: int) -> str:
        """Return the C variable of output `index`."""
        operand = self.region.outputs[index]
        slot = len(self.region.inputs) + index
        return self._declare(f"y{index}", operand.dtype, f"p[{slot}]", constant=False)

    def input_pointer(self, index: int) -> str:
        """Return the C variable of input `index`."""
        operand = self.region.inputs[index]
        return self._declare(f"x{index}", operand.dtype, f"p[{index}]", constant=True)

    def pack(self, array: np.ndarray[Any, Any]) -> str:
        """Add a packed constant (C-contiguous) and return its C variable."""
        data = np.ascontiguousarray(array)
        dtype = dtype_of(data)
        key = (f"{dtype}{data.shape}", data.tobytes())
        if key not in self._packed_names:
            index = len(self._packed)
            slot = len(self.region.inputs) + len(self.region.outputs) + index
            self._packed.append(data)
            self._packed_names[key] = self._declare(f"w{index}", dtype, f"p[{slot}]", constant=True)
        return self._packed_names[key]

    def _declare(self, name: str, dtype: DType, pointer: str, *, constant: bool) -> str:
        ctype = ("const " if constant else "") + memory_type(dtype)
        self._declared[name] = (f"{ctype} *restrict {name}", f"({ctype} *){pointer}")
        return name

    def kernel(
        self, lines: Iterable[str], items: Dim, *, scratch_bytes: int = 0, isa: Sequence[str] = ()
    ) -> Kernel:
        """Return the kernel whose loops are `lines`.

        They stand in a function of their own whose parameters are the pointers: compilers heed
        restrict on parameters, not on local variables.
        """
        common = "const int64_t *restrict d, int64_t begin, int64_t end, char *restrict scratch"
        parameters = ", ".join([*(parameter for parameter, _ in self._declared.values()), common])
        arguments = [argument for _, argument in self._declared.values()]
        call = f"@NAME@_loops({', '.join([*arguments, 'd, begin, end, scratch'])});"
        header = f"static __attribute__((noinline)) void @NAME@_loops({parameters}) {{"
        source = "\n".join(
            [*self.helpers, header, *indent(lines), "}", SIGNATURE + " {", *indent([call]), "}", ""]
        )
        return Kernel(source, items, tuple(self._packed), scratch_bytes, (*self.isa, *isa))


def indent(lines: Iterable[str], by: int = 1) -> list[str]:
    """Return `lines` one level deeper."""
    return [("    " * by + line) if line else line for line in lines]


def block(header: str, lines: Iterable[str]) -> list[str]:
    """Return ``header {``, the lines one level deeper, ``}``."""
    return [f"{header} {{", *indent(lines), "}"]


def contiguous_strides(shape: Shape) -> Shape:
    """Return the strides of a C-contiguous array of `shape`, in elements."""
    strides: list[Dim] = []
    step: Dim = 1
    for dim in reversed(shape):
        strides.append(step)
        step = step * dim
    return tuple(reversed(strides))


def is_flag(dtype: DType) -> bool:
    """Whether elements are booleans."""
    return dtype is BOOL
