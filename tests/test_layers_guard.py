"""Arguments and attributes that do not exist are refused; what is built keeps its values."""

import copy
import inspect
import pickle

import numpy as np
import pytest

from cnn import Network
from cnn.errors import ConfigError, ShapeError
from cnn.layers import (
    AvgPool2d,
    BatchNorm2d,
    Conv2d,
    ConvTranspose2d,
    Dropout,
    Flatten,
    Layer,
    LeakyReLU,
    Linear,
    Parameter,
    ReLU,
    Residual,
    Sequential,
    SoftmaxCrossEntropy,
)
from cnn.optimizers import SGD, RMSprop

HABITS = {
    "three numbers": (
        lambda: Conv2d(1, 6, 5),
        r"Conv2d\(1, 6, 5\): in_channels .* write Conv2d\(6, kernel_size=5\)",
    ),
    "with padding": (lambda: Conv2d(1, 6, 5, padding=2), r"write Conv2d\(6, kernel_size=5, padding=2\)"),
    "five numbers": (lambda: Conv2d(1, 6, 5, 1, 2), r"write Conv2d\(6, kernel_size=5, stride=1, padding=2\)"),
    "named": (lambda: Conv2d(in_channels=1, out_channels=6, kernel_size=5), r"write Conv2d\(out_channels=6"),
    "transposed": (lambda: ConvTranspose2d(8, 4, 2), r"write ConvTranspose2d\(4, kernel_size=2\)"),
    "linear": (lambda: Linear(84, 10), r"in_features is inferred .* write Linear\(10\)"),
    "norm": (lambda: BatchNorm2d(64), r"num_features is inferred .* write BatchNorm2d\(\)"),
    "named norm": (lambda: BatchNorm2d(num_features=64), r"write BatchNorm2d\(\)"),
    "inplace": (lambda: ReLU(inplace=True), 'ReLU: unknown argument "inplace". It takes none'),
    "misspelt": (lambda: Linear(10, biass=False), 'unknown argument "biass". Did you mean "bias"'),
    "ceil_mode": (lambda: AvgPool2d(2, 2, 0, True), "may stand without a name: write AvgPool2d"),
    "nothing": (lambda: Linear(), r"Linear\(\): missing a required argument: 'out_features'"),
}


@pytest.mark.parametrize("habit", HABITS)
def test_pytorchs_positional_arguments_are_refused_with_what_to_write(habit):
    make, expected = HABITS[habit]
    for kind in (TypeError, ConfigError):
        with pytest.raises(kind, match=expected):
            make()


def test_what_the_contract_writes_without_names_is_right():
    assert Conv2d(6, 5).kernel_size == (5, 5)
    assert Linear(10).out_features == 10


def test_optimizers_take_what_pytorch_orders_differently_by_name_only():
    parameters = [Parameter("p", np.ones(2))]
    with pytest.raises(TypeError):
        SGD(parameters, 0.1, 0.9, 0, 5e-4)
    with pytest.raises(TypeError):
        RMSprop(parameters, 0.1, 0.99, 1e-8, 1e-4)


def test_the_signature_of_a_layer_class_is_that_of_its_constructor():
    assert list(inspect.signature(LeakyReLU).parameters) == ["negative_slope"]
    assert list(inspect.signature(ReLU).parameters) == []


def test_a_misspelt_attribute_of_a_layer_or_parameter_is_refused():
    layer = Linear(3)
    layer.build((2,))
    with pytest.raises(AttributeError, match=r'no attribute "out_feature". Did you mean "out_features"'):
        layer.out_feature = 4
    with pytest.raises(AttributeError, match='Did you mean "requires_grad"'):
        layer.weight.requires_gard = False


def test_requires_grad_is_another_name_for_trainable():
    layer = Linear(3)
    layer.build((2,))
    layer.weight.requires_grad = False
    assert not layer.weight.trainable
    assert not layer.weight.requires_grad
    assert layer.bias.requires_grad
    layer.trainable = False
    assert not layer.bias.trainable
    with pytest.raises(RuntimeError, match="after build"):
        Linear(3).trainable = False


def test_an_array_set_as_a_parameter_or_buffer_is_copied_into_it():
    network = Network([Linear(3)])
    network.build((2,))
    weight = network.layers[0].weight
    network.layers[0].weight = np.full((3, 2), 2.0)
    assert network.layers[0].weight is weight
    np.testing.assert_array_equal(network.data[:6], 2.0)
    with pytest.raises(ShapeError, match=r"expected shape \(3, 2\), found \(2, 3\)"):
        network.layers[0].weight = np.ones((2, 3))
    with pytest.raises(ShapeError, match="weight exists after build"):
        Linear(3).weight = np.ones((3, 2))
    norm = BatchNorm2d()
    norm.build((2, 3, 3))
    mean = norm.running_mean
    norm.running_mean = np.ones(2)
    assert norm.running_mean is mean
    np.testing.assert_array_equal(mean, 1.0)
    with pytest.raises(ShapeError, match=r"running_mean: expected shape \(2,\), found \(3,\)"):
        norm.running_mean = np.ones(3)


class Own(Layer):
    """Sets attributes without super().__init__(), in _build, in forward, and by a name that is computed."""

    needs_build = True

    def __init__(self, factor):
        self.factor = factor
        setattr(self, "extra" + "_thing", 1)

    def _build(self, input_shape, rng, dtype):
        self.shift = Parameter("shift", rng.standard_normal(input_shape[0]).astype(dtype))
        setattr(self, "built" + "_with", input_shape)
        return input_shape

    def forward(self, x, training=False):
        self.mask = x > 0
        return self._keep(self.factor * self._receive(x))

    def backward(self, dy):
        _, dy = self._saved(dy)
        return self.factor * dy

    def parameters(self):
        return [self.shift]


def test_a_layer_of_ones_own_sets_attributes_where_its_methods_do():
    layer = Own(3.0)
    layer.build((4,))
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        with pytest.raises(AttributeError):
            twin.factr = 2.0
    layer.forward(np.ones((2, 4)))
    assert layer.mask.all()
    layer.factor = 2.0
    with pytest.raises(AttributeError, match='Did you mean "factor"'):
        layer.factr = 2.0


# -- building what is built ----------------------------------------------------------------------


def trained(rng):
    """Return a network whose weights, statistics and mask sequence are not those of a fresh one."""
    network = Network(
        [Conv2d(4, 3), BatchNorm2d(), ReLU(), Residual([Conv2d(4, 1)]), Dropout(0.3), Flatten(), Linear(10)]
    )
    network.build((1, 8, 8), rng=rng)
    x, labels = rng.standard_normal((8, 1, 8, 8)).astype(np.float32), rng.integers(0, 10, 8)
    loss, optimizer = SoftmaxCrossEntropy(), SGD(network.parameters(), lr=0.1)
    for _ in range(3):
        loss.forward(network.forward(x, training=True), labels)
        network.zero_grad()
        network.backward(loss.backward())
        optimizer.step()
    return network, x


def test_another_build_changes_nothing(rng, backend):
    network, x = trained(rng)
    state = {name: array.copy() for name, array in network.state().items()}
    answer, parameters = network.predict(x), network.parameters()
    network.build((1, 8, 8), rng=np.random.default_rng(7))
    assert all(a is b for a, b in zip(parameters, network.parameters(), strict=True))
    for name, array in network.state().items():
        np.testing.assert_array_equal(array, state[name], err_msg=name)
    np.testing.assert_array_equal(network.predict(x), answer)


def test_a_new_head_on_trained_layers_keeps_them_and_both_networks_work(rng, backend):
    old, x = trained(rng)
    state, answer = {name: array.copy() for name, array in old.state().items()}, old.predict(x)
    new = Network([*old.layers[:-1], Linear(5)])
    assert new.build((1, 8, 8), rng=np.random.default_rng(7)) == (5,)
    for name, array in new.state().items():
        if not name.startswith("6."):
            np.testing.assert_array_equal(array, state[name], err_msg=name)
    np.testing.assert_array_equal(old.predict(x), answer)
    loss, optimizer = SoftmaxCrossEntropy(), SGD(new.parameters(), lr=0.1)
    loss.forward(new.forward(x, training=True), np.arange(8) % 5)
    new.zero_grad()
    new.backward(loss.backward())
    optimizer.step()
    assert not np.array_equal(new.state()["0.weight"], state["0.weight"])
    np.testing.assert_array_equal(old.state()["0.weight"], new.state()["0.weight"])
    assert not np.array_equal(old.predict(x), answer)


def test_an_optimizer_whose_parameters_moved_says_so(rng):
    old, _ = trained(rng)
    optimizer = SGD(old.parameters(), lr=0.1)
    Network([*old.layers[:-1], Linear(5)]).build((1, 8, 8))
    with pytest.raises(RuntimeError, match="moved into another network"):
        optimizer.step()


def test_trained_layers_without_their_head_are_a_feature_extractor(rng, backend):
    old, x = trained(rng)
    features = Network(old.layers[:-1])
    assert features.build((1, 8, 8)) == (144,)
    y = features.predict(x)
    weight, bias = old.layers[-1].weight.data, old.layers[-1].bias.data
    np.testing.assert_allclose(y @ weight.T + bias, old.predict(x), rtol=1e-4, atol=1e-5)
    assert features.data.size == sum(p.size for p in features.parameters())


def test_one_array_of_all_parameters_has_no_others_between_them(rng):
    old, _ = trained(rng)
    part = Network([old.layers[0], Flatten(), Linear(2)])
    part.build((1, 8, 8))
    again = Network([old.layers[0], Flatten()])
    again.build((1, 8, 8))
    other = Network([part.layers[0], old.layers[3], Flatten()])
    other.build((1, 8, 8))
    assert other.data.size == sum(p.size for p in other.parameters())


def test_layers_of_another_image_size_keep_weights_that_fit(rng):
    layer = Sequential([Conv2d(4, 3), BatchNorm2d()])
    layer.build((2, 8, 8), rng)
    weight = layer.layers[0].weight
    layer.layers[1].running_mean += 3
    assert layer.build((2, 20, 9)) == (4, 18, 7)
    assert layer.layers[0].weight is weight
    np.testing.assert_array_equal(layer.layers[1].running_mean, 3)


def test_a_built_layer_whose_shape_does_not_fit_is_refused_and_stays_as_it_was(rng):
    network = Network([Flatten(), Linear(10)])
    network.build((1, 8, 8), rng=rng)
    x = rng.standard_normal((2, 1, 8, 8)).astype(np.float32)
    answer = network.predict(x)
    with pytest.raises(
        ShapeError, match=r"Linear \(layer 1\): is built, with weight of shape \(10, 64\).*reset"
    ):
        Network([Flatten(), network.layers[1]]).build((1, 9, 8))
    with pytest.raises(ShapeError, match=r"float32.*float64.*reset"):
        network.layers[1].build((64,), dtype=np.float64)
    np.testing.assert_array_equal(network.predict(x), answer)
    network.layers[1].reset()
    with pytest.raises(RuntimeError, match="before build"):
        network.layers[1].forward(x.reshape(2, -1))
    assert network.layers[1].build((9,)) == (10,)


def test_reset_draws_new_values(rng):
    network, _ = trained(rng)
    before = network.state()["3.body.0.weight"].copy()
    for layer in network.layers:
        layer.reset()
    network.build((1, 8, 8), rng=rng)
    assert not np.array_equal(network.state()["3.body.0.weight"], before)
    np.testing.assert_array_equal(network.state()["1.running_mean"], 0)


def test_a_layer_of_ones_own_keeps_parameters_that_it_holds_in_a_list(rng):
    class Listed(Own):
        def _build(self, input_shape, rng, dtype):
            self.shifts = [Parameter("shift", rng.standard_normal(input_shape[0]).astype(dtype))]
            return input_shape

        def parameters(self):
            return self.shifts

    layer = Listed(1.0)
    layer.build((4,), rng)
    before = layer.shifts[0].data.copy()
    layer.build((4,), rng)
    np.testing.assert_array_equal(layer.shifts[0].data, before)
    with pytest.raises(ShapeError, match="reset"):
        layer.build((5,), rng)
    np.testing.assert_array_equal(layer.shifts[0].data, before)
