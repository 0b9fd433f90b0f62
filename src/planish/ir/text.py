"""Graphs as text: the form of golden tests, dumps and bug reports. `parse_text` reads it back.

Grammar::

    text     := ["symbols" NAME "=" "(" min "," opt "," max ")" ("," ...)*] graph
    graph    := "graph" NAME "(" [input ("," input)*] ")" "{" constant* node* return "}"
    input    := "%"NAME ":" type ["as" STRING]
    constant := "@"NAME ":" type ["=" number | "=" "[" number ("," number)* "]"]
    node     := [output ("," output)* "="] OP "(" [operand ("," operand)*] ")" ["{" attributes "}"]
    output   := "%"NAME [":" type]
    operand  := "%"NAME | "@"NAME | "_"
    return   := "return" [operand ["as" STRING] ("," ...)*]
    type     := DTYPE ("[" [dim ("," dim)*] "]" | "?") [layout] ["at" "%"ROOT "[" place "]"]
    place    := dim ";" [dim ("," dim)*]
    attribute:= NAME "=" (number | STRING | b"hex" | "none" | DTYPE | "[" ... "]" | graph
                          | DTYPE "[" dims "]" ["=" "[" numbers "]"])

``# a + b`` after a node names the user's nodes; other comments are ignored. Attributes that have
their operator's default are left out. Constants of more than eight elements are printed without
contents; the parser then fills them from a generator seeded with label and type, unless it is
given arrays. ``= 0.5`` alone fills a constant with one number. Types of node outputs may be left
out in hand-written text (`planish.ops.infer.graph_from_text` infers them). A constant stands in
the innermost graph around all its uses. "nhwc" after a type is the physical axis order, followed
by the halo of each axis ("+0:0,0:0,1:1,1:1"); "at" gives the offset and strides of a
view in its root's memory.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from planish.ir.declarations import DECLARED
from planish.ir.dtypes import DType, dtype_of
from planish.ir.graph import Graph, Node, Value
from planish.ir.shape import Shape
from planish.ir.text_parser import parse_text

__all__ = ["parse_text", "to_text"]

INLINE_LIMIT = 8  # constants up to this many elements are printed with contents
BARE_NAME = re.compile(r"[A-Za-z0-9_./\-]+")


def to_text(graph: Graph, digests: bool = False) -> str:
    """Return `graph` as text.

    Parameters
    ----------
    graph : Graph
        Any graph, also one that breaks invariants (for error messages).
    digests : bool
        Whether elided constants carry the digest of their contents as a comment.
    """
    printer = _Printer(graph, digests)
    header = ", ".join(f"{name}={tuple(ranges)}" for name, ranges in sorted(graph.ranges.items()))
    lines = [f"symbols {header}"] if header else []
    lines += printer.graph_lines(graph, _Labels(None), "")
    return "\n".join(lines) + "\n"


def node_text(node: Node) -> str:
    """Return one node as text, its subgraphs elided to their names."""
    printer = _Printer(Graph(), False)
    results = ", ".join(f"{_name('%', v.name)}: {type_text(v)}" for v in node.outputs)
    arguments = ", ".join(printer.operand(v, _Labels(None)) for v in node.inputs)
    shown = {
        key: f"graph {value.name}"
        if isinstance(value, Graph)
        else printer.attribute(value, _Labels(None), "")
        for key, value in _shown_attributes(node)
    }
    attributes = ", ".join(f"{key}={value}" for key, value in shown.items())
    return f"{results} = {node.op}({arguments})" + (f" {{{attributes}}}" if shown else "")


def type_text(value: Value) -> str:
    """Return dtype, shape and layout of `value` as they stand in the text form."""
    text = f"{value.dtype}{shape_text(value.shape)}"
    if value.layout is not None and value.layout.order:
        text += f" {value.layout}"
    return text


def shape_text(shape: Shape | None) -> str:
    """Return ``[N,3]``, or ``?`` where the rank is unknown."""
    return "?" if shape is None else "[" + ",".join(map(str, shape)) + "]"


class _Labels:
    """Unique labels of the values that a graph sees: its own, and those around it."""

    def __init__(self, outer: _Labels | None, isolated: bool = False) -> None:
        self._outer = outer
        self._isolated = isolated  # a region's body: only constants are visible from outside
        self._labels: dict[Value, str] = {}
        self._taken: set[str] = set()

    def define(self, value: Value, sigil: str) -> str:
        """Give `value` a label that no visible value has."""
        label, attempt = _name(sigil, value.name), 1
        while self._is_taken(label):
            attempt += 1
            label = _name(sigil, f"{value.name}_{attempt}")
        self._taken.add(label)
        self._labels[value] = label
        return label

    def get(self, value: Value) -> str | None:
        """Return the label of `value`, None when it is not visible."""
        if value in self._labels:
            return self._labels[value]
        hidden = self._outer is None or (self._isolated and not value.is_constant)
        return None if self._outer is None or hidden else self._outer.get(value)

    def _is_taken(self, label: str) -> bool:
        if label in self._taken:
            return True
        if self._outer is None or (self._isolated and label.startswith("%")):
            return False
        return self._outer._is_taken(label)


class _Printer:
    """Prints nested graphs; `labels` maps the values visible in a scope to unique names."""

    def __init__(self, graph: Graph, digests: bool) -> None:
        self._digests = digests
        self._owned: dict[Graph, list[Value]] = {}
        for value, path in _constant_homes(graph).items():
            self._owned.setdefault(path[-1], []).append(value)

    def graph_lines(self, graph: Graph, labels: _Labels, indent: str) -> list[str]:
        inputs = [labels.define(value, "%") for value in graph.inputs]
        constants = [labels.define(value, "@") for value in self._owned.get(graph, [])]
        for node in graph:
            for value in node.outputs:
                labels.define(value, "%")
        arguments = ", ".join(
            self._declaration(value, label, labels) + _public(name, value.name)
            for value, label, name in _with_public(graph.inputs, inputs, graph.input_names)
        )
        lines = [f"graph {_name('', graph.name)}({arguments}) {{"]
        for value, label in zip(self._owned.get(graph, []), constants, strict=True):
            lines.append(f"{indent}  {label}: {self._constant(value)}")
        for node in graph:
            lines.append(f"{indent}  {self._node(node, labels, indent + '  ')}")
        results = [self.operand(value, labels) for value in graph.outputs]
        returned = ", ".join(
            label + _public(name, value.name)
            for value, label, name in _with_public(graph.outputs, results, graph.output_names)
        )
        return [*lines, f"{indent}  return {returned}".rstrip(), f"{indent}}}"]

    def operand(self, value: Value | None, labels: _Labels) -> str:
        if value is None:
            return "_"
        return labels.get(value) or _name("@" if value.is_constant else "%", value.name)

    def attribute(self, value: Any, labels: _Labels, indent: str) -> str:
        if isinstance(value, Graph):
            return "\n".join(self.graph_lines(value, labels, indent))
        if isinstance(value, tuple | list):
            return "[" + ",".join(self.attribute(item, labels, indent) for item in value) + "]"
        if isinstance(value, np.ndarray):
            return f"{dtype_of(value)}{shape_text(value.shape)}{_contents(value)}"
        if isinstance(value, DType):
            return value.name
        if value is None:
            return "none"
        if isinstance(value, bytes):
            return f'b"{value.hex()}"'
        return _scalar(value)

    def _declaration(self, value: Value, label: str, labels: _Labels) -> str:
        text = f"{label}: {type_text(value)}"
        storage = value.storage
        root = None if storage is None or storage.root is value else labels.get(storage.root)
        if storage is None or root is None:
            return text
        strides = ",".join(map(str, storage.strides))
        return f"{text} at {root}[{storage.offset}; {strides}]"

    def _constant(self, value: Value) -> str:
        text = type_text(value) + _contents(value.array)
        if self._digests and value.constant is not None and value.array.size > INLINE_LIMIT:
            text += f"  # {value.constant.digest}"
        return text

    def _node(self, node: Node, labels: _Labels, indent: str) -> str:
        outputs = ", ".join(
            self._declaration(value, self.operand(value, labels), labels) for value in node.outputs
        )
        arguments = ", ".join(self.operand(value, labels) for value in node.inputs)
        isolated = node.op == "Region"
        attributes = ", ".join(
            f"{key}={self.attribute(value, _Labels(labels, isolated), indent)}"
            for key, value in _shown_attributes(node)
        )
        text = f"{outputs} = " if outputs else ""
        text += f"{node.op}({arguments})" + (f" {{{attributes}}}" if attributes else "")
        names = " + ".join(node.source.names)
        return f"{text}  # {_one_line(names)}" if names else text


def _constant_homes(graph: Graph) -> dict[Value, tuple[Graph, ...]]:
    """Return for each constant the path to the innermost graph around all its uses."""
    homes: dict[Value, tuple[Graph, ...]] = {}
    for value, path in _constant_uses(graph, (graph,)):
        have = homes.get(value, path)
        shared = 0
        while shared < min(len(have), len(path)) and have[shared] is path[shared]:
            shared += 1
        homes[value] = path[:shared]
    return homes


def _constant_uses(
    graph: Graph, path: tuple[Graph, ...]
) -> Iterator[tuple[Value, tuple[Graph, ...]]]:
    for node in graph:
        yield from ((value, path) for value in node.present_inputs if value.is_constant)
        for subgraph in node.subgraphs:
            yield from _constant_uses(subgraph, (*path, subgraph))
    yield from ((value, path) for value in graph.outputs if value.is_constant)


def _with_public(
    values: list[Value], labels: list[str], names: list[str]
) -> Iterator[tuple[Value, str, str]]:
    for index, (value, label) in enumerate(zip(values, labels, strict=True)):
        yield value, label, names[index] if index < len(names) else value.name


def _public(public: str, name: str) -> str:
    return "" if public == name else f" as {json.dumps(public)}"


def _shown_attributes(node: Node) -> list[tuple[str, Any]]:
    declared = DECLARED.get(node.op, {})
    order = [key for key in declared if key in node.attributes]
    order += [key for key in node.attributes if key not in declared]
    return [
        (key, node.attributes[key])
        for key in order
        if key not in declared or not _is_default(node.attributes[key], declared[key])
    ]


def _is_default(value: Any, default: Any) -> bool:
    if isinstance(value, np.ndarray | Graph) or isinstance(default, np.ndarray):
        return False
    return type(value) is type(default) and bool(value == default)


def _contents(array: np.ndarray[Any, Any]) -> str:
    if array.size > INLINE_LIMIT:
        return ""
    return " = [" + ", ".join(_scalar(element) for element in array.reshape(-1)) + "]"


def _scalar(value: Any) -> str:
    if isinstance(value, str | bytes):
        return json.dumps(value if isinstance(value, str) else value.decode("utf-8", "replace"))
    if isinstance(value, bool | np.bool_):
        return str(int(value))
    if isinstance(value, int | np.integer):
        return str(int(value))
    if isinstance(value, float | np.float32 | np.float16):
        return _float(str(value))
    if np.asarray(value).dtype.kind == "V" and "int" in str(np.asarray(value).dtype):
        return str(int(value))
    return _float(str(float(value)))


def _float(text: str) -> str:
    return text if re.search(r"[.en]", text) else text + ".0"


def _name(sigil: str, name: str) -> str:
    return sigil + (name if BARE_NAME.fullmatch(name) else json.dumps(name))


def _one_line(text: str) -> str:
    return " ".join(text.split())
