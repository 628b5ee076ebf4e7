"""ONNX operators that move numbers: reshapes, pads, joins along the channels."""

import math

import numpy as np

from cnn import layers as L
from cnn.interop.onnx_arithmetic import affine
from cnn.interop.onnx_windows import make


def _reshaped(call, shape):
    """Return the value with the ``shape`` that it has, flat, or as images of one pixel or more."""
    x, shape = call.value(), tuple(map(int, shape))
    if shape == x.shape:
        return x
    if shape == (math.prod(x.shape),):
        return call.layer(L.Flatten(), x)
    if len(x.shape) == 1 and len(shape) == 3:
        return call.layer(L.Unflatten(shape), x)
    if len(x.shape) == 3 and len(shape) == 3:
        return call.layer(L.Unflatten(shape), call.layer(L.Flatten(), x))
    return call.refuse(f"found a change of shape from {x.shape} to {shape}, expected (F) or (C, H, W)")


def flatten(call):
    """Flatten."""
    call.expect("axis", 1, 1, -len(call.value().shape))
    return _reshaped(call, (math.prod(call.value().shape),))


def reshape(call):
    """Reshape; the batch axis stays first."""
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


def _axes(call, rank):
    axes = call.attribute("axes")
    axes = np.ravel(call.constant(1)).tolist() if axes is None else axes
    return {int(axis) % rank for axis in axes}


def squeeze(call):
    """Squeeze."""
    x = call.value()
    axes = _axes(call, len(x.shape) + 1)
    if any(axis == 0 or x.shape[axis - 1] != 1 for axis in axes):
        call.refuse(f"axes: found {sorted(axes)} of images of {x.shape}, expected axes of size 1")
    return _reshaped(call, [size for k, size in enumerate(x.shape, 1) if k not in axes])


def unsqueeze(call):
    """Unsqueeze."""
    x = call.value()
    given = call.attribute("axes")
    count = len(given) if given is not None else np.size(call.constant(1))
    rank = len(x.shape) + 1 + count
    axes = _axes(call, rank)
    if 0 in axes or len(axes) != count:
        call.refuse(f"axes: found {sorted(axes)}, expected the batch axis to stay first")
    rest = iter(x.shape)
    return _reshaped(call, [1 if k in axes else next(rest) for k in range(1, rank)])


def pad(call):
    """Pad with a constant around the planes."""
    x = call.value(0, axes=(4,))
    call.expect("mode", "constant", "constant")
    old = call.opset < 11
    pads = list(call.attribute("pads") if old else call.constant(1).tolist())
    value = call.attribute("value", 0.0) if old else float(np.ravel(call.constant(2, np.zeros(1)))[0])
    if call.has(3):
        axes, given = [int(axis) % 4 for axis in call.constant(3).tolist()], pads
        pads = [0] * 8
        for k, axis in enumerate(axes):
            pads[axis], pads[axis + 4] = given[k], given[k + len(axes)]
    if not np.isfinite(value) or len(pads) != 8 or any(pads[k] for k in (0, 1, 4, 5)):
        call.refuse(f"pads: found {pads} with the value {value}, expected pixels around the planes")
    _, _, top, left, _, _, bottom, right = map(int, pads)
    if value:  # so that zeros stand for the value
        x = affine(call, 1.0, -value, x)
    y = call.layer(make(call, "ZeroPad2d", (left, right, top, bottom)), x)
    return affine(call, 1.0, value, y) if value else y


def concat(call):
    """Concat along the channels."""
    values = [call.value(k) for k in range(len(call.inputs))]
    axis = call.attribute("axis", 1)
    if axis % (len(values[0].shape) + 1) != 1:
        call.refuse(f"attribute axis: found {axis}, expected the channels, 1")
    return call.join("concat", values) if len(values) > 1 else values[0]
