"""TensorList and TensorArray: lists of equally shaped tensors become one tensor with an axis more.

A list is no tensor of the graph but a `TensorList`, which rules hand on to each other: the tensor
that holds its elements so far, how many there are, and of what shape. Inside a loop that writes
one element an iteration the list is a `LoopList`, and what was written is a `Written`; the rule for
While (loops.py) turns it into a stacked output. Where that cannot be, the loop carries the
tensor, and every write is a ScatterND.

TensorFlow 1's TensorArrays are the same with two operands: the handle says of what type the array
is, the *flow* is the list.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from planish.importers.tensorflow_builder import Builder, Operand, dtype_from, rule
from planish.importers.tensorflow_graph import TfNode
from planish.ir.dtypes import I32, DType
from planish.ir.graph import Graph, Value
from planish.ir.rewrite import discard
from planish.ir.shape import Dim
from planish.ops.content import contents


@dataclass(frozen=True)
class TensorList:
    """A list of tensors.

    Attributes
    ----------
    dtype : DType
    length : Value
        Number of elements, an int64 scalar.
    elements : Value or None
        All of them along a first axis; None while nothing was written: they are zeros.
    shape : tuple or None
        Extents of one element as far as they are known (None where not).
    """

    dtype: DType
    length: Value
    elements: Value | None = None
    shape: tuple[Dim | None, ...] | None = None


@dataclass(frozen=True)
class LoopList(TensorList):
    """A list as a loop's body finds it in an iteration: its elements are not to be read."""


@dataclass(frozen=True)
class Written(TensorList):
    """A `LoopList` after one element was written.

    Attributes
    ----------
    index : Value or None
        Where; None at the end (the list grows).
    value : Value or None
        What.
    """

    base: LoopList | None = None
    index: Value | None = None
    value: Value | None = None


@dataclass(frozen=True)
class ArrayHandle:
    """The handle of a TensorFlow 1 TensorArray; its contents travel with the flow."""

    dtype: DType


class NeedsTensor(Exception):  # noqa: N818 (a decision, not an error)
    """A loop's body does more with a list than write one element: the tensor has to be carried."""

    def __init__(self, given: TensorList) -> None:
        super().__init__()
        self.base = given.base if isinstance(given, Written) else given


def forget(graph: Graph) -> None:
    """Take the nodes of a graph that is given up out of the use lists of outer values."""
    graph.outputs = []
    for node in reversed(graph):
        discard(node, graph)


# -- what lists hold -------------------------------------------------------------------------------


def elements_of(builder: Builder, given: TensorList, like: Value | None = None) -> Value:
    """Return the tensor that holds all elements; zeros in the shape of `like` where none is."""
    if isinstance(given, LoopList | Written):
        raise NeedsTensor(given)
    if given.elements is not None:
        return given.elements
    if like is not None and like.shape is not None:
        one = builder.shape_of(like)
    elif given.shape is not None and all(isinstance(dim, int) for dim in given.shape):
        one = builder.constant(np.array(given.shape, np.int64))
    else:
        builder.refuse("nothing was written to the list, and the shape of its elements is unknown")
    shape = builder.concat([builder.reshape(given.length, 1), one])
    return builder.emit("ConstantOfShape", shape, value=np.zeros(1, given.dtype.numpy))


def with_elements(builder: Builder, given: TensorList, elements: Value) -> TensorList:
    """Return the list with other elements."""
    return TensorList(given.dtype, length_of(builder, elements), elements, given.shape)


def length_of(builder: Builder, elements: Value) -> Value:
    """Return the first extent of a tensor as an int64 scalar."""
    shape = builder.shape_of(elements)
    return builder.emit("Gather", shape, builder.constant(np.array(0, np.int64)), axis=0)


def list_operand(builder: Builder, index: int = 0) -> TensorList:
    """Return an operand that is a list; refuse anything else."""
    operand = builder.operands[index] if index < len(builder.operands) else None
    if not isinstance(operand, TensorList):
        builder.refuse("the operand is a variant that is no list of tensors")
    return operand


def write(builder: Builder, given: TensorList, index: Value, value: Value) -> TensorList:
    """Return the list with `value` at `index`."""
    if isinstance(given, Written):
        raise NeedsTensor(given)
    if isinstance(given, LoopList):
        return Written(given.dtype, given.length, None, given.shape, given, index, value)
    elements = elements_of(builder, given, value)
    where = builder.reshape(builder.i64(index), 1, 1)
    update = builder.unsqueeze(value, 0)
    return with_elements(builder, given, builder.emit("ScatterND", elements, where, update))


def read(builder: Builder, given: TensorList, index: Value) -> Value:
    """Return the element at `index`."""
    return builder.emit("Gather", elements_of(builder, given), index, axis=0)


def push(builder: Builder, given: TensorList, value: Value) -> TensorList:
    """Return the list with `value` behind its last element."""
    if isinstance(given, Written):
        raise NeedsTensor(given)
    if isinstance(given, LoopList):
        return Written(given.dtype, given.length, None, given.shape, given, None, value)
    one = builder.unsqueeze(value, 0)
    if given.elements is None and contents(given.length) == (0,):
        return with_elements(builder, given, one)
    return with_elements(builder, given, builder.concat([elements_of(builder, given, value), one]))


def _is_everything(indices: Value, length: Value) -> bool:
    """Whether `indices` are 0, 1, ... up to the length of the list, as far as can be seen."""
    count = contents(length)
    if indices.is_constant:
        numbers = indices.array.reshape(-1)
        whole = count is None or count == (len(numbers),)
        return whole and np.array_equal(numbers, np.arange(len(numbers)))
    while indices.producer is not None and indices.producer.op in ("Cast", "Identity"):
        (indices,) = indices.producer.present_inputs
    node = indices.producer
    if node is None or node.op != "Range":
        return False
    start, limit, step = map(contents, node.inputs)
    return start == (0,) and step == (1,) and limit is not None and limit == count


def gather(builder: Builder, given: TensorList, indices: Value) -> Value:
    """Return the elements at `indices`, stacked."""
    elements = elements_of(builder, given)
    if _is_everything(indices, given.length):
        return elements
    return builder.emit("Gather", elements, indices, axis=0)


def scatter(builder: Builder, given: TensorList, indices: Value, value: Value) -> TensorList:
    """Return the list with the slices of `value` at `indices`."""
    if isinstance(given, LoopList | Written):
        raise NeedsTensor(given)
    if _is_everything(indices, given.length):
        return with_elements(builder, given, value)
    one = builder.emit("Gather", value, builder.constant(np.array(0, np.int64)), axis=0)
    elements = elements_of(builder, given, one)
    where = builder.unsqueeze(builder.i64(indices), 1)
    return with_elements(builder, given, builder.emit("ScatterND", elements, where, value))


def _new(
    builder: Builder, tf_type: Any, length: Value, shape: tuple[Dim | None, ...] | None
) -> TensorList:
    dtype = dtype_from(tf_type)
    if dtype is None:
        builder.refuse(f"the elements of the list are of type {tf_type}")
    return TensorList(dtype, builder.i64(length), None, shape)


def _shape_operand(builder: Builder, index: int) -> tuple[Dim | None, ...] | None:
    """Return the element shape that an operand gives (-1: unknown extent, scalar: unknown rank)."""
    value = builder.input(index)
    found = contents(value)
    if found is None or value.shape == ():
        return None
    return tuple(None if dim == -1 else dim for dim in found)


def _merged(value: Value) -> tuple[Dim | None, ...] | None:
    return None if value.shape is None else value.shape[1:]


# -- TensorList ------------------------------------------------------------------------------------


@rule("TensorListFromTensor")
def from_tensor(node: TfNode, builder: Builder) -> TensorList:
    """Return a list of the slices along the first axis."""
    x = builder.input(0)
    return TensorList(x.dtype, length_of(builder, x), x, _merged(x))


@rule("TensorListReserve")
def reserve(node: TfNode, builder: Builder) -> TensorList:
    """Return a list of zeros."""
    shape = _shape_operand(builder, 0)
    return _new(builder, node.attributes.get("element_dtype"), builder.input(1), shape)


@rule("EmptyTensorList")
def empty(node: TfNode, builder: Builder) -> TensorList:
    """Return a list without elements."""
    zero = builder.constant(np.array(0, np.int64))
    shape = _shape_operand(builder, 0)
    return _new(builder, node.attributes.get("element_dtype"), zero, shape)


@rule("TensorListGetItem")
def get_item(node: TfNode, builder: Builder) -> Value:
    """Read one element."""
    return read(builder, list_operand(builder), builder.input(1))


@rule("TensorListSetItem")
def set_item(node: TfNode, builder: Builder) -> TensorList:
    """Write one element."""
    given, index, value = list_operand(builder), builder.input(1), builder.input(2)
    if not builder.attribute("resize_if_index_out_of_bounds", False):
        return write(builder, given, index, value)
    if isinstance(given, LoopList) and not isinstance(given, Written):
        return Written(given.dtype, given.length, None, given.shape, given, index, value)
    place, length = contents(builder.i64(index)), contents(given.length)
    if place is None or length is None:
        builder.refuse("only data decides whether the list grows")
    if place == length:
        return push(builder, given, value)
    return write(builder, given, index, value)


@rule("TensorListStack")
def stack(node: TfNode, builder: Builder) -> Value:
    """Return all elements as one tensor."""
    given = list_operand(builder)
    shape = _shape_operand(builder, 1)
    if given.shape is None and shape is not None:
        given = replace(given, shape=shape)
    return elements_of(builder, given)


@rule("TensorListGather")
def list_gather(node: TfNode, builder: Builder) -> Value:
    """Return some elements as one tensor."""
    return gather(builder, list_operand(builder), builder.input(1))


@rule("TensorListLength")
def length(node: TfNode, builder: Builder) -> Value:
    """Return the number of elements."""
    return builder.cast(list_operand(builder).length, I32)


@rule("TensorListElementShape")
def element_shape(node: TfNode, builder: Builder) -> Value:
    """Return the shape of one element."""
    given = list_operand(builder)
    dtype = builder.dtype(builder.attribute("shape_type"))
    if given.shape is not None and all(isinstance(dim, int) for dim in given.shape):
        return builder.constant(np.array(given.shape), dtype)
    shape = builder.shape_of(elements_of(builder, given))
    ends = (builder.constant([1]), builder.constant([1 << 30]), builder.constant([0]))
    return builder.cast(builder.emit("Slice", shape, *ends), dtype)


@rule("TensorListPushBack")
def push_back(node: TfNode, builder: Builder) -> TensorList:
    """Append one element."""
    return push(builder, list_operand(builder), builder.input(1))


@rule("TensorListPopBack")
def pop_back(node: TfNode, builder: Builder) -> tuple[TensorList, Value]:
    """Take the last element off."""
    given = list_operand(builder)
    elements = elements_of(builder, given)
    last = builder.emit("Gather", elements, builder.constant(np.array(-1, np.int64)), axis=0)
    ends = (builder.constant([0]), builder.constant([-1]), builder.constant([0]))
    return with_elements(builder, given, builder.emit("Slice", elements, *ends)), last


@rule("TensorListResize")
def resize(node: TfNode, builder: Builder) -> TensorList:
    """Drop elements behind a length, or append zeros up to it."""
    given, size = list_operand(builder), builder.i64(builder.input(1))
    have, want = contents(given.length), contents(size)
    if have == want and have is not None:
        return given
    if isinstance(given, LoopList | Written):
        raise NeedsTensor(given)
    if given.elements is None:
        return replace(given, length=size)
    if have is None or want is None or not isinstance(have[0], int) or not isinstance(want[0], int):
        builder.refuse("the lengths of the list are not known when the model is read")
    if want[0] < have[0]:
        ends = (builder.constant([0]), builder.constant([want[0]]), builder.constant([0]))
        return with_elements(builder, given, builder.emit("Slice", given.elements, *ends))
    rank = builder.rank(given.elements)
    pads = builder.constant([0] * rank + [want[0] - have[0]] + [0] * (rank - 1))
    return with_elements(builder, given, builder.emit("Pad", given.elements, pads))


@rule("TensorListScatter", "TensorListScatterV2", "TensorListScatterIntoExistingList")
def list_scatter(node: TfNode, builder: Builder) -> TensorList:
    """Return a list with slices of a tensor at given indices."""
    if node.op == "TensorListScatterIntoExistingList":
        return scatter(builder, list_operand(builder), builder.input(2), builder.input(1))
    value, indices = builder.input(0), builder.input(1)
    count = length_of(builder, indices)
    if node.op == "TensorListScatterV2" and contents(builder.input(3)) != (-1,):
        count = builder.i64(builder.input(3))
    return scatter(builder, TensorList(value.dtype, count, None, _merged(value)), indices, value)


@rule("TensorListConcat", "TensorListConcatV2")
def list_concat(node: TfNode, builder: Builder) -> tuple[Value, Value]:
    """Join elements along their first axis; all have one length, because all have one shape."""
    given = list_operand(builder)
    return _joined(builder, given)


def _joined(builder: Builder, given: TensorList) -> tuple[Value, Value]:
    elements = elements_of(builder, given)
    shape = builder.shape_of(elements)
    ends = (builder.constant([2]), builder.constant([1 << 30]), builder.constant([0]))
    rest = builder.emit("Slice", shape, *ends)
    joined = builder.emit("Reshape", elements, builder.concat([builder.constant([-1]), rest]))
    one = builder.emit("Gather", shape, builder.constant([1]), axis=0)
    count = builder.reshape(given.length, 1)
    return joined, builder.emit("Expand", one, count)


# -- TensorArray -----------------------------------------------------------------------------------


@rule("TensorArrayV3")
def tensor_array(node: TfNode, builder: Builder) -> tuple[Operand, TensorList]:
    """Return the handle, and a list of zeros as the flow."""
    shape = builder.attribute("element_shape")
    known = None if shape is None else tuple(shape)
    flow = _new(builder, builder.attribute("dtype"), builder.input(0), known)
    if builder.attribute("dynamic_size", False) and contents(flow.length) == (0,):
        flow = replace(flow, length=builder.constant(np.array(0, np.int64)))
    return ArrayHandle(flow.dtype), flow


@rule("TensorArrayReadV3")
def array_read(node: TfNode, builder: Builder) -> Value:
    """Read one element."""
    return read(builder, list_operand(builder, 2), builder.input(1))


@rule("TensorArrayWriteV3")
def array_write(node: TfNode, builder: Builder) -> TensorList:
    """Write one element."""
    return write(builder, list_operand(builder, 3), builder.input(1), builder.input(2))


@rule("TensorArrayGatherV3")
def array_gather(node: TfNode, builder: Builder) -> Value:
    """Return some elements as one tensor."""
    return gather(builder, list_operand(builder, 2), builder.input(1))


@rule("TensorArrayScatterV3")
def array_scatter(node: TfNode, builder: Builder) -> TensorList:
    """Write slices of a tensor."""
    return scatter(builder, list_operand(builder, 3), builder.input(1), builder.input(2))


@rule("TensorArrayConcatV3")
def array_concat(node: TfNode, builder: Builder) -> tuple[Value, Value]:
    """Join elements along their first axis."""
    return _joined(builder, list_operand(builder, 1))


@rule("TensorArraySizeV3")
def array_size(node: TfNode, builder: Builder) -> Value:
    """Return the number of elements."""
    return builder.cast(list_operand(builder, 1).length, I32)


@rule("TensorArrayCloseV3")
def array_close(node: TfNode, builder: Builder) -> list[Operand]:
    """Do nothing: there is nothing to free."""
    return []
