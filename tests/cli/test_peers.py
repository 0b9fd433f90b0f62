from __future__ import annotations

import builtins
import importlib
from typing import Any

import numpy as np
import pytest

from planish.cli.peers import make_peer, optional_module
from planish.config import BuildConfig
from planish.errors import ConfigError
from tests.conftest import DIGITS

ONE_THREAD = BuildConfig(threads=1)
X = {"image": np.random.default_rng(0).standard_normal((2, 1, 8, 8)).astype(np.float32)}


@pytest.mark.parametrize("name", ["onnxruntime", "openvino", "openvino:bf16"])
def test_peers_agree_with_the_reference(name: str) -> None:
    pytest.importorskip(name.partition(":")[0])
    want = make_peer("reference", DIGITS, ONE_THREAD)(X)["scores"]
    got = make_peer(name, DIGITS, ONE_THREAD)(X)["scores"]
    assert np.abs(got - want).max() < (0.1 if name.endswith("bf16") else 1e-3)


@pytest.mark.parametrize(
    "name", ["tensorrt", "onnxruntime:bf16", "openvino:int3", "", "reference:1"]
)
def test_unknown_peers(name: str) -> None:
    with pytest.raises(ConfigError, match="unknown runtime"):
        make_peer(name, DIGITS, ONE_THREAD)


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_what_a_peer_refuses_is_an_error_of_ours(name: str, tmp_path: Any) -> None:
    pytest.importorskip(name)
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    with pytest.raises(ConfigError, match="cannot run the model"):
        make_peer(name, tmp_path / "bad.onnx", ONE_THREAD)
    peer = make_peer(name, DIGITS, ONE_THREAD)
    with pytest.raises(ConfigError, match="cannot run the model"):
        peer({"image": np.zeros((2, 3), np.float32)})


def test_missing_package_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str, *_: Any) -> None:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(ConfigError, match="pip install openvino"):
        optional_module("openvino")
    assert builtins.__import__ is not absent
