"""The live network of the page in a browser: mode, target, drawing, editing and training."""

import helpers_explain as h
import numpy as np
import pytest
import small_page as small

import cnn
from cnn import layers
from cnn.explain.page import texts
from cnn.optimizers import SGD, Adam


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return small.write_page(tmp_path_factory.mktemp("live") / "page.html")


def test_label_smoothing_is_a_switch_that_brings_the_training_step_along(read, file):
    reader = read(file)
    reader.page.check("#smoothing")
    assert reader.page.get_attribute("#mode-training", "aria-pressed") == "true"
    assert "0.925" in reader.page.inner_text("#mode-why")  # 1 − 0.1 + 0.1/4
    assert reader.page.evaluate("[...lossNode.tensors.target.data]") == pytest.approx(
        [0.025, 0.925, 0.025, 0.025]
    )
    network = small.small_network(np.float64)
    with cnn.use_backend("reference"):
        x = reader.page.evaluate("[...nodes[0].tensors.y.data]")
        # one image: BatchNorm1d has no variance to speak of and keeps the running statistics
        first, rest = network.layers[:2], network.layers[2:]
        value = np.array(x).reshape(1, *small.SHAPE)
        for layer in first:
            value = layer.forward(value, training=True)
        for layer in rest:
            value = layer.forward(value, training=False)
        loss = layers.SoftmaxCrossEntropy(label_smoothing=small.SMOOTHING).forward(
            np.asarray(value), np.array([1])
        )
    assert reader.page.evaluate("lossNode.tensors.y.data[0]") == pytest.approx(loss, rel=1e-9)
    reader.page.click("#mode-prediction")
    assert not reader.page.is_checked("#smoothing")
    assert reader.page.locator("#ribbon").count() == 0


# -- drawing and editing ---------------------------------------------------------------------------


def exact_run(network, x, label=1):
    """Return (p, gradient of every parameter by name) of a prediction in float64."""
    criterion = layers.SoftmaxCrossEntropy()
    with cnn.use_backend("reference"):
        criterion.forward(np.asarray(network.forward(x.reshape(1, *small.SHAPE))), np.array([label]))
        network.zero_grad()
        network.backward(criterion.backward())
    return np.asarray(criterion.probabilities)[0]


def test_a_drawing_by_pointer_is_what_every_view_shows(read, file):
    reader = read(file, "#/train")
    page = reader.page
    page.click("#draw-clear")
    box = page.locator("#pad").bounding_box()
    page.mouse.move(box["x"] + 40, box["y"] + 40)
    page.mouse.down()
    page.mouse.move(box["x"] + 200, box["y"] + 60, steps=6)
    page.mouse.up()
    page.wait_for_timeout(200)
    x = np.array(page.evaluate("[...nodes[0].tensors.y.data]"))
    assert x.max() == pytest.approx((1 - small.MEAN) / small.STD)
    assert x.min() == pytest.approx((0 - small.MEAN) / small.STD)
    label = page.evaluate("live.label")
    p = exact_run(small.small_network(np.float64), x, label)
    np.testing.assert_allclose(page.evaluate("[...lossNode.tensors.p.data]"), p, rtol=1e-9)
    assert "nothing here is right or wrong" in page.inner_text("#verdict")
    reader.go(f"#/network/{page.evaluate('lossNode.id')}/p/1")
    assert reader.value("#value") == pytest.approx(p[1], rel=1e-9)
    page.click("#restore")
    assert page.locator("#ribbon").count() == 0


def test_a_pixel_is_painted_by_keyboard(read, file):
    page = read(file, "#/train").page
    page.click("#draw-clear")
    page.focus("#pad")
    for _ in range(3):
        page.keyboard.press("ArrowDown")
    page.keyboard.press("Space")
    page.wait_for_timeout(150)
    x = np.array(page.evaluate("[...nodes[0].tensors.y.data]")).reshape(10, 10)
    assert x[3, 0] == pytest.approx((1 - small.MEAN) / small.STD)
    assert x[9, 9] == pytest.approx((0 - small.MEAN) / small.STD)


def test_a_changed_weight_is_followed_by_everything(read, file):
    reader = read(file, "#/network/1/weight/2,0,1,3")
    page = reader.page
    page.fill("#edit", "0.75")
    page.press("#edit", "Enter")
    assert reader.value("#value") == 0.75
    assert page.evaluate("document.activeElement.id") == "edit"
    network = small.small_network(np.float64)
    network.layers[0].weight.data[2, 0, 1, 3] = 0.75
    x = np.array(page.evaluate("[...nodes[0].tensors.y.data]"))
    np.testing.assert_allclose(
        page.evaluate("[...lossNode.tensors.p.data]"), exact_run(network, x), rtol=1e-9
    )
    reader.open("1/dweight/1,0,2,2")
    assert reader.value("#value") == pytest.approx(network.layers[0].weight.grad[1, 0, 2, 2], rel=1e-9)
    assert reader.value("#computed") == pytest.approx(reader.value("#value"), rel=1e-9)


# -- training --------------------------------------------------------------------------------------

METHODS = {
    "plain": ({"method": "sgd", "lr": 0.1}, lambda p: SGD(p, lr=0.1)),
    "momentum and decay": (
        {"method": "sgd", "lr": 0.05, "momentum": 0.9, "decay": 0.01},
        lambda p: SGD(p, lr=0.05, momentum=0.9, weight_decay=0.01),
    ),
    "nesterov": (
        {"method": "sgd", "lr": 0.05, "momentum": 0.8, "nesterov": True},
        lambda p: SGD(p, lr=0.05, momentum=0.8, nesterov=True),
    ),
    "adam": (
        {"method": "adam", "lr": 0.003, "decay": 0.001},
        lambda p: Adam(p, lr=0.003, weight_decay=0.001),
    ),
}


@pytest.mark.parametrize("method", METHODS)
def test_twenty_steps_in_the_page_equal_the_reference_backend(read, file, method):
    settings, make = METHODS[method]
    reader = read(file, "#/train")
    images, labels = small.make_samples()
    batches = [[int(n) for n in np.random.default_rng(k).choice(30, 16, replace=False)] for k in range(20)]
    reader.page.evaluate(
        """([settings, batches]) => {
            Object.assign(training.settings, settings);
            trainerLoaded.heard = hearTrainer;
            loadTrainer({ ...training.settings }, 1);
            trainerPost({ do: "watch", watch: { id: 1, name: "weight", index: 7 } });
            trainerPost({ do: "step", batches });
        }""",
        [settings, batches],
    )
    reader.page.wait_for_selector("#train-state[data-step='20']")
    network = small.small_network(np.float64)
    optimizer, criterion = make(network.parameters()), layers.SoftmaxCrossEntropy()
    with cnn.use_backend("reference"):
        for batch in batches:
            x = (images[batch] / 255 - small.MEAN) / small.STD
            criterion.forward(np.asarray(network.forward(x, training=True)), labels[batch])
            network.zero_grad()
            network.backward(criterion.backward())
            before = network.layers[0].weight.data.ravel()[7]
            optimizer.step()
    found = reader.page.evaluate(
        "nodes.flatMap((node) => [...node.parameters, ...node.buffers]"
        ".map((name) => [`${node.name}.${name}`, [...node.tensors[name].data]]))"
    )
    state = network.state()
    assert len(found) == sum(1 for name in state if not name.endswith("num_batches_tracked"))
    for name, values in found:
        np.testing.assert_allclose(values, state[name].ravel(), rtol=0, atol=1e-9, err_msg=name)
    terms = reader.page.evaluate("training.last.terms")
    assert terms[0][1] == pytest.approx(before, abs=1e-9)
    assert terms[-1][1] == pytest.approx(state["0.weight"].ravel()[7], abs=1e-9)


def test_training_runs_pauses_and_starts_again_from_random_weights(read, file):
    reader = read(file, "#/train")
    page = reader.page
    page.click("#train-random")
    first = page.evaluate("[...nodes[1].tensors.weight.data]")
    page.focus("#train-run")
    page.keyboard.press("Enter")
    for _ in range(200):
        if page.locator("#train-state").count() and int(page.get_attribute("#train-state", "data-step")) > 40:
            break
        page.wait_for_timeout(50)
    assert page.evaluate("document.activeElement.id") == "train-run"
    page.keyboard.press("Enter")
    page.wait_for_timeout(300)
    step = page.get_attribute("#train-state", "data-step")
    page.wait_for_timeout(200)
    assert page.get_attribute("#train-state", "data-step") == step
    losses = page.evaluate("training.history.map(([, loss]) => loss)")
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])
    page.click("#train-random")
    assert page.evaluate("[...nodes[1].tensors.weight.data]") == first  # the same seed
    page.click("#train-stored")
    assert page.locator("#ribbon").count() == 0


def test_too_large_a_learning_rate_diverges_and_the_page_says_so(read, tmp_path):
    network = cnn.Network([layers.Flatten(), layers.Linear(16), layers.ReLU(), layers.Linear(4)])
    network.build(small.SHAPE)
    page = read(small.write_page(tmp_path / "page.html", network=network), "#/train").page
    page.fill("#train-lr", "1")
    for _ in range(12):
        page.click("#train-step")
    page.wait_for_selector("#train-message .warning")
    assert "lr = 10" in page.inner_text("#train-message")


def test_a_page_without_samples_still_draws(read, tmp_path):
    nodes = h.make_nodes()
    (tmp_path / "page.html").write_text(h.make_page(nodes), encoding="utf-8")
    page = read(tmp_path / "page.html", "#/train").page
    assert page.locator("#pad").count() == 1
    assert page.locator("#train-run").count() == 0
    assert texts("en")["train.nosamples"] in page.inner_text("#train")
