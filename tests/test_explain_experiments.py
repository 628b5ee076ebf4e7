"""The experiments of the explorable page equal the same done in Python."""

import helpers_explain as h
import numpy as np
import pytest

import cnn
from cnn import layers
from cnn.explain.page import texts


def exact_network():
    """The test network in float64 with the same float32 parameters: what the page's engine computes."""
    return h.make_network(np.float64)


def exact_loss(network, label=h.LABEL):
    with cnn.use_backend("reference"):
        logits = np.asarray(network.forward(h.make_image().astype(np.float64)[None]))
        return layers.SoftmaxCrossEntropy().forward(logits, np.array([label]))


def exact_gradients(network):
    criterion = layers.SoftmaxCrossEntropy()
    with cnn.use_backend("reference"):
        logits = np.asarray(network.forward(h.make_image().astype(np.float64)[None]))
        criterion.forward(logits, np.array([h.LABEL]))
        network.zero_grad()
        network.backward(criterion.backward())


def test_finite_differences_of_twenty_weights_equal_python_s(read, file, nodes):
    reader = read(file, "#/experiments")
    network, rng = exact_network(), np.random.default_rng(5)
    parameters = {f"{name}.{p.name}": p for name, layer in network.walk() if not layer.children()
                  for p in layer.parameters()}  # fmt: skip
    trainable = [node for node in nodes if node.parameters]
    for k in range(20):
        node = trainable[k % len(trainable)]
        name = node.parameters[k // len(trainable) % len(node.parameters)]
        parameter = parameters[f"{node.name}.{name}"]
        place = np.unravel_index(rng.integers(parameter.size), parameter.shape)
        reader.page.select_option("#fd-layer", str(node.id))
        reader.page.select_option("#fd-tensor", name)
        reader.page.fill("#fd-index", ", ".join(map(str, place)))
        reader.page.press("#fd-index", "Enter")
        step = reader.value("#fd-step")
        original = parameter.data[place]
        losses = []
        for change in (step, -step):
            parameter.data[place] = original + change
            losses.append(exact_loss(network))
        parameter.data[place] = original
        exact_gradients(network)
        what = f"{node.kind} {name} {place}"
        assert reader.value("#fd-plus") == pytest.approx(losses[0], rel=1e-12), what
        numeric = (losses[0] - losses[1]) / (2 * step)
        assert reader.value("#fd-numeric") == pytest.approx(numeric, rel=1e-6, abs=1e-10), what
        assert reader.value("#fd-analytic") == pytest.approx(parameter.grad[place], rel=1e-9, abs=1e-13), what


def test_the_step_slider_reaches_both_arms_of_the_v(read, file):
    reader = read(file, "#/experiments")
    errors = {}
    for power in (-12, -5, 0):
        reader.page.fill("#fd-h", str(power))
        errors[power] = reader.value("#fd-error")
    assert errors[-5] < 1e-4 * min(errors[-12], errors[0])
    assert reader.value("#fd-kinks") > 0  # a step of 1 crosses gates


def test_one_step_of_gradient_descent_equals_python_s(read, file):
    reader = read(file, "#/experiments")
    network = exact_network()
    before = exact_loss(network)
    exact_gradients(network)
    data, grad = network.data.copy(), network.grad.copy()
    low, high = (float(reader.page.get_attribute("#sgd-rate", side)) for side in ("min", "max"))
    for power in (low, low + 2, low + 3, high):
        reader.page.fill("#sgd-rate", str(power))
        rate = reader.value("#sgd-lr")
        network.data[...] = data - rate * grad
        assert reader.value("#sgd-actual") == pytest.approx(exact_loss(network) - before, rel=1e-8, abs=1e-11)
        assert reader.value("#sgd-predicted") == pytest.approx(-rate * (grad @ grad), rel=1e-10)
        assert reader.value("#sgd-after") == pytest.approx(exact_loss(network), rel=1e-8, abs=1e-11)


def test_too_long_a_step_overshoots(read, file):
    reader = read(file, "#/experiments")
    reader.page.select_option("#sgd-class", "even")
    reader.page.fill("#sgd-rate", reader.page.get_attribute("#sgd-rate", "max"))
    assert reader.value("#sgd-actual") > 0
    assert reader.page.inner_text("#sgd-verdict") == texts("en")["sgd.overshot"]


def test_grad_cam_and_saliency_equal_numpy(read, file, nodes):
    reader = read(file, "#/pictures")
    network, one = exact_network(), np.eye(7)[[5]]
    with cnn.use_backend("reference"):
        network.forward(h.make_image().astype(np.float64)[None])
        dx = np.asarray(network.backward(one))[0]
    saliency = reader.page.evaluate("[...saliency(5)]")
    np.testing.assert_allclose(saliency, np.abs(dx).max(axis=0).ravel(), rtol=1e-9, atol=1e-14)
    conv = next(node.id for node in reversed(nodes) if node.kind == "Conv2d")
    a, da, cam = reader.page.evaluate(
        f"""[floatChain().values[{conv}], runBackward(floatChain().values, {{ logit: 5 }}).dys[{conv}],
            gradCam(nodes[{conv}], 5).map].map((x) => [...x])"""
    )
    channels = len(nodes[conv].stored["y"])
    a, da = np.reshape(a, (channels, -1)), np.reshape(da, (channels, -1))
    np.testing.assert_allclose(cam, np.maximum(0, da.mean(axis=1) @ a), rtol=1e-9, atol=1e-14)
