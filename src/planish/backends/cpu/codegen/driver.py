"""The translation unit of an engine: kernels, the table of steps, and the driver that runs them.

The order in the file is the order of use: prelude (what kernels call), driver.h (the structures
that Python fills in), kernels (each distinct source once), where the pointers of every step lie
in input, output, arena and weights, the table of steps, and driver.c (thread pool and the loop
over the table). Steps are data where nothing depends on symbols: a function a step would cost the
compiler two milliseconds each.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from planish.backends.cpu.codegen.scalar import c_dim
from planish.errors import PlanError
from planish.ir.shape import product
from planish.plan.plan import Binding, HaloFill, Loop, Plan, Step
from planish.tactics.tactic import Kernel

_FOLDER = Path(__file__).parent
_SPACES = {
    "input": "PLANISH_INPUT",
    "output": "PLANISH_OUTPUT",
    "arena": "PLANISH_ARENA",
    "weights": "PLANISH_WEIGHTS",
}
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_SHOWN_LAYERS = 300  # characters of layer names in a comment


def prelude_text() -> str:
    """Return the C source that every kernel may rely on."""
    names = ("prelude.h", "vector.h", "integer.h", "compressed.h", "pack.h", "amx.h")
    return "".join((_FOLDER / name).read_text() for name in names)


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
            "\n".join(_step_lines(index, step, plan.symbols))
            for index, step in enumerate(plan.steps)
            if step.function is not None
        ),
        _step_table(plan, functions),
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
        # the prefix keeps users' layer names apart from C's and the prelude's names, its number
        # the functions that a kernel brings along (name_4) from another kernel of such a name
        function = f"k_{len(by_digest)}_{name}"
        functions[name] = by_digest.setdefault(kernels[name].digest, function)
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


def _step_lines(index: int, step: Step, symbols: Sequence[str]) -> list[str]:
    """Return the definitions that the row of a native step refers to."""
    lines = [f"/* step {index}: {_comment(step.layers)} */"]
    rows = ", ".join(_pointer(binding) for binding in step.bindings) or "{0, 0, 0}"
    lines.append(f"static const planish_pointer pointers_{index}[] = {{{rows}}};")
    if not isinstance(step.items, int):
        lines.append(_function(f"int64_t count_{index}", f"return {c_dim(step.items, symbols)};"))
    if _moves(step):
        offsets = " ".join(
            f"o[{place}] = {c_dim(binding.offset, symbols)};"
            for place, binding in enumerate(step.bindings)
        )
        lines.append(f"static void move_{index}(const int64_t *d, int64_t *o) {{ {offsets} }}")
    lines += _fill_lines(index, step, symbols)
    if step.guard:
        tests = _tests(step.guard, symbols)
        lines += [
            f"static int guard_{index}(const planish_call *c)",
            f"{{ const int64_t *const d = c->dims; (void)d; return {tests}; }}",
        ]
    return lines


def _fill_lines(index: int, step: Step, symbols: Sequence[str]) -> list[str]:
    """Return data for halos of constant size and place, a function for the others."""
    lines, rows, calls = [], [], []
    for place, fill in enumerate(_effective(step.fills)):
        rank = len(fill.sizes)
        sizes = ", ".join(c_dim(size, symbols) for size in fill.sizes)
        halo = ", ".join(f"{{{before}, {after}}}" for before, after in fill.halo)
        name = f"{index}_{place}"
        halo_line = f"static const int64_t halo_{name}[][2] = {{{halo}}};"
        if _is_static(fill):
            lines += [halo_line, f"static const int64_t sizes_{name}[] = {{{sizes}}};"]
            rows.append(
                f"{{{_pointer(fill.binding)}, {rank}, {fill.itemsize}, sizes_{name}, halo_{name}}}"
            )
            continue
        start = _local_pointer(fill.binding, symbols)
        calls += [
            f"    {{ {halo_line}",
            f"      const int64_t sizes[] = {{{sizes}}};",
            "      const planish_fill f =",
            f"          {{{start}, {rank}, {fill.itemsize}, sizes, halo_{name}}};",
            "      planish_zero_halo(c, &f); }",
        ]
    if rows:
        lines.append(f"static const planish_fill fills_{index}[] = {{{', '.join(rows)}}};")
    if calls:
        lines += [
            f"static void fill_{index}(const planish_call *c)",
            "{ const int64_t *const d = c->dims; (void)d;",
            *calls,
            "}",
        ]
    return lines


def _effective(fills: Sequence[HaloFill]) -> list[HaloFill]:
    """Return the fills that do something; axes inside the last one with a halo are folded."""
    effective = []
    for fill in fills:
        with_halo = [axis for axis, pair in enumerate(fill.halo) if pair != (0, 0)]
        if not with_halo:
            continue
        rank = with_halo[-1] + 1
        inner = product(fill.sizes[rank:])
        if not isinstance(inner, int):  # rare: an extent inside the halo is symbolic
            effective.append(fill)
            continue
        effective.append(
            HaloFill(fill.binding, fill.sizes[:rank], fill.halo[:rank], inner * fill.itemsize)
        )
    return effective


def _is_static(fill: HaloFill) -> bool:
    return all(isinstance(dim, int) for dim in (fill.binding.offset, *fill.sizes))


def _moves(step: Step) -> bool:
    return any(not isinstance(binding.offset, int) for binding in step.bindings)


def _pointer(binding: Binding) -> str:
    """Return an initialiser; an offset that depends on symbols is given elsewhere."""
    offset = binding.offset if isinstance(binding.offset, int) else 0
    return f"{{{_SPACES[binding.space]}, {binding.index}, {offset}}}"


def _local_pointer(binding: Binding, symbols: Sequence[str]) -> str:
    return (
        f"(planish_pointer){{{_SPACES[binding.space]}, {binding.index}, "
        f"{c_dim(binding.offset, symbols)}}}"
    )


def _function(head: str, body: str) -> str:
    return f"static {head}(const int64_t *d) {{ (void)d; {body} }}"


def _step_table(plan: Plan, functions: Mapping[str, str]) -> str:
    rows = []
    for index, step in enumerate(plan.steps):
        if step.function is None:
            rows.append(f"    {{0}}, /* {index}: external */")
            continue
        fills = _effective(step.fills)
        static_fills = sum(map(_is_static, fills))
        static_items = isinstance(step.items, int)
        fields = (
            functions[step.function],
            f"pointers_{index}",
            f"fills_{index}" if static_fills else "0",
            len(step.bindings),
            static_fills,
            step.items if static_items else 0,
            "0" if static_items else f"count_{index}",
            f"move_{index}" if _moves(step) else "0",
            f"fill_{index}" if static_fills < len(fills) else "0",
            f"guard_{index}" if step.guard else "0",
        )
        rows.append(f"    {{{', '.join(map(str, fields))}}},")
    table = "\n".join(rows) or "    {0},"
    most = max((len(step.bindings) for step in plan.steps), default=0)
    return (
        f"static const planish_step planish_steps[] = {{\n{table}\n}};\n"
        f"enum {{ planish_steps_count = {len(plan.steps)}, planish_max_pointers = {most + 1} }};\n"
    )


def _loop_table(plan: Plan) -> str:
    functions, rows = [], []
    for index, loop in enumerate(plan.loops):
        _check_loop(index, loop, plan)
        functions += _loop_functions(index, loop, plan.symbols)
        parent = -1 if loop.parent is None else loop.parent
        symbol = plan.symbols.index(loop.symbol)
        condition = "0" if loop.condition is None else f"going_{index}"
        counter = "0" if loop.counter is None else f"counter_{index}"
        fields = (loop.first, loop.last, f"loop_{index}", condition, counter, symbol, parent)
        rows.append(f"    {{{', '.join(map(str, fields))}}},")
    table = "\n".join(rows) or "    {0, 0, 0, 0, 0, 0, 0},"
    return "\n".join(
        [
            *functions,
            f"static const planish_loop planish_loops[] = {{\n{table}\n}};",
            f"enum {{ planish_loop_count = {len(plan.loops)} }};\n",
        ]
    )


def _loop_functions(index: int, loop: Loop, symbols: Sequence[str]) -> list[str]:
    """Return what a loop asks: how often it runs, whether it goes on, where its counter lies."""
    start = "const int64_t *const d = c->dims; (void)d; (void)c;"
    count = c_dim(loop.count, symbols)
    if loop.limit is not None:
        limit = f"*(const int64_t *)planish_at(c, {_local_pointer(loop.limit, symbols)})"
        count = f"planish_min_i64({count}, {limit})"
    if loop.guard:
        count = f"({_tests(loop.guard, symbols)}) ? {count} : 0"
    lines = [f"static int64_t loop_{index}(const planish_call *c) {{ {start} return {count}; }}"]
    if loop.condition is not None:
        pointer = _local_pointer(loop.condition, symbols)
        test = f"return *planish_at(c, {pointer}) != 0;"
        lines.append(f"static int going_{index}(const planish_call *c) {{ {start} {test} }}")
    if loop.counter is not None:
        place = f"return (int64_t *)planish_at(c, {_local_pointer(loop.counter, symbols)});"
        lines.append(
            f"static int64_t *counter_{index}(const planish_call *c) {{ {start} {place} }}"
        )
    return lines


def _tests(guard: Sequence[tuple[Binding, bool]], symbols: Sequence[str]) -> str:
    return " && ".join(
        f"(*planish_at(c, {_local_pointer(binding, symbols)}) != 0) == {int(value)}"
        for binding, value in guard
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
