"""Extents as data: y[i] = an expression of the symbols, which the driver passes to every kernel.

Nothing is read; a handful of numbers is written. It exists so that shape arithmetic never leaves
native code.
"""

from __future__ import annotations

from typing import ClassVar

from planish.backends.cpu.codegen.scalar import c_dim, memory_type
from planish.backends.cpu.codegen.writer import SIGNATURE
from planish.ir.shape import parse_dim
from planish.tactics.tactic import YES, Config, Kernel, Region, Support, Tactic, no
from planish.tactics.target import Target


class ExtentsTactic(Tactic):
    """Stores of expressions."""

    name: ClassVar[str] = "extents"

    def supports(self, region: Region, target: Target) -> Support:
        """Accept planish.Extents nodes over symbols that kernels receive."""
        anchor = region.anchor
        if anchor is None or anchor.op != "planish.Extents" or len(region.body) != 1:
            return no("the region is not one planish.Extents")
        missing = sorted(set(anchor.attributes["symbols"]) - set(region.symbols))
        return YES if not missing else no(f"only the data decides {', '.join(missing)}")

    def configs(self, region: Region, target: Target) -> list[Config]:
        """Return the only configuration."""
        return [{}]

    def build(self, region: Region, config: Config, target: Target) -> Kernel:
        """Return the kernel: one item, one store an element."""
        output = region.outputs[0]
        ctype = memory_type(output.dtype)
        stride = output.strides[0] if output.strides else 1
        lines = [f"{SIGNATURE}", "{", f"    {ctype} *y = ({ctype} *)p[{len(region.inputs)}];"]
        anchor = region.anchor
        for index, text in enumerate(anchor.attributes["dims"] if anchor is not None else ()):
            dim = parse_dim(text)
            place = c_dim(stride * index, region.symbols)
            lines.append(f"    y[{place}] = ({ctype})({c_dim(dim, region.symbols)});")
        unused = ["p", "d", "begin", "end", "scratch"]
        lines += [f"    (void){name};" for name in unused]
        return Kernel("\n".join([*lines, "}", ""]), 1)
