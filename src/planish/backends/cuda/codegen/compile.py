"""Triton sources to cubins in worker processes with time limits, cached by content."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from planish.config import environment
from planish.errors import CompileError
from planish.tactics.tactic import TritonKernel

ENTRY = "planish_kernel"  # every cubin's only function
LIMIT = 60.0  # seconds for one kernel; most take one or two


@dataclass(frozen=True)
class Cubin:
    """Machine code of one kernel and what a launch has to know.

    Attributes
    ----------
    code : bytes
    shared : int
        Bytes of dynamic shared memory.
    warps : int
        Warps of a block.
    """

    code: bytes
    shared: int
    warps: int


def compile_kernels(
    kernels: Sequence[TritonKernel], arch: int, timeout: float | None = None
) -> list[Cubin | CompileError]:
    """Return the cubin of every kernel, or why it has none; equal kernels compile once.

    Parameters
    ----------
    kernels : sequence of TritonKernel
    arch : int
        Compute capability without the point: 90 for sm_90.
    timeout : float, optional
        Seconds for all of them; what is not done by then has an error.
    """
    jobs = [_job(kernel, arch) for kernel in kernels]
    keys = [_key(job) for job in jobs]
    fresh = {key: job for key, job in zip(keys, jobs, strict=True) if _cached(key) is None}
    deadline = time.monotonic() + (timeout or 3600.0)
    if fresh:
        count = min(len(fresh), len(os.sched_getaffinity(0)))
        idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        workers = [_Worker() for _ in range(count)]
        for worker in workers:
            idle.put(worker)
        try:
            with ThreadPoolExecutor(count) as pool:
                list(pool.map(lambda key: _run(idle, key, fresh[key], deadline), fresh))
        finally:
            for worker in workers:
                worker.stop()
    results = (_cached(key) for key in keys)
    return [r if r is not None else CompileError("time was up before it compiled") for r in results]


class _Worker:
    """One compiler process, started again after it was lost."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def ask(self, job: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        """Return the worker's answer; a crash or a time-out is an error like any other."""
        process = self._process
        if process is None or process.poll() is not None:
            process = self._process = self._start()
        if process.stdin is None or process.stdout is None:
            raise CompileError("the compiler process has no pipes")
        timer = threading.Timer(seconds, process.kill)
        timer.start()
        try:
            process.stdin.write(json.dumps(job) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            timer.cancel()
        if not line:
            process.wait()
            return {"error": f"the compiler ended with status {process.returncode}"}
        answer: dict[str, Any] = json.loads(line)
        return answer

    def stop(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    @staticmethod
    def _start() -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "planish.backends.cuda.codegen.worker"]
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            text=True,
        )  # fmt: skip


_MEMORY: dict[str, Cubin | CompileError] = {}


def _run(
    idle: queue.SimpleQueue[_Worker], key: str, job: Mapping[str, Any], deadline: float
) -> None:
    worker = idle.get()
    try:
        left = deadline - time.monotonic()
        if left > 0:
            _keep(key, worker.ask(job, min(left, LIMIT)))
    finally:
        idle.put(worker)


def _job(kernel: TritonKernel, arch: int) -> dict[str, Any]:
    return {
        "name": ENTRY,
        "source": kernel.source.replace("@NAME@", ENTRY),
        "pointers": list(kernel.pointers),
        "aligned": list(kernel.aligned),
        "warps": kernel.warps,
        "stages": kernel.stages,
        "arch": arch,
    }


def _key(job: Mapping[str, Any]) -> str:
    folder = Path(__file__).parent
    code = [(folder / name).read_bytes() for name in ("prelude.py", "worker.py")]
    text = json.dumps(job, sort_keys=True).encode()
    return hashlib.blake2b(b"".join([text, *code]), digest_size=16).hexdigest()


def _cached(key: str) -> Cubin | CompileError | None:
    if key in _MEMORY:
        return _MEMORY[key]
    folder = environment("PLANISH_CACHE")
    path = Path(folder) / "cubins" / f"{key}.json" if folder else None
    if path is None or not path.is_file():
        return None
    with contextlib.suppress(ValueError, KeyError, OSError):
        _MEMORY[key] = _cubin(json.loads(path.read_text()))
    return _MEMORY.get(key)


def _keep(key: str, answer: dict[str, Any]) -> None:
    if "error" in answer:
        _MEMORY[key] = CompileError(str(answer["error"]))
        return
    _MEMORY[key] = _cubin(answer)
    folder = environment("PLANISH_CACHE")
    if folder:
        path = Path(folder) / "cubins" / f"{key}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}")
        temporary.write_text(json.dumps(answer))
        temporary.replace(path)


def _cubin(answer: Mapping[str, Any]) -> Cubin:
    code = base64.b64decode(answer["cubin"])
    return Cubin(code, int(answer["shared"]), int(answer["warps"]))
