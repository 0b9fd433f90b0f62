"""Types of graph inputs; unknown extents become symbols."""

from __future__ import annotations

import keyword
import re

import onnx

from planish.errors import ModelError, UnsupportedTypeError
from planish.importers.onnx_tensor import element_type
from planish.ir.dtypes import DType
from planish.ir.shape import FUNCTIONS, Dim, Shape, symbol

BATCH = "batch"
UNNAMED = ("", "None", "?", "-1")  # what exporters write for an extent without a name


class SymbolTable:
    """Gives every `dim_param` of a model an identifier of its own."""

    def __init__(self) -> None:
        self._by_param: dict[str, str] = {}
        self._taken: set[str] = set()

    def symbol(self, parameter: str) -> Dim:
        """Return the symbol of a `dim_param`, the same for equal ones."""
        if parameter not in self._by_param:
            self._by_param[parameter] = self._unique(parameter)
        return symbol(self._by_param[parameter])

    def _unique(self, parameter: str) -> str:
        stem = re.sub(r"[^0-9A-Za-z_]", "_", parameter)
        if not stem or stem[0].isdigit():
            stem = f"d_{stem}"
        if keyword.iskeyword(stem) or stem in FUNCTIONS or stem.startswith("unknown__"):
            stem = f"{stem}_"
        name, attempt = stem, 1
        while name in self._taken:
            attempt += 1
            name = f"{stem}_{attempt}"
        self._taken.add(name)
        return name


def tensor_type(info: onnx.ValueInfoProto, label: str) -> onnx.TypeProto.Tensor:
    """Return the tensor type of a graph input; raise where it is missing or another kind."""
    kind = info.type.WhichOneof("value")
    if kind is None:
        raise ModelError("the input has no type", where=f"input {info.name} of {label}")
    if kind != "tensor_type":
        raise UnsupportedTypeError(
            f"the input is a {kind.removesuffix('_type')}, only tensors are supported",
            where=f"input {info.name} of {label}",
        )
    return info.type.tensor_type


def input_type(
    info: onnx.ValueInfoProto, symbols: SymbolTable, label: str, rank: int | None
) -> tuple[DType, Shape]:
    """Return dtype and shape of a graph input.

    Named extents become symbols of that name. An unnamed extent gets a symbol of its own
    (input and axis), but unnamed first axes of all inputs are one batch. `rank` is what the
    caller knows about an input whose shape the model leaves out.
    """
    tensor = tensor_type(info, label)
    where = f"input {info.name} of {label}"
    dtype = element_type(tensor.elem_type, where)
    if tensor.HasField("shape"):
        dims = list(tensor.shape.dim)
    elif rank is not None:
        dims = [onnx.TensorShapeProto.Dimension() for _ in range(rank)]
    else:
        raise ModelError(
            "the input has no shape, not even a rank",
            where=where,
            fix=f'pass a profile for it: profiles={{"{info.name}": Profile(min, opt, max)}}',
        )
    return dtype, tuple(_extent(dim, info.name, axis, symbols) for axis, dim in enumerate(dims))


def _extent(
    dim: onnx.TensorShapeProto.Dimension, name: str, axis: int, symbols: SymbolTable
) -> Dim:
    if dim.HasField("dim_value") and dim.dim_value >= 0:
        return int(dim.dim_value)
    if dim.HasField("dim_param") and dim.dim_param not in UNNAMED:
        return symbols.symbol(dim.dim_param)
    return symbols.symbol(BATCH if axis == 0 else f"{name}_{axis}")
