import numpy as np


def conv_dx(dy, weight, input_shape, stride, padding):
    n, c, h, w = input_shape
    kh, kw = weight.shape[2:]
    dpadded = np.zeros((n, c, h + 2 * padding, w + 2 * padding))
    for i in range(dy.shape[2]):
        for j in range(dy.shape[3]):
            part = np.einsum("nk,kcuv->ncuv", dy[:, :, i, j], weight)
            dpadded[:, :, i * stride : i * stride + kh, j * stride : j * stride + kw] += part
    return dpadded[:, :, padding : padding + h, padding : padding + w]
