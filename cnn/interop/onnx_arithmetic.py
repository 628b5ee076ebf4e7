"""ONNX operators of numbers one by one: sums, products, activations with limits."""

import numpy as np

from cnn import layers as L
from cnn.interop.onnx_windows import ZEROS, make


def affine(call, scale, shift, x=None):
    """Return scale * x + shift, a number or one a channel each: Scale, or a 1x1 depthwise convolution."""
    x = call.value(0 if call.varies(0) else 1) if x is None else x
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


def add(call):
    """Add."""
    if all(call.varies(k) for k in (0, 1)):
        return call.join("add", [call.value(0), call.value(1)])
    return affine(call, 1.0, call.constant(0 if call.varies(1) else 1))


def add_all(call):
    """Sum."""
    values = [call.value(k) for k in range(len(call.inputs))]
    return call.join("add", values) if len(values) > 1 else values[0]


def subtract(call):
    """Sub."""
    if call.varies(0) and not call.varies(1):
        return affine(call, 1.0, -call.constant(1))
    if call.varies(1) and not call.varies(0):
        return affine(call, -1.0, call.constant(0))
    negative = call.layer(L.Scale(-1.0), call.value(1))
    return call.join("add", [call.value(0), negative])


def multiply(call):
    """Mul; x * sigmoid(x) is SiLU."""
    if not all(call.varies(k) for k in (0, 1)):
        return affine(call, call.constant(0 if call.varies(1) else 1), 0.0)
    a, b = call.value(0), call.value(1)
    for x, gate in ((a, b), (b, a)):
        if gate.node is not None and isinstance(gate.node.what, L.Sigmoid) and gate.node.inputs == [x.node]:
            return call.layer(L.SiLU(), x)
    return call.join("mul", [a, b])


def divide(call):
    """Div."""
    if call.varies(1):
        call.refuse("found a division by what depends on the images, expected by a constant")
    return affine(call, 1 / call.constant(1).astype(np.float64), 0.0)


def clip(call):
    """Clip."""
    least, most = -np.inf, np.inf
    if call.opset < 11:
        low, high = call.attribute("min", least), call.attribute("max", most)
    else:
        low = float(np.ravel(call.constant(1, np.array(least)))[0])
        high = float(np.ravel(call.constant(2, np.array(most)))[0])
    if low == least and high == most:
        return call.value()
    if low >= high:  # then ONNX gives the upper bound for any number
        return affine(call, 0.0, high)
    return call.layer(L.ReLU6() if (low, high) == (0, 6) else L.Hardtanh(low, high), call.value())


def hard_sigmoid(call):
    """HardSigmoid."""
    alpha, beta = call.attribute("alpha", 0.2), call.attribute("beta", 0.5)
    if abs(alpha - 1 / 6) < 1e-6 and beta == 0.5:
        return call.layer(L.Hardsigmoid(), call.value())
    return call.layer(L.Hardtanh(0, 1), affine(call, alpha, beta))


def local_response_norm(call):
    """LRN."""
    size = call.attribute("size", 1)
    if size % 2 == 0:
        call.refuse(f"attribute size: found {size}, expected an odd number of channels")
    numbers = [
        call.attribute(name, default) for name, default in (("alpha", 1e-4), ("beta", 0.75), ("bias", 1.0))
    ]
    return call.layer(L.LocalResponseNorm(size, *map(decimal, numbers)), call.value())


def decimal(number):
    """Return a float32 attribute as the decimal number that was meant: 0.0001 and not 0.000099999997."""
    return float(f"{number:.7g}")


def prelu(call):
    """PRelu."""
    x, slope = call.value(), call.constant(1)
    if slope.size not in (1, x.shape[0]) or (slope.ndim > 1 and slope.size != slope.shape[-len(x.shape)]):
        call.refuse(f"input 1: found slopes of shape {slope.shape}, expected one or one a channel")
    if slope.size > 1 and slope.ndim < len(x.shape):
        call.refuse(f"input 1: found slopes of shape {slope.shape}, expected one or one a channel")
    return call.layer(make(call, "PReLU", slope.size), x, weight=(slope.ravel(), 1))
