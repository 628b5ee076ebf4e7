"""A network with every kind of layer, its numbers by another route, and a browser to read the page in."""

import base64
import json
import re
import shutil
import zlib
from importlib import resources
from pathlib import Path

import numpy as np
import pytest

import cnn
from cnn import layers
from cnn.explain import build_page, collect
from cnn.reference import multiply_backward

CLASSES = ("ant", "bee", "cat", "dog", "elk", "fox", "gnu")
SHAPE = (2, 12, 12)
LABEL = 2


def everything():
    """Return the layers of a network in which every kind occurs, most of them in an uneven geometry."""
    return [
        layers.Conv2d(6, kernel_size=(3, 5), stride=(1, 1), padding=(1, 2)),
        layers.BatchNorm2d(),
        layers.ReLU(),
        layers.MaxPool2d(3, stride=2, padding=1),
        layers.Residual(
            [layers.Conv2d(6, 3, padding=1, groups=2, bias=False), layers.LeakyReLU(0.1)],
            [layers.Scale(0.5)],
        ),
        layers.Residual([layers.Conv2d(6, 1), layers.Tanh()]),
        layers.Concat(
            [
                [layers.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)],
                [layers.AvgPool2d(3, stride=1, padding=1), layers.Conv2d(3, 1), layers.Sigmoid()],
                [],
            ]
        ),
        layers.Graph(
            [
                [layers.Conv2d(5, 1), layers.Hardswish()],
                [layers.AvgPool2d(6), layers.Conv2d(5, 1), layers.Hardsigmoid()],
                [layers.ReLU6()],
                [layers.Hardtanh(-0.5, 0.75)],
            ],
            [(0,), (1,), (1, 2), (3, 1)],
            ["", "", "mul", "add"],
        ),
        layers.ConvTranspose2d(4, 3, stride=2, padding=1),
        layers.GELU(),
        layers.Conv2d(4, 3, stride=2, padding=2, dilation=2),
        layers.SiLU(),
        layers.GroupNorm(2),
        layers.PReLU(4),
        layers.LocalResponseNorm(3, alpha=0.5, beta=0.6, k=1.5),
        layers.ZeroPad2d((2, -1, 0, 1)),
        layers.MaxPool2d(2, stride=3, padding=1, dilation=2, ceil_mode=True),
        layers.Upsample(scale_factor=(2, 3)),
        layers.AvgPool2d(3, stride=2, padding=((0, 1), (1, 0)), ceil_mode=True),
        layers.LayerNorm(),
        layers.PReLU(),
        layers.Dropout(0.3),
        layers.Concat(
            [
                [layers.GlobalAvgPool2d()],
                [layers.GlobalMaxPool2d()],
                [layers.Softmax(), layers.Flatten(), layers.Linear(5, bias=False), layers.GELU("tanh")],
            ]
        ),
        layers.Unflatten((1, 13, 1)),
        layers.Flatten(),
        layers.BatchNorm1d(),
        layers.ELU(0.7),
        layers.Softplus(2.0),
        layers.LogSoftmax(),
        layers.Softmax(),
        layers.Scale(9.0),
        layers.Linear(len(CLASSES)),
    ]


def make_network(dtype=np.float32):
    """Return that network, built, always with the same parameters and statistics, none of them 0 or 1."""
    network = cnn.Network(everything())
    network.build(SHAPE, rng=np.random.default_rng(1), dtype=dtype)
    if dtype == np.float64:
        network.load_state(
            {
                name: value.astype(np.float64) if value.dtype.kind == "f" else value
                for name, value in make_network().state().items()
            }
        )
        return network
    rng = np.random.default_rng(2)
    for parameter in network.parameters():
        parameter.data = (parameter.data + 0.2 * rng.standard_normal(parameter.shape)).astype(np.float32)
    for _, layer in network.walk():
        for name, value in layer.buffers().items():
            if isinstance(layer, layers.BatchNorm1d | layers.BatchNorm2d) and value.dtype.kind == "f":
                drawn = (
                    rng.uniform(0.3, 1.5, value.shape) if "var" in name else rng.normal(0, 0.3, value.shape)
                )
                value[...] = drawn.astype(np.float32)
    return network


def make_image():
    """Return the image, with exact ties in it so that pools have something to decide."""
    return np.random.default_rng(3).integers(-6, 7, SHAPE).astype(np.float32) / 4


def make_nodes(training=False, label_smoothing=0.0, backend="reference"):
    """Return the collected nodes of that network and image."""
    with cnn.use_backend(backend):
        return collect(make_network(), make_image(), LABEL, label_smoothing, training)


def make_page(nodes, title="everything", classes=CLASSES, samples=None):
    """Return the HTML of collected nodes."""
    about = {"label": LABEL, "source": "a test", "backend": "numba", "mean": [0.5, 0.5], "std": [0.5, 0.5]}
    return build_page(nodes, title, classes, about, samples)


def expected_numbers(nodes):
    """Return {(node id, tensor): array} in float64: the reference, layer by layer, on the stored inputs.

    Holds y of every node, dy wherever some layer sends a gradient, and the gradients of all parameters.
    """
    found = recompute(nodes, make_network(np.float64))
    return {
        (k, name): values[0] if name in ("y", "dy", "p") else values for (k, name), values in found.items()
    }


def recompute(nodes, network, chained=False):
    """Return the same for a float64 network, y, dy and p of all images: (N, ...).

    ``chained``: each layer reads what the layer before it made here, from the pixels on, not what is stored.
    """

    def stored(node, name):
        return np.array([own[name] for own in node.batch], np.float64)

    leaves = {name: layer for name, layer in network.walk() if not layer.children()}
    found, arriving, criterion = {}, {}, layers.SoftmaxCrossEntropy()
    with cnn.use_backend("reference"):
        for node in nodes[1:]:
            xs = [found[k, "y"] if chained and k else stored(nodes[k], "y") for k in node.inputs]
            if node.kind == "Loss":
                loss = criterion.forward(xs[0], stored(node, "target"))
                found[node.id, "y"], found[node.id, "p"] = (
                    np.full((len(xs[0]), 1), loss),
                    criterion.probabilities,
                )
            elif node.kind in ("Add", "Concat"):
                found[node.id, "y"] = sum(xs) if node.kind == "Add" else np.concatenate(xs, axis=1)
            elif node.kind == "Mul":
                found[node.id, "y"] = xs[0] * xs[1]
            elif "mask" in node.stored:
                found[node.id, "y"] = xs[0] * stored(node, "mask")
            else:
                mode = node.attributes.get("training", False)
                found[node.id, "y"] = np.array(leaves[node.name].forward(xs[0], training=mode))
        for node in nodes[:0:-1]:
            if node.kind == "Loss":
                dxs = [criterion.backward()]
            else:
                dy = arriving[node.id] if chained else stored(node, "dy")
                if node.kind == "Add":
                    dxs = [dy] * len(node.inputs)
                elif node.kind == "Concat":
                    sizes = [nodes[k].stored["y"].shape[0] for k in node.inputs]
                    dxs = np.split(dy, np.cumsum(sizes)[:-1], axis=1)
                elif node.kind == "Mul":
                    xs = [found[k, "y"] if chained and k else stored(nodes[k], "y") for k in node.inputs]
                    dxs = [multiply_backward(dy, xs[1 - k], xs[k].shape) for k in range(2)]
                elif "mask" in node.stored:
                    dxs = [dy * stored(node, "mask")]
                else:
                    leaves[node.name].zero_grad()
                    dxs = [np.array(leaves[node.name].backward(dy))]
                    for parameter in leaves[node.name].parameters():
                        found[node.id, "d" + parameter.name] = np.array(parameter.grad)
            for source, dx in zip(node.inputs, dxs, strict=True):
                arriving[source] = arriving.get(source, 0) + dx
    found.update({(source, "dy"): dx for source, dx in arriving.items()})
    return found


def key(node_id, tensor, index, shape):
    """Return the page's address of one cell."""
    return f"{node_id}/{tensor}/{','.join(map(str, np.unravel_index(index, shape)))}"


def some_cells(expected, count, rng):
    """Return ``count`` addresses with their expected values, spread evenly over all tensors."""
    names = sorted(expected)
    for k in range(count):
        node_id, tensor = names[k % len(names)]
        values = expected[node_id, tensor]
        index = int(rng.integers(values.size))
        yield (
            key(node_id, tensor, index, values.shape),
            float(values.flat[index]),
            float(np.abs(values).max()),
        )


def lines_of(page):
    """Return the page's text before its data, the lines of the data, and the text after them."""
    return re.fullmatch(r'(.*id="data">\n)([^<]+)(\n</script>.*)', page, re.S).groups()


def manifest(page):
    """Return the manifest of a page: its text, or the file it is in."""
    line = lines_of(page if isinstance(page, str) else page.read_text(encoding="utf-8"))[1].split("\n")[0]
    return json.loads(zlib.decompress(base64.b64decode(line)))


# -- the browser -----------------------------------------------------------------------------------


def find_chromium():
    """Return the path of an installed Chromium or Chrome, or None."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return next((path for path in map(shutil.which, names) if path), None)


def launch():
    """Yield a browser without a network; skips the tests if Playwright or Chromium is not installed."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    executable = find_chromium()
    if executable is None:
        pytest.skip("needs Chromium")
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=arguments)
        yield browser
        browser.close()


def axe_source():
    """Return the text of axe-core; skips the test if it is not installed."""
    package = pytest.importorskip("axe_playwright_python", reason="needs axe-playwright-python")
    return resources.files(package).joinpath("axe.min.js").read_text(encoding="utf-8")


class Reader:
    """One open page: what a test reads and does, and whatever the page complained about."""

    def __init__(self, browser, file, place="", width=1280, height=900, scheme="light", language="en"):
        self.context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme, locale=language
        )
        self.page = self.context.new_page()
        self.complaints, self.requests = [], []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(Path(file).resolve().as_uri() + place)
        self.page.wait_for_selector("#banner[data-state]", state="attached", timeout=60_000)

    def open(self, cell):
        """Explain one cell; return (stored value, value computed from the terms or None, terms shown)."""
        return self.page.evaluate(
            """async (key) => {
                const place = `#/network/${key}`;
                if (location.hash !== place) {
                    location.hash = place;
                    await new Promise((go) => addEventListener("hashchange", go, { once: true }));
                }
                const number = (id) => Number(document.getElementById(id)?.dataset.value ?? NaN);
                const rows = document.querySelectorAll("#terms tbody tr").length;
                return [number("value"), number("computed"), rows];
            }""",
            cell,
        )

    def place(self):
        """Return the address that the page shows; the address bar is ahead of it until it is drawn."""
        return self.page.evaluate("document.documentElement.dataset.place")

    def wait(self, condition):
        """Wait until ``condition`` holds for the address that the page shows, and return that address.

        Polls, because Playwright's own way needs eval, which the page forbids.
        """
        for _ in range(400):
            place = self.place()
            if condition(place):
                return place
            self.page.wait_for_timeout(25)
        raise AssertionError(f"never arrived; still at {place}")

    def go(self, place):
        """Go to an address and wait until it is drawn."""
        self.page.evaluate("(place) => { location.hash = place; }", place)
        self.wait(lambda shown: shown == place)

    def value(self, selector):
        """Return the full-precision number behind an element."""
        return float(self.page.get_attribute(selector, "data-value"))

    def banner(self):
        """Return the banner's text."""
        return self.page.inner_text("#banner")

    def outside(self):
        """Return the requests that left the page; a worker made of the page's own text is none."""
        return [url for url in self.requests if not url.startswith("blob:")]

    def close(self):
        self.context.close()
