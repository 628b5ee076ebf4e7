"""Writes a network as an ONNX model."""

import numpy as np

from cnn.errors import ConfigError
from cnn.interop.card import About
from cnn.interop.extras import require
from cnn.interop.steps import INPUT, last_value, list_steps

OPSET = 27  # the newest that onnxruntime 1.32 runs
_LARGEST = 2**31 - 2**20  # bytes of a protobuf file, some room left for the nodes


def to_onnx(network, about=None, preprocessing=False):
    """Return a built network as an ``onnx.ModelProto`` with a dynamic batch axis.

    Initializers have the names of ``Network.state()``, nodes those of the layers. The input is "input"
    (N, C, H, W) float32, the output "logits". With ``preprocessing`` the input is "images" (N, C, H, W)
    uint8 as they come from a file, and the output "probabilities": the middle is cut out, pixels are
    normalised, and softmax or sigmoid, whichever the training's loss had, is taken inside. Numbers are the
    output "values".

    Parameters
    ----------
    network : Network
    about : About, optional
        Goes into the metadata; ``preprocessing`` needs its mean, std and image_shape.
    preprocessing : bool

    Errors
    ------
    MissingExtra : the onnx package is missing.  ConfigError : a layer that is not of cnn.layers, no
    normalisation for ``preprocessing``, more than 2 GiB.
    """
    onnx = require("onnx", "onnx", "ONNX")
    if not network.body.built:
        raise RuntimeError("to_onnx: the network needs build(input_shape) first")
    about = About() if about is None else about
    graph = _Graph(onnx)
    steps = list_steps(network)
    shape, kind = network.input_shape, onnx.TensorProto.FLOAT
    if preprocessing:
        if not about.mean:
            raise ConfigError("preprocessing: mean and std of the images are not known")
        shape, kind = about.image_shape, onnx.TensorProto.UINT8
        _preprocess(graph, about)
    for step in steps:
        _write(graph, step)
    result = last_value(steps)
    if preprocessing and about.ending == "softmax":
        graph.add("Softmax", [result], "probabilities", axis=1)
    elif preprocessing and about.ending == "sigmoid":
        graph.add("Sigmoid", [result], "probabilities")
    elif preprocessing or about.targets == "numbers":
        graph.name_output(result, "values")
    else:
        graph.name_output(result, "logits")
    size = sum(tensor.ByteSize() for tensor in graph.tensors)
    if size > _LARGEST:
        raise ConfigError(f"the weights take {size:,} bytes, an ONNX file holds at most 2 GiB")
    value = onnx.helper.make_tensor_value_info
    name = "images" if preprocessing else INPUT
    model = onnx.helper.make_model(
        onnx.helper.make_graph(
            graph.nodes,
            about.name,
            [value(name, kind, ["N", *shape])],
            [value(graph.nodes[-1].output[0], onnx.TensorProto.FLOAT, ["N", *network.output_shape])],
            graph.tensors,
        ),
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        producer_name="cnn",
        ir_version=onnx.helper.find_min_ir_version_for([onnx.helper.make_opsetid("", OPSET)]),
        doc_string=about.card,
    )
    onnx.helper.set_model_props(model, about.metadata())
    onnx.checker.check_model(model, full_check=True)
    return model


class _Graph:
    """Nodes and initializers, as they are written."""

    def __init__(self, onnx):
        self.onnx, self.nodes, self.tensors = onnx, [], []

    def add(self, op, inputs, output, **attributes):
        """Append a node that is called as its output; return that name."""
        self.nodes.append(self.onnx.helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    def constant(self, name, values):
        """Append an initializer, floats as float32; return its name."""
        values = np.asarray(values)
        if values.dtype == np.float64:
            values = values.astype(np.float32)
        self.tensors.append(self.onnx.numpy_helper.from_array(np.array(values, order="C"), name))
        return name

    def name_output(self, value, name):
        """Let the result ``value`` be called ``name``."""
        if not self.nodes or value != self.nodes[-1].output[0]:
            self.add("Identity", [value], name)
        else:
            self.nodes[-1].output[0] = name


def _preprocess(graph, about):
    """x = (pixel / 255 - mean) / std of the middle."""
    channels = len(about.mean), 1, 1
    value = graph.add("Cast", ["images"], "preprocessing.float", to=graph.onnx.TensorProto.FLOAT)
    if about.crop is not None:  # an axis that is too long is cut by a negative pad
        before = [-((have - want) // 2) for have, want in zip(about.image_shape[1:], about.crop, strict=True)]
        after = [w - h - b for h, w, b in zip(about.image_shape[1:], about.crop, before, strict=True)]
        pads = graph.constant("preprocessing.pads", np.array([0, 0, *before, 0, 0, *after], np.int64))
        value = graph.add("Pad", [value, pads], "preprocessing.crop")
    mean = 255 * np.reshape(np.array(about.mean, np.float64), channels)
    scale = 1 / (255 * np.reshape(np.array(about.std, np.float64), channels))
    value = graph.add("Sub", [value, graph.constant("preprocessing.mean", mean)], "preprocessing.centred")
    graph.add("Mul", [value, graph.constant("preprocessing.scale", scale)], INPUT)


def _write(graph, step):
    if step.kind not in _WRITE:
        raise ConfigError(f"{step.kind} (layer {step.name}): ONNX has no operator for it")
    _WRITE[step.kind](graph, step)


def _arrays(graph, step, *names):
    """Append the step's weight, bias ...; return their names, those that do not exist left out."""
    found = []
    for name in names:
        value = getattr(step.layer, name)
        if value is not None:
            array = value if isinstance(value, np.ndarray) else value.data
            found.append(graph.constant(f"{step.name}.{name}", array))
    return found


def _pads(padding):
    (top, bottom), (left, right) = padding
    return [top, left, bottom, right]


def _window(layer):
    """Return the attributes of anything that slides over a plane."""
    window = {
        "kernel_shape": list(layer.kernel_size),
        "strides": list(layer.stride),
        "pads": _pads(layer.padding),
    }
    if getattr(layer, "dilation", (1, 1)) != (1, 1):
        window["dilations"] = list(layer.dilation)
    if getattr(layer, "ceil_mode", False):
        window["ceil_mode"] = 1
    return window


def _conv(graph, step):
    inputs = [*step.inputs, *_arrays(graph, step, "weight", "bias")]
    extra = {}
    if step.kind == "ConvTranspose2d":
        extra["output_padding"] = list(step.layer.output_padding)
    op = {"Conv2d": "Conv", "ConvTranspose2d": "ConvTranspose"}[step.kind]
    graph.add(op, inputs, step.name, group=step.layer.groups, **_window(step.layer), **extra)


def _linear(graph, step):
    graph.add("Gemm", [*step.inputs, *_arrays(graph, step, "weight", "bias")], step.name, transB=1)


def _batch_norm(graph, step):
    layer, name = step.layer, step.name
    channels = step.shape[0]
    if layer.affine:
        affine = _arrays(graph, step, "weight", "bias")
    else:
        ones, zeros = np.ones(channels, np.float32), np.zeros(channels, np.float32)
        affine = [graph.constant(f"{name}.ones", ones), graph.constant(f"{name}.zeros", zeros)]
    statistics = _arrays(graph, step, "running_mean", "running_var")
    graph.add(
        "BatchNormalization",
        [*step.inputs, *affine, *statistics],
        name,
        epsilon=layer.eps,
        momentum=1 - layer.momentum,
    )


def _plain(op, attributes=lambda layer: {}):
    """Return the rule for a layer that is one operator of one input."""
    return lambda graph, step: graph.add(op, step.inputs, step.name, **attributes(step.layer))


def _global(op):
    def write(graph, step):
        pooled = graph.add(op, step.inputs, f"{step.name}.pool")
        graph.add("Flatten", [pooled], step.name, axis=1)

    return write


def _silu(graph, step):
    gate = graph.add("Sigmoid", step.inputs, f"{step.name}.sigmoid")
    graph.add("Mul", [*step.inputs, gate], step.name)


def _scale(graph, step):
    factor = graph.constant(f"{step.name}.factor", np.float32(step.layer.factor))
    graph.add("Mul", [*step.inputs, factor], step.name)


def _dropout(graph, step):
    ratio = graph.constant(f"{step.name}.p", np.float32(step.layer.p))
    graph.add("Dropout", [*step.inputs, ratio], step.name)


def _prelu(graph, step):
    slope = step.layer.weight.data
    shape = (len(slope), *[1] * (len(step.shape) - 1)) if len(slope) > 1 else (1,)
    graph.add("PRelu", [*step.inputs, graph.constant(f"{step.name}.weight", slope.reshape(shape))], step.name)


def _softplus(graph, step):
    if step.layer.beta != 1:
        raise ConfigError(f"Softplus (layer {step.name}): ONNX has beta=1 only, found {step.layer.beta:g}")
    graph.add("Softplus", step.inputs, step.name)


def _group_norm(graph, step):
    layer, name = step.layer, step.name
    groups = step.kind == "GroupNorm"
    sizes = step.shape[:1] if groups else step.shape
    arrays = []
    for what, value in (("weight", np.ones), ("bias", np.zeros)):
        parameter = getattr(layer, what)
        values = value(sizes, np.float32) if parameter is None else parameter.data
        arrays.append(graph.constant(f"{name}.{what}", values))
    if groups:
        options = {"num_groups": layer.num_groups}
        graph.add("GroupNormalization", [*step.inputs, *arrays], name, epsilon=layer.eps, **options)
    else:
        graph.add("LayerNormalization", [*step.inputs, *arrays], name, epsilon=layer.eps, axis=1)


def _upsample(graph, step):
    scales = graph.constant(f"{step.name}.scales", np.array([1, 1, *step.layer.scale_factor], np.float32))
    options = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    graph.add("Resize", [*step.inputs, "", scales], step.name, mode="nearest", **options)


def _zero_pad(graph, step):
    (top, bottom), (left, right) = step.layer.padding
    pads = np.array([0, 0, top, left, 0, 0, bottom, right], np.int64)
    graph.add("Pad", [*step.inputs, graph.constant(f"{step.name}.pads", pads)], step.name)


def _clip(graph, step, low, high):
    limits = zip(("min", "max"), (low, high), strict=True)
    names = [
        graph.constant(f"{step.name}.{name}", np.float32(limit)) if np.isfinite(limit) else ""
        for name, limit in limits
    ]
    graph.add("Clip", [*step.inputs, *names], step.name)


def _local_response_norm(graph, step):
    layer = step.layer
    if layer.size % 2 == 0:
        raise ConfigError(
            f"{layer.label}: the window of ONNX's LRN is another one for even sizes, found {layer.size}"
        )
    options = {"size": layer.size, "alpha": layer.alpha, "beta": layer.beta, "bias": layer.k}
    graph.add("LRN", step.inputs, step.name, **options)


_WRITE = {
    "ELU": _plain("Elu", lambda layer: {"alpha": layer.alpha}),
    "GroupNorm": _group_norm,
    "LayerNorm": _group_norm,
    "PReLU": _prelu,
    "Softplus": _softplus,
    "Upsample": _upsample,
    "ZeroPad2d": _zero_pad,
    "Conv2d": _conv,
    "ConvTranspose2d": _conv,
    "MaxPool2d": _plain("MaxPool", _window),
    "AvgPool2d": _plain(
        "AveragePool", lambda layer: {**_window(layer), "count_include_pad": int(layer.count_include_pad)}
    ),
    "GlobalAvgPool2d": _global("GlobalAveragePool"),
    "GlobalMaxPool2d": _global("GlobalMaxPool"),
    "Linear": _linear,
    "Flatten": _plain("Flatten", lambda layer: {"axis": 1}),
    "Unflatten": lambda graph, step: graph.add(
        "Reshape", [*step.inputs, graph.constant(f"{step.name}.shape", np.array([0, *step.shape]))], step.name
    ),
    "ReLU": _plain("Relu"),
    "LeakyReLU": _plain("LeakyRelu", lambda layer: {"alpha": layer.negative_slope}),
    "GELU": _plain("Gelu", lambda layer: {"approximate": layer.approximate}),
    "SiLU": _silu,
    "Sigmoid": _plain("Sigmoid"),
    "Tanh": _plain("Tanh"),
    "Softmax": _plain("Softmax", lambda layer: {"axis": 1}),
    "BatchNorm1d": _batch_norm,
    "BatchNorm2d": _batch_norm,
    "Dropout": _dropout,
    "Scale": _scale,
    "Add": lambda graph, step: graph.add("Add" if len(step.inputs) == 2 else "Sum", step.inputs, step.name),
    "Mul": _plain("Mul"),
    "ReLU6": lambda graph, step: _clip(graph, step, 0, 6),
    "Hardtanh": lambda graph, step: _clip(graph, step, step.layer.min_val, step.layer.max_val),
    "Hardsigmoid": _plain("HardSigmoid", lambda layer: {"alpha": 1 / 6, "beta": 0.5}),
    "Hardswish": _plain("HardSwish"),
    "LogSoftmax": _plain("LogSoftmax", lambda layer: {"axis": 1}),
    "LocalResponseNorm": _local_response_norm,
    "Join": _plain("Concat", lambda layer: {"axis": 1}),
}


def exported_kinds():
    """Return the kinds of steps that have an ONNX operator."""
    return frozenset(_WRITE)
