"""The pointwise statements behind an anchor: what they read and write, and how they are printed.

Three forms, the best possible first:

- *inline*: the statements are printed for every accumulator register of a tile (short epilogues);
- *vector*: the tile goes to a buffer in L1, a loop runs vector statements over it (functions such
  as sigmoid or erf, which would bloat the tile's code);
- *scalar*: as before with scalar statements that the compiler vectorises (any pointwise operator,
  any type, any stride).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from planish.backends.cpu.codegen.scalar import (
    c_dim,
    compute_type,
    constant_operands,
    load,
    memory_type,
    print_statements,
    scalar_constant,
    store,
    supported,
)
from planish.backends.cpu.codegen.vector_templates import (
    BYTES,
    FLOATS,
    HEAVY,
    has_vector_form,
    print_vector_statements,
    quantizing_store,
    rounded_number,
    stored_quantizations,
)
from planish.errors import TacticError
from planish.ir.dtypes import BF16, F32, I32, U8, DType
from planish.ir.graph import Graph, Node, Value
from planish.ir.shape import Dim, Shape
from planish.ops.op import op_of
from planish.tactics.byte_table import byte_function
from planish.tactics.tactic import Region

INLINE_LIMIT = 5  # operators of an inline epilogue; each is repeated for every accumulator
INLINE_INTEGER_LIMIT = 16  # the same for int32 sums, whose operators are cheap and many
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Access:
    """A tensor that a kernel reads or writes at the position of the anchor's output.

    Attributes
    ----------
    name : str
        C name of its pointer.
    pointer : int
        Index into the kernel's pointers.
    dtype : DType
        Element type in memory.
    strides : tuple of Dim
        In elements, one for each axis of the anchor's output; 0 where it is broadcast.
    offset : Dim
        Elements from the pointer to the element of the first position (a phase of a transposed
        convolution does not start at the first).
    rows : str
        If not empty, the C name of an access that holds, for each position, the offset of the row
        of this one that belongs to it: rows that repeat are there once.
    table : str
        If not empty, the C name of an access that holds what is stored for each of 256 bytes.
    is_indirect : bool
        Whether it is such an access of offsets, or such a table.
    """

    name: str
    pointer: int
    dtype: DType
    strides: Shape
    offset: Dim = 0
    rows: str = ""
    table: str = ""
    is_indirect: bool = False

    @property
    def ctype(self) -> str:
        """C type of one element."""
        return memory_type(self.dtype)


@dataclass(frozen=True)
class Epilogue:
    """Statements that turn accumulators into outputs.

    Attributes
    ----------
    source : Value
        What the accumulators hold.
    column_axis : int
        Axis of the output along which accumulator lanes lie.
    nodes : tuple of Node
        The statements, in order.
    reads : tuple of (Value, Access)
        Body inputs and constants that the statements read.
    writes : tuple of (Value, Access)
        The outputs.
    arrays : tuple of numpy.ndarray
        Constants behind `reads`, in the order of their pointers (the kernel packs them).
    bias : numpy.ndarray or None
        Per-column values that the accumulators start from.
    most : float
        Bound of the accumulators' magnitude.
    """

    source: Value
    column_axis: int
    nodes: tuple[Node, ...]
    reads: tuple[tuple[Value, Access], ...]
    writes: tuple[tuple[Value, Access], ...]
    arrays: tuple[Array, ...]
    bias: Array | None
    most: float = math.inf

    @property
    def accesses(self) -> list[Access]:
        """Every access, reads first."""
        return [access for _, access in (*self.reads, *self.writes)]

    @property
    def form(self) -> str:
        """Return "inline", "vector" or "scalar"."""
        if not self._vectorisable:
            return "scalar"
        heavy = any(node.op in HEAVY for node in self.nodes)
        limit = INLINE_INTEGER_LIMIT if self.is_integer else INLINE_LIMIT
        return "vector" if heavy or len(self.nodes) > limit else "inline"

    @property
    def is_integer(self) -> bool:
        """Whether accumulators hold int32 sums."""
        return self.source.dtype is I32

    def sum_vector(self, prefix: str) -> str:
        """Return the C type of a register of accumulators, the stem of its functions."""
        return f"{prefix}i" if self.is_integer else prefix

    @property
    def sum_ctype(self) -> str:
        """C type of an accumulator in memory."""
        return "int32_t" if self.is_integer else "float"

    @property
    def stores_numbers(self) -> bool:
        """Whether all it writes are bytes that are rounded as they are stored (`print_number`)."""
        if self.form == "scalar" or len(self.writes) != 1:
            return False
        ((value, access),) = self.writes
        return value.producer in _stored(self) and not access.table

    @property
    def _vectorisable(self) -> bool:
        plain = all(
            (access.dtype in (*FLOATS, *BYTES) or access.is_indirect)
            and access.strides[self.column_axis] in (0, 1)
            for access in self.accesses
        )
        written = all(access.strides[self.column_axis] == 1 for _, access in self.writes)
        # sums themselves are no register of floats
        whole = all(value is not self.source or not self.is_integer for value, _ in self.writes)
        forms = all(has_vector_form(node, self.source) for node in self.nodes)
        return plain and written and whole and forms


# -- analysis ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Parts:
    """A region's body cut at its anchor."""

    prologue: tuple[Node, ...]
    anchor: Node
    epilogue: tuple[Node, ...]


def split_body(body: Graph, anchor: Node) -> Parts:
    """Return what the anchor depends on, the anchor, and the rest."""
    needed: set[Node] = set()
    stack = [value.producer for value in anchor.present_inputs]
    while stack:
        node = stack.pop()
        if node is None or node in needed:
            continue
        needed.add(node)
        stack.extend(value.producer for value in node.present_inputs)
    rest = tuple(node for node in body if node is not anchor and node not in needed)
    return Parts(tuple(node for node in body if node in needed), anchor, rest)


def refuse_epilogue(region: Region, parts: Parts) -> str | None:
    """Return why the epilogue of a region cannot be printed, or None when it can."""
    shape = parts.anchor.outputs[0].known_shape
    if len(parts.anchor.outputs) != 1:
        return "the anchor has several outputs"
    if any(value.producer in parts.prologue for value in region.body.outputs):
        return "an output comes from before the anchor"
    for node in parts.epilogue:
        if not op_of(node).pointwise:
            return f"{node.op} in the epilogue is not pointwise"
        reason = supported(node)
        if reason is not None:
            return reason
        for value in (*node.present_inputs, *node.outputs):
            if not _broadcasts(value.known_shape, shape):
                return f"%{value.name} {value.known_shape} does not broadcast to {shape}"
            if value.producer in parts.prologue:
                return "the epilogue reads a value from before the anchor"
    for value in region.body.outputs:
        if value.known_shape != shape:
            return f"output {value.known_shape} is larger than the anchor's {shape}"
    return None


def make_epilogue(
    region: Region,
    parts: Parts,
    column_axis: int,
    bias: Array | None,
    most: float = math.inf,
) -> Epilogue:
    """Return the epilogue of a region that `refuse_epilogue` accepts.

    Parameters
    ----------
    region : Region
    parts : Parts
        `split_body(region.body, anchor)`.
    column_axis : int
        The output's axis along which accumulator lanes lie.
    bias : numpy.ndarray or None
        The anchor's own bias, one value a column.
    most : float
        Bound of the accumulators' magnitude.

    A leading addition of a per-column constant joins the bias.
    """
    nodes, source = list(parts.epilogue), parts.anchor.output
    while (folded := _leading_bias(nodes, source, column_axis, region)) is not None:
        bias = folded if bias is None else bias.astype(np.float32) + folded
        source = nodes.pop(0).output
    shape = source.known_shape
    found = byte_function(nodes, region.body.outputs) if source.dtype is I32 else None
    if found is not None:
        nodes = [node for node in nodes if node not in found.tail]
    used = {value for node in nodes for value in node.present_inputs}
    reads = [
        (value, Access(f"e{index}", index, value.dtype, aligned(operand.strides, value, shape)))
        for index, (value, operand) in enumerate(
            zip(region.body.inputs, region.inputs, strict=True)
        )
        if value in used
    ]
    first = len(region.inputs)
    writes = [
        (value, Access(f"o{index}", first + index, value.dtype, operand.strides))
        for index, (value, operand) in enumerate(
            zip(region.body.outputs, region.outputs, strict=True)
        )
    ]
    arrays: list[Array] = []
    pointer = first + len(region.outputs)
    for value, array in constant_operands(nodes).items():
        packed, strides = _pack_constant(array, shape, column_axis)
        dtype = F32 if value.dtype in FLOATS else value.dtype
        access = Access(f"k{len(arrays)}", pointer + len(arrays), dtype, strides)
        columns = shape[column_axis]
        if source.dtype is I32 and strides[column_axis] == 1 and isinstance(columns, int):
            offsets = _repeated_rows(packed.reshape(-1, columns))
            if offsets is not None:
                packed, positions = offsets
                rows = f"j{len(arrays)}"
                along = tuple(0 if s == 1 else s // columns for s in map(_number, strides))
                place = Access(rows, access.pointer, I32, along, is_indirect=True)
                reads.append((Value(rows, I32, ()), place))
                arrays.append(positions)
                only = tuple(int(axis == column_axis) for axis in range(len(strides)))
                access = Access(f"k{len(arrays)}", pointer + len(arrays), dtype, only, 0, rows)
        reads.append((value, access))
        arrays.append(packed)
    if found is not None:
        ((_, write),) = writes
        name = f"t{len(arrays)}"
        place = Access(name, pointer + len(arrays), U8, (0,) * len(shape), is_indirect=True)
        reads.append((Value(name, U8, ()), place))
        arrays.append(found.table)
        writes = [(found.source.output, replace(write, table=name))]
    return Epilogue(
        source, column_axis, tuple(nodes), tuple(reads), tuple(writes), tuple(arrays), bias, most
    )


def _number(dim: Dim) -> int:
    if not isinstance(dim, int):
        raise TacticError(f"the stride {dim} of a constant is symbolic")
    return dim


def _repeated_rows(rows: Array) -> tuple[Array, Array] | None:
    """Return the distinct rows and each row's offset among them, or None where few repeat.

    What zero points leave out at the padding is one row but for the border: read from a table of
    the distinct ones, it does not cost more memory traffic than the results.
    """
    if len(rows) < 16:
        return None
    distinct, positions = np.unique(rows, axis=0, return_inverse=True)
    if len(distinct) * 3 > len(rows):
        return None
    offsets = positions.reshape(-1) * rows.shape[1]
    return distinct.reshape(-1), offsets.astype(np.int32)


def aligned(strides: Shape, value: Value, shape: Shape) -> Shape:
    """Return strides along the axes of `shape` for `value`, which broadcasts to it."""
    own = value.known_shape
    missing = len(shape) - len(own)
    fitted: list[Dim] = [0] * missing
    for stride, extent, wanted in zip(strides, own, shape[missing:], strict=True):
        fitted.append(0 if extent == 1 and wanted != 1 else stride)
    return tuple(fitted)


def _broadcasts(own: Shape, shape: Shape) -> bool:
    if len(own) > len(shape):
        return False
    return all(a in (1, b) for a, b in zip(reversed(own), reversed(shape), strict=False))


def _leading_bias(
    nodes: Sequence[Node], source: Value, column_axis: int, region: Region
) -> Array | None:
    """Return the addend when the first statement adds a per-column constant to `source`."""
    if not nodes or nodes[0].op != "Add" or len(source.uses) != 1:
        return None
    if region.body.is_output(source) or source not in nodes[0].present_inputs:
        return None
    constant = next((v for v in nodes[0].present_inputs if v is not source), None)
    if constant is None or constant.constant is None or constant.dtype not in FLOATS:
        return None
    columns = source.known_shape[column_axis]
    array = constant.array.reshape((1,) * (source.rank - constant.rank) + constant.array.shape)
    if not isinstance(columns, int) or array.size != array.shape[column_axis]:
        return None
    return np.broadcast_to(array.reshape(-1).astype(np.float32), (columns,))


def _pack_constant(array: Array, shape: Shape, column_axis: int) -> tuple[Array, Shape]:
    """Return `array` with columns innermost, and its strides along the axes of `shape`."""
    full = array.reshape((1,) * (len(shape) - array.ndim) + array.shape)
    order = [axis for axis in range(full.ndim) if axis != column_axis] + [column_axis]
    packed = np.ascontiguousarray(full.transpose(order))
    if packed.dtype.kind not in "iub":
        packed = packed.astype(np.float32)
    strides = [0] * full.ndim
    step = 1
    for axis in reversed(order):
        strides[axis] = step if full.shape[axis] > 1 else 0
        step *= full.shape[axis]
    return packed.reshape(-1), tuple(strides)


# -- functions -----------------------------------------------------------------------------------


def parameters_of(epilogue: Epilogue) -> str:
    """Return the C parameters that carry the accesses' pointers, each with a leading comma."""
    reads = [f", const {access.ctype} *{access.name}" for _, access in epilogue.reads]
    writes = [f", {access.ctype} *{access.name}" for _, access in epilogue.writes]
    return "".join((*reads, *writes))


def print_finish(epilogue: Epilogue, lanes: int, symbols: Sequence[str]) -> str:
    """Return the C function that finishes the accumulators of one row (see `Epilogue.form`).

    inline, vector: ``void @NAME@_finish(V x, int part, const int64_t *d, pointers)`` does one
    vector, of which `part` lanes are columns. scalar: ``void @NAME@_finish(const float *x, int64_t
    count, const int64_t *d, pointers)`` does `count` columns.
    """
    if epilogue.form == "scalar":
        return print_scalar_finish(epilogue, symbols)
    v = f"planish_v{lanes}"
    names = {epilogue.source: "x"}
    stored = _stored(epilogue)
    lines = _print_statements(epilogue, stored, names, lanes)
    for value, access in epilogue.writes:
        function, arguments = f"{v}_store", names.get(value, "")
        if access.dtype is BF16:
            function += "_bf16"
        if value.producer in stored:
            function, arguments = quantizing_store(
                value, names, v, {epilogue.source: epilogue.most}
            )
        if access.table:
            function = function.replace("_quantize_", "_look_up_")
            arguments = f"{access.table}, {arguments}"
        call = f"{access.name}, {arguments}"
        lines.append(f"if (part == {lanes}) {function}({call});")
        lines.append(f"else {function}_part({call}, part);")
    body = "\n    ".join(lines)
    sums = epilogue.sum_vector(v)
    parameters = f"{sums} x, int part, const int64_t *d{parameters_of(epilogue)}"
    return f"PLANISH_INLINE void @NAME@_finish({parameters}) {{\n    {body}\n}}\n"


def print_number(epilogue: Epilogue, lanes: int) -> str:
    """Return the C function of what an epilogue that `stores_numbers` rounds.

    ``V @NAME@_number(V x, int part, const int64_t *d, pointers of what is read)`` does one vector.
    """
    v, names = f"planish_v{lanes}", {epilogue.source: "x"}
    lines = _print_statements(epilogue, _stored(epilogue), names, lanes)
    ((value, _),) = epilogue.writes
    text, _ = rounded_number(value, names, v, {epilogue.source: epilogue.most})
    body = "\n    ".join([*lines, f"return {text};"])
    reads = [f", const {access.ctype} *{access.name}" for _, access in epilogue.reads]
    parameters = f"{epilogue.sum_vector(v)} x, int part, const int64_t *d{''.join(reads)}"
    return f"PLANISH_INLINE {v} @NAME@_number({parameters}) {{\n    {body}\n}}\n"


def stored_zero(epilogue: Epilogue) -> int:
    """Return the zero point of an epilogue that `stores_numbers`."""
    ((value, _),) = epilogue.writes
    zero = value.producer and scalar_constant(value.producer.input(2))
    return int(zero or 0)


def _print_statements(
    epilogue: Epilogue, stored: set[Node | None], names: dict[Value, str], lanes: int
) -> list[str]:
    """Return the statements of one vector but for `stored` nodes; `names` gains their outputs."""
    v, lines = f"planish_v{lanes}", []
    for index, (value, access) in enumerate(epilogue.reads):
        if access.is_indirect:
            continue
        names[value] = f"r{index}"
        lines.append(f"const {v} r{index} = {_print_read(epilogue, access, v, lanes)};")
    nodes = [node for node in epilogue.nodes if node not in stored]
    return lines + print_vector_statements(nodes, names, v)


def _stored(epilogue: Epilogue) -> set[Node | None]:
    """Return the QuantizeLinear nodes whose results only go to memory, or through a table."""
    looked_up = {value.producer for value, access in epilogue.writes if access.table}
    plain = [(value, access.dtype) for value, access in epilogue.writes if not access.table]
    return looked_up | stored_quantizations(plain)


def _print_read(epilogue: Epilogue, access: Access, v: str, lanes: int) -> str:
    """Return the expression of a register that holds `part` columns of an access."""
    if access.strides[epilogue.column_axis] != 1:
        return f"{v}_set1({load(access.dtype, access.name, '0')})"
    kind = "" if access.dtype is F32 else f"_{access.dtype}"
    place = f"{access.name} + {access.rows}[0]" if access.rows else access.name
    whole = f"{v}_load{kind}({place})"
    return f"part == {lanes} ? {whole} : {v}_load{kind}_part({place}, part)"


def print_scalar_finish(epilogue: Epilogue, symbols: Sequence[str]) -> str:
    """Return the scalar form of `print_finish`, which every epilogue has."""

    def index_of(access: Access) -> str:
        stride = access.strides[epilogue.column_axis]
        if access.rows:
            return f"n + {access.rows}[0]"
        if isinstance(stride, int) and stride in (0, 1):
            return "n" if stride else "0"
        return f"n*{c_dim(stride, symbols)}"

    names = {epilogue.source: "x[n]"}
    lines = []
    for index, (value, access) in enumerate(epilogue.reads):
        if access.is_indirect:
            continue
        expression = load(access.dtype, access.name, index_of(access))
        names[value] = f"r{index}"
        lines.append(f"const {compute_type(access.dtype)} r{index} = {expression};")
    lines += print_statements(epilogue.nodes, names)
    for value, access in epilogue.writes:
        text = names[value]
        if access.table:
            text = f"{access.table}[(uint8_t){text}]"
        lines.append(store(access.dtype, access.name, index_of(access), text))
    body = "\n        ".join(lines)
    sums = f"const {epilogue.sum_ctype} *x"
    parameters = f"{sums}, int64_t count, const int64_t *d{parameters_of(epilogue)}"
    return (
        f"PLANISH_INLINE void @NAME@_finish({parameters}) {{\n"
        f'    _Pragma("omp simd")\n    for (int64_t n = 0; n < count; n++) {{\n'
        f"        {body}\n    }}\n}}\n"
    )
