"""The commands of ``cnn``, one module each.

A module has a docstring (the help), ``add_arguments(parser)`` and ``run(args)``, which returns an exit
code or None. A new command is such a module and a line here.
"""

import importlib

COMMANDS = {
    "train": "train a network from a config; writes a run folder",
    "sweep": "train with several seeds and settings, and tabulate the results",
    "compare": "runs side by side: results, and what their configs do not share",
    "evaluate": "loss, accuracy and a per-class table of a trained network",
    "predict": "class probabilities for image files",
    "explain": "one HTML page with every number of one image, and the sum that made it",
    "export": "write a trained network as ONNX, for PyTorch, for a model hub, or as one C file",
    "summary": "layers, shapes, parameters, multiply-adds and memory of a config",
    "doctor": "examine a config before training: data, initial loss, learning rate, gradients",
    "lr-find": "the loss over a growing learning rate, and the rate that it suggests",
    "gradcheck": "compare every gradient of a config with numerical ones",
    "exercise": "exercises that mark themselves, from softmax to a residual block",
    "break": "a classic bug, planted in a copy of cnn: find out which",
    "data": "fetch and verify a data set ahead of time",
    "new": "look at a folder of photos and write a config for it",
    "config": "write a config that comes with cnn into a file, to change it",
    "completion": "print a script that completes commands and options in a shell",
}


def module_of(name):
    """Return the module of a command, imported: that of "lr-find" is ``lr_find``."""
    return importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
