"""Writes a network as one C11 file: weights, forward pass, and a main that reads an image."""

import math
from functools import cache
from importlib.resources import files

import numpy as np

from cnn.errors import ConfigError
from cnn.interop.steps import INPUT, last_value, list_steps

_ALIASES = ("Flatten", "Unflatten", "Dropout")  # the same numbers in the same order: no code


def to_c(network, about):
    """Return the C11 source of a built network: ``void forward(const float *x, float *y)`` for one image.

    It needs the C library alone, allocates nothing, and keeps every activation in one static array; those
    that are not needed at the same time share their place. With ``-DNO_MAIN`` main is left out.

    Raises ConfigError for a layer that has no C code here.
    """
    steps = list_steps(network)
    for step in steps:
        if step.kind not in _CALLS and step.kind not in _ALIASES:
            raise ConfigError(f"{step.kind} (layer {step.name}): the C export has no code for it")
    places, size = _place(steps, network)
    weights, calls, parts = [], [], {}
    for step in steps:
        if step.kind in _ALIASES:
            continue
        writer = _Writer(step, places, weights, parts)
        calls += [f"    /* layer {step.name}: {_sizes(step.shapes)} -> {_size(step.shape)} */"]
        calls += [f"    {line}" for line in _CALLS[step.kind](writer)]
    result = places[last_value(steps)]
    calls += [f"    memcpy(y, {result}, {math.prod(network.output_shape)} * sizeof *y);"]
    functions = [_parts()[name][1] for name in parts]
    arena = f"static float memory[{max(size, 1)}]; /* all activations */"
    return "\n".join(
        [
            _header(about),
            _constants(network, about),
            "\n".join(functions),
            "/* ---- weights ---- */\n\n" + "\n".join(weights),
            "/* ---- forward pass ---- */\n",
            arena,
            "\nvoid forward(const float *x, float *y);\n",
            f"/* x: {_size(network.input_shape)} numbers, y: {_size(network.output_shape)} */",
            "void forward(const float *x, float *y)\n{",
            *calls,
            "}\n",
            "#ifndef NO_MAIN",
            _labels(network, about),
            _parts()["main"][1].rstrip(),
            "#endif\n",
        ]
    )


@cache
def _parts():
    """Return {name: (names of the parts that it needs, C code)} of operations.c."""
    found = {}
    text = files("cnn.interop").joinpath("operations.c").read_text("utf-8")
    for section in text.split("//== ")[1:]:
        title, _, code = section.partition("\n")
        name, *needed = title.split()
        found[name] = needed, code.rstrip() + "\n"
    return found


class _Writer:
    """What the code of one step is made with."""

    def __init__(self, step, places, weights, parts):
        self.step, self.layer = step, step.layer
        self.x = [places[name] for name in step.inputs]
        self.y = places[step.name]
        self._weights, self._parts = weights, parts

    def use(self, *names):
        """Let the file hold these parts."""
        for name in names:
            for part in (*reversed(_parts()[name][0]), name):
                self._parts.setdefault(part)

    def array(self, name, values):
        """Write a weight array; return what it is called in C, "NULL" for None."""
        if values is None:
            return "NULL"
        called = f"l{self.step.name}.{name}".replace(".", "_")
        values = np.asarray(values, np.float32)
        lines = [f"/* {self.step.name}.{name} {_size(values.shape)} */"]
        lines += [f"static const float {called}[{values.size}] = {{"]
        flat = [_number(value) for value in values.ravel()]
        lines += ["    " + " ".join(f"{n}," for n in flat[i : i + 8]) for i in range(0, len(flat), 8)]
        self._weights.append("\n".join([*lines, "};\n"]))
        return called

    @property
    def count(self):
        """How many numbers the result has."""
        return math.prod(self.step.shape)

    def planes(self):
        """Return channels and pixels of a plane of the input, as C arguments."""
        channels, *plane = self.step.shapes[0]
        return f"{channels}, {math.prod(plane)}"

    def window(self):
        """Return a Window as C text."""
        layer = self.layer
        (top, bottom), (left, right) = layer.padding
        fields = [
            *self.step.shapes[0],
            *self.step.shape,
            *layer.kernel_size,
            *layer.stride,
            *getattr(layer, "dilation", (1, 1)),
            top,
            left,
            getattr(layer, "groups", 1),
            int(getattr(layer, "count_include_pad", False)),
            bottom,
            right,
        ]
        return f"const Window p = {{{', '.join(map(str, fields))}}};"


def _number(value):
    """Return a float32 as C text that reads back to the same bits."""
    if not np.isfinite(value):
        return "NAN" if np.isnan(value) else "INFINITY" if value > 0 else "-INFINITY"
    text = f"{float(value):.9g}"
    return f"{text}f" if "." in text or "e" in text else f"{text}.0f"


def _size(shape):
    return "x".join(map(str, shape))


def _sizes(shapes):
    return ", ".join(map(_size, shapes))


def _place(steps, network):
    """Return ({value: C expression of its address}, floats of the arena).

    A value lives from the step that makes it to the last that reads it; the first gap that fits takes it.
    """
    source = {INPUT: INPUT}  # the value whose memory a value uses
    for step in steps:
        source[step.name] = source[step.inputs[0]] if step.kind in _ALIASES else step.name
    last = {source[last_value(steps)]: len(steps)}
    for number, step in enumerate(steps):
        for name in step.inputs:
            last[source[name]] = max(last.get(source[name], 0), number)
    taken, offsets, size = [], {}, 0
    for number, step in enumerate(steps):
        if step.kind in _ALIASES:
            continue
        taken = sorted(t for t in taken if t[2] >= number)
        start, need = 0, math.prod(step.shape)
        for begin, end, _ in taken:
            if begin - start >= need:
                break
            start = max(start, end)
        taken.append((start, start + need, last.get(step.name, number)))
        offsets[step.name], size = start, max(size, start + need)
    return {
        name: "x" if root == INPUT else f"memory + {offsets[root]}" for name, root in source.items()
    }, size


def _header(about):
    text = f"{about.name}\n\n{about.card}".replace("*/", "* /").replace("/*", "/ *").replace("\\", "/")
    card = "\n".join(f"   {line}".rstrip() for line in text.strip().splitlines())
    return (
        f"/*\n{card}\n\n"
        "   Written by cnn. Compile and run: cc -std=c11 -O3 -march=native FILE.c -o program -lm\n"
        "   and program IMAGE.pgm; see main at the end.\n*/\n\n"
        "#include <math.h>\n#include <stddef.h>\n#include <stdio.h>\n#include <string.h>\n"
    )


def _constants(network, about):
    shape = network.input_shape if len(network.input_shape) == 3 else (network.input_shape[0], 1, 1)
    image = about.image_shape or shape
    top, left = ((have - want) // 2 for have, want in zip(image[1:], shape[1:], strict=True))
    values = {
        "CHANNELS": shape[0],
        "HEIGHT": shape[1],
        "WIDTH": shape[2],
        "IMAGE_HEIGHT": image[1],
        "IMAGE_WIDTH": image[2],
        "CROP_TOP": f"({top})",
        "CROP_LEFT": f"({left})",
        "INPUTS": math.prod(network.input_shape),
        "OUTPUTS": math.prod(network.output_shape),
        "CLASSES": _classes(network, about),
        "OUTPUT_WIDTH": network.output_shape[-1],
        "SOFTMAX": int(about.ending == "softmax"),
        "SIGMOID": int(about.ending == "sigmoid"),
    }
    return "".join(f"#define {name} {value}\n" for name, value in values.items())


def _classes(network, about):
    """Return how many classes there are: a mask has an output for each at every pixel."""
    return network.output_shape[0] if about.targets == "masks" else math.prod(network.output_shape)


def _labels(network, about):
    channels = network.input_shape[0]
    names = [str(name) for name in about.classes or range(_classes(network, about))]
    mean, std = about.mean or [0.0] * channels, about.std or [1.0] * channels
    return "\n".join(
        [
            f"static const char *const classes[CLASSES] = {{{', '.join(map(_string, names))}}};",
            f"static const float mean[CHANNELS] = {{{', '.join(map(_number, np.float32(mean)))}}};",
            f"static const float std[CHANNELS] = {{{', '.join(map(_number, np.float32(std)))}}};\n",
        ]
    )


def _string(text):
    """Return a C string literal; what is not plain ASCII as octal escapes of UTF-8."""
    plain = set(range(32, 127)) - set(b'"\\?')
    return '"' + "".join(chr(b) if b in plain else f"\\{b:03o}" for b in text.encode()) + '"'


def _windowed(name, function, weights=False):
    def write(w):
        w.use(name)
        arrays = ""
        if weights:
            bias = None if w.layer.bias is None else w.layer.bias.data
            arrays = f"{w.array('weight', w.layer.weight.data)}, {w.array('bias', bias)}, "
        return ["{", f"    {w.window()}", f"    {function}({w.x[0]}, {arrays}{w.y}, &p);", "}"]

    return write


def _by_plane(name, function):
    def write(w):
        w.use(name)
        return [f"{function}({w.x[0]}, {w.y}, {w.planes()});"]

    return write


def _pointwise(name, function, *arguments):
    def write(w):
        w.use(name)
        extra = "".join(f", {_number(np.float32(getattr(w.layer, name)))}" for name in arguments)
        return [f"{function}({w.x[0]}, {w.y}, {w.count}{extra});"]

    return write


def _gelu(w):
    tanh = w.layer.approximate == "tanh"
    return (_pointwise("GELU_tanh", "gelu_tanh") if tanh else _pointwise("GELU", "gelu"))(w)


def _linear(w):
    w.use("Linear")
    layer = w.layer
    weight, bias = w.array("weight", layer.weight.data), w.array("bias", layer.bias and layer.bias.data)
    return [f"linear({w.x[0]}, {weight}, {bias}, {w.y}, {w.step.shapes[0][0]}, {w.step.shape[0]});"]


def _batch_norm(w):
    w.use("BatchNorm")
    layer = w.layer
    scale = 1 / np.sqrt(layer.running_var.astype(np.float64) + layer.eps)
    shift = -layer.running_mean * scale
    if layer.affine:
        scale, shift = scale * layer.weight.data, shift * layer.weight.data + layer.bias.data
    arrays = f"{w.array('scale', scale)}, {w.array('shift', shift)}"
    return [f"batch_norm({w.x[0]}, {arrays}, {w.y}, {w.planes()});"]


def _prelu(w):
    w.use("PReLU")
    weight = w.layer.weight.data
    return [f"prelu({w.x[0]}, {w.array('weight', weight)}, {w.y}, {w.planes()}, {int(weight.size > 1)});"]


def _group_norm(w):
    w.use("GroupNorm")
    layer, channels = w.layer, w.step.shape[0]
    groups = getattr(layer, "num_groups", 1)
    weight, bias = (getattr(layer, name) for name in ("weight", "bias"))
    arrays = [w.array(name, p and p.data) for name, p in (("weight", weight), ("bias", bias))]
    each = w.count // (channels if w.step.kind == "GroupNorm" else w.count)
    sizes = f"{groups}, {w.count // groups}, {each}, {_number(np.float32(layer.eps))}"
    return [f"group_norm({w.x[0]}, {', '.join(arrays)}, {w.y}, {sizes});"]


def _local_response_norm(w):
    w.use("LocalResponseNorm")
    layer = w.layer
    numbers = (layer.alpha / layer.size, layer.beta, layer.k)
    window = f"{layer.size // 2}, {(layer.size - 1) // 2}"
    shown = ", ".join(_number(np.float32(number)) for number in numbers)
    return [f"local_response_norm({w.x[0]}, {w.y}, {w.planes()}, {window}, {shown});"]


def _upsample(w):
    w.use("Upsample")
    sizes = (*w.step.shapes[0], *w.layer.scale_factor)
    return [f"upsample({w.x[0]}, {w.y}, {', '.join(map(str, sizes))});"]


def _zero_pad(w):
    w.use("ZeroPad2d")
    (top, _), (left, _) = w.layer.padding
    sizes = (*w.step.shapes[0], *w.step.shape[1:], top, left)
    return [f"zero_pad2d({w.x[0]}, {w.y}, {', '.join(map(str, sizes))});"]


def _mul(w):
    w.use("Mul")
    shape = (*w.step.shape, 1, 1)[:3]
    steps = []
    for found in w.step.shapes:
        c, height, width = (*found, 1, 1)[:3]
        kept = zip((height * width, width, 1), (c, height, width), strict=True)
        steps.append("(const int[]){" + ", ".join(str(s if size > 1 else 0) for s, size in kept) + "}")
    return [f"multiply({w.x[0]}, {w.x[1]}, {w.y}, {', '.join(map(str, shape))}, {', '.join(steps)});"]


def _add(w):
    w.use("Add")
    calls = [f"add({w.x[0]}, {w.x[1]}, {w.y}, {w.count});"]
    return calls + [f"add({w.y}, {x}, {w.y}, {w.count});" for x in w.x[2:]]


def _join(w):
    lines, start = [], 0
    for x, shape in zip(w.x, w.step.shapes, strict=True):
        lines.append(f"memcpy({w.y} + {start}, {x}, {math.prod(shape)} * sizeof *y);")
        start += math.prod(shape)
    return lines


_CALLS = {
    "Conv2d": _windowed("Conv2d", "conv2d", weights=True),
    "ConvTranspose2d": _windowed("ConvTranspose2d", "conv_transpose2d", weights=True),
    "MaxPool2d": _windowed("MaxPool2d", "max_pool2d"),
    "AvgPool2d": _windowed("AvgPool2d", "avg_pool2d"),
    "GlobalAvgPool2d": _by_plane("GlobalAvgPool2d", "global_avg_pool2d"),
    "GlobalMaxPool2d": _by_plane("GlobalMaxPool2d", "global_max_pool2d"),
    "Softmax": _by_plane("Softmax", "softmax"),
    "Linear": _linear,
    "ReLU": _pointwise("ReLU", "relu"),
    "LeakyReLU": _pointwise("LeakyReLU", "leaky_relu", "negative_slope"),
    "GELU": _gelu,
    "SiLU": _pointwise("SiLU", "silu"),
    "Sigmoid": _pointwise("Sigmoid", "sigmoid"),
    "Tanh": _pointwise("Tanh", "hyperbolic_tangent"),
    "BatchNorm1d": _batch_norm,
    "BatchNorm2d": _batch_norm,
    "Scale": _pointwise("Scale", "scale", "factor"),
    "LogSoftmax": _by_plane("LogSoftmax", "log_softmax"),
    "ReLU6": _pointwise("ReLU6", "relu6"),
    "Hardtanh": _pointwise("Hardtanh", "hardtanh", "min_val", "max_val"),
    "Hardsigmoid": _pointwise("Hardsigmoid", "hardsigmoid"),
    "Hardswish": _pointwise("Hardswish", "hardswish"),
    "ELU": _pointwise("ELU", "elu", "alpha"),
    "Softplus": _pointwise("Softplus", "softplus", "beta", "threshold"),
    "PReLU": _prelu,
    "GroupNorm": _group_norm,
    "LayerNorm": _group_norm,
    "LocalResponseNorm": _local_response_norm,
    "Upsample": _upsample,
    "ZeroPad2d": _zero_pad,
    "Mul": _mul,
    "Add": _add,
    "Join": _join,
}


def exported_kinds():
    """Return the kinds of steps that have C code."""
    return frozenset(_CALLS) | frozenset(_ALIASES)
