"""Other runtimes that an engine is compared with: ONNX Runtime, TensorFlow, numpy and so on.

They are optional packages, imported when asked for.
"""

from __future__ import annotations

import importlib
import os
import types
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from planish.config import BuildConfig
from planish.errors import ConfigError
from planish.importers.importer import read_model
from planish.ops.interpreter import run_graph

Array = np.ndarray[Any, Any]
Runner = Callable[[Mapping[str, Array]], dict[str, Array]]

# Threads that spin while idle take the cores from the runtimes they are compared with.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def make_peer(name: str, model: Path, config: BuildConfig) -> Runner:
    """Return a function that runs `model` in another runtime.

    Parameters
    ----------
    name : str
        "onnxruntime", "openvino", "openvino:bf16" (its hint for lower precision), "tensorflow"
        (for a SavedModel) or "reference".
    model : path
        The model.
    config : BuildConfig
        Threads that the runtime may use, profiles that the numpy reference needs to read a model
        with symbolic shapes, and which part of a SavedModel it is.

    Raises
    ------
    ConfigError
        When the runtime is unknown, not installed, or refuses the model.
    """
    kind, _, precision = name.partition(":")
    if kind == "onnxruntime" and not precision:
        return _onnxruntime(model, config.thread_count)
    if kind == "openvino" and precision in ("", "bf16", "f32"):
        return _openvino(model, config.thread_count, precision or "f32")
    if kind == "tensorflow" and not precision:
        return _tensorflow(model, config)
    if kind == "reference" and not precision:
        return _reference(model, config)
    raise ConfigError(
        f"unknown runtime {name!r}",
        where="--against",
        fix="use onnxruntime, openvino, openvino:bf16, tensorflow or reference",
    )


def optional_module(name: str) -> types.ModuleType:
    """Import an optional package; raise ConfigError with the command that installs it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(f"{name} is not installed", fix=f"pip install {name}") from error


def _onnxruntime(model: Path, threads: int) -> Runner:
    runtime = optional_module("onnxruntime")
    state = importlib.import_module("onnxruntime.capi.onnxruntime_pybind11_state")
    failures = tuple(each for each in vars(state).values()
                     if isinstance(each, type) and issubclass(each, Exception))  # fmt: skip
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0" if threads > 1 else "1")
    try:
        session = runtime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    except failures as error:
        raise _refused("ONNX Runtime", model, error) from error
    names = [output.name for output in session.get_outputs()]

    def run(arrays: Mapping[str, Array]) -> dict[str, Array]:
        try:
            return dict(zip(names, session.run(names, dict(arrays)), strict=True))
        except failures as error:
            raise _refused("ONNX Runtime", model, error) from error

    return run


def _openvino(model: Path, threads: int, precision: str) -> Runner:
    openvino = optional_module("openvino")
    properties = {
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": precision,
    }
    try:
        compiled = openvino.Core().compile_model(str(model), "CPU", properties)
    except RuntimeError as error:
        raise _refused("OpenVINO", model, error) from error
    request = compiled.create_infer_request()
    names = [port.get_any_name() for port in compiled.outputs]

    def run(arrays: Mapping[str, Array]) -> dict[str, Array]:
        try:
            results = request.infer(dict(arrays), share_inputs=True, share_outputs=True)
        except RuntimeError as error:
            raise _refused("OpenVINO", model, error) from error
        return {name: results[index] for index, name in enumerate(names)}

    return run


def _tensorflow(model: Path, config: BuildConfig) -> Runner:
    if not model.is_dir():
        raise ConfigError(
            "TensorFlow runs SavedModel folders only", where=str(model), fix="--against reference"
        )
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    tensorflow = optional_module("tensorflow")
    # more threads than it started with are an error; that is how a second peer finds it
    with suppress(RuntimeError):
        tensorflow.config.threading.set_intra_op_parallelism_threads(config.thread_count)
        tensorflow.config.threading.set_inter_op_parallelism_threads(1)
    try:
        loaded = tensorflow.saved_model.load(str(model), tags=config.tags)
        run_signature = loaded.signatures[config.signature or "serving_default"]
    except (ValueError, KeyError, AttributeError, OSError) as error:
        raise _refused("TensorFlow", model, error) from error

    def run(arrays: Mapping[str, Array]) -> dict[str, Array]:
        fed = {name: tensorflow.constant(array) for name, array in arrays.items()}
        return {name: tensor.numpy() for name, tensor in run_signature(**fed).items()}

    run.keep = loaded  # type: ignore[attr-defined]  # its variables die with it
    return run


def _reference(model: Path, config: BuildConfig) -> Runner:
    graph = read_model(model, config.profiles, config.signature, config.tags)

    def run(arrays: Mapping[str, Array]) -> dict[str, Array]:
        results = run_graph(graph, [arrays[name] for name in graph.input_names])
        return dict(zip(graph.output_names, results, strict=True))

    return run


def _refused(runtime: str, model: Path, error: Exception) -> ConfigError:
    reason = str(error).strip().splitlines()
    return ConfigError(
        f"{runtime} cannot run the model: {reason[0] if reason else type(error).__name__}",
        where=str(model),
        fix="compare with another runtime: --against reference",
    )
