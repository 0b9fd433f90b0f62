"""What an engine operation does with one set of inputs: TF-TRT's rules (trt_engine_op.cc).

1. While it calibrates or collects profiles, the inputs are noted and TensorFlow runs the segment.
2. Inputs whose shapes contradict the declared ones run natively (in TensorFlow).
3. An engine that accepts the shapes runs. If there is none, one is built: by the first thread that
   comes, within the time budget of the process; other threads run natively meanwhile.
4. What cannot be built is remembered and not tried again. An engine that fails runs natively.

Every fall-back is logged once with its reason, and is an error where
TF_TRT_ALLOW_ENGINE_NATIVE_SEGMENT_EXECUTION forbids it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from planish.config import DEFAULT_BATCH_RANGE, Profile
from planish.errors import PlanishError
from planish.frontends.tensorflow.engine_cache import (
    Allocate,
    Array,
    CachedEngine,
    EngineCache,
    RunnableEngine,
    Shapes,
    TimeBudget,
)
from planish.frontends.tensorflow.environment import (
    is_build_aborted,
    is_native_execution_allowed,
)

# What building or running an engine may raise: its own errors, and what numpy and the system do.
FAILURES = (PlanishError, ArithmeticError, LookupError, MemoryError, OSError, RuntimeError,
            TypeError, ValueError)  # fmt: skip
PROCESS_BUDGET = TimeBudget()
Library = Callable[[], bytes]  # gives the graph's functions: a serialized FunctionDefLibrary


class NativeExecutionForbiddenError(PlanishError):
    """An engine cannot run, and the environment forbids TensorFlow to run its segment."""

    code = 10  # TensorFlow's AbortedError


@dataclass(frozen=True)
class EngineSettings:
    """The attributes of an engine operation that matter when it runs.

    Attributes
    ----------
    name : str
        Like "TRTEngineOp_000_000".
    input_shapes : tuple
        Declared shape of each input, None for unknown extents; None for an unknown rank. Empty
        when nothing is declared.
    precision : str
        "FP32", "FP16" or "INT8".
    implicit_batch : bool
        All first extents are one batch (True), or shapes are as general as their profiles.
    profile_strategy : str
        Of `profiles_for`, in small letters.
    max_engines : int
    workspace_bytes : int
    allow_build : bool
        Engines may be built at run time.
    collect_profiles : bool
        Only collect shapes; TensorFlow computes.
    use_calibration : bool
    calibration_data : bytes
        A calibration cache.
    """

    name: str
    input_shapes: tuple[tuple[int | None, ...] | None, ...] = ()
    precision: str = "FP32"
    implicit_batch: bool = True
    profile_strategy: str = "range"
    max_engines: int = 1
    workspace_bytes: int = 1 << 30
    allow_build: bool = True
    collect_profiles: bool = False
    use_calibration: bool = True
    calibration_data: bytes = b""


class Segment(Protocol):
    """The operations that an engine stands for."""

    def run(self, inputs: Sequence[Array], library: Library) -> list[Array]:
        """Compute the outputs with TensorFlow."""

    def release(self) -> None:
        """Free what the next run or build can make again."""

    def build(
        self,
        profiles: Sequence[Profile],
        settings: EngineSettings,
        time_budget: float,
        library: Library,
    ) -> RunnableEngine:
        """Return an engine for a profile of each input, made within so many seconds."""


def implicit_batch_profiles(shapes: Shapes, settings: EngineSettings) -> tuple[Profile, ...]:
    """Return the profiles of an engine for `shapes` whose batch is free.

    The batch is tuned for what came and serves 1 to 32, or to the next power of two above. Inputs
    with a declared first extent have none; all other extents are fixed.
    """
    is_open = [_is_batch_open(settings, index) for index in range(len(shapes))]
    batch = max(
        (shape[0] for shape, open_ in zip(shapes, is_open, strict=True) if open_), default=1
    )
    largest = max(DEFAULT_BATCH_RANGE[2], 1 << (batch - 1).bit_length())
    return tuple(
        Profile((1, *shape[1:]), shape, (largest, *shape[1:]))
        if open_
        else Profile(shape, shape, shape)
        for shape, open_ in zip(shapes, is_open, strict=True)
    )


def _is_batch_open(settings: EngineSettings, index: int) -> bool:
    """Return whether the first extent of an input is declared as the batch: unknown."""
    declared = settings.input_shapes
    shape = declared[index] if index < len(declared) else None
    return shape is None or shape[:1] == (None,)


def profiles_for(strategy: str, collected: Sequence[Shapes]) -> list[tuple[Profile, ...]]:
    """Return the profiles of all inputs, one set for each engine.

    Parameters
    ----------
    strategy : str
        "Range": one engine from the smallest to the largest extents. "Optimal": one for each set
        of shapes. "Range+Optimal": both. "ImplicitBatchModeCompatible": each with its first
        extents from 1 on. Capital or small letters.
    collected : sequence
        Shapes of all inputs, at least one set.
    """
    kind = strategy.lower()
    if kind == "implicitbatchmodecompatible":
        return [tuple(map(_from_one, shapes)) for shapes in collected]
    exact = [tuple(Profile(shape, shape, shape) for shape in shapes) for shapes in collected]
    if kind == "optimal" or len(collected) == 1:
        return exact
    ranges = tuple(map(_range_of, zip(*collected, strict=True)))
    return [ranges] if kind in ("range", "") else [ranges, *exact]


def _from_one(shape: tuple[int, ...]) -> Profile:
    low = (1, *shape[1:]) if shape else ()
    return Profile(low, shape, shape)


def _range_of(shapes: tuple[tuple[int, ...], ...]) -> Profile:
    low = tuple(map(min, zip(*shapes, strict=True)))
    high = tuple(map(max, zip(*shapes, strict=True)))
    return Profile(low, shapes[-1], high)


class EngineOperation:
    """One engine operation of a graph, apart from TensorFlow's interface.

    Parameters
    ----------
    settings : EngineSettings
    cache : EngineCache
    segment : Segment
    budget : TimeBudget, optional
        That of the process by default.
    """

    def __init__(
        self,
        settings: EngineSettings,
        cache: EngineCache,
        segment: Segment,
        budget: TimeBudget = PROCESS_BUDGET,
    ) -> None:
        self.settings = settings
        self._cache = cache
        self._segment = segment
        self._budget = budget
        self._served: dict[Shapes, CachedEngine] = {}
        self._version = -1
        cache.dependents.add(self)

    def release(self) -> None:
        """Free the memory that this operation holds besides its cache."""
        self._served = {}
        self._segment.release()

    def run(
        self, inputs: list[Array], allocate: Allocate | None = None, library: Library = bytes
    ) -> list[Array]:
        """Return the outputs.

        Parameters
        ----------
        inputs : list of array
        allocate : callable, optional
            Gives the arrays that an engine writes its outputs into; see `RunnableEngine.execute`.
        library : callable
            Gives the functions of the graph, for TensorFlow's execution and for building.

        Raises
        ------
        NativeExecutionForbiddenError
            When there is no engine and the environment forbids TensorFlow's execution.
        Exception
            What TensorFlow raises where it runs the segment.
        """
        cache = self._cache
        if self.settings.collect_profiles or cache.collector is not None:
            return self._observe(inputs, library)
        shapes = tuple([array.shape for array in inputs])
        cached = self._known(shapes) or self._find(shapes, library)
        if isinstance(cached, str):
            return self._run_natively(inputs, library, cached)
        try:
            return cached.engine.execute(inputs, allocate)
        except FAILURES as error:
            reason = f"the engine failed: {error}"
        return self._run_natively(inputs, library, reason)

    def _observe(self, inputs: list[Array], library: Library) -> list[Array]:
        cache = self._cache
        if cache.collector is not None:
            cache.collector(inputs)
        else:
            cache.collect(tuple(array.shape for array in inputs))
        return self._segment.run(inputs, library)

    def _known(self, shapes: Shapes) -> CachedEngine | None:
        """Return the engine that served these shapes before, if nothing has changed since."""
        if self._version != self._cache.version:
            return None
        cached = self._served.get(shapes)
        if cached is not None:
            self._cache.touch(cached)
        return cached

    def _find(self, shapes: Shapes, library: Library) -> CachedEngine | str:
        """Return an engine, or why there is none."""
        cache = self._cache
        contradiction = self._contradiction(shapes)
        if contradiction is not None:
            return contradiction
        version = cache.version
        cached = cache.find(shapes)
        if cached is None and cache.restore():
            cached = cache.find(shapes)
        if cached is None:
            return self._make(shapes, library)
        if self._version != version:
            self._served, self._version = {}, version
        if len(self._served) < 256:
            self._served[shapes] = cached
        return cached

    def _contradiction(self, shapes: Shapes) -> str | None:
        """Return how the shapes contradict what the operation declares."""
        declared = self.settings.input_shapes
        for index, shape in enumerate(shapes):
            expected = declared[index] if index < len(declared) else None
            if expected is not None and not _fits(shape, expected):
                wanted = ["?" if extent is None else extent for extent in expected]
                return f"input {index} has the shape {list(shape)}, expected {wanted}"
        if not self.settings.implicit_batch:
            return None
        batches = {
            shape[:1] for index, shape in enumerate(shapes) if _is_batch_open(self.settings, index)
        }
        if not all(batch and batch[0] >= 1 for batch in batches):
            return f"an input has no batch: shapes {list(map(list, shapes))}"
        if len(batches) > 1:
            return f"the inputs have different batch sizes: shapes {list(map(list, shapes))}"
        return None

    # -- building ---------------------------------------------------------------------------------

    def _make(self, shapes: Shapes, library: Library) -> CachedEngine | str:
        """Build what these shapes need, if that is allowed; return the engine or why not."""
        cache = self._cache
        key = shapes if self.settings.implicit_batch else ()
        reason = cache.failure(key) or self._refusal(shapes)
        if reason is not None:
            return reason
        with self._budget.building() as is_mine:
            if not is_mine:
                return ""
            found = cache.find(shapes)  # another thread may have built it in the meantime
            if found is not None:
                return found
            try:
                self._build(shapes, library)
            except FAILURES as error:
                cache.fail(key, f"the engine could not be built: {error}")
        return cache.find(shapes) or cache.failure(key) or self._uncovered(shapes)

    def _refusal(self, shapes: Shapes) -> str | None:
        settings = self.settings
        if not settings.implicit_batch and self._cache.engines:
            return self._uncovered(shapes)
        if not settings.allow_build:
            return f"no engine serves {_listing(shapes)}, and allow_build_at_runtime is False"
        if self._budget.remaining <= 0:
            return (
                f"no engine serves {_listing(shapes)}, and the {self._budget.seconds:g} seconds "
                "for building while the model runs are spent. Build ahead with "
                "converter.build(), or set PLANISH_TF_TIME_BUDGET"
            )
        return None

    def _build(self, shapes: Shapes, library: Library) -> None:
        settings, cache = self.settings, self._cache
        if is_build_aborted():
            raise RuntimeError("TF_TRT_ABORT_CUDA_ENGINE_BUILD forbids it")
        if settings.implicit_batch:
            profiles = implicit_batch_profiles(shapes, settings)
            cache.add(self._built(profiles, library), shapes)
            return
        for wanted in profiles_for(settings.profile_strategy, cache.collected or (shapes,)):
            cache.put(self._built(wanted, library), tuple(profile.opt for profile in wanted))

    def _built(self, profiles: Sequence[Profile], library: Library) -> RunnableEngine:
        return self._segment.build(profiles, self.settings, self._budget.remaining, library)

    def _uncovered(self, shapes: Shapes) -> str:
        built = "; ".join(_listing(cached.shapes) for cached in self._cache.engines)
        return (
            f"no profile includes {_listing(shapes)} (engines are tuned for {built}). Give "
            "converter.build() inputs of the smallest and the largest shapes"
        )

    def _run_natively(self, inputs: list[Array], library: Library, reason: str) -> list[Array]:
        if not is_native_execution_allowed():
            raise NativeExecutionForbiddenError(
                "User disallowed engine native segment execution",
                where=f"{self.settings.name}: {reason or 'its engine is being built'}",
                fix="unset TF_TRT_ALLOW_ENGINE_NATIVE_SEGMENT_EXECUTION, or build an engine for "
                "these inputs",
            )
        if reason:
            self._cache.warn_once(reason, f"TensorFlow runs this segment: {reason}")
        return self._segment.run(inputs, library)


def _fits(shape: tuple[int, ...], expected: tuple[int | None, ...]) -> bool:
    if len(shape) != len(expected):
        return False
    return all(want in (None, got) for got, want in zip(shape, expected, strict=True))


def _listing(shapes: Shapes) -> str:
    return ", ".join(str(list(shape)) for shape in shapes) or "no inputs"
