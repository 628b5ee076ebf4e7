"""ONNX operators whose window slides over a plane: convolutions and pools."""

import math

import numpy as np

from cnn import layers as L

ZEROS = {"weight_init": "zeros", "bias_init": "zeros"}  # drawn numbers would be overwritten


def _window(call, kernel, plane):
    """Return (stride, dilation, padding ((top, bottom), (left, right))) of a node with ``auto_pad``."""
    stride = tuple(call.attribute("strides", (1, 1)))
    dilation = tuple(call.attribute("dilations", (1, 1)))
    pads = list(call.attribute("pads", (0, 0, 0, 0)))
    given = call.attribute("kernel_shape")
    if len(kernel) != 2 or any(len(two) != 2 for two in (stride, dilation)) or len(pads) != 4:
        call.refuse(f"kernel_shape: found {list(kernel)}, expected 2 axes of pixels")
    if given is not None and tuple(given) != tuple(kernel):
        call.refuse(f"attribute kernel_shape: found {list(given)}, expected {list(kernel)} as the weight has")
    if min(*stride, *dilation, *kernel) < 1 or min(pads) < 0:
        call.refuse(f"found strides {stride}, dilations {dilation}, pads {pads}, expected positive numbers")
    auto = call.expect("auto_pad", "NOTSET", "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER", "")
    padding = tuple(zip(pads[:2], pads[2:], strict=True))
    if auto == "VALID":
        padding = ((0, 0), (0, 0))
    if auto.startswith("SAME"):  # as many windows as strides fit: ceil(size / stride)
        padding = []
        for size, k, s, d in zip(plane, kernel, stride, dilation, strict=True):
            total = max(0, (math.ceil(size / s) - 1) * s + d * (k - 1) + 1 - size)
            less, more = total // 2, total - total // 2
            padding.append((less, more) if auto == "SAME_UPPER" else (more, less))
    return stride, dilation, tuple(padding)


def _even(padding):
    """Return (ph, pw) where opposite sides agree, else the padding."""
    return tuple(a for a, _ in padding) if all(a == b for a, b in padding) else padding


def make(call, kind, *args, **kwargs):
    """Return a layer; padding that it cannot take goes into a layer of its own in front of it."""
    made = L.layer_types().get(kind)
    if made is None:
        call.refuse(f"{kind} is not offered")
    return made(*args, **kwargs)


def conv(call):
    """Conv."""
    x, weight = call.value(0, axes=(4,)), call.constant(1)
    if weight.ndim != 4:
        call.refuse(f"input 1: found a weight of {weight.ndim} axes, expected 4")
    stride, dilation, padding = _window(call, weight.shape[2:], x.shape[1:])
    layer = L.Conv2d(
        weight.shape[0],
        kernel_size=weight.shape[2:],
        stride=stride,
        dilation=dilation,
        groups=call.attribute("group", 1),
        bias=call.has(2),
        **ZEROS,
    )
    layer.padding = padding
    return call.layer(layer, x, **weights_of(call, weight))


def weights_of(call, weight):
    """Return what ``Call.layer`` takes of a weight and the bias, input 2."""
    weights = {"weight": (weight, 1)}
    return weights | {"bias": (call.constant(2), 2)} if call.has(2) else weights


def conv_transpose(call):
    """ConvTranspose."""
    x, weight = call.value(0, axes=(4,)), call.constant(1)
    if weight.ndim != 4:
        call.refuse(f"input 1: found a weight of {weight.ndim} axes, expected 4")
    kernel, group = weight.shape[2:], call.attribute("group", 1)
    extra = list(call.attribute("output_padding", (0, 0)))
    wanted = call.attribute("output_shape")
    auto = call.attribute("auto_pad", "NOTSET")
    call.expect("auto_pad", "NOTSET", "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER", "")
    stride, dilation = tuple(call.attribute("strides", (1, 1))), tuple(call.attribute("dilations", (1, 1)))
    pads, given = list(call.attribute("pads", (0,) * 4)), call.attribute("kernel_shape")
    if (given is not None and tuple(given) != kernel) or len(stride) != 2 or min(*stride, *dilation) < 1:
        call.refuse(
            f"attributes kernel_shape, strides: found {given}, {stride}, expected {kernel} and 2 axes"
        )
    if auto.startswith("SAME") or wanted is not None:
        pads = [0, 0, 0, 0]
        for k in range(2):
            size = wanted[-2 + k] if wanted is not None else x.shape[1 + k] * stride[k]
            full = stride[k] * (x.shape[1 + k] - 1) + extra[k] + (kernel[k] - 1) * dilation[k] + 1
            total = full - size
            if total < 0:  # more is asked for than there is
                extra[k], total = extra[k] - total, 0
            less, more = total // 2, total - total // 2
            pads[k], pads[k + 2] = (
                (more, less) if auto == "SAME_LOWER" or wanted is not None else (less, more)
            )
            if auto == "SAME_UPPER":
                pads[k], pads[k + 2] = less, more
    begin, cut = [], []
    for k in range(2):  # a smaller pad at the end is a larger output_padding; a larger one is cut off behind
        begin.append(pads[k])
        extra[k] += pads[k] - pads[k + 2]
        cut.append(min(extra[k], 0))
        extra[k] = max(extra[k], 0)
    if min(begin) < 0 or any(e >= s for e, s in zip(extra, stride, strict=True)):
        call.refuse(f"attribute pads: found {pads}, expected an output that one padding and stride can give")
    layer = L.ConvTranspose2d(
        weight.shape[1] * group,
        kernel_size=kernel,
        stride=stride,
        padding=tuple(begin),
        output_padding=tuple(extra),
        groups=group,
        bias=call.has(2),
        dilation=dilation,
        **ZEROS,
    )
    y = call.layer(layer, x, **weights_of(call, weight))
    return call.layer(L.ZeroPad2d((0, cut[1], 0, cut[0])), y) if any(cut) else y


def _is_cut(plane, kernel, stride, dilation, padding):
    """Whether a window would reach beyond the end of either axis."""
    sides = zip(plane, kernel, stride, dilation, padding, strict=True)
    return any((size + sum(p) - d * (k - 1) - 1) % s for size, k, s, d, p in sides)


def pool(call):
    """MaxPool and AveragePool."""
    x = call.value(0, axes=(4,))
    call.single_output()
    call.ignore("storage_order")
    kernel = tuple(call.attribute("kernel_shape", ()))
    stride, dilation, padding = _window(call, kernel, x.shape[1:])
    options = {"stride": stride}
    if call.attribute("ceil_mode", 0) and _is_cut(x.shape[1:], kernel, stride, dilation, padding):
        options["ceil_mode"] = True
    if call.op == "AveragePool":
        options["count_include_pad"] = bool(call.attribute("count_include_pad", 0))
        if dilation != (1, 1):
            return _dilated_mean(call, x, kernel, stride, dilation, padding, options)
    elif dilation != (1, 1):
        options["dilation"] = dilation
    if any(max(pads) > d * (k - 1) for pads, d, k in zip(padding, dilation, kernel, strict=True)):
        call.refuse(f"attribute pads: found {padding}, expected a pixel in each window of {kernel}")
    layer = make(call, "MaxPool2d" if call.op == "MaxPool" else "AvgPool2d", kernel, **options)
    layer.padding = padding  # the constructor takes at most half of the window, as PyTorch's does
    return call.layer(layer, x)


def _dilated_mean(call, x, kernel, stride, dilation, padding, options):
    """Return the mean of windows with gaps, which AvgPool2d has not: a convolution with equal weights."""
    if options.get("ceil_mode") or (any(map(any, padding)) and not options["count_include_pad"]):
        call.refuse("attribute dilations: expected no padding that does not count, and no ceil_mode")
    channels, (kh, kw) = x.shape[0], kernel
    layer = L.Conv2d(
        channels, kernel_size=kernel, stride=stride, dilation=dilation, groups=channels, bias=False,
        weight_init="zeros",
    )  # fmt: skip
    layer.padding = padding
    weight = np.full((channels, 1, kh, kw), 1 / (kh * kw), np.float32)
    y = call.layer(layer, x, weight=(weight, None))
    layer.trainable = False
    return y


def over_plane(kind):
    """Return the rule for a pool whose window is the whole plane."""

    def rule(call):
        x = call.value(0, axes=(4,))
        return call.layer(kind(x.shape[1:]), x)

    return rule
