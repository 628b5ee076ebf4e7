"""The notebooks run from first to last cell; no output is committed; every text has its Chinese twin."""

import json
import os
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "scripts" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))

#: What must stand in the outputs.
SAYS = {
    "1_backprop_by_hand": ["[ 0.1   0.2  -0.75  0.4   0.05]", "passed: ", "<table>", "(8, 1, 28, 28)"],
    "2_a_layer_of_your_own": ["FAILED", "passed", "test accuracy"],
    "3_from_digits_to_cifar": ["linear", "LeNet", "residual", "taken for a"],
    "4_reading_a_run": ["FAIL", "report.html", "taken for a"],
}


def test_there_are_four():
    assert [path.stem for path in NOTEBOOKS] == list(SAYS)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_output_is_committed_and_every_text_is_there_in_chinese(path):
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "markdown":
            assert any("\u4e00" <= c <= "\u9fff" for c in "".join(cell["metadata"]["zh"])), cell["source"]
        else:
            assert cell["outputs"] == []
            assert cell["execution_count"] is None


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(path, tmp_path, monkeypatch):
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    root = str(FOLDER.parents[1])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([root, os.environ.get("PYTHONPATH", "")]))
    notebook = nbformat.read(path, as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    said = "".join(output.get("text", "") for output in outputs)
    said += "".join(text for output in outputs for text in output.get("data", {}).values())
    for text in SAYS[path.stem]:
        assert text in said, said
