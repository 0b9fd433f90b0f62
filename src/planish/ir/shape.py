"""Symbolic extents: integer expressions over named symbols.

A shape is a tuple of ``Dim``: a Python ``int`` where the extent is known, an ``Expression`` where
it depends on a symbol ("N", "sequence"). An expression is a polynomial with integer coefficients
over *atoms*; an atom is a symbol or an opaque function of expressions (``floordiv``, ``mod``,
``max``, ``min``). The normal form is unique for polynomials, so equality is structural: equal
expressions are equal extents, unequal expressions may still be.

Grammar of the text form, which `parse_dim` reads back::

    dim    := term (("+" | "-") term)*
    term   := factor ("*" factor)*
    factor := integer | symbol | function "(" dim "," dim ")" | "(" dim ")"
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

FUNCTIONS: dict[str, Callable[[int, int], int]] = {
    "floordiv": lambda a, b: a // b,
    "mod": lambda a, b: a % b,
    "max": max,
    "min": min,
}


@dataclass(frozen=True, order=True)
class Atom:
    """A symbol (no arguments) or a function of expressions."""

    name: str
    arguments: tuple[Dim, ...] = ()

    def __str__(self) -> str:
        if not self.arguments:
            return self.name
        return f"{self.name}({', '.join(map(str, self.arguments))})"


MAX_QUOTIENT_TERMS = 32  # longer quotients are not looked for
Monomial = tuple[Atom, ...]  # sorted by text; the empty product is 1


class Expression:
    """A non-constant polynomial over atoms; immutable and hashable."""

    __slots__ = ("_hash", "_text", "terms")

    def __init__(self, terms: Mapping[Monomial, int]) -> None:
        ordered = sorted(terms.items(), key=lambda item: _monomial_key(item[0]))
        self.terms: tuple[tuple[Monomial, int], ...] = tuple(ordered)
        self._text = _print(self.terms)
        self._hash = hash(self.terms)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Expression) and self.terms == other.terms

    def __lt__(self, other: Dim) -> bool:  # an order for sorting, not a comparison of extents
        return str(self) < str(other)

    def __hash__(self) -> int:
        return self._hash

    def __str__(self) -> str:
        return self._text

    __repr__ = __str__

    def __add__(self, other: Dim) -> Dim:
        return _add(self, other, 1)

    __radd__ = __add__

    def __sub__(self, other: Dim) -> Dim:
        return _add(self, other, -1)

    def __rsub__(self, other: Dim) -> Dim:
        return _add(other, self, -1)

    def __neg__(self) -> Dim:
        return _add(0, self, -1)

    def __mul__(self, other: Dim) -> Dim:
        return _multiply(self, other)

    __rmul__ = __mul__

    def __floordiv__(self, other: Dim) -> Dim:
        return floordiv(self, other)

    def __rfloordiv__(self, other: Dim) -> Dim:
        return floordiv(other, self)

    def __mod__(self, other: Dim) -> Dim:
        return mod(self, other)

    def __bool__(self) -> bool:
        raise TypeError(f"the extent {self} is symbolic: compare it explicitly")


Dim = int | Expression
Shape = tuple[Dim, ...]


def symbol(name: str) -> Expression:
    """Return the extent named `name`."""
    return Expression({(Atom(name),): 1})


def is_static(dim: Dim) -> bool:
    """Whether `dim` is a plain number."""
    return isinstance(dim, int)


def static_shape(shape: Shape) -> tuple[int, ...] | None:
    """Return `shape` with plain integers, or None when an extent is symbolic."""
    sizes = tuple(dim for dim in shape if isinstance(dim, int))
    return sizes if len(sizes) == len(shape) else None


def product(dims: Iterable[Dim]) -> Dim:
    """Return the product of `dims` (1 for none)."""
    total: Dim = 1
    for dim in dims:
        total = total * dim
    return total


def floordiv(a: Dim, b: Dim) -> Dim:
    """Return floor(a / b), exact where every coefficient of `a` is divisible."""
    if isinstance(b, int):
        if b == 1:
            return a
        if isinstance(a, int):
            return a // b
        if all(coefficient % b == 0 for _, coefficient in a.terms):
            return _from_terms({monomial: c // b for monomial, c in a.terms})
    quotient = _divide_exactly(a, b)
    if quotient is not None:
        return quotient
    return _function("floordiv", a, b)


def ceildiv(a: Dim, b: Dim) -> Dim:
    """Return ceil(a / b) for positive `b`."""
    return floordiv(a + b - 1, b)


def mod(a: Dim, b: Dim) -> Dim:
    """Return a - b * floor(a / b)."""
    if isinstance(a, int) and isinstance(b, int):
        return a % b
    if _divide_exactly(a, b) is not None:
        return 0
    return _function("mod", a, b)


def dim_max(a: Dim, b: Dim) -> Dim:
    """Return the larger of two extents."""
    difference = a - b
    if isinstance(difference, int):
        return a if difference >= 0 else b
    return _function("max", a, b)


def dim_min(a: Dim, b: Dim) -> Dim:
    """Return the smaller of two extents."""
    difference = a - b
    if isinstance(difference, int):
        return a if difference <= 0 else b
    return _function("min", a, b)


def symbols_of(dim: Dim) -> frozenset[str]:
    """Return the names of all symbols that occur in `dim`."""
    if isinstance(dim, int):
        return frozenset()
    names: set[str] = set()
    for monomial, _ in dim.terms:
        for atom in monomial:
            if atom.arguments:
                names.update(*(symbols_of(argument) for argument in atom.arguments))
            else:
                names.add(atom.name)
    return frozenset(names)


def evaluate(dim: Dim, bindings: Mapping[str, int]) -> int:
    """Return the value of `dim` with symbols replaced; raise KeyError for an unbound symbol."""
    if isinstance(dim, int):
        return dim
    return sum(
        coefficient * math.prod(_evaluate_atom(atom, bindings) for atom in monomial)
        for monomial, coefficient in dim.terms
    )


def substitute(dim: Dim, bindings: Mapping[str, Dim]) -> Dim:
    """Return `dim` with some symbols replaced by other extents."""
    if isinstance(dim, int):
        return dim
    total: Dim = 0
    for monomial, coefficient in dim.terms:
        term: Dim = coefficient
        for atom in monomial:
            term = term * _substitute_atom(atom, bindings)
        total = total + term
    return total


def parse_dim(text: str) -> Dim:
    """Read the text form back; raise ValueError on anything else."""
    # "?" marks extents that only data decides; Python's grammar has no such name.
    try:
        tree = ast.parse(re.sub(r"\?(\w+)", r"unknown__\1", text), mode="eval")
    except SyntaxError as error:
        raise ValueError(f"not an extent: {text!r}") from error
    return _parse(tree.body, text)


def _parse(node: ast.expr, text: str) -> Dim:
    match node:
        case ast.Constant(value=int() as value):
            return value
        case ast.Name(id=name):
            return symbol(re.sub(r"^unknown__", "?", name))
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_parse(operand, text)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _parse(left, text) + _parse(right, text)
        case ast.BinOp(left=left, op=ast.Sub(), right=right):
            return _parse(left, text) - _parse(right, text)
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            return _parse(left, text) * _parse(right, text)
        case ast.Call(func=ast.Name(id=name), args=[a, b]) if name in FUNCTIONS:
            return apply(name, _parse(a, text), _parse(b, text))
    raise ValueError(f"not an extent: {text!r}")


def apply(name: str, a: Dim, b: Dim) -> Dim:
    """Return function `name` (a key of FUNCTIONS) of two extents, simplified."""
    return {"floordiv": floordiv, "mod": mod, "max": dim_max, "min": dim_min}[name](a, b)


def _function(name: str, a: Dim, b: Dim) -> Dim:
    if isinstance(a, int) and isinstance(b, int):
        return FUNCTIONS[name](a, b)
    return Expression({(Atom(name, (a, b)),): 1})


def _evaluate_atom(atom: Atom, bindings: Mapping[str, int]) -> int:
    if not atom.arguments:
        return bindings[atom.name]
    a, b = (evaluate(argument, bindings) for argument in atom.arguments)
    return FUNCTIONS[atom.name](a, b)


def _substitute_atom(atom: Atom, bindings: Mapping[str, Dim]) -> Dim:
    if not atom.arguments:
        return bindings.get(atom.name, symbol(atom.name))
    a, b = (substitute(argument, bindings) for argument in atom.arguments)
    return apply(atom.name, a, b)


def _terms(dim: Dim) -> dict[Monomial, int]:
    if isinstance(dim, int):
        return {(): dim} if dim else {}
    return dict(dim.terms)


def _from_terms(terms: Mapping[Monomial, int]) -> Dim:
    kept = {monomial: coefficient for monomial, coefficient in terms.items() if coefficient}
    if not kept:
        return 0
    if set(kept) == {()}:
        return kept[()]
    return Expression(kept)


def _add(a: Dim, b: Dim, sign: int) -> Dim:
    terms = _terms(a)
    for monomial, coefficient in _terms(b).items():
        terms[monomial] = terms.get(monomial, 0) + sign * coefficient
    return _from_terms(terms)


def _multiply(a: Dim, b: Dim) -> Dim:
    terms: dict[Monomial, int] = {}
    for left, x in _terms(a).items():
        for right, y in _terms(b).items():
            monomial = tuple(sorted((*left, *right), key=str))
            terms[monomial] = terms.get(monomial, 0) + x * y
    return _from_terms(terms)


def _divide_exactly(a: Dim, b: Dim) -> Dim | None:
    """Return a / b when that is a polynomial with integer coefficients, else None.

    Long division by the leading term. The order of terms need not be a monomial order: a quotient
    is returned only where the remainder becomes zero, so q * b == a holds in any case.
    """
    divisor = _terms(b)
    if not divisor:
        return None
    lead, coefficient = min(divisor.items(), key=lambda item: _monomial_key(item[0]))
    quotient: dict[Monomial, int] = {}
    remainder: Dim = a
    while (rest := _terms(remainder)) and len(quotient) <= MAX_QUOTIENT_TERMS:
        monomial, value = min(rest.items(), key=lambda item: _monomial_key(item[0]))
        factor = _divide_monomial(monomial, lead)
        if factor is None or value % coefficient or factor in quotient:
            return None
        quotient[factor] = value // coefficient
        remainder = remainder - _from_terms({factor: value // coefficient}) * b
    return _from_terms(quotient) if remainder == 0 else None


def _divide_monomial(a: Monomial, b: Monomial) -> Monomial | None:
    rest = list(a)
    for atom in b:
        if atom not in rest:
            return None
        rest.remove(atom)
    return tuple(rest)


def _monomial_key(monomial: Monomial) -> tuple[bool, int, str]:
    return (not monomial, -len(monomial), "*".join(map(str, monomial)))


def _print(terms: tuple[tuple[Monomial, int], ...]) -> str:
    text = ""
    for monomial, coefficient in terms:
        factors = [str(atom) for atom in monomial]
        if abs(coefficient) != 1 or not factors:
            factors.insert(0, str(abs(coefficient)))
        sign = "-" if coefficient < 0 else "+" if text else ""
        text += sign + "*".join(factors)
    return text
