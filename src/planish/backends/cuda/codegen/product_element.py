"""What tensor cores multiply: the type of operands and sums, and what becomes of a tile of data.

    in memory            multiplied as              sums
    f32, f16, bf16       the product's type         f32
    i8                   i8                         i32
    u8                   i8: 128 less               i32
    f8e4m3               itself                     f32
    f32 (an image)       i8, divided by its scale   i32
    i8, u8               f16: the zero point less   f32     weights that do not fit eight bits

Tensor cores multiply signed bytes by signed bytes. A zero point, and the 128 that unsigned bytes
are shifted by, are products with the sums of the weights, taken off behind the K loop; padding is
read as the zero point. Sums of 16-bit floats are exact up to 2**24, then rounded to float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from planish.backends.cuda.codegen.printer import Group, Printer
from planish.backends.cuda.codegen.triton_types import ELEMENTS, compute_type
from planish.errors import TacticError
from planish.ir.dtypes import F8E4M3, F16, I8, U8, DType
from planish.ir.rewrite import scalar_of
from planish.ir.shape import Shape
from planish.tactics.integer_form import without_zero_point
from planish.tactics.tactic import Region

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class ProductElement:
    """How the operands of one product are multiplied.

    Attributes
    ----------
    stored, multiplied : DType
        Of the data in memory, and of both operands at the tensor cores.
    zero : int
        What to take off every element of the data, where that is known.
    padding : str
        What stands for a real zero in memory, as Triton text.
    scale : float or None
        What data that are float32 in memory are divided by, to be bytes.
    """

    stored: DType
    multiplied: DType
    zero: int = 0
    padding: str = "0"
    scale: float | None = None

    @property
    def sums(self) -> str:
        """Triton's type of the sums."""
        return "tl.int32" if self.multiplied is I8 else "tl.float32"

    @property
    def nothing(self) -> str:
        """A zero weight, as Triton text."""
        return "0.0" if self.multiplied is F8E4M3 else "0"

    def converted(self, name: str) -> list[str]:
        """Return the statements that make a loaded tile of data ready to be multiplied."""
        if self.stored is self.multiplied:
            return []
        if self.scale is not None:
            return [f"{name} = planish_i8({name} * {1.0 / self.scale!r})"]
        if self.multiplied is I8:
            return [f"{name} = ({name} ^ 128).to(tl.int8, bitcast=True)"]
        number = f"{name}.to({compute_type(self.stored)})"
        if self.stored.is_integer:
            number = f"({name}.to(tl.int16) - {self.zero})"
        return [f"{name} = {number}.to({ELEMENTS[self.multiplied]})"]

    def settled(
        self, printer: Printer, weights: Array, space: Shape, groups: Sequence[Group]
    ) -> list[str]:
        """Return the statements that make whole sums of ``total``.

        Parameters
        ----------
        weights : int8 or int16, [columns, ...]
            Zero points taken off.
        space : Shape
            Of the result; columns are its axis 1 where `weights` has several axes more.
        """
        if not self.stored.is_integer:
            return []
        if self.multiplied is not I8:
            return ["total = libdevice.rint(total)"]
        shift = self.zero - (128 if self.stored is U8 else 0)
        if shift == 0:
            return []
        sums = weights.reshape(len(weights), -1).sum(axis=1, dtype=np.int64) * -shift
        trailing = max(weights.ndim - 2, 0)
        shaped = sums.astype(np.int32).reshape(-1, *(1,) * trailing)
        return [printer.load(printer.packed(shaped), space, groups, "start"), "total += start"]


def integer_element(region: Region, lowered: Region) -> tuple[ProductElement, Array]:
    """Return how a quantized product multiplies, and its weights without zero points.

    Parameters
    ----------
    region, lowered : Region
        In the normal form, and as `integer_form(region, masked=True)` returns it.
    """
    anchor, given = lowered.anchor, region.anchor
    if anchor is None or given is None or given.inputs[0] is None:
        raise TacticError("it has no anchor", where=region.name)
    data, weight = anchor.present_inputs[0], anchor.present_inputs[1].array
    if data.dtype is F8E4M3:
        return ProductElement(data.dtype, data.dtype, padding="0.0"), weight
    axis = 0 if anchor.op == "ConvInteger" else weight.ndim - 1
    plain = without_zero_point(weight, anchor.input(3), axis)
    zero = int(scalar_of(anchor.input(2)) or 0)
    padding = str(zero)
    dequantize = given.inputs[0].producer
    point = dequantize.input(2) if dequantize is not None else None
    for index, operand in enumerate(region.inputs):
        if operand.value is point:
            padding = f"tl.load(x{index})"
    fits = plain.size == 0 or (plain.min() >= -128 and plain.max() <= 127)
    multiplied = I8 if fits else F16
    return ProductElement(data.dtype, multiplied, zero, padding), plain.astype(multiplied.numpy)
