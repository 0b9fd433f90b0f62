"""Scaled dot-product attention in one pass: softmax(Q K^T * scale + mask) V.

A block keeps a tile of queries and runs over tiles of keys with an online softmax: the running
maximum rescales what was summed so far (Dao et al., FlashAttention, arXiv 2205.14135), so scores
never reach memory. Heads lie where they lie ([B,H,S,D] in any order, or [B,S,H*D]); grouped key
heads are read in place. Bound by arithmetic for long sequences, by latency at batch 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from planish.backends.cuda.codegen.printer import Memory, Printer, indent
from planish.backends.cuda.codegen.triton_types import ELEMENTS
from planish.ir.dtypes import BF16, BOOL, F16, F32
from planish.ir.graph import Node, Value
from planish.ir.shape import Shape, ceildiv, floordiv, product
from planish.tactics.tactic import YES, Config, Region, Support, Tactic, TritonKernel, no
from planish.tactics.target import Target

FLOATS = (F16, BF16, F32)
LOG2_E = 1.4426950408889634
MOST_SHARED = 160 << 10


@dataclass(frozen=True)
class Heads:
    """Operands as [batch, head, sequence, feature], the mask broadcast to the scores."""

    query: Memory
    key: Memory
    value: Memory
    out: Memory
    mask: Memory | None
    scale: float
    causal: bool


def read_heads(region: Region, printer: Printer) -> Heads | str:
    """Return the operands of an attention region, or why the tactic cannot do it."""
    anchor = region.anchor
    if anchor is None or region.kind != "Attention":
        return "it is no attention"
    if len(region.body) != 1 or len(region.outputs) != 1:
        return "there are operations around the attention, or further outputs"
    attributes = anchor.attributes
    if any(anchor.input(index) is not None for index in (4, 5, 6)):
        return "it has a key-value cache"
    if attributes.get("softcap") or attributes.get("qk_matmul_output_mode"):
        return "it has a softcap or returns scores"
    if any(int(attributes.get(f"{side}_window_size", -1)) >= 0 for side in ("left", "right")):
        return "it has a window"
    counts = (attributes.get("q_num_heads"), attributes.get("kv_num_heads"))
    tensors = []
    for value, heads in zip(anchor.inputs[:3], (counts[0], counts[1], counts[1]), strict=True):
        if value is None or value.constant is not None or value.dtype not in FLOATS:
            return "an operand is a constant or not a float"
        tensors.append(_heads_first(printer.memory_of(value), heads))
    out = _heads_first(printer.output(0), counts[0])
    if not all(isinstance(tensor.shape[3], int) for tensor in tensors):
        return "the head size is symbolic"
    if int(str(tensors[0].shape[3])) > 256:
        return "the heads are too wide"
    mask = _mask(anchor, printer, (*tensors[0].shape[:3], tensors[1].shape[2]))
    if isinstance(mask, str):
        return mask
    scale = attributes.get("scale")
    factor = int(str(tensors[0].shape[3])) ** -0.5 if scale is None else float(scale)
    query, key, heads = tensors
    return Heads(query, key, heads, out, mask, factor, bool(attributes.get("is_causal", 0)))


def _heads_first(memory: Memory, heads: int | None) -> Memory:
    if len(memory.shape) == 4:
        return memory
    count = heads or 1
    size = floordiv(memory.shape[2], count)
    shape = (memory.shape[0], count, memory.shape[1], size)
    outer, middle, inner = memory.strides
    return Memory(memory.pointer, memory.dtype, shape, (outer, inner * size, middle, inner))


def _mask(anchor: Node, printer: Printer, scores: Shape) -> Memory | str | None:
    value: Value | None = anchor.input(3)
    if value is None:
        return None
    if value.dtype not in (*FLOATS, BOOL):
        return f"the mask is {value.dtype}"
    if value.known_shape[-1:] not in ((scores[-1],), (1,)):
        return "the mask is shorter than the keys"
    memory = printer.memory_of(value)
    missing = 4 - len(memory.shape)
    shape = (*(1,) * missing, *memory.shape)
    strides = (*(0,) * missing, *memory.strides)
    return Memory(memory.pointer, memory.dtype, shape, strides)


class Attention(Tactic):
    """See the module's docstring."""

    name: ClassVar[str] = "triton_attention"
    device: ClassVar[str] = "cuda"
    rank: ClassVar[int] = 10

    def supports(self, region: Region, target: Target) -> Support:
        """Accept attention without a cache, windows or softcap."""
        found = read_heads(region, Printer(region))
        return no(found) if isinstance(found, str) else YES

    def configs(self, region: Region, target: Target) -> list[Config]:
        """Return tiles of queries by tiles of keys, the best guess first.

        Few blocks are bound by latency, so that all keys at once are best; with many, padding
        the keys to whole tiles is what costs.
        """
        printer = Printer(region)
        found = read_heads(region, printer)
        if isinstance(found, str):
            return []
        queries, keys = (printer.tune_size(each.shape[2]) for each in (found.query, found.key))
        heads = printer.tune_size(product(found.query.shape[:2]))
        whole = min(256, max(16, 1 << (keys - 1).bit_length()))
        alone = [(64, whole, 4, 2), (32, whole, 4, 3), (16, whole, 4, 2)]
        if queries <= 128:
            alone.reverse()
        many = [(64, 32, 4, 3), (64, 64, 4, 3), (128, 64, 4, 3), (128, 32, 4, 3), (64, 128, 4, 2),
                (128, 128, 8, 2), (32, 64, 4, 3), (32, 32, 4, 2), (16, 16, 2, 2)]  # fmt: skip
        many.sort(key=lambda tile: -(-keys // tile[1]) * tile[1])
        is_small = heads * -(-queries // 64) < target.multiprocessors
        tiles = [*alone, *many] if is_small else [*many, *alone]
        return [
            {"m": m, "n": n, "warps": w, "stages": s}
            for m, n, w, s in dict.fromkeys(tiles)
            if m < 2 * max(queries, 16) and _shared_bytes(found, m, n, s) <= MOST_SHARED
        ]

    def build(self, region: Region, config: Config, target: Target) -> TritonKernel:
        """Return the kernel."""
        printer = Printer(region)
        found = read_heads(region, printer)
        if isinstance(found, str):
            raise ValueError(found)
        lines = _lines(printer, found, int(config["m"]), int(config["n"]))
        query = found.query
        grid = (ceildiv(query.shape[2], int(config["m"])), product(query.shape[:2]))
        return printer.kernel(lines, grid, warps=int(config["warps"]), stages=int(config["stages"]))


def _shared_bytes(heads: Heads, m: int, n: int, stages: int) -> int:
    """Return about how much shared memory the tiles take."""
    features, outputs = (_width(int(str(each.shape[3]))) for each in (heads.query, heads.value))
    itemsize = heads.query.dtype.itemsize
    return (m * features + stages * n * (features + outputs)) * itemsize


def _lines(printer: Printer, heads: Heads, m: int, n: int) -> list[str]:
    """Return the kernel's body: a tile of queries, a loop over keys, the division at the end."""
    query, key, value = heads.query, heads.key, heads.value
    features, outputs = int(str(query.shape[3])), int(str(value.shape[3]))
    wide, tall = _width(features), _width(outputs)
    dim = printer.dim
    count = dim(query.shape[1])
    shared = floordiv(query.shape[1], key.shape[1])
    total = dim(key.shape[2])
    lines = [
        f"rows = tl.program_id(0) * {m} + tl.arange(0, {m})",
        f"batch = tl.program_id(1) // {count}",
        f"head = tl.program_id(1) % {count}",
        f"group = head // {dim(shared)}",
        f"f = tl.arange(0, {wide})",
        f"g = tl.arange(0, {tall})",
        f"present = rows < {dim(query.shape[2])}",
        f"q_start = {_start(printer, query, 'head')}",
        f"k_start = {_start(printer, key, 'group')}",
        f"v_start = {_start(printer, value, 'group')}",
        f"q = tl.load(q_start + rows[:, None] * {dim(query.strides[2])} + f[None, :] * "
        f"{dim(query.strides[3])}, "
        f"mask=present[:, None]{_and('f[None, :]', features, wide)}, other=0)",
        f'peak = tl.full(({m},), float("-inf"), tl.float32)',
        f"weight = tl.zeros(({m},), tl.float32)",
        f"total = tl.zeros(({m}, {tall}), tl.float32)",
    ]
    end = total
    if heads.causal:
        lines.append(f"last = min({total}, (tl.program_id(0) + 1) * {m})")
        end = "last"
    lines += [f"for start in range(0, {end}, {n}):", *indent(_step(printer, heads, n))]
    out = heads.out
    return [
        *lines,
        "total = total / tl.where(weight == 0.0, 1.0, weight)[:, None]",
        f"tl.store({_start(printer, out, 'head')} + rows[:, None] * {dim(out.strides[2])} + "
        f"g[None, :] * {dim(out.strides[3])}, total.to({ELEMENTS[out.dtype]}), "
        f"mask=present[:, None]{_and('g[None, :]', outputs, tall)})",
    ]


def _step(printer: Printer, heads: Heads, n: int) -> list[str]:
    """Return what a block does with one tile of keys and values."""
    query, key, value, dim = heads.query, heads.key, heads.value, printer.dim
    features, outputs = int(str(query.shape[3])), int(str(value.shape[3]))
    wide, tall = _width(features), _width(outputs)
    element = ELEMENTS[query.dtype]
    precision = ', input_precision="ieee"' if query.dtype is F32 else ""
    total = dim(key.shape[2])
    whole = isinstance(key.shape[2], int) and key.shape[2] % n == 0
    body = [
        f"keys = start + tl.arange(0, {n})",
        f"k = tl.load(k_start + keys[None, :] * {dim(key.strides[2])} + f[:, None] * "
        f"{dim(key.strides[3])}, "
        f"mask=(keys < {total})[None, :]{_and('f[:, None]', features, wide)}, other=0)",
        f"scores = tl.dot(q, k{precision}) * {heads.scale * LOG2_E!r}",
        *_masked(printer, heads, total),
    ]
    if not whole:
        body.append(f'scores = tl.where((keys < {total})[None, :], scores, float("-inf"))')
    if heads.causal:
        body.append('scores = tl.where(rows[:, None] >= keys[None, :], scores, float("-inf"))')
    return [
        *body,
        "higher = tl.maximum(peak, tl.max(scores, axis=1))",
        'safe = tl.where(higher == float("-inf"), 0.0, higher)',
        "scores = tl.exp2(scores - safe[:, None])",
        "shrink = tl.exp2(peak - safe)",
        "weight = weight * shrink + tl.sum(scores, axis=1)",
        f"v = tl.load(v_start + keys[:, None] * {dim(value.strides[2])} + g[None, :] * "
        f"{dim(value.strides[3])}, "
        f"mask=(keys < {total})[:, None]{_and('g[None, :]', outputs, tall)}, other=0)",
        f"total = tl.dot(scores.to({element}), v, total * shrink[:, None]{precision})",
        "peak = higher",
    ]


def _masked(printer: Printer, heads: Heads, total: str) -> list[str]:
    mask = heads.mask
    if mask is None:
        return []
    steps = [
        0 if extent == 1 else stride
        for extent, stride in zip(mask.shape, mask.strides, strict=True)
    ]
    terms = [mask.pointer]
    for name, step in zip(("batch", "head", "rows[:, None]", "keys[None, :]"), steps, strict=True):
        if step != 0:
            terms.append(f"{name} * {printer.dim(step)}")
    there = [f"(keys < {total})[None, :]"] if steps[3] != 0 else []
    there += ["present[:, None]"] if steps[2] != 0 else []
    rest = f", mask={' & '.join(there)}, other=0" if there else ""
    load = f"tl.load({' + '.join(terms)}{rest})"
    if mask.dtype is BOOL:
        return [f'scores = tl.where({load} != 0, scores, float("-inf"))']
    return [f"scores += {load}.to(tl.float32) * {LOG2_E!r}"]


def _start(printer: Printer, memory: Memory, head: str) -> str:
    dim = printer.dim
    return (
        f"{memory.pointer} + batch.to(tl.int64) * {dim(memory.strides[0])} + "
        f"{head} * {dim(memory.strides[1])}"
    )


def _and(vector: str, extent: int, width: int) -> str:
    return "" if extent == width else f" & ({vector} < {extent})"


def _width(features: int) -> int:
    return max(16, 1 << (features - 1).bit_length())
