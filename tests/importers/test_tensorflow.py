"""SavedModels and GraphDefs of several TensorFlows, read without TensorFlow."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from planish.config import BuildConfig
from planish.errors import ConfigError, ModelError, PlanishError, UnsupportedTypeError
from planish.importers.importer import read_model
from planish.importers.tensorflow import read_graph_def, read_saved_model
from planish.importers.tensorflow_graph import TfGraph, TfTable
from planish.importers.tensorflow_messages import new, parse
from tests.importers.saved_model_samples import (
    FOLDER,
    RECORDED,
    arrays_of,
    check,
    label,
    model_of,
    run,
)

AFFINE, COUNTER = FOLDER / "tf213" / "affine", FOLDER / "tf221" / "counter"
TAGS, TABLES = FOLDER / "tf221" / "two_tag_sets", FOLDER / "tf215" / "tables"
ROUNDS = 60  # damaged copies of each file


def signature_of(model: Path) -> str | None:
    return "quiet" if model.name in ("counter", "mutable") else None


def ops(graph: TfGraph) -> set[str]:
    return {node.op for body in (graph, *graph.functions.values()) for node in body.nodes}


@pytest.mark.parametrize("recorded", RECORDED, ids=label)
def test_a_model_computes_what_tensorflow_computed(recorded: Path) -> None:
    inputs, outputs = arrays_of(recorded)
    model = model_of(recorded)
    got = run(model, inputs, signature_of(model))
    check(got, outputs)


@pytest.mark.parametrize("recorded", RECORDED, ids=label)
def test_graphs_are_frozen_and_ordered(recorded: Path) -> None:
    model = model_of(recorded)
    if model.is_dir():
        graph = read_saved_model(model, signature_of(model))
    else:
        graph = read_graph_def(model)
    assert not ops(graph) & {
        "PartitionedCall", "StatefulPartitionedCall", "VarHandleOp", "VariableV2", "ReadVariableOp",
        "Enter", "Exit", "Merge", "Switch", "_SwitchN", "HashTableV2",
    }  # fmt: skip
    for body in (graph, *graph.functions.values()):
        seen: set[str] = set()
        for node in body.nodes:
            assert node.name not in seen
            assert {ref.node for ref in node.inputs} <= seen
            seen.add(node.name)
        assert {output.ref.node for output in body.outputs} <= seen
        assert [body.by_name[i.name].op for i in body.inputs] == ["Placeholder"] * len(body.inputs)


def test_inputs_and_outputs_have_the_names_of_the_signature() -> None:
    graph = read_saved_model(AFFINE)
    assert [(i.name, i.dtype, i.shape) for i in graph.inputs] == [
        ("alpha", np.float32, ()),
        ("x", np.float32, (None, 4)),
    ]
    assert graph.inputs[1].source == "serving_default_x:0"
    assert [o.name for o in graph.outputs] == ["a", "indices", "last", "values", "z"]
    assert graph.outputs[-1].shape == (None, 3)


def test_attributes_left_out_by_the_model_have_their_defaults() -> None:
    matmul = next(n for n in read_saved_model(AFFINE).nodes if n.op == "MatMul")
    assert matmul.attributes["transpose_a"] is False
    assert matmul.attributes["T"] == np.float32


def test_loops_take_variables_as_constants() -> None:
    graph = read_saved_model(FOLDER / "tf215" / "control")
    loop = next(n for n in graph.nodes if n.op in ("While", "StatelessWhile"))
    body = graph.functions[loop.attributes["body"].name]
    assert len(loop.inputs) == len(body.inputs) == len(body.outputs)
    assert {i.dtype for i in body.inputs} <= {np.dtype(np.int32), np.dtype(np.float32)}
    shapes = [n.attributes["value"].shape for n in body.nodes if n.op == "Const"]
    assert (3, 3) in shapes
    assert (3,) in shapes


def test_tables_are_kept_as_arrays() -> None:
    graph = read_saved_model(TABLES)
    tables = {n.name: n.attributes["table"] for n in graph.nodes if n.op == "LookupTableFindV2"}
    assert all(isinstance(table, TfTable) for table in tables.values())
    found = sorted((t.keys.tolist(), t.values.tolist()) for t in tables.values())
    assert found == [([3, 1, 7], [0.5, 1.5, 2.5]), ([10, 20, 30], [4, 5, 6])]


def test_a_table_follows_the_folder(tmp_path: Path) -> None:
    copy = tmp_path / "moved"
    shutil.copytree(TABLES, copy)
    (copy / "assets" / "numbers.txt").write_text("10\t-1\n20\tx\n")
    with pytest.raises(ModelError, match="not numbers"):
        read_saved_model(copy)
    (copy / "assets" / "numbers.txt").unlink()
    with pytest.raises(ModelError, match=r"lookup table cannot be read"):
        read_saved_model(copy)


def test_variables_in_shards_and_slices() -> None:
    whole = [n for n in read_saved_model(FOLDER / "tf221" / "sharded").nodes if n.op == "Const"]
    weights = next(n.attributes["value"] for n in whole if n.attributes["value"].shape == (4, 3))
    assert not weights.flags.writeable
    assert len(set(weights.ravel().tolist())) == 12


def test_a_changed_variable_is_refused_only_where_outputs_depend_on_it() -> None:
    (note,) = read_saved_model(COUNTER, "quiet").notes
    assert note == "AssignAddVariableOp (AssignAddVariableOp) was dropped: no output needs it"
    with pytest.raises(UnsupportedTypeError, match=r"changes variables .*AssignAddVariableOp"):
        read_saved_model(COUNTER, "loud")
    with pytest.raises(UnsupportedTypeError, match=r"a table .*LookupTableInsertV2"):
        read_saved_model(COUNTER.with_name("mutable"), "loud")


def test_a_signature_has_to_be_chosen_among_several() -> None:
    with pytest.raises(ConfigError, match="loud, quiet"):
        read_saved_model(COUNTER)
    with pytest.raises(ConfigError, match="did you mean 'quiet'"):
        read_model(COUNTER, None, "quite")


def test_tag_sets() -> None:
    first = read_saved_model(TAGS)
    second = read_saved_model(TAGS, tags=("gpu", "train"))
    added = [
        float(n.attributes["value"]) for n in second.nodes
        if n.op == "Const" and n.attributes["value"] == 1.0
    ]  # fmt: skip
    assert added == [1.0]
    assert len(first.nodes) == len(second.nodes)
    with pytest.raises(ConfigError, match=r"serve; gpu,train"):
        read_saved_model(TAGS, tags=("train",))
    with pytest.raises(ConfigError, match="expected a tuple"):
        BuildConfig(tags="serve")  # type: ignore[arg-type]


def test_composite_signatures_are_refused() -> None:
    with pytest.raises(UnsupportedTypeError, match="ragged"):
        read_saved_model(FOLDER / "tf221" / "composite")


def test_frozen_graphs_take_given_inputs_and_outputs() -> None:
    path = FOLDER / "tf221" / "old_frozen.pb"
    whole = read_graph_def(path)
    assert [i.name for i in whole.inputs] == ["x"]
    assert sorted(o.name for o in whole.outputs) == ["branch", "double", "single"]
    part = read_graph_def(path.read_bytes(), outputs=["single:0"])
    assert [o.name for o in part.outputs] == ["single"]
    assert len(part.nodes) < len(whole.nodes)
    fed = read_graph_def(path, inputs=["MatMul:0"], outputs=["branch"])
    assert [i.name for i in fed.inputs] == ["MatMul"]
    assert "MatMul" not in ops(fed)
    with pytest.raises(ConfigError, match="did you mean 'MatMul'"):
        read_graph_def(path, inputs=["Matmul"])


def test_an_unfrozen_graph_says_so() -> None:
    proto = new("GraphDef")
    variable = proto.node.add(name="w", op="VariableV2")
    variable.attr["dtype"].type = 1
    proto.node.add(name="y", op="Identity", input=["w"])
    with pytest.raises(ModelError, match="has a variable"):
        read_graph_def(proto.SerializeToString())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: (p / "variables" / "variables.data-00000-of-00001").unlink(), "data-00000"),
        (lambda p: (p / "variables" / "variables.index").unlink(), "variables.index is missing"),
        (lambda p: shutil.rmtree(p / "variables"), "variables.index is missing"),
        (lambda p: (p / "saved_model.pb").write_bytes(b""), "no graph"),
        (lambda p: (p / "saved_model.pb").write_bytes(b"\x0a\xff"), "not a SavedModel"),
        (lambda p: (p / "saved_model.pb").rename(p / "saved_model.pbtxt"), "pbtxt"),
    ],
)
def test_missing_and_damaged_files(make, message: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    copy = tmp_path / "model"
    shutil.copytree(AFFINE, copy)
    make(copy)
    with pytest.raises(ModelError, match=message):
        read_model(copy)


def test_a_flipped_bit_in_a_weight_is_found(tmp_path: Path) -> None:
    copy = tmp_path / "model"
    shutil.copytree(AFFINE, copy)
    data = copy / "variables" / "variables.data-00000-of-00001"
    changed = bytearray(data.read_bytes())
    changed[3] ^= 1
    data.write_bytes(changed)
    with pytest.raises(ModelError, match=r"checksum .*does not match") as caught:
        read_model(copy)
    assert "variables.index" in str(caught.value.where)


@pytest.mark.parametrize("sample", ["tf213/affine", "tf213/old_style", "tf215/tables"])
def test_damaged_models_end_in_an_error_of_ours(sample: str, tmp_path: Path) -> None:
    generator = random.Random(sample)
    copy = tmp_path / "model"
    shutil.copytree(FOLDER / sample, copy)
    refused = 0
    for path in sorted(p for p in copy.rglob("*") if p.is_file()):
        data = path.read_bytes()
        for _ in range(ROUNDS):
            path.write_bytes(damaged(data, generator))
            try:
                read_saved_model(copy)
            except PlanishError:
                refused += 1
        path.write_bytes(data)
    assert refused > ROUNDS


@pytest.mark.parametrize("sample", ["tf213/frozen.pb", "tf221/old_frozen.pb"])
def test_graphs_with_changed_references_end_in_an_error_of_ours(sample: str) -> None:
    generator = random.Random(sample)
    data = (FOLDER / sample).read_bytes()
    refused = 0
    for _ in range(2 * ROUNDS):
        proto = parse("GraphDef", data, sample)
        for _ in range(generator.choice([1, 3])):
            node, other = generator.choice(proto.node), generator.choice(proto.node)
            change = generator.randrange(4)
            if change == 0:
                node.op = other.op
            elif change == 1 and node.input:
                node.input[0] = generator.choice([other.name, f"^{other.name}", f"{other.name}:7"])
            elif change == 2 and node.input:
                del node.input[-1]
            elif node.attr:
                del node.attr[sorted(node.attr)[0]]
        try:
            read_graph_def(proto.SerializeToString())
        except PlanishError:
            refused += 1
    assert refused > ROUNDS // 4


def damaged(data: bytes, generator: random.Random) -> bytes:
    if not data or generator.random() < 0.15:
        return data[: generator.randrange(len(data) + 1)]
    changed = bytearray(data)
    for _ in range(generator.choice([1, 1, 2, 4])):
        changed[generator.randrange(len(changed))] ^= 1 << generator.randrange(8)
    return bytes(changed)


def test_calls_give_functions_their_attributes() -> None:
    proto = new("GraphDef")
    function = proto.library.function.add()
    function.signature.name = "convert"
    function.signature.input_arg.add(name="x", type=1)
    function.signature.output_arg.add(name="y", type_attr="To")
    cast = function.node_def.add(name="cast", op="Cast", input=["x"])
    cast.attr["SrcT"].type = 1
    cast.attr["DstT"].placeholder = "To"
    function.ret["y"] = "cast:y:0"
    x = proto.node.add(name="x", op="Placeholder")
    x.attr["dtype"].type = 1
    for name, number in (("a", 3), ("b", 9)):
        call = proto.node.add(name=name, op="PartitionedCall", input=["x"])
        call.attr["f"].func.name = "convert"
        call.attr["f"].func.attr["To"].type = number
    old = proto.node.add(name="c", op="convert", input=["x"])  # a call by the function's name
    old.attr["To"].type = 2
    graph = read_graph_def(proto.SerializeToString())
    kinds = {o.name: graph.by_name[o.ref.node].attributes["DstT"] for o in graph.outputs}
    assert kinds == {"a": np.int32, "b": np.int64, "c": np.float64}


def test_functions_that_call_each_other_end() -> None:
    proto = new("GraphDef")
    function = proto.library.function.add()
    function.signature.name = "f"
    function.signature.output_arg.add(name="y", type=1)
    node = function.node_def.add(name="again", op="PartitionedCall")
    node.attr["f"].func.name = "f"
    function.ret["y"] = "again:output:0"
    call = proto.node.add(name="call", op="PartitionedCall")
    call.attr["f"].func.name = "f"
    with pytest.raises(ModelError, match="without end"):
        read_graph_def(proto.SerializeToString())


def test_a_huge_constant_is_refused() -> None:
    proto = new("GraphDef")
    node = proto.node.add(name="c", op="Const")
    tensor = node.attr["value"].tensor
    tensor.dtype = 1
    tensor.tensor_shape.dim.add(size=1 << 40)
    tensor.float_val.append(1.0)
    proto.node.add(name="y", op="Identity", input=["c"])
    with pytest.raises(ModelError, match="larger than 2 GB"):
        read_graph_def(proto.SerializeToString())


def test_the_file_inside_the_folder_means_the_folder(tmp_path: Path) -> None:
    assert read_model(AFFINE / "saved_model.pb").input_names == ["alpha", "x"]
    shutil.copytree(AFFINE, tmp_path / "1")
    with pytest.raises(ModelError, match=r"did you mean .*1\?"):
        read_model(tmp_path)
    with pytest.raises(ConfigError, match="only SavedModel folders"):
        read_model(FOLDER / "tf213" / "frozen.pb", signature="x")


def test_reading_imports_no_tensorflow() -> None:
    program = (
        "import sys; from planish.importers.importer import read_model; "
        f"read_model({str(AFFINE)!r}); "
        "assert not {'tensorflow', 'keras', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
