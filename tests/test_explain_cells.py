"""Random cells of pages of a batch and of a run's history, over every kind of layer, equal NumPy."""

import helpers_explain as h
import numpy as np
import pytest

import cnn
from cnn.explain import build_page, collect
from cnn.explain.derivations import kinds

COUNT, CELLS = 3, 320
LABELS = [2, 0, 5]
ABOUT = {"known": True, "smoothing": 0, "backend": "reference", "mean": [0.5, 0.5], "std": [0.5, 0.5]}


def make_images():
    return np.random.default_rng(7).integers(-6, 7, (COUNT, *h.SHAPE)).astype(np.float32) / 4


def other_state(seed):
    """Return the state of the test network with other weights and statistics."""
    rng = np.random.default_rng(seed)
    return {
        name: (value * rng.uniform(0.5, 1.5, value.shape)).astype(np.float32)
        if value.dtype.kind == "f"
        else value
        for name, value in h.make_network().state().items()
    }


def cells(nodes, found, rng):
    """Return CELLS of (key, image, expected value, largest of its tensor), evenly over all tensors."""
    names = sorted(found)
    assert {nodes[k].kind for k, _ in names} == {*kinds(), "Input"}
    for k in range(CELLS):
        node_id, tensor = names[k % len(names)]
        values, n = found[node_id, tensor], 0
        if tensor in ("y", "dy", "p"):
            n = int(rng.integers(len(values)))
            values = values[n]
        at = int(rng.integers(values.size))
        yield h.key(node_id, tensor, at, values.shape), n, float(values.flat[at]), float(np.abs(values).max())


def compare(page, wanted):
    """Compare the sums that the page shows with what is wanted."""
    computed = page.evaluate(
        "(list) => list.map(([key, n]) => (isBatch && bindImage(n), explain(cellFromKey(key)).total))",
        [[key, n] for key, n, *_ in wanted],
    )
    for total, (key, n, value, scale) in zip(computed, wanted, strict=True):
        assert total == pytest.approx(value, rel=1e-6, abs=1e-12 * scale), (key, n)


@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
def test_cells_of_a_batch_equal_numpy(read, tmp_path, training):
    with cnn.use_backend("reference"):
        nodes = collect(h.make_network(), make_images(), LABELS, training=training)
    sources = [f"#{n}" for n in range(COUNT)]
    about = {**ABOUT, "label": LABELS[0], "labels": LABELS, "training": training, "sources": sources}
    page = build_page(nodes, "batch", h.CLASSES, {**about, "source": "#0"})
    (tmp_path / "page.html").write_text(page, encoding="utf-8")
    reader = read(tmp_path / "page.html")
    assert "values agree" in reader.banner()
    found = h.recompute(nodes, h.make_network(np.float64))
    compare(reader.page, list(cells(nodes, found, np.random.default_rng(5))))


def test_cells_of_each_moment_of_the_history_equal_numpy(read, tmp_path):
    nodes = h.make_nodes()
    history = [(step, other_state(step)) for step in (1, 10)]
    about = {**ABOUT, "label": h.LABEL, "training": False, "source": "a test"}
    page = build_page(nodes, "history", h.CLASSES, about, history=history)
    (tmp_path / "page.html").write_text(page, encoding="utf-8")
    reader = read(tmp_path / "page.html")
    for k, (_, state) in enumerate(history):
        reader.page.evaluate(f"goMoment({k})")
        network = h.make_network(np.float64)
        network.load_state(
            {
                name: value.astype(np.float64) if value.dtype.kind == "f" else value
                for name, value in state.items()
            }
        )
        found = h.recompute(nodes, network, chained=True)
        wanted = list(cells(nodes, found, np.random.default_rng(k)))
        compare(reader.page, wanted)
        shown = reader.page.evaluate(
            "(keys) => keys.map((key) => valueAt(cellFromKey(key)))", [key for key, *_ in wanted]
        )
        assert shown == pytest.approx([value for _, _, value, _ in wanted], rel=1e-6, abs=1e-12)
