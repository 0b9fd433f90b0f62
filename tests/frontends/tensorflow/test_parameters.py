"""Names, defaults, validation and older spellings of conversion parameters."""

from __future__ import annotations

import warnings

import pytest

from planish.frontends.tensorflow import parameters
from planish.frontends.tensorflow.parameters import (
    DEFAULT_TRT_CONVERSION_PARAMS,
    TrtConversionParams,
    TrtPrecisionMode,
    check_conversion_params,
    check_profile_strategy,
)


def test_defaults_are_those_of_tensorflow():
    assert TrtConversionParams(1 << 30, "FP32", 3, 1, True, True) == DEFAULT_TRT_CONVERSION_PARAMS
    assert DEFAULT_TRT_CONVERSION_PARAMS._fields == (
        "max_workspace_size_bytes", "precision_mode", "minimum_segment_size",
        "maximum_cached_engines", "use_calibration", "allow_build_at_runtime",
    )  # fmt: skip
    assert TrtPrecisionMode.supported_precision_modes() == [
        "FP32", "FP16", "INT8", "fp32", "fp16", "int8",
    ]  # fmt: skip
    assert parameters.supported_profile_strategies() == [
        "Range", "Optimal", "Range+Optimal", "ImplicitBatchModeCompatible",
    ]  # fmt: skip


def test_replace_makes_a_changed_copy():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        changed = DEFAULT_TRT_CONVERSION_PARAMS._replace(
            precision_mode=TrtPrecisionMode.FP16, max_workspace_size_bytes=8000000000
        )
    assert (changed.precision_mode, changed.max_workspace_size_bytes) == ("FP16", 8000000000)
    assert DEFAULT_TRT_CONVERSION_PARAMS.precision_mode == "FP32"
    with pytest.raises(TypeError, match="precision"):
        DEFAULT_TRT_CONVERSION_PARAMS._replace(precision="FP16")


@pytest.mark.parametrize("field", ["is_dynamic_op", "max_batch_size", "rewriter_config_template"])
def test_fields_of_older_releases_warn(field):
    with pytest.warns(DeprecationWarning, match=field):
        made = TrtConversionParams(precision_mode="FP16", **{field: 8})
    assert made == TrtConversionParams(precision_mode="FP16")
    with pytest.warns(DeprecationWarning, match=field):
        assert DEFAULT_TRT_CONVERSION_PARAMS._replace(**{field: 8}) == TrtConversionParams()


def test_the_order_of_2_3_is_recognised():
    with pytest.warns(DeprecationWarning, match="is_dynamic_op"):
        made = TrtConversionParams(None, 1 << 20, "INT8", 5, True, 7, False, 1, False)
    assert made == TrtConversionParams(1 << 20, "INT8", 5, 7, False, False)


def test_a_parameter_given_twice_or_too_many_are_refused():
    with pytest.raises(TypeError, match="multiple values"):
        TrtConversionParams(1 << 20, max_workspace_size_bytes=5)
    with pytest.raises(TypeError, match="at most 6"):
        TrtConversionParams(1, "FP32", 3, 1, True, True, 7)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"precision_mode": "FP64"}, "precision mode 'FP64' is not supported.It should be one of"),
        ({"minimum_segment_size": 0}, "minimum segment size should be positive or -1"),
        ({"minimum_segment_size": -2}, "minimum segment size should be positive or -1"),
        ({"max_workspace_size_bytes": -1}, "max_workspace_size_bytes is -1"),
    ],
)
def test_wrong_values_are_refused(changes, text):
    with pytest.raises(ValueError, match=text):
        check_conversion_params(TrtConversionParams(**changes))


def test_right_values_pass():
    for mode in TrtPrecisionMode.supported_precision_modes():
        check_conversion_params(TrtConversionParams(precision_mode=mode, minimum_segment_size=-1))


def test_strategies_are_checked_without_regard_to_case():
    check_profile_strategy("range+OPTIMAL")
    with pytest.raises(ValueError, match="profile_strategy 'Best' is not supported"):
        check_profile_strategy("Best")
    with pytest.warns(DeprecationWarning, match="ImplicitBatchModeCompatible"):
        check_profile_strategy("ImplicitBatchModeCompatible")
