"""Models changed at random end in a plan or in a PlanishError, never in another exception.

The changes keep the protobuf sound: wrong operators, inputs, attributes, shapes and constants.
"""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import onnx
import pytest

import planish
from planish.config import BuildConfig, Profile
from planish.errors import BuildStopped, PlanishError
from tests import small_models
from tests.conftest import DIGITS

OPERATORS = (
    "Add", "Cast", "Concat", "ConvTranspose", "Einsum", "GRU", "Gather", "If", "Loop", "Mul",
    "Relu", "Reshape", "Resize", "Slice", "Softmax", "Split", "TopK", "Transpose",
)  # fmt: skip
NUMBERS = (-(2**40), -3, -1, 0, 1, 2, 3, 7, 100, 2**31)


def originals() -> list[tuple[onnx.ModelProto, dict[str, Profile]]]:
    return [
        (small_models.convolutions(2, 12), {}),
        (small_models.transformer(), {"ids": Profile((1, 1), (2, 16), (8, 64))}),
        (small_models.recurrent(), {"x": Profile((1, 1, 8), (16, 2, 8), (64, 8, 8))}),
        (small_models.suppression(), {}),
        (onnx.load(DIGITS), {}),
    ]


def mutated(proto: onnx.ModelProto, generator: random.Random) -> onnx.ModelProto:
    """Return a copy of `proto` with one to three changes."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    for _ in range(generator.choice([1, 1, 2, 3])):
        generator.choice(CHANGES)(copy.graph, generator)
    return copy


def change_input(graph: onnx.GraphProto, generator: random.Random) -> None:
    names = [name for node in graph.node for name in node.input]
    node = generator.choice(graph.node)
    if node.input:
        node.input[generator.randrange(len(node.input))] = generator.choice(names)


def drop_input(graph: onnx.GraphProto, generator: random.Random) -> None:
    node = generator.choice(graph.node)
    if node.input:
        del node.input[generator.randrange(len(node.input))]


def change_operator(graph: onnx.GraphProto, generator: random.Random) -> None:
    present = [node.op_type for node in graph.node]
    generator.choice(graph.node).op_type = generator.choice([*present, *OPERATORS])


def change_attribute(graph: onnx.GraphProto, generator: random.Random) -> None:
    node = generator.choice(graph.node)
    if not node.attribute:
        return
    attribute = generator.choice(node.attribute)
    if attribute.ints:
        attribute.ints[generator.randrange(len(attribute.ints))] = generator.choice(NUMBERS)
    elif attribute.type == onnx.AttributeProto.INT:
        attribute.i = generator.choice(NUMBERS)
    elif attribute.type == onnx.AttributeProto.FLOAT:
        attribute.f = generator.choice([0.0, -1.0, 1e30, float("nan"), float("inf")])


def drop_attribute(graph: onnx.GraphProto, generator: random.Random) -> None:
    node = generator.choice(graph.node)
    if node.attribute:
        del node.attribute[generator.randrange(len(node.attribute))]


def change_extent(graph: onnx.GraphProto, generator: random.Random) -> None:
    tensor = generator.choice(graph.initializer)
    if tensor.dims:
        position = generator.randrange(len(tensor.dims))
        tensor.dims[position] = generator.choice([0, 1, 2, 3, 16, -1, 2**33])


def change_integers(graph: onnx.GraphProto, generator: random.Random) -> None:
    """Change an integer constant, such as the target of a Reshape."""
    tensors = [t for t in graph.initializer if t.data_type == onnx.TensorProto.INT64]
    if not tensors:
        return
    tensor = generator.choice(tensors)
    array = np.frombuffer(tensor.raw_data, np.int64) + generator.choice([-3, -1, 1, 5, 1000])
    tensor.raw_data = array.tobytes()


def change_interface(graph: onnx.GraphProto, generator: random.Random) -> None:
    value = generator.choice([*graph.input, *graph.output])
    dims = value.type.tensor_type.shape.dim
    if dims:
        generator.choice(dims).dim_value = generator.choice([0, 1, 2, 5, 12, 16])


CHANGES = (
    change_input,
    drop_input,
    change_operator,
    change_attribute,
    drop_attribute,
    change_extent,
    change_integers,
    change_interface,
)


def outcomes_of(seed: int, count: int) -> Counter[str]:
    generator, models = random.Random(seed), originals()
    outcomes: Counter[str] = Counter()
    for number in range(count):
        proto, profiles = generator.choice(models)
        changed = mutated(proto, generator)
        try:
            planish.build(changed, BuildConfig(tune="off", profiles=profiles, threads=1))
        except BuildStopped:
            outcomes["planned"] += 1
        except PlanishError as error:
            outcomes[type(error).__name__] += 1
        except BaseException as error:
            error.add_note(f"seed {seed}, model {number}")
            raise
    return outcomes


@pytest.fixture(autouse=True)
def stop_before_compilation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLANISH_STOP_AFTER", "plan")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(3))
def test_mutated_models(seed: int) -> None:
    outcomes = outcomes_of(seed, 60)
    assert outcomes["planned"] > 5
    assert outcomes["ModelError"] > 5


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(100, 104))
def test_many_mutated_models(seed: int) -> None:
    assert outcomes_of(seed, 500)["planned"] > 50
