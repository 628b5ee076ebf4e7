"""The learners' questions on the page: every place exists, and each link opens it."""

from pathlib import Path

import helpers_explain as h
import pytest
import small_page as small

import cnn
from cnn import layers
from cnn.commands import COMMANDS
from cnn.explain.page import questions

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8").splitlines()


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    network = cnn.Network(
        [layers.Conv2d(4, 3, bias=False), layers.BatchNorm2d(), layers.ReLU(), layers.MaxPool2d(2),
         layers.Conv2d(3, 3), layers.ReLU(), layers.Flatten(), layers.Dropout(0.2), layers.Linear(4)]
    )  # fmt: skip
    network.build(small.SHAPE)
    return small.write_page(tmp_path_factory.mktemp("questions") / "page.html", network=network)


def test_a_question_stands_in_both_languages_and_once():
    for language in ("en", "zh"):
        asked = [one[language] for one in questions()]
        assert len(set(asked)) == len(asked) > 40
        assert all(one["answer"][language] for one in questions() if "answer" in one)


def test_commands_and_sections_that_answer_a_question_exist():
    for place in {one["place"] for one in questions()}:
        if place.startswith("README: "):
            assert f"## {place[8:]}" in README
        elif not place.startswith("#"):
            assert place.removeprefix("cnn ") in COMMANDS


@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_address_of_the_questions_opens_its_place(browser, file, language):
    reader = h.Reader(browser, file, language={"en": "en-US", "zh": "zh-CN"}[language])
    page = reader.page
    for one in questions():
        address = one["place"]
        if not address.startswith("#"):
            continue
        page.click("#questions summary")
        page.locator("#questions a", has_text=one[language]).first.click()
        reader.wait(lambda shown, address=address: shown == address)
        assert not page.locator("#questions").get_attribute("open")
        if address.startswith("#tour="):
            assert page.get_attribute("#tour", "data-station") == address.removeprefix("#tour=")
        elif address.startswith("#step-"):
            top = page.evaluate("(id) => byId(id).getBoundingClientRect().top", address[1:])
            assert -5 <= top < 900, address
        else:
            assert page.get_attribute("#content", "data-view") == address.removeprefix("#/")
    assert not reader.complaints
    reader.close()


def test_a_place_that_the_network_lacks_is_no_link(browser, tmp_path):
    network = cnn.Network([layers.Flatten(), layers.Linear(4)])
    network.build(small.SHAPE)
    reader = h.Reader(browser, small.write_page(tmp_path / "page.html", network=network))
    links = reader.page.evaluate(
        "[...document.querySelectorAll('#questions a')].map((a) => a.getAttribute('href'))"
    )
    assert "#step-Loss-8" in links
    assert not [link for link in links if "Conv2d" in link or link == "#tour=conv"]
    reader.close()
