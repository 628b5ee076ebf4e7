"""Writes a network for PyTorch: a state_dict in PyTorch's names, and the source of the nn.Module."""

import math

import numpy as np

from cnn.errors import ConfigError
from cnn.layers import layer_types

_RESIDUAL = '''class Residual(nn.Module):
    """y = body(x) + shortcut(x)."""

    def __init__(self, body, shortcut):
        super().__init__()
        self.body, self.shortcut = nn.Sequential(*body), nn.Sequential(*shortcut)

    def forward(self, x):
        return self.body(x) + self.shortcut(x)
'''
_CONCAT = '''class Concat(nn.Module):
    """The results of the branches, joined along the channels."""

    def __init__(self, *branches):
        super().__init__()
        self.branches = nn.ModuleList(nn.Sequential(*branch) for branch in branches)

    def forward(self, x):
        return torch.cat([branch(x) for branch in self.branches], dim=1)
'''
_GRAPH = '''class Graph(nn.Module):
    """v_0 = x, v_k = path_k(join of the values that inputs names); the last value is the result."""

    def __init__(self, paths, inputs, joins):
        super().__init__()
        self.paths = nn.ModuleList(nn.Sequential(*path) for path in paths)
        self.inputs, self.joins = inputs, joins

    def forward(self, x):
        values = [x]
        for path, inputs, join in zip(self.paths, self.inputs, self.joins):
            parts = [values[i] for i in inputs]
            joined = parts[0]
            if join == "concat":
                joined = torch.cat(parts, dim=1)
            elif join == "mul":
                joined = parts[0] * parts[1]
            elif join == "add":
                joined = sum(parts[1:], parts[0])
            values.append(path(joined))
        return values[-1]
'''
_SCALE = '''class Scale(nn.Module):
    """y = factor * x."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return self.factor * x
'''
_GLOBAL_AVG = '''class GlobalAvgPool2d(nn.Module):
    """The mean of each plane: (N, C, H, W) becomes (N, C)."""

    def forward(self, x):
        return x.mean((2, 3))
'''
_GLOBAL_MAX = '''class GlobalMaxPool2d(nn.Module):
    """The largest value of each plane: (N, C, H, W) becomes (N, C)."""

    def forward(self, x):
        return x.amax((2, 3))
'''
_PADDED = '''class PaddedConv2d(nn.Conv2d):
    """A Conv2d whose zeros are not the same on opposite sides: border = (left, right, top, bottom)."""

    def __init__(self, *args, border, **kwargs):
        super().__init__(*args, **kwargs)
        self.border = border

    def forward(self, x):
        return super().forward(nn.functional.pad(x, self.border))
'''
_HELPERS = {
    "Residual": _RESIDUAL,
    "Concat": _CONCAT,
    "Graph": _GRAPH,
    "Scale": _SCALE,
    "GlobalAvgPool2d": _GLOBAL_AVG,
    "GlobalMaxPool2d": _GLOBAL_MAX,
    "PaddedConv2d": _PADDED,
}


def state_dict(network):
    """Return the network's arrays under the names that the module of ``module_source`` gives them.

    They are those of ``Network.state()``, without Dropout's counters and with BatchNorm's
    ``num_batches_tracked``, which counts nothing here.
    """
    layers = dict(network.walk())
    entries = {}
    for name, array in network.state().items():
        place, _, what = name.rpartition(".")
        kind = type(layers[place]).__name__
        if kind == "Dropout":
            continue
        entries[name] = np.array(array, order="C")
        if what == "running_var":
            entries[f"{place}.num_batches_tracked"] = np.array(0, np.int64)
    return entries


def module_source(network, about):
    """Return the Python source of an nn.Module that takes ``state_dict(network)``.

    Raises ConfigError for a layer that is not of cnn.layers.
    """
    used = set()
    body = _list(network.layers, 2, used)
    helpers = "\n\n".join(text for name, text in _HELPERS.items() if name in used)
    kinds = "" if not helpers else f"\n\n{helpers}"
    shape = ", ".join(map(str, network.input_shape))
    torch = "import torch\n" if used & {"Concat", "Graph"} else ""
    normalised = ""
    if about.mean:
        normalised = f"\n\n    x = (pixel / 255 - mean) / std, mean {about.mean}, std {about.std}."
    classes = f"\nCLASSES = {about.classes!r}\n" if about.classes else ""
    text = " ".join(str(about.name).replace("\\", "/").replace('"', "'").split())
    return f'''"""{text}, written by cnn. Load the weights with

    from safetensors.torch import load_file
    model = Model()
    model.load_state_dict(load_file("model.safetensors"))
    model.eval()
"""

{torch}from torch import nn
{classes}{kinds}

class Model(nn.Sequential):
    """Takes x of shape (N, {shape}).{normalised}
    """

    def __init__(self):
        super().__init__(
{body}
        )
'''


def _list(layers, depth, used):
    """Return the constructor calls of ``layers``, one a line."""
    indent = "    " * (depth + 1)
    return "\n".join(f"{indent}{_call(layer, depth + 1, used)}," for layer in layers)


def _bracket(layers, depth, used):
    return f"[\n{_list(layers, depth, used)}\n{'    ' * depth}]" if layers else "[]"


def _call(layer, depth, used):
    kind = type(layer).__name__
    if layer_types().get(kind) is not type(layer) or kind not in _CALLS:
        raise ConfigError(f"{layer.label}: PyTorch's source has no layer for it")
    if kind == "Sequential":
        inner = _list(layer.layers, depth, used)
        return f"nn.Sequential(\n{inner}\n{'    ' * depth})" if layer.layers else "nn.Sequential()"
    if kind in ("Residual", "Concat"):
        used.add(kind)
        branches = [_bracket(branch.layers, depth, used) for _, branch in layer.children()]
        return f"{kind}({', '.join(branches)})"
    if kind == "Graph":
        used.add(kind)
        inner = "    " * (depth + 1)
        paths = "".join(f"{inner}{_bracket(path.layers, depth + 1, used)},\n" for path in layer.paths)
        end = "    " * depth
        return f"Graph(\n{inner[:-4]}[\n{paths}{end}],\n{end}{layer.inputs},\n{end}{layer.joins},\n{end})"
    name, *arguments = _CALLS[kind](layer)
    used.add(name)
    prefix = "" if name in _HELPERS else "nn."
    return f"{prefix}{name}({', '.join(arguments)})"


def _short(pair):
    return str(pair[0]) if pair[0] == pair[1] else str(tuple(pair))


def _begin(padding):
    return _short([begin for begin, _ in padding])


def _optional(layer, **defaults):
    """Return keyword arguments for what differs from PyTorch's default."""
    found = []
    for name, default in defaults.items():
        value = getattr(layer, name, default)
        if value != default:
            found.append(f"{name}={_short(value) if isinstance(value, tuple) else repr(value)}")
    return found


def _conv(layer):
    sizes = [str(layer.input_shape[0]), str(layer.out_channels), _short(layer.kernel_size)]
    options = _optional(layer, stride=(1, 1), dilation=(1, 1), groups=1, output_padding=(0, 0))
    if layer.bias is None:
        options.append("bias=False")
    (top, bottom), (left, right) = layer.padding
    if (top, left) != (bottom, right):
        return "PaddedConv2d", *sizes, *options, f"border={(left, right, top, bottom)}"
    if top or left:
        options.insert(0, f"padding={_short((top, left))}")
    return type(layer).__name__, *sizes, *options


def _pool(layer):
    if any(begin != end for begin, end in layer.padding):
        raise ConfigError(f"{layer.label}: PyTorch pads both sides alike, found padding {layer.padding}")
    padding = [f"padding={_begin(layer.padding)}"] if any(map(any, layer.padding)) else []
    options = _optional(layer, ceil_mode=False, count_include_pad=True, dilation=(1, 1))
    return type(layer).__name__, _short(layer.kernel_size), _short(layer.stride), *padding, *options


def _norm(layer):
    options = _optional(layer, eps=1e-5, momentum=0.1, affine=True)
    return type(layer).__name__, str(layer.input_shape[0]), *options


def _linear(layer):
    bias = [] if layer.bias is not None else ["bias=False"]
    return "Linear", str(layer.input_shape[0]), str(layer.out_features), *bias


def _plain(*arguments):
    """Return the rule for a layer that PyTorch has under the same name; ``arguments`` are attributes."""
    return lambda layer: (type(layer).__name__, *(repr(getattr(layer, name)) for name in arguments))


def _layer_norm(layer):
    return (
        "LayerNorm",
        str(tuple(layer.input_shape)),
        *_optional(layer, eps=1e-5, elementwise_affine=True),
        *([] if layer.bias is not None or not layer.elementwise_affine else ["bias=False"]),
    )


def _hardtanh(layer):
    limits = layer.min_val, layer.max_val
    return "Hardtanh", *(f'float("{limit}")' if math.isinf(limit) else repr(limit) for limit in limits)


def _zero_pad(layer):
    (top, bottom), (left, right) = layer.padding
    return "ZeroPad2d", str((left, right, top, bottom))


_CALLS = {
    "ELU": _plain("alpha"),
    "GroupNorm": lambda layer: (
        "GroupNorm",
        str(layer.num_groups),
        str(layer.input_shape[0]),
        *_optional(layer, eps=1e-5, affine=True),
    ),
    "LayerNorm": _layer_norm,
    "PReLU": _plain("num_parameters"),
    "Softplus": _plain("beta", "threshold"),
    "Upsample": lambda layer: ("Upsample", f"scale_factor={layer.scale_factor}"),
    "ZeroPad2d": _zero_pad,
    "Conv2d": _conv,
    "ConvTranspose2d": _conv,
    "MaxPool2d": _pool,
    "AvgPool2d": _pool,
    "GlobalAvgPool2d": _plain(),
    "GlobalMaxPool2d": _plain(),
    "Linear": _linear,
    "Flatten": _plain(),
    "Unflatten": lambda layer: ("Unflatten", "1", str(layer.unflattened_size)),
    "ReLU": _plain(),
    "LeakyReLU": _plain("negative_slope"),
    "GELU": _plain("approximate"),
    "SiLU": _plain(),
    "Sigmoid": _plain(),
    "Tanh": _plain(),
    "Softmax": lambda layer: ("Softmax", "dim=1"),
    "BatchNorm1d": _norm,
    "BatchNorm2d": _norm,
    "Dropout": _plain("p"),
    "Scale": _plain("factor"),
    "ReLU6": _plain(),
    "Hardtanh": _hardtanh,
    "Hardsigmoid": _plain(),
    "Hardswish": _plain(),
    "LogSoftmax": lambda layer: ("LogSoftmax", "dim=1"),
    "LocalResponseNorm": _plain("size", "alpha", "beta", "k"),
    "Sequential": None,
    "Residual": None,
    "Concat": None,
    "Graph": None,
}
