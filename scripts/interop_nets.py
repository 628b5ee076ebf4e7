"""Networks of torchvision with random weights, imported and compared: used by interop_check.py.

Gradients jump where a ReLU opens or another pixel becomes the largest of a window, and of a million units a
few lie so close to that point that rounding decides: each moves gradients by up to some percent, in float32
of any framework. So ours are compared with those of PyTorch in float64 where units decide as ours did, and
whatever decides otherwise than in float64 has to lie within rounding of the point.
"""

import contextlib
import functools
import math
import statistics
import time
import warnings
from dataclasses import dataclass
from unittest import mock

import numpy as np
import onnxruntime
import torch
import torchvision as tv

from cnn.fast.kernels import strips
from cnn.interop.onnx_read import read_onnx
from cnn.layers import Dropout, MaxPool2d, ReLU, ReLU6, SoftmaxCrossEntropy
from cnn.optimizers import SGD
from cnn.reference.engine import Engine

#: Name -> (constructor, pixels).
NETS = {
    "resnet18": (tv.models.resnet18, 64),
    "mobilenet_v2": (tv.models.mobilenet_v2, 64),
    "vgg11_bn": (tv.models.vgg11_bn, 224),
    "squeezenet1_1": (tv.models.squeezenet1_1, 64),
    "densenet121": (tv.models.densenet121, 64),
}

CLOSED, OPEN, ABOVE = 0, 1, 2  # what a ReLU6 makes of a number: 0, the number, 6


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


def torch_pass(module, dtype, x, labels, training, decisions=None):
    """Return (logits, {name: gradient in float64}, what each ReLU and max pool took in) of PyTorch.

    With ``decisions``, see ``our_decisions``, units are open and maxima taken as those say.
    """
    module = module.to(dtype).train(training)
    module.zero_grad()
    functional, taken, waiting = torch.nn.functional, [], iter(decisions or ())
    plain = {name: getattr(functional, name) for name in ("relu", "relu6", "hardtanh", "max_pool2d")}

    def run(name, x, *arguments, **options):
        x = x.clone()  # which the function may write over
        taken.append(x.detach().numpy().copy())
        if decisions is None:
            return plain[name](x, *arguments, **options)
        decision = torch.tensor(next(waiting))
        if name == "max_pool2d":
            return x.flatten(2).gather(2, decision.flatten(2)).reshape(decision.shape)
        return x * (decision == OPEN) + 6.0 * (decision == ABOVE)

    with contextlib.ExitStack() as patches:
        for name in plain:
            patches.enter_context(mock.patch.object(functional, name, functools.partial(run, name)))
        logits = module(torch.tensor(x, dtype=dtype))
    functional.cross_entropy(logits, torch.tensor(labels)).backward()
    grads = {name: p.grad.numpy().astype(np.float64) for name, p in module.named_parameters()}
    return logits.detach().numpy(), grads, taken


def decide(layer, x):
    """Return CLOSED, OPEN or ABOVE of each number that a ReLU takes in, the pixel that each maximum is."""
    if isinstance(layer, MaxPool2d):
        size, stride, ((top, _), (left, _)) = layer.kernel_size, layer.stride, layer.padding
        options = {"return_indices": True, "ceil_mode": layer.ceil_mode}
        return torch.nn.functional.max_pool2d(torch.tensor(x), size, stride, (top, left), **options)[
            1
        ].numpy()
    opened = np.where(x > 0, OPEN, CLOSED)
    return np.where(x >= 6, ABOVE, opened) if isinstance(layer, ReLU6) else opened


def our_decisions(network, x, training):
    """Return what each ReLU and max pool decides, in the order in which they run."""
    layers = [layer for _, layer in network.walk() if isinstance(layer, (ReLU, ReLU6, MaxPool2d))]
    decisions = []

    def watched(layer, forward):
        def run(x, training=False):
            decisions.append((layer, np.asarray(x).copy()))
            return forward(x, training)

        return run

    for layer in layers:
        layer.forward = watched(layer, layer.forward)
    try:
        Engine(network.body).forward(x, training)  # layer by layer, by the same kernels
    finally:
        for layer in layers:
            del layer.forward
    network.body.forget()
    return [decide(layer, x) for layer, x in decisions]


def astray(network, decisions, taken):
    """Return (how many decisions differ from those for ``taken``, how far the furthest lies from its point).

    The distance is in units of the root mean square of what the layer takes in.
    """
    layers = [layer for _, layer in network.walk() if isinstance(layer, (ReLU, ReLU6, MaxPool2d))]
    count, furthest = 0, 0.0
    for layer, ours, x in zip(layers, decisions, taken, strict=True):
        theirs = decide(layer, x)
        other = ours != theirs
        if not other.any():
            continue
        if isinstance(layer, MaxPool2d):
            flat = (*x.shape[:2], -1)
            found, best = (np.take_along_axis(x.reshape(flat), d.reshape(flat), 2) for d in (ours, theirs))
            far = (best - found).ravel()[other.ravel()]
        else:
            far = np.minimum(abs(x), abs(x - 6))[other] if isinstance(layer, ReLU6) else abs(x[other])
        count += int(other.sum())
        furthest = max(furthest, float(far.max() / np.sqrt(np.mean(x**2))))
    return count, furthest


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


@dataclass(frozen=True)
class Gradients:
    """How far gradients are from PyTorch's in float64, the largest of all parameters.

    Parameters
    ----------
    ours : float
        With every unit deciding as ours did.
    plain, single : float
        With PyTorch's own decisions: ours, and PyTorch's own in float32.
    count, furthest : int, float
        See ``astray``.
    """

    ours: float
    plain: float
    single: float
    count: int
    furthest: float

    def __str__(self):
        return (
            f"ours {self.ours:.1e}; where units decide for themselves {self.plain:.1e}, PyTorch's float32 "
            f"{self.single:.1e}; {self.count} decide otherwise, within {self.furthest:.0e}"
        )


def gradients_beside(module, network, origins, x, labels, training):
    """Return Gradients; statistics of module and network are afterwards as before."""
    state = {key: value.clone() for key, value in module.state_dict().items()}
    start = {key: value.copy() for key, value in network.state().items()}
    with mock.patch.object(strips, "PIXELS", math.inf):  # strips round otherwise than layer by layer
        found = our_pass(network, origins, x, labels, training)[1]
    network.load_state(start)
    decisions = our_decisions(network, x, training)
    network.load_state(start)
    results = []
    for dtype, given in ((torch.float64, None), (torch.float64, decisions), (torch.float32, None)):
        results.append(torch_pass(module, dtype, x, labels, training, given))
        module.load_state_dict(state)
    (_, exact, taken), (_, same, _), (_, single, _) = results
    distances = (distance(*pair) for pair in ((found, same), (found, exact), (single, exact)))
    return Gradients(*distances, *astray(network, decisions, taken))


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
    with torch.no_grad():
        expected = module.double()(torch.tensor(x, dtype=torch.float64)).numpy()
    error = float(np.abs(network.predict(x) - expected).max() / np.abs(expected).max())
    print(f"{label}: logits {error:.1e}", flush=True)
    wrong = 0
    for training in (False, True) if gradients else ():
        for seed in range(3 if count > 2 else 1):
            x = np.random.default_rng(seed).standard_normal(x.shape).astype(np.float32)
            found = gradients_beside(module, network, origins, x, labels, training)
            wrong += found.ours > 1e-3 or found.furthest > 1e-4
            print(f"    gradients in {'training' if training else 'evaluation'}: {found}", flush=True)
    before, after = step(network, x, labels)
    print(f"    loss before and after a step: {before:.4f} {after:.4f}", flush=True)
    return int(wrong or error > 1e-4 or not after < before)


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
