"""A mask of ink -> the digits in it: strokes put together, in reading order.

Digits are told from each other by what is connected, so two that touch are one; a stroke that is not connected, such as
the bar of many a 5, goes to the digit that it stands over.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.sparse.csgraph import connected_components

Float = NDArray[np.float32]
Mask = NDArray[np.bool_]
Ints = NDArray[np.int64]

EIGHT = np.ones((3, 3))  # pixels that touch at a corner are connected, too
SOLID = 0.45  # times as broad as long: no stroke is
FLAT, TOGETHER = 2.2, 6  # times as wide as high: no digit is; nor several that touch
LONG = 1.5  # times as long as high: hardly any digit is, but several that touch
# fractions of the digits' usual size
SMALLEST, LARGEST = 0.4, 2.5  # no digit is smaller, or larger
STROKE = 0.55  # what is smaller may be a stroke of another
SPECK = 0.1  # what is smaller is no stroke
RULE = 0.9  # what is longer, and flat, is no stroke either
ONE, SEVERAL = 1.7, 5  # times as high as usual is no digit, where there are enough of them to know what is usual
ONE_LINE = 0.4  # of their height that digits of one line share
TOP = 0.5  # of a digit's height, where the bar of a 5 is above
TOUCHING, ABOVE, BESIDE = 0.12, 0.2, 0.08  # gaps between strokes of one digit


class Regions(NamedTuple):
    """The connected regions of a mask.

    Attributes:
        labels: The number (H, W) of each pixel's region, from 1; 0 for none.
        starts: The first row and column (N, 2) of each.
        stops: Those after the last.
    """

    labels: Ints
    starts: Ints
    stops: Ints

    @property
    def sides(self) -> Ints:
        """The height and width (N, 2) of each."""
        return self.stops - self.starts

    def of(self, numbers: Ints) -> "Regions":
        """Those of the given numbers, from 0."""
        return Regions(self.labels, self.starts[numbers], self.stops[numbers])


def regions(mask: Mask) -> Regions:
    """Finds the regions of a mask (H, W)."""
    labels, count = ndimage.label(mask, EIGHT)
    boxes = np.array([[(side.start, side.stop) for side in box] for box in ndimage.find_objects(labels)], int)
    starts, stops = boxes.reshape(count, 2, 2).transpose(2, 0, 1)
    return Regions(labels, starts, stops)


def border(pixels: NDArray[Any]) -> NDArray[Any]:
    """The outermost pixels (N, ...) of a picture (H, W, ...)."""
    return np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])


def box(mask: Mask) -> tuple[slice, slice]:
    """The rows and columns that a mask reaches over."""
    (rows, columns), *_ = ndimage.find_objects(mask.astype(np.uint8))
    return rows, columns


def breadth(strokes: Mask) -> float:
    """How broad strokes are, in pixels: four times the mean distance of theirs from their edge."""
    distances = ndimage.distance_transform_edt(np.pad(strokes, 1))
    return float(4 * distances.sum() / max(1, strokes.sum())) - 1


def continued(pixels: Float, known: Mask) -> Float:
    """Gives every other pixel the colour of the nearest that is known."""
    rows, columns = ndimage.distance_transform_edt(~known, return_distances=False, return_indices=True)
    continued: Float = pixels[rows, columns]
    return continued


def solidity(mask: Mask) -> float:
    """How broad a mask's strokes are for its length."""
    mask = mask[box(mask)]
    return float(breadth(mask) / max(mask.shape))


def size_of_digits(found: Regions, usable: Mask) -> float:
    """How long most digits are: the length that half of the ink's is in regions longer than."""
    sides = found.sides[usable & (found.sides[:, 1] <= TOGETHER * found.sides[:, 0])]
    lengths = np.sort(np.minimum(sides.max(1, initial=0), LONG * sides[:, 0]))
    return float(lengths[np.searchsorted(lengths.cumsum(), lengths.sum() / 2)]) if len(lengths) else 0.0


def put_together(found: Regions, usable: Mask) -> list[Ints]:
    """Puts regions together to digits.

    Args:
        found: The regions of a mask without rules.
        usable: Which of them (N,) may be a digit or most of one. The others may be strokes.

    Returns:
        The numbers of each digit's regions, from 0, line by line and from left to right.
    """
    size = size_of_digits(found, usable)
    height, width = found.sides[:, 0], found.sides[:, 1]
    length = found.sides.max(1)
    rules = (width > FLAT * height) & (width > RULE * size) & (height < STROKE * size)
    main = np.flatnonzero(usable & (height >= STROKE * size) & ~rules)
    strokes = np.flatnonzero((length >= SPECK * size) & (height < STROKE * size) & ~rules)
    if not len(main):
        return []
    _, numbers = connected_components(_pieces(found.of(main), size))
    groups = [main[numbers == number] for number in range(numbers.max() + 1)]
    for stroke, owner in zip(strokes, _owners(found.of(strokes), found.of(main)), strict=True):
        if owner >= 0:
            groups[numbers[owner]] = np.append(groups[numbers[owner]], stroke)
        elif usable[stroke]:
            groups.append(strokes[strokes == stroke])
    starts = np.array([found.starts[group].min(0) for group in groups])
    stops = np.array([found.stops[group].max(0) for group in groups])
    height, width = stops[:, 0] - starts[:, 0], stops[:, 1] - starts[:, 1]
    kept = (height >= SMALLEST * size) & (height <= LARGEST * size) & (width <= TOGETHER * height)
    return [groups[index] for index in in_reading_order(starts, stops) if kept[index]]


def _gaps(some: Regions, others: Regions) -> tuple[Ints, Ints]:
    """The paper between regions, down and across, each (N, M); where they overlap, by how much, below 0."""
    starts = np.maximum(some.starts[:, None], others.starts)
    stops = np.minimum(some.stops[:, None], others.stops)
    down, across = (starts - stops).transpose(2, 0, 1)
    return down, across


def _pieces(main: Regions, size: float) -> Mask:
    """Which large regions (N, N) are of one digit: one stands over the other, with next to nothing between."""
    down, across = _gaps(main, main)
    width, top, bottom = main.sides[:, 1], main.starts[:, 0], main.stops[:, 0]
    over = -across >= 0.5 * np.minimum(width[:, None], width)
    both = np.maximum(bottom[:, None], bottom) - np.minimum(top[:, None], top)
    one = (both <= ONE * size) | (len(width) < SEVERAL)
    return over & ((one & (down <= TOUCHING * size)) | ((down <= ABOVE * size) & (both <= 1.3 * size)))


def _owners(strokes: Regions, main: Regions) -> Ints:
    """Which large region each stroke belongs to: the nearest that it stands over, all but touches, or tops; or -1."""
    down, across = _gaps(strokes, main)
    length = main.sides.max(1)
    over = (-across >= 0.3 * strokes.sides[:, 1:]) & (down <= ABOVE * length)
    beside = (across <= BESIDE * length) & (down <= BESIDE * length)
    middle = strokes.starts[:, :1] + strokes.stops[:, :1]  # twice where it is
    tops = (across <= ABOVE * length) & (middle <= 2 * main.starts[:, 0] + TOP * length) & (down <= ABOVE * length)
    tops &= strokes.starts[:, 1:] > main.starts[:, 1]  # the bar of a 5
    gap = np.where(over | beside | tops, np.maximum(down, across), np.inf)
    owners: Ints = np.where(np.isfinite(gap.min(1)), gap.argmin(1), -1)
    return owners


def in_reading_order(starts: Ints, stops: Ints) -> list[int]:
    """Line by line; a digit is in the line of the last digit on its left that it stands beside."""
    lines: list[list[int]] = []
    height = stops[:, 0] - starts[:, 0]
    for index in starts[:, 1].argsort().tolist():
        last = [line[-1] for line in lines]
        beside = np.minimum(stops[last, 0], stops[index, 0]) - np.maximum(starts[last, 0], starts[index, 0])
        shared = beside / np.minimum(height[last], height[index])
        if shared.max(initial=0) > ONE_LINE:
            lines[shared.argmax()].append(index)
        else:
            lines.append([index])
    return [index for line in sorted(lines, key=lambda line: starts[line, 0].mean()) for index in line]
