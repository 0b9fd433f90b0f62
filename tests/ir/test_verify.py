from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import planish.ops  # noqa: F401 (registers the operators' attributes)
from planish.errors import GraphError
from planish.ir.dtypes import F32
from planish.ir.graph import Graph, Node, Value
from planish.ir.text import parse_text
from planish.ir.verify import verify

TEXT = """\
graph main(%x: f32[2,3], %c: bool[]) {
  @w: f32[3]
  %1: f32[2,3] = Region(%x) {kind="pointwise", body=graph body(%x: f32[2,3]) {
    %1: f32[2,3] = Region(%x, %x) {kind="a", body=graph b(%x: f32[2,3], %y: f32[2,3]) {
      return %x
    }}
    return %1
  }}
  %2: f32[2,3] = Region(%1) {kind="pointwise", body=graph body(%x: f32[2,3]) {
    return @w
  }}
  return %2
}
"""


def _nodes(graph: Graph) -> list[Node]:
    return list(graph)


def test_a_sound_graph_passes() -> None:
    verify(parse_text(TEXT))


def _swap(graph: Graph) -> None:
    first, second = _nodes(graph)
    graph.move_before(first, second)


def _drop_use(graph: Graph) -> None:
    graph.inputs[0].uses.clear()


def _stale_use(graph: Graph) -> None:
    graph.inputs[0].uses[_nodes(graph)[1], 0] = None


def _second_origin(graph: Graph) -> None:
    graph.inputs[1].constant = graph.constant(np.zeros(2, np.float32)).constant


def _constant_operand(graph: Graph) -> None:
    _nodes(graph)[1].replace_input(0, graph.constant(np.zeros((2, 3), np.float32)))


def _foreign_read(graph: Graph) -> None:
    _nodes(graph)[1].replace_input(0, Value("lost", F32, (2, 3)))


def _inner_leak(graph: Graph) -> None:
    inner = _nodes(_nodes(graph)[0].body)[0].output
    graph.outputs[0] = inner


def _capture(graph: Graph) -> None:
    _nodes(_nodes(graph)[0].body)[0].replace_input(0, graph.inputs[0])


def _same_name(graph: Graph) -> None:
    _nodes(graph)[0].outputs[0].name = "x"


def _unknown_attribute(graph: Graph) -> None:
    _nodes(graph)[0].attributes["color"] = 3


def _missing_attribute(graph: Graph) -> None:
    del _nodes(graph)[0].attributes["kind"]


def _list_attribute(graph: Graph) -> None:
    _nodes(graph)[0].attributes["kind"] = [1]


def _unknown_operator(graph: Graph) -> None:
    _nodes(graph)[0].op = "Nothing"


def _shared_body(graph: Graph) -> None:
    first, second = _nodes(graph)
    second.attributes["body"] = first.body


def _names(graph: Graph) -> None:
    graph.output_names.append("more")


def _repeated_public_name(graph: Graph) -> None:
    graph.input_names[:] = ["a", "a"]


def _wrong_count(graph: Graph) -> None:
    graph._count += 1


def _foreign_output(graph: Graph) -> None:
    _nodes(graph)[0].outputs = (*_nodes(graph)[0].outputs, _nodes(graph)[1].outputs[0])


def _wrong_graph(graph: Graph) -> None:
    _nodes(graph)[0].graph = Graph("other")


@pytest.mark.parametrize(
    ("breakage", "message"),
    [
        (_swap, "%1 is read before it is computed"),
        (_drop_use, "does not list this node as its user"),
        (_stale_use, "lists a user that does not read it"),
        (_second_origin, "input %c has a second origin"),
        (_constant_operand, "operands are present and not constant"),
        (_foreign_read, "%lost has no origin"),
        (_inner_leak, "%1 is read before it is computed"),
        (_capture, "%x has no origin that is visible here"),
        (_same_name, "the name %x is used twice"),
        (_unknown_attribute, "does not declare color"),
        (_missing_attribute, r"lacks the attribute\(s\) kind"),
        (_list_attribute, r"attribute\(s\) kind are lists"),
        (_unknown_operator, "operator Nothing is unknown"),
        (_shared_body, "a graph occurs twice"),
        (_names, "1 outputs have 2 public names"),
        (_repeated_public_name, "public input names repeat"),
        (_wrong_count, "counts 3 nodes and holds 2"),
        (_foreign_output, "output %2 has another origin"),
        (_wrong_graph, "another graph"),
    ],
)
def test_each_invariant_is_checked(breakage: Callable[[Graph], None], message: str) -> None:
    graph = parse_text(TEXT)
    breakage(graph)
    with pytest.raises(GraphError, match=message):
        verify(graph)


def test_errors_show_ten_nodes_around() -> None:
    lines = "\n".join(
        f'  %{i + 1} = Region(%{i}) {{kind="a", body=graph b(%x: f32[1]) {{ return %x }}}}'
        for i in range(30)
    )
    graph = parse_text(f"graph g(%0: f32[1]) {{\n{lines}\n  return %30\n}}")
    _nodes(graph)[15].attributes["extra"] = 1
    with pytest.raises(GraphError) as error:
        verify(graph)
    context = [line for line in str(error.value).split("\n") if "= Region(" in line and "{" in line]
    assert len(context) == 10
    assert next(line for line in context if line.strip().startswith(">")).count("%16") == 1
