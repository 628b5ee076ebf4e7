"""The beginning of the page and its tour in a browser: what it is, where to begin, thirteen stations."""

import helpers_explain as h
import numpy as np
import pytest
import small_page as small

import cnn
from cnn import layers
from cnn.explain.page import texts


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return small.write_page(tmp_path_factory.mktemp("live") / "page.html")


# -- the beginning ---------------------------------------------------------------------------------


def test_the_page_says_what_it_is_and_where_to_begin(read, file):
    page = read(file).page
    assert texts("en")["page.what"] in page.inner_text("header")
    assert page.locator("#glance svg .block").count() == 13
    assert page.get_attribute("#begin", "href") == "#tour=pixel"
    assert page.get_attribute("#mode-prediction", "aria-pressed") == "true"
    page.click("#begin")
    page.wait_for_selector("#tour[data-station=pixel]")


def test_the_loop_is_lit_where_the_reader_is(read, file):
    reader = read(file)
    for place, lit in {
        "#/network/1/y/0,3,3": "forward", "#/network/1/dweight/0,0,1,1": "backward", "#/loss": "loss",
        "#tour=update": "update", "#tour=error": "backward",
    }.items():  # fmt: skip
        reader.go(place)
        assert reader.page.locator("#glance .loop-step.lit").all_inner_texts() == [texts("en")[f"loop.{lit}"]]


def test_targets_are_one_hot_and_the_true_class_has_a_negative_gradient(read, file):
    reader = read(file, "#/loss")
    p = reader.page.evaluate("[...lossNode.tensors.p.data]")
    dz = reader.page.evaluate("[...nodes[lossNode.inputs[0]].tensors.dy.data]")
    loss = reader.page.evaluate("lossNode.tensors.y.data[0]")
    np.testing.assert_allclose(dz, np.array(p) - np.eye(4)[1], atol=1e-6)
    assert dz[1] < 0
    assert loss == pytest.approx(-np.log(p[1]), rel=1e-5)


def test_without_a_label_nothing_is_right_or_wrong(read, tmp_path):
    page = read(small.write_page(tmp_path / "page.html", known=False, label=0, remarks=["inverted"])).page
    assert "nothing here is right or wrong" in page.inner_text("#verdict")
    assert "--invert" in page.inner_text(".remark")
    page.select_option("#target", "2")
    assert "the true class is c" in page.inner_text("#verdict") or "that is right" in page.inner_text(
        "#verdict"
    )
    assert page.evaluate("[...lossNode.tensors.target.data]") == [0, 0, 1, 0]


# -- the tour --------------------------------------------------------------------------------------


def test_the_tour_is_walked_by_keyboard_alone_and_every_sum_equals_its_number(read, file):
    reader = read(file, "#tour=pixel")
    page = reader.page
    names = page.evaluate("stations().map((one) => one.id)")
    assert names == ["pixel", "conv", "relu", "pool", "linear", "softmax", "loss", "error", "linear-back",
                     "gate-back", "conv-back", "update", "again"]  # fmt: skip
    for k, name in enumerate(names):
        assert page.get_attribute("#tour", "data-station") == name
        assert page.locator("#tour-sum").count() == 0  # first a guess
        page.focus(".option >> nth=0")
        page.keyboard.press("Enter")
        assert page.locator("#tour-answer").count() == 1
        for shown, computed in page.evaluate(
            "[stations()[tour.at].cell, stations()[tour.at].also].filter(Boolean)"
            ".map((c) => [valueAt(c), explain(c).total])"
        ):
            assert computed == pytest.approx(shown, rel=1e-5, abs=1e-7)
        page.keyboard.press("ArrowRight")
        if name != names[-1]:
            reader.wait(lambda shown, following=names[k + 1]: shown == f"#tour={following}")
    page.keyboard.press("ArrowLeft")
    reader.wait(lambda shown: shown == "#tour=update")
    page.go_back()
    reader.wait(lambda shown: shown == "#tour=again")
    before, after = reader.value("#tour-before"), reader.value("#tour-after")
    assert after < before


def test_a_swipe_moves_the_tour(read, file):
    reader = read(file, "#tour=conv", width=360, height=740)
    reader.page.evaluate(
        """() => {
            const target = byId("tour-title");
            const at = (type, clientX) => {
                const touch = new Touch({ identifier: 1, target, clientX, clientY: 300 });
                target.dispatchEvent(new TouchEvent(type, { bubbles: true, changedTouches: [touch] }));
            };
            at("touchstart", 300);
            at("touchend", 120);
        }"""
    )
    reader.wait(lambda shown: shown == "#tour=relu")


@pytest.mark.parametrize("language", ["en-US", "zh-CN"])
def test_every_station_has_its_words(read, file, language):
    reader = read(file, "#tour=pixel", language=language)
    for name in reader.page.evaluate("stations().map((one) => one.id)"):
        reader.go(f"#tour={name}")
        shown = reader.page.inner_text("#tour")
        assert "tour." not in shown
        assert "{" not in shown


def test_a_network_without_convolutions_has_a_shorter_tour(read, tmp_path):
    network = cnn.Network([layers.Flatten(), layers.Linear(4)])
    network.build(small.SHAPE)
    reader = read(small.write_page(tmp_path / "page.html", network=network), "#tour=conv")
    assert reader.page.evaluate("stations().map((one) => one.id)") == [
        "pixel", "linear", "softmax", "loss", "error", "linear-back", "update", "again"
    ]  # fmt: skip
    assert reader.page.get_attribute("#tour", "data-station") == "pixel"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360])
def test_axe_finds_nothing_serious_in_the_lesson(read, file, scheme, width):
    reader = read(file, "#tour=conv", scheme=scheme, width=width)
    reader.page.evaluate(h.axe_source())
    for place in ("#tour=conv", "#tour=error", "#tour=again", "#/train"):
        reader.go(place)
        if place.startswith("#tour"):
            reader.page.click("#tour-show")
        found = reader.page.evaluate("axe.run(document).then((result) => result.violations)")
        assert not [
            (place, v["id"], v["nodes"][0]["html"][:150])
            for v in found
            if v["impact"] in ("serious", "critical")
        ]


@pytest.mark.parametrize("place", ["#tour=conv", "#tour=conv-back", "#tour=error", "#/train"])
@pytest.mark.parametrize("width", [360, 768])
def test_the_lesson_needs_no_sideways_scrolling(read, file, place, width):
    page = read(file, place, width=width, height=740).page
    if place.startswith("#tour"):
        page.click("#tour-show")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


# -- the worked example ----------------------------------------------------------------------------


def values(reader, name):
    cells = reader.page.query_selector_all(f"#{name} [data-value]")
    return [float(cell.get_attribute("data-value")) for cell in cells]


def test_labels_that_do_not_sum_to_one_leave_p_times_their_sum(read, file):
    reader = read(file, "#/loss")
    reader.page.click("#tab-example")
    reader.page.fill("#example-y-0", "0.5")
    reader.page.press("#example-y-0", "Enter")
    assert values(reader, "example-y") == [0.5, 0, 1, 0, 0]
    expected = 1.5 * np.array([0.1, 0.2, 0.25, 0.4, 0.05]) - [0.5, 0, 1, 0, 0]
    np.testing.assert_allclose(values(reader, "example-result"), expected, rtol=1e-9)
    np.testing.assert_allclose(values(reader, "example-mass"), expected, rtol=1e-9)
    assert abs(np.array(values(reader, "example-difference")) - expected).max() > 0.1
    assert "sum to 1.5" in reader.page.inner_text("#example-note")
    reader.page.click("#example-reset")
    assert values(reader, "example-result") == [0.1, 0.2, -0.75, 0.4, 0.05]


def test_logits_of_the_example_may_be_changed_and_huge_ones_show_why_the_two_are_one(read, file):
    reader = read(file, "#/loss")
    reader.page.click("#tab-example")
    reader.page.fill("#example-z-1", "3")
    reader.page.press("#example-z-1", "Enter")
    z = np.array(values(reader, "example-z"))
    p = np.exp(z) / np.exp(z).sum()
    np.testing.assert_allclose(values(reader, "example-p"), p, rtol=1e-9)
    np.testing.assert_allclose(values(reader, "example-result"), p - np.eye(5)[2], rtol=1e-9)
    reader.page.fill("#example-z-1", "1000")
    reader.page.press("#example-z-1", "Enter")
    assert values(reader, "example-difference") == [0, 1, -1, 0, 0]
    assert texts("en")["example.nan"] in reader.page.inner_text("#example-note")
