"""Operators on constants, which exporters leave behind: computed once, while a model is read."""

import numpy as np

MOST = 2**28  # numbers that one result may have


def _shape(call):
    call.ignore("start", "end")
    found = call.inputs[0]
    sizes = found.shape if isinstance(found, np.ndarray) else (call.reader.batch, *found.shape)
    start, end = call.attribute("start", 0), call.attribute("end", None)
    return np.array(sizes[start:end], np.int64)


def _constant(call):
    for name in ("value_float", "value_floats", "value_int", "value_ints"):
        value = call.attribute(name)
        if value is not None:
            return np.array(value, np.float32 if "float" in name else np.int64)
    tensor = call.attribute("value")
    return call.refuse("it has no number") if tensor is None else call.reader.array(tensor)


def _axes(call, k=1):
    axes = call.attribute("axes")
    return axes if axes is not None else (call.constant(k).tolist() if call.has(k) else None)


def _unsqueeze(call):
    return np.expand_dims(call.constant(0), tuple(_axes(call)))


def _squeeze(call):
    axes = _axes(call)
    return np.squeeze(call.constant(0), None if axes is None else tuple(axes))


def _cast(call):
    call.ignore("saturate", "round_mode")
    dtype = call.reader.onnx.helper.tensor_dtype_to_np_dtype(call.attribute("to"))
    return call.constant(0).astype(dtype)


def _slice(call):
    x = call.constant(0)
    if call.opset < 10:
        starts, ends = call.attribute("starts"), call.attribute("ends")
        axes, steps = call.attribute("axes", range(len(starts))), [1] * len(starts)
    else:
        starts, ends = call.constant(1), call.constant(2)
        axes, steps = call.constant(3, np.arange(len(starts))), call.constant(4, np.ones(len(starts), int))
    parts = [slice(None)] * x.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        parts[int(axis)] = slice(int(start), int(end), int(step))
    return x[tuple(parts)]


def _fill(call):
    shape = call.constant(0)
    if np.prod(shape.astype(float)) > MOST:
        call.refuse(f"input 0: found the shape {shape.tolist()}, which is too large")
    value = call.attribute("value")
    return np.full(shape, np.float32(0) if value is None else call.reader.array(value).ravel()[0])


def _expand(call):
    x, shape = call.constant(0), np.ravel(call.constant(1))
    if np.prod(shape.astype(float)) > MOST:
        call.refuse(f"input 1: found the shape {shape.tolist()}, which is too large")
    return x * np.ones(shape, x.dtype)


def _two(function):
    return lambda call: np.asarray(function(call.constant(0), call.constant(1)))


def _divide(a, b):
    return a // b if np.issubdtype(np.asarray(a).dtype, np.integer) else a / b


FOLD = {
    "Shape": _shape,
    "Constant": _constant,
    "ConstantOfShape": _fill,
    "Identity": lambda call: call.constant(0),
    "Cast": _cast,
    "Gather": lambda call: np.take(call.constant(0), call.constant(1), axis=call.attribute("axis", 0)),
    "Concat": lambda call: np.concatenate(
        [call.constant(k) for k in range(len(call.inputs))], axis=call.attribute("axis", 1)
    ),
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Reshape": lambda call: (call.ignore("allowzero"), call.constant(0).reshape(call.constant(1)))[1],
    "Transpose": lambda call: call.constant(0).transpose(call.attribute("perm")),
    "Slice": _slice,
    "Add": _two(np.add),
    "Sub": _two(np.subtract),
    "Mul": _two(np.multiply),
    "Div": _two(_divide),
    "Sqrt": lambda call: np.sqrt(call.constant(0)),
    "Expand": _expand,
    "Neg": lambda call: -call.constant(0),
}
