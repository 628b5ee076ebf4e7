"""What a wrong gradient looks like: guesses at the mistake from ratios and from displaced copies."""

import numpy as np


def explain(gradient, indices, numeric, sizes):
    """Return a sentence about the likely mistake, or an empty string.

    Parameters
    ----------
    gradient : array
        The whole gradient that backward gave.
    indices : (k,) int array
        Flat positions at which the truth was measured.
    numeric : (k,) array
        The truth there.
    sizes : dict
        Number -> what it counts, for example {3: "N = 3 images"}: the factors that may be missing.
    """
    gradient, numeric = np.asarray(gradient), np.asarray(numeric)
    analytic = gradient.reshape(-1)[indices]
    if not np.isfinite(analytic).all():
        return "NaN or Inf"
    telling = np.abs(numeric) > 1e-3 * np.abs(numeric).max(initial=0)
    if not telling.any():
        return "the true gradient is zero here" if np.any(analytic) else ""
    if not gradient.any():
        return "zero: this gradient is never written"
    ratios = analytic[telling] / numeric[telling]
    ratio = float(np.median(ratios))
    if np.abs(ratios - ratio).max() <= 1e-4 * abs(ratio):
        return _name_ratio(ratio, sizes)
    if telling.sum() >= 4:
        for text, candidate in _displaced(gradient):
            near = np.abs(candidate.reshape(-1)[indices] - numeric) <= 1e-4 * np.abs(numeric).max()
            # what a shift pushed over the border is lost
            if near[telling].mean() >= 0.5:
                return text
    wrong = np.abs(analytic - numeric) > 1e-5 * np.abs(numeric).max()
    missing = wrong & (analytic == 0)
    if wrong.sum() == missing.sum():
        return f"zero where it should not be, at {missing.sum()} of {len(numeric)} sampled entries"
    share = f"wrong at {wrong.sum()} of {len(numeric)} sampled entries"
    return f"{share}, by no constant factor: a term is missing or wrong"


def _name_ratio(ratio, sizes):
    """Return a sentence about analytic = numeric * ratio."""
    sign = "sign flipped" if ratio < 0 else ""
    size = abs(ratio)
    if abs(size - 1) <= 1e-4 and sign:
        return "sign flipped: analytic = -numeric"
    start = f"{sign} and " if sign else ""
    for number, what in sizes.items():
        if number > 1 and abs(size - number) <= 1e-4 * number:
            return f"{start}analytic = numeric × {number}: the 1/N is missing ({what})"
        if number > 1 and abs(size * number - 1) <= 1e-4:
            return f"{start}analytic = numeric / {number}: divided by N once too often ({what})"
    if abs(size - 2) <= 2e-4:
        return f"{start}factor 2: counted twice, or a 1/2 is missing"
    if abs(size - 0.5) <= 5e-5:
        return f"{start}factor 1/2: halved, or counted once instead of twice"
    return f"{start}analytic = numeric × {size:.6g} everywhere: a constant factor is wrong"


def _displaced(gradient):
    """Yield (sentence, array): copies of ``gradient`` as typical mistakes would have moved it."""
    shape = gradient.shape
    if gradient.ndim >= 2:
        if shape[0] == shape[1]:
            swapped = np.swapaxes(gradient, 0, 1)
            yield "transposed: agrees after the first two axes are swapped", swapped
        flat = gradient.reshape(shape[0], -1)
        turned = np.ascontiguousarray(flat).reshape(flat.shape[::-1]).T
        yield "transposed: the memory holds the transpose", turned
    if gradient.ndim == 4:
        if shape[2] == shape[3]:
            yield "transposed: agrees after height and width are swapped", np.swapaxes(gradient, 2, 3)
        yield "flipped: agrees after a rotation by 180 degrees", gradient[:, :, ::-1, ::-1]
        yield "flipped: agrees after rows are reversed", gradient[:, :, ::-1]
        yield "flipped: agrees after columns are reversed", gradient[:, :, :, ::-1]
        for axes, what in (((2, 3), "row and column"), ((2,), "row"), ((3,), "column")):
            for step in (1, -1):
                moved = np.roll(gradient, [step] * len(axes), axes)
                yield f"shifted by one {what}: padding or an offset is off by one", moved
    if gradient.ndim >= 2:
        for axis, what in ((0, "first"), (1, "second")):
            yield f"reversed along the {what} axis", np.flip(gradient, axis)
            yield f"shifted by one along the {what} axis", np.roll(gradient, 1, axis)
            yield f"shifted by one along the {what} axis", np.roll(gradient, -1, axis)
