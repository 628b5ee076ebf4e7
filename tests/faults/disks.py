"""Full disks: files that may not grow, a small file system, a call that fails; for commands that write."""

import builtins
import errno
import json
import os
import resource
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

from faults import place
from faults.trial import HARMLESS, NOTICED, Fault, Trial, child, contents, temporaries

_COMMANDS = {
    "train": ("train", place.CONFIG, "--run", "new", *place.settings("train.epochs=2", "train.snapshots=4")),
    "resume": ("train", "--resume", "--run", "run", "--set", "train.epochs=3"),
    "finished": ("train", "--resume", "--run", "run"),
    "explain": ("explain", "run", "--image", "0", "--out", "out/page.html"),
    "gradcheck": ("gradcheck", place.CONFIG, "--layer", "6", "--json", "out/check.json"),
    "export c": ("export", "run", "--format", "c", "--out", "out/net.c"),
    "export safetensors": ("export", "run", "--format", "safetensors", "--out", "out/net.safetensors"),
    "sweep": ("sweep", place.CONFIG, "--seeds", "0", "--out", "sweep", "--set", "train.epochs=1"),
    "dry run": ("train", place.CONFIG, "--dry-run"),
}


def full(rng):
    """Each command, on a disk that gets full at any place: an error with the file's name, old files whole."""
    place.write()
    place.trained("whole")
    Path("old").mkdir()
    for name in ("page.html", "check.json", "net.c", "net.safetensors"):
        Path("old", name).write_text("old\n")
    small = _can_mount()
    while True:
        name = rng.choice(list(_COMMANDS))
        if rng.random() < 0.5:
            limit = int(10 ** rng.uniform(2, 5))  # semaphores of 32 bytes are files too
            how, prepare = f"files of {limit} bytes", lambda n=limit: _limit_files(n)
        elif small and rng.random() < 0.2:
            size = rng.choice((16, 32, 64, 128))
            yield Trial(f"{name}, small disk", f"{size} kB", lambda n=name, k=size: _on_small_disk(n, k))
            continue
        else:
            call, number = rng.choice(("fsync", "replace", "open", "write")), rng.randrange(1, 12)
            how, prepare = f"{call} {number} fails", lambda c=call, n=number: _fail(c, n)
        yield Trial(f"{name}, {how.split()[0]}", f"{name}: {how}", lambda n=name, p=prepare: _tried(n, p))


def _fresh(folder="."):
    for name in ("run", "new", "sweep", "out"):
        shutil.rmtree(Path(folder, name), ignore_errors=True)
    shutil.copytree("whole", Path(folder, "run"))
    shutil.copytree("old", Path(folder, "out"))
    place.forget()


def _tried(name, prepare, folder="."):
    _fresh(folder)
    before = contents(Path(folder, "out"))
    answer = child(*_COMMANDS[name], prepare=prepare).wait(50)
    answer.checked({0, 2, 3, 4, 141})
    _all_whole(folder, before, answer)
    if name == "resume" and not any(call in answer.err for call in ("Traceback",)):
        child(*_COMMANDS["resume"]).wait(50).checked({0})
    return NOTICED if answer.code else HARMLESS


def _all_whole(folder, before, answer):
    from cnn.training import checkpoint

    if answer.code and "cannot be" not in answer.err and ": " not in answer.err:
        raise Fault(f"no file is named: {answer.err}")
    for path in Path(folder).glob("*/*.safetensors"):
        if "old\n" not in path.read_text("latin-1")[:10] and path.parent.name != "out":
            checkpoint.load(path)
    for path in Path(folder).rglob("*.json"):
        if path.read_text() != "old\n":
            json.loads(path.read_text())
    after = contents(Path(folder, "out"))
    for name in before:
        if answer.code and after[name] != before[name]:
            raise Fault(f"{name} was replaced, but the exit code is {answer.code}")
        if after[name] != before[name] and len(after[name]) < 50:
            raise Fault(f"{name} is destroyed: {after[name]!r}")
    left = [p for p in temporaries(folder) if not p.endswith(".lock") and "cnn-cache" not in p]
    if left:
        raise Fault(f"left: {left}")


def _limit_files(size):
    """No file may grow beyond ``size`` bytes; pipes may."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def _fail(call, number):
    """Let the ``number``-th call of a function of the system, on a file of the working folder, fail."""
    left = [number]

    def failing(function, writes=lambda *a, **k: True):
        def wrapper(*args, **options):
            if writes(*args, **options):
                left[0] -= 1
                if left[0] == 0:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(args[0]))
            return function(*args, **options)

        return wrapper

    def opens_to_write(file, mode="r", *args, **options):
        here = isinstance(file, str | os.PathLike) and not os.path.isabs(file)
        return here and any(c in mode for c in "wax+")

    if call == "fsync":
        os.fsync = failing(os.fsync)
    elif call == "replace":
        os.replace = failing(os.replace)
    elif call == "open":
        builtins.open = failing(builtins.open, opens_to_write)
    else:
        ordinary = builtins.open

        def opened(file, mode="r", *args, **options):
            stream = ordinary(file, mode, *args, **options)
            if opens_to_write(file, mode):
                left[0] -= 1
                if left[0] == 0:
                    stream.close()
                    stream = ordinary("/dev/full", mode.replace("x", "w"), *args, **options)
            return stream

        builtins.open = opened


def _can_mount():
    """Whether this process may mount a file system of its own, as root may."""
    Path("disk").mkdir()
    try:
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", "disk"], capture_output=True)
    except OSError:
        return False
    if done.returncode:
        return False
    subprocess.run(["umount", "disk"], check=False)
    return True


def _on_small_disk(name, size):
    """Run a command whose outputs lie on a disk of ``size`` kB beyond what lies there."""
    total = size + 300
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={total}k", "tmpfs", "disk"], check=True)
    try:
        _fresh("disk")
        before = contents(Path("disk/out"))
        used = sum(len(c) for c in contents("disk").values())
        with suppress(OSError), open("disk/filler", "wb") as file:
            for _ in range(max(0, (total * 1024 - used) // 1024 - size - 80)):
                file.write(bytes(1024))
        argv = [
            f"disk/{a}"
            if (str(a).startswith(("run", "new", "out/", "sweep")) and a != "sweep") or (a == "sweep" and k)
            else a
            for k, a in enumerate(_COMMANDS[name])
        ]
        answer = child(*argv).wait(50).checked({0, 2, 3, 4})
        _all_whole("disk", before, answer)
        return NOTICED if answer.code else HARMLESS
    finally:
        subprocess.run(["umount", "-l", "disk"], check=False)
