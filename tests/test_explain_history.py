"""Time: snapshots that a run keeps, and the page that shows one image from the first step to the last."""

import helpers_explain as h
import numpy as np
import pytest
import tiny

import cnn
from cnn import layers
from cnn.training import checkpoint
from cnn.training.snapshots import Snapshots, read_snapshots


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("history")
    tiny.write_images(root / "images")
    config = tiny.write_config(root / "tiny.toml", root / "images")
    from cnn.cli import main

    assert main(["train", str(config), "--run", str(root / "run")]) == 0
    return root / "run"


def test_snapshots_are_of_the_first_the_last_and_doubling_steps():
    assert sorted(Snapshots(5, 100, 10**9).steps) == [0, 13, 25, 50, 100]
    assert sorted(Snapshots(8, 3, 10).steps) == [0, 1, 2, 3]
    assert not Snapshots(0, 100, 10).steps
    assert sorted(Snapshots(1, 100, 10).steps) == [100]


def test_small_networks_keep_snapshots_unasked_and_large_ones_do_not():
    assert len(Snapshots(None, 1000, 60_000).steps) == 8
    assert not Snapshots(None, 1000, 11_000_000).steps


def test_the_first_snapshot_is_untrained_and_the_last_is_the_last_checkpoint(run):
    found = read_snapshots(run / "snapshots")
    last = checkpoint.section(checkpoint.load(run / "last.safetensors")[0], "network")
    for name, value in found[-1][1].items():
        np.testing.assert_array_equal(value, last[name], err_msg=name)
    assert found[0][0] == 0
    np.testing.assert_array_equal(found[0][1]["1.running_mean"], 0)
    assert [step for step, _ in found] == sorted(step for step, _ in found)


def test_a_run_without_snapshots_and_a_file_are_refused_in_one_line(run, tmp_path, capsys):
    code, _, errors = tiny.run(capsys, "explain", run / "best.safetensors", "--image", 0, "--history")
    assert code == 2
    assert "expected the run folder" in errors
    other = tmp_path / "other"
    other.mkdir()
    (other / "best.safetensors").write_bytes((run / "best.safetensors").read_bytes())
    code, _, errors = tiny.run(capsys, "explain", other, "--image", 0, "--history")
    assert code == 4
    assert "train.snapshots" in errors
    assert len(errors.strip().splitlines()) == 1


def test_the_scrubber_shows_the_network_as_it_was(run, tmp_path, capsys):
    out = tmp_path / "page.html"
    assert tiny.run(capsys, "explain", run, "--image", 12, "--history", "--out", out)[0] == 0
    _, meta = checkpoint.load_network(run)
    found = read_snapshots(run / "snapshots")
    for browser in h.launch():
        reader = h.Reader(browser, out, "#/history")
        page = reader.page
        assert int(page.get_attribute("#history-at", "max")) == len(found) - 1
        for at in (0, len(found) // 2, len(found) - 1):
            page.focus("#history-at")
            page.fill("#history-at", str(at))
            step, state = found[at]
            assert f"step {step} of" in page.inner_text("#history-step")
            assert page.evaluate("document.activeElement.id") == "history-at"
            network = cnn.Network(layers.from_config(meta["layers"]))
            network.build((1, 8, 8), dtype=np.float64)
            network.load_state({name: v.astype(np.float64) if v.dtype.kind == "f" else v
                                for name, v in state.items()})  # fmt: skip
            x = np.array(page.evaluate("[...nodes[0].tensors.y.data]")).reshape(1, 1, 8, 8)
            criterion = layers.SoftmaxCrossEntropy()
            with cnn.use_backend("reference"):
                loss = criterion.forward(np.asarray(network.forward(x)), np.array([1]))
                network.zero_grad()
                network.backward(criterion.backward())
            assert page.evaluate("lossNode.tensors.y.data[0]") == pytest.approx(loss, rel=1e-9)
            dweight = page.evaluate("[...nodes[1].tensors.dweight.data]")
            np.testing.assert_allclose(dweight, network.layers[0].weight.grad.ravel(), rtol=1e-8, atol=1e-12)
        page.wait_for_selector("#history-chart svg")
        reader.go("#/network")
        assert "weights of step" in page.inner_text("#ribbon")
        page.evaluate(h.axe_source())
        reader.go("#/history")
        violations = page.evaluate("axe.run(document).then((result) => result.violations)")
        assert not [v["id"] for v in violations if v["impact"] in ("serious", "critical")]
        assert not reader.complaints
        reader.close()
