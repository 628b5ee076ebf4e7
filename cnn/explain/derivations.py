"""Every layer's equations and the reference code that computes them: one place for page and tests.

The derivations stand in cnn/explain/equations/*.toml, from definition to backward pass, one table a step:

    en, zh          the text of the step, formulas between $ signs
    tex             its formula, in the part of TeX that mathml.py knows
    id              "forward", "dx", "dweight", "dbias", "softmax": what the numbers of the page refer to
    title           {en, zh}: a heading before the step
    without_bias    the formula of a layer without bias (of batch normalisation: without gamma and beta)
    needs           "bias": the step is left out for a layer without one
    anim            the moving picture below the formula, see assets/anim_conv.js

Notation: x is a layer's input, y its output, L the loss; at the loss z, p and y are logits, probabilities and
label. [condition] is 1 if the condition holds, else 0. The batch index n is left out, since a page shows one
image. An index letter has one meaning in a derivation.
"""

import importlib
import inspect
import tomllib
from functools import cache
from html import escape
from importlib import resources

from cnn.explain.mathml import to_mathml
from cnn.reference import loops

__all__ = ["derivation", "kinds", "loop_source", "losses", "reference_source"]

# The functions under cnn.reference whose source stands beside the equations of each kind of layer.
_CONV = (
    "conv.conv2d_forward",
    "conv.conv2d_backward_input",
    "conv.conv2d_backward_weight",
    "elementwise.channel_sum",
)
_BATCH_NORM = ("norm.batch_norm_train", "norm.batch_norm_forward", "norm.batch_norm_backward")
_REFERENCE = {
    "Conv2d": _CONV,
    "ConvTranspose2d": ("conv.conv2d_backward_input", "elementwise.add_channel", *_CONV[:1], *_CONV[2:]),
    "MaxPool2d": ("pool.max_pool2d_forward", "pool.max_pool2d_backward"),
    "AvgPool2d": ("pool.avg_pool2d_forward", "pool.avg_pool2d_backward"),
    "GlobalAvgPool2d": ("global_pool.global_avg_pool_forward", "global_pool.global_avg_pool_backward"),
    "GlobalMaxPool2d": ("global_pool.global_max_pool_forward", "global_pool.global_max_pool_backward"),
    "Linear": ("linear.linear_forward", "linear.linear_backward_input", "linear.linear_backward_weight"),
    "ReLU": ("activation.relu_forward", "activation.relu_backward"),
    "LeakyReLU": ("activation.leaky_relu_forward", "activation.leaky_relu_backward"),
    "Sigmoid": ("activation.sigmoid_forward", "activation.sigmoid_backward"),
    "Tanh": ("activation.tanh_forward", "activation.tanh_backward"),
    "SiLU": ("activation.silu_forward", "activation.silu_backward"),
    "GELU": ("activation.gelu_forward", "activation.gelu_backward"),
    "ELU": ("activation.elu_forward", "activation.elu_backward"),
    "Softplus": ("softplus.softplus_forward", "softplus.softplus_backward"),
    "ReLU6": ("activation.relu6_forward", "activation.relu6_backward"),
    "Hardtanh": ("activation.hardtanh_forward", "activation.hardtanh_backward"),
    "Hardsigmoid": ("activation.hardsigmoid_forward", "activation.hardsigmoid_backward"),
    "Hardswish": ("activation.hardswish_forward", "activation.hardswish_backward"),
    "Softmax": ("softmax.softmax_forward", "softmax.softmax_backward"),
    "BatchNorm2d": _BATCH_NORM,
    "BatchNorm1d": _BATCH_NORM,
    "GroupNorm": ("group_norm.group_norm_forward", "group_norm.group_norm_backward"),
    "LayerNorm": ("group_norm.group_norm_forward", "group_norm.group_norm_backward"),
    "LocalResponseNorm": (
        "local_response_norm.local_response_norm_forward",
        "local_response_norm.local_response_norm_backward",
    ),
    "LogSoftmax": ("softmax.log_softmax_forward", "softmax.log_softmax_backward"),
    "PReLU": ("prelu.prelu_forward", "prelu.prelu_backward"),
    "Upsample": ("resize.upsample_nearest_forward", "resize.upsample_nearest_backward"),
    "ZeroPad2d": ("resize.pad2d_forward", "resize.pad2d_backward"),
    "Dropout": ("elementwise.dropout_forward", "elementwise.dropout_backward"),
    "Flatten": ("elementwise.flatten", "elementwise.unflatten"),
    "Unflatten": ("elementwise.unflatten", "elementwise.flatten"),
    "Scale": ("elementwise.scale",),
    "Add": ("elementwise.add",),
    "Mul": ("elementwise.multiply", "elementwise.multiply_backward"),
    "Concat": ("elementwise.concat", "elementwise.split"),
    "Loss": ("loss.softmax_cross_entropy_forward", "loss.softmax_cross_entropy_backward"),
}

# Likewise of the losses beside softmax with cross-entropy; a page ends with one of them.
_LOSSES = {
    "MSELoss": ("loss.squared_error", "loss.squared_error_slope"),
    "L1Loss": ("loss.absolute_error", "loss.absolute_error_slope"),
    "BCEWithLogitsLoss": ("loss.binary_cross_entropy", "loss.binary_cross_entropy_slope"),
    "PixelLoss": _REFERENCE["Loss"],
}

# The loops under cnn.reference.loops that compute each equation, by the equation's id.
_BATCH_NORM_LOOPS = {
    "forward": "batch_norm_forward",
    "dx": "batch_norm_dx",
    "dweight": "batch_norm_dgamma",
    "dbias": "batch_norm_dbeta",
}
_LOOPS = {
    "Conv2d": {
        "forward": "conv2d_forward",
        "dx": "conv2d_dx",
        "dweight": "conv2d_dweight",
        "dbias": "conv2d_dbias",
    },
    # the loops of the convolution that it reads backwards
    "ConvTranspose2d": {
        "forward": "conv2d_dx",
        "dx": "conv2d_forward",
        "dweight": "conv2d_dweight",
        "dbias": "conv2d_dbias",
    },
    "MaxPool2d": {"forward": "max_pool2d_forward", "dx": "max_pool2d_dx"},
    "AvgPool2d": {"forward": "avg_pool2d_forward", "dx": "avg_pool2d_dx"},
    "GlobalAvgPool2d": {"forward": "global_avg_pool_forward", "dx": "global_avg_pool_dx"},
    "Linear": {
        "forward": "linear_forward",
        "dx": "linear_dx",
        "dweight": "linear_dweight",
        "dbias": "linear_dbias",
    },
    "ReLU": {"forward": "relu_forward", "dx": "relu_dx"},
    "BatchNorm2d": _BATCH_NORM_LOOPS,
    "BatchNorm1d": _BATCH_NORM_LOOPS,
    "Softmax": {"forward": "softmax_forward", "dx": "softmax_dx"},
    "Loss": {
        "softmax": "softmax_forward",
        "forward": "cross_entropy_forward",
        "dx": "softmax_cross_entropy_dz",
    },
}


def kinds() -> tuple[str, ...]:
    """Every kind of layer that has a derivation."""
    return tuple(_REFERENCE)


def losses() -> tuple[str, ...]:
    """The losses beside softmax with cross-entropy, "Loss", that have a derivation."""
    return tuple(_LOSSES)


def derivation(kind: str) -> list[dict]:
    """Return the steps of one kind.

    Each is ``{"id", "title", "en", "zh", "math", "without_bias", "needs", "anim"}``, what a step lacks being
    None. en and zh are HTML, title is a text by language, math and without_bias are MathML by language ("zh"
    if it differs).
    """
    return [
        {
            **{key: step.get(key) for key in ("id", "title", "needs", "anim")},
            **{language: _prose(step[language], language) for language in ("en", "zh")},
            **{key: _both_languages(step.get(tex)) for key, tex in _FORMULAS.items()},
        }
        for step in _equations()["BatchNorm2d" if kind == "BatchNorm1d" else kind]
    ]


_FORMULAS = {"math": "tex", "without_bias": "without_bias"}


def _prose(text: str, language: str) -> str:
    """A text as HTML, its formulas as inline MathML."""
    parts = text.split("$")
    return "".join(
        to_mathml(part, block=False, language=language) if k % 2 else escape(part, quote=False)
        for k, part in enumerate(parts)
    )


def _both_languages(tex: str | None) -> dict[str, str] | None:
    if tex is None:
        return None
    english, chinese = (to_mathml(tex, language=language) for language in ("en", "zh"))
    return {"en": english} if chinese == english else {"en": english, "zh": chinese}


@cache
def _equations() -> dict[str, list[dict]]:
    """The steps of every kind, as the files hold them."""
    found = {}
    for file in resources.files("cnn.explain").joinpath("equations").iterdir():
        found |= tomllib.loads(file.read_text(encoding="utf-8"))
    return found


def reference_source(kind: str) -> list[dict]:
    """Return the NumPy functions of one kind, each ``{"name", "source"}``."""
    sources = []
    for place in (_REFERENCE | _LOSSES)[kind]:
        module, function = place.split(".")
        found = getattr(importlib.import_module(f"cnn.reference.{module}"), function)
        sources.append({"name": f"cnn/reference/{module}.py", "source": inspect.getsource(found).rstrip()})
    return sources


def loop_source(kind: str) -> dict[str, dict]:
    """Return the plain loops of one kind by the id of their equation: ``{id: {"name", "source", "line"}}``.

    ``line`` counts from 0 and is the innermost statement, the one that adds a term. Kinds whose equations
    have no sum have no loops.
    """
    found = {}
    for equation, name in _LOOPS.get(kind, {}).items():
        source = inspect.getsource(getattr(loops, name)).rstrip()
        lines = source.splitlines()
        depth = [
            len(line) - len(line.lstrip()) if line.strip() and "return" not in line else 0 for line in lines
        ]
        line = len(depth) - 1 - depth[::-1].index(max(depth))
        found[equation] = {"name": "cnn/reference/loops.py", "source": source, "line": line}
    return found
