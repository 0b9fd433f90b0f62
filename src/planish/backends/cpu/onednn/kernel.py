"""The runner of oneDNN kernels; `planish.runtime.external` imports it when an engine has one.

A `Program` is made before an engine's first inference: primitives are created (their code is
generated), and the weights, which lie plain in the engine, are copied once into the layout that
oneDNN chose. It is shared by all threads. Every thread that runs it has its own `_Arguments`:
oneDNN memory objects whose addresses are set only when they differ from the last call's, which in a
steady state they do not. Scratch memory is one buffer a thread, shared by all programs.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from planish.backends.cpu.onednn.library import (
    QUERY_SCRATCHPAD,
    QUERY_WEIGHTS,
    Argument,
    Library,
    OneDnnError,
    Owned,
    check_installed,
    library,
)
from planish.backends.cpu.onednn.primitives import Chosen, choose, describe
from planish.backends.cpu.onednn.problem import (
    ITEM_BYTES,
    Binary,
    Problem,
    Tensor,
    check_packed,
    read_problem,
)
from planish.errors import PlanError
from planish.runtime.external import ExternalRequest, Runner, register
from planish.runtime.memory import address_of, allocate

KIND = "onednn"
Array = np.ndarray[Any, Any]

# arguments of primitives, from dnnl_types.h
_SOURCE, _TARGET, _WEIGHTS, _BIAS, _SCRATCHPAD = 1, 17, 33, 41, 80
_POST_OPERATION, _SECOND_SOURCE = 32768, 2

_ALIGNMENT = 4096  # of buffers inside the scratch memory
_SCRATCH = -1  # an operand's index that stands for the thread's scratch memory
_FIXED = -2  # ... and for an address that never changes


@dataclass(frozen=True)
class _Place:
    """An argument's memory: an operand or the scratch memory plus an offset, or an address."""

    descriptor: Owned
    operand: int
    offset: int


@dataclass
class _Call:
    """One execution of a primitive; `places` are by argument number."""

    primitive: Owned
    name: str
    places: dict[int, _Place] = field(default_factory=dict)


class Program:
    """The primitives of one problem in order, with constants in place.

    `implementation` is the name that oneDNN gives to the main primitive's code, `copies` how many
    operands are copied before or after it.

    Parameters
    ----------
    onednn : Library
    problem : Problem
    constants : sequence of array
        The packed constants' bytes.
    threads : int
        Threads that the primitives use.
    """

    def __init__(
        self, onednn: Library, problem: Problem, constants: Sequence[Array], threads: int
    ) -> None:
        self.threads = threads
        self.calls: list[_Call] = []
        self.scratch_bytes = 0
        self._library = onednn
        self._problem = problem
        self._constants = constants
        self._keep: list[Array] = []
        with onednn.threads(threads):
            chosen = choose(onednn, problem)
            if isinstance(chosen, str):
                raise OneDnnError(chosen, where=problem.name)
            self.implementation = chosen.implementation
            self._arrange(chosen)

    @property
    def copies(self) -> int:
        """Primitives besides the main one."""
        return len(self.calls) - 1

    def _arrange(self, chosen: Chosen) -> None:
        problem, arrangement = self._problem, chosen.arrangement
        places: dict[int, _Place] = {}
        places[_SOURCE] = self._read(problem.source, arrangement.source)
        target = self._own(arrangement.target)
        places[_TARGET] = target
        for index, (operation, tensor) in enumerate(
            zip(problem.post, arrangement.post, strict=True)
        ):
            if not isinstance(operation, Binary):
                continue
            if isinstance(tensor, Tensor):
                number = _POST_OPERATION * (index + 1) | _SECOND_SOURCE
                places[number] = self._read(operation.tensor, tensor)
            else:
                self._copy(self._own(operation.tensor), target)
        places[_WEIGHTS] = self._weights(chosen)
        if problem.bias is not None:
            places[_BIAS] = self._own(problem.bias)
        queried = self._library.queried(chosen.descriptor.address, QUERY_SCRATCHPAD)
        size = self._library.bytes_of(queried) if queried else 0
        if size:
            places[_SCRATCHPAD] = _Place(_Borrowed(queried), _SCRATCH, self._reserve(size))
        primitive = self._library.primitive(chosen.descriptor.address)
        self.calls.append(_Call(primitive, f"{problem.name} {chosen.implementation}", places))
        self._keep_descriptor = chosen.descriptor  # it owns the scratchpad's description
        if arrangement.target != problem.target:
            self._copy(target, self._own(problem.target))

    def _read(self, given: Tensor, wanted: Tensor) -> _Place:
        """Return the place of a tensor that the primitive reads, after a copy where needed."""
        if wanted.operand is not None or wanted.packed is not None:
            return self._own(wanted)
        place = self._own(wanted)
        self._copy(self._own(given), place)
        return place

    def _own(self, tensor: Tensor) -> _Place:
        """Return a tensor's place; for one without memory, new memory in the scratch area."""
        descriptor = describe(self._library, tensor)
        if tensor.operand is not None:
            return _Place(descriptor, tensor.operand, tensor.shift * ITEM_BYTES[tensor.dtype])
        if tensor.packed is not None:
            return _Place(descriptor, _FIXED, address_of(self._constants[tensor.packed]))
        return _Place(descriptor, _SCRATCH, self._reserve(tensor.bytes))

    def _weights(self, chosen: Chosen) -> _Place:
        """Return the weights' place, constant ones in the layout that oneDNN asked for."""
        plain = self._own(self._problem.weights)
        wanted = self._library.queried(chosen.descriptor.address, QUERY_WEIGHTS)
        if plain.operand != _FIXED or self._library.equal(plain.descriptor.address, wanted):
            return plain
        memory = allocate(self._library.bytes_of(wanted))
        self._keep.append(memory)
        place = _Place(_Borrowed(wanted), _FIXED, address_of(memory))
        reorder = self._reorder(plain, place)
        _Arguments(self._library, [reorder]).run([0])
        return place

    def _copy(self, source: _Place, target: _Place) -> None:
        self.calls.append(self._reorder(source, target))

    def _reorder(self, source: _Place, target: _Place) -> _Call:
        descriptor = self._library.reorder_descriptor(
            source.descriptor.address, target.descriptor.address
        )
        primitive = self._library.primitive(descriptor.address)
        return _Call(
            primitive, f"a copy for {self._problem.name}", {_SOURCE: source, _TARGET: target}
        )

    def _reserve(self, size: int) -> int:
        offset = self.scratch_bytes
        self.scratch_bytes = -(-(offset + size) // _ALIGNMENT) * _ALIGNMENT
        return offset


class _Borrowed(Owned):
    """A descriptor that belongs to a primitive descriptor."""

    __slots__ = ()

    def __init__(self, address: int) -> None:
        super().__init__(address, lambda _: 0)


class _Arguments:
    """The memory objects of one thread for the calls of a program."""

    def __init__(self, onednn: Library, calls: Sequence[_Call]) -> None:
        self._library = onednn
        self._stream = onednn.stream()
        self._moving: list[tuple[int, int, int]] = []  # memory, operand, offset
        self._keep: list[Owned] = []
        self._at: list[int] = []
        self._calls: list[tuple[int, int, Any, str]] = []
        for call in calls:
            arguments = (Argument * len(call.places))()
            for slot, (number, place) in zip(arguments, call.places.items(), strict=True):
                slot.argument, slot.memory = number, self._memory(place)
            self._calls.append((call.primitive.address, len(arguments), arguments, call.name))

    def run(self, addresses: list[int]) -> None:
        """Execute everything; `addresses` are the operands', then the scratch memory's."""
        if addresses != self._at:
            for memory, operand, offset in self._moving:
                self._library.set_data(memory, addresses[operand] + offset)
            self._at = addresses
        execute, stream = self._library.execute, self._stream.address
        for primitive, count, arguments, name in self._calls:
            status = execute(primitive, stream, count, arguments)
            if status:
                self._library.check(status, name)

    def _memory(self, place: _Place) -> int:
        fixed = place.operand == _FIXED
        memory = self._library.memory(place.descriptor.address, place.offset if fixed else None)
        self._keep.append(memory)
        if not fixed:
            self._moving.append((memory.address, place.operand, place.offset))
        return memory.address


class _Scratch(threading.local):
    """Scratch memory of a thread, as large as the largest program asked for."""

    def __init__(self) -> None:
        self.memory = np.empty(0, np.uint8)
        self.address = 0

    def reserve(self, size: int) -> None:
        """Have at least `size` bytes; what was there is lost."""
        if self.memory.nbytes < size:
            self.memory = allocate(size)
            self.address = address_of(self.memory)


_scratch = _Scratch()


class OneDnnRunner:
    """Runs one kernel; any number of threads may call it at once."""

    def __init__(self, request: ExternalRequest) -> None:
        self._library = library()
        self._problem = read_problem(request.parameters, request.operands, request.outputs)
        check_packed(self._problem, [constant.nbytes for constant in request.constants])
        self._constants = request.constants
        self._program = Program(self._library, self._problem, request.constants, request.threads)
        self._local = threading.local()

    @property
    def program(self) -> Program:
        """The primitives that it runs."""
        return self._program

    def __call__(self, inputs: Sequence[Array], outputs: Sequence[Array | None]) -> Sequence[Array]:
        """Compute the output from views of the operands."""
        program = self._program
        if self._library.forked and program.threads > 1:
            program = self._after_fork()
        arguments = getattr(self._local, "arguments", None)
        if arguments is None:
            arguments = self._new_arguments(program)
        results = [view for view in outputs if view is not None]  # extents are static: all of them
        addresses = [view.__array_interface__["data"][0] for view in (*inputs, *results)]
        if addresses[-1] in addresses[:-1]:
            raise PlanError("oneDNN cannot overwrite an operand", where=self._problem.name)
        addresses.append(_scratch.address)
        before = self._library.use_threads(program.threads)
        try:
            arguments.run(addresses)
        finally:
            if before != program.threads:
                self._library.use_threads(before)
        return results

    def _new_arguments(self, program: Program) -> _Arguments:
        _scratch.reserve(program.scratch_bytes)
        self._local.arguments = _Arguments(self._library, program.calls)
        arguments: _Arguments = self._local.arguments
        return arguments

    def _after_fork(self) -> Program:
        """Return a program for the caller's thread alone: OpenMP's threads were not forked."""
        self._program = Program(self._library, self._problem, self._constants, 1)
        self._local = threading.local()
        return self._program


def make_onednn_runner(request: ExternalRequest) -> Runner:
    """Return the function that runs the request's convolution or product."""
    return OneDnnRunner(request)


register(KIND, make_onednn_runner, check_installed)
