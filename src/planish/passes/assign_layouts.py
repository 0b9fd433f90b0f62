"""Choose the axis order and the halo of every value, with as few reformats as possible.

Logical shapes never change. Convolution-like regions work channels-last; regions around matmuls
want contiguous rows; pointwise regions write whatever their readers want (a pointwise region
between two orders is a reformat for free) and otherwise stay in the order of their operands. View
operators move nothing: their outputs' orders follow from their inputs', so a Transpose between
NCHW and NHWC costs nothing when its other side is a convolution that works channels-last anyway.

Where a reader needs an order, contiguous rows, or a halo that its operand does not have, one
reformat is inserted and shared by all readers that need the same. Afterwards every operand of a
Region has plain strides, apart from what assign_storage decides for concats and outputs.
"""

from __future__ import annotations

from planish.errors import GraphError
from planish.ir.dtypes import BF16
from planish.ir.graph import Graph, Node, Value
from planish.ir.layout import Halo, Layout
from planish.ir.shape import Shape, product
from planish.passes.copies import insert_copy, insert_reshape, pieces_layout
from planish.passes.data_dependent import wrap_data_dependent
from planish.passes.graph_pass import GraphPass
from planish.passes.layout_wishes import Order, Wishes
from planish.passes.opaque import is_settled, wrap_opaque
from planish.passes.operands import (
    CHANNEL_RANKS,
    CHANNELS_LAST,
    FOLLOW,
    FREE_OUTER_AXES,
    REDUCTIONS,
    Requirement,
    requirement,
    widest,
)
from planish.passes.view_map import ViewMap
from planish.passes.views import Ranges, no_halo, numeric

FEW_CHANNELS = 4  # a bf16 image with fewer channels is padded to this many


class AssignLayouts(GraphPass):
    """Give every value that owns memory its `layout`, inserting reformats."""

    name = "assign_layouts"

    def __init__(self, halos: bool = True) -> None:
        super().__init__()
        self.halos = halos  # whether kernels read padding as zeros in memory

    def run(self, graph: Graph) -> bool:
        """Assign layouts in `graph` and its subgraphs; do nothing where that has been done."""
        if is_settled(graph, lambda value: value.layout is not None):
            return False
        self.count("operators whose extents depend on data", wrap_data_dependent(graph))
        self.count("operators run as a whole", wrap_opaque(graph))
        _Assignment(graph, self).assign()
        return True

    def count(self, label: str, times: int = 1) -> None:
        """Record `times` occurrences of `label`, none of which leaves no entry."""
        if times:
            super().count(label, times)


class _Assignment:
    """One run over an outermost graph."""

    def __init__(self, graph: Graph, owner: AssignLayouts) -> None:
        self.graph = graph
        self.ranges: Ranges = graph.ranges
        self.count = owner.count
        self.map = ViewMap(graph.ranges)
        self.halos = owner.halos
        self.wishes = Wishes(graph, graph.ranges, owner.halos)
        # (graph, value) -> reformatted forms of the value that nodes of the graph may read
        self.forms: dict[tuple[Graph, Value], list[Value]] = {}
        self.places: dict[Graph, Node] = {}  # the node that holds a subgraph

    def assign(self) -> None:
        """Walk over the graph in order."""
        for value in self.graph.inputs:
            self._own(value, Layout.row_major(value.rank))
        self._visit(self.graph)

    def _visit(self, graph: Graph) -> None:
        for node in graph:
            if node.op == "Region":
                self._visit_region(graph, node)
            elif node.op == "Concat":
                self._visit_concat(graph, node)
            elif node.subgraphs:
                for value in node.body.inputs if node.op == "Loop" else ():
                    self._own(value, Layout.row_major(value.rank))
                for subgraph in node.subgraphs:
                    self.places[subgraph] = node
                    self._visit(subgraph)
                for output in node.outputs:
                    self._own(output, Layout.row_major(output.rank))
            else:
                self._visit_view(graph, node)
        self._visit_outputs(graph)

    def _visit_outputs(self, graph: Graph) -> None:
        """Make the outputs addressable, so that they can be copied where they cannot be placed."""
        for index, value in enumerate(graph.outputs):
            if value.is_constant or self.map.storage(value) is not None:
                continue
            dense = self._gather_pieces(
                graph, None, value, tuple(range(value.rank)), no_halo(value.rank)
            )
            outputs = list(graph.outputs)
            outputs[index] = dense
            graph.outputs = outputs

    def _own(self, value: Value, layout: Layout) -> None:
        value.layout = layout
        self.map.own(value, layout)

    # -- regions ---------------------------------------------------------------------------------

    def _visit_region(self, graph: Graph, node: Node) -> None:
        for index in range(len(node.inputs)):
            self._fit_operand(graph, node, index)
        for output in node.outputs:
            order, halo = self._output_order(node, output), self._halo_of(output)
            image = (
                output.rank in CHANNEL_RANKS and order == Layout.channels_last(output.rank).order
            )
            if image and node.attributes["kind"] == "pointwise" and halo != no_halo(output.rank):
                halo = _with_few_channels(output, halo)
            self._own(output, Layout(order, halo))

    def _output_order(self, node: Node, output: Value) -> Order:
        kind, rank = node.attributes["kind"], output.rank
        wanted, hard = self.wishes.order(output)
        row_major = tuple(range(rank))
        if kind in CHANNELS_LAST and rank in CHANNEL_RANKS:
            return Layout.channels_last(rank).order
        if kind in FREE_OUTER_AXES:
            return wanted if wanted is not None and wanted[-1:] == row_major[-1:] else row_major
        if kind in REDUCTIONS:
            return wanted or self._natural_order(node, output) or row_major
        if kind not in FOLLOW:
            return row_major
        natural = self._natural_order(node, output)
        if wanted is None:
            return natural or row_major
        if kind == "pointwise" and hard:
            return wanted
        return natural or wanted

    def _natural_order(self, node: Node, output: Value) -> Order | None:
        """Return the order in which most elements of the region's operands lie."""
        votes: dict[Order, float] = {}
        for value in node.present_inputs:
            order = self.map.order(value)
            if order is None or not _same_axes(value, output):
                continue
            votes[order] = votes.get(order, 0) + 1
        return max(votes, key=lambda order: votes[order]) if votes else None

    def _halo_of(self, output: Value) -> Halo:
        return self.wishes.own_halo(output)

    def _visit_concat(self, graph: Graph, node: Node) -> None:
        layout = self._concat_layout(node)
        for index, value in enumerate(node.present_inputs):
            if value.is_constant or self.map.storage(value) is not None:
                continue
            dense = self._gather_pieces(graph, node, value, layout.order, no_halo(value.rank))
            node.replace_input(index, dense)
        self._own(node.outputs[0], layout)

    def _concat_layout(self, node: Node) -> Layout:
        output = node.outputs[0]
        wanted, hard = self.wishes.order(output)
        votes: dict[Order, float] = {}
        for value in node.present_inputs:
            order = self.map.order(value)
            if order is not None:
                size = numeric(product(value.known_shape), self.ranges)
                votes[order] = votes.get(order, 0) + size
        natural = max(votes, key=lambda order: votes[order]) if votes else None
        chosen = wanted if hard or natural is None else natural
        return Layout(chosen or tuple(range(output.rank)), self._halo_of(output))

    # -- operands --------------------------------------------------------------------------------

    def _fit_operand(self, graph: Graph, node: Node, index: int) -> None:
        value = node.inputs[index]
        if value is None:
            raise GraphError("a region has an absent input", where=str(node))
        need = requirement(node, index, self.halos)
        if self._fits(value, need):
            return
        for form in self._forms_of(graph, value):
            if self._fits(form, need):
                node.replace_input(index, form)
                return
        form = self._reformat(graph, node, value, need)
        place, _ = self._outside_loops(graph, node, value)
        self.forms.setdefault((place, value), []).append(form)
        node.replace_input(index, form)

    def _fits(self, value: Value, need: Requirement) -> bool:
        view, storage = self.map.get(value), self.map.storage(value)
        if view is None or storage is None:
            return False
        return need.met_by(storage, view.halo, value.known_shape, self.ranges)

    def _forms_of(self, graph: Graph, value: Value) -> list[Value]:
        place, _ = self._outside_loops(graph, None, value)
        return self.forms.get((place, value), [])

    def _outside_loops(
        self, graph: Graph, node: Node | None, value: Value
    ) -> tuple[Graph, Node | None]:
        """Return where `value` is copied for `node`: before the loops that only read it."""
        if value.is_constant:
            return graph, node
        while (holder := self.places.get(graph)) is not None and holder.op == "Loop":
            made_here = value.producer is not None and value.producer.graph is graph
            if made_here or value in graph.inputs or holder.graph is None:
                break
            graph, node = holder.graph, holder
        return graph, node

    def _reformat(self, graph: Graph, node: Node, value: Value, need: Requirement) -> Value:
        """Insert a copy of `value` before `node` that meets `need`, and return it."""
        graph, place = self._outside_loops(graph, node, value)
        node = place or node
        order = need.order or self._copy_order(value, need)
        halo = need.halo
        if value.rank in CHANNEL_RANKS and order == Layout.channels_last(value.rank).order:
            # one form serves every convolution that reads the value
            halo = widest(halo, self.wishes.needed_halo(value))
            halo = _with_few_channels(value, halo)
        if self.map.storage(value) is not None or value.is_constant:
            self.count("reformats")
            copy = insert_copy(graph, node, value, "reformat")
            self._own(copy, Layout(order, halo))
            return copy
        return self._gather_pieces(graph, node, value, order, halo)

    def _copy_order(self, value: Value, need: Requirement) -> Order:
        """Return the order of a copy that only has to be addressable, or have contiguous rows."""
        wanted, _ = self.wishes.order(value)
        if need.rows or wanted is None:
            return tuple(range(value.rank))
        return wanted

    def _gather_pieces(
        self, graph: Graph, node: Node | None, value: Value, order: Order, halo: Halo
    ) -> Value:
        """Copy a value that plain strides cannot describe, its pieces as axes of their own."""
        view = self.map.get(value)
        if view is None:
            raise GraphError(f"%{value.name} is read before it has a place", where=str(node))
        shape, layout = pieces_layout(view, order, halo)
        pieces = insert_reshape(graph, node, value, shape)
        if pieces is None or not self._follow(pieces) or self.map.storage(pieces) is None:
            return self._rebuild(graph, node, value)
        self.count("copies of views")
        copy = insert_copy(graph, node, pieces, "gather")
        self._own(copy, layout)
        result = insert_reshape(graph, node, copy, value.known_shape)
        if result is None or not self._follow(result) or self.map.storage(result) is None:
            return self._rebuild(graph, node, value)
        return result

    def _follow(self, value: Value) -> bool:
        return value.producer is not None and self.map.follow(value.producer)

    def _rebuild(self, graph: Graph, node: Node | None, value: Value) -> Value:
        """Copy the source of a view row-major, so that the view of the copy is plain."""
        producer = value.producer
        source = None if producer is None else producer.inputs[0]
        if producer is None or source is None:
            raise GraphError(f"%{value.name} cannot be addressed", where=str(node))
        free = Requirement(tuple(range(source.rank)), (), no_halo(source.rank))
        dense = self._reformat(producer.graph or graph, producer, source, free)
        producer.replace_input(0, dense)
        self.map.follow(producer)
        return value

    # -- views -----------------------------------------------------------------------------------

    def _visit_view(self, graph: Graph, node: Node) -> None:
        source = node.inputs[0]
        if source is None:
            raise GraphError("a view operator has no input", where=str(node))
        if self.map.get(source) is None:  # a constant: it has no memory of its own
            source = self._reformat(graph, node, source, _anywhere(source.known_shape))
            node.replace_input(0, source)
        if self.map.follow(node):
            return
        dense = self._reformat(graph, node, source, _anywhere(source.known_shape))
        node.replace_input(0, dense)
        if not self.map.follow(node):
            raise GraphError("a view operator's result has no address", where=str(node))


def _same_axes(value: Value, output: Value) -> bool:
    """Whether an operand has the axes of a result, reduced ones (extent 1) aside."""
    if value.rank != output.rank:
        return False
    pairs = zip(value.known_shape, output.known_shape, strict=True)
    return all(out in (have, 1) for have, out in pairs)


def _anywhere(shape: Shape) -> Requirement:
    rank = len(shape)
    return Requirement(tuple(range(rank)), (), no_halo(rank))


def _with_few_channels(value: Value, halo: Halo) -> Halo:
    """Pad the channels of a bf16 image to a number that dot-product instructions like."""
    channels = value.known_shape[1]
    if value.dtype is not BF16 or not isinstance(channels, int):
        return halo
    if channels not in (1, 3):
        return halo
    wide = 2 if channels == 1 else FEW_CHANNELS
    return (halo[0], (0, wide - channels), *halo[2:])
