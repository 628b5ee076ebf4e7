"""Fine-tuning: a network that begins with the weights of another one, what of it learns, and how fast.

What has the same name and shape is taken over; the head, the last layer with parameters, and whatever else is
new is drawn as ever. The layer that ends a network for other classes is replaced by one of as many outputs as
there are classes. Images are normalised by the mean and the deviation that the weights are used to.

    start.freeze        what was taken over, but for the head, is not trained, and its normalisations keep
                        their running statistics; from start.thaw_epoch on it learns like the rest
    start.layer_decay   the layer d layers before the head has the rate lr * layer_decay^d

References
----------
Yosinski, Clune, Bengio, Lipson, "How transferable are features in deep neural networks?", arXiv:1411.1792.
Howard, Ruder, "Universal Language Model Fine-tuning for Text Classification", arXiv:1801.06146 (rates by
layer, thawing).
"""

import copy
import dataclasses
import math

import numpy as np

from cnn.config import resolve
from cnn.errors import CheckpointError, ConfigError
from cnn.layers import BatchNorm1d, BatchNorm2d
from cnn.network import Network
from cnn.training import checkpoint


class Start:
    """What a training begins with.

    Attributes
    ----------
    mean, std : one number a channel, or None where the file does not know them
    state : {name: array}
    taken : names of what the network took over, in their order
    line : what the log says about it
    """

    def __init__(self, settings, run=None):
        self.settings, self.line, self.state, self.mean, self.std = settings, "", None, None, None
        self._saved = None
        if run is not None and run.has_state():  # the run goes on: the file need not be there any more
            with checkpoint.opened(run.last) as file:
                self._saved = file.description
            self.mean, self.std = (np.array(self._saved[key]) for key in ("mean", "std"))
        else:
            self.network, meta = read(settings.weights)
            self.state = self.network.state()
            if meta is not None:
                self.mean, self.std = (np.array(meta[key]) for key in ("mean", "std"))

    def normalized(self, images):
        """Return Images with the mean and deviation that the weights are used to, if they are known."""
        if self.mean is None or len(self.mean) != len(images.mean):
            return images
        return dataclasses.replace(images, mean=self.mean, std=self.std)

    def apply(self, network):
        """Copy what fits into a built network; ConfigError where nothing does."""
        own = network.state()
        if self.state is None:
            self.taken = list(self._saved.get("taken") or [])
        else:
            known = self.state
            self.taken = [k for k, a in own.items() if k in known and known[k].shape == a.shape]
            if not self.taken:
                raise ConfigError(
                    f"start.weights: {self.settings.weights}: nothing in it has the name and shape of a "
                    "parameter of model.layers; leave [model] out to take its layers over too"
                )
            for name in self.taken:
                own[name][...] = known[name]
            new = [name for name in own if name not in set(self.taken)]
            fresh = f"; new: {', '.join(new[:6])}{' ...' if len(new) > 6 else ''}" if new else ""
            self.line = f"{len(self.taken)} of {len(own)} arrays from {self.settings.weights}{fresh}"
            self.network = self.state = None  # another copy of the weights
        layers = [(name, layer) for name, layer in network.walk() if not layer.children()]
        learning = [name for name, layer in layers if layer.parameters()]
        head = learning[-1] if learning else ""
        taken = {name.rpartition(".")[0] for name in self.taken}
        self._trunk = {name for name, _ in layers if name in taken and name != head}
        self._depth = {name: len(learning) - 1 - k for k, name in enumerate(learning)}
        kinds = BatchNorm1d | BatchNorm2d
        self._norms = [layer for name, layer in layers if name in self._trunk and isinstance(layer, kinds)]
        self.at(0.0)

    def groups(self, network):
        """Return what this asks of the parameters, as groups of the optimizer."""
        settings, groups = self.settings, []
        thaw = math.inf if settings.thaw_epoch is None else settings.thaw_epoch
        for name, _ in network.named_parameters():
            place = name.rpartition(".")[0]
            group = {"match": name, "lr_scale": settings.layer_decay ** self._depth[place]}
            if settings.freeze and place in self._trunk:
                group |= {"trainable": False} if thaw == math.inf else {"from_epoch": thaw}
            groups.append(group)
        return groups

    def at(self, epoch):
        """Freeze the statistics of the trunk's normalisations, or thaw them; ``epoch`` as for Groups."""
        thaw = math.inf if self.settings.thaw_epoch is None else self.settings.thaw_epoch
        frozen = self.settings.freeze and epoch < thaw
        for layer in self._norms:
            if layer.frozen != frozen:  # setting it makes the engine plan again
                layer.frozen = frozen


def read(weights):
    """Return (network, meta or None) of a run folder, checkpoint, file of Network.save or ONNX file."""
    if str(weights).endswith(".onnx"):
        return Network.from_onnx(weights), None
    try:
        return checkpoint.load_network(weights)
    except CheckpointError as error:
        raise CheckpointError(f"start.weights: {error}") from error


def with_head(config, classes):
    """Return the config, the layer that ends it having one output a class: a ``Linear``, of masks a
    ``Conv2d``."""
    kind, key = ("Conv2d", "out_channels") if config.data.targets == "masks" else ("Linear", "out_features")
    last = config.model.layers[-1]
    if last.get("type") != kind or last.get(key) == classes:
        return config
    document = copy.deepcopy(config.plain())
    document["model"]["layers"][-1][key] = classes
    return resolve(document, config.source)


def document_of(weights):
    """Return the config of a run as a plain dict, without one its layers alone: what CONFIG leaves out."""
    network, meta = read(weights)
    if meta is not None and meta["config"]:
        return meta["config"]
    return {"model": {"layers": [layer.spec() for layer in network.layers]}}
