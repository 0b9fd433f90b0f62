"""Innermost loops, to be vectorised: remainders under masks, strips of 16-bit results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from planish.backends.cpu.codegen.access import Access, offset_of, prune_axes
from planish.backends.cpu.codegen.writer import KernelWriter, block
from planish.ir.dtypes import BF16, F16
from planish.ir.shape import Dim

LANES = 16  # elements of a vector of floats; vectors of other types are cut or joined
STRIP = 512  # elements of a strip of results that are converted to 16 bits together
NARROW_LIMIT = 16  # loops shorter than this convert one element at a time


@dataclass(frozen=True)
class Narrow:
    """A store of a 16-bit float that goes through a strip of floats (`buffer`)."""

    access: Access
    expression: str
    buffer: str


Stores = tuple[tuple[Access, str], ...]


def split_narrow(
    writer: KernelWriter, stores: Stores, axis: int | None
) -> tuple[Stores, list[Narrow]]:
    """Separate contiguous stores of 16-bit floats along `axis` from all others."""
    plain: list[tuple[Access, str]] = []
    narrow: list[Narrow] = []
    for access, expression in stores:
        small = access.dtype in (BF16, F16) and axis is not None and access.strides[axis] == 1
        if small and not any(axis in term.axes for term in access.terms):
            narrow.append(Narrow(access, expression, writer.fresh("strip")))
        else:
            plain.append((access, expression))
    return tuple(plain), narrow


def fill_strips(narrow: Sequence[Narrow], axis: int, start: str = "strip") -> list[str]:
    """Return the statements that put results into strips."""
    return [f"{n.buffer}[i{axis} - {start}] = {n.expression};" for n in narrow]


def flush_strips(
    writer: KernelWriter, narrow: Sequence[Narrow], axis: int, start: str, count: str
) -> list[str]:
    """Return the calls that convert strips to memory."""
    lines = []
    for n in narrow:
        base = offset_of(writer, prune_axes(n.access, (axis,)))
        function = f"planish_narrow_{n.access.dtype}"
        lines.append(f"{function}({n.access.pointer} + {base} + {start}, {n.buffer}, {count});")
    return lines


def declare_strips(narrow: Sequence[Narrow], length: int) -> list[str]:
    """Return the declarations of strips."""
    return [f"float {n.buffer}[{length}] __attribute__((aligned(64)));" for n in narrow]


def strip_loop(
    writer: KernelWriter,
    narrow: Sequence[Narrow],
    axis: int,
    span: Span,
    body: list[str],
    pragma: str,
) -> list[str]:
    """Return a loop over `axis`; with narrow stores, one of strips that are flushed."""
    if not narrow:
        return vector_loop(writer, f"i{axis}", span, body, pragma)
    inner = [
        f"const int64_t stop = planish_min_i64({span.high}, strip + {STRIP});",
        *vector_loop(writer, f"i{axis}", Span("strip", "stop", span.extent), body, pragma),
        *flush_strips(writer, narrow, axis, "strip", "stop - strip"),
    ]
    header = f"for (int64_t strip = {span.low}; strip < {span.high}; strip += {STRIP})"
    return [*declare_strips(narrow, STRIP), *block(header, inner)]


@dataclass(frozen=True)
class Span:
    """Bounds of a loop in C; `extent` is the axis's extent, of which the span may be a part."""

    low: str
    high: str
    extent: Dim

    @property
    def has_no_rest(self) -> bool:
        """Whether it is a whole number of vectors (parts are cut at multiples of LANES)."""
        return isinstance(self.extent, int) and self.extent % LANES == 0


def vector_loop(
    writer: KernelWriter, index: str, span: Span, body: list[str], pragma: str
) -> list[str]:
    """Return a loop to be vectorised.

    What is left after whole vectors is one more vector under a mask, where the target has masks:
    left to itself, the compiler would do up to 15 elements one by one. It does know half vectors,
    which are faster than a mask: compilers combine masks with comparisons outside mask registers.
    """
    low, high = span.low, span.high
    plain = [pragma, *block(f"for (int64_t {index} = {low}; {index} < {high}; ++{index})", body)]
    halves = isinstance(span.extent, int) and span.extent % (LANES // 2) == 0 and not writer.mixed
    if not writer.masked or (halves and not span.has_no_rest):
        return plain
    if low.isdigit() and high.isdigit():
        whole, rest = str(int(high) - (int(high) - int(low)) % LANES), high
        if whole == high:
            return plain
    else:
        whole, rest = writer.fresh("whole"), high
    main = block(f"for (int64_t {index} = {low}; {index} < {whole}; ++{index})", body)
    lines = [pragma, *main] if whole != low else []
    if not whole.isdigit():
        lines.insert(0, f"const int64_t {whole} = {low} + (({high} - {low}) & -{LANES});")
    if span.has_no_rest:
        return lines
    header = f"for (int64_t {index} = {whole}; {index} < {whole} + {LANES}; ++{index})"
    end = writer.fresh("end")
    # of a mask that it knows, gcc makes a blend with all of the vector in memory (PR 110237)
    hidden = f"const int64_t {end} = planish_hidden({rest});"
    tail = [hidden, pragma, *block(header, block(f"if ({index} < {end})", body))]
    return [*lines, *(tail if whole.isdigit() else block(f"if ({whole} < {rest})", tail))]
