"""Plans as JSON (stored in engines) and as text (shown to people).

JSON is written with sorted keys and no floating point, so equal plans give equal bytes. Extents
are strings in the grammar of `planish.ir.shape`. Reading trusts nothing: every field is checked
for its type and range, and the first thing wrong is reported with its path in the document.

The runtime reads plans with this file, so it imports only data types.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from planish.errors import EngineFileError
from planish.ir.dtypes import DTYPES
from planish.ir.requirement import RELATIONS, Requirement
from planish.ir.shape import Dim, Shape, parse_dim, symbols_of
from planish.plan.plan import (
    Binding,
    HaloFill,
    Loop,
    MemoryReport,
    Operand,
    Plan,
    Step,
    TensorInfo,
)

Json = Any
T = TypeVar("T")

SPACES = ("input", "output", "arena", "weights")
LIMIT = 1 << 62  # no number in a plan is larger
MAX_DIM_TEXT = 2000  # characters of one extent
MAX_DEPTH = 12  # nesting of JSON in the parameters of external kernels
_BARE_PARENTHESIS = re.compile(r"(^|[^a-z])\(")
_DTYPE_NAMES = frozenset(dtype.name for dtype in DTYPES)


# -- writing -------------------------------------------------------------------------------------


def plan_to_json(plan: Plan) -> str:
    """Return `plan` as a JSON document; equal plans give equal text."""
    document = {
        "inputs": [_tensor_json(info) for info in plan.inputs],
        "outputs": [_tensor_json(info) for info in plan.outputs],
        "symbols": list(plan.symbols),
        "ranges": {name: list(bounds) for name, bounds in plan.ranges.items()},
        "steps": [_step_json(step) for step in plan.steps],
        "loops": [_loop_json(loop) for loop in plan.loops],
        "externals": [[kind, dict(parameters)] for kind, parameters in plan.externals],
        "memory": {
            "arena": plan.memory.arena,
            "sum_of_tensors": plan.memory.sum_of_tensors,
            "largest_live_set": plan.memory.largest_live_set,
            "weights": plan.memory.weights,
        },
        "arena_bytes": plan.arena_bytes,
        "scratch_bytes": plan.scratch_bytes,
        "layers": dict(plan.layers),
        "requirements": [
            [str(each.left), each.relation, str(each.right), each.where]
            for each in plan.requirements
        ],
    }
    return json.dumps(document, sort_keys=True, separators=(",", ":"))


def _tensor_json(info: TensorInfo) -> Json:
    return {"name": info.name, "dtype": info.dtype, "shape": _shape_json(info.shape)}


def _shape_json(shape: Shape) -> list[str]:
    return [str(dim) for dim in shape]


def _binding_json(binding: Binding) -> Json:
    return [binding.space, binding.index, str(binding.offset)]


def _step_json(step: Step) -> Json:
    return {
        "name": step.name,
        "layers": step.layers,
        "function": step.function,
        "external": step.external,
        "bindings": [_binding_json(binding) for binding in step.bindings],
        "operands": [
            [operand.dtype, _shape_json(operand.shape), _shape_json(operand.strides)]
            for operand in step.operands
        ],
        "outputs": step.outputs,
        "items": str(step.items),
        "scratch_bytes": step.scratch_bytes,
        "fills": [
            {
                "binding": _binding_json(fill.binding),
                "sizes": _shape_json(fill.sizes),
                "halo": [list(pair) for pair in fill.halo],
                "itemsize": fill.itemsize,
            }
            for fill in step.fills
        ],
        "guard": [[_binding_json(binding), value] for binding, value in step.guard],
        "loop": step.loop,
        "grid": _shape_json(step.grid),
        "stream": step.stream,
        "after": list(step.after),
    }


def _loop_json(loop: Loop) -> Json:
    return {
        "first": loop.first,
        "last": loop.last,
        "count": str(loop.count),
        "symbol": loop.symbol,
        "parent": loop.parent,
        "limit": _optional_binding_json(loop.limit),
        "condition": _optional_binding_json(loop.condition),
        "counter": _optional_binding_json(loop.counter),
        "guard": [[_binding_json(binding), value] for binding, value in loop.guard],
    }


def _optional_binding_json(binding: Binding | None) -> Json:
    return None if binding is None else _binding_json(binding)


# -- reading -------------------------------------------------------------------------------------


def plan_from_json(text: str | bytes) -> Plan:
    """Return the plan that `text` describes.

    Raises
    ------
    EngineFileError
        When the text is not a plan: the message says where in the document and what was expected.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _damaged("plan.json", f"not JSON ({error})") from error
    root = _Reader(document, None, "plan.json")
    plan = Plan(
        inputs=root.field("inputs").each(_read_tensor),
        outputs=root.field("outputs").each(_read_tensor),
        symbols=root.field("symbols").each(_Reader.text),
        ranges=_read_ranges(root.field("ranges")),
        steps=root.field("steps").each(_read_step),
        memory=_read_memory(root.field("memory")),
        loops=root.field("loops").each(_read_loop),
        externals=root.field("externals").each(_read_external),
        arena_bytes=root.field("arena_bytes").integer(),
        scratch_bytes=root.field("scratch_bytes").integer(),
        layers=root.field("layers").free_mapping(),
        requirements=root.field("requirements").each(_read_requirement),
    )
    _check_references(plan)
    return plan


class _Reader:
    """One place of a JSON document; its methods return checked contents."""

    __slots__ = ("key", "parent", "value")

    def __init__(self, value: Json, parent: _Reader | None, key: str) -> None:
        self.value, self.parent, self.key = value, parent, key

    @property
    def where(self) -> str:
        """Return the path of this place, from the document's name on."""
        return self.key if self.parent is None else self.parent.where + self.key

    def field(self, name: str) -> _Reader:
        if not isinstance(self.value, dict) or name not in self.value:
            raise self.wrong(f"a field {name!r}")
        return _Reader(self.value[name], self, f".{name}")

    def items(self, count: int | None = None) -> list[_Reader]:
        if not isinstance(self.value, list):
            raise self.wrong("a list")
        if count is not None and len(self.value) != count:
            raise self.wrong(f"a list of {count}")
        return [_Reader(value, self, f"[{i}]") for i, value in enumerate(self.value)]

    def each(self, read: Callable[[_Reader], T]) -> tuple[T, ...]:
        return tuple(read(item) for item in self.items())

    def text(self) -> str:
        if not isinstance(self.value, str):
            raise self.wrong("text")
        return self.value

    def optional_text(self) -> str | None:
        return None if self.value is None else self.text()

    def integer(self, low: int = 0, high: int = LIMIT) -> int:
        if not isinstance(self.value, int) or isinstance(self.value, bool):
            raise self.wrong("an integer")
        if not low <= self.value <= high:
            raise self.wrong(f"an integer from {low} to {high}")
        return self.value

    def optional_integer(self) -> int | None:
        return None if self.value is None else self.integer()

    def boolean(self) -> bool:
        if not isinstance(self.value, bool):
            raise self.wrong("true or false")
        return self.value

    def dim(self) -> Dim:
        text = self.text()
        if text.isascii() and text.isdigit() and len(text) < 19:
            return int(text)
        if len(text) > MAX_DIM_TEXT:
            raise self.wrong(f"an extent of at most {MAX_DIM_TEXT} characters")
        if _BARE_PARENTHESIS.search(text):  # products of sums could expand without limit
            raise self.wrong("an extent in normal form")
        try:
            dim = _parse_dim(text)
        except (ValueError, RecursionError, ZeroDivisionError, MemoryError) as error:
            raise self.wrong("an extent") from error
        if isinstance(dim, int) and abs(dim) > LIMIT:
            raise self.wrong("an extent within 62 bits")
        return dim

    def extent(self) -> Dim:
        dim = self.dim()
        if isinstance(dim, int) and dim < 0:
            raise self.wrong("an extent that is not negative")
        return dim

    def free_mapping(self) -> Mapping[str, Any]:
        if not isinstance(self.value, dict):
            raise self.wrong("a mapping")
        _check_depth(self.value, self, MAX_DEPTH)
        return self.value

    def wrong(self, expected: str) -> EngineFileError:
        got = json.dumps(self.value)
        shown = got if len(got) <= 60 else got[:57] + "..."
        return _damaged(self.where, f"expected {expected}, got {shown}")


_parse_dim = functools.lru_cache(maxsize=4096)(parse_dim)  # a plan repeats few extents often


def _damaged(where: str, what: str) -> EngineFileError:
    return EngineFileError(
        f"the engine's plan is damaged: {what}",
        where=where,
        fix="build the engine again from its model",
    )


def _check_depth(value: Json, reader: _Reader, depth: int) -> None:
    if depth == 0:
        raise reader.wrong(f"at most {MAX_DEPTH} levels")
    children = value.values() if isinstance(value, dict) else value
    for child in children:
        if isinstance(child, dict | list):
            _check_depth(child, reader, depth - 1)


def _read_tensor(reader: _Reader) -> TensorInfo:
    return TensorInfo(
        reader.field("name").text(), _read_dtype(reader.field("dtype")), _shape(reader, "shape")
    )


def _read_dtype(reader: _Reader) -> str:
    name = reader.text()
    if name not in _DTYPE_NAMES:
        raise reader.wrong("the name of a dtype")
    return name


def _shape(reader: _Reader, name: str) -> Shape:
    return reader.field(name).each(_Reader.extent)


def _read_ranges(reader: _Reader) -> dict[str, tuple[int, int, int]]:
    ranges = {}
    for name in reader.free_mapping():
        low, middle, high = (item.integer() for item in reader.field(name).items(3))
        if not low <= middle <= high:
            raise reader.field(name).wrong("min <= opt <= max")
        ranges[name] = (low, middle, high)
    return ranges


def _read_binding(reader: _Reader) -> Binding:
    space, index, offset = reader.items(3)
    if space.text() not in SPACES:
        raise space.wrong(f"one of {', '.join(SPACES)}")
    return Binding(space.text(), index.integer(), offset.extent())


def _read_optional_binding(reader: _Reader) -> Binding | None:
    return None if reader.value is None else _read_binding(reader)


def _read_operand(reader: _Reader) -> Operand:
    dtype, shape, strides = reader.items(3)
    operand = Operand(_read_dtype(dtype), shape.each(_Reader.extent), strides.each(_Reader.dim))
    if len(operand.shape) != len(operand.strides):
        raise reader.wrong("as many strides as extents")
    return operand


def _read_fill(reader: _Reader) -> HaloFill:
    sizes = _shape(reader, "sizes")
    halo = []
    for pair in reader.field("halo").items(len(sizes)):
        before, after = (item.integer() for item in pair.items(2))
        halo.append((before, after))
    itemsize = reader.field("itemsize").integer(1, 16)
    return HaloFill(_read_binding(reader.field("binding")), sizes, tuple(halo), itemsize)


def _read_requirement(reader: _Reader) -> Requirement:
    left, relation, right, where = reader.items(4)
    if relation.text() not in RELATIONS:
        raise relation.wrong(f"one of {', '.join(RELATIONS)}")
    return Requirement(left.dim(), relation.text(), right.dim(), where.text())


def _read_guard(reader: _Reader) -> tuple[Binding, bool]:
    binding, value = reader.items(2)
    return _read_binding(binding), value.boolean()


def _read_step(reader: _Reader) -> Step:
    step = Step(
        name=reader.field("name").text(),
        layers=reader.field("layers").text(),
        function=reader.field("function").optional_text(),
        external=reader.field("external").optional_integer(),
        bindings=reader.field("bindings").each(_read_binding),
        operands=reader.field("operands").each(_read_operand),
        outputs=reader.field("outputs").integer(),
        items=reader.field("items").extent(),
        scratch_bytes=reader.field("scratch_bytes").integer(),
        fills=reader.field("fills").each(_read_fill),
        guard=reader.field("guard").each(_read_guard),
        loop=reader.field("loop").optional_integer(),
        grid=reader.field("grid").each(_Reader.dim),
        stream=reader.field("stream").integer(),
        after=reader.field("after").each(_Reader.integer),
    )
    if (step.function is None) == (step.external is None):
        raise reader.wrong("either a function or an external kernel")
    if step.outputs > len(step.operands) or len(step.operands) > len(step.bindings):
        raise reader.wrong("outputs <= operands <= bindings")
    return step


def _read_loop(reader: _Reader) -> Loop:
    return Loop(
        first=reader.field("first").integer(),
        last=reader.field("last").integer(),
        count=reader.field("count").extent(),
        symbol=reader.field("symbol").text(),
        parent=reader.field("parent").optional_integer(),
        limit=_read_optional_binding(reader.field("limit")),
        condition=_read_optional_binding(reader.field("condition")),
        counter=_read_optional_binding(reader.field("counter")),
        guard=reader.field("guard").each(_read_guard),
    )


def _read_external(reader: _Reader) -> tuple[str, Mapping[str, Any]]:
    kind, parameters = reader.items(2)
    return kind.text(), parameters.free_mapping()


def _read_memory(reader: _Reader) -> MemoryReport:
    return MemoryReport(
        arena=reader.field("arena").integer(),
        sum_of_tensors=reader.field("sum_of_tensors").integer(),
        largest_live_set=reader.field("largest_live_set").integer(),
        weights=reader.field("weights").integer(),
    )


def _check_references(plan: Plan) -> None:
    """Check that indices and symbols refer to something that the plan declares."""
    known = frozenset(plan.symbols)
    if not known.issuperset(plan.ranges):
        raise _damaged("plan.json.ranges", "a range of a symbol that is not declared")
    loop_symbols = {loop.symbol for loop in plan.loops}
    missing = known - set(plan.ranges) - loop_symbols
    if missing:
        raise _damaged("plan.json.symbols", f"no range for {', '.join(sorted(missing))}")
    for kind, infos in (("inputs", plan.inputs), ("outputs", plan.outputs)):
        for info in infos:
            _check_dims(info.shape, known, f"plan.json.{kind} {info.name!r}")
    for index, loop in enumerate(plan.loops):
        where = f"plan.json.loops[{index}]"
        if not loop.first <= loop.last <= len(plan.steps):
            raise _damaged(where, f"steps {loop.first} to {loop.last} of {len(plan.steps)}")
        if loop.parent is not None and loop.parent >= len(plan.loops):
            raise _damaged(where, f"parent loop {loop.parent} does not exist")
        _check_dims((loop.count,), known, where)
        given = (loop.limit, loop.condition, loop.counter, *(each for each, _ in loop.guard))
        _check_bindings([each for each in given if each is not None], plan, known, where)
    for requirement in plan.requirements:
        sides = (requirement.left, requirement.right)
        _check_dims(sides, known, f"plan.json.requirements {requirement}")
    for index, step in enumerate(plan.steps):
        _check_step(step, plan, known, f"plan.json.steps[{index}] {step.name!r}")


def _check_step(step: Step, plan: Plan, known: frozenset[str], where: str) -> None:
    if step.external is not None and step.external >= len(plan.externals):
        raise _damaged(where, f"external kernel {step.external} does not exist")
    if step.loop is not None and step.loop >= len(plan.loops):
        raise _damaged(where, f"loop {step.loop} does not exist")
    bindings = [*step.bindings, *(fill.binding for fill in step.fills)]
    bindings += [binding for binding, _ in step.guard]
    _check_bindings(bindings, plan, known, where)
    for operand in step.operands:
        _check_dims((*operand.shape, *operand.strides), known, where)
    for fill in step.fills:
        _check_dims(fill.sizes, known, where)
    _check_dims((step.items,), known, where)


def _check_bindings(
    bindings: Sequence[Binding], plan: Plan, known: frozenset[str], where: str
) -> None:
    limits = {"input": len(plan.inputs), "output": len(plan.outputs), "arena": 1, "weights": 1}
    for binding in bindings:
        if binding.index >= limits[binding.space]:
            raise _damaged(where, f"{binding.space} {binding.index} does not exist")
        _check_dims((binding.offset,), known, where)


def _check_dims(dims: Shape, known: frozenset[str], where: str) -> None:
    for dim in dims:
        unknown = symbols_of(dim) - known
        if unknown:
            raise _damaged(where, f"undeclared symbol {', '.join(sorted(unknown))}")


# -- text ----------------------------------------------------------------------------------------


def plan_to_text(plan: Plan) -> str:
    """Return `plan` as text for people: one line a step, loops and guards as comments."""
    lines = ["plan {"]
    lines += [f"  input {_tensor_text(info)}" for info in plan.inputs]
    lines += [f"  output {_tensor_text(info)}" for info in plan.outputs]
    for name in plan.symbols:
        bounds = plan.ranges.get(name)
        lines.append(f"  symbol {name}" + (f" in {bounds[0]}..{bounds[2]}" if bounds else ""))
    lines.append(
        f"  arena {plan.arena_bytes} (tensors {plan.memory.sum_of_tensors}, largest live set "
        f"{plan.memory.largest_live_set}), weights {plan.memory.weights}"
    )
    lines += [_loop_text(index, loop) for index, loop in enumerate(plan.loops)]
    lines += [_step_text(index, step) for index, step in enumerate(plan.steps)]
    return "\n".join([*lines, "}"]) + "\n"


def _tensor_text(info: TensorInfo) -> str:
    return f"{info.name}: {info.dtype}[{','.join(map(str, info.shape))}]"


def _loop_text(index: int, loop: Loop) -> str:
    text = f"  loop {index}: steps {loop.first} to {loop.last - 1}, {loop.symbol} < {loop.count}"
    if loop.limit is not None:
        text += f" and < {_binding_text(loop.limit)}"
    if loop.condition is not None:
        text += f" while {_binding_text(loop.condition)}"
    if loop.counter is not None:
        text += f" counted at {_binding_text(loop.counter)}"
    for binding, value in loop.guard:
        text += f" if {_binding_text(binding)} is {str(value).lower()}"
    return text if loop.parent is None else f"{text} in loop {loop.parent}"


def _step_text(index: int, step: Step) -> str:
    inputs = len(step.operands) - step.outputs
    reads = ", ".join(map(_binding_text, step.bindings[:inputs]))
    writes = ", ".join(map(_binding_text, step.bindings[inputs : len(step.operands)]))
    packed = ", ".join(map(_binding_text, step.bindings[len(step.operands) :]))
    kernel = step.function or f"external {step.external}"
    text = f"  {index:4d} {writes} = {kernel}({reads})"
    if packed:
        text += f" with {packed}"
    text += f" items={step.items}"
    for fill in step.fills:
        text += f" zero {_binding_text(fill.binding)}[{','.join(map(str, fill.sizes))}]"
    for binding, value in step.guard:
        text += f" if {_binding_text(binding)} is {str(value).lower()}"
    if step.loop is not None:
        text += f" in loop {step.loop}"
    return f"{text}  # {step.layers}"


def _binding_text(binding: Binding) -> str:
    if binding.space in ("arena", "weights"):
        return f"{binding.space}+{binding.offset}"
    suffix = "" if binding.offset == 0 else f"+{binding.offset}"
    return f"{binding.space}{binding.index}{suffix}"
