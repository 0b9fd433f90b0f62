"""TensorFlow runs a segment from inside the kernel of its engine operation.

A call of a function would wait for a thread of TensorFlow's pool while the kernel occupies one:
with all of them inside kernels, nothing moves. A session with threads of its own never waits.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from planish.config import Profile
from planish.errors import ModelError
from planish.frontends.tensorflow.calibration import ByteCalibrator
from planish.frontends.tensorflow.engine_builder import SegmentGraph, build_engine
from planish.frontends.tensorflow.engine_rules import EngineSettings
from planish.frontends.tensorflow.library import internal, tensorflow
from planish.runtime.engine import Engine

Array = np.ndarray[Any, Any]
Library = Callable[[], bytes]  # gives a serialized FunctionDefLibrary


class NativeSegment:
    """The function that an engine operation stands for.

    Parameters
    ----------
    engine_name : str
        For messages.
    function_name : str
        Its name in the library; "" when the model was saved without.
    """

    def __init__(self, engine_name: str, function_name: str) -> None:
        self._engine_name = engine_name
        self._function_name = function_name
        self._graph: SegmentGraph | None = None
        self._run: Callable[..., list[Array]] | None = None
        self._lock = threading.Lock()

    def run(self, inputs: Sequence[Array], library: Library) -> list[Array]:
        """Return the outputs that TensorFlow computes."""
        run = self._run
        if run is None:
            with self._lock:
                run = self._run = self._run or _session_call(self._segment(library))
        return list(run(*inputs))

    def release(self) -> None:
        """Free the session and the graph, which holds the segment's constants."""
        self._run = self._graph = None

    def build(
        self,
        profiles: Sequence[Profile],
        settings: EngineSettings,
        time_budget: float,
        library: Library,
    ) -> Engine:
        """Return an engine that computes the same."""
        with self._lock:
            segment = self._segment(library)
        table = settings.calibration_data if settings.precision.upper() == "INT8" else b""
        calibrator = ByteCalibrator(None, table) if table else None
        return build_engine(segment, profiles, settings, time_budget, calibrator=calibrator)

    def _segment(self, library: Library) -> SegmentGraph:
        if self._graph is None:
            self._graph = _graph_of(self._function_name, library(), self._engine_name)
        return self._graph


def _graph_of(name: str, library: bytes, engine_name: str) -> SegmentGraph:
    """Return a function of a library as a graph, with the functions that it calls."""
    tf = tensorflow()
    functions = internal("core.framework.function_pb2").FunctionDefLibrary.FromString(library)
    by_name = {function.signature.name: function for function in functions.function}
    if name not in by_name:
        raise ModelError(
            f"the model holds no native segment {name!r}",
            where=engine_name,
            fix="convert without TF_TRT_EXPERIMENTAL_FEATURES=remove_native_segments",
        )
    definition = by_name[name]
    called = tf.compat.v1.GraphDef()
    called.versions.producer = tf.version.GRAPH_DEF_VERSION
    for inner in _called(definition, by_name):
        called.library.function.add().CopyFrom(by_name[inner])
    with tf.Graph().as_default():
        tf.import_graph_def(called, name="")  # the conversion looks the functions up here
        convert = internal("python.framework.function_def_to_graph").function_def_to_graph_def
        graph_def, names = convert(definition)
    del graph_def.library.function[:]
    graph_def.library.CopyFrom(called.library)
    signature = definition.signature
    return SegmentGraph(
        graph_def,
        tuple(argument.name for argument in signature.input_arg),
        tuple(names[definition.ret[argument.name]] for argument in signature.output_arg),
    )


def _called(definition: Any, by_name: dict[str, Any]) -> list[str]:
    """Return the functions that one calls, directly or not."""
    found: dict[str, None] = {}
    waiting = [definition]
    while waiting:
        for node in waiting.pop().node_def:
            for name in _mentioned(node):
                if name in by_name and name not in found:
                    found[name] = None
                    waiting.append(by_name[name])
    return list(found)


def _mentioned(node: Any) -> list[str]:
    names = [node.op]
    for value in node.attr.values():
        names.append(value.func.name)
        names += [function.name for function in value.list.func]
    return names


def _session_call(segment: SegmentGraph) -> Callable[..., list[Array]]:
    tf = tensorflow()
    config_pb2 = internal("core.protobuf.config_pb2")
    graph = tf.Graph()
    with graph.as_default():
        tf.import_graph_def(segment.graph_def, name="")
    config = tf.compat.v1.ConfigProto(
        inter_op_parallelism_threads=1, use_per_session_threads=True, device_count={"GPU": 0}
    )
    session = tf.compat.v1.Session(graph=graph, config=config)
    options = config_pb2.CallableOptions(
        feed=[_tensor(name) for name in segment.inputs],
        fetch=[_tensor(name) for name in segment.outputs],
    )
    call: Callable[..., list[Array]] = session._make_callable_from_options(options)
    return call


def _tensor(name: str) -> str:
    return name if ":" in name else f"{name}:0"
