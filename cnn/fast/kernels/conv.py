"""Convolution on blocked arrays: picks the fast form for a geometry; same names as ``cnn.reference.conv``."""

import numpy as np

from cnn.backend import get_winograd
from cnn.fast.blocked import activations, as_blocked, as_stored, converted, empty
from cnn.fast.conv import depthwise as conv_depthwise
from cnn.fast.conv import direct as conv_direct
from cnn.fast.conv import weight as conv_weight
from cnn.fast.conv import winograd as conv_winograd
from cnn.fast.conv import winograd_weight as conv_winograd_weight
from cnn.fast.conv.geometry import RELU, UNBOUNDED, Geometry, Window
from cnn.fast.kernels import hardtanh
from cnn.fast.kernels.shared import micro_batches
from cnn.fast.kernels.tile_sums import moments_of
from cnn.fast.machine.bf16 import BFLOAT16
from cnn.fast.machine.owner import owner


def suits_winograd(dtype, weight_shape, out_size, stride, dilation, groups, forward=False):
    """Whether 36 products a tile and the transforms are cheaper than 9 or 25 products a pixel.

    A tile has 4x4 outputs of a 3x3 kernel, 2x2 of a 5x5 one. ``forward``: with 5x5 the forward pass gains
    from fewer channels on than the others (LeNet's 6 to 16 take 0.72 of the direct form's time).
    """
    k, c, kh, kw = weight_shape
    plain = kh == kw and kh in (3, 5) and stride == dilation == (1, 1) and groups == 1
    if not (get_winograd() and plain and dtype == np.float32):
        return False
    if min(k, c) < 16 and not (forward and kh == 5 and min(k, c) >= 6 and k * c >= 96):
        return False
    outputs = conv_winograd.outputs_of(kh)
    tiles = -(-out_size[0] // outputs) * -(-out_size[1] // outputs)
    return tiles * 56 <= kh * kw * out_size[0] * out_size[1]


def suits_pairs(dtype, weight_shape, *geometry):
    """Whether Winograd's form multiplies pairs of bfloat16: ``suits_winograd``, and channels by two."""
    even = weight_shape[0] % 2 == 0 and weight_shape[1] % 2 == 0
    return even and suits_winograd(dtype, weight_shape, *geometry)


def gains_from_bf16(dtype, weight_shape, groups):
    """Whether any pass of a convolution multiplies pairs of bfloat16."""
    return dtype == np.float32 and any(
        conv_direct.suits_pairs(weight_shape, groups, transposed) for transposed in (False, True)
    )


def _in_bf16(dtype):
    return owner().precision == "bf16" and dtype == np.float32


def winograd_of_pairs(dtype, *geometry):
    """Whether Winograd's form multiplies pairs of bfloat16, by the precision in use."""
    return _in_bf16(dtype) and suits_pairs(dtype, *geometry)


def _form(dtype, weight_shape, out_size, *steps, forward=False, transposed=False):
    """How a pass is computed: (whether in Winograd's form, whether of pairs of bfloat16).

    Direct products of pairs are faster than Winograd's of float32. ``steps``: stride, dilation, groups;
    ``transposed``: for d-input.
    """
    geometry = dtype, weight_shape, out_size, *steps
    if _in_bf16(dtype):
        if suits_pairs(*geometry):
            return True, True
        if conv_direct.suits_pairs(weight_shape, steps[2], transposed):
            return False, True
    return suits_winograd(*geometry, forward), False


def _stored(y):
    """What a float32 form computed, as the precision in use stores it."""
    return converted(y, BFLOAT16) if owner().precision == "bf16" and y.itemsize == 4 else y


def _narrow(x):
    """x blocked, in bfloat16."""
    x = as_stored(x)
    return x if x.itemsize == 2 else converted(x, BFLOAT16)


def _bring(x, dtype):
    """x blocked, in float32 as it is stored."""
    return as_stored(x) if dtype == np.float32 and x.dtype == np.float32 else as_blocked(x, dtype)


def _common(a, b):
    """The dtype of what is computed from both; of equal ones without NumPy's rules, which take their time."""
    return a.dtype if a.dtype == b.dtype else np.result_type(a.dtype, b.dtype)


def _plain(array, dtype):
    """A contiguous NumPy array of a dtype."""
    return np.ascontiguousarray(array, dtype)


def _out_size(size, kernel, stride, padding, dilation):
    return (size + sum(padding) - dilation * (kernel - 1) - 1) // stride + 1


def normalises(x, weight, stride, padding, dilation, groups):
    """Whether forward and d-weight can normalise x while they read it: both in Winograd's form."""
    sizes = zip(x.shape[2:], weight.shape[2:], stride, padding, dilation, strict=True)
    out_size = tuple(_out_size(*axis) for axis in sizes)
    return suits_winograd(_common(x, weight), weight.shape, out_size, stride, dilation, groups)


def conv2d_forward(
    x,
    weight,
    bias,
    stride,
    padding,
    dilation,
    groups,
    relu=False,
    bounds=None,
    measured=False,
    normalisation=(),
    keep=None,
):
    """Return y[n,k,i,j] = bias[k] + sum over c,u,v of weight[k,c,u,v] * x[n,c,i*sh-top+u*dh,j*sw-left+v*dw].

    ``relu``: max(0, y) instead, where a NaN stays. ``bounds``: y is kept between two numbers. ``measured``: a
    normalisation will want the moments of y; the form whose store takes them gives y with these, of the sums
    before they are rounded as y is stored. ``normalisation``: (mean, rstd, weight, bias) of each channel,
    where max(0, (x - mean) * rstd * weight + bias) takes the place of x; only where ``normalises``.
    ``keep``: for weights that seldom change; see ``pack.Packed``.
    """
    bounds = bounds or (RELU if relu else UNBOUNDED)
    floor, ceiling = bounds
    dtype = _common(x, weight)
    weight = _plain(weight, dtype)
    bias = None if bias is None else _plain(bias, dtype)
    n, _, h, w = x.shape
    k, _, kh, kw = weight.shape
    oh = _out_size(h, kh, stride[0], padding[0], dilation[0])
    ow = _out_size(w, kw, stride[1], padding[1], dilation[1])
    window = Window(stride, padding, dilation, groups)
    if conv_depthwise.suits(weight.shape, window):
        y = activations((n, k, oh, ow), dtype)
        conv_depthwise.forward(_bring(x, dtype), weight, bias, y, window, bounds)
        return y
    winograd, pairs = _form(dtype, weight.shape, (oh, ow), stride, dilation, groups, forward=True)
    if winograd:
        y = activations((n, k, oh, ow), dtype) if pairs else empty((n, k, oh, ow), dtype)
        arguments = as_stored(x) if pairs else as_blocked(x, dtype), weight, bias, y, padding
        if not measured:
            conv_winograd.forward(*arguments, floor, pairs, normalisation)
            return _stored(y if ceiling == np.inf else hardtanh.hardtanh_forward(y, *bounds))
        moments = moments_of(y, conv_winograd.forward_measured(*arguments, pairs, normalisation))
        y = _stored(y)
        y.moments = moments
        return y
    y = activations((n, k, oh, ow), dtype)
    conv_direct.forward(_bring(x, dtype), weight, bias, y, window, bounds, pairs, keep)
    return y


def conv2d_relu_pool_forward(x, weight, bias, stride, padding, dilation, groups):
    """Return (y, argmax, shape): ReLU and the maxima of 2x2 windows of a convolution, in one pass.

    As ``conv2d_forward`` and ``max_pool2d_forward`` with relu=True, bit for bit; ``shape`` is that of the
    convolution, whose result is never stored. None where Winograd's form with tiles of 4x4 outputs, or of
    bfloat16, or that of depthwise convolutions is faster than that is worth.
    """
    dtype = _common(x, weight)
    k, _, kh, kw = weight.shape
    n, _, h, w = x.shape
    oh = _out_size(h, kh, stride[0], padding[0], dilation[0])
    ow = _out_size(w, kw, stride[1], padding[1], dilation[1])
    winograd, pairs = _form(dtype, weight.shape, (oh, ow), stride, dilation, groups, forward=True)
    window = Window(stride, padding, dilation, groups)
    other = (winograd and (pairs or kh == 3)) or conv_depthwise.suits(weight.shape, window)
    if min(oh, ow) < 2 or other:
        return None
    x, weight = as_stored(x) if pairs else as_blocked(x, dtype), _plain(weight, dtype)
    bias = None if bias is None else _plain(bias, dtype)
    y, argmax = empty((n, k, oh // 2, ow // 2), dtype), empty((n, k, oh // 2, ow // 2), np.uint8)
    if winograd:
        conv_winograd.forward_pooled(x, weight, bias, y, argmax, (oh, ow), padding)
    else:
        conv_direct.forward_pooled(x, weight, bias, y, argmax, (oh, ow), window, pairs)
    return _stored(y), argmax, (n, k, oh, ow)


def conv2d_backward_input(dy, weight, input_shape, stride, padding, dilation, groups):
    """Return dx, the gradient of the loss by x."""
    dtype = _common(dy, weight)
    weight = _plain(weight, dtype)
    shape, window = tuple(input_shape), Window(stride, padding, dilation, groups)
    if conv_depthwise.suits(weight.shape, window):
        dx = activations(shape, dtype)
        conv_depthwise.backward_input(_bring(dy, dtype), weight, dx, window)
        return dx
    geometry = dtype, weight.shape, shape[2:], stride, dilation, groups
    winograd, pairs = _form(*geometry, transposed=True)
    if winograd and not pairs:
        dx = empty(shape, dtype)
        conv_winograd.backward_input(as_blocked(dy, dtype), weight, dx, padding)
        return _stored(dx)
    dx = activations(shape, dtype)
    if winograd:
        conv_winograd.backward_input(as_stored(dy), weight, dx, padding, pairs)
        return dx
    conv_direct.backward_input(_bring(dy, dtype), weight, dx, window, pairs)
    return dx


def conv2d_backward_weight(dy, x, dweight, stride, padding, dilation, groups, normalisation=()):
    """Add the gradient of the loss by the weight into ``dweight``; ``normalisation``: as in forward."""
    dtype = _common(dy, x)
    total = (
        dweight if dweight.dtype == dtype and dweight.flags.c_contiguous else np.zeros(dweight.shape, dtype)
    )
    geometry = dtype, dweight.shape, dy.shape[2:], stride, dilation, groups
    window = Window(stride, padding, dilation, groups)
    depthwise, winograd = conv_depthwise.suits(dweight.shape, window), suits_winograd(*geometry)
    pairs = suits_pairs(*geometry) if winograd else conv_weight.suits_pairs(dweight.shape, stride, groups)
    pairs = pairs and _in_bf16(dtype)
    bring = _bring if depthwise else as_blocked
    dy, x = (_narrow(dy), _narrow(x)) if pairs else (bring(dy, dtype), bring(x, dtype))
    for part, sums in micro_batches(total):
        if winograd:
            conv_winograd_weight.backward_weight(part(dy), part(x), sums, padding, pairs, normalisation)
        elif depthwise:
            conv_depthwise.backward_weight(part(dy), part(x), sums, window)
        else:
            conv_weight.backward_weight(part(dy), part(x), sums, window, pairs)
    if total is not dweight:
        dweight += total


def pools_within(dtype, weight_shape, out_size, stride, padding, dilation, groups):
    """Whether ``conv2d_relu_pool_forward`` and ``conv2d_relu_pool_backward_weight`` do it."""
    if min(out_size) < 2 or suits_winograd(dtype, weight_shape, out_size, stride, dilation, groups):
        return False
    window = Window(stride, padding, dilation, groups)
    if conv_depthwise.suits(weight_shape, window):
        return False
    return conv_weight.pools_within(Geometry((), weight_shape, out_size, window, dtype.itemsize))


def conv2d_relu_pool_backward_weight(dy, argmax, x, dweight, out_shape, stride, padding, dilation, groups):
    """Add the gradient by the weight, given that of the pool behind it; return whether that was done.

    As ``max_pool2d_backward`` and ``conv2d_backward_weight``, bit for bit; what the convolution itself gets
    is never stored. Not done where another form than ``dots`` is faster; ``out_shape``: of the convolution.
    """
    dtype = _common(dy, x)
    geometry = stride, padding, dilation, groups
    fits = dweight.dtype == dtype and dweight.flags.c_contiguous
    if not (fits and pools_within(dtype, dweight.shape, out_shape[2:], *geometry)):
        return False
    dy, x = as_blocked(dy, dtype), as_blocked(x, dtype)
    for part, sums in micro_batches(dweight):
        arguments = part(dy), part(argmax), part(x), sums, out_shape[2:], Window(*geometry)
        conv_weight.backward_weight_pooled(*arguments)
    return True
