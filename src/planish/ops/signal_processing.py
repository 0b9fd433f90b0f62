"""Signal processing: Fourier transforms, window functions and mel filters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from planish.ir.graph import Node
from planish.ir.shape import Dim, floordiv, product
from planish.ops.cast import dtype_attribute
from planish.ops.content import contents, integers
from planish.ops.numeric import narrow, optional, random_array, required, widen
from planish.ops.op import (
    Array,
    Attributes,
    Cost,
    Inferred,
    Inputs,
    Op,
    Sample,
    bytes_of,
    normalize_axis,
    unknown_extent,
)

FFT_OPERATIONS = 50  # operations an element, about 5 * log2 of a thousand


def to_complex(x: Array) -> Array:
    """Return x [...,1] or [...,2] (real, imaginary) as complex numbers [...]."""
    wide = widen(x)
    return wide[..., 0] if x.shape[-1] == 1 else wide[..., 0] + 1j * wide[..., 1]


def from_complex(x: Array) -> Array:
    """Return complex numbers [...] as [...,2]."""
    return np.stack([x.real, x.imag], axis=-1)


class DFT(Op):
    """Discrete Fourier transform along one axis.

    Inputs x [...,1] (real) or [...,2] (complex), dft_length, axis (default -2). `onesided` keeps
    the first half of a forward transform, and gives a real result [...,1] for an inverse one.
    """

    name = "DFT"
    attributes: ClassVar[Mapping[str, Any]] = {"inverse": 0, "onesided": 0}

    @classmethod
    def infer(cls, node: Node) -> list[Inferred]:
        """Return the transform's type; length and axis should be known."""
        x = node.present_inputs[0]
        if x.shape is None:
            return [Inferred(x.dtype, None)]
        axes = (-2,) if node.input(2) is None else integers(node.input(2))
        onesided, inverse = node.attributes["onesided"], node.attributes["inverse"]
        last = 1 if onesided and inverse else 2
        if axes is None:
            unknown = (unknown_extent(node, 0, axis) for axis in range(len(x.shape) - 1))
            return [Inferred(x.dtype, (*unknown, last))]
        axis = normalize_axis(axes[0], len(x.shape), node)
        extent = x.shape[axis]
        length: Dim = (extent - 1) * 2 if onesided and inverse else extent
        if node.input(1) is not None:
            known = contents(node.input(1))
            length = unknown_extent(node, 0, axis) if known is None else known[0]
        shape = list(x.shape)
        shape[axis] = floordiv(length, 2) + 1 if onesided and not inverse else length
        shape[-1] = last
        return [Inferred(x.dtype, tuple(shape))]

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Call numpy's transforms."""
        x, given, where = required(inputs, 0), optional(inputs, 1), optional(inputs, 2)
        axis = (-2 if where is None else int(where.reshape(-1)[0])) % x.ndim
        length = None if given is None else int(given.reshape(-1)[0])
        numbers = to_complex(x)
        if attributes["inverse"] and attributes["onesided"]:
            return [narrow(np.fft.irfft(numbers, length, axis)[..., None], x)]
        if attributes["inverse"]:
            return [narrow(from_complex(np.fft.ifft(numbers, length, axis)), x)]
        result = np.fft.fft(numbers, length, axis)
        if attributes["onesided"]:
            result = result.take(range(result.shape[axis] // 2 + 1), axis=axis)
        return [narrow(from_complex(result), x)]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Cover real and complex, forward and inverse, one-sided, padded and cut."""
        real, pairs = random_array(1, 2, 8, 3, 1), random_array(2, 2, 6, 2)
        axis, longer = np.array(1, np.int64), np.array(11, np.int64)
        shorter = np.array(5, np.int64)
        return [
            Sample((pairs,)),
            Sample((real, None, axis), {"onesided": 1}, (2,), name="onesided"),
            Sample((real, longer, axis), {}, (1, 2), name="padded"),
            Sample((pairs, shorter, axis), {}, (1, 2), name="cut"),
            Sample((pairs, None, axis), {"inverse": 1}, (2,), name="inverse"),
        ]

    @classmethod
    def cost(cls, node: Node) -> Cost:
        """Count a fast transform."""
        elements = product(node.present_inputs[0].shape or ())
        return Cost(elements * FFT_OPERATIONS, bytes_of(node))


class STFT(Op):
    """Short-time Fourier transform: windowed frames of a signal, each transformed.

    Inputs signal [B,L,1] or [B,L,2], frame_step, window [F], frame_length -> [B,frames,bins,2].
    """

    name = "STFT"
    attributes: ClassVar[Mapping[str, Any]] = {"onesided": 1}

    @classmethod
    def infer(cls, node: Node) -> list[Inferred]:
        """Return the type of the frames' transforms."""
        signal, window = node.present_inputs[0], node.input(2)
        if signal.shape is None:
            return [Inferred(signal.dtype, None)]
        step, given = contents(node.input(1)), contents(node.input(3))
        length: Dim = signal.shape[1]
        if node.input(3) is not None:
            length = unknown_extent(node, 0, 2) if given is None else given[0]
        elif window is not None:
            length = window.known_shape[0]
        frames = unknown_extent(node, 0, 1)
        if step is not None:
            frames = floordiv(signal.shape[1] - length, step[0]) + 1
        bins = floordiv(length, 2) + 1 if node.attributes["onesided"] else length
        return [Inferred(signal.dtype, (signal.shape[0], frames, bins, 2))]

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Slide, weigh, transform."""
        signal, step, window = required(inputs, 0), required(inputs, 1), optional(inputs, 2)
        given = optional(inputs, 3)
        length = signal.shape[1] if window is None else len(window)
        length = length if given is None else int(given.reshape(-1)[0])
        frames = np.lib.stride_tricks.sliding_window_view(to_complex(signal), length, axis=1)
        frames = frames[:, :: int(step.reshape(-1)[0])]
        if window is not None:
            frames = frames * widen(window)
        result = np.fft.fft(frames, axis=-1)
        if attributes["onesided"]:
            result = result[..., : length // 2 + 1]
        return [narrow(from_complex(result), signal)]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Cover windows, lengths, both sides and complex signals."""
        signal, window = random_array(1, 2, 64, 1), random_array(2, 16)
        step, length = np.array(8, np.int64), np.array(16, np.int64)
        return [
            Sample((signal, step, window), {}, (1, 2)),
            Sample((signal, step, None, length), {}, (1, 3), name="length"),
            Sample((signal, step, window, length), {"onesided": 0}, (1, 2, 3), name="both_sides"),
            Sample(
                (random_array(3, 1, 40, 2), step, window, length),
                {"onesided": 0},
                (1, 2, 3),
                name="complex",
            ),
        ]

    @classmethod
    def cost(cls, node: Node) -> Cost:
        """Count a fast transform of every frame."""
        elements = product(node.outputs[0].shape or ())
        return Cost(elements * FFT_OPERATIONS, bytes_of(node))


class _Window(Op):
    """Base of window functions: input is the size, a scalar; `coefficients` of cosines."""

    attributes: ClassVar[Mapping[str, Any]] = {"output_datatype": 1, "periodic": 1}
    coefficients: ClassVar[tuple[float, ...]]

    @classmethod
    def infer(cls, node: Node) -> list[Inferred]:
        """Return a vector's type; the size should be known."""
        size = contents(node.input(0))
        extent = unknown_extent(node, 0, 0) if size is None else size[0]
        return [Inferred(dtype_attribute(node.attributes["output_datatype"]), (extent,))]

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Sum cosines: the alternating series a0 - a1 cos(t) + a2 cos(2t)."""
        size = int(required(inputs, 0).reshape(-1)[0])
        period = size if attributes["periodic"] else size - 1
        angle = 2 * np.pi * np.arange(size) / max(period, 1)
        total = np.zeros(size)
        for order, coefficient in enumerate(cls.coefficients):
            total += (-1) ** order * coefficient * np.cos(order * angle)
        return [total.astype(dtype_attribute(attributes["output_datatype"]).numpy)]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Cover periodic and symmetric windows."""
        size = np.array(10, np.int64)
        return [
            Sample((size,), {}, (0,)),
            Sample((size,), {"periodic": 0}, (0,), name="symmetric"),
        ]


class HannWindow(_Window):
    """0.5 - 0.5 cos(2 pi n / N)."""

    name = "HannWindow"
    coefficients = (0.5, 0.5)


class HammingWindow(_Window):
    """25/46 - 21/46 cos(2 pi n / N)."""

    name = "HammingWindow"
    coefficients = (25 / 46, 21 / 46)


class BlackmanWindow(_Window):
    """0.42 - 0.5 cos(2 pi n / N) + 0.08 cos(4 pi n / N)."""

    name = "BlackmanWindow"
    coefficients = (0.42, 0.5, 0.08)


class MelWeightMatrix(Op):
    """Matrix [dft_length/2 + 1, num_mel_bins] of triangular filters, evenly spaced in mel.

    Inputs (scalars): num_mel_bins, dft_length, sample_rate, lower_edge_hertz, upper_edge_hertz.
    """

    name = "MelWeightMatrix"
    attributes: ClassVar[Mapping[str, Any]] = {"output_datatype": 1}

    @classmethod
    def infer(cls, node: Node) -> list[Inferred]:
        """Return the matrix type; bins and length should be known."""
        bins, length = contents(node.input(0)), contents(node.input(1))
        rows = unknown_extent(node, 0, 0) if length is None else floordiv(length[0], 2) + 1
        columns = unknown_extent(node, 0, 1) if bins is None else bins[0]
        return [Inferred(dtype_attribute(node.attributes["output_datatype"]), (rows, columns))]

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Follow ONNX's reference: edges on whole DFT bins."""
        bins, length, rate, low, high = (
            required(inputs, index).reshape(-1)[0].item() for index in range(5)
        )
        low_mel, high_mel = 2595 * np.log10(1 + low / 700), 2595 * np.log10(1 + high / 700)
        # one step less than the number of edges less one, as ONNX defines it
        mels = low_mel + np.arange(bins + 2) * (high_mel - low_mel) / (bins + 2)
        hertz = 700 * (10 ** (mels / 2595) - 1)
        edges = ((length + 1) * hertz // rate).astype(np.int64)
        matrix = np.zeros((length // 2 + 1, bins))
        for index in range(bins):
            left, centre, right = (int(edge) for edge in edges[index : index + 3])
            if left == centre:
                matrix[centre, index] = 1
            else:
                rising = np.arange(left, centre + 1)
                matrix[rising, index] = (rising - left) / (centre - left)
            falling = np.arange(centre, right)
            matrix[falling, index] = (right - falling) / max(right - centre, 1)
        return [matrix.astype(dtype_attribute(attributes["output_datatype"]).numpy)]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Cover narrow and wide filters."""

        def case(bins: int, length: int, rate: int, low: float, high: float) -> Sample:
            sizes = (np.array(number, np.int64) for number in (bins, length, rate))
            edges = (np.array(edge, np.float32) for edge in (low, high))
            return Sample((*sizes, *edges), {}, (0, 1, 2, 3, 4))

        return [case(8, 16, 8192, 0, 4096), case(5, 64, 16000, 100, 7000)]
