"""Fourier transforms of real signals, as products with matrices of sines and cosines.

Planish has no complex tensors: the result of a transform is a pair of real ones, which only these
rules know. Spectrograms (``abs(stft(x))``) need no more.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from planish.importers.tensorflow_builder import Array, Builder, Operand, rule
from planish.importers.tensorflow_graph import TfNode
from planish.ir.graph import Value

LONGEST = 4096  # longer transforms would need too large a matrix


@dataclass(frozen=True, eq=False)
class Complex:
    """A complex tensor."""

    real: Value
    imaginary: Value


@rule("RFFT")
def rfft(node: TfNode, builder: Builder) -> Operand:
    """Return the non-negative frequencies of the last axis, cut or filled up with zeros."""
    x, length = builder.input(0), _length(builder)
    extent = x.known_shape[-1]
    if not isinstance(extent, int):
        builder.refuse("the length of the signal is not known")
    if extent > length:
        numbers = [builder.constant(np.array([n], np.int64)) for n in (0, length, -1)]
        x, extent = builder.emit("Slice", x, *numbers), length
    bins = length // 2 + 1
    angles = _angles(extent, bins, length)
    matrix = np.concatenate([np.cos(angles), -np.sin(angles)], axis=1)
    both = builder.emit("MatMul", x, builder.constant(matrix.astype(x.dtype.numpy)))
    sizes = builder.constant(np.array([bins, bins], np.int64))
    return Complex(*builder.emit_many("Split", 2, both, sizes, axis=builder.rank(both) - 1))


@rule("IRFFT")
def irfft(node: TfNode, builder: Builder) -> Value:
    """Return the real signal of a spectrum that is cut or filled up with zeros."""
    spectrum, length = _complex(builder), _length(builder)
    extent = spectrum.real.known_shape[-1]
    if not isinstance(extent, int) or extent < length // 2 + 1:
        builder.refuse("the spectrum is shorter than the signal asks for")
    bins = length // 2 + 1
    weights = np.full(bins, 2.0)
    weights[0] = 1.0
    if length % 2 == 0:
        weights[-1] = 1.0
    angles = _angles(bins, length, length)
    scale = weights[:, None] / length
    numbers = [builder.constant(np.array([n], np.int64)) for n in (0, bins, -1)]
    parts = []
    for part, wave in ((spectrum.real, np.cos(angles)), (spectrum.imaginary, -np.sin(angles))):
        cut = part if extent == bins else builder.emit("Slice", part, *numbers)
        matrix = builder.constant((wave * scale).astype(part.dtype.numpy))
        parts.append(builder.emit("MatMul", cut, matrix))
    return builder.emit("Add", *parts)


@rule("ComplexAbs")
def complex_abs(node: TfNode, builder: Builder) -> Value:
    """Return the magnitudes."""
    number = _complex(builder)
    squares = [builder.emit("Mul", part, part) for part in (number.real, number.imaginary)]
    return builder.emit("Sqrt", builder.emit("Add", *squares))


@rule("Real", "Imag", "Conj")
def part_of(node: TfNode, builder: Builder) -> Operand:
    """Return the real or the imaginary part, or the conjugate."""
    number = _complex(builder)
    if node.op == "Conj":
        return Complex(number.real, builder.emit("Neg", number.imaginary))
    return number.real if node.op == "Real" else number.imaginary


@rule("Complex")
def complex_of(node: TfNode, builder: Builder) -> Operand:
    """Join a real and an imaginary part."""
    return Complex(builder.input(0), builder.input(1))


def _complex(builder: Builder) -> Complex:
    operand = builder.operands[0] if builder.operands else None
    if not isinstance(operand, Complex):
        builder.refuse("its operand is not the result of a Fourier transform")
    return operand


def _length(builder: Builder) -> int:
    length = builder.integer(1, "the length of the transform")
    if length > LONGEST:
        builder.refuse(f"a transform of length {length} is longer than {LONGEST}")
    return length


def _angles(rows: int, columns: int, length: int) -> Array:
    """Return 2 pi r c / length, the product taken modulo the length to keep its digits."""
    turns = np.outer(np.arange(rows), np.arange(columns)) % length
    return np.asarray(2 * np.pi * turns / length)
