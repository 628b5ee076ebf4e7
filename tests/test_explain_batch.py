"""A batch on one page: the mean of the images' gradients, BatchNorm's own statistics, dropout's mask."""

import re

import helpers_explain as h
import numpy as np
import pytest
import small_page as small
import tiny

import cnn
from cnn import layers
from cnn.explain import build_page, collect

COUNT = 5


def make_network(dtype=np.float32):
    network = cnn.Network(
        [layers.Conv2d(3, 3, padding=1), layers.BatchNorm2d(), layers.ReLU(), layers.MaxPool2d(2),
         layers.Residual([layers.Conv2d(3, 3, padding=1), layers.BatchNorm2d()]), layers.Dropout(0.4),
         layers.Flatten(), layers.Linear(6), layers.BatchNorm1d(), layers.Tanh(), layers.Linear(4)]
    )  # fmt: skip
    network.build(small.SHAPE, rng=np.random.default_rng(2), dtype=dtype)
    return network


def make_batch():
    images, labels = small.make_samples()
    return ((images[:COUNT] / 255 - small.MEAN) / small.STD).astype(np.float32), labels[:COUNT]


def make_nodes(training=True, backend="reference"):
    with cnn.use_backend(backend):
        return collect(make_network(), *make_batch(), training=training)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("batch") / "page.html"
    labels = [int(label) for label in make_batch()[1]]
    about = {"label": labels[0], "known": True, "training": True, "smoothing": 0, "labels": labels,
             "sources": [f"#{n}" for n in range(COUNT)], "source": "#0", "backend": "reference",
             "mean": [small.MEAN], "std": [small.STD]}  # fmt: skip
    path.write_text(build_page(make_nodes(), "batch", small.CLASSES, about), encoding="utf-8")
    return path


@pytest.fixture
def reader(browser, file):
    opened = h.Reader(browser, file)
    yield opened
    assert not opened.complaints
    assert len(opened.outside()) == 1
    opened.close()


def test_the_nodes_are_those_of_one_training_step(backend):
    nodes = make_nodes(backend=backend)
    network, (x, labels) = make_network(), make_batch()
    with cnn.use_backend(backend):
        criterion = layers.SoftmaxCrossEntropy()
        logits = np.array(network.forward(x, training=True))
        loss = criterion.forward(logits, labels)
        network.zero_grad()
        dx = np.asarray(network.backward(criterion.backward()))
    np.testing.assert_allclose([own["y"] for own in nodes[-2].batch], logits, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose([own["dy"] for own in nodes[0].batch], dx, rtol=1e-3, atol=1e-6)
    assert float(nodes[-1].stored["y"][0]) == pytest.approx(loss, rel=1e-5)
    gradients = {f"{name}.{p.name}": p.grad for name, layer in network.walk() if not layer.children()
                 for p in layer.parameters()}  # fmt: skip
    for node in nodes:
        for name in node.parameters:
            np.testing.assert_allclose(
                node.stored["d" + name], gradients[f"{node.name}.{name}"], rtol=1e-3, atol=2e-6
            )


def test_collecting_leaves_statistics_and_the_dropout_sequence_alone():
    network = make_network()
    before = {name: value.copy() for name, value in network.state().items()}
    with cnn.use_backend("reference"):
        collect(network, *make_batch(), training=True)
    for name, value in network.state().items():
        np.testing.assert_array_equal(value, before[name], err_msg=name)


def test_all_values_of_all_images_agree(reader):
    assert "values agree" in reader.banner()
    count = int(re.search(r"All ([\d,]+) values", reader.banner())[1].replace(",", ""))
    nodes = make_nodes()
    images = sum(own[name].size for node in nodes[:-1] for own in node.batch for name in ("y", "dy"))
    given = sum(own["y"].size for own in nodes[0].batch)
    parameters = sum(node.stored[name].size for node in nodes for name in node.parameters)
    assert count == images - given + parameters + COUNT * len(small.CLASSES) + 1  # p of each, one loss


def test_every_cell_of_every_image_equals_its_sum(reader):
    nodes, rng = make_nodes(), np.random.default_rng(3)
    for n in range(COUNT):
        reader.page.click(f"#image-{n}")
        for node in nodes:
            for name in ("y", "dy"):
                if name not in node.batch[n] or (node.kind, name) in {("Input", "y"), ("Loss", "y")}:
                    continue
                values = node.batch[n][name]
                at = int(rng.integers(values.size))
                stored, computed, _ = reader.open(h.key(node.id, name, at, values.shape))
                assert stored == pytest.approx(float(values.flat[at]), rel=1e-6)
                scale = float(np.abs(values).max())
                assert computed == pytest.approx(stored, rel=1e-4, abs=3e-6 * scale), (n, node.name, name)


@pytest.mark.parametrize(
    "place", ["1/dweight/1,0,2,0", "1/dbias/2", "2/dweight/1", "10/dweight/3,4", "11/dweight/3"]
)
def test_a_weight_s_gradient_is_the_mean_of_the_images_own(reader, place):
    node = int(place.split("/")[0])
    assert "dweight" in str(reader.page.evaluate(f"Object.keys(nodes[{node}].tensors)"))
    stored, computed, rows = reader.open(place)
    assert rows == COUNT
    assert computed == pytest.approx(stored, rel=1e-4, abs=1e-7)
    factors = reader.page.locator("#terms tbody tr").first.inner_text()
    assert f"1/{COUNT}" in factors
    own = [float(cell.get_attribute("data-value"))
           for cell in reader.page.query_selector_all("#own-terms td[data-value]")]  # fmt: skip
    first = reader.page.evaluate(f"explain(cellFromKey('{place}')).terms[shownImage.n].value")
    assert sum(own) == pytest.approx(first, rel=1e-6, abs=1e-12)


def test_the_loss_is_the_mean_and_one_over_n_enters_at_the_logits(reader):
    loss, logits = reader.page.evaluate("[lossNode.id, lossNode.inputs[0]]")
    _, computed, rows = reader.open(f"{loss}/y/0")
    assert rows == COUNT
    assert computed == pytest.approx(float(make_nodes()[-1].stored["y"][0]), rel=1e-5)
    reader.open(f"{logits}/dy/1")
    assert f"1/{COUNT}" in reader.page.inner_text("#terms")
    assert reader.page.locator("#tab-train, #tab-tour").count() == 0


@pytest.mark.parametrize("name", ["0.weight", "1.bias", "4.body.0.weight", "7.weight", "8.weight", "10.bias"])
def test_finite_differences_of_the_mean_loss_equal_python_s(reader, name):
    nodes, network = make_nodes(), make_network(np.float64)
    state = make_network().state()
    network.load_state({k: v.astype(np.float64) if v.dtype.kind == "f" else v for k, v in state.items()})
    layer, tensor = name.rsplit(".", 1)
    node = next(node for node in nodes if node.name == layer)
    parameter = next(
        p for own, one in network.walk() if own == layer for p in one.parameters() if p.name == tensor
    )
    place = np.unravel_index(np.abs(node.stored["d" + tensor]).argmax(), parameter.shape)
    reader.go("#/experiments")
    page = reader.page
    page.select_option("#fd-layer", str(node.id))
    page.select_option("#fd-tensor", tensor)
    page.fill("#fd-index", ", ".join(map(str, place)))
    page.press("#fd-index", "Enter")
    step, original, losses = reader.value("#fd-step"), parameter.data[place], []
    for change in (step, -step):
        parameter.data[place] = original + change
        losses.append(float(h.recompute(nodes, network, chained=True)[nodes[-1].id, "y"].flat[0]))
    parameter.data[place] = original
    gradient = h.recompute(nodes, network, chained=True)[node.id, "d" + tensor][place]
    assert reader.value("#fd-plus") == pytest.approx(losses[0], rel=1e-12)
    numeric = (losses[0] - losses[1]) / (2 * step)
    assert reader.value("#fd-numeric") == pytest.approx(numeric, rel=1e-6, abs=1e-10)
    assert reader.value("#fd-analytic") == pytest.approx(gradient, rel=1e-9, abs=1e-13)
    assert f"the mean over the {COUNT} images" in page.inner_text(".lead >> nth=0")


def test_the_command_makes_a_page_of_a_batch(tmp_path, capsys, browser):
    tiny.write_images(tmp_path / "images")
    config = tiny.write_config(tmp_path / "tiny.toml", tmp_path / "images")
    run = tmp_path / "run"
    assert tiny.run(capsys, "train", config, "--run", run, "--set", "train.epochs=1")[0] == 0
    out = tmp_path / "page.html"
    code, printed, _ = tiny.run(capsys, "explain", run, "--images", "8..12", "--training", "--out", out)
    assert code == 0
    assert "a batch of 5 images" in printed
    reader = h.Reader(browser, out)
    assert "values agree" in reader.banner()
    assert "N = 5" in reader.page.inner_text("#summary")
    assert not reader.complaints
    reader.close()
    for wrong in ("5", "9..3", "0..999", "a..b"):
        code, _, errors = tiny.run(capsys, "explain", run, "--images", wrong)
        assert code == 2
        assert f"--images: found {wrong}, expected A..B" in errors
