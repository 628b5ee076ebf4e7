"""Convolution as windows times weights; its gradients as the same windows read the other way."""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view


def windows(x, kernel_size, stride, padding, dilation=(1, 1), fill=0.0):
    """View ``x`` as (N, C, H', W', kh, kw).

    window[n,c,i,j,u,v] = x[n, c, i*sh - top + u*dh, j*sw - left + v*dw], ``fill`` outside of the image
    """
    (kh, kw), (sh, sw), (dh, dw) = kernel_size, stride, dilation
    padded = np.pad(x, ((0, 0), (0, 0), *padding), constant_values=fill)
    extent = (dh * (kh - 1) + 1, dw * (kw - 1) + 1)
    return sliding_window_view(padded, extent, axis=(2, 3))[:, :, ::sh, ::sw, ::dh, ::dw]


def _of_group(array, group, groups):
    """Take the slice of axis 1 that belongs to one group."""
    size = array.shape[1] // groups
    return array[:, group * size : (group + 1) * size]


def conv2d_forward(x, weight, bias, stride, padding, dilation, groups):
    """Return y[n,k,i,j] = bias[k] + sum over c,u,v of weight[k,c,u,v] * window[n,c,i,j,u,v]."""
    view = windows(np.asarray(x), weight.shape[2:], stride, padding, dilation)
    parts = [
        np.einsum("nchwuv,kcuv->nkhw", _of_group(view, g, groups), part, optimize=True)
        for g, part in enumerate(np.split(weight, groups))
    ]
    y = np.concatenate(parts, axis=1)
    return y if bias is None else y + bias[:, None, None]


def conv2d_backward_input(dy, weight, input_shape, stride, padding, dilation, groups):
    """Return dx: every dy[n,k,i,j] goes back, times weight[k,c,u,v], to the pixel it was multiplied with."""
    dy = np.asarray(dy)
    (sh, sw), ((top, bottom), (left, right)), (dh, dw) = stride, padding, dilation
    n, c, h, w = input_shape
    oh, ow = dy.shape[2:]
    padded = np.zeros((n, c, h + top + bottom, w + left + right), dy.dtype)
    for g, part in enumerate(np.split(weight, groups)):
        target = _of_group(padded, g, groups)
        for u in range(weight.shape[2]):
            for v in range(weight.shape[3]):
                rows = slice(u * dh, u * dh + sh * (oh - 1) + 1, sh)
                columns = slice(v * dw, v * dw + sw * (ow - 1) + 1, sw)
                target[:, :, rows, columns] += np.einsum(
                    "nkhw,kc->nchw", _of_group(dy, g, groups), part[:, :, u, v], optimize=True
                )
    return padded[:, :, top : top + h, left : left + w]


def conv2d_backward_weight(dy, x, dweight, stride, padding, dilation, groups):
    """Add dweight[k,c,u,v] += sum over n,i,j of dy[n,k,i,j] * window[n,c,i,j,u,v]."""
    dy = np.asarray(dy)
    view = windows(np.asarray(x), dweight.shape[2:], stride, padding, dilation)
    view = view[:, :, : dy.shape[2], : dy.shape[3]]
    for g, part in enumerate(np.split(dweight, groups)):
        part += np.einsum(
            "nkhw,nchwuv->kcuv", _of_group(dy, g, groups), _of_group(view, g, groups), optimize=True
        )
