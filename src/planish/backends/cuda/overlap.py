"""Whether steps on streams of their own make an engine faster: measured, not assumed."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from planish.engine.parts import EngineParts
from planish.errors import DeviceError
from planish.plan.plan import Plan
from planish.runtime.cuda.arrays import DeviceArray
from planish.runtime.engine import Engine

ROUNDS = 7
BURST_SECONDS = 0.01
GAIN = 0.98  # of the time, that another plan must fall below: its memory is larger


def fastest_plan(parts: EngineParts, spread: Callable[[int], Plan], most: int) -> Plan:
    """Return the plan of `parts`, or one that `spread` makes for up to `most` streams.

    Engines take turns with bursts of inferences on arrays that lie on the device; medians are
    compared.
    """
    plans = [parts.plan]
    for streams in sorted({2, most}):
        plan = spread(streams)
        if streams <= most and _streams_of(plan) > _streams_of(plans[-1]):
            plans.append(plan)
    if len(plans) == 1:
        return parts.plan
    try:
        times = _measured([Engine(replace(parts, plan=plan)) for plan in plans])
    except DeviceError:  # too little memory for several engines at once
        return parts.plan
    best = min(range(len(plans)), key=lambda index: times[index])
    return plans[best] if times[best] < GAIN * times[0] else parts.plan


def _streams_of(plan: Plan) -> int:
    return 1 + max((step.stream for step in plan.steps), default=0)


def _measured(engines: Sequence[Engine]) -> list[float]:
    """Return the median seconds of an inference of every engine."""
    example = engines[0].example_inputs()
    inputs = {name: array if array.dtype.hasobject else DeviceArray.of(array)
              for name, array in example.items()}  # fmt: skip
    for engine in engines:
        _burst(engine, inputs, 3)
    repeats = max(5, int(BURST_SECONDS / _burst(engines[0], inputs, 3)))
    samples = [
        [_burst(engine, inputs, repeats) for engine in engines] for _ in range(ROUNDS)
    ]  # fmt: skip
    return [statistics.median(times) for times in zip(*samples, strict=True)]


def _burst(engine: Engine, inputs: Mapping[str, Any], repeats: int) -> float:
    """Return the seconds of one of so many inferences, one after the other on a stream."""
    start = time.perf_counter()
    pending = [engine.run_async(inputs) for _ in range(repeats)]
    pending[-1].result()
    return (time.perf_counter() - start) / repeats
