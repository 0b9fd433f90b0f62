"""Resize: nearest, linear and cubic interpolation with tables of indices and weights.

y[n, c, h, w] = sum over taps a, b of u[h, a] * v[w, b] * x[n, c, s[h, a], t[w, b]]

Tables s, t, u, v are computed at build time by the reference's own coordinate functions where the
extents are known; for dynamic extents the kernel fills them into scratch memory at the start of a
call. In channels-last images indices and weights are the same for a whole run of channels, so the
inner loop is contiguous loads and multiply-adds; in row-major ones the taps of the last axis are
gathers. Bound by loads from L1 (each source row is read by several output rows).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product as cartesian
from typing import ClassVar

import numpy as np

from planish.backends.cpu.codegen.body import body_reason, split_body
from planish.backends.cpu.codegen.indexing import Index, identity_map, loop_index, term_index
from planish.backends.cpu.codegen.injection import (
    Builder,
    Injection,
    anchor_reason,
    injection_nests,
)
from planish.backends.cpu.codegen.loops import print_nests
from planish.backends.cpu.codegen.writer import KernelWriter, block
from planish.ir.graph import Node
from planish.ir.shape import Dim, floordiv, static_shape
from planish.ops.content import contents
from planish.ops.resize import (
    AxisMap,
    axis_maps,
    interpolation_matrix,
    nearest_indices,
    resized_axes,
)
from planish.tactics.tactic import YES, Config, Kernel, Region, Support, Tactic, no
from planish.tactics.target import Target

LARGEST_TAPS = 64
DYNAMIC_MODES = ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric")
ROUNDED = {
    "round_prefer_floor": "planish_ceil({0} - 0.5f)",
    "round_prefer_ceil": "planish_floor({0} + 0.5f)",
    "floor": "planish_floor({0})",
    "ceil": "planish_ceil({0})",
}


@dataclass(frozen=True)
class Table:
    """How one axis is read: `taps` source indices, and weights unless it is nearest.

    `indices` and `weights` are C pointers to [target][taps].
    """

    axis: int
    taps: int
    indices: str
    weights: str | None


class ResizeTactic(Tactic):
    """Interpolation with tables."""

    name: ClassVar[str] = "resize"

    def supports(self, region: Region, target: Target) -> Support:
        """Accept all modes for known extents; for dynamic ones those without antialias or crop."""
        if region.kind != "Resize":
            return no(f"it does not do {region.kind}")
        body = split_body(region)
        if body.anchor is None:
            return no("the body has no Resize")
        reason = body_reason(region, body) or anchor_reason(region, body) or _reason(body.anchor)
        return YES if reason is None else no(reason)

    def configs(self, region: Region, target: Target) -> list[Config]:
        """Return the only configuration."""
        return [{}]

    def build(self, region: Region, config: Config, target: Target) -> Kernel:
        """Return the kernel."""
        writer, body = KernelWriter(region, target), split_body(region)
        if body.anchor is None:
            raise ValueError("supports() was not asked")
        node = body.anchor
        fills: list[str] = []
        scratch = 0
        factors = _repeats(node)
        if factors is not None:
            injections = [_repeated(node, factors)]
            lines, items, used = print_nests(writer, injection_nests(writer, body, injections))
            return writer.kernel(lines, items, scratch_bytes=used)
        if static_shape(node.present_inputs[0].known_shape + node.output.known_shape) is not None:
            tables = _static_tables(writer, node)
        else:
            tables, fills, scratch = _dynamic_tables(writer, node)
        injection = _injection(Builder(node, writer), tables)
        writer.scratch_start = scratch
        lines, items, used = print_nests(writer, injection_nests(writer, body, [injection]))
        return writer.kernel([*fills, *lines], items, scratch_bytes=max(scratch, used))


def _reason(node: Node) -> str | None:
    attributes, x = node.attributes, node.present_inputs[0]
    if attributes["mode"] != "nearest" and not x.dtype.is_float:
        return f"interpolation of {x.dtype} is left to the reference"
    if attributes["coordinate_transformation_mode"] == "tf_crop_and_resize":
        return "crops are left to the reference"
    scales = node.input(2)
    if scales is not None and scales.known_shape != (0,) and not scales.is_constant:
        return "the scales are known only at run time"
    if static_shape(x.known_shape + node.output.known_shape) is not None:
        taps = 1
        for each in _maps(node):
            taps *= _static_taps(each, node)
        if taps > LARGEST_TAPS:
            return f"{taps} taps an element are left to the reference"
        return None
    if attributes["antialias"] or attributes["exclude_outside"]:
        return "dynamic extents with antialias or exclude_outside are left to the reference"
    if attributes["coordinate_transformation_mode"] not in DYNAMIC_MODES:
        return "dynamic extents in this coordinate mode are left to the reference"
    if attributes["keep_aspect_ratio_policy"] != "stretch":
        return "dynamic extents that keep the aspect ratio are left to the reference"
    return None


# -- whole repetitions ---------------------------------------------------------------------------


def _repeats(node: Node) -> list[int] | None:
    """Return how often each axis repeats its elements, if nearest sampling comes down to that."""
    if node.attributes["mode"] != "nearest":
        return None
    x, y, found = node.present_inputs[0].known_shape, node.output.known_shape, []
    for source, target in zip(x, y, strict=True):
        factor = floordiv(target, source) if source != 0 else 0
        if not isinstance(factor, int) or factor < 1 or source * factor != target:
            return None
        probe = AxisMap(0, 64, 64 * factor, np.float32(factor))
        wanted = np.arange(64 * factor) // factor
        if factor > 1 and not np.array_equal(nearest_indices(probe, node.attributes), wanted):
            return None
        found.append(factor)
    return found


def _repeated(node: Node, factors: Sequence[int]) -> Injection:
    """Return the nest (source index, repetition) of every axis: affine on both sides."""
    x = node.present_inputs[0]
    rank = x.rank
    extents: list[Dim] = []
    for source, factor in zip(x.known_shape, factors, strict=True):
        extents += [source, factor]
    read = tuple(loop_index(2 * axis, 2 * rank) for axis in range(rank))
    write = tuple(
        Index(tuple(factor if k == 2 * axis else int(k == 2 * axis + 1) for k in range(2 * rank)))
        for axis, factor in enumerate(factors)
    )
    return Injection(tuple(extents), ((x, read),), write)


# -- tables of known extents ---------------------------------------------------------------------


def _maps(node: Node) -> list[AxisMap]:
    """Return how each axis that changes is resized."""
    x = node.present_inputs[0]
    image = np.broadcast_to(np.float32(0), static_shape(x.known_shape) or ())
    inputs = [None if v is None or v.constant is None else v.array for v in node.inputs]
    inputs += [None] * (4 - len(inputs))
    sizes = node.input(3)
    if sizes is not None and inputs[3] is None:
        inputs[3] = np.array(contents(sizes) or (), np.int64)
    maps = axis_maps(image, inputs, node.attributes)
    return [each for each in maps if each.scale != 1 or each.source != each.target]


def _static_taps(each: AxisMap, node: Node) -> int:
    if node.attributes["mode"] == "nearest":
        return 1
    matrix = interpolation_matrix(each, node.attributes)
    return int((matrix != 0).sum(axis=1).max(initial=1))


def _static_tables(writer: KernelWriter, node: Node) -> list[Table]:
    tables = []
    for each in _maps(node):
        if node.attributes["mode"] == "nearest":
            indices = nearest_indices(each, node.attributes).astype(np.int32)
            tables.append(Table(each.axis, 1, writer.pack(indices), None))
            continue
        matrix = interpolation_matrix(each, node.attributes).astype(np.float32)
        taps = int((matrix != 0).sum(axis=1).max(initial=1))
        # the largest entries of a row, in order of position; a row with fewer repeats zeros
        chosen = np.sort(np.argsort(-np.abs(matrix), axis=1, kind="stable")[:, :taps], axis=1)
        weights = np.take_along_axis(matrix, chosen, axis=1)
        pointers = writer.pack(chosen.astype(np.int32)), writer.pack(weights)
        tables.append(Table(each.axis, taps, *pointers))
    return tables


# -- tables of dynamic extents -------------------------------------------------------------------


def _dynamic_tables(writer: KernelWriter, node: Node) -> tuple[list[Table], list[str], int]:
    """Return tables in scratch memory, the C that fills them, and their bytes."""
    x, y = node.present_inputs[0], node.output
    mode = node.attributes["mode"]
    taps = {"nearest": 1, "linear": 2, "cubic": 4}[mode]
    tables, lines, used = [], [], 0
    scales = node.input(2)
    for position, axis in enumerate(resized_axes(node.attributes, x.rank)):
        source, target = x.known_shape[axis], y.known_shape[axis]
        given = None
        if scales is not None and scales.constant is not None and scales.array.size:
            given = float(scales.array.reshape(-1)[position])
        if source == target and given in (None, 1.0):
            continue
        size = -(-writer.largest(target) * taps * 4 // 64) * 64
        index, weight = f"index{axis}", f"weight{axis}"
        lines.append(f"int32_t *restrict const {index} = (int32_t *)(scratch + {used});")
        used += size
        if mode != "nearest":
            lines.append(f"float *restrict const {weight} = (float *)(scratch + {used});")
            used += size
        lines += _fill(writer, node, axis, source, target, given)
        tables.append(Table(axis, taps, index, None if mode == "nearest" else weight))
    return tables, lines, used


def _fill(
    writer: KernelWriter, node: Node, axis: int, source: Dim, target: Dim, given: float | None
) -> list[str]:
    """Return the loop that fills the table of one axis."""
    n, m = writer.dim(source), writer.dim(target)
    scale = f"{given!r}f" if given is not None else f"((float){m} / (float){n})"
    where = _coordinate(node.attributes["coordinate_transformation_mode"], scale, n, m)
    body = [f"const float x = {where};"]
    last = f"{n} - 1"
    mode = node.attributes["mode"]
    if mode == "nearest":
        rounded = ROUNDED[node.attributes["nearest_mode"]].format("x")
        body.append(f"index{axis}[i] = (int32_t)planish_clamp_i64((int64_t){rounded}, 0, {last});")
    elif mode == "linear":
        body += [
            f"const float inside = planish_clip(x, 0.0f, (float)({last}));",
            "const float low = planish_floor(inside), part = inside - low;",
            f"index{axis}[2 * i] = (int32_t)low;",
            f"index{axis}[2 * i + 1] = (int32_t)planish_min_i64((int64_t)low + 1, {last});",
            f"weight{axis}[2 * i] = 1.0f - part;",
            f"weight{axis}[2 * i + 1] = part;",
        ]
    else:
        body += _cubic(axis, float(node.attributes["cubic_coeff_a"]), last)
    return block(f"for (int64_t i = 0; i < {m}; ++i)", body)


def _cubic(axis: int, a: float, last: str) -> list[str]:
    """Return C for four taps of the cubic convolution kernel (Keys 1981)."""
    near = f"(({a + 2!r}f * q - {a + 3!r}f) * q * q + 1.0f)"
    far = f"((({a!r}f * q - {5 * a!r}f) * q + {8 * a!r}f) * q - {4 * a!r}f)"
    tap = [
        "const float q = planish_abs(low + (float)(k - 1) - x);",
        f"weight{axis}[4 * i + k] = q <= 1.0f ? {near} : q < 2.0f ? {far} : 0.0f;",
        f"index{axis}[4 * i + k] = (int32_t)planish_clamp_i64((int64_t)low + k - 1, 0, {last});",
    ]
    return ["const float low = planish_floor(x);", *block("for (int k = 0; k < 4; ++k)", tap)]


def _coordinate(mode: str, scale: str, n: str, m: str) -> str:
    """Return the source coordinate of output position i, as ops/resize.py defines it."""
    half = f"((float)i + 0.5f) / {scale} - 0.5f"
    if mode == "asymmetric":
        return f"(float)i / {scale}"
    if mode == "align_corners":
        return f"{m} > 1 ? (float)i * (float)({n} - 1) / (float)({m} - 1) : 0.0f"
    if mode == "pytorch_half_pixel":
        return f"{m} > 1 ? {half} : 0.0f"
    return half


# -- the nest ------------------------------------------------------------------------------------


def _injection(builder: Builder, tables: Sequence[Table]) -> Injection:
    """Return one nest over the output that reads every combination of taps."""
    node = builder.node
    x, shape = node.present_inputs[0], node.output.known_shape
    rank = len(shape)
    reads, weights = [], []
    for choice in cartesian(*(range(table.taps) for table in tables)):
        index: list[Index] = list(identity_map(rank))
        factors = []
        for table, tap in zip(tables, choice, strict=True):
            at = f"i{table.axis} * {table.taps} + {tap}"
            index[table.axis] = term_index(rank, f"{table.indices}[{at}]", (table.axis,))
            if table.weights is not None:
                factors.append(f"{table.weights}[{at}]")
        reads.append((x, tuple(index)))
        weights.append(" * ".join(factors))
    used = frozenset(table.axis for table in tables if table.weights is not None)

    def expression(names: Sequence[str]) -> str:
        terms = [f"{w} * {name}" if w else name for w, name in zip(weights, names, strict=True)]
        return " + ".join(terms)

    return Injection(shape, tuple(reads), identity_map(rank), 0, expression, used)
