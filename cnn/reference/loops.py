"""Every sum of the network as plain nested loops: the equation with a ``for`` for each index.

Nothing here is fast, and nothing else in the package calls it: it is there to be read beside the array
expressions of the other modules of this package, and tests/test_loops.py compares the two. Shapes and
arguments are theirs: ``stride``, ``dilation`` and ``kernel_size`` are (height, width), ``padding`` is
((top, bottom), (left, right)).

A ``*_dx`` asks of one input number which outputs it went into; a ``*_dweight`` asks the same of one weight.
"""

import math

import numpy as np

# -- convolution -----------------------------------------------------------------------------------


def conv2d_forward(x, weight, bias, stride, padding, dilation, groups):
    """Return y[n,k,i,j] = b[k] + sum over c,u,v of x[n,c,a,b] * w[k,c,u,v],  a = i*sh + u*dh - top."""
    (N, _, H, W), (K, Cg, kh, kw) = x.shape, weight.shape
    (sh, sw), (dh, dw), ((top, bottom), (left, right)) = stride, dilation, padding
    OH = (H + top + bottom - dh * (kh - 1) - 1) // sh + 1
    OW = (W + left + right - dw * (kw - 1) - 1) // sw + 1
    y = np.zeros((N, K, OH, OW), x.dtype)
    for n in range(N):  # image
        for k in range(K):  # filter
            first = k // (K // groups) * Cg  # the first input channel of the filter's group
            for i in range(OH):  # output row
                for j in range(OW):  # output column
                    if bias is not None:
                        y[n, k, i, j] = bias[k]
                    for c in range(Cg):  # input channel
                        for u in range(kh):  # kernel row
                            for v in range(kw):  # kernel column
                                a, b = i * sh + u * dh - top, j * sw + v * dw - left
                                if 0 <= a < H and 0 <= b < W:  # the padding is 0 and adds nothing
                                    y[n, k, i, j] += x[n, first + c, a, b] * weight[k, c, u, v]
    return y


def conv2d_dx(dy, weight, input_shape, stride, padding, dilation, groups):
    """Return dx[n,c,a,b] = sum over k,u,v of dy[n,k,i,j] * w[k,c,u,v],  i = (a + top - u*dh) / sh."""
    (N, C, H, W), (K, Cg, kh, kw) = input_shape, weight.shape
    (sh, sw), (dh, dw), ((top, _), (left, _)) = stride, dilation, padding
    OH, OW = dy.shape[2:]
    dx = np.zeros(input_shape, dy.dtype)
    for n in range(N):  # image
        for c in range(C):  # input channel
            group = c // Cg
            for a in range(H):  # input row
                for b in range(W):  # input column
                    for k in range(group * (K // groups), (group + 1) * (K // groups)):  # filter
                        for u in range(kh):  # kernel row
                            for v in range(kw):  # kernel column
                                i, row_rest = divmod(a + top - u * dh, sh)
                                j, column_rest = divmod(b + left - v * dw, sw)
                                # with a rest, or outside of dy, no output read the pixel at this (u, v)
                                if not row_rest and not column_rest and 0 <= i < OH and 0 <= j < OW:
                                    dx[n, c, a, b] += dy[n, k, i, j] * weight[k, c % Cg, u, v]
    return dx


def conv2d_dweight(dy, x, weight_shape, stride, padding, dilation, groups):
    """Return dw[k,c,u,v] = sum over n,i,j of dy[n,k,i,j] * x[n,c,a,b],  a = i*sh + u*dh - top."""
    (N, _, H, W), (K, Cg, kh, kw) = x.shape, weight_shape
    (sh, sw), (dh, dw), ((top, _), (left, _)) = stride, dilation, padding
    OH, OW = dy.shape[2:]
    dweight = np.zeros(weight_shape, dy.dtype)
    for k in range(K):  # filter
        first = k // (K // groups) * Cg  # the first input channel of the filter's group
        for c in range(Cg):  # input channel
            for u in range(kh):  # kernel row
                for v in range(kw):  # kernel column
                    for n in range(N):  # image
                        for i in range(OH):  # output row
                            for j in range(OW):  # output column
                                a, b = i * sh + u * dh - top, j * sw + v * dw - left
                                if 0 <= a < H and 0 <= b < W:  # the padding is 0 and adds nothing
                                    dweight[k, c, u, v] += dy[n, k, i, j] * x[n, first + c, a, b]
    return dweight


def conv2d_dbias(dy):
    """Return db[k] = sum over n,i,j of dy[n,k,i,j]."""
    N, K, OH, OW = dy.shape
    dbias = np.zeros(K, dy.dtype)
    for k in range(K):  # filter
        for n in range(N):  # image
            for i in range(OH):  # output row
                for j in range(OW):  # output column
                    dbias[k] += dy[n, k, i, j]
    return dbias


# A transposed convolution is a convolution read backwards: the output of the one is the input of the other.


def conv_transpose2d_forward(x, weight, bias, output_shape, stride, padding, dilation, groups):
    """Return y[n,k,a,b] = b[k] + sum over c,u,v of x[n,c,i,j] * w[c,k,u,v],  i = (a + top - u*dh) / sh."""
    y = conv2d_dx(x, weight, output_shape, stride, padding, dilation, groups)
    if bias is not None:
        for k in range(len(bias)):  # filter
            y[:, k] += bias[k]
    return y


def conv_transpose2d_dx(dy, weight, stride, padding, dilation, groups):
    """Return dx[n,c,i,j] = sum over k,u,v of dy[n, k, i*sh + u*dh - top, j*sw + v*dw - left] * w[c,k,u,v]."""
    return conv2d_forward(dy, weight, None, stride, padding, dilation, groups)


def conv_transpose2d_dweight(dy, x, weight_shape, stride, padding, dilation, groups):
    """Return dw[c,k,u,v] = sum over n,i,j of x[n,c,i,j] * dy[n, k, i*sh + u*dh - top, j*sw + v*dw - left]."""
    return conv2d_dweight(x, dy, weight_shape, stride, padding, dilation, groups)


# -- pooling ---------------------------------------------------------------------------------------


def max_pool2d_forward(x, kernel_size, stride, padding, dilation=(1, 1)):
    """Return (y, where): the largest number of each window and its pixel (a, b); the first of equals."""
    (N, C, H, W), (kh, kw), (sh, sw), (dh, dw) = x.shape, kernel_size, stride, dilation
    (top, bottom), (left, right) = padding
    OH = (H + top + bottom - dh * (kh - 1) - 1) // sh + 1
    OW = (W + left + right - dw * (kw - 1) - 1) // sw + 1
    y = np.full((N, C, OH, OW), -np.inf, x.dtype)
    where = np.full((N, C, OH, OW, 2), -1)
    for n in range(N):  # image
        for c in range(C):  # channel
            for i in range(OH):  # output row
                for j in range(OW):  # output column
                    for u in range(kh):  # window row
                        for v in range(kw):  # window column
                            a, b = i * sh + u * dh - top, j * sw + v * dw - left
                            if 0 <= a < H and 0 <= b < W and x[n, c, a, b] > y[n, c, i, j]:
                                y[n, c, i, j], where[n, c, i, j] = x[n, c, a, b], (a, b)
    return y, where


def max_pool2d_dx(dy, where, input_shape):
    """Return dx: each dy[n,c,i,j] is added to the pixel that was the largest of its window."""
    N, C, OH, OW = dy.shape
    dx = np.zeros(input_shape, dy.dtype)
    for n in range(N):  # image
        for c in range(C):  # channel
            for i in range(OH):  # output row
                for j in range(OW):  # output column
                    a, b = where[n, c, i, j]
                    dx[n, c, a, b] += dy[n, c, i, j]
    return dx


def avg_pool2d_forward(x, kernel_size, stride, padding, count_include_pad):
    """Return y[n,c,i,j] = sum over the window of x[n, c, i*sh + u - top, j*sw + v - left] / m."""
    (N, C, H, W), (kh, kw), (sh, sw) = x.shape, kernel_size, stride
    (top, bottom), (left, right) = padding
    OH, OW = (H + top + bottom - kh) // sh + 1, (W + left + right - kw) // sw + 1
    y = np.zeros((N, C, OH, OW), x.dtype)
    for n in range(N):  # image
        for c in range(C):  # channel
            for i in range(OH):  # output row
                for j in range(OW):  # output column
                    m = _divisor(i, j, H, W, kernel_size, stride, padding, count_include_pad)
                    for u in range(kh):  # window row
                        for v in range(kw):  # window column
                            a, b = i * sh + u - top, j * sw + v - left
                            if 0 <= a < H and 0 <= b < W:
                                y[n, c, i, j] += x[n, c, a, b] / m
    return y


def avg_pool2d_dx(dy, input_shape, kernel_size, stride, padding, count_include_pad):
    """Return dx: each pixel collects dy[n,c,i,j] / m from every window (i, j) that covers it."""
    (N, C, H, W), (kh, kw), (sh, sw) = input_shape, kernel_size, stride
    ((top, _), (left, _)), (OH, OW) = padding, dy.shape[2:]
    dx = np.zeros(input_shape, dy.dtype)
    for n in range(N):  # image
        for c in range(C):  # channel
            for i in range(OH):  # output row
                for j in range(OW):  # output column
                    m = _divisor(i, j, H, W, kernel_size, stride, padding, count_include_pad)
                    for u in range(kh):  # window row
                        for v in range(kw):  # window column
                            a, b = i * sh + u - top, j * sw + v - left
                            if 0 <= a < H and 0 <= b < W:
                                dx[n, c, a, b] += dy[n, c, i, j] / m
    return dx


def _divisor(i, j, H, W, kernel_size, stride, padding, count_include_pad):
    """Return m, what window (i, j) divides by: kh*kw with count_include_pad, else its cells in the image."""
    (kh, kw), (sh, sw), ((top, _), (left, _)) = kernel_size, stride, padding
    m = 0
    for u in range(kh):
        for v in range(kw):
            a, b = i * sh + u - top, j * sw + v - left
            m += count_include_pad or (0 <= a < H and 0 <= b < W)
    return m


def global_avg_pool_forward(x):
    """Return y[n,c] = sum over a,b of x[n,c,a,b] / (H*W)."""
    N, C, H, W = x.shape
    y = np.zeros((N, C), x.dtype)
    for n in range(N):  # image
        for c in range(C):  # channel
            for a in range(H):  # row
                for b in range(W):  # column
                    y[n, c] += x[n, c, a, b] / (H * W)
    return y


def global_avg_pool_dx(dy, input_shape):
    """Return dx[n,c,a,b] = dy[n,c] / (H*W)."""
    N, C, H, W = input_shape
    dx = np.zeros(input_shape, dy.dtype)
    for n in range(N):  # image
        for c in range(C):  # channel
            for a in range(H):  # row
                for b in range(W):  # column
                    dx[n, c, a, b] = dy[n, c] / (H * W)
    return dx


# -- linear ----------------------------------------------------------------------------------------


def linear_forward(x, weight, bias):
    """Return y[n,o] = b[o] + sum over f of x[n,f] * w[o,f]."""
    (N, F), (O, _) = x.shape, weight.shape
    y = np.zeros((N, O), x.dtype)
    for n in range(N):  # image
        for o in range(O):  # output
            if bias is not None:
                y[n, o] = bias[o]
            for f in range(F):  # input
                y[n, o] += x[n, f] * weight[o, f]
    return y


def linear_dx(dy, weight):
    """Return dx[n,f] = sum over o of dy[n,o] * w[o,f]."""
    (N, O), (_, F) = dy.shape, weight.shape
    dx = np.zeros((N, F), dy.dtype)
    for n in range(N):  # image
        for f in range(F):  # input
            for o in range(O):  # output
                dx[n, f] += dy[n, o] * weight[o, f]
    return dx


def linear_dweight(dy, x):
    """Return dw[o,f] = sum over n of dy[n,o] * x[n,f]."""
    (N, O), (_, F) = dy.shape, x.shape
    dweight = np.zeros((O, F), dy.dtype)
    for o in range(O):  # output
        for f in range(F):  # input
            for n in range(N):  # image
                dweight[o, f] += dy[n, o] * x[n, f]
    return dweight


def linear_dbias(dy):
    """Return db[o] = sum over n of dy[n,o]."""
    N, O = dy.shape
    dbias = np.zeros(O, dy.dtype)
    for o in range(O):  # output
        for n in range(N):  # image
            dbias[o] += dy[n, o]
    return dbias


# -- ReLU of a flat array --------------------------------------------------------------------------


def relu_forward(x):
    """Return y[i] = x[i] where x[i] > 0, else 0."""
    y = np.zeros_like(x)
    for i in range(len(x)):
        if x[i] > 0:
            y[i] = x[i]
    return y


def relu_dx(dy, x):
    """Return dx[i] = dy[i] where x[i] > 0, else 0."""
    dx = np.zeros_like(x)
    for i in range(len(x)):
        if x[i] > 0:
            dx[i] = dy[i]
    return dx


# -- batch normalisation: x holds the m values of one channel, over the batch and all positions ----


def batch_norm_statistics(x):
    """Return (mu, variance): mu = sum over i of x[i] / m, variance = sum over i of (x[i] - mu)**2 / m."""
    m, mu, variance = len(x), 0.0, 0.0
    for i in range(m):
        mu += x[i] / m
    for i in range(m):
        variance += (x[i] - mu) ** 2 / m
    return mu, variance


def batch_norm_forward(x, mu, variance, gamma, beta, eps):
    """Return y[i] = gamma * xhat[i] + beta, xhat[i] = (x[i] - mu) / sqrt(variance + eps)."""
    y = np.zeros_like(x)
    for i in range(len(x)):
        xhat = (x[i] - mu) / math.sqrt(variance + eps)
        y[i] = gamma * xhat + beta
    return y


def batch_norm_dgamma(dy, x, mu, variance, eps):
    """Return dgamma = sum over i of dy[i] * xhat[i]."""
    dgamma = 0.0
    for i in range(len(x)):
        xhat = (x[i] - mu) / math.sqrt(variance + eps)
        dgamma += dy[i] * xhat
    return dgamma


def batch_norm_dbeta(dy):
    """Return dbeta = sum over i of dy[i]."""
    dbeta = 0.0
    for i in range(len(dy)):
        dbeta += dy[i]
    return dbeta


def batch_norm_dx(dy, x, mu, variance, gamma, eps):
    """Return dx in training, along three paths: from x[j] directly, through the variance, the mean."""
    m, rstd = len(x), 1 / math.sqrt(variance + eps)
    dvariance = dmu = 0.0
    for i in range(m):
        dvariance += dy[i] * gamma * (x[i] - mu) * -0.5 * rstd**3
        dmu += dy[i] * gamma * -rstd  # the path mu -> variance adds 0, because the (x[i] - mu) sum to 0
    dx = np.zeros_like(x)
    for j in range(m):
        dx[j] = dy[j] * gamma * rstd + dvariance * 2 * (x[j] - mu) / m + dmu / m
    return dx


# -- softmax and cross-entropy of one image ---------------------------------------------------------


def softmax_forward(z):
    """Return p[k] = exp(z[k] - max z) / sum over j of exp(z[j] - max z)."""
    largest, total = max(z), 0.0
    for j in range(len(z)):
        total += math.exp(z[j] - largest)
    p = np.zeros_like(z)
    for k in range(len(z)):
        p[k] = math.exp(z[k] - largest) / total
    return p


def softmax_dx(dp, p):
    """Return dz[i] = sum over k of dp[k] * dp[k]/dz[i], where dp[k]/dz[i] = p[k] * ([k = i] - p[i])."""
    dz = np.zeros_like(p)
    for i in range(len(p)):
        for k in range(len(p)):
            dz[i] += dp[k] * (p[k] * (1 - p[i]) if k == i else -p[k] * p[i])
    return dz


def cross_entropy_forward(p, y):
    """Return L = -sum over k of y[k] * log p[k]."""
    loss = 0.0
    for k in range(len(p)):
        loss -= y[k] * math.log(p[k])
    return loss


def cross_entropy_dp(p, y):
    """Return dL/dp[k] = -y[k] / p[k]."""
    dp = np.zeros_like(p)
    for k in range(len(p)):
        dp[k] = -y[k] / p[k]
    return dp


def softmax_cross_entropy_dz(p, y):
    """Return dL/dz[i] = p[i] * sum over k of y[k] - y[i]: p - y when the y sum to one."""
    total = 0.0
    for k in range(len(p)):
        total += y[k]
    dz = np.zeros_like(p)
    for i in range(len(p)):
        dz[i] = p[i] * total - y[i]
    return dz
