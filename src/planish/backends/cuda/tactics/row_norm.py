"""Normalizations over any axes and lengths: Softmax and its relatives, standardizing, norms.

Statistics of a row by one or two passes (the mean, then squared differences, so that nothing
cancels), then a pass that reads the row again and writes it. Rows that fit into registers have a
faster kernel (tactics/rows.py); see codegen/row_program.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from planish.backends.cuda.codegen.elements import anchor_of
from planish.backends.cuda.codegen.printer import unprintable
from planish.backends.cuda.codegen.row_program import RowProgram, row_configs, sum_of
from planish.backends.cuda.codegen.triton_types import compute_type, sum_type
from planish.backends.cuda.tactics.reduce import largest_of, smallest_of
from planish.errors import TacticError
from planish.ir.dtypes import I32, DType
from planish.ir.graph import Node, Value
from planish.ir.shape import Dim, floordiv, product
from planish.ops.normalization import MVN_EPSILON
from planish.tactics.tactic import YES, Config, Region, Support, Tactic, TritonKernel, no
from planish.tactics.target import Target

TRAILING = ("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization")
SKIP = ("com.microsoft.SkipLayerNormalization", "com.microsoft.SkipSimplifiedLayerNormalization")


class _Norm:
    """One kernel: the program, the data, and the type that statistics have."""

    def __init__(self, program: RowProgram) -> None:
        self.program, self.node = program, program.node
        self.x = self.node.present_inputs[0]
        self.kind: DType = sum_type(self.x.dtype)
        self.wide = compute_type(self.kind)

    def data(self) -> str:
        """Print the reads of a chunk of what is normalized; return its name."""
        p = self.program
        total = p.read(self.x)
        if self.node.op in SKIP:
            bias = self.node.input(4 if self.node.op == SKIP[0] else 3)
            for value in (self.node.inputs[1], bias):
                if value is not None:
                    total = p.let("sum", f"{total} + {self.trailing(value)}")
        return p.let("data", f"{total}.to({self.wide})")

    def trailing(self, value: Value) -> str:
        """Return a chunk of an operand that broadcasts to the data."""
        return self.program.read(value, space=self.x.known_shape)

    def channel(self, value: Value) -> str:
        """Return a chunk of an operand with one number a channel."""
        return self.program.read(value, [self.program.at[1]])

    def mean(self) -> str:
        """Return the name of the rows' means."""
        p = self.program
        (total,) = p.fold((sum_of(self.kind), self.data))
        return p.let("mean", f"{total} / {p.dim(p.length)}")

    def spread(self, mean: str | None) -> str:
        """Return the name of the rows' mean squared differences from `mean`, or from 0."""
        p = self.program

        def square() -> str:
            shift = "" if mean is None else f" - {mean}[:, None]"
            centred = p.let("centred", f"{self.data()}{shift}")
            return f"{centred} * {centred}"

        (total,) = p.fold((sum_of(self.kind), square))
        return p.let("spread", f"{total} / {p.dim(p.length)}")

    def write(self, text: Callable[[str], str], *others: tuple[int, str]) -> None:
        """Walk along the rows and write the first output; `text` makes an element of the data.

        `others` are statistics (number of the anchor's output, name), one element a row.
        """
        p, outputs = self.program, self.node.outputs
        index = {operand.value: position for position, operand in enumerate(p.region.outputs)}
        statistics = {outputs[number]: name for number, name in others}
        sums = outputs[3] if self.node.op in SKIP and len(outputs) > 3 else None
        chunks = [i for value, i in index.items() if value not in statistics]

        def finish() -> None:
            data = self.data()
            given = {outputs[0]: p.let("total", text(data))}
            if sums is not None:
                given[sums] = data
            p.store_chunk(given, chunks)

        p.visit(finish)
        for value, name in statistics.items():
            if value in index:
                p.store_rows({value: name}, [index[value]])


def _softmax(norm: _Norm) -> None:
    p = norm.program
    (top,) = p.fold((largest_of(norm.kind), norm.data))
    power = f"tl.exp({{x}} - {top}[:, None])"
    (total,) = p.fold((sum_of(norm.kind), lambda: power.format(x=norm.data())))
    if norm.node.op == "LogSoftmax":
        shift = p.let("shift", f"{top} + tl.log({total})")
        norm.write(lambda x: f"{x} - {shift}[:, None]")
        return
    norm.write(lambda x: f"{power.format(x=x)} / {total}[:, None]")


def _hardmax(norm: _Norm) -> None:
    p, pick = norm.program, smallest_of(I32)
    (top,) = p.fold((largest_of(norm.kind), norm.data))
    is_top = f"{{x}} == {top}[:, None]"
    (where,) = p.fold(
        (pick, lambda: f"tl.where({is_top.format(x=norm.data())}, inner[None, :], {pick.neutral})")
    )
    norm.write(lambda _: f"tl.where(inner[None, :] == {where}[:, None], 1.0, 0.0)")


def _standardize(norm: _Norm) -> None:
    """Subtract the mean (not for RMS forms), divide by the deviation, scale and shift."""
    p, node = norm.program, norm.node
    is_rms = node.op in ("RMSNormalization", TRAILING[2], SKIP[1])
    mean = None if is_rms else norm.mean()
    epsilon = float(node.attributes["epsilon"])
    inverse = p.let("inverse", f"1.0 / tl.sqrt({norm.spread(mean)} + {epsilon!r})")
    by_channel = node.op in ("InstanceNormalization", "GroupNormalization")
    read = norm.channel if by_channel else norm.trailing
    first = 2 if node.op in SKIP else 1
    scale = node.inputs[first]
    has_shift = node.op not in ("RMSNormalization", TRAILING[2], SKIP[1])
    shift = node.input(first + 1) if has_shift else None

    def element(x: str) -> str:
        centred = x if mean is None else f"({x} - {mean}[:, None])"
        text = f"{centred} * {inverse}[:, None]"
        text = text if scale is None else f"{text} * {read(scale)}"
        return text if shift is None else f"{text} + {read(shift)}"

    number = 1 if node.op == TRAILING[2] else 2
    others = [(number, inverse)]
    if number == 2:
        others.append((1, mean or p.let("mean", f"{inverse} * 0.0")))
    kept = [(n, name) for n, name in others if n < len(node.outputs)]
    norm.write(element, *kept)


def _mean_variance(norm: _Norm) -> None:
    mean = norm.mean()
    deviation = norm.program.let("deviation", f"tl.sqrt({norm.spread(mean)}) + {MVN_EPSILON!r}")
    norm.write(lambda x: f"({x} - {mean}[:, None]) / {deviation}[:, None]")


def _divide_by_norm(norm: _Norm) -> None:
    p = norm.program
    is_first = int(norm.node.attributes.get("p", 2)) == 1

    def power() -> str:
        x = norm.data()
        return f"tl.abs({x})" if is_first else f"{x} * {x}"

    (total,) = p.fold((sum_of(norm.kind), power))
    length = p.let("norm", total if is_first else f"tl.sqrt({total})")
    safe = p.let("safe", f"tl.where({length} == 0.0, 1.0, {length})")
    norm.write(lambda x: f"{x} / {safe}[:, None]")


class RowNorm(Tactic):
    """See the module's docstring."""

    name: ClassVar[str] = "triton_row_norm"
    device: ClassVar[str] = "cuda"
    rank: ClassVar[int] = 50
    describe: ClassVar[dict[str, Callable[[_Norm], None]]] = {
        "GroupNormalization": _standardize,
        "Hardmax": _hardmax,
        "InstanceNormalization": _standardize,
        "LogSoftmax": _softmax,
        "LpNormalization": _divide_by_norm,
        "MeanVarianceNormalization": _mean_variance,
        "Softmax": _softmax,
        **dict.fromkeys((*TRAILING, *SKIP), _standardize),
    }

    def supports(self, region: Region, target: Target) -> Support:
        """Accept floats, and an epilogue of the data's shape."""
        if region.kind not in self.describe or region.anchor is None:
            return no(f"it is no operator of {self.name}")
        node = region.anchor
        if not node.present_inputs[0].dtype.is_float:
            return no(f"it is of {node.present_inputs[0].dtype}")
        shapes = {operand.shape for operand in region.outputs}
        if len(shapes) > 1 and any(o.value not in node.outputs for o in region.outputs):
            return no("there are operations behind it, and statistics are read")
        if len(shapes) == 1 and shapes != {node.outputs[0].known_shape}:
            return no("the epilogue changes the shape")
        reason = unprintable(region, node)
        if reason is not None:
            return no(reason)
        try:
            self.build(region, {"rows": 1, "chunk": 128, "warps": 4}, target)
        except TacticError as error:
            return no(error.what)
        return YES

    def configs(self, region: Region, target: Target) -> list[Config]:
        """Return tile sizes."""
        node = anchor_of(region)
        shape = node.present_inputs[0].known_shape
        if node.op == "GroupNormalization":
            groups = int(node.attributes["num_groups"])
            return row_configs(region, floordiv(product(shape[1:]), groups), shape[0] * groups)
        axes = _axes(node)
        length = product(shape[axis] for axis in axes)
        return row_configs(
            region, length, product(n for axis, n in enumerate(shape) if axis not in axes)
        )

    def build(self, region: Region, config: Config, target: Target) -> TritonKernel:
        """Return the kernel."""
        node = anchor_of(region)
        is_grouped = node.op == "GroupNormalization"
        program = _Grouped(region, node, config) if is_grouped else RowProgram(region, node, config)
        program.walk(node.present_inputs[0].known_shape, _axes(node))
        self.describe[node.op](_Norm(program))
        return program.kernel()


class _Grouped(RowProgram):
    """Rows that hold a part of the channels and all of space; images by groups number the rows."""

    def walk(self, shape: tuple[Dim, ...], row: tuple[int, ...]) -> None:  # type: ignore[override]
        """Let a row be a group of one image."""
        groups = int(self.node.attributes["num_groups"])
        channels = floordiv(shape[1], groups)
        super().walk((shape[0], groups, channels, *shape[2:]), tuple(range(2, len(shape) + 1)))
        self._channels = channels

    def coordinates(self, at: dict[int, str]) -> list[str]:
        """Return coordinates in the data: the channel is made of group and channel of the group."""
        channel = self.let("channel", f"{at[1]} * {self.dim(self._channels)} + {at[2]}")
        return [at[0], channel, *(at[axis] for axis in range(3, len(self.shape)))]


def _axes(node: Node) -> tuple[int, ...]:
    """Return the axes of a row."""
    rank = node.present_inputs[0].rank
    if node.op in ("GroupNormalization", "InstanceNormalization"):
        return tuple(range(2, rank))
    if node.op == "MeanVarianceNormalization":
        return tuple(sorted(int(axis) % rank for axis in node.attributes["axes"]))
    axis = int(node.attributes.get("axis", -1)) % rank
    return tuple(range(axis, rank)) if node.op in TRAILING else (axis,)
