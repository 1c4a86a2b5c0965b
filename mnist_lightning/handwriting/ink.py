"""Finds the ink of a digit in a picture: what differs from the paper around it, in strokes.

Drawings are on paper of one colour, and all else is ink. On photographs a page lies on something, light falls
unevenly, pens are thin and paper has a grain: there, ink is what a grey closing removes.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mnist_lightning.handwriting.regions import Ints, Regions, in_reading_order, put_together, regions, without_rules

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
BLOT = 0.65  # what is broader is no digit, even among others
LIKE = 0.6  # of the digits around it that one has of their size, at the least
OTHERS = 0.1  # of the prominence of all digits but one; the edges of a page can look like several
FAINT = 0.25  # of the most prominent digit's prominence: what has less is none
SPECK = 0.1  # what is smaller is no part of it
NEAR = 0.2  # nor what is further away
MARGIN = 0.25  # paper that is looked at around it


class Digit(NamedTuple):
    """What may be a digit.

    Attributes:
        prominence: How much it stands out in its picture.
        solidity: How broad its strokes are for its length.
        ink: How much there is (h, w), from 0 to 1.
        top: The row in the picture where ``ink`` begins.
        left: The column.
    """

    prominence: float
    solidity: float
    ink: Float
    top: int
    left: int

    @property
    def middle(self) -> tuple[int, int]:
        """Its row and column in the picture."""
        return self.top + self.ink.shape[0] // 2, self.left + self.ink.shape[1] // 2

    def overlaps(self, other: "Digit") -> bool:
        apart = np.abs(np.subtract(self.middle, other.middle))
        return bool((2 * apart < np.add(self.ink.shape, other.ink.shape)).all())


def find(pixels: Float) -> list[Digit]:
    """Finds digits.

    Args:
        pixels: Grey levels (H, W, channels) from 0 to 255.

    Returns:
        All of them, line by line and from left to right.
    """
    page = _page(pixels)
    found = list(_on_even_paper(pixels)) if page is None else []
    found = found or list(_on_uneven_paper(pixels if page is None else continued(pixels, page)))
    if page is not None:  # and not what continues it
        found = [on for digits in found if (on := [digit for digit in digits if page[digit.middle]])]
    best = max(found, key=_prominence, default=[])
    return _completed(best, found) if len(best) > 1 else best


def _prominence(digits: list[Digit]) -> float:
    """How much digits stand out: the most prominent one, and a bit for each of the others."""
    each = [digit.prominence for digit in digits]
    return max(each) + OTHERS * (sum(each) - max(each))


def _completed(best: list[Digit], found: Sequence[list[Digit]]) -> list[Digit]:
    """Adds what only another threshold shows of digits as large as the best one's: a pen may be faint in places."""
    digits, usual = list(best), np.median([digit.ink.shape[0] for digit in best])
    faintest = FAINT * np.median([digit.prominence for digit in best])
    for digit in itertools.chain.from_iterable(found):
        alike = LIKE <= digit.ink.shape[0] / usual <= 1 / LIKE and digit.prominence >= faintest
        if alike and not any(digit.overlaps(other) for other in digits):
            digits.append(digit)
    if len(digits) == len(best):
        return best
    starts = np.array([(digit.top, digit.left) for digit in digits])
    return [digits[index] for index in in_reading_order(starts, starts + [digit.ink.shape for digit in digits])]


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
        if page.mean() < 0.1 or border(page).mean() > 0.25 or not inside.any() or _solidity(largest) <= SOLID:
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


def _on_even_paper(pixels: Float) -> Iterator[list[Digit]]:
    """What differs from the colour of the picture's border, if that has one."""
    if (contrast := _against_border(pixels)) is not None:
        yield from _digits(contrast.max(2), contrast, (CONTRAST,))


def _against_border(pixels: Float) -> Float | None:
    """How far each pixel's channels are from the colour of the picture's border; None if that has none of its own."""
    edge = border(pixels)
    paper = np.median(edge, axis=0)
    return abs(pixels - paper) if (abs(edge - paper).max(1) <= EVEN).mean() > 0.5 else None


def drawn(pixels: Float) -> tuple[int, int]:
    """The height and width of all that is on even paper; 0, 0 if nothing is, or the paper is not even."""
    contrast = _against_border(pixels)
    if contrast is None or not (mask := contrast.max(2) > CONTRAST).any():
        return 0, 0
    height, width = mask[box(mask)].shape
    return height, width


def _on_uneven_paper(pixels: Float) -> Iterator[list[Digit]]:
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


def _digits(contrast: Float, pixels: Float, thresholds: Sequence[float], whole: bool = False) -> Iterator[list[Digit]]:
    """What may be digits at each threshold, from a pencil's to a marker's.

    Args:
        contrast: How far each pixel (H, W) differs from paper, in the direction of ink.
        pixels: Grey levels (H, W, channels), of which ink has the larger.
        thresholds: Contrast of ink, at the least.
        whole: Whether what the picture's border cuts off is none.
    """
    for threshold in thresholds:
        found = regions(without_rules(contrast > threshold))
        length, cut = found.sides.max(1), (found.starts == 0).any(1) | (found.stops == contrast.shape).any(1)
        usable = (length >= max(4, SMALLEST * max(contrast.shape))) & ~(whole & cut)
        across = ((found.starts == 0) & (found.stops == contrast.shape)).any(1)
        usable &= ~across | (usable <= across).all()  # from edge to edge is a margin, but beside nothing else a digit
        groups = (group[cut[group[0]] | ~cut[group]] for group in put_together(found, usable))
        each = (_digit(found, group, contrast, pixels, thresholds[0] / 2) for group in groups)
        digits = [digit for digit in each if digit]
        if digits and np.median([digit.solidity for digit in digits]) <= SOLID:
            faintest = FAINT * max(digit.prominence for digit in digits)
            yield [digit for digit in digits if digit.prominence >= faintest]


def _digit(found: Regions, group: Ints, contrast: Float, pixels: Float, faintest: float) -> Digit | None:
    """The digit that regions make up, if they are strokes and stand out."""
    start, stop = found.starts[group].min(0), found.stops[group].max(0)
    margin = max(3, int(MARGIN * max(stop - start)))
    top, left = np.maximum(start - margin, 0).tolist()
    around = np.s_[top : stop[0] + margin, left : stop[1] + margin]
    labels, contrast, pixels = found.labels[around], contrast[around], pixels[around]
    strokes = np.isin(labels, 1 + group)
    if (solidity := _solidity(strokes)) > BLOT or not _stand_out(strokes, contrast, pixels, 2 * faintest):
        return None
    near = ndimage.binary_dilation(strokes, iterations=2) & (contrast > faintest) & (strokes | (labels == 0))
    ink = np.where(near, contrast / np.percentile(contrast[strokes], 95), 0).clip(0, 1)
    prominence = contrast[strokes].sum() / width(strokes) ** 2  # long, strong and thin
    rows, columns = box(near)
    return Digit(float(prominence), solidity, ink[rows, columns], top + rows.start, left + columns.start)


def _solidity(mask: Mask) -> float:
    """How broad a mask's strokes are for its length."""
    mask = mask[box(mask)]
    return float(width(mask) / max(mask.shape))


def _stand_out(strokes: Mask, contrast: Float, pixels: Float, faintest: float) -> bool:
    """Whether strokes differ from the paper around all of them; paper that they enclose does not."""
    around = border(pixels)
    paper = border(contrast) < faintest  # and no box, nor another digit
    difference = np.median(pixels[strokes], axis=0) - np.median(around[paper] if paper.any() else around, axis=0)
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
