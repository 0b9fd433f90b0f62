"""Recurrent layers: LSTM, GRU and RNN with every attribute that ONNX gives them.

Shapes: sequence T, batch B, features I, hidden H, directions D (1 or 2), gates G. Inputs are
x [T,B,I], weights [D,G*H,I], recurrence [D,G*H,H], bias [D,2*G*H], sequence_lens [B] and initial
states [D,B,H]; outputs are every step [T,D,B,H] and the last states [D,B,H]. With ``layout`` 1 the
batch comes first: x [B,T,I], states [B,D,H], steps [B,T,D,H].
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from planish.errors import ShapeError
from planish.ir.graph import Node, Value
from planish.ir.requirement import Requirement, equal, equal_shapes
from planish.ir.shape import Dim, Shape, product
from planish.ops.numeric import narrow, optional, random_array, required, widen
from planish.ops.op import Array, Attributes, Cost, Inferred, Inputs, Op, Sample, bytes_of

Activation = Callable[[Array], Array]

# name in lower case: (function of x, alpha, beta), default alpha, default beta; None: not taken
ACTIVATIONS: dict[str, tuple[Callable[..., Any], float | None, float | None]] = {
    "relu": (lambda x, a, b: np.maximum(x, 0), None, None),
    "tanh": (lambda x, a, b: np.tanh(x), None, None),
    "sigmoid": (lambda x, a, b: 1 / (1 + np.exp(-x)), None, None),
    "softsign": (lambda x, a, b: x / (1 + np.abs(x)), None, None),
    "softplus": (lambda x, a, b: np.logaddexp(x, 0), None, None),
    "affine": (lambda x, a, b: a * x + b, 1.0, 0.0),
    "leakyrelu": (lambda x, a, b: np.where(x < 0, a * x, x), 0.01, None),
    "thresholdedrelu": (lambda x, a, b: np.where(x > a, x, 0), 1.0, None),
    "scaledtanh": (lambda x, a, b: a * np.tanh(b * x), 1.0, 1.0),
    "hardsigmoid": (lambda x, a, b: np.clip(a * x + b, 0, 1), 0.2, 0.5),
    "elu": (lambda x, a, b: np.where(x < 0, a * np.expm1(np.minimum(x, 0)), x), 1.0, None),
}


def activations_for(attributes: Attributes, defaults: Sequence[str]) -> list[Activation]:
    """Return the activation functions of all directions, one direction after the other.

    `activation_alpha` and `activation_beta` are consumed in order by the functions that take them.

    Raises
    ------
    ShapeError
        When an activation is unknown.
    """
    directions = 2 if attributes["direction"] == "bidirectional" else 1
    names = list(attributes["activations"] or tuple(defaults) * directions)
    alphas = iter(attributes["activation_alpha"] or ())
    betas = iter(attributes["activation_beta"] or ())
    found = [_activation(name, alphas, betas) for name in names]
    return found * directions if len(found) == len(defaults) and directions == 2 else found


def _activation(name: str, alphas: Iterator[float], betas: Iterator[float]) -> Activation:
    if name.lower() not in ACTIVATIONS:
        known = ", ".join(sorted(ACTIVATIONS))
        raise ShapeError(f"unknown activation {name!r} of a recurrent layer", fix=f"use {known}")
    function, default_alpha, default_beta = ACTIVATIONS[name.lower()]
    alpha = None if default_alpha is None else next(alphas, default_alpha)
    beta = None if default_beta is None else next(betas, default_beta)

    def apply(x: Array) -> Array:
        with np.errstate(over="ignore"):
            return np.asarray(function(x, alpha, beta), dtype=x.dtype)

    return apply


@dataclass
class Cell:
    """One direction of a layer: its weights, activations and options, all in wide precision."""

    weights: Array
    recurrence: Array
    bias: Array
    recurrent_bias: Array
    activations: list[Activation]
    clip: float | None
    peepholes: Array | None = None
    options: Attributes | None = None

    def clipped(self, x: Array) -> Array:
        """Return `x` within [-clip, clip] where a clip is set."""
        return x if self.clip is None else np.asarray(np.clip(x, -self.clip, self.clip))


Step = Callable[[Cell, Array, list[Array]], list[Array]]


def run_direction(
    cell: Cell, x: Array, lengths: Array, states: list[Array], step: Step
) -> tuple[Array, list[Array]]:
    """Return the hidden state of every step [T,B,H] and the last states.

    Sequences end at their own length: later steps give zeros and leave the state alone.
    """
    projected = x @ cell.weights.T + cell.bias
    steps = np.zeros((*x.shape[:2], states[0].shape[-1]), dtype=x.dtype)
    for time in range(x.shape[0]):
        alive = (time < lengths)[:, None]
        new = step(cell, projected[time], states)
        states = [np.where(alive, after, before) for after, before in zip(new, states, strict=True)]
        steps[time] = np.where(alive, new[0], 0)
    return steps, states


def reverse_within(x: Array, lengths: Array) -> Array:
    """Return `x` [T,B,...] with each sequence's first `lengths` steps in reverse order."""
    steps = np.arange(x.shape[0])[:, None]
    order = np.where(steps < lengths, lengths - 1 - steps, steps)
    return x[order, np.arange(x.shape[1])]


class _Recurrent(Op):
    """Base of recurrent layers; `gates`, `defaults` and `step` make the difference."""

    gates: ClassVar[int]
    state_count: ClassVar[int] = 1
    defaults: ClassVar[tuple[str, ...]]
    attributes: ClassVar[Mapping[str, Any]] = {
        "activation_alpha": None,
        "activation_beta": None,
        "activations": None,
        "clip": None,
        "direction": "forward",
        "hidden_size": None,
        "layout": 0,
    }

    @classmethod
    @abstractmethod
    def step(cls, cell: Cell, projected: Array, states: list[Array]) -> list[Array]:
        """Return the states after one step; `projected` [B,G*H] is x W^T + bias."""

    @classmethod
    def infer(cls, node: Node) -> list[Inferred]:
        """Return types of all steps and of the last states."""
        x, _, recurrence = node.present_inputs[:3]
        states = cls.state_count
        if x.shape is None or recurrence.shape is None:
            return [Inferred(x.dtype, None)] * (1 + states)
        hidden: Dim = node.attributes["hidden_size"] or recurrence.shape[-1]
        directions = 2 if node.attributes["direction"] == "bidirectional" else 1
        cls._check(node, directions, hidden)
        if node.attributes["layout"]:
            batch, steps = x.shape[:2]
            every = Inferred(x.dtype, (batch, steps, directions, hidden))
            last = Inferred(x.dtype, (batch, directions, hidden))
        else:
            steps, batch = x.shape[:2]
            every = Inferred(x.dtype, (steps, directions, batch, hidden))
            last = Inferred(x.dtype, (directions, batch, hidden))
        return [every, *[last] * states]

    @classmethod
    def _check(cls, node: Node, directions: int, hidden: Dim) -> None:
        """Raise ShapeError when the weights do not fit the input or each other."""
        x, weights, recurrence = node.present_inputs[:3]
        rows = hidden * cls.gates
        expected: tuple[tuple[Value, Shape], ...] = (
            (weights, (directions, rows, x.known_shape[-1])),
            (recurrence, (directions, rows, hidden)),
        )
        bias = node.input(3)
        if bias is not None and bias.shape is not None:
            expected += ((bias, (directions, 2 * rows)),)
        for value, wanted in expected:
            fits = value.rank == len(wanted) and all(
                have == want or not isinstance(have, int) or not isinstance(want, int)
                for have, want in zip(value.known_shape, wanted, strict=True)
            )
            if not fits:
                raise ShapeError(f"{value} should have shape {list(wanted)}", where=str(node))
        activations_for(node.attributes, cls.defaults)

    @classmethod
    def requirements(cls, node: Node) -> list[Requirement]:
        """Return that weights fit the input, and lengths and states the batch."""
        x, weights, recurrence = node.present_inputs[:3]
        if x.shape is None or weights.shape is None or recurrence.shape is None:
            return []
        batch = x.shape[0 if node.attributes["layout"] else 1]
        found = equal(weights.shape[2], x.shape[2])
        lengths = node.input(4)
        if lengths is not None and lengths.shape:
            found += equal(lengths.shape[0], batch)
        last = node.outputs[1].shape if len(node.outputs) > 1 else None
        for value in (node.input(5), node.input(6)):
            if value is None or value.shape is None:
                continue
            found += equal(value.shape[0 if node.attributes["layout"] else 1], batch)
            found += [] if last is None else equal_shapes(value.shape, last)
        return found

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Step through time in float32 at least, one direction after the other."""
        original = required(inputs, 0)
        x = widen(original)
        x = x.swapaxes(0, 1) if attributes["layout"] else x
        given = optional(inputs, 4)
        lengths = np.full(x.shape[1], x.shape[0]) if given is None else given.astype(np.int64)
        backward = attributes["direction"] == "reverse"
        steps, lasts = [], []
        for index, cell in enumerate(cls._cells(inputs, attributes)):
            turned = backward or index == 1
            states = cls._initial(inputs, attributes, index, x, cell)
            source = reverse_within(x, lengths) if turned else x
            hidden, last = run_direction(cell, source, lengths, states, cls.step)
            steps.append(reverse_within(hidden, lengths) if turned else hidden)
            lasts.append(last)
        batch_first = bool(attributes["layout"])
        every = np.stack(steps, axis=1)  # [T,D,B,H]
        every = every.transpose(2, 0, 1, 3) if batch_first else every
        results = [narrow(every, original)]
        for parts in zip(*lasts, strict=True):
            last_state = np.stack(parts, axis=1 if batch_first else 0)
            results.append(narrow(last_state, original))
        return results

    @classmethod
    def _cells(cls, inputs: Inputs, attributes: Attributes) -> list[Cell]:
        weights, recurrence = widen(required(inputs, 1)), widen(required(inputs, 2))
        given, peepholes = optional(inputs, 3), optional(inputs, 7)
        half = cls.gates * recurrence.shape[-1]
        bias = np.zeros((len(weights), 2 * half), weights.dtype) if given is None else widen(given)
        functions = activations_for(attributes, cls.defaults)
        count = len(cls.defaults)
        return [
            Cell(
                weights[index],
                recurrence[index],
                bias[index, :half],
                bias[index, half:],
                functions[index * count : (index + 1) * count],
                attributes["clip"] or None,
                None if peepholes is None else widen(peepholes[index]),
                attributes,
            )
            for index in range(len(weights))
        ]

    @classmethod
    def _initial(
        cls, inputs: Inputs, attributes: Attributes, index: int, x: Array, cell: Cell
    ) -> list[Array]:
        states = []
        for position in range(5, 5 + cls.state_count):
            given = optional(inputs, position)
            if given is None:
                states.append(np.zeros((x.shape[1], cell.recurrence.shape[-1]), dtype=x.dtype))
                continue
            states.append(widen(given[:, index] if attributes["layout"] else given[index]))
        return states

    @classmethod
    def cost(cls, node: Node) -> Cost:
        """Count two operations a weight and step, and ten a gate for the pointwise part."""
        x, weights, recurrence = node.present_inputs[:3]
        steps = product((x.shape or (1, 1))[:2])
        weight_count = product(weights.shape or ()) + product(recurrence.shape or ())
        gates = product((weights.shape or ())[:2])
        return Cost(steps * (weight_count * 2 + gates * 10), bytes_of(node))


def recurrent_samples(gates: int, states: int) -> list[Sample]:
    """Return cases that every recurrent layer has."""
    steps, batch, features, hidden = 5, 3, 4, 6

    def arrays(directions: int) -> list[Array | None]:
        return [
            random_array(1, steps, batch, features),
            random_array(2, directions, gates * hidden, features) / 2,
            random_array(3, directions, gates * hidden, hidden) / 2,
            random_array(4, directions, 2 * gates * hidden),
        ]

    def initial(directions: int) -> list[Array | None]:
        return [random_array(6 + state, directions, batch, hidden) for state in range(states)]

    def case(name: str, directions: int, *extra: Array | None, **attributes: object) -> Sample:
        shared = {"hidden_size": hidden, **attributes}
        inputs = (*arrays(directions), *extra)
        return Sample(inputs, shared, (1, 2, 3), 1 + states, name)

    lengths = np.array([5, 2, 3], np.int32)
    return [
        case("forward", 1),
        case("reverse", 1, direction="reverse"),
        case("bidirectional", 2, direction="bidirectional"),
        case("initial", 1, None, *initial(1)),
        case("lengths", 2, lengths, *initial(2), direction="bidirectional"),
        case("clip", 1, clip=0.4),
        Sample(tuple(arrays(1)[:3]), {"hidden_size": hidden}, (1, 2), 1 + states, "no_bias"),
    ]


class RNN(_Recurrent):
    """Simple recurrent layer: h = f(x W^T + h R^T + bias)."""

    name = "RNN"
    gates = 1
    defaults = ("Tanh",)

    @classmethod
    def step(cls, cell: Cell, projected: Array, states: list[Array]) -> list[Array]:
        """Return the new hidden state."""
        total = projected + states[0] @ cell.recurrence.T + cell.recurrent_bias
        return [cell.activations[0](cell.clipped(total))]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Cover directions, lengths, states, clip and other activations."""
        base = recurrent_samples(1, 1)
        relu = Sample(base[0].inputs, {"hidden_size": 6, "activations": ("Relu",)}, (1, 2, 3), 2)
        affine = {
            "hidden_size": 6,
            "activations": ("HardSigmoid",),
            "activation_alpha": (0.3,),
            "activation_beta": (0.4,),
        }
        return [*base, relu, Sample(base[0].inputs, affine, (1, 2, 3), 2, "hard_sigmoid")]


class GRU(_Recurrent):
    """Gated recurrent unit; gates update z, reset r, hidden h (in this order in the weights).

    h' = (1 - z) * g(x W_h + ...) + z * h; with `linear_before_reset` the reset gate multiplies the
    recurrent product and its bias instead of the state.
    """

    name = "GRU"
    gates = 3
    defaults = ("Sigmoid", "Tanh")
    attributes: ClassVar[Mapping[str, Any]] = {**_Recurrent.attributes, "linear_before_reset": 0}

    @classmethod
    def step(cls, cell: Cell, projected: Array, states: list[Array]) -> list[Array]:
        """Return the new hidden state."""
        (state,) = states
        size = state.shape[1]
        gate, hidden = cell.activations
        recurrent, bias = cell.recurrence, cell.recurrent_bias
        both = projected[:, : 2 * size] + state @ recurrent[: 2 * size].T + bias[: 2 * size]
        update, reset = np.split(gate(cell.clipped(both)), 2, axis=1)
        if (cell.options or {})["linear_before_reset"]:
            inner = reset * (state @ recurrent[2 * size :].T + bias[2 * size :])
        else:
            inner = (reset * state) @ recurrent[2 * size :].T + bias[2 * size :]
        candidate = hidden(cell.clipped(projected[:, 2 * size :] + inner))
        return [(1 - update) * candidate + update * state]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Cover directions, lengths, states, clip and both reset forms."""
        base = recurrent_samples(3, 1)
        linear = [
            Sample(
                sample.inputs,
                {**sample.attributes, "linear_before_reset": 1},
                sample.constant,
                sample.outputs,
                f"{sample.name}_linear",
            )
            for sample in base
        ]
        attributes = {"hidden_size": 6, "activations": ("HardSigmoid", "Softsign")}
        other = Sample(base[0].inputs, attributes, (1, 2, 3), 2, "activations")
        return [*base, *linear, other]


class LSTM(_Recurrent):
    """Long short-term memory; gates input i, output o, forget f, cell c (in this order).

    c' = f * c + i * g(...); h' = o * h(c'). Peepholes P [D,3*H] (i, o, f) let the gates see the
    cell; `input_forget` couples f = 1 - i. Inputs 5, 6 are the initial h and c.
    """

    name = "LSTM"
    gates = 4
    state_count = 2
    defaults = ("Sigmoid", "Tanh", "Tanh")
    attributes: ClassVar[Mapping[str, Any]] = {**_Recurrent.attributes, "input_forget": 0}

    @classmethod
    def step(cls, cell: Cell, projected: Array, states: list[Array]) -> list[Array]:
        """Return the new hidden and cell states."""
        hidden, memory = states
        gate, candidate, squash = cell.activations
        total = projected + hidden @ cell.recurrence.T + cell.recurrent_bias
        total_i, total_o, total_f, total_c = np.split(total, 4, axis=1)
        peep_i = peep_o = peep_f = np.zeros((), total.dtype)
        if cell.peepholes is not None:
            peep_i, peep_o, peep_f = np.split(cell.peepholes, 3)
        enter = gate(cell.clipped(total_i + peep_i * memory))
        keep = gate(cell.clipped(total_f + peep_f * memory))
        if (cell.options or {})["input_forget"]:
            keep = 1 - enter
        memory = keep * memory + enter * candidate(cell.clipped(total_c))
        leave = gate(cell.clipped(total_o + peep_o * memory))
        return [leave * squash(memory), memory]  # ONNX Runtime leaves the cell unclipped

    @classmethod
    def samples(cls) -> list[Sample]:
        """Cover directions, lengths, states, clip, peepholes, coupling and activations."""
        base = recurrent_samples(4, 2)
        peepholes = random_array(9, 1, 18)
        inputs = (*base[0].inputs, None, None, None, peepholes)
        constant = (1, 2, 3, 7)
        shared = {"hidden_size": 6}
        others = {**shared, "activations": ("HardSigmoid", "Softsign", "Relu")}
        return [
            *base,
            Sample(inputs, shared, constant, 3, "peepholes"),
            Sample(base[0].inputs, {**shared, "input_forget": 1}, (1, 2, 3), 3, "coupled"),
            Sample(base[0].inputs, others, (1, 2, 3), 3, "activations"),
        ]
