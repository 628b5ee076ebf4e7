"""Every layer's equations and the NumPy reference that computes them: one place for page and tests."""

import importlib
import inspect
import tomllib
from importlib import resources

from cnn.explain.mathml import to_mathml

__all__ = ["derivation", "kinds", "reference_source"]

# The functions under cnn.reference whose source stands beside the equations of each kind of layer.
_CONV = (
    "conv.conv2d_forward",
    "conv.conv2d_backward_input",
    "conv.conv2d_backward_weight",
    "conv.channel_sum",
)
_BATCH_NORM = ("norm.batch_norm_train", "norm.batch_norm_forward", "norm.batch_norm_backward")
_REFERENCE = {
    "Conv2d": _CONV,
    "ConvTranspose2d": ("conv.conv2d_backward_input", "conv.add_channel", *_CONV[:1], *_CONV[2:]),
    "MaxPool2d": ("pool.max_pool2d_forward", "pool.max_pool2d_backward"),
    "AvgPool2d": ("pool.avg_pool2d_forward", "pool.avg_pool2d_backward"),
    "GlobalAvgPool2d": ("pool.global_avg_pool_forward", "pool.global_avg_pool_backward"),
    "GlobalMaxPool2d": ("pool.global_max_pool_forward", "pool.global_max_pool_backward"),
    "Linear": ("linear.linear_forward", "linear.linear_backward_input", "linear.linear_backward_weight"),
    "ReLU": ("activation.relu_forward", "activation.relu_backward"),
    "LeakyReLU": ("activation.leaky_relu_forward", "activation.leaky_relu_backward"),
    "Sigmoid": ("activation.sigmoid_forward", "activation.sigmoid_backward"),
    "Tanh": ("activation.tanh_forward", "activation.tanh_backward"),
    "SiLU": ("activation.silu_forward", "activation.silu_backward"),
    "GELU": ("activation.gelu_forward", "activation.gelu_backward"),
    "Softmax": ("activation.softmax_forward", "activation.softmax_backward"),
    "BatchNorm2d": _BATCH_NORM,
    "BatchNorm1d": _BATCH_NORM,
    "Dropout": ("elementwise.dropout",),
    "Flatten": ("elementwise.flatten", "elementwise.unflatten"),
    "Scale": ("elementwise.scale",),
    "Add": ("elementwise.add",),
    "Concat": ("elementwise.concat", "elementwise.split"),
    "Loss": ("loss.softmax_cross_entropy_forward", "loss.softmax_cross_entropy_backward"),
}


def kinds() -> tuple[str, ...]:
    """Every kind of layer that has a derivation."""
    return tuple(_REFERENCE)


def derivation(kind: str) -> list[dict]:
    """Return the steps of one kind, each ``{"id", "en", "zh", "math"}`` with the formula as MathML."""
    text = resources.files("cnn.explain").joinpath("derivations.toml").read_text(encoding="utf-8")
    steps = tomllib.loads(text)["BatchNorm2d" if kind == "BatchNorm1d" else kind]
    return [{"id": s.get("id"), "en": s["en"], "zh": s["zh"], "math": to_mathml(s["tex"])} for s in steps]


def reference_source(kind: str) -> list[dict]:
    """Return the NumPy functions of one kind, each ``{"name", "source"}``."""
    sources = []
    for place in _REFERENCE[kind]:
        module, function = place.split(".")
        found = getattr(importlib.import_module(f"cnn.reference.{module}"), function)
        sources.append({"name": f"cnn/reference/{module}.py", "source": inspect.getsource(found).rstrip()})
    return sources
