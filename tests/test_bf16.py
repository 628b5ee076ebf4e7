"""precision="bf16": networks and runs; ``test_bf16_kernels.py`` has what they are made of."""

import os
import subprocess
import sys
import warnings

import numpy as np
import pytest
import tiny

import cnn
from cnn import backend
from cnn.errors import ConfigError
from cnn.fast.machine import bf16
from cnn.layers import (
    GELU,
    BatchNorm2d,
    Conv2d,
    Flatten,
    GlobalAvgPool2d,
    Linear,
    MaxPool2d,
    ReLU,
    Residual,
    SoftmaxCrossEntropy,
)
from cnn.optimizers import SGD
from cnn.training import checkpoint
from cnn.training.experiment import load_trained


def _layers():
    return [
        Conv2d(16, 3, padding=1), BatchNorm2d(), ReLU(),
        Residual([Conv2d(16, 3, padding=1), BatchNorm2d(), ReLU(), Conv2d(16, 3, padding=1), BatchNorm2d()]),
        ReLU(), MaxPool2d(2), Conv2d(32, 3, padding=1), ReLU(), MaxPool2d(2),
        Residual([Conv2d(24, 3, padding=1, stride=2), BatchNorm2d()], [Conv2d(24, 1, stride=2)]), ReLU(),
        Conv2d(24, 3, padding=1), BatchNorm2d(), GELU(), GlobalAvgPool2d(), Flatten(), Linear(5),
    ]  # fmt: skip


def _network(precision, dtype=np.float32, layers=_layers):
    network = cnn.Network(layers(), precision=precision)
    network.build((3, 32, 32), rng=np.random.default_rng(0), dtype=dtype)
    return network


def _batch(n=50, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, 3, 32, 32), dtype=np.float32), rng.integers(0, 5, n)


def _train(network, steps=4, n=50):
    loss, optimizer, losses = SoftmaxCrossEntropy(), SGD(network.parameters(), lr=0.05, momentum=0.9), []
    for step in range(steps):
        x, labels = _batch(n, step % 2)
        losses.append(loss.forward(network.forward(x, training=True), labels))
        network.backward(loss.backward(), input_gradient=False)
        optimizer.step()
        network.zero_grad()
    return losses, network.data.copy()


def _gradient(network, n=50):
    (x, labels), loss = _batch(n), SoftmaxCrossEntropy()
    value = loss.forward(network.forward(x, training=True), labels)
    dx = network.backward(loss.backward())
    return value, network.grad.copy(), dx


def test_a_network_in_bf16_computes_nearly_what_it_does_in_float32():
    exact, found = _gradient(_network("float32")), _gradient(_network("bf16"))
    assert found[0] == pytest.approx(exact[0], rel=1e-2)
    assert not np.array_equal(found[1], exact[1])
    cosine = exact[1] @ found[1] / np.linalg.norm(exact[1]) / np.linalg.norm(found[1])
    assert cosine > 0.95
    assert found[2].dtype == np.float32
    network = _network("float32")
    x, _ = _batch()
    wanted = network.predict(x)
    network.precision = "bf16"
    assert 0 < np.linalg.norm(network.predict(x) - wanted) < 5e-2 * np.linalg.norm(wanted)
    network.precision = "float32"
    np.testing.assert_array_equal(network.predict(x), wanted)


def test_bf16_learns_and_gives_the_same_bits_on_one_thread_and_on_all():
    every, results = backend.get_threads(), []
    for threads in (every, 1, every):
        backend.set_threads(threads)
        try:
            results.append(_train(_network("bf16"), steps=12))
        finally:
            backend.set_threads(every)
    for losses, data in results[1:]:
        assert losses == results[0][0]
        np.testing.assert_array_equal(data, results[0][1])
    assert results[0][0][-1] < 0.7 * results[0][0][0]


def test_layers_that_are_named_compute_in_float32():
    exact, narrow = _network("float32"), _network("bf16")
    every = [name for name, layer in exact.walk() if not layer.children()]
    network = _network("bf16")
    x, _ = _batch(20)
    network.float32_layers = [name for name in every if not name.startswith("3.")]
    some = network.forward(x, training=True)
    assert not np.array_equal(some, narrow.forward(x, training=True))
    names = [*network.float32_layers, "3"]  # the container, and so all in it
    network = _network("bf16")
    network.float32_layers = names
    assert network.precision == "bf16"
    np.testing.assert_array_equal(_train(network)[1], _train(exact)[1])
    np.testing.assert_array_equal(network.predict(x), exact.predict(x))
    first = cnn.Network(_layers(), precision="bf16", float32_layers=["0"])
    first.build((3, 32, 32), rng=np.random.default_rng(0))
    assert len({_gradient(_network(p))[0] for p in ("float32", "bf16")} | {_gradient(first)[0]}) == 3


def test_an_unknown_name_among_the_layers_of_float32_is_named():
    with pytest.raises(ConfigError, match=r'no layer "3.bdy.0".*"3.body.0"'):
        cnn.Network(_layers(), float32_layers=["3.bdy.0"])


def test_bf16_needs_less_memory():
    narrow, wide = (sum(_network(p)._engine().memory((64, 3, 32, 32))) for p in ("bf16", "float32"))
    assert narrow < 0.75 * wide


def test_a_nan_stays_visible_in_bf16():
    x, labels = _batch()
    x[7, 1, 5, 5] = np.nan
    network = _network("bf16")
    assert np.isnan(SoftmaxCrossEntropy().forward(network.forward(x, training=True), labels))
    logits = network.predict(x)  # with the running statistics, which the pass above has moved
    network = _network("bf16")
    logits = network.predict(x)
    assert np.isnan(logits[7]).all()
    assert np.isfinite(np.delete(logits, 7, 0)).all()


def test_where_no_layer_gains_all_is_float32_bit_for_bit():
    def layers():
        return [Conv2d(3, 5, groups=3), ReLU(), MaxPool2d(2), Flatten(), Linear(5)]

    results = [_train(_network(p, layers=layers)) for p in ("float32", "bf16")]
    np.testing.assert_array_equal(results[0][1], results[1][1])


def test_float64_is_never_rounded():
    exact, found = (_gradient(_network(p, np.float64)) for p in ("float32", "bf16"))
    assert found[0] == exact[0]
    np.testing.assert_array_equal(found[1], exact[1])


def test_an_unknown_precision_is_named():
    with pytest.raises(ConfigError, match='precision: expected float32 or bf16, found "fp16"'):
        cnn.Network(_layers(), precision="fp16")


def test_without_the_instructions_a_network_says_so_and_computes_in_float32(monkeypatch):
    monkeypatch.setattr(bf16, "has_bf16", lambda: False)
    monkeypatch.setattr("cnn.fast.engine.has_bf16", lambda: False)
    with pytest.warns(RuntimeWarning, match="no instructions for bfloat16"):
        network = _network("bf16")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        np.testing.assert_array_equal(_train(network)[1], _train(_network("float32"))[1])


def test_on_another_processor_a_command_says_so_in_one_line(config):
    environment = {**os.environ, "NUMBA_CPU_NAME": "haswell"}
    environment.pop("CNN_EMULATE_BF16", None)
    command = [sys.executable, "-m", "cnn", "summary", config]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    line = 'cnn: warning: precision "bf16": this processor has no instructions for bfloat16 (avx512_bf16); '
    assert done.stderr == line + "computing in float32\n"


# -- runs -------------------------------------------------------------------------------------------------


@pytest.fixture
def config(tmp_path):
    """A config whose second convolution multiplies bfloat16."""
    tiny.write_images(tmp_path / "images")
    path = tiny.write_config(tmp_path / "tiny.toml", tmp_path / "images")
    first = '{ type = "Conv2d", out_channels = 4, kernel_size = 3, padding = 1 },'
    text = path.read_text().replace(first, 2 * first.replace("= 4", "= 16"))
    text = text.replace('backend = "reference"', 'precision = "bf16"').replace(
        'type = "cosine"', 'type = "constant"'
    )
    path.write_text(text)
    return path


def test_a_run_keeps_the_layers_of_float32(config, tmp_path, capsys):
    run = tmp_path / "run"
    names = 'train.float32_layers=["0"]'
    assert tiny.run(capsys, "train", config, "--run", run, "--set", "train.epochs=1", "--set", names)[0] == 0
    network = load_trained(run)[0]
    assert (network.precision, network.float32_layers) == ("bf16", ("0",))
    code, _, message = tiny.run(capsys, "train", config, "--run", run, "--set", 'train.float32_layers=["x"]')
    assert code == 2
    assert 'float32_layers: the network has no layer "x"' in message


def test_a_run_in_bf16_goes_on_bit_for_bit_and_is_evaluated_in_bf16(config, tmp_path, capsys):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    code, out, _ = tiny.run(capsys, "train", config, "--run", whole)
    assert code == 0
    assert "numba bf16" in out
    assert (
        tiny.run(capsys, "train", config, "--run", parts, "--set", "train.epochs=1", "--threads", 1)[0] == 0
    )
    assert tiny.run(capsys, "train", "--resume", "--run", parts, "--set", "train.epochs=3")[0] == 0
    a, b = (checkpoint.load(run / "last.safetensors") for run in (whole, parts))
    assert a[1]["config"]["train"]["precision"] == "bf16"
    for name in a[0]:
        assert a[0][name].tobytes() == b[0][name].tobytes(), name
    answers = {
        p: tiny.run(capsys, "evaluate", whole, *(("--precision", p) if p else ()))
        for p in (None, "bf16", "float32")
    }
    assert answers[None] == answers["bf16"]
    assert answers["float32"][0] == 0
    code, _, err = tiny.run(capsys, "train", "--resume", "--run", whole, "--set", "train.precision=float32")
    assert code == 2
    assert "train.precision" in err
    pictures = [str(p) for p in sorted((tmp_path / "images" / "test").rglob("*.png"))][:20]
    narrow, wide = (
        tiny.run(capsys, "predict", whole, *pictures, "--json", "--precision", p)[1]
        for p in ("bf16", "float32")
    )
    assert narrow != wide


def test_the_reference_backend_has_no_bf16(config, capsys):
    code, _, err = tiny.run(capsys, "train", config, "--set", "train.backend=reference")
    assert code == 2
    assert 'train.precision: found "bf16", expected "float32"' in err


def test_a_network_whose_memory_was_asked_for_trains_as_any_other():
    """A size is found without compiling: nothing that then stands at address 0 may stay."""
    asked, plain = _network("bf16"), _network("bf16")
    asked._engine().memory((50, 3, 32, 32))
    np.testing.assert_array_equal(_gradient(asked)[1], _gradient(plain)[1])
