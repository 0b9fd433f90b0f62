"""A TensorFlow graph ready for import: calls inlined, variables bound, references resolved.

Invariants
----------
- `nodes` is in topological order; node names are unique within one `TfGraph`; what nothing needs
  for the outputs is gone (but every input keeps its ``Placeholder``, used or not).
- A reference names a node of the same graph and the number of one of its outputs.
- No ``PartitionedCall``, ``StatefulPartitionedCall``, ``VarHandleOp``, ``VariableV2`` or
  ``ReadVariableOp`` is left: a variable is a ``Const`` whose value maps the file.
- Control flow is functional (``While``, ``If``, ``Case`` and their ``Stateless`` forms); the
  function attributes name entries of `functions`, whose inputs are the node's operands in order
  (without the predicate of ``If`` and the index of ``Case``). Variables, and constants that a loop
  only hands through, are no operands: they are ``Const`` nodes inside the body.
- ``LookupTableFindV2`` has two inputs (keys, default) and its table as the attribute ``table``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

TfType = np.dtype[Any] | str  # "string", "resource", "variant", "qint8", ... have no numpy dtype
TfShape = tuple[int | None, ...] | None  # None: the rank is unknown


@dataclass(frozen=True)
class TfRef:
    """One output of a node: the node's name and the output's number."""

    node: str
    index: int = 0

    def __str__(self) -> str:
        return f"{self.node}:{self.index}" if self.index else self.node


@dataclass(frozen=True)
class TfFunction:
    """A function attribute: the name of an entry of `TfGraph.functions`, and its attributes."""

    name: str
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class TfTable:
    """A constant lookup table.

    Attributes
    ----------
    keys, values : numpy.ndarray
        One-dimensional keys and as many values; strings are `bytes` in object arrays.
    """

    keys: np.ndarray[Any, Any]
    values: np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class TfNode:
    """A node.

    Attributes
    ----------
    name : str
        Unique in its graph; the user's name, behind the names of the calls it was inlined from.
    op : str
        TensorFlow's name of the operation.
    inputs : tuple of TfRef
        Data operands in TensorFlow's order.
    attributes : dict of str to object
        Decoded: int, float, bool, str (bytes where it is not text), `TfType`, `TfShape`,
        numpy arrays, `TfFunction`, `TfTable`, and lists of these. Defaults are filled in where
        the model carries its operations' definitions (SavedModels do, frozen graphs do not):
        read with `attributes.get(name, default)`. Names with a leading underscore are left out.
    device : str
        Where TensorFlow was asked to run it.
    """

    name: str
    op: str
    inputs: tuple[TfRef, ...] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)
    device: str = ""

    def __str__(self) -> str:
        return f"{self.name} = {self.op}({', '.join(map(str, self.inputs))})"


@dataclass(frozen=True)
class TfInput:
    """An input of a graph; the ``Placeholder`` node of the same name stands for it.

    Attributes
    ----------
    name : str
        The signature's key, or the argument's name in a function.
    dtype : TfType
    shape : TfShape
        Extents that the model leaves open are None.
    source : str
        TensorFlow's tensor name ("serving_default_x:0").
    """

    name: str
    dtype: TfType
    shape: TfShape
    source: str = ""


@dataclass(frozen=True)
class TfOutput:
    """An output of a graph.

    Attributes
    ----------
    name : str
        The signature's key, or the result's name in a function.
    ref : TfRef
    shape : TfShape
        What the model declares; None where it says nothing.
    source : str
        TensorFlow's tensor name ("StatefulPartitionedCall:0").
    """

    name: str
    ref: TfRef
    shape: TfShape = None
    source: str = ""


@dataclass(frozen=True, eq=False)
class TfGraph:
    """A graph or the body of a function.

    Attributes
    ----------
    nodes : tuple of TfNode
        In topological order.
    inputs, outputs : tuple of TfInput, TfOutput
        In the order of the signature's sorted keys, of a function's arguments and results.
    functions : dict of str to TfGraph
        Bodies that control flow refers to; one mapping for the whole model.
    label : str
        The file and signature, for messages.
    notes : tuple of str
        What the user should know about the reading.
    """

    nodes: tuple[TfNode, ...]
    inputs: tuple[TfInput, ...]
    outputs: tuple[TfOutput, ...]
    functions: Mapping[str, TfGraph] = field(default_factory=dict)
    label: str = ""
    notes: tuple[str, ...] = ()

    @cached_property
    def by_name(self) -> dict[str, TfNode]:
        """The nodes by name."""
        return {node.name: node for node in self.nodes}

    def __str__(self) -> str:
        lines = [f"inputs: {', '.join(f'{i.name}: {i.dtype} {i.shape}' for i in self.inputs)}"]
        lines += [f"  {node}" for node in self.nodes]
        lines.append(f"outputs: {', '.join(f'{o.name} = {o.ref}' for o in self.outputs)}")
        return "\n".join(lines)
