"""Pictures of the chapters as SVG, computed from the same code that the chapter derives."""

import numpy as np

from cnn import layers
from cnn import reference as ops
from cnn.backend import use_backend

_CAPTIONS = {
    "curve": {
        "en": "y (solid) and its slope dy/dx (dashed) over x, from −4 to 4: what arrives from above is multiplied by the slope.",
        "zh": "y（实线）与斜率 dy/dx（虚线），x 从 −4 到 4：从后面传来的梯度要乘上这个斜率。",
    },
    "loss": {
        "en": "The example: probabilities p, the label y, and what the loss sends back, p − y.",
        "zh": "例子：概率 p、标签 y，以及损失传回的 p − y。",
    },
    "softmax": {
        "en": "The Jacobian of softmax at p = [0.1, 0.2, 0.25, 0.4, 0.05]: orange is positive, blue negative. Each row sums to zero.",
        "zh": "softmax 在 p = [0.1, 0.2, 0.25, 0.4, 0.05] 处的雅可比矩阵：橙色为正，蓝色为负。每一行之和为零。",
    },
    "maxpool": {
        "en": "Left: each window keeps its largest number (framed). Right: it alone receives the gradient.",
        "zh": "左：每个窗口只留下最大的数（加框）。右：也只有它得到梯度。",
    },
    "avgpool": {
        "en": "Left: each window gives its mean. Right: each of its four pixels receives a quarter of the gradient.",
        "zh": "左：每个窗口给出平均值。右：窗口里的四个像素各得到四分之一的梯度。",
    },
    "norm": {
        "en": "The values of one channel before (grey) and after (green): mean 0, variance 1, the same shape.",
        "zh": "一个通道的数值，归一化之前（灰）与之后（绿）：均值 0、方差 1，形状不变。",
    },
    "dropout": {
        "en": "In training a random part is zero and the rest grows by 1/(1 − p); backward multiplies by the same mask.",
        "zh": "训练时随机置零一部分，其余放大 1/(1 − p) 倍；反向乘上同一个掩码。",
    },
    "linear": {
        "en": "Each input goes into every output, through a weight of its own: so it collects from all of them on the way back.",
        "zh": "每个输入都经由各自的权重流进每个输出；反向时，它就要从所有输出收集。",
    },
    "conv": {
        "en": "The window (green) times the kernel, number by number, and summed: one output (green).",
        "zh": "窗口（绿框）与卷积核逐项相乘再求和，得到一个输出（绿框）。",
    },
    "transposed": {
        "en": "One input (green) spreads over a window of the output, multiplied by the kernel; windows two apart overlap and add up.",
        "zh": "一个输入（绿框）乘以卷积核，铺到输出的一个窗口上；窗口之间相距 2，重叠处相加。",
    },
    "flatten": {
        "en": "Channels, rows and columns become one row of numbers; backward puts them back.",
        "zh": "通道、行、列排成一行数；反向再放回原处。",
    },
    "scale": {
        "en": "Every number times one fixed factor, forward and backward.",
        "zh": "每个数都乘同一个固定的因子，前向与反向都一样。",
    },
    "mul": {
        "en": "Each branch receives the gradient times what the other one said.",
        "zh": "每条支路收到的梯度，是传来的梯度乘以另一条支路的值。",
    },
    "concat": {
        "en": "Branches side by side: backward cuts the gradient where forward joined.",
        "zh": "各支路拼接在一起：反向在拼接处把梯度切开。",
    },
    "add": {
        "en": "x goes into two branches and a sum: the sum hands its gradient to both, and x adds up what comes back.",
        "zh": "x 进入两条支路再相加：加法把梯度交给两边，x 再把传回的加起来。",
    },
}  # fmt: skip

#: Activations, of which the picture is a curve.
ACTIVATIONS = (
    "ReLU",
    "LeakyReLU",
    "ReLU6",
    "Hardtanh",
    "ELU",
    "GELU",
    "SiLU",
    "Hardswish",
    "Sigmoid",
    "Hardsigmoid",
    "Tanh",
    "Softplus",
    "PReLU",
)

_POOLED = np.array([[1, 3, 0, 2], [2, 1, 4, 1], [0, 2, 1, 1], [5, 1, 2, 3]], float)
_UP = np.array([[2.0, -1.0], [3.0, 1.0]])
_ORIGIN = np.array([0.1, 0.2, 0.25, 0.4, 0.05])
_TARGET = np.array([0, 0, 1, 0, 0.0])

_KINDS = {
    "Loss": "loss", "Softmax": "softmax", "LogSoftmax": "softmax", "MaxPool2d": "maxpool",
    "GlobalMaxPool2d": "maxpool", "AvgPool2d": "avgpool", "GlobalAvgPool2d": "avgpool", "BatchNorm2d": "norm",
    "BatchNorm1d": "norm", "Dropout": "dropout", "Linear": "linear", "Add": "add", "Concat": "concat", "Mul": "mul", "Conv2d": "conv",
    "ConvTranspose2d": "transposed", "Flatten": "flatten", "Scale": "scale",
}  # fmt: skip


def picture(kind, language):
    """Return a figure with its caption, or nothing for what needs none."""
    name, drawing = _draw(kind)
    if not drawing or kind in ("LogSoftmax", "GlobalMaxPool2d", "GlobalAvgPool2d"):  # another layer's picture
        return ""
    caption = _CAPTIONS[name][language]
    return f'<figure class="picture">{drawing(f"{caption}")}<figcaption>{caption}</figcaption></figure>'


def thumbnail(kind):
    """Return the picture alone, for a tile."""
    _, drawing = _draw(kind)
    return drawing(None) if drawing else _svg(120, 80, "", None)


def rate():
    """Return a sketch of the loss over a growing learning rate."""
    curve = '<path class="axis" d="M10 100H250"/><path class="line" d="M10 30C100 30 120 34 150 70S190 92 200 80S214 40 218 8"/>'
    return _svg(260, 110, curve, None)


def _draw(kind):
    name = _KINDS.get(kind)
    if name:
        return name, _DRAWINGS[name]
    if kind in ACTIVATIONS:
        return "curve", lambda label: _curve(kind, label)
    return kind, None


def _svg(width, height, inner, label):
    role = f'role="img" aria-label="{label}"' if label else 'aria-hidden="true"'
    return f'<svg class="drawn" viewBox="0 0 {width} {height}" {role}>{inner}</svg>'


def _curve(kind, label):
    x = np.linspace(-4, 4, 161)[None]
    with use_backend("reference"):
        layer = getattr(layers, kind)()
        if getattr(layer, "needs_build", False):
            layer.build(x.shape[1:], dtype=np.float64)
        y = np.asarray(layer.forward(x))[0]
        slope = np.asarray(layer.backward(np.ones_like(x)))[0]
    low, high = min(-1.2, y.min()), max(y.max(), 1.2)

    def line(values, style):
        points = " ".join(
            f"{20 + 35 * (a + 4):.1f},{150 - 130 * (v - low) / (high - low):.1f}"
            for a, v in zip(x[0], values, strict=True)
        )
        return f'<polyline class="{style}" points="{points}"/>'

    zero = 150 - 130 * (0 - low) / (high - low)
    axes = f'<path class="axis" d="M20 {zero:.1f}H300M160 15V155"/>'
    return _svg(320, 165, axes + line(slope, "slope") + line(y, "line"), label)


def _loss(label):
    parts = []
    for row, (name, values) in enumerate((("p", _ORIGIN), ("y", _TARGET), ("p − y", _ORIGIN - _TARGET))):
        top = 20 + row * 62
        parts.append(f'<text x="8" y="{top + 32}">{name}</text><path class="axis" d="M60 {top + 36}H330"/>')
        for k, value in enumerate(values):
            height = 36 * abs(value)
            y = top + 36 - (height if value > 0 else 0)
            sign = "pos" if value >= 0 else "neg"
            x = 70 + 52 * k
            parts.append(
                f'<rect class="{sign}" x="{x}" y="{y:.1f}" width="30" height="{max(height, 1):.1f}" rx="2"/>'
            )
            text = f"{value:.2f}".rstrip("0").rstrip(".").replace("-", "−") or "0"
            below = top + 36 + height + 13 if value < 0 else y - 4
            parts.append(
                f'<text class="small" x="{x + 15}" y="{below:.1f}" text-anchor="middle">{text}</text>'
            )
    return _svg(340, 232, "".join(parts), label)


def _grid(values, x, y, size, mark=lambda value, i, j: "", digits=0):
    parts = []
    for i, row in enumerate(values):
        for j, value in enumerate(row):
            left, top = x + j * size, y + i * size
            kind = mark(value, i, j)
            text = f"{value:.{digits}f}".replace("-", "−")
            parts.append(
                f'<rect class="cell {kind}" x="{left}" y="{top}" width="{size}" height="{size}"/>'
                f'<text class="small" x="{left + size / 2}" y="{top + size / 2 + 4.5}" text-anchor="middle">{text}</text>'
            )
    return "".join(parts)


def _softmax(label):
    jacobian = np.diag(_ORIGIN) - np.outer(_ORIGIN, _ORIGIN)

    def mark(value, i, j):
        return ("pos" if value > 0 else "neg") + ("-deep" if abs(value) > 0.05 else "-pale")

    return _svg(270, 270, _grid(jacobian, 10, 10, 50, mark, 3), label)


def _maxpool(label):
    x = _POOLED[None, None]
    _, winner = ops.max_pool2d_forward(x, (2, 2), (2, 2), ((0, 0), (0, 0)))
    dx = ops.max_pool2d_backward(_UP[None, None], winner, x.shape, (2, 2), (2, 2), ((0, 0), (0, 0)))[0, 0]
    won = dx != 0
    left = _grid(_POOLED, 10, 10, 36, lambda v, i, j: "won" if won[i, j] else "")
    right = _grid(dx, 216, 10, 36, lambda v, i, j: ("pos-pale" if v > 0 else "neg-pale") if won[i, j] else "")
    return _svg(370, 164, left + right + _windows(10) + _windows(216) + _arrow(160, 82), label)


def _avgpool(label):
    y = ops.avg_pool2d_forward(_POOLED[None, None], (2, 2), (2, 2), ((0, 0), (0, 0)), True)[0, 0]
    dx = np.kron(_UP / 4, np.ones((2, 2)))
    left = _grid(_POOLED, 10, 10, 36)
    right = _grid(dx, 216, 10, 36, lambda v, i, j: "pos-pale" if v > 0 else "neg-pale", 2)
    assert np.isclose(y[0, 0], _POOLED[:2, :2].mean())
    return _svg(370, 164, left + right + _windows(10) + _windows(216) + _arrow(160, 82), label)


def _windows(x):
    return "".join(
        f'<rect class="window" x="{x + 72 * j}" y="{10 + 72 * i}" width="72" height="72"/>'
        for i in (0, 1)
        for j in (0, 1)
    )


def _arrow(x, y):
    return f'<path class="arrow" d="M{x} {y}h44m-10 -7l10 7l-10 7"/>'


def _norm(label):
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(2.2, 0.8, 300), rng.normal(4.2, 0.5, 150)])[None, :, None]
    values = x.reshape(-1, 1)
    mean, rstd = ops.batch_norm_train(values, np.zeros(1), np.ones(1), 0.1, 1e-5)
    y = ops.batch_norm_forward(values, mean, rstd, None, None)
    parts = ['<path class="axis" d="M10 150H350M120 150v6"/><text class="small" x="116" y="163">0</text>']
    for data, style in ((values, "before"), (y, "after")):
        counts, edges = np.histogram(data, bins=28, range=(-3, 6.2))
        for count, edge in zip(counts, edges, strict=False):
            if count:
                left = 10 + 340 * (edge + 3) / 9.2
                parts.append(
                    f'<rect class="{style}" x="{left:.1f}" y="{150 - 1.7 * count:.1f}" width="11" height="{1.7 * count:.1f}"/>'
                )
    return _svg(360, 168, "".join(parts), label)


def _dropout(label):
    rng = np.random.default_rng(3)
    x = rng.integers(1, 9, (4, 4)).astype(float)
    keep = rng.random((4, 4)) >= 0.5
    left = _grid(x, 10, 10, 36)
    right = _grid(x * keep * 2, 216, 10, 36, lambda v, i, j: "pos-pale" if v else "off")
    return _svg(370, 164, left + right + _arrow(160, 82), label)


def _linear(label):
    parts, inputs, outputs = [], [(60, 20 + 36 * k) for k in range(4)], [(260, 38 + 36 * k) for k in range(3)]
    weights = np.random.default_rng(4).normal(size=(3, 4))
    for o, (x2, y2) in enumerate(outputs):
        for f, (x1, y1) in enumerate(inputs):
            sign = "pos" if weights[o, f] > 0 else "neg"
            lit = "" if f == 1 else " faint"
            parts.append(
                f'<line class="wire {sign}{lit}" x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke-width="{0.6 + 1.8 * abs(weights[o, f]):.1f}"/>'
            )
    for name, places in (("x", inputs), ("y", outputs)):
        for k, (x, y) in enumerate(places):
            parts.append(
                f'<circle class="unit{" won" if (name, k) == ("x", 1) else ""}" cx="{x}" cy="{y}" r="11"/>'
            )
            parts.append(
                f'<text class="small" x="{x}" y="{y + 4}" text-anchor="middle">{name}{"₀₁₂₃"[k]}</text>'
            )
    return _svg(320, 150, "".join(parts), label)


def _branches(label, sign):
    box = '<rect class="cell" x="110" y="14" width="100" height="40" rx="6"/><text class="small" x="160" y="39" text-anchor="middle">body</text>'
    lines = (
        '<path class="arrow" d="M30 80H60C80 80 80 34 110 34M60 80H250M210 34C240 34 240 80 250 80M270 80h40m-10 -7l10 7l-10 7"/>'
        '<circle class="unit" cx="260" cy="80" r="11"/><text class="small" x="260" y="85" text-anchor="middle">SIGN</text>'
        '<text class="small" x="14" y="85">x</text><text class="small" x="304" y="70">y</text>'
    )
    return _svg(330, 110, box + lines.replace("SIGN", sign), label)


def _conv(label):
    image = np.array(
        [[0, 1, 2, 1, 0], [1, 3, 0, 2, 1], [2, 0, 1, 3, 2], [0, 2, 3, 1, 0], [1, 0, 2, 0, 1]], float
    )
    kernel = np.array([[1, -2, 0], [3, 1, -1], [0, 2, -3]], float)
    zero = ((0, 0), (0, 0))
    y = ops.conv2d_forward(image[None, None], kernel[None, None], None, (1, 1), zero, (1, 1), 1)[0, 0]
    inside = _grid(image, 8, 8, 26, lambda v, i, j: "won" if i < 3 and j in (1, 2, 3) else "")
    weights = _grid(kernel, 170, 34, 26, lambda v, i, j: "pos-pale" if v > 0 else "neg-pale" if v < 0 else "")
    output = _grid(y, 284, 34, 26, lambda v, i, j: "won" if (i, j) == (0, 1) else "")
    signs = (
        '<text x="154" y="78" text-anchor="middle">⊙</text><text x="266" y="78" text-anchor="middle">=</text>'
    )
    return _svg(370, 146, inside + weights + output + signs, label)


def _transposed(label):
    x = np.array([[2.0, -1.0], [1.0, 3.0]])
    kernel = np.array([[1, -2, 0], [3, 1, -1], [0, 2, -3]], float)
    zero = ((0, 0), (0, 0))
    y = ops.conv2d_backward_input(x[None, None], kernel[None, None], (1, 1, 5, 5), (2, 2), zero, (1, 1), 1)[
        0, 0
    ]
    inside = _grid(x, 8, 47, 26, lambda v, i, j: "won" if (i, j) == (0, 0) else "")
    weights = _grid(kernel, 90, 34, 26, lambda v, i, j: "pos-pale" if v > 0 else "neg-pale" if v < 0 else "")
    output = _grid(y, 204, 8, 26, lambda v, i, j: "won" if i < 3 and j < 3 else "")
    signs = (
        '<text x="75" y="78" text-anchor="middle">×</text><text x="186" y="78" text-anchor="middle">=</text>'
    )
    return _svg(342, 146, inside + weights + output + signs, label)


def _flatten(label):
    values = np.arange(1.0, 7).reshape(2, 3)
    first, second = _grid(values, 8, 20, 26), _grid(values + 6, 20, 92, 26)
    row = _grid(np.arange(1.0, 13)[None], 170, 68, 22)
    return _svg(440, 158, first + second + _arrow(108, 79) + row, label)


def _scale(label):
    values = np.array([[1.0, -2.0, 3.0]])
    mark = lambda v, i, j: "pos-pale" if v > 0 else "neg-pale"  # noqa: E731
    signs = '<text x="122" y="45">× 0.5 =</text>'
    return _svg(
        300, 80, _grid(values, 10, 22, 34, mark) + signs + _grid(values / 2, 186, 22, 34, mark, 1), label
    )


_DRAWINGS = {
    "loss": _loss,
    "softmax": _softmax,
    "maxpool": _maxpool,
    "avgpool": _avgpool,
    "norm": _norm,
    "dropout": _dropout,
    "linear": _linear,
    "add": lambda label: _branches(label, "+"),
    "mul": lambda label: _branches(label, "×"),
    "concat": lambda label: _branches(label, "‖"),
    "conv": _conv,
    "transposed": _transposed,
    "flatten": _flatten,
    "scale": _scale,
}
