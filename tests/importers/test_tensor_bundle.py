from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from planish.errors import ModelError
from planish.importers.tensor_bundle import TensorBundle, _signed, parse_slice
from tests.importers.saved_model_samples import FOLDER

BUNDLES = sorted(FOLDER.glob("*/*/variables/variables.index"))
SHARED = Path(__file__).parents[3] / "shared" / "models"
BUNDLES += sorted(SHARED.glob("*/*/variables/variables.index"))
OLD = FOLDER / "tf213" / "old_style" / "variables" / "variables"


def open_bundle(index: Path) -> TensorBundle:
    return TensorBundle(index.with_suffix(""))


@pytest.mark.parametrize("index", BUNDLES, ids=lambda path: str(path.parents[1].name))
def test_every_tensor_is_what_tensorflow_reads(index: Path) -> None:
    tensorflow = pytest.importorskip("tensorflow")
    bundle = open_bundle(index)
    reader = tensorflow.train.load_checkpoint(str(index.with_suffix("")))
    assert bundle.keys == sorted(reader.get_variable_to_shape_map())
    for key in bundle.keys:
        want, got = reader.get_tensor(key), bundle.read(key)
        if got.dtype == object:
            texts = [want] if isinstance(want, bytes) else np.ravel(want).tolist()
            assert got.ravel().tolist() == texts
            continue
        assert got.dtype == np.asarray(want).dtype
        assert got.shape == np.shape(want)
        assert got.tobytes() == np.asarray(want).tobytes()


def test_a_partitioned_variable_is_put_together() -> None:
    bundle = TensorBundle(OLD)
    whole = bundle.read("w")
    assert whole.shape == (4, 3)
    part = bundle.read_slice("w", ((2, 2), (0, -1)))
    np.testing.assert_array_equal(part, whole[2:])
    with pytest.raises(ModelError, match="reaches to"):
        bundle.read_slice("w", ((3, 2), (0, -1)))


def test_whole_variables_are_views_of_the_file() -> None:
    array = TensorBundle(OLD).read("b")
    owner: Any = array
    while isinstance(owner, np.ndarray) and not isinstance(owner, np.memmap):
        owner = owner.base
    assert owner is not None
    assert not array.flags.writeable


def test_slices_as_restore_operations_write_them() -> None:
    assert parse_slice("", "node") is None
    assert parse_slice("4 10 0,2:-", "node") == ((0, 2), (0, -1))
    with pytest.raises(ModelError, match="cannot read the slice"):
        parse_slice("4 10 0,x:-", "node")


def test_the_order_preserving_code_of_numbers() -> None:
    # from TensorFlow's ordered_code_test.cc: -1, 0, 63, 64, -64, -65
    want = ["7f", "80", "bf", "c040", "40", "3fbf"]
    assert [_signed(value).hex() for value in (-1, 0, 63, 64, -64, -65)] == want


def test_a_tensor_past_the_end_of_its_file(tmp_path: Path) -> None:
    shutil.copytree(OLD.parent, tmp_path / "variables")
    data = tmp_path / "variables" / "variables.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:1])
    with pytest.raises(ModelError, match=r"reaches to byte \d+ of a file of 1"):
        TensorBundle(tmp_path / "variables" / "variables").read("b")
    data.write_bytes(b"")
    with pytest.raises(ModelError, match="of a file of 0"):
        TensorBundle(tmp_path / "variables" / "variables").read("b")


def test_unknown_tensors_and_missing_files(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no tensor 'nothing'"):
        TensorBundle(OLD).read("nothing")
    with pytest.raises(ModelError, match="cannot be read"):
        TensorBundle(tmp_path / "variables")
