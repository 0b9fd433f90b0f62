"""The memory of one inference under way: arena, scratch, pointers and symbol values."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from planish.plan.plan import Plan
from planish.runtime.memory import PAGE, address_of, allocate
from planish.runtime.native import HABIT_BYTES, Call, NativeObject
from planish.runtime.shapes import BoundShapes

Array = np.ndarray[Any, Any]


class ExecutionContext:
    """Everything that one running inference writes. One thread uses a context at a time.

    Attributes
    ----------
    arena : array
        Bytes of all intermediate values.
    inputs, outputs : ctypes arrays
        Addresses of the caller's arrays, as the native code reads them.
    dims : array
        int64 values of the plan's symbols.
    call : Call
        The arguments of native code, filled in except for the segment.
    placed : dict
        What the executor knows about external steps at the present shapes.
    """

    def __init__(
        self, plan: Plan, native: NativeObject | None, weights: Array, threads: int
    ) -> None:
        stride = native.scratch_stride if native else 0
        arena_bytes = -(-plan.arena_bytes // PAGE) * PAGE
        habit_bytes = HABIT_BYTES * len(plan.steps)
        memory = allocate(arena_bytes + stride * threads + PAGE)
        self.arena = memory[: plan.arena_bytes]
        self.inputs = (ctypes.c_void_p * max(len(plan.inputs), 1))()
        self.outputs = (ctypes.c_void_p * max(len(plan.outputs), 1))()
        self.dims = np.zeros(max(len(plan.symbols), 1), dtype=np.int64)
        self.binding: BoundShapes | None = None
        self.placed: dict[int, Any] = {}
        self._symbols = plan.symbols
        self._habits = np.zeros(max(habit_bytes, 1), dtype=np.uint8)
        self._keep_alive = (memory, weights)
        start = address_of(memory)
        self.call = Call(
            inputs=ctypes.addressof(self.inputs),
            outputs=ctypes.addressof(self.outputs),
            arena=start,
            weights=address_of(weights),
            scratch=start + arena_bytes,
            dims=address_of(self.dims),
            habits=address_of(self._habits),
            threads=threads,
            first=0,
            last=len(plan.steps),
            loop=-1,
        )
        self.call_address = ctypes.addressof(self.call)

    def is_free_for(self, stream: int | None) -> bool:
        """Return True: inferences on the CPU are waited for before a context is given back."""
        return True

    def wait(self) -> None:
        """Return at once; see `is_free_for`."""

    def bind(self, binding: BoundShapes) -> None:
        """Set the symbols' values; what was learned about other shapes is forgotten."""
        if self.binding is binding:
            return
        for index, name in enumerate(self._symbols):
            self.dims[index] = binding.symbols.get(name, 0)
        self._habits[:] = 0
        self.placed.clear()
        self.binding = binding
