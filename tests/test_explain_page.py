"""The explorable page in a real browser: every number, the way from one to the next, the loss card."""

import re

import helpers_explain as h
import numpy as np
import pytest

import cnn
from cnn import layers
from cnn.explain import collect


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
def test_three_hundred_cells_equal_numpy(read, tmp_path, training):
    nodes = h.make_nodes(training)
    (tmp_path / "page.html").write_text(h.make_page(nodes), encoding="utf-8")
    reader = read(tmp_path / "page.html")
    assert "values agree" in reader.banner()
    expected = h.expected_numbers(nodes)
    kinds = {nodes[node_id].kind for node_id, _ in expected} - {"Input"}
    assert kinds == {node.kind for node in nodes} - {"Input"}
    for cell, value, scale in h.some_cells(expected, 320, np.random.default_rng(4)):
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
