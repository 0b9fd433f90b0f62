"""Running one Triton kernel on a GPU: operands placed as their strides say, outputs poisoned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from planish.backends.cuda.codegen.compile import ENTRY, Cubin
from planish.ir.shape import evaluate
from planish.runtime.cuda.driver import DeviceMemory, Function, Stream
from planish.tactics.tactic import Operand, Region, TritonKernel
from tests.backends.cuda.placing import POISON, SLACK, Placed

Array = np.ndarray[Any, Any]


class _OnDevice(Placed):
    """An operand in device memory."""

    def __init__(self, operand: Operand, sizes: Mapping[str, int]) -> None:
        super().__init__(operand, sizes)
        self.memory = DeviceMemory(self.raw.nbytes)
        self.address = self.memory.address + self.offset


def run_kernel(
    kernel: TritonKernel,
    cubin: Cubin,
    region: Region,
    inputs: Sequence[Array],
    sizes: Mapping[str, int],
) -> list[Array]:
    """Return the outputs of `kernel`, run twice so that counters are seen to be left at zero."""
    given = [_OnDevice(operand, sizes) for operand in region.inputs]
    for placed, array in zip(given, inputs, strict=True):
        placed.view[...] = array
        placed.memory.write(placed.raw)
    results = [_OnDevice(operand, sizes) for operand in region.outputs]
    packed = [DeviceMemory(array.nbytes + SLACK) for array in kernel.packed]
    for memory, array in zip(packed, kernel.packed, strict=True):
        memory.write(array)
    pointers = [placed.address for placed in (*given, *results)]
    pointers += [memory.address for memory in packed]
    workspace, counters = DeviceMemory(kernel.workspace_bytes), DeviceMemory(4 * kernel.counters)
    counters.fill_zero()
    if kernel.workspace_bytes or kernel.counters:
        pointers += [workspace.address, counters.address]
    grid = (*(evaluate(dim, sizes) for dim in kernel.grid), 1, 1, 1)
    numbers = [sizes[name] for name in region.symbols]
    function = Function(cubin.code, ENTRY, cubin.shared, cubin.warps)
    stream = Stream()
    for _ in range(2):
        for placed in results:
            placed.raw[:] = POISON
            placed.memory.write(placed.raw)
        if 0 not in grid[:3]:
            function.launch(stream, (grid[0], grid[1], grid[2]), pointers, numbers)
        stream.synchronize()
    for placed in results:
        placed.memory.read(placed.raw)
    return [placed.view.copy() for placed in results]
