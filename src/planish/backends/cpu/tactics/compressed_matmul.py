"""Products of floats by weights of four or eight bits, which are decoded as they are multiplied.

See codegen/compressed_gemm.py for the kernels. The region's body has a DequantizeLinear of
constants in front of the product; everything else is read as for any other product, with a constant
in its place that takes no memory.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import numpy as np

from planish.backends.cpu.codegen.compressed import Encoding, encode, encoding_of
from planish.backends.cpu.codegen.compressed_digits import DigitsPrinter
from planish.backends.cpu.codegen.compressed_gemm import (
    CompressedPointers,
    CompressedPrinter,
    CompressedSource,
)
from planish.backends.cpu.codegen.element import FLOAT, WIDENED, vector_unit
from planish.backends.cpu.codegen.gemm_problem import Blocking, Problem
from planish.backends.cpu.tactics.matmul import matmul_problem, read_product
from planish.errors import TacticError
from planish.ir.clone import clone_graph
from planish.ir.dtypes import BF16
from planish.ir.graph import Node
from planish.passes.compressed import (
    OCTET,
    Compressed,
    compressed_reason,
    compressed_weights,
)
from planish.passes.quantized import dequantize_of
from planish.tactics.tactic import YES, Config, Kernel, Region, Support, Tactic, no
from planish.tactics.target import Target

CHUNKS = (256, 128)  # K steps that are decoded at a time, at most
SHAPES = {8: ((6, 2), (4, 3)), 16: ((12, 2), (8, 3), (6, 4))}  # rows and vectors of tiles
STRIPS = {8: (3, 2), 16: (4, 2)}  # vectors of a panel of memory
FEW = (8, 4)  # most rows that are multiplied as weights stream by
BLOCK_TILES = 64  # tiles of an item: their accumulators are in scratch


class CompressedMatMul(Tactic):
    """Matrix product by weights of few bits; see the module's docstring."""

    name: ClassVar[str] = "compressed_matmul"
    rank: ClassVar[int] = 10

    def supports(self, region: Region, target: Target) -> Support:
        """Accept products whose weights are decoded by the region itself."""
        anchor = region.anchor
        if anchor is None or anchor.op != "MatMul":
            return no("the region is not a matrix product")
        reason = compressed_reason(anchor)
        if reason is not None:
            return no(reason)
        if vector_unit(target) is None:
            return no("the CPU has no AVX2")
        product = read_product(_with_plain_weights(region))
        return no(product) if isinstance(product, str) else YES

    def configs(self, region: Region, target: Target) -> list[Config]:
        """Return tile shapes, chunks of K, and widths of memory panels; the best guess first."""
        problem = _problem(region, target)
        lanes = problem.unit.lanes
        depth = problem.depth
        if not isinstance(depth, int):
            raise TacticError("the depth of weights is symbolic", where=region.name)
        chunks = dict.fromkeys(_chunk(depth, limit) for limit in CHUNKS)
        many: list[Config] = [
            {"rows": rows, "vectors": vectors, "depth": chunk}
            for chunk in chunks
            for rows, vectors in SHAPES[lanes]
        ]
        few: list[Config] = [
            {"few": limit, "digits": digits, "strips": strips}
            for limit in FEW
            for digits in ((True, False) if problem.unit.quads else (False,))
            for strips in STRIPS[lanes]
        ]
        rows = problem.x.extent
        if len(problem.axes) == 1 and isinstance(rows, int) and rows <= FEW[0]:
            return [{**many[0], **own} for own in few if own["few"] >= rows]
        return [{**own, **few[0]} for own in many] + [{**many[0], **own} for own in few[1:]]

    def build(self, region: Region, config: Config, target: Target) -> Kernel:
        """Return the kernel of one configuration."""
        problem, weights = _problem(region, target), _weights(region)
        strips, lanes = int(config["strips"]), problem.unit.lanes
        encoding = encoding_of(weights, lanes == 16 or target.has("f16c"))
        numbers = problem.weight_pointer
        if numbers is None:
            raise TacticError("the product has no weights", where=region.name)
        after = numbers + (1 if problem.bias_pointer is None else 2)
        zeros = after + 1 if encoding.zero is None else None
        printed = _print(
            problem, encoding, CompressedPointers(numbers, after, zeros), config, target, region
        )
        stored, *parameters = encode(weights, encoding, strips * lanes)
        packed = [*problem.epilogue.arrays, stored]
        if problem.epilogue.bias is not None:
            packed.append(_padded(problem.epilogue.bias, strips * lanes))
        isa = problem.unit.isa + (("f16c",) if encoding.half and lanes == 8 else ())
        return Kernel(
            printed.source, printed.items, (*packed, *parameters), printed.scratch_bytes, isa
        )


def _print(
    problem: Problem,
    encoding: Encoding,
    pointers: CompressedPointers,
    config: Config,
    target: Target,
    region: Region,
) -> CompressedSource:
    vectors, depth = int(config["vectors"]), int(config["depth"])
    columns = problem.column_split(vectors)
    chunked = bool(depth) and depth < encoding.depth
    blocking = Blocking(
        rows=int(config["rows"]),
        vectors=vectors,
        tiles=BLOCK_TILES,
        panels=max(1, columns.panels // (4 * target.threads)),
        depth=depth if chunked else 0,
        hoist=1 if chunked else 0,
    )
    printer = CompressedPrinter
    if encoding.bits == 4 and config["digits"]:
        printer = DigitsPrinter
    return printer(
        problem.with_short_runs(blocking.depth),
        blocking,
        {name: high for name, (_, _, high) in region.ranges.items()},
        encoding,
        pointers,
        int(config["strips"]),
        int(config["few"]),
        target.threads,
    ).print_all()


def _problem(region: Region, target: Target) -> Problem:
    """Return the product, with weights that are floats once they are decoded."""
    problem, _ = matmul_problem(_with_plain_weights(region), target)
    anchor = region.anchor
    narrow = anchor is not None and anchor.present_inputs[0].dtype is BF16
    return replace(problem, kind=WIDENED if narrow else FLOAT)


def _weights(region: Region) -> Compressed:
    weight = None if region.anchor is None else dequantize_of(region.anchor.inputs[1])
    if weight is None:
        raise TacticError("the region multiplies no compressed weights", where=region.name)
    return compressed_weights(weight)


def _with_plain_weights(region: Region) -> Region:
    """Return `region` with zeros that take no memory in place of the decoded weights."""
    body = clone_graph(region.body)
    anchor = next(node for node in body if node.op == region.kind)
    weight = dequantize_of(anchor.inputs[1])
    if weight is None:
        return region
    value = weight.output
    zeros = np.broadcast_to(np.zeros((), value.dtype.numpy), weight.present_inputs[0].array.shape)
    body.replace_value(value, body.constant(zeros, body.fresh_name("weights")))
    body.remove(weight)
    node = Node("Region", [], [], {"kind": region.kind, "body": body})
    operands = [
        tuple(replace(operand, value=value) for operand, value in zip(given, values, strict=True))
        for given, values in ((region.inputs, body.inputs), (region.outputs, body.outputs))
    ]
    return replace(region, node=node, body=body, inputs=operands[0], outputs=operands[1])


def _chunk(depth: int, limit: int) -> int:
    """Return the longest whole octets of at most `limit` that divide K; 0 where all are short."""
    for chunk in range(limit // OCTET * OCTET, limit // 4, -OCTET):
        if depth % chunk == 0:
            return chunk
    return 0


def _padded(bias: np.ndarray, width: int) -> np.ndarray:
    """Return a bias of whole panels."""
    flat = bias.reshape(-1).astype(np.float32)
    padded = np.zeros(-(-flat.size // width) * width, np.float32)
    padded[: flat.size] = flat
    return padded
