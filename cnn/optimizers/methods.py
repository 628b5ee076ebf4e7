"""Optimizers: what turns gradients into new weights, with PyTorch's formulas and argument names.

One call of a kernel updates all parameters at once, because they lie in one flat buffer (but for Muon's
filters). The equations are in ``cnn/reference/update.py``; the kernels of both backends compute them.

Weight decay leaves biases and the scales and shifts of normalisation alone (``Parameter.decay`` is False for
them) unless ``decay_all``. SGD, Adam and RMSprop add it to the gradient; AdamW, SGD with ``decoupled``, and
Muon for filters shrink the weights themselves. ``lr_scale`` of a parameter multiplies its learning rate,
``weight_decay`` stands in for the optimizer's. A step changes neither the values nor the buffers of a
parameter whose ``trainable`` is False, as PyTorch's does where there is no gradient;
``cnn.optimizers.groups`` sets all three.

Clipping multiplies all gradients of a step by min(1, clip_norm / (norm + 1e-6)), where ``norm`` is the
Euclidean norm of all that are trainable together, as ``torch.nn.utils.clip_grad_norm_`` does. The norm is
added up in float64 in a fixed order; ``Parameter.grad`` keeps the gradient as it was before clipping.

References
----------
Sutskever, Martens, Dahl, Hinton, "On the importance of initialization and momentum in deep learning",
ICML 2013.
Kingma, Ba, "Adam: A Method for Stochastic Optimization", arXiv:1412.6980.
Loshchilov, Hutter, "Decoupled Weight Decay Regularization", arXiv:1711.05101.
Tieleman, Hinton, "Lecture 6.5: RMSprop", Coursera 2012.
Jordan et al., "Muon: An optimizer for hidden layers in neural networks",
kellerjordan.github.io/posts/muon, 2024.
"""

import math
from typing import Annotated

import numpy as np

from cnn.backend import operations
from cnn.errors import CheckpointError, ConfigError, did_you_mean
from cnn.layers.parameter import flatten
from cnn.registry import Count, Fraction, NotNegative, Rate, Registry, check, checked

#: Every optimizer that a config can name.
OPTIMIZERS = Registry("optimizer", supplied=("parameters",))


@OPTIMIZERS.base
class Optimizer:
    """What all optimizers share: the flat buffers, decay, learning rate, clipping and the saved state.

    Parameters
    ----------
    parameters : list of Parameter
        Usually ``network.parameters()``.
    lr : float
        Learning rate; set ``optimizer.lr`` between steps to follow a schedule.
    weight_decay : float
    decay_all : bool
        Also decays biases and normalisation parameters, as PyTorch does by default.
    clip_norm : float, optional
        Largest norm of the whole gradient.

    Raises
    ------
    ConfigError
        For a value out of range; it names the argument.
    """

    slots = ()  # names of the flat buffers that an optimizer carries from step to step
    bounded = (
        False  # a class says so of itself: ordinary numbers never overflow in its step (training.finite)
    )

    @checked
    def __init__(
        self,
        parameters,
        lr,
        weight_decay: NotNegative = 0.0,
        decay_all: bool = False,
        clip_norm: Rate | None = None,
    ):
        self.parameters = list(parameters)
        if not self.parameters:
            raise ConfigError("optimizer: there are no parameters to train")
        if len({id(p) for p in self.parameters}) < len(self.parameters):
            raise ConfigError("optimizer: a parameter is listed twice")
        self.lr = lr
        self.clip_norm = clip_norm
        self._decay = np.array([weight_decay if p.decay or decay_all else 0.0 for p in self.parameters])
        for i, p in enumerate(self.parameters):
            if p.weight_decay is not None:
                self._decay[i] = p.weight_decay
        self.largest_decay = float(self._decay.max())
        self._flat = flatten(self.parameters)
        self._edges = np.array([(p.start, p.stop) for p in self.parameters], np.int64)
        self._buffers = {name: np.zeros_like(self._flat.data) for name in self.slots}
        self._counts = np.zeros(len(self.parameters), np.int64)
        self._unused = np.empty(0, self._flat.data.dtype)

    @property
    def steps(self):
        """Steps taken by each parameter, (P,): fewer where it was not trainable for a while."""
        return self._counts

    @property
    def lr(self):
        """Learning rate of the next step."""
        return self._lr

    @lr.setter
    def lr(self, value):
        check("lr", value, NotNegative)
        self._lr = float(value)

    def step(self):
        """Update every parameter from its gradient.

        Returns the norm of the gradient before clipping when ``clip_norm`` is set, else None.
        """
        if any(p.buffer is not self._flat for p in self.parameters):
            raise RuntimeError("the parameters moved into another network after this optimizer was made")
        edges, decay, counts = self._edges, self._decay, self._counts
        rates = [self._lr * p.lr_scale for p in self.parameters]
        trainable = [p.trainable for p in self.parameters]
        if all(trainable):
            counts += 1
        else:
            edges, decay, rates = edges[trainable], decay[trainable], np.array(rates)[trainable]
            counts[trainable] += 1
            counts = counts[trainable]
        norm, grad_scale = None, 1.0
        if self.clip_norm is not None:
            norm = math.sqrt(operations().squared_norm(self._flat.grad, edges))
            # np.minimum, unlike min, hands a NaN on: a broken gradient must not pass for a small one
            grad_scale = float(np.minimum(1.0, self.clip_norm / (norm + 1e-6)))
        self._update(self._flat.data, self._flat.grad, edges, np.asarray(rates), decay, counts, grad_scale)
        return norm

    def _update(self, data, grad, edges, rates, decay, counts, grad_scale):
        raise NotImplementedError

    def state(self):
        """Return all that a later run needs to go on bit for bit: name -> array (the buffers are live)."""
        return {"steps": self._counts, "lr": np.array(self._lr), **self._buffers}

    def load_state(self, state):
        """Take over what ``state`` returned.

        Raises CheckpointError, and changes nothing, when a name is missing or unknown or a shape differs.
        """
        mine, where = self.state(), f"optimizer state of {type(self).__name__}"
        for name in state:
            if name not in mine:
                raise CheckpointError(f'{where}: unknown entry "{name}".{did_you_mean(name, mine)}')
        for name, array in mine.items():
            if name not in state:
                raise CheckpointError(f'{where}: entry "{name}" is missing')
            if np.shape(state[name]) != array.shape:
                raise CheckpointError(
                    f'{where}: entry "{name}" expected shape {array.shape}, found {np.shape(state[name])}'
                )
        self._counts[...], self.lr = state["steps"], float(state["lr"])
        for name, buffer in self._buffers.items():
            buffer[...] = state[name]


@OPTIMIZERS.register
class SGD(Optimizer):
    """Gradient descent with momentum, plain or Nesterov's (PyTorch's form: dampening 0, first velocity g).

        velocity = momentum * velocity + g;    data -= lr * velocity    or    lr * (g + momentum * velocity)

    ``decoupled`` keeps weight decay out of the velocity: data -= lr * weight_decay * data (SGDW).
    """

    slots = ("velocity",)
    bounded = True

    @checked
    def __init__(
        self,
        parameters,
        lr: Rate,
        momentum: Fraction = 0.0,
        *,
        nesterov: bool = False,
        weight_decay: NotNegative = 0.0,
        decay_all: Annotated[bool, "decay biases and norms as well"] = False,
        clip_norm: Annotated[Rate | None, "largest norm of the whole gradient"] = None,
        decoupled: Annotated[bool, "weight decay stays out of the velocity (SGDW)"] = False,
    ):
        self.decoupled = bool(decoupled)
        self.momentum = float(momentum)
        self.nesterov = bool(nesterov)
        if self.nesterov and not self.momentum:
            raise ConfigError("nesterov: expected a momentum above 0 with it, found momentum 0")
        if not self.momentum:
            self.slots = ()
        super().__init__(parameters, lr, weight_decay, decay_all, clip_norm)

    def _update(self, data, grad, edges, rates, decay, counts, grad_scale):
        velocity = self._buffers.get("velocity", self._unused)
        operations().sgd_update(
            data,
            grad,
            velocity,
            edges,
            rates,
            decay,
            self.momentum,
            self.nesterov,
            self.decoupled,
            grad_scale,
        )


@OPTIMIZERS.register
class Muon(SGD):
    """Momentum whose filters take steps of equal length in all directions; SGD for everything else.

    The gradient of a convolution's filters, written as a matrix (first axis, all others), has a few large
    singular values and many small ones: plain steps go where the gradient is large and hardly anywhere else.
    Muon gives all directions the same weight. For weights of four axes, with m = velocity or, Nesterov's,
    g + momentum * velocity, written as the matrix m = U diag(s) V^T of K rows:

        data *= 1 - lr * weight_decay                 or, normalize:  data *= sqrt(K) / |data|
        data -= lr * sqrt(max(1, K / columns)) * U V^T

    U V^T is approximated by ``ns_steps`` turns of a polynomial (``cnn.reference.orthogonalize``), as
    ``torch.optim.Muon`` does; filters of different groups share one matrix. All other parameters are updated
    as SGD does, decay included; they usually want another rate:
    ``groups = [{ match = "Conv2d.weight", lr_scale = 0.1 }]``.

    ``normalize`` is for networks whose filters all have a normalisation behind them, which makes their length
    meaningless; their weight decay then does nothing.
    """

    bounded = True

    @checked
    def __init__(
        self,
        parameters,
        lr: Rate,
        *,
        momentum: Fraction = 0.95,
        nesterov: bool = True,
        weight_decay: NotNegative = 0.0,
        decay_all: Annotated[bool, "decay biases and norms as well"] = False,
        clip_norm: Annotated[Rate | None, "largest norm of the whole gradient"] = None,
        ns_steps: Annotated[Count, "turns of the polynomial that orthogonalises"] = 5,
        normalize: Annotated[bool, "filters get the length sqrt(K) before each step"] = False,
    ):
        self.ns_steps, self.normalize = ns_steps, bool(normalize)
        options = {"weight_decay": weight_decay, "decay_all": decay_all, "clip_norm": clip_norm}
        super().__init__(parameters, lr, momentum, nesterov=nesterov, **options)

    def _update(self, data, grad, edges, rates, decay, counts, grad_scale):
        rows = [len(p.data) if p.data.ndim == 4 else 0 for p in self.parameters if p.trainable]
        others = np.array(rows) == 0
        if others.any():
            rest = edges[others], rates[others], decay[others], counts[others]
            super()._update(data, grad, *rest, grad_scale)
        for k, part, rate, shrink in zip(rows, edges, rates.tolist(), decay.tolist(), strict=True):
            if k:
                self._update_filters(k, slice(*part), data, grad, rate, shrink, grad_scale)

    def _update_filters(self, rows, part, data, grad, rate, decay, grad_scale):
        """Take the step of one weight, the ``part`` of the buffers that is a matrix of so many ``rows``."""
        weight, step = data[part], grad_scale * grad[part]
        if self.momentum:
            velocity = self._buffers["velocity"][part]
            velocity *= self.momentum
            velocity += step
            step = step + self.momentum * velocity if self.nesterov else velocity
        step = operations().orthogonalize(step.reshape(rows, -1), self.ns_steps)
        if not self.normalize:
            weight *= 1 - rate * decay
        elif rate:
            norm = math.sqrt(np.square(weight, dtype=np.float64).sum())
            weight *= math.sqrt(rows) / float(np.maximum(norm, 1e-12))  # np.maximum hands a NaN on
        weight -= rate * math.sqrt(max(1.0, rows / step.shape[1])) * step.ravel()


@OPTIMIZERS.register
class Adam(Optimizer):
    """Steps of the gradient's running mean over the root of its running square, both bias-corrected.

    data -= lr * mean_hat / (sqrt(square_hat) + eps)
    """

    slots = ("mean", "square")
    bounded = True
    decoupled = False  # weight decay joins the gradient

    @checked
    def __init__(
        self,
        parameters,
        lr: Rate = 1e-3,
        betas: tuple[Fraction, Fraction] = (0.9, 0.999),
        eps: Rate = 1e-8,
        *,
        weight_decay: NotNegative = 0.0,
        decay_all: Annotated[bool, "decay biases and norms as well"] = False,
        clip_norm: Annotated[Rate | None, "largest norm of the whole gradient"] = None,
    ):
        self.betas = tuple(map(float, betas))
        self.eps = float(eps)
        super().__init__(parameters, lr, weight_decay, decay_all, clip_norm)

    def _update(self, data, grad, edges, rates, decay, counts, grad_scale):
        operations().adam_update(
            data,
            grad,
            self._buffers["mean"],
            self._buffers["square"],
            edges,
            rates,
            decay,
            *self.betas,
            self.eps,
            counts,
            self.decoupled,
            grad_scale,
        )


@OPTIMIZERS.register
class AdamW(Adam):
    """Adam whose weight decay shrinks the weights by lr * weight_decay and stays out of the gradient."""

    bounded = True

    decoupled = True

    @checked
    def __init__(
        self,
        parameters,
        lr: Rate = 1e-3,
        betas: tuple[Fraction, Fraction] = (0.9, 0.999),
        eps: Rate = 1e-8,
        *,
        weight_decay: NotNegative = 1e-2,
        decay_all: Annotated[bool, "decay biases and norms as well"] = False,
        clip_norm: Annotated[Rate | None, "largest norm of the whole gradient"] = None,
    ):
        options = {"weight_decay": weight_decay, "decay_all": decay_all, "clip_norm": clip_norm}
        super().__init__(parameters, lr, betas, eps, **options)


@OPTIMIZERS.register
class RMSprop(Optimizer):
    """Steps of the gradient over the root of its running square (not centred), with optional momentum.

    square = alpha * square + (1 - alpha) * g²;    data -= lr * g / (sqrt(square) + eps)
    """

    slots = ("square", "velocity")
    bounded = True

    @checked
    def __init__(
        self,
        parameters,
        lr: Rate = 1e-2,
        alpha: Fraction = 0.99,
        eps: Rate = 1e-8,
        *,
        momentum: Fraction = 0.0,
        weight_decay: NotNegative = 0.0,
        decay_all: Annotated[bool, "decay biases and norms as well"] = False,
        clip_norm: Annotated[Rate | None, "largest norm of the whole gradient"] = None,
    ):
        self.alpha = float(alpha)
        self.eps = float(eps)
        self.momentum = float(momentum)
        if not self.momentum:
            self.slots = ("square",)
        super().__init__(parameters, lr, weight_decay, decay_all, clip_norm)

    def _update(self, data, grad, edges, rates, decay, counts, grad_scale):
        velocity = self._buffers.get("velocity", self._unused)
        operations().rmsprop_update(
            data,
            grad,
            self._buffers["square"],
            velocity,
            edges,
            rates,
            decay,
            self.alpha,
            self.eps,
            self.momentum,
            grad_scale,
        )


def make_optimizer(type, parameters, **options):
    """Return the optimizer called ``type``, one of ``OPTIMIZERS``, with its ``options``."""
    return OPTIMIZERS.make({"type": type, **options}, parameters=parameters)
