"""Networks of ONNX files compute what their file says, train, and are refused in one line otherwise."""

import dataclasses
import sys
from pathlib import Path

import helpers
import numpy as np
import pytest
import tiny

from cnn.errors import CheckpointError
from cnn.interop.card import About
from cnn.interop.export import export
from cnn.layers import Concat, Conv2d, Flatten, Linear, ReLU, Residual, SoftmaxCrossEntropy
from cnn.network import Network
from cnn.optimizers import SGD

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")
sys.path.append(str(Path(__file__).parents[1] / "scripts"))
from random_networks import random_images, random_network  # noqa: E402

from cnn.interop.onnx_read import read_onnx  # noqa: E402

F = onnx.TensorProto.FLOAT


def model(nodes, shape, weights=(), opset=20):
    """Return the ModelProto of (operator, inputs, output, attributes) from "x" to the last output."""
    made = [
        onnx.helper.make_node(op, inputs, [output], name=output, **attributes)
        for op, inputs, output, attributes in nodes
    ]
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        made,
        "graph",
        [value("x", F, ["N", *shape])],
        [value(nodes[-1][2], F, None)],
        [onnx.numpy_helper.from_array(array, name) for name, array in dict(weights).items()],
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=8)


def write(path, proto):
    """Write a ModelProto; return the path."""
    path.write_bytes(proto.SerializeToString())
    return path


def check(path, x, tolerance=1e-5):
    """Compare the imported network with onnxruntime; return the network."""
    expected = ort.InferenceSession(str(path)).run(None, {"x": x})[0]
    network = Network.from_onnx(path)
    y = network.predict(x)
    assert y.shape == expected.shape
    assert np.abs(y - expected).max() <= tolerance * max(1, np.abs(expected).max())
    return network


@pytest.mark.parametrize("chunk", range(2))
def test_what_was_exported_comes_back(chunk, tmp_path):
    for network, rng in helpers.geometries("import_onnx", random_network, chunk):
        (path,) = export(network, About(), "onnx", tmp_path / "f.onnx")
        x = random_images(network, rng)
        expected = network.predict(x)
        y = Network.from_onnx(path).predict(x)
        assert np.abs(y - expected).max() <= 1e-5 * max(1, np.abs(expected).max()), network


def test_an_imported_network_trains_and_is_exported_again(tmp_path, rng):
    network = Network(
        [Residual([Conv2d(2, 3, padding=1)]), ReLU(), Concat([[], [Conv2d(3, 1)]]), Flatten(), Linear(3)]
    )
    network.build((2, 6, 6))
    about = About("small", ["a", "b", "c"], (2, 6, 6), None, [0.5, 0.5], [0.2, 0.2])
    (path,) = export(network, about, "onnx", tmp_path / "f.onnx")
    tuned, found, origins = read_onnx(path)
    assert found == about
    assert set(origins.values()) == set(network.state())
    x, labels = random_images(network, rng, 16), rng.integers(0, 3, 16)
    assert np.abs(tuned.predict(x) - network.predict(x)).max() < 1e-6
    loss, optimizer = SoftmaxCrossEntropy(), SGD(tuned.parameters(), lr=0.1, momentum=0.9)
    values = []
    for _ in range(30):
        values.append(loss.forward(tuned.forward(x, training=True), labels))
        tuned.zero_grad()
        tuned.backward(loss.backward())
        optimizer.step()
    assert values[-1] < 0.5 * values[0]
    (again,) = export(tuned, found, "onnx", tmp_path / "g.onnx")
    assert np.abs(Network.from_onnx(again).predict(x) - tuned.predict(x)).max() < 1e-6


@pytest.mark.parametrize(
    ("op", "attributes", "opset"),
    [
        ("Conv", {"auto_pad": "SAME_UPPER", "strides": [1, 1]}, 11),
        ("Conv", {"pads": [1, 2, 1, 2], "dilations": [2, 1], "strides": [2, 2]}, 22),
        ("ConvTranspose", {"strides": [2, 2], "pads": [1, 1, 0, 0]}, 11),
        ("ConvTranspose", {"strides": [2, 2], "output_padding": [1, 0]}, 11),
    ],
)
def test_convolutions_keep_their_geometry(op, attributes, opset, tmp_path, rng):
    weight = rng.standard_normal((3, 3, 3, 3)).astype(np.float32)
    nodes = [(op, ["x", "w"], "y", attributes)]
    x = rng.standard_normal((2, 3, 9, 8)).astype(np.float32)
    check(write(tmp_path / "f.onnx", model(nodes, x.shape[1:], {"w": weight}, opset)), x)


@pytest.mark.parametrize(
    ("nodes", "weights", "opset"),
    [
        ([("Clip", ["x"], "y", {"min": 0.0, "max": 6.0})], {}, 7),
        ([("HardSigmoid", ["x"], "y", {})], {}, 14),
        ([("HardSwish", ["x"], "y", {})], {}, 14),
        (
            [
                ("GlobalAveragePool", ["x"], "a", {}),
                ("Flatten", ["a"], "b", {}),
                ("LogSoftmax", ["b"], "y", {}),
            ],
            {},
            11,
        ),
        ([("ReduceMean", ["x"], "y", {"axes": [-1, -2], "keepdims": 0})], {}, 13),
        ([("Sigmoid", ["x"], "s", {}), ("Mul", ["s", "x"], "y", {})], {}, 13),
        (
            [
                ("GlobalAveragePool", ["x"], "a", {}),
                ("HardSigmoid", ["a"], "b", {}),
                ("Mul", ["x", "b"], "y", {}),
            ],
            {},
            13,
        ),
        (
            [("Mul", ["x", "s"], "a", {}), ("Add", ["b", "a"], "y", {})],
            {"s": (3, 1, 1), "b": (1, 3, 1, 1)},
            13,
        ),
        ([("Div", ["x", "s"], "a", {}), ("Sub", ["a", "s"], "y", {})], {"s": ()}, 13),
        ([("Relu", ["x"], "a", {}), ("Tanh", ["x"], "b", {}), ("Sum", ["a", "b", "x"], "y", {})], {}, 13),
        (
            [
                ("Relu", ["x"], "a", {}),
                ("Concat", ["x", "a"], "b", {"axis": 1}),
                ("Concat", ["x", "a", "b"], "y", {"axis": 1}),
            ],
            {},
            13,
        ),
        (
            [
                ("Shape", ["x"], "s", {}),
                ("Constant", [], "k", {"value_int": 0}),
                ("Gather", ["s", "k"], "n", {}),
                ("Constant", [], "z", {"value_ints": [0]}),
                ("Unsqueeze", ["n", "z"], "u", {}),
                ("Constant", [], "m", {"value_ints": [-1]}),
                ("Concat", ["u", "m"], "t", {"axis": 0}),
                ("Reshape", ["x", "t"], "y", {}),
            ],
            {},
            13,
        ),
    ],
)
def test_operators_are_what_onnxruntime_says(nodes, weights, opset, tmp_path, rng):
    arrays = {name: rng.uniform(0.5, 2, shape).astype(np.float32) for name, shape in weights.items()}
    x = 4 * rng.standard_normal((2, 3, 4, 5)).astype(np.float32)
    check(write(tmp_path / "f.onnx", model(nodes, x.shape[1:], arrays, opset)), x)


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ([("Einsum", ["x"], "y", {"equation": "ijkl->ij"})], 'node "y" (Einsum): there is no layer'),
        ([("Softmax", ["x"], "y", {"axis": 2})], 'node "y" (Softmax): attribute axis: found 2'),
        ([("Relu", ["x"], "y", {"slope": 1})], 'node "y" (Relu): attribute slope'),
        ([("Relu", ["nowhere"], "y", {})], 'node "y" (Relu): input "nowhere"'),
        (
            [
                ("Constant", [], "s", {"value_floats": [1.0, 1.0, 2.0, 2.0]}),
                ("Resize", ["x", "", "s"], "y", {"mode": "nearest", "nearest_mode": "up"}),
            ],
            'node "y" (Resize): attribute nearest_mode',
        ),
        ([("Conv", ["x", "x"], "y", {})], 'node "y" (Conv): input 1'),
    ],
)
def test_what_has_no_layer_is_refused_in_one_line(nodes, expected, tmp_path):
    path = write(tmp_path / "f.onnx", model(nodes, (3, 4, 4)))
    with pytest.raises(CheckpointError) as error:
        Network.from_onnx(path)
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


def refusal(path, network, x):
    """Return the line with which a file is refused, "" where it is read and predicts."""
    try:
        read = Network.from_onnx(path)
    except CheckpointError as error:
        return str(error)
    if read.input_shape == network.input_shape:
        with np.errstate(all="ignore"):
            read.predict(x)
    return ""


def test_changed_files_are_refused_in_a_line_or_read(tmp_path):
    rng = np.random.default_rng(1)
    network = Network([Residual([Conv2d(2, 3, padding=1)]), ReLU(), Flatten(), Linear(3)])
    network.build((2, 5, 5))
    (path,) = export(network, About(), "onnx", tmp_path / "f.onnx")
    whole = path.read_bytes()
    x = random_images(network, rng, 2)
    for _ in range(100):
        changed = bytearray(whole)
        for _ in range(rng.integers(1, 4)):
            changed[rng.integers(len(changed))] = rng.integers(256)
        if rng.random() < 0.1:
            changed = changed[: rng.integers(len(changed))]
        path.write_bytes(bytes(changed))
        message = refusal(path, network, x)
        assert "\n" not in message
    for content in (b"", b"\x00" * 100, b"PK\x03\x04"):
        path.write_bytes(content)
        with pytest.raises(CheckpointError):
            Network.from_onnx(path)


def test_a_trained_config_goes_out_comes_in_is_tuned_and_goes_out_again(tmp_path, capsys):
    tiny.write_images(tmp_path / "images")
    config = tiny.write_config(tmp_path / "tiny.toml", tmp_path / "images")
    assert tiny.main(["train", str(config), "--run", str(tmp_path / "run")]) == 0
    out = tmp_path / "tiny.onnx"
    assert tiny.run(capsys, "export", tmp_path / "run", "--format", "onnx", "--out", out)[0] == 0
    trained = Network.load(tmp_path / "run")
    x = np.random.default_rng(0).standard_normal((12, *trained.input_shape)).astype(np.float32)
    expected = trained.predict(x)
    network, about, _ = read_onnx(out)
    assert np.abs(network.predict(x) - expected).max() <= 1e-6 * max(1, np.abs(expected).max())
    head = Linear(2)
    tuned = Network([*network.layers[:-1], head])
    tuned.build(trained.input_shape)
    labels, loss = np.arange(12) % 2, SoftmaxCrossEntropy()
    optimizer = SGD(tuned.parameters(), lr=0.05, momentum=0.9)
    values = []
    for _ in range(60):
        values.append(loss.forward(tuned.forward(x, training=True), labels))
        tuned.zero_grad()
        tuned.backward(loss.backward(), input_gradient=False)
        optimizer.step()
    assert values[-1] < 0.5 * values[0]
    about = dataclasses.replace(about, classes=["even", "odd"])
    (again,) = export(tuned, about, "onnx", tmp_path / "tuned.onnx")
    back, found, _ = read_onnx(again)
    assert found.classes == ["even", "odd"]
    expected = tuned.predict(x)
    assert np.abs(back.predict(x) - expected).max() <= 1e-6 * max(1, np.abs(expected).max())
    ours = ort.InferenceSession(str(again)).run(None, {"input": x})[0]
    assert np.abs(ours - expected).max() <= 1e-5 * max(1, np.abs(expected).max())


def test_the_node_tests_of_the_onnx_package_are_right_or_refused(tmp_path):
    from interop_check import run_nodes

    counts, refused = run_nodes(tmp_path)
    assert not [name for _, name, reason in refused if reason == "WRONG"]
    assert counts["images", "right"] >= 128
    window = [name for kind, name, _ in refused if kind == "images" and "pool" in name]
    assert all("argmax" in name for name in window)  # a second output
    number = "test_resize", "test_upsample", "test_clip"
    found = [name for _, name, _ in refused if name.startswith(number)]
    assert found == ["test_resize_tf_crop_and_resize_extrapolation_value"]
    around = "test_conv", "test_basic_conv", "test_constant_pad"
    assert not [name for kind, name, _ in refused if kind == "images" and name.startswith(around)]
