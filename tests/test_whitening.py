"""Whitening: the recipe of airbench94 in PyTorch, what it promises, and its mistakes."""

import numpy as np
import pytest

from cnn.cli import main
from cnn.config import resolve
from cnn.data import Split
from cnn.errors import ConfigError, ShapeError
from cnn.layers import Conv2d, Flatten, Linear, ReLU, Residual, Sequential
from cnn.network import Network
from cnn.training import experiment
from cnn.training.whitening import whiten, whitened_layers


def photographs(count=200, size=12, channels=3, seed=0):
    """Return (N, C, H, W) float32 in which neighbours are alike, as in photographs."""
    noise = np.random.default_rng(seed).standard_normal((count, channels, size + 4, size + 4))
    smooth = sum(np.roll(noise, (a, b), (2, 3)) for a in range(4) for b in range(4))[:, :, 4:, 4:]
    smooth[:, 1:] += smooth[:, :1]  # channels are alike as well
    return (smooth / smooth.std()).astype(np.float32)


def convolution(channels=3, kernel_size=2, **options):
    pixels = np.prod(np.broadcast_to(kernel_size, 2))
    layer = Conv2d(int(2 * channels * pixels), kernel_size, weight_init="whitening", **options)
    layer.build((channels, 12, 12), dtype=options.get("dtype", np.float32))
    return layer


def responses(layer, images):
    """Return (D, positions): the first half of the filters, every position."""
    y = np.asarray(layer.forward(images)) - layer.bias.data[:, None, None]
    return y.transpose(1, 0, 2, 3).reshape(len(y[0]), -1)[: layer.out_channels // 2].astype(np.float64)


@pytest.mark.parametrize("kernel_size", [2, 3, (1, 3)])
def test_responses_are_uncorrelated_with_variance_one(kernel_size):
    images, layer = photographs(), convolution(kernel_size=kernel_size, whitening_eps=1e-8)
    whiten(layer, images)
    y = responses(layer, images)
    np.testing.assert_allclose(y @ y.T / y.shape[1], np.eye(len(y)), atol=0.01)


def test_eps_keeps_rare_directions_small():
    """l / (l + eps) in each direction, from the largest l down."""
    images, layer = photographs(), convolution(whitening_eps=0.05)
    whiten(layer, images)
    y = responses(layer, images)
    found = y @ y.T / y.shape[1]
    np.testing.assert_allclose(found, np.diag(np.diag(found)), atol=1e-4)
    assert (np.diff(np.diag(found)) < 0).all()
    assert 0.1 < np.diag(found)[-1] < 0.9
    assert np.diag(found)[0] > 0.95


@pytest.mark.parametrize("kernel_size", [2, 3])
def test_filters_are_those_of_airbench_up_to_sign(kernel_size):
    torch = pytest.importorskip("torch")
    images, layer = photographs(), convolution(kernel_size=kernel_size)
    bias = layer.bias.data.copy()
    whiten(layer, images)
    patches = torch.tensor(images, dtype=torch.float64).unfold(2, kernel_size, 1).unfold(3, kernel_size, 1)
    patches = patches.transpose(1, 3).transpose(1, 2).reshape(-1, 3 * kernel_size**2)
    values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches), UPLO="U")
    scaled = (vectors.T / torch.sqrt(values + 5e-4)[:, None]).flip(0).numpy()
    found = layer.weight.data.reshape(2, len(scaled), -1)
    signs = np.sign((found[0] * scaled).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(found[0], signs * scaled, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(found[1], -found[0])
    np.testing.assert_array_equal(layer.bias.data, bias)


def test_the_sign_is_fixed(monkeypatch):
    images, layer = photographs(), convolution()
    whiten(layer, images)
    expected, eigh = layer.weight.data.copy(), np.linalg.eigh

    def other_lapack(matrix):
        values, vectors = eigh(matrix)
        return values, vectors * np.where(np.arange(len(values)) % 2, -1, 1)

    monkeypatch.setattr(np.linalg, "eigh", other_lapack)
    whiten(layer, images)
    np.testing.assert_array_equal(layer.weight.data, expected)


def test_padding_and_dilation():
    """Padding plays no part; a dilated filter sees patches with the same gaps."""
    images = photographs()
    others = {}, {"padding": 1, "stride": 2}, {"dilation": 2}
    plain, padded, dilated = (convolution(**options, whitening_eps=1e-8) for options in others)
    for layer in (plain, padded, dilated):
        whiten(layer, images)
    np.testing.assert_array_equal(plain.weight.data, padded.weight.data)
    y = responses(dilated, images)
    np.testing.assert_allclose(y @ y.T / y.shape[1], np.eye(len(y)), atol=0.01)


def test_what_does_not_fit_is_refused():
    for options in ({"out_channels": 20}, {"out_channels": 24, "groups": 3}):
        with pytest.raises(ShapeError, match="expected out_channels="):
            Conv2d(kernel_size=2, weight_init="whitening", **options).build((3, 8, 8))
    layer = convolution()
    with pytest.raises(ShapeError, match=r"expected images of shape \(N, 3, H, W\), found \(5, 1, 12, 12\)"):
        whiten(layer, np.zeros((5, 1, 12, 12)))
    with pytest.raises(ShapeError, match="hold no patch"):
        whiten(layer, np.zeros((5, 3, 1, 12)))


def test_only_layers_that_see_the_images_can_be_whitened():
    def network(*layers):
        result = Network(list(layers))
        result.build((3, 8, 8))
        return result

    first, second = (Conv2d(24, 2, padding=1, weight_init="whitening") for _ in range(2))
    inside = Sequential([Residual([first], [second])])
    assert whitened_layers(network(inside, ReLU())) == [first, second]
    with pytest.raises(ConfigError, match=r"layer 1: .* sees the images"):
        whitened_layers(network(ReLU(), Conv2d(24, 2, weight_init="whitening"), Flatten(), Linear(3)))


DOCUMENT = {
    "data": {"dataset": "sample", "validation": 0.1},
    "model": {
        "layers": [
            {"type": "Conv2d", "out_channels": 8, "kernel_size": 2, "stride": 2, "weight_init": "whitening"},
            {"type": "ReLU"},
            {"type": "Flatten"},
            {"type": "Linear", "out_features": 10},
        ]
    },
    "optimizer": {"type": "SGD", "lr": 0.02, "groups": [{"match": "0.weight", "trainable": False}]},
    "train": {"epochs": 1, "backend": "reference"},
}


def test_a_config_whitens_from_its_training_part_alone():
    config = resolve(DOCUMENT, "test.toml")
    images = experiment.load_images(config)
    network = experiment.build_network(config, (1, 28, 28))
    experiment.whiten_network(config, network, images)
    other = experiment.build_network(config, (1, 28, 28))
    x = next(experiment.evaluation_batches(config, images.train, images.mean, images.std).epoch(0))[0]
    whole = Split(images.train.images, images.train.labels)
    assert len(whole) < 5000
    batches = experiment.evaluation_batches(config, whole, images.mean, images.std)
    whiten(other.layers[0], np.concatenate([x for x, _ in batches.epoch(0)]))
    assert x.dtype == np.float32
    np.testing.assert_array_equal(network.layers[0].weight.data, other.layers[0].weight.data)


def test_the_other_commands_take_such_a_config(tmp_path, capsys):
    from cnn.config import to_toml

    path = tmp_path / "white.toml"
    path.write_text(to_toml(resolve(DOCUMENT, "white.toml")))
    assert main(["summary", str(path)]) == 0
    assert main(["gradcheck", str(path)]) == 0
    assert main(["doctor", str(path)]) == 0, capsys.readouterr().out
    assert main(["train", str(path), "--run", str(tmp_path / "run")]) == 0
    assert main(["explain", str(tmp_path / "run"), "--image", "0", "--out", str(tmp_path / "page.html")]) == 0
