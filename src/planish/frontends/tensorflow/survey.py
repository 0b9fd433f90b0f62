"""Decides which nodes of a graph go into engines, and says why the others do not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from planish.errors import UnsupportedOperatorError
from planish.frontends.tensorflow.engine_rules import FAILURES
from planish.frontends.tensorflow.environment import denied_ops
from planish.frontends.tensorflow.graph_view import GraphView
from planish.frontends.tensorflow.segment import Segment, cut
from planish.frontends.tensorflow.segmenter import find_segments
from planish.importers.savedmodel import read_tensorflow
from planish.importers.savedmodel_rules import RULES
from planish.importers.tensorflow import read_graph_def

# element types that cross the border of a TRTEngineOp
BORDER_TYPES = ("bool", "int8", "float16", "float32", "int32")

_CALLS = ("PartitionedCall", "StatefulPartitionedCall")
_HARMLESS = ("While", "If", "Case", *_CALLS)  # marked as stateful whatever their bodies do
_BRANCHES = ("Switch", "RefSwitch", "Enter", "RefEnter")
_NOT_FOR_INTEGERS = ("MatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3", "BiasAdd")
# the shape of the result is known only when it is there: TensorFlow is better at these
_DATA_DEPENDENT = (
    "Unique", "UniqueV2", "UniqueWithCounts", "UniqueWithCountsV2", "Where", "ListDiff",
    "DynamicPartition", "BooleanMask", "NonMaxSuppression", "NonMaxSuppressionV2",
    "NonMaxSuppressionV3", "NonMaxSuppressionV4", "NonMaxSuppressionV5",
)  # fmt: skip
_UNCOUNTED = ("Const", "NoOp", "Placeholder")  # neither inside nor outside: nothing to compute


@dataclass
class Survey:
    """What becomes engines and what stays TensorFlow's.

    Attributes
    ----------
    segments : list of Segment
        In topological order of their first nodes.
    reasons : dict of str to str
        Node outside all segments to why it is there.
    """

    segments: list[Segment] = field(default_factory=list)
    reasons: dict[str, str] = field(default_factory=dict)


def survey(
    view: GraphView,
    inputs: Sequence[str],
    outputs: Sequence[str],
    minimum_size: int,
    max_segments: int | None,
) -> Survey:
    """Cut a frozen graph into segments that the importer can read whole.

    Parameters
    ----------
    view : GraphView
    inputs, outputs : sequence of str
        Names of tensors ("x:0") whose nodes stay outside.
    minimum_size : int
        Least number of effective nodes of a segment; -1 for no segments at all.
    max_segments : int or None
        Most segments.
    """
    reasons = dict(_refused_alone(view, inputs, outputs))
    readable: dict[tuple[str, ...], Mapping[str, str]] = {}
    while True:
        candidates = [name for name in view.node_defs if name not in reasons]
        found = find_segments(view.nodes, candidates, minimum_size)
        segments = [cut(view, names, outputs) for names in found]
        refused = _refused_at_borders(segments)
        if not refused:
            for segment in segments:
                if segment.names not in readable:
                    readable[segment.names] = refused_nodes(segment)
                refused.update(readable[segment.names])
        if not refused:
            break
        reasons.update(refused)
    kept = find_segments(view.nodes, candidates, minimum_size, max_segments)
    chosen = {names[0] for names in kept}
    inside = {name for names in kept for name in names}
    for segment in segments:
        if segment.names[0] not in chosen:
            reasons.update(dict.fromkeys(segment.names, "more engines than the limit allows"))
    for name, node in view.node_defs.items():
        if name not in inside and name not in reasons and node.op not in _UNCOUNTED:
            reasons[name] = _too_small(minimum_size)
    return Survey([segment for segment in segments if segment.names[0] in chosen], reasons)


def refused_nodes(segment: Segment) -> dict[str, str]:
    """Return the nodes of a segment that cannot be imported, with reasons; empty if all can."""
    try:
        graph = read_graph_def(
            segment.graph_def().SerializeToString(),
            segment.arguments,
            [f"{node}:{index}" for node, index in segment.outputs],
        )
        read_tensorflow(graph)
    except UnsupportedOperatorError as error:
        return _by_node(segment, error)
    except FAILURES as error:
        return dict.fromkeys(segment.names, getattr(error, "what", str(error)))
    return {}


def _by_node(segment: Segment, error: UnsupportedOperatorError) -> dict[str, str]:
    """Return the nodes of the segment that an error names, or whose bodies it names."""
    found: dict[str, str] = {}
    for line in error.nodes:
        name, _, reason = line.partition(" (")
        owner = name if name in segment.names else _owner(segment, name)
        if owner is not None:
            found.setdefault(owner, reason.partition("): ")[2] if owner == name else line)
    return found or dict.fromkeys(segment.names, "; ".join(error.nodes))


def _owner(segment: Segment, name: str) -> str | None:
    """Return the node of the segment that the inlined or nested node `name` belongs to."""
    for outer in segment.names:
        if name.startswith(f"{outer}/") and segment.view.node_defs[outer].op in _CALLS:
            return outer
    for outer in segment.names:
        if name in _nested(segment.view, outer):
            return outer
    return None


def _nested(view: GraphView, name: str) -> set[str]:
    """Return the names of the nodes in all functions that a node calls."""
    library = {function.signature.name: function for function in view.graph_def.library.function}
    waiting = _called(view.node_defs[name])
    seen: set[str] = set()
    names: set[str] = set()
    while waiting:
        function = waiting.pop()
        if function in seen or function not in library:
            continue
        seen.add(function)
        for node in library[function].node_def:
            names.add(node.name)
            waiting += _called(node)
    return names


def _called(node: object) -> list[str]:
    attributes = node.attr.values()  # type: ignore[attr-defined]
    direct = [value.func.name for value in attributes if value.HasField("func")]
    listed = [function.name for value in attributes for function in value.list.func]
    return [*direct, *listed]


# -- nodes that no segment may hold ---------------------------------------------------------------


def _refused_alone(
    view: GraphView, inputs: Sequence[str], outputs: Sequence[str]
) -> Iterator[tuple[str, str]]:
    fetched = {name.partition(":")[0] for name in outputs}
    fed = {name.partition(":")[0] for name in inputs}
    denied = denied_ops()
    branches = _inside_branches(view)
    for name, node in view.node_defs.items():
        if node.op == "Const":
            continue
        if name in fed or name in fetched:
            yield name, "an input of the model" if name in fed else "an output of the model"
        elif node.op in ("NoOp", "Placeholder"):
            yield name, "nothing to compute"
        elif node.op in denied:
            yield name, "TF_TRT_OP_DENYLIST names this operation"
        elif node.op not in RULES and node.op not in _CALLS:
            yield name, "Planish has no rule for this operation"
        elif node.op in _DATA_DEPENDENT:
            yield name, "the shape of its result depends on data"
        elif name in branches:
            yield name, "inside control flow of TensorFlow 1"
        elif reason := _unfit(view, name):
            yield name, reason


def _unfit(view: GraphView, name: str) -> str | None:
    """Return why its types or its state keep a node out."""
    operation = view.operation(name)
    if operation.op_def.is_stateful and operation.type not in _HARMLESS:
        return "an operation with state"
    if operation.type in _NOT_FOR_INTEGERS and operation.outputs[0].dtype.is_integer:
        return "TF-TRT converts it for floating point only"
    for tensor in operation.outputs:
        if tensor.dtype.name in ("string", "resource"):
            return f"its result is a {tensor.dtype.name}"
    return None


def _inside_branches(view: GraphView) -> set[str]:
    """Return what TensorFlow 1's branches and loops may leave unexecuted."""
    found: set[str] = set()
    for node in view.nodes:
        sources = (*node.inputs, *node.control_inputs)
        if node.op in _BRANCHES or any(source in found for source in sources):
            found.add(node.name)
    return found


def _refused_at_borders(segments: list[Segment]) -> dict[str, str]:
    """Return the nodes whose operands or results would cross a border in a wrong type."""
    refused: dict[str, str] = {}
    for segment in segments:
        if not segment.inputs or not segment.outputs:
            refused.update(dict.fromkeys(segment.names, "depends on no input of the model"))
            continue
        wrong = {tensor for tensor in segment.inputs if not _crosses(segment.view, tensor)}
        for name in segment.names:
            for tensor in segment.view.inputs(name):
                if tensor in wrong:
                    refused[name] = f"reads {_described(segment.view, tensor)} from outside"
        for tensor in segment.outputs:
            if not _crosses(segment.view, tensor):
                what = _described(segment.view, tensor)
                refused[tensor[0]] = f"its result, {what}, is read outside"
    return refused


def _crosses(view: GraphView, tensor: tuple[str, int]) -> bool:
    symbolic = view.tensor(tensor)
    return symbolic.dtype.name in BORDER_TYPES and symbolic.shape.rank is not None


def _described(view: GraphView, tensor: tuple[str, int]) -> str:
    symbolic = view.tensor(tensor)
    article = "an" if symbolic.dtype.name[0] in "aiou" else "a"
    if symbolic.dtype.name in BORDER_TYPES:
        return f"{article} {symbolic.dtype.name} of unknown rank"
    return f"{article} {symbolic.dtype.name}"


def _too_small(minimum_size: int) -> str:
    if minimum_size == -1:
        return "minimum_segment_size=-1 converts nothing"
    return f"too small a segment (minimum_segment_size={minimum_size})"
