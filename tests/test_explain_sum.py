"""Beside every sum: the equation with its indices, the plain loops, and the pixels it depends on."""

import helpers_explain as h
import numpy as np
import pytest
import small_page as small

import cnn
from cnn import layers


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return small.write_page(tmp_path_factory.mktemp("sums") / "page.html")


@pytest.fixture
def reader(browser, file):
    opened = h.Reader(browser, file)
    yield opened
    assert not opened.complaints
    opened.close()


@pytest.mark.parametrize(
    ("cell", "equation"),
    [
        ("1/y/2,3,4", "y[2, 3, 4] = Σ x[c, 1 + u, 2 + v] · w[2, c, u, v]"),
        ("0/dy/0,3,4", "∂L/∂x[0, 3, 4] = Σ dy[k, 5 − u, 6 − v] · w[k, 0, u, v]"),
        ("1/dweight/2,0,1,4", "∂L/∂w[2, 0, 1, 4] = Σ dy[2, i, j] · x[0, i − 1, 2 + j]"),
        ("8/y/1,0,1", "y[1, 0, 1] = Σ x[c, u, 2 + v] · w[1, c, u, v] + b[1]"),
        ("7/dy/1,2,4", "∂L/∂x[1, 2, 4] = Σ dy[k, (2 − u)/2, (4 − v)/2] · w[k, 1, u, v]"),
        ("4/y/3,1,2", "y[3, 1, 2] = max x[3, 2…3, 4…5]"),
        ("10/y/6", "y[6] = Σ x[f] · w[6, f] + b[6]"),
        ("13/dy/2", "∂L/∂z[2] = p[2] − y[2]"),
    ],
)
def test_the_equation_holds_this_cell_s_indices(reader, cell, equation):
    reader.open(cell)
    assert reader.page.inner_text("#inspector .indexed").endswith(equation)


@pytest.mark.parametrize(
    "cell", ["1/y/2,3,4", "0/dy/0,3,4", "1/dweight/2,0,1,4", "4/y/3,1,2", "10/y/6", "9/dy/5"]
)
def test_the_loops_add_up_to_the_number_one_term_at_a_time(reader, cell):
    _, computed, _ = reader.open(cell)
    page = reader.page
    page.click(".loops summary")
    count = int(page.get_attribute("#player-at", "max")) + 1
    terms = page.evaluate(f"explain(cellFromKey('{cell}')).terms.map((term) => term.value)")
    assert count == len(terms)
    running = np.maximum.accumulate if cell.startswith("4/") else np.cumsum
    page.fill("#player-at", "0")
    for k in range(min(count, 5)):
        assert reader.value("#subtotal") == pytest.approx(running(terms)[k], rel=1e-9, abs=1e-15)
        lit = page.locator("#player-code .lit")
        assert lit.count() == 1
        assert "bias" in lit.inner_text() or "=" in lit.inner_text()
        page.click("#player-on")
    page.fill("#player-at", str(count - 1))
    assert reader.value("#subtotal") == pytest.approx(computed, rel=1e-9, abs=1e-15)


def test_playing_a_sum_ends_at_its_last_term(reader):
    _, computed, _ = reader.open("10/y/6")
    reader.page.click("#player-play")
    for _ in range(600):
        if reader.page.input_value("#player-at") == reader.page.get_attribute("#player-at", "max"):
            break
        reader.page.wait_for_timeout(50)
    assert reader.value("#subtotal") == pytest.approx(computed, rel=1e-9)


def test_the_receptive_field_is_the_pixels_that_reach_a_number(browser, tmp_path):
    network = cnn.Network(
        [layers.Conv2d(2, 3, padding=1), layers.AvgPool2d(2),
         layers.Conv2d(2, (3, 2), stride=(2, 1), padding=1),
         layers.ConvTranspose2d(2, 3, stride=2, padding=1), layers.Flatten(), layers.Linear(4)]
    )  # fmt: skip
    network.build(small.SHAPE)
    reader = h.Reader(browser, small.write_page(tmp_path / "page.html", network=network))
    rng = np.random.default_rng(0)
    for node, depth in ((1, 1), (2, 2), (3, 3), (4, 4)):
        shape = reader.page.evaluate(f"nodes[{node}].shape")
        for _ in range(4):
            place = tuple(int(rng.integers(size)) for size in shape)
            x = rng.standard_normal((1, *small.SHAPE)).astype(np.float32)
            with cnn.use_backend("reference"):
                y = x
                for layer in network.layers[:depth]:
                    y = np.asarray(layer.forward(y))
                one = np.zeros_like(y)
                one[(0, *place)] = 1
                for layer in reversed(network.layers[:depth]):
                    one = np.asarray(layer.backward(one))
            rows, columns = np.nonzero(np.abs(one[0, 0]) > 0)
            reader.open(f"{node}/y/{','.join(map(str, place))}")
            found = [int(v) for v in reader.page.get_attribute("#field", "data-field").split(",")]
            assert found == [rows.min(), rows.max(), columns.min(), columns.max()], (node, place)
    reader.close()


def test_grad_cam_is_shown_as_its_sum_over_channels(reader):
    reader.go("#/pictures")
    shown = reader.page.inner_text(".cam-sum .indexed")
    strongest = reader.page.evaluate("Math.max(...gradCam(gallery.layer, gallery.label).map)")
    assert shown.startswith("cam[")
    values = [float(cell.get_attribute("data-value"))
              for cell in reader.page.query_selector_all("#cam-terms td[data-value]")]  # fmt: skip
    assert max(0, sum(values)) == pytest.approx(strongest, rel=1e-6)
