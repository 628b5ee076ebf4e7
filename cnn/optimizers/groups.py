"""Parameter groups: which parameters of a network learn, how fast, with what decay, and when.

    groups = Groups(network, [{"match": "BatchNorm2d.bias", "lr_scale": 64, "weight_decay": 2e-5},
                              {"match": "0.*", "until_epoch": 3}])
    optimizer = SGD(network.parameters(), lr=0.1)      # after the groups: it reads what they set
    groups.at(step / steps_per_epoch)                  # before each step: who learns now

A group names parameters by a glob on "0.weight", "3.body.1.bias" (as in ``network.state()``) or on
"BatchNorm2d.bias" (the type of the layer), large and small letters alike. All groups that match a parameter
apply, key by key; the later one wins.

Freezing is a function of the epoch alone, so a resumed run needs no state for it.

References
----------
Brock, Lim, Ritchie, Weston, "FreezeOut: Accelerate Training by Progressively Freezing Layers",
arXiv:1706.04983.
"""

import math
from fnmatch import fnmatchcase

from cnn.errors import ConfigError, did_you_mean

_KEYS = ("match", "lr_scale", "weight_decay", "trainable", "from_epoch", "until_epoch")
_SHOWN = 200  # characters of names in an error


class Groups:
    """What a list of groups asks of a network's parameters.

    Parameters
    ----------
    network : Network
        Built.
    groups : list of dict
        ``match`` (str) and any of: ``lr_scale`` multiplies the learning rate; ``weight_decay`` stands in for
        the optimizer's, also where that would leave a bias alone; ``trainable`` (bool); ``from_epoch`` and
        ``until_epoch`` (float, in epochs from the start): trained while from_epoch <= epoch < until_epoch.
    first : list of dict
        Groups that go before, from elsewhere: ``groups`` win over them key by key.

    Raises
    ------
    ConfigError
        For a group that matches nothing, an unknown key, a parameter whose time ends before it begins, and
        when no parameter is ever trained.
    """

    def __init__(self, network, groups, first=()):
        names = _names(network)
        wanted = {id(p): {} for p, _ in names}
        for group in first:
            for p, known in names:
                if group["match"] in known:
                    wanted[id(p)].update(group)
        for i, group in enumerate(groups):
            for key in group:
                if key not in _KEYS:
                    raise ConfigError(f"optimizer.groups[{i}].{key}: unknown key.{did_you_mean(key, _KEYS)}")
            chosen = [p for p, known in names if any(_matches(name, group["match"]) for name in known)]
            if not chosen:
                raise ConfigError(f"optimizer.groups[{i}].match: {_nothing(group['match'], names)}")
            for p in chosen:
                wanted[id(p)].update(group)
        self._times = []
        for p, (name, _) in names:
            asked = wanted[id(p)]
            begin, end = asked.get("from_epoch", 0.0), asked.get("until_epoch", math.inf)
            if not begin < end:
                raise ConfigError(
                    f"optimizer.groups: {name} would be trained from epoch {begin:g} until epoch {end:g}, "
                    "expected until_epoch above from_epoch"
                )
            if not asked.get("trainable", True):
                begin = math.inf
            p.lr_scale, p.weight_decay = asked.get("lr_scale", 1.0), asked.get("weight_decay")
            self._times.append((p, begin, end))
        if self._times and all(begin == math.inf for _, begin, _ in self._times):
            raise ConfigError("optimizer.groups: every parameter is frozen, so there is nothing to train")
        self.at(0.0)

    def at(self, epoch):
        """Set ``trainable`` of every parameter for a moment in epochs: 2.5 is half-way through the third."""
        for p, begin, end in self._times:
            p.trainable = begin <= epoch < end


def _names(network):
    """Return [(parameter, ("0.weight", "Conv2d.weight")), ...] in the order of the layers."""
    return [
        (p, (f"{place}.{p.name}", f"{type(layer).__name__}.{p.name}"))
        for place, layer in network.walk()
        if not layer.children()
        for p in layer.parameters()
    ]


def _matches(name, pattern):
    return fnmatchcase(name.lower(), pattern.lower())


def _nothing(pattern, names):
    """Say that a pattern matches no parameter, and what there is."""
    kinds = dict.fromkeys(kind for _, (_, kind) in names)
    places = [place for _, (place, _) in names]
    known = ", ".join([*kinds, *places])
    if len(known) > _SHOWN:
        known = known[:_SHOWN].rpartition(",")[0] + f" ... {places[-1]}"
    hint = did_you_mean(pattern, [*kinds, *places])
    return f'found "{pattern}", which matches no parameter.{hint} There are {known}'
