"""Shape arithmetic as exporters write it resolves to symbolic extents."""

from __future__ import annotations

import pytest

from planish.ir.graph import Value
from planish.ir.shape import Dim, parse_dim, symbol
from planish.ops.content import bounds, divide_products, equal, larger, less, smaller
from planish.ops.infer import graph_from_text

N, H, S = symbol("N"), symbol("H"), symbol("S")


def outputs(text: str) -> list[Value]:
    return graph_from_text("graph g(" + text.strip() + " }").outputs


def extents(value: Value) -> list[str]:
    return [str(dim) for dim in value.known_shape]


def dims(*texts: str) -> tuple[Dim, ...]:
    return tuple(parse_dim(text) for text in texts)


def test_flatten_as_tf2onnx_writes_it() -> None:
    (y,) = outputs("""%x: f32[N,64,H,W]) {
        @zero: i64[] = [0]  @axes: i64[1] = [0]  @rest: i64[1] = [-1]
        %shape = Shape(%x)
        %batch = Gather(%shape, @zero)
        %vector = Unsqueeze(%batch, @axes)
        %target = Concat(%vector, @rest) {axis=0}
        %y = Reshape(%x, %target)
        return %y""")
    assert y.shape == dims("N", "64*H*W")


def test_attention_heads_as_torch_writes_them() -> None:
    y, z = outputs("""%x: f32[N,S,768]) {
        @0: i64[] = [0]  @1: i64[] = [1]  @2: i64[] = [2]  @twelve: i64[] = [12]
        @axes: i64[1] = [0]
        %shape = Shape(%x)
        %n = Gather(%shape, @0)
        %s = Gather(%shape, @1)
        %c = Gather(%shape, @2)
        %head = Div(%c, @twelve)
        %n1 = Unsqueeze(%n, @axes)
        %s1 = Unsqueeze(%s, @axes)
        %c1 = Unsqueeze(%c, @axes)
        %heads = Unsqueeze(@twelve, @axes)
        %head1 = Unsqueeze(%head, @axes)
        %target = Concat(%n1, %s1, %heads, %head1) {axis=0}
        %split = Reshape(%x, %target)
        %y = Transpose(%split) {perm=[0,2,1,3]}
        %t = Transpose(%y) {perm=[0,2,1,3]}
        %back = Concat(%n1, %s1, %c1) {axis=0}
        %z = Reshape(%t, %back)
        return %y, %z""")
    assert y.shape == dims("N", "12", "S", "64")
    assert z.shape == dims("N", "S", "768")


def test_expand_as_torch_writes_it() -> None:
    (y,) = outputs("""%x: f32[N,S,8], %token: f32[1,1,8]) {
        @zero: i64[] = [0]  @axes: i64[1] = [0]  @keep: i64[2] = [-1,-1]
        @rank: i64[1] = [3]  @minus: i64[1] = [-1]
        %shape = Shape(%x)
        %n = Gather(%shape, @zero)
        %n1 = Unsqueeze(%n, @axes)
        %wanted = Concat(%n1, @keep) {axis=0}
        %ones = ConstantOfShape(@rank) {value=i64[1] = [1]}
        %mask = Equal(%wanted, @minus)
        %target = Where(%mask, %ones, %wanted)
        %y = Expand(%token, %target)
        return %y""")
    assert y.shape == dims("N", "1", "8")


def test_equal_against_a_product_with_minus_one() -> None:
    # torch's expand builds ones * -1 to compare with
    (y,) = outputs("""%x: f32[N,1]) {
        @two: i64[1] = [2]  @minus: i64[] = [-1]  @five: i64[1] = [5]
        %n = Shape(%x) {end=1}
        %wanted = Concat(%n, @five) {axis=0}
        %ones = ConstantOfShape(@two) {value=i64[1] = [1]}
        %negative = Mul(%ones, @minus)
        %mask = Equal(%wanted, %negative)
        %target = Where(%mask, %ones, %wanted)
        %y = Expand(%x, %target)
        return %y""")
    assert y.shape == dims("N", "5")


def test_causal_mask_of_dynamic_length() -> None:
    positions, mask = outputs("""%x: i64[N,S]) {
        @zero: i64[] = [0]  @one: i64[] = [1]  @axis0: i64[1] = [0]  @axis1: i64[1] = [1]
        %shape = Shape(%x)
        %s = Gather(%shape, @one)
        %positions = Range(@zero, %s, @one)
        %rows = Unsqueeze(%positions, @axis1)
        %columns = Unsqueeze(%positions, @axis0)
        %mask = LessOrEqual(%columns, %rows)
        return %positions, %mask""")
    assert positions.shape == (S,)
    assert mask.shape == (S, S)
    assert mask.dtype.name == "bool"


def test_position_embeddings_are_sliced_to_the_length() -> None:
    graph = graph_from_text("""symbols S=(1,16,512)
      graph g(%x: i64[N,S], %table: f32[512,8]) {
        @axis: i64[1] = [0]
        %s = Shape(%x) {start=1}
        %y = Slice(%table, @axis, %s, @axis)
        return %y }""")
    assert graph.outputs[0].shape == (S, 8)


def test_slices_of_symbolic_extents() -> None:
    first, rest, last, even, reverse = outputs("""%x: f32[N,H]) {
        @0: i64[1] = [0]  @1: i64[1] = [1]  @2: i64[1] = [2]  @minus: i64[1] = [-1]
        @last: i64[1] = [9223372036854775807]  @first: i64[1] = [-9223372036854775807]
        %a = Slice(%x, @0, @1, @1)
        %b = Slice(%x, @1, @last, @1)
        %c = Slice(%x, @minus, @last, @1)
        %d = Slice(%x, @0, @last, @1, @2)
        %e = Slice(%x, @minus, @first, @1, @minus)
        return %a, %b, %c, %d, %e""")
    assert first.shape == (N, 1)
    assert rest.shape == (N, H - 1)
    assert last.shape == (N, 1)
    assert extents(even) == ["N", "floordiv(H+1, 2)"]
    assert reverse.shape == (N, H)


def test_window_partition_and_back() -> None:
    windows, back = outputs("""%x: f32[N,H,W,32]) {
        @seven: i64[] = [7]  @size: i64[2] = [7,7]  @axes: i64[1] = [0]  @rest: i64[1] = [-1]
        @a: i64[1] = [0]  @b: i64[1] = [1]  @c: i64[1] = [2]  @d: i64[1] = [3]  @s: i64[1] = [7]
        %n = Shape(%x) {end=1}
        %h = Shape(%x) {start=1, end=2}
        %w = Shape(%x) {start=2, end=3}
        %ch = Shape(%x) {start=3}
        %h7 = Mul(%h, @seven)
        %x7 = Concat(%n, %h7, %w, %ch) {axis=0}
        %tall = Concat(%x, %x, %x, %x, %x, %x, %x) {axis=1}
        %rows = Div(%h7, @seven)
        %split = Concat(%n, %rows, @s, %w, %ch) {axis=0}
        %windows = Reshape(%tall, %split)
        %join = Concat(%n, @rest, %w, %ch) {axis=0}
        %back = Reshape(%windows, %join)
        return %windows, %back""")
    assert windows.shape == dims("N", "H", "7", "W", "32")
    assert back.shape == dims("N", "7*H", "W", "32")


def test_interpolation_through_floats() -> None:
    (y,) = outputs("""%x: f32[N,3,H,W]) {
        @two: f32[] = [2.0]
        %hw = Shape(%x) {start=2}
        %real = Cast(%hw) {to=1}
        %twice = Mul(%real, @two)
        %floor = Floor(%twice)
        %size = Cast(%floor) {to=7}
        %y = ConstantOfShape(%size)
        return %y""")
    assert y.shape == dims("2*H", "2*W")


def test_padding_computed_from_the_shape() -> None:
    (y,) = outputs("""%x: f32[N,3,H]) {
        @eight: i64[] = [8]  @zeros: i64[5] = [0,0,0,0,0]
        %h = Shape(%x) {start=2}
        %over = Mod(%h, @eight)
        %missing = Sub(@eight, %over)
        %needed = Mod(%missing, @eight)
        %pads = Concat(@zeros, %needed) {axis=0}
        %y = Pad(%x, %pads)
        return %y""")
    assert extents(y)[:2] == ["N", "3"]
    assert extents(y)[2] == "H+mod(-mod(H, 8)+8, 8)"


def test_tile_repeats_by_an_extent() -> None:
    (y,) = outputs("""%x: f32[N,S], %q: f32[1,9,4]) {
        @ones: i64[2] = [1,1]
        %n = Shape(%x) {end=1}
        %repeats = Concat(%n, @ones) {axis=0}
        %y = Tile(%q, %repeats)
        return %y""")
    assert y.shape == (N, 9, 4)


def test_size_and_product_of_extents() -> None:
    (y,) = outputs("""%x: f32[N,S,4]) {
        @axes: i64[1] = [0]
        %size = Size(%x)
        %target = Unsqueeze(%size, @axes)
        %y = Reshape(%x, %target)
        return %y""")
    assert y.shape == (4 * N * S,)


def test_what_the_data_decides_stays_open() -> None:
    (y,) = outputs("%x: f32[N,4], %t: i64[2]) { %y = Reshape(%x, %t) return %y")
    assert all(text.startswith("?") for text in extents(y))


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        ("N", 1, float("inf")),
        ("?x", 0, float("inf")),
        ("2*K-3", 1, 13),
        ("max(N, 4)", 4, float("inf")),
        ("min(K, 4)", 2, 4),
        ("mod(N, 5)", 0, 4),
        ("floordiv(K, 2)", 1, 4),
        ("-N", float("-inf"), -1),
        ("K*N-1", 1, float("inf")),
    ],
)
def test_bounds(text: str, low: float, high: float) -> None:
    assert bounds(parse_dim(text), {"K": (2, 4, 8)}) == (low, high)


def test_comparisons_say_so_when_symbols_decide() -> None:
    assert equal(N, -1) is False
    assert equal(N, N) is True
    assert equal(N, 4) is None
    assert less(N, N + 1) is True
    assert less(N + 1, N) is False
    assert less(N, 4) is None
    assert larger(N, 1) == N
    assert smaller(N, N + 1) == N
    assert str(smaller(N, 4)) == "min(4, N)" or str(smaller(N, 4)) == "min(N, 4)"


def test_products_divide_factor_by_factor() -> None:
    assert divide_products([N, H + 1, 49], [H + 1, 7]) == 7 * N
    assert divide_products([N, 64, H], [N * H]) == 64
    assert divide_products([N, 64], [8, 8]) == N
