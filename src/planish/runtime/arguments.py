"""The arrays of an inference: what callers give, checked, and what they get."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from planish.errors import InputError, PlanError
from planish.ir.dtypes import STRING, dtype_by_name
from planish.plan.plan import Plan
from planish.runtime.cuda.arrays import DeviceArray
from planish.runtime.executors import PlanExecutor
from planish.runtime.finite import first_not_finite, warn_of
from planish.runtime.shapes import BoundShapes, ShapeResolver

Array = np.ndarray[Any, Any]
Allocate = Callable[[int, tuple[int, ...]], Array]

_MAX_SHAPES = 256  # sets of input shapes remembered


@dataclass
class Call:
    """One inference: what comes in and out.

    Attributes
    ----------
    arrays : list of array
        The inputs, taken.
    results : list of array or None
        Where outputs are written; None where only the data decides the shape.
    given : dict
        The caller's arrays for outputs.
    on_device : bool
        Whether an input lies on a GPU, and so shall the outputs.
    """

    arrays: list[Any]
    bound: BoundShapes
    results: list[Any]
    given: Mapping[str, Any]
    on_device: bool


class Arguments:
    """Takes inputs, makes outputs, and says what is wrong with either.

    Parameters
    ----------
    plan : Plan
    may_overflow : bool
        Whether results that are not finite deserve a warning.

    Attributes
    ----------
    executor : PlanExecutor
        Takes and makes arrays on its device. It is set before any array is taken.
    """

    executor: PlanExecutor

    def __init__(self, plan: Plan, may_overflow: bool) -> None:
        self._plan, self._may_overflow = plan, may_overflow
        self._resolver = ShapeResolver(plan)
        self._bound: dict[tuple[tuple[int, ...], ...], BoundShapes] = {}
        self.input_names = tuple(info.name for info in plan.inputs)
        self.output_names = tuple(info.name for info in plan.outputs)
        self._input_types = tuple(dtype_by_name(info.dtype).numpy for info in plan.inputs)
        self.output_types = tuple(dtype_by_name(info.dtype).numpy for info in plan.outputs)

    def call(self, arrays: list[Any], given: Mapping[str, Any] | None, stream: int | None) -> Call:
        """Return an inference on arrays that were taken, with arrays for its outputs."""
        bound = self.bind(tuple([array.shape for array in arrays]))
        on_device = DeviceArray in map(type, arrays)
        results = self._fresh_outputs(bound, on_device, stream)
        call = Call(arrays, bound, results, given or {}, on_device)
        if given:
            self._give_outputs(call)
        return call

    def positional(self, inputs: Sequence[Any]) -> list[Any]:
        """Return inputs that come in the plan's order, taken."""
        if len(inputs) != len(self.input_names):
            raise self._wrong_count(inputs)
        return [self._take(index, array) for index, array in enumerate(inputs)]

    def ordered(self, inputs: Mapping[str, Any]) -> list[Any]:
        """Return the inputs in the plan's order, taken."""
        if len(inputs) != len(self.input_names):
            raise self.wrong_names(inputs)
        arrays = []
        for index, name in enumerate(self.input_names):
            if name not in inputs:
                raise self.wrong_names(inputs)
            arrays.append(self._take(index, inputs[name]))
        return arrays

    def _take(self, index: int, given: Any) -> Any:
        """Return an input as a C-contiguous, aligned array of the right dtype."""
        array = given if type(given) is np.ndarray else self._as_array(index, given)
        expected = self._input_types[index]
        if array.dtype != expected:
            return self._take_text(index, array)
        if type(array) is DeviceArray:
            return array
        if array.flags.c_contiguous and array.flags.aligned:
            return array
        return np.array(array, order="C")

    def _as_array(self, index: int, given: Any) -> Any:
        if isinstance(given, np.ndarray):
            return np.asarray(given)
        taken = self.executor.take(given, f"input {self.input_names[index]!r}")
        if taken is not None:
            return taken
        if not hasattr(given, "__dlpack__"):
            return np.asarray(given)
        try:
            return np.from_dlpack(given)
        except (BufferError, RuntimeError, TypeError) as error:
            raise InputError(
                f"input {self.input_names[index]!r} cannot be taken through DLPack: {error}",
                where=f"an array of type {type(given).__name__}",
                fix="give a CPU tensor without gradient, or a numpy array",
            ) from error

    def _take_text(self, index: int, array: Array) -> Array:
        """Take an array of strings where strings are expected; anything else is refused."""
        info = self._plan.inputs[index]
        if info.dtype == STRING.name and array.dtype.kind in "US":
            return array.astype(object)
        wanted = self._input_types[index].name
        got = array.dtype.name if array.dtype.isnative else f"{array.dtype} (swapped bytes)"
        raise InputError(
            f"input {info.name!r} has dtype {got}, expected {wanted}",
            where=f"engine input {index}",
            fix=f'array.astype("{wanted}")'
            + (" (import ml_dtypes first)" if wanted.startswith(("bfloat", "float8")) else ""),
        )

    def _wrong_count(self, inputs: Sequence[Any]) -> InputError:
        return InputError(
            f"got {len(inputs)} array(s), expected {len(self.input_names)}",
            where=f"inputs {', '.join(self.input_names)}",
            fix="give one array for each input in this order, or use engine.run({name: array})",
        )

    def wrong_names(self, inputs: Mapping[str, Any]) -> InputError:
        """Return an error that says which names are missing, and which are not known."""
        missing = [name for name in self.input_names if name not in inputs]
        unknown = [name for name in inputs if name not in self.input_names]
        texts = [f"missing: {', '.join(missing)}"] if missing else []
        for name in unknown:
            near = difflib.get_close_matches(str(name), missing or self.input_names, n=1)
            texts.append(f"unknown: {name}" + (f" (did you mean {near[0]}?)" if near else ""))
        return InputError(
            f"the inputs do not fit the engine; {'; '.join(texts)}",
            where=f"engine inputs: {', '.join(self.input_names) or 'none'}",
            fix="give engine.run({name: array}) exactly these names",
        )

    def bind(self, shapes: tuple[tuple[int, ...], ...]) -> BoundShapes:
        """Return what input shapes mean; raise InputError when they are not allowed."""
        bound = self._bound.get(shapes)
        if bound is not None:
            return bound
        bound = self._resolver.bind(shapes)
        if len(self._bound) >= _MAX_SHAPES:
            self._bound.clear()
        self._bound[shapes] = bound
        return bound

    def _fresh_outputs(
        self, bound: BoundShapes, on_device: bool, stream: int | None
    ) -> list[Any | None]:
        if on_device:
            return self.executor.empty(bound.outputs, self.output_types, stream)
        return [
            None if shape is None or dtype.hasobject else np.empty(shape, dtype)
            for shape, dtype in zip(bound.outputs, self.output_types, strict=True)
        ]

    def allocated(self, bound: BoundShapes, allocate: Allocate) -> list[Array | None]:
        """Return the arrays that `allocate` gives for the outputs, checked."""
        results: list[Array | None] = []
        for index, (shape, dtype) in enumerate(zip(bound.outputs, self.output_types, strict=True)):
            if shape is None or dtype.hasobject:
                results.append(None)
                continue
            array = allocate(index, shape)
            if array.shape != shape or array.dtype != dtype or not array.flags.carray:
                raise self._wrong_output(self.output_names[index], array, shape, dtype)
            results.append(array)
        return results

    def _give_outputs(self, call: Call) -> None:
        """Put the caller's arrays where results are written."""
        unknown = [name for name in call.given if name not in self.output_names]
        if unknown:
            raise InputError(
                f"unknown output: {', '.join(unknown)}",
                where=f"engine outputs: {', '.join(self.output_names)}",
            )
        for index, name in enumerate(self.output_names):
            if name not in call.given or call.results[index] is None:
                continue
            shape, dtype = call.bound.outputs[index], self.output_types[index]
            array = call.given[name]
            if not isinstance(array, np.ndarray):
                taken = self.executor.take(array, f"the array for output {name!r}")
                array = np.asarray(array) if taken is None else taken
            writable = isinstance(array, DeviceArray) or array.flags.carray
            if array.shape != shape or array.dtype != dtype or not writable:
                raise self._wrong_output(name, array, shape, dtype)
            call.results[index] = array

    def _wrong_output(
        self, name: str, array: Any, shape: tuple[int, ...] | None, dtype: np.dtype[Any]
    ) -> InputError:
        return InputError(
            f"the array for output {name!r} is {array.dtype.name}{list(array.shape)}, "
            f"expected a writable C-contiguous {dtype.name}{list(shape or ())}",
            fix=f"numpy.empty({shape}, dtype={dtype.name!r})",
        )

    def on_device(self, call: Call) -> dict[str, Any]:
        """Return the outputs on a device, as the caller shall see them."""
        return {
            name: call.given.get(name, result)
            for name, result in zip(self.output_names, call.results, strict=True)
            if isinstance(result, DeviceArray)
        }

    def finished(self, call: Call) -> list[Any]:
        """Return the results of an inference that is done, as the caller shall see them."""
        finished: list[Any] = []
        for name, result in zip(self.output_names, call.results, strict=True):
            if result is None:
                raise PlanError(f"no step wrote output {name!r}")
            target = call.given.get(name)
            if isinstance(result, DeviceArray):
                finished.append(result if target is None else target)
                continue
            if target is not None and target is not result:  # the shape was not known before
                self._copy_result(name, target, result)
                result = target
            elif target is None and call.on_device and not result.dtype.hasobject:
                result = DeviceArray.of(result)
            finished.append(result)
        if self._may_overflow:
            name = first_not_finite(self.output_names, finished)
            if name:
                self._may_overflow = False
                warn_of(name)
        return finished

    def _copy_result(self, name: str, target: Any, result: Array) -> None:
        if not isinstance(target, np.ndarray):
            raise InputError(
                f"only the data decides the extents of output {name!r}",
                fix="do not give an array on the GPU for it",
            )
        if target.shape != result.shape or target.dtype != result.dtype:
            raise self._wrong_output(name, target, result.shape, result.dtype)
        np.copyto(target, result)
