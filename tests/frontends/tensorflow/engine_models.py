"""TensorFlow functions around one engine operation, for tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from planish.frontends.tensorflow.engine_op import EngineSignature, engine_nodes
from planish.frontends.tensorflow.engine_rules import EngineSettings
from planish.frontends.tensorflow.library import internal, tensorflow
from planish.frontends.tensorflow.registration import register
from planish.frontends.tensorflow.resources import resource_name


def engine_function(
    name: str,
    compute: Callable[..., Any],
    specs: Sequence[Any],
    *,
    resource: str | None = None,
    scope: str = "",
    count: int = 1,
    **settings: Any,
) -> tuple[Any, str]:
    """Return a ConcreteFunction that runs an engine operation, and its resource name.

    Parameters
    ----------
    name : str
        Of the operation.
    compute : callable
        The segment, of TensorFlow's operations.
    specs : sequence of tf.TensorSpec
        Its inputs.
    resource : str, optional
        By default a digest of the segment.
    scope : str
        In front of the node's name.
    count : int
        Operations one after another (for one input and output); they share the engine.
    settings
        Of `EngineSettings`.
    """
    tf = tensorflow()
    register()
    segment = tf.function(compute, input_signature=specs).get_concrete_function()
    graph_def = tf.compat.v1.GraphDef()
    graph_def.versions.producer = tf.version.GRAPH_DEF_VERSION
    graph_def.library.CopyFrom(segment.graph.as_graph_def().library)
    function = graph_def.library.function.add()
    function.CopyFrom(segment.function_def)
    function.signature.name = f"{name}_native_segment"
    resource = resource or resource_name(name, function.SerializeToString(deterministic=True))
    types = [spec.dtype.as_datatype_enum for spec in specs]
    for index, spec in enumerate(specs):
        node = graph_def.node.add(name=f"x{index}", op="Placeholder")
        node.attr["dtype"].type = types[index]
        node.attr["shape"].shape.CopyFrom(spec.shape.as_proto())
    outputs = [f"x{index}" for index in range(len(specs))]
    for number in range(count):
        given = EngineSettings(
            f"{scope}{name}" if count == 1 else f"{scope}{number}/{name}",
            tuple(_shape(spec) for spec in specs),
            **settings,
        )
        signature = EngineSignature(
            tuple(outputs),
            tuple(types),
            tuple(tensor.dtype.as_datatype_enum for tensor in segment.outputs),
            tuple(_shape(tensor) for tensor in segment.outputs),
        )
        nodes, outputs = engine_nodes(given, signature, function.signature.name, resource)
        graph_def.node.extend(nodes)
    wrapped = internal("python.eager.wrap_function").function_from_graph_def(
        graph_def,
        [f"x{index}:0" for index in range(len(specs))],
        [output if ":" in output else f"{output}:0" for output in outputs],
    )
    return wrapped, resource


def _shape(tensor: Any) -> tuple[int | None, ...] | None:
    return None if tensor.shape.rank is None else tuple(tensor.shape.as_list())
