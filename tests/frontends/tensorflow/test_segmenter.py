"""Segments: united from the outputs to the inputs, without cycles."""

from __future__ import annotations

import graphlib
import random

from planish.frontends.tensorflow.segmenter import SegmentNode, find_segments


def chain(*ops: str) -> list[SegmentNode]:
    return [SegmentNode(f"n{i}", op, (f"n{i - 1}",) if i else ()) for i, op in enumerate(ops)]


def test_a_node_outside_splits_a_chain():
    nodes = chain("In", "Mul", "Add", "Unique", "Relu", "Neg")
    assert find_segments(nodes, ["n1", "n2", "n4", "n5"], 2) == [["n1", "n2"], ["n4", "n5"]]


def test_a_path_through_a_node_outside_keeps_segments_apart():
    nodes = [
        SegmentNode("x", "In"),
        SegmentNode("a", "Mul", ("x",)),
        SegmentNode("u", "Unique", ("a",)),
        SegmentNode("b", "Add", ("a", "u")),
    ]
    assert find_segments(nodes, ["a", "b"], 1) == [["a"], ["b"]]


def test_a_control_edge_counts_as_a_path_but_joins_nothing():
    nodes = [
        SegmentNode("x", "In"),
        SegmentNode("a", "Mul", ("x",)),
        SegmentNode("u", "Unique", ("x",), ("a",)),
        SegmentNode("b", "Add", ("a", "u")),
        SegmentNode("c", "Relu", ("x",), ("b",)),
    ]
    assert find_segments(nodes, ["a", "b", "c"], 1) == [["a"], ["b"], ["c"]]


def test_branches_join_where_they_meet():
    nodes = [
        SegmentNode("x", "In"),
        SegmentNode("a", "Mul", ("x",)),
        SegmentNode("b", "Relu", ("x",)),
        SegmentNode("c", "Add", ("a", "b")),
    ]
    assert find_segments(nodes, ["a", "b", "c"], 3) == [["a", "b", "c"]]


def test_constants_count_and_belong_to_every_reader():
    nodes = [
        SegmentNode("x", "In"),
        SegmentNode("k", "Const"),
        SegmentNode("a", "Mul", ("x", "k")),
        SegmentNode("u", "Unique", ("a",)),
        SegmentNode("b", "Add", ("u", "k")),
    ]
    assert find_segments(nodes, ["k", "a", "b"], 2) == [["a"], ["b"]]
    assert find_segments(nodes, ["k", "a", "b"], 3) == []


def test_identities_do_not_make_a_segment_worth_an_engine():
    nodes = chain("In", "Identity", "Snapshot", "Relu")
    assert find_segments(nodes, ["n1", "n2", "n3"], 2) == []
    assert find_segments(nodes, ["n1", "n2", "n3"], 1) == [["n1", "n2", "n3"]]


def test_minus_one_converts_nothing():
    assert find_segments(chain("In", "Mul"), ["n1"], -1) == []


def test_the_largest_segments_are_kept():
    nodes = chain("In", "Mul", "Unique", "Mul", "Add", "Unique", "Relu")
    found = find_segments(nodes, ["n1", "n3", "n4", "n6"], 1, max_segments=1)
    assert found == [["n3", "n4"]]


def random_graph(seed: int) -> tuple[list[SegmentNode], list[str]]:
    rng = random.Random(seed)
    nodes = []
    for index in range(rng.randint(3, 60)):
        earlier = [f"n{i}" for i in range(index)]
        reads = tuple(rng.choices(earlier, k=rng.randint(0, 3))) if earlier else ()
        controls = tuple(rng.choices(earlier, k=rng.randint(0, 1))) if earlier else ()
        nodes.append(SegmentNode(f"n{index}", "Op", reads, controls))
    return nodes, [node.name for node in nodes if rng.random() < 0.7]


def test_no_cycles_in_random_graphs():
    for seed in range(200):
        nodes, candidates = random_graph(seed)
        segments = find_segments(nodes, candidates, 1)
        assert sorted(name for names in segments for name in names) == sorted(candidates)
        owner = {name: names[0] for names in segments for name in names}
        edges: dict[str, set[str]] = {}
        for node in nodes:
            target = owner.get(node.name, node.name)
            sources = {owner.get(s, s) for s in (*node.inputs, *node.control_inputs)}
            edges.setdefault(target, set()).update(sources - {target})
        list(graphlib.TopologicalSorter(edges).static_order())  # raises CycleError


def test_a_large_graph_takes_a_moment():
    nodes = chain(*["Relu"] * 5000)
    assert len(find_segments(nodes, [node.name for node in nodes], 3)) == 1
