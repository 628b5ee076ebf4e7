"""Judges of the exercises about convolution and pooling."""

import numpy as np

from cnn import reference as ops
from cnn.course.judges.gradient import check

#: (what, image size, kernel, stride, padding)
_CASES = (("padding 0", 5, (3, 3), 1, 0), ("padding 1", 5, (3, 3), 1, 1), ("stride 2", 7, (3, 2), 2, 1))
_N, _C, _K = 2, 3, 2


def _convolution(stride, padding):
    """Return the arguments of the reference for one stride and padding in both directions."""
    return (stride, stride), ((padding, padding), (padding, padding)), (1, 1), 1


def _draw(rng, size, kernel, stride, padding):
    """Return (x, weight, bias, dy)."""
    x = rng.normal(size=(_N, _C, size, size))
    weight, bias = rng.normal(size=(_K, _C, *kernel)), rng.normal(size=_K)
    y = ops.conv2d_forward(x, weight, bias, *_convolution(stride, padding))
    return x, weight, bias, rng.normal(size=y.shape)


def conv_forward(sheet, answer):
    """Three geometries."""
    rng = np.random.default_rng(0)
    for what, size, kernel, stride, padding in _CASES:
        x, weight, bias, _ = _draw(rng, size, kernel, stride, padding)
        window = _convolution(stride, padding)

        def y(weight=weight, bias=bias, window=window, x=x):
            return {"y": ops.conv2d_forward(x, weight, bias, *window)}

        unmoved = y(window=_convolution(1, padding))["y"]
        (right,) = y().values()
        sheet.compare(
            what,
            answer.conv_forward,
            (x, weight, bias, stride, padding),
            {"y": right},
            flipped=y(weight=np.ascontiguousarray(weight[:, :, ::-1, ::-1])),
            no_bias=y(bias=np.zeros(_K)),
            no_padding=y(window=_convolution(stride, 0)),
            no_stride={"y": unmoved[:, :, : right.shape[2], : right.shape[3]]},
            first_channel=y(weight=weight * (np.arange(_C) == 0)[:, None, None]),
        )


def _loop_dx(dy, weight, shape, stride, padding, add=True, turn=1, corner=False):
    """Return dx by the loop of the hints, with one mistake or none."""
    n, c, h, w = shape
    kh, kw = weight.shape[2:]
    span = max(dy.shape[2:]) * stride + max(kh, kw)
    dpadded = np.zeros((n, c, max(h + 2 * padding, span), max(w + 2 * padding, span)))
    for i in range(dy.shape[2]):
        for j in range(dy.shape[3]):
            part = np.einsum("nk,kcuv->ncuv", dy[:, :, i, j], weight[:, :, ::turn, ::turn])
            view = dpadded[:, :, i * stride : i * stride + kh, j * stride : j * stride + kw]
            view[...] = view + part if add else part
    start = 0 if corner else padding
    return dpadded[:, :, start : start + h, start : start + w]


def conv_dx(sheet, answer):
    """Three geometries, and the gradient check of the last."""
    rng = np.random.default_rng(0)
    for what, size, kernel, stride, padding in _CASES:
        x, weight, bias, dy = _draw(rng, size, kernel, stride, padding)
        arguments = dy, weight, x.shape, stride, padding
        sheet.compare(
            what,
            answer.conv_dx,
            arguments,
            {"dx": ops.conv2d_backward_input(dy, weight, x.shape, *_convolution(stride, padding))},
            flipped={"dx": _loop_dx(*arguments, turn=-1)},
            padding_shift={"dx": _loop_dx(*arguments, corner=True)},
            overwritten={"dx": _loop_dx(*arguments, add=False)},
            no_stride={"dx": _loop_dx(dy, weight, x.shape, 1, padding)},
        )
    window = _convolution(stride, padding)
    check(
        sheet,
        lambda x: ops.conv2d_forward(x, weight, bias, *window),
        lambda dy, x: (answer.conv_dx(dy, weight.copy(), x.shape, stride, padding),),
        x,
    )


def _dweight(dy, x, weight, stride, padding):
    dweight = np.zeros_like(weight)
    ops.conv2d_backward_weight(dy, x, dweight, *_convolution(stride, padding))
    return dweight


def conv_dw(sheet, answer):
    """Three geometries, and the gradient check of the last."""
    rng = np.random.default_rng(0)
    for what, size, kernel, stride, padding in _CASES:
        x, weight, bias, dy = _draw(rng, size, kernel, stride, padding)
        right, dbias = _dweight(dy, x, weight, stride, padding), dy.sum((0, 2, 3))
        sheet.compare(
            what,
            answer.conv_dw,
            (dy, x, kernel, stride, padding),
            {"dweight": right, "dbias": dbias},
            flipped={"dweight": right[:, :, ::-1, ::-1]},
            mean={"dweight": right / _N, "dbias": dbias / _N},
            last_image={
                "dweight": _dweight(dy[-1:], x[-1:], weight, stride, padding),
                "dbias": dy[-1].sum((1, 2)),
            },
            no_stride={"dweight": _unmoved(dy, x, kernel, padding)},
            bias_mean={"dbias": dy.mean((0, 2, 3))},
        )
    check(
        sheet,
        lambda x, weight, bias: ops.conv2d_forward(x, weight, bias, *_convolution(stride, padding)),
        lambda dy, x, weight, bias: (
            ops.conv2d_backward_input(dy, weight, x.shape, *_convolution(stride, padding)),
            *answer.conv_dw(dy, x, kernel, stride, padding),
        ),
        x,
        weight=weight,
        bias=bias,
    )


def _unmoved(dy, x, kernel, padding):
    """Return dweight with windows that stand at (i, j) whatever the stride."""
    p, (kh, kw) = padding, kernel
    padded = np.pad(x, ((0, 0), (0, 0), (p, p), (p, p)))
    dweight = np.zeros((dy.shape[1], x.shape[1], kh, kw))
    for i in range(dy.shape[2]):
        for j in range(dy.shape[3]):
            dweight += np.einsum("nk,ncuv->kcuv", dy[:, :, i, j], padded[:, :, i : i + kh, j : j + kw])
    return dweight


def max_pool(sheet, answer):
    """Distinct values, a flat background, overlapping windows."""
    rng = np.random.default_rng(0)
    distinct = rng.permutation(2 * 2 * 36).reshape(2, 2, 6, 6) / 10.0
    flat = np.zeros((1, 1, 6, 6))
    flat[0, 0, 2, 3], flat[0, 0, 4:, 4:] = 1.0, 2.0
    cases = (
        ("distinct values", distinct, 2, 2),
        ("a flat background", flat, 2, 2),
        ("overlapping windows", distinct, 3, 2),
    )
    for what, x, size, stride in cases:
        window = (size, size), (stride, stride), ((0, 0), (0, 0))
        dy = rng.normal(size=ops.max_pool2d_forward(x, *window)[0].shape)
        sheet.compare(
            what,
            answer.max_pool_backward,
            (dy, x, size, stride),
            {"dx": _route(dy, x, size, stride, "first")},
            every_tie={"dx": _route(dy, x, size, stride, "every")},
            shared_tie={"dx": _route(dy, x, size, stride, "shared")},
            last_tie={"dx": _route(dy, x, size, stride, "last")},
            overwritten={"dx": _route(dy, x, size, stride, "first", add=False)},
        )
    check(
        sheet,
        lambda x: ops.max_pool2d_forward(x, *window)[0],
        lambda dy, x: (answer.max_pool_backward(dy, x, size, stride),),
        distinct,
    )


def _route(dy, x, size, stride, ties, add=True):
    """Return dx where ties go to the "first" or "last" of equals, to "every" one, or are "shared"."""
    dx = np.zeros_like(x)
    for n, c, i, j in np.ndindex(dy.shape):
        place = (n, c, slice(i * stride, i * stride + size), slice(j * stride, j * stride + size))
        tied = x[place] == x[place].max()
        where = np.flatnonzero(tied)
        chosen = {"first": where[:1], "last": where[-1:]}.get(ties, where)
        part = np.zeros(tied.size)
        part[chosen] = dy[n, c, i, j] / (len(where) if ties == "shared" else 1)
        part = part.reshape(tied.shape)
        dx[place] = dx[place] + part if add else np.where(part != 0, part, dx[place])
    return dx
