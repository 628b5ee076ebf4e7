"""A data set and a network so small that a whole run takes a second; helpers for the command line."""

from pathlib import Path

import numpy as np
from PIL import Image

from cnn.backend import get_threads, set_threads
from cnn.cli import main

CONFIG = """
name = "tiny"
seed = 3

[data]
dataset = "folder"
root = "ROOT"
batch_size = 16
validation = 0.2
augment = [{ type = "RandomTranslate", pixels = 1 }, { type = "RandomHorizontalFlip", p = 0.2 }]

[model]
layers = [
  { type = "Conv2d", out_channels = 4, kernel_size = 3, padding = 1 },
  { type = "BatchNorm2d" },
  { type = "ReLU" },
  { type = "MaxPool2d", kernel_size = 2 },
  { type = "Flatten" },
  { type = "Dropout", p = 0.1 },
  { type = "Linear", out_features = 3 },
]

[loss]
label_smoothing = 0.05

[optimizer]
type = "SGD"
lr = 0.1
momentum = 0.9
weight_decay = 1e-4

[schedule]
type = "cosine"
warmup_epochs = 0.5

[train]
epochs = 3
backend = "reference"
"""


def write_images(root, train=40, test=10):
    """Write three classes of grey 8x8 PNG files: a bright corner, a bright row, a bright column."""
    rng = np.random.default_rng(0)
    areas = {"corner": np.s_[:4, :4], "row": np.s_[5:7, :], "column": np.s_[:, 5:7]}
    for part, count in {"train": train, "test": test}.items():
        for name, area in areas.items():
            folder = root / part / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 60, (8, 8))
                pixels[area] += rng.integers(120, 190)
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i:02}.png")
    return root


def write_config(path, root):
    """Write CONFIG for the images in ``root``."""
    path.write_text(CONFIG.replace("ROOT", Path(root).as_posix()))
    return path


def run(capsys, *argv):
    """Run a command line; return (exit code, stdout, stderr)."""
    capsys.readouterr()
    threads = get_threads()
    code = main([str(a) for a in argv])
    set_threads(threads)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def files(folder):
    """Return {name: bytes} of every file below a folder."""
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }
