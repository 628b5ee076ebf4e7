"""Files that changed on their way: one flipped bit, one other byte, a lost end."""

import time
from itertools import cycle
from pathlib import Path

import numpy as np

from faults import place
from faults.trial import HARMLESS, NOTICED, Fault, Trial, child, command, contents, cut, damaged

_RUN = "run"


def checkpoint_flips(rng):
    """Flips in best, last and a snapshot: every one is noticed by every command that reads the file."""
    return _checkpoints(rng, "flip", damaged)


def checkpoint_cuts(rng):
    """The same without their end."""
    return _checkpoints(rng, "cut", cut)


def _checkpoints(rng, kind, spoil):
    place.write()
    run = place.trained(_RUN)
    snapshot = max((run / "snapshots").iterdir())
    readers = cycle(
        [
            (run / "best.safetensors", ("evaluate", run)),
            (run / "last.safetensors", ("train", "--resume", "--run", run, "--set", "train.epochs=3")),
            (run / "best.safetensors", ("predict", run, place.IMAGE)),
            (snapshot, ("explain", run, "--image", "0", "--history", "--out", "page.html")),
            (run / "best.safetensors", ("train", "--resume", "--run", run, "--set", "train.epochs=3")),
            (run / "last.safetensors", ("evaluate", run / "last.safetensors")),
            (run / "best.safetensors", ("export", run, "--format", "safetensors", "--out", "e.safetensors")),
        ]
    )
    while True:
        path, argv = next(readers)
        whole = path.read_bytes()
        how, spoilt = spoil(whole, rng)
        yield Trial(
            f"{kind}, {argv[0]}",
            f"{path}: {how}",
            lambda p=path, w=whole, s=spoilt, a=argv: _refused(p, w, s, a),
        )


def _refused(path, whole, spoilt, argv):
    """The command must refuse the file with exit 4 and change nothing."""
    unread = argv[0] == "evaluate" and path.name == "last.safetensors"  # the optimizer's part
    expected = command(*argv).out if unread else None
    path.write_bytes(spoilt)
    before = contents(_RUN)
    try:
        answer = command(*argv).checked({0, 4} if unread else {4})
        if answer.code == 0:
            if answer.out != expected:
                raise Fault(f"WRONG, without a word: {answer.out}")
            return HARMLESS
        if path.name not in answer.err:
            raise Fault(f"does not name {path.name}: {answer.err}")
        if contents(_RUN) != before:
            raise Fault("changed the run folder")
    finally:
        path.write_bytes(whole)
    return NOTICED


def cache_flips(rng):
    """Flips in data caches: passed over with a line, the pictures or IDX files are read again."""
    return _caches(rng, "flip", damaged)


def cache_cuts(rng):
    """The same without their end."""
    return _caches(rng, "cut", cut)


def _caches(rng, kind, spoil):
    from cnn.data import load_dataset

    place.write(train=4, test=2)
    place.mnist()
    sets = []
    for name, root in (("folder", "images"), ("MNIST", "data")):
        known = place.caches()
        expected = load_dataset(name, root, download=False)
        path = next(path for path in place.caches() if path not in known)
        sets.append((name, root, expected.digests, path))
    while True:
        name, root, digests, path = rng.choice(sets)
        whole = path.read_bytes()
        how, spoilt = spoil(whole, rng)
        yield Trial(
            f"{kind}, {name}",
            f"{path}: {how}",
            lambda n=name, r=root, d=digests, p=path, s=spoilt: _read_again(n, r, d, p, s),
        )


def _read_again(name, root, digests, path, spoilt):
    import logging

    from cnn.data import load_dataset

    said = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    log = logging.getLogger("cnn.data")
    log.addHandler(handler)
    log.propagate = False
    path.write_bytes(spoilt)
    try:
        if load_dataset(name, root, download=False).digests != digests:
            raise Fault("WRONG: other images or labels, without a word")
    finally:
        log.removeHandler(handler)
    if not any(str(path) in line for line in said):
        raise Fault(f"nothing was said of {path}: {said}")
    said.clear()
    if load_dataset(name, root, download=False).digests != digests or said:
        raise Fault(f"the new cache is not right: {said}")
    return NOTICED


def kernel_flips(rng):
    """Flips in kept kernels: compiled again, without a word, the same results."""
    return _kernels(rng, "flip", damaged)


def kernel_cuts(rng):
    """The same without their end."""
    return _kernels(rng, "cut", cut)


def _kernels(rng, kind, spoil):
    from cnn.fast.machine import cache

    cache._ROOT = Path("kernels").absolute()
    _compute_in_child()
    files = [p for p in sorted(Path("kernels").rglob("*")) if p.suffix in (".nbi", ".nbc")]
    if len(files) < 4:
        raise Fault(f"expected kept kernels, found {files}")
    number = 0
    while True:
        number += 1
        path = rng.choice(files)
        if not path.is_file():  # what was compiled again lies under another name
            files = [p for p in sorted(Path("kernels").rglob("*")) if p.suffix in (".nbi", ".nbc")]
            continue
        whole = path.read_bytes()
        how, spoilt = spoil(whole, rng)
        if number % 100 == 50:
            run = lambda p=path, s=spoilt: _compiled_again(p, s)  # noqa: E731
        else:
            run = lambda p=path, w=whole, s=spoilt: _not_loaded(p, w, s)  # noqa: E731
        yield Trial(f"{kind}, {'process' if number % 100 == 50 else 'file'}", f"{path.name}: {how}", run)


def _compute():
    """A kernel that Python calls and one that is a task; return whether both are right."""
    from cnn.fast import kernels

    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    y = np.asarray(kernels.add(x, x))
    return 0 if (y == 2 * x).all() else 1


def _compute_in_child():
    from faults.trial import Child

    answer = Child(_compute).wait(120)
    if answer.code or answer.err:
        raise Fault(f"exit {answer.code}: {answer.err}")


def _compiled_again(path, spoilt):
    path.write_bytes(spoilt)
    _compute_in_child()
    _compute_in_child()
    return NOTICED


def _not_loaded(path, whole, spoilt):
    """What Numba's cache asks for first is refused as if it were not there; the file is put back."""
    from cnn.fast.machine.cache import _unsealed

    path.write_bytes(spoilt)
    try:
        _unsealed(path.read_bytes())
    except OSError:
        return NOTICED
    finally:
        path.write_bytes(whole)
    raise Fault("WRONG: damaged machine code would be loaded")


def run_folder(rng):
    """Flips and cuts in the other files of a run: a resume goes on, all is right, or it says what is not."""
    place.write()
    place.trained("whole")
    names = (
        "config.toml",
        "metrics.csv",
        "log.txt",
        "result.json",
        "gradients.csv",
        "report.html",
        "curves.png",
    )
    while True:
        name, spoil = rng.choice(names), rng.choice((damaged, cut))
        how, spoilt = spoil(Path("whole", name).read_bytes(), rng)
        yield Trial(name, f"{name}: {how}", lambda n=name, s=spoilt: _taken_up(n, s))


def _taken_up(name, spoilt):
    import shutil

    shutil.rmtree(_RUN, ignore_errors=True)
    shutil.copytree("whole", _RUN)
    Path(_RUN, name).write_bytes(spoilt)
    answer = command("train", "--resume", "--run", _RUN).checked({0, 2})
    if answer.code == 2 and (name != "config.toml" or "Traceback" in answer.err):
        raise Fault(f"{name} stops a resume: {answer.err}")
    if answer.code == 2:
        return NOTICED
    for file in ("result.json", "gradients.csv"):  # written anew
        _same_result(Path("whole", file), Path(_RUN, file))
    if name == "metrics.csv" and not _same_rows() and name not in answer.out:
        raise Fault("WRONG: another history, without a word")
    return HARMLESS


def _same_rows():
    return Path("whole", "metrics.csv").read_bytes() == Path(_RUN, "metrics.csv").read_bytes()


def _same_result(one, other):
    if one.suffix == ".json":
        import json

        texts = [{k: v for k, v in json.loads(p.read_text()).items() if k != "seconds"} for p in (one, other)]
    else:
        texts = [p.read_bytes() for p in (one, other)]
    if texts[0] != texts[1]:
        raise Fault(f"WRONG: {other.name} differs: {texts}")


def sources(rng):
    """Flips in the files of a data set while a run rests: a resume says that the data changed."""
    place.write()
    place.mnist()
    sets = place.settings(
        "data.dataset=MNIST", "data.root=data", "data.augment=[]", "model.layers[6].out_features=10"
    )
    child("train", place.CONFIG, "--run", _RUN, *sets, "--set", "train.epochs=1").wait(300).checked({0})
    files = sorted(Path("data/MNIST/raw").iterdir())
    while True:
        path, spoil = rng.choice(files), rng.choice((damaged, cut))
        whole = path.read_bytes()
        how, spoilt = spoil(whole, rng)
        yield Trial(
            path.name, f"{path.name}: {how}", lambda p=path, w=whole, s=spoilt: _change_noticed(p, w, s)
        )


def _change_noticed(path, whole, spoilt):
    import os

    times = path.stat()
    path.write_bytes(spoilt)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    try:
        command("train", "--resume", "--run", _RUN, "--set", "train.epochs=2").checked({3, 4})
    finally:
        path.write_bytes(whole)
        time.sleep(0.002)  # so that the file's times tell the two apart
    return NOTICED
