"""Makes a callable function of a converted GraphDef, with the signature of the original."""

from __future__ import annotations

from typing import Any

from planish.frontends.tensorflow.engine_op import OP
from planish.frontends.tensorflow.library import internal, tensorflow
from planish.frontends.tensorflow.loading import FrozenModel


def function_of(graph_def: Any, model: FrozenModel) -> Any:
    """Return a ConcreteFunction that is called like the model's signature and runs `graph_def`.

    Parameters
    ----------
    graph_def : GraphDef
        Holds the inputs and outputs of the frozen model under their names.
    model : FrozenModel
        Gives names and structure of arguments and results, and what is captured.
    """
    _forget_functions(graph_def)
    signature = model.signature
    function = internal("python.eager.wrap_function").function_from_graph_def(
        graph_def,
        model.input_names,
        model.output_names,
        model.captures,
    )
    function.graph.structured_outputs = tensorflow().nest.pack_sequence_as(
        signature.graph.structured_outputs, function.graph.structured_outputs
    )
    if hasattr(signature, "function_type"):  # since TensorFlow 2.14
        function._function_type = signature.function_type  # takes arguments by name
        function._inference_function._function_type = signature.function_type  # names results
    function.graph.structured_input_signature = signature.structured_input_signature
    return function


def _forget_functions(graph_def: Any) -> None:
    """Remove the graph's functions from TensorFlow's table of functions.

    Loading the model entered them there; optimized functions of the same names may differ.
    """
    context = internal("python.eager.context").context()
    for function in graph_def.library.function:
        while context.has_function(function.signature.name):
            context.remove_function(function.signature.name)


def engine_nodes(graph_def: Any) -> list[Any]:
    """Return the NodeDefs of all engines in the graph and in its functions."""
    nodes = list(graph_def.node)
    for function in graph_def.library.function:
        nodes += function.node_def
    return [node for node in nodes if node.op == OP]


def without_native_segments(graph_def: Any) -> None:
    """Remove the segments' native functions: engines must then serve all inputs."""
    functions = graph_def.library.function
    for index in reversed(range(len(functions))):
        if functions[index].signature.name.endswith("_native_segment"):
            del functions[index]
    for node in engine_nodes(graph_def):
        node.attr["segment_func"].func.name = ""
