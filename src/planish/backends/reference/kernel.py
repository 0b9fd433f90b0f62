"""Graphs as external kernels of the kind "reference": text and constants in, text and bytes out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from planish.errors import EngineFileError, GraphError
from planish.ir.dtypes import STRING, dtype_by_name
from planish.ir.graph import Graph, Value
from planish.ir.text import INLINE_LIMIT, to_text
from planish.ir.text_parser import parse_text
from planish.tactics.tactic import ExternalKernel

Array = np.ndarray[Any, Any]

KIND = "reference"


def reference_kernel(graph: Graph) -> ExternalKernel:
    """Return the kernel that runs `graph` with the operators' numpy references.

    Small constants are part of the graph's text; larger ones are packed, strings are parameters.
    """
    constants = graph.constants()
    with _unique_names(constants):
        text = to_text(graph)
    packed, described, strings = [], [], {}
    for index, value in enumerate(constants):
        array = value.array
        if array.size <= INLINE_LIMIT:
            continue
        if value.dtype is STRING:
            texts = [t.decode() if isinstance(t, bytes) else str(t) for t in array.reshape(-1)]
            strings[_label(index)] = [list(array.shape), texts]
            continue
        packed.append(np.ascontiguousarray(array).reshape(array.shape))
        described.append([_label(index), value.dtype.name, list(array.shape)])
    parameters = {"graph": text, "constants": described, "strings": strings}
    return ExternalKernel(KIND, parameters, tuple(packed))


def graph_of(parameters: Mapping[str, Any], constants: Sequence[Array]) -> Graph:
    """Return the graph of a reference kernel.

    Parameters
    ----------
    parameters : dict
        `ExternalKernel.parameters`.
    constants : sequence of array
        uint8 arrays that start at the packed constants and may be longer.

    Raises
    ------
    EngineFileError
        When the parameters are not those of a reference kernel.
    """
    try:
        arrays = {}
        for (label, name, shape), memory in zip(parameters["constants"], constants, strict=True):
            dtype = dtype_by_name(name).numpy
            arrays[label] = np.ndarray(tuple(shape), dtype, memory)
        for label, (shape, texts) in parameters["strings"].items():
            arrays[label] = np.array(texts, dtype=object).reshape(shape)
        return parse_text(parameters["graph"], arrays)
    except (AttributeError, KeyError, TypeError, ValueError, GraphError) as error:
        raise EngineFileError(
            f"the parameters of a reference kernel are damaged: {error}",
            fix="build the engine again from its model",
        ) from error


def _label(index: int) -> str:
    return f"constant{index}"


@contextmanager
def _unique_names(constants: Sequence[Value]) -> Iterator[None]:
    """Name constants by position: labels of sibling subgraphs may otherwise be equal."""
    names = [value.name for value in constants]
    try:
        for index, value in enumerate(constants):
            value.name = _label(index)
        yield
    finally:
        for value, name in zip(constants, names, strict=True):
            value.name = name
