"""Where buffers of dynamic size lie: offsets that grow with the extents.

Offsets made for the largest shapes are right for all, but at a small batch the buffers then lie
far apart: every one touches memory of its own, and caches and pages are wasted. When the sizes of
most buffers are multiples of one product of symbols (the batch, or batch times sequence), a
placement for one unit, multiplied by that product, is right for every shape and always dense. The
other buffers get plain offsets for their largest sizes, in front.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from planish.ir.shape import Dim, evaluate, floordiv, product, symbol, symbols_of
from planish.plan.memory import (
    ALIGNMENT,
    SLACK,
    Buffer,
    Placement,
    Ranges,
    aligned,
    place_buffers,
    upper_bound,
)

CANDIDATES = 3  # products of symbols that are tried
TOLERANCE = 1.1  # of the arena at the largest shapes, against plain offsets
ROUNDING = 1.05  # a unit may grow by this much when it is rounded up to the alignment


@dataclass(frozen=True)
class Section:
    """Part of the arena: its placements in units of `factor` bytes, from byte `base` on."""

    base: int
    factor: Dim
    placements: tuple[Placement, ...]
    size: int


@dataclass(frozen=True)
class Arrangement:
    """Offsets of all buffers, in bytes, and the bytes of the arena at the largest shapes."""

    offsets: tuple[Dim, ...]
    arena_bytes: int
    sections: tuple[Section, ...]


def arrange(buffers: Sequence[Buffer], sizes: Sequence[Dim], ranges: Ranges) -> Arrangement:
    """Return the place of every buffer.

    Parameters
    ----------
    buffers : sequence of Buffer
        With their largest sizes.
    sizes : sequence of Dim
        Bytes of each as a function of the symbols.
    ranges : dict
        Symbol to (min, opt, max).
    """
    plain = _arrange(buffers, sizes, 1, ranges)
    best, least = plain, plain.arena_bytes
    for factor in _factors(buffers, sizes, ranges):
        candidate = _arrange(buffers, sizes, factor, ranges)
        extent = _extent_at_optimum(candidate, ranges)
        if extent < least and candidate.arena_bytes <= TOLERANCE * plain.arena_bytes:
            best, least = candidate, extent
    return best


def _factors(buffers: Sequence[Buffer], sizes: Sequence[Dim], ranges: Ranges) -> list[Dim]:
    """Return products of symbols that divide the sizes of many bytes' worth of buffers."""
    weights: dict[Dim, int] = {}
    for buffer, size in zip(buffers, sizes, strict=True):
        factor = _common_factor(size)
        if factor != 1 and symbols_of(factor) <= set(ranges) and upper_bound(factor, ranges) > 1:
            weights[factor] = weights.get(factor, 0) + buffer.size
    return sorted(weights, key=lambda factor: (-weights[factor], str(factor)))[:CANDIDATES]


def _common_factor(size: Dim) -> Dim:
    """Return the product of the symbols that occur in every term of `size`."""
    if isinstance(size, int):
        return 1
    shared: list[str] | None = None
    for monomial, _ in size.terms:
        names = [atom.name for atom in monomial if not atom.arguments]
        if shared is None:
            shared = names
            continue
        kept = []
        for name in shared:
            if name in names:
                names.remove(name)
                kept.append(name)
        shared = kept
    return product(map(symbol, shared or ()))


def _arrange(
    buffers: Sequence[Buffer], sizes: Sequence[Dim], factor: Dim, ranges: Ranges
) -> Arrangement:
    """Place buffers whose size is a multiple of `factor` in units of it, the others plainly."""
    scaled: list[int] = []
    units: list[Buffer] = []
    for index, (buffer, size) in enumerate(zip(buffers, sizes, strict=True)):
        unit = _unit(size, factor, ranges)
        if unit is not None:
            scaled.append(index)
            units.append(Buffer(buffer.label, unit, buffer.first, buffer.last))
    chosen = set(scaled)
    others = [index for index in range(len(buffers)) if index not in chosen]
    first = _section(0, 1, [buffers[index] for index in others])
    second = _section(first.size, factor, units)
    offsets: list[Dim] = [0] * len(buffers)
    for section, indices in ((first, others), (second, scaled)):
        for index, placement in zip(indices, section.placements, strict=True):
            offsets[index] = section.base + section.factor * placement.offset
    end = first.size + upper_bound(second.size * factor, ranges)
    arena = end + SLACK if buffers else 0
    return Arrangement(tuple(offsets), arena, (first, second))


def _unit(size: Dim, factor: Dim, ranges: Ranges) -> int | None:
    """Return the bytes that `size` needs for each unit of `factor`; None when it is no multiple."""
    if factor == 1:
        return None
    quotient = floordiv(size, factor)
    if quotient * factor != size:
        return None
    unit = upper_bound(quotient, ranges)
    return unit if aligned(unit) <= ROUNDING * unit else None


def _section(base: int, factor: Dim, buffers: Sequence[Buffer]) -> Section:
    placements, end = place_buffers(buffers)
    size = end - SLACK if buffers else 0
    return Section(base, factor, tuple(placements), -(-size // ALIGNMENT) * ALIGNMENT)


def _extent_at_optimum(arrangement: Arrangement, ranges: Ranges) -> int:
    """Return the bytes from the arena's start to its last buffer at the shapes to tune for."""
    optimum = {name: opt for name, (_, opt, _) in ranges.items()}
    first, second = arrangement.sections
    return first.size + second.size * evaluate(second.factor, optimum)
