"""The parser of the graph text form; its grammar is in text.py."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from planish.errors import GraphError
from planish.ir.constant import Constant
from planish.ir.declarations import DECLARED, REQUIRED
from planish.ir.dtypes import F32, STRING, DType, dtype_by_name
from planish.ir.graph import Graph, Node, Value
from planish.ir.layout import Layout, Storage
from planish.ir.shape import Shape, parse_dim
from planish.ir.source import Source

NAME = re.compile(r"[A-Za-z0-9_./\-]+")
QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')
NUMBER = re.compile(r"-?(?:inf|nan|\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?)")
SPACE = re.compile(r"(?:\s+|#[^\n]*)*")
COMMENT = re.compile(r"[ \t]*#[ \t]*([^\n]*)")
LAYOUT = re.compile(r"([nchwdefg]+)(?:\+((?:\d+:\d+)(?:,\d+:\d+)*))?(?![A-Za-z0-9_])")
AXES = "nchwdefg"

Arrays = Mapping[str, np.ndarray[Any, Any]]


class _Scope:
    """Values by label, sigil included: a graph's own, then those of the graphs around it."""

    def __init__(self, outer: _Scope | None = None, isolated: bool = False) -> None:
        self._outer = outer
        self._isolated = isolated  # a region's body: only constants are visible from outside
        self.values: dict[str, Value] = {}

    def get(self, label: str) -> Value | None:
        """Return the value called `label`, None when there is none."""
        if label in self.values:
            return self.values[label]
        if self._outer is None or (self._isolated and label.startswith("%")):
            return None
        return self._outer.get(label)


def parse_text(text: str, arrays: Arrays | None = None) -> Graph:
    """Return the graph that `text` describes.

    Parameters
    ----------
    text : str
        See the grammar in `planish.ir.text`.
    arrays : dict, optional
        Contents of constants by label (without "@"). Others that `text` elides are filled with
        numbers that depend on label and type only.

    Raises
    ------
    GraphError
        When `text` is malformed, with line and column.
    """
    return _Parser(text, arrays or {}).parse()


class _Parser:
    """Recursive descent over `text`; `_at` is the position."""

    def __init__(self, text: str, arrays: Arrays) -> None:
        self._text = text
        self._arrays = arrays
        self._at = 0
        self._storages: list[tuple[Value, str, str, _Scope]] = []

    def parse(self) -> Graph:
        ranges = self._symbols() if self._accept_word("symbols") else {}
        self._expect_word("graph")
        graph = self._graph(_Scope())
        graph.ranges = ranges
        if self._peek():
            raise self._error("expected the end of the text")
        return graph

    # -- characters ------------------------------------------------------------------------------

    def _error(self, message: str, at: int | None = None) -> GraphError:
        position = self._at if at is None else at
        line = self._text.count("\n", 0, position) + 1
        column = position - self._text.rfind("\n", 0, position)
        content = self._text.split("\n")[line - 1].strip()
        return GraphError(message, where=f"line {line}, column {column}: {content}")

    def _skip(self) -> None:
        match = SPACE.match(self._text, self._at)
        self._at = match.end() if match else self._at

    def _peek(self) -> str:
        self._skip()
        return self._text[self._at : self._at + 1]

    def _accept(self, mark: str) -> bool:
        self._skip()
        if not self._text.startswith(mark, self._at):
            return False
        self._at += len(mark)
        return True

    def _expect(self, mark: str) -> None:
        if not self._accept(mark):
            raise self._error(f"expected {mark!r}, got {self._text[self._at : self._at + 12]!r}")

    def _match(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        self._skip()
        match = pattern.match(self._text, self._at)
        if match:
            self._at = match.end()
        return match

    def _accept_word(self, word: str) -> bool:
        return self._match(re.compile(rf"{word}(?![A-Za-z0-9_])")) is not None

    def _expect_word(self, word: str) -> None:
        if not self._accept_word(word):
            raise self._error(f"expected {word!r}")

    def _name(self) -> str:
        if self._peek() == '"':
            return self._string()
        match = self._match(NAME)
        if match is None:
            raise self._error("expected a name")
        return match.group()

    def _string(self) -> str:
        start = self._at
        match = self._match(QUOTED)
        if match is None:
            raise self._error("expected a string in double quotes")
        try:
            return str(json.loads(match.group()))
        except ValueError as error:
            raise self._error("not a valid string", start) from error

    def _bracketed(self) -> str:
        """Return the text up to the closing "]" of a bracket that was just opened."""
        end = self._text.find("]", self._at)
        if end < 0:
            raise self._error("a '[' is not closed")
        text, self._at = self._text[self._at : end], end + 1
        return text

    def _number(self) -> int | float:
        match = self._match(NUMBER)
        if match is None:
            raise self._error("expected a number")
        text = match.group()
        return int(text) if re.fullmatch(r"-?\d+", text) else float(text)

    # -- graphs ----------------------------------------------------------------------------------

    def _symbols(self) -> dict[str, tuple[int, int, int]]:
        ranges: dict[str, tuple[int, int, int]] = {}
        while not ranges or self._accept(","):
            name = self._name()
            self._expect("=")
            self._expect("(")
            low = int(self._number())
            self._expect(",")
            middle = int(self._number())
            self._expect(",")
            ranges[name] = (low, middle, int(self._number()))
            self._expect(")")
        return ranges

    def _graph(self, scope: _Scope) -> Graph:
        graph, pending = Graph(self._name()), len(self._storages)
        self._expect("(")
        while not self._accept(")"):
            if graph.inputs:
                self._expect(",")
            self._input(graph, scope)
        self._expect("{")
        while not self._accept_word("return"):
            if self._peek() == "@":
                self._constant(graph, scope)
                continue
            self._node(graph, scope)
        self._return(graph, scope)
        self._expect("}")
        self._resolve_storages(pending)
        return graph

    def _input(self, graph: Graph, scope: _Scope) -> None:
        value = self._declare(graph, scope, "%")
        self._expect(":")
        self._type(value, scope)
        scope.values["%" + value.name] = value
        graph.inputs.append(value)
        graph.input_names.append(self._string() if self._accept_as() else value.name)

    def _accept_as(self) -> bool:
        accepted = self._accept_word("as")
        self._skip()
        return accepted

    def _declare(self, graph: Graph, scope: _Scope, sigil: str) -> Value:
        self._expect(sigil)
        start = self._at
        name = self._name()
        if scope.get(sigil + name) is not None:
            raise self._error(f"{sigil}{name} is already defined", start)
        graph.reserve_name(name)
        return Value(name, F32, None)

    def _type(self, value: Value, scope: _Scope) -> None:
        value.dtype = self._dtype()
        value.shape = None if self._accept("?") else self._shape()
        layout = self._match(LAYOUT)
        if layout is not None:
            value.layout = self._layout(value, layout)
        if self._accept_word("at"):
            self._expect("%")
            root = "%" + self._name()
            self._expect("[")
            self._storages.append((value, root, self._bracketed(), scope))

    def _dtype(self) -> DType:
        self._skip()
        start, match = self._at, self._match(re.compile(r"[a-z0-9]+"))
        try:
            return dtype_by_name(match.group() if match else "")
        except KeyError as error:
            raise self._error("expected a dtype", start) from error

    def _shape(self) -> Shape:
        self._expect("[")
        start = self._at
        return self._dims(self._bracketed(), start)

    def _dims(self, text: str, start: int) -> Shape:
        # commas inside floordiv(a, b) do not separate extents
        parts = re.findall(r"(?:[^,()]|\((?:[^()]|\((?:[^()]|\([^()]*\))*\))*\))+", text)
        try:
            return tuple(parse_dim(part.strip()) for part in parts)
        except ValueError as error:
            raise self._error(str(error), start) from error

    def _layout(self, value: Value, match: re.Match[str]) -> Layout:
        order = tuple(AXES.index(letter) for letter in match.group(1))
        rank = len(value.shape or ())
        if sorted(order) != list(range(rank)):
            raise self._error(f"layout {match.group(1)!r} does not order {rank} axes")
        if match.group(2) is None:
            return Layout(order, ((0, 0),) * rank)
        pairs = [pair.split(":") for pair in match.group(2).split(",")]
        if len(pairs) != rank:
            raise self._error(f"the halo has {len(pairs)} axes, the value {rank}")
        return Layout(order, tuple((int(before), int(after)) for before, after in pairs))

    def _resolve_storages(self, first: int) -> None:
        """Set the storages that this graph's values declared; a root may follow its views."""
        for value, label, text, scope in self._storages[first:]:
            root = scope.get(label)
            offset, _, strides = text.partition(";")
            if root is None:
                raise self._error(f"{label}, the storage of %{value.name}, is not defined")
            self._own_storage(root)
            value.storage = Storage(
                root, self._dims(offset, self._at)[0], self._dims(strides, self._at)
            )
        del self._storages[first:]

    def _own_storage(self, root: Value) -> None:
        if root.storage is not None:
            return
        layout, shape = root.layout or Layout.row_major(root.rank), root.known_shape
        root.storage = Storage(root, layout.origin(shape), layout.strides(shape))

    def _constant(self, graph: Graph, scope: _Scope) -> None:
        value = self._declare(graph, scope, "@")
        start = self._at
        self._expect(":")
        self._type(value, scope)
        array = self._array(value.dtype, value.shape or (), value.name, start)
        value.constant = Constant(array)
        scope.values["@" + value.name] = value

    def _array(self, dtype: DType, shape: Shape, label: str, start: int) -> np.ndarray[Any, Any]:
        sizes = tuple(dim for dim in shape if isinstance(dim, int))
        if len(sizes) != len(shape):
            raise self._error("a constant cannot have a symbolic extent", start)
        if not self._accept("="):
            given = self._arrays.get(label)
            return _fill(label, dtype, sizes) if given is None else self._given(given, dtype, sizes)
        elements = self._elements()
        array = np.array(elements, dtype.numpy)
        if array.size == 1:
            return np.full(sizes, array[0], dtype.numpy)
        if array.size != int(np.prod(sizes)):
            raise self._error(f"{array.size} elements for shape {list(sizes)}", start)
        return array.reshape(sizes)

    def _given(
        self, array: np.ndarray[Any, Any], dtype: DType, sizes: tuple[int, ...]
    ) -> np.ndarray[Any, Any]:
        if array.shape != sizes or array.dtype != dtype.numpy:
            raise self._error(f"the given array is {array.dtype}{list(array.shape)}")
        return array

    def _elements(self) -> list[Any]:
        if not self._accept("["):
            return [self._element()]
        elements: list[Any] = []
        while not self._accept("]"):
            if elements:
                self._expect(",")
            elements.append(self._element())
        return elements

    def _element(self) -> Any:
        return self._string() if self._peek() == '"' else self._number()

    def _node(self, graph: Graph, scope: _Scope) -> None:
        outputs = self._results(graph, scope)
        start = self._at
        op = self._name()
        self._expect("(")
        inputs: list[Value | None] = []
        while not self._accept(")"):
            if inputs:
                self._expect(",")
            inputs.append(self._operand(scope))
        attributes = self._attributes(op, scope, start)
        comment = COMMENT.match(self._text, self._at)
        names = tuple(comment.group(1).rstrip().split(" + ")) if comment else ()
        graph.append(Node(op, inputs, outputs, attributes, Source("onnx", names)))
        for value in outputs:
            if "%" + value.name in scope.values:
                raise self._error(f"%{value.name} is defined twice", start)
            scope.values["%" + value.name] = value

    def _results(self, graph: Graph, scope: _Scope) -> list[Value]:
        """Return the outputs to the left of "="; they are not visible before the node ends."""
        outputs: list[Value] = []
        while self._peek() == "%":
            value = self._declare(graph, scope, "%")
            outputs.append(value)
            if self._accept(":"):
                self._type(value, scope)
            if not self._accept(","):
                self._expect("=")
                return outputs
        return outputs

    def _operand(self, scope: _Scope) -> Value | None:
        if self._accept_word("_"):
            return None
        sigil = self._peek()
        start = self._at
        if sigil not in ("%", "@"):
            raise self._error("expected an operand: %value, @constant or _")
        self._at += 1
        label = sigil + self._name()
        value = scope.get(label)
        if value is None:
            raise self._error(f"{label} is not defined before its use", start)
        return value

    def _return(self, graph: Graph, scope: _Scope) -> None:
        while self._peek() in ("%", "@"):
            value = self._operand(scope)
            if value is None:
                raise self._error("an output cannot be absent")
            graph.add_output(value, self._string() if self._accept_as() else None)
            if not self._accept(","):
                return

    # -- attributes ------------------------------------------------------------------------------

    def _attributes(self, op: str, scope: _Scope, start: int) -> dict[str, Any]:
        given: dict[str, Any] = {}
        declared = DECLARED.get(op)
        # no _accept here: "{" must be on the node's own line, and its comment must not be skipped
        opened = re.compile(r"[ \t]*\{").match(self._text, self._at)
        if opened is not None:
            self._at = opened.end()
            while not self._accept("}"):
                if given:
                    self._expect(",")
                self._attribute(op, given, _Scope(scope, isolated=op == "Region"))
        if declared is None:
            return given
        missing = [key for key, value in declared.items() if value is REQUIRED and key not in given]
        if missing:
            raise self._error(f"{op} needs the attribute(s) {', '.join(missing)}", start)
        return {key: given.get(key, default) for key, default in declared.items()}

    def _attribute(self, op: str, given: dict[str, Any], scope: _Scope) -> None:
        self._skip()
        start, name = self._at, self._name()
        if op in DECLARED and name not in DECLARED[op]:
            known = ", ".join(DECLARED[op]) or "none"
            raise self._error(f"{op} has no attribute {name}; known: {known}", start)
        self._expect("=")
        given[name] = self._literal(scope)

    def _literal(self, scope: _Scope) -> Any:
        if self._accept("["):
            items: list[Any] = []
            while not self._accept("]"):
                if items:
                    self._expect(",")
                items.append(self._literal(scope))
            return tuple(items)
        if self._peek() == '"':
            return self._string()
        if self._accept('b"'):
            self._at -= 1
            return bytes.fromhex(self._string())
        if self._accept_word("none"):
            return None
        if self._accept_word("graph"):
            return self._graph(scope)
        if NUMBER.match(self._text, self._at):
            return self._number()
        dtype = self._dtype()
        if not self._text.startswith("[", self._at):
            return dtype
        start = self._at
        return self._array(dtype, self._shape(), "", start)


def _fill(label: str, dtype: DType, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """Return contents for an elided constant: small numbers that depend on label and type only."""
    seed = hashlib.blake2b(f"{label}:{dtype}{shape}".encode(), digest_size=8).digest()
    generator = np.random.default_rng(int.from_bytes(seed, "little"))
    if dtype is STRING:
        return np.array([f"{label}{i}" for i in range(int(np.prod(shape)))], object).reshape(shape)
    if dtype.is_float:
        # scaled as weights are, so that deep graphs keep their activations in range
        scale = 1 / np.sqrt(max(1, int(np.prod(shape[1:])))) if len(shape) > 1 else 0.5
        return (generator.standard_normal(shape) * scale).astype(dtype.numpy)
    return generator.integers(0, 2, shape).astype(dtype.numpy)
