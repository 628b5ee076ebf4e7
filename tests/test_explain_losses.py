"""Pages that end with other losses than softmax with cross-entropy: their numbers, cards and cells."""

import helpers_explain as h
import numpy as np
import pytest

import cnn
from cnn.explain import build_page, collect
from cnn.explain.page import texts
from cnn.layers import BCEWithLogitsLoss, Conv2d, Flatten, L1Loss, Linear, MSELoss, ReLU, SoftmaxCrossEntropy

LOSSES = {"MSELoss": MSELoss, "L1Loss": L1Loss, "BCEWithLogitsLoss": BCEWithLogitsLoss, "PixelLoss": None}
TARGETS = {
    "MSELoss": np.array([0.7, -1.5, 0.2], np.float32),
    "L1Loss": np.array([0.7, -1.5, 0.2], np.float32),
    "BCEWithLogitsLoss": np.array([1, 0, 1], np.float32),
    "PixelLoss": np.where(np.arange(30).reshape(6, 5) % 7 == 0, 255, np.arange(30).reshape(6, 5) % 3),
}
UNITS = {"mean": [100.0, 0.0, 5.0], "std": [20.0, 1.0, 0.5]}


def make_network(kind):
    head = [Conv2d(3, 1)] if kind == "PixelLoss" else [Flatten(), Linear(3)]
    network = cnn.Network([Conv2d(4, 3, padding=1), ReLU(), *head])
    network.build((1, 6, 5), rng=np.random.default_rng(3))
    return network


def make_nodes(kind):
    x = np.random.default_rng(5).normal(size=(1, 6, 5)).astype(np.float32)
    loss = SoftmaxCrossEntropy(ignore_index=255) if kind == "PixelLoss" else LOSSES[kind]()
    with cnn.use_backend("reference"):
        return collect(make_network(kind), x, TARGETS[kind], loss=loss)


def make_page(kind, path, **about):
    about = {"label": 0, "known": True, "training": False, "smoothing": 0, "rate": 0.1, "source": "#0",
             "backend": "reference", "mean": [0.0], "std": [1.0], **about}  # fmt: skip
    path.write_text(build_page(make_nodes(kind), kind, ["price", "left", "top"], about), encoding="utf-8")
    return path


@pytest.fixture(params=list(LOSSES))
def kind(request):
    return request.param


@pytest.fixture
def reader(browser, kind, tmp_path):
    about = {"units": UNITS} if kind == "MSELoss" else {}
    opened = h.Reader(browser, make_page(kind, tmp_path / "page.html", **about))
    yield opened
    assert not opened.complaints
    opened.close()


def test_the_gradient_is_that_of_the_loss_by_differences(kind):
    nodes = make_nodes(kind)
    z, dz, y = nodes[-2].stored["y"].astype(float), nodes[-2].stored["dy"], TARGETS[kind]

    def loss(z):
        if kind == "PixelLoss":
            p = np.exp(z) / np.exp(z).sum(axis=0)
            return -np.mean([np.log(p[y[i, j], i, j]) for i, j in np.argwhere(y != 255)])
        p = 1 / (1 + np.exp(-z))
        values = {"MSELoss": (z - y) ** 2, "L1Loss": abs(z - y)}
        return values.get(kind, -np.log(np.where(y == 1, p, 1 - p))).mean()

    assert nodes[-1].kind == kind
    assert nodes[-1].stored["y"][0] == pytest.approx(loss(z), rel=1e-5)
    for place in np.ndindex(z.shape):
        step = np.zeros_like(z)
        step[place] = 1e-5
        assert dz[place] == pytest.approx((loss(z + step) - loss(z - step)) / 2e-5, abs=1e-6)


def test_the_page_computes_every_number_again(reader, kind):
    assert reader.page.get_attribute("#banner", "data-state") == "good", reader.banner()


def test_the_card_has_a_row_an_output_and_what_is_sent_back(reader, kind):
    reader.go("#/loss")
    dz = make_nodes(kind)[-2].stored["dy"]
    rows = reader.page.locator("#losstable tbody tr")
    assert rows.count() == 3
    shown = [float(rows.nth(k).locator("[data-value]").last.get_attribute("data-value")) for k in range(3)]
    np.testing.assert_allclose(shown, dz[:, 0, 1] if kind == "PixelLoss" else dz, rtol=1e-6)
    assert reader.page.locator(f"#step-{kind}-0 math").count() >= 1
    if kind == "MSELoss":
        z = make_nodes(kind)[-2].stored["y"]
        assert f"{100 + 20 * z[0]:.5g}" in rows.nth(0).inner_text()
        assert rows.nth(0).inner_text().startswith("price")
    if kind == "PixelLoss":  # another pixel, of the mask's class 2
        assert reader.page.input_value("#pixel-j") == "1"  # the first pixel does not count
        reader.page.fill("#pixel-j", "2")
        reader.page.keyboard.press("Tab")
        truth = reader.page.locator("#losstable tr.truth")
        assert truth.get_attribute("data-class") == "2"


@pytest.mark.parametrize("cell", ["y", "p", "dy"])
def test_each_number_of_the_loss_is_a_sum_that_comes_out(reader, kind, cell):
    nodes = make_nodes(kind)
    node = nodes[-2] if cell == "dy" else nodes[-1]
    array = node.stored[cell]
    place = (1, 2, 3) if array.ndim == 3 else (0,) if cell == "y" else (1,)
    stored, computed, terms = reader.open(f"{node.id}/{cell}/{','.join(map(str, place))}")
    assert stored == pytest.approx(float(array[place]), rel=1e-6)
    assert computed == pytest.approx(stored, rel=1e-4, abs=1e-7)
    assert terms >= 1


def test_what_follows_one_class_is_not_offered(reader, kind):
    tabs = reader.page.locator("main > .tabs [role=tab]")
    assert tabs.count() == 2
    assert reader.page.locator("#target, #begin, #questions").count() == 0
    assert "one-hot" not in reader.page.inner_text("#mode-why")


def test_a_pixel_changed_by_hand_changes_the_loss(reader, kind):
    before = float(reader.page.locator(".glance-loss [data-value]").first.get_attribute("data-value"))
    reader.page.evaluate("editCell(cell(nodes[0], 'y', 7), 3, null)")
    after = float(reader.page.locator(".glance-loss [data-value]").first.get_attribute("data-value"))
    x = np.random.default_rng(5).normal(size=(1, 6, 5)).astype(np.float32)
    x.reshape(-1)[7] = 3
    loss = SoftmaxCrossEntropy(ignore_index=255) if kind == "PixelLoss" else LOSSES[kind]()
    with cnn.use_backend("reference"):
        expected = loss.forward(np.asarray(make_network(kind).predict(x[None])), TARGETS[kind][None])
    assert after == pytest.approx(expected, rel=1e-4)
    assert after != before


def test_every_text_of_the_cards_is_in_both_languages():
    english, chinese = texts("en"), texts("zh")
    for kind in LOSSES:
        for key in (f"node.{kind}", f"loss.{kind}.title", f"loss.{kind}.lead"):
            assert english[key] != chinese[key]
