"""Loops over bytes on vector registers.

Compilers vectorise loops of floats well, but not rounding with saturation to bytes: they make masks
of every comparison. So pointwise nodes around bytes are printed as vector statements, if each of
them has such a form and the innermost axis is contiguous wherever it is not broadcast.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from planish.backends.cpu.codegen.access import Access, offset_of
from planish.backends.cpu.codegen.scalar import load
from planish.backends.cpu.codegen.vector_templates import (
    BYTES,
    FLOATS,
    has_vector_form,
    print_vector_statements,
    quantizing_store,
    stored_quantizations,
)
from planish.backends.cpu.codegen.writer import KernelWriter, block
from planish.ir.dtypes import F32
from planish.ir.graph import Node, Value

Loads = Sequence[tuple[str, Access]]
Stores = Sequence[tuple[Access, str]]


class InnerForm(Protocol):
    """How a nest's innermost loop is printed where its accesses allow it."""

    def fits(self, loads: Loads, stores: Stores, axis: int) -> bool:
        """Whether the loop over `axis` can be printed this way."""

    def print_loop(
        self, writer: KernelWriter, loads: Loads, stores: Stores, axis: int, low: str, high: str
    ) -> list[str]:
        """Return the loop over `axis` from `low` to `high`, all other indices being defined."""


@dataclass(frozen=True)
class VectorForm:
    """The pointwise nodes of a nest.

    Attributes
    ----------
    nodes : tuple of Node
        In order.
    loaded : dict
        Values that the nest loads, to their C names.
    stored : tuple of Value
        What the nest's stores write, in their order.
    """

    nodes: tuple[Node, ...]
    loaded: Mapping[Value, str]
    stored: tuple[Value, ...]

    def if_useful(self, writer: KernelWriter) -> VectorForm | None:
        """Return this form where there are bytes and all nodes can be printed, else None."""
        values = (*self.loaded, *self.stored)
        if writer.unit is None or not self.nodes or not any(v.dtype in BYTES for v in values):
            return None
        return self if all(has_vector_form(node) for node in self.nodes) else None

    def fits(self, loads: Loads, stores: Stores, axis: int) -> bool:
        """Whether every access can be a vector along `axis`."""
        accesses = [access for _, access in loads] + [access for access, _ in stores]
        written = all(access.strides[axis] == 1 for access, _ in stores)
        return written and all(
            access.strides[axis] in (0, 1)
            and access.dtype in (*FLOATS, *BYTES)
            and not any(axis in term.axes for term in access.terms)
            for access in accesses
        )

    def print_loop(
        self, writer: KernelWriter, loads: Loads, stores: Stores, axis: int, low: str, high: str
    ) -> list[str]:
        """Return the loop over `axis`: whole vectors, then what is left."""
        if writer.unit is None:
            raise ValueError("the target has no vectors")
        writer.isa = writer.unit.isa
        lanes, whole = writer.unit.lanes, writer.fresh("whole")
        body = self._body(writer, loads, stores, axis)
        last = f"const int64_t {whole} = {low} + (({high} - {low}) & -{lanes});"
        header = f"for (int64_t i{axis} = {low}; i{axis} < {whole}; i{axis} += {lanes})"
        rest = f"const int64_t i{axis} = {whole}; const int part = (int)({high} - {whole});"
        tail = self._body(writer, loads, stores, axis, "part")
        return [last, *block(header, body), *block(f"if ({whole} < {high})", [rest, *tail])]

    def _body(
        self, writer: KernelWriter, loads: Loads, stores: Stores, axis: int, part: str = ""
    ) -> list[str]:
        """Return the statements of one vector, of which `part` lanes exist if not all."""
        v = "" if writer.unit is None else writer.unit.prefix
        suffix, count = ("_part", f", {part}") if part else ("", "")
        lines = []
        for name, access in loads:
            offset = offset_of(writer, access)
            kind = "" if access.dtype is F32 else f"_{access.dtype}"
            text = f"{v}_load{kind}{suffix}({access.pointer} + {offset}{count})"
            if access.strides[axis] == 0:
                text = f"{v}_set1({load(access.dtype, access.pointer, offset)})"
            lines.append(f"const {v} {name} = {text};")
        types = [access.dtype for access, _ in stores]
        direct = stored_quantizations(zip(self.stored, types, strict=True))
        names = dict(self.loaded)
        nodes = [node for node in self.nodes if node not in direct]
        lines += print_vector_statements(nodes, names, v)
        for value, (access, _) in zip(self.stored, stores, strict=True):
            kind = "" if access.dtype is F32 else f"_{access.dtype}"
            function, argument = f"{v}_store{kind}", names.get(value, "")
            if value.producer in direct:
                function, argument = quantizing_store(value, names, v)
            place = f"{access.pointer} + {offset_of(writer, access)}"
            lines.append(f"{function}{suffix}({place}, {argument}{count});")
        return lines
