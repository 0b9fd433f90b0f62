"""From the shapes of given arrays to the values of a plan's symbols."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from planish.errors import InputError, PlanError
from planish.ir.requirement import Requirement
from planish.ir.shape import Dim, Expression, evaluate, symbols_of
from planish.plan.plan import Plan, TensorInfo

Sizes = tuple[int, ...]


@dataclass(frozen=True)
class BoundShapes:
    """The values that one set of input shapes gives to everything dynamic.

    Attributes
    ----------
    symbols : dict
        Symbol to value; loop symbols are 0.
    outputs : tuple
        Shape of each output, None where only the data decides it.
    """

    symbols: Mapping[str, int]
    outputs: tuple[Sizes | None, ...]

    def sizes(self, dims: tuple[Dim, ...]) -> Sizes | None:
        """Return extents as numbers, or None when one depends on data."""
        if any(symbols_of(dim) - self.symbols.keys() for dim in dims):
            return None
        return tuple(evaluate(dim, self.symbols) for dim in dims)


class ShapeResolver:
    """Solves for symbols, checks extents against the profile's ranges, and sizes the outputs."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._loops = {loop.symbol for loop in plan.loops}
        self._sources: dict[str, tuple[int, int]] = {}  # symbol -> input and axis that tell it
        for index, info in enumerate(plan.inputs):
            for axis, dim in enumerate(info.shape):
                solved = _linear_symbol(dim)
                if solved is not None:
                    self._sources.setdefault(solved[0], (index, axis))
        for info in plan.inputs:
            for dim in info.shape:
                missing = symbols_of(dim) - self._sources.keys()
                if missing:
                    raise PlanError(
                        f"no input's shape determines the symbol {min(missing)}",
                        where=f"input {info.name}",
                    )

    def bind(self, shapes: tuple[Sizes, ...]) -> BoundShapes:
        """Return the values for input shapes, in the plan's order.

        Raises
        ------
        InputError
            When a rank or an extent is not allowed; the message gives the allowed range.
        """
        for info, shape in zip(self._plan.inputs, shapes, strict=True):
            if len(shape) != len(info.shape):
                raise self._wrong(info, shape, f"rank {len(info.shape)}")
        symbols = dict.fromkeys(self._loops, 0)
        for name, (index, axis) in self._sources.items():
            symbols[name] = self._solve(name, index, axis, shapes)
        for info, shape in zip(self._plan.inputs, shapes, strict=True):
            for axis, dim in enumerate(info.shape):
                expected = evaluate(dim, symbols)
                if expected != shape[axis]:
                    raise self._wrong(info, shape, f"{expected} on axis {axis} ({dim})")
        for requirement in self._plan.requirements:
            if not requirement.holds(symbols):
                raise self._unmet(requirement, symbols)
        binding = BoundShapes(symbols, ())
        return BoundShapes(symbols, tuple(binding.sizes(info.shape) for info in self._plan.outputs))

    def _solve(self, name: str, index: int, axis: int, shapes: tuple[Sizes, ...]) -> int:
        info, shape = self._plan.inputs[index], shapes[index]
        solved = _linear_symbol(info.shape[axis])
        if solved is None:  # __init__ chose this axis because it is linear
            raise PlanError(f"the symbol {name} cannot be solved for", where=f"input {info.name}")
        _, factor, constant = solved
        value, rest = divmod(shape[axis] - constant, factor)
        if rest:
            raise self._wrong(info, shape, f"a value of {info.shape[axis]} on axis {axis}")
        low, _, high = self._plan.ranges.get(name, (0, 0, 1 << 31))
        if not low <= value <= high:
            allowed = f"{name} from {low} to {high}"
            raise self._wrong(info, shape, f"{allowed} on axis {axis} ({info.shape[axis]})")
        return value

    def _unmet(self, requirement: Requirement, symbols: Mapping[str, int]) -> InputError:
        values = ", ".join(f"{name} = {symbols[name]}" for name in sorted(requirement.symbols))
        shapes = [f"{i.name} [{', '.join(map(str, i.shape))}]" for i in self._plan.inputs]
        return InputError(
            f"the shapes of the inputs do not fit together: the model needs {requirement}, "
            f"but they give {values}",
            where=f"node {requirement.where}; inputs {', '.join(shapes)}",
            fix="give arrays of shapes that the model can run with",
        )

    def _wrong(self, info: TensorInfo, shape: Sizes, expected: str) -> InputError:
        return InputError(
            f"input {info.name!r} has shape {list(shape)}, expected {expected}",
            where=f"declared shape [{', '.join(map(str, info.shape))}]{self._ranges_text(info)}",
            fix="give an array of an allowed shape, or build the engine with a profile that "
            "includes this one",
        )

    def _ranges_text(self, info: TensorInfo) -> str:
        names = sorted(set().union(*(symbols_of(dim) for dim in info.shape)))
        texts = [
            f"{name} in {self._plan.ranges[name][0]}..{self._plan.ranges[name][2]}"
            for name in names
            if name in self._plan.ranges
        ]
        return f", {', '.join(texts)}" if texts else ""


def _linear_symbol(dim: Dim) -> tuple[str, int, int] | None:
    """Return (symbol, factor, constant) when `dim` is factor * symbol + constant."""
    if not isinstance(dim, Expression):
        return None
    constant, found = 0, None
    for monomial, coefficient in dim.terms:
        if not monomial:
            constant = coefficient
        elif found is None and len(monomial) == 1 and not monomial[0].arguments:
            found = (monomial[0].name, coefficient)
        else:
            return None
    return None if found is None else (*found, constant)
