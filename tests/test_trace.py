"""Listening to the layers of a network."""

import numpy as np
import pytest

from cnn import Network
from cnn.layers import Conv2d, Flatten, Linear, ReLU, Residual
from cnn.trace import listening


@pytest.fixture
def network(rng):
    network = Network([Residual([Conv2d(2, 3, padding=1), ReLU()]), Flatten(), Linear(3)])
    network.build((2, 4, 4), rng)
    return network


def test_each_layer_is_heard_with_what_passed_through_it(network, backend, rng):
    x, dy = rng.standard_normal((2, 2, 4, 4)).astype(np.float32), np.ones((2, 3), np.float32)
    heard = {"forward": [], "backward": []}

    def forward(name, layer, x, y):
        heard["forward"].append((name, type(layer).__name__, np.array(x), np.array(y)))

    def backward(name, layer, dy, dx):
        heard["backward"].append((name, np.array(dy), np.array(dx)))

    with listening(network.walk(), forward, backward):
        y = np.array(network.body.forward(x, training=True))
        dx = np.array(network.body.backward(dy))
    names = [name for name, *_ in heard["forward"]]
    assert names == ["0.body.0", "0.body.1", "0.body", "0.shortcut", "0", "1", "2"]
    assert heard["forward"][0][1] == "Conv2d"
    np.testing.assert_array_equal(heard["forward"][0][2], x)
    np.testing.assert_array_equal(heard["forward"][-1][3], y)
    assert heard["backward"][0][0] == "2"
    np.testing.assert_array_equal(heard["backward"][0][1], dy)
    np.testing.assert_array_equal({n: g for n, _, g in heard["backward"]}["0"], dx)


def test_afterwards_the_layers_are_as_before_also_after_an_error(network):
    layer = network.layers[2]
    own = layer.forward
    layer.forward = lambda x, training=False: own(x, training)  # a shadow of the user's own
    mine = layer.forward
    with pytest.raises(KeyError), listening(network.walk(), lambda *_: None, lambda *_: None):
        raise KeyError
    assert layer.forward is mine
    assert "forward" not in vars(network.layers[0])
    assert "backward" not in vars(layer)
