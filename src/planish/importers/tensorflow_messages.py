"""TensorFlow's protocol buffer messages, as far as a SavedModel needs them.

The descriptors are made at run time from the table below, in a pool of their own: TensorFlow's
generated classes are neither needed nor in the way when TensorFlow is loaded, too. Field numbers
are those of ``tensorflow/core/framework/*.proto``, ``core/protobuf/*.proto``; fields that nothing
here reads are left out and skipped by the parser.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from google.protobuf import (  # type: ignore[import-untyped]
    descriptor_pb2,
    descriptor_pool,
    message_factory,
)
from google.protobuf.message import DecodeError, Message  # type: ignore[import-untyped]

from planish.errors import ModelError

PACKAGE = "planish.tensorflow"

# A line: message: number name type, ... A star marks a repeated field, a percent sign a map from
# strings, an exclamation mark the fields of the message's one `oneof`.
_TABLE = """
SavedModel: 1 saved_model_schema_version int64, 2 meta_graphs *MetaGraphDef
MetaGraphDef: 1 meta_info_def MetaInfoDef, 2 graph_def GraphDef, 3 saver_def SaverDef,
  5 signature_def %SignatureDef, 6 asset_file_def *AssetFileDef, 7 object_graph_def SavedObjectGraph
MetaInfoDef: 2 stripped_op_list OpList, 4 tags *string, 5 tensorflow_version string
OpList: 1 op *OpDef
OpDef: 1 name string, 2 input_arg *ArgDef, 3 output_arg *ArgDef, 4 attr *AttrDef
AttrDef: 1 name string, 2 type string, 3 default_value AttrValue
ArgDef: 1 name string, 3 type int32, 4 type_attr string, 5 number_attr string,
  6 type_list_attr string
SaverDef: 1 filename_tensor_name string, 2 save_tensor_name string, 3 restore_op_name string
SignatureDef: 1 inputs %TensorInfo, 2 outputs %TensorInfo, 3 method_name string
TensorInfo: 1 name string !, 2 dtype int32, 3 tensor_shape TensorShapeProto, 4 coo_sparse Empty !,
  5 composite_tensor Empty !
AssetFileDef: 1 tensor_info TensorInfo, 2 filename string
GraphDef: 1 node *NodeDef, 2 library FunctionDefLibrary
NodeDef: 1 name string, 2 op string, 3 input *string, 4 device string, 5 attr %AttrValue
AttrValue: 1 list ListValue !, 2 s bytes !, 3 i int64 !, 4 f float !, 5 b bool !, 6 type int32 !,
  7 shape TensorShapeProto !, 8 tensor TensorProto !, 9 placeholder string !, 10 func NameAttrList !
ListValue: 2 s *bytes, 3 i *int64, 4 f *float, 5 b *bool, 6 type *int32, 7 shape *TensorShapeProto,
  8 tensor *TensorProto, 9 func *NameAttrList
NameAttrList: 1 name string, 2 attr %AttrValue
TensorShapeProto: 2 dim *Dim, 3 unknown_rank bool
Dim: 1 size int64, 2 name string
TensorProto: 1 dtype int32, 2 tensor_shape TensorShapeProto, 4 tensor_content bytes,
  5 float_val *float, 6 double_val *double, 7 int_val *int32, 8 string_val *bytes,
  9 scomplex_val *float, 10 int64_val *int64, 11 bool_val *bool, 12 dcomplex_val *double,
  13 half_val *int32, 16 uint32_val *uint32, 17 uint64_val *uint64, 18 float8_val bytes
FunctionDefLibrary: 1 function *FunctionDef
FunctionDef: 1 signature OpDef, 3 node_def *NodeDef, 4 ret %string, 6 control_ret %string,
  7 arg_attr %%ArgAttrs
ArgAttrs: 1 attr %AttrValue
SavedObjectGraph: 1 nodes *SavedObject, 2 concrete_functions %SavedConcreteFunction
SavedObject: 1 children *ObjectReference, 4 user_object Empty !, 5 asset SavedAsset !,
  6 function SavedFunction !, 7 variable SavedVariable !,
  8 bare_concrete_function SavedBareFunction !, 9 constant SavedConstant !,
  10 resource Empty !, 12 captured_tensor CapturedTensor !
ObjectReference: 1 node_id int32, 2 local_name string
SavedAsset: 1 asset_file_def_index int32
SavedFunction: 1 concrete_functions *string
SavedVariable: 1 dtype int32, 2 shape TensorShapeProto, 6 name string
SavedBareFunction: 1 concrete_function_name string
SavedConstant: 1 operation string
CapturedTensor: 1 name string, 2 concrete_function string
SavedConcreteFunction: 2 bound_inputs *int32
TrackableObjectGraph: 1 nodes *TrackableObject
TrackableObject: 1 children *ObjectReference, 2 attributes *SerializedTensor
SerializedTensor: 1 name string, 2 full_name string, 3 checkpoint_key string
BundleHeaderProto: 1 num_shards int32, 2 endianness int32
BundleEntryProto: 1 dtype int32, 2 shape TensorShapeProto, 3 shard_id int32, 4 offset int64,
  5 size int64, 6 crc32c fixed32, 7 slices *TensorSliceProto
TensorSliceProto: 1 extent *Extent
Extent: 1 start int64, 2 length int64
Empty:
"""

_SCALARS = ("int32", "int64", "uint32", "uint64", "float", "double", "bool", "string", "bytes",
            "fixed32")  # fmt: skip


def parse(message: str, data: bytes, where: str) -> Any:
    """Return `data` parsed as the message of that name; raise ModelError naming `where`."""
    proto = _classes()[message]()
    try:
        proto.ParseFromString(data)
    except DecodeError as error:
        raise ModelError(
            f"this is not a {message}, or it is damaged: {error}",
            where=where,
            fix="save or copy the model again",
        ) from error
    return proto


def new(message: str) -> Any:
    """Return an empty message."""
    return _classes()[message]()


@cache
def _classes() -> dict[str, type[Message]]:
    file = descriptor_pb2.FileDescriptorProto(
        name="planish_tensorflow.proto", package=PACKAGE, syntax="proto3"
    )
    names = []
    for line in _TABLE.strip().replace("\n  ", " ").splitlines():
        name, _, fields = line.partition(":")
        names.append(name)
        message = file.message_type.add(name=name)
        for field in filter(None, map(str.split, fields.split(","))):
            _add_field(message, field)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.{name}"))
        for name in names
    }


def _add_field(message: Any, words: list[str]) -> None:
    number, name, kind = words[:3]
    is_map, repeated = kind.startswith("%"), kind[0] in "*%"
    field = message.field.add(name=name, number=int(number), label=3 if repeated else 1)
    plain = kind.lstrip("*%")
    if is_map:
        entry = message.nested_type.add(name=_entry_name(name))
        entry.options.map_entry = True
        key_kind = "uint32" if kind.startswith("%%") else "string"
        _set_type(entry.field.add(name="key", number=1, label=1), key_kind)
        _set_type(entry.field.add(name="value", number=2, label=1), plain)
        plain = f"{message.name}.{entry.name}"
    _set_type(field, plain)
    if words[3:] == ["!"]:
        if not message.oneof_decl:
            message.oneof_decl.add(name="kind")
        field.oneof_index = 0


def _set_type(field: Any, kind: str) -> None:
    if kind in _SCALARS:
        field.type = getattr(descriptor_pb2.FieldDescriptorProto, f"TYPE_{kind.upper()}")
        return
    field.type = descriptor_pb2.FieldDescriptorProto.TYPE_MESSAGE
    field.type_name = f".{PACKAGE}.{kind}"


def _entry_name(field: str) -> str:
    """Return the name that protobuf demands for the entries of a map field."""
    return "".join(part.capitalize() for part in field.split("_")) + "Entry"
