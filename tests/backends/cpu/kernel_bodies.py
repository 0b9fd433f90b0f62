"""Regions on shapes that take every form of loop, with fused prologues and epilogues."""

from __future__ import annotations

from dataclasses import dataclass, field

from planish.ir.layout import Layout

NHWC = Layout.channels_last(4)
HALO = Layout((0, 2, 3, 1), ((0, 0), (0, 0), (1, 1), (2, 1)))


@dataclass(frozen=True)
class Body:
    """A region: its kind, body as text, layouts by value, and sizes of symbols."""

    name: str
    kind: str
    text: str
    layouts: dict[str, Layout] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)


BODIES = [
    Body(
        "blocks",
        "pointwise",
        """
        graph g(%a: f32[20001], %b: f32[20001]) {
            %c = Mul(%a, %b)
            %y = Sigmoid(%c)
            return %y
        }
        """,
    ),
    Body(
        "strips",
        "pointwise",
        """
        graph g(%a: bf16[3,5000], %b: bf16[5000]) {
            %c = Add(%a, %b)
            %y = Gelu(%c)
            return %y
        }
        """,
    ),
    Body(
        "two_outputs",
        "pointwise",
        """
        graph g(%a: f32[7,40], %b: f32[7,1]) {
            %c = Add(%a, %b)
            %d = Relu(%c)
            return %c, %d
        }
        """,
    ),
    Body(
        "two_shapes",
        "pointwise",
        """
        graph g(%a: f32[7,40], %b: f32[7,1]) {
            %c = Exp(%b)
            %d = Mul(%a, %c)
            return %c, %d
        }
        """,
    ),
    Body(
        "constants",
        "pointwise",
        """
        graph g(%a: f32[2,6,5,3]) {
            @s: f32[6,1,1]
            @t: f32[3]
            %c = Mul(%a, @s)
            %y = Add(%c, @t)
            return %y
        }
        """,
    ),
    Body(
        "tiles",
        "pointwise",
        """
        graph g(%a: f32[2,70,33,37], %b: f32[2,70,33,37]) {
            %c = Add(%a, %b)
            %y = Relu(%c)
            return %y
        }
        """,
        {"a": NHWC, "y": NHWC},
    ),
    Body(
        "tiles_bf16",
        "pointwise",
        """
        graph g(%a: bf16[1,70,33,37], %b: bf16[1,70,33,37]) {
            %y = Add(%a, %b)
            return %y
        }
        """,
        {"b": NHWC},
    ),
    Body(
        "reformat",
        "pointwise",
        """
        graph g(%a: f32[2,3,40,41]) {
            %y = Identity(%a)
            return %y
        }
        """,
        {"y": NHWC},
    ),
    Body(
        "reformat_back",
        "pointwise",
        """
        graph g(%a: f32[2,3,40,41]) {
            %y = Identity(%a)
            return %y
        }
        """,
        {"a": NHWC},
    ),
    Body(
        "reformat_bf16",
        "pointwise",
        """
        graph g(%a: bf16[1,64,30,31]) {
            %y = Identity(%a)
            return %y
        }
        """,
        {"y": NHWC},
    ),
    Body(
        "halo",
        "pointwise",
        """
        graph g(%a: f32[2,20,9,8]) {
            %y = Relu(%a)
            return %y
        }
        """,
        {"a": NHWC, "y": HALO},
    ),
    Body(
        "cast_border",
        "pointwise",
        """
        graph g(%a: f32[1,3,30,31]) {
            %y = Cast(%a) {to=bf16}
            return %y
        }
        """,
        {"y": NHWC},
    ),
    Body(
        "symbols",
        "pointwise",
        """
        symbols N=(1, 4, 8), S=(1, 50, 64)
        graph g(%a: f32[N,S,12], %b: f32[S,1]) {
            %y = Mul(%a, %b)
            return %y
        }
        """,
        {},
        {"N": 3, "S": 37},
    ),
    Body(
        "transpose",
        "Transpose",
        """
        graph g(%a: f32[70,130]) {
            %b = Relu(%a)
            %c = Transpose(%b) {perm=[1,0]}
            %y = Neg(%c)
            return %y
        }
        """,
    ),
    Body(
        "heads",
        "Transpose",
        """
        symbols S=(1, 32, 64)
        graph g(%a: f32[2,S,3,16]) {
            %y = Transpose(%a) {perm=[0,2,1,3]}
            return %y
        }
        """,
        {},
        {"S": 21},
    ),
    Body(
        "reshape",
        "Reshape",
        """
        graph g(%a: f32[2,6,5,4]) {
            @s: i64[2] = [2,120]
            %y = Reshape(%a, @s)
            return %y
        }
        """,
        {"a": NHWC},
    ),
    Body(
        "reshape_uneven",
        "Reshape",
        """
        graph g(%a: f32[6,10]) {
            @s: i64[2] = [4,15]
            %y = Reshape(%a, @s)
            return %y
        }
        """,
    ),
    Body(
        "concat",
        "Concat",
        """
        graph g(%a: f32[2,5,8,9], %b: f32[2,7,8,9]) {
            %c = Concat(%a, %b) {axis=1}
            %y = Relu(%c)
            return %y
        }
        """,
        {"a": NHWC, "b": NHWC, "y": NHWC},
    ),
    Body(
        "softmax_long",
        "Softmax",
        """
        graph g(%a: f32[3,3001]) {
            %y = Softmax(%a) {axis=-1}
            return %y
        }
        """,
    ),
    Body(
        "softmax_longest",
        "Softmax",
        """
        graph g(%a: f32[2,70001]) {
            %y = Softmax(%a) {axis=-1}
            return %y
        }
        """,
    ),
    Body(
        "softmax_masked",
        "Softmax",
        """
        graph g(%a: f32[2,4,9,50], %m: f32[9,50]) {
            %s = Add(%a, %m)
            %p = Softmax(%s) {axis=-1}
            @k: f32[] = [2]
            %y = Mul(%p, @k)
            return %y
        }
        """,
    ),
    Body(
        "softmax_and_input",
        "Softmax",
        """
        graph g(%a: f32[6,50], %m: f32[50]) {
            %s = Add(%a, %m)
            %y = Softmax(%s) {axis=-1}
            return %s, %y
        }
        """,
    ),
    Body(
        "softmax_columns",
        "Softmax",
        """
        graph g(%a: f32[2,21,30,31]) {
            %y = Softmax(%a) {axis=1}
            return %y
        }
        """,
    ),
    Body(
        "softmax_bf16",
        "Softmax",
        """
        graph g(%a: bf16[5,197]) {
            %y = Softmax(%a) {axis=-1}
            return %y
        }
        """,
    ),
    Body(
        "sum_long",
        "ReduceSum",
        """
        graph g(%a: f32[3,5003]) {
            @x: i64[1] = [1]
            %y = ReduceSum(%a, @x) {keepdims=0}
            return %y
        }
        """,
    ),
    Body(
        "mean_columns",
        "ReduceMean",
        """
        graph g(%a: f32[2,300,9,11]) {
            @x: i64[2] = [2,3]
            %m = ReduceMean(%a, @x)
            %y = HardSigmoid(%m)
            return %y
        }
        """,
        {"a": NHWC},
    ),
    Body(
        "mean_rows",
        "ReduceMean",
        """
        graph g(%a: f32[2,30,9,11]) {
            @x: i64[2] = [2,3]
            %y = ReduceMean(%a, @x) {keepdims=0}
            return %y
        }
        """,
    ),
    Body(
        "max_short_rows",
        "ReduceMax",
        """
        graph g(%a: f32[300,5]) {
            @x: i64[1] = [1]
            %y = ReduceMax(%a, @x) {keepdims=0}
            return %y
        }
        """,
    ),
    Body(
        "mean_prologue",
        "ReduceMean",
        """
        symbols N=(1, 4, 8)
        graph g(%a: f32[N,9,600], %b: f32[600]) {
            @x: i64[1] = [-1]
            %c = Sub(%a, %b)
            %d = Mul(%c, %c)
            %y = ReduceMean(%d, @x)
            return %y
        }
        """,
        {},
        {"N": 3},
    ),
    Body(
        "argmax",
        "ArgMax",
        """
        graph g(%a: f32[5,700]) {
            %y = ArgMax(%a) {axis=1, keepdims=0}
            return %y
        }
        """,
    ),
    Body(
        "layer_norm",
        "LayerNormalization",
        """
        graph g(%a: f32[2,5,70], %r: f32[2,5,70]) {
            @s: f32[70]
            @b: f32[70]
            %x = Add(%a, %r)
            %n = LayerNormalization(%x, @s, @b) {axis=-1}
            %y = Relu(%n)
            return %x, %y
        }
        """,
    ),
    Body(
        "layer_norm_bf16",
        "LayerNormalization",
        """
        graph g(%a: bf16[4,768]) {
            @s: bf16[768]
            @b: bf16[768]
            %y = LayerNormalization(%a, @s, @b) {axis=-1}
            return %y
        }
        """,
    ),
    Body(
        "instance_norm",
        "InstanceNormalization",
        """
        graph g(%a: f32[2,40,30,31]) {
            @s: f32[40]
            @b: f32[40]
            %n = InstanceNormalization(%a, @s, @b)
            %y = Relu(%n)
            return %y
        }
        """,
        {"a": NHWC, "y": NHWC},
    ),
    Body(
        "group_norm",
        "GroupNormalization",
        """
        graph g(%a: f32[2,32,10,11]) {
            @s: f32[32]
            @b: f32[32]
            %y = GroupNormalization(%a, @s, @b) {num_groups=4}
            return %y
        }
        """,
        {"a": NHWC, "y": NHWC},
    ),
    Body(
        "max_pool",
        "MaxPool",
        """
        graph g(%a: f32[2,40,15,14]) {
            %m = MaxPool(%a) {kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]}
            %y = Relu(%m)
            return %y
        }
        """,
        {"a": NHWC, "y": HALO},
    ),
    Body(
        "max_pool_rows",
        "MaxPool",
        """
        graph g(%a: f32[1,3,15,50]) {
            %y = MaxPool(%a) {kernel_shape=[3,3], strides=[1,1], pads=[1,1,1,1]}
            return %y
        }
        """,
    ),
    Body(
        "max_pool_bf16",
        "MaxPool",
        """
        graph g(%a: bf16[1,40,9,9]) {
            %y = MaxPool(%a) {kernel_shape=[13,13], strides=[1,1], pads=[6,6,6,6]}
            return %y
        }
        """,
        {"a": NHWC, "y": NHWC},
    ),
    Body(
        "average_pool",
        "AveragePool",
        """
        symbols N=(1, 2, 4)
        graph g(%a: f32[N,20,9,9], %b: f32[N,20,9,9]) {
            %m = AveragePool(%a) {kernel_shape=[3,3], pads=[1,1,1,1]}
            %y = Add(%m, %b)
            return %y
        }
        """,
        {"a": NHWC, "y": NHWC},
        {"N": 3},
    ),
    Body(
        "gather",
        "Gather",
        """
        graph g(%a: f32[50,70], %i: i64[2,9]) {
            %g = Gather(%a, %i)
            %y = Neg(%g)
            return %y
        }
        """,
    ),
    Body(
        "pad",
        "Pad",
        """
        graph g(%a: f32[2,20,9,8]) {
            @p: i64[8] = [0,0,1,2,0,0,2,1]
            %y = Pad(%a, @p)
            return %y
        }
        """,
        {"a": NHWC, "y": NHWC},
    ),
    Body(
        "resize_dynamic",
        "Resize",
        """
        symbols H=(1, 8, 16)
        graph g(%a: f32[1,20,H,9]) {
            @s: f32[4] = [1,1,2,2]
            %y = Resize(%a, _, @s) {mode="linear"}
            return %y
        }
        """,
        {"a": NHWC, "y": NHWC},
        {"H": 7},
    ),
    Body(
        "resize_dynamic_cubic",
        "Resize",
        """
        symbols H=(1, 8, 16)
        graph g(%a: f32[1,2,H,9]) {
            @s: f32[4] = [1,1,2,2]
            %y = Resize(%a, _, @s) {mode="cubic"}
            return %y
        }
        """,
        {},
        {"H": 7},
    ),
    Body(
        "lstm",
        "LSTM",
        """
        symbols T=(1, 40, 64), B=(1, 4, 8)
        graph g(%x: f32[T,B,20]) {
            @w: f32[1,136,20]
            @r: f32[1,136,34]
            @b: f32[1,272]
            %y,
            %h,
            %c = LSTM(%x, @w, @r, @b) {hidden_size=34}
            return %y, %h, %c
        }
        """,
        {},
        {"T": 41, "B": 6},
    ),
    Body(
        "gru",
        "GRU",
        """
        graph g(%x: bf16[37,1,20]) {
            @w: bf16[2,102,20]
            @r: bf16[2,102,34]
            @b: bf16[2,204]
            %y = GRU(%x, @w, @r, @b) {hidden_size=34, direction="bidirectional"}
            return %y
        }
        """,
    ),
    Body(
        "top_k",
        "TopK",
        """
        graph g(%a: f32[3,900]) {
            @k: i64[1] = [40]
            %v,
            %i = TopK(%a, @k)
            return %v, %i
        }
        """,
    ),
]
