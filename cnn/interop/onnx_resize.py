"""ONNX's Resize: whole factors of the nearest pixel are Upsample; all else is linear in rows and in columns.

Every mode takes an output pixel as a weighted sum of pixels of its row, and then of its column:

    y = R x C^T        R (H', H), C (W', W), one pair for all planes

A convolution whose window is a whole row, one group a channel and W' outputs a group, is x C^T with rows and
columns exchanged: its result [c][j][i] lies in memory as planes of (W', H). The same once more with R
exchanges them back. https://onnx.ai/onnx/operators/onnx__Resize.html
"""

import numpy as np

from cnn import layers as L

MOST = 2**24  # numbers of the matrices of all channels
SMALL = np.float32  # coordinates are computed in it, as onnxruntime does


def resize(call):
    """Resize and Upsample, of height and width."""
    x = call.value(0, axes=(4,))
    new = call.op == "Resize" and call.opset >= 11
    mode = call.expect("mode", "nearest", "nearest", "linear", "cubic")
    where = call.attribute("coordinate_transformation_mode", "half_pixel") if new else "asymmetric"
    rounding = call.attribute("nearest_mode", "round_prefer_floor") if new else "floor"
    if where not in _COORDINATES:
        known = ", ".join(_COORDINATES)
        call.refuse(f"attribute coordinate_transformation_mode: found {where!r}, expected one of {known}")
    if rounding not in _ROUNDINGS:
        call.refuse(f"attribute nearest_mode: found {rounding!r}, expected one of {', '.join(_ROUNDINGS)}")
    scales, sizes = _factors(call, x, 2 if new else 1)
    if where == "tf_crop_and_resize":
        axes = [int(axis) % 4 for axis in call.attribute("axes", range(4))]
        given = np.ravel(call.constant(1)).reshape(2, -1).T
        parts = dict(zip(axes, given.tolist(), strict=True))
    else:
        parts = {}
    call.ignore("keep_aspect_ratio_policy", "axes")
    filters = _Filters(
        mode,
        _ROUNDINGS[rounding],
        call.attribute("cubic_coeff_a", -0.75),
        bool(call.attribute("exclude_outside", 0)),
        bool(call.attribute("antialias", 0)),
    )
    outside, matrices = call.attribute("extrapolation_value", 0.0), []
    for axis in (2, 3):
        line = _Line(x.shape[axis - 1], sizes[axis], SMALL(scales[axis]), parts.get(axis, (0, 1)))
        at = _COORDINATES[where](line, np.arange(line.out, dtype=SMALL))
        lost = (at < 0) | (at > line.size - 1) if where == "tf_crop_and_resize" else np.zeros(line.out, bool)
        if outside and lost.any():
            call.refuse(
                f"attribute extrapolation_value: found {outside:g}, expected 0 where pixels are outside"
            )
        matrices.append(np.where(lost[:, None], 0, filters.matrix(line, at)))
    whole = [_whole_factor(matrix) for matrix in matrices]
    if whole == [1, 1]:
        return x
    if all(whole):
        return call.layer(L.Upsample(scale_factor=tuple(whole)), x)
    rows, columns = matrices
    return _along_rows(call, _along_rows(call, x, columns), rows)


def _factors(call, x, at):
    """Return ({axis: scale}, {axis: size of the output}); input ``at`` has scales, the next one sizes."""
    full = (call.reader.batch, *x.shape)
    axes = [int(axis) % 4 for axis in call.attribute("axes", range(4))]
    scales, sizes = dict.fromkeys(range(4), 1.0), dict(enumerate(full))
    found = call.attribute("scales")
    if found is None and call.has(at) and np.size(call.constant(at)):
        found = np.ravel(call.constant(at)).tolist()
    if found is not None:
        scales |= dict(zip(axes, found, strict=True))
        sizes = {axis: int(np.floor(full[axis] * SMALL(scales[axis]))) for axis in range(4)}
    else:
        wanted = dict(zip(axes, np.ravel(call.constant(3)).tolist(), strict=True))
        found = {axis: size / full[axis] for axis, size in wanted.items()}
        policy = call.expect("keep_aspect_ratio_policy", "stretch", "stretch", "not_larger", "not_smaller")
        if policy != "stretch":
            found = dict.fromkeys(found, (min if policy == "not_larger" else max)(found.values()))
            wanted = {axis: int(np.floor(full[axis] * scale + 0.5)) for axis, scale in found.items()}
        scales |= found
        sizes |= wanted
    if scales[0] != 1 or scales[1] != 1 or min(sizes.values()) < 1:
        shown = [round(scales[axis], 4) for axis in range(4)]
        call.refuse(f"scales: found {shown}, expected those of height and width only")
    largest = max(x.shape[1] * sizes[2] * x.shape[0], x.shape[2] * sizes[3] * x.shape[0])
    if largest > MOST:
        call.refuse(f"scales: found {sizes[2]} x {sizes[3]} pixels, which take {largest:,} weights")
    return scales, sizes


class _Line:
    """One axis: pixels before and after, the scale, and the part of it that is read, in shares."""

    def __init__(self, size, out, scale, part):
        self.size, self.out, self.scale = size, out, scale
        self.start, self.end = map(SMALL, part)


def _half_pixel(line, i):
    return (i + SMALL(0.5)) / line.scale - SMALL(0.5)


def _symmetric(line, i):
    return line.size / 2 * (1 - line.out / (line.scale * line.size)) + _half_pixel(line, i)


def _corners(line, i):
    last = line.scale * line.size - 1  # of the output, not rounded
    return i * SMALL(line.size - 1) / last if line.out > 1 else 0 * i


def _crop(line, i):
    last = line.size - 1
    if line.out == 1:
        return (line.start + line.end) / 2 * last + 0 * i
    return line.start * last + i * (line.end - line.start) * last / (line.out - 1)


#: Where output pixel i lies among those of the input.
_COORDINATES = {
    "half_pixel": _half_pixel,
    "half_pixel_symmetric": _symmetric,
    "pytorch_half_pixel": lambda line, i: _half_pixel(line, i) if line.out > 1 else 0 * i,
    "align_corners": _corners,
    "asymmetric": lambda line, i: i / line.scale,
    "tf_crop_and_resize": _crop,
}

_ROUNDINGS = {
    "round_prefer_floor": lambda at: np.ceil(at - 0.5),
    "round_prefer_ceil": lambda at: np.floor(at + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}


class _Filters:
    """How pixels around a place are weighted."""

    def __init__(self, mode, rounding, a, exclude_outside, antialias):
        self.mode, self.rounding, self.a = mode, rounding, a
        self.exclude_outside, self.antialias = exclude_outside, antialias

    def matrix(self, line, at):
        """Return the weights (out, size) for the places ``at``; pixels past an end stand for the last one."""
        found = np.zeros((line.out, line.size))
        if self.mode == "nearest":
            found[range(line.out), np.clip(self.rounding(at), 0, line.size - 1).astype(int)] = 1
            return found
        reach = 1 if self.mode == "linear" else 2
        narrow = min(1.0, float(line.scale)) if self.antialias else 1.0
        for row, place in zip(found, at.astype(float), strict=True):
            near = np.arange(np.floor(place - reach / narrow), np.ceil(place + reach / narrow) + 1)
            weights = self._weigh(abs(near - place) * narrow)
            if self.exclude_outside:
                weights[(near < 0) | (near > line.size - 1)] = 0
            np.add.at(row, np.clip(near, 0, line.size - 1).astype(int), weights / weights.sum())
        return found

    def _weigh(self, d):
        """Return the weights at distances ``d``: a triangle, or the cubic of Keys (1981) with its a."""
        if self.mode == "linear":
            return np.maximum(0, 1 - d)
        a = self.a
        near = ((a + 2) * d - (a + 3)) * d * d + 1
        far = a * (((d - 5) * d + 8) * d - 4)
        return np.where(d <= 1, near, np.where(d < 2, far, 0))


def _whole_factor(matrix):
    """Return how often each pixel is repeated, 0 if not all are equally often and in order."""
    out, size = matrix.shape
    factor = out // size
    return factor if out % size == 0 and np.array_equal(matrix, np.eye(size).repeat(factor, 0)) else 0


def _along_rows(call, x, matrix):
    """Return x C^T for each plane, rows and columns exchanged, by layers that are not trained."""
    (channels, height, width), out = x.shape, len(matrix)
    layer = L.Conv2d(
        channels * out, kernel_size=(1, width), groups=channels, bias=False, weight_init="zeros"
    )  # fmt: skip
    weight = np.tile(matrix.astype(np.float32).reshape(out, 1, 1, width), (channels, 1, 1, 1))
    y = call.layer(layer, x, weight=(weight, None))
    layer.trainable = False
    return call.layer(L.Unflatten((channels, out, height)), call.layer(L.Flatten(), y))
