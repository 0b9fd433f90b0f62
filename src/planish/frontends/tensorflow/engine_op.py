"""The operation ``TRTEngineOp``: its nodes, and its kernel.

How a converter makes one::

    settings = EngineSettings("TRTEngineOp_000_000", input_shapes, precision="FP16")
    name = resource_name(settings.name, segment_function.SerializeToString(), b"FP16")
    library.function.add().CopyFrom(segment_function)      # and every function that it calls
    signature = EngineSignature(inputs, input_types, output_types, output_shapes)
    nodes, outputs = engine_nodes(settings, signature, segment_function.signature.name, name)
    graph_def.node.extend(nodes)      # TRTEngineOp, and one EnsureShape behind every output
    ...                               # consumers read `outputs`: ["TRTEngineOp_000_000/shape_0"]

    engine = build_engine(...)        # see `engine_builder`
    cache_of(name, settings.max_engines).put(engine, shapes)    # see `resources`

- The attribute `RESOURCE_ATTRIBUTE` of the node is the resource name. Without it (nodes that
  NVIDIA's converter made) that is the node's name, and models in one process may mix up engines.
- Inputs and outputs have the types in `INPUT_TYPES` and `OUTPUT_TYPES`; an engine takes and gives
  them in the node's order.
- ``_profile_generation_mode`` makes the operation collect shapes (`EngineCache.collected`), and
  `EngineCache.collector` makes it calibrate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from planish.frontends.tensorflow.engine_rules import EngineOperation, EngineSettings
from planish.frontends.tensorflow.kernels import KernelContext, OpDefinition
from planish.frontends.tensorflow.library import internal
from planish.frontends.tensorflow.native_segment import NativeSegment
from planish.frontends.tensorflow.resources import RESOURCE_ATTRIBUTE, kernel_cache

OP = "TRTEngineOp"
# DataType numbers: bool, int8, half, float, int32 (and resource)
OUTPUT_TYPES = (10, 6, 19, 1, 3)
INPUT_TYPES = (*OUTPUT_TYPES, 20)
_MAX_WORKSPACE = 1 << 62

DEFINITION = OpDefinition(
    OP,
    (
        "serialized_segment: string",
        "segment_func: func = {}",
        "InT: list({bool,int8,float16,float32,int32,resource})",
        "OutT: list({bool,int8,float16,float32,int32})",
        "input_shapes: list(shape) = []",
        "output_shapes: list(shape) = []",
        "max_cached_engines_count: int = 1",
        "max_batch_size: int = 1",
        "workspace_size_bytes: int",
        "precision_mode: {'FP32','FP16','INT8'}",
        "calibration_data: string = ''",
        "use_calibration: bool = true",
        "segment_funcdef_name: string = ''",
        "cached_engine_batches: list(int) >= 0 = []",
        "fixed_input_size: bool = true",
        "static_engine: bool = true",
        "profile_strategy: string = ''",
        "use_explicit_precision: bool = false",
    ),
    ("in_tensor: InT",),
    ("out_tensor: OutT",),
)


@dataclass(frozen=True)
class EngineSignature:
    """What goes into and comes out of an engine operation.

    Attributes
    ----------
    inputs : tuple of str
        Names of the tensors that it reads, like "x" or "split:1"; control inputs ("^x") last.
    input_types, output_types : tuple of int
        DataType numbers.
    output_shapes : tuple
        Shape of each output with None for unknown extents; None for an unknown rank.
    device : str
        Of the nodes.
    """

    inputs: tuple[str, ...]
    input_types: tuple[int, ...]
    output_types: tuple[int, ...]
    output_shapes: tuple[tuple[int | None, ...] | None, ...]
    device: str = ""


def engine_nodes(
    settings: EngineSettings, signature: EngineSignature, segment_function: str, resource: str
) -> tuple[list[Any], list[str]]:
    """Return the nodes of an engine operation, and the tensors that hold its outputs.

    Parameters
    ----------
    settings : EngineSettings
        The first node has the name in it.
    signature : EngineSignature
    segment_function : str
        Name of the function that computes the same in TensorFlow; it is in the graph's library.
    resource : str
        From `resources.resource_name`.

    Returns
    -------
    nodes : list of NodeDef
    outputs : list of str
        For each output the name of a tensor that has its declared shape.
    """
    node = internal("core.framework.node_def_pb2").NodeDef(
        name=settings.name, op=OP, input=signature.inputs, device=signature.device
    )
    attributes = node.attr
    attributes["InT"].list.type.extend(signature.input_types)
    attributes["OutT"].list.type.extend(signature.output_types)
    attributes["segment_func"].func.name = segment_function
    for name, shapes in (
        ("input_shapes", settings.input_shapes),
        ("output_shapes", signature.output_shapes),
    ):
        attributes[name].list.SetInParent()
        for shape in shapes:
            _fill_shape(attributes[name].list.shape.add(), shape)
    _set_options(attributes, settings)
    attributes[RESOURCE_ATTRIBUTE].s = resource.encode()
    guards, outputs = _guards(settings.name, signature)
    return [node, *guards], outputs


def _set_options(attributes: Any, settings: EngineSettings) -> None:
    texts = {
        "serialized_segment": b"",
        "precision_mode": settings.precision.upper().encode(),
        "calibration_data": settings.calibration_data,
        "profile_strategy": settings.profile_strategy.lower().encode(),
    }
    flags = {
        "use_calibration": settings.use_calibration,
        "static_engine": False,
        "_use_implicit_batch": settings.implicit_batch,
        "_allow_build_at_runtime": settings.allow_build,
        "_profile_generation_mode": settings.collect_profiles,
    }
    numbers = {
        "max_cached_engines_count": settings.max_engines,
        "workspace_size_bytes": min(settings.workspace_bytes, _MAX_WORKSPACE),
    }
    for name, text in texts.items():
        attributes[name].s = text
    for name, flag in flags.items():
        attributes[name].b = flag
    for name, number in numbers.items():
        attributes[name].i = number


def _guards(name: str, signature: EngineSignature) -> tuple[list[Any], list[str]]:
    """Return EnsureShape nodes behind the outputs of known rank, and all outputs' names."""
    node_def = internal("core.framework.node_def_pb2").NodeDef
    guards, outputs = [], []
    for index, shape in enumerate(signature.output_shapes):
        source = name if index == 0 else f"{name}:{index}"
        if shape is None:
            outputs.append(source)
            continue
        guard = node_def(
            name=f"{name}/shape_{index}", op="EnsureShape", input=[source], device=signature.device
        )
        guard.attr["T"].type = signature.output_types[index]
        _fill_shape(guard.attr["shape"].shape, shape)
        guards.append(guard)
        outputs.append(guard.name)
    return guards, outputs


def _fill_shape(proto: Any, shape: tuple[int | None, ...] | None) -> None:
    if shape is None:
        proto.unknown_rank = True
        return
    proto.SetInParent()
    for extent in shape:
        proto.dim.add().size = -1 if extent is None else extent


def settings_of(node: Any) -> EngineSettings:
    """Return the settings of a TRTEngineOp node, NVIDIA's or ours."""
    attributes = node.attr

    def flag(name: str, default: bool) -> bool:
        return bool(attributes[name].b) if name in attributes else default

    def text(name: str) -> bytes:
        return bytes(attributes[name].s) if name in attributes else b""

    def number(name: str, default: int) -> int:
        return int(attributes[name].i) if name in attributes else default

    shapes = attributes["input_shapes"].list.shape if "input_shapes" in attributes else ()
    return EngineSettings(
        name=node.name.rpartition("/")[2],
        input_shapes=tuple(map(_shape_of, shapes)),
        precision=text("precision_mode").decode() or "FP32",
        implicit_batch=flag("_use_implicit_batch", True),
        profile_strategy=text("profile_strategy").decode() or "range",
        max_engines=number("max_cached_engines_count", 1),
        workspace_bytes=number("workspace_size_bytes", 1 << 30),
        allow_build=flag("_allow_build_at_runtime", True),
        collect_profiles=flag("_profile_generation_mode", False),
        use_calibration=flag("use_calibration", True),
        calibration_data=text("calibration_data"),
    )


def _shape_of(proto: Any) -> tuple[int | None, ...] | None:
    if proto.unknown_rank:
        return None
    return tuple(None if dim.size < 0 else int(dim.size) for dim in proto.dim)


# -- the kernel ------------------------------------------------------------------------------------


def _create(node: Any) -> EngineOperation:
    settings = settings_of(node)
    name = settings.name
    if RESOURCE_ATTRIBUTE in node.attr:
        name = node.attr[RESOURCE_ATTRIBUTE].s.decode()
    cache = kernel_cache(name, settings.max_engines)
    segment = NativeSegment(settings.name, node.attr["segment_func"].func.name)
    return EngineOperation(settings, cache, segment)


def _compute(operation: EngineOperation, context: KernelContext) -> None:
    inputs = context.inputs()
    context.set_outputs(operation.run(inputs, context.allocate, context.function_library))


KERNELS = ((DEFINITION, _create, _compute),)
