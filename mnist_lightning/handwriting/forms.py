"""What digits are written on: a page that lies on something; the boxes of a form, and the lines of ruled paper."""

import numpy as np
from scipy import ndimage

from mnist_lightning.handwriting.regions import FLAT, SOLID, Float, Ints, Mask, border, regions, solidity

ICON = 64  # pixels: pictures no larger show a digit and not a page with one
COARSE = 4  # a page is looked for at a quarter of the size
STEP = 30  # grey levels that its edge differs from what it lies on
TURNED = np.arange(-15, 16)  # degrees that a form may be turned
UNLIKE = 0.12  # of what its corners enclose that a form with four of them is smaller or larger
RECTANGLE = 0.85  # of the rectangle around it that a long page fills; an ellipse fills 0.79
HOLLOW = 0.5  # of a form that is paper, at the least
APART = 0.5  # of the ink in boxes that touches no line, at the least, or they are squared paper
THINGS = 0.002  # of a page that is covered by what is on it, at the least
CELL = 8  # pixels of its sides, at the least
CELL_LINE = 0.9  # of a cell's side: what is longer is no stroke of a digit in it
RULED = 1.2  # times as long as the digits on it are high: no stroke of a digit is


def page_in(pixels: Float) -> Mask | None:
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
        if page.mean() < 0.1 or border(page).mean() > 0.25 or not inside.any():
            continue
        if solidity(largest) <= SOLID and not _is_strip(page, largest):
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


def without_rules(mask: Mask, ruled: Mask) -> Mask:
    """Takes the lines of forms and of ruled paper out of a mask; what is written across them stays.

    Args:
        mask: Of ink (H, W).
        ruled: Where boxes were found before. Those that are found now are added: at a higher threshold they may be
            broken, and look like digits.
    """
    kept = mask & ~ruled
    found = regions(kept)
    for number in np.flatnonzero((found.sides >= CELL).all(1)):
        (top, left), (bottom, right) = found.starts[number], found.stops[number]
        part = found.labels[top:bottom, left:right] == number + 1
        # squared paper goes on outside the picture
        part = np.pad(part, 1, constant_values=(bottom - top, right - left) == mask.shape)
        (turned, area), filled = _turned(part), ndimage.binary_fill_holes(part)
        hollow, straight = part.sum() <= (1 - HOLLOW) * filled.sum(), filled.sum() >= RECTANGLE * area
        whole = min(top, left) > 0 and bottom < len(mask) and right < len(mask.T)
        if hollow and whole and (straight or _unlike_its_corners(filled) < UNLIKE):
            cells = _cells(part)
            apart = np.pad(kept[top:bottom, left:right], 1) & ~part & cells
            if apart.sum() > APART * (part & cells).sum():
                ruled[top:bottom, left:right] |= (part & ~cells)[1:-1, 1:-1]
                continue
        if (boxes := hollow and straight) or part.shape[1] > FLAT * part.shape[0]:
            kept[top:bottom, left:right] &= ~_lines(part, turned, boxes)[1:-1, 1:-1]
    return kept & ~ruled


def _cells(part: Mask) -> Mask:
    """The insides of boxes, of any straight sides, with what is written in them from the line on."""
    holes = regions(ndimage.binary_fill_holes(part) & ~part)
    inside = np.zeros_like(part)
    for number in np.flatnonzero((holes.sides >= CELL).all(1)):
        (top, left), (bottom, right) = holes.starts[number], holes.stops[number]
        hole = holes.labels[top:bottom, left:right] == number + 1
        # from the first pixel of each row, or column, to the last
        inside[top:bottom, left:right] |= _filled(hole) | _filled(hole.T).T
    return inside


def _filled(hole: Mask) -> Mask:
    """A mask with each row filled from its first pixel to its last."""
    return np.logical_or.accumulate(hole, 1) & np.logical_or.accumulate(hole[:, ::-1], 1)[:, ::-1]


def _turned(part: Mask) -> tuple[float, float]:
    """How far the smallest rectangle around a region is turned, in degrees, and its area."""
    rows, columns = np.nonzero(part & ~ndimage.binary_erosion(part))
    down, across = np.cos(np.radians(TURNED))[:, None], np.sin(np.radians(TURNED))[:, None]
    width, height = np.ptp(down * columns + across * rows, axis=1), np.ptp(down * rows - across * columns, axis=1)
    areas = (width + 1) * (height + 1)
    return float(TURNED[areas.argmin()]), float(areas.min())


def _is_strip(page: Mask, paper: Mask) -> bool:
    """Whether what may be a stroke is a long page: a rectangle with things on it."""
    on_it = 1 - paper.sum() / page.sum()
    return bool(HOLLOW > on_it > THINGS and page.sum() >= RECTANGLE * _turned(page)[1])


def _unlike_its_corners(form: Mask) -> float:
    """By what share a form is smaller or larger than what its ends in the four oblique directions enclose."""
    rows, columns = np.nonzero(form)
    ends = [(rows + columns).argmin(), (rows - columns).argmin(), (rows + columns).argmax(), (rows - columns).argmax()]
    y, x = rows[ends], columns[ends]
    sides = np.maximum(abs(y - np.roll(y, 1)), abs(x - np.roll(x, 1)))
    area = abs(y @ np.roll(x, 1) - x @ np.roll(y, 1)) / 2 + sides.sum() / 2 + 1  # Pick's, of the pixels' middles
    return float(abs(form.sum() - area) / area)


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
