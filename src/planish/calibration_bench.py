"""What calibration needs of a build: float32 engines of simplified graphs, time, progress.

They run on the CPU whatever the device of the build: ranges are the same, and no GPU is needed.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from planish.backends.cpu.backend import CpuBackend
from planish.build_clock import BuildClock
from planish.config import BuildConfig
from planish.engine.parts import EngineParts, NativeCode
from planish.ir.graph import Graph
from planish.passes.graph_pass import run_pipeline
from planish.passes.pipeline import lowering
from planish.plan.plan import Plan
from planish.plan.schedule import make_plan
from planish.plan.weights import WeightPool
from planish.quantize.calibrate import Observe
from planish.runtime.engine import Engine
from planish.tactics.select import FallbackWarning, choices_of, group_regions, kernels_of
from planish.tactics.tactic import Kernel

_Planned = tuple[Plan, WeightPool, dict[str, Kernel]]

TIME_SHARE = 0.6  # of the time budget after which calibration ends; the engine is still to come


class CalibrationBench:
    """Builds and runs float32 engines inside of a build; see `planish.quantize.Workbench`.

    Parameters
    ----------
    config : BuildConfig
        Of the build; the engines that calibrate are not tuned.
    clock : BuildClock
    share : float
        Of the time budget that may be over when calibration ends.
    """

    def __init__(self, config: BuildConfig, clock: BuildClock, share: float = TIME_SHARE) -> None:
        self.config = replace(
            config, precision="fp32", layer_precisions={}, tune="off", device="cpu", target=None,
            tactic_sources=config.tactic_sources if config.device == "cpu" else None,
        )  # fmt: skip
        self.backend = CpuBackend()
        self.target = self.backend.detect(config.threads)
        self.clock = clock
        self.share = share

    def engine(self, graph: Graph) -> Engine:
        """Return an engine that runs a simplified graph in float32; the graph is used up."""
        return self.engines([graph])[0]

    def engines(self, graphs: Sequence[Graph]) -> list[Engine]:
        """Return an engine for each graph; their code is compiled at the same time."""
        planned = [self._planned(graph) for graph in graphs]
        with ThreadPoolExecutor(max(self.target.threads, 1)) as pool:
            codes = list(pool.map(self._compiled, planned))
        return [
            Engine(EngineParts(plan, constants.memory(), code, "", {}))
            for (plan, constants, _), code in zip(planned, codes, strict=True)
        ]

    def _planned(self, graph: Graph) -> _Planned:
        run_pipeline(graph, lowering(self.config, self.backend.prints), check=self.config.verify)
        with warnings.catch_warnings():  # the build itself warns of what has no kernel
            warnings.simplefilter("ignore", FallbackWarning)
            groups = group_regions(graph, self.target, self.config, self.backend.tactics())
        constants = WeightPool()
        choices = choices_of(groups, self.target, constants, self.config.workspace_limit)
        plan = make_plan(graph, choices, constants.bytes)
        kernels = kernels_of(graph, plan, choices)
        return plan, constants, {f: k for f, k in kernels.items() if isinstance(k, Kernel)}

    def _compiled(self, planned: _Planned) -> NativeCode | None:
        plan, _, kernels = planned
        return self.backend.assemble(plan, kernels, self.target) if kernels else None

    def observer(self) -> Observe:
        """Return the device's code that counts magnitudes."""
        return self.backend.observer(self.target)

    def stop(self) -> str:
        """Return why calibration has to end now; empty while it may go on."""
        if self.clock.cancelled:
            return "calibration was cancelled: it did not see every batch"
        if self.clock.elapsed > self.share * self.config.time_budget:
            return "calibration did not see every batch: the time budget did not allow for it"
        return ""

    def progress(self, done: int, total: int, doing: str = "calibrating") -> None:
        """Tell the user how many batches were seen, of how many (0 when that is not known)."""
        self.clock.progress(done, total, f"{doing}, {done} batches")
