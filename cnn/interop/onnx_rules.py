"""What each ONNX operator is here: a rule takes a ``Call`` of ``onnx_read`` and returns its result."""

import math

import numpy as np

from cnn import layers as L
from cnn.interop.onnx_windows import ZEROS, conv, conv_transpose, make, over_plane, pool, weights_of


def _mean(call):
    x = call.value(0, axes=(4,))
    axes = call.attribute("axes")
    axes = call.constant(1).tolist() if axes is None else axes
    call.ignore("noop_with_empty_axes")
    if sorted(axis % 4 for axis in axes) != [2, 3]:
        call.refuse(f"axes: found {list(axes)}, expected 2 and 3")
    if call.attribute("keepdims", 1):
        return call.layer(L.AvgPool2d(x.shape[1:]), x)
    return call.layer(L.GlobalAvgPool2d(), x)


def _gemm(call):
    x = call.value(0, axes=(2,))
    weight = call.constant(1)
    call.expect("transA", 0, 0)
    alpha, beta = call.attribute("alpha", 1.0), call.attribute("beta", 1.0)
    weight = weight if call.attribute("transB", 0) else weight.T
    weight = weight if alpha == 1 else np.float32(alpha) * weight
    bias = None
    if call.has(2):
        bias = np.broadcast_to(np.ravel(call.constant(2)), weight.shape[:1])
        bias = bias if beta == 1 else np.float32(beta) * bias
    return _linear(call, x, weight, bias)


def _linear(call, x, weight, bias):
    if weight.ndim != 2:
        call.refuse(f"input 1: found a weight of {weight.ndim} axes, expected 2")
    layer = L.Linear(weight.shape[0], bias=bias is not None, **ZEROS)
    return call.layer(layer, x, weight=(weight, 1), **({} if bias is None else {"bias": (bias, 2)}))


def _batch_norm(call):
    x = call.value(0, axes=(2, 4))
    call.single_output()
    call.expect("spatial", 1, 1)
    call.ignore("training_mode", "is_test")
    kind = L.BatchNorm2d if len(x.shape) == 3 else L.BatchNorm1d
    momentum = 1 - call.attribute("momentum", 0.9)
    layer = kind(eps=call.attribute("epsilon", 1e-5), momentum=round(momentum, 7))
    names = ("weight", "bias", "running_mean", "running_var")
    return call.layer(layer, x, **{name: (call.constant(k + 1), k + 1) for k, name in enumerate(names)})


def _dropout(call):
    call.single_output()
    call.ignore("seed", "training_mode", "is_test")
    p = float(call.attribute("ratio", 0.5)) if call.opset < 12 else float(call.constant(1, np.float32(0.5)))
    return call.layer(L.Dropout(round(p, 7)), call.value())


def _layer(make):
    """Return the rule for an operator of one input that is one layer."""
    return lambda call: call.layer(make(call), call.value())


def _clip(call):
    least, most = -np.inf, np.inf
    if call.opset < 11:
        low, high = call.attribute("min", least), call.attribute("max", most)
    else:
        low = float(np.ravel(call.constant(1, np.array(least)))[0])
        high = float(np.ravel(call.constant(2, np.array(most)))[0])
    if low == -np.inf and high == np.inf:
        return call.value()
    return call.layer(L.ReLU6() if (low, high) == (0, 6) else L.Hardtanh(low, high), call.value())


def _hard_sigmoid(call):
    alpha, beta = call.attribute("alpha", 0.2), call.attribute("beta", 0.5)
    if abs(alpha - 1 / 6) < 1e-6 and beta == 0.5:
        return call.layer(L.Hardsigmoid(), call.value())
    return call.layer(L.Hardtanh(0, 1), _affine(call, alpha, beta))


def _local_response_norm(call):
    size = call.attribute("size", 1)
    if size % 2 == 0:
        call.refuse(f"attribute size: found {size}, expected an odd number of channels")
    alpha, beta = call.attribute("alpha", 1e-4), call.attribute("beta", 0.75)
    return call.layer(
        L.LocalResponseNorm(size, _decimal(alpha), _decimal(beta), _decimal(call.attribute("bias", 1.0))),
        call.value(),
    )


def _decimal(number):
    """Return a float32 attribute as the decimal number that was meant: 0.0001 and not 0.000099999997."""
    return float(f"{number:.7g}")


def _softmax(kind):
    def rule(call):
        x = call.value()
        axis = call.attribute("axis", 1 if call.opset < 13 else -1)
        axis = axis % (len(x.shape) + 1)
        if axis != 1 or (call.opset < 13 and math.prod(x.shape[1:]) > 1):
            call.refuse(f"attribute axis: found {axis}, expected the channels, 1")
        return call.layer(kind(), x)

    return rule


def _reshaped(call, shape):
    """Return the value with the ``shape`` that it has, flat or with all its pixels in one channel each."""
    x, shape = call.value(), tuple(map(int, shape))
    if shape == x.shape:
        return x
    if shape == (math.prod(x.shape),):
        return call.layer(L.Flatten(), x)
    return call.refuse(f"found a change of shape from {x.shape} to {shape}, expected to flat")


def _flatten(call):
    call.expect("axis", 1, 1, -len(call.value().shape))
    return _reshaped(call, (math.prod(call.value().shape),))


def _reshape(call):
    x, sizes = call.value(), [int(size) for size in np.ravel(call.constant(1))]
    zero_copies = not call.attribute("allowzero", 0)
    if not sizes or sizes[0] not in (call.reader.batch, -1, 0 if zero_copies else -1):
        call.refuse(f"input 1: found the shape {sizes}, expected the batch axis to stay first")
    inner = [
        x.shape[k] if s == 0 and zero_copies and k < len(x.shape) else s for k, s in enumerate(sizes[1:])
    ]
    known = math.prod(s for s in inner if s != -1)
    if inner.count(-1) == 1 and sizes[0] != -1 and known > 0:
        inner[inner.index(-1)] = math.prod(x.shape) // known
    if math.prod(inner) != math.prod(x.shape):
        call.refuse(f"input 1: found the shape {sizes} for images of {x.shape}")
    return _reshaped(call, inner)


def _squeeze(call):
    x = call.value()
    axes = call.attribute("axes")
    axes = np.ravel(call.constant(1)).tolist() if axes is None else axes
    axes = {axis % (len(x.shape) + 1) for axis in axes}
    if any(axis == 0 or x.shape[axis - 1] != 1 for axis in axes):
        call.refuse(f"axes: found {sorted(axes)} of images of {x.shape}, expected axes of size 1")
    return _reshaped(call, [size for k, size in enumerate(x.shape, 1) if k not in axes])


def _pad(call):
    x = call.value(0, axes=(4,))
    call.expect("mode", "constant", "constant")
    pads = call.attribute("pads") if call.opset < 11 else call.constant(1).tolist()
    value = (
        call.attribute("value", 0.0) if call.opset < 11 else float(np.ravel(call.constant(2, np.zeros(1)))[0])
    )
    if call.has(3):
        axes = [axis % 4 for axis in call.constant(3).tolist()]
        full = [0] * 8
        for k, axis in enumerate(axes):
            full[axis], full[axis + 4] = pads[k], pads[k + len(axes)]
        pads = full
    if value != 0 or len(pads) != 8 or any(pads[k] for k in (0, 1, 4, 5)):
        call.refuse(f"pads: found {list(pads)} with the value {value}, expected zeros around the planes")
    _, _, top, left, _, _, bottom, right = map(int, pads)
    return call.layer(make(call, "ZeroPad2d", (left, right, top, bottom)), x)


def _resize(call):
    x = call.value(0, axes=(4,))
    call.expect("mode", "nearest", "nearest")
    call.ignore("cubic_coeff_a", "exclude_outside", "extrapolation_value", "antialias")
    call.ignore("keep_aspect_ratio_policy")
    mode = call.attribute("coordinate_transformation_mode", "half_pixel")
    if mode not in ("half_pixel", "asymmetric", "pytorch_half_pixel"):
        call.refuse(
            f"attribute coordinate_transformation_mode: found {mode!r}, expected half_pixel or asymmetric"
        )
    rounding = ("floor",) if mode == "asymmetric" else ("round_prefer_floor", "round_prefer_ceil")
    call.expect("nearest_mode", "round_prefer_floor", *rounding)
    at = 1 if call.op == "Upsample" or call.opset < 11 else 2
    if call.attribute("scales") is not None:
        scales = list(call.attribute("scales"))
    elif call.has(at) and np.size(call.constant(at)):
        scales = np.ravel(call.constant(at)).tolist()
    else:
        scales = [1, 1, *(a / b for a, b in zip(np.ravel(call.constant(3))[2:], x.shape[1:], strict=True))]
    if len(scales) != 4 or tuple(scales[:2]) != (1, 1) or any(s != int(s) or s < 1 for s in scales):
        call.refuse(f"scales: found {scales}, expected whole factors of height and width")
    factor = tuple(int(s) for s in scales[2:])
    return call.layer(make(call, "Upsample", scale_factor=factor), x)


def _prelu(call):
    x, slope = call.value(), call.constant(1)
    if slope.size not in (1, x.shape[0]) or (slope.ndim > 1 and slope.size != slope.shape[-len(x.shape)]):
        call.refuse(f"input 1: found slopes of shape {slope.shape}, expected one or one a channel")
    return call.layer(make(call, "PReLU", slope.size), x, weight=(slope.ravel(), 1))


def _affine(call, scale, shift):
    """Return scale * x + shift with numbers or one number a channel, as a 1x1 depthwise convolution."""
    x = call.value(0 if call.varies(0) else 1)
    channels = x.shape[0]
    if np.size(shift) == 1 and not np.any(shift) and np.size(scale) == 1:
        return call.layer(L.Scale(float(np.ravel(scale)[0])), x)
    if len(x.shape) != 3:
        call.refuse("found numbers for flat features, expected one number, or images")
    arrays = []
    for values in (scale, shift):
        values = np.asarray(values, np.float32)
        where = values.ndim - 3  # the axis of the channels
        if values.size not in (1, channels) or (
            values.size > 1 and (where < 0 or values.shape[where] != channels)
        ):
            call.refuse(f"found a constant of shape {values.shape}, expected one number or one a channel")
        arrays.append(np.broadcast_to(values.ravel(), (channels,)))
    layer = L.Conv2d(channels, kernel_size=1, groups=channels, **ZEROS)
    return call.layer(layer, x, weight=(arrays[0].reshape(channels, 1, 1, 1), None), bias=(arrays[1], None))


def _add(call):
    if all(call.varies(k) for k in (0, 1)):
        return call.join("add", [call.value(0), call.value(1)])
    return _affine(call, 1.0, call.constant(0 if call.varies(1) else 1))


def _subtract(call):
    if call.varies(0) and not call.varies(1):
        return _affine(call, 1.0, -call.constant(1))
    if call.varies(1) and not call.varies(0):
        return _affine(call, -1.0, call.constant(0))
    return call.refuse("found the difference of two results, expected one constant")


def _multiply(call):
    if not all(call.varies(k) for k in (0, 1)):
        return _affine(call, call.constant(0 if call.varies(1) else 1), 0.0)
    a, b = call.value(0), call.value(1)
    for x, gate in ((a, b), (b, a)):
        if gate.node is not None and isinstance(gate.node.what, L.Sigmoid) and gate.node.inputs == [x.node]:
            return call.layer(L.SiLU(), x)
    return call.join("mul", [a, b])


def _divide(call):
    if call.varies(1):
        call.refuse("found a division by what depends on the images, expected by a constant")
    return _affine(call, 1 / call.constant(1).astype(np.float64), 0.0)


def _concat(call):
    values = [call.value(k) for k in range(len(call.inputs))]
    axis = call.attribute("axis", 1)
    if axis % (len(values[0].shape) + 1) != 1:
        call.refuse(f"attribute axis: found {axis}, expected the channels, 1")
    return call.join("concat", values) if len(values) > 1 else values[0]


def _cast(call):
    call.ignore("saturate", "round_mode")
    kinds = call.reader.onnx.TensorProto
    call.expect("to", None, kinds.FLOAT)
    return call.value()


def _sum(call):
    return call.join("add", [call.value(k) for k in range(len(call.inputs))])


def _group_norm(call):
    x = call.value()
    call.expect("stash_type", 1, 1)
    if call.op == "LayerNormalization":
        call.single_output()
        call.expect("axis", -1, 1, -len(x.shape))
        layer = L.LayerNorm(eps=call.attribute("epsilon", 1e-5), bias=call.has(2))
    elif call.opset < 21:
        call.refuse(f"opset {call.opset}, expected 21 or later")
    else:
        layer = L.GroupNorm(call.attribute("num_groups", 1), eps=call.attribute("epsilon", 1e-5))
    return call.layer(layer, x, **weights_of(call, call.constant(1)))


RULES = {
    "GroupNormalization": _group_norm,
    "LayerNormalization": _group_norm,
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "MaxPool": pool,
    "AveragePool": pool,
    "GlobalAveragePool": over_plane(L.AvgPool2d),
    "GlobalMaxPool": over_plane(L.MaxPool2d),
    "ReduceMean": _mean,
    "Gemm": _gemm,
    "MatMul": lambda call: _linear(call, call.value(0, axes=(2,)), call.constant(1).T, None),
    "BatchNormalization": _batch_norm,
    "Relu": _layer(lambda call: L.ReLU()),
    "LeakyRelu": _layer(lambda call: L.LeakyReLU(round(call.attribute("alpha", 0.01), 7))),
    "PRelu": _prelu,
    "Elu": _layer(lambda call: make(call, "ELU", call.attribute("alpha", 1.0))),
    "Sigmoid": _layer(lambda call: L.Sigmoid()),
    "Tanh": _layer(lambda call: L.Tanh()),
    "Gelu": _layer(lambda call: L.GELU(call.attribute("approximate", "none"))),
    "Softplus": _layer(lambda call: make(call, "Softplus")),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _layer(lambda call: L.Hardswish()),
    "LRN": _local_response_norm,
    "Clip": _clip,
    "Softmax": _softmax(L.Softmax),
    "LogSoftmax": _softmax(L.LogSoftmax),
    "Dropout": _dropout,
    "Identity": lambda call: call.value(),
    "Cast": _cast,
    "Flatten": _flatten,
    "Reshape": _reshape,
    "Squeeze": _squeeze,
    "Pad": _pad,
    "Resize": _resize,
    "Upsample": _resize,
    "Add": _add,
    "Sub": _subtract,
    "Mul": _multiply,
    "Div": _divide,
    "Sum": _sum,
    "Concat": _concat,
}
