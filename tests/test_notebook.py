"""What notebooks show: tables of networks, data sets, gradient checks and answers, and a bar of their own."""

import base64
import io
import sys
import types
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

import cnn
from cnn import terminal
from cnn.data import load_dataset
from cnn.data.dataset import make_dataset
from cnn.gradcheck import check_network
from cnn.layers import Flatten, Linear, ReLU
from cnn.model import Predictions


def cells(html):
    """Return the caption and the rows of texts of an HTML table; it has to be well-formed."""
    root = ElementTree.fromstring(f"<div>{html}</div>")
    rows = [["".join(cell.itertext()) for cell in row] for row in root.iter("tr")]
    return root.findtext(".//caption") or "", rows


@pytest.fixture
def network():
    network = cnn.Network([Flatten(), Linear(3), ReLU(), Linear(2)])
    assert network._repr_html_() == "<pre>Network([Flatten(), Linear(3), ReLU(), Linear(2)])</pre>"
    network.build((1, 4, 4))
    return network


def test_a_network_is_the_table_of_its_summary(network):
    title, rows = cells(network._repr_html_())
    assert title == "input 1 x 4 x 4, batch of 1"
    lines = str(network.summary()).splitlines()
    assert [row for row in rows if row[0] == "1"] == [["1", "Linear", "3", "51", "48", "12 B"]]
    assert len(rows) == len([line for line in lines if not line.startswith("-")]) - 2  # title and memory
    assert "training needs about" in network.summary(batch_size=8)._repr_html_()


def test_a_gradient_check_is_a_table_with_its_verdict(network, rng):
    network.body.reset()
    network.build((1, 4, 4), dtype=np.float64)
    x, labels = rng.normal(size=(3, 1, 4, 4)), np.array([0, 1, 1])
    report = check_network(network, x, labels)
    title, rows = cells(report._repr_html_())
    assert title == str(report).splitlines()[-1]
    assert title.startswith("passed: ")
    assert rows[0][:4] == ["layer", "type", "tensor", "mode"]
    assert len(rows) > 4


def test_a_data_set_shows_counts_and_first_images():
    data = load_dataset("sample")
    assert repr(data) == "Dataset('sample': 4,000 training, 1,000 test images of 1x28x28, 10 classes)"
    assert repr(data.train) == "Split(4,000 images of 1x28x28)"
    title, rows = cells(data._repr_html_())
    assert title == repr(data)
    counts = [np.count_nonzero(split.labels == 3) for split in (data.train, data.test)]
    assert rows[4] == ["3", *map(str, counts), ""]
    assert data._repr_html_().count("<img") == 60


def test_the_thumbnails_are_the_images():
    images = np.arange(2 * 3 * 4 * 5, dtype=np.uint8).reshape(2, 3, 4, 5)
    data = make_dataset("two", ["a<b", "c"], (images, np.array([0, 1])), (images, np.array([1, 1])), "here")
    html = data._repr_html_()
    assert "a&lt;b" in html
    encoded = html.split("base64,")[1].split('"')[0]
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))))
    np.testing.assert_array_equal(shown.transpose(2, 0, 1), images[0])


def test_answers_are_a_table():
    answers = Predictions(np.array([[0.2, 0.8], [0.9, 0.1]]), ("cat", "dog"), ["a.png", "<b>.png"])
    title, rows = cells(answers._repr_html_())
    assert title == "2 images"
    assert rows[1:] == [["a.png", "dog 80.0 %", "cat 20.0 %"], ["<b>.png", "cat 90.0 %", "dog 10.0 %"]]


def test_a_notebook_gets_tqdms_own_bar(monkeypatch):
    shell = type("ZMQInteractiveShell", (), {})()
    module = types.SimpleNamespace(get_ipython=lambda: shell, version_info=(9, 0), display=None)
    assert not terminal.in_notebook()
    monkeypatch.setitem(sys.modules, "IPython", module)
    assert terminal.in_notebook()
    bars = []
    monkeypatch.setitem(sys.modules, "tqdm.auto", types.SimpleNamespace(tqdm=lambda **o: bars.append(o)))
    terminal.bar(total=3)
    assert bars == [{"total": 3}]
    assert terminal.bar(False, total=3).disable


CELLS = [
    "import numpy as np, cnn; X = np.eye(40, 5); y = X.argmax(axis=1)\n"
    "model = cnn.Classifier(epochs=2, backend='reference', verbose=True).fit(X, y)",
    "model.model_.network",
]


@pytest.mark.filterwarnings("ignore")
def test_a_kernel_of_jupyter_shows_the_bar_the_lines_and_the_table(monkeypatch):
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("PYTHONPATH", str(Path(cnn.__file__).parents[1]))
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    training, table = (cell.outputs for cell in notebook.cells)
    out, err = ("".join(o.text for o in training if o.get("name") == n) for n in ("stdout", "stderr"))
    assert "epoch 2/2" in out
    assert "images/s" in err or any("widget" in str(o.get("data")) for o in training)
    assert table[0].data["text/html"].startswith("<table>")
