import numpy as np


def conv_forward(x, weight, bias, stride, padding):
    kh, kw = weight.shape[2:]
    padded = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    height = (padded.shape[2] - kh) // stride + 1
    width = (padded.shape[3] - kw) // stride + 1
    y = np.zeros((len(x), len(weight), height, width))
    for i in range(height):
        for j in range(width):
            window = padded[:, :, i * stride : i * stride + kh, j * stride : j * stride + kw]
            y[:, :, i, j] = np.einsum("ncuv,kcuv->nk", window, weight) + bias
    return y
