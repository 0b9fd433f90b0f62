"""The tactic contract: one tactic implements one kind of region on one device.

A *region* is a Region node: a body (a small graph of ONNX operators), and operands with their
place in memory. A tactic says whether it can do the region (`supports`, with a reason when not),
which configurations are worth timing (`configs`, best guess first), and builds a kernel for one.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from planish.ir.dtypes import DType
from planish.ir.graph import Graph, Node, Value
from planish.ir.layout import Layout
from planish.ir.shape import Dim, Shape, product
from planish.tactics.target import Target

Config = Mapping[str, Any]  # small, printable: it is shown to users and written to the cache


@dataclass(frozen=True)
class Operand:
    """One non-constant input or output of a region as a kernel sees it.

    The kernel's pointer addresses logical element (0, ..., 0); element (i, j, ...) is at
    pointer[i*strides[0] + j*strides[1] + ...].

    Attributes
    ----------
    value : Value
        The body's own input or output value (logical shape, dtype).
    strides : Shape
        In elements, one a logical axis; may hold symbols.
    halo : tuple of (int, int)
        Elements around each logical axis that hold zeros and may be read (inputs; outputs' halos
        are zeroed by the driver, kernels never write them).
    aligned : bool
        Whether the pointer is known to be a multiple of 16 bytes.
    """

    value: Value
    strides: Shape
    halo: tuple[tuple[int, int], ...]
    aligned: bool = True

    @property
    def dtype(self) -> DType:
        """Element type in memory."""
        return self.value.dtype

    @property
    def shape(self) -> Shape:
        """Logical extents."""
        return self.value.known_shape


@dataclass(frozen=True)
class Region:
    """A Region node with its operands, independent of the graph it came from.

    Attributes
    ----------
    body : Graph
        The computation. `body.inputs` are the non-constant operands in order; weights are
        constants inside the body.
    inputs, outputs : tuple of Operand
        One for each body input and output.
    symbols : tuple of str
        Symbols of dynamic extents, in the order in which kernels receive their values.
    ranges : dict
        Symbol to (min, opt, max).
    name : str
        A C identifier made from the user's layer names.
    """

    node: Node
    body: Graph
    inputs: tuple[Operand, ...]
    outputs: tuple[Operand, ...]
    symbols: tuple[str, ...] = ()
    ranges: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)
    name: str = "region"

    @property
    def kind(self) -> str:
        """Kind given by the fusion pass: the anchor's operator name, or "pointwise"."""
        return str(self.node.attributes["kind"])

    @property
    def anchor(self) -> Node | None:
        """The node of the body that the region is built around; None for pointwise regions."""
        return next((node for node in self.body if node.op == self.kind), None)


@dataclass(frozen=True)
class Support:
    """The answer of `Tactic.supports`: yes, or the reason why not."""

    reason: str | None = None

    def __bool__(self) -> bool:
        return self.reason is None


YES = Support()


def no(reason: str) -> Support:
    """Return a refusal; `reason` completes the sentence "the tactic does not do it because ..."."""
    return Support(reason)


@dataclass(frozen=True)
class Kernel:
    """A region's implementation as C source (the native kind of kernel).

    `source` defines ``static void @NAME@(char *const *p, const int64_t *d, int64_t begin,
    int64_t end, char *scratch)`` and may define helpers before it, their names made unique by
    containing ``@NAME@``. `p` holds the inputs' pointers, then the outputs', then one pointer for
    each array of `packed`; `d` holds the values of `Region.symbols`. The work is cut into `items`
    independent items; a call does items [begin, end). `scratch` is this thread's own, 64-byte
    aligned, `scratch_bytes` long. Identical sources are emitted once and shared.

    `overwrites` are inputs whose memory the output may take where both lie there alike: the kernel
    reads each element of them once, before it writes the one at its place.
    """

    source: str
    items: Dim
    packed: tuple[np.ndarray[Any, Any], ...] = ()
    scratch_bytes: int = 0
    isa: tuple[str, ...] = ()
    overwrites: tuple[int, ...] = ()

    @property
    def digest(self) -> str:
        """Identity of the code (not of the packed data)."""
        return hashlib.blake2b(self.source.encode(), digest_size=8).hexdigest()


@dataclass(frozen=True)
class TritonKernel:
    """A region's implementation as one Triton function (the CUDA kind of kernel).

    `source` defines ``@NAME@``; its parameters are pointers to the inputs, the outputs and the
    `packed` constants, then (with a workspace) ``workspace`` and ``counters``, then one 32-bit
    integer for each symbol of the region. It is launched on `grid` blocks.

    Attributes
    ----------
    pointers : tuple of str
        Triton's types of the pointers ("*fp16").
    aligned : tuple of bool
        Which pointers are multiples of 16 bytes.
    workspace_bytes : int
        Device memory that the launch may overwrite.
    counters : int
        32-bit integers that are zero before the launch and zero again after it.
    """

    source: str
    pointers: tuple[str, ...]
    aligned: tuple[bool, ...]
    grid: tuple[Dim, ...]
    warps: int = 4
    stages: int = 2
    packed: tuple[np.ndarray[Any, Any], ...] = ()
    workspace_bytes: int = 0
    counters: int = 0

    @property
    def items(self) -> Dim:
        """Blocks of the launch."""
        return product(self.grid)

    @property
    def scratch_bytes(self) -> int:
        """Memory of one thread: a GPU's threads have registers only."""
        return 0

    @property
    def digest(self) -> str:
        """Identity of the code (not of the packed data)."""
        text = f"{self.source}{self.pointers}{self.aligned}{self.warps} {self.stages}"
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


@dataclass(frozen=True)
class ExternalKernel:
    """A region's implementation run from Python: a library call or the numpy reference.

    `kind` names a loader registered by the runtime ("reference", "onednn"); `parameters` is JSON
    that the loader turns into a callable at load time; `packed` are its constants.
    """

    kind: str
    parameters: Mapping[str, Any]
    packed: tuple[np.ndarray[Any, Any], ...] = ()


class Tactic(ABC):
    """Base class of tactics; a subclass with a `name` in backends/<device>/tactics/ is found.

    Class attributes
    ----------------
    rank : int
        Order of preference before anything is measured: the lowest rank that supports a region
        is the heuristic choice (10 specialised, 50 generic, 90 last resort).
    optional : bool
        Used only when `tactic_sources` names it, because an engine with it needs a library where
        it runs.
    """

    name: ClassVar[str] = ""
    device: ClassVar[str] = "cpu"
    rank: ClassVar[int] = 50
    optional: ClassVar[bool] = False

    @abstractmethod
    def supports(self, region: Region, target: Target) -> Support:
        """Say whether this tactic can implement `region` on `target`."""

    @abstractmethod
    def configs(self, region: Region, target: Target) -> list[Config]:
        """Return candidate configurations, the best guess first; a few tens at most."""

    @abstractmethod
    def build(
        self, region: Region, config: Config, target: Target
    ) -> Kernel | TritonKernel | ExternalKernel:
        """Return the kernel of one configuration."""


@dataclass(frozen=True)
class Choice:
    """The tactic chosen for a region, and what the alternatives cost.

    The kernel's packed constants lie in the engine's weights at the byte offsets `constants`.
    """

    region: Region
    tactic: str
    config: Config
    kernel: Kernel | TritonKernel | ExternalKernel
    constants: tuple[int, ...] = ()
    microseconds: float | None = None
    alternatives: tuple[tuple[str, float], ...] = ()
    refusals: tuple[tuple[str, str], ...] = ()


def layout_of(value: Value) -> Layout:
    """Return the layout of `value`, row-major when none was assigned."""
    return value.layout or Layout.row_major(value.rank)
