"""Finds the ink of a digit in a picture: what differs from the paper around it, in strokes.

Drawings are on paper of one colour, and all else is ink. On photographs a page lies on something, light falls
unevenly, pens are thin and paper has a grain: there, ink is what a grey closing removes.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from mnist_lightning.handwriting.forms import page_in, without_rules
from mnist_lightning.handwriting.regions import (
    SOLID,
    Float,
    Ints,
    Mask,
    Regions,
    border,
    box,
    breadth,
    continued,
    in_reading_order,
    put_together,
    regions,
    solidity,
)

EVEN = 2  # grey levels: a border that differs no more from its median is paper in even light
CONTRAST = 10  # grey levels that ink differs from paper, at the least
NOISE = 5  # standard deviations of the paper's noise that it does
DEVIATION = 1.4826  # of normal deviates, their standard deviation for a median of absolute values of 1
# fractions of the picture
BROADEST = 1 / 8, 1 / 3  # what is broader than a pen, or a marker, is shadow
SMALLEST = 0.03  # what is smaller is a speck
# fractions of the digit
BLOT = 0.65  # what is broader is no digit, even among others
LIKE = 0.6  # of the digits around it that one has of their size, at the least
OTHERS = 0.1  # of the prominence of all digits but one; the edges of a page can look like several
FAINT = 0.25  # of the most prominent digit's prominence: what has less is none
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
    page = page_in(pixels)
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


def _on_even_paper(pixels: Float) -> Iterator[list[Digit]]:
    """What differs from the colour of the picture's border, if that has one."""
    if (contrast := _against_border(pixels)) is not None:
        yield from _digits(contrast.max(2), contrast, (CONTRAST,), np.zeros(contrast.shape[:2], bool))


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
    ruled = {sign: np.zeros(pixels.shape[:2], bool) for sign in (-1, 1)}
    for share in BROADEST:
        broadest = max(3, round(share * max(pixels.shape)))
        for sign, without_ink in ((-1, ndimage.grey_closing), (1, ndimage.grey_opening)):
            paper = without_ink(pixels, (broadest, broadest, 1))
            light = 64 + paper  # in the shade, ink and noise differ less
            contrast = (sign * (pixels - paper) * (np.median(light) / light)).max(2)
            contrast -= np.median(contrast)
            faintest = max(CONTRAST, NOISE * DEVIATION * float(np.median(abs(contrast))))
            thresholds = faintest, 2 * faintest, 4 * faintest
            yield from _digits(contrast, sign * pixels, thresholds, ruled[sign], whole=True)


def _digits(
    contrast: Float, pixels: Float, thresholds: Sequence[float], ruled: Mask, whole: bool = False
) -> Iterator[list[Digit]]:
    """What may be digits at each threshold, from a pencil's to a marker's.

    Args:
        contrast: How far each pixel (H, W) differs from paper, in the direction of ink.
        pixels: Grey levels (H, W, channels), of which ink has the larger.
        thresholds: Contrast of ink, at the least.
        ruled: As :func:`without_rules` has it.
        whole: Whether what the picture's border cuts off is none.
    """
    for threshold in thresholds:
        found = regions(without_rules(contrast > threshold, ruled))
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
    if (broad := solidity(strokes)) > BLOT or not _stand_out(strokes, contrast, pixels, 2 * faintest):
        return None
    near = ndimage.binary_dilation(strokes, iterations=2) & (contrast > faintest) & (strokes | (labels == 0))
    ink = np.where(near, contrast / np.percentile(contrast[strokes], 95), 0).clip(0, 1)
    rows, columns = box(near)
    several = max(1, (columns.stop - columns.start) / (rows.stop - rows.start))  # digits that touch
    prominence = contrast[strokes].sum() / breadth(strokes) ** 2 / several  # long, strong and thin
    return Digit(float(prominence), broad, ink[rows, columns], top + rows.start, left + columns.start)


def _stand_out(strokes: Mask, contrast: Float, pixels: Float, faintest: float) -> bool:
    """Whether strokes differ from the paper around all of them; paper that they enclose does not."""
    around = border(pixels)
    paper = border(contrast) < faintest  # and no box, nor another digit
    difference = np.median(pixels[strokes], axis=0) - np.median(around[paper] if paper.any() else around, axis=0)
    return bool(difference.max() > 0.5 * np.median(contrast[strokes]))
