"""Opens a SavedModel folder: its meta graph, signature, variables, tables and assets.

What a function captures is found by numbers: the object graph of ``saved_model.pb`` lists the
objects that every function is bound to; the checkpoint's own object graph, walked in parallel by
the names of children, says under which key a variable lies. (Names of variables repeat in Keras 3.)
A SavedModel of TensorFlow 1 has no object graph: there the operation that restores a variable says
which tensor goes where.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from planish.errors import ConfigError, ModelError, UnsupportedTypeError
from planish.importers.tensor_bundle import TensorBundle, parse_slice
from planish.importers.tensorflow_freeze import Binding, Constant, Resource
from planish.importers.tensorflow_graph import TfInput, TfTable
from planish.importers.tensorflow_messages import parse
from planish.importers.tensorflow_resources import make_table
from planish.importers.tensorflow_source import Port, SourceBody, SourceLibrary, port_of
from planish.importers.tensorflow_types import element_type, shape_of, tensor_of

DEFAULT_SIGNATURE = "serving_default"
DEFAULT_TAG = "serve"
MAX_BYTES = 1 << 31  # protocol buffers end there
OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
FILLS_TABLE = (
    "LookupTableImport", "LookupTableImportV2", "InitializeTable", "InitializeTableV2",
    "InitializeTableFromTextFile", "InitializeTableFromTextFileV2",
)  # fmt: skip


def read_meta_graph(folder: Path, tags: Sequence[str] | None) -> Any:
    """Return the MetaGraphDef with `tags`; None for the one that is served.

    Raises
    ------
    ModelError
        When the folder is not a SavedModel.
    ConfigError
        When no meta graph has these tags; the message lists those there are.
    """
    path = folder / "saved_model.pb"
    proto = parse("SavedModel", _model_bytes(path), str(path))
    if not proto.meta_graphs:
        raise ModelError(
            "the SavedModel holds no graph", where=str(path), fix="save the model again"
        )
    sets = [sorted(graph.meta_info_def.tags) for graph in proto.meta_graphs]
    if tags is not None:
        found = [g for g, have in zip(proto.meta_graphs, sets, strict=True) if have == sorted(tags)]
    else:
        with_tag = [g for g in proto.meta_graphs if DEFAULT_TAG in g.meta_info_def.tags]
        exact = [g for g in with_tag if len(g.meta_info_def.tags) == 1]
        found = exact or with_tag or list(proto.meta_graphs)
    if len(found) == 1:
        return found[0]
    listed = "; ".join(",".join(have) or "(none)" for have in sets)
    wanted = "no tags were given" if tags is None else f"none has exactly {','.join(tags)!r}"
    raise ConfigError(
        f"{wanted}; the SavedModel has the tag sets: {listed}",
        where=str(path),
        fix=f'choose one: --tags {listed.split("; ")[0]}, or tags=("...",) in BuildConfig',
    )


def choose_signature(meta_graph: Any, wanted: str | None, where: str) -> tuple[str, Any]:
    """Return the name and the SignatureDef of a signature.

    Without a name it is ``serving_default``, else the only one there is.
    """
    signatures = {
        name: meta_graph.signature_def[name]
        for name in sorted(meta_graph.signature_def)
        if meta_graph.signature_def[name].outputs and not name.startswith("__saved_model_")
    }
    if not signatures:
        raise ModelError(
            "the SavedModel has no signature: it cannot be called from outside Python",
            where=where,
            fix="save it with one: tf.saved_model.save(model, folder, signatures=function)",
        )
    if wanted is None and DEFAULT_SIGNATURE not in signatures and len(signatures) > 1:
        raise ConfigError(
            f"the SavedModel has several signatures and none is {DEFAULT_SIGNATURE}: "
            f"{', '.join(signatures)}",
            where=where,
            fix=f"choose one: --signature {next(iter(signatures))}, or signature= in BuildConfig",
        )
    if wanted is None:
        wanted = DEFAULT_SIGNATURE if DEFAULT_SIGNATURE in signatures else next(iter(signatures))
    if wanted not in signatures:
        near = difflib.get_close_matches(wanted, signatures, n=1, cutoff=0.4)
        raise ConfigError(
            f"there is no signature {wanted!r}",
            where=where,
            fix=(f"did you mean {near[0]!r}? " if near else "")
            + f"the signatures are {', '.join(signatures)}",
        )
    return wanted, signatures[wanted]


def signature_inputs(signature: Any, where: str) -> list[TfInput]:
    """Return the inputs of a signature, sorted by key as TensorFlow does."""
    inputs = []
    for key in sorted(signature.inputs):
        info = _dense(signature.inputs[key], f"input {key} of {where}")
        dtype, shape = element_type(info.dtype), shape_of(info.tensor_shape)
        inputs.append(TfInput(key, dtype, shape, info.name))
    return inputs


def signature_outputs(signature: Any, where: str) -> list[tuple[str, Any]]:
    """Return the keys and TensorInfos of a signature's outputs, sorted."""
    return [
        (key, _dense(signature.outputs[key], f"output {key} of {where}"))
        for key in sorted(signature.outputs)
    ]


class SavedModelStorage:
    """The variables, tables and captured values of one meta graph; see `freeze.Storage`."""

    def __init__(self, folder: Path, meta_graph: Any, library: SourceLibrary) -> None:
        self._folder = folder
        self._meta_graph = meta_graph
        self._library = library
        self._label = library.label
        self._objects = meta_graph.object_graph_def.nodes
        self._bundle = _bundle_of(folder, meta_graph)
        self._saved_keys = self._keys_of_objects()
        self._restored: dict[str, tuple[str, str]] | None = None
        self._variables: dict[Resource, Constant] = {}
        self._constants: dict[int, Constant] = {}

    # -- Storage ---------------------------------------------------------------------------------

    def captures(self, function: str) -> list[Binding | None]:
        """Return what the last arguments of a function are bound to."""
        functions = self._meta_graph.object_graph_def.concrete_functions
        if function not in functions:
            return []
        numbers = functions[function].bound_inputs
        if len(numbers) > len(self._library.function(function).arguments):
            raise ModelError(
                f"the function {function} captures more than it takes", where=self._label
            )
        return [self._captured(number) for number in numbers]

    def variable(self, resource: Resource) -> Constant:
        """Return a variable's value."""
        if resource not in self._variables:
            if isinstance(resource.key, int):
                self._variables[resource] = self._variable_of_object(resource.key)
            else:
                self._variables[resource] = self._variable_of_node(resource.key)
        return self._variables[resource]

    def table_bodies(self) -> list[tuple[SourceBody, list[Binding | None]]]:
        """Return the functions and parts of the main graph that fill tables."""
        bodies: list[tuple[SourceBody, list[Binding | None]]] = []
        for number, node in enumerate(self._objects):
            if node.WhichOneof("kind") != "resource":
                continue
            for name in self._functions_of_child(number, "_initialize"):
                body = self._library.function(name)
                given = self.captures(name)
                bodies.append((body, [None] * (len(body.arguments) - len(given)) + given))
        fills = sorted(n for n, proto in self._library.protos.items() if proto.op in FILLS_TABLE)
        if fills:
            assets = [
                (info.tensor_info.name, self._asset_path(info.filename))
                for info in self._meta_graph.asset_file_def
            ]
            names = [TfInput(source, "string", (), source) for source, _ in assets]
            given = [constant for _, constant in assets]
            bodies.append((self._library.main(names, (), fills), list(given)))
        return bodies

    def saved_table(self, resource: Resource) -> TfTable | None:
        """Return a table that the checkpoint holds as keys and values."""
        if self._bundle is None:
            return None
        where = f"table {resource.key} of {self._label}"
        for (number, _), key in self._saved_keys.items():
            names = (f"{key}-keys", f"{key}-values")
            if number == resource.key and all(name in self._bundle for name in names):
                keys, values = map(self._bundle.read, names)
                return make_table(keys, values, where)
        return None

    # -- objects (TensorFlow 2) ------------------------------------------------------------------

    def _keys_of_objects(self) -> dict[tuple[int, str], str]:
        """Return the checkpoint's keys by object number and the attribute's name."""
        if self._bundle is None or OBJECT_GRAPH not in self._bundle or not self._objects:
            return {}
        data = self._bundle.read(OBJECT_GRAPH)
        if data.dtype != object or data.size != 1:
            raise ModelError("the checkpoint's object graph is not one string", where=self._label)
        saved = parse("TrackableObjectGraph", data.item(), f"checkpoint of {self._label}").nodes
        keys: dict[tuple[int, str], str] = {}
        todo, seen = [(0, 0)], {0}
        while todo:
            here, there = todo.pop()
            for attribute in self._at(saved, there).attributes:
                keys[here, attribute.name] = attribute.checkpoint_key
            children = {child.local_name: child.node_id for child in saved[there].children}
            for child in self._at(self._objects, here).children:
                if child.local_name in children and child.node_id not in seen:
                    seen.add(child.node_id)
                    todo.append((child.node_id, children[child.local_name]))
        return keys

    def _at(self, nodes: Any, number: int) -> Any:
        if not 0 <= number < len(nodes):
            raise ModelError(
                f"the object graph refers to object {number} of {len(nodes)}",
                where=self._label,
                fix="save the model again",
            )
        return nodes[number]

    def _captured(self, number: int) -> Binding | None:
        """Return what object `number` is bound to; None for the caller's argument."""
        node = self._at(self._objects, number)
        kind = node.WhichOneof("kind")
        if kind == "variable":
            return Resource("variable", number)
        if kind == "resource":
            return Resource("table", number)
        if kind == "constant":
            return self._captured_constant(number, node.constant.operation)
        if kind == "asset":
            index = node.asset.asset_file_def_index
            return self._asset_path(self._at(self._meta_graph.asset_file_def, index).filename)
        return None

    def _captured_constant(self, number: int, operation: str) -> Constant:
        if number not in self._constants:
            proto = self._library.protos.get(operation)
            where = f"captured constant {operation} of {self._label}"
            if proto is None or proto.op != "Const" or "value" not in proto.attr:
                raise ModelError("the constant is missing", where=where, fix="save the model again")
            array = tensor_of(proto.attr["value"].tensor, where)
            dtype = element_type(proto.attr["value"].tensor.dtype)
            self._constants[number] = Constant(operation, array, dtype)
        return self._constants[number]

    def _asset_path(self, name: str) -> Constant:
        """Return the path of an asset as a constant; it must lie in the model's folder."""
        folder = (self._folder / "assets").resolve()
        path = (folder / name).resolve()
        if not path.is_relative_to(folder):
            raise ModelError(f"the asset {name!r} lies outside the model", where=self._label)
        text = np.empty((), object)
        text[()] = str(path).encode()
        return Constant(f"asset/{name}", text, "string")

    def _functions_of_child(self, number: int, name: str) -> Iterator[str]:
        for child in self._at(self._objects, number).children:
            if child.local_name == name:
                node = self._at(self._objects, child.node_id)
                if node.WhichOneof("kind") == "bare_concrete_function":
                    yield node.bare_concrete_function.concrete_function_name
                yield from node.function.concrete_functions

    def _variable_of_object(self, number: int) -> Constant:
        name = self._at(self._objects, number).variable.name
        key = self._saved_keys.get((number, "VARIABLE_VALUE"))
        if key is None and self._bundle is None:
            raise self._without_bundle(name)
        if key is None:
            raise ModelError(
                f"the checkpoint does not hold the variable {name or number!r}",
                where=self._label,
                fix="save the model again, with all variables initialized",
            )
        return self._stored(name or key, key, "")

    def _stored(self, name: str, key: str, part: str) -> Constant:
        if self._bundle is None:
            raise self._without_bundle(name)
        extents = parse_slice(part, self._label)
        array = self._bundle.read(key) if extents is None else self._bundle.read_slice(key, extents)
        return Constant(name.partition(":")[0], array, element_type(self._bundle.dtype(key)))

    def _without_bundle(self, name: str) -> ModelError:
        return ModelError(
            f"the model has variables ({name}) but variables/variables.index is missing",
            where=str(self._folder),
            fix="copy the whole SavedModel folder again, with everything in variables/",
        )

    # -- nodes of the main graph (TensorFlow 1) --------------------------------------------------

    def _variable_of_node(self, name: str) -> Constant:
        proto = self._library.protos.get(name)
        shared = "" if proto is None else proto.attr["shared_name"].s.decode("utf-8", "replace")
        restored = self._restored_tensors()
        for candidate in (name, shared):
            if candidate in restored:
                return self._stored(candidate, *restored[candidate])
        if self._bundle is None:
            raise self._without_bundle(shared or name)
        for candidate in (shared, name):
            if candidate in self._bundle:
                return self._stored(candidate, candidate, "")
        raise ModelError(
            f"nothing restores the variable {shared or name!r}",
            where=self._label,
            fix="save the model again, with all variables, or freeze it",
        )

    def _restored_tensors(self) -> dict[str, tuple[str, str]]:
        """Return the key and slice that the main graph restores a variable's node from."""
        if self._restored is None:
            self._restored = {}
            for _, proto in sorted(self._library.protos.items()):
                if proto.op in ("Assign", "AssignVariableOp") and len(proto.input) >= 2:
                    source = self._restored_from(port_of(proto.input[1]))
                    if source is not None:
                        self._restored[port_of(proto.input[0])[0]] = source
        return self._restored

    def _restored_from(self, port: Port) -> tuple[str, str] | None:
        """Return the key and slice of a tensor that a RestoreV2 gives; None for another one."""
        protos = self._library.protos
        for _ in range(10):  # identities between
            proto = protos.get(port[0])
            if proto is None or proto.op != "Identity" or not proto.input:
                break
            port = port_of(proto.input[0])
        proto = protos.get(port[0])
        if proto is None or proto.op != "RestoreV2" or len(proto.input) < 3:
            return None
        names, parts = (self._strings(port_of(text)[0]) for text in proto.input[1:3])
        if port[1] >= min(len(names), len(parts)):
            return None
        return names[port[1]], parts[port[1]]

    def _strings(self, name: str) -> list[str]:
        proto = self._library.protos.get(name)
        if proto is None or "value" not in proto.attr:
            return []
        array = tensor_of(proto.attr["value"].tensor, f"node {name} of {self._label}")
        if array.dtype != object:
            return []
        return [text.decode("utf-8", "replace") for text in array.reshape(-1)]


class NoStorage:
    """What a GraphDef alone has: no variables, and tables that it fills itself."""

    def __init__(self, library: SourceLibrary) -> None:
        self._library = library

    def captures(self, function: str) -> list[Binding | None]:
        """Return nothing: arguments are bound by callers."""
        return []

    def variable(self, resource: Resource) -> Constant:
        """Raise: a GraphDef holds no variables."""
        raise ModelError(
            f"the graph has a variable ({resource.key}), whose value a GraphDef does not hold",
            where=self._library.label,
            fix="freeze it (convert_variables_to_constants), or give the SavedModel folder",
        )

    def table_bodies(self) -> list[tuple[SourceBody, list[Binding | None]]]:
        """Return the part of the graph that fills tables."""
        fills = sorted(n for n, proto in self._library.protos.items() if proto.op in FILLS_TABLE)
        return [(self._library.main((), (), fills), [])] if fills else []

    def saved_table(self, resource: Resource) -> TfTable | None:
        """Return None: a GraphDef has no checkpoint."""
        return None


def _model_bytes(path: Path) -> bytes:
    if not path.is_file():
        raise _missing_model(path)
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ModelError("the file is larger than 2 GB", where=str(path))
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"the model cannot be read: {error.strerror}", where=str(path)) from error


def _missing_model(path: Path) -> ModelError:
    if not path.parent.exists():
        return ModelError("the folder does not exist", where=str(path.parent), fix="check the path")
    for suffix, fix in (
        (".pbtxt", "save it in the binary format: tf.saved_model.save writes that"),
        (".cpb", "save it without experimental_image_format"),
    ):
        if path.with_suffix(suffix).exists():
            return ModelError(
                f"SavedModels in the form {path.with_suffix(suffix).name} cannot be read",
                where=str(path.parent),
                fix=fix,
            )
    return ModelError(
        "the folder is not a SavedModel: it has no saved_model.pb",
        where=str(path.parent),
        fix="give the folder that saved_model.pb lies in",
    )


def _bundle_of(folder: Path, meta_graph: Any) -> TensorBundle | None:
    prefix = folder / "variables" / "variables"
    if not prefix.with_name("variables.index").exists():
        return None
    return TensorBundle(prefix)


def _dense(info: Any, where: str) -> Any:
    kind = info.WhichOneof("kind")
    if kind == "name":
        return info
    what = "a sparse tensor" if kind == "coo_sparse" else "a composite (ragged or sparse) tensor"
    raise UnsupportedTypeError(
        f"the signature has {what}; only dense tensors are supported",
        where=where,
        fix="save the model with a signature of dense tensors (x.to_tensor() inside it)",
    )
