"""A mask of ink -> the digits in it: rules and boxes taken out, strokes put together, in reading order.

Digits are told from each other by what is connected, so two that touch are one; a stroke that is not connected, such as
the bar of many a 5, goes to the digit that it stands over.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.sparse.csgraph import connected_components

Mask = NDArray[np.bool_]
Ints = NDArray[np.int64]

EIGHT = np.ones((3, 3))  # pixels that touch at a corner are connected, too
TURNED = np.arange(-15, 16)  # degrees that a form may be turned
RECTANGLE = 0.85  # of the rectangle around it that a form fills; an ellipse fills 0.79
HOLLOW = 0.5  # of a form that is paper, at the least
CELL = 8  # pixels of its sides, at the least
CELL_LINE = 0.9  # of a cell's side: what is longer is no stroke of a digit in it
RULED = 1.2  # times as long as the digits on it are high: no stroke of a digit is
FLAT = 2.2  # times as wide as high: no digit is
# fractions of the digits' usual size
SMALLEST, LARGEST = 0.4, 2.5  # no digit is smaller, or larger
STROKE = 0.55  # what is smaller may be a stroke of another
SPECK = 0.1  # what is smaller is no stroke
RULE = 0.9  # what is longer, and flat, is no stroke either
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


def without_rules(mask: Mask) -> Mask:
    """Takes the lines of forms and of ruled paper out of a mask (H, W); what is written across them stays."""
    found = regions(mask)
    kept = mask.copy()
    for number in np.flatnonzero((found.sides >= CELL).all(1)):
        (top, left), (bottom, right) = found.starts[number], found.stops[number]
        part = found.labels[top:bottom, left:right] == number + 1
        # squared paper goes on outside the picture
        part = np.pad(part, 1, constant_values=(bottom - top, right - left) == mask.shape)
        turned, area = _turned(part)
        if (boxes := _are_boxes(part, area)) or part.shape[1] > FLAT * part.shape[0]:
            kept[top:bottom, left:right] &= ~_lines(part, turned, boxes)[1:-1, 1:-1]
    return kept


def _turned(part: Mask) -> tuple[float, float]:
    """How far the smallest rectangle around a region is turned, in degrees, and its area."""
    rows, columns = np.nonzero(part & ~ndimage.binary_erosion(part))
    down, across = np.cos(np.radians(TURNED))[:, None], np.sin(np.radians(TURNED))[:, None]
    width, height = np.ptp(down * columns + across * rows, axis=1), np.ptp(down * rows - across * columns, axis=1)
    areas = (width + 1) * (height + 1)
    return float(TURNED[areas.argmin()]), float(areas.min())


def _are_boxes(part: Mask, area: float) -> bool:
    """Whether a region is a box, or several in rows, whatever is written across them."""
    filled = ndimage.binary_fill_holes(part)
    return bool(part.sum() <= (1 - HOLLOW) * filled.sum() and filled.sum() >= RECTANGLE * area)


def _lines(part: Mask, turned: float, boxes: bool) -> Mask:
    """The pixels of boxes, or of a rule, that are on long lines, and on no stroke that crosses them."""
    if turned:  # stand it upright, and turn what was found back
        found = _rotated(_lines(_rotated(part, turned), 0, boxes), -turned)
        top, left = (np.array(found.shape) - part.shape) // 2
        return found[top : top + part.shape[0], left : left + part.shape[1]]
    cells = regions(ndimage.binary_fill_holes(part) & ~part).sides if boxes else np.empty((0, 2))
    cells = cells[(cells >= CELL).all(1)]
    height = len(part)
    lengths = CELL_LINE * np.median(cells, axis=0) if len(cells) else np.array([height + 1, RULED * height])
    found = np.zeros_like(part)
    for axis, length in enumerate(map(int, lengths)):
        thick = ndimage.maximum_filter1d(part, 3, axis=1 - axis)  # a line may be a pixel off
        runs = ndimage.minimum_filter1d(thick, length, axis, mode="constant")
        line = part & ndimage.maximum_filter1d(runs, length, axis, mode="constant", origin=length % 2 - 1)
        across = _runs(part, 1 - axis)
        found |= line & (across <= 2 * np.median(across[line])) if line.any() else line
    return found


def _rotated(mask: Mask, degrees: float) -> Mask:
    """A mask rotated within all that it may reach; lines of a pixel stay whole."""
    rotated: Mask = ndimage.rotate(mask.astype(np.float32), degrees, order=1) > 0.3
    return rotated


def _runs(mask: Mask, axis: int) -> Ints:
    """How long the run of True along an axis is that each pixel is in."""
    labels: Ints = ndimage.label(mask, np.swapaxes([[0, 0, 0], [1, 1, 1], [0, 0, 0]], 0, 1 - axis))[0]
    return np.bincount(labels.ravel())[labels]


def size_of_digits(found: Regions, usable: Mask) -> float:
    """How long most digits are: the length that half of the ink's is in regions longer than."""
    sides = found.sides[usable & (found.sides[:, 1] <= FLAT * found.sides[:, 0])]
    lengths = np.sort(sides.max(1, initial=0))
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
    rules = (width > FLAT * height) & (width > RULE * size)
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
    kept = (height >= SMALLEST * size) & (height <= LARGEST * size) & (width <= FLAT * height)
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
    return over & ((down <= TOUCHING * size) | ((down <= ABOVE * size) & (both <= 1.3 * size)))


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
