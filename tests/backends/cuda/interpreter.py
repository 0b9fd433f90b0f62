"""Running Triton kernels on the CPU, in Triton's interpreter, in one process for many kernels.

Triton decides at import whether it interprets, so this file is run as a program of its own: it
reads pickled `Launch`es and writes what they left in memory. What the interpreter lacks of
libdevice is made of numpy here.
"""

from __future__ import annotations

import importlib.util
import linecache
import os
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from planish.ir.shape import evaluate
from planish.tactics.tactic import Region, TritonKernel
from tests.backends.cuda.placing import POISON, Placed

Array = np.ndarray[Any, Any]
ENTRY = "planish_kernel"
HEADER = """import triton
import triton.language as tl
from planish.backends.cuda.codegen.prelude import *
from planish.backends.cuda.codegen import prelude
libdevice = prelude.libdevice
"""


@dataclass
class Launch:
    """One kernel with its memory: `buffers` are written to, `offsets` lead to first elements."""

    source: str
    pointers: tuple[str, ...]
    buffers: list[Array]
    offsets: list[int]
    numbers: list[int]
    grid: tuple[int, int, int]


def interpret(
    cases: Sequence[tuple[TritonKernel, Region, Sequence[Array], Mapping[str, int]]],
    timeout: float = 300.0,
) -> list[list[Array] | str]:
    """Return the outputs of each kernel on its inputs, or why it failed.

    Parameters
    ----------
    cases : sequence
        A kernel, its region, the inputs, and the extents of symbols.
    timeout : float
        Seconds for all of them; those not begun by then have an error.
    """
    prepared = [_prepare(*case) for case in cases]
    deadline = time.time() + timeout
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    process = subprocess.run(
        [sys.executable, "-m", "tests.backends.cuda.interpreter"],
        input=pickle.dumps((deadline, [launch for launch, _ in prepared])), stdout=subprocess.PIPE,
        env=environment, timeout=2 * timeout, check=True, cwd=Path(__file__).parents[3],
    )  # fmt: skip
    answers = pickle.loads(process.stdout)
    found: list[list[Array] | str] = []
    for answer, (_, results) in zip(answers, prepared, strict=True):
        if isinstance(answer, str):
            found.append(answer)
            continue
        first = len(answer) - len(results)
        for placed, raw in zip(results, answer[first:], strict=True):
            placed.raw[:] = raw
        found.append([placed.view.copy() for placed in results])
    return found


def _prepare(
    kernel: TritonKernel, region: Region, inputs: Sequence[Array], sizes: Mapping[str, int]
) -> tuple[Launch, list[Placed]]:
    given = [Placed(operand, sizes) for operand in region.inputs]
    for placed, array in zip(given, inputs, strict=True):
        placed.view[...] = array
    results = [Placed(operand, sizes) for operand in region.outputs]
    for placed in results:
        placed.raw[:] = POISON
    buffers = [placed.raw for placed in (*given, *results)]
    buffers += [_bytes(array) for array in kernel.packed]
    offsets = [placed.offset for placed in (*given, *results)] + [0] * len(kernel.packed)
    pointers = kernel.pointers
    if kernel.workspace_bytes or kernel.counters:
        buffers += [np.zeros(kernel.workspace_bytes + 16, np.uint8)]
        buffers += [np.zeros(4 * kernel.counters + 16, np.uint8)]
        offsets += [0, 0]
    grid = (*(evaluate(dim, sizes) for dim in kernel.grid), 1, 1, 1)
    numbers = [sizes[name] for name in region.symbols]
    source = kernel.source.replace("@NAME@", ENTRY)
    launch = Launch(source, pointers, buffers, offsets, numbers, (grid[0], grid[1], grid[2]))
    return launch, results


def _bytes(array: Array) -> Array:
    return np.frombuffer(np.ascontiguousarray(array).tobytes() + bytes(16), np.uint8).copy()


# -- the process that interprets -----------------------------------------------------------------


def _main() -> None:
    deadline, launches = pickle.loads(sys.stdin.buffer.read())
    answers, sys.stdout = sys.stdout.buffer, sys.stderr  # type: ignore[assignment]
    _teach_interpreter()
    with tempfile.TemporaryDirectory() as folder:
        found = [
            _answer(launch, Path(folder), index) if time.time() < deadline else "time was up"
            for index, launch in enumerate(launches)
        ]
    answers.write(pickle.dumps(found))


def _answer(launch: Launch, folder: Path, index: int) -> list[Array] | str:
    """Return the buffers of operands after the launch (inputs and outputs), or the error."""
    if 0 in launch.grid:
        return _operands(launch)
    path = folder / f"kernel{index}.py"
    path.write_text(HEADER + launch.source)
    linecache.checkcache(str(path))
    try:
        with np.errstate(all="ignore"):
            spec = importlib.util.spec_from_file_location(f"kernel{index}", path)
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            arguments = [
                Pointer(buffer.ctypes.data + offset, kind)
                for buffer, offset, kind in zip(
                    launch.buffers, launch.offsets, launch.pointers, strict=True
                )
            ]
            getattr(module, ENTRY)[launch.grid](*arguments, *launch.numbers)
    except Exception as error:  # whatever a kernel raises is its test's answer
        return f"{type(error).__name__}: {error}: {error.__cause__!r}"
    return _operands(launch)


def _operands(launch: Launch) -> list[Array]:
    count = sum(1 for name in _parameters(launch.source) if name[0] in "xy")
    return launch.buffers[:count]


def _parameters(source: str) -> list[str]:
    line = source[source.index(f"def {ENTRY}(") :]
    names = line[line.index("(") + 1 : line.index(")")].split(",")
    return [name.strip() for name in names if name.strip()]


@dataclass(frozen=True)
class Pointer:
    """A pointer argument of a kernel."""

    address: int
    kind: str


def _teach_interpreter() -> None:
    """Let the interpreter take `Pointer`s, and give the prelude a libdevice of numpy."""
    import triton.language as tl
    from triton.runtime import interpreter

    from planish.backends.cuda.codegen import prelude

    known = interpreter._implicit_cvt

    def convert(argument: Any) -> Any:
        if not isinstance(argument, Pointer):
            return known(argument)
        kind = tl.str_to_ty(argument.kind, None)
        address = np.array([argument.address], dtype=np.uint64)
        return tl.tensor(interpreter.TensorHandle(address, kind), kind)

    def copies(_: Any, arguments: Any, named: Any) -> Any:
        return list(arguments), dict(named)

    interpreter._implicit_cvt = convert
    interpreter.GridExecutor._init_args_hst = copies
    interpreter.GridExecutor._restore_args_dev = lambda *_: None
    prelude.libdevice = Libdevice(tl, interpreter.TensorHandle)


class Libdevice:
    """The functions of CUDA's libdevice that kernels call, by numpy."""

    FUNCTIONS: Mapping[str, Callable[..., Any]] = {
        "acos": np.arccos, "acosh": np.arccosh, "asin": np.arcsin, "asinh": np.arcsinh,
        "atan": np.arctan, "atanh": np.arctanh, "cosh": np.cosh, "expm1": np.expm1,
        "fmod": np.fmod, "log1p": np.log1p, "pow": np.power, "rint": np.rint, "sinh": np.sinh,
        "tan": np.tan, "tanh": np.tanh, "sin": np.sin, "cos": np.cos, "trunc": np.trunc,
    }  # fmt: skip

    def __init__(self, tl: Any, handle: Any) -> None:
        self._tl, self._handle = tl, handle

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name not in self.FUNCTIONS:
            raise AttributeError(name)
        function = self.FUNCTIONS[name]

        def call(*arguments: Any, **_: Any) -> Any:
            first = next(a for a in arguments if isinstance(a, self._tl.tensor))
            data = [a.handle.data if isinstance(a, self._tl.tensor) else a for a in arguments]
            result = np.asarray(function(*data)).astype(first.handle.data.dtype)
            kind = first.type.scalar
            if result.size > 1 or first.type.is_block():
                kind = self._tl.block_type(kind, list(result.shape))
            return self._tl.tensor(self._handle(result, kind.scalar), kind)

        return call


if __name__ == "__main__":
    # run under its importable name, so that pickled classes are the same on both sides
    from tests.backends.cuda import interpreter as this

    this._main()
