"""Makes the SavedModels of this folder; run it with each TensorFlow: make.py FOLDER [CASE ...].

Every case is a folder (or a frozen graph, CASE.pb) and CASE.npz with an input and what TensorFlow
computed from it.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import numpy as np
import tensorflow as tf

v1 = tf.compat.v1
F32 = tf.float32
RANDOM = np.random.default_rng(0)


def numbers(*shape: int) -> Any:
    return RANDOM.standard_normal(shape).astype(np.float32)


class Affine(tf.Module):
    """Variables of several types, captured constants, nested calls, multi-output operations."""

    def __init__(self) -> None:
        self.w = tf.Variable(numbers(4, 3), name="same")
        self.b = tf.Variable(numbers(3), name="same")  # the name repeats
        self.h = tf.Variable(tf.cast(numbers(3), tf.bfloat16))
        self.unused = tf.Variable(["text", ""])
        self.constant = tf.constant(numbers(3))

    @tf.function
    def inner(self, x: Any) -> Any:
        return x @ self.w + self.b

    @tf.function(input_signature=[tf.TensorSpec([None, 4], F32, "x"),
                                  tf.TensorSpec([], F32, "alpha")])  # fmt: skip
    def call(self, x: Any, alpha: Any) -> Any:
        y = self.inner(x) * alpha + self.inner(-x)
        top = tf.math.top_k(y, 2)
        parts = tf.split(y, 3, axis=1)
        return {
            "z": y + self.constant,
            "a": tf.cast(tf.cast(y, tf.bfloat16) + self.h, F32),
            "values": top.values,
            "indices": top.indices,
            "last": parts[2] - parts[1],
        }


class Control(tf.Module):
    """cond, while_loop and switch_case that capture variables."""

    def __init__(self) -> None:
        self.w = tf.Variable(numbers(3, 3))
        self.b = tf.Variable(numbers(3))

    @tf.function(input_signature=[tf.TensorSpec([2, 3], F32, "x")])
    def call(self, x: Any) -> Any:
        y = tf.cond(tf.reduce_sum(x) > 0.0, lambda: x @ self.w, lambda: x - self.b)
        _, z = tf.while_loop(
            lambda i, _: i < 3, lambda i, z: (i + 1, tf.tanh(z @ self.w + self.b)), (0, x)
        )
        index = tf.cast(tf.reduce_sum(tf.cast(x > 0, F32)), tf.int32) % 3
        s = tf.switch_case(index, [lambda: x + 1.0, lambda: x * self.b, lambda: -x])
        return {"branch": y, "loop": z, "case": s}


class Tables(tf.Module):
    """Lookup tables of numbers: from tensors and from a text file."""

    def __init__(self) -> None:
        keys, values = tf.constant([3, 1, 7], tf.int64), tf.constant([0.5, 1.5, 2.5])
        self.table = tf.lookup.StaticHashTable(
            tf.lookup.KeyValueTensorInitializer(keys, values), default_value=-1.0
        )
        path = Path(tempfile.mkdtemp()) / "numbers.txt"
        path.write_text("10\t4\n20\t5\n30\t6\n")
        self.file = tf.lookup.StaticHashTable(
            tf.lookup.TextFileInitializer(str(path), tf.int64, 0, tf.int64, 1), default_value=-9
        )

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int64, "x")])
    def call(self, x: Any) -> Any:
        return {
            "float": self.table.lookup(x),
            "file": self.file.lookup(x * 10),
            "size": self.table.size(),
        }


class Mutable(tf.Module):
    """A table that the checkpoint holds; one function reads it, the other changes it first."""

    def __init__(self) -> None:
        self.table = tf.lookup.experimental.MutableHashTable(tf.int64, F32, -1.0)
        self.table.insert(tf.constant([4, 900_000], tf.int64), tf.constant([0.5, 2.5]))

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int64, "x")])
    def quiet(self, x: Any) -> Any:
        return {"y": self.table.lookup(x)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int64, "x")])
    def loud(self, x: Any) -> Any:
        self.table.insert(x, tf.cast(x, F32))
        return {"y": self.table.lookup(x)}


class Counter(tf.Module):
    """Writes a variable that no output depends on, and one that an output depends on."""

    def __init__(self) -> None:
        self.count, self.w = tf.Variable(0.0), tf.Variable(numbers(3))

    @tf.function(input_signature=[tf.TensorSpec([3], F32, "x")])
    def quiet(self, x: Any) -> Any:
        self.count.assign_add(1.0)
        return {"y": x * self.w}

    @tf.function(input_signature=[tf.TensorSpec([3], F32, "x")])
    def loud(self, x: Any) -> Any:
        self.count.assign_add(1.0)
        return {"y": x * self.count}


class Composite(tf.Module):
    """A signature that gives a ragged tensor."""

    @tf.function(input_signature=[tf.TensorSpec([3], F32, "x")])
    def call(self, x: Any) -> Any:
        return {"y": tf.RaggedTensor.from_row_lengths(x, [1, 2])}


def module(kind: Callable[[], Any], names: tuple[str, ...] = ("call",), **given: Any) -> Any:
    def make(path: Path) -> None:
        made = kind()
        functions = {name: getattr(made, name) for name in names}
        if names == ("call",):
            functions = {"serving_default": made.call}
        tf.saved_model.save(made, str(path), signatures=functions)
        if not given:
            return
        loaded = tf.saved_model.load(str(path)).signatures[next(iter(functions))]
        inputs = {name: tf.constant(value) for name, value in given.items()}
        record(path, given, {name: value.numpy() for name, value in loaded(**inputs).items()})

    return make


def record(path: Path, inputs: dict[str, Any], outputs: dict[str, Any]) -> None:
    named = {f"in:{name}": value for name, value in inputs.items()}
    named |= {f"out:{name}": value for name, value in outputs.items()}
    np.savez(path.with_suffix(".npz"), **named)


def old_graph() -> tuple[Any, dict[str, Any]]:
    """Return input and outputs of a graph in TensorFlow 1's manner."""
    x = v1.placeholder(F32, [None, 4], name="x")
    w = v1.get_variable("w", [4, 3], initializer=v1.random_normal_initializer(seed=1),
                        use_resource=False, partitioner=v1.fixed_size_partitioner(2))  # fmt: skip
    b = v1.get_variable("b", [3], initializer=v1.constant_initializer(numbers(3)),
                        use_resource=True)  # fmt: skip
    scale = v1.get_variable("scale", [], initializer=v1.constant_initializer(1.5),
                            use_resource=False)  # fmt: skip
    y = tf.matmul(x, tf.convert_to_tensor(w)) * scale + b
    positive = tf.reduce_sum(y) > 0.0

    def otherwise() -> Any:
        return v1.cond(tf.reduce_max(y) > 1.0, lambda: y + 10.0, lambda: -y)

    nested = v1.cond(positive, lambda: y * 2.0, otherwise)
    _, loop = v1.while_loop(
        lambda i, _: i < 4, lambda i, z: (i + 1, tf.tanh(z) + b), (tf.constant(0), y)
    )

    def outer(i: Any, z: Any) -> Any:
        inner = v1.while_loop(lambda j, _: j < i, lambda j, u: (j + 1, u * 1.5 + b), (0, z))[1]
        return i + 1, v1.cond(i > 1, lambda: inner - 1.0, lambda: inner)

    twice = v1.while_loop(lambda i, _: i < 3, outer, (tf.constant(0), y))[1]
    results = {"branch": nested, "single": loop, "double": twice}
    return x, {name: tf.identity(tensor, name) for name, tensor in results.items()}


def old_style(path: Path) -> None:
    v1.disable_control_flow_v2()
    value = numbers(2, 4)
    with tf.Graph().as_default(), v1.Session() as session:
        x, outputs = old_graph()
        session.run(v1.global_variables_initializer())
        v1.saved_model.simple_save(session, str(path), {"x": x}, outputs)
        record(path, {"x": value}, session.run(outputs, {x: value}))
    v1.enable_control_flow_v2()


def old_frozen(path: Path) -> None:
    v1.disable_control_flow_v2()
    value = numbers(2, 4)
    with tf.Graph().as_default() as graph, v1.Session() as session:
        x, outputs = old_graph()
        session.run(v1.global_variables_initializer())
        names = [tensor.op.name for tensor in outputs.values()]
        frozen = v1.graph_util.convert_variables_to_constants(session, graph.as_graph_def(), names)
        path.with_suffix(".pb").write_bytes(frozen.SerializeToString())
        record(path, {"x": value}, session.run(outputs, {x: value}))
    v1.enable_control_flow_v2()


def frozen(path: Path) -> None:
    from tensorflow.python.framework import convert_to_constants

    made, value = Control(), numbers(2, 3)
    lowered = convert_to_constants.convert_variables_to_constants_v2(
        made.call.get_concrete_function()
    )
    path.with_suffix(".pb").write_bytes(lowered.graph.as_graph_def().SerializeToString())
    outputs = {
        tensor.op.name: result.numpy()
        for tensor, result in zip(lowered.outputs, lowered(tf.constant(value)), strict=True)
    }
    record(path, {"x": value}, outputs)


def sharded(path: Path) -> None:
    made = Affine()
    policy = tf.train.experimental.MaxShardSizePolicy(max_shard_size=40)
    options = tf.saved_model.SaveOptions(experimental_sharding_callback=policy)
    tf.saved_model.save(made, str(path), signatures=made.call, options=options)


def training_tags(path: Path) -> None:
    """Two meta graphs in one SavedModel."""
    value = numbers(2, 4)
    builder = v1.saved_model.Builder(str(path))
    for number, tags in enumerate((["serve"], ["train", "gpu"])):
        with tf.Graph().as_default(), v1.Session() as session:
            x = v1.placeholder(F32, [None, 4], name="x")
            w = v1.get_variable("w", [], initializer=v1.constant_initializer(3.0))
            y = tf.identity(x * w + float(number))
            session.run(v1.global_variables_initializer())
            signature = v1.saved_model.predict_signature_def({"x": x}, {"y": y})
            signatures = {"serving_default": signature}
            if number == 0:
                builder.add_meta_graph_and_variables(session, tags, signatures)
                record(path, {"x": value}, {"y": session.run(y, {x: value})})
            else:
                builder.add_meta_graph(tags, signatures)
    builder.save()


CASES: dict[str, Callable[[Path], None]] = {
    "affine": module(Affine, x=numbers(2, 4), alpha=np.float32(0.5)),
    "control": module(Control, x=numbers(2, 3)),
    "tables": module(Tables, x=np.array([1, 2, 3, 7], np.int64)),
    "counter": module(Counter, ("quiet", "loud"), x=numbers(3)),
    "mutable": module(Mutable, ("quiet", "loud"), x=np.array([4, 5, 900_000], np.int64)),
    "composite": module(Composite),
    "sharded": sharded,
    "old_style": old_style,
    "old_frozen": old_frozen,
    "frozen": frozen,
    "two_tag_sets": training_tags,
}


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name in sys.argv[2:] or CASES:
        CASES[name](folder / name)


if __name__ == "__main__":
    main()
