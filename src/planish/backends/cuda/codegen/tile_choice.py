"""Which tiles a matrix product is cut into: configurations in the order of their estimated time.

The estimate was fitted to about 400 measured kernels (96 to 25216 rows, FP16, one H200): it finds
a configuration within 10 % of the best measured one. A block's step is bound by the latency of its
loads, which further stages hide, by the L2 cache, or by arithmetic; what a block does once, its
epilogue above all, costs as much as several steps.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from planish.tactics.tactic import Config

MOST_CONFIGS = 24
EXTENTS = (16, 32, 64, 128, 256)
SPLITS = (1, 2, 3, 4, 6, 8, 12, 16)
SHARED_BYTES = 227 << 10  # of one multiprocessor
REGISTERS = 65536

# microseconds: fitted, see above
LAUNCH = 3.13
LATENCY = 0.575  # of a tile's loads
BYTE = 1.0e-5  # from the L2 cache, for one multiprocessor
MULTIPLICATION = 2.8e-7  # of 16-bit floats
NARROW = 5.8  # times as long take tiles that are too small for the warp group's instructions
STEP = 0.005  # what any step of a block costs besides
RESULT = 1.47e-4  # per element of a tile, in the epilogue
SPLIT = 0.92
SPLIT_RESULT = 8.0e-5  # per element of a tile and part


@dataclass(frozen=True)
class _Problem:
    rows: int
    columns: int
    depth: int
    itemsize: int
    multiprocessors: int

    @property
    def steps(self) -> tuple[int, ...]:
        """How much of the depth a step may take."""
        return (32, 64, 128) if self.itemsize > 1 else (64, 128)


def tile_configs(
    rows: int, columns: int, depth: int, itemsize: int, multiprocessors: int
) -> list[Config]:
    """Return configurations for a product of these extents, the best guess first.

    Parameters
    ----------
    rows, columns, depth : int
        Extents of the product.
    itemsize : int
        Bytes of an element.
    multiprocessors : int
        That the product has to itself.
    """
    problem = _Problem(rows, columns, depth, itemsize, multiprocessors)
    found: list[tuple[float, Config]] = []
    for m, n, k, split in itertools.product(EXTENTS, EXTENTS, problem.steps, SPLITS):
        if _is_sensible(problem, m, n, k, split):
            found += sorted(_pipelined(problem, m, n, k, split), key=lambda item: item[0])[:1]
    found.sort(key=lambda item: item[0])
    return [config for _, config in found[:MOST_CONFIGS]]


def _is_sensible(problem: _Problem, m: int, n: int, k: int, split: int) -> bool:
    if m * n > 128 * 256 or m >= 2 * max(problem.rows, 16) or n >= 2 * max(problem.columns, 16):
        return False
    if k >= 2 * max(problem.depth, problem.steps[0]):
        return False
    tiles = -(-problem.rows // m) * -(-problem.columns // n)
    steps = -(-problem.depth // k)
    if split > 1:
        return steps >= 2 * split and tiles * split <= 4 * problem.multiprocessors
    return True


def _pipelined(problem: _Problem, m: int, n: int, k: int, split: int) -> list[tuple[float, Config]]:
    """Return a tile's configurations by the number of stages, with their estimates."""
    stage = (m + n) * k * problem.itemsize
    steps = -(-problem.depth // (k * split))
    warps = 8 if m * n >= 64 * 128 or m >= 128 else 4 if m * n >= 2048 else 2
    config = {"m": m, "n": n, "k": k, "warps": warps, "split": split}
    return [
        (_microseconds(problem, {**config, "stages": stages}), {**config, "stages": stages})
        for stages in (2, 3, 4, 5)
        if stages * stage <= SHARED_BYTES - 2048 and stages <= max(2, steps + 1)
    ]


def _microseconds(problem: _Problem, config: Config) -> float:
    """Return the estimated time of a product."""
    m, n, k, split = config["m"], config["n"], config["k"], config["split"]
    warps, stages = config["warps"], config["stages"]
    stage = (m + n) * k * problem.itemsize
    blocks = -(-problem.rows // m) * -(-problem.columns // n) * split
    steps = -(-problem.depth // (k * split))

    registers = 32 * warps * min(255.0, 48 + 1.25 * m * n / (32 * warps))
    resident = max(1, min(SHARED_BYTES // (stage * stages), int(REGISTERS / registers), 16))
    mine = max(1.0, blocks / problem.multiprocessors)
    mine = -(-mine // 1) if mine < 8 else mine  # the last wave matters where there are few
    together = min(mine, resident)
    waves = mine / together
    waves = -(-waves // 1) if waves < 6 else waves

    is_wide = m >= 64 and n >= 32 and warps >= 4
    multiply = m * n * k * MULTIPLICATION * problem.itemsize / 2 * (1.0 if is_wide else NARROW)
    wait = LATENCY / (stages - 1)
    step = max(wait, together * max(stage * BYTE, multiply)) + 0.05 * wait + STEP
    block = LATENCY + steps * step + together * m * n * RESULT
    parts = SPLIT + SPLIT_RESULT * m * n * split if split > 1 else 0.0
    return float(LAUNCH + waves * block + parts)
