"""Graphs of TensorFlow operations on images and signals, of quantization, and whole blocks."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

from tests.importers.savedmodel_case import Array, case, floats, raw, whole


def _convolutions() -> None:
    weight, depthwise = floats(3, 3, 4, 6, low=-1, high=1), floats(3, 3, 4, 2, low=-1, high=1)
    for size, stride, mode in itertools.product(((7, 8), (8, 9)), (1, 2, 3), ("SAME", "VALID")):
        x = floats(2, *size, 4)
        name = f"{size[0]}x{size[1]}_{stride}_{mode}"
        case(f"conv_{name}", lambda tf, a, s=stride, m=mode: tf.nn.conv2d(a, weight, s, m), x)
        case(
            f"depthwise_{name}",
            lambda tf, a, s=stride, m=mode: tf.nn.depthwise_conv2d(a, depthwise, (1, s, s, 1), m),
            x,
        )
        for kind in ("avg_pool2d", "max_pool2d"):
            case(
                f"{kind}_{name}",
                lambda tf, a, k=kind, s=stride, m=mode: getattr(tf.nn, k)(a, (3, 2), s, m),
                x,
            )
    x = floats(2, 7, 8, 4)
    pads = [[0, 0], [1, 2], [3, 0], [0, 0]]
    case("conv_explicit", lambda tf, a: tf.nn.conv2d(a, weight, 2, pads), x)
    case("conv_dilated", lambda tf, a: tf.nn.conv2d(a, weight, 1, "SAME", dilations=(2, 3)), x)
    case("conv_groups", lambda tf, a: tf.nn.conv2d(a, weight[:, :, :2], 1, "SAME"), x)
    case(
        "conv_open",
        lambda tf, a: tf.nn.conv2d(a, weight, 2, "SAME"),
        x,
        shapes=[(None, None, None, 4)],
    )
    case("conv_variable_filter", lambda tf, a, w: tf.nn.conv2d(a, w, 1, "SAME"), x, weight)
    case("conv_1d", lambda tf, a: tf.nn.conv1d(a, weight[0], 2, "SAME"), floats(2, 9, 4))
    case(
        "depthwise_dilated",
        lambda tf, a: tf.nn.depthwise_conv2d(a, depthwise, (1, 1, 1, 1), "SAME", dilations=(2, 2)),
        x,
    )
    case(
        "atrous_blocks",
        lambda tf, a: tf.nn.with_space_to_batch(
            a,
            [2, 2],
            "SAME",
            lambda b, *_: tf.nn.conv2d(b, weight, 1, "VALID"),
            filter_shape=(3, 3),
        ),
        floats(1, 8, 8, 4),
    )
    case(
        "separable",
        lambda tf, a: tf.nn.separable_conv2d(
            a, depthwise, floats(1, 1, 8, 5), (1, 2, 2, 1), "SAME"
        ),
        x,
    )
    case(
        "batch_norm_then_conv",
        lambda tf, a: tf.nn.relu(
            tf.nn.bias_add(tf.nn.conv2d(a, weight, 1, "SAME"), np.arange(6, dtype=np.float32))
        ),
        x,
    )
    volume, kernel = floats(1, 5, 6, 7, 2), floats(2, 3, 2, 2, 3, low=-1, high=1)
    for mode in ("SAME", "VALID"):
        case(
            f"conv3d_{mode}",
            lambda tf, a, m=mode: tf.nn.conv3d(a, kernel, (1, 2, 1, 2, 1), m),
            volume,
        )
        case(
            f"pool3d_{mode}",
            lambda tf, a, m=mode: [tf.nn.max_pool3d(a, 2, 2, m), tf.nn.avg_pool3d(a, 3, 2, m)],
            volume,
        )
    for stride, mode, extent in (
        (2, "SAME", 10),
        (2, "SAME", 9),
        (2, "VALID", 11),
        (2, "VALID", 12),
        (3, "SAME", 13),
        (1, "SAME", 5),
        (3, "VALID", 15),
    ):
        turned = floats(3, 3, 3, 4, low=-1, high=1)
        case(
            f"conv_transpose_{stride}_{mode}_{extent}",
            lambda tf, a, s=stride, m=mode, e=extent, w=turned: tf.nn.conv2d_transpose(
                a, w, (2, e, e, 3), s, m
            ),
            floats(2, 5, 5, 4),
        )

    def keras_transpose(tf, a):
        shape = tf.shape(a)
        return tf.nn.conv2d_transpose(
            a, floats(4, 4, 3, 4), tf.stack([shape[0], shape[1] * 2, shape[2] * 2, 3]), 2, "SAME"
        )

    case("conv_transpose_open", keras_transpose, floats(2, 5, 6, 4), shapes=[(None, None, None, 4)])
    case(
        "conv3d_transpose",
        lambda tf, a: tf.nn.conv3d_transpose(
            a, floats(2, 3, 2, 3, 2), (1, 10, 12, 14, 3), 2, "SAME"
        ),
        volume,
    )
    signal, taps = floats(2, 11, 4), floats(3, 4, 5, low=-1, high=1)
    case("atrous_signal", lambda tf, a: tf.nn.convolution(a, taps, 1, "SAME", dilations=2), signal)
    case(
        "atrous_blocks_bias",
        lambda tf, a: tf.batch_to_space(
            tf.nn.bias_add(
                tf.nn.conv2d(tf.space_to_batch(a, (2, 2), [[2, 2], [2, 3]]), weight, 1, "VALID"),
                np.arange(6, dtype=np.float32),
            ),
            (2, 2),
            [[0, 0], [0, 1]],
        ),
        floats(1, 8, 7, 4),
    )
    case("enlarged", lambda tf, a: tf.repeat(tf.repeat(a, 2, 1), 3, 2), floats(2, 3, 4, 2))
    case("repeated_channels", lambda tf, a: tf.repeat(a, 2, 3), floats(2, 3, 4, 2))
    case(
        "row_norm",
        lambda tf, a: tf.raw_ops.FusedBatchNormV3(
            x=tf.reshape(a, (1, 6, 4, 1)),
            scale=tf.ones(6),
            offset=tf.zeros(6),
            mean=[],
            variance=[],
            epsilon=1e-3,
            data_format="NCHW",
        )[0],
        floats(2, 3, 4),
    )
    case(
        "patches",
        lambda tf, a: tf.image.extract_patches(a, (1, 3, 2, 1), (1, 2, 1, 1), (1, 1, 2, 1), "SAME"),
        x,
    )
    case("lrn", lambda tf, a: tf.nn.local_response_normalization(a, 2, 1.5, 0.3, 0.6), x)
    case(
        "depth_to_space",
        lambda tf, a: [tf.nn.depth_to_space(a, 2), tf.nn.space_to_depth(a[:, :6], 2)],
        floats(2, 7, 8, 8),
    )
    case(
        "space_to_batch",
        lambda tf, a: tf.space_to_batch(a, [2, 3], [[1, 0], [0, 1]]),
        floats(2, 7, 8, 4),
    )
    case(
        "batch_to_space",
        lambda tf, a: tf.batch_to_space(a, [2, 3], [[1, 0], [0, 1]]),
        floats(12, 4, 3, 4),
    )
    case(
        "bias_add_nchw",
        lambda tf, a: tf.nn.bias_add(a, np.arange(4, dtype=np.float32), data_format="NCHW"),
        floats(2, 4, 3, 5),
    )
    g, b, m, v = floats(4), floats(4, seed=1), floats(4, seed=2), floats(4, low=0.3, seed=3)
    case(
        "batch_norm",
        lambda tf, a: tf.compat.v1.nn.fused_batch_norm(
            a, g, b, m, v, epsilon=1e-2, is_training=False
        )[0],
        x,
    )
    case(
        "batch_norm_nchw",
        lambda tf, a: tf.raw_ops.FusedBatchNormV3(
            x=a,
            scale=g,
            offset=b,
            mean=m,
            variance=v,
            epsilon=1e-2,
            is_training=False,
            data_format="NCHW",
        )[0],
        floats(2, 4, 3, 5),
    )
    case(
        "batch_norm_training",
        lambda tf, a: tf.compat.v1.nn.fused_batch_norm(a, g, b, epsilon=1e-2, is_training=True)[0],
        x,
    )
    case(
        "batch_norm_variable",
        lambda tf, a, g: tf.compat.v1.nn.fused_batch_norm(a, g, b, m, v, is_training=False)[0],
        x,
        g,
    )


def _images() -> None:
    x = floats(2, 5, 6, 3)
    for flags in ({}, {"align_corners": True}, {"half_pixel_centers": True}):
        for op in ("ResizeBilinear", "ResizeNearestNeighbor", "ResizeBicubic"):
            for size in ((9, 8), (3, 4), (10, 12)):
                tolerance = (
                    2e-2 if op == "ResizeBicubic" else 1e-5
                )  # TensorFlow tabulates the kernel
                name = f"{op}_{'_'.join(flags) or 'plain'}_{size[0]}x{size[1]}"
                case(
                    name,
                    raw(op, names=("images",), size=np.array(size, np.int32), **flags),
                    x,
                    tolerance=tolerance,
                )
    case(
        "resize_bytes",
        raw(
            "ResizeBilinear",
            names=("images",),
            size=np.array((9, 8), np.int32),
            half_pixel_centers=True,
        ),
        whole(1, 5, 6, 3, low=0, high=255, dtype=np.uint8),
        tolerance=1e-3,
    )
    boxes = np.array([[0, 0, 1, 1], [0.1, 0.2, 0.8, 1.3], [0.9, 0.8, 0.1, -0.2]], np.float32)
    owners = np.array([0, 1, 1], np.int32)
    for method in ("bilinear", "nearest"):
        case(
            f"crop_and_resize_{method}",
            lambda tf, a, b, m=method: tf.image.crop_and_resize(a, b, owners, (4, 3), m, 7.0),
            x,
            boxes,
        )
    case("adjust_contrast", lambda tf, a: tf.image.adjust_contrast(a, 1.7), x)
    corners = np.random.default_rng(3).uniform(0, 1, (12, 2)).astype(np.float32)
    many = np.concatenate([corners, corners + 0.3], 1)
    scores = np.random.default_rng(4).uniform(0, 1, 12).astype(np.float32)
    case("nms", lambda tf, b, s: tf.image.non_max_suppression(b, s, 6, 0.3, 0.2), many, scores)
    case(
        "nms_padded",
        lambda tf, b, s: list(
            tf.raw_ops.NonMaxSuppressionV4(
                boxes=b,
                scores=s,
                max_output_size=9,
                iou_threshold=0.3,
                score_threshold=0.2,
                pad_to_max_output_size=True,
            )
        ),
        many,
        scores,
    )
    case(
        "nms_scores",
        lambda tf, b, s: list(tf.image.non_max_suppression_with_scores(b, s, 6, 0.3, 0.2)),
        many,
        scores,
    )
    table = np.random.default_rng(5).uniform(0, 1, (2, 12, 3)).astype(np.float32)
    shared = np.stack([many, many[::-1]])[:, :, None]
    own = np.random.default_rng(6).uniform(0, 0.2, (2, 12, 3, 4)).astype(np.float32) + shared
    for name, candidates in (("shared", shared), ("own", own)):
        for per_class in (False, True):
            case(
                f"combined_nms_{name}_{per_class}",
                lambda tf, b, s, p=per_class: list(
                    tf.image.combined_non_max_suppression(b, s, 4, 10, 0.3, 0.25, pad_per_class=p)
                ),
                candidates,
                table,
            )


def _quantized() -> None:
    x = floats(4, 5, low=-8, high=8)
    for bits, narrow in itertools.product((8, 4), (False, True)):
        for low, high in ((-6.0, 6.0), (-1.0, 5.3), (0.0, 6.0)):
            case(
                f"fake_quant_{bits}_{narrow}_{low}_{high}",
                lambda tf, a, b=bits, n=narrow, lo=low, hi=high: (
                    tf.quantization.fake_quant_with_min_max_args(a, lo, hi, b, n)
                ),
                x,
            )
    lows, highs = -np.arange(1, 6, dtype=np.float32), np.arange(2, 7, dtype=np.float32)
    case(
        "fake_quant_vars",
        lambda tf, a: tf.quantization.fake_quant_with_min_max_vars(a, -3.1, 4.2),
        x,
    )
    case(
        "fake_quant_channels",
        lambda tf, a: tf.quantization.fake_quant_with_min_max_vars_per_channel(a, lows, highs),
        x,
    )
    case(
        "fake_quant_channels_narrow",
        lambda tf, a: tf.quantization.fake_quant_with_min_max_vars_per_channel(
            a, -highs, highs, narrow_range=True
        ),
        x,
    )
    for signed, narrow in ((True, False), (True, True), (False, False)):
        low, high = np.array(-6.0 if signed else 0.0, np.float32), np.array(6.0, np.float32)
        case(f"qdq_{signed}_{narrow}", _qdq("V2", low, high, signed, narrow_range=narrow), x)
    low, high = np.array(-5.0, np.float32), np.array(6.0, np.float32)
    case("qdq_v3", _qdq("V3", low, high, True, num_bits=8), x)
    limits = np.arange(2, 7, dtype=np.float32)
    case("qdq_channels", _qdq("V3", -limits, limits, True, num_bits=8, axis=1), x)
    case("qdq_v4", _qdq("V4", low, high, True), x)


def _qdq(version: str, low: Array, high: Array, signed: bool, **more: Any) -> Callable[..., Any]:
    return raw(
        f"QuantizeAndDequantize{version}",
        names=("input",),
        input_min=low,
        input_max=high,
        signed_input=signed,
        range_given=True,
        **more,
    )


def _networks() -> None:
    """Blocks of layers, spelled as Keras 3 does; tests look at what the passes make of them."""

    def norm(tf: Any, a: Any, seed: int) -> Any:
        channels = a.shape[-1]
        gamma, beta, mean = (floats(channels, seed=seed + i) for i in range(3))
        variance = floats(channels, low=0.5, seed=seed + 3)
        inverse = tf.math.rsqrt(tf.reshape(variance, (1, 1, 1, channels)) + 1e-3)
        inverse = inverse * tf.reshape(gamma, (1, 1, 1, channels))
        return a * inverse + (tf.reshape(beta, (1, 1, 1, channels)) - mean * inverse)

    def image(tf: Any, a: Any) -> Any:
        x = tf.nn.conv2d(
            tf.pad(a, [[0, 0], [1, 1], [1, 1], [0, 0]]), floats(3, 3, 3, 8), 2, "VALID"
        )
        x = tf.nn.relu6(norm(tf, x, 1))
        y = tf.nn.depthwise_conv2d(x, floats(3, 3, 8, 1), (1, 1, 1, 1), "SAME")
        y = tf.nn.swish(norm(tf, y, 5))
        gate = tf.reshape(tf.reduce_mean(y, (1, 2)), (-1, 1, 1, 8))
        gate = tf.nn.relu(
            tf.nn.bias_add(tf.nn.conv2d(gate, floats(1, 1, 8, 4), 1, "SAME"), floats(4))
        )
        gate = tf.sigmoid(
            tf.nn.bias_add(tf.nn.conv2d(gate, floats(1, 1, 4, 8), 1, "SAME"), floats(8))
        )
        y = norm(tf, tf.nn.conv2d(y * gate, floats(1, 1, 8, 8), 1, "SAME"), 9) + x
        y = tf.concat([y, tf.nn.max_pool2d(y, 3, 1, "SAME")], -1)
        y = tf.nn.conv2d(y[:, 1:, 1:], floats(1, 1, 16, 4), 1, "SAME")
        return tf.nn.softmax(tf.reduce_mean(tf.nn.relu(y), (1, 2)) * 0.1)

    case("network_image", image, floats(2, 12, 14, 3), shapes=[(None, 12, 14, 3)], tolerance=1e-4)

    def rows(tf: Any, a: Any, seed: int) -> Any:
        mean = tf.reduce_mean(a, -1, keepdims=True)
        variance = tf.reduce_mean(tf.math.squared_difference(a, mean), -1, keepdims=True)
        inverse = tf.math.rsqrt(variance + 1e-6) * tf.reshape(floats(8, seed=seed), (1, 1, 8))
        shift = -mean * inverse + tf.reshape(floats(8, seed=seed + 1), (1, 1, 8))
        return a * inverse + shift

    def encoder(tf: Any, a: Any) -> Any:
        def heads(seed: int) -> Any:
            kernel, bias = floats(8, 2, 4, seed=seed), floats(2, 4, seed=seed)
            return tf.einsum("abc,cde->abde", a, kernel) + bias

        query, key, value = heads(1) * 0.5, heads(2), heads(3)
        scores = tf.nn.softmax(tf.einsum("aecd,abcd->acbe", key, query))
        mixed = tf.einsum("acbe,aecd->abcd", scores, value)
        x = rows(tf, a + tf.einsum("abcd,cde->abe", mixed, floats(2, 4, 8)) + floats(8), 4)
        y = tf.tensordot(x, floats(8, 16), 1) + floats(16)
        y = 0.5 * y * tf.math.erfc(-y * float(np.sqrt(0.5)))
        return rows(tf, x + tf.tensordot(y, floats(16, 8), 1), 6)

    case("network_encoder", encoder, floats(2, 5, 8), shapes=[(None, 5, 8)], tolerance=1e-4)

    def signal(tf: Any, a: Any) -> Any:
        x = tf.nn.relu(tf.nn.conv1d(a, floats(3, 4, 6), 2, "SAME") * floats(6) + floats(6))
        x = tf.nn.convolution(
            tf.pad(x, [[0, 0], [4, 0], [0, 0]]), floats(3, 6, 5), 1, "VALID", dilations=2
        )
        return tf.reduce_max(tf.nn.tanh(tf.nn.bias_add(x, floats(5))), 1)

    def spectrogram(tf: Any, a: Any) -> Any:
        spectrum = tf.signal.stft(a, 12, 5, 16)
        return [tf.abs(spectrum), tf.math.real(spectrum), tf.math.imag(tf.math.conj(spectrum))]

    case("spectrogram", spectrogram, floats(2, 60), shapes=[(None, 60)])
    case("fourier_there_and_back", lambda tf, a: tf.signal.irfft(tf.signal.rfft(a)), floats(3, 10))
    case("fourier_cut", lambda tf, a: tf.signal.irfft(tf.signal.rfft(a, [7]), [7]), floats(3, 10))
    case("network_signal", signal, floats(2, 20, 4), shapes=[(None, 20, 4)], tolerance=1e-4)


for _family in (_convolutions, _images, _quantized, _networks):
    _family()
