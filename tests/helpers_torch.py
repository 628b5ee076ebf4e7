"""PyTorch as the oracle. Importing this module skips the calling test module where PyTorch is absent."""

import helpers
import numpy as np
import pytest

torch = pytest.importorskip("torch")
torch.set_num_threads(1)


def tensor(array, grad=False):
    """Return a float64 tensor with a copy of the values of ``array``."""
    return torch.tensor(np.array(array, np.float64, order="C"), requires_grad=grad)


def check(layer, oracle, x, rng, dtype=np.float64, training=False, backends=helpers.BACKENDS, floor=0.0):
    """Compare a layer with a PyTorch function, forward and backward, under each backend.

    Builds ``layer`` for ``x``, gives its parameters random values, and feeds both with random memory layouts
    of ``x`` and of a random upstream gradient. ``oracle(x, **parameters)`` works on float64 tensors that hold
    the layer's (possibly float32) values, so the whole difference is the layer's error. ``floor`` is the
    smallest unit for the errors of gradients that vanish by cancellation.
    """
    x = x.astype(dtype)
    output_shape = layer.build(x.shape[1:], rng=rng, dtype=dtype)
    for parameter in layer.parameters():
        parameter.data = rng.standard_normal(parameter.shape).astype(dtype)
    leaf = tensor(x, grad=True)
    leaves = {p.name: tensor(p.data, grad=True) for p in layer.parameters()}
    expected = oracle(leaf, **leaves)
    assert tuple(expected.shape[1:]) == output_shape, (
        f"build returned {output_shape}, PyTorch {expected.shape}"
    )
    dy = rng.standard_normal(tuple(expected.shape)).astype(dtype)
    expected.backward(tensor(dy))
    for backend in backends:
        with helpers.naming("backend", backend):
            y, dx, gradients = helpers.run(
                layer, helpers.layout(x, rng), helpers.layout(dy, rng), training, backend
            )
            helpers.assert_forward(y, expected.detach().numpy(), dtype)
            helpers.assert_gradient(dx, leaf.grad.numpy(), dtype, "dx", floor)
            for name, gradient in gradients.items():
                helpers.assert_gradient(gradient, leaves[name].grad.numpy(), dtype, f"d{name}", floor)
