"""Fine-tuning: weights taken over, a new head, a frozen trunk, rates by layer, early ends, kept epochs."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny

import cnn
from cnn.backend import use_backend
from cnn.config import load_config
from cnn.errors import CheckpointError, ConfigError
from cnn.layers import BatchNorm2d, Conv2d, Flatten, Linear, ReLU, Residual, SoftmaxCrossEntropy
from cnn.optimizers import SGD
from cnn.training import checkpoint, run_folder
from cnn.training.loop import Trainer
from cnn.training.run_folder import RunFolder


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """Images of three classes and of two of them, a config of each, and a run on the three."""
    folder = tmp_path_factory.mktemp("tuning")
    tiny.write_images(folder / "images")
    shutil.copytree(folder / "images", folder / "two")
    for part in ("train", "test"):
        shutil.rmtree(folder / "two" / part / "row")
    tiny.write_config(folder / "tiny.toml", folder / "images")
    tiny.write_config(folder / "two.toml", folder / "two")
    trainer = Trainer(load_config(folder / "tiny.toml"), run_folder.create(folder / "run", "tiny"))
    trainer.fit()
    return folder


@pytest.fixture
def here(workplace, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def tuned(workplace, name, *overrides, config="two.toml"):
    sets = [f"start.weights={workplace / 'run'}", "data.augment=[]", "schedule={type='constant'}", *overrides]
    trainer = Trainer(load_config(workplace / config, sets), run_folder.create(name, "tuned"))
    trainer.fit()
    return trainer


def states(run):
    source = checkpoint.load(Path(run) / "best.safetensors")[0]
    return {key.removeprefix("network/"): value for key, value in source.items()}


def test_another_number_of_classes_gets_a_new_head_on_the_old_trunk(workplace, here):
    trainer = Trainer(load_config(workplace / "two.toml", [f"start.weights={workplace / 'run'}"]))
    before, own = states(workplace / "run"), trainer.network.state()
    for name, array in before.items():
        if not name.startswith("6."):
            np.testing.assert_array_equal(own[name], array)
    assert own["6.weight"].shape == (2, 64)
    assert trainer.start.line.endswith("run; new: 6.weight, 6.bias")
    _, meta = checkpoint.load(workplace / "run/best.safetensors")
    assert trainer.images.mean.tolist() == meta["mean"]  # not that of the two classes' images
    assert trainer.images.std.tolist() == meta["std"]


def test_a_frozen_trunk_keeps_every_bit_its_statistics_too(workplace, here):
    trainer = tuned(workplace, "a", "start.freeze=true")
    before, after = states(workplace / "run"), trainer.network.state()
    for name in ("0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var"):
        assert after[name].tobytes() == before[name].tobytes(), name
    assert trainer.history[-1]["train_accuracy"] > 0.8
    assert "starts with 7 of 9 arrays from" in Path("a/log.txt").read_text()
    _, meta = checkpoint.load("a/best.safetensors")
    assert len(meta["taken"]) == 7
    assert "out_features = 2" in Path("a/config.toml").read_text()


def test_without_freezing_all_of_it_learns(workplace, here):
    trainer = tuned(workplace, "a")
    before, after = states(workplace / "run"), trainer.network.state()
    names = ("0.weight", "1.weight", "1.bias", "1.running_mean", "1.running_var")
    assert all((after[name] != before[name]).any() for name in names)


def test_a_trunk_thaws_at_its_epoch(workplace, here):
    taken = []

    class Look(cnn.Callback):
        def on_epoch_end(self, trainer, row):
            taken.append({name: array.copy() for name, array in trainer.network.state().items()})

    sets = [f"start.weights={workplace / 'run'}", "start.freeze=true", "start.thaw_epoch=2"]
    run = run_folder.create("a", "tuned")
    Trainer(load_config(workplace / "two.toml", sets), run, [Look()]).fit()
    before = states(workplace / "run")
    for name in ("0.weight", "1.running_mean"):
        same = [np.array_equal(state[name], before[name]) for state in taken]
        assert same == [True, True, False], name


def test_a_tuned_run_is_resumed_with_the_same_bits_and_without_the_file(workplace, here):
    shutil.copytree(workplace / "run", here / "source")
    sets = ["start.weights=source", "start.freeze=true", "start.thaw_epoch=1", "start.layer_decay=0.5"]

    class Stop(cnn.Callback):
        def on_epoch_end(self, trainer, row):
            if row["epoch"] == 2:
                trainer.stop("enough")

    for name, callbacks in (("a", ()), ("b", [Stop()])):
        trainer = Trainer(load_config(workplace / "two.toml", sets), RunFolder(name), callbacks)
        Path(name).mkdir()
        trainer.fit()
    shutil.rmtree("source")
    again = Trainer(load_config("b/config.toml"), RunFolder("b"))
    again.restore()
    again.fit()
    one, two = (checkpoint.load(f"{name}/last.safetensors")[0] for name in "ab")
    assert all(one[name].tobytes() == two[name].tobytes() for name in one)


def test_rates_fall_from_the_head_downwards(workplace, here):
    sets = [f"start.weights={workplace / 'run'}", "start.layer_decay=0.5"]
    sets.append("optimizer.groups=[{match='1.bias', lr_scale=7}]")
    trainer = Trainer(load_config(workplace / "two.toml", sets))
    scales = {name: p.lr_scale for name, p in trainer.network.named_parameters()}
    expected = {"0.weight": 0.25, "0.bias": 0.25, "1.weight": 0.5, "6.weight": 1.0, "6.bias": 1.0}
    assert scales == {**expected, "1.bias": 7}  # the config's own group wins


def test_the_command_takes_the_runs_config_and_extends_it_with_another_schedule(workplace, here, capsys):
    source = workplace / "run"
    sets = ["--set", "train.epochs=1", "--set", "schedule={type='linear'}", "--set", "optimizer.lr=0.01"]
    code, out, err = tiny.run(capsys, "train", "--from", source, *sets)
    assert (code, err) == (0, "")
    assert "starts with 9 of 9 arrays from" in out
    tables = (Path("runs/tiny-tuned/config.toml").read_text(), Path(source / "config.toml").read_text())
    assert 'type = "linear"' in tables[0]
    rates = [row["lr"] for row in RunFolder("runs/tiny-tuned").read_metrics()]
    assert rates == pytest.approx([0.01 / 6])
    first = json.loads(Path("runs/tiny-tuned/result.json").read_text())
    assert first["test_accuracy"] >= 0.9
    code, _, err = tiny.run(capsys, "train", "--from", source, "--resume", "--run", source)
    assert code == 2
    assert "leave out --from or --resume" in err


def test_a_config_may_leave_the_layers_to_the_file(workplace, here, capsys):
    network = cnn.Network.load(workplace / "run")
    network.save("bare.safetensors")
    text = (workplace / "two.toml").read_text()
    begin, end = text.index("[model]"), text.index("[loss]")
    Path("data.toml").write_text(text[:begin] + text[end:])
    code, out, _ = tiny.run(capsys, "train", "data.toml", "--from", "bare.safetensors", "--run", "r")
    assert code == 0
    assert "starts with 7 of 9 arrays from bare.safetensors; new: 6.weight, 6.bias" in out
    code, _, err = tiny.run(capsys, "train", "--from", "bare.safetensors")
    assert code == 2
    assert "a CONFIG has to name the data" in err


def test_a_network_from_an_onnx_file_is_fine_tuned(workplace, here, capsys):
    """Its trunk is frozen: it keeps the file's numbers, and the new head learns on top of them."""
    pytest.importorskip("onnx")
    code, *_ = tiny.run(capsys, "export", workplace / "run", "--format", "onnx", "--out", "m.onnx")
    assert code == 0
    text = (workplace / "two.toml").read_text()
    begin, end = text.index("[model]"), text.index("[loss]")
    Path("data.toml").write_text(text[:begin] + text[end:])
    options = ("--from", "m.onnx", "--run", "r", "--set", "start.freeze=true", "--set", "train.epochs=6")
    code, out, _ = tiny.run(capsys, "train", "data.toml", *options)
    assert code == 0
    assert "arrays from m.onnx; new: " in out
    theirs, ours = cnn.Network.from_onnx("m.onnx").state(), states("r")
    new = [name for name in ours if ours[name].shape != theirs[name].shape]
    assert {ours[name].shape for name in new} == {(2, 64), (2,)}
    for name, array in ours.items():
        if name not in new and "state" not in name:
            np.testing.assert_array_equal(array, theirs[name])
    assert json.loads(Path("r/result.json").read_text())["test_accuracy"] >= 0.8


def test_weights_that_fit_nowhere_and_files_that_are_none_are_refused(workplace, here):
    network = cnn.Network([Flatten(), Linear(5)])
    network.build((1, 9, 9))
    network.save("other.safetensors")
    with pytest.raises(ConfigError, match="nothing in it has the name and shape"):
        Trainer(load_config(workplace / "two.toml", ["start.weights=other.safetensors"]))
    with pytest.raises(CheckpointError, match=r"start\.weights: missing"):
        Trainer(load_config(workplace / "two.toml", ["start.weights=missing"]))
    with pytest.raises(ConfigError, match=r"start\.layer_decay: found 0"):
        load_config(workplace / "two.toml", ["start.weights=x", "start.layer_decay=0"])


# -- normalisations that are frozen -------------------------------------------------------------------


def normed():
    return [
        Conv2d(4, 3, padding=1),
        BatchNorm2d(),
        ReLU(),
        Residual([Conv2d(4, 3, padding=1), BatchNorm2d()]),
        ReLU(),
        BatchNorm2d(),
        Flatten(),
        Linear(3),
    ]


@pytest.mark.parametrize("backend", ["reference", "numba"])
def test_frozen_normalisations_train_as_pytorchs_in_evaluation_mode(rng, backend):
    torch = pytest.importorskip("torch")
    x, labels = rng.normal(size=(20, 2, 6, 6)), np.arange(20) % 3
    network = cnn.Network(normed())
    network.build((2, 6, 6), rng=rng, dtype=np.float64)
    norms = [layer for _, layer in network.walk() if isinstance(layer, BatchNorm2d)]
    for layer in norms:
        layer.running_mean, layer.running_var = rng.normal(size=4), rng.uniform(0.5, 2, 4)
        layer.weight.data, layer.bias.data = rng.normal(size=4), rng.normal(size=4)
    p = {name: torch.tensor(p.data, requires_grad=True) for name, p in network.named_parameters()}

    def norm(x, name, k):
        mean, var = (torch.tensor(a.copy()) for a in (norms[k].running_mean, norms[k].running_var))
        batch_norm = torch.nn.functional.batch_norm
        return batch_norm(x, mean, var, p[f"{name}.weight"], p[f"{name}.bias"], training=False)

    conv = torch.nn.functional.conv2d
    z = torch.relu(norm(conv(torch.tensor(x), p["0.weight"], p["0.bias"], padding=1), "1", 0))
    body = norm(conv(z, p["3.body.0.weight"], p["3.body.0.bias"], padding=1), "3.body.1", 1)
    z = norm(torch.relu(body + z), "5", 2).flatten(1) @ p["7.weight"].T + p["7.bias"]
    torch.nn.functional.cross_entropy(z, torch.tensor(labels)).backward()
    saved = [(layer.running_mean.copy(), layer.running_var.copy()) for layer in norms]
    with use_backend(backend):
        network.forward(x, training=True)  # planned before they are frozen
        for layer, (mean, var) in zip(norms, saved, strict=True):
            layer.frozen = True
            layer.running_mean, layer.running_var = mean, var
        network.zero_grad()
        loss = SoftmaxCrossEntropy()
        logits = network.forward(x, training=True)
        loss.forward(logits, labels)
        network.backward(loss.backward())
        np.testing.assert_allclose(logits, network.predict(x), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(logits, z.detach(), rtol=1e-9, atol=1e-9)
    for name, parameter in network.named_parameters():
        np.testing.assert_allclose(parameter.grad, p[name].grad, rtol=1e-8, atol=1e-10, err_msg=name)
    for layer, (mean, var) in zip(norms, saved, strict=True):
        np.testing.assert_array_equal(layer.running_mean, mean)
        np.testing.assert_array_equal(layer.running_var, var)


def test_building_keeps_what_is_built_and_a_new_head_learns(rng):
    network = cnn.Network(normed())
    network.build((2, 6, 6), rng=rng)
    SGD(network.parameters(), lr=0.1)
    weights = network.data.copy()
    tuned = cnn.Network([*network.layers[:-1], Linear(5)])
    tuned.build((2, 6, 6), rng=rng)
    np.testing.assert_array_equal(tuned.data[: weights.size - 3 * 145], weights[: weights.size - 3 * 145])
    features = cnn.Network(network.layers[:-1])
    features.build((2, 6, 6))
    assert features.predict(rng.normal(size=(3, 2, 6, 6)).astype(np.float32)).shape == (3, 144)
    np.testing.assert_array_equal(features.data, weights[: weights.size - 3 * 145])


# -- early ends, kept epochs ---------------------------------------------------------------------------


def test_a_run_ends_early_and_stays_ended(workplace, here, capsys):
    sets = ["--set", "train.epochs=40", "--set", "train.patience=3", "--set", "schedule={type='constant'}"]
    assert tiny.run(capsys, "train", workplace / "tiny.toml", *sets, "--run", "r")[0] == 0
    rows = RunFolder("r").read_metrics()
    keys = [(row["val_accuracy"], -row["val_loss"]) for row in rows]
    best = max(range(len(rows)), key=lambda k: keys[k])
    assert len(rows) == best + 1 + 3 < 40
    assert f"no better epoch on the validation images since epoch {best + 1}" in Path("r/log.txt").read_text()
    before = Path("r/last.safetensors").read_bytes()
    assert tiny.run(capsys, "train", "--resume", "--run", "r")[0] == 0
    assert RunFolder("r").read_metrics() == rows
    assert Path("r/last.safetensors").read_bytes() == before
    code, _, _ = tiny.run(capsys, "train", "--resume", "--run", "r", "--set", "train.patience=5")
    assert code == 0
    assert len(RunFolder("r").read_metrics()) > len(rows)


def test_patience_needs_validation_images(workplace):
    for extra in ("train.patience=3", "schedule={type='plateau'}"):
        with pytest.raises(ConfigError, match=r"data\.validation: found 0, expected more"):
            load_config(workplace / "tiny.toml", ["data.validation=0", extra])


@pytest.mark.parametrize("validation", [0.2, 0])
def test_the_checkpoints_of_the_best_epochs_are_kept(workplace, here, capsys, validation):
    sets = [f"data.validation={validation}", "train.keep_top=2", "train.epochs=5"]
    Trainer(load_config(workplace / "tiny.toml", sets), run_folder.create("r", "tiny")).fit()
    rows = RunFolder("r").read_metrics()
    key = (lambda r: (r["val_accuracy"], -r["val_loss"])) if validation else (lambda r: r["epoch"])
    best = sorted(rows, key=key)[-2:]
    files = sorted(Path("r/top").iterdir())
    assert [f.name for f in files] == sorted(f"epoch-{row['epoch']:04d}.safetensors" for row in best)
    first = Path(f"r/top/epoch-{best[-1]['epoch']:04d}.safetensors")
    one, two = checkpoint.load(first)[0], checkpoint.load("r/best.safetensors")[0]
    assert all(one[name].tobytes() == two[name].tobytes() for name in two)
    assert tiny.run(capsys, "evaluate", files[0])[0] == 0


# -- compare --------------------------------------------------------------------------------------------


def test_runs_are_compared_by_their_results_and_what_differs(workplace, here, capsys):
    trainer = tuned(workplace, "a", "optimizer.lr=0.02")
    code, out, _ = tiny.run(capsys, "compare", workplace / "run", "a")
    assert code == 0
    lines = {line.split("  ")[0]: line.split() for line in out.splitlines()}
    result = json.loads(Path("a/result.json").read_text())
    assert lines["test accuracy"][-1] == f"{result['test_accuracy']:.2%}"
    assert lines["optimizer.lr"] == ["optimizer.lr", "0.1", "0.02"]
    assert lines["parameters"][-1] == f"{trainer.network.data.size:,}"
    assert "seed" not in lines
    code, out, _ = tiny.run(capsys, "compare", workplace / "run", "a", "--json")
    assert json.loads(out)[1]["result"] == result
    _, out, _ = tiny.run(capsys, "compare", workplace / "run", "a", "--language", "zh")
    assert [line.split()[0] for line in out.splitlines()[1:4]] == ["轮数", "最佳轮次", "验证正确率"]
    _, out, _ = tiny.run(capsys, "compare", "a", "a")
    assert out.endswith("the configs are the same\n")
    code, _, err = tiny.run(capsys, "compare", "a")
    assert (code, "found 1 run, expected at least 2" in err) == (2, True)
    code, _, err = tiny.run(capsys, "compare", "a", "nowhere")
    assert (code, "found no run" in err) == (4, True)
