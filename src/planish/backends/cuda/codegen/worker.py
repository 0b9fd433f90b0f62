"""Compiles Triton sources to cubins; runs as a process of its own, one JSON line a job.

A wrong combination of types can abort the compiler, and some kernels compile for minutes: the
parent (compile.py) survives both by losing this process. Nothing of Planish but the prelude is
imported here.
"""

from __future__ import annotations

import base64
import json
import linecache
import sys
import tempfile
import types
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

HEADER = """import triton
import triton.language as tl
from triton.language.extra import libdevice
from planish.backends.cuda.codegen.prelude import *
planish_i8 = planish_i8_packed
planish_u8 = planish_u8_packed
"""
PROGRAMMATIC_LAUNCH = 90  # as in runtime/cuda/driver.py, which launches such kernels early
EARLY = """planish_begin = planish_begin_programmatic
planish_wait = planish_wait_programmatic
"""
# that one block may use, by compute capability
SHARED_BYTES = {80: 163 << 10, 86: 99 << 10, 87: 163 << 10, 89: 99 << 10, 120: 99 << 10}
MOST_SHARED = 227 << 10


def compile_job(job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return the cubin and launch facts of one job, or its error."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    path = folder / f"{job['name']}.py"
    early = EARLY if job["arch"] >= PROGRAMMATIC_LAUNCH else ""
    path.write_text(HEADER + early + job["source"])
    loader = SourceFileLoader(job["name"], str(path))
    module = types.ModuleType(job["name"])
    module.__file__ = str(path)
    linecache.checkcache(str(path))
    loader.exec_module(module)
    function = getattr(module, job["name"])
    names = function.arg_names
    signature = [*job["pointers"], *["i32"] * (len(names) - len(job["pointers"]))]
    attributes = {
        (index,): [["tt.divisibility", 16]]
        for index, is_aligned in enumerate(job["aligned"])
        if is_aligned
    }
    source = ASTSource(
        fn=function,
        signature=dict(zip(names, signature, strict=True)),
        constexprs={},
        attrs=attributes,
    )
    target = GPUTarget("cuda", job["arch"], 32)
    for stages in range(job["stages"], 0, -1):  # a pipeline that is too long is cut
        options = {"num_warps": job["warps"], "num_stages": stages}
        compiled = triton.compile(source, target=target, options=options)
        if compiled.metadata.shared <= SHARED_BYTES.get(job["arch"], MOST_SHARED):
            break
    else:
        return {"error": f"it needs {compiled.metadata.shared} bytes of shared memory"}
    metadata = compiled.metadata
    scratch = (getattr(metadata, "global_scratch_size", 0) or 0) + (
        getattr(metadata, "profile_scratch_size", 0) or 0
    )
    if scratch:
        return {"error": f"it needs {scratch} bytes of compiler-managed device memory"}
    return {
        "cubin": base64.b64encode(compiled.asm["cubin"]).decode(),
        "shared": metadata.shared,
        "warps": metadata.num_warps,
        "triton": triton.__version__,
    }


def main() -> None:
    """Answer jobs until standard input ends."""
    answers, sys.stdout = sys.stdout, sys.stderr  # what compilers print is no answer
    with tempfile.TemporaryDirectory() as folder:
        for line in sys.stdin:
            job = json.loads(line)
            try:
                answer = compile_job(job, Path(folder))
            except BaseException as error:  # whatever the compiler raises is this job's answer
                answer = {"error": f"{type(error).__name__}: {error}"[:2000]}
            answers.write(json.dumps(answer) + "\n")
            answers.flush()


if __name__ == "__main__":
    main()
