from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from planish.config import BuildConfig, Profile
from planish.errors import PlanError
from planish.importers.importer import read_model
from planish.ir.graph import Graph
from planish.ir.shape import evaluate
from planish.ops.interpreter import run_graph
from planish.passes.assign_layouts import AssignLayouts
from planish.passes.assign_storage import AssignStorage
from planish.passes.fuse_regions import FuseRegions
from planish.passes.graph_pass import run_pipeline
from planish.passes.pipeline import optimize
from planish.plan.plan import Binding, Plan
from planish.plan.schedule import make_plan
from planish.plan.serialize import plan_from_json, plan_to_json, plan_to_text
from planish.tactics.region import regions_of
from planish.tactics.tactic import Choice, Kernel
from tests.conftest import Golden
from tests.passes.checks import parse, random_inputs
from tests.passes.placed_graphs import GRAPHS
from tests.plan.simulator import assert_simulation, simulated_choices

MODELS = Path("/work/shared/models")


def placed(name: str) -> Graph:
    graph = parse(GRAPHS[name])
    run_pipeline(graph, [FuseRegions(), AssignLayouts(), AssignStorage()])
    return graph


def plan_of(name: str) -> Plan:
    graph = placed(name)
    return make_plan(graph, simulated_choices(graph))


@pytest.mark.parametrize(
    "name",
    ["concat_of_convs_vanishes", "attention_heads_are_views", "branches_write_the_result"],
)
def test_plan_text(name: str, golden: Golden) -> None:
    golden(f"plan/{name}", plan_to_text(plan_of(name)))


@pytest.mark.parametrize("name", GRAPHS)
def test_plans_survive_json(name: str) -> None:
    plan = plan_of(name)
    assert plan_from_json(plan_to_json(plan)) == plan
    assert plan_to_json(plan) == plan_to_json(plan_of(name))  # deterministic


def test_pointwise_regions_work_in_place() -> None:
    plan = plan_of("in_place_chains")
    one = 8 * 16 * 4
    assert plan.memory.sum_of_tensors > 4 * one
    assert plan.memory.largest_live_set < 2 * one
    assert plan.arena_bytes < 2 * one


def test_arena_stays_near_the_bound() -> None:
    for name in GRAPHS:
        memory = plan_of(name).memory
        assert memory.arena <= 1.2 * memory.largest_live_set + 64


def test_halos_are_zeroed_by_the_first_writer_only() -> None:
    plan = plan_of("concat_of_convs_vanishes")
    fills = [(step.name, len(step.fills)) for step in plan.steps]
    assert [count for _, count in fills] == [1, 1, 0, 0, 0]
    fill = plan.steps[1].fills[0]
    assert [evaluate(size, {}) for size in fill.sizes] == [2, 7, 7, 14]
    assert fill.halo == ((0, 0), (1, 1), (1, 1), (0, 0))


def test_branches_are_guarded_by_their_condition() -> None:
    plan = plan_of("nested_branches")
    guards = [[value for _, value in step.guard] for step in plan.steps]
    assert sorted(guards) == [[], [False], [True], [True, False], [True, True]]


def test_weights_and_functions_are_shared() -> None:
    graph = placed("residual_shares_the_halo")
    source = (
        "static void @NAME@(char *const *p, const int64_t *d, int64_t b, int64_t e, char *s) {}"
    )
    choices = {
        node: Choice(choice.region, "test", {"m": 2}, Kernel(source, 4, (), 100), constants=(64,))
        for node, choice in simulated_choices(graph).items()
    }
    plan = make_plan(graph, choices, 128)
    assert len({step.function for step in plan.steps}) == 1
    assert plan.steps[0].function == plan.steps[0].name
    assert all(step.bindings[-1] == Binding("weights", 0, 64) for step in plan.steps)
    assert plan.memory.weights == 128
    assert plan.scratch_bytes == 100
    assert len({step.name for step in plan.steps}) == len(plan.steps)
    assert plan.layers[plan.steps[0].name]["config"] == {"m": 2}


def test_a_region_without_a_kernel_is_named() -> None:
    graph = placed("in_place_chains")
    choices = simulated_choices(graph)
    del choices[regions_of(graph)[1]]
    with pytest.raises(PlanError, match="no kernel"):
        make_plan(graph, choices)


REAL = [
    ("cifar10_resnet/resnet20.onnx", None),
    ("fastestdet/FastestDet.onnx", None),
    ("tf2onnx/pretrainedResnet.onnx", None),
    ("tf2onnx/kws_ref_model_float32.onnx", None),
    ("ultraface/version-RFB-320.onnx", None),
    ("yunet/yunet_n_320_320.onnx", None),
    ("mnist/mnist-8.onnx", None),
    ("hand_gesture/point_history_classifier_lstm.onnx", None),
    (
        "silero_vad/silero_vad_op18_ifless.onnx",
        {
            "input": Profile((1, 576), (1, 576), (1, 576)),
            "state": Profile((2, 1, 128), (2, 1, 128), (2, 1, 128)),
        },
    ),
]


@pytest.mark.skipif(not MODELS.exists(), reason="the shared models are not here")
@pytest.mark.parametrize(("path", "profiles"), REAL, ids=[path for path, _ in REAL])
def test_real_models_in_the_simulated_arena(path: str, profiles: dict[str, Profile] | None) -> None:
    graph = read_model(MODELS / path, profiles=profiles or {})
    inputs = random_inputs(graph)
    if "sr" in graph.input_names:
        inputs[graph.input_names.index("sr")] = np.array(16000, np.int64)
    expected = run_graph(graph, inputs)
    optimize(graph, BuildConfig(profiles=profiles or {}))
    plan = assert_simulation(graph, inputs, expected, tolerance=1e-4)
    assert plan.memory.arena <= 1.2 * plan.memory.largest_live_set + 64
