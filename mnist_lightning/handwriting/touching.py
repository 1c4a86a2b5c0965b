"""Digits that touch each other -> each of them, by the cuts that leave what a net is surest of.

Ink that is wide may be several digits. It is cut where little of it is in the way, upright or aslant; of all ways to
take pieces in a row the one is chosen whose answers are the most probable together. One digit is better than two that
are as sure, and no digit is as wide as two.
"""

from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mnist_lightning.handwriting.ink import Digit
from mnist_lightning.handwriting.regions import Float, Mask, box

SLOPES = (-0.4, -0.2, 0.0, 0.2, 0.4)  # of a cut: columns to the side for each row
WIDER, SEVERAL = 1.7, 5  # times as wide as usual are two, where there are enough to know what is usual
# fractions of the ink's height
WIDE = 0.75  # what is narrower is one digit
WIDEST = 0.9  # what is wider is hardly one: see TOO_WIDE
NARROWEST = 0.08  # nor is what is narrower
THICK = 0.5  # of ink in the way of a cut, at most
TOO_WIDE = 2.0  # by how much the logarithm of a probability falls for each height that a piece is wider
CUT = 0.7  # by how much it has to rise for a cut
MOST = 10  # cuts that are tried
PIECE = 0.15  # of a piece's ink: what is less, and apart, is the neighbour's

SureOfDigits = Callable[[Sequence[Digit]], NDArray[np.float32]]  # how probable a net finds its answers to digits


def parted(digits: Sequence[Digit], sure: SureOfDigits) -> list[Digit]:
    """Parts what is as wide as several digits, where a net is surer of these.

    Args:
        digits: In reading order.
        sure: How probable the net finds its answers.
    """
    widths = [digit.ink.shape[1] for digit in digits]
    usual = float(np.median(widths)) if len(widths) >= SEVERAL else 0.0
    parts: list[Digit] = []
    for digit, width in zip(digits, widths, strict=True):
        is_wide = width > max(WIDE * digit.ink.shape[0], WIDER * usual)
        parts += _parts(digit, sure) if is_wide else [digit]
    return parts


def _parts(digit: Digit, sure: SureOfDigits) -> list[Digit]:
    """The pieces whose answers are the most probable together; all of it, where nothing is surer."""
    height, width = digit.ink.shape
    lines = [np.zeros(height), *_cuts(digit.ink), np.full(height, width)]
    found = {}
    for start, stop in combinations(range(len(lines)), 2):
        if (start, stop) == (0, len(lines) - 1):
            found[start, stop] = digit
        elif piece := _between(digit, lines[start], lines[stop]):
            found[start, stop] = piece
    probable = sure(list(found.values()))
    answers = np.log(np.maximum(probable / probable.max(), 1e-6))  # with smoothed labels no answer is 1
    best: dict[int, tuple[float, list[Digit]]] = {0: (0.0, [])}
    for (start, stop), answer in sorted(zip(found, answers.tolist(), strict=True), key=lambda each: each[0][1]):
        if start in best:
            piece = found[start, stop]
            score = best[start][0] + answer - CUT - TOO_WIDE * max(0, piece.ink.shape[1] / height - WIDEST)
            if stop not in best or score > best[stop][0]:
                best[stop] = score, [*best[start][1], piece]
    return best[len(lines) - 1][1]


def _cuts(ink: Float) -> list[NDArray[np.float64]]:
    """The column (H,) of each row where a cut goes, for each of the places with the least ink in the way."""
    height, width = ink.shape
    aslant = [slope * (np.arange(height) - height / 2) for slope in SLOPES]
    rows, columns = np.arange(height)[:, None], np.arange(width)
    way = [ink[rows, (columns + shift[:, None]).round().astype(int).clip(0, width - 1)].sum(0) for shift in aslant]
    least, slopes = np.min(way, axis=0), np.argmin(way, axis=0)
    apart = max(3, round(NARROWEST * height))
    lowest = (least == ndimage.minimum_filter1d(least, apart)) & (least <= THICK * height)
    lowest[:apart] = lowest[-apart:] = False
    chosen = sorted(np.flatnonzero(lowest).tolist(), key=lambda column: least[column])[:MOST]
    return [column + aslant[slopes[column]] for column in sorted(chosen)]


def _between(digit: Digit, left: NDArray[np.float64], right: NDArray[np.float64]) -> Digit | None:
    """What of a digit's ink is between two cuts, without specks of what is beside; None where that is no digit."""
    height, width = digit.ink.shape
    columns = np.arange(width)
    inside = (columns >= left[:, None].round()) & (columns < right[:, None].round())
    labels, count = ndimage.label((digit.ink > 0) & inside, np.ones((3, 3)))
    amounts = ndimage.sum_labels(digit.ink, labels, np.arange(1, count + 1))
    kept: Mask = np.isin(labels, 1 + np.flatnonzero(amounts >= PIECE * amounts.sum()))
    if not kept.any():
        return None
    rows, columns_of_it = box(kept)
    ink = np.where(kept, digit.ink, 0)[rows, columns_of_it]
    if max(ink.shape) < height / 2:
        return None
    share = float(ink.sum() / digit.ink.sum())
    return Digit(
        digit.prominence * share, digit.solidity, ink, digit.top + rows.start, digit.left + columns_of_it.start
    )
