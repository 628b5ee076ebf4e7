"""SIGKILL at any moment, and what a resume makes of it."""

import csv
import json
import shutil
import signal
import time
from itertools import count
from pathlib import Path

from faults import place
from faults.trial import NOTICED, Fault, Trial, child, shell, temporaries

_ALWAYS = ["train.checkpoint_minutes=1e-9", "train.snapshots=8"]  # a file is being written nearly always
_TIMES = {"images_per_second", "seconds"}


def of_training(rng):
    """Kill a run and its resumes until one ends: it loads each time, and ends as if nothing had happened."""
    place.write()
    for number in count():
        name, values = rng.choice(list(place.RECIPES.items()))
        values = [*values, *_ALWAYS, "train.epochs=12"]
        run, whole = Path(f"run{number}"), Path(f"whole {name}")
        if not whole.exists():
            place.trained(whole, *values, epochs=12)
        state = {"steps": -1, "kills": 0}
        while state["steps"] is not None:
            wait = rng.uniform(0, 1.2) if rng.random() < 0.8 else rng.uniform(0, 0.2)
            what = f"{name}: kill {state['kills']} after {wait:.3f} s"
            yield Trial("training", what, lambda r=run, w=wait, s=state, v=values: _killed(r, w, s, v))
        yield Trial("ended as without kills", name, lambda a=whole, b=run: _same_run(a, b))
        shutil.rmtree(run, ignore_errors=True)


def _killed(run, wait, state, values):
    """Start or resume, kill after ``wait`` seconds. ``state``: the steps saved, None when it had ended."""
    from cnn.training import checkpoint

    resumed = (run / "config.toml").exists()
    argv = ["train", "--resume"] if resumed else ["train", place.CONFIG, *place.settings(*values)]
    process = child(*argv, "--run", run)
    time.sleep(wait)
    process.send(signal.SIGKILL)
    answer = process.wait()
    if answer.code != -9:
        answer.checked({0})
        state["steps"] = None
        if left := temporaries(run):
            raise Fault(f"left after the end: {left}")
        return NOTICED
    state["kills"] += 1
    for path in run.glob("*.safetensors"):
        checkpoint.load(path)
    if not (run / "last.safetensors").exists():
        return NOTICED
    _, meta = checkpoint.load(run / "last.safetensors")
    progress = meta["progress"]
    steps = progress["epoch"] * 1000 + progress["step"]
    if steps < state["steps"]:
        raise Fault(f"went back: {steps} after {state['steps']}")
    state["steps"] = steps
    logged = [
        line for line in (run / "log.txt").read_text().splitlines() if " epoch " in line and "lr" in line
    ]
    epochs = max((int(line.split(" epoch ")[1].split("/")[0]) for line in logged), default=0)
    if progress["epoch"] < epochs - 1:
        raise Fault(f"more than one interval is lost: epoch {progress['epoch']} saved, {epochs} done")
    for name in ("metrics.csv", "result.json"):
        if (run / name).exists() and not (run / name).read_bytes().endswith(b"\n"):
            raise Fault(f"{name} is cut")
    return NOTICED


def _same_run(one, other):
    """Both runs have the same tensors, bit for bit, the same history and the same result."""
    from cnn.training import checkpoint

    for name in ("best.safetensors", "last.safetensors"):
        (a, meta_a), (b, meta_b) = (checkpoint.load(folder / name) for folder in (one, other))
        different = [
            key
            for key in a.keys() | b.keys()
            if key not in a or key not in b or a[key].tobytes() != b[key].tobytes()
        ]
        if different or meta_a["epoch"] != meta_b["epoch"]:
            raise Fault(f"WRONG: {name} differs: {different[:5]}")
    histories, results = [], []
    for folder in (one, other):
        rows = list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))
        histories.append([{k: v for k, v in row.items() if k not in _TIMES} for row in rows])
        result = json.loads((folder / "result.json").read_text())
        results.append({k: v for k, v in result.items() if k not in _TIMES})
    if histories[0] != histories[1] or results[0] != results[1]:
        raise Fault(f"WRONG: history or result differ: {results}")
    return NOTICED


def resumes(rng):
    """Five recipes, two thread counts, both backends, stopped by a signal or a kill: the same bits."""
    place.write()
    for number in count():
        name, values = list(place.RECIPES.items())[number % len(place.RECIPES)]
        backend = "numba" if number % 2 else "reference"
        values = [*values, f"train.backend={backend}", "train.epochs=4", "train.snapshots=0"]
        whole = Path(f"whole {name} {backend}")
        if not whole.exists():
            place.trained(whole, *values, epochs=4)
        how = rng.choice((signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP))
        wait = rng.uniform(0.1, 0.9)
        yield Trial(
            f"resume, {backend}",
            f"{name}: {how.name} after {wait:.3f} s",
            lambda w=whole, v=values, h=how, s=wait, n=number: _stopped_and_resumed(w, v, h, s, n),
        )


def _stopped_and_resumed(whole, values, how, wait, number):
    run = Path(f"resumed{number}")
    process = child(
        "train", place.CONFIG, "--run", run, *place.settings(*values), "--threads", 1 + number % 2
    )
    deadline = time.monotonic() + 60
    while "epoch 1/" not in process.printed() and time.monotonic() < deadline:
        time.sleep(0.003)
    time.sleep(wait / 10)
    process.send(how)
    answer = process.wait(60)
    if how != signal.SIGKILL:
        answer.checked({0, 128 + how})
    child("train", "--resume", "--run", run, "--threads", 2 - number % 2).wait(120).checked({0})
    outcome = _same_run(whole, run)
    if left := temporaries(run):
        raise Fault(f"left: {left}")
    shutil.rmtree(run)
    return outcome


def of_the_first_compile(rng):
    """Kill a first start while it compiles; the next one compiles the rest and trains."""
    place.write()
    sets = " ".join(
        f'--set "{v}"' for v in ("train.backend=numba", "train.epochs=1", "model.layers[0].out_channels=16")
    )
    for number in count():
        wait = rng.uniform(0.5, 12)
        again = number % 8 == 7  # else the next kill falls on what this one left
        yield Trial(
            "first compile", f"after {wait:.2f} s", lambda w=wait, a=again: _compile_killed(sets, w, a)
        )


def _compile_killed(sets, wait, again):
    kernels = str(Path("kernels").absolute())
    shutil.rmtree("compiled", ignore_errors=True)
    answer = shell(
        f"cnn train {place.CONFIG} --run compiled {sets} & child=$!; sleep {wait}; pkill -9 -P $child; "
        "kill -9 $child 2>/dev/null; wait $child 2>/dev/null; true",
        NUMBA_CACHE_DIR=kernels,
    )
    if "Traceback" in answer.out + answer.err:
        raise Fault(answer.err[-1500:])
    if again:
        shutil.rmtree("compiled", ignore_errors=True)
        shell(f"cnn train {place.CONFIG} --run compiled {sets}", 240, NUMBA_CACHE_DIR=kernels).checked({0})
        shutil.rmtree(kernels, ignore_errors=True)
    return NOTICED


def of_the_data_cache(rng):
    """Kill a first reading of pictures; the next one reads all, and leaves nothing behind."""
    from cnn.data import load_dataset

    place.write(train=60, test=20)
    expected = load_dataset("folder", "images").digests
    while True:
        wait = rng.uniform(0, 0.12)
        yield Trial("data cache", f"after {wait:.4f} s", lambda w=wait: _cache_killed(w, expected))


def _cache_killed(wait, expected):
    from cnn.data import load_dataset

    place.forget()
    process = child("train", place.CONFIG, "--dry-run")
    time.sleep(wait)
    process.send(signal.SIGKILL)
    process.wait()
    if load_dataset("folder", "images").digests != expected:
        raise Fault("WRONG: other images")
    load_dataset("folder", "images")
    names = [path.name for path in place.caches()]
    if len(names) != 1 or names[0].startswith("."):
        raise Fault(f"expected one cache, found {names}")
    return NOTICED
