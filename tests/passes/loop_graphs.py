"""Graphs with loops: one of each kind, and random ones, for passes, plans and kernels."""

from __future__ import annotations

import numpy as np

from planish.ir.graph import Graph
from tests.passes.checks import parse

COUNTED = """
graph counted(%x: f32[70,3,4], %h: f32[3,4]) {
  @trips: i64[] = [70]
  @w: f32[4,4] = [0.1,0.2,0.3,0.4,-0.1,-0.2,-0.3,0.4,0.1,0.2,0.3,-0.4,0.5,0.2,0.3,0.4]
  %last, %all = Loop(@trips, _, %h) {body=graph body(%i: i64[], %go: bool[], %s: f32[3,4]) {
    %still = Identity(%go)
    %row = Gather(%x, %i) {axis=0}
    %1 = MatMul(%s, @w)
    %2 = Add(%1, %row)
    %new = Tanh(%2)
    %copy = Identity(%new)
    return %still, %new, %copy
  }}
  return %last, %all
}"""

SYMBOLIC = """
symbols N=(1, 5, 9)
graph symbolic(%x: f32[N,3], %h: f32[3]) {
  %last, %all = Scan(%h, %x) {num_scan_inputs=1, scan_input_directions=[1], body=graph body(
    %s: f32[3], %row: f32[3]
  ) {
    %sum = Add(%s, %row)
    %copy = Identity(%sum)
    return %sum, %copy
  }}
  return %last, %all
}"""

SIDEWAYS = """
graph sideways(%x: f32[3,70], %h: f32[3]) {
  %last, %all = Scan(%h, %x) {
    num_scan_inputs=1, scan_input_axes=[1], scan_output_axes=[1], scan_output_directions=[1],
    body=graph body(%s: f32[3], %row: f32[3]) {
      %sum = Add(%s, %row)
      %copy = Identity(%sum)
      return %sum, %copy
    }
  }
  return %last, %all
}"""

WHILE = """
graph while(%x: f32[3,4], %go: bool[]) {
  @two: f32[] = 2.0
  @limit: f32[] = 100.0
  %y = Loop(_, %go, %x) {body=graph body(%i: i64[], %c: bool[], %a: f32[3,4]) {
    %twice = Mul(%a, @two)
    %size = Abs(%twice)
    %sum = ReduceSum(%size) {keepdims=0}
    %more = Less(%sum, @limit)
    return %more, %twice
  }}
  return %y
}"""

LIMITED = """
graph limited(%x: f32[3,4], %n: i64[]) {
  %y = Loop(%n, _, %x) {body=graph body(%i: i64[], %c: bool[], %a: f32[3,4]) {
    %number = Cast(%i) {to=f32}
    %sum = Add(%a, %number)
    %still = Identity(%c)
    return %still, %sum
  }}
  return %y
}"""

SWAPPED = """
graph swapped(%x: f32[3,4], %y: f32[3,4]) {
  @trips: i64[] = [71]
  %a, %b, %all = Loop(@trips, _, %x, %y) {body=graph body(
    %i: i64[], %c: bool[], %p: f32[3,4], %q: f32[3,4]
  ) {
    %still = Identity(%c)
    %first = Identity(%q)
    %second = Identity(%p)
    %kept = Identity(%p)
    return %still, %first, %second, %kept
  }}
  return %a, %b, %all
}"""

NESTED = """
graph nested(%x: f32[70,66,4], %h: f32[4], %go: bool[]) {
  @outer: i64[] = [70]
  @inner: i64[] = [66]
  %last, %means = Loop(@outer, _, %h) {body=graph body(%i: i64[], %c: bool[], %a: f32[4]) {
    %still = Identity(%c)
    %row = Gather(%x, %i) {axis=0}
    %end, %all = Loop(@inner, _, %a) {body=graph deep(%j: i64[], %d: bool[], %b: f32[4]) {
      %going = Identity(%d)
      %v = Gather(%row, %j) {axis=0}
      %1 = Add(%b, %v)
      %sine = Sin(%1)
      %kept = Identity(%sine)
      return %going, %sine, %kept
    }}
    %mean = ReduceMean(%all, _) {keepdims=0}
    %result = If(%go) {then_branch=graph then() {
      %2 = Add(%end, %a)
      return %2
    }, else_branch=graph else() {
      %3 = Sub(%end, %a)
      return %3
    }}
    return %still, %result, %mean
  }}
  return %last, %means
}"""

GUARDED = """
graph guarded(%x: f32[3,4], %go: bool[]) {
  @trips: i64[] = [70]
  @half: f32[] = 0.5
  %y = If(%go) {then_branch=graph then() {
    %1 = Loop(@trips, _, %x) {body=graph body(%i: i64[], %c: bool[], %a: f32[3,4]) {
      %still = Identity(%c)
      %2 = Mul(%a, @half)
      %3 = Add(%2, %x)
      return %still, %3
    }}
    return %1
  }, else_branch=graph else() {
    %4 = Neg(%x)
    return %4
  }}
  return %y
}"""

WRITTEN = """
graph written(%x: f32[3], %kept: f32[40,3]) {
  @limit: f32[] = 50.0
  @first: i64[2] = [1, 1]
  @axis: i64[1] = [0]
  @up: f32[] = 1.25
  @yes: bool[] = [1]
  %end, %all = Loop(_, @yes, %x, %kept) {body=graph body(
    %i: i64[], %c: bool[], %a: f32[3], %list: f32[40,3]
  ) {
    %size = Abs(%a)
    %grown = Add(%size, @up)
    %number = Reshape(%i, @first)
    %row = Unsqueeze(%grown, @axis)
    %with = ScatterND(%list, %number, %row)
    %most = ReduceMax(%grown, _) {keepdims=0}
    %more = Less(%most, @limit)
    return %more, %grown, %with
  }}
  return %end, %all
}"""

LOOPS = {
    "written": WRITTEN,
    "counted": COUNTED,
    "symbolic": SYMBOLIC,
    "sideways": SIDEWAYS,
    "while": WHILE,
    "limited": LIMITED,
    "swapped": SWAPPED,
    "nested": NESTED,
    "guarded": GUARDED,
}

UNARY = ("Tanh", "Neg", "Identity", "Sigmoid")
BINARY = ("Add", "Sub", "Mul", "Max")


def random_loop(seed: int) -> Graph:
    """Return a loop of 70 iterations whose body computes, swaps, views and stacks at random."""
    random = np.random.default_rng(seed)
    states = int(random.integers(1, 4))
    carried = [f"s{index}" for index in range(states)]
    values = [*carried, "row", "outer"]
    lines = ["%still = Identity(%go)", "%row = Gather(%x, %i) {axis=0}"]
    for number in range(int(random.integers(1, 9))):
        name = f"v{number}"
        a, b = random.choice(values, 2)
        kind = int(random.integers(0, 6))
        if kind == 0:
            lines.append(f"%{name} = {random.choice(UNARY)}(%{a})")
        elif kind == 1:
            lines.append(f"%{name} = Transpose(%{a}) {{perm=[1,0]}}")
        elif kind == 2:
            lines.append(f"%{name} = MatMul(%{a}, @w)")
        elif kind == 3:
            lines += [
                f"%{name}_top = Slice(%{a}, @zero, @two, @zero)",
                f"%{name}_rest = Slice(%{b}, @two, @four, @zero)",
                f"%{name} = Concat(%{name}_top, %{name}_rest) {{axis=0}}",
            ]
        elif kind == 4:
            lines += [
                f"%{name}_part = Slice(%{b}, @zero, @two, @zero)",
                f"%{name} = ScatterND(%{a}, @places, %{name}_part)",
            ]
        else:
            lines.append(f"%{name} = {random.choice(BINARY)}(%{a}, %{b})")
        values.append(name)
    results = [str(random.choice(values)) for _ in range(states + int(random.integers(0, 3)))]
    lines += [f"%r{index} = Identity(%{name})" for index, name in enumerate(results)]
    outputs = [f"%y{index}" for index in range(len(results))]
    inputs = "".join(f", %{name}: f32[4,4]" for name in carried)
    initial = [str(random.choice(["outer", "start"])) for _ in carried]
    text = f"""
    graph random(%x: f32[70,4,4], %start: f32[4,4], %given: f32[4,4]) {{
      @trips: i64[] = [70]
      @zero: i64[1] = [0]
      @two: i64[1] = [2]
      @four: i64[1] = [4]
      @places: i64[2,1] = [1,3]
      @w: f32[4,4] = [0.1,0.2,0.3,0.4,-0.1,-0.2,-0.3,0.4,0.1,0.2,0.3,-0.4,0.5,0.2,0.3,0.4]
      %outer = Tanh(%given)
      {", ".join(outputs)} = Loop(@trips, _, {", ".join(f"%{name}" for name in initial)}) {{
        body=graph body(%i: i64[], %go: bool[]{inputs}) {{
          {chr(10).join("          " + line for line in lines).strip()}
          return %still, {", ".join(f"%r{index}" for index in range(len(results)))}
        }}
      }}
      %sum = Add({outputs[0]}, {outputs[0]})
      return %sum, {", ".join(outputs)}
    }}"""
    return parse(text)
