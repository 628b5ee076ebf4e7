import numpy as np


def conv_dw(dy, x, kernel_size, stride, padding):
    kh, kw = kernel_size
    padded = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    dweight = np.zeros((dy.shape[1], x.shape[1], kh, kw))
    for i in range(dy.shape[2]):
        for j in range(dy.shape[3]):
            window = padded[:, :, i * stride : i * stride + kh, j * stride : j * stride + kw]
            dweight += np.einsum("nk,ncuv->kcuv", dy[:, :, i, j], window)
    return dweight, dy.sum(axis=(0, 2, 3))
