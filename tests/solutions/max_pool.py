import numpy as np


def max_pool_backward(dy, x, kernel_size, stride):
    dx = np.zeros_like(x)
    for n, c, i, j in np.ndindex(dy.shape):
        window = x[n, c, i * stride : i * stride + kernel_size, j * stride : j * stride + kernel_size]
        row, column = divmod(int(window.argmax()), kernel_size)
        dx[n, c, i * stride + row, j * stride + column] += dy[n, c, i, j]
    return dx
