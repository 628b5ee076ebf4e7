"""A first convolution whose responses to the training images are uncorrelated, with variance near 1.

Neighbouring pixels of photographs are nearly equal, so most of an image's variance lies in its coarse, grey
part. With the patches p (all positions of all images, flattened to D = C*kh*kw numbers) and

    S = 1/n sum over patches of p p^T = sum over d of l_d v_d v_d^T              (no mean is removed)

the filters v_d / sqrt(l_d + eps) bring every direction to the same length. Each stands there with both signs,
so that an activation behind it loses neither half:

    weight[d] = v_d / sqrt(l_d + eps),    weight[D + d] = -weight[d],    d from the largest l_d down

S is added up in float64 in one order, and the sign of v_d, which an eigenvector leaves open, is fixed, so the
weights depend on the images alone.

References
----------
Page, "How to Train Your ResNet 8: Bag of Tricks", 2019.
Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", arXiv:2404.00498, section 3.2.
"""

import numpy as np

from cnn.errors import ConfigError, ShapeError
from cnn.layers import Concat, Conv2d, Graph, Residual, Sequential
from cnn.layers.initializers import check_whitening

_AT_ONCE = 128  # images whose patches are in memory together


def whiten(conv, images):
    """Set the weight of a built Conv2d from the patches of ``images``; its bias stays.

    Parameters
    ----------
    conv : Conv2d
        With out_channels = 2 * C * kh * kw and groups = 1. Its ``whitening_eps`` is eps; its stride and
        padding play no part.
    images : (N, C, H, W) float
        As the layer will see them: normalised.

    Raises ShapeError when the layer or the images do not fit.
    """
    shape = conv.weight.shape
    check_whitening(shape, conv.groups)
    images = np.asarray(images)
    if images.ndim != 4 or not len(images) or images.shape[1] != shape[1]:
        raise ShapeError(f"whiten: expected images of shape (N, {shape[1]}, H, W), found {images.shape}")
    values, vectors = np.linalg.eigh(_second_moments(images, shape[2:], conv.dilation))
    filters = np.array([_signed(v) for v in vectors.T[::-1]])
    filters /= np.sqrt(values[::-1] + conv.whitening_eps)[:, None]
    conv.weight.data = np.concatenate([filters, -filters]).reshape(shape)


def whitened_layers(network):
    """Return the layers of a network that ask for weight_init = "whitening".

    Raises ConfigError for one that does not see the images themselves.
    """
    asking = [
        (name, layer) for name, layer in network.walk() if getattr(layer, "weight_init", "") == "whitening"
    ]
    first = list(_first(network.body))
    for name, layer in asking:
        if not any(layer is other for other in first):
            raise ConfigError(
                f'layer {name}: weight_init="whitening" is for a Conv2d that sees the images, '
                "expected no layer before it"
            )
    return [layer for _, layer in asking]


def _first(layer):
    """Yield the layers that receive what ``layer`` receives."""
    if isinstance(layer, Sequential):
        if layer.layers:
            yield from _first(layer.layers[0])
    elif isinstance(layer, Residual | Concat):
        for _, branch in layer.children():
            yield from _first(branch)
    elif isinstance(layer, Graph):
        for path, read in zip(layer.paths, layer.inputs, strict=True):
            if read == (0,):
                yield from _first(path)
    elif isinstance(layer, Conv2d):
        yield layer


def _second_moments(images, kernel, dilation):
    """Return S, (D, D) float64, D in the order (channel, row, column)."""
    window = tuple(d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True))
    if any(size < w for size, w in zip(images.shape[2:], window, strict=True)):
        raise ShapeError(f"whiten: images of {images.shape[2:]} pixels hold no patch of {window}")
    total, count = 0.0, 0
    for begin in range(0, len(images), _AT_ONCE):
        part = np.asarray(images[begin : begin + _AT_ONCE], np.float64)
        views = np.lib.stride_tricks.sliding_window_view(part, window, axis=(2, 3))
        views = views[..., :: dilation[0], :: dilation[1]]  # (n, C, i, j, kh, kw)
        patches = views.transpose(1, 4, 5, 0, 2, 3).reshape(images.shape[1] * kernel[0] * kernel[1], -1)
        # einsum and not @: the bits of BLAS depend on the number of its threads
        total = total + np.einsum("ip,jp->ij", patches, patches)
        count += patches.shape[1]
    return total / count


def _signed(vector):
    """Return the vector or its negative: positive in its first entry that is at least half the largest."""
    size = np.abs(vector)
    return vector * np.sign(vector[np.argmax(size >= 0.5 * size.max())])
