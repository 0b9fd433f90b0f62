# ruff: noqa: E501
"""Small graphs on which layouts, storage and plans are tested; the key says what each shows."""

from __future__ import annotations

GRAPHS = {
    "conv_padding_is_a_halo": """
        symbols N=(1, 2, 3)
        graph g(%x: f32[N,3,6,6]) {
          @hw: i64[2] = [2, 3]
          @w1: f32[8,3,3,3]
          @w2: f32[4,8,3,3]
          %1: f32[N,8,6,6] = Conv(%x, @w1) {kernel_shape=[3,3], pads=[1,1,1,1]}
          %2: f32[N,8,6,6] = Relu(%1)
          %3: f32[N,4,6,6] = Conv(%2, @w2) {kernel_shape=[3,3], pads=[1,1,1,1]}
          %4: f32[N,4,1,1] = ReduceMean(%3, @hw)
          return %4
        }""",
    "residual_shares_the_halo": """
        graph g(%x: f32[1,4,6,6]) {
          @w1: f32[4,4,1,1]
          @w2: f32[4,4,3,3]
          @w3: f32[4,4,3,3]
          %1: f32[1,4,6,6] = Conv(%x, @w1) {kernel_shape=[1,1]}
          %2: f32[1,4,6,6] = Conv(%1, @w2) {kernel_shape=[3,3], pads=[1,1,1,1]}
          %3: f32[1,4,6,6] = Add(%1, %2)
          %4: f32[1,4,6,6] = Conv(%3, @w3) {kernel_shape=[3,3], pads=[0,2,2,0]}
          %5: f32[1,4,6,6] = Add(%3, %4)
          %6: f32[1,4,3,3] = MaxPool(%5) {kernel_shape=[2,2], strides=[2,2]}
          return %6
        }""",
    "concat_of_convs_vanishes": """
        graph g(%x: f32[2,4,5,5]) {
          @w1: f32[8,4,1,1]
          @w2: f32[6,4,3,3]
          @w3: f32[3,14,3,3]
          %1: f32[2,8,5,5] = Conv(%x, @w1) {kernel_shape=[1,1]}
          %2: f32[2,6,5,5] = Conv(%x, @w2) {kernel_shape=[3,3], pads=[1,1,1,1]}
          %3: f32[2,14,5,5] = Concat(%1, %2) {axis=1}
          %4: f32[2,3,5,5] = Conv(%3, @w3) {kernel_shape=[3,3], pads=[1,1,1,1]}
          %5: f32[2,3,5,5] = Relu(%4)
          return %5
        }""",
    "dense_block_is_one_buffer": """
        symbols N=(1, 2, 2)
        graph g(%x: f32[N,4,5,5]) {
          @w0: f32[4,4,1,1]
          @w1: f32[2,4,3,3]
          @w2: f32[2,6,3,3]
          @w3: f32[5,8,1,1]
          %0: f32[N,4,5,5] = Conv(%x, @w0) {kernel_shape=[1,1]}
          %1: f32[N,2,5,5] = Conv(%0, @w1) {kernel_shape=[3,3], pads=[1,1,1,1]}
          %2: f32[N,6,5,5] = Concat(%0, %1) {axis=1}
          %3: f32[N,2,5,5] = Conv(%2, @w2) {kernel_shape=[3,3], pads=[1,1,1,1]}
          %4: f32[N,8,5,5] = Concat(%0, %1, %3) {axis=1}
          %5: f32[N,5,5,5] = Conv(%4, @w3) {kernel_shape=[1,1]}
          return %5
        }""",
    "output_behind_two_views_of_another": """
        symbols N=(1, 2, 4), S=(1, 5, 9)
        graph g(%x: f32[N,S,16,2]) {
          @flat: i64[3] = [0, 0, 32]
          %1: f32[N,S,16,2] = Exp(%x)
          %2: f32[N,2,S,16] = Transpose(%1) {perm=[0,3,1,2]}
          %3: f32[N,S,32] = Reshape(%1, @flat)
          %4: f32[N,32,S] = Transpose(%3) {perm=[0,2,1]}
          return %2, %4
        }""",
    "concat_copies_inputs_and_repeats": """
        graph g(%x: f32[2,3], %y: f32[2,3]) {
          @c: f32[2,1] = [7.0, 8.0]
          %1: f32[2,3] = Exp(%y)
          %2: f32[2,13] = Concat(%x, %1, %1, @c, %x) {axis=1}
          %3: f32[2,13] = Neg(%2)
          return %3, %1
        }""",
    "nhwc_transposes_are_views": """
        symbols N=(1, 1, 3)
        graph g(%x: f32[N,6,6,3]) {
          @w: f32[8,3,3,3]
          @s: f32[8]
          %1: f32[N,3,6,6] = Transpose(%x) {perm=[0,3,1,2]}
          %2: f32[N,8,4,4] = Conv(%1, @w) {kernel_shape=[3,3]}
          %3: f32[N,4,4,8] = Transpose(%2) {perm=[0,2,3,1]}
          %4: f32[N,4,4,8] = Mul(%3, @s)
          %5: f32[N,8,4,4] = Transpose(%4) {perm=[0,3,1,2]}
          %6: f32[N,8,2,2] = MaxPool(%5) {kernel_shape=[2,2], strides=[2,2]}
          %7: f32[N,2,2,8] = Transpose(%6) {perm=[0,2,3,1]}
          return %7
        }""",
    "attention_heads_are_views": """
        symbols B=(1, 2, 2), S=(1, 3, 5)
        graph g(%x: f32[B,S,8]) {
          @w: f32[8,24]
          @o: f32[8,8]
          @heads: i64[4] = [0, 0, 2, 4]
          @join: i64[3] = [0, 0, 8]
          @sizes: i64[3] = [8, 8, 8]
          %1: f32[B,S,24] = MatMul(%x, @w)
          %q: f32[B,S,8], %k: f32[B,S,8], %v: f32[B,S,8] = Split(%1, @sizes) {axis=-1, num_outputs=3}
          %q4: f32[B,S,2,4] = Reshape(%q, @heads)
          %k4: f32[B,S,2,4] = Reshape(%k, @heads)
          %v4: f32[B,S,2,4] = Reshape(%v, @heads)
          %qt: f32[B,2,S,4] = Transpose(%q4) {perm=[0,2,1,3]}
          %kt: f32[B,2,4,S] = Transpose(%k4) {perm=[0,2,3,1]}
          %vt: f32[B,2,S,4] = Transpose(%v4) {perm=[0,2,1,3]}
          %s: f32[B,2,S,S] = MatMul(%qt, %kt)
          %p: f32[B,2,S,S] = Softmax(%s) {axis=-1}
          %a: f32[B,2,S,4] = MatMul(%p, %vt)
          %at: f32[B,S,2,4] = Transpose(%a) {perm=[0,2,1,3]}
          %aj: f32[B,S,8] = Reshape(%at, @join)
          %r: f32[B,S,8] = MatMul(%aj, @o)
          %y: f32[B,S,8] = Add(%r, %x)
          return %y
        }""",
    "channel_shuffle_copies_once": """
        graph g(%x: f32[2,4,3,3]) {
          @hw: i64[2] = [2, 3]
          @w1: f32[4,4,1,1]
          @w2: f32[4,4,1,1]
          @w3: f32[4,4,3,3]
          @cut: i64[5] = [2, 2, 4, 3, 3]
          @join: i64[4] = [2, 8, 3, 3]
          @sizes: i64[2] = [4, 4]
          %1: f32[2,4,3,3] = Conv(%x, @w1) {kernel_shape=[1,1]}
          %2: f32[2,4,3,3] = Conv(%x, @w2) {kernel_shape=[1,1]}
          %3: f32[2,8,3,3] = Concat(%1, %2) {axis=1}
          %4: f32[2,2,4,3,3] = Reshape(%3, @cut)
          %5: f32[2,4,2,3,3] = Transpose(%4) {perm=[0,2,1,3,4]}
          %6: f32[2,8,3,3] = Reshape(%5, @join)
          %7: f32[2,4,3,3], %8: f32[2,4,3,3] = Split(%6, @sizes) {axis=1, num_outputs=2}
          %9: f32[2,4,3,3] = Conv(%8, @w3) {kernel_shape=[3,3], pads=[1,1,1,1]}
          %10: f32[2,8,3,3] = Concat(%7, %9) {axis=1}
          %11: f32[2,8,1,1] = ReduceMax(%10, @hw)
          return %11
        }""",
    "detection_head_writes_the_output": """
        symbols N=(1, 2, 2)
        graph g(%x: f32[N,4,4,4], %z: f32[N,4,2,2]) {
          @w1: f32[6,4,1,1]
          @w2: f32[6,4,1,1]
          @rows1: i64[3] = [0, 48, 2]
          @rows2: i64[3] = [0, 12, 2]
          %1: f32[N,6,4,4] = Conv(%x, @w1) {kernel_shape=[1,1]}
          %2: f32[N,6,2,2] = Conv(%z, @w2) {kernel_shape=[1,1]}
          %3: f32[N,4,4,6] = Transpose(%1) {perm=[0,2,3,1]}
          %4: f32[N,2,2,6] = Transpose(%2) {perm=[0,2,3,1]}
          %5: f32[N,48,2] = Reshape(%3, @rows1)
          %6: f32[N,12,2] = Reshape(%4, @rows2)
          %7: f32[N,60,2] = Concat(%5, %6) {axis=1}
          return %7
        }""",
    "outputs_do_not_alias": """
        graph g(%x: f32[2,3]) {
          @c: f32[2] = [1.0, 2.0]
          @flat: i64[1] = [6]
          %1: f32[2,3] = Relu(%x)
          %2: f32[6] = Reshape(%1, @flat)
          %3: f32[3,2] = Transpose(%1) {perm=[1,0]}
          return %x, %1, %1 as "again", %2, %3, @c
        }""",
    "slices_keep_strides": """
        symbols S=(3, 5, 8)
        graph g(%x: f32[S,6]) {
          @0: i64[1] = [0]
          @1: i64[1] = [1]
          @2: i64[1] = [2]
          @5: i64[1] = [5]
          @m1: i64[1] = [-1]
          @m2: i64[1] = [-2]
          @m9: i64[1] = [-9]
          @big: i64[1] = [9223372036854775807]
          %1: f32[S,6] = Tanh(%x)
          %2: f32[S,2] = Slice(%1, @1, @5, @1, @2)
          %3: f32[S,6] = Slice(%1, @m1, @m9, @1, @m1)
          %4: f32[2,6] = Slice(%1, @m2, @big, @0, @1)
          %5: f32[S,2] = Neg(%2)
          %6: f32[S,6] = Neg(%3)
          %7: f32[2,6] = Neg(%4)
          return %5, %6, %7
        }""",
    "branches_write_the_result": """
        graph g(%x: f32[2,4], %c: bool[]) {
          @w: f32[4,4]
          %1: f32[2,4] = Relu(%x)
          %2: f32[2,4], %3: f32[2,8] = If(%c) {then_branch=graph yes() {
            %a: f32[2,4] = MatMul(%1, @w)
            %b: f32[2,4] = Exp(%a)
            %d: f32[2,8] = Concat(%a, %b) {axis=1}
            return %b, %d
          }, else_branch=graph no() {
            %e: f32[2,4] = Identity(%1)
            %f: f32[2,8] = Concat(%1, %x) {axis=1}
            return %e, %f
          }}
          %4: f32[2,4] = Neg(%2)
          return %4, %3
        }""",
    "nested_branches": """
        graph g(%x: f32[4], %c: bool[], %d: bool[]) {
          %1: f32[4] = If(%c) {then_branch=graph yes() {
            %n: bool[] = Not(%d)
            %2: f32[4] = If(%n) {then_branch=graph yes2() {
              %3: f32[4] = Exp(%x)
              return %3
            }, else_branch=graph no2() {
              return %x
            }}
            return %2
          }, else_branch=graph no() {
            %4: f32[4] = Neg(%x)
            return %4
          }}
          %5: f32[4] = Abs(%1)
          return %5
        }""",
    "expand_is_a_stride_of_zero": """
        symbols N=(1, 2, 3)
        graph g(%x: f32[N,2,4]) {
          @token: f32[1,1,4] = [1.0, 2.0, 3.0, 4.0]
          @zero: i64[1] = [0]
          @three: i64[1] = [3]
          @one: i64[1] = [1]
          @tail: i64[2] = [1, 4]
          %shape: i64[3] = Shape(%x) {end=3, start=0}
          %n: i64[1] = Slice(%shape, @zero, @one, @zero)
          %target: i64[3] = Concat(%n, @tail) {axis=0}
          %t: f32[N,1,4] = Expand(@token, %target)
          %y: f32[N,2,4] = Tanh(%x)
          %z: f32[N,3,4] = Concat(%t, %y) {axis=1}
          %r: f32[N,3,4] = Sigmoid(%z)
          return %r
        }""",
    "pooling_to_one_pixel_needs_no_reformat": """
        graph g(%x: f32[1,4,4,4]) {
          @w: f32[8,4,4,4]
          @v: f32[8,5]
          @flat: i64[2] = [1, 8]
          %1: f32[1,8,1,1] = Conv(%x, @w) {kernel_shape=[4,4]}
          %2: f32[1,8] = Reshape(%1, @flat)
          %3: f32[1,5] = MatMul(%2, @v)
          return %3
        }""",
    "in_place_chains": """
        graph g(%x: f32[8,16]) {
          @one: i64[1] = [1]
          @w: f32[16,16]
          %1: f32[8,16] = MatMul(%x, @w)
          %2: f32[8,1] = ReduceSum(%1, @one)
          %3: f32[8,16] = Sub(%1, %2)
          %4: f32[8,1] = ReduceMax(%3, @one)
          %5: f32[8,16] = Div(%3, %4)
          %6: f32[8,1] = ReduceMin(%5, @one)
          %7: f32[8,16] = Add(%5, %6)
          %8: f32[16,8] = Transpose(%7) {perm=[1,0]}
          %9: f32[8,8] = MatMul(%7, %8)
          return %9
        }""",
}
