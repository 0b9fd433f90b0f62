"""Random numbers: normal, uniform, Bernoulli and multinomial draws.

Equal inputs give different outputs unless a seed is set; the numbers themselves differ from other
implementations, as ONNX allows.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from planish.ir.declarations import REQUIRED
from planish.ir.dtypes import DType, dtype_of
from planish.ir.graph import Node
from planish.ops.cast import dtype_attribute
from planish.ops.numeric import positive_array, random_array, required, widen
from planish.ops.op import Array, Attributes, Inferred, Inputs, Op, Sample

NORMAL = {"mean": 0.0, "scale": 1.0}
UNIFORM = {"low": 0.0, "high": 1.0}


def generator_for(attributes: Attributes) -> np.random.Generator:
    """Return a generator: seeded by the attribute's bits where it is set, else fresh."""
    seed = attributes["seed"]
    if seed is None:
        return np.random.default_rng()
    return np.random.default_rng(int(np.float32(seed).view(np.uint32)))


class _Random(Op):
    """Base of generators."""

    pure = False
    operations_per_element = 20

    @classmethod
    @abstractmethod
    def draw(
        cls, generator: np.random.Generator, shape: tuple[int, ...], attributes: Attributes
    ) -> Array:
        """Return random numbers of `shape`."""


class _Shaped(_Random):
    """Base of generators whose shape is an attribute."""

    @classmethod
    def infer(cls, node: Node) -> list[Inferred]:
        """Return the type that the attributes name."""
        dtype = dtype_attribute(node.attributes["dtype"])
        return [Inferred(dtype, tuple(node.attributes["shape"]))]

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Draw."""
        numbers = cls.draw(generator_for(attributes), tuple(attributes["shape"]), attributes)
        return [numbers.astype(dtype_attribute(attributes["dtype"]).numpy)]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Cover a seed and another type."""
        return [
            Sample((), {"shape": (2, 3), "seed": 1.0}),
            Sample((), {"shape": (4,), "dtype": 11}, name="double"),
        ]


class _Like(_Random):
    """Base of generators whose shape is the input's."""

    @classmethod
    def infer(cls, node: Node) -> list[Inferred]:
        """Return the input's shape and the attribute's type, by default the input's."""
        x = node.present_inputs[0]
        return [Inferred(_chosen(node.attributes, x.dtype), x.shape)]

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Draw."""
        x = required(inputs, 0)
        numbers = cls.draw(generator_for(attributes), x.shape, attributes)
        return [numbers.astype(_chosen(attributes, dtype_of(x)).numpy)]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Cover a seed and another type."""
        x = random_array(1, 2, 3)
        return [Sample((x,), {"seed": 1.0}), Sample((x,), {"dtype": 11}, name="double")]


def _chosen(attributes: Attributes, default: DType) -> DType:
    chosen = attributes["dtype"]
    return default if chosen is None else dtype_attribute(chosen)


def _normal(
    generator: np.random.Generator, shape: tuple[int, ...], attributes: Attributes
) -> Array:
    return generator.normal(attributes["mean"], attributes["scale"], shape)


def _uniform(
    generator: np.random.Generator, shape: tuple[int, ...], attributes: Attributes
) -> Array:
    return generator.uniform(attributes["low"], attributes["high"], shape)


class RandomNormal(_Shaped):
    """Normal draws with `mean` and standard deviation `scale`."""

    name = "RandomNormal"
    attributes: ClassVar[Mapping[str, Any]] = {
        "dtype": 1, "seed": None, "shape": REQUIRED, **NORMAL,
    }  # fmt: skip
    draw = staticmethod(_normal)


class RandomUniform(_Shaped):
    """Uniform draws in [low, high)."""

    name = "RandomUniform"
    attributes: ClassVar[Mapping[str, Any]] = {
        "dtype": 1, "seed": None, "shape": REQUIRED, **UNIFORM,
    }  # fmt: skip
    draw = staticmethod(_uniform)


class RandomNormalLike(_Like):
    """Normal draws in the input's shape."""

    name = "RandomNormalLike"
    attributes: ClassVar[Mapping[str, Any]] = {"dtype": None, "seed": None, **NORMAL}
    draw = staticmethod(_normal)


class RandomUniformLike(_Like):
    """Uniform draws in the input's shape."""

    name = "RandomUniformLike"
    attributes: ClassVar[Mapping[str, Any]] = {"dtype": None, "seed": None, **UNIFORM}
    draw = staticmethod(_uniform)


class Bernoulli(Op):
    """Ones with the probability that each input element gives, zeros otherwise."""

    name = "Bernoulli"
    pure = False
    attributes: ClassVar[Mapping[str, Any]] = {"dtype": None, "seed": None}
    operations_per_element = 20

    @classmethod
    def infer(cls, node: Node) -> list[Inferred]:
        """Return the input's shape and the attribute's type, by default the input's."""
        x = node.present_inputs[0]
        return [Inferred(_chosen(node.attributes, x.dtype), x.shape)]

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Compare uniform draws with the probabilities."""
        x = required(inputs, 0)
        draws = generator_for(attributes).random(x.shape) < widen(x)
        return [draws.astype(_chosen(attributes, dtype_of(x)).numpy)]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Cover a seed and another type."""
        x = positive_array(1, 2, 3) - np.float32(0.5)
        return [Sample((x,), {"seed": 1.0}), Sample((x,), {"dtype": 7}, name="int64")]


class Multinomial(Op):
    """Draw class numbers [N,sample_size] from unnormalised log-probabilities [N,classes]."""

    name = "Multinomial"
    pure = False
    attributes: ClassVar[Mapping[str, Any]] = {"dtype": 6, "sample_size": 1, "seed": None}
    operations_per_element = 20

    @classmethod
    def infer(cls, node: Node) -> list[Inferred]:
        """Return a matrix of class numbers."""
        x = node.present_inputs[0]
        dtype = dtype_attribute(node.attributes["dtype"])
        if x.shape is None:
            return [Inferred(dtype, None)]
        return [Inferred(dtype, (x.shape[0], node.attributes["sample_size"]))]

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Invert the cumulative distribution."""
        x = widen(required(inputs, 0)).astype(np.float64)
        powers = np.exp(x - x.max(axis=1, keepdims=True))
        steps = np.cumsum(powers, axis=1) / powers.sum(axis=1, keepdims=True)
        draws = generator_for(attributes).random((len(x), attributes["sample_size"]))
        classes = (draws[:, :, None] >= steps[:, None, :]).sum(axis=2)
        classes = np.minimum(classes, x.shape[1] - 1)
        return [classes.astype(dtype_attribute(attributes["dtype"]).numpy)]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Cover a seed and several draws."""
        return [Sample((random_array(1, 2, 5),), {"seed": 1.0, "sample_size": 4})]
