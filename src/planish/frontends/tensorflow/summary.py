"""The text of ``summary()``: TF-TRT's table of engines, and what it did not say."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from planish.frontends.tensorflow.engine_op import OP
from planish.frontends.tensorflow.library import tensorflow

SHORTEST_LINE = 160
_COLUMNS = (
    ("TRTEngineOp Name", 0.20), ("Device", 0.09), ("# Nodes", 0.05), ("# Inputs", 0.09),
    ("# Outputs", 0.09), ("Input DTypes", 0.12), ("Output Dtypes", 0.12), ("Input Shapes", 0.12),
    ("Output Shapes", 0.12),
)  # fmt: skip  # shares of a line
_NOT_COUNTED = "an input of the model", "an output of the model", "nothing to compute"
_NAMES_SHOWN = 3

Print = Callable[..., Any]


@dataclass(frozen=True)
class EngineState:
    """What is known of one engine.

    Attributes
    ----------
    engines : tuple of str
        A line for each engine that was built: shapes, precision, seconds.
    note : str
        Why there is none, or "".
    """

    engines: tuple[str, ...] = ()
    note: str = ""


def print_summary(
    graph_def: Any,
    line_length: int,
    detailed: bool,
    print_fn: Print,
) -> None:
    """Print TF-TRT's table.

    Parameters
    ----------
    graph_def : GraphDef
        The converted graph.
    line_length : int
        Characters of a line, at least 160.
    detailed : bool
        List the operations of every engine.
    print_fn : callable
        Takes a line.
    """
    edges = list(itertools.accumulate(int(line_length * share) for _, share in _COLUMNS))
    _print_row([title for title, _ in _COLUMNS], edges, print_fn)
    print_fn("=" * line_length)
    engines = sorted((node for node in graph_def.node if node.op == OP), key=lambda node: node.name)
    bodies = {function.signature.name: function for function in graph_def.library.function}
    inside = 0
    for node in engines:
        body = bodies.get(f"{node.name}_native_segment")
        operations = Counter(inner.op for inner in body.node_def) if body else Counter()
        inside += operations.total()
        if len(engines) != 1:
            print_fn(f"\n{'-' * 40}\n")
        _print_row(_row(node, operations.total()), edges, print_fn)
        if detailed:
            print_fn("")
            for operation, count in sorted(operations.items()):
                print_fn(f"\t- {operation}: {count}x")
    print_fn(f"\n{'=' * line_length}")
    print_fn(f"[*] Total number of TensorRT engines: {len(engines)}")
    names = {node.name for node in engines}
    added = sum(node.name.rpartition("/")[0] in names for node in graph_def.node)
    total = inside + len(graph_def.node) - len(engines) - added
    print_fn(f"[*] % of OPs Converted: {100 * inside / max(total, 1):.2f}% [{inside}/{total}]\n")


def print_engines(asked: str, states: Mapping[str, EngineState], print_fn: Print) -> None:
    """Print which engines exist and in which precision they really run."""
    if not states:
        return
    print_fn(f"[*] Engines (precision asked for: {asked}):")
    for name, state in states.items():
        for line in state.engines or (state.note or "none yet: built when inputs arrive",):
            print_fn(f"    {name}: {line}")
    print_fn("")


def print_outside(
    reasons: Mapping[str, str], operations: Mapping[str, str], print_fn: Print
) -> None:
    """Print why operations stayed TensorFlow's, those with one reason together."""
    groups = outside_groups(reasons, operations)
    if not groups:
        print_fn("[*] No operation stays outside the engines.\n")
        return
    print_fn("[*] Operations that TensorFlow runs:")
    for operation, reason, names in groups:
        shown = ", ".join(names[:_NAMES_SHOWN])
        more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
        print_fn(f"    {len(names)}x {operation}: {reason} ({shown}{more})")
    print_fn("")


def outside_groups(
    reasons: Mapping[str, str], operations: Mapping[str, str]
) -> list[tuple[str, str, list[str]]]:
    """Return (operation, reason, node names), the most frequent first.

    Parameters
    ----------
    reasons : dict of str to str
        Node to why it is outside.
    operations : dict of str to str
        Node to its operation.
    """
    groups: dict[tuple[str, str], list[str]] = {}
    for name, reason in reasons.items():
        if reason not in _NOT_COUNTED:
            groups.setdefault((operations[name], reason), []).append(name)
    ordered = sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))
    return [(operation, reason, names) for (operation, reason), names in ordered]


def report_table(groups: Iterable[tuple[str, str, Sequence[str]]]) -> str:
    """Return TF_TRT_SHOW_DETAILED_REPORT's table: OP Name|Reason|Count."""
    rows = [f"{operation}|{reason}|{len(names)}" for operation, reason, names in groups]
    return "\n".join(["OP Name|Reason|Count", *rows]) + "\n"


def _row(node: Any, size: int) -> list[object]:
    attributes = node.attr
    return [
        node.name,
        node.device.split("/")[-1],
        size,
        len(attributes["InT"].list.type),
        len(attributes["OutT"].list.type),
        _types(attributes["InT"]),
        _types(attributes["OutT"]),
        _shapes(attributes["input_shapes"]),
        _shapes(attributes["output_shapes"]),
    ]


def _types(attribute: Any) -> list[str]:
    tf = tensorflow()
    return [tf.dtypes.as_dtype(number).name for number in attribute.list.type]


def _shapes(attribute: Any) -> list[list[int]]:
    return [[dim.size for dim in shape.dim] for shape in attribute.list.shape]


def _print_row(fields: Sequence[object], edges: Sequence[int], print_fn: Print) -> None:
    """Print fields, each up to its edge; what is too long ends in dots."""
    line = ""
    for field, edge in zip(fields, edges, strict=True):
        line = f"{line} {field}" if line else str(field)
        line = line.ljust(edge)
        if len(line) > edge:
            line = line[: edge - 4] + " ..."
    print_fn(line)
