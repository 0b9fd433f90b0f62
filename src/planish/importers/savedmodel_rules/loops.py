"""While becomes Loop.

A While carries everything through every iteration. Here only what changes is carried:

- an operand that the body returns as it is becomes a captured value;
- a counter (the body returns i + constant) is computed from the number of the iteration, and a
  condition ``i < n`` (or several of them, joined by And) from such a counter and a captured n gives
  the number of iterations; any other condition is evaluated at the end of the body;
- a list to which each iteration writes its own element becomes a stacked output (see
  tensor_lists.py); any other list is carried as a tensor.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from planish.importers.savedmodel_rules.branches import as_condition
from planish.importers.savedmodel_rules.tensor_lists import (
    LoopList,
    NeedsTensor,
    TensorList,
    Written,
    elements_of,
    forget,
    with_elements,
)
from planish.importers.tensorflow_builder import Builder, Operand, rule
from planish.importers.tensorflow_graph import TfGraph, TfNode, TfRef
from planish.ir.dtypes import BOOL, I64
from planish.ir.graph import Graph, Value
from planish.ir.shape import Dim, Shape, symbol
from planish.ops.content import contents

WHOLE = 1 << 60  # "to the end" in a Slice
ROUNDS = 6  # the shapes of carried values settle in two
COMPARISONS = {"Less": 1, "LessEqual": 1, "Greater": -1, "GreaterEqual": -1}


@dataclass(frozen=True)
class Counter:
    """An operand that every iteration adds `step` to."""

    position: int
    initial: Value
    step: int


@dataclass
class Body:
    """One conversion of a While's body.

    Attributes
    ----------
    graph : Graph
        Takes the iteration and the condition first.
    carried : list of (position, Value)
        Operands that the graph takes after those, and their initial values.
    arguments, results : list
        What each operand is in the body, and after it.
    """

    graph: Graph
    number: Value
    carried: list[tuple[int, Value]] = field(default_factory=list)
    arguments: list[Operand] = field(default_factory=list)
    results: list[Operand] = field(default_factory=list)


# -- While -----------------------------------------------------------------------------------------


@rule("While", "StatelessWhile")
def while_loop(node: TfNode, builder: Builder) -> list[Operand]:
    """Convert a functional loop."""
    conversion = _While(node, builder)
    try:
        return conversion.convert()
    except NeedsTensor:  # of a list that a loop around this one carries: that one tries again
        for graph in conversion.graphs:
            forget(graph)
        raise


class _While:
    """The conversion of one While."""

    def __init__(self, node: TfNode, builder: Builder) -> None:
        self.builder = builder
        self.operands = builder.operands
        self.name = node.attributes["body"].name
        self.condition = node.attributes["cond"].name
        self.body = builder.function(self.name)
        self.symbol = symbol("?" + re.sub(r"\W", "_", f"iteration_{node.name}"))
        self.unchanged = {
            position
            for position, result in enumerate(self.body.outputs)
            if self._is_argument(result.ref, position)
        }
        found = map(self._counter, range(len(self.operands)))
        self.counters = {each.position: each for each in found if each is not None}
        self.graphs: list[Graph] = []  # bodies made so far
        self.tensors: dict[int, Value] = {}  # lists that are carried as tensors
        self.firsts: dict[int, int] = {}  # stacked lists to the index that is written first
        self.last: set[int] = set()  # lists of one element, which every iteration overwrites
        self.shapes: dict[int, Shape | None] = {}  # of carried values, where they are widened

    def convert(self) -> list[Operand]:
        """Return what the While returns."""
        count = self._count()
        if count is not None and contents(count) == (0,):
            return list(self.operands)
        made = self._settled(count)
        results = self._results_of(made)
        stacks = [made.results[position].value for position in self._stacked(made)]
        carried = [results[position] for position, _ in made.carried]
        inner = self.builder.inside(made.graph)
        if count is None:
            start = as_condition(
                self.builder.inline(self.condition, self.operands)[0], self.builder
            )
            new = self.builder.append(self.condition, made.graph, made.results)[0]
            going = as_condition(new, inner)
        else:
            start = None
            going = inner.emit("Identity", made.graph.inputs[1])
        for value in (going, *carried, *stacks):
            made.graph.add_output(value, made.graph.fresh_name("output"))
        made.number.content = None
        initial = [value for _, value in made.carried]
        total = len(carried) + len(stacks)
        body = {"body": made.graph}
        outputs = self.builder.emit_many("Loop", total, count, start, *initial, **body)
        return self._outside(made, count, outputs)

    # -- what the operands are -------------------------------------------------------------------

    def _is_argument(self, ref: TfRef, position: int) -> bool:
        return _source(self.body, ref) == TfRef(self.body.inputs[position].name)

    def _counter(self, position: int) -> Counter | None:
        operand = self.operands[position]
        if not isinstance(operand, Value) or not operand.dtype.is_integer or operand.shape != ():
            return None
        node = self.body.by_name[_source(self.body, self.body.outputs[position].ref).node]
        if node.op not in ("Add", "AddV2"):
            return None
        argument = TfRef(self.body.inputs[position].name)
        a, b = (_source(self.body, ref) for ref in node.inputs)
        other = b if a == argument else a
        step = _constant(self.body, other)
        if argument not in (a, b) or step is None or step == 0:
            return None
        return Counter(position, operand, step)

    def _count(self) -> Value | None:
        """Return the number of iterations as an int64 scalar; None where only data knows it."""
        graph = self.builder.function(self.condition)
        total: Value | None = None
        for ref in _conjuncts(graph, graph.outputs[0].ref):
            count = self._count_of(graph, ref)
            if count is None:
                return None
            same = total is not None and contents(total) == contents(count) is not None
            if total is None or same:
                total = count
                continue
            total = self.builder.emit("Min", total, count)
        return total

    def _count_of(self, graph: TfGraph, ref: TfRef) -> Value | None:
        """Return how often a comparison of a counter with something unchanged is true."""
        node = graph.by_name[ref.node]
        if node.op not in COMPARISONS:
            return None
        direction = COMPARISONS[node.op]
        a, b = (_source(graph, each) for each in node.inputs)
        counter = self._counter_at(graph, a)
        if counter is None:
            counter, b, direction = self._counter_at(graph, b), a, -direction
        limit = self._unchanged_at(graph, b)
        if counter is None or limit is None or counter.step * direction < 0:
            return None
        builder = self.builder
        ends = (builder.i64(limit), builder.i64(counter.initial))
        far, near = ends if direction > 0 else ends[::-1]
        step = abs(counter.step)
        more = step if node.op.endswith("Equal") else step - 1
        distance = builder.emit("Sub", far, near)
        if more:
            distance = builder.emit("Add", distance, builder.constant(np.array(more, np.int64)))
        if step != 1:
            distance = builder.emit("Div", distance, builder.constant(np.array(step, np.int64)))
        return builder.emit("Max", distance, builder.constant(np.array(0, np.int64)))

    def _counter_at(self, graph: TfGraph, ref: TfRef) -> Counter | None:
        position = _position(graph, ref)
        return None if position is None else self.counters.get(position)

    def _unchanged_at(self, graph: TfGraph, ref: TfRef) -> Value | None:
        """Return a limit that no iteration changes."""
        constant = _constant(graph, ref)
        if constant is not None:
            return self.builder.constant(np.array(constant, np.int64))
        position = _position(graph, ref)
        if position is None or position not in self.unchanged:
            return None
        operand = self.operands[position]
        whole = isinstance(operand, Value) and operand.dtype.is_integer and operand.shape == ()
        return operand if whole else None

    # -- the body --------------------------------------------------------------------------------

    def _settled(self, count: Value | None) -> Body:
        """Return the converted body once lists and the shapes of carried values have settled."""
        for _ in range(ROUNDS + len(self.operands)):
            made = self._start(count)
            try:
                made.results = self.builder.append(self.name, made.graph, made.arguments)
            except NeedsTensor as need:
                forget(made.graph)
                own = [p for p, given in enumerate(made.arguments) if given is need.base]
                if not own:
                    raise  # a list of a loop around this one
                self._carry_tensor(own[0], None)
                continue
            if not self._lists_change(made, count) and not self._shapes_change(made):
                return made
            forget(made.graph)
        self.builder.refuse("the types of what the loop carries do not settle")

    def _start(self, count: Value | None) -> Body:
        """Return a body without nodes: the arguments."""
        graph = Graph(re.sub(r"\W", "_", self.name))
        self.graphs.append(graph)
        number = graph.add_input(graph.fresh_name("iteration"), I64, ())
        graph.add_input(graph.fresh_name("going"), BOOL, ())
        number.content = (self.symbol,)
        made = Body(graph, number)
        for position, operand in enumerate(self.operands):
            made.arguments.append(self._argument(made, position, operand, count))
        return made

    def _argument(
        self, made: Body, position: int, operand: Operand, count: Value | None
    ) -> Operand:
        if position in self.unchanged:
            return operand
        if position in self.counters:
            value = self._counted(self.counters[position], made)
            if count is None:
                self._carry(made, position, operand)
            return value
        if isinstance(operand, Value):
            return self._carry(made, position, operand)
        if not isinstance(operand, TensorList):
            self.builder.refuse("a loop carries a variant that is no list of tensors")
        if position in self.tensors:
            value = self._carry(made, position, self.tensors[position])
            shape = None if value.shape is None else value.shape[1:]
            return TensorList(operand.dtype, operand.length, value, shape)
        return LoopList(operand.dtype, operand.length, None, operand.shape)

    def _carry(self, made: Body, position: int, initial: Value) -> Value:
        name = made.graph.fresh_name(self.body.inputs[position].name)
        shape = self.shapes.get(position, initial.shape)
        made.carried.append((position, initial))
        return made.graph.add_input(name, initial.dtype, shape)

    def _counted(self, counter: Counter, made: Body) -> Value:
        """Return the counter's value in an iteration."""
        inner = self.builder.inside(made.graph)
        return _advanced(inner, counter, made.number)

    def _lists_change(self, made: Body, count: Value | None) -> bool:
        """Decide how lists are carried that cannot become stacked outputs; return if any cannot."""
        changed = False
        for position, given in enumerate(made.arguments):
            if not isinstance(given, LoopList) or position in self.unchanged:
                continue
            result = made.results[position]
            if result is given:
                self.unchanged.add(position)
                changed = True
            elif not isinstance(result, Written) or result.base is not given:
                self._carry_tensor(position, None)
                changed = True
            elif self._is_stack(given, result, count):
                self.firsts[position] = self._first(result) or 0
            elif self._is_last(given, result):
                self.last.add(position)
            else:
                self._carry_tensor(position, result.value)
                changed = True
        return changed

    def _is_stack(self, given: TensorList, result: Written, count: Value | None) -> bool:
        """Whether iteration i writes element i + constant, or each appends one."""
        if result.index is None:
            return True
        first, length = self._first(result), contents(given.length)
        if count is None or first is None or length is None:
            return False
        if first == 0 and length in (contents(count), (0,)):
            return True
        behind = length[0] - first - (contents(count) or (length[0],))[0]
        return isinstance(behind, int) and behind >= 0

    def _first(self, result: Written) -> int | None:
        """Return the index that the first iteration writes; None where they do not go up by 1."""
        index = None if result.index is None else contents(result.index)
        first = None if index is None else index[0] - self.symbol
        return first if isinstance(first, int) and first >= 0 else None

    def _is_last(self, given: TensorList, result: Written) -> bool:
        """Whether every iteration overwrites the only element."""
        first = result.index is not None and contents(result.index) == (0,)
        return first and contents(given.length) == (1,)

    def _carry_tensor(self, position: int, value: Value | None) -> None:
        """Carry a list as a tensor from now on; `value` shows the shape of an element."""
        given = self.operands[position]
        self.tensors[position] = elements_of(self.builder, given, self._like(value))

    def _like(self, value: Value | None) -> Value | None:
        """Return a value of this graph of the same shape as `value`, which is of the body's."""
        if value is None or value.shape is None:
            return None
        if all(isinstance(dim, int) for dim in value.shape):
            return value
        return next(
            (
                each
                for each in self.operands
                if isinstance(each, Value) and each.shape == value.shape
            ),
            None,
        )

    def _shapes_change(self, made: Body) -> bool:
        """Widen the shapes of carried values to what the body gives; return whether any changed."""
        changed = False
        for value, (position, _) in zip(made.graph.inputs[2:], made.carried, strict=True):
            result = self._tensor(made.results[position], position)
            if result.shape == value.shape:
                continue
            self.shapes[position] = _wider(value.shape, result.shape, f"{self.symbol}_{position}")
            changed = changed or self.shapes[position] != value.shape
        return changed

    # -- results ---------------------------------------------------------------------------------

    def _tensor(self, result: Operand, position: int) -> Value:
        """Return the tensor of a carried operand after an iteration."""
        if isinstance(result, TensorList) and not isinstance(result, LoopList | Written):
            return elements_of(self.builder, result)
        if not isinstance(result, Value):
            self.builder.refuse(f"the loop changes what operand {position} is")
        return result

    def _stacked(self, made: Body) -> list[int]:
        return [p for p, given in enumerate(made.arguments) if _is_written(given, made.results[p])]

    def _results_of(self, made: Body) -> dict[int, Value]:
        """Return the values that the body gives for what it carries."""
        return {
            position: self._tensor(made.results[position], position) for position, _ in made.carried
        }

    def _outside(self, made: Body, count: Value | None, outputs: Sequence[Value]) -> list[Operand]:
        """Return what the While's outputs are, given the Loop's."""
        results: list[Operand] = list(self.operands)
        for (position, _), value in zip(made.carried, outputs, strict=False):
            given = self.operands[position]
            is_list = isinstance(given, TensorList)
            results[position] = with_elements(self.builder, given, value) if is_list else value
        for position, value in zip(self._stacked(made), outputs[len(made.carried) :], strict=True):
            results[position] = self._stacked_list(position, made.results[position], value)
        if count is not None:
            for counter in self.counters.values():
                results[counter.position] = _advanced(self.builder, counter, count)
        return results

    def _stacked_list(self, position: int, result: Written, value: Value) -> TensorList:
        builder, given = self.builder, self.operands[position]
        if position in self.last:
            return with_elements(builder, given, _cut(builder, value, -1, WHOLE))
        if result.index is None:
            parts = [] if contents(given.length) == (0,) else [elements_of(builder, given)]
            return with_elements(builder, given, builder.concat([*parts, value]))
        first, length = self.firsts[position], contents(given.length)
        count = value.known_shape[0]
        end = first + count
        rest = (length or (0,))[0] - end
        parts = [value]
        if first > 0 or (isinstance(rest, int) and rest > 0):
            before = elements_of(builder, given, self._like(result.value))
            parts = [_cut(builder, before, 0, first)] if first else []
            parts.append(value)
            if rest != 0 and isinstance(rest, int):
                parts.append(_cut(builder, before, -rest, WHOLE))
        return with_elements(builder, given, builder.concat(parts))


def _cut(builder: Builder, value: Value, start: int, stop: int) -> Value:
    """Return some elements along the first axis."""
    ends = (builder.constant([start]), builder.constant([stop]), builder.constant([0]))
    return builder.emit("Slice", value, *ends)


def _is_written(given: Operand, result: Operand) -> bool:
    return isinstance(given, LoopList) and isinstance(result, Written)


def _advanced(builder: Builder, counter: Counter, times: Value) -> Value:
    """Return a counter after so many iterations."""
    dtype = counter.initial.dtype
    value = builder.cast(times, dtype)
    if counter.step != 1:
        value = builder.emit("Mul", value, builder.constant(np.array(counter.step), dtype))
    if contents(counter.initial) == (0,):
        return value
    return builder.emit("Add", counter.initial, value)


def _wider(have: Shape | None, got: Shape | None, name: str) -> Shape | None:
    """Return the shape that covers both; extents that differ become unknown ones."""
    if have is None or got is None or len(have) != len(got):
        return None
    dims: list[Dim] = []
    for axis, (a, b) in enumerate(zip(have, got, strict=True)):
        dims.append(a if a == b else symbol(f"{name}_{axis}"))
    return tuple(dims)


# -- reading TensorFlow's functions ----------------------------------------------------------------


def _source(graph: TfGraph, ref: TfRef) -> TfRef:
    """Return what a reference names, through Identity."""
    node = graph.by_name[ref.node]
    while node.op in ("Identity", "StopGradient") and node.inputs:
        ref = node.inputs[0]
        node = graph.by_name[ref.node]
    return ref


def _constant(graph: TfGraph, ref: TfRef) -> int | None:
    """Return the whole number that a reference names, None for anything else."""
    node = graph.by_name[ref.node]
    if node.op != "Const":
        return None
    array = np.asarray(node.attributes["value"])
    return int(array.reshape(-1)[0]) if array.dtype.kind in "iu" and array.size == 1 else None


def _position(graph: TfGraph, ref: TfRef) -> int | None:
    """Return which argument of a function a reference names."""
    names = [given.name for given in graph.inputs]
    return names.index(ref.node) if ref.node in names else None


def _conjuncts(graph: TfGraph, ref: TfRef) -> list[TfRef]:
    """Return the conditions that LogicalAnd joins."""
    ref = _source(graph, ref)
    node = graph.by_name[ref.node]
    if node.op != "LogicalAnd":
        return [ref]
    return [each for operand in node.inputs for each in _conjuncts(graph, operand)]
