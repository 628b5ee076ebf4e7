"""All that an airbench-like recipe needs at once, in miniature: it learns, and goes on after a stop."""

import signal
from itertools import pairwise

import numpy as np
import pytest
import tiny
from test_resume import assert_same_run

from cnn.config import load_config
from cnn.training import checkpoint, run_folder
from cnn.training.interruption import Interrupted
from cnn.training.loop import Trainer

CONFIG = """
name = "recipe"
seed = 5

[data]
dataset = "sample"
batch_size = 256
drop_last = true
validation = 0.6
augment = [{ type = "AlternatingFlip" }, { type = "RandomTranslate", pixels = 2, mode = "reflect" }]

[model]
layers = [
  { type = "Conv2d", out_channels = 8, kernel_size = 2, stride = 2, weight_init = "whitening" },
  { type = "GELU" },
  { type = "Conv2d", out_channels = 16, kernel_size = 3, padding = 1, bias = false, weight_init = "dirac" },
  { type = "MaxPool2d", kernel_size = 2 },
  { type = "BatchNorm2d", eps = 1e-12, momentum = 0.4 },
  { type = "GELU" },
  { type = "Conv2d", out_channels = 16, kernel_size = 3, padding = 1, bias = false, weight_init = "dirac" },
  { type = "BatchNorm2d", eps = 1e-12, momentum = 0.4 },
  { type = "GELU" },
  { type = "MaxPool2d", kernel_size = 7 },
  { type = "Flatten" },
  { type = "Linear", out_features = 10, bias = false },
  { type = "Scale", factor = 0.25 },
]

[loss]
label_smoothing = 0.2

[optimizer]
type = "SGD"
lr = 1.0
momentum = 0.85
nesterov = true
weight_decay = 1e-3
decay_all = true
clip_norm = 20.0
groups = [
  { match = "0.weight", trainable = false },
  { match = "0.bias", until_epoch = 1.5 },
  { match = "BatchNorm2d.weight", trainable = false },
  { match = "BatchNorm2d.bias", lr_scale = 8, weight_decay = 1e-4 },
  { match = "6.weight", from_epoch = 0.5 },
]

[schedule]
type = "one_cycle"
shape = "linear"
peak = 0.23
start_factor = 0.2
final_factor = 0.07

[average]
type = "lookahead"
every = 4
decay = 0.8
ramp = 2

[train]
epochs = 2.9
backend = "numba"
"""
NAMES = ["0.weight", "0.bias", "2.weight", "4.weight", "4.bias", "6.weight", "7.weight", "7.bias"]
NAMES += ["11.weight"]
STEPS = 18  # 6 an epoch; the third has 5.4


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder with the config."""
    folder = tmp_path_factory.mktemp("recipe")
    (folder / "recipe.toml").write_text(CONFIG)
    return folder


def run(workplace, name, *overrides, stop_at=None, note=None):
    """Train into the folder ``name``; with ``stop_at`` a signal arrives in that step."""
    config = load_config(workplace / "recipe.toml", overrides)
    folder = workplace / name
    trainer = Trainer(config, run_folder.RunFolder(folder))
    if folder.exists():
        trainer.restore()
    folder.mkdir(exist_ok=True)
    step, count = trainer._step, 0

    def stopping_step(x, labels):
        nonlocal count
        count += 1
        if note is not None:
            note.append({name: array.copy() for name, array in trainer.network.state().items()})
        if count == stop_at:
            signal.raise_signal(signal.SIGTERM)
        return step(x, labels)

    trainer._step = stopping_step
    if stop_at is None:
        return trainer.fit()
    with pytest.raises(Interrupted):
        trainer.fit()
    return None


@pytest.fixture(scope="module")
def straight(workplace):
    """(result, states before every step) of one run that nobody stops."""
    states = []
    return run(workplace, "straight", note=states), states


def test_it_learns(straight):
    result, states = straight
    assert len(states) == STEPS
    assert result["test_accuracy"] > 0.25  # chance has 0.1


def changes(states, name):
    """Return for every step but the last whether it changed the array called ``name``."""
    return [not np.array_equal(before[name], after[name]) for before, after in pairwise(states)]


def test_each_parameter_moves_in_its_time(straight):
    _, states = straight
    assert not any(changes(states, "0.weight"))
    assert not any(changes(states, "4.weight"))
    assert all(changes(states, "4.bias"))
    # once it is frozen, the average pulls it back once more
    assert changes(states, "0.bias") == [step < 9 or step == 11 for step in range(STEPS - 1)]
    assert changes(states, "6.weight") == [step >= 3 for step in range(STEPS - 1)]


def test_in_the_end_the_network_is_the_average(workplace, straight):
    tensors, _ = checkpoint.load(workplace / "straight" / "last.safetensors")
    parameters = [tensors[f"network/{name}"] for name in NAMES]
    np.testing.assert_array_equal(
        np.concatenate([p.ravel() for p in parameters]), tensors["average/parameters"]
    )
    for name in ("4.running_mean", "7.running_var"):
        np.testing.assert_array_equal(tensors[f"network/{name}"], tensors[f"average/{name}"])
    assert not np.array_equal(straight[1][-1]["11.weight"], tensors["network/11.weight"])


def test_a_running_average_is_kept_and_judged_beside_the_training(workplace, straight):
    """The training is that without an average; best.safetensors has the average, and resumes bit for bit."""
    steps, averaged = [], []
    plain = ("average={type='none'}",)
    ema = ("average={type='ema', decay=0.8}",)
    run(workplace, "plain", *plain, note=steps)
    result = run(workplace, "ema", *ema, note=averaged)
    for a, b in zip(steps, averaged, strict=True):
        assert all(np.array_equal(a[name], b[name]) for name in a)
    last = checkpoint.load(workplace / "ema" / "last.safetensors")[0]
    best, meta = checkpoint.load(workplace / "ema" / "best.safetensors")
    assert meta["epoch"] == 3
    np.testing.assert_array_equal(
        np.concatenate([best[f"network/{name}"].ravel() for name in NAMES]), last["average/parameters"]
    )
    np.testing.assert_array_equal(best["network/7.running_var"], last["average/7.running_var"])
    assert not np.array_equal(best["network/11.weight"], last["network/11.weight"])
    run(workplace, "ema-stopped", *ema, stop_at=8)
    assert run(workplace, "ema-stopped", *ema)["test_loss"] == result["test_loss"]
    assert_same_run(workplace / "ema", workplace / "ema-stopped")


# before and after each boundary of a group, in the middle of an epoch, in the shortened epoch
@pytest.mark.parametrize("stop_at", [2, 3, 8, 9, 10, 16])
def test_a_stopped_run_goes_on_with_the_same_bits(workplace, straight, stop_at):
    name = f"stopped-{stop_at}"
    run(workplace, name, stop_at=stop_at)
    result = run(workplace, name)
    assert result["test_accuracy"] == straight[0]["test_accuracy"]
    assert_same_run(workplace / "straight", workplace / name)
    table = run_folder.RunFolder(workplace / name).read_metrics()
    assert [row["step"] for row in table] == [6, 12, 18]


def test_the_summary_says_what_is_frozen(workplace, capsys):
    for command in (("summary",), ("train", "--dry-run")):
        code, out, _ = tiny.run(capsys, *command, workplace / "recipe.toml")
        assert code == 0
        first, last = (next(line for line in out.splitlines() if line.startswith(s)) for s in ("0 ", "total"))
        assert "32 frozen of 40" in first
        assert "2,368 frozen of 3,720" in last  # 0.weight, two scales, and 6.weight in the beginning


@pytest.mark.parametrize("command", ["summary", "gradcheck", "doctor"])
def test_the_other_commands_take_the_recipe(workplace, capsys, command):
    code, out, err = tiny.run(capsys, command, workplace / "recipe.toml")
    assert (code, err) == (0, ""), out
