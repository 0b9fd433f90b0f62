from __future__ import annotations

import numpy as np
from tests import small_models

from planish.config import BuildConfig
from planish.importers.importer import read_model
from planish.ir.clone import clone_graph
from planish.ir.text import parse_text, to_text
from planish.ir.verify import verify
from planish.passes.pipeline import optimize


def test_a_copy_is_equal_and_stands_alone() -> None:
    graph = read_model(small_models.convolutions(), profiles={})
    text = to_text(graph)
    copy = clone_graph(graph)
    verify(copy)
    assert to_text(copy) == text
    mine = {id(value) for node in graph for value in (*node.present_inputs, *node.outputs)}
    assert not any(id(value) in mine for node in copy for value in node.outputs)
    optimize(copy, BuildConfig())
    assert to_text(graph) == text
    verify(graph)


def test_constants_share_their_memory() -> None:
    graph = read_model(small_models.convolutions(), profiles={})
    for mine, other in zip(graph.constants(), clone_graph(graph).constants(), strict=True):
        assert np.shares_memory(mine.array, other.array)


def test_subgraphs_read_the_copies_of_outer_values() -> None:
    graph = parse_text("""
        graph g(%x: f32[3], %c: bool[]) {
          %1: f32[3] = Relu(%x)
          %2: f32[3] = If(%c) {
            then_branch=graph t() {
              %3: f32[3] = Neg(%1)
              return %3
            },
            else_branch=graph e() {
              return %1
            }
          }
          return %2
        }""")
    copy = clone_graph(graph)
    verify(copy)
    assert to_text(copy) == to_text(graph)
    relu, branch = list(copy)
    assert branch.attributes["else_branch"].outputs == [relu.output]
