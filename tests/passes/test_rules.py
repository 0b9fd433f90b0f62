"""Every rule runs its own example: it fires, keeps the results, and has nothing left to do."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from planish.ir.rewrite import Rule
from planish.ir.text import to_text
from planish.ir.verify import verify
from planish.ops import OPS
from planish.ops.interpreter import run_graph
from planish.passes.apply_rules import ApplyRules
from planish.passes.rules import RULES
from tests.passes.checks import assert_equal_results, parse, random_inputs


def rule_id(rule: type[Rule]) -> str:
    return rule.__module__.rpartition(".")[2]


@pytest.mark.parametrize("rule", RULES, ids=rule_id)
def test_rule_keeps_the_results_of_its_example(rule: type[Rule]) -> None:
    graph = parse(rule.example)
    inputs = random_inputs(graph)
    types = [(value.dtype, value.shape) for value in graph.outputs]
    names = list(graph.output_names)
    expected = run_graph(graph, inputs)

    graph_pass = ApplyRules([rule])
    assert graph_pass.run(graph), "the rule does not fire on its own example"
    assert graph_pass.counts == {rule.label: 1}

    verify(graph)
    assert [(value.dtype, value.shape) for value in graph.outputs] == types
    assert graph.output_names == names
    assert_equal_results(expected, graph, inputs)
    assert not graph_pass.run(graph), "the rule fires on its own result"


@pytest.mark.parametrize("rule", RULES, ids=rule_id)
def test_rule_keeps_the_sources(rule: type[Rule]) -> None:
    text = rule.example.replace("{\n", "{\n", 1)
    graph = parse(text)
    for index, node in enumerate(graph):
        node.source = type(node.source)("onnx", (f"layer{index}",))
    last = max(index for index, _ in enumerate(graph))
    ApplyRules([rule]).run(graph)
    named = {name for node in graph for name in node.source.names}
    # the root is the last node but for no-op removals, whose node goes without a trace
    assert named
    assert rule.label == "no-op removal" or f"layer{last}" in named


@pytest.mark.parametrize("rule", RULES, ids=rule_id)
def test_golden(rule: type[Rule], golden: Callable[[str, str], None]) -> None:
    graph = parse(rule.example)
    before = to_text(graph)
    ApplyRules([rule]).run(graph)
    golden(f"rules/{rule_id(rule)}", f"# {rule.name}\n{before}-- after --\n{to_text(graph)}")


@pytest.mark.parametrize("rule", RULES, ids=rule_id)
def test_rule_is_described(rule: type[Rule]) -> None:
    assert "=>" in rule.name
    assert rule.label
    assert rule.stage in ("simplify", "recognise", "recurrent")
    assert rule.roots
    assert set(rule.roots) <= set(OPS), set(rule.roots) - set(OPS)


def test_labels_are_few_enough_to_read() -> None:
    assert len({rule.label for rule in RULES}) <= 30
