"""Images beside which lie masks: pictures of the same size whose pixels are numbers of classes.

    root/images/a.jpg            root/masks/a.png                 one folder; the test is drawn from it
    root/train/images/a.jpg      root/train/masks/a.png           with parts, also val/ and test/
    root/images/train/a.jpg      root/masks/train/a.png           likewise

A mask is a grey or palette image. Its value k is class k, and 255 a pixel that does not count; but where the
masks have 0 and 255 alone, 255 is class 1. A file ``classes.txt`` in the root may name the classes, a line
each.
"""

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from cnn.data.image_file import open_image, upright_size
from cnn.data.listing import PARTS, Listing, images_below
from cnn.errors import ConfigError, DataError
from cnn.files import user_path, write_atomically
from cnn.targets import IGNORED
from cnn.terminal import printable_name

IMAGES = ("images", "image", "imgs", "img", "JPEGImages")
MASKS = ("masks", "mask", "annotations", "labels", "SegmentationClass")
_TYPES = (".png", ".bmp", ".tif", ".tiff", ".gif", ".pgm")
_ENDINGS = ("", "_mask", "_gt", "_label")
NAMES_FILE = "classes.txt"


def with_masks(root):
    """Return the Listing of such a folder; its labels are the paths of the masks, and it has no classes yet.

    Raises DataError where there are no such folders, and for an image without a mask.
    """
    listing = Listing(root)
    for part, images, masks in _folders(root):
        files = images_below(images, listing.passed_over)
        if not files:
            raise DataError(f"{images}: expected images, found none")
        listing.add(part, files, [_mask_of(Path(file), images, masks) for file in files])
    if "train" not in listing.files:
        raise DataError(f"{root}: expected images of the part train, found {', '.join(listing.files)}")
    return listing


def looks_like_masks(root):
    """Whether a folder, or its part for training, holds images and masks, and no folder more."""
    for folder in (root, *(root / name for name in PARTS["train"])):
        if folder.is_dir() and _pair(folder, "") is not None:
            inside = {entry.name for entry in folder.iterdir() if entry.is_dir() and entry.name[0] != "."}
            return len(inside) == 2
    return False


def _folders(root):
    """Return [(part, folder of images, folder of masks)]."""
    found = []
    for part, names in PARTS.items():
        for name in names:
            pairs = (_pair(root / name, ""), _pair(root, name))
            pair = next((pair for pair in pairs if pair is not None), None)
            if pair is not None:
                found.append((part, *pair))
                break
    if not found and (pair := _pair(root, "")) is not None:
        found = [("train", *pair)]
    if not found:
        raise DataError(
            f'{root}: expected the folders images/ and masks/, which data.targets = "masks" needs, found none'
        )
    return found


def _pair(folder, inside):
    """Return (folder of images, folder of masks), None where either is missing."""
    pair = [
        next((folder / name / inside for name in names if (folder / name / inside).is_dir()), None)
        for names in (IMAGES, MASKS)
    ]
    return None if None in pair else pair


def _mask_of(file, images, masks):
    stem = masks / file.relative_to(images).with_suffix("")
    for ending in _ENDINGS:
        for suffix in _TYPES:
            mask = stem.with_name(f"{stem.name}{ending}{suffix}")
            if mask.is_file():
                return str(mask)
    raise DataError(f"{file}: expected a mask {printable_name(str(stem))}.png for it, found none")


def read_masks(pairs, shape, resized, fit):
    """Return the masks (N, H, W) uint8 of ``pairs`` (file of the image, file of the mask).

    Parameters
    ----------
    shape : (H, W) of the images as they were read
    resized : bool
        Whether they were brought to that size; masks then are likewise, each pixel the nearest one.
    fit : "stretch", "crop" or "pad"
        What is added by "pad" does not count.

    Raises DataError naming the mask: in colour, of another size than its image, of values above 255.
    """
    masks = np.empty((len(pairs), *shape), np.uint8)
    for place, (file, mask) in enumerate(pairs):
        values = _values(mask)
        size = upright_size(file)
        if values.shape[::-1] != size:
            raise DataError(
                f"{mask}: expected {size[1]}x{size[0]} pixels, the size of {file}, "
                f"found {values.shape[0]}x{values.shape[1]}"
            )
        if resized and values.shape != shape:
            values = np.asarray(_FIT[fit](Image.fromarray(values), shape[::-1]))
        masks[place] = values
    return masks


def classes_of(masks, root, names=None):
    """Return (names of the classes, masks), 255 made 1 where there are only 0 and 255."""
    present = np.flatnonzero(np.bincount(masks.ravel(), minlength=256))
    if present.tolist() in ([0, IGNORED], [IGNORED]):
        masks, present = (masks > 0).astype(np.uint8), np.array([0, 1])
    names = names or _names(root / NAMES_FILE)
    if names is None:
        names = [str(k) for k in range(1 + int(present[present != IGNORED].max(initial=0)))]
    if len(names) < 2:
        raise DataError(f"{root}: expected masks of at least two classes, found {len(names)}")
    return names, masks


class MaskFolder:
    """A folder for masks that are told, as palette images of the size that the photo has.

    Where the network sees another part of the photo, by ``fit`` or by a crop, they have the size of that.
    """

    def __init__(self, path, image_shape, fit="stretch"):
        self.path, self._written = user_path(path), set()
        self._whole = tuple(image_shape[1:]) if fit == "stretch" else None
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"--masks {path}: cannot be written: {error.strerror or error}") from error

    def write(self, image, mask):
        """Write the mask (H, W) of an image file, called as it is; a second a.jpg is called a-2.png."""
        stem, number = Path(image).stem, 2
        while stem in self._written:
            stem, number = f"{Path(image).stem}-{number}", number + 1
        self._written.add(stem)
        picture = Image.fromarray(mask)
        if mask.shape == self._whole:
            picture = picture.resize(upright_size(image), _NEAREST)
        picture.putpalette(PALETTE.tobytes())
        buffer = io.BytesIO()
        picture.save(buffer, format="PNG", optimize=True)
        write_atomically(self.path / f"{stem}.png", buffer.getvalue())


def _names(path):
    try:
        return [line.strip() for line in path.read_text("utf-8-sig").splitlines() if line.strip()] or None
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: expected a name of a class in each line ({error})") from error


def _values(path):
    image = open_image(path)
    values = np.asarray(image)
    if values.ndim == 3 and image.mode == "RGB" and (values == values[..., :1]).all():
        values = values[..., 0]  # grey, stored as colour
    if values.ndim != 2 or image.mode == "F":
        raise DataError(
            f"{path}: expected a mask whose pixels are numbers of classes (grey or palette), "
            f"found {image.mode}"
        )
    if values.size and values.max() > 255:
        raise DataError(f"{path}: expected values up to 255, found {values.max()}")
    return values.astype(np.uint8)


def _palette():
    """Colours of 256 classes: light grey, then hues that lie far apart; the last one, IGNORED, is black."""
    hues = np.arange(256) * 0.61803  # the golden section never comes near where it was
    rgb = 0.5 + 0.5 * np.cos(2 * np.pi * (hues[:, None] + np.array([0, 1 / 3, 2 / 3])))
    colours = np.rint(40 + 200 * rgb).astype(np.uint8)
    colours[0], colours[IGNORED] = 232, 0
    return colours


PALETTE = _palette()
_NEAREST = Image.Resampling.NEAREST
_FIT = {
    "stretch": lambda image, size: image.resize(size, _NEAREST),
    "crop": lambda image, size: ImageOps.fit(image, size, _NEAREST),
    "pad": lambda image, size: ImageOps.pad(image, size, _NEAREST, color=IGNORED),
}
