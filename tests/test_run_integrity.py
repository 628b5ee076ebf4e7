"""A run notices damage, changed data, a second process and numbers that are not finite, in one clear line."""

import csv
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tiny
from PIL import Image

from cnn import tensor_file
from cnn.config import load_config
from cnn.errors import ConfigError, NumericError
from cnn.files import locked
from cnn.training import checkpoint, run_folder
from cnn.training.loop import Trainer

USAGE, DATA, CHECKPOINT, NUMBERS = 2, 3, 4, 5


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with images, a config and a finished run of two epochs."""
    folder = tmp_path_factory.mktemp("integrity")
    tiny.write_images(folder / "images", train=16, test=4)
    tiny.write_config(folder / "tiny.toml", "images")
    here = os.getcwd()
    os.chdir(folder)
    try:
        assert tiny.main(["train", "tiny.toml", "--run", "run", "--set", "train.epochs=2"]) == 0
    finally:
        os.chdir(here)
    return folder


@pytest.fixture
def place(trained, tmp_path, monkeypatch):
    """The current folder of the test: a fresh copy of ``trained``."""
    shutil.copytree(trained, tmp_path / "place")
    monkeypatch.chdir(tmp_path / "place")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    return tmp_path / "place"


def refused(capsys, code, expected, *argv):
    found, out, err = tiny.run(capsys, *argv)
    print(f"[{found}] {err}", end="")
    assert found == code, (out, err)
    assert expected in err
    assert len(err.splitlines()) <= 3
    assert "Traceback" not in out + err


def resume(*options):
    return ("train", "--resume", "--run", "run", *options)


def change(path, edit, **meta_changes):
    """Write a checkpoint again, sound in itself, after ``edit(tensors)``."""
    tensors, meta = checkpoint.load(path)
    edit(tensors)
    checkpoint.save(path, tensors, {**meta, **meta_changes})


# -- checksums -------------------------------------------------------------------------------------


def test_every_changed_byte_of_a_checkpoint_is_noticed(place, capsys):
    path = Path("run/last.safetensors")
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    for place_of_byte in {*rng.integers(0, len(whole), 300).tolist(), *range(200)}:
        spoilt = bytearray(whole)
        spoilt[place_of_byte] ^= 1 << int(rng.integers(8))
        path.write_bytes(spoilt)
        with pytest.raises(checkpoint.CheckpointError):
            checkpoint.load(path)
    spoilt = bytearray(whole)
    spoilt[-1] ^= 1
    path.write_bytes(spoilt)
    refused(capsys, CHECKPOINT, "is damaged: its SHA-256 differs", *resume())


def test_other_readers_read_the_file(place):
    from safetensors.numpy import load_file

    theirs, (ours, _) = load_file("run/best.safetensors"), checkpoint.load("run/best.safetensors")
    assert theirs.keys() == ours.keys()
    assert all(theirs[name].tobytes() == ours[name].tobytes() for name in ours)


def test_numbers_of_another_type_are_refused(place, capsys):
    def as_integers(tensors):
        tensors["network/0.weight"] = tensors["network/0.weight"].view(np.int32)

    change("run/best.safetensors", as_integers)
    refused(capsys, CHECKPOINT, '"0.weight": expected float32 numbers, found int32', "evaluate", "run")


def peak(code):
    """Return the traced peak of memory of a snippet, in bytes."""
    import tracemalloc

    tracemalloc.start()
    try:
        code()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_saving_copies_no_tensor_and_loading_holds_one_copy(tmp_path):
    tensors = {"a": np.ones(4_000_000, np.float32), "b": np.ones(4_000_000, np.float32)}
    size = sum(array.nbytes for array in tensors.values())
    assert peak(lambda: checkpoint.save(tmp_path / "c", tensors, {})) < 0.2 * size
    assert peak(lambda: checkpoint.load(tmp_path / "c")) < 1.2 * size


def test_sizes_are_compared_before_anything_is_allocated(place, capsys):
    def huge(layers):
        layers[-1]["out_features"] = 10**7  # below what no layer may have
        return layers

    _, meta = checkpoint.load("run/best.safetensors")
    change("run/best.safetensors", lambda _: None, layers=huge(meta["layers"]))
    refused(capsys, CHECKPOINT, "the file has none", "evaluate", "run")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("config", None),
        ("image_shape", None),
        ("image_shape", [1, 2]),
        ("image_shape", [1, 10**6, 10**6]),
        ("classes", "abc"),
        ("classes", []),
        ("mean", [None]),
        ("std", [0.0]),
        ("std", ["x"]),
        ("layers", {}),
        ("layers", [[]]),
        ("layers", [{"type": "Sequential", "layers": 3}]),
        ("layers", [{"type": "antigravity:Layer"}]),
        ("layers", [{"type": "../.."}]),
        ("layers", [{"block": "a", "repeat": 10**9}]),
        ("epoch", "3"),
        ("epoch", -1),
        ("input_shape", [0]),
        ("score", 3),
        ("unknown", 1),
    ],
)
def test_a_hostile_header_is_refused_in_one_line(place, capsys, key, value):
    change("run/best.safetensors", lambda _: None, **{key: value})
    refused(capsys, CHECKPOINT, "run/best.safetensors: ", "evaluate", "run")


@pytest.mark.parametrize(
    "record",
    [
        None,
        {},
        {"epoch": "2"},
        {"epoch": -1},
        {"epoch": 10**30},
        {"step": 1.5},
        {"best": 3},
        {"best": {"epoch": 1}},
        {"gradients": [[1.0]]},
        {"gradients": "x"},
        {"gradients": [[2.0**31, 1.0, 1.0, 1.0]]},
        {"seen": 1, "correct": 2},
        {"unknown": 1},
    ],
)
def test_a_hostile_progress_record_is_refused_in_one_line(place, capsys, record):
    _, meta = checkpoint.load("run/last.safetensors")
    if record:
        record = {**meta["progress"], **record}
    change("run/last.safetensors", lambda _: None, progress=record)
    refused(capsys, CHECKPOINT, "run/last.safetensors: ", *resume())


@pytest.mark.parametrize("where", [("model", "layers"), ("data", "augment")])
@pytest.mark.parametrize("name", ["antigravity:Layer", "a.b", "../..", ":", "."])
def test_a_strangers_config_imports_nothing(place, capsys, where, name):
    _, meta = checkpoint.load("run/last.safetensors")
    meta["config"][where[0]][where[1]][0] = {"type": name}
    for file in ("best", "last"):
        change(f"run/{file}.safetensors", lambda _: None, config=meta["config"])
    for argv in (("evaluate", "run"), ("predict", "run", "images/test/row/00.png"), resume()):
        refused(capsys, CHECKPOINT, f'{".".join(where)}[0].type: found "{name}"', *argv)
    assert "antigravity" not in sys.modules


def test_a_hostile_snapshot_is_refused_in_one_line(place, capsys):
    snapshot = max(Path("run/snapshots").iterdir())
    for meta in ({}, {"step": "1"}, {"step": -1}, {"step": 1, "more": 2}):
        checkpoint.save(snapshot, checkpoint.load(snapshot)[0], meta)
        argv = ("explain", "run", "--image", "0", "--history")
        refused(capsys, CHECKPOINT, f"{snapshot}: the header: ", *argv)


def test_a_billion_layers_are_refused_at_once(place, capsys):
    blocks = ", ".join(f"b{i} = [{{ block = 'b{i + 1}', repeat = 10 }}]" for i in range(9))
    model = f"model={{ layers = [{{ block = 'b0' }}], blocks = {{ {blocks}, b9 = [{{ type = 'ReLU' }}] }} }}"
    refused(capsys, USAGE, "more than 10,000 layers", "train", "tiny.toml", "--set", model)


def test_layers_nested_without_end_are_refused(place, capsys):
    nested = "{ type = 'ReLU' }"
    for _ in range(40):
        nested = f"{{ type = 'Sequential', layers = [{nested}] }}"
    refused(capsys, USAGE, "deep", "train", "tiny.toml", "--set", f"model.layers=[{nested}]")


def test_what_a_killed_writer_left_blocks_nothing_and_is_removed(place, capsys):
    (place / "new").mkdir()
    for name in (".config.toml.99999999.tmp", ".config.toml.99999999", ".lock"):
        (place / "new" / name).write_text("half")
    assert tiny.run(capsys, "train", "tiny.toml", "--run", "new", "--set", "train.epochs=1")[0] == 0
    assert not [path.name for path in (place / "new").iterdir() if path.name.startswith(".")]


def test_a_checkpoint_without_checksums_is_evaluated_but_not_resumed(place, capsys):
    for name in ("best", "last"):
        tensors, meta = checkpoint.load(f"run/{name}.safetensors")
        from safetensors.numpy import save

        old = json.dumps({"format": 1, "meta": {k: v for k, v in meta.items() if k != "data"}})
        Path(f"run/{name}.safetensors").write_bytes(save(tensors, metadata={"cnn": old}))
    assert tiny.run(capsys, "evaluate", "run")[0] == 0
    refused(capsys, CHECKPOINT, "it can be evaluated, not resumed", *resume())


# -- data that changed -----------------------------------------------------------------------------


def invert(place, part="train"):
    for path in sorted((place / "images" / part).rglob("*.png")):
        Image.fromarray(255 - np.asarray(Image.open(path))).save(path)


def swap(place, part="train"):
    one, two = (place / "images" / part / name for name in ("row", "column"))
    one.rename(place / "aside")
    two.rename(one)
    (place / "aside").rename(two)


@pytest.mark.parametrize(("edit", "part"), [(invert, "train"), (swap, "train"), (invert, "test")])
def test_resume_refuses_images_that_changed(place, capsys, edit, part):
    edit(place, part)
    refused(capsys, CHECKPOINT, "changed since the run began", *resume("--set", "train.epochs=3"))


@pytest.mark.parametrize("part", ["validation", "train", "test"])
def test_the_parts_belong_to_the_run_when_photos_are_added(place, capsys, part):
    before = tiny.run(capsys, "evaluate", "run", "--split", part)
    assert before[0] == 0
    for number in range(5):
        shutil.copy("images/train/row/00.png", f"images/train/row/9{number}.png")
    assert tiny.run(capsys, "evaluate", "run", "--split", part) == before


def test_evaluating_another_split_is_refused(place, capsys):
    shutil.copy("images/train/row/00.png", "images/train/row/99.png")
    Path("run/split.csv").unlink()
    refused(capsys, DATA, "another split", "evaluate", "run", "--split", "validation")


def test_images_of_the_run_that_are_gone_or_changed_are_said_to_be(place, capsys):
    shutil.copy("images/train/row/00.png", "images/train/row/01.png")
    refused(capsys, DATA, "images of the run have changed", "evaluate", "run", "--split", "validation")
    assert tiny.run(capsys, "evaluate", "run")[0] == 0  # the test images are as they were
    Path("images/train/row/01.png").unlink()
    refused(capsys, DATA, "1 of 48 images of the run are gone", "evaluate", "run", "--split", "train")
    Path("images/test/row/01.png").unlink()
    refused(capsys, DATA, "images of the run are gone", "evaluate", "run")


def test_evaluate_writes_nothing_where_a_checkpoint_points(place, capsys):
    before = tiny.files(place)
    assert tiny.run(capsys, "evaluate", "run")[0] == 0
    assert tiny.files(place) == before


# -- NaN and Inf -----------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("number", [0, -1])
@pytest.mark.parametrize("backend", ["reference", "numba"])
def test_the_weights_never_take_a_gradient_that_is_not_finite(place, monkeypatch, value, number, backend):
    (place / "nan").mkdir()
    trainer = Trainer(
        load_config("tiny.toml", [f"train.backend={backend}"]), run_folder.RunFolder(place / "nan")
    )
    backward, calls = trainer.network.backward, []

    def planted(dy, **options):
        backward(dy, **options)
        calls.append(trainer.network.data.copy())
        if len(calls) == 4:
            trainer.network.grad[number] = value

    monkeypatch.setattr("cnn.training.loop.warm_up", lambda trainer: None)
    trainer.network.backward = planted
    with pytest.raises(NumericError, match=r"epoch 2, step 1 of 3: the gradient of \d\.\w+ holds (NaN|Inf)"):
        trainer.fit()
    np.testing.assert_array_equal(trainer.network.data, calls[-1])
    assert all(np.isfinite(a).all() for a in checkpoint.load(trainer.run.last)[0].values())


@pytest.mark.parametrize("lr", ["1e37", "1e39"])
def test_a_rate_far_too_high_ends_with_numbers_and_keeps_the_best_finite(place, capsys, lr):
    sets = ["data.validation=0", f"optimizer.lr={lr}", "optimizer.momentum=0.0", "data.batch_size=64"]
    options = [part for option in sets for part in ("--set", option)]
    refused(capsys, NUMBERS, "lower optimizer.lr", "train", "tiny.toml", "--run", "high", *options)
    for path in Path("high").glob("*.safetensors"):
        assert all(np.isfinite(a).all() for a in checkpoint.load(path)[0].values())
    for path in Path("high").glob("*.json"):
        assert "NaN" not in path.read_text()


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["0.weight", "1.running_var", "6.bias"])
@pytest.mark.parametrize("command", ["evaluate", "predict", "explain"])
def test_weights_that_are_not_finite_give_no_answers(place, capsys, command, name, value):
    def spoil(tensors):
        tensors[f"network/{name}"].flat[0] = value

    change("run/best.safetensors", spoil)
    image = "images/test/row/00.png"
    argv = {"evaluate": (), "predict": (image,), "explain": ("--image", image)}[command]
    refused(capsys, NUMBERS, f"{name} holds", command, "run", *argv)
    assert not Path("explain.html").exists()


def test_class_weights_of_zero_are_named(place, capsys):
    sets = ("--set", "loss.class_weight=[0, 0, 0]")
    refused(capsys, USAGE, "every weight is 0", "train", "tiny.toml", *sets)
    sets = ("--set", "loss.class_weight=[0, 0, 1]", "--set", "data.batch_size=1",
            "--set", "model.layers=[{type='Flatten'}, {type='Linear', out_features=3}]")  # fmt: skip
    refused(capsys, NUMBERS, "have loss.class_weight 0", "train", "tiny.toml", "--run", "zero", *sets)


# -- one process a folder --------------------------------------------------------------------------


def hold(folder, ready):
    with locked(folder):
        ready.set()
        time.sleep(60)


@pytest.fixture
def held(place):
    """Another process trains in run/ and sweeps into sweep/."""
    (place / "sweep").mkdir()
    context = multiprocessing.get_context("spawn")
    others = []
    for folder in ("run", "sweep"):
        ready = context.Event()
        others.append(context.Process(target=hold, args=(str(place / folder), ready)))
        others[-1].start()
        assert ready.wait(60)
    yield others
    for other in others:
        other.kill()
        other.join()


@pytest.mark.parametrize("options", [(), ("--set", "train.epochs=4")])
def test_a_folder_in_use_is_refused(held, capsys, options):
    before = tiny.files(Path("run"))
    refused(capsys, USAGE, "is training in this folder", *resume(*options))
    assert tiny.files(Path("run")) == before


def test_a_sweep_in_use_is_refused(held, capsys):
    refused(capsys, USAGE, "is training in this folder", "sweep", "tiny.toml", "--out", "sweep")


def test_a_lock_dies_with_its_process(held, capsys):
    for other in held:
        other.kill()
        other.join()
    assert tiny.run(capsys, *resume())[0] == 0


# -- resuming --------------------------------------------------------------------------------------


def test_fewer_epochs_than_were_trained_are_refused(place, capsys):
    options = ("--set", "train.epochs=1")
    refused(capsys, USAGE, "found 1, expected at least 2", *resume(*options))


def test_a_longer_run_takes_the_steps_that_a_cut_epoch_left_out(place, capsys):
    argv = ("train", "tiny.toml", "--run", "cut", "--set", "train.epochs=1.5")
    assert tiny.run(capsys, *argv)[0] == 0
    longer = ("train", "--resume", "--run", "cut", "--set", "train.epochs=3")
    assert tiny.run(capsys, *longer)[0] == 0
    rows = list(csv.DictReader(Path("cut/metrics.csv").read_text().splitlines()))
    assert [(row["epoch"], row["step"]) for row in rows] == [("1", "3"), ("2", "6"), ("3", "9")]
    assert checkpoint.load("cut/last.safetensors")[0]["optimizer/steps"].tolist() == [9] * 6


def test_a_spoilt_best_is_found_before_training(place, capsys):
    content = bytearray(Path("run/best.safetensors").read_bytes())
    content[-5] ^= 1
    Path("run/best.safetensors").write_bytes(content)
    log = Path("run/log.txt").read_bytes()
    refused(capsys, CHECKPOINT, "best.safetensors", *resume("--set", "train.epochs=3"))
    assert Path("run/log.txt").read_bytes() == log


def test_a_missing_best_is_written_again_from_the_last_or_refused(place, capsys):
    best = Path("run/best.safetensors")
    epoch, content = checkpoint.load(best)[1]["epoch"], best.read_bytes()
    best.unlink()
    if epoch == 2:
        assert tiny.run(capsys, *resume())[0] == 0
        assert best.read_bytes() == content
    else:
        refused(capsys, CHECKPOINT, "best.safetensors: missing", *resume())


def test_a_missing_last_does_not_start_over(place, capsys):
    Path("run/last.safetensors").unlink()
    before = tiny.files(Path("run"))
    refused(capsys, CHECKPOINT, "last.safetensors: missing", *resume())
    assert tiny.files(Path("run")) == before


def test_another_type_of_processor_is_said(place, capsys):
    change("run/last.safetensors", lambda _: None, processor="haswell avx2")
    code, out, _ = tiny.run(capsys, *resume("--set", "train.epochs=3"))
    assert code == 0
    assert "another type of processor: the run began on haswell avx2" in out


def test_checkpoints_do_not_grow_with_the_epochs(place, capsys):
    assert tiny.run(capsys, "train", "tiny.toml", "--run", "long", "--set", "train.epochs=40")[0] == 0
    size = Path("long/last.safetensors").stat().st_size
    assert tiny.run(capsys, "train", "--resume", "--run", "long", "--set", "train.epochs=80")[0] == 0
    rows = len(checkpoint.load("long/last.safetensors")[1]["progress"]["gradients"])
    assert rows < 400
    assert Path("long/last.safetensors").stat().st_size < size + 40 * 150


def test_a_run_begun_from_python_can_be_resumed(place, capsys):
    Trainer(load_config("tiny.toml", ["train.epochs=1"]), run_folder.create("python", "tiny")).fit()
    argv = ("train", "--resume", "--run", "python", "--set", "train.epochs=2")
    code, out, _ = tiny.run(capsys, *argv)
    assert (code, "resuming after epoch 1" in out) == (0, True)


def test_fit_never_overwrites_another_run(place):
    with pytest.raises(ConfigError, match="holds a run already"):
        Trainer(load_config("tiny.toml"), run_folder.RunFolder("run")).fit()


# -- found before the first step -------------------------------------------------------------------


@pytest.mark.parametrize("options", [("--dry-run",), ("--run", "new")])
def test_a_last_batch_of_one_is_seen_at_the_start(place, capsys, options):
    layers = "model.layers=[{type='Flatten'}, {type='Linear', out_features=3}, {type='BatchNorm1d'}]"
    sets = ("--set", layers, "--set", "data.batch_size=37", "--set", "data.validation=0.2")
    refused(capsys, USAGE, "data.drop_last = true", "train", "tiny.toml", *sets, *options)
    assert not Path("new").exists()


def test_an_impossible_setting_of_a_sweep_is_found_before_anything_trains(place, capsys):
    sets = ("--set", "model.layers[0].kernel_size=3,99")
    refused(capsys, USAGE, "model.layers[0].kernel_size=99", "sweep", "tiny.toml", "--out", "s", *sets)
    assert not list(Path("s").rglob("*.safetensors"))


def test_a_full_disk_at_the_log_names_the_file(place, capsys):
    run = run_folder.RunFolder(place / "full")
    run.path.mkdir()
    run.log_file.symlink_to("/dev/full")
    with pytest.raises(checkpoint.CheckpointError, match=r"log\.txt: cannot be written: No space left"):
        run.log("a line")


def test_training_ends_saved_when_the_reader_leaves(place):
    argv = ["train", "tiny.toml", "--run", "piped", "--set", "train.epochs=300"]
    command = [sys.executable, "-m", "cnn", *argv]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(120) == 141, process.stderr.read()
    process.stderr.close()
    assert checkpoint.load("piped/last.safetensors")[1]["epoch"] >= 1
    assert "stopped by SIGPIPE, and saved" in Path("piped/log.txt").read_text()


def test_a_missing_mnist_file_is_named_at_once(place, capsys):
    sets = ("--set", "data.dataset=MNIST", "--set", "data.root=nowhere")
    expected = (
        "MNIST: expected nowhere/MNIST/raw/train-images-idx3-ubyte, found no such file; "
        "`cnn data MNIST --root nowhere` downloads it"
    )
    refused(capsys, DATA, expected, "train", "tiny.toml", *sets)
    assert not Path("nowhere").exists()


def test_a_trainer_without_a_run_folder_takes_steps(place):
    trainer = Trainer(load_config("tiny.toml"))
    before = trainer.network.data.copy()
    trainer._step(*next(iter(trainer.batches.epoch(0, as_pixels=True))))
    assert not np.array_equal(trainer.network.data, before)


def test_the_format_refuses_what_is_cut(tmp_path):
    path = tmp_path / "c"
    path.write_bytes(b"".join(bytes(part) for part in tensor_file.parts({"a": np.arange(40)}, {}, 1)))
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(tensor_file.FormatError), tensor_file.open_tensors(path, (1,)) as file:
            file.check()
