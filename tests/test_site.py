"""The website, built from the repository, opened from disk: complete, quiet, accessible, in two languages."""

import importlib
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import helpers_explain as h
import numpy as np
import pytest

import cnn
from cnn import layers
from cnn.config import load_config
from cnn.course import exercises
from cnn.explain.derivations import kinds

ROOT = Path(__file__).resolve().parents[1]
LANGUAGES = ("en", "zh")
SOME = ("index", "hour", "tour", "chapters/index", "chapters/Loss", "chapters/Conv2d", "exercises", "speed",
        "notebooks/1_backprop_by_hand", "manual", "learning-rate", "networks", "api", "readme",
        "python")  # fmt: skip
#: Pages that are not of the site's own hand: pdoc's, and the networks'.
OTHERS = ("api/cnn/data/thumbnail", "api/cnn/layers/pool", "networks/lenet")


def run(*arguments):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "scripts" / "site.py"), *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    for package in ("pdoc", "mistune", "pygments", "nbclient"):
        pytest.importorskip(package, reason='needs the extra "site"')
    out = tmp_path_factory.mktemp("site") / "out"
    done = run(out, "--draft")
    assert done.returncode == 0, done.stderr
    return out


class Links(HTMLParser):
    """Collects what a page links to and which anchors it has."""

    def __init__(self, text):
        super().__init__()
        self.links, self.ids = [], set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.ids |= {values[name] for name in ("id", "name") if values.get(name)}
        self.links += [values[name] for name in ("href", "src") if values.get(name)]


def own_pages(site):
    return sorted(path for language in LANGUAGES for path in (site / language).rglob("*.html"))


def test_every_page_has_its_twin(site):
    names = {
        language: {str(p.relative_to(site / language)) for p in (site / language).rglob("*.html")}
        for language in LANGUAGES
    }
    assert names["en"] == names["zh"]
    assert len(names["en"]) > 40
    assert set(SOME) <= {name.removesuffix(".html") for name in names["en"]}
    for path in (site / "zh").rglob("*.html"):
        text = re.sub(
            r"<(script|style|pre|code|math)\b.*?</\1>", "", path.read_text(encoding="utf-8"), flags=re.S
        )
        assert len(re.findall(r"[\u4e00-\u9fff]", text)) > 40, path


def test_no_link_is_dead(site):
    """Everything on the site's own pages, and what pdoc's pages link to among files."""
    found = {
        path: Links(path.read_text(encoding="utf-8"))
        for path in site.rglob("*.html")
        if path.parent.name != "networks"
    }
    dead, outside = [], set()
    for path, page in found.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme:
                outside.add(parts.scheme)
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.is_file():
                dead.append((str(path.relative_to(site)), link))
                continue
            has = found[target].ids if target in found and "api" not in target.parts else None
            if target.name == "python.html" and parts.fragment in exercises():
                continue  # the page chooses the exercise that its address names
            if parts.fragment and has is not None and unquote(parts.fragment) not in has:
                dead.append((str(path.relative_to(site)), link))
    assert dead == []
    assert outside <= {"https", "data"}


def test_every_public_name_is_in_both_indexes_of_the_api(site):
    """A sentence in English and in Chinese each, no text without a name, and a link that finds its place."""
    api = website("api")
    texts = api._chinese()
    for module, names in api.names().items():
        if module != "cnn.reference":
            assert set(texts[module]) - {"about"} == set(names), module
        for name in names:
            assert len(api.sentence(module, name, "en")) > 8, (module, name)
            assert re.search(r"[\u4e00-\u9fff]", api.sentence(module, name, "zh")), (module, name)
    bases = {
        re.sub("_(forward|backward)(_input|_weight)?$", "", name) for name in api.names()["cnn.reference"]
    }
    assert set(texts["operations"]) == bases
    for language in LANGUAGES:
        links = Links((site / language / "api.html").read_text(encoding="utf-8")).links
        targets = {link for link in links if link.startswith("../api/") and "#" in link}
        assert len(targets) > 200
        ids = {}
        for link in targets:
            file, _, name = link.removeprefix("../").partition("#")
            if file not in ids:
                ids[file] = set(re.findall(r'id="([^"]+)"', (site / file).read_text(encoding="utf-8")))
            assert name in ids[file], link


def test_nothing_is_fetched_from_elsewhere_by_its_code(site):
    for path in own_pages(site):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r'<(script|img|link|iframe)[^>]+(src|href)="(https?:)?//', text), path


@pytest.fixture
def visit(browser, site):
    """Open pages of the site; at the end none may have complained or asked for anything outside."""
    contexts, complaints, requests = [], [], []

    def opened(name, width=1280, scheme="light"):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append((name, message.text)))
        page.on("pageerror", lambda error: complaints.append((name, str(error))))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(
            (site / name).as_uri()
            if "?" not in name
            else (site / name.split("?")[0]).as_uri() + "?" + name.split("?")[1]
        )
        return page

    yield opened
    for context in contexts:
        context.close()
    assert complaints == []
    assert not [url for url in requests if not url.startswith(("file:", "data:", "blob:"))]


@pytest.mark.parametrize("width", [1280, 360])
def test_every_page_opens_from_disk_without_a_word_and_fits(site, visit, width):
    page = visit("en/index.html", width)
    for path in own_pages(site):
        page.goto(path.as_uri())
        assert page.locator("h1").count() == 1, path
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (path, width)
        assert page.get_attribute("html", "lang") == ("zh-CN" if path.is_relative_to(site / "zh") else "en")


def serious(page, path):
    """Return what axe finds wrong with a page."""
    page.goto(path.as_uri())
    if path.parent.name == "networks":
        page.wait_for_selector("#banner[data-state]", state="attached", timeout=60_000)
    page.evaluate(h.axe_source())
    # without preload: axe would read the style sheets again, which pages from disk may not
    found = page.evaluate("axe.run(document, { preload: false }).then((result) => result.violations)")
    return [
        (path.name, v["id"], v["nodes"][0]["html"][:150])
        for v in found
        if v["impact"] in ("serious", "critical")
    ]


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (360, "dark")])
def test_axe_finds_nothing_serious(site, visit, language, width, scheme):
    page = visit("en/index.html", width, scheme)
    assert [f for name in SOME for f in serious(page, site / language / f"{name}.html")] == []


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (360, "dark")])
def test_axe_finds_nothing_serious_on_the_other_kinds_of_pages(site, visit, width, scheme):
    page = visit("en/index.html", width, scheme)
    assert [f for name in OTHERS for f in serious(page, site / f"{name}.html")] == []


def test_the_link_to_the_other_language_keeps_the_place(visit):
    page = visit("en/exercises.html")
    page.goto(page.url + "#conv_dx")
    page.wait_for_function("document.getElementById('twin').href.endsWith('#conv_dx')")
    page.click("#twin")
    page.wait_for_selector("html[lang=zh-CN]")
    assert page.url.endswith("zh/exercises.html#conv_dx")


@pytest.mark.parametrize(("language", "text"), [("zh", "损失"), ("en", "Loss")])
def test_a_link_into_a_network_carries_language_and_place(site, visit, language, text):
    page = visit(f"networks/digits.html?lang={language}#/loss")
    page.wait_for_selector("#banner[data-state]", state="attached", timeout=60_000)
    assert text in page.inner_text("#tab-loss")
    assert page.get_attribute("#tab-loss", "aria-selected") == "true"


def test_a_link_into_a_network_carries_the_cell(site, visit):
    links = Links((site / "zh" / "networks.html").read_text(encoding="utf-8")).links
    place = next(link for link in links if "#/network/" in link).removeprefix("../")
    page = visit(place)
    page.wait_for_selector("html[data-inspecting=yes]", timeout=60_000)
    assert page.evaluate("document.documentElement.dataset.place") == "#" + place.partition("#")[2]
    assert "∂L/∂" in page.inner_text("#inspector")
    assert page.get_attribute("html", "lang") == "zh-CN"


def test_the_first_page_is_in_the_readers_language_and_has_the_network(site, browser):
    """The entrance chooses the language, the network answers at once, and the README is a click away."""
    for locale, language, heading in (("zh-CN", "zh", "两条命令"), ("en-GB", "en", "Two commands")):
        context = browser.new_context(locale=locale)
        page = context.new_page()
        page.goto((site / "index.html").as_uri())
        page.wait_for_url(f"**/{language}/index.html")
        shares = [float(text) for text in page.locator("#bars .p").all_inner_texts()]
        assert sum(shares) == pytest.approx(1, abs=5e-3)
        page.click("a[href='readme.html']")
        page.wait_for_selector(f"h2:text-is('{heading}')")
        context.close()


def test_the_moving_picture_of_a_chapter_moves(visit):
    page = visit("zh/chapters/Conv2d.html")
    box = page.locator(".moving .toy").first
    if not box.is_visible():
        page.locator(".moving summary").first.click()
    before = page.locator(".moving .toy-product").first.inner_text()
    page.locator(".moving .toy-controls button").nth(1).click()
    assert page.locator(".moving .toy-product").first.inner_text() != before


# -- the network of the landing page ---------------------------------------------------------------


def network_of(site):
    """Return (Network in float64, images, labels) from the program of the landing page."""
    text = (site / "assets" / "live.js").read_text(encoding="utf-8")
    data = json.loads(re.search(r"const network = (\{.*?\});\n", text)[1])
    import base64

    network = cnn.Network(
        [
            layers.Conv2d(8, kernel_size=5, stride=2, padding=2),
            layers.ReLU(),
            layers.MaxPool2d(2),
            layers.Flatten(),
            layers.Linear(10),
        ]
    )
    network.build((1, 28, 28), dtype=np.float64)
    with_weights = [node for node in data["nodes"] if node["values"]]
    for layer, node in zip((network.layers[0], network.layers[4]), with_weights, strict=True):
        for parameter in layer.parameters():
            values = np.frombuffer(base64.b64decode(node["values"][parameter.name]), "<f4")
            parameter.data = values.reshape(parameter.shape).astype(np.float64)
    images = np.frombuffer(base64.b64decode(data["samples"]["pixels"]), np.uint8).reshape(-1, 1, 28, 28) / 255
    return network, images, np.array(data["samples"]["labels"])


def test_the_live_network_computes_what_cnn_computes_and_learns(site, visit):
    network, images, labels = network_of(site)
    loss = layers.SoftmaxCrossEntropy()
    with cnn.use_backend("reference"):
        value = loss.forward(network.forward(images[:1]), labels[:1])
        network.backward(loss.backward())
        after = network.data - 0.01 * network.grad
        gradient = loss.probabilities[0] - np.eye(10)[labels[0]]
        network.data[...] = after
        second = loss.forward(network.forward(images[:1]), labels[:1])
    page = visit("en/index.html")
    p = page.evaluate("run().p")
    np.testing.assert_allclose(p, gradient + np.eye(10)[labels[0]], atol=1e-12)
    shown = page.locator("#bars .back").all_inner_texts()
    assert float(shown[labels[0]].replace("−", "-")) == pytest.approx(gradient[labels[0]], abs=6e-4)
    page.click("#step")
    trained = page.evaluate(
        "nodes.flatMap((node) => node.parameters.flatMap((name) => [...state.parameters[node.id][name]]))"
    )
    np.testing.assert_allclose(trained, after, atol=1e-12)
    assert f"{value:.3f} → {second:.3f}" in page.inner_text("#say")
    assert second < value


def test_drawing_changes_the_answer(visit):
    page = visit("zh/index.html")
    before = page.evaluate("run().p")
    box = page.locator("#pad").bounding_box()
    page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 0.15 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 0.85 * box["height"], steps=12)
    page.mouse.up()
    assert page.evaluate("Math.max(...state.image)") == 1
    assert page.evaluate("run().p") != before
    assert page.is_disabled("#step")
    page.click('.digit[data-digit="1"]')
    assert not page.is_disabled("#step")
    assert "L = " in page.inner_text("#say")


# -- the command -----------------------------------------------------------------------------------


def test_a_folder_of_somebody_else_is_left_as_it_is(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    done = run(tmp_path, "--draft")
    assert done.returncode == 2
    assert "left as it is" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_networks_learn_their_own_data_where_they_are(tmp_path):
    """The three networks are there with any data: without MNIST or CIFAR-10 they learn the bundled digits."""
    pytest.importorskip("mistune")
    recipes = website("networks")._recipes

    def found(data):
        return {
            name: (load_config(file, overrides).data, missing)
            for name, file, overrides, _, missing in recipes(ROOT, data, False)
        }

    for data in (None, tmp_path):
        got = found(data)
        assert [missing for _, missing in got.values()] == ["", "MNIST", "CIFAR-10"]
        assert {config.dataset for config, _ in got.values()} == {"sample"}
        assert list(got["residual"][0].augment) == []
    for name in ("MNIST", "cifar10-images"):
        (tmp_path / name).mkdir()
    (_, _), (lenet, _), (residual, missing) = found(tmp_path).values()
    assert missing == ""
    assert (lenet.dataset, Path(lenet.root)) == ("MNIST", tmp_path)
    assert (residual.dataset, Path(residual.root)) == ("folder", tmp_path / "cifar10-images")
    (tmp_path / "cifar-10-batches-py").mkdir()
    residual, _ = found(tmp_path)["residual"]
    assert (residual.dataset, Path(residual.root)) == ("CIFAR10", tmp_path)


def website(name):
    """Return a module of scripts/website."""
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        return importlib.import_module(f"website.{name}")
    finally:
        sys.path.remove(str(ROOT / "scripts"))


def test_the_readme_is_short_and_the_chapters_are_all_derivations():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150
    pytest.importorskip("mistune")
    named = [kind for _, part in website("chapters").order() for kind in part]
    assert sorted(named) == sorted(kinds())
