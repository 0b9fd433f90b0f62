"""LSTM, GRU and RNN in one kernel: input projection by blocks of time, then step by step.

gates(t) = x(t) W^T + h(t-1) R^T + bias; the first product is done for BLOCK steps at once (a small
GEMM), the second for one step (a matrix-vector product). Both matrices are packed at build time as
float panels of 64 gate columns, gates side by side, each padded to whole vectors. The recurrent
product is bound by streaming R from L2 (256 KB for a hidden size of 128); the projection by
arithmetic. An item is one direction and up to four sequences, which share each pass over R;
sequences end at their own length, and reverse directions run over each length backwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from planish.backends.cpu.codegen.access import print_load, print_store
from planish.backends.cpu.codegen.body import body_reason, split_body
from planish.backends.cpu.codegen.indexing import (
    Index,
    IndexMap,
    loop_index,
    operand_access,
    term_index,
)
from planish.backends.cpu.codegen.injection import anchor_reason
from planish.backends.cpu.codegen.row_tactic import RowBuilder
from planish.backends.cpu.codegen.scalar import compute_type
from planish.backends.cpu.codegen.vector_loop import Span, vector_loop
from planish.backends.cpu.codegen.writer import KernelWriter, block
from planish.ir.dtypes import BF16, F16, F32
from planish.ir.graph import Node, Value
from planish.ir.shape import ceildiv
from planish.tactics.tactic import YES, Config, Kernel, Region, Support, Tactic, no
from planish.tactics.target import Target

KINDS = {"GRU": 3, "LSTM": 4, "RNN": 1}
DEFAULTS = {"GRU": ("Sigmoid", "Tanh"), "LSTM": ("Sigmoid", "Tanh", "Tanh"), "RNN": ("Tanh",)}
BLOCK = 32  # steps whose input projection is done together
ROWS = 4  # sequences of an item
PANEL = 64
VECTOR = 16

# name in lower case: C over {x}, {a}, {b}; default alpha and beta
ACTIVATIONS: dict[str, tuple[str, float | None, float | None]] = {
    "relu": ("planish_relu({x})", None, None),
    "tanh": ("planish_tanh({x})", None, None),
    "sigmoid": ("planish_sigmoid({x})", None, None),
    "softsign": ("({x}) / (1.0f + planish_abs({x}))", None, None),
    "softplus": ("planish_softplus({x})", None, None),
    "affine": ("{a} * ({x}) + {b}", 1.0, 0.0),
    "leakyrelu": ("(({x}) < 0 ? {a} * ({x}) : ({x}))", 0.01, None),
    "thresholdedrelu": ("(({x}) > {a} ? ({x}) : 0.0f)", 1.0, None),
    "scaledtanh": ("{a} * planish_tanh({b} * ({x}))", 1.0, 1.0),
    "hardsigmoid": ("planish_clip({a} * ({x}) + {b}, 0.0f, 1.0f)", 0.2, 0.5),
    "elu": ("(({x}) < 0 ? {a} * planish_expm1({x}) : ({x}))", 1.0, None),
}


class RecurrentTactic(Tactic):
    """Whole recurrent layers over packed panels."""

    name: ClassVar[str] = "recurrent"

    def supports(self, region: Region, target: Target) -> Support:
        """Accept layers with constant weights, of 32-bit or narrower floats."""
        if region.kind not in KINDS:
            return no(f"it does not do {region.kind}")
        body = split_body(region)
        if body.anchor is None:
            return no(f"the body has no {region.kind}")
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
        return _Printer(RowBuilder(body.anchor, body, writer)).kernel()


def _reason(node: Node) -> str | None:
    if node.present_inputs[0].dtype not in (F32, BF16, F16):
        return f"recurrent layers of {node.present_inputs[0].dtype} are left to the reference"
    for position in (1, 2, 3, 7):
        value = node.input(position)
        if value is not None and not value.is_constant:
            return "the weights are not constants"
    for position in (4, 5, 6):
        value = node.input(position)
        if value is not None and value.producer is not None:
            return "lengths or initial states are computed in the region"
    if any(not isinstance(dim, int) for dim in node.present_inputs[1].known_shape):
        return "the hidden size is symbolic"
    if len({out for out in node.outputs}) != len(node.outputs):
        return "an output is there twice"
    return None


@dataclass(frozen=True)
class _Gates:
    """Where the columns of each gate lie: [first group padded to PANEL | second group padded]."""

    starts: tuple[int, ...]
    first: int  # columns of the first group
    second: int  # columns of the second group (the candidate of a GRU)

    @property
    def columns(self) -> int:
        """All columns."""
        return self.first + self.second


class _Printer:
    """One recurrent kernel being printed."""

    def __init__(self, builder: RowBuilder) -> None:
        self.builder, self.writer, self.node = builder, builder.writer, builder.node
        self.attributes = self.node.attributes
        self.gates = KINDS[self.node.op]
        weights, recurrence = (self.node.present_inputs[k].array for k in (1, 2))
        self.directions, _, self.features = weights.shape
        self.hidden = recurrence.shape[2]
        self.padded = -(-self.hidden // VECTOR) * VECTOR
        self.batch_first = bool(self.attributes["layout"])
        x = self.node.present_inputs[0].known_shape
        self.batch, self.steps = (x[0], x[1]) if self.batch_first else (x[1], x[0])
        self.layout = self._layout()
        self.linear = bool(self.attributes.get("linear_before_reset", 0))
        self.functions = self._functions()
        self._used = 0

    def _layout(self) -> _Gates:
        def whole(columns: int) -> int:
            return -(-columns // PANEL) * PANEL

        if self.node.op == "GRU":
            first = whole(2 * self.padded)
            return _Gates((0, self.padded, first), first, whole(self.padded))
        starts = tuple(gate * self.padded for gate in range(self.gates))
        return _Gates(starts, whole(self.gates * self.padded), 0)

    def _functions(self) -> list[list[str]]:
        """Return the activation templates of each direction."""
        defaults = DEFAULTS[self.node.op]
        names = list(self.attributes["activations"] or defaults * self.directions)
        if len(names) == len(defaults):
            names *= self.directions
        alphas = iter(self.attributes["activation_alpha"] or ())
        betas = iter(self.attributes["activation_beta"] or ())
        found = []
        for name in names:
            text, alpha, beta = ACTIVATIONS[str(name).lower()]
            a = None if alpha is None else f"({float(next(alphas, alpha))!r}f)"
            b = None if beta is None else f"({float(next(betas, beta))!r}f)"
            found.append(text.replace("{a}", str(a)).replace("{b}", str(b)))
        count = len(defaults)
        return [found[d * count : (d + 1) * count] for d in range(self.directions)]

    # -- packing ---------------------------------------------------------------------------------

    def _columns(self, rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Return gate rows [G*H, K] as columns [K, columns] in the kernel's order."""
        out = np.zeros((rows.shape[1], self.layout.columns), np.float32)
        for gate, start in enumerate(self.layout.starts):
            part = rows[gate * self.hidden : (gate + 1) * self.hidden]
            out[:, start : start + self.hidden] = part.astype(np.float32).T
        return out

    @staticmethod
    def _panels(columns: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        depth, count = columns.shape
        return np.ascontiguousarray(columns.reshape(depth, count // PANEL, PANEL).swapaxes(0, 1))

    def _pack(self, index: int, low: int = 0, high: int | None = None) -> str:
        """Return the pointer to all directions' panels of weight input `index`."""
        array = self.node.present_inputs[index].array
        each = [self._panels(self._columns(rows)[:, low:high]) for rows in array]
        return self.writer.pack(np.stack(each))

    def _biases(self) -> tuple[str, str]:
        """Return pointers to [D, columns]: the bias, and the recurrent candidate's own part."""
        size = self.gates * self.hidden
        value = self.node.input(3)
        given = (
            np.zeros((self.directions, 2 * size), np.float32)
            if value is None
            else value.array.astype(np.float32)
        )
        inputs = [self._columns(row[:size, None])[0] for row in given]
        recurrent = [self._columns(row[size:, None])[0] for row in given]
        inner = np.zeros((self.directions, max(self.layout.second, PANEL)), np.float32)
        if self.node.op == "GRU" and self.linear:
            for d, row in enumerate(recurrent):
                inner[d] = row[self.layout.first :]
                row[self.layout.first :] = 0
        merged = np.stack([a + b for a, b in zip(inputs, recurrent, strict=True)])
        return self.writer.pack(merged), self.writer.pack(inner)

    def _peepholes(self) -> str | None:
        value = self.node.input(7)
        if value is None:
            return None
        packed = np.zeros((self.directions, 3, self.padded), np.float32)
        for k in range(3):
            part = value.array[:, k * self.hidden : (k + 1) * self.hidden]
            packed[:, k, : self.hidden] = part.astype(np.float32)
        return self.writer.pack(packed)

    # -- C ---------------------------------------------------------------------------------------

    def _scratch(self, name: str, floats: int) -> str:
        """Return the declaration of a zeroed scratch array."""
        start = self._used
        self._used += -(-floats * 4 // 64) * 64
        return f"float *restrict const {name} = (float *)(scratch + {start});"

    def kernel(self) -> Kernel:
        """Return the kernel."""
        writer, columns = self.writer, self.layout.columns
        self.depth = self.features
        lines = [
            self._scratch("xs", BLOCK * ROWS * self.depth),
            self._scratch("gates", BLOCK * ROWS * columns),
            self._scratch("hs", ROWS * self.padded),
            self._scratch("cs", ROWS * self.padded),
            self._scratch("inner", ROWS * max(self.layout.second, PANEL)),
        ]
        groups = ceildiv(self.batch, ROWS)
        steps = writer.dim(self.steps)
        body = [
            f"const int64_t dir = item / {writer.dim(groups)};",
            f"const int64_t b0 = item % {writer.dim(groups)} * {ROWS};",
            f"const int64_t rows = planish_min_i64({ROWS}, {writer.dim(self.batch)} - b0);",
            f"const int reverse = {self._reverse()};",
            f"int64_t length[{ROWS}];",
            *self._lengths(steps),
            f"memset(scratch, 0, {self._used});",
            *self._initial(),
        ]
        blocks = self._block(steps)
        body += block(f"for (int64_t first = 0; first < {steps}; first += {BLOCK})", blocks)
        body += self._final()
        lines += block("for (int64_t item = begin; item < end; ++item)", body)
        items = groups * self.directions
        return writer.kernel(lines, items, scratch_bytes=self._used)

    def _reverse(self) -> str:
        if self.directions == 2:
            return "dir == 1"
        return "1" if self.attributes["direction"] == "reverse" else "0"

    def _lengths(self, steps: str) -> list[str]:
        value = self.node.input(4)
        text = steps
        if value is not None:
            memory = self.builder.pointwise.memory_of(value)
            index = (term_index(1, "b0 + r", ()),)
            access = operand_access(self.writer, memory, memory.shape, index, 1)
            text = f"planish_clamp_i64((int64_t){print_load(self.writer, access)}, 0, {steps})"
        return [f"for (int64_t r = 0; r < rows; ++r) length[r] = {text};"]

    def _state_index(self) -> IndexMap:
        """Return the index of a state [D,B,H] (or [B,D,H]) in a loop over i0, the hidden unit."""
        direction, batch = term_index(1, "dir", ()), term_index(1, "b0 + r", ())
        unit = loop_index(0, 1)
        return (batch, direction, unit) if self.batch_first else (direction, batch, unit)

    def _units(self, body: list[str], bound: str = "") -> list[str]:
        span = Span("0", bound or str(self.hidden), int(bound) if bound else self.hidden)
        return vector_loop(self.writer, "i0", span, body, "#pragma GCC ivdep")

    def _initial(self) -> list[str]:
        lines: list[str] = []
        for position, name in ((5, "hs"), (6, "cs")):
            value = self.node.input(position)
            if value is None or (name == "cs" and self.node.op != "LSTM"):
                continue
            memory = self.builder.pointwise.memory_of(value)
            access = operand_access(self.writer, memory, memory.shape, self._state_index(), 1)
            text = f"{name}[r * {self.padded} + i0] = {print_load(self.writer, access)};"
            lines += block("for (int64_t r = 0; r < rows; ++r)", self._units([text]))
        return lines

    def _block(self, steps: str) -> list[str]:
        """Return C for BLOCK steps: inputs, projection, recurrence."""
        columns, depth = self.layout.columns, self.depth
        weights = self._pack(1)
        bias, inner_bias = self._biases()
        x = self.node.present_inputs[0]
        time, batch = term_index(1, "t", ()), term_index(1, "b0 + r", ())
        index = (batch, time, loop_index(0, 1)) if self.batch_first else (
            time, batch, loop_index(0, 1),
        )  # fmt: skip
        part, name = self.builder.read(x, x.known_shape, index, 1)
        copy = [
            f"const {compute_type(a.dtype)} {load} = {print_load(self.writer, a)};"
            for load, a in part.loads
        ]
        copy += [*part.statements, f"xs[(s * {ROWS} + r) * {depth} + i0] = {name};"]
        span = Span("0", str(depth), depth)
        loop = vector_loop(self.writer, "i0", span, copy, "#pragma GCC ivdep")
        at = f"(s * {ROWS} + r) * {columns}"
        fill = [
            "const int64_t at = first + s;",
            "const int64_t t = reverse && at < length[r] ? length[r] - 1 - at : at;",
            *loop,
            f"memcpy(gates + {at}, {bias} + dir * {columns}, {4 * columns});",
        ]
        rows = block("for (int64_t r = 0; r < rows; ++r)", fill)
        panel = f"{weights} + dir * {depth * columns}"
        return [
            f"const int64_t count = planish_min_i64({BLOCK}, {steps} - first);",
            *block("for (int64_t s = 0; s < count; ++s)", rows),
            # rows of absent sequences are computed as well: they hold zeros
            f"if (rows > 1) planish_rows_times_panels(xs, {depth}, {panel}, {depth}, {columns}, "
            f"gates, {columns}, count * {ROWS});",
            f"else planish_rows_times_panels(xs, {ROWS * depth}, {panel}, {depth}, {columns}, "
            f"gates, {ROWS * columns}, count);",
            *block("for (int64_t s = 0; s < count; ++s)", self._step(inner_bias)),
        ]

    def _step(self, inner_bias: str) -> list[str]:
        columns, first, second = self.layout.columns, self.layout.first, self.layout.second
        size = self.padded
        recurrence = self._pack(2, 0, first)
        step = f"gates + s * {ROWS * columns}"
        lines = [
            f"float *restrict const now = {step};",
            f"planish_rows_times_panels(hs, {size}, {recurrence} + dir * {self.hidden * first}, "
            f"{self.hidden}, {first}, now, {columns}, rows);",
        ]
        if self.node.op == "GRU":
            lines += self._reset(inner_bias, self._pack(2, first, first + second))
        update = self._alternatives(self._update)
        store = self._store_step()
        alive = [*update, *store[0]]
        row = [
            f"float *restrict const g = now + r * {columns};",
            f"float *restrict const h = hs + r * {size};",
            f"float *restrict const c = cs + r * {size};",
            "const int64_t at = first + s;",
            "const int64_t t = reverse && at < length[r] ? length[r] - 1 - at : at;",
            *block("if (at < length[r])", alive),
            *(block("else", store[1]) if store[1] else []),
        ]
        return [*lines, *block("for (int64_t r = 0; r < rows; ++r)", row)]

    def _reset(self, inner_bias: str, candidate: str) -> list[str]:
        """Return C that adds the candidate's recurrent product of a GRU."""
        columns, first, second = self.layout.columns, self.layout.first, self.layout.second
        size = self.padded
        gate = self._alternatives(
            lambda d: self._units(
                [f"const float x = {self._clip(f'g[{self.layout.starts[1]} + i0]')};",
                 f"g[{self.layout.starts[1]} + i0] = {self._apply(d, 0, 'x')};"]
            )
        )  # fmt: skip
        target = f"float *restrict const g = now + r * {columns};"
        rows = "for (int64_t r = 0; r < rows; ++r)"
        panel = f"{candidate} + dir * {self.hidden * second}"
        if self.linear:
            start = [f"memcpy(inner + r * {second}, {inner_bias} + dir * {second}, {4 * second});"]
            product = (
                f"planish_rows_times_panels(hs, {size}, {panel}, {self.hidden}, {second}, "
                f"inner, {second}, rows);"
            )
            add = f"g[{first} + i0] += g[{self.layout.starts[1]} + i0] * inner[r * {second} + i0];"
            return [
                *block(rows, [*start, target, *gate]),
                product,
                *block(rows, [target, *self._units([add])]),
            ]
        scaled = f"cs[r * {size} + i0] = g[{self.layout.starts[1]} + i0] * hs[r * {size} + i0];"
        return [
            *block(rows, [target, *gate, *self._units([scaled])]),
            f"planish_rows_times_panels(cs, {size}, {panel}, {self.hidden}, {second}, "
            f"now + {first}, {columns}, rows);",
        ]

    def _alternatives(self, print_direction: Any) -> list[str]:
        """Return C for the direction at hand; both forms where their activations differ."""
        if self.directions == 1 or self.functions[0] == self.functions[1]:
            return list(print_direction(0))
        return [
            *block("if (dir == 0)", print_direction(0)),
            *block("else", print_direction(1)),
        ]

    def _apply(self, direction: int, function: int, x: str) -> str:
        return self.functions[direction][function].replace("{x}", x)

    def _clip(self, x: str) -> str:
        limit = self.attributes["clip"]
        return f"planish_clip({x}, -{float(limit)!r}f, {float(limit)!r}f)" if limit else x

    def _update(self, direction: int) -> list[str]:
        """Return the loop over hidden units that computes the new states."""
        starts = self.layout.starts
        if self.node.op == "RNN":
            text = self._apply(direction, 0, "x")
            return self._units([f"const float x = {self._clip('g[i0]')};", f"h[i0] = {text};"])
        if self.node.op == "GRU":
            return self._units([
                f"const float x = {self._clip('g[i0]')};",
                f"const float update = {self._apply(direction, 0, 'x')};",
                f"const float y = {self._clip(f'g[{starts[2]} + i0]')};",
                f"const float candidate = {self._apply(direction, 1, 'y')};",
                "h[i0] = (1.0f - update) * candidate + update * h[i0];",
            ])  # fmt: skip
        return self._units(self._lstm(direction))

    def _lstm(self, direction: int) -> list[str]:
        starts, peepholes = self.layout.starts, self._peepholes()

        def gate(k: int, state: str, which: int) -> str:
            text = f"g[{starts[k]} + i0]"
            if peepholes is not None:
                at = f"(dir * 3 + {which}) * {self.padded} + i0"
                text = f"{text} + {peepholes}[{at}] * {state}"
            return self._clip(f"({text})")

        keep = self._apply(direction, 0, "xf")
        if self.attributes["input_forget"]:
            keep = "1.0f - enter"
        return [
            "const float old = c[i0];",
            f"const float xi = {gate(0, 'old', 0)};",
            f"const float enter = {self._apply(direction, 0, 'xi')};",
            f"const float xf = {gate(2, 'old', 2)};",
            f"const float keep = {keep};",
            f"const float xc = {self._clip(f'g[{starts[3]} + i0]')};",
            f"const float fresh = {self._apply(direction, 1, 'xc')};",
            "const float memory = keep * old + enter * fresh;",
            f"const float xo = {gate(1, 'memory', 1)};",
            f"const float leave = {self._apply(direction, 0, 'xo')};",
            "c[i0] = memory;",
            f"h[i0] = leave * {self._apply(direction, 2, 'memory')};",
        ]

    def _store_step(self) -> tuple[list[str], list[str]]:
        """Return the stores of a step that is alive, and of one behind a sequence's end."""
        direction, batch = term_index(1, "dir", ()), term_index(1, "b0 + r", ())
        time, unit = term_index(1, "t", ()), loop_index(0, 1)
        index: IndexMap = (time, direction, batch, unit)
        if self.batch_first:
            index = (batch, time, direction, unit)
        found = [self._stored(self.node.outputs[0], text, index) for text in ("h[i0]", "0.0f")]
        return found[0], found[1] if self.node.input(4) is not None else []

    def _stored(self, result: Value, text: str, index: Sequence[Index]) -> list[str]:
        """Return the loop that stores one output of the layer, its epilogue included."""
        name = self.writer.fresh("y")
        end = self.builder.finish(result, name, tuple(index), 1)
        if not end.stores:
            return []
        lines = [f"const float {name} = {text};"]
        lines += [
            f"const {compute_type(a.dtype)} {load} = {print_load(self.writer, a)};"
            for load, a in end.loads
        ]
        lines += end.statements
        lines += [print_store(self.writer, access, value) for access, value in end.stores]
        return self._units(lines)

    def _final(self) -> list[str]:
        lines: list[str] = []
        for result, name in zip(self.node.outputs[1:], ("hs", "cs"), strict=False):
            text = f"{name}[r * {self.padded} + i0]"
            lines += self._stored(result, text, self._state_index())
        return block("for (int64_t r = 0; r < rows; ++r)", lines) if lines else []
