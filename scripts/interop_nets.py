"""Networks of torchvision with random weights, imported and compared: used by interop_check.py."""

import functools
import statistics
import time
import warnings

import numpy as np
import onnxruntime
import torch
import torchvision as tv

from cnn.interop.onnx_read import read_onnx
from cnn.layers import Dropout, SoftmaxCrossEntropy
from cnn.optimizers import SGD

#: Name -> (constructor, pixels).
NETS = {
    "resnet18": (tv.models.resnet18, 64),
    "mobilenet_v2": (tv.models.mobilenet_v2, 64),
    "vgg11_bn": (tv.models.vgg11_bn, 224),
    "squeezenet1_1": (tv.models.squeezenet1_1, 64),
    "densenet121": (tv.models.densenet121, 64),
}


def make(name):
    """Return the module in evaluation, with statistics that are not 0 and 1, and without dropout."""
    torch.manual_seed(0)
    module = NETS[name][0](weights=None, num_classes=10).eval()
    for part in module.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.running_mean.normal_(0, 0.1)
            part.running_var.uniform_(0.8, 1.2)
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    return module


def write(module, pixels, exporter, path):
    """Export with one of PyTorch's exporters, "legacy" (layers as they are) or "dynamo" (it folds norms)."""
    x = torch.zeros(2, 3, pixels, pixels)
    names = {"input_names": ["x"], "output_names": ["y"]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if exporter == "legacy":
            torch.onnx.export(
                module, (x,), path, dynamo=False, opset_version=17, do_constant_folding=False,
                training=torch.onnx.TrainingMode.PRESERVE,
                dynamic_axes={"x": {0: "n"}, "y": {0: "n"}}, **names,
            )  # fmt: skip
        else:
            dynamic = ({0: torch.export.Dim("n")},)
            torch.onnx.export(
                module, (x,), path, dynamo=True, external_data=False, verbose=False,
                dynamic_shapes=dynamic, **names,
            )  # fmt: skip


def torch_pass(module, dtype, x, labels, training):
    """Return (logits, {name: gradient in float64}) of PyTorch."""
    module = module.to(dtype).train(training)
    module.zero_grad()
    logits = module(torch.tensor(x, dtype=dtype))
    torch.nn.functional.cross_entropy(logits, torch.tensor(labels)).backward()
    grads = {name: p.grad.numpy().astype(np.float64) for name, p in module.named_parameters()}
    return logits.detach().numpy(), grads


def our_pass(network, origins, x, labels, training):
    """Return (logits, {name of the initializer: gradient}) of the imported network."""
    loss = SoftmaxCrossEntropy()
    logits = np.asarray(network.forward(x, training=training))
    loss.forward(logits, labels)
    network.zero_grad()
    network.backward(loss.backward())
    grads = {}
    for name, layer in network.walk():
        if not layer.children():
            grads |= {origins[f"{name}.{p.name}"]: p.grad.astype(np.float64) for p in layer.parameters()}
    return logits, grads


def distance(found, expected):
    """Return the largest distance of a parameter's gradient, in units of that gradient's length.

    Gradients that are 0 but for rounding (of a bias in front of a normalisation) are left out.
    """
    largest = max(np.abs(g).max() for g in expected.values())
    pairs = [(found[k], g) for k, g in expected.items() if np.abs(g).max() > 1e-7 * largest]
    return max(float(np.linalg.norm(a - b) / np.linalg.norm(b)) for a, b in pairs)


def torchvision(arguments, folder):
    """Print logits and gradients beside PyTorch in float64, and PyTorch's own float32 beside it."""
    wrong = 0
    for name in arguments.nets or NETS:
        pixels = NETS[name][1]
        for exporter in ("legacy", "dynamo"):
            module, path = make(name), folder / f"{name}.{exporter}.onnx"
            write(module, pixels, exporter, path)
            network, _, origins = read_onnx(path)
            for _, layer in network.walk():
                if isinstance(layer, Dropout):
                    layer.p = 0.0
            wrong += compare(f"{name} {exporter}", module, network, origins, pixels, exporter == "legacy")
    return wrong


def compare(label, module, network, origins, pixels, gradients):
    """Print a line a mode of one import; return 1 if the logits are wrong or a step does not help."""
    rng = np.random.default_rng(0)
    count = 2 if pixels > 100 else 8
    x = rng.standard_normal((count, 3, pixels, pixels)).astype(np.float32)
    labels = rng.integers(0, 10, count)
    state = {key: value.clone() for key, value in module.state_dict().items()}
    with torch.no_grad():
        expected = module.double()(torch.tensor(x, dtype=torch.float64)).numpy()
    error = float(np.abs(network.predict(x) - expected).max() / np.abs(expected).max())
    print(f"{label}: logits {error:.1e}", flush=True)
    for training in (False, True) if gradients else ():
        start = network.state() | {}
        start = {key: value.copy() for key, value in start.items()}
        ours, theirs = [], []
        for seed in range(3 if count > 2 else 1):
            x = np.random.default_rng(seed).standard_normal(x.shape).astype(np.float32)
            _, exact = torch_pass(module, torch.float64, x, labels, training)
            module.load_state_dict(state)
            _, single = torch_pass(module, torch.float32, x, labels, training)
            module.load_state_dict(state)
            ours.append(distance(our_pass(network, origins, x, labels, training)[1], exact))
            theirs.append(distance(single, exact))
            network.load_state(start)
        mode = "training" if training else "evaluation"
        shown = [" ".join(f"{value:.1e}" for value in values) for values in (ours, theirs)]
        print(f"    gradients in {mode}: ours {shown[0]}; PyTorch's float32 {shown[1]}", flush=True)
    before, after = step(network, x, labels)
    print(f"    loss before and after a step: {before:.4f} {after:.4f}", flush=True)
    return int(error > 1e-4 or not after < before)


def step(network, x, labels):
    """Return the loss before and after a small step of SGD on these images, in evaluation."""
    loss = SoftmaxCrossEntropy()
    before = loss.forward(np.asarray(network.forward(x)), labels)
    network.zero_grad()
    network.backward(loss.backward())
    size = float(np.linalg.norm(network.grad))
    SGD(network.parameters(), lr=0.01 / max(size, 1e-6), momentum=0).step()
    return before, loss.forward(np.asarray(network.forward(x)), labels)


def interleaved(a, b, rounds):
    """Return the median milliseconds of processor time of two functions that take turns."""
    times = [], []
    for _ in range(rounds + 1):
        for run, found in zip((a, b), times, strict=True):
            start = time.thread_time()
            run()
            found.append(1000 * (time.thread_time() - start))
    return tuple(statistics.median(found[1:]) for found in times)


def speed(arguments, folder):
    """Print milliseconds of a prediction and of onnxruntime's, interleaved, one thread each, medians."""
    from cnn.backend import set_threads

    set_threads(1)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    for name in arguments.nets or NETS:
        pixels, path = NETS[name][1], folder / f"{name}.onnx"
        write(make(name), pixels, "legacy", path)
        network, _, _ = read_onnx(path)
        session = onnxruntime.InferenceSession(str(path), options)
        for count in (1, 16):
            x = np.random.default_rng(0).standard_normal((count, 3, pixels, pixels)).astype(np.float32)
            ours, ort = interleaved(
                functools.partial(network.predict, x),
                functools.partial(session.run, None, {"x": x}),
                arguments.count or 15,
            )
            print(
                f"{name}, {count} images of {pixels} pixels: ours {ours:.1f} ms, onnxruntime {ort:.1f} ms, "
                f"ratio {ours / ort:.2f}",
                flush=True,
            )
    return 0
