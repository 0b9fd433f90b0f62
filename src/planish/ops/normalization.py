"""Normalization: subtract a mean, divide by a spread, scale and shift."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from planish.errors import ShapeError, UnsupportedOperatorError
from planish.ir.declarations import REQUIRED
from planish.ir.graph import Node
from planish.ir.requirement import Requirement, broadcasts, equal
from planish.ir.shape import Shape
from planish.ops.numeric import (
    narrow,
    optional,
    positive_array,
    random_array,
    required,
    wide_dtype,
    widen,
)
from planish.ops.op import (
    Array,
    Attributes,
    Inferred,
    Inputs,
    Op,
    Sample,
    broadcast,
    normalize_axis,
)

MVN_EPSILON = 1e-9  # MeanVarianceNormalization's function body in ONNX


def standardize(x: Array, axes: tuple[int, ...], epsilon: float) -> tuple[Array, Array, Array]:
    """Return (x - mean) / sqrt(variance + epsilon), the mean, and 1 / sqrt(variance + epsilon).

    Two passes: the variance is the mean of squared differences, so nothing cancels.
    """
    mean = x.mean(axis=axes, keepdims=True)
    centred = x - mean
    variance = np.square(centred).mean(axis=axes, keepdims=True)
    inverse = 1 / np.sqrt(variance + x.dtype.type(epsilon))
    return centred * inverse, mean, inverse


def per_channel(vector: Array, rank: int) -> Array:
    """Return `vector` [C], widened, shaped to broadcast over axis 1 of a tensor of `rank`."""
    return widen(vector).reshape(-1, *(1,) * (rank - 2))


def _same_type(node: Node) -> list[Inferred]:
    x = node.present_inputs[0]
    return [Inferred(x.dtype, x.shape)]


def check_channels(node: Node, vectors: tuple[int, ...]) -> None:
    """Raise ShapeError when an input in `vectors` is not one number a channel (axis 1 of x)."""
    x = node.present_inputs[0]
    if x.shape is None or len(x.shape) < 2:
        return
    channels = x.shape[1]
    for index in vectors:
        vector = node.input(index)
        extent = vector.shape[0] if vector is not None and vector.shape else channels
        if isinstance(extent, int) and isinstance(channels, int) and extent != channels:
            raise ShapeError(f"{vector} is not one number for each of {x}", where=str(node))


def channel_requirements(node: Node, vectors: tuple[int, ...]) -> list[Requirement]:
    """Return that the inputs in `vectors` are one number a channel (axis 1 of x)."""
    x = node.present_inputs[0]
    if x.shape is None or len(x.shape) < 2:
        return []
    given = [node.input(index) for index in vectors]
    shapes = [value.shape for value in given if value is not None]
    return [each for shape in shapes if shape for each in equal(shape[0], x.shape[1])]


def trailing_requirements(node: Node) -> list[Requirement]:
    """Return that scale and bias broadcast to x."""
    x = node.present_inputs[0]
    shapes = [value.shape for value in node.present_inputs[1:] if value.shape is not None]
    return [] if x.shape is None else broadcasts(shapes, x.shape)


class BatchNormalization(Op):
    """scale * (x - mean) / sqrt(variance + epsilon) + bias with stored statistics per channel.

    Inputs x [N,C,...], scale, bias, mean, variance (all [C]). Training mode is refused.
    """

    name = "BatchNormalization"
    attributes: ClassVar[Mapping[str, Any]] = {
        "epsilon": 1e-5,
        "momentum": 0.9,
        "training_mode": 0,
    }
    operations_per_element = 4

    @classmethod
    def infer(cls, node: Node) -> list[Inferred]:
        """Return the input's type; refuse training mode."""
        if node.attributes["training_mode"]:
            raise UnsupportedOperatorError(
                [f"{node} (training_mode=1: export the model in inference mode)"]
            )
        check_channels(node, (1, 2, 3, 4))
        return _same_type(node)

    @classmethod
    def requirements(cls, node: Node) -> list[Requirement]:
        """Return that there is one number a channel."""
        return channel_requirements(node, (1, 2, 3, 4))

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Fold the statistics into one multiply and one add, in float32 at least."""
        x = required(inputs, 0)
        scale, bias, mean, variance = (
            per_channel(required(inputs, index), max(x.ndim, 2)) for index in range(1, 5)
        )
        factor = scale / np.sqrt(variance + variance.dtype.type(attributes["epsilon"]))
        return [narrow((widen(x) - mean) * factor + bias, x)]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Cover ranks 2 to 5 and another epsilon."""
        vectors = (
            random_array(2, 3),
            random_array(3, 3),
            random_array(4, 3),
            positive_array(5, 3),
        )
        constant = (1, 2, 3, 4)
        return [
            Sample((random_array(1, 2, 3, 4, 5), *vectors), {}, constant),
            Sample((random_array(1, 2, 3), *vectors), {"epsilon": 0.1}, constant, name="matrix"),
            Sample((random_array(1, 2, 3, 7), *vectors), {}, constant, name="one_axis"),
            Sample((random_array(1, 1, 3, 2, 3, 2), *vectors), {}, constant, name="three_axes"),
        ]


class InstanceNormalization(Op):
    """Standardize every channel of every image over its spatial axes; scale and shift per channel.

    Inputs x [N,C,...], scale [C], bias [C].
    """

    name = "InstanceNormalization"
    attributes: ClassVar[Mapping[str, Any]] = {"epsilon": 1e-5}
    operations_per_element = 8

    @classmethod
    def infer(cls, node: Node) -> list[Inferred]:
        """Return the input's type."""
        check_channels(node, (1, 2))
        return _same_type(node)

    @classmethod
    def requirements(cls, node: Node) -> list[Requirement]:
        """Return that there is one number a channel."""
        return channel_requirements(node, (1, 2))

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Standardize in float32 at least."""
        x, scale, bias = (required(inputs, index) for index in range(3))
        axes = tuple(range(2, x.ndim))
        normal, _, _ = standardize(widen(x), axes, attributes["epsilon"])
        return [narrow(normal * per_channel(scale, x.ndim) + per_channel(bias, x.ndim), x)]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Cover one and two spatial axes and another epsilon."""
        scale, bias = random_array(2, 3), random_array(3, 3)
        image = random_array(1, 2, 3, 5, 4) + np.float32(3)
        return [
            Sample((image, scale, bias), {}, (1, 2)),
            Sample((image, scale, bias), {"epsilon": 0.1}, (1, 2), name="epsilon"),
            Sample((random_array(4, 2, 3, 9), scale, bias), {}, (1, 2), name="one_axis"),
        ]


class GroupNormalization(Op):
    """Standardize groups of channels over channels and space; scale and shift per channel.

    Inputs x [N,C,...], scale [C], bias [C]; `num_groups` divides C.
    """

    name = "GroupNormalization"
    attributes: ClassVar[Mapping[str, Any]] = {
        "epsilon": 1e-5,
        "num_groups": REQUIRED,
        "stash_type": 1,
    }
    operations_per_element = 8

    @classmethod
    def infer(cls, node: Node) -> list[Inferred]:
        """Return the input's type; raise ShapeError where the groups are uneven."""
        check_channels(node, (1, 2))
        x, groups = node.present_inputs[0], node.attributes["num_groups"]
        channels = x.shape[1] if x.shape is not None else groups
        if isinstance(channels, int) and channels % groups:
            raise ShapeError(f"{channels} channels are not {groups} equal groups", where=str(node))
        return _same_type(node)

    @classmethod
    def requirements(cls, node: Node) -> list[Requirement]:
        """Return that there is one number a channel."""
        return channel_requirements(node, (1, 2))

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Standardize rows of [N, groups, rest] in float32 at least."""
        x, scale, bias = (required(inputs, index) for index in range(3))
        rows = widen(x).reshape(x.shape[0], attributes["num_groups"], -1)
        normal, _, _ = standardize(rows, (2,), attributes["epsilon"])
        normal = normal.reshape(x.shape)
        return [narrow(normal * per_channel(scale, x.ndim) + per_channel(bias, x.ndim), x)]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Cover several group counts and one spatial axis."""
        scale, bias = random_array(2, 6), random_array(3, 6)
        image = random_array(1, 2, 6, 3, 4)
        return [
            Sample((image, scale, bias), {"num_groups": 2}, (1, 2)),
            Sample((image, scale, bias), {"num_groups": 6, "epsilon": 0.1}, (1, 2), name="epsilon"),
            Sample((random_array(4, 1, 6, 5), scale, bias), {"num_groups": 1}, (1, 2), name="one"),
        ]


# -- normalization of trailing axes --------------------------------------------------------------


def trailing_statistics_shape(node: Node) -> Shape | None:
    """Return x's shape with extent 1 from `axis` on: the shape of the mean; None if unknown."""
    x = node.present_inputs[0]
    if x.shape is None:
        return None
    axis = normalize_axis(node.attributes["axis"], len(x.shape), node)
    scale = node.input(1)
    if scale is not None and scale.shape is not None:
        broadcast([x.shape, scale.shape], str(node))
    return (*x.shape[:axis], *(1,) * (len(x.shape) - axis))


def trailing_axes(x: Array, axis: int) -> tuple[int, ...]:
    """Return the axes from `axis` (maybe negative) to the last."""
    return tuple(range(axis % x.ndim, x.ndim))


def trailing_samples(bias: bool, outputs: int) -> list[Sample]:
    """Return cases for a normalization of trailing axes with a scale and maybe a bias."""
    x = random_array(1, 2, 3, 4, 5) * 3 + np.float32(1)

    def case(name: str, shape: tuple[int, ...], count: int = 1, **attributes: float) -> Sample:
        extra = (random_array(3, *shape),) if bias else ()
        constant = (1, 2)[: 1 + len(extra)]
        return Sample((x, random_array(2, *shape), *extra), attributes, constant, count, name)

    return [
        case("last", (5,)),
        case("two_axes", (4, 5), axis=-2),
        case("from_one", (3, 4, 5), axis=1, epsilon=0.1),
        case("statistics", (5,), outputs),
    ]


class LayerNormalization(Op):
    """Standardize over the axes from `axis` on; scale and (optionally) shift elementwise.

    Outputs: the result, and optionally the mean and 1 / sqrt(variance + epsilon).
    """

    name = "LayerNormalization"
    attributes: ClassVar[Mapping[str, Any]] = {"axis": -1, "epsilon": 1e-5, "stash_type": 1}
    operations_per_element = 8

    @classmethod
    def infer(cls, node: Node) -> list[Inferred]:
        """Return types of the result and of both statistics."""
        x = node.present_inputs[0]
        statistics = Inferred(wide_dtype(x.dtype), trailing_statistics_shape(node))
        return [Inferred(x.dtype, x.shape), statistics, statistics]

    @classmethod
    def requirements(cls, node: Node) -> list[Requirement]:
        """Return that scale and bias broadcast."""
        return trailing_requirements(node)

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Standardize in float32 at least."""
        x, scale, bias = required(inputs, 0), required(inputs, 1), optional(inputs, 2)
        axes = trailing_axes(x, attributes["axis"])
        normal, mean, inverse = standardize(widen(x), axes, attributes["epsilon"])
        out = normal * widen(scale)
        if bias is not None:
            out = out + widen(bias)
        return [narrow(out, x), mean, inverse]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Cover axes, epsilon, absent bias and the statistics."""
        plain = Sample((random_array(1, 4, 6), random_array(2, 6)), {}, (1,), name="no_bias")
        return [*trailing_samples(bias=True, outputs=3), plain]


class RMSNormalization(Op):
    """x / sqrt(mean(x^2) + epsilon) over the axes from `axis` on, times a scale."""

    name = "RMSNormalization"
    attributes: ClassVar[Mapping[str, Any]] = {"axis": -1, "epsilon": 1e-5, "stash_type": 1}
    operations_per_element = 5

    @classmethod
    def infer(cls, node: Node) -> list[Inferred]:
        """Return the input's type."""
        trailing_statistics_shape(node)
        return _same_type(node)

    @classmethod
    def requirements(cls, node: Node) -> list[Requirement]:
        """Return that the scale broadcasts."""
        return trailing_requirements(node)

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Compute in float32 at least."""
        x, scale = required(inputs, 0), required(inputs, 1)
        normal, _ = divide_by_rms(widen(x), attributes["axis"], attributes["epsilon"])
        return [narrow(normal * widen(scale), x)]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Cover axes and epsilon."""
        return trailing_samples(bias=False, outputs=1)


def divide_by_rms(x: Array, axis: int, epsilon: float) -> tuple[Array, Array]:
    """Return x / sqrt(mean(x^2) + epsilon) over the axes from `axis` on, and the factor."""
    squares = np.square(x).mean(axis=trailing_axes(x, axis), keepdims=True)
    inverse: Array = 1 / np.sqrt(squares + x.dtype.type(epsilon))
    return x * inverse, inverse


# -- norms of one axis, of neighbours, and of chosen axes ----------------------------------------


class LpNormalization(Op):
    """x divided by its p-norm (p is 1 or 2) along one axis; a zero norm gives zeros."""

    name = "LpNormalization"
    attributes: ClassVar[Mapping[str, Any]] = {"axis": -1, "p": 2}
    operations_per_element = 3

    @classmethod
    def infer(cls, node: Node) -> list[Inferred]:
        """Return the input's type."""
        x = node.present_inputs[0]
        if x.shape is not None:
            normalize_axis(node.attributes["axis"], len(x.shape), node)
        return _same_type(node)

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Divide by the norm in float32 at least."""
        x, axis = required(inputs, 0), attributes["axis"]
        norm = np.linalg.norm(widen(x), ord=attributes["p"], axis=axis, keepdims=True)
        safe = np.where(norm == 0, 1, norm)
        return [narrow(np.where(norm == 0, 0, widen(x) / safe), x)]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Cover both norms and two axes."""
        x = random_array(1, 2, 3, 4)
        return [
            Sample((x,)),
            Sample((x,), {"p": 1, "axis": 1}),
            Sample((np.zeros((2, 3), np.float32),), name="zero"),
        ]


class LRN(Op):
    """Local response normalization: x / (bias + alpha / size * sum of squares)^beta.

    The sum runs over `size` neighbouring channels; an even size reaches one channel further ahead.
    """

    name = "LRN"
    attributes: ClassVar[Mapping[str, Any]] = {
        "alpha": 1e-4,
        "beta": 0.75,
        "bias": 1.0,
        "size": REQUIRED,
    }
    operations_per_element = 10

    @classmethod
    def infer(cls, node: Node) -> list[Inferred]:
        """Return the input's type."""
        return _same_type(node)

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Add shifted squares in float32 at least."""
        x, size = required(inputs, 0), attributes["size"]
        wide = widen(x)
        before = (size - 1) // 2
        widths = [(0, 0), (before, size - 1 - before), *((0, 0),) * (x.ndim - 2)]
        squares = np.pad(np.square(wide), widths)
        sums = np.zeros_like(wide)
        for shift in range(size):
            sums += squares[:, shift : shift + x.shape[1]]
        base = attributes["bias"] + attributes["alpha"] / size * sums
        return [narrow(wide / base ** attributes["beta"], x)]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Cover odd and even sizes and other coefficients."""
        x = random_array(1, 2, 7, 3, 4)
        coefficients = {"alpha": 0.5, "beta": 0.6, "bias": 2.0}
        return [Sample((x,), {"size": 3}), Sample((x,), {"size": 5, **coefficients})]


class MeanVarianceNormalization(Op):
    """(x - mean) / (standard deviation + 1e-9) over chosen axes."""

    name = "MeanVarianceNormalization"
    attributes: ClassVar[Mapping[str, Any]] = {"axes": (0, 2, 3)}
    operations_per_element = 6

    @classmethod
    def infer(cls, node: Node) -> list[Inferred]:
        """Return the input's type."""
        x = node.present_inputs[0]
        for axis in node.attributes["axes"] if x.shape is not None else ():
            normalize_axis(axis, len(x.known_shape), node)
        return _same_type(node)

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Compute in float32 at least."""
        x = required(inputs, 0)
        wide, axes = widen(x), tuple(attributes["axes"])
        centred = wide - wide.mean(axis=axes, keepdims=True)
        deviation = np.sqrt(np.square(centred).mean(axis=axes, keepdims=True))
        return [narrow(centred / (deviation + wide.dtype.type(MVN_EPSILON)), x)]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Cover default and chosen axes."""
        x = random_array(1, 2, 3, 4, 5)
        return [Sample((x,)), Sample((x,), {"axes": (1, 3)})]
