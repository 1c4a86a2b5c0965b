"""Finds the ink of a digit in a picture: what differs from the paper around it, in strokes.

Drawings are on paper of one colour, and all else is ink. On photographs a page lies on something, light falls
unevenly, pens are thin and paper has a grain: there, ink is what a grey closing removes.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Float = NDArray[np.float32]
Mask = NDArray[np.bool_]

ICON = 64  # pixels: pictures no larger show a digit and not a page with one
COARSE = 4  # a page is looked for at a quarter of the size
STEP = 30  # grey levels that its edge differs from what it lies on
EVEN = 2  # grey levels: a border that differs no more from its median is paper in even light
CONTRAST = 10  # grey levels that ink differs from paper, at the least
NOISE = 5  # standard deviations of the paper's noise that it does
DEVIATION = 1.4826  # of normal deviates, their standard deviation for a median of absolute values of 1
# fractions of the picture
BROADEST = 1 / 8, 1 / 3  # what is broader than a pen, or a marker, is shadow
SMALLEST = 0.03  # what is smaller is a speck
# fractions of the digit
SOLID = 0.45  # what is broader is no stroke
SPECK = 0.1  # what is smaller is no part of it
NEAR = 0.2  # nor what is further away
MARGIN = 0.25  # paper that is looked at around it


class Digit(NamedTuple):
    """What may be a digit: how prominent it is in its picture, and how much ink (h, w) it has, from 0 to 1."""

    prominence: float
    ink: Float


def find(pixels: Float) -> Float | None:
    """Finds a digit.

    Args:
        pixels: Grey levels (H, W, channels) from 0 to 255.

    Returns:
        How much ink there is at each pixel of the digit's bounding box, (h, w) from 0 to 1, or None without a digit.
    """
    page = _page(pixels)
    digits = list(_on_even_paper(pixels)) if page is None else []
    digits = digits or list(_on_uneven_paper(pixels if page is None else continued(pixels, page)))
    return max(digits, key=lambda digit: digit.prominence).ink if digits else None


def _page(pixels: Float) -> Mask | None:
    """The inside of a page that lies on something darker or brighter, or None."""
    if max(pixels.shape) <= ICON:
        return None
    grey = ndimage.median_filter(pixels.mean(2)[::COARSE, ::COARSE], 5)
    bright = grey > _otsu(grey)
    for half in (bright, ~bright):
        labels, _ = ndimage.label(half)
        largest = labels == 1 + np.bincount(labels[half] - 1, minlength=1).argmax()
        page: Mask = ndimage.binary_fill_holes(largest)
        inside, near = ndimage.binary_erosion(page, iterations=3), ndimage.binary_dilation(page, iterations=3)
        if page.mean() < 0.1 or border(page).mean() > 0.25 or not inside.any() or _are_strokes(largest):
            continue
        if abs(np.median(grey[page & ~inside]) - np.median(grey[near & ~page])) > STEP:
            page = inside.repeat(COARSE, 0).repeat(COARSE, 1)
            return page[: pixels.shape[0], : pixels.shape[1]]
    return None


def _otsu(grey: Float) -> float:
    """The level that splits grey levels into two sets with the least variance within them (Otsu 1979)."""
    levels = np.sort(grey, axis=None)
    below = np.arange(1, levels.size)
    above, sums = below[::-1], levels.cumsum(dtype=np.float64)
    between = below * above * (sums[:-1] / below - (sums[-1] - sums[:-1]) / above) ** 2
    return float(levels[between.argmax()])


def border(pixels: NDArray[Any]) -> NDArray[Any]:
    """The outermost pixels (N, ...) of a picture (H, W, ...)."""
    return np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])


def _on_even_paper(pixels: Float) -> Iterator[Digit]:
    """What differs from the colour of the picture's border, if that has one."""
    edge = border(pixels)
    paper = np.median(edge, axis=0)
    if (abs(edge - paper).max(1) <= EVEN).mean() > 0.5:
        contrast = abs(pixels - paper)
        yield from _digits(contrast.max(2), contrast, (CONTRAST,))


def _on_uneven_paper(pixels: Float) -> Iterator[Digit]:
    """What is darker, and what is brighter, than the paper around it, and not cut off by the picture's border.

    A grey closing (dark ink) or opening (bright ink) broader than any stroke leaves the paper alone.
    """
    pixels = ndimage.gaussian_filter(pixels, (1, 1, 0))
    for share in BROADEST:
        broadest = max(3, round(share * max(pixels.shape)))
        for sign, without_ink in ((-1, ndimage.grey_closing), (1, ndimage.grey_opening)):
            paper = without_ink(pixels, (broadest, broadest, 1))
            light = 64 + paper  # in the shade, ink and noise differ less
            contrast = (sign * (pixels - paper) * (np.median(light) / light)).max(2)
            contrast -= np.median(contrast)
            faintest = max(CONTRAST, NOISE * DEVIATION * float(np.median(abs(contrast))))
            yield from _digits(contrast, sign * pixels, (faintest, 2 * faintest, 4 * faintest), whole=True)


def _digits(contrast: Float, pixels: Float, thresholds: Sequence[float], whole: bool = False) -> Iterator[Digit]:
    """What may be a digit at each threshold, from a pencil's to a marker's.

    Args:
        contrast: How far each pixel (H, W) differs from paper, in the direction of ink.
        pixels: Grey levels (H, W, channels), of which ink has the larger.
        thresholds: Contrast of ink, at the least.
        whole: Whether what the picture's border cuts off is none.
    """
    for threshold in thresholds:
        strokes = _strokes(contrast > threshold, whole)
        if strokes.any() and _stand_out(strokes, contrast, pixels):
            near = ndimage.binary_dilation(strokes, iterations=2) & (contrast > thresholds[0] / 2)
            ink = np.where(near, contrast / np.percentile(contrast[strokes], 95), 0).clip(0, 1)
            prominence = contrast[strokes].sum() / width(strokes) ** 2  # long, strong and thin
            yield Digit(float(prominence), ink[box(near)])


def _strokes(mask: Mask, whole: bool) -> Mask:
    """The longest of the regions, and those that are near it and no specks."""
    labels, count = ndimage.label(mask, np.ones((3, 3)))
    boxes = np.array([[(side.start, side.stop) for side in box] for box in ndimage.find_objects(labels)], int)
    starts, stops = boxes.reshape(count, 2, 2).transpose(2, 0, 1)
    length = (stops - starts).max(1)
    cut = (starts == 0).any(1) | (stops == mask.shape).any(1)
    usable = (length >= max(4, SMALLEST * max(mask.shape))) & ~(whole & cut)
    if not usable.any():
        return np.zeros_like(mask)
    main = int((length * usable).argmax())
    if not _are_strokes(labels == main + 1):
        return np.zeros_like(mask)
    gap = NEAR * length[main]
    near = ((starts < stops[main] + gap) & (stops > starts[main] - gap)).all(1)
    kept = near & (length >= SPECK * length[main]) & (cut[main] | ~cut)
    strokes: Mask = np.isin(labels, 1 + np.flatnonzero(kept))
    return strokes


def _are_strokes(mask: Mask) -> bool:
    """Whether a mask is narrow for its length."""
    return bool(width(mask) <= SOLID * max(mask[box(mask)].shape))


def _stand_out(strokes: Mask, contrast: Float, pixels: Float) -> bool:
    """Whether strokes differ from what is around all of them; paper that they enclose does not."""
    rows, columns = box(strokes)
    margin = max(3, int(MARGIN * max(rows.stop - rows.start, columns.stop - columns.start)))
    top, left = max(0, rows.start - margin), max(0, columns.start - margin)
    around = border(pixels[top : rows.stop + margin, left : columns.stop + margin])
    difference = np.median(pixels[strokes], axis=0) - np.median(around, axis=0)
    return bool(difference.max() > 0.5 * np.median(contrast[strokes]))


def box(mask: Mask) -> tuple[slice, slice]:
    """The rows and columns that a mask reaches over."""
    (rows, columns), *_ = ndimage.find_objects(mask.astype(np.uint8))
    return rows, columns


def width(strokes: Mask) -> float:
    """How broad strokes are, in pixels: four times the mean distance of theirs from their edge."""
    distances = ndimage.distance_transform_edt(np.pad(strokes, 1))
    return float(4 * distances.sum() / max(1, strokes.sum())) - 1


def continued(pixels: Float, known: Mask) -> Float:
    """Gives every other pixel the colour of the nearest that is known."""
    rows, columns = ndimage.distance_transform_edt(~known, return_distances=False, return_indices=True)
    continued: Float = pixels[rows, columns]
    return continued
