"""FusedConv, ONNX Runtime's convolution with an activation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from planish.errors import ShapeError
from planish.ir.graph import Node
from planish.ir.requirement import Requirement, equal_shapes
from planish.ops.convolution import (
    WINDOW_ATTRIBUTES,
    add_channel_bias,
    convolution_cost,
    convolution_requirements,
    convolve,
    infer_convolution,
    window_for,
)
from planish.ops.numeric import narrow, optional, random_array, required, widen
from planish.ops.op import Array, Attributes, Cost, Inferred, Inputs, Op, Sample


def activate(x: Array, name: str, parameters: Sequence[float]) -> Array:
    """Return ONNX Runtime's fused activation `name` of `x`; raise ShapeError for an unknown one."""
    match name, tuple(parameters):
        case "", _:
            return x
        case "Relu", _:
            return np.asarray(np.maximum(x, 0))
        case "Tanh", _:
            return np.asarray(np.tanh(x))
        case "Sigmoid", _:
            return np.asarray(1 / (1 + np.exp(-x)))
        case "LeakyRelu", (alpha, *_):
            return np.where(x < 0, x * x.dtype.type(alpha), x)
        case "Clip", (low, high):
            return np.asarray(np.clip(x, x.dtype.type(low), x.dtype.type(high)))
        case "HardSigmoid", (alpha, beta):
            scaled = x * x.dtype.type(alpha) + x.dtype.type(beta)
            return np.asarray(np.clip(scaled, 0, 1))
    raise ShapeError(f"unknown fused activation {name!r} with {len(parameters)} parameters")


class FusedConv(Op):
    """Convolution plus bias, plus an optional addend of the output's shape, then an activation.

    Inputs x, weight, bias, addend; `activation` is one of Relu, Tanh, Sigmoid, LeakyRelu, Clip,
    HardSigmoid (or "" for none) with `activation_params`.
    """

    name = "com.microsoft.FusedConv"
    attributes: ClassVar[Mapping[str, Any]] = {
        **WINDOW_ATTRIBUTES,
        "group": 1,
        "activation": "",
        "activation_params": (),
    }

    @classmethod
    def infer(cls, node: Node) -> list[Inferred]:
        """Return the same type as Conv does."""
        return infer_convolution(node)

    @classmethod
    def requirements(cls, node: Node) -> list[Requirement]:
        """Return that channels fit, and that the addend has the output's shape."""
        addend = node.input(3)
        found = convolution_requirements(node)
        if addend is None or addend.shape is None or node.outputs[0].shape is None:
            return found
        return found + equal_shapes(addend.shape, node.outputs[0].shape)

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Compose Conv, addition and activation in float32."""
        x, weight = required(inputs, 0), required(inputs, 1)
        window = window_for(attributes, x.shape[2:], weight.shape[2:])
        out = convolve(widen(x), widen(weight), window, attributes["group"])
        out = add_channel_bias(out, optional(inputs, 2))
        addend = optional(inputs, 3)
        if addend is not None:
            out = out + widen(addend)
        parameters = attributes["activation_params"] or ()
        return [narrow(activate(out, attributes["activation"] or "", parameters), x)]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Cover every activation, and the addend."""
        x, weight, bias = (
            random_array(1, 1, 4, 6, 6),
            random_array(2, 8, 4, 3, 3),
            random_array(3, 8),
        )
        activations: list[tuple[str, tuple[float, ...]]] = [
            ("Relu", ()),
            ("Tanh", ()),
            ("Sigmoid", ()),
            ("LeakyRelu", (0.2,)),
            ("Clip", (0.0, 6.0)),
            ("HardSigmoid", (0.2, 0.5)),
        ]
        cases = [
            Sample(
                (x, weight, bias),
                {"activation": name, "activation_params": parameters, "pads": (1, 1, 1, 1)},
                constant=(1, 2),
                name=name.lower(),
            )
            for name, parameters in activations
        ]
        addend = random_array(4, 1, 8, 6, 6)
        attributes = {"activation": "Relu", "pads": (1, 1, 1, 1)}
        return [*cases, Sample((x, weight, bias, addend), attributes, (1, 2), name="addend")]

    @classmethod
    def cost(cls, node: Node) -> Cost:
        """Count two operations a tap of the kernel."""
        return convolution_cost(node)
