"""The report of a run: complete, self-contained, safe whatever the classes are called."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from cnn import report
from cnn.data import Split
from cnn.language import speaking
from cnn.layers import Conv2d, Flatten, Linear, ReLU
from cnn.network import Network
from cnn.report import charts, gradients, pictures

HOSTILE = '<script>alert("1")</script>&amp;'


def history(epochs, validation=True):
    return [
        {
            "epoch": e,
            "step": 10 * e,
            "lr": 0.1 / e,
            "train_loss": 1.0 / e,
            "train_accuracy": 1 - 0.5 / e,
            "val_loss": 1.2 / e if validation else None,
            "val_accuracy": 1 - 0.6 / e if validation else None,
            "images_per_second": 1000.0,
            "seconds": 2.0 * e,
        }
        for e in range(1, epochs + 1)
    ]


def story(classes=("cat", "dog", "cow"), shape=(3, 8, 8), count=30, epochs=4, right=0.6, **changes):
    rng = np.random.default_rng(0)
    network = Network([Conv2d(5, kernel_size=3), ReLU(), Flatten(), Linear(len(classes))])
    network.build(shape, rng=rng)
    labels = np.arange(count) % len(classes)
    answers = np.where(rng.random(count) < right, labels, (labels + 1) % len(classes))
    p = np.full((count, len(classes)), 0.1 / len(classes))
    p[np.arange(count), answers] += 0.9
    rows = history(epochs)
    network.grad[...] = rng.standard_normal(network.grad.size)
    fields = {
        "name": "tiny",
        "dataset": "toys",
        "classes": tuple(classes),
        "history": rows,
        "gradients": [[e / 2, *gradients.layer_norms(network)] for e in range(2 * epochs)],
        "result": {
            "epoch": epochs,
            "test_loss": 0.5,
            "test_accuracy": float((answers == labels).mean()),
            "test_images": count,
            "parameters": network.data.size,
            "seconds": 8.0,
        },
        "network": network,
        "test": Split(rng.integers(0, 256, (count, *shape)).astype(np.uint8), labels),
        "answers": p,
        "config_toml": 'name = "tiny"',
    }
    return report.Story(**{**fields, **changes})


class Page(HTMLParser):
    """Collects tags and text, and checks that what opens also closes."""

    VOID = ("meta", "img", "br", "line", "circle", "polyline", "hr")

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.text = [], [], ""
        self.feed(text)
        assert self.open == []

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def count(self, name):
        return sum(tag == name for tag, _ in self.tags)


def test_the_page_has_every_part():
    page = Page(report.render(story()))
    for heading in ("Training", "Confusion matrix", "Worst mistakes", "First-layer filters", "Gradients"):
        assert heading in page.text
    assert page.count("svg") >= 4
    assert page.count("polyline") >= 6


def test_the_accuracy_over_several_views_is_told_where_there_is_one():
    plain = story()
    assert "with TTA" not in Page(report.render(plain)).text
    page = Page(report.render(story(result=plain.result | {"tta_accuracy": 0.87654})))
    assert "with TTA" in page.text
    assert "87.65 %" in page.text


def test_the_page_needs_nothing_else():
    text = report.render(story())
    page = Page(text)
    assert page.count("script") == page.count("link") == page.count("iframe") == 0
    assert "default-src 'none'" in text
    sources = [a[key] for _, a in page.tags for key in ("src", "href") if key in a]
    assert sources
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert not re.search(r"url\(|@import|https?:", text)
    assert len(text) < 150_000


def test_hostile_names_are_shown_and_not_run():
    text = report.render(
        story(classes=(HOSTILE, 'a" onmouseover="x', "c"), dataset=HOSTILE, config_toml=HOSTILE)
    )
    page = Page(text)
    assert page.count("script") == 0
    assert not any(key.startswith("on") for _, attributes in page.tags for key in attributes)
    assert HOSTILE in page.text


def test_confusion_counts_are_those_of_the_answers():
    told = story(right=0.5)
    page = report.render(told)
    answers = told.answers.argmax(axis=1)
    table = page.split("<table class=confusion>")[1].split("</table>")[0]
    rows = [re.findall(r"<td[^>]*>([\d·]+)</td>", row) for row in table.split("<tr>")[2:]]
    for k, row in enumerate(rows):
        found = [0 if cell == "·" else int(cell) for cell in row]
        assert found == [int(((told.test.labels == k) & (answers == j)).sum()) for j in range(3)]


def test_worst_mistakes_come_first():
    told = story()
    p = told.answers.copy()
    p[7] = [0.999, 0.0005, 0.0005]  # label 1
    page = report.render(story(answers=p))
    assert page.split("Worst mistakes")[1].split("image ")[1].startswith("7")


@pytest.mark.parametrize(
    "changes",
    [
        {"right": 1.1},
        {"epochs": 1},
        {"history": [], "gradients": []},
        {"history": history(3, validation=False)},
        {"classes": tuple(f"class {k}" for k in range(60)), "count": 300},
        {"shape": (1, 5, 5)},
        {"shape": (2, 8, 8)},
        {"shape": (3, 200, 120), "count": 6},
    ],
    ids=[
        "no mistake",
        "one epoch",
        "no epoch",
        "no validation",
        "60 classes",
        "grey",
        "two channels",
        "large",
    ],
)
def test_unusual_runs_have_a_report(changes):
    page = Page(report.render(story(**changes)))
    assert "tiny" in page.text
    assert "nan" not in page.text.lower()


def test_a_network_without_convolution_has_no_filters():
    network = Network([Flatten(), Linear(3)])
    network.build((3, 8, 8))
    page = report.render(story(network=network, gradients=[[0.0, 1.0], [1.0, 0.5]]))
    assert "First-layer filters" not in page


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("ys", [[1, 1, 1], [0.001, 5], [1e-9, 1e9], [3.0], [2, None, 4, float("nan"), 1]])
def test_every_point_lies_inside_the_chart(log, ys):
    line = charts.Line("a", list(enumerate(ys)), "red")
    svg = charts.line_chart("t", [line], "x", "{:g}".format, log)
    places = re.findall(r"(-?[\d.]+),(-?[\d.]+)", "".join(re.findall(r'points="([^"]*)"', svg)))
    places += re.findall(r"cx=(-?[\d.]+) cy=(-?[\d.]+)", svg)
    assert len(places) == sum(y is not None and y == y for y in ys)
    for x, y in places:
        assert 0 <= float(x) <= 420
        assert 0 <= float(y) <= 240


def test_gradients_are_sampled_a_few_times_an_epoch_and_seldom_in_all():
    for steps in (1, 7, 100, 5000):
        for epochs in (1, 10, 200, 1000):
            times = len(range(0, steps, gradients.interval(steps, epochs)))
            assert 1 <= times <= 8
            assert times * epochs <= max(200, epochs)


def test_layer_norms_are_the_lengths_of_the_gradients():
    network = story().network
    expected = [
        np.sqrt(sum((p.grad.astype(float) ** 2).sum() for p in layer.parameters()))
        for layer in network.layers
        if layer.parameters()
    ]
    assert gradients.layer_norms(network) == pytest.approx(expected, rel=1e-3)
    assert gradients.table(network, [[0.5, 1.0, 2.0]]).splitlines() == [
        "epoch,0 Conv2d,3 Linear",
        "0.5,1.0,2.0",
    ]


def test_signs_have_their_colours():
    colours = pictures.diverging(np.array([[-1.0, 0.0, 1.0]]))[0].astype(int)
    assert colours[0][2] > colours[0][0]
    assert colours[2][0] > colours[2][2]
    assert colours[1].min() > 240


def test_a_smoothed_training_loss_is_called_so():
    assert "training, smoothed labels" in report.render(story(label_smoothing=0.1))
    assert "smoothed labels" not in report.render(story())


NUMBER = re.compile(r"\d[\d,.]*\d|\d")


def words_of(html):
    """What a reader of the page reads or hears, without the layers and the config, which stay as they are."""
    shown = re.sub(r"<(style|pre)>.*?</\1>", " ", html, flags=re.DOTALL)
    spoken = re.findall(r'(?:alt|aria-label)="([^"]*)"', shown)
    return re.sub(r"<[^>]+>", "|", shown) + "|".join(spoken)


@pytest.mark.parametrize(
    "changes",
    [
        {"right": 0.5, "result": story().result | {"tta_accuracy": 0.8, "seconds": 9000.0}},
        {"right": 1.1, "label_smoothing": 0.1},
        {"history": [], "gradients": []},
        {"history": history(3, validation=False), "shape": (2, 8, 8)},
        {"classes": tuple(f"K{k}" for k in range(60)), "count": 300},
    ],
    ids=["mistakes", "no mistake", "no epoch", "no validation", "60 classes"],
)
def test_a_chinese_report_has_no_english_left_and_the_same_numbers(changes):
    told = story(**changes)
    english, chinese = words_of(report.render(told)), words_of(report.render(told, "zh"))
    assert sorted(NUMBER.findall(chinese)) == sorted(NUMBER.findall(english))
    kept = {"tiny", "toys", "x", "config", "toml", "Dropout", "Conv2d", "Linear", *told.classes}
    assert set(re.findall("[A-Za-z][A-Za-z0-9]*", chinese)) <= kept


def test_the_report_follows_the_language_of_the_command(tmp_path):
    with speaking("zh"):
        report.write(tmp_path / "report.html", story())
        assert "Confusion matrix" in report.render(story(), "en")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert text == report.render(story(), "zh")
    assert "<html lang=zh-CN>" in text


def test_the_curves_are_where_their_numbers_are(tmp_path):
    """Pixels of a line's colour lie at the places of its points, and a value that is missing leaves a gap."""
    from PIL import Image

    from cnn.report.plots import lines

    ys = [0.0, 1.0, None, None, 3.0, 4.0]
    lines(tmp_path / "a.png", {"one": (range(6), ys)}, "title", "step", "loss", ylim=(0, 4))
    image = np.asarray(Image.open(tmp_path / "a.png")).astype(int)
    blue = np.abs(image - (0x3B, 0x6F, 0xB6)).sum(axis=2) < 40
    blue[:50] = False  # the legend
    x0, x1, y0, y1 = 74, 1040 - 16, 550 - 52, 58
    for x, y in enumerate(ys):
        across = round(x0 + x / 5 * (x1 - x0))
        column = blue[:, across - 1 : across + 2].any(axis=1)
        if y is None:
            assert not column.any()
        else:
            assert abs(np.flatnonzero(column).mean() - (y0 + y / 4 * (y1 - y0))) < 3


def test_a_curve_of_one_epoch_or_of_none_is_drawn(tmp_path):
    from cnn.report.plots import curves

    row = {"epoch": 1, "train_loss": 0.5, "val_loss": None, "train_accuracy": 1.0, "val_accuracy": None}
    for number, history in enumerate(([], [row], [row | {"train_loss": float("nan")}])):
        curves(tmp_path / f"{number}.png", history, "x", None)
        assert (tmp_path / f"{number}.png").read_bytes().startswith(b"\x89PNG")


def test_curves_are_drawn_in_pieces_of_a_few_megabytes(tmp_path, monkeypatch):
    from PIL import Image

    from cnn.report.plots import curves

    made, new = [], Image.new
    monkeypatch.setattr(Image, "new", lambda mode, size, *rest: made.append(size) or new(mode, size, *rest))
    columns = ("train_loss", "val_loss", "train_accuracy", "val_accuracy")
    history = [{"epoch": e, **dict.fromkeys(columns, 1 / (1 + e))} for e in range(1, 200)]
    curves(tmp_path / "curves.png", history, "x", 3)
    assert len(made) > 5
    assert max(4 * w * h for w, h in made) < 5_000_000
    pixels = np.asarray(Image.open(tmp_path / "curves.png"))
    assert pixels.shape == (576, 1430, 3)
    frame = pixels[60:520, 74]  # the axis on the left runs through all pieces without a gap
    assert (frame < 250).any(axis=1).all()
