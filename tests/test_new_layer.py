"""A layer from outside of the package, and how much it takes: this class, and nothing in any table.

"A new layer" in the manual is this file.
"""

import helpers_explain as h
import numpy as np
import pytest
import tiny

from cnn import Network, use_backend
from cnn.gradcheck import check_network
from cnn.layers import Conv2d, Flatten, Layer, Linear, Parameter, SoftmaxCrossEntropy
from cnn.optimizers import SGD


class Swirl(Layer):
    """A wave with a learned frequency for each channel, added to the input.

    y[n,c,...] = x + amount * sin(w[c] * x)
    dx = dy * (1 + amount * w[c] * cos(w[c] * x))
    dw[c] += sum of dy * amount * x * cos(w[c] * x) over n, i, j
    """

    needs_build = True

    def __init__(self, amount: float = 0.5):
        self.amount = float(amount)
        self.weight = None

    def _build(self, input_shape, rng, dtype):
        self.weight = Parameter("weight", rng.uniform(0.5, 1.5, input_shape[0]).astype(dtype), decay=False)
        return input_shape

    def forward(self, x, training=False):
        x = np.asarray(self._receive(x))
        return self._keep(x + self.amount * np.sin(self._wave(x) * x), x)

    def backward(self, dy):
        _, dy, x = self._saved(dy)
        dy, slope = np.asarray(dy), self.amount * np.cos(self._wave(x) * x)
        self.weight.grad += (dy * x * slope).sum(axis=(0, *range(2, x.ndim)))
        return dy * (1 + self._wave(x) * slope)

    def _wave(self, x):
        return self.weight.data.reshape(1, -1, *[1] * (x.ndim - 2))

    def parameters(self):
        return [self.weight] if self.weight else []


class Crooked(Swirl):
    """Swirl with a mistake in its derivative."""

    def backward(self, dy):
        return 1.01 * super().backward(dy)


SWIRL = f"{__name__}:Swirl"
MODEL = f"""
[model]
layers = [
  {{ type = "Conv2d", out_channels = 4, kernel_size = 3 }},
  {{ type = "{SWIRL}", amount = 0.3 }},
  {{ type = "Residual", body = [{{ type = "{__name__}.Swirl" }}] }},
  {{ type = "Flatten" }},
  {{ type = "Linear", out_features = 3 }},
]
"""


def network(kind=Swirl, dtype=np.float32):
    """Return a built network with the layer in its middle."""
    network = Network([Conv2d(4, 3), kind(0.3), Flatten(), Linear(3)])
    network.build((1, 6, 6), np.random.default_rng(0), dtype)
    return network


def batch(dtype=np.float32):
    rng = np.random.default_rng(1)
    return rng.standard_normal((32, 1, 6, 6)).astype(dtype), rng.integers(0, 3, 32)


def test_both_backends_agree():
    x, labels = batch()
    found = []
    for backend in ("reference", "numba"):
        with use_backend(backend):
            net, loss = network(), SoftmaxCrossEntropy()
            for _ in range(3):
                value = loss.forward(net.forward(x, training=True), labels)
                net.zero_grad()
                dx = net.backward(loss.backward())
            found.append([value, dx, net.grad.copy(), net.predict(x), net.predict(x[:1])])
    for ours, expected in zip(found[1], found[0], strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)


def test_the_gradient_check_passes_it_and_catches_a_mistake_in_it():
    x, labels = batch(np.float64)
    assert check_network(network(dtype=np.float64), x[:3], labels[:3]).ok
    report = check_network(network(Crooked, np.float64), x[:3], labels[:3])
    assert not report.ok
    assert "Crooked" in str(report)


def test_it_trains_and_a_saved_state_comes_back(backend):
    x, labels = batch()
    net, loss = network(), SoftmaxCrossEntropy()
    before = net.state()["1.weight"].copy()
    optimizer = SGD(net.parameters(), lr=0.1, momentum=0.9)
    for _ in range(60):
        value = loss.forward(net.forward(x, training=True), labels)
        net.zero_grad()
        net.backward(loss.backward(), input_gradient=False)
        optimizer.step()
    assert value < 0.1
    assert not np.array_equal(net.state()["1.weight"], before)
    again = network()
    again.load_state(net.state())
    np.testing.assert_array_equal(again.predict(x), net.predict(x))
    row = next(row for row in net.summary(32).rows if row.name == "1")
    assert (row.type, row.parameters) == ("Swirl", 4)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run folder of a network that a config describes with the layer's dotted path."""
    root = tmp_path_factory.mktemp("new_layer")
    tiny.write_images(root / "images")
    config = tiny.write_config(root / "tiny.toml", root / "images")
    text = config.read_text("utf-8")
    start = text.index("[model]")
    end = text.find("\n[", start + 1)
    config.write_text(text[:start] + MODEL.strip() + "\n" + (text[end:] if end > 0 else ""), "utf-8")
    assert tiny.main(["train", str(config), "--run", str(root / "run"), "--set", "train.epochs=2"]) == 0
    return config, root / "run"


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (["summary", "CONFIG"], "Swirl"),
        (["gradcheck", "CONFIG"], "Swirl"),
        (["doctor", "CONFIG"], "tiny"),
        (["evaluate", "RUN"], "accuracy"),
        (["predict", "RUN", "IMAGE"], "%"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_every_command_takes_it(trained, command, expected, capsys):
    config, run = trained
    image = next((config.parent / "images").rglob("*.png"))
    places = {"CONFIG": config, "RUN": run, "IMAGE": image}
    code, printed, error = tiny.run(capsys, *(places.get(word, word) for word in command))
    assert code == 0, error + printed
    assert expected in printed


def test_a_run_with_it_is_resumed(trained, capsys):
    config, run = trained
    code, _, error = tiny.run(capsys, "train", config, "--run", run, "--resume", "--set", "train.epochs=3")
    assert code == 0, error


def test_the_page_shows_it_as_values_only_and_says_so(trained, tmp_path, capsys):
    out = tmp_path / "page.html"
    code, _, error = tiny.run(capsys, "explain", trained[1], "--image", 3, "--out", out)
    assert code == 0, error
    page = h.manifest(out)
    swirls = [node for node in page["nodes"] if node["kind"] == "Swirl"]
    assert len(swirls) == 2
    for node in swirls:
        assert node["values_only"]
        assert {"y", "dy", "dx0", "weight", "dweight"} <= set(node["stored"])
    assert "Swirl" not in page["derivations"]
