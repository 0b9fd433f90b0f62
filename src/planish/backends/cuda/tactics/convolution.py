"""Convolutions as implicit matrix products on tensor cores.

    y[p, o] = sum over taps t and channels c of x[pixel(p, t), c] * w[o, t, c]

Rows of the product are output pixels of all images, columns are output channels, and the K loop
runs over taps and blocks of channels; the patch matrix exists only tile by tile in shared memory.
Data lies channels-last, weights are packed [group][o][tap][c], so that both operands' K axes are
contiguous. Padding is a mask. Few channels (a stem) run with K = all taps and channels flattened.
Large batches are bound by memory, batch 1 by latency and by too few tiles: K is split there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from planish.backends.cuda.codegen.printer import Group, Printer, indent, unprintable
from planish.backends.cuda.codegen.product_element import ProductElement, integer_element
from planish.backends.cuda.codegen.product_tile import (
    ProductTile,
    masked_load,
    print_dot,
    print_epilogue,
)
from planish.backends.cuda.codegen.tile_choice import tile_configs
from planish.backends.cuda.codegen.triton_types import ELEMENTS, compute_type
from planish.ir.dtypes import BF16, F16, F32
from planish.ir.graph import Node, Value
from planish.ir.rewrite import scalar_of
from planish.ir.shape import Dim, product
from planish.ops.convolution import Window, window_of
from planish.passes.gates import gate_of
from planish.passes.images import is_lowering
from planish.tactics.integer_form import integer_form
from planish.tactics.tactic import YES, Config, Region, Support, Tactic, TritonKernel, no
from planish.tactics.target import Target

FLOATS = (F16, BF16, F32)
SMALL = 32  # sums of a thread, at most, that leave registers for several blocks
FEW_CHANNELS = 16  # below this a tap's channels do not fill a K step
MANY_ROWS = 1 << 14  # from here on memory bounds products of ...
SHALLOW = 256  # ... at most this depth
SHARED_BYTES = 200 << 10  # of a block's tiles; the epilogue and Triton need some more
MOST_BITS = 31  # taps along an axis whose validity fits one number


@dataclass(frozen=True)
class Convolution:
    """What a convolution region computes, in numbers.

    `region` is the one that it was read from, in its integer form where bytes are multiplied;
    `gate`, [N, channels, 1...], is what the data is multiplied by first.
    """

    region: Region
    element: ProductElement
    anchor: Node
    data: Value
    weight: np.ndarray
    window: Window
    group: int
    channels: int  # of one group, in
    outputs: int  # of one group, out
    gate: Value | None = None


def read_convolution(region: Region) -> Convolution | str:
    """Return the region's convolution, or why the tactics here cannot do it."""
    lowered = integer_form(region, masked=True)
    anchor = region.anchor if lowered is None else lowered.anchor
    if anchor is None or anchor.op not in ("Conv", "ConvInteger"):
        return "it is no convolution"
    weight, data = anchor.input(1), anchor.input(0)
    if weight is None or weight.constant is None or data is None:
        return "the weights are not constants"
    bias = anchor.input(2)
    if bias is not None and bias.constant is None:
        return "the bias is not a constant"
    source, gate, scale = data, None, None
    gated = gate_of(anchor) if lowered is None else None
    if gated is not None:
        _, source, gate = gated
    while source.producer is not None:
        if source.producer.op != "Cast" and not is_lowering(source.producer):
            return f"{source.producer.op} is fused before it"
        scale = scalar_of(source.producer.input(1))
        source = source.producer.present_inputs[0]
    window = window_of(anchor)
    if window.padding.static is None or window.ceil_mode:
        return "the padding is symbolic"
    if anchor.output.rank not in (3, 4, 5):
        return "it has no spatial axes"
    if lowered is None and data.dtype not in FLOATS:
        return f"products of {data.dtype} are not printed"
    group = int(anchor.attributes.get("group", 1))
    outputs, channels = weight.array.shape[:2]
    element, weights = ProductElement(source.dtype, data.dtype), weight.array
    if lowered is not None:
        element, weights = integer_element(region, lowered)
        if scale is not None:
            element = replace(element, stored=source.dtype, scale=scale)
    return Convolution(
        lowered or region, element, anchor, source, weights, window, group, channels,
        outputs // group, gate,
    )  # fmt: skip


class ImplicitProduct(Tactic):
    """Convolution through tensor cores; see the module's docstring."""

    name: ClassVar[str] = "triton_conv"
    device: ClassVar[str] = "cuda"
    rank: ClassVar[int] = 20

    def supports(self, region: Region, target: Target) -> Support:
        """Accept any convolution of constant weights whose groups are wide enough for a tile."""
        found = read_convolution(region)
        if isinstance(found, str):
            return no(found)
        if found.group > 1 and min(found.channels, found.outputs) < 8:
            return no("its groups are too narrow for tensor cores")
        reason = unprintable(found.region, found.anchor)
        return YES if reason is None else no(reason)

    def configs(self, region: Region, target: Target) -> list[Config]:
        """Return tile sizes, splits and pipeline depths."""
        found = read_convolution(region)
        if isinstance(found, str):
            return []
        printer = Printer(region)
        rows = printer.tune_size(_pixels(found)) * found.group
        taps = int(np.prod(found.window.kernel))
        itemsize = found.element.multiplied.itemsize
        depth = taps * max(found.channels, 1)
        configs = tile_configs(rows, found.outputs, depth, itemsize, target.multiprocessors)
        if found.channels < FEW_CHANNELS:  # Triton 3.6 compiles taller tiles wrongly
            return [config for config in configs if config["m"] <= 128]
        usable = [config for config in configs if config["k"] < 2 * found.channels] or configs
        if found.gate is not None:  # its tiles are kept in shared memory like those of the data
            fitting = [
                config for config in usable if _gated_bytes(config, itemsize) <= SHARED_BYTES
            ]
            usable = fitting or usable
        if taps == 1 and rows >= MANY_ROWS and depth <= SHALLOW:
            shallow = [config for config in _shallow_configs(depth) if config != usable[0]]
            if _adds_tensor(found, 2):
                shallow[2:2] = [{**config, "ahead": 1} for config in shallow[:2]]
            usable = [usable[0], *shallow, *(c for c in usable[1:] if c not in shallow)]
        if not _adds_tensor(found, 1):
            return usable
        # where what is added is read before the products, memory is waited for once; several small
        # blocks on one multiprocessor wait at the same time
        small = [c for c in usable if c["m"] * c["n"] <= SMALL * 32 * c["warps"]]
        early = [{**config, "ahead": 1} for config in (*small[:3], *usable[:2])]
        return [usable[0], *early, *small[:3], *(c for c in usable[1:] if c not in small[:3])]

    def build(self, region: Region, config: Config, target: Target) -> TritonKernel:
        """Return the kernel of one configuration."""
        found = read_convolution(region)
        if isinstance(found, str):
            raise ValueError(found)
        return ConvolutionWriter(found, config).kernel()


def _adds_tensor(found: Convolution, itemsize: int) -> bool:
    """Whether the epilogue reads an element of so many bytes for each of the result: a residual."""
    shape = found.anchor.output.known_shape
    return any(
        operand.value is not found.data
        and operand.dtype.itemsize == itemsize
        and operand.shape == shape
        for operand in found.region.inputs
    )


def _gated_bytes(config: Config, itemsize: int) -> int:
    """Return the shared memory of a configuration's tiles with those of a gate."""
    rows = 2 * int(config["m"]) + int(config["n"])
    return rows * int(config["k"]) * itemsize * int(config["stages"])


def _shallow_configs(depth: int) -> list[Config]:
    """Return small tiles in few stages: many blocks at once keep the memory busy.

    Measured on one H200: 129 instead of 150 us for 64 channels to 256 with a residual at 56x56,
    batch 128, and 82 instead of 97 us for 128 to 512 at 28x28.
    """
    k = min(1 << (max(depth, 32) - 1).bit_length(), 128)
    sizes = ((128, 64, k, 8), (64, 128, k, 8), (128, 128, min(k, 64), 4))
    return [{"m": m, "n": n, "k": k, "warps": w, "split": 1, "stages": 2} for m, n, k, w in sizes]


def _pixels(found: Convolution) -> Dim:
    shape = found.anchor.output.known_shape
    return shape[0] * product(shape[2:])


class ConvolutionWriter:
    """Prints one convolution kernel."""

    def __init__(self, found: Convolution, config: Config) -> None:
        self.region, self.found, self.config = found.region, found, config
        self.printer = Printer(self.region)
        self.element = found.element
        self.tile = ProductTile(_pixels(found), found.outputs, config, self.element.sums)
        self.source = self.printer.memory_of(found.data)
        self.k = int(config["k"])

    def kernel(self) -> TritonKernel:
        """Return the kernel."""
        found, printer, tile = self.found, self.printer, self.tile
        shape = found.anchor.output.known_shape
        early = [*tile.header(printer), *self.coordinates(), *self.bases()]
        ahead: list[str] = []
        lines = [f"total = tl.zeros(({config_pair(self.config)}), {self.element.sums})"]
        lines += self.loop()
        groups = tile.groups(printer, (0, *range(2, len(shape))), (1,))
        if found.group > 1:
            lines += [f"columns += tl.program_id(2) * {found.outputs}"]
            mask = tile.masks(printer)[1]
            limit = f"(columns < (tl.program_id(2) + 1) * {found.outputs})[None, :]"
            groups[1] = Group((1,), "columns[None, :]", limit if mask else None)
        epilogue = [  # the columns of a group are known behind the loop only
            *self.element.settled(printer, found.weight, shape, groups),
            *print_epilogue(
                printer, self.region, found.anchor.output, shape, groups,
                early if found.group == 1 else None, int(self.config["n"]),
                ahead if self.config.get("ahead") and found.group == 1 else None,
            ),
        ]  # fmt: skip
        lines = [*ahead, *lines, *tile.finish(printer, epilogue, "tl.program_id(2)")]
        workspace, counters = tile.workspace(printer, found.group)
        return printer.kernel(
            lines, (tile.tiles, tile.split, found.group), warps=int(self.config["warps"]),
            stages=int(self.config["stages"]), workspace_bytes=workspace, counters=counters,
            early=early,
        )  # fmt: skip

    @property
    def _few(self) -> bool:
        """Whether taps and channels are flattened."""
        return self.found.channels < FEW_CHANNELS and self.found.gate is None

    # -- rows ------------------------------------------------------------------------------------

    def coordinates(self) -> list[str]:
        """Image and first input position of each row, along every spatial axis."""
        spatial = self.found.anchor.output.known_shape[2:]
        window, printer = self.found.window, self.printer
        begin = [pair[0] for pair in window.padding.static or ()]
        lines, rest = [], "rows"
        for axis in reversed(range(len(spatial))):
            extent = printer.dim(spatial[axis])
            start = f"{rest} % {extent}" if axis or spatial else rest
            lines.append(f"o{axis} = ({start}) * {window.strides[axis]} - {begin[axis]}")
            lines.append(f"r{axis} = {rest} // {extent}")
            rest = f"r{axis}"
        lines.append(f"image = {rest}")
        return lines

    def bases(self) -> list[str]:
        """Address of each row's first input element, and of each column's weights."""
        source, printer = self.source, self.printer
        wide = printer.is_wide(source)
        image = "image.to(tl.int64)" if wide else "image"
        terms = [f"{image} * {printer.dim(source.strides[0])}"]
        terms += [
            f"o{axis} * {printer.dim(stride)}" for axis, stride in enumerate(source.strides[2:])
        ]
        if self.found.group > 1:
            channel = printer.dim(source.strides[1])
            terms.append(f"tl.program_id(2) * {self.found.channels} * {channel}")
        self.weights = self.packed_weights()
        depth = self.weight_depth
        start = (
            f"(tl.program_id(2) * {self.found.outputs} + columns)"
            if self.found.group > 1
            else "columns"
        )
        return [
            f"x_rows = {source.pointer} + {' + '.join(terms)}",
            f"w_columns = {self.weights} + {start} * {depth}",
        ]

    def packed_weights(self) -> str:
        """Pack weights [group*o][tap][c], flat K padded to whole vectors; return the pointer."""
        found = self.found
        total = found.group * found.outputs
        moved = np.moveaxis(found.weight.reshape(total, found.channels, -1), 1, 2)
        flat = moved.reshape(total, -1)
        vector = 16 // self.element.multiplied.itemsize
        self.weight_depth = -(-flat.shape[1] // vector) * vector
        padded = np.zeros((total, self.weight_depth), flat.dtype)
        padded[:, : flat.shape[1]] = flat
        return self.printer.pack(padded)

    # -- K loops ---------------------------------------------------------------------------------

    def loop(self) -> list[str]:
        """Return the loop over K."""
        return self._flat_loop() if self._few else self._tap_loop()

    def _tap_loop(self) -> list[str]:
        """Loop over taps and blocks of channels; a step moves both tiles of pointers."""
        found, printer, source, k = self.found, self.printer, self.source, self.k
        kernel, channel = found.window.kernel, printer.dim(source.strides[1])
        blocks = -(-found.channels // k)
        first, last = self.tile.steps(int(np.prod(kernel)) * blocks)
        whole = found.channels % k == 0
        inner = [f"tap = {'step' if blocks == 1 else f'step // {blocks}'}"]
        inner.append(f"block = {'0' if blocks == 1 else f'(step % {blocks}) * {k}'}")
        inner += [] if whole and found.gate is None else [f"c = block + tl.arange(0, {k})"]
        shift, divisor = [f"block * {channel}"], 1
        for axis in reversed(range(len(kernel))):
            if kernel[axis] > 1:
                inner.append(f"i{axis} = tap // {divisor} % {kernel[axis]}")
                step = printer.dim(source.strides[2 + axis] * found.window.dilations[axis])
                shift.append(f"i{axis} * {step}")
            divisor *= kernel[axis]
        before, inside = self._validity()
        masks = [] if whole else [f"(c < {found.channels})"]
        x_mask = [*inside, *(f"{mask}[None, :]" for mask in masks)]
        place = f"x_tile + ({' + '.join(shift)})"
        inner.append(masked_load("a", place, x_mask, self.element.padding))
        inner += self._gated(x_mask)
        inner += self.element.converted("a")
        w_mask = [f"{mask}[:, None]" for mask in masks]
        column_mask = self.tile.masks(printer)[1]
        w_mask += [f"{column_mask}[None, :]"] if column_mask else []
        place = f"w_tile + (tap * {found.channels} + block)"
        inner.append(masked_load("b", place, w_mask, self.element.nothing))
        inner.append(print_dot(self.element.multiplied))
        return [
            f"x_tile = x_rows[:, None] + (tl.arange(0, {k}) * {channel})[None, :]",
            f"w_tile = w_columns[None, :] + tl.arange(0, {k})[:, None]",
            *before,
            f"for step in range({first}, {last}):",
            *indent(inner),
        ]

    def _validity(self) -> tuple[list[str], list[str]]:
        """Return statements before the loop, and masks in it, of rows whose tap is in the data.

        Every row has a bit for each position of a tap along an axis: one shift and one test in the
        loop instead of comparisons.
        """
        before: list[str] = []
        bits: list[str] = []
        conditions: list[str] = []
        for axis, extent in enumerate(self.found.window.kernel):
            if extent > MOST_BITS:
                step = f"i{axis} * {self.found.window.dilations[axis]}"
                conditions += self._bounds(axis, step, begin_from=0)
                continue
            lines = self._bits(axis)
            before += lines
            bits += [f"(valid{axis} >> i{axis})" if extent > 1 else f"valid{axis}"] if lines else []
        row_mask = self.tile.masks(self.printer)[0]
        conditions += [row_mask] if row_mask else []
        conditions += [f"(({' & '.join(bits)}) & 1) != 0"] if bits else []
        both = " & ".join(f"({text})" for text in conditions)
        return before, [f"({both})[:, None]"] if conditions else []

    def _bits(self, axis: int) -> list[str]:
        """Return the statements that set a bit for each tap along `axis` that is in the data."""
        window = self.found.window
        places = [tap * window.dilations[axis] for tap in range(window.kernel[axis])]
        bounds = [self._bounds(axis, str(place), begin_from=place) for place in places]
        if not any(bounds):
            return []
        lines = [
            f"valid{axis} = rows * 0 + {sum(1 << i for i, text in enumerate(bounds) if not text)}"
        ]
        return lines + [
            f"valid{axis} |= ({' & '.join(texts)}).to(tl.int32) << {tap}"
            for tap, texts in enumerate(bounds)
            if texts
        ]

    def _gated(self, masks: list[str]) -> list[str]:
        """Return the statements that multiply the tile ``a`` by the gate."""
        found, printer = self.found, self.printer
        if found.gate is None:
            return []
        gate = printer.memory_of(found.gate)
        offsets = f"{gate.pointer} + (c * {printer.dim(gate.strides[1])})[None, :]"
        if found.gate.known_shape[0] != 1:
            offsets += f" + (image * {printer.dim(gate.strides[0])})[:, None]"
        else:
            masks = [mask for mask in masks if mask.endswith("[None, :]")]
        product = f"a.to({compute_type(self.source.dtype)}) * g.to({compute_type(gate.dtype)})"
        return [masked_load("g", offsets, masks), f"a = ({product}).to({ELEMENTS[gate.dtype]})"]

    def _bounds(self, axis: int, place: str, begin_from: int) -> list[str]:
        """Return the conditions under which `place` behind a row's first position exists.

        `begin_from` is the least that `place` can be.
        """
        begin, end = (self.found.window.padding.static or ())[axis]
        found = [f"(o{axis} + {place} >= 0)"] if begin > begin_from else []
        if end > 0:
            found.append(f"(o{axis} + {place} < {self.printer.dim(self.source.shape[2 + axis])})")
        return found

    def _flat_loop(self) -> list[str]:
        """Loop over K = (tap, channel) flattened: few channels."""
        found, printer, source = self.found, self.printer, self.source
        kernel, channels = found.window.kernel, found.channels
        depth = int(np.prod(kernel)) * channels
        first, last = self.tile.steps(-(-depth // self.k))
        inner = [f"k = step * {self.k} + tl.arange(0, {self.k})", f"tap = k // {channels}"]
        terms, conditions = [f"(k % {channels}) * {printer.dim(source.strides[1])}"], []
        divisor = 1
        for axis in reversed(range(len(kernel))):
            place = f"(tap // {divisor} % {kernel[axis]}) * {found.window.dilations[axis]}"
            divisor *= kernel[axis]
            inner.append(f"t{axis} = {place}")
            terms.append(f"t{axis} * {printer.dim(source.strides[2 + axis])}")
            begin, end = (found.window.padding.static or ())[axis]
            position = f"(o{axis}[:, None] + t{axis}[None, :])"
            conditions += [f"({position} >= 0)"] if begin > 0 else []
            if end > 0:
                conditions.append(f"({position} < {printer.dim(source.shape[2 + axis])})")
        row_mask, column_mask = self.tile.masks(printer)
        conditions += [f"{row_mask}[:, None]"] if row_mask else []
        conditions.append(f"(k < {depth})[None, :]")
        offsets = f"x_rows[:, None] + ({' + '.join(terms)})[None, :]"
        inner.append(masked_load("a", offsets, conditions, self.element.padding))
        inner += self.element.converted("a")
        w_mask = [f"(k < {self.weight_depth})[:, None]"]
        w_mask += [f"{column_mask}[None, :]"] if column_mask else []
        offsets = "w_columns[None, :] + k[:, None]"
        inner.append(masked_load("b", offsets, w_mask, self.element.nothing))
        inner.append(print_dot(self.element.multiplied))
        return [f"for step in range({first}, {last}):", *indent(inner)]


def config_pair(config: Config) -> str:
    """Return a tile's extents as text."""
    return f"{config['m']}, {config['n']}"
