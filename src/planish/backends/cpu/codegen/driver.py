"""The translation unit of an engine: kernels, one wrapper a step, and the driver that runs them.

The order in the file is the order of use: prelude (what kernels call), driver.h (the structures
that Python fills in), kernels (each distinct source once), wrappers (where the pointers of every
step are bound to input, output, arena and weights), the table of steps, and driver.c (thread pool
and the loop over the table).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from planish.backends.cpu.codegen.scalar import c_dim
from planish.errors import PlanError
from planish.ir.shape import Dim, product
from planish.plan.plan import Binding, HaloFill, Loop, Plan, Step
from planish.tactics.tactic import Kernel

_FOLDER = Path(__file__).parent
_BASES = {
    "input": "c->inputs[{}]",
    "output": "c->outputs[{}]",
    "arena": "c->arena",
    "weights": "c->weights",
}
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_SHOWN_LAYERS = 300  # characters of layer names in a comment


def prelude_text() -> str:
    """Return the C source that every kernel may rely on."""
    return "".join((_FOLDER / name).read_text() for name in ("prelude.h", "vector.h"))


def print_driver(plan: Plan, kernels: Mapping[str, Kernel], prelude: str | None = None) -> str:
    """Return the C source of an engine.

    Parameters
    ----------
    plan : Plan
        Steps with their bindings; external steps get an empty place in the table.
    kernels : dict
        `Step.function` to kernel. Kernels with equal source are emitted once.
    prelude : str, optional
        What precedes the kernels; `prelude_text()` by default.

    Raises
    ------
    PlanError
        When a step's function has no kernel, or loops are not nested.
    """
    functions = _functions(plan, kernels)
    parts = [
        "/* Written by Planish: a kernel for every region, then the driver. */\n",
        prelude_text() if prelude is None else prelude,
        (_FOLDER / "driver.h").read_text(),
        *_kernel_sources(plan, kernels, functions),
        *(
            _wrapper(index, step, functions[step.function], plan.symbols)
            for index, step in enumerate(plan.steps)
            if step.function is not None
        ),
        _step_table(plan),
        _loop_table(plan),
        f"#define planish_scratch_stride {scratch_stride(plan)}\n",
        (_FOLDER / "driver.c").read_text(),
    ]
    return "\n".join(parts)


def scratch_stride(plan: Plan) -> int:
    """Return the scratch bytes of one thread: the largest need of a step, whole pages."""
    need = max([plan.scratch_bytes, *(step.scratch_bytes for step in plan.steps)])
    return -(-need // 4096) * 4096


def _functions(plan: Plan, kernels: Mapping[str, Kernel]) -> dict[str, str]:
    """Return `Step.function` to the C function that implements it."""
    by_digest: dict[str, str] = {}
    functions: dict[str, str] = {}
    for step in plan.steps:
        name = step.function
        if name is None or name in functions:
            continue
        if name not in kernels:
            raise PlanError(f"no kernel for function {name}", where=f"step {step.name}")
        if not _IDENTIFIER.match(name):
            raise PlanError(f"{name!r} is no C identifier", where=f"step {step.name}")
        # the prefix keeps users' layer names apart from C's and the prelude's names
        functions[name] = by_digest.setdefault(kernels[name].digest, f"k_{name}")
    return functions


def _kernel_sources(
    plan: Plan, kernels: Mapping[str, Kernel], functions: Mapping[str, str]
) -> list[str]:
    layers: dict[str, list[str]] = {}
    kernel_of: dict[str, Kernel] = {}
    for step in plan.steps:
        if step.function is None:
            continue
        function = functions[step.function]
        layers.setdefault(function, []).append(step.layers)
        kernel_of.setdefault(function, kernels[step.function])
    sources = []
    for function, kernel in kernel_of.items():
        names = _comment("; ".join(dict.fromkeys(layers[function])))
        # not inlined into its wrapper: profilers and stack traces show the kernel's own name
        prototype = (
            f"static __attribute__((noinline)) void {function}(char *const *p, const int64_t *d, "
            "int64_t begin, int64_t end, char *scratch);"
        )
        body = kernel.source.replace("@NAME@", function)
        sources.append(f"/* kernel {function}: {names} */\n{prototype}\n{body.rstrip()}\n")
    return sources


def _comment(text: str) -> str:
    """Return `text` so that it cannot end a C comment or a line."""
    safe = re.sub(r"[^ -~]", "?", text).replace("*/", "* /").replace("/*", "/ *")
    return safe if len(safe) <= _SHOWN_LAYERS else safe[: _SHOWN_LAYERS - 3] + "..."


def _wrapper(index: int, step: Step, function: str, symbols: Sequence[str]) -> str:
    lines = [
        f"/* step {index}: {_comment(step.layers)} */",
        f"static void step_{index}"
        "(const planish_call *c, int64_t begin, int64_t end, char *scratch)",
        "{",
    ]
    if _needs_dims(step):
        lines.append("    const int64_t *const d = c->dims;")
    fills = [line for fill in step.fills for line in _fill_lines(fill, symbols)]
    if fills:
        lines += ["    if (begin == 0) {", *(f"        {line}" for line in fills), "    }"]
    pointers = ",\n        ".join(_pointer(binding, symbols) for binding in step.bindings)
    lines += [
        f"    char *const p[] = {{\n        {pointers or '0'},\n    }};",
        f"    if (begin < end) {function}(p, c->dims, begin, end, scratch);",
        "}",
    ]
    if not isinstance(step.items, int):
        lines += [
            f"static int64_t count_{index}(const int64_t *d)",
            f"{{ return {c_dim(step.items, symbols)}; }}",
        ]
    if step.guard:
        tests = " && ".join(
            f"(*(const uint8_t *)({_pointer(binding, symbols)}) != 0) == {int(value)}"
            for binding, value in step.guard
        )
        declare = "const int64_t *const d = c->dims; " if _guard_needs_dims(step) else ""
        lines += [
            f"static int guard_{index}(const planish_call *c)",
            f"{{ {declare}return {tests}; }}",
        ]
    return "\n".join(lines) + "\n"


def _needs_dims(step: Step) -> bool:
    dims: list[Dim] = [binding.offset for binding in step.bindings]
    for fill in step.fills:
        dims += [fill.binding.offset, *fill.sizes]
    return any(not isinstance(dim, int) for dim in dims)


def _guard_needs_dims(step: Step) -> bool:
    return any(not isinstance(binding.offset, int) for binding, _ in step.guard)


def _pointer(binding: Binding, symbols: Sequence[str]) -> str:
    base = _BASES[binding.space].format(binding.index)
    if binding.offset == 0:
        return base
    return f"{base} + {c_dim(binding.offset, symbols)}"


def _fill_lines(fill: HaloFill, symbols: Sequence[str]) -> list[str]:
    """Return statements that zero the halo; axes inside the last one with a halo are folded."""
    with_halo = [axis for axis, pair in enumerate(fill.halo) if pair != (0, 0)]
    if not with_halo:
        return []
    rank = with_halo[-1] + 1
    unit = product(fill.sizes[rank:]) * fill.itemsize
    sizes = ", ".join(c_dim(size, symbols) for size in fill.sizes[:rank])
    halo = ", ".join(f"{{{before}, {after}}}" for before, after in fill.halo[:rank])
    return [
        "{",
        f"    const int64_t sizes[] = {{{sizes}}}, halo[][2] = {{{halo}}};",
        f"    planish_zero_halo({_pointer(fill.binding, symbols)}, {rank}, sizes, halo, "
        f"{c_dim(unit, symbols)});",
        "}",
    ]


def _step_table(plan: Plan) -> str:
    rows = []
    for index, step in enumerate(plan.steps):
        if step.function is None:
            rows.append("    {0, 0, 0, 0},")
            continue
        static = isinstance(step.items, int)
        count = "0" if static else f"count_{index}"
        guard = f"guard_{index}" if step.guard else "0"
        rows.append(f"    {{step_{index}, {count}, {guard}, {step.items if static else 0}}},")
    table = "\n".join(rows) or "    {0, 0, 0, 0},"
    return (
        f"static const planish_step planish_steps[] = {{\n{table}\n}};\n"
        f"enum {{ planish_steps_count = {len(plan.steps)} }};\n"
    )


def _loop_table(plan: Plan) -> str:
    counts, rows = [], []
    for index, loop in enumerate(plan.loops):
        _check_loop(index, loop, plan)
        counts.append(
            f"static int64_t loop_{index}(const int64_t *d)\n"
            f"{{ (void)d; return {c_dim(loop.count, plan.symbols)}; }}"
        )
        parent = -1 if loop.parent is None else loop.parent
        symbol = plan.symbols.index(loop.symbol)
        rows.append(f"    {{{loop.first}, {loop.last}, loop_{index}, {symbol}, {parent}}},")
    table = "\n".join(rows) or "    {0, 0, 0, 0, 0},"
    return "\n".join(
        [
            *counts,
            f"static const planish_loop planish_loops[] = {{\n{table}\n}};",
            f"enum {{ planish_loop_count = {len(plan.loops)} }};\n",
        ]
    )


def _check_loop(index: int, loop: Loop, plan: Plan) -> None:
    """Raise PlanError unless the loop lies inside its parent and owns its symbol."""
    where = f"loop {index}"
    if loop.symbol not in plan.symbols:
        raise PlanError(f"the symbol {loop.symbol} is not one of the plan's", where=where)
    if not 0 <= loop.first <= loop.last <= len(plan.steps):
        raise PlanError(f"steps {loop.first} to {loop.last} do not exist", where=where)
    if loop.parent is None:
        return
    if not 0 <= loop.parent < index:
        raise PlanError("a loop comes after the loop around it", where=where)
    parent = plan.loops[loop.parent]
    if not parent.first <= loop.first <= loop.last <= parent.last:
        raise PlanError(f"it is not inside loop {loop.parent}", where=where)
