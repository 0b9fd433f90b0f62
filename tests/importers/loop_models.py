"""Small SavedModels with loops: recurrent layers of Keras 2 and 3, and TensorFlow's control flow.

``loop_models.tar.xz`` holds them with recorded inputs and outputs, so that the tests run without
TensorFlow. To make it anew, once with each TensorFlow and then without::

    python -m tests.importers.loop_models make keras3 FOLDER    # TensorFlow 2.21
    python -m tests.importers.loop_models make keras2 FOLDER    # TensorFlow 2.15
    python -m tests.importers.loop_models make tf1 FOLDER       # any of them
    python -m tests.importers.loop_models pack FOLDER

The ones in ``tf1`` are frozen graphs with the control flow of TensorFlow 1 (Switch, Merge, Enter).
"""

from __future__ import annotations

import io
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

PACKED = Path(__file__).with_name("loop_models.tar.xz")
CASES = 2  # recorded sets of inputs a model
OPEN = {0: 3, 1: 11}  # what an open extent is when outputs are recorded, by axis

Array = np.ndarray[Any, Any]


def recorded(folder: Path) -> list[tuple[dict[str, Array], dict[str, Array]]]:
    """Return (inputs, outputs) of every recorded run of the model in `folder`."""
    data = np.load(folder.with_suffix(".npz"))
    runs = []
    for case in range(CASES):
        sides = []
        for side in ("in", "out"):
            prefix = f"{case}_{side}_"
            sides.append({n.removeprefix(prefix): data[n] for n in data if n.startswith(prefix)})
        runs.append((sides[0], sides[1]))
    return runs


def unpack(folder: Path) -> list[str]:
    """Write all models to `folder`; return their names ("keras3/lstm")."""
    with tarfile.open(PACKED) as archive:
        archive.extractall(folder, filter="data")
        names = [name for name in archive.getnames() if name.endswith(".npz")]
    return [name.removesuffix(".npz") for name in names]


def names() -> list[str]:
    """Return the names of all models."""
    with tarfile.open(PACKED) as archive:
        found = [name for name in archive.getnames() if name.endswith(".npz")]
    return [name.removesuffix(".npz") for name in found]


# -- making them (needs TensorFlow) ----------------------------------------------------------------


def _keras_models(tf: Any, version: str) -> dict[str, Callable[[], Any]]:
    keras, layers = tf.keras, tf.keras.layers

    def on(layer: Any, shape: tuple[int | None, ...] = (12, 5)) -> Any:
        given = keras.Input(shape)
        return keras.Model(given, layer(given))

    def stacked() -> Any:
        given = keras.Input((None, 5))
        inner = layers.LSTM(7, return_sequences=True)(given)
        return keras.Model(given, layers.LSTM(6)(inner))

    def masked(layer: Any) -> Any:
        given = keras.Input((12, 5))
        return keras.Model(given, layer(layers.Masking(0.0)(given)))

    def embedded(layer: Any) -> Any:
        given = keras.Input((12,), dtype="int32")
        return keras.Model(given, layer(layers.Embedding(20, 6, mask_zero=True)(given)))

    def sequences(kind: str, **options: Any) -> Any:
        return getattr(layers, kind)(7, return_sequences=True, **options)

    hard = {"recurrent_activation": "hard_sigmoid", "activation": "relu"}
    cells = [layers.LSTMCell(5), layers.GRUCell(6)]
    both = layers.Bidirectional
    video = layers.ConvLSTM2D(4, 3, return_sequences=True, padding="same")
    models: dict[str, Callable[[], Any]] = {
        "lstm": lambda: on(layers.LSTM(7)),
        "lstm_seq": lambda: on(sequences("LSTM")),
        "lstm_state": lambda: on(sequences("LSTM", return_state=True)),
        "lstm_dyn": lambda: on(sequences("LSTM"), (None, 5)),
        "lstm_back": lambda: on(sequences("LSTM", go_backwards=True)),
        "lstm_stack": stacked,
        "lstm_hard": lambda: on(layers.LSTM(7, **hard)),
        "lstm_nobias": lambda: on(layers.LSTM(7, use_bias=False)),
        "lstm_mask": lambda: masked(sequences("LSTM")),
        "lstm_mask_last": lambda: masked(layers.LSTM(7)),
        "lstm_unroll": lambda: on(layers.LSTM(7, unroll=True), (4, 5)),
        "lstm_long": lambda: on(sequences("LSTM"), (100, 5)),
        "gru": lambda: on(layers.GRU(7)),
        "gru_seq_dyn": lambda: on(sequences("GRU"), (None, 5)),
        "gru_v1": lambda: on(sequences("GRU", reset_after=False)),
        "gru_mask": lambda: embedded(sequences("GRU")),
        "rnn": lambda: on(sequences("SimpleRNN")),
        "rnn_dyn": lambda: on(layers.SimpleRNN(7), (None, 5)),
        "rnn_mask": lambda: embedded(sequences("SimpleRNN")),
        "bi_lstm": lambda: on(both(sequences("LSTM")), (None, 5)),
        "bi_gru": lambda: on(both(layers.GRU(7))),
        "bi_mask": lambda: embedded(both(sequences("LSTM"))),
        "bi_mask_last": lambda: embedded(both(layers.LSTM(7))),
        "convlstm": lambda: on(video, (5, 8, 8, 3)),
        "cell_stack": lambda: on(layers.RNN(cells, return_sequences=True)),
    }
    if version == "keras2":
        models["lstm_tm"] = lambda: on(sequences("LSTM", time_major=True), (3, 5))
    return models


def _functions(tf: Any) -> dict[str, tuple[Callable[..., Any], list[Any]]]:
    """Return functions with control flow, and what they take."""
    real = tf.float32
    spec = tf.TensorSpec

    def counted(x: Any) -> Any:
        body = lambda i, a: (i + 1, tf.sin(a) + tf.cast(i, real))  # noqa: E731
        return {"y": tf.while_loop(lambda i, a: i < 10, body, (0, x))[1]}

    def by_data(x: Any) -> Any:
        return {
            "y": tf.while_loop(lambda a: tf.reduce_sum(a) < 100.0, lambda a: (a * 2.0,), (x,))[0]
        }

    def by_input(x: Any, n: Any) -> Any:
        body = lambda i, a: (i + 1, a * 0.9 + 1.0)  # noqa: E731
        return {"y": tf.while_loop(lambda i, a: i < n, body, (0, x))[1]}

    def branch(x: Any) -> Any:
        return {"y": tf.cond(tf.reduce_sum(x) > 0, lambda: x * 2.0, lambda: x - 1.0)}

    def switch(x: Any, k: Any) -> Any:
        branches = [lambda: x * 2.0, lambda: x - 1.0, lambda: tf.sin(x)]
        return {"y": tf.switch_case(k, branches)}

    def mapped(x: Any) -> Any:
        return {"y": tf.map_fn(lambda row: tf.sin(row) * tf.reduce_sum(row), x)}

    def array(x: Any) -> Any:
        kept = tf.TensorArray(real, size=6, element_shape=(4,))
        total = tf.zeros((4,))
        for i in tf.range(6):
            total = total * 0.5 + x[i]
            kept = kept.write(i, total)
        return {"y": kept.stack(), "acc": total}

    def array_in_place(x: Any) -> Any:
        kept = tf.TensorArray(real, size=6, element_shape=(4,)).unstack(x)
        for i in tf.range(1, 6):
            kept = kept.write(i, kept.read(i) + kept.read(i - 1))
        return {"y": kept.stack()}

    def growing(x: Any) -> Any:
        kept = tf.TensorArray(real, size=0, dynamic_size=True, element_shape=(4,))
        for i in tf.range(5):
            kept = kept.write(i, x[i] * tf.cast(i, real))
        return {"y": kept.stack()}

    def early(x: Any) -> Any:
        i = 0
        while i < 10 and tf.reduce_max(x) < 50.0:
            x = x * 1.5 + 1.0
            i += 1
        return {"y": x, "i": i}

    def nested(x: Any) -> Any:
        a = tf.zeros((4,))
        for i in tf.range(7):
            for j in tf.range(5):
                a = tf.sin(a) + x[i, j]
            a = a * 2.0 if tf.reduce_sum(a) > 0.0 else a - 1.0
        return {"y": a}

    def turned(x: Any, lengths: Any) -> Any:
        part = tf.reverse_sequence(x, lengths, seq_axis=1, batch_axis=0)
        return {"y": part, "z": tf.reverse(x, [1])}

    def nested_write(x: Any) -> Any:
        kept = tf.TensorArray(real, size=12, element_shape=(4,))
        for i in tf.range(3):
            for j in tf.range(4):
                kept = kept.write(i * 4 + j, x[i] * tf.cast(j, real))
        return {"y": kept.stack()}

    def branch_write(x: Any) -> Any:
        kept = tf.TensorArray(real, size=6, element_shape=(4,))
        every = tf.TensorArray(real, size=6, element_shape=(4,))
        for i in tf.range(6):
            every = every.write(i, x[i] * 2.0)
            if tf.reduce_sum(x[i]) > 0.0:
                kept = kept.write(i, x[i])
        return {"y": kept.stack(), "z": every.stack()}

    def recurrence(x: Any) -> Any:
        kept = tf.TensorArray(real, size=10, element_shape=(4,), clear_after_read=False)
        kept = kept.write(0, x[0]).write(1, x[1])
        for i in tf.range(2, 10):
            kept = kept.write(i, kept.read(i - 1) * 0.5 + kept.read(i - 2))
        return {"y": kept.stack()}

    def breaking(x: Any) -> Any:
        total = tf.zeros((4,))
        for i in tf.range(6):
            if tf.reduce_sum(x[i]) > 2.5:
                break
            if tf.reduce_sum(x[i]) < -2.5:
                continue
            total += x[i]
        return {"y": total}

    def decoding(x: Any) -> Any:
        token, i = tf.constant(1), 0
        kept = tf.TensorArray(tf.int32, size=8, element_shape=())
        matrix = tf.constant(np.random.default_rng(0).standard_normal((4, 4)).astype(np.float32))
        while i < 8 and token != 3:
            x = tf.tanh(tf.linalg.matvec(matrix, x))
            token = tf.argmax(x, output_type=tf.int32)
            kept = kept.write(i, token)
            i += 1
        return {"y": kept.stack(), "n": i}

    rows = [spec((None, 4), real)]
    matrix = [spec((3, 4), real)]
    six = [spec((6, 4), real)]
    return {
        "while_loop": (counted, rows),
        "while_data": (by_data, matrix),
        "while_n": (by_input, [*matrix, spec((), tf.int32)]),
        "cond": (branch, rows),
        "case": (switch, [*matrix, spec((), tf.int32)]),
        "map_fn": (mapped, rows),
        "map_fn_static": (mapped, six),
        "scan": (lambda x: {"y": tf.scan(lambda a, row: a * 0.5 + row, x)}, rows),
        "foldl": (
            lambda x: {"y": tf.foldl(lambda a, row: tf.tanh(a) + row, x)},
            [spec((9, 4), real)],
        ),
        "ta": (array, six),
        "ta_rmw": (array_in_place, six),
        "ta_dyn": (growing, six),
        "nested_write": (nested_write, [spec((3, 4), real)]),
        "branch_write": (branch_write, six),
        "recurrence": (recurrence, six),
        "breaking": (breaking, six),
        "decoding": (decoding, [spec((4,), real)]),
        "scan_back": (
            lambda x: {"y": tf.scan(lambda a, row: a * 0.5 + row, x, reverse=True)},
            six,
        ),
        "early": (early, matrix),
        "nested": (nested, [spec((7, 5, 4), real)]),
        "revseq": (turned, [spec((3, 6, 4), real), spec((3,), tf.int32)]),
    }


def _drawn(spec: Any, name: str, random: np.random.Generator) -> Array:
    """Return an input of a model."""
    shape = [OPEN.get(axis, 6) if n is None else n for axis, n in enumerate(spec.shape)]
    numbers = {"while_n": 6, "case": 2, "revseq": [2, 6, 3]}
    if spec.dtype.is_integer and name in numbers:
        return np.array(numbers[name], np.int32)
    if spec.dtype.is_integer:
        drawn = random.integers(1, 20, shape).astype(np.int32)
        for place, row in enumerate(drawn):
            row[8 + place % 4 :] = 0
        return drawn
    values = random.standard_normal(shape).astype(np.float32)
    if "mask" in name:
        for place, row in enumerate(values):
            row[7 + place % 4 :] = 0
    return np.abs(values) if name == "while_data" else values


def make(version: str, folder: Path) -> None:
    """Write all models of one Keras with recorded runs."""
    import tensorflow as tf  # only here: tests run without it

    random = np.random.default_rng(0)
    for name, build in _keras_models(tf, version).items():
        model = build()
        for weight in model.weights:
            drawn = random.standard_normal(tuple(weight.shape))
            weight.assign(drawn.astype(np.float32) * 0.4)
        model.export(str(folder / version / name))
        _record(tf, folder / version / name, random)
    for name, (function, specs) in _functions(tf).items():
        module = tf.Module()
        module.f = tf.function(function, input_signature=specs)
        where = str(folder / version / name)
        tf.saved_model.save(module, where, signatures={"serving_default": module.f})
        _record(tf, folder / version / name, random)


def _lstm_of_tf1(tf: Any, x: Any) -> list[Any]:
    """Return the steps and the last state of an LSTM as tf.nn.dynamic_rnn writes it."""
    v1, units = tf.compat.v1, 6
    random = np.random.default_rng(3)
    kernel = tf.constant(random.normal(0, 0.3, (5 + units, 4 * units)).astype(np.float32))
    bias = tf.constant(random.normal(0, 0.3, 4 * units).astype(np.float32))
    steps, zeros = tf.shape(x)[1], tf.zeros([tf.shape(x)[0], units])
    given = v1.TensorArray(tf.float32, steps, element_shape=[None, 5])
    given = given.unstack(tf.transpose(x, [1, 0, 2]))

    def step(time: Any, h: Any, c: Any, kept: Any) -> tuple[Any, ...]:
        gates = tf.matmul(tf.concat([given.read(time), h], 1), kernel) + bias
        enter, candidate, forget, leave = tf.split(gates, 4, 1)
        c = c * tf.sigmoid(forget + 1.0) + tf.sigmoid(enter) * tf.tanh(candidate)
        h = tf.tanh(c) * tf.sigmoid(leave)
        return time + 1, h, c, kept.write(time, h)

    start = [0, zeros, zeros, v1.TensorArray(tf.float32, steps)]
    _, h, _, kept = v1.while_loop(lambda time, *_: time < steps, step, start)
    return [tf.transpose(kept.stack(), [1, 0, 2]), h]


def make_tf1(folder: Path) -> None:
    """Write frozen graphs with TensorFlow 1's control flow and recorded runs."""
    import tensorflow as tf  # only here: tests run without it

    v1 = tf.compat.v1
    random = np.random.default_rng(0)

    def nested(x: Any) -> list[Any]:
        def step(i: Any, a: Any) -> tuple[Any, Any]:
            return i + 1, v1.cond(tf.reduce_sum(a) > 0, lambda: a - x[i], lambda: a + x[i])

        return [v1.while_loop(lambda i, a: i < 4, step, [0, x[0]])[1]]

    def early(x: Any) -> list[Any]:
        goes_on = lambda i, a: tf.logical_and(i < 10, tf.reduce_max(a) < 50.0)  # noqa: E731
        return [v1.while_loop(goes_on, lambda i, a: (i + 1, a * 1.5 + 1), [0, x])[1]]

    models: dict[str, tuple[Callable[..., list[Any]], tuple[int | None, ...]]] = {
        "lstm": (lambda x: _lstm_of_tf1(tf, x), (2, 9, 5)),
        "lstm_dyn": (lambda x: _lstm_of_tf1(tf, x), (None, None, 5)),
        "cond": (lambda x: [v1.cond(tf.reduce_sum(x) > 0, lambda: x * 2, lambda: x - 1)], (3, 4)),
        "early": (early, (3, 4)),
        "map_fn": (lambda x: [tf.map_fn(lambda row: tf.sin(row) * 2, x)], (5, 4)),
        "nested": (nested, (5, 4)),
    }
    (folder / "tf1").mkdir(parents=True)
    for name, (build, shape) in models.items():
        with tf.Graph().as_default() as graph, v1.Session(graph=graph) as session:
            v1.disable_control_flow_v2()
            x = v1.placeholder(tf.float32, shape, name="x")
            results = [tf.identity(y, name=f"y{index}") for index, y in enumerate(build(x))]
            data: dict[str, Array] = {}
            for case in range(CASES):
                extents = [OPEN[axis] if dim is None else dim for axis, dim in enumerate(shape)]
                drawn = random.standard_normal(extents).astype(np.float32)
                data[f"{case}_in_x"] = drawn
                for index, array in enumerate(session.run(results, {x: drawn})):
                    data[f"{case}_out_y{index}"] = array
            path = folder / "tf1" / name
            path.with_suffix(".pb").write_bytes(graph.as_graph_def().SerializeToString())
            np.savez(path.with_suffix(".npz"), **data)  # type: ignore[arg-type]


def _record(tf: Any, path: Path, random: np.random.Generator) -> None:
    loaded = tf.saved_model.load(str(path))
    function = loaded.signatures["serving_default"]
    specs = function.structured_input_signature[1]
    data = {}
    for case in range(CASES):
        given = {key: _drawn(spec, path.name, random) for key, spec in specs.items()}
        results = function(**{key: tf.constant(array) for key, array in given.items()})
        data.update({f"{case}_in_{key}": array for key, array in given.items()})
        data.update({f"{case}_out_{key}": value.numpy() for key, value in results.items()})
    np.savez(path.with_suffix(".npz"), **data)


def pack(folder: Path) -> None:
    """Write the archive; equal files give equal bytes."""
    memory = io.BytesIO()
    with tarfile.open(fileobj=memory, mode="w:xz", preset=9) as archive:
        files = [p for p in sorted(folder.rglob("*")) if p.is_file()]
        for path in files:
            if path.name == "fingerprint.pb":
                continue
            info = tarfile.TarInfo(str(path.relative_to(folder)))
            info.size = path.stat().st_size
            with path.open("rb") as file:
                archive.addfile(info, file)
    PACKED.write_bytes(memory.getvalue())


if __name__ == "__main__":
    if sys.argv[1:3] == ["make", "tf1"]:
        make_tf1(Path(sys.argv[3]))
    elif sys.argv[1] == "make":
        make(sys.argv[2], Path(sys.argv[3]))
    else:
        pack(Path(sys.argv[2]))
