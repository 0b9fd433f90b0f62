"""TrtGraphConverterV2: a SavedModel in, a SavedModel with engines out.

The interface, its defaults, its order of calls and its error texts are TF-TRT's (TensorFlow
2.17). What differs is said at the methods: engines are built when `convert` runs, within a time
budget, and the CPU is a device like any other.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from planish.errors import ConfigError
from planish.frontends.tensorflow import environment, parameters
from planish.frontends.tensorflow.ahead import AheadBuilder
from planish.frontends.tensorflow.engine_rules import EngineSettings
from planish.frontends.tensorflow.functions import (
    engine_nodes,
    function_of,
    without_native_segments,
)
from planish.frontends.tensorflow.graph_view import GraphView
from planish.frontends.tensorflow.inputs import InputFunction, call_with
from planish.frontends.tensorflow.library import internal, tensorflow
from planish.frontends.tensorflow.loading import load_frozen
from planish.frontends.tensorflow.parameters import TrtConversionParams, TrtPrecisionMode
from planish.frontends.tensorflow.registration import register
from planish.frontends.tensorflow.rewriting import (
    PlacedEngine,
    engine_names,
    place_engine,
    shape_of,
    with_engines,
)
from planish.frontends.tensorflow.saving import save_model
from planish.frontends.tensorflow.segment import Segment
from planish.frontends.tensorflow.summary import (
    SHORTEST_LINE,
    outside_groups,
    print_engines,
    print_outside,
    print_summary,
    report_table,
)
from planish.frontends.tensorflow.survey import Survey, survey

DEFAULT_TIME_BUDGET = 120.0
_SERVING_TAGS = ("serve",)
_SERVING_SIGNATURE = "serving_default"


class TrtGraphConverterV2:
    """Converts one signature of a SavedModel.

    Parameters
    ----------
    input_saved_model_dir : path
        The SavedModel.
    input_saved_model_tags : sequence of str, optional
        Tags of its meta graph, ("serve",) by default.
    input_saved_model_signature_key : str, optional
        The signature, "serving_default" by default.
    use_dynamic_shape : bool, optional
        Shapes differ in more than the batch: `build` then makes engines for the shapes of its
        inputs.
    dynamic_shape_profile_strategy : str, optional
        One of `supported_profile_strategies`, "Range" by default.
    max_workspace_size_bytes, precision_mode, minimum_segment_size, maximum_cached_engines, \
use_calibration, allow_build_at_runtime
        See `TrtConversionParams`.
    conversion_params : TrtConversionParams, optional
        All of these at once; wins over them.
    time_budget : float, optional
        Seconds that `convert` may spend on building engines, and `build` again; 0 builds none.
        Planish's own parameter.

    Raises
    ------
    ValueError
        For a wrong value, with TF-TRT's text.
    """

    def __init__(
        self,
        input_saved_model_dir: str | os.PathLike[str] | None = None,
        input_saved_model_tags: Sequence[str] | None = None,
        input_saved_model_signature_key: str | None = None,
        use_dynamic_shape: Any = None,
        dynamic_shape_profile_strategy: str | None = None,
        max_workspace_size_bytes: int = parameters.DEFAULT_TRT_MAX_WORKSPACE_SIZE_BYTES,
        precision_mode: str = TrtPrecisionMode.FP32,
        minimum_segment_size: int = 3,
        maximum_cached_engines: int = 1,
        use_calibration: bool = True,
        allow_build_at_runtime: bool = True,
        conversion_params: Any = None,
        *,
        time_budget: float = DEFAULT_TIME_BUDGET,
        **older: Any,
    ) -> None:
        if hasattr(use_dynamic_shape, "precision_mode"):  # the fourth parameter of 2.0 to 2.6
            warnings.warn("give conversion_params by name", DeprecationWarning, stacklevel=2)
            use_dynamic_shape, conversion_params = None, use_dynamic_shape
        if conversion_params is None:
            conversion_params = TrtConversionParams(
                max_workspace_size_bytes=max_workspace_size_bytes,
                precision_mode=precision_mode,
                minimum_segment_size=minimum_segment_size,
                maximum_cached_engines=maximum_cached_engines,
                use_calibration=use_calibration,
                allow_build_at_runtime=allow_build_at_runtime,
                **older,
            )
        elif older:
            raise TypeError(f"unexpected parameters: {', '.join(older)}")
        parameters.check_conversion_params(conversion_params)
        strategy = dynamic_shape_profile_strategy
        if use_dynamic_shape and strategy is not None:
            parameters.check_profile_strategy(strategy)
        if not time_budget >= 0:
            raise ValueError(f"time_budget is {time_budget!r}, expected seconds, or 0 for none")
        register()
        self._conversion_params = conversion_params
        self._input_saved_model_dir = input_saved_model_dir
        self._input_saved_model_tags = list(input_saved_model_tags or _SERVING_TAGS)
        self._input_saved_model_signature_key = (
            input_saved_model_signature_key or _SERVING_SIGNATURE
        )
        self._use_dynamic_shape = bool(use_dynamic_shape)
        self._profile_strategy = strategy or parameters.PROFILE_STRATEGY_RANGE
        self._time_budget = float(time_budget)
        self._need_calibration = self._precision == "INT8" and conversion_params.use_calibration
        self._calibration_input_fn: InputFunction | None = None
        self._converted = self._calibrated = self._build_called_once = False
        self._test_only_disable_non_trt_optimizers = False  # NVIDIA's tests set it

    @property
    def _precision(self) -> str:
        return str(self._conversion_params.precision_mode).upper()

    # -- converting -------------------------------------------------------------------------------

    def convert(self, calibration_input_fn: InputFunction | None = None) -> Any:
        """Convert the signature and build its engines.

        Engines for which the signature leaves only batch sizes open are built here, within the
        time budget; those for other open extents in `build`, or when inputs arrive. Ctrl-C ends
        building: what is built is kept, the rest of the segments run in TensorFlow.

        Parameters
        ----------
        calibration_input_fn : callable, optional
            For INT8: returns an iterable of inputs, each an array, a list or tuple of arrays, or
            a dict by input name.

        Returns
        -------
        ConcreteFunction
            The converted signature.

        Raises
        ------
        ModelError
            When there is no such SavedModel, tags or signature.
        ValueError
            When calibration data are missing, or given without need.
        """
        if self._converted:
            raise AssertionError("convert() was called already: make a new converter")
        if self._need_calibration and not calibration_input_fn:
            raise ValueError(
                "Should specify calibration_input_fn because INT8 calibration is needed"
            )
        if not self._need_calibration and calibration_input_fn:
            raise ValueError(
                "Should not specify calibration_input_fn because INT8 calibration is not needed"
            )
        if self._input_saved_model_dir is None:
            raise ConfigError(
                "there is nothing to convert",
                where="input_saved_model_dir",
                fix="give the folder of a SavedModel",
            )
        self._load_and_cut()
        if not self._need_calibration:
            self._ahead.build_for_batches(self._time_budget)
            self._settle()
        elif self._use_dynamic_shape:
            self._calibration_input_fn = calibration_input_fn
        elif calibration_input_fn is not None:
            self._collect_calibration(calibration_input_fn)
            self._ahead.build_calibrated(self._time_budget)
            self._settle()
        self._converted = True
        self._report()
        return self._converted_func

    def _load_and_cut(self) -> None:
        """Freeze the signature and put engine operations in the place of its segments."""
        self._model = load_frozen(
            self._input_saved_model_dir or "",
            self._input_saved_model_tags,
            self._input_saved_model_signature_key,
            optimize=not self._test_only_disable_non_trt_optimizers,
        )
        self._saved_model = self._model.saved_model
        view = GraphView.of(self._model.graph_def)
        given = self._conversion_params
        self._survey: Survey = survey(
            view,
            self._model.input_names,
            self._model.output_names,
            given.minimum_segment_size,
            environment.max_engines(),
        )
        self._operations = {node.name: node.op for node in view.nodes}
        engines = self._placed_engines(self._survey.segments)
        self._converted_graph_def = with_engines(view, engines, self._model.output_names)
        self._ahead = AheadBuilder(engines)
        self._rebuild_function()

    def _placed_engines(self, segments: Sequence[Segment]) -> dict[str, PlacedEngine]:
        given = self._conversion_params
        engines = {}
        for name, segment in zip(engine_names(len(segments)), segments, strict=True):
            settings = EngineSettings(
                name,
                tuple(shape_of(segment.view.tensor(tensor)) for tensor in segment.inputs),
                precision=self._precision,
                implicit_batch=not self._use_dynamic_shape,
                profile_strategy=self._profile_strategy if self._use_dynamic_shape else "",
                max_engines=given.maximum_cached_engines,
                workspace_bytes=given.max_workspace_size_bytes,
                use_calibration=given.use_calibration,
            )
            engines[name] = place_engine(settings, segment)
        return engines

    def _rebuild_function(self) -> None:
        """Make the function again after the graph's attributes have changed."""
        self._converted_func = function_of(self._converted_graph_def, self._model)
        self._converted_func._planish_engines = self._ahead  # they live as long as the function

    def _settle(self) -> None:
        """Write into the graph what building has found out: calibration data, what to leave."""
        changed = False
        for node in engine_nodes(self._converted_graph_def):
            data = self._ahead.calibration_data(node.name)
            if data:
                node.attr["calibration_data"].s = data
            if node.name in self._ahead.abandoned:
                node.attr["_allow_build_at_runtime"].b = False
            changed |= bool(data) or node.name in self._ahead.abandoned
        if changed:
            self._rebuild_function()

    def _report(self) -> None:
        """Honour the environment's wishes for a report and a picture."""
        report, picture = environment.detailed_report(), environment.graphviz_path()
        if report == "print":
            print_outside(self._survey.reasons, self._operations, print)
        elif report is not None:
            groups = outside_groups(self._survey.reasons, self._operations)
            with open(report, "w", encoding="utf-8") as file:
                file.write(report_table(groups))
        if picture is not None:
            internal("python.compiler.tensorrt.utils").draw_graphdef_as_graphviz(
                graphdef=self._converted_func.graph.as_graph_def(add_shapes=True),
                dot_output_filename=picture,
            )

    # -- building and calibrating -----------------------------------------------------------------

    def build(self, input_fn: InputFunction | None) -> None:
        """Build engines for the shapes of some inputs.

        Parameters
        ----------
        input_fn : callable
            Returns an iterable of inputs, each an array, a list or tuple of arrays, or a dict by
            input name.

        Raises
        ------
        NotImplementedError
            When it is called a second time.
        RuntimeError
            Without `input_fn`, or before `convert`.
        """
        if self._build_called_once:
            raise NotImplementedError(
                "build() is already called. It is not supported to call build() more than once."
            )
        if not input_fn:
            raise RuntimeError(
                "input_fn is None. Method build() needs input_fn to be specified in order to "
                "build TensorRT engines"
            )
        if not self._converted:
            raise RuntimeError("Need to call convert() before build()")
        if self._calibration_input_fn is not None:
            self._collect_calibration(self._calibration_input_fn)
        self._collect_shapes(input_fn)
        self._ahead.build_for_collected(self._time_budget)
        self._settle()
        self._build_called_once = True

    def _collect_shapes(self, input_fn: InputFunction) -> None:
        """Run inputs in TensorFlow; every engine operation notes the shapes that reach it."""
        self._set_on_engines("_profile_generation_mode", True)
        try:
            for given in input_fn():
                call_with(self._converted_func, given)
        finally:
            self._set_on_engines("_profile_generation_mode", False)

    def _set_on_engines(self, attribute: str, value: bool) -> None:
        for node in engine_nodes(self._converted_graph_def):
            node.attr[attribute].b = value
        self._rebuild_function()

    def _collect_calibration(self, input_fn: InputFunction) -> None:
        """Run inputs in TensorFlow and keep what flows into the engines."""
        with self._ahead.collecting():
            for given in input_fn():
                call_with(self._converted_func, given)
                self._calibrated = True
        if not self._calibrated:
            raise RuntimeError("calibration_input_fn gave no inputs to calibrate with")

    # -- saving and looking -----------------------------------------------------------------------

    def save(
        self,
        output_saved_model_dir: str | os.PathLike[str],
        save_gpu_specific_engines: bool = True,
        options: Any = None,
    ) -> None:
        """Write the converted model and its engines as a SavedModel.

        Parameters
        ----------
        output_saved_model_dir : path
            Written under another name first: a failure leaves nothing behind.
        save_gpu_specific_engines : bool
            False leaves the engines out: they are built again where the model runs.
        options : tf.saved_model.SaveOptions, optional

        Raises
        ------
        RuntimeError
            When calibration is still to be done.
        """
        if not self._converted:
            raise AssertionError("Need to call convert() before save()")
        if self._need_calibration and not self._calibrated:
            raise RuntimeError(
                "A model that requires INT8 calibration has to be built before saving it. Call "
                "build() to build and calibrate the TensorRT engines."
            )
        if environment.is_feature_on("remove_native_segments"):
            without_native_segments(self._converted_graph_def)
            self._rebuild_function()
        if not self._conversion_params.allow_build_at_runtime:
            self._set_on_engines("_allow_build_at_runtime", False)
        root = tensorflow().Module()
        with self._ahead.serialized(save_gpu_specific_engines) as resources:
            root.trt_engine_resources = resources
            if self._model.captures:  # tables and other state live with the original
                root.source = self._saved_model
            signatures = {self._input_saved_model_signature_key: self._converted_func}
            save_model(root, output_saved_model_dir, signatures, options)

    def summary(
        self,
        line_length: int = SHORTEST_LINE,
        detailed: bool = True,
        print_fn: Callable[..., Any] | None = None,
    ) -> None:
        """Print the engines, the precision they run in, and what stays outside and why.

        Parameters
        ----------
        line_length : int
            At least 160.
        detailed : bool
            List the operations of every engine.
        print_fn : callable, optional
            Takes one line; `print` by default.

        Raises
        ------
        RuntimeError
            Before `convert`.
        ValueError
            When `line_length` is too small.
        """
        if not self._converted:
            name = type(self).__name__
            raise RuntimeError(
                f"Impossible to call `{name}.summary()` before calling {name}.convert()`."
            )
        if line_length < SHORTEST_LINE:
            raise ValueError(
                f"Invalid `line_length` value has been received: {line_length}. "
                f"Minimum: {SHORTEST_LINE}."
            )
        show = print if print_fn is None else print_fn
        print_summary(self._converted_graph_def, line_length, detailed, show)
        print_engines(self._precision, self._ahead.states, show)
        print_outside(self._survey.reasons, self._operations, show)
        sys.stdout.flush()
