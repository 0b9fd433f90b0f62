"""From Region nodes of a graph to `tactic.Region`, and the key under which timings are cached.

A Region node's body is self-contained; where its operands lie in memory is an annotation on the
outer values (`value.storage`, or `value.layout` before storage is assigned). This file joins the
two, names regions after the user's layers, and prints the declared fields of a region as a key.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence

import numpy as np

from planish.ir.dtypes import DType
from planish.ir.graph import Attribute, Graph, Node, Value
from planish.ir.layout import Layout
from planish.ir.shape import Dim, Shape, symbols_of
from planish.ir.source import Source
from planish.ops.content import contents
from planish.passes.fuse_regions import QUANTIZATION
from planish.passes.native_loops import is_native_loop, loop_symbol
from planish.tactics.tactic import Operand, Region, layout_of
from planish.tactics.target import Target

Ranges = Mapping[str, tuple[int, int, int]]

ADDRESS_BYTES = 16  # what an aligned operand's address is a multiple of
NAME_LENGTH = 56  # characters of a region's C identifier
CONTENT_LENGTH = 64  # integer constants up to this many elements end up in generated code


def region_of(node: Node, symbols: Sequence[str], ranges: Ranges) -> Region:
    """Return the tactic's view of a Region node.

    Parameters
    ----------
    node : Node
        A node with op "Region".
    symbols : sequence of str
        Symbols in the order in which kernels receive their values.
    ranges : dict
        Symbol to (min, opt, max).
    """
    body = node.body
    return Region(
        node=node,
        body=body,
        inputs=tuple(map(_operand, body.inputs, node.present_inputs)),
        outputs=tuple(map(_operand, body.outputs, node.outputs)),
        symbols=tuple(symbols),
        ranges=dict(ranges),
        name=region_name(node),
    )


def regions_of(graph: Graph) -> list[Node]:
    """Return every Region node that has to run, in execution order, those inside If included.

    Regions that only compute the shape operands of view operators do not run: the plan knows the
    shapes.
    """
    live: list[Node] = []
    _collect(graph, set(), live)
    return live[::-1]


def repetitions(graph: Graph, ranges: Ranges) -> dict[Node, int]:
    """Return how often each region of a loop's body runs at the shapes to tune for.

    Regions outside of loops are absent.
    """
    found: dict[Node, int] = {}
    pending = [(graph, 1)]
    while pending:
        inside, times = pending.pop()
        for node in inside:
            if node.op == "Region":
                found[node] = times
                continue
            count = times
            if is_native_loop(node):
                count = times * (ranges[loop_symbol(node)][1] + 1)
            pending += [(subgraph, count) for subgraph in node.subgraphs]
    return {node: times for node, times in found.items() if times != 1}


def make_region(
    body: Graph,
    kind: str,
    layouts: Mapping[str, Layout] | None = None,
    ranges: Ranges | None = None,
) -> Region:
    """Return a free-standing region around `body`, for kernel tests and the tuner.

    Parameters
    ----------
    body : Graph
        The computation; constants are read directly inside it.
    kind : str
        The anchor's operator name, or "pointwise".
    layouts : dict, optional
        Name of a body input or output to its layout; row-major where absent.
    ranges : dict, optional
        Symbol to (min, opt, max); all symbols of the operands' shapes must be there. The order
        of `Region.symbols` is the alphabetical one.
    """
    layouts = layouts or {}
    inputs = [_outer_value(value, layouts) for value in body.inputs]
    outputs = [_outer_value(value, layouts) for value in body.outputs]
    sources = [name for node in body for name in node.source.names]
    node = Node(
        "Region",
        inputs,
        outputs,
        {"kind": kind, "body": body},
        Source("planish", tuple(dict.fromkeys(sources))),
    )
    found = {
        name
        for value in (*inputs, *outputs)
        for dim in value.known_shape
        for name in symbols_of(dim)
    }
    return region_of(node, sorted(found), dict(ranges or {}))


def region_name(node: Node) -> str:
    """Return a C identifier made from the kind and the user's layer names."""
    kind = str(node.attributes["kind"])
    names = node.source.names or tuple(output.name for output in node.outputs[:1])
    layers = "_".join(_common_stem(names))
    text = re.sub(r"[^0-9A-Za-z]+", "_", f"{kind}_{layers}").strip("_").lower()
    return (text[:NAME_LENGTH].rstrip("_")) or "region"


def region_key(region: Region, target: Target) -> str:
    """Return the identity of a tuning problem: equal keys, equal best configuration.

    It is made of declared fields only: the body's operators, attributes, dtypes and shapes, the
    shapes (not the contents) of constants except those that generated code holds as literals and
    that are no scales, the operands' strides and halos, the symbols' ranges, and the target.
    """
    lines = [
        f"{target.device} {' '.join(sorted(target.features))}",
        f"threads={target.threads} l1={target.l1} l2={target.l2} l3={target.l3}",
        f"kind={region.kind}",
        *body_lines(region.body),
        *(f"in {_operand_text(operand)}" for operand in region.inputs),
        *(f"out {_operand_text(operand)}{_known(operand)}" for operand in region.outputs),
        *(f"{name}={region.ranges.get(name)}" for name in region.symbols),
    ]
    return hashlib.blake2b("\n".join(lines).encode(), digest_size=16).hexdigest()


def body_lines(body: Graph) -> list[str]:
    """Return `body` as text that does not depend on the names of values or layers."""
    labels: dict[Value, str] = {}
    for index, value in enumerate(body.inputs):
        labels[value] = f"i{index}"
    lines = [f"{labels[value]}: {_type_text(value)}" for value in body.inputs]
    for node in body:
        arguments = ", ".join(
            # the step between two quantized numbers changes no kernel's speed
            f"const {_type_text(value)}"
            if node.op in QUANTIZATION and slot == 1 and value is not None and value.is_constant
            else _argument(value, labels)
            for slot, value in enumerate(node.inputs)
        )
        for output in node.outputs:
            labels[output] = f"v{len(labels)}"
        results = ", ".join(f"{labels[out]}: {_type_text(out)}" for out in node.outputs)
        attributes = ", ".join(
            f"{key}={_attribute_text(value)}" for key, value in sorted(node.attributes.items())
        )
        lines.append(f"{results} = {node.op}({arguments}) {{{attributes}}}")
    lines.append("return " + ", ".join(_argument(value, labels) for value in body.outputs))
    return lines


def _collect(graph: Graph, read: set[Value], live: list[Node]) -> None:
    """Append the live regions of `graph` to `live`, last first; `read` holds what is read later."""
    read.update(graph.outputs)
    for node in reversed(graph):
        if node.op == "Region":
            if read.intersection(node.outputs):
                live.append(node)
                read.update(node.present_inputs)
            continue
        for subgraph in reversed(node.subgraphs):
            _collect(subgraph, read, live)
        if node.subgraphs or read.intersection(node.outputs):
            is_view = node.op not in ("Concat", "If", "Loop")
            read.update(node.present_inputs[:1] if is_view else node.present_inputs)


def _operand(inner: Value, outer: Value) -> Operand:
    layout = layout_of(outer)
    if outer.storage is None:
        return Operand(inner, layout.strides(outer.known_shape), layout.halo)
    # assign_storage leaves in the layout of a view only the halo that can be read around it
    offset = outer.storage.offset * outer.dtype.itemsize
    aligned = _divides(ADDRESS_BYTES, offset)
    return Operand(inner, outer.storage.strides, layout.halo, aligned)


def _divides(factor: int, dim: Dim) -> bool:
    terms = (dim,) if isinstance(dim, int) else (number for _, number in dim.terms)
    return all(number % factor == 0 for number in terms)


def _outer_value(inner: Value, layouts: Mapping[str, Layout]) -> Value:
    value = Value(inner.name, inner.dtype, inner.known_shape)
    value.layout = layouts.get(inner.name, Layout.row_major(inner.rank))
    return value


def _common_stem(names: Sequence[str]) -> Sequence[str]:
    """Return the first name and, of the others, only what follows the longest shared prefix."""
    if len(names) < 2:
        return names
    parts = [re.split(r"[/.]", name) for name in names]
    shared = 0
    while all(len(p) > shared + 1 and p[shared] == parts[0][shared] for p in parts):
        shared += 1
    return [names[0], *("_".join(p[shared:]) for p in parts[1:])]


def _known(operand: Operand) -> str:
    """Return a mark of results that are made of extents: a tactic of their own writes them."""
    return "" if contents(operand.value) is None else " of extents"


def _operand_text(operand: Operand) -> str:
    return f"{_type_text(operand.value)} strides={_shape_text(operand.strides)} {operand.halo}"


def _type_text(value: Value) -> str:
    return f"{value.dtype}{_shape_text(value.shape)}"


def _shape_text(shape: Shape | None) -> str:
    return "?" if shape is None else "[" + ",".join(map(str, shape)) + "]"


def _argument(value: Value | None, labels: Mapping[Value, str]) -> str:
    if value is None:
        return "_"
    if value.constant is None:
        # a value of a graph around a nested subgraph has no label here
        return labels.get(value, f"outer {_type_text(value)}")
    text = f"const {_type_text(value)}"
    array = value.array
    literal = array.size == 1 or (value.dtype.is_integer and array.size <= CONTENT_LENGTH)
    return f"{text}={array.tolist()}" if literal else text


def _attribute_text(value: Attribute) -> str:
    if isinstance(value, Graph):
        return "graph{" + "; ".join(body_lines(value)) + "}"
    if isinstance(value, np.ndarray):
        digest = hashlib.blake2b(np.ascontiguousarray(value).tobytes(), digest_size=8)
        return f"{value.dtype}{list(value.shape)}#{digest.hexdigest()}"
    if isinstance(value, DType):
        return value.name
    return repr(value)
