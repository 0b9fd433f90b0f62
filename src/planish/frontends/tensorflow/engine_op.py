"""The operation ``TRTEngineOp`` and its kernel.

What a converter has to know (`resources` says how engines get to the kernel):

- The attribute `RESOURCE_ATTRIBUTE` of the node is the resource name, as a string::

      name = resource_name("TRTEngineOp_000_000", function_def.SerializeToString(), b"FP16")
      node.attr[RESOURCE_ATTRIBUTE].s = name.encode()

  Without it the node's name is the resource name, and models in one process may mix up engines.
- ``segment_func`` names the function that computes the same in TensorFlow. It and every function
  that it calls must be in the graph's library.
- An ``EnsureShape`` is needed behind every output: the kernel's interface loses shapes.
- Inputs and outputs have the types in `INPUT_TYPES` and `OUTPUT_TYPES`; an engine takes and gives
  them in the node's order.
- ``_profile_generation_mode`` makes the operation collect shapes (`EngineCache.collected`), and
  `EngineCache.collector` makes it calibrate.
"""

from __future__ import annotations

from typing import Any

from planish.frontends.tensorflow.engine_rules import EngineOperation, EngineSettings
from planish.frontends.tensorflow.kernels import KernelContext, OpDefinition
from planish.frontends.tensorflow.native_segment import NativeSegment
from planish.frontends.tensorflow.resources import RESOURCE_ATTRIBUTE, kernel_cache

OP = "TRTEngineOp"
# DataType numbers: bool, int8, half, float, int32 (and resource)
OUTPUT_TYPES = (10, 6, 19, 1, 3)
INPUT_TYPES = (*OUTPUT_TYPES, 20)

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
