"""Recurrent layers: what ONNX Runtime does not run, against what it does."""

from __future__ import annotations

import numpy as np
import pytest

from planish.errors import ShapeError
from planish.ir.dtypes import F32
from planish.ir.graph import Graph, Node, Value
from planish.ir.shape import symbol
from planish.ops.op import OPS, Array
from planish.ops.recurrent import activations_for, reverse_within

GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
STATES = {"RNN": 1, "GRU": 1, "LSTM": 2}


def layer(op: str, steps: int = 4) -> list[Array | None]:
    random = np.random.default_rng(0)
    rows = GATES[op] * 5

    def draw(*shape: int) -> Array:
        return random.standard_normal(shape).astype(np.float32)

    return [
        draw(steps, 3, 2),
        draw(2, rows, 2),
        draw(2, rows, 5),
        draw(2, 2 * rows),
        None,
        *(draw(2, 3, 5) for _ in range(STATES[op])),
    ]


@pytest.mark.parametrize("op", sorted(GATES))
def test_batch_first_layout_is_the_transposed_layer(op: str) -> None:
    inputs = layer(op)
    attributes = {**OPS[op].attributes, "direction": "bidirectional", "hidden_size": 5}
    every, *lasts = OPS[op].reference(inputs, attributes)
    turned = [inputs[0].swapaxes(0, 1), *inputs[1:5], *(x.swapaxes(0, 1) for x in inputs[5:])]
    again, *turned_lasts = OPS[op].reference(turned, {**attributes, "layout": 1})
    np.testing.assert_array_equal(again, every.transpose(2, 0, 1, 3))
    for last, turned_last in zip(lasts, turned_lasts, strict=True):
        np.testing.assert_array_equal(turned_last, last.swapaxes(0, 1))


@pytest.mark.parametrize("op", sorted(GATES))
def test_length_equals_a_shorter_sequence(op: str) -> None:
    inputs = layer(op)
    attributes = {**OPS[op].attributes, "direction": "bidirectional", "hidden_size": 5}
    cut = [inputs[0][:2], *inputs[1:]]
    expected = OPS[op].reference(cut, attributes)
    inputs[4] = np.full(3, 2, np.int32)
    got = OPS[op].reference(inputs, attributes)
    np.testing.assert_allclose(got[0][:2], expected[0], rtol=1e-6)
    assert not got[0][2:].any()
    for a, b in zip(got[1:], expected[1:], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_reverse_within_lengths() -> None:
    x = np.arange(8).reshape(4, 2, 1)
    turned = reverse_within(x, np.array([4, 2]))
    assert turned[:, 0, 0].tolist() == [6, 4, 2, 0]
    assert turned[:, 1, 0].tolist() == [3, 1, 5, 7]


def test_activation_parameters_are_consumed_in_order() -> None:
    attributes = {
        **OPS["LSTM"].attributes,
        "activations": ("HardSigmoid", "Tanh", "LeakyRelu"),
        "activation_alpha": (0.25, 0.1),
        "activation_beta": (0.5,),
    }
    gate, candidate, squash = activations_for(attributes, ("Sigmoid", "Tanh", "Tanh"))
    x = np.array([-1.0, 1.0])
    np.testing.assert_allclose(gate(x), [0.25, 0.75])
    np.testing.assert_allclose(candidate(x), np.tanh(x))
    np.testing.assert_allclose(squash(x), [-0.1, 1.0])


def lstm_node(weights: tuple[int, ...], **attributes: object) -> Node:
    graph = Graph()
    x = graph.add_input("x", F32, (symbol("T"), symbol("B"), 2))
    constants = [graph.constant(np.zeros(shape, np.float32)) for shape in (weights, (1, 20, 5))]
    outputs = [Value(name, F32, None) for name in ("y", "h", "c")]
    return graph.append(
        Node("LSTM", [x, *constants], outputs, {**OPS["LSTM"].attributes, **attributes})
    )


def test_symbolic_shapes() -> None:
    steps, batch = symbol("T"), symbol("B")
    every, hidden, cell = OPS["LSTM"].infer(lstm_node((1, 20, 2)))
    assert every.shape == (steps, 1, batch, 5)
    assert hidden.shape == cell.shape == (1, batch, 5)


def test_weights_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"should have shape \[1, 20, 2\]"):
        OPS["LSTM"].infer(lstm_node((1, 20, 3)))


def test_unknown_activation_is_refused() -> None:
    with pytest.raises(ShapeError, match="'Swoosh'"):
        OPS["LSTM"].infer(lstm_node((1, 20, 2), activations=("Swoosh", "Tanh", "Tanh")))
