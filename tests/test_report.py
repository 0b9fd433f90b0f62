from __future__ import annotations

import dataclasses
import json
import math

from planish.report import BuildReport, LayerReport, PassReport, fusion_lines
from planish.report_accuracy import AccuracyReport, KeptLayer, Trial
from planish.report_calibration import TensorReport
from planish.runtime.engine import Engine

LAYER = LayerReport(
    name="conv_1", layers="a<b> + c", operations="Conv -> Relu", shape="1x8x4x4", precision="f32",
    tactic="gemm_conv", config="{rows=4}", microseconds=12.5,
    alternatives=(("winograd{}", 20.0),), refusals=(("pool", "it does not do Conv"),),
)  # fmt: skip
REPORT = BuildReport(
    model="<model>.onnx", target={"device": "cpu", "threads": 1}, precision="fp32", stages=(),
    passes=(
        PassReport("fuse_regions", 12, 5, 0.1, {"Conv regions": 3}),
        PassReport("assign_storage", 5, 5, 0.1, {"views": 2}),
        PassReport("simplify", 3, 3, 0.1, {"views": 1}),
    ),
    layers=(LAYER,),
    memory={"arena": 150, "sum_of_tensors": 300, "largest_live_set": 100, "weights": 4000},
    warnings=("something",), nodes_imported=12, tuned="measure",
)  # fmt: skip


def test_round_trip() -> None:
    assert BuildReport.from_dict(REPORT.to_dict()) == REPORT
    assert BuildReport.from_dict(json.loads(REPORT.to_json())) == REPORT


def test_a_built_engine_s_report_round_trips(digits_engine: Engine) -> None:
    report = digits_engine.report
    assert BuildReport.from_dict(json.loads(report.to_json())) == report
    assert report.nodes_imported == 20
    assert [stage.name for stage in report.stages] == [
        "import", "passes", "tactics", "tune", "plan", "compile"
    ]  # fmt: skip


def test_fusions_are_summed() -> None:
    assert REPORT.fusions() == {"Conv regions": 3, "views": 3}


def test_tensor_fusion_ends_with_the_regions_that_run() -> None:
    lines = fusion_lines(REPORT.passes, regions=4)
    assert any("5 ->      4" in line and "tensor fusion" in line for line in lines)
    assert any("12 ->      5" in line and "vertical fusion" in line for line in lines)


def test_text_shows_memory_alternatives_and_warnings() -> None:
    text = REPORT.to_text()
    memory = ("arena is 0.500 of it", "arena is 1.500 of it")
    others = ("12 nodes -> 1 regions", "12.5 us", "others: winograd{} 20.0", "warning: something")
    assert [words for words in (*memory, *others) if words not in text] == []


def test_html_is_escaped() -> None:
    page = REPORT.to_html()
    assert "&lt;model&gt;.onnx" in page
    assert "a&lt;b&gt; + c" in page
    assert "<b>" not in page


def test_an_empty_report_prints() -> None:
    empty = dataclasses.replace(REPORT, passes=(), layers=(), memory={}, warnings=())
    assert empty.to_text().startswith("<model>.onnx")
    assert "<table>" in empty.to_html()


def test_histograms_are_drawn() -> None:
    tensor = TensorReport("<t>", "i8 in steps of 1", 2.0, 4.0, -4.0, 1.0, 0.25, (8, 0, 4, 1), 4.0)
    report = dataclasses.replace(REPORT, calibrator="MinMax", tensors=(tensor,))
    assert BuildReport.from_dict(json.loads(report.to_json())) == report
    page = report.to_html()
    assert "&lt;t&gt;" in page
    assert page.count("<rect") == 3
    assert page.count('fill="#ccc"') == 2  # the two bars beyond the threshold
    assert 'x1="160.0"' in page  # the threshold, in the middle of 320 pixels
    assert "25.000 %" in report.to_text()
    cached = dataclasses.replace(tensor, bars=(), stored="")
    assert "from a cache" in dataclasses.replace(REPORT, tensors=(cached,)).to_html()


def test_accuracy_is_json_that_every_program_reads() -> None:
    trials = (Trial("float32", 0, math.inf, 2.0, True), Trial("int8", 0, -math.inf, 1.0, False))
    kept = (KeptLayer("<conv>", "fp32", -math.inf),)
    accuracy = AccuracyReport(
        "snr", True, 30.0, math.inf, math.inf, 9, 3, kept, trials, "float32", ("slow",)
    )
    report = dataclasses.replace(REPORT, accuracy=accuracy)
    text = json.dumps(report.to_dict(), allow_nan=False)
    assert BuildReport.from_dict(json.loads(text)) == report
    page = report.to_html()
    assert page.count("<circle") == 2
    assert "accuracy (snr on 9 samples): float32 inf, this engine inf" in report.to_text()
    assert "<conv>" not in page
    many = dataclasses.replace(accuracy, kept=kept * 15)
    text = "\n".join(many.lines())
    assert text.count("is kept in fp32") == 12
    assert "and 3 more layers" in text
