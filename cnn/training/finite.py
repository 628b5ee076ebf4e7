"""Keeps NaN and Inf out of the weights, and names the tensor and the layer that they come from."""

import math

import numpy as np

_FACTOR, _MEMORY, _EPS = 1e3, 0.9999, 1e-12  # what is ordinary: up to these, eps from this one on


class Guard:
    """Steps of an optimizer that the weights of a network take only if they stay finite.

    Gradients and weights below the square root of the largest float (1.8e19 in float32) cannot overflow in
    the step of an optimizer that is ``bounded`` and whose rate, decay, momentum and eps are ordinary: the
    largest products stay below 1e38. So a look at the largest numbers before the step, a hundredth of its
    time, is enough. For any other step the weights are copied first, and put back if it spoils them.
    """

    def __init__(self, optimizer, network):
        self._optimizer, self._network = optimizer, network
        self._limit = math.sqrt(np.finfo(network.data.dtype).max)
        memories = getattr(optimizer, "momentum", 0), *getattr(optimizer, "betas", ())
        self._ordinary = (
            vars(type(optimizer)).get("bounded", False)
            and optimizer.largest_decay <= _FACTOR
            and max(memories) <= _MEMORY
            and getattr(optimizer, "eps", 1) >= _EPS
        )

    def step(self):
        """Take the step; return words for what is not finite, the weights being as before, or None."""
        optimizer, network = self._optimizer, self._network
        rate = optimizer.lr * max(p.lr_scale for p in optimizer.parameters)
        if self._ordinary and rate <= _FACTOR and self._small(network.grad, network.data):
            optimizer.step()
            return None
        if found := gradient(network):
            return found
        before = network.data.copy()
        optimizer.step()
        if np.isfinite(network.data).all():
            return None
        found = state(network)
        network.data[...] = before
        return f"after the update, which is taken back, {found}"

    def _small(self, *arrays):
        # NaN and Inf are not small: minimum and maximum hand a NaN on, unlike min and max
        limit = self._limit
        return all(np.maximum.reduce(a) < limit and np.minimum.reduce(a) > -limit for a in arrays)


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
