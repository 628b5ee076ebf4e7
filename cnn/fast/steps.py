"""Which steps a network is lowered to: one planner for training and prediction.

``plan(layers, context)`` returns the layers in their order as steps, except where neighbours are better done
in one pass over memory. A step computes what its layers compute one after the other and keeps less: what lies
between its layers is never stored.

    convolution, normalisation   two steps; the moments of each channel are taken when the sums are stored
    convolution, ReLU            ReLU when the sums are stored; only the result is kept
    linear, ReLU                 likewise
    convolution, ReLU, max pool  max(0, largest of the window); only the winners are kept
    normalisation, activation    its input is kept, the activation's input computed again
    ... and convolution          Winograd's form computes it while it reads: then it is stored nowhere
    ... ReLU and max pool        only the winners of 2x2 windows are stored
    residual, ReLU               body + shortcut and ReLU, with a normalisation that ends the body

In predictions nothing is kept, so that a normalisation moves into the weights in front of it, maxima of 2x2
windows are taken as soon as a convolution and ReLU are there, and dropout is left out. What a layer may be
fused as stands in its class (``pure``, ``role``; see ``cnn.layers.layer``).
"""

from cnn.fast import fusion, normalisation, pooling
from cnn.fast.step import Branches, Graph, InFloat32, Outside, Single, fact

_CONTAINERS = ("sum", "branches", "graph")
_BRANCHING = {"sum": Branches, "branches": Branches, "graph": Graph}
_POOLS = {"max_pool": pooling.MaxPool, "average_pool": pooling.AveragePool}
_NOTHING = "no step"


def plan(layers, context):
    """Return the steps that stand for ``layers`` (a list), longest runs first."""
    rest, steps = _flat(layers), []
    find = _training_step if context.folding is None else _prediction_step
    while rest:
        roles = [_role(layer) for layer in rest[:4]]
        make, count = find(roles, rest)
        if make is None:
            make = Single if _pure(rest[0]) else Outside
        taken, rest = rest[:count], rest[count:]
        paths = [path for _, path in taken[0].children()] if roles[0] in _CONTAINERS else []
        parts = [plan(path.layers, context) for path in paths]
        if make is not _NOTHING:
            step = make(taken, context, parts)
            if make is fusion.Convolution and roles[1:2] == ["normalisation"] and _pure(rest[0]):
                step.normalisation = rest[0]
            steps.append(step if context.exact.isdisjoint(map(id, taken)) else InFloat32(step))
    return steps


def _flat(layers):
    """Return the layers with those of a list inside a list in its place."""
    flat = []
    for layer in layers:
        flat += _flat(layer.layers) if fact(layer, "role") == "list" else [layer]
    return flat


def _pure(layer):
    return bool(fact(layer, "pure"))


def _role(layer):
    """What a layer may be fused as; "relu" for the activation of that name."""
    role = fact(layer, "role") or ""
    if role == "activation" and layer.pointwise()[0] == "relu":
        return "relu"
    return role


def _training_step(roles, layers):
    """Return (what makes the step, how many layers it takes), or (None, 1)."""
    if roles[0] == "sum" and roles[1:2] == ["relu"]:
        return fusion.SumReLU, 2
    if roles[0] in _BRANCHING:
        return _BRANCHING[roles[0]], 1
    if roles[0] == "normalisation" and _pure(layers[0]) and roles[1:2] in (["relu"], ["activation"]):
        if roles[1:3] == ["relu", "max_pool"] and normalisation.NormReLUPool.fits(layers):
            return normalisation.NormReLUPool, 3
        return normalisation.NormActivation, 2
    for kind in (fusion.ConvReLUPool, fusion.ConvReLU, fusion.LinearReLU, fusion.Convolution):
        count = len(kind.roles)
        if tuple(roles[:count]) == kind.roles and getattr(kind, "fits", bool)(layers):
            return kind, count
    return _POOLS.get(roles[0]) if _pure(layers[0]) else None, 1


def _prediction_step(roles, layers):
    """Return (what makes the step, how many layers it takes), or (None, 1)."""
    if roles[0] == "training_only":
        return _NOTHING, 1
    if roles[0] in ("convolution", "linear"):
        count = 2 if roles[1:2] == ["normalisation"] else 1
        count += any(fact(layer, "bounds") for layer in layers[count : count + 1])
        pooled = roles[0] == "convolution" and roles[count - 1 : count + 1] == ["relu", "max_pool"]
        if pooled and fusion.WeightedPool.fits(layers[: count + 1]):
            return fusion.WeightedPool, count + 1
        return fusion.Weighted, count
    if roles[0] == "normalisation":
        return fusion.Normalise, 1 + (roles[1:2] in (["relu"], ["activation"]))
    if roles[0] == "sum":
        return fusion.Add, 1 + (roles[1:2] == ["relu"])
    return _BRANCHING.get(roles[0]), 1
