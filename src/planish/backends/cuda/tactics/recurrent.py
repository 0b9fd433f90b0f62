"""LSTM, GRU and RNN: one block walks a sequence from its first step to its last.

A block has one direction of one sequence; the state is a vector in registers and, for the products
with the recurrence matrix, in device memory (two copies, so that one barrier a step is enough).

    total[g, j] = bias + sum over k of x[t, k] W[g, j, k] + sum over k of h[k] R[g, j, k]

Weights that are constants are packed with the hidden units innermost, so that loads are contiguous
and sums stay within a thread. Bound by reading the weights from L2 at every step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar

from planish.backends.cuda.codegen.elements import anchor_of
from planish.backends.cuda.codegen.printer import Memory, Printer, indent, unprintable
from planish.backends.cuda.codegen.triton_types import ELEMENTS
from planish.errors import TacticError
from planish.ir.dtypes import F64, dtype_of
from planish.ir.graph import Node, Value
from planish.ir.shape import Dim
from planish.tactics.tactic import YES, Config, Region, Support, Tactic, TritonKernel, no
from planish.tactics.target import Target

GATES = {"GRU": 3, "LSTM": 4, "RNN": 1}
DEFAULTS = {"GRU": ("Sigmoid", "Tanh"), "LSTM": ("Sigmoid", "Tanh", "Tanh"), "RNN": ("Tanh",)}
LARGEST_STATE = 2048
TILE = 8192  # elements of a weight tile

# text of an activation (fields x, a and b), default alpha, default beta; None: not taken
ACTIVATIONS: dict[str, tuple[str, float | None, float | None]] = {
    "relu": ("tl.maximum({x}, 0.0)", None, None),
    "tanh": ("planish_tanh({x})", None, None),
    "sigmoid": ("planish_sigmoid({x})", None, None),
    "softsign": ("({x} / (1.0 + tl.abs({x})))", None, None),
    "softplus": ("planish_softplus({x})", None, None),
    "affine": ("({a} * {x} + {b})", 1.0, 0.0),
    "leakyrelu": ("tl.where({x} < 0, {a} * {x}, {x})", 0.01, None),
    "thresholdedrelu": ("tl.where({x} > {a}, {x}, 0.0)", 1.0, None),
    "scaledtanh": ("({a} * planish_tanh({b} * {x}))", 1.0, 1.0),
    "hardsigmoid": ("planish_clip({a} * {x} + {b}, 0.0, 1.0)", 0.2, 0.5),
    "elu": ("tl.where({x} < 0, {a} * planish_expm1(tl.minimum({x}, 0.0)), {x})", 1.0, None),
}


class Recurrent(Tactic):
    """See the module's docstring."""

    name: ClassVar[str] = "triton_recurrent"
    device: ClassVar[str] = "cuda"
    rank: ClassVar[int] = 30

    def supports(self, region: Region, target: Target) -> Support:
        """Accept every attribute, with states that fit into registers."""
        if region.kind not in GATES or len(region.body) != 1:
            return no("it is no recurrent layer alone")
        if anchor_of(region).present_inputs[0].dtype is F64:
            return no("it is of f64")
        reason = unprintable(region, region.anchor)
        if reason is not None:
            return no(reason)
        try:
            self.build(region, {"warps": 4}, target)
        except TacticError as error:
            return no(error.what)
        return YES

    def configs(self, region: Region, target: Target) -> list[Config]:
        """Return numbers of warps."""
        return [{"warps": warps} for warps in (8, 4, 16)]

    def build(self, region: Region, config: Config, target: Target) -> TritonKernel:
        """Return the kernel."""
        return _Writer(region, anchor_of(region), config).kernel()


class _Writer:
    """Prints one kernel."""

    def __init__(self, region: Region, node: Node, config: Config) -> None:
        self.region, self.node, self.warps = region, node, int(config["warps"])
        self.printer = Printer(region)
        self.gates = GATES[node.op]
        self.batch_first = bool(node.attributes["layout"])
        x, weights, recurrence = node.present_inputs[:3]
        hidden = recurrence.known_shape[-1]
        directions = weights.known_shape[0]
        if not isinstance(hidden, int) or not isinstance(directions, int):
            raise TacticError("the hidden size is symbolic")
        if hidden > LARGEST_STATE:
            raise TacticError(f"a state of {hidden} elements exceeds the registers")
        self.hidden, self.directions = hidden, directions
        self.width = 1 << max(hidden - 1, 1).bit_length()
        self.depth = max(8, min(64, TILE // self.width))
        steps, batch = x.known_shape[:2]
        if self.batch_first:
            steps, batch = batch, steps
        self.steps, self.batch, self.features = steps, batch, x.known_shape[2]
        self.functions = list(_activations(node))

    def dim(self, dim: Dim) -> str:
        """Return an extent as text."""
        return self.printer.dim(dim)

    # -- memory ----------------------------------------------------------------------------------

    def transposed(self, value: Value) -> Memory:
        """Return where [D, G*H, K] weights lie; constants are packed with the units innermost."""
        if value.constant is None:
            return self.printer.memory_of(value)
        array = value.array.transpose(0, 2, 1)
        directions, depth, units = array.shape
        pointer = self.printer.pack(array)
        strides = (depth * units, 1, units)
        return Memory(pointer, dtype_of(array), (directions, units, depth), strides)

    def place(self, memory: Memory, *at: str) -> str:
        """Return the pointer to an element at coordinates."""
        terms = [memory.pointer]
        wide = ".to(tl.int64)" if self.printer.is_wide(memory) else ""
        for place, stride in zip(at, memory.strides, strict=True):
            terms.append(f"({place}){wide if place != '0' else ''} * {self.dim(stride)}")
        return " + ".join(terms)

    def state(self, value: Value | None, name: str) -> list[str]:
        """Return the statement that reads an initial state, or starts it at zero."""
        if value is None:
            return [f"{name} = tl.zeros(({self.width},), tl.float32)"]
        at = ("sequence", "direction") if self.batch_first else ("direction", "sequence")
        pointer = self.place(self.printer.memory_of(value), *at, "unit")
        return [f"{name} = tl.load({pointer}, mask=exists, other=0).to(tl.float32)"]

    def vector(self, value: Value, first: int, name: str) -> list[str]:
        """Return the statement that reads H numbers of one direction, from row `first` * H on."""
        pointer = self.place(
            self.printer.memory_of(value), "direction", f"unit + {first * self.hidden}"
        )
        return [f"{name} = tl.load({pointer}, mask=exists, other=0).to(tl.float32)"]

    def multiply(
        self, totals: Sequence[str], gates: Sequence[int], memory: Memory, vector: str, depth: Dim
    ) -> list[str]:
        """Return the loop that adds products of weight rows and a vector (a load of ``k``)."""
        body = [
            f"k = start + tl.arange(0, {self.depth})",
            f"k_exists = k < {self.dim(depth)}",
            f"part = tl.load({vector}, mask=k_exists, other=0).to(tl.float32)",
            "both = k_exists[:, None] & exists[None, :]",
        ]
        for total, gate in zip(totals, gates, strict=True):
            row = f"(unit + {gate * self.hidden})[None, :]"
            pointer = self.place(memory, "direction", row, "k[:, None]")
            body.append(f"tile = tl.load({pointer}, mask=both, other=0).to(tl.float32)")
            body.append(f"{total} += tl.sum(tile * part[:, None], axis=0)")
        return [f"for start in range(0, {self.dim(depth)}, {self.depth}):", *indent(body)]

    # -- the kernel ------------------------------------------------------------------------------

    def kernel(self) -> TritonKernel:
        """Return the kernel."""
        node, printer = self.node, self.printer
        lines = [
            "sequence = tl.program_id(0)",
            "direction = tl.program_id(1)",
            f"unit = tl.arange(0, {self.width})",
            f"exists = unit < {self.hidden}",
            f"kept = workspace + (direction * tl.num_programs(0) + sequence) * {3 * self.width}",
        ]
        lines += self._length()
        lines += self.state(node.input(5), "h")
        if node.op == "LSTM":
            lines += self.state(node.input(6), "c")
        lines += self._biases()
        lines += ["tl.store(kept + unit, h, mask=exists)", "tl.debug_barrier()"]
        lines += [f"for step in range({self.dim(self.steps)}):", *indent(self._step())]
        lines += self._last()
        blocks = printer.largest(self.batch) * self.directions
        return printer.kernel(
            lines, (self.batch, self.directions), warps=self.warps,
            workspace_bytes=blocks * 3 * self.width * 4,
        )  # fmt: skip

    def _length(self) -> list[str]:
        lengths = self.node.input(4)
        lines = [f"length = {self.dim(self.steps)} + sequence * 0"]
        if lengths is not None:
            pointer = self.place(self.printer.memory_of(lengths), "sequence")
            lines = [f"length = tl.load({pointer}).to(tl.int32)"]
        direction = str(self.node.attributes["direction"])
        turned = {"forward": "(direction < 0)", "reverse": "(direction >= 0)"}
        return [*lines, f"turned = {turned.get(direction, '(direction == 1)')}"]

    def _biases(self) -> list[str]:
        """Return the reads of both biases of every gate, and of the peepholes."""
        lines, bias, peepholes = [], self.node.input(3), self.node.input(7)
        zero = f"tl.zeros(({self.width},), tl.float32)"
        for gate in range(self.gates):
            for name, first in ((f"b{gate}", gate), (f"d{gate}", self.gates + gate)):
                if bias is None:
                    lines.append(f"{name} = {zero}")
                    continue
                lines += self.vector(bias, first, name)
        for gate in range(3 if self.node.op == "LSTM" else 0):
            if peepholes is None:
                lines.append(f"p{gate} = {zero}")
                continue
            lines += self.vector(peepholes, gate, f"p{gate}")
        return lines

    def _step(self) -> list[str]:
        """Return one step: projections, the cell, and what is kept and stored."""
        x, weights, recurrence = self.node.present_inputs[:3]
        gates = range(self.gates)
        at = ("sequence", "place") if self.batch_first else ("place", "sequence")
        lines = [
            "alive = step < length",
            "place = tl.where(turned & alive, length - 1 - step, step)",
            f"before = kept + (step % 2) * {self.width}",
            *(f"x{gate}_total = b{gate}" for gate in gates),
            *(f"h{gate}_total = d{gate}" for gate in gates),
        ]
        vector = self.place(self.printer.memory_of(x), *at, "k")
        lines += self.multiply(
            [f"x{gate}_total" for gate in gates], gates, self.transposed(weights), vector,
            self.features,
        )  # fmt: skip
        lines += CELLS[self.node.op](self, self.transposed(recurrence))
        lines += [
            "h = tl.where(alive, h_new, h)",
            f"tl.store(kept + ((step + 1) % 2) * {self.width} + unit, h, mask=exists)",
            "tl.debug_barrier()",
        ]
        for index, operand in enumerate(self.region.outputs):
            if operand.value is self.node.outputs[0]:
                memory = self.printer.output(index)
                place = ("sequence", "place") if self.batch_first else ("place",)
                rest = ("direction",) if self.batch_first else ("direction", "sequence")
                pointer = self.place(memory, *place, *rest, "unit")
                kind = ELEMENTS[memory.dtype]
                lines.append(
                    f"tl.store({pointer}, tl.where(alive, h_new, 0.0).to({kind}), mask=exists)"
                )
        return lines

    def _last(self) -> list[str]:
        """Return the stores of the last states."""
        names = dict(zip(self.node.outputs[1:], ("h", "c"), strict=False))
        lines = []
        for index, operand in enumerate(self.region.outputs):
            if operand.value in names:
                memory = self.printer.output(index)
                at = ("sequence", "direction") if self.batch_first else ("direction", "sequence")
                text = f"{names[operand.value]}.to({ELEMENTS[memory.dtype]})"
                lines.append(f"tl.store({self.place(memory, *at, 'unit')}, {text}, mask=exists)")
        return lines

    def activate(self, number: int, text: str, clipped: bool = True) -> str:
        """Return the layer's activation function of that number, applied to clipped text."""
        clip = self.node.attributes["clip"]
        if clip and clipped:
            text = f"planish_clip({text}, {-float(clip)!r}, {float(clip)!r})"
        return self.functions[number].replace("{x}", f"({text})")

    def recurrent(
        self, gates: Sequence[int], memory: Memory, vector: str = "before + k"
    ) -> list[str]:
        """Return the products of a state in memory with the recurrence of gates."""
        totals = [f"h{gate}_total" for gate in gates]
        return self.multiply(totals, gates, memory, vector, self.hidden)


def _rnn(writer: _Writer, memory: Memory) -> list[str]:
    return [
        *writer.recurrent([0], memory),
        f"h_new = {writer.activate(0, 'x0_total + h0_total')}",
    ]


def _gru(writer: _Writer, memory: Memory) -> list[str]:
    """Gates update z, reset r, hidden h."""
    is_linear = bool(writer.node.attributes["linear_before_reset"])
    lines = writer.recurrent([0, 1, 2] if is_linear else [0, 1], memory)
    lines += [
        f"z = {writer.activate(0, 'x0_total + h0_total')}",
        f"r = {writer.activate(0, 'x1_total + h1_total')}",
    ]
    if is_linear:
        lines.append("inside = r * h2_total")
    else:
        spare = f"kept + {2 * writer.width}"
        lines += [
            f"tl.store({spare} + unit, r * h, mask=exists)",
            "tl.debug_barrier()",
            *writer.recurrent([2], memory, f"{spare} + k"),
            "inside = h2_total",
        ]
    return [
        *lines,
        f"g = {writer.activate(1, 'x2_total + inside')}",
        "h_new = (1.0 - z) * g + z * h",
    ]


def _lstm(writer: _Writer, memory: Memory) -> list[str]:
    """Gates input i, output o, forget f, cell c."""
    keep = writer.activate(0, "x2_total + h2_total + p2 * c")
    return [
        *writer.recurrent([0, 1, 2, 3], memory),
        f"enter = {writer.activate(0, 'x0_total + h0_total + p0 * c')}",
        f"keep = {'1.0 - enter' if writer.node.attributes['input_forget'] else keep}",
        f"c_new = keep * c + enter * {writer.activate(1, 'x3_total + h3_total')}",
        f"leave = {writer.activate(0, 'x1_total + h1_total + p1 * c_new')}",
        f"h_new = leave * {writer.activate(2, 'c_new', clipped=False)}",
        "c = tl.where(alive, c_new, c)",
    ]


CELLS: dict[str, Callable[[_Writer, Memory], list[str]]] = {
    "GRU": _gru, "LSTM": _lstm, "RNN": _rnn,
}  # fmt: skip


def _activations(node: Node) -> Iterator[str]:
    """Yield the text of each activation of a direction; both directions must have the same."""
    defaults = DEFAULTS[node.op]
    names = list(node.attributes["activations"] or defaults)
    alphas = iter(node.attributes["activation_alpha"] or ())
    betas = iter(node.attributes["activation_beta"] or ())
    texts = []
    for name in names:
        text, alpha, beta = ACTIVATIONS[name.lower()]
        a = None if alpha is None else float(next(alphas, alpha))
        b = None if beta is None else float(next(betas, beta))
        texts.append(text.replace("{a}", f"({a!r})").replace("{b}", f"({b!r})"))
    count = len(defaults)
    if texts[count:] not in ([], texts[:count]):
        raise TacticError("its directions have different activations")
    yield from texts[:count]
