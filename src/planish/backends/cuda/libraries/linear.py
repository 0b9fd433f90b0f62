"""Regions that are one matrix product with a constant, a bias, a residual and an activation.

    y[m, n] = activation(sum over k of x[m, k] * w[n, k]  +  bias[n]  +  residual[m, n])

MatMul and Gemm, and convolutions of one pixel over channels-last data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from planish.ir.dtypes import BF16, F16, F32, DType
from planish.ir.graph import Node, Value
from planish.ir.shape import Dim, Shape, product
from planish.tactics.tactic import Operand, Region

Array = np.ndarray[Any, Any]
FLOATS = (F16, BF16, F32)


@dataclass(frozen=True)
class Matrix:
    """An operand as rows of `columns` neighbouring elements, `step` elements from row to row."""

    operand: int
    rows: Dim
    columns: int
    step: int


@dataclass(frozen=True)
class Linear:
    """What such a region computes.

    Attributes
    ----------
    source, target : Matrix
        `operand` counts the region's inputs, then its outputs.
    residual : Matrix or None
    weights : array
        [columns of the target, columns of the source].
    bias : array or None
        One number a column.
    activation : str
        "", "Relu" or "Gelu" (by its approximation with tanh).
    dtype : DType
    """

    source: Matrix
    target: Matrix
    residual: Matrix | None
    weights: Array
    bias: Array | None
    activation: str
    dtype: DType


@dataclass(frozen=True)
class Epilogue:
    """What a region computes around a product.

    Attributes
    ----------
    source : int
        The region's input that is multiplied.
    residual : int or None
        The region's input that is added.
    bias : array or None
        One number a column, added.
    activation : str
        As for `Linear`.
    """

    source: int
    residual: int | None
    bias: Array | None
    activation: str


def read_epilogue(region: Region) -> Epilogue | str:
    """Return what follows the region's product, or why it is not of this form."""
    anchor = region.anchor
    if anchor is None:
        return "it is no product"
    places = [i for i, operand in enumerate(region.inputs) if operand.value is anchor.input(0)]
    if len(region.outputs) != 1 or not places:
        return "something is fused before it, or it has further outputs"
    chain = _Chain(region, anchor)
    problem = chain.follow()
    if problem is not None:
        return problem
    return Epilogue(places[0], chain.residual, chain.bias, chain.activation)


def read_linear(region: Region) -> Linear | str:
    """Return the region's product, or why it is none of this form."""
    anchor = region.anchor
    if anchor is None or anchor.op not in ("MatMul", "Gemm", "Conv"):
        return "it is no matrix product"
    weights = _weights(anchor)
    if isinstance(weights, str):
        return weights
    epilogue = read_epilogue(region)
    if isinstance(epilogue, str):
        return epilogue
    target_index = len(region.inputs)
    axis = columns_axis(anchor)
    matrices = {
        index: _matrix(index, operand, axis)
        for index, operand in enumerate((*region.inputs, *region.outputs))
        if index in (epilogue.source, epilogue.residual, target_index)
    }
    source, target = matrices[epilogue.source], matrices[target_index]
    residual = None if epilogue.residual is None else matrices[epilogue.residual]
    if source is None or target is None or (residual is None and epilogue.residual is not None):
        return "an operand's rows do not lie one after the other"
    operands = (*region.inputs, *region.outputs)
    dtype = operands[epilogue.source].dtype
    if dtype not in FLOATS or any(operands[index].dtype is not dtype for index in matrices):
        return "its operands are of several types, or no floats"
    return Linear(source, target, residual, weights, epilogue.bias, epilogue.activation, dtype)


def columns_axis(anchor: Node) -> int:
    """Return the axis of a product's operands that its columns are on."""
    return 1 if anchor.op == "Conv" else anchor.output.rank - 1


def _weights(anchor: Node) -> Array | str:
    """Return the constant operand as [n, k]."""
    value = anchor.input(1)
    if value is None or value.constant is None or value.dtype not in FLOATS:
        return "the right operand is no constant of floats"
    attributes, array = anchor.attributes, value.array
    if anchor.op == "Conv":
        if any(extent != 1 for extent in array.shape[2:]) or attributes.get("group", 1) != 1:
            return "the convolution is wider than a pixel, or in groups"
        if any(int(step) != 1 for step in attributes.get("strides") or ()):
            return "the convolution skips pixels"
        if any(int(pad) != 0 for pad in attributes.get("pads") or ()):
            return "the convolution is padded"
        return array.reshape(array.shape[:2])
    if attributes.get("transA") or attributes.get("alpha", 1.0) != 1.0:
        return "it is a Gemm of another form"
    if product(array.shape[:-2]) != 1:
        return "it has a batch of constants"
    matrix: Array = array.reshape(array.shape[-2:])
    return matrix if attributes.get("transB") else matrix.T


class _Chain:
    """What follows the product, node by node."""

    def __init__(self, region: Region, anchor: Node) -> None:
        self.region, self.anchor = region, anchor
        self.bias: Array | None = None
        self.residual: int | None = None
        self.activation = ""

    def follow(self) -> str | None:
        """Walk to the region's output; return why something on the way does not fit."""
        third = self.anchor.input(2)
        if third is not None and not self._is_bias(third):
            return "the added matrix is no bias"
        value, end = self.anchor.output, self.region.outputs[0].value
        while value is not end:
            if len(value.uses) != 1:
                return "a value inside is used twice"
            ((node, _),) = value.uses
            if self.activation or not self._take(node, value):
                return f"{node.op} behind the product is not of the form"
            value = node.output
        return None

    def _is_bias(self, value: Value) -> bool:
        if value.constant is None:
            return False
        if self.anchor.op != "Conv":
            return self._add_bias(value.array)
        self.bias = value.array
        return True

    def _take(self, node: Node, value: Value) -> bool:
        if node.op in ("Relu", "Gelu"):
            self.activation = node.op
            return node.op == "Relu" or node.attributes.get("approximate") == "tanh"
        if node.op != "Add":
            return False
        first, second = node.present_inputs
        other = second if first is value else first
        if other.constant is not None:
            return self.bias is None and self.residual is None and self._add_bias(other.array)
        for index, operand in enumerate(self.region.inputs):
            if operand.value is other and self.residual is None:
                self.residual = index
                return other.known_shape == value.known_shape
        return False

    def _add_bias(self, array: Array) -> bool:
        """Take a constant as the bias, if it has one number a column."""
        rank, axis = self.anchor.output.rank, columns_axis(self.anchor)
        shape = [1] * rank
        shape[axis] = array.size
        whole = (*(1,) * (rank - array.ndim), *array.shape)
        if array.size != self.anchor.output.known_shape[axis] or whole != tuple(shape):
            return False
        self.bias = array.reshape(-1)
        return True


def _matrix(index: int, operand: Operand, axis: int) -> Matrix | None:
    """Return an operand as a matrix whose columns are `axis`, None where memory is otherwise."""
    shape, strides = operand.shape, operand.strides
    columns = shape[axis]
    others = [position for position in range(len(shape)) if position != axis]
    if not isinstance(columns, int):
        return None
    step = _step(shape, strides, others, columns)
    if step is None or step < columns:
        return None
    if strides[axis] != 1 and columns != 1:
        return None
    return Matrix(index, product(shape[position] for position in others), columns, step)


def _step(shape: Shape, strides: Shape, axes: Sequence[int], alone: int) -> int | None:
    """Return the elements from one row to the next, where all `axes` nest; `alone` for one row."""
    step: int | None = alone
    expected: Dim | None = None
    for axis in reversed(axes):
        if shape[axis] == 1:
            continue
        if expected is None:
            if not isinstance(strides[axis], int):
                return None
            step = int(str(strides[axis]))
            expected = strides[axis]
        elif strides[axis] != expected:
            return None
        expected = expected * shape[axis]
    return step
