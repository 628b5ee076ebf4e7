"""What campaigns work on: tiny pictures, a config, a finished run, MNIST's files, an ONNX file."""

import os
from pathlib import Path

import data_files
import numpy as np
import tiny
from PIL import Image

from faults.trial import child

CONFIG = "tiny.toml"
IMAGE = "images/test/row/00.png"

#: What runs differ in, for what is saved and taken up again.
RECIPES = {
    "SGD": [],
    "AdamW, reflect": [
        "optimizer={type='AdamW', lr=0.01}",
        "data.augment=[{type='RandomTranslate', pixels=2, mode='reflect'}]",
    ],
    "Muon, lookahead": [
        "optimizer={type='Muon', lr=0.02, momentum=0.9}",
        "average={type='lookahead', every=2}",
    ],
    "RMSprop, EMA, mixup": [
        "optimizer={type='RMSprop', lr=0.003}",
        "average={type='ema', decay=0.9}",
        "data.mixup=0.4",
    ],
    "SGD, groups, drop_last": [
        "optimizer.groups=[{match='0.weight', until_epoch=2}]",
        "data.drop_last=true",
        "data.batch_size=5",
    ],
}


def settings(*values):
    """Return ``--set`` and each value."""
    return [part for value in values for part in ("--set", value)]


def write(train=8, test=4):
    """Write pictures and CONFIG into the working folder."""
    tiny.write_images(Path("images"), train, test)
    tiny.write_config(Path(CONFIG), "images")


def trained(name="run", *values, epochs=2):
    """Train CONFIG to its end in ``name``, in a child."""
    sets = settings(f"train.epochs={epochs}", *values)
    child("train", CONFIG, "--run", name, *sets).wait(300).checked({0})
    return Path(name)


def mnist(root="data"):
    """Write MNIST's four files, small ones."""
    return data_files.write_mnist(Path(root))


def caches():
    """Return the data caches and what lies beside them."""
    folders = [*Path(".").glob("*/cnn-cache"), Path(os.environ["XDG_CACHE_HOME"])]
    return [path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()]


def forget():
    """Remove all data caches."""
    for path in caches():
        path.unlink()


def pictures(rng, folder):
    """Write a picture of every format and mode that is read; return their paths."""
    folder = Path(folder)
    folder.mkdir(exist_ok=True)
    pixels = np.frombuffer(rng.randbytes(20 * 15 * 3), np.uint8).reshape(20, 15, 3)
    colour, grey = Image.fromarray(pixels), Image.fromarray(pixels[:, :, 0])
    deep = Image.fromarray(pixels[:, :, 0].astype(np.uint16) * 257)
    exif = Image.Exif()
    exif[0x112], exif[0x110], exif[0x9286] = 6, "camera", b"ASCII\0\0\0text"
    saved = {
        "a.png": (colour, {}),
        "grey.png": (grey, {"exif": exif}),
        "deep.png": (deep, {}),
        "palette.png": (colour.quantize(16), {"transparency": 1}),
        "a.jpg": (colour, {"exif": exif}),
        "cmyk.jpg": (colour.convert("CMYK"), {}),
        "a.gif": (grey, {}),
        "a.bmp": (colour, {}),
        "a.webp": (colour, {"exif": exif}),
        "a.ppm": (colour, {}),
        "a.pgm": (grey, {}),
        "a.tif": (colour, {"exif": exif}),
        "deflate.tif": (grey, {"compression": "tiff_deflate"}),
        "lzw.tif": (colour, {"compression": "tiff_lzw"}),
        "jpeg.tif": (colour, {"compression": "jpeg"}),
        "deep.tif": (deep, {"exif": exif}),
        "lab.tif": (Image.new("LAB", (15, 20)), {}),
    }
    for name, (image, options) in saved.items():
        image.save(folder / name, **options)
    return [folder / name for name in saved]
