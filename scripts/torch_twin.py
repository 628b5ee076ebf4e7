"""The PyTorch twin of a cnn network and of what trains it: same layers, same weights, same formulas.

Everything is made from the built objects of cnn, not from the config, so both sides read a recipe alike.
"""

import copy
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F


class Residual(nn.Module):
    """y = body(x) + shortcut(x)."""

    def __init__(self, body, shortcut):
        super().__init__()
        self.body, self.shortcut = body, shortcut

    def forward(self, x):
        return self.body(x) + self.shortcut(x)


class Concat(nn.Module):
    """The branches' outputs, joined along the channels."""

    def __init__(self, branches):
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x):
        return torch.cat([branch(x) for branch in self.branches], 1)


class Graph(nn.Module):
    """Paths that each take the joined results of any before them."""

    def __init__(self, layer):
        super().__init__()
        self.paths = nn.ModuleList(map(_sequential, layer.paths))
        self.inputs, self.joins = layer.inputs, layer.joins

    def forward(self, x):
        values = [x]
        for path, read, join in zip(self.paths, self.inputs, self.joins, strict=True):
            parts = [values[i] for i in read]
            if join == "concat":
                parts = [torch.cat(parts, 1)]
            while len(parts) > 1:
                second = parts.pop(1)
                parts[0] = parts[0] * second if join == "mul" else parts[0] + second
            values.append(path(parts[0]))
        return values[-1]


class Global(nn.Module):
    """The mean or the maximum of each plane: (N, C, H, W) becomes (N, C)."""

    def __init__(self, reduce):
        super().__init__()
        self.reduce = reduce

    def forward(self, x):
        return self.reduce(x, (2, 3))


class Hardsigmoid(nn.Module):
    """y = min(max(x/6 + 1/2, 0), 1); nn.Hardsigmoid rounds the 1/6 of its gradient to float32, always."""

    def forward(self, x):
        return F.relu6(x + 3) / 6


class Scale(nn.Module):
    """y = factor * x."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return self.factor * x


def _conv(layer):
    (top, bottom), (left, right) = layer.padding
    even = (top, left) == (bottom, right)
    conv = nn.Conv2d(
        layer.input_shape[0],
        layer.out_channels,
        layer.kernel_size,
        layer.stride,
        (top, left) if even else 0,
        layer.dilation,
        layer.groups,
        bias=layer.bias is not None,
    )
    return conv if even else nn.Sequential(nn.ZeroPad2d((left, right, top, bottom)), conv)


def _conv_transpose(layer):
    return nn.ConvTranspose2d(
        layer.input_shape[0],
        layer.out_channels,
        layer.kernel_size,
        layer.stride,
        tuple(begin for begin, _ in layer.padding),
        layer.output_padding,
        layer.groups,
        layer.bias is not None,
        layer.dilation,
    )


def _pool(kind, *options):
    def make(layer):
        padding = tuple(begin for begin, _ in layer.padding)
        if any(begin != end for begin, end in layer.padding):
            raise SystemExit(f"{layer.label}: PyTorch's pools have equal padding on both sides")
        return kind(layer.kernel_size, layer.stride, padding, **{k: getattr(layer, k) for k in options})

    return make


def _norm(kind):
    return lambda layer: kind(layer.input_shape[0], layer.eps, layer.momentum, layer.affine)


def _group_norm(layer):
    return nn.GroupNorm(layer.num_groups, layer.input_shape[0], layer.eps, layer.affine)


def _layer_norm(layer):
    bias = layer.bias is not None
    return nn.LayerNorm(layer.input_shape, layer.eps, layer.elementwise_affine, bias)


def _sequential(layer):
    return nn.Sequential(*map(_module, layer.layers))


_MAKE = {
    "Conv2d": _conv,
    "ConvTranspose2d": _conv_transpose,
    "MaxPool2d": _pool(nn.MaxPool2d, "dilation", "ceil_mode"),
    "AvgPool2d": _pool(nn.AvgPool2d, "ceil_mode", "count_include_pad"),
    "GlobalAvgPool2d": lambda layer: Global(torch.mean),
    "GlobalMaxPool2d": lambda layer: Global(torch.amax),
    "Linear": lambda layer: nn.Linear(*layer.input_shape, layer.out_features, layer.bias is not None),
    "Flatten": lambda layer: nn.Flatten(),
    "Unflatten": lambda layer: nn.Unflatten(1, layer.unflattened_size),
    "ReLU": lambda layer: nn.ReLU(),
    "LeakyReLU": lambda layer: nn.LeakyReLU(layer.negative_slope),
    "GELU": lambda layer: nn.GELU(layer.approximate),
    "SiLU": lambda layer: nn.SiLU(),
    "Sigmoid": lambda layer: nn.Sigmoid(),
    "Tanh": lambda layer: nn.Tanh(),
    "Softmax": lambda layer: nn.Softmax(1),
    "BatchNorm1d": _norm(nn.BatchNorm1d),
    "BatchNorm2d": _norm(nn.BatchNorm2d),
    "Dropout": lambda layer: nn.Dropout(layer.p),
    "Scale": lambda layer: Scale(layer.factor),
    "ELU": lambda layer: nn.ELU(layer.alpha),
    "Softplus": lambda layer: nn.Softplus(layer.beta, layer.threshold),
    "PReLU": lambda layer: nn.PReLU(layer.num_parameters),
    "GroupNorm": _group_norm,
    "LayerNorm": _layer_norm,
    "Upsample": lambda layer: nn.Upsample(scale_factor=layer.scale_factor),
    "ZeroPad2d": lambda layer: nn.ZeroPad2d((*layer.padding[1], *layer.padding[0])),
    "ReLU6": lambda layer: nn.ReLU6(),
    "Hardtanh": lambda layer: nn.Hardtanh(layer.min_val, layer.max_val),
    "Hardsigmoid": lambda layer: Hardsigmoid(),
    "Hardswish": lambda layer: nn.Hardswish(),
    "LogSoftmax": lambda layer: nn.LogSoftmax(1),
    "LocalResponseNorm": lambda layer: nn.LocalResponseNorm(layer.size, layer.alpha, layer.beta, layer.k),
    "Sequential": _sequential,
    "Residual": lambda layer: Residual(_sequential(layer.body), _sequential(layer.shortcut)),
    "Concat": lambda layer: Concat(map(_sequential, layer.branches)),
    "Graph": Graph,
}


def _module(layer):
    name = type(layer).__name__
    if name not in _MAKE:
        raise SystemExit(f"{layer.label}: PyTorch has no such layer here; known are {', '.join(_MAKE)}")
    return _MAKE[name](layer)


def make_module(network):
    """Return the PyTorch module of a built network, with a copy of its weights and statistics."""
    module = _sequential(network.body)
    dtype = torch.from_numpy(network.data[:1]).dtype
    module.to(dtype)
    with torch.no_grad():
        for theirs, ours in zip(module.parameters(), network.parameters(), strict=True):
            theirs.copy_(torch.from_numpy(ours.data))
        norms = (layer for _, layer in network.walk() if type(layer).__name__.startswith("BatchNorm"))
        theirs = (m for m in module.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d))
        for norm, layer in zip(theirs, norms, strict=True):
            norm.running_mean.copy_(torch.from_numpy(layer.running_mean))
            norm.running_var.copy_(torch.from_numpy(layer.running_var))
    return module


def make_loss(loss):
    """Return a SoftmaxCrossEntropy as a function of (logits, targets); targets are indices or rows."""
    weight = loss.class_weight

    def function(logits, targets):
        weights = None if weight is None else torch.from_numpy(weight).to(logits.dtype)
        if targets.is_floating_point():
            targets = targets.to(logits.dtype)
        return F.cross_entropy(logits, targets, weights, label_smoothing=loss.label_smoothing)

    return function


class Muon(torch.optim.Optimizer):
    """Muon for weights of four axes, Nesterov's or plain momentum for the rest, as in airbench94_muon.

    ``torch.optim.Muon`` takes matrices alone and computes in bfloat16.
    """

    def __init__(
        self, groups, lr, momentum=0.95, nesterov=True, weight_decay=0.0, ns_steps=5, normalize=False
    ):
        options = {"lr": lr, "momentum": momentum, "nesterov": nesterov, "weight_decay": weight_decay}
        super().__init__(groups, options | {"ns_steps": ns_steps, "normalize": normalize})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._step(p, group)

    def _step(self, p, group):
        lr, momentum, decay, filters = group["lr"], group["momentum"], group["weight_decay"], p.ndim == 4
        g = p.grad if filters else p.grad + decay * p
        velocity = self.state[p].setdefault("velocity", torch.zeros_like(p))
        velocity.mul_(momentum).add_(g)
        step = g + momentum * velocity if group["nesterov"] else velocity
        if filters:
            rows, columns = len(p), p[0].numel()
            if lr:
                p.mul_(rows**0.5 / p.norm() if group["normalize"] else 1 - lr * decay)
            step = orthogonal(step.reshape(rows, columns), group["ns_steps"]).reshape(p.shape)
            lr = lr * max(1.0, rows / columns) ** 0.5
        p.sub_(lr * step)


def orthogonal(matrix, steps):
    """Newton and Schulz's iteration with Jordan's coefficients, on the wide side."""
    x = matrix / matrix.norm().clamp(min=1e-7)
    x = x.T if len(x) > len(x.T) else x
    for _ in range(steps):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x if x.shape == matrix.shape else x.T


class TwinOptimizer:
    """PyTorch's optimizer of the same kind and options, one group for each parameter.

    Before a step it takes each parameter's rate and decay from the optimizer of cnn.
    """

    def __init__(self, optimizer, parameters):
        self.ours, self.parameters = optimizer, list(parameters)
        names = {
            "SGD": ("momentum", "nesterov"),
            "Adam": ("betas", "eps"),
            "AdamW": ("betas", "eps"),
            "RMSprop": ("alpha", "eps", "momentum"),
            "Muon": ("momentum", "nesterov", "ns_steps", "normalize"),
        }
        kind = type(optimizer).__name__
        options = {name: getattr(optimizer, name) for name in names[kind]}
        self.decoupled = kind == "SGD" and optimizer.decoupled
        groups = [{"params": [p]} for p in self.parameters]
        made = Muon if kind == "Muon" else getattr(torch.optim, kind)
        self.theirs = made(groups, lr=optimizer.lr, **options)

    def step(self, lr):
        """Clip, and take a step with the learning rate ``lr`` of the schedule."""
        if self.ours.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.parameters, self.ours.clip_norm)
        ours = zip(self.ours.parameters, self.ours._decay, self.theirs.param_groups, strict=True)
        for parameter, decay, group in ours:
            group["lr"], group["weight_decay"] = lr * parameter.lr_scale, float(decay)
            if self.decoupled and group["params"][0].requires_grad:
                with torch.no_grad():
                    group["params"][0].mul_(1 - group["lr"] * float(decay))
                group["weight_decay"] = 0.0
        self.theirs.step()

    def freeze(self):
        """Train the parameters that cnn trains now; return whether that is a change."""
        wanted = [parameter.trainable for parameter in self.ours.parameters]
        changed = wanted != [theirs.requires_grad for theirs in self.parameters]
        for theirs, trainable in zip(self.parameters, wanted, strict=True):
            theirs.requires_grad_(trainable)
        return changed


class TwinAverage:
    """The same average of the weights, over the parameters and running statistics of a module.

    ``ours`` is cnn's average at its start; only its kind and its numbers are read.
    """

    def __init__(self, ours, module):
        self.ours, self.kind = ours, type(ours).__name__
        if self.kind not in ("Average", "Lookahead", "EMA"):
            raise SystemExit(f"PyTorch has no average called {self.kind} here")
        self.fast = {k: v for k, v in module.state_dict().items() if v.is_floating_point()}  # live
        self.slow = {name: tensor.clone() for name, tensor in self.fast.items()}

    def step(self, number):
        """Take note of step ``number`` (from 1)."""
        ours = self.ours
        if self.kind == "EMA":
            self._mix(ours.decay if number > 1 else 0.0)
        if self.kind == "Lookahead":
            if number % ours.every == 0:
                self._mix(ours.decay * min(1.0, number / ours.total_steps) ** ours.ramp)
                self._copy(self.fast, self.slow)
            if number == ours.total_steps:
                self._copy(self.fast, self.slow)

    def _mix(self, decay):
        for name, slow in self.slow.items():
            slow.lerp_(self.fast[name], 1 - decay)

    def _copy(self, target, source):
        for name, tensor in target.items():
            tensor.copy_(source[name])

    @contextmanager
    def applied(self):
        """While this holds, the module has the weights that are judged."""
        if self.kind != "EMA":
            yield
            return
        kept = {name: tensor.clone() for name, tensor in self.fast.items()}
        self._copy(self.fast, self.slow)
        yield
        self._copy(self.fast, kept)


class Twin:
    """A network, its loss, its optimizer and its average in PyTorch, made from those of cnn.

    Parameters
    ----------
    network, loss, optimizer, average
        The objects of cnn at the start of training; they stay as they are.
    compile, channels_last : bool
        What PyTorch is to run: through torch.compile, and in which memory layout.
    """

    def __init__(self, network, loss, optimizer, average, compile=False, channels_last=False):
        self.layout = torch.channels_last if channels_last else torch.contiguous_format
        self.module = make_module(network).to(memory_format=self.layout)
        self.network = torch.compile(self.module, dynamic=False) if compile else self.module
        self.loss = make_loss(loss)
        self.optimizer = TwinOptimizer(optimizer, self.module.parameters())
        self.optimizer.freeze()
        self.average = TwinAverage(average, self.module)

    def step(self, x, targets, lr):
        """Take one step of training; return (loss before it, logits)."""
        self.module.train()
        x, targets = torch.from_numpy(x).to(memory_format=self.layout), torch.from_numpy(targets)
        logits = self.network(x)
        loss = self.loss(logits, targets)
        self.optimizer.theirs.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step(lr)
        return loss.item(), logits.detach().numpy()

    def predict(self, x, batch_size=256):
        """Return the logits in evaluation mode, a NumPy array, as ``cnn.Network.predict`` does."""
        self.module.eval()
        with torch.inference_mode():
            parts = [
                self.module(torch.from_numpy(x[i : i + batch_size]).to(memory_format=self.layout)).numpy()
                for i in range(0, len(x), batch_size)
            ]
        return np.concatenate(parts)

    def rehearse(self, batches):
        """Take a step with each batch (x, targets), so that what compiles is compiled; change nothing."""
        module = copy.deepcopy(self.module.state_dict())
        optimizer = copy.deepcopy(self.optimizer.theirs.state_dict())
        for x, targets in batches:
            self.step(x, targets, 0.0)
        self.module.load_state_dict(module)
        self.optimizer.theirs.load_state_dict(optimizer)
