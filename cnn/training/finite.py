"""Where NaN and Inf come from: names the tensor and the layer for the message that ends a run."""

import numpy as np


def first_not_finite(tensors):
    """Return words for the first of ``tensors`` (name -> array) that holds NaN or Inf, None without one."""
    for name, array in tensors.items():
        if array.dtype.kind == "f":
            bad = array.size - int(np.count_nonzero(np.isfinite(array)))
            if bad:
                kind = "NaN" if np.isnan(array).any() else "Inf"
                return f"{name} holds {kind} in {bad:,} of {array.size:,} numbers"
    return None


def gradient(network):
    """Return words for the first parameter, from the last layer backwards, whose gradient is not finite."""
    for name, layer in reversed(list(network.walk())):
        if not layer.children():
            grads = {f"the gradient of {name}.{p.name}": p.grad for p in layer.parameters() if p.trainable}
            found = first_not_finite(grads)
            if found:
                return f"{found} ({type(layer).__name__})"
    return None


def state(network):
    """Return words for the first parameter or running statistic that is not finite."""
    for name, layer in network.walk():
        if not layer.children():
            for place, arrays in _state_of(name, layer):
                found = first_not_finite({f"{place}.{key}": array for key, array in arrays.items()})
                if found:
                    return f"{found} ({type(layer).__name__})"
    return None


def activation(network, x):
    """Return words for what first makes the output of a network for ``x`` NaN or Inf; None without such.

    A parameter or a running statistic comes before the layer whose output shows it. Runs the layers one by
    one as in training, so the running statistics move: for a run that has ended.
    """
    x = np.asarray(x)
    for name, layer in enumerate(network.layers):
        state = {
            f"{place}.{key}": array
            for place, array in _state_of(str(name), layer)
            for key, array in array.items()
        }
        found = first_not_finite(state)
        if found:
            return f"{found} ({type(layer).__name__})"
        x = np.asarray(layer.forward(x, training=True))
        found = first_not_finite({f"the output of layer {name}": x})
        if found:
            return f"{found} ({type(layer).__name__})"
    return None


def _state_of(name, layer):
    """Yield (place, {name: array}) of a layer and of the layers inside."""
    if not layer.children():
        yield name, {p.name: p.data for p in layer.parameters()} | layer.buffers()
    for inner, child in layer.children():
        yield from _state_of(f"{name}.{inner}", child)
