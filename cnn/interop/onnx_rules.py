"""What each ONNX operator is here: a rule takes a ``Call`` of ``onnx_read`` and returns its result."""

import math

import numpy as np

from cnn import layers as L
from cnn.interop import onnx_arithmetic as arithmetic
from cnn.interop import onnx_shapes as shapes
from cnn.interop.onnx_resize import resize
from cnn.interop.onnx_windows import ZEROS, conv, conv_transpose, make, over_plane, pool, weights_of


def _mean(call):
    x = call.value(0, axes=(4,))
    axes = call.attribute("axes")
    axes = call.constant(1).tolist() if axes is None else axes
    call.ignore("noop_with_empty_axes")
    if sorted(axis % 4 for axis in axes) != [2, 3]:
        call.refuse(f"axes: found {list(axes)}, expected 2 and 3")
    if call.attribute("keepdims", 1):
        return call.layer(L.AvgPool2d(x.shape[1:]), x)
    return call.layer(L.GlobalAvgPool2d(), x)


def _gemm(call):
    x = call.value(0, axes=(2,))
    weight = call.constant(1)
    call.expect("transA", 0, 0)
    alpha, beta = call.attribute("alpha", 1.0), call.attribute("beta", 1.0)
    weight = weight if call.attribute("transB", 0) else weight.T
    weight = weight if alpha == 1 else np.float32(alpha) * weight
    bias = None
    if call.has(2):
        if call.constant(2).size not in (1, len(weight)):
            call.refuse(f"input 2: found shape {call.constant(2).shape}, expected one number a feature")
        bias = np.broadcast_to(np.ravel(call.constant(2)), weight.shape[:1])
        bias = bias if beta == 1 else np.float32(beta) * bias
    return _linear(call, x, weight, bias)


def _linear(call, x, weight, bias):
    if weight.ndim != 2:
        call.refuse(f"input 1: found a weight of {weight.ndim} axes, expected 2")
    layer = L.Linear(weight.shape[0], bias=bias is not None, **ZEROS)
    return call.layer(layer, x, weight=(weight, 1), **({} if bias is None else {"bias": (bias, 2)}))


def _batch_norm(call):
    x = call.value(0, axes=(2, 4))
    call.single_output()
    call.expect("spatial", 1, 1)
    call.ignore("training_mode", "is_test")
    kind = L.BatchNorm2d if len(x.shape) == 3 else L.BatchNorm1d
    momentum = 1 - call.attribute("momentum", 0.9)
    layer = kind(eps=call.attribute("epsilon", 1e-5), momentum=round(momentum, 7))
    names = ("weight", "bias", "running_mean", "running_var")
    return call.layer(layer, x, **{name: (call.constant(k + 1), k + 1) for k, name in enumerate(names)})


def _dropout(call):
    call.single_output()
    call.ignore("seed", "is_test")
    if np.any(call.constant(2, np.zeros(1))):
        call.refuse("input 2: training_mode is on, expected a network in evaluation")
    p = float(call.attribute("ratio", 0.5)) if call.opset < 12 else float(call.constant(1, np.float32(0.5)))
    return call.layer(L.Dropout(round(p, 7)), call.value())


def _layer(make):
    """Return the rule for an operator of one input that is one layer."""
    return lambda call: call.layer(make(call), call.value())


def _softmax(kind):
    def rule(call):
        x = call.value()
        axis = call.attribute("axis", 1 if call.opset < 13 else -1)
        axis = axis % (len(x.shape) + 1)
        if axis != 1 or (call.opset < 13 and math.prod(x.shape[1:]) > 1):
            call.refuse(f"attribute axis: found {axis}, expected the channels, 1")
        return call.layer(kind(), x)

    return rule


def _cast(call):
    call.ignore("saturate", "round_mode")
    kinds = call.reader.onnx.TensorProto
    call.expect("to", None, kinds.FLOAT)
    return call.value()


def _group_norm(call):
    x = call.value()
    call.expect("stash_type", 1, 1)
    if call.op == "LayerNormalization":
        call.single_output()
        call.expect("axis", -1, 1, -len(x.shape))
        layer = L.LayerNorm(eps=call.attribute("epsilon", 1e-5), bias=call.has(2))
    elif call.opset < 21:
        call.refuse(f"opset {call.opset}, expected 21 or later")
    else:
        layer = L.GroupNorm(call.attribute("num_groups", 1), eps=call.attribute("epsilon", 1e-5))
    return call.layer(layer, x, **weights_of(call, call.constant(1)))


RULES = {
    "GroupNormalization": _group_norm,
    "LayerNormalization": _group_norm,
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "MaxPool": pool,
    "AveragePool": pool,
    "GlobalAveragePool": over_plane(L.AvgPool2d),
    "GlobalMaxPool": over_plane(L.MaxPool2d),
    "ReduceMean": _mean,
    "Gemm": _gemm,
    "MatMul": lambda call: _linear(call, call.value(0, axes=(2,)), call.constant(1).T, None),
    "BatchNormalization": _batch_norm,
    "Relu": _layer(lambda call: L.ReLU()),
    "LeakyRelu": _layer(lambda call: L.LeakyReLU(round(call.attribute("alpha", 0.01), 7))),
    "PRelu": arithmetic.prelu,
    "Elu": _layer(lambda call: make(call, "ELU", call.attribute("alpha", 1.0))),
    "Sigmoid": _layer(lambda call: L.Sigmoid()),
    "Tanh": _layer(lambda call: L.Tanh()),
    "Gelu": _layer(lambda call: L.GELU(call.attribute("approximate", "none"))),
    "Softplus": _layer(lambda call: make(call, "Softplus")),
    "HardSigmoid": arithmetic.hard_sigmoid,
    "HardSwish": _layer(lambda call: L.Hardswish()),
    "LRN": arithmetic.local_response_norm,
    "Clip": arithmetic.clip,
    "Softmax": _softmax(L.Softmax),
    "LogSoftmax": _softmax(L.LogSoftmax),
    "Dropout": _dropout,
    "Identity": lambda call: call.value(),
    "Cast": _cast,
    "Flatten": shapes.flatten,
    "Reshape": shapes.reshape,
    "Squeeze": shapes.squeeze,
    "Unsqueeze": shapes.unsqueeze,
    "Pad": shapes.pad,
    "Resize": resize,
    "Upsample": resize,
    "Add": arithmetic.add,
    "Sub": arithmetic.subtract,
    "Mul": arithmetic.multiply,
    "Div": arithmetic.divide,
    "Sum": arithmetic.add_all,
    "Concat": shapes.concat,
}
