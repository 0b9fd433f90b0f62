"""Convolutions by cuDNN, where asked for (`tactic_sources`) and installed.

They are compared like all candidates, on the machine of the GPU only, because the library ranks
its plans there. Engines that use them need the library where they run.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from planish.backends.cuda.libraries import cudnn
from planish.backends.cuda.libraries.cudnn_api import Handle
from planish.backends.cuda.libraries.find import is_installed
from planish.backends.cuda.libraries.linear import Epilogue, read_epilogue
from planish.errors import DeviceError
from planish.ir.dtypes import BF16, F16
from planish.ops.convolution import window_of
from planish.runtime.cuda.driver import is_present
from planish.tactics.tactic import YES, Config, ExternalKernel, Region, Support, Tactic, no
from planish.tactics.target import Target

CANDIDATES = 4  # of the library's ranking


class CudnnConvolution(Tactic):
    """See the module's docstring."""

    name: ClassVar[str] = "cudnn"
    device: ClassVar[str] = "cuda"
    rank: ClassVar[int] = 40
    optional: ClassVar[bool] = True

    def supports(self, region: Region, target: Target) -> Support:
        """Accept convolutions of one group with static shapes, channels last."""
        found = read_cudnn(region)
        if isinstance(found, str):
            return no(found)
        if not is_present() or not is_installed("cudnn"):
            return no("there is no GPU or no cuDNN here")
        return YES

    def configs(self, region: Region, target: Target) -> list[Config]:
        """Return places in the library's ranking; none where it has no plan."""
        found = read_cudnn(region)
        if isinstance(found, str):
            return []
        try:
            known = cudnn.plans(found[0], Handle(), CANDIDATES)
        except DeviceError:
            return []
        return [{"rank": rank} for rank in range(len(known))]

    def build(self, region: Region, config: Config, target: Target) -> ExternalKernel:
        """Return the call with the plan at one place of the ranking."""
        found = read_cudnn(region)
        if isinstance(found, str):
            raise ValueError(found)
        given, epilogue, weights = found
        kind = region.outputs[0].dtype.numpy
        axes = (0, *range(2, weights.ndim), 1)
        arrays = [weights.transpose(axes)]
        arrays += [] if epilogue.bias is None else [epilogue.bias]
        packed = tuple(np.ascontiguousarray(array.astype(kind)) for array in arrays)
        return ExternalKernel(cudnn.KIND, cudnn.with_plan(given, int(config["rank"])), packed)


def read_cudnn(region: Region) -> tuple[dict[str, Any], Epilogue, np.ndarray] | str:
    """Return a region's parameters, epilogue and weights, or why it is none for the library."""
    anchor = region.anchor
    if anchor is None or anchor.op != "Conv":
        return "it is no convolution"
    source, weights = anchor.input(0), anchor.input(1)
    if source is None or weights is None or weights.constant is None:
        return "the weights are not constants"
    epilogue = read_epilogue(region)
    if isinstance(epilogue, str):
        return epilogue
    if epilogue.activation == "Gelu":
        return "the library has no such epilogue"
    window = window_of(anchor)
    if anchor.attributes.get("group", 1) != 1 or window.padding.static is None:
        return "it is in groups, or its padding is symbolic"
    operands = (*region.inputs, *region.outputs)
    used = [epilogue.source, epilogue.residual, len(operands) - 1]
    steps: list[list[int]] = []
    for index in used:
        if index is None:
            steps.append([])
            continue
        operand = operands[index]
        if operand.dtype not in (F16, BF16) or operand.dtype is not operands[-1].dtype:
            return "its operands are not 16-bit floats of one type"
        if not all(isinstance(n, int) for n in (*operand.shape, *operand.strides)):
            return "its extents are symbolic"
        if operand.strides[1] != 1 or operand.value.rank != 4:
            return "its data is not channels-last"
        steps.append([int(str(step)) for step in operand.strides])
    pads = window.padding.static
    given = {
        "shape": [int(str(n)) for n in operands[epilogue.source].shape],
        "target": [int(str(n)) for n in operands[-1].shape],
        "weights": list(weights.array.shape),
        "steps": steps,
        "strides": list(window.strides),
        "dilations": list(window.dilations),
        "pads": [*(a for a, _ in pads), *(b for _, b in pads)],
        "source": epilogue.source,
        "residual": epilogue.residual,
        "bias": epilogue.bias is not None,
        "activation": epilogue.activation,
        "dtype": operands[-1].dtype.name,
        "operands": len(operands),
    }
    return given, epilogue, weights.array
