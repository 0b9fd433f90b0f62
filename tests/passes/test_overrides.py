from __future__ import annotations

import pytest

from planish.errors import ConfigError
from planish.importers.importer import read_model
from planish.passes.overrides import check_overrides, wanted_precision
from tests import small_models


def test_the_last_matching_pattern_counts() -> None:
    graph = read_model(small_models.convolutions(), profiles={})
    stem = next(node for node in graph if "stem" in node.source.names)
    assert wanted_precision(stem, {}) is None
    assert wanted_precision(stem, {"block": "fp32"}) is None
    assert wanted_precision(stem, {"*": "int8", "st?m": "fp32"}) == "fp32"
    assert wanted_precision(stem, {"c1": "bf16"}) == "bf16"  # its output


def test_patterns_that_match_nothing_are_refused() -> None:
    graph = read_model(small_models.convolutions(), profiles={})
    check_overrides(graph, {"stem": "fp32", "b*": "int8"})
    with pytest.raises(ConfigError, match="'blocck'") as caught:
        check_overrides(graph, {"stem": "fp32", "blocck": "fp32"})
    assert "did you mean 'block'" in str(caught.value)
    with pytest.raises(ConfigError, match="names are like"):
        check_overrides(graph, {"zzzzzz": "fp32"})
