"""What a kernel does before the one ahead of it has ended: bring its constants into the L2 cache.

Kernels of one inference wait for each other, but no kernel writes constants. At batch 1 a layer's
weights come from memory, whose latency is a good part of the layer's time; asked for while the
layer before still runs, they are in the cache when the wait is over.
"""

from __future__ import annotations

LINE = 128  # bytes that one prefetch brings
MOST_LINES = 16  # of one thread; what is behind them the loop's own pipeline hides


def prefetch_columns(
    pointer: str, column: str, first: str, *, columns: tuple[int, int], depth: int, span: int,
    itemsize: int, threads: int,
) -> list[str]:  # fmt: skip
    """Return the statements that prefetch a block's part of weights packed [column][depth].

    Parameters
    ----------
    pointer : str
        Of the weights.
    column, first : str
        The block's first column, and its first element along the depth.
    columns : (int, int)
        Columns of the block, a power of two, and of the weights.
    depth : int
        Elements of a column in memory.
    span : int
        Elements of a column that the block reads.
    itemsize : int
        Bytes of an element.
    threads : int
        Of the block, a power of two.
    """
    width, count = columns
    step = LINE // itemsize
    pieces = 1 << (-(-min(span, depth) // step) - 1).bit_length()
    pieces = max(1, min(pieces, MOST_LINES * threads // width))
    return [
        f"line = tl.arange(0, {width * pieces})",
        f"ahead = tl.minimum({column} + line // {pieces}, {count - 1}) * {depth}",
        f"ahead += tl.minimum({first} + line % {pieces} * {step}, {depth - 1})",
        f"planish_prefetch({pointer} + ahead)",
    ]
