"""Upgrade rules: one small function for each difference between an old opset and Planish's.

`@upgrade("Squeeze", below=13)` registers a rule for nodes of models whose opset is lower than 13.
The rules of an operator run in the order of their versions. A rule edits the node and returns it,
or appends finished nodes through the emitter and returns the outputs. What each version changed is
in ONNX's Changelog.md (docs of onnx/onnx); the rules' names say which difference they bridge.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

import numpy as np

from planish.errors import ModelError, UnsupportedOperatorError
from planish.importers.onnx_node import Emitter, OnnxNode, Rule
from planish.ir.dtypes import DType
from planish.ir.graph import Value

UPGRADES: dict[str, list[tuple[int, Rule]]] = defaultdict(list)

REDUCTIONS = (
    "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean",
    "ReduceMin", "ReduceProd", "ReduceSumSquare",
)  # fmt: skip


def upgrade(*ops: str, below: int) -> Callable[[Rule], Rule]:
    """Register a rule for `ops` of models with an opset under `below`."""

    def register(rule: Rule) -> Rule:
        for op in ops:
            UPGRADES[op].append((below, rule))
            UPGRADES[op].sort(key=lambda entry: entry[0])
        return rule

    return register


def upgraded(node: OnnxNode, emitter: Emitter) -> OnnxNode | list[Value]:
    """Return `node` at Planish's opset, or the outputs of the nodes that replace it."""
    op = ""
    while op != node.op:  # a rule may rename the node to one with rules of its own
        op = node.op
        for below, rule in UPGRADES.get(op, ()):
            if node.opset >= below:
                continue
            result = rule(node, emitter)
            if isinstance(result, list):
                return result
            node = result
            if node.op != op:
                break
    return node


def _attribute_to_input(node: OnnxNode, emitter: Emitter, name: str, index: int) -> None:
    """Make integer attribute `name` the constant input `index`; absent stays absent."""
    value = node.take(name)
    if value is not None:
        node.set_input(index, emitter.constant(np.asarray(value, np.int64)))


def _refuse(node: OnnxNode, reason: str) -> UnsupportedOperatorError:
    return UnsupportedOperatorError([f"{node.source} ({node.op}, opset {node.opset}): {reason}"])


def _scalar_like(emitter: Emitter, number: float, dtype: DType) -> Value:
    return emitter.constant(np.asarray(number).astype(dtype.numpy))


# -- attributes that became inputs ----------------------------------------------------------------


@upgrade("Squeeze", "ReduceSum", below=13)
@upgrade(*REDUCTIONS, below=18)
def axes_to_input(node: OnnxNode, emitter: Emitter) -> OnnxNode:
    """Move `axes` to input 1."""
    _attribute_to_input(node, emitter, "axes", 1)
    return node


@upgrade("Unsqueeze", below=13)
def unsqueeze_axes_to_input(node: OnnxNode, emitter: Emitter) -> OnnxNode:
    """Move `axes`, which is required, to input 1."""
    if "axes" not in node.attributes:
        raise ModelError("Unsqueeze lacks the attribute axes", where=f"node {node.source}")
    _attribute_to_input(node, emitter, "axes", 1)
    return node


@upgrade("Split", below=13)
def split_to_input(node: OnnxNode, emitter: Emitter) -> OnnxNode:
    """Move `split` to input 1."""
    _attribute_to_input(node, emitter, "split", 1)
    return node


@upgrade("Split", below=18)
def split_counts_outputs(node: OnnxNode, emitter: Emitter) -> OnnxNode:
    """Say the number of equal parts, which used to be the number of outputs."""
    if node.input(1) is None:
        node.attributes["num_outputs"] = node.outputs
    return node


@upgrade("Slice", below=10)
def slice_to_inputs(node: OnnxNode, emitter: Emitter) -> OnnxNode:
    """Move `starts`, `ends` and `axes` to inputs 1 to 3."""
    if "starts" not in node.attributes or "ends" not in node.attributes:
        raise ModelError("Slice lacks starts or ends", where=f"node {node.source}")
    for index, name in enumerate(("starts", "ends", "axes"), start=1):
        _attribute_to_input(node, emitter, name, index)
    return node


@upgrade("TopK", below=10)
def topk_to_input(node: OnnxNode, emitter: Emitter) -> OnnxNode:
    """Move `k` to input 1."""
    if "k" not in node.attributes:
        raise ModelError("TopK lacks the attribute k", where=f"node {node.source}")
    node.set_input(1, emitter.constant(np.array([node.take("k")], np.int64)))
    return node


@upgrade("Pad", below=11)
def pad_to_inputs(node: OnnxNode, emitter: Emitter) -> OnnxNode:
    """Move `pads` and `value` to inputs 1 and 2."""
    if "pads" not in node.attributes:
        raise ModelError("Pad lacks the attribute pads", where=f"node {node.source}")
    _attribute_to_input(node, emitter, "pads", 1)
    data = node.required_input(0)
    node.set_input(2, _scalar_like(emitter, node.take("value", 0.0), data.dtype))
    return node


@upgrade("Clip", below=11)
def clip_bounds_to_inputs(node: OnnxNode, emitter: Emitter) -> OnnxNode:
    """Move `min` and `max` to inputs 1 and 2."""
    dtype = node.required_input(0).dtype
    for index, name in enumerate(("min", "max"), start=1):
        bound = node.take(name)
        if bound is not None:
            node.set_input(index, _scalar_like(emitter, bound, dtype))
    return node


@upgrade("DFT", below=20)
def dft_axis_to_input(node: OnnxNode, emitter: Emitter) -> OnnxNode:
    """Move `axis` (default 1) to input 2."""
    node.set_input(2, emitter.constant(np.array(node.take("axis", 1), np.int64)))
    return node


# -- changed defaults and meanings ----------------------------------------------------------------


@upgrade("Softmax", "LogSoftmax", "Hardmax", below=13)
def softmax_over_flattened_axes(node: OnnxNode, emitter: Emitter) -> OnnxNode | list[Value]:
    """Normalise over all axes from `axis` (default 1) on, not over one axis."""
    data, axis = node.required_input(0), int(node.attributes.get("axis", 1))
    node.attributes["axis"] = -1
    if axis == -1 or (data.shape is not None and axis == len(data.shape) - 1):
        return node
    flat = emitter.emit(node, "Flatten", [data], axis=axis)
    shape = emitter.emit(node, "Shape", [data])
    result = emitter.emit(node, node.op, [flat], axis=-1)
    return [emitter.emit(node, "Reshape", [result, shape])]


@upgrade("BatchNormalization", below=14)
def batch_normalization_inference_only(node: OnnxNode, emitter: Emitter) -> OnnxNode:
    """Drop the training outputs; refuse models that read them."""
    if any(node.read[1:]):
        raise _refuse(node, "the training outputs of BatchNormalization are read")
    node.outputs, node.read = 1, node.read[:1]
    return node


@upgrade("BatchNormalization", below=9)
def batch_normalization_spatial(node: OnnxNode, emitter: Emitter) -> OnnxNode | list[Value]:
    """Normalise each element by its own mean where `spatial` is 0."""
    if node.take("spatial", 1):
        return node
    data, scale, bias, mean, variance = (node.required_input(index) for index in range(5))
    epsilon = _scalar_like(emitter, node.attributes.get("epsilon", 1e-5), data.dtype)
    centred = emitter.emit(node, "Sub", [data, mean])
    deviation = emitter.emit(node, "Sqrt", [emitter.emit(node, "Add", [variance, epsilon])])
    factor = emitter.emit(node, "Div", [scale, deviation])
    return [emitter.emit(node, "Add", [emitter.emit(node, "Mul", [centred, factor]), bias])]


@upgrade("BatchNormalization", below=10_000)
def batch_normalization_training_mode(node: OnnxNode, emitter: Emitter) -> OnnxNode:
    """Refuse training mode: the statistics would change at run time."""
    if node.attributes.get("training_mode"):
        raise _refuse(node, "BatchNormalization in training mode; export after model.eval()")
    return node


@upgrade("Dropout", below=10_000)
def dropout_training_mode(node: OnnxNode, emitter: Emitter) -> OnnxNode:
    """Say that an engine does not drop anything, whatever the model asks for."""
    mode = node.input(2)
    if mode is not None and not (mode.is_constant and not mode.array.any()):
        emitter.graph.notes.append(f"node {node.source}: Dropout passes its input on (inference)")
    return node


@upgrade("Dropout", below=12)
def dropout_inference_only(node: OnnxNode, emitter: Emitter) -> OnnxNode:
    """Drop the ratio: dropout passes its input on in inference."""
    node.take("ratio")
    return node


@upgrade("GroupNormalization", below=21)
def group_normalization_scale_per_channel(node: OnnxNode, emitter: Emitter) -> OnnxNode:
    """Repeat scale and bias, one a group, for the channels of each group."""
    data, groups = node.required_input(0), int(node.attributes.get("num_groups", 1))
    channels = None if data.shape is None else data.shape[1]
    if not isinstance(channels, int) or groups < 1 or channels % groups:
        raise _refuse(node, f"{groups} groups do not divide {channels} channels")
    for index in (1, 2):
        column = emitter.emit(
            node, "Unsqueeze", [node.required_input(index), emitter.constant(np.array([1]))]
        )
        size = emitter.constant(np.array([groups, channels // groups]))
        spread = emitter.emit(node, "Expand", [column, size])
        node.inputs[index] = emitter.emit(
            node, "Reshape", [spread, emitter.constant(np.array([-1]))]
        )
    return node


@upgrade("RoiAlign", below=16)
def roi_align_without_half_pixel(node: OnnxNode, emitter: Emitter) -> OnnxNode:
    """Say the coordinate rule that was the only one."""
    node.attributes["coordinate_transformation_mode"] = "output_half_pixel"
    return node


@upgrade("GridSample", below=20)
def grid_sample_mode_names(node: OnnxNode, emitter: Emitter) -> OnnxNode:
    """Rename the modes bilinear and bicubic."""
    mode = node.attributes.get("mode", "bilinear")
    node.attributes["mode"] = {"bilinear": "linear", "bicubic": "cubic"}.get(mode, mode)
    return node


@upgrade("Scan", below=9)
def scan_without_batch_axis(node: OnnxNode, emitter: Emitter) -> OnnxNode:
    """Refuse the first form of Scan, which loops over batches too; only opset 8 has it."""
    raise _refuse(node, "Scan of opset 8; export the model with opset 9 or later")


# -- resampling -----------------------------------------------------------------------------------


@upgrade("Upsample", below=9)
def upsample_scales_to_input(node: OnnxNode, emitter: Emitter) -> OnnxNode:
    """Move `scales` to input 1."""
    if "scales" not in node.attributes:
        raise ModelError("Upsample lacks the attribute scales", where=f"node {node.source}")
    node.set_input(1, emitter.constant(np.array(node.take("scales"), np.float32)))
    return node


@upgrade("Upsample", below=10_000)
@upgrade("Resize", below=11)
def upsample_is_resize(node: OnnxNode, emitter: Emitter) -> OnnxNode:
    """Upsample, and Resize of opset 10, are today's Resize with asymmetric coordinates."""
    scales = node.required_input(1)
    down = scales.is_constant and bool((scales.array < 1).any())
    node.op = "Resize"
    node.inputs = [node.required_input(0), None, scales]
    node.attributes["coordinate_transformation_mode"] = "asymmetric"
    node.attributes["nearest_mode"] = "ceil" if down else "floor"  # as ONNX Runtime does
    node.opset = max(node.opset, 11)
    return node


@upgrade("Resize", below=13)
def resize_prefers_sizes(node: OnnxNode, emitter: Emitter) -> OnnxNode:
    """Drop empty roi and scales tensors, which stood for absent inputs."""
    if node.input(3) is not None:
        node.set_input(2, None)
    for index in (1, 2):
        value = node.input(index)
        if value is not None and value.is_constant and value.array.size == 0:
            node.set_input(index, None)
    return node


@upgrade("Scatter", below=10_000)
def scatter_is_scatter_elements(node: OnnxNode, emitter: Emitter) -> OnnxNode:
    """Rename the deprecated operator."""
    node.op = "ScatterElements"
    return node
