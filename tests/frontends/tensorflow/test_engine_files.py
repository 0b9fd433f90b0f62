import struct

import numpy as np
import pytest

from planish.errors import EngineFileError
from planish.frontends.tensorflow.engine_files import EngineRecord, read_records, write_records

RECORDS = [
    EngineRecord(b"engine one" * 50, ((1, 224, 224, 3), ()), "TRTEngineOp_000_000:abc"),
    EngineRecord(b"", ((2, 0),), ""),
]


def test_records_come_back(tmp_path):
    path = tmp_path / "engines"
    write_records(path, RECORDS)
    found = read_records(path)
    assert [(bytes(r.data), r.shapes, r.resource) for r in found] == [
        (r.data, r.shapes, r.resource) for r in RECORDS
    ]


def test_no_records_make_an_empty_file(tmp_path):
    write_records(tmp_path / "engines", [])
    assert (tmp_path / "engines").read_bytes() == b""
    assert read_records(tmp_path / "engines") == []


def test_same_records_give_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        write_records(tmp_path / name, RECORDS)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_data_is_a_view_of_the_file(tmp_path):
    write_records(tmp_path / "engines", RECORDS)
    data = read_records(tmp_path / "engines")[0].data
    assert not np.frombuffer(data, np.uint8).flags.writeable


def test_unknown_fields_are_skipped(tmp_path):
    path = tmp_path / "engines"
    write_records(path, [EngineRecord(b"x", ((1,),), "")])
    tensorflow = pytest.importorskip("tensorflow")
    (message,) = [bytes(r.numpy()) for r in tensorflow.data.TFRecordDataset(str(path))]
    # fields 3 (number), 4 (8 bytes), 5 (text), 6 (4 bytes)
    extra = b"\x18\x96\x01" + b"\x21" + bytes(8) + b"\x2a\x02hi" + b"\x35" + bytes(4)
    with tensorflow.io.TFRecordWriter(str(path)) as writer:
        writer.write(extra + message)
    (record,) = read_records(path)
    assert (bytes(record.data), record.shapes) == (b"x", ((1,),))


def test_tensorflow_reads_the_records_and_their_shapes(tmp_path):
    tensorflow = pytest.importorskip("tensorflow")
    path = tmp_path / "engines"
    write_records(path, RECORDS)
    messages = [bytes(r.numpy()) for r in tensorflow.data.TFRecordDataset(str(path))]
    assert len(messages) == 2
    shape = tensorflow.TensorShape([1, 224, 224, 3]).as_proto().SerializeToString()
    assert messages[0].startswith(b"\x0a" + bytes([len(shape)]) + shape)


def test_missing_file_is_an_error(tmp_path):
    with pytest.raises(EngineFileError, match="cannot read the engines"):
        read_records(tmp_path / "nothing")


def test_folder_that_does_not_exist_is_an_error(tmp_path):
    with pytest.raises(EngineFileError, match="cannot write the engines"):
        write_records(tmp_path / "no" / "engines", RECORDS)


def test_every_damaged_byte_is_found(tmp_path):
    path = tmp_path / "engines"
    write_records(path, [EngineRecord(b"plan", ((3,),), "r")])
    whole = path.read_bytes()
    for position in range(len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 4]) + whole[position + 1 :])
        with pytest.raises(EngineFileError, match="damaged"):
            read_records(path)


def test_every_cut_is_found(tmp_path):
    path = tmp_path / "engines"
    write_records(path, [EngineRecord(b"plan", ((3,),), "r")])
    whole = path.read_bytes()
    for length in range(1, len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(EngineFileError, match="cut off"):
            read_records(path)


@pytest.mark.parametrize("message", [b"\x12\xff\xff", b"\x80" * 12, b"\x13", b"\x0a\x05\x12\x7f"])
def test_other_messages_are_refused(tmp_path, message):
    from planish.frontends.tensorflow.engine_files import _framed

    path = tmp_path / "engines"
    path.write_bytes(b"".join(_framed(message)))
    with pytest.raises(EngineFileError, match="no TRTEngineInstance"):
        read_records(path)


def test_length_beyond_the_file_is_refused(tmp_path):
    from planish.frontends.tensorflow.engine_files import _masked
    from planish.importers.crc32c import crc32c

    length = struct.pack("<Q", 1 << 60)
    path = tmp_path / "engines"
    path.write_bytes(length + struct.pack("<I", _masked(crc32c(length))) + bytes(100))
    with pytest.raises(EngineFileError, match="cut off"):
        read_records(path)
