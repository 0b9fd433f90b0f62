"""Loads a SavedModel's signature and freezes it: variables become constants, calls are inlined."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from planish.errors import ModelError
from planish.frontends.tensorflow.library import internal, tensorflow

# no layout (kernels choose their own), no remapper (its fused operations are TensorFlow's own)
OPTIMIZERS = (
    "pruning", "debug_stripper", "dependency", "constfold", "common_subgraph_elimination",
)  # fmt: skip
_MESSAGE_LIMIT = 1 << 31  # bytes of a protocol buffer


@dataclass(frozen=True)
class FrozenModel:
    """One signature, ready to be cut into segments.

    Attributes
    ----------
    saved_model : object
        What ``tf.saved_model.load`` returned.
    signature : ConcreteFunction
        The signature as it was saved.
    frozen : ConcreteFunction
        The same without variables; what it captured besides is an input like others.
    graph_def : GraphDef
        The optimized graph of `frozen`.
    """

    saved_model: Any
    signature: Any
    frozen: Any
    graph_def: Any

    @property
    def captures(self) -> dict[str, Any]:
        """Tables and other state that the graph reads: placeholder to tensor."""
        left = {tensor.name for tensor in self.frozen.inputs}
        return {
            placeholder.name.split(":")[0]: value
            for value, placeholder in self.signature.graph.captures
            if placeholder.name in left
        }

    @property
    def input_names(self) -> list[str]:
        """Names of the input tensors ("x:0"), captures last."""
        return [tensor.name for tensor in self.frozen.inputs]

    @property
    def output_names(self) -> list[str]:
        """Names of the output tensors."""
        return [tensor.name for tensor in self.frozen.outputs]


def load_frozen(
    folder: str | os.PathLike[str], tags: Sequence[str], key: str, *, optimize: bool = True
) -> FrozenModel:
    """Load a signature and freeze it.

    Parameters
    ----------
    folder : path
        A SavedModel.
    tags : sequence of str
        Tags of the meta graph.
    key : str
        The signature.
    optimize : bool
        Let Grappler prune the graph and fold constants.

    Raises
    ------
    ModelError
        When there is no such SavedModel, meta graph or signature; says which there are.
    """
    saved_model = _load(folder, tags)
    signatures = saved_model.signatures
    if key not in signatures:
        raise ModelError(
            f"the SavedModel has no signature {key!r}",
            where=os.fspath(folder),
            fix=f"use one of: {', '.join(sorted(signatures)) or '(it has none)'}",
        )
    signature = signatures[key]
    convert = internal("python.framework.convert_to_constants")
    # loops stay functional, so that an engine can hold a whole one
    frozen = convert.convert_variables_to_constants_v2(signature, lower_control_flow=False)
    graph_def = frozen.graph.as_graph_def()
    for node in graph_def.node:
        node.device = ""
    if optimize and graph_def.ByteSize() < _MESSAGE_LIMIT // 2:
        graph_def = _optimized(graph_def, frozen)
    return FrozenModel(saved_model, signature, frozen, graph_def)


def _load(folder: str | os.PathLike[str], tags: Sequence[str]) -> Any:
    tf = tensorflow()
    path = os.fspath(folder)
    if "://" not in path and not _is_saved_model(Path(path)):
        raise ModelError(
            "this is not a SavedModel folder: it holds no saved_model.pb",
            where=path,
            fix="give the folder that tf.saved_model.save or model.export wrote",
        )
    try:
        return tf.saved_model.load(path, tags=list(tags))
    except (RuntimeError, ValueError) as error:
        found = _tags_in(path)
        if sorted(tags) in found:
            raise
        raise ModelError(
            f"the SavedModel has no meta graph with the tags {', '.join(tags)}",
            where=path,
            fix=f"use one of: {'; '.join(', '.join(names) for names in found)}",
        ) from error


def _is_saved_model(path: Path) -> bool:
    return any((path / name).is_file() for name in ("saved_model.pb", "saved_model.pbtxt"))


def _tags_in(path: str) -> list[list[str]]:
    utilities = internal("python.tools.saved_model_utils")
    return [sorted(tags) for tags in utilities.get_saved_model_tag_sets(path)]


def _optimized(graph_def: Any, frozen: Any) -> Any:
    """Return what Grappler makes of the graph; inputs and outputs keep their names."""
    config = internal("core.protobuf.config_pb2").ConfigProto()
    rewrite = config.graph_options.rewrite_options
    rewriter = internal("core.protobuf.rewriter_config_pb2").RewriterConfig
    rewrite.optimizers.extend(OPTIMIZERS)
    rewrite.remapping = rewriter.OFF
    rewrite.meta_optimizer_iterations = rewriter.ONE
    rewrite.min_graph_nodes = -1
    rewrite.experimental_disable_folding_quantization_emulation = True
    meta_graph = internal("python.training.saver").export_meta_graph(
        graph_def=graph_def, graph=frozen.graph
    )
    kept = internal("core.protobuf.meta_graph_pb2").CollectionDef()
    kept.node_list.value.extend(tensor.name for tensor in [*frozen.inputs, *frozen.outputs])
    meta_graph.collection_def["train_op"].CopyFrom(kept)
    grappler = internal("python.grappler.tf_optimizer")
    return grappler.OptimizeGraph(config, meta_graph, graph_id=b"planish_conversion")
