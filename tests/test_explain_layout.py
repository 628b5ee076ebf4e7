"""Where things are on the page: on narrow and wide screens, on paper, under a finger."""

import helpers_explain as h
import pytest
import small_page as small

import cnn
from cnn import layers


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return small.write_page(tmp_path_factory.mktemp("layout") / "page.html")


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """A page with many maps beside one another."""
    network = cnn.Network([layers.Conv2d(16, 3, padding=1), layers.Flatten(), layers.Linear(4)])
    network.build(small.SHAPE)
    return small.write_page(tmp_path_factory.mktemp("wide") / "page.html", network=network)


CELLS = [
    "0/y/0,5,5",
    "1/y/3,9,9",
    "1/weight/2,0,3,3",
    "2/running_var/1",
    "4/dy/2,4,4",
    "10/dweight/2,5",
    "13/p/1",
]


@pytest.mark.parametrize("size", [(360, 740), (768, 1024), (1280, 900)])
def test_a_followed_link_shows_its_cell_beside_the_panel(browser, file, size):
    reader = h.Reader(browser, file, width=size[0], height=size[1])
    for cell in CELLS:
        if cell.startswith("13/"):
            cell = f"{reader.page.evaluate('lossNode.id')}/p/1"
        reader.open(cell)
        top, bottom, left, right, panel = reader.page.evaluate(
            """() => {
                const map = maps.get(marks.selected.key).find((one) => one.canvas.isConnected);
                const box = map.canvas.getBoundingClientRect(), [x, y] = map.place(marks.selected.index);
                const panel = byId("inspector").getBoundingClientRect();
                const left = box.left + x, top = box.top + y;
                const below = innerWidth <= 1080 ? panel.top : innerHeight;
                return [top, top + map.size, left, left + map.size, below];
            }"""
        )
        assert 0 <= top < bottom <= panel, cell
        assert 0 <= left < right <= size[0], cell
    reader.close()


@pytest.mark.parametrize("width", [1100, 1200, 1280, 1366, 1440])
def test_no_map_is_cut_off_beside_the_panel(browser, wide, width):
    reader = h.Reader(browser, wide, width=width)
    assert reader.page.evaluate(
        "[...document.querySelectorAll('.mapbox')].every((box) => box.scrollWidth <= box.clientWidth + 1)"
    )
    reader.close()


def test_skipping_to_the_content_keeps_the_address(browser, file):
    reader = h.Reader(browser, file, "#/network/1/y/0,3,3")
    reader.page.focus("#skip")
    reader.page.keyboard.press("Enter")
    assert reader.page.evaluate("[location.hash, document.activeElement.id]") == [
        "#/network/1/y/0,3,3",
        "content",
    ]
    reader.close()


def test_paper_is_white_with_all_maps_and_the_panel_after_them(browser, file):
    reader = h.Reader(browser, file, "#/network/1/dweight/0,0,1,1", width=800, height=500, scheme="dark")
    reader.page.emulate_media(media="print", color_scheme="dark")
    reader.page.evaluate("dispatchEvent(new Event('beforeprint'))")
    blank = reader.page.evaluate(
        """[...document.querySelectorAll("canvas.map")].filter((canvas) => {
            const picture = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
            return !picture.data.some((v) => v);
        }).length"""
    )
    assert blank == 0
    shown = reader.page.evaluate(
        """[getComputedStyle(document.body).backgroundColor, document.documentElement.dataset.theme,
            getComputedStyle(byId("inspector")).position,
            document.querySelectorAll(".derivation li").length > 5,
            byId("inspector").getBoundingClientRect().top >= byId("rows").getBoundingClientRect().bottom]"""
    )
    assert shown == ["rgb(255, 255, 255)", "light", "static", True, True]
    reader.page.emulate_media(media="screen", color_scheme="dark")
    reader.page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert reader.page.get_attribute("html", "data-theme") == "dark"
    assert reader.page.locator("#value").count() == 1
    assert not reader.complaints
    reader.close()


def test_a_finger_reaches_the_neighbours_of_a_cell(browser, file):
    reader = h.Reader(browser, file, "#/network/1/y/2,3,4", width=360, height=740)
    for name, place in (("right", "2,3,5"), ("down", "2,4,5"), ("left", "2,4,4"), ("up", "2,3,4")):
        reader.page.click(f"[aria-label^='One '][aria-label$='{name}']")
        reader.wait(lambda shown, place=place: shown == f"#/network/1/y/{place}")
    reader.close()


def test_filters_of_colour_networks_open_their_weights(browser, tmp_path):
    import numpy as np

    from cnn.explain import collect

    network = cnn.Network([layers.Conv2d(4, 3), layers.Flatten(), layers.Linear(7)])
    network.build((3, 8, 8))
    image = np.random.default_rng(0).standard_normal((3, 8, 8)).astype(np.float32)
    (tmp_path / "page.html").write_text(h.make_page(collect(network, image, 1)), encoding="utf-8")
    reader = h.Reader(browser, tmp_path / "page.html", "#/pictures")
    reader.page.focus(".filter-button >> nth=2")
    reader.page.keyboard.press("Enter")
    weight = np.abs(network.layers[0].weight.data[2])
    c, u, v = np.unravel_index(weight.argmax(), weight.shape)
    reader.wait(lambda shown: shown == f"#/network/1/weight/2,{c},{u},{v}")
    reader.close()
