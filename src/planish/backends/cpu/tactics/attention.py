"""Scaled dot-product attention as one kernel: softmax(Q K^T * scale + mask) V.

An item is a block of query rows of one head. It packs the head's keys and values into GEMM panels
in scratch, then, a tile of rows at a time: scores by GEMM tiles, softmax in place over each row
(two passes, the tile's rows of scores stay in L1 or L2), the product with the values by GEMM tiles,
and the division by the row's sum on the way out. Nothing of size queries x keys exists. Operands
may be [B,H,S,D] in any order of the outer axes, or [B,S,H*D]; grouped key heads are read in place.

Bound by arithmetic: 4 * S * S * D operations a head against 2 * S * D packed elements; with 128
keys packing takes about a tenth. Tried: no packing of values (rows of 64 floats are panels
already): no gain, and it needs a second form for pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from planish.backends.cpu.codegen.element import FLOAT, ElementKind, VectorUnit, vector_unit
from planish.backends.cpu.codegen.row_axes import Tiling, tile_rows
from planish.backends.cpu.codegen.scalar import c_dim, literal, load, memory_type
from planish.backends.cpu.codegen.tile import KWalk, Tile, print_accumulate, print_block
from planish.errors import TacticError
from planish.ir.dtypes import BF16, BOOL, F32, DType
from planish.ir.graph import Node, Value
from planish.ir.shape import (
    Dim,
    Shape,
    ceildiv,
    evaluate,
    floordiv,
    product,
    symbol,
    symbols_of,
)
from planish.tactics.tactic import YES, Config, Kernel, Region, Support, Tactic, no
from planish.tactics.target import Target

FLOATS = (F32, BF16)
VECTORS = 2  # registers of a panel of keys and of values
PAD = 16  # floats between rows of scores, so that rows do not share cache sets
LOG2_E = 1.4426950408889634
Array = np.ndarray[Any, Any]


class FusedAttention(Tactic):
    """Attention of one region; see the module's docstring."""

    name: ClassVar[str] = "attention"
    rank: ClassVar[int] = 10

    def supports(self, region: Region, target: Target) -> Support:
        """Accept attention without a cache, windows or softcap, with static head sizes."""
        if vector_unit(target) is None:
            return no("the CPU has no AVX2")
        heads = _read(region)
        return no(heads) if isinstance(heads, str) else YES

    def configs(self, region: Region, target: Target) -> list[Config]:
        """Return tile heights, each with query blocks for the threads."""
        heads, unit = _read(region), vector_unit(target)
        if isinstance(heads, str) or unit is None:
            return []
        bindings = {name: opt for name, (_, opt, _) in region.ranges.items()}
        queries = _at(heads.queries, bindings)
        planes = _at(product((heads.batch, heads.heads)), bindings)
        blocks = 1 if planes >= 2 * target.threads else -(-2 * target.threads // planes)
        found: dict[tuple[int, int], Config] = {}
        for rows in (12, 8, 14) if unit.lanes == 16 else (6, 4):
            for count in (blocks, 2 * blocks):
                block = -(-queries // (count * rows)) * rows
                if blocks == 1 and count == 1:
                    block = -(-_largest(heads.queries, region) // rows) * rows
                found.setdefault((rows, block), {"rows": rows, "block": block})
        return list(found.values())

    def build(self, region: Region, config: Config, target: Target) -> Kernel:
        """Return the kernel."""
        heads, unit = _read(region), vector_unit(target)
        if isinstance(heads, str) or unit is None:
            raise TacticError(f"attention cannot do it: {heads}", where=region.name)
        return _Printer(region, heads, unit, config["rows"], config["block"]).kernel()


def _at(dim: Dim, bindings: dict[str, int]) -> int:
    return dim if isinstance(dim, int) else evaluate(dim, bindings)


def _largest(dim: Dim, region: Region) -> int:
    return _at(dim, {name: high for name, (_, _, high) in region.ranges.items()})


# -- reading the region --------------------------------------------------------------------------


@dataclass(frozen=True)
class _Tensor:
    """An operand as [batch, head, sequence, feature]."""

    index: int
    dtype: DType
    shape: Shape
    strides: Shape


@dataclass(frozen=True)
class _Mask:
    """What is added to the scores: an operand, or a packed constant (`array`)."""

    dtype: DType
    strides: Shape
    index: int
    array: Array | None


@dataclass(frozen=True)
class _Heads:
    query: _Tensor
    key: _Tensor
    value: _Tensor
    out: _Tensor
    mask: _Mask | None
    scale: float
    causal: bool

    @property
    def batch(self) -> Dim:
        return self.query.shape[0]

    @property
    def heads(self) -> Dim:
        return self.query.shape[1]

    @property
    def queries(self) -> Dim:
        return self.query.shape[2]

    @property
    def keys(self) -> Dim:
        return self.key.shape[2]


def _read(region: Region) -> _Heads | str:
    anchor = region.anchor
    if region.kind != "Attention" or anchor is None:
        return "the region is not attention"
    if len(region.body) != 1 or len(region.outputs) != 1:
        return "there are operations around the attention, or further outputs"
    if any(anchor.input(index) is not None for index in (4, 5, 6)):
        return "it has a key-value cache"
    attributes = anchor.attributes
    if attributes.get("softcap") or attributes.get("qk_matmul_output_mode"):
        return "it has a softcap or returns scores"
    if any(int(attributes.get(f"{side}_window_size", -1)) >= 0 for side in ("left", "right")):
        return "it has a window"
    return _read_operands(region, anchor)


def _read_operands(region: Region, anchor: Node) -> _Heads | str:
    query_heads = anchor.attributes.get("q_num_heads")
    key_heads = anchor.attributes.get("kv_num_heads")
    tensors = []
    for value, heads in zip(anchor.inputs[:3], (query_heads, key_heads, key_heads), strict=True):
        if value is None or value not in region.body.inputs or value.dtype not in FLOATS:
            return "an operand is a constant or not a float"
        index = region.body.inputs.index(value)
        tensors.append(_tensor(index, value, region.inputs[index].strides, heads))
    result, operand = region.body.outputs[0], region.outputs[0]
    if result is not anchor.outputs[0] or result.dtype not in FLOATS:
        return "the output is not the attention's"
    out = _tensor(len(region.inputs), result, operand.strides, query_heads)
    query, key, value_ = tensors
    if len({tensor.dtype for tensor in tensors}) != 1:
        return "queries, keys and values have different types"
    if any(t.strides[3] != 1 and t.shape[3] != 1 for t in (*tensors, out)):
        return "features are not contiguous"
    if not isinstance(query.shape[3], int) or not isinstance(value_.shape[3], int):
        return "the head size is symbolic"
    known = set(region.symbols)
    dims = [dim for t in (*tensors, out) for dim in (*t.shape, *t.strides)]
    if any(symbols_of(dim) - known for dim in dims):
        return "an extent is known only after data was read"
    mask = _mask(region, anchor, (*query.shape[:3], key.shape[2]))
    if isinstance(mask, str):
        return mask
    scale = anchor.attributes.get("scale")
    factor = 1 / np.sqrt(query.shape[3]) if scale is None else float(scale)
    causal = bool(anchor.attributes.get("is_causal", 0))
    return _Heads(query, key, value_, out, mask, float(factor), causal)


def _tensor(index: int, value: Value, strides: Shape, heads: Dim | None) -> _Tensor:
    """Return a 4-D view; [B,S,H*D] becomes [B,H,S,D]."""
    shape = value.known_shape
    if len(shape) == 4:
        return _Tensor(index, value.dtype, shape, strides)
    count = heads or 1
    size = floordiv(shape[2], count)
    return _Tensor(
        index,
        value.dtype,
        (shape[0], count, shape[1], size),
        (strides[0], strides[2] * size, strides[1], strides[2]),
    )


def _mask(region: Region, anchor: Node, shape: Shape) -> _Mask | str | None:
    value = anchor.input(3)
    if value is None:
        return None
    if value.dtype not in (*FLOATS, BOOL):
        return f"the mask is {value.dtype}"
    if value.known_shape[-1:] not in ((shape[-1],), (1,)):
        return "the mask is shorter than the keys"
    if value.constant is not None:
        array = value.array
        if value.dtype is BOOL:
            array = np.where(array, 0.0, -np.inf)
        array = np.ascontiguousarray(array.astype(np.float32))
        strides = tuple(stride // 4 for stride in array.strides)
        return _Mask(F32, _broadcast(array.shape, strides, shape), -1, array)
    if value not in region.body.inputs:
        return "there are operations before the mask"
    index = region.body.inputs.index(value)
    operand = region.inputs[index]
    strides_of = _broadcast(value.known_shape, operand.strides, shape)
    return _Mask(value.dtype, strides_of, index, None)


def _broadcast(own: Shape, strides: Shape, shape: Shape) -> Shape:
    missing = len(shape) - len(own)
    kept = [
        0 if extent == 1 and wanted != 1 else stride
        for extent, stride, wanted in zip(own, strides, shape[missing:], strict=True)
    ]
    return (*(0,) * missing, *kept)


# -- printing ------------------------------------------------------------------------------------


class _Printer:
    """Prints one kernel."""

    def __init__(
        self, region: Region, heads: _Heads, unit: VectorUnit, rows: int, block: int
    ) -> None:
        self.region, self.heads, self.unit = region, heads, unit
        self.block = block
        queries = heads.queries
        whole = isinstance(queries, int) and queries <= block
        self.tiling: Tiling = tile_rows(1, queries if whole else _dynamic(queries), rows)
        self.score_kind = unit.kind_in_place(heads.query.dtype)
        self.value_kind: ElementKind = self.score_kind if self.score_kind.group == 2 else FLOAT
        self.width = VECTORS * unit.lanes
        longest = _largest(heads.keys, region)
        self.longest = -(-longest // self.width) * self.width
        self.stride = self.longest + PAD
        self.features = int(str(heads.query.shape[3]))
        self.outputs = int(str(heads.value.shape[3]))

    def dim(self, dim: Dim) -> str:
        return c_dim(dim, self.region.symbols)

    def kernel(self) -> Kernel:
        parts = []
        for _, rows in self.tiling.shapes:
            parts += [self.print_scores(rows), self.print_values(rows)]
        parts += [self.print_softmax(), self.print_rows(), self.print_kernel()]
        items = product((self.heads.batch, self.heads.heads, self.blocks))
        mask = self.heads.mask
        packed = () if mask is None or mask.array is None else (mask.array,)
        scratch = sum(size for _, size in self.buffers())
        return Kernel("\n".join(parts), items, packed, scratch, self.unit.isa)

    @property
    def blocks(self) -> Dim:
        return ceildiv(self.heads.queries, self.block)

    def buffers(self) -> list[tuple[str, int]]:
        """Return (name, bytes) of the parts of scratch."""
        group, itemsize = self.score_kind.group, self.score_kind.dtype.itemsize
        depth = -(-self.features // group) * group
        value_width = -(-self.outputs // self.width) * self.width
        keys = -(-self.longest // group) * group
        return [
            ("keys", depth * self.longest * itemsize),
            ("values", keys * value_width * itemsize),
            ("scores", self.tiling.rows * self.stride * 4),
            ("inverse", -(-self.tiling.rows // 16) * 64),
        ]

    # -- tiles -----------------------------------------------------------------------------------

    def print_scores(self, rows: int) -> str:
        """Return the function of one tile of scores: rows x one panel of keys."""
        v, lanes = self.unit.prefix, self.unit.lanes
        stride = self.heads.query.strides[2]
        tile = Tile(1, rows, VECTORS, tuple(self.dim(stride * row) for row in range(rows)))
        lines = [f"{v} c{r}_{i} = {v}_zero();" for r in range(rows) for i in range(VECTORS)]
        lines += print_accumulate(tile, KWalk((), self.features), self.score_kind, self.unit)
        lines += [
            f"{v}_store(out + {r * self.stride + i * lanes}, c{r}_{i});"
            for r in range(rows)
            for i in range(VECTORS)
        ]
        kind = self.score_kind
        parameters = f"const {kind.input_ctype} *a, const {kind.ctype} *b, float *out"
        head = f"static __attribute__((noinline)) void @NAME@_scores_{rows}"
        return f"{head}({parameters}, const int64_t *d) {{\n{print_block(lines)}}}\n"

    def print_values(self, rows: int) -> str:
        """Return the function of one tile of the result: rows x one panel of features."""
        v, lanes, kind = self.unit.prefix, self.unit.lanes, self.value_kind
        stride = self.stride * kind.group  # rows of scores hold pairs in their first half
        tile = Tile(1, rows, VECTORS, tuple(str(stride * row) for row in range(rows)))
        lines = [f"{v} c{r}_{i} = {v}_zero();" for r in range(rows) for i in range(VECTORS)]
        lines += print_accumulate(tile, KWalk((), "keys"), kind, self.unit)
        out = self.heads.out
        narrow = "_bf16" if out.dtype is BF16 else ""
        for r in range(rows):
            lines.append(f"{{ const {v} s = {v}_set1(inverse[{r}]);")
            for i in range(VECTORS):
                to = f"out + {self.dim(out.strides[2] * r)} + {i * lanes}"
                lines.append(
                    f"if (count >= {(i + 1) * lanes}) {v}_store{narrow}({to}, c{r}_{i} * s);"
                )
                lines.append(
                    f"else if (count > {i * lanes}) "
                    f"{v}_store{narrow}_part({to}, c{r}_{i} * s, (int)count - {i * lanes});"
                )
            lines.append("}")
        parameters = (
            f"const {kind.ctype} *a, const {kind.ctype} *b, int64_t keys, const float *inverse, "
            f"{memory_type(out.dtype)} *out, int64_t count, const int64_t *d"
        )
        head = f"static __attribute__((noinline)) void @NAME@_values_{rows}({parameters})"
        return f"{head} {{\n{print_block(lines)}}}\n"

    # -- softmax ---------------------------------------------------------------------------------

    def print_softmax(self) -> str:
        """Return the function that turns one row of scores into weights and returns 1 / sum.

        Scores are scaled into powers of two, so that one subtraction and 2^x are left.
        """
        mask, v, lanes = self.heads.mask, self.unit.prefix, self.unit.lanes
        factor = literal(self.heads.scale * LOG2_E, F32)
        parameters = "float *row, int64_t keys, int64_t padded"
        lines = []
        if mask is not None or self.heads.scale <= 0:
            biased = f"row[j] * {factor}"
            if mask is not None:
                parameters += f", const {memory_type(mask.dtype)} *mask, const int64_t *d"
                biased += f" + {self.mask_term(mask)}"
            lines.append('_Pragma("omp simd")')
            lines.append(f"for (int64_t j = 0; j < keys; j++) row[j] = {biased};")
            factor = "1.0f"
        pairs = self.value_kind.group == 2
        # bf16 weights are written over the row they come from: never ahead of what is still read
        weights = "(uint16_t *)row" if pairs else "row"
        store = f"{v}_store{'_bf16' if pairs else ''}({weights} + j, e);"
        lines += [
            f"const int64_t whole = (keys + {lanes - 1}) / {lanes} * {lanes};",
            "for (int64_t j = keys; j < whole; j++) row[j] = -__builtin_inff();",
            f"{v} high = {v}_load(row);",
            f"for (int64_t j = {lanes}; j < whole; j += {lanes}) "
            f"high = {v}_max(high, {v}_load(row + j));",
            f"const float top = {v}_largest(high) * {factor};",
            f"{v} sum = {v}_zero();",
            "if (top == -__builtin_inff()) {",
            f"memset(row, 0, (size_t)padded * {2 if pairs else 4});",
            "return 0.0f;",
            "}",
            f"const {v} factor = {v}_set1({factor}), below = {v}_set1(-top);",
            f"for (int64_t j = 0; j < whole; j += {lanes}) {{",
            f"const {v} e = {v}_exp2_nonpositive({v}_fma({v}_load(row + j), factor, below));",
            store,
            "sum += e;",
            "}",
            f"memset({weights} + whole, 0, (size_t)(padded - whole) * {2 if pairs else 4});",
            f"return 1.0f / {v}_sum(sum);",
        ]
        head = f"static __attribute__((noinline)) float @NAME@_softmax({parameters})"
        return f"{head} {{\n{print_block(lines)}}}\n"

    def mask_term(self, mask: _Mask) -> str:
        """Return what is added to score j, in powers of two."""
        element = load(mask.dtype, "mask", f"j * {self.dim(mask.strides[3])}")
        if mask.dtype is BOOL:
            return f"({element} ? 0.0f : -__builtin_inff())"
        return f"{element} * {literal(LOG2_E, F32)}"

    # -- rows and items --------------------------------------------------------------------------

    def print_rows(self) -> str:
        """Return the function that does `rows` query rows, one of the tile heights."""
        heads, kind = self.heads, self.score_kind
        mask = heads.mask
        lines = [
            f"float *const scores = (float *)(scratch + {self.offset('scores')});",
            f"float *const inverse = (float *)(scratch + {self.offset('inverse')});",
            f"const {kind.ctype} *const packed_keys = (const {kind.ctype} *)scratch;",
            f"const {kind.ctype} *const packed_values = "
            f"(const {kind.ctype} *)(scratch + {self.offset('values')});",
            f"const int64_t keys = {self.key_limit()};",
            f"const int64_t padded = planish_min_i64((keys + {self.width - 1}) / {self.width} "
            f"* {self.width}, {self.longest});",
            f"for (int64_t n = 0; n < keys; n += {self.width}) {{",
            f"const {kind.ctype} *const b = packed_keys + n * {self.depth};",
            *self.choose("scores", "q, b, scores + n, d"),
            "}",
            "for (int64_t r = 0; r < rows; r++) {",
        ]
        limit = "planish_min_i64(keys, first + r + 1)" if heads.causal else "keys"
        arguments = f"scores + r * {self.stride}, {limit}, padded"
        if mask is not None:
            arguments += f", mask + r * {self.dim(mask.strides[2])}, d"
        lines += [f"inverse[r] = @NAME@_softmax({arguments});", "}"]
        lines += [
            f"for (int64_t n = 0; n < {self.outputs}; n += {self.width}) {{",
            f"const {kind.ctype} *const b = packed_values + n * {self.value_depth};",
            *self.choose(
                "values",
                f"(const {self.value_kind.ctype} *)scores, b, keys, inverse, out + n, "
                f"{self.outputs} - n, d",
            ),
            "}",
        ]
        mask_type = "float" if mask is None else memory_type(mask.dtype)
        parameters = (
            f"int64_t rows, int64_t first, const {kind.input_ctype} *q, const {mask_type} *mask, "
            f"{memory_type(heads.out.dtype)} *out, char *scratch, const int64_t *d"
        )
        return (
            f"static __attribute__((noinline)) void @NAME@_rows({parameters}) {{\n"
            f"{print_block(lines)}}}\n"
        )

    def key_limit(self) -> str:
        """Return how many keys a tile looks at: behind the last row's own, none if causal."""
        keys = self.dim(self.heads.keys)
        return f"planish_min_i64({keys}, first + rows)" if self.heads.causal else keys

    @property
    def depth(self) -> int:
        """Elements of a packed column of keys."""
        return self.score_kind.padded(self.features)

    @property
    def value_depth(self) -> str:
        """Elements of a packed column of values."""
        group = self.score_kind.group
        keys = self.dim(self.heads.keys)
        return keys if group == 1 else f"(({keys} + 1) / 2 * 2)"

    def choose(self, function: str, arguments: str) -> list[str]:
        return [
            f"if (rows == {rows}) @NAME@_{function}_{rows}({arguments});"
            for _, rows in self.tiling.shapes
        ]

    def offset(self, name: str) -> int:
        total = 0
        for other, size in self.buffers():
            if other == name:
                return total
            total += size
        raise TacticError(f"no buffer {name}")

    def print_kernel(self) -> str:
        heads, unit = self.heads, self.unit
        lines = ["for (int64_t item = begin; item < end; item++) {", "int64_t rest = item;"]
        for name, extent in (("block", self.blocks), ("h", heads.heads)):
            size = self.dim(extent)
            lines += [f"const int64_t {name} = rest % {size};", f"rest /= {size};"]
        lines.append("const int64_t i = rest;")
        lines += self.print_packing(unit)
        query, out, mask = heads.query, heads.out, heads.mask
        q_type, out_type = self.score_kind.input_ctype, memory_type(out.dtype)
        lines += [
            f"const {q_type} *const q = (const {q_type} *)p[{query.index}] + "
            f"{self.place(query.strides)};",
            f"{out_type} *const out = ({out_type} *)p[{out.index}] + {self.place(out.strides)};",
        ]
        mask_argument = "0"
        if mask is not None:
            ctype = memory_type(mask.dtype)
            pointer = mask.index
            if mask.array is not None:
                pointer = len(self.region.inputs) + len(self.region.outputs)
            lines.append(
                f"const {ctype} *const mask = (const {ctype} *)p[{pointer}] + "
                f"{self.place(mask.strides)};"
            )
            mask_argument = f"mask + row * {self.dim(mask.strides[2])}"
        lines += self.print_tiles(mask_argument)
        lines.append("}")
        return (
            "static void @NAME@(char *const *p, const int64_t *d, int64_t begin, int64_t end, "
            f"char *scratch) {{\n{print_block(lines)}}}\n"
        )

    def print_packing(self, unit: VectorUnit) -> list[str]:
        """Return the statements that pack the head's keys and values."""
        heads, kind = self.heads, self.score_kind
        name = "pairs" if kind.group == 2 else "widened" if heads.key.dtype is BF16 else "floats"
        ctype, keys = memory_type(heads.key.dtype), self.dim(heads.keys)
        repeat = self.dim(floordiv(heads.heads, heads.key.shape[1]))
        lines = [f"const int64_t g = h / {repeat};"]
        for tensor, label in ((heads.key, "k"), (heads.value, "v")):
            place = f"i * {self.dim(tensor.strides[0])} + g * {self.dim(tensor.strides[1])}"
            lines.append(
                f"const {ctype} *const {label} = (const {ctype} *)p[{tensor.index}] + {place};"
            )
        rows, packed = self.dim(heads.key.strides[2]), f"({kind.ctype} *)scratch"
        lines += [
            f"for (int64_t n = 0; n < {keys}; n += {self.width})",
            f"{unit.prefix}_pack_columns_{name}(k + n * {rows}, {rows}, {self.features}, "
            f"planish_min_i64({self.width}, {keys} - n), {self.width}, "
            f"{packed} + n * {self.depth});",
        ]
        target = f"({kind.ctype} *)(scratch + {self.offset('values')})"
        lines += [
            f"for (int64_t n = 0; n < {self.outputs}; n += {self.width})",
            f"{unit.prefix}_pack_rows_{name}(v + n, {self.dim(heads.value.strides[2])}, {keys}, "
            f"planish_min_i64({self.width}, {self.outputs} - n), {self.width}, "
            f"{target} + n * {self.value_depth});",
        ]
        return lines

    def place(self, strides: Shape) -> str:
        return f"i * {self.dim(strides[0])} + h * {self.dim(strides[1])}"

    def print_tiles(self, mask: str) -> list[str]:
        """Return the loop over the tiles of an item's rows."""
        query, out = self.dim(self.heads.query.strides[2]), self.dim(self.heads.out.strides[2])
        call = f"@NAME@_rows({{}}, row, q + row * {query}, {mask}, out + row * {out}, scratch, d);"
        end = (
            f"planish_min_i64(block * {self.block} + {self.block}, {self.dim(self.heads.queries)})"
        )
        lines = [f"int64_t row = block * {self.block};", f"const int64_t last = {end};"]
        tiling = self.tiling
        if not tiling.is_dynamic:
            for count, rows in ((tiling.extra, tiling.base + 1),
                                (tiling.parts - tiling.extra, tiling.base)):  # fmt: skip
                if count:
                    lines.append(f"for (int64_t t = 0; t < {count}; t++, row += {rows})")
                    lines.append(call.format(rows))
            return lines
        for rows in (tiling.base, *tiling.pieces):
            lines += [f"for (; last - row >= {rows}; row += {rows})", call.format(rows)]
        return lines


def _dynamic(extent: Dim) -> Dim:
    """Return a symbolic extent, so that the tiling has pieces for any remainder."""
    if not isinstance(extent, int):
        return extent
    return symbol("rows")
