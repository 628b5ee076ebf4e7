"""The explorable page in a real browser: numbers, traces, experiments, languages, keyboard, accessibility."""

import base64
import re

import helpers_explain as h
import numpy as np
import pytest

import cnn
from cnn import layers
from cnn.data.sample import load_sample
from cnn.explain import collect
from cnn.explain.page import texts
from cnn.explain.samples import choose_samples


@pytest.fixture(scope="module")
def browser():
    yield from h.launch()


@pytest.fixture(scope="module")
def nodes():
    return h.make_nodes()


@pytest.fixture(scope="module")
def file(nodes, tmp_path_factory):
    path = tmp_path_factory.mktemp("explain") / "page.html"
    path.write_text(h.make_page(nodes), encoding="utf-8")
    return path


@pytest.fixture
def read(browser):
    """Open pages; at the end, nothing may have been requested or complained about."""
    readers = []

    def opened(file, *args, **kwargs):
        readers.append(h.Reader(browser, file, *args, **kwargs))
        return readers[-1]

    yield opened
    for reader in readers:
        assert not reader.complaints
        assert len(reader.outside()) == 1  # the page itself
        reader.close()


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


@pytest.mark.parametrize("kernels", ["reference", "numba"])
def test_all_values_agree(read, tmp_path, kernels):
    nodes = h.make_nodes(backend=kernels)
    (tmp_path / "page.html").write_text(h.make_page(nodes), encoding="utf-8")
    reader = read(tmp_path / "page.html")
    # pixels, parameters, statistics and the truth are given; all the rest is computed
    count = -nodes[0].stored["y"].size
    for node in nodes:
        given = (*node.parameters, *node.buffers, "target")
        count += sum(array.size for name, array in node.stored.items() if name not in given)
    assert f"All {count:,} values agree" in reader.banner()


@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
def test_two_hundred_cells_equal_numpy(read, tmp_path, training):
    nodes = h.make_nodes(training)
    (tmp_path / "page.html").write_text(h.make_page(nodes), encoding="utf-8")
    reader = read(tmp_path / "page.html")
    assert "values agree" in reader.banner()
    expected = h.expected_numbers(nodes)
    kinds = {nodes[node_id].kind for node_id, _ in expected} - {"Input"}
    assert kinds == {node.kind for node in nodes} - {"Input"}
    for cell, value, scale in h.some_cells(expected, 230, np.random.default_rng(4)):
        _, computed, _ = reader.open(cell)
        assert computed == pytest.approx(value, rel=1e-6, abs=1e-12 * scale), cell


def test_long_sums_show_the_fifty_largest_terms_and_the_rest_as_one_number(read, file, nodes):
    reader = read(file)
    last = nodes[-1].inputs[0]
    convolution = nodes[1]
    _, computed, rows = reader.open("1/dweight/0,1,1,2")
    assert rows == 51
    rest = reader.value("#terms .others [data-value]")
    products = reader.page.evaluate(
        "explain(cellFromKey('1/dweight/0,1,1,2')).terms.map((term) => term.value)"
    )
    assert len(products) == convolution.stored["y"][0].size
    products.sort(key=abs)
    assert rest == pytest.approx(sum(products[:-50]), rel=1e-9, abs=1e-15)
    assert computed == pytest.approx(sum(products), rel=1e-12)
    assert reader.open(f"{last}/y/3")[2] == nodes[nodes[last].inputs[0]].stored["y"].size + 1  # and the bias


def follow_to(reader, wanted, pattern, most=60):
    """Click the largest term's factor with an address like ``pattern`` until ``wanted``; return the way."""
    page, way = reader.page, []
    for _ in range(most):
        place = reader.place()
        way.append(place)
        if re.search(wanted, place):
            return way
        rows = page.query_selector_all("#terms tbody tr")
        rows.sort(
            key=lambda row: -abs(float(row.query_selector("td[data-value]").get_attribute("data-value")))
        )
        links = [a for row in rows for a in row.query_selector_all("a.factor")]
        links += page.query_selector_all(".made-steps a.factor")
        link = next(a for a in links if re.search(pattern, a.get_attribute("href")))
        link.click()
        reader.wait(lambda shown, place=place: shown != place)
    raise AssertionError(f"no way to {wanted}: {way}")


def test_a_pixel_is_traced_to_p_minus_y_and_back_by_clicking_terms(read, file, nodes):
    pixel = np.unravel_index(np.abs(nodes[0].stored["dy"]).argmax(), h.SHAPE)
    reader = read(file, f"#/network/0/dy/{','.join(map(str, pixel))}")
    loss, logits = nodes[-1].id, nodes[-1].inputs[0]
    way = follow_to(reader, rf"/{loss}/(p|target)/", r"/(dy|dx\d|p|target)/")
    assert f"/{logits}/dy/" in way[-2]  # the number before p is p − y itself
    assert len(way) > 12
    for _ in way[1:]:
        reader.page.go_back()
    reader.wait(lambda shown: shown == way[0])
    assert reader.value("#value") == pytest.approx(nodes[0].stored["dy"][pixel], rel=1e-6)
    reader.open(f"{loss}/p/{h.LABEL}")
    back = follow_to(reader, r"/0/y/", r"/y/")
    assert len(back) > 12


def test_a_pixel_is_followed_to_a_probability_through_what_reads_it(read, file, nodes):
    reader = read(file, "#/network/0/y/1,5,6")
    for _ in range(2 * len(nodes)):
        place = reader.place()
        if place.startswith(f"#/network/{nodes[-1].id}/p/"):
            return
        reader.page.click(".readers a.factor >> nth=0")
        reader.wait(lambda shown, place=place: shown != place)
    raise AssertionError(f"stuck at {place}")


def test_of_equal_values_the_first_wins_and_the_page_says_so(read, tmp_path):
    network = cnn.Network([layers.MaxPool2d(3), layers.Flatten(), layers.Linear(7)])
    network.build(h.SHAPE)
    image = h.make_image()
    (tmp_path / "page.html").write_text(h.make_page(collect(network, image, 0)), encoding="utf-8")
    reader = read(tmp_path / "page.html")
    windows = {
        place: image[place[0], 3 * place[1] : 3 * place[1] + 3, 3 * place[2] : 3 * place[2] + 3]
        for place in np.ndindex(2, 4, 4)
    }
    (c, i, j), window = next((p, w) for p, w in windows.items() if (w == w.max()).sum() == 2)
    row, column = np.unravel_index(window.argmax(), window.shape)  # NumPy takes the first as well
    reader.open(f"1/y/{c},{i},{j}")
    assert reader.page.locator("#terms tbody tr.wins").count() == 1
    assert f"x[{c}, {3 * i + row}, {3 * j + column}]" in reader.page.inner_text("#terms tbody tr.wins")
    assert "2 values tie for the maximum" in reader.page.inner_text("#inspector .note")


def test_a_bias_before_batch_norm_has_gradient_zero_and_passes(read, tmp_path):
    network = cnn.Network(
        [layers.Conv2d(4, 3), layers.BatchNorm2d(), layers.ReLU(), layers.Flatten(), layers.Linear(7)]
    )
    network.build(h.SHAPE)
    nodes = collect(network, h.make_image(), 0, training=True)
    assert np.abs(nodes[1].stored["dbias"]).max() < 1e-5 * np.abs(nodes[1].stored["dweight"]).max()
    (tmp_path / "page.html").write_text(h.make_page(nodes), encoding="utf-8")
    assert "values agree" in read(tmp_path / "page.html").banner()


def test_the_trace_link_lists_the_whole_way_with_shares(read, file, nodes):
    reader = read(file, "#/network/0/dy/0,3,4")
    reader.page.click("#inspector .trace summary")
    items = reader.page.locator("#inspector .trace li")
    last = items.last.locator("a").get_attribute("href")
    assert re.match(rf"#/network/{nodes[-1].id}/(p|target)/", last)
    logits = nodes[nodes[-1].inputs[0]]
    k = int(last.split("/")[-1])
    # p − y is made of p and −y: the trace ends at the larger
    larger = "target" if nodes[-1].stored["target"][k] > nodes[-1].stored["p"][k] else "p"
    assert f"/{larger}/" in last
    p, y = nodes[-1].stored["p"][k], nodes[-1].stored["target"][k]
    assert logits.stored["dy"][k] == pytest.approx(p - y, abs=1e-6)
    assert f"{float(f'{100 * max(p, y) / (p + y):.3g}'):g} % of the sum" in items.last.inner_text()


def test_the_loss_card_goes_from_logits_to_p_minus_y(read, file, nodes):
    reader = read(file, "#/loss")
    z = nodes[nodes[-1].inputs[0]].stored["y"].astype(np.float64)
    e = np.exp(z - z.max())
    rows = reader.page.query_selector_all("#losstable tbody tr")
    assert len(rows) == len(z)
    for k, row in enumerate(rows):
        shown = [float(cell.get_attribute("data-value")) for cell in row.query_selector_all("[data-value]")]
        y = float(k == h.LABEL)
        assert shown == pytest.approx(
            [z[k], z[k] - z.max(), e[k] / e.sum(), e[k] / e.sum() - y], rel=2e-5, abs=1e-6
        )
    assert reader.value("#sum-exp") == pytest.approx(e.sum(), rel=1e-9)
    assert reader.value("#sum-p") == pytest.approx(1, abs=1e-12)
    assert reader.value("#sum-gradient") == pytest.approx(0, abs=1e-6)
    assert "N = 1" in reader.page.inner_text("#losscard")


def test_the_worked_example_is_the_origin_s(read, file):
    reader = read(file, "#/loss")
    reader.page.click("#tab-example")

    def row(name):
        cells = reader.page.query_selector_all(f"#{name} [data-value]")
        return [float(cell.get_attribute("data-value")) for cell in cells]

    assert row("example-p") == [0.1, 0.2, 0.25, 0.4, 0.05]
    assert row("example-y") == [0, 0, 1, 0, 0]
    assert row("example-upstream") == [0, 0, -4, 0, 0]
    assert row("example-result") == row("example-difference") == [0.1, 0.2, -0.75, 0.4, 0.05]


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
    a, da = np.reshape(a, (6, -1)), np.reshape(da, (6, -1))
    np.testing.assert_allclose(cam, np.maximum(0, da.mean(axis=1) @ a), rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize(
    ("kind", "tensor"), [("Conv2d", "weight"), ("BatchNorm2d", "running_var"), ("MaxPool2d", "y"),
                         ("Linear", "dweight"), ("GELU", "dy"), ("Loss", "target")]
)  # fmt: skip
def test_one_tampered_byte_names_the_layer(read, tmp_path, nodes, kind, tensor):
    node = next(node for node in nodes if node.kind == kind)
    page = h.make_page(nodes)
    before, blob, after = re.split(r'(?<=id="blob">)([^<]+)', page)
    data = bytearray(base64.b64decode(blob))
    at = data.index(node.stored[tensor].astype("<f4").tobytes())
    data[at + 4 * (node.stored[tensor].size // 2)] ^= 1  # the lowest bit of the number in the middle
    (tmp_path / "page.html").write_text(before + base64.b64encode(data).decode() + after, encoding="utf-8")
    reader = read(tmp_path / "page.html")
    assert reader.page.get_attribute("#banner", "data-state") == "bad"
    assert reader.page.get_attribute("#banner", "data-layer") == node.name
    assert "are not those that were written" in reader.banner()


def spoil_pool(nodes):
    """A max-pool that hands its gradient to every pixel of the window."""
    pool = next(node for node in nodes if node.kind == "MaxPool2d")
    nodes[pool.inputs[0]].stored["dy"] = nodes[pool.inputs[0]].stored["dy"] + 0.01
    return pool.name


def spoil_gate(nodes):
    """A ReLU that lets negative numbers through."""
    gate = next(node for node in nodes if node.kind == "ReLU")
    gate.stored["y"] = nodes[gate.inputs[0]].stored["y"]
    return gate.name


def spoil_loss(nodes):
    """A loss whose gradient is divided by N = 2."""
    logits = nodes[nodes[-1].inputs[0]]
    logits.stored["dy"] = logits.stored["dy"] / 2
    return "loss"


def spoil_weight_gradient(nodes):
    """A convolution whose kernel gradient is flipped."""
    conv = [node for node in nodes if node.kind == "Conv2d"][-1]
    conv.stored["dweight"] = conv.stored["dweight"][:, :, ::-1, ::-1].copy()
    return conv.name


@pytest.mark.parametrize("spoil", [spoil_pool, spoil_gate, spoil_loss, spoil_weight_gradient])
def test_a_wrong_kernel_is_named(read, tmp_path, spoil):
    nodes = h.make_nodes()
    name = spoil(nodes)
    (tmp_path / "page.html").write_text(h.make_page(nodes), encoding="utf-8")
    reader = read(tmp_path / "page.html")
    assert reader.page.get_attribute("#banner", "data-layer") == name
    assert "does not agree with its equation" in reader.banner()


def test_hostile_names_are_only_text(read, tmp_path, nodes):
    hostile = [
        "</script><script>window.hacked=1</script>",
        '"><img src=x onerror="window.hacked=1">',
        "<svg onload=window.hacked=1>",
        "{{blob}}\u2028{name}${1}",
        "javascript:window.hacked=1",
        "' onmouseover='window.hacked=1",
        "&lt;b&gt;",
    ]
    title = "<img src=x onerror=window.hacked=1> & co"
    (tmp_path / "page.html").write_text(h.make_page(nodes, title, hostile), encoding="utf-8")
    reader = read(tmp_path / "page.html")
    for place in ("network", "loss", "experiments", "pictures"):
        reader.go(f"#/{place}")
    assert reader.page.inner_text("h1") == title
    assert reader.page.title() == title
    assert reader.page.evaluate("window.hacked") is None
    assert reader.page.locator("img, svg[onload]").count() == 0
    options = reader.page.locator("#cam-class option").all_text_contents()
    assert options == hostile


def test_a_keyboard_is_enough(read, file, nodes):
    reader = read(file)
    page = reader.page

    def tab_to(condition, most=80):
        for _ in range(most):
            page.keyboard.press("Tab")
            if page.evaluate(f"(() => {{ const e = document.activeElement; return {condition}; }})()"):
                return
        raise AssertionError(f"Tab never reached {condition}")

    tab_to("e.id === 'skip'")
    tab_to("e.id === 'forward'")
    tab_to("e.id === 'backward'")
    page.keyboard.press("Enter")
    tab_to("e.tagName === 'CANVAS' && e.closest('#row-1')")
    for name in ("ArrowRight", "ArrowRight", "ArrowDown", "PageDown"):
        page.keyboard.press(name)
    assert "∂L/∂y[1, 1, 2] = " in page.inner_text("#live")
    page.keyboard.press("Enter")
    reader.wait(lambda shown: shown == "#/network/1/dy/1,1,2")
    assert reader.value("#value") == pytest.approx(nodes[1].stored["dy"][1, 1, 2], rel=1e-6)
    tab_to("e.id === 'goto'", most=8)  # the focus went along
    page.keyboard.press("Control+A")
    page.keyboard.type("0, 4, 4")
    page.keyboard.press("Enter")
    reader.wait(lambda shown: shown == "#/network/1/dy/0,4,4")
    tab_to("e.matches('#inspector a.factor')", most=16)
    page.keyboard.press("Enter")
    reader.wait(lambda shown: shown.startswith("#/network/2/"))
    tab_to("e.getAttribute('aria-label') === 'Back'", most=4)
    page.keyboard.press("Enter")
    reader.wait(lambda shown: shown == "#/network/1/dy/0,4,4")
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.tagName") == "CANVAS"
    assert reader.place() == "#/network"
    page.focus("#tab-network")
    page.keyboard.press("ArrowRight")
    page.wait_for_selector("#losscard")
    assert page.evaluate("document.activeElement.id") == "tab-loss"


@pytest.mark.parametrize(
    "place",
    ["#/nowhere", "#/network/99/y/0", "#/network/1/__proto__/0", "#/network/1/y/0,0", "#/network/1/y/0.5,0,0",
     "#/network/1/y/0,99,0", "#/network/%E0%A4%A", "#/loss/1/y/0,0,0", "#<script>"],
)  # fmt: skip
def test_an_address_that_leads_nowhere_does_no_harm(read, file, place):
    reader = read(file, place)
    assert "values agree" in reader.banner()
    assert reader.page.locator("#value").count() == 0


@pytest.mark.parametrize("width", [1280, 360])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(read, file, scheme, width):
    reader = read(file, scheme=scheme, width=width)
    reader.page.evaluate(h.axe_source())
    for place in (
        "network",
        "network/1/y/0,3,3",
        "network/1/dweight/0,0,0,0",
        "loss",
        "experiments",
        "pictures",
    ):
        reader.go(f"#/{place}")
        found = reader.page.evaluate("axe.run(document).then((result) => result.violations)")
        serious = [
            f"{place}: {v['id']}: {[node['html'][:120] for node in v['nodes'][:3]]}"
            for v in found
            if v["impact"] in ("serious", "critical")
        ]
        assert not serious


@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_view_speaks_one_language(read, file, language):
    reader = read(file, language={"en": "en-US", "zh": "zh-CN"}[language])
    other = texts({"en": "zh", "zh": "en"}[language])
    own = set(texts(language).values())
    # "forward" and "backward" are also names in the reference code, which is the same in both
    foreign = [text for text in other.values() if text not in own and "{" not in text and len(text) > 8]
    for place in (
        "network",
        "network/1/dweight/0,0,0,0",
        "network/2/y/0,1,1",
        "loss",
        "experiments",
        "pictures",
    ):
        reader.go(f"#/{place}")
        shown = reader.page.inner_text("body")
        assert not [text for text in foreign if text in shown]
    reader.page.click("#language")
    assert reader.page.get_attribute("html", "lang") == {"en": "zh-CN", "zh": "en"}[language]


@pytest.mark.parametrize("place", ["network", "network/1/y/0,3,3", "loss", "experiments", "pictures"])
def test_a_telephone_needs_no_sideways_scrolling(read, file, place):
    reader = read(file, f"#/{place}", width=360, height=740)
    assert reader.page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_lenet_is_small_quick_and_light(read, tmp_path):
    network = cnn.Network(
        [layers.Conv2d(6, 5, padding=2), layers.ReLU(), layers.MaxPool2d(2), layers.Conv2d(16, 5),
         layers.ReLU(), layers.MaxPool2d(2), layers.Flatten(), layers.Linear(120), layers.ReLU(),
         layers.Linear(84), layers.ReLU(), layers.Linear(10)]
    )  # fmt: skip
    network.build((1, 28, 28))
    image = np.random.default_rng(0).standard_normal((1, 28, 28)).astype(np.float32)
    with cnn.use_backend("reference"):
        nodes = collect(network, image, 2)
    page = h.make_page(nodes, classes="0123456789", samples=choose_samples(load_sample().train, 10))
    assert len(page.encode()) <= 1.5e6
    (tmp_path / "lenet.html").write_text(page, encoding="utf-8")
    reader = read(tmp_path / "lenet.html")
    assert "values agree" in reader.banner()
    # processor time of the page's thread, so that a busy machine does not count
    clock = reader.context.new_cdp_session(reader.page)
    clock.send("Performance.enable", {"timeDomain": "threadTicks"})

    def spent():
        metrics = clock.send("Performance.getMetrics")["metrics"]
        return next(m["value"] for m in metrics if m["name"] == "TaskDuration")

    most = 0
    for cell in (
        "1/weight/0,0,0,0",
        "4/dweight/3,2,1,1",
        "8/y/7",
        "8/weight/9,9",
        "0/dy/0,14,14",
        "4/y/0,2,2",
    ):
        reader.open(cell)
        reader.page.wait_for_timeout(200)  # the first time, maps are painted when the page is idle
        before = spent()
        reader.page.evaluate(
            """(key) => {
                for (let k = 0; k < 10; k++) {
                    showCell(cellFromKey(key));
                    document.getElementById("inspector").offsetHeight;
                }
            }""",
            cell,
        )
        assert (spent() - before) / 10 < 0.2, cell
        most = max(most, reader.page.evaluate("document.querySelectorAll('*').length"))
    assert most <= 3000
