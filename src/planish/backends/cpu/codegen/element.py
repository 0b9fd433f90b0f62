"""What GEMM tiles are made of on a target: vector width, registers, element kinds of operands.

An *element kind* says in which type the operands of a product lie in memory when the inner loop
reads them, and how many consecutive K elements one lane takes (`group`): 1 for f32, 2 for bf16
pairs, 4 for 8-bit integers. Everything else about a tile (offsets, loops, packing, epilogue) is the
same for all kinds, so a new kind is one more row here and its instruction in vector.h.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from planish.ir.dtypes import BF16, F32, I8, U8, DType
from planish.tactics.target import Target


@dataclass(frozen=True)
class ElementKind:
    """One kind of multiplication operand.

    Attributes
    ----------
    dtype : DType
        Type in memory of packed weights.
    ctype : str
        Its C type.
    group : int
        Consecutive K elements that one 32-bit lane takes.
    input_ctype : str
        C type in memory of the broadcast operand.
    fold : int
        Neighbouring lanes that hold partial sums of one column. Few columns would leave lanes
        empty; with `fold` lanes a column, each step takes `fold` times as many K elements
        (`group` counts them all) and the lanes are added up at the end.
    product : str
        Stem of the C function that multiplies and adds ("fma", "dot", "dot_quads").
    flips : bool
        Whether broadcast bytes have their sign bit flipped, which makes signed ones unsigned and
        128 larger (the dot product takes unsigned times signed bytes).
    """

    dtype: DType
    ctype: str
    group: int
    input_ctype: str
    fold: int = 1
    product: str = "fma"
    flips: bool = False

    @property
    def is_integer(self) -> bool:
        """Whether sums are int32."""
        return self.dtype is I8

    @property
    def sum_ctype(self) -> str:
        """C type of one accumulator in memory."""
        return "int32_t" if self.is_integer else "float"

    def sum_vector(self, prefix: str) -> str:
        """Return the C type of a register of accumulators, which is the stem of its functions."""
        return f"{prefix}i" if self.is_integer else prefix

    def folded(self, fold: int) -> ElementKind:
        """Return this kind with `fold` lanes a column."""
        return replace(self, group=self.group // self.fold * fold, fold=fold)

    def padded(self, run: int) -> int:
        """Return `run` K elements rounded up to whole groups."""
        return -(-run // self.group) * self.group


FLOAT = ElementKind(F32, "float", 1, "float")
PAIRS = ElementKind(BF16, "uint16_t", 2, "uint16_t", product="dot")
# bf16 on a CPU without bf16 arithmetic: widened as it is broadcast, multiplied as f32
WIDENED = ElementKind(F32, "float", 1, "uint16_t")
# four bytes a lane; the broadcast ones are taken as unsigned, the weights as signed
QUADS = {
    U8: ElementKind(I8, "int8_t", 4, "uint8_t", product="dot_quads"),
    I8: ElementKind(I8, "int8_t", 4, "int8_t", product="dot_quads", flips=True),
}


@dataclass(frozen=True)
class VectorUnit:
    """The vector instructions that tiles are printed with.

    Attributes
    ----------
    lanes : int
        32-bit elements of a register.
    registers : int
        Architectural vector registers.
    pairs : bool
        Whether there is a dot product of bf16 pairs that pays: cores with AMX take so long for one
        that converting to float32 is twice as fast (docs/precision.md).
    quads : str
        CPU feature that is a dot product of four bytes; without one, sixteen bits are multiplied.
    """

    lanes: int
    registers: int
    pairs: bool
    quads: str = ""

    @property
    def prefix(self) -> str:
        """Stem of the C names in vector.h."""
        return f"planish_v{self.lanes}"

    @property
    def isa(self) -> tuple[str, ...]:
        """CPU features that code printed for this unit needs."""
        extra = (self.quads,) if self.quads else ()
        if self.lanes == 8:
            return ("avx2", "fma", *extra)
        wide = ("avx512f", "avx512bw", "avx512vl", "avx512dq", *extra)
        return (*wide, "avx512_bf16") if self.pairs else wide

    def kind_of(self, dtype: DType) -> ElementKind:
        """Return the kind in which operands of `dtype` are multiplied (f32 where there is none)."""
        return PAIRS if dtype is BF16 and self.pairs else FLOAT

    def kind_in_place(self, dtype: DType, tiles: bool = False) -> ElementKind:
        """Return the kind for an operand that is multiplied as it lies in memory.

        With `tiles` it is for AMX, which multiplies signed and unsigned bytes alike.
        """
        if dtype in QUADS:
            return replace(QUADS[dtype], flips=False) if tiles else QUADS[dtype]
        if dtype is BF16:
            return PAIRS if self.pairs or tiles else WIDENED
        return FLOAT


def vector_unit(target: Target) -> VectorUnit | None:
    """Return the widest unit of `target`, or None when it has not even AVX2."""
    if target.has("avx512f", "avx512bw", "avx512vl", "avx512dq", "avx2", "fma"):
        quads = "avx512_vnni" if target.has("avx512_vnni") else ""
        pairs = target.has("avx512_bf16") and not target.has("amx_bf16")
        return VectorUnit(16, 32, pairs, quads)
    if target.has("avx2", "fma"):
        return VectorUnit(8, 16, False, "avx_vnni" if target.has("avx_vnni") else "")
    return None
