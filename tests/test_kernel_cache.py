"""Compiled kernels are kept: what one process compiled, the next one only loads."""

import hashlib
import inspect
import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from cnn import files
from cnn.fast.machine import cache

SCRIPT = """
import json
import numpy as np
from cnn import Network
from cnn.backend import compile_report
from cnn.layers import SoftmaxCrossEntropy, from_config
from cnn.optimizers import make_optimizer

def conv(channels, kernel=3, **more):
    return {"type": "Conv2d", "out_channels": channels, "kernel_size": kernel, **more}

body = [conv(32, padding=1), {"type": "BatchNorm2d"}, {"type": "ReLU"}, conv(32, padding=1)]
shapes = {
    "small": [conv(6, 5), {"type": "ReLU"}, {"type": "MaxPool2d", "kernel_size": 2}, {"type": "Flatten"}],
    "wide": [
        conv(32, 2), {"type": "GELU"}, conv(32, padding=1), {"type": "BatchNorm2d"}, {"type": "ReLU"},
        {"type": "Residual", "body": body}, {"type": "ReLU"}, conv(32, 1), conv(32, groups=32),
        conv(48, stride=2, padding=1), {"type": "AvgPool2d", "kernel_size": 2}, {"type": "Dropout"},
        {"type": "GlobalMaxPool2d"},
    ],
}
for layers in shapes.values():
    network = Network(from_config([*layers, {"type": "Linear", "out_features": 10}]))
    network.build((3, 24, 24))
    x, labels = np.zeros((32, 3, 24, 24), np.float32), np.arange(32) % 10
    loss = SoftmaxCrossEntropy()
    for kind in ("SGD", "Muon", "Adam", "RMSprop"):
        optimizer = make_optimizer(kind, network.parameters(), lr=0.1, clip_norm=1.0)
        loss.forward(network.forward(x, training=True), labels)
        network.backward(loss.backward(), input_gradient=False)
        optimizer.step()
    network.predict(x)
    network.predict(x[:1])
print(json.dumps(compile_report()))
"""


def report(tmp_path):
    done = subprocess.run([sys.executable, "-c", SCRIPT], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_the_second_process_compiles_nothing(tmp_path):
    report(tmp_path)
    second = report(tmp_path)
    assert second["compiled"] == 0
    assert second["loaded"] > 40


LAUNCH = """
import sys
import numpy as np
from cnn.fast.kernels import activation
from cnn.fast.machine import jit

x = np.zeros(64, np.float32)
params = jit.table([x.ctypes.data, x.ctypes.data, 64, 0])
jit.launch(activation.forward_task(1, 4), 1, params.reshape([4] if sys.argv[1] == "flat" else [2, 2]))
"""


def test_what_was_compiled_around_a_loaded_kernel_starts_threads(tmp_path):
    """Numba lost that: the third process crashed."""
    for shape in ("flat", "square", "square"):
        environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
        done = subprocess.run([sys.executable, "-c", LAUNCH, shape], env=environment, check=False)
        assert done.returncode == 0


SMALL = """
import json
import numpy as np
from cnn.backend import compile_report, keeps_kernels
from cnn.fast import kernels

x = np.arange(6, dtype=np.float32).reshape(2, 3)
y = np.asarray(kernels.add(x, x)).tolist()
print(json.dumps({"y": y, "keeps": keeps_kernels(), **compile_report()}))
"""


def small(folder, script=SMALL, path=None, **environment):
    """What SMALL prints in a process of its own, and nothing else."""
    here = Path(__file__).parents[1] if path is None else path
    environment = os.environ | {"PYTHONPATH": str(here)} | environment
    environment = {name: value for name, value in environment.items() if value is not None}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return json.loads(done.stdout)


DOUBLED = [[0, 2, 4], [6, 8, 10]]


def emptied(content):
    return b""


def halved(content):
    return content[: len(content) // 2]


def flipped(content):
    middle = len(content) // 2
    return (
        content[:middle]
        + bytes(byte ^ 0x55 for byte in content[middle : middle + 200])
        + content[middle + 200 :]
    )


def replaced(content):
    return b"something else altogether, longer than a checksum"


def of_another_numba(content):
    payload = b"cnumba.core.types.gone\nInteger\n."  # a pickle that names a module which is not here
    return hashlib.sha256(payload).digest() + payload


@pytest.mark.parametrize("damage", [emptied, halved, flipped, replaced, of_another_numba])
@pytest.mark.parametrize("suffix", [".nbi", ".nbc"])
def test_a_damaged_cache_is_compiled_again_without_a_word(tmp_path, suffix, damage):
    small(tmp_path, NUMBA_CACHE_DIR=str(tmp_path))
    paths = list(tmp_path.rglob(f"*{suffix}"))
    assert paths
    for path in paths:
        path.write_bytes(damage(path.read_bytes()))
    again = small(tmp_path, NUMBA_CACHE_DIR=str(tmp_path))
    assert again["y"] == DOUBLED
    assert again["compiled"] > 0
    assert small(tmp_path, NUMBA_CACHE_DIR=str(tmp_path))["compiled"] == 0


FOREIGN = """
import hashlib, pickle, sys, types
from pathlib import Path

sys.modules["gone"] = module = types.ModuleType("gone")
exec("class Kind: pass", module.__dict__)
module.Kind.__module__ = "gone"
payload = pickle.dumps((module.Kind(), 0, {}))
for path in Path(".").rglob("*.nb[ic]"):
    path.write_bytes(hashlib.sha256(payload).digest() + payload)
print("1")
"""


def test_kernels_that_another_version_of_a_library_wrote_are_compiled_again(tmp_path):
    small(tmp_path, NUMBA_CACHE_DIR=str(tmp_path))
    small(tmp_path, FOREIGN)
    again = small(tmp_path, NUMBA_CACHE_DIR=str(tmp_path))
    assert (again["y"], again["loaded"]) == (DOUBLED, 0)
    assert small(tmp_path, NUMBA_CACHE_DIR=str(tmp_path))["compiled"] == 0


OUTSIDE = """
import numpy as np
from cnn.fast.machine.jit import address, jit, launch, table, task
from cnn.fast.machine.tables import integers
from helper import changed

@task
def write(index, thread, params):
    integers(integers(params)[0])[0] = changed(20)

out = np.zeros(1, np.int64)
launch(write, 1, table([address(out)]))
print(out[0])
"""
HELPER = """
from cnn.fast.machine.jit import jit

@jit
def changed(x):
    return x + 1
"""


def test_a_task_of_another_file_never_runs_stale_code(tmp_path):
    (tmp_path / "helper.py").write_text(HELPER)
    paths = os.pathsep.join([str(Path(__file__).parents[1]), str(tmp_path)])
    assert small(tmp_path, OUTSIDE, paths, NUMBA_CACHE_DIR=str(tmp_path)) == 21
    (tmp_path / "helper.py").write_text(HELPER.replace("+ 1", "* 2"))  # same length, maybe the same second
    assert small(tmp_path, OUTSIDE, paths, NUMBA_CACHE_DIR=str(tmp_path)) == 40


def test_a_changed_kernel_is_compiled_anew(tmp_path):
    shutil.copytree(Path(__file__).parents[1] / "cnn", tmp_path / "cnn")
    assert small(tmp_path, path=tmp_path, NUMBA_CACHE_DIR=str(tmp_path))["y"] == DOUBLED
    source = tmp_path / "cnn" / "fast" / "kernels" / "elementwise.py"
    text = source.read_text(encoding="utf-8")
    source.write_text(
        text.replace("v.load(x, i) + v.load(y, i)", "v.load(x, i) - v.load(y, i)"), encoding="utf-8"
    )
    assert small(tmp_path, path=tmp_path, NUMBA_CACHE_DIR=str(tmp_path))["y"] == [[0, 0, 0], [0, 0, 0]]


def test_what_a_kernel_closes_over_tells_it_apart_the_same_in_every_process():
    def closed_over():
        from cnn.fast.conv.winograd import FLOAT32, _transform_outputs
        from cnn.fast.conv.winograd_tiles import tile_to_image

        values = [tile_to_image(2, 4), tile_to_image(4, 4), tile_to_image(4, 64)]
        values += [_transform_outputs(2, FLOAT32, False), _transform_outputs(4, FLOAT32, False)]
        values += [_transform_outputs(4, FLOAT32, True)]
        return [repr(cache._meaning(value)) for value in values]

    mine = closed_over()
    assert len(set(mine)) == len(mine)
    script = "import json\nfrom cnn.fast.machine import cache\n"
    body = textwrap.dedent(inspect.getsource(closed_over))
    done = subprocess.run(
        [sys.executable, "-c", f"{script}{body}\nprint(json.dumps(closed_over()))"],
        cwd=Path(__file__).parent, capture_output=True, text=True, check=False,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
    )  # fmt: skip
    assert json.loads(done.stdout) == mine, done.stderr


@pytest.mark.parametrize("module", [cache.numba, cache.llvmlite])
def test_another_numba_has_a_folder_of_its_own(module, monkeypatch):
    assert cache.source_hash() == cache.SOURCE_HASH
    monkeypatch.setattr(module, "__version__", "0.1")
    assert cache.source_hash() != cache.SOURCE_HASH


def test_a_folder_that_cannot_be_written_compiles_and_says_so(tmp_path):
    (tmp_path / "file").write_text("")
    for _ in range(2):
        found = small(tmp_path, NUMBA_CACHE_DIR=str(tmp_path / "file" / "below"))
        assert (found["y"], found["keeps"], found["loaded"]) == (DOUBLED, False, 0)
    assert small(tmp_path, NUMBA_CACHE_DIR=str(tmp_path / "good"))["keeps"]


@pytest.mark.parametrize(
    "environment",
    [{"HOME": "", "XDG_CACHE_HOME": ""}, {"HOME": "", "XDG_CACHE_HOME": "relative"}, {"HOME": "~"}],
    ids=str,
)
def test_without_a_home_nothing_is_written_to_the_working_folder(tmp_path, environment):
    environment = {"NUMBA_CACHE_DIR": None, "XDG_CACHE_HOME": None} | environment
    found = small(tmp_path, **environment)
    assert (found["y"], found["keeps"]) == (DOUBLED, False)
    assert list(tmp_path.iterdir()) == []


def test_the_folder_for_caches_follows_the_xdg_specification(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("HOME", "/home/ada")
    for named, expected in (
        ("/var/caches", "/var/caches/cnn"),
        ("", "/home/ada/.cache/cnn"),
        ("here", "/home/ada/.cache/cnn"),
    ):
        monkeypatch.setenv("XDG_CACHE_HOME", named)
        assert files.user_cache_folder() == Path(expected)
    monkeypatch.setattr(sys, "platform", "darwin")
    assert files.user_cache_folder() == Path("/home/ada/Library/Caches/cnn")
    monkeypatch.setenv("HOME", "")
    assert files.user_cache_folder() is None


def test_kernels_of_versions_that_are_no_longer_used_are_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "_ROOT", tmp_path)
    day = 86400
    ages = {
        cache.cache_folder().name: 100, "kernels-0123456789abcdef": 8, "kernels-fedcba9876543210": 6,
        "kernels-mine": 100, "somebody": 100,
    }  # fmt: skip
    for name, days in ages.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "file.nbc").write_bytes(b"")
        os.utime(tmp_path / name, (1e9 - days * day,) * 2)
    cache.remove_unused(now=1e9)
    assert {path.name for path in tmp_path.iterdir()} == ages.keys() - {"kernels-0123456789abcdef"}
    assert cache.cache_folder().stat().st_mtime == 1e9


@pytest.mark.parametrize("threads", ["0", "-1", "many", "", "2.5"])
def test_a_number_of_threads_that_numba_cannot_take_is_one_clear_line(tmp_path, threads):
    environment = os.environ | {"NUMBA_NUM_THREADS": threads, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-m", "cnn", "summary"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert f'NUMBA_NUM_THREADS: expected a whole number of at least 1, found "{threads}"' in done.stderr
