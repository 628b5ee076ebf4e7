"""Pixels: a batch of uint8 images with the numbers that they stand for."""

import numpy as np

_FLOATS = (np.float32, np.float64)


class Pixels:
    """A batch of uint8 images with the numbers that they stand for.

        x[n, c, i, j] = table[c, images[n, c, i, j]]

    A network takes it as it takes the array of these numbers, four times its size, which then need not be
    written and read again. ``shape``, ``ndim`` and ``dtype`` are that array's, ``np.asarray`` makes it, and a
    slice of the first axis is the Pixels of some of the images.

    Parameters
    ----------
    images : (N, C, H, W) uint8
    table : (C, 256) float32 or float64

    Raises ValueError for other shapes and dtypes: kernels read by them.
    """

    __slots__ = ("images", "table")

    def __init__(self, images: np.ndarray, table: np.ndarray) -> None:
        if images.dtype != np.uint8 or images.ndim != 4:
            raise ValueError(f"expected uint8 images (N, C, H, W), found {images.dtype} {images.shape}")
        if table.dtype not in _FLOATS or table.shape != (images.shape[1], 256):
            found = f"{table.dtype} {table.shape}"
            raise ValueError(f"expected a table of floats ({images.shape[1]}, 256), found {found}")
        self.images, self.table = np.ascontiguousarray(images), np.ascontiguousarray(table)

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, C, H, W)."""
        return self.images.shape

    @property
    def ndim(self) -> int:
        """4."""
        return self.images.ndim

    @property
    def dtype(self) -> np.dtype:
        """float32 or float64."""
        return self.table.dtype

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, part: slice) -> "Pixels":
        return Pixels(self.images[part], self.table)

    def __array__(self, dtype: np.typing.DTypeLike | None = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("Pixels are not the numbers that they stand for; an array of these needs a copy")
        plain = self.table[np.arange(self.shape[1])[:, None, None], self.images]
        return plain if dtype is None else plain.astype(dtype, copy=False)
