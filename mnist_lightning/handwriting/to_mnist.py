"""Any picture of digits -> each as 28x28 pixels as MNIST's were made.

LeCun et al. 1998 (Gradient-Based Learning Applied to Document Recognition, III.A): the digit, bright on black, is
size-normalised to fit a 20x20 box while its aspect ratio is kept, and put into 28x28 pixels with its centre of mass in
the middle.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from scipy import ndimage

from mnist_lightning.errors import UserError
from mnist_lightning.handwriting import ink
from mnist_lightning.handwriting.regions import FLAT, Float, border, box, breadth, continued
from mnist_lightning.handwriting.touching import parted

SIDE = 28  # pixels of MNIST's images
LONGEST = 512, 1000  # pixels of the longer side that pictures are shrunk to; many small digits need more of them
SMALL = 30  # pixels of a digit's longer side for which the picture is looked at again
LEAST = 8  # pixels of a digit's longer side; of 8, a net that reads 99% of larger ones reads 92%; of 7, 23%
TINY = 0.15  # of the picture: what is smaller, and no digit, was perhaps meant as one
BOX = 20  # pixels of MNIST's box; the rest of 28 is margin
CENTRE = 14  # the pixel that MNIST's centres of mass are rounded to
THIN, USUAL = 1.8, 2.4  # pixels in the box: 5% of MNIST's strokes are narrower than the one; the other is usual

Sure = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


class TooSmallError(UserError):
    """All that is drawn is too small to be read."""


class Place(NamedTuple):
    """Where a digit is in its upright picture: pixels on the left of it and above it, and its own."""

    x: int
    y: int
    width: int
    height: int

    def times(self, factor: float) -> "Place":
        """The same place in a picture that is larger by a factor."""
        return Place(*(round(side * factor) for side in self))


class Found(NamedTuple):
    """A digit that was found in a picture.

    Attributes:
        image: uint8 (28, 28), bright ink on black, as MNIST would have made it.
        place: Where it is.
        prominence: How much it stands out in its picture.
    """

    image: NDArray[np.uint8]
    place: Place
    prominence: float


def find_digits(picture: Image.Image, sure: Sure | None = None) -> list[Found]:
    """Makes of each digit in a picture what MNIST would have made of it.

    Ink may be darker or lighter than its paper, or differ in colour only; paper may be unevenly lit, noisy, turned, or
    transparent; digits may be in the boxes of a form. An MNIST digit comes out nearly as it went in.

    Args:
        picture: Of any size and mode. Its EXIF orientation is honoured; of several frames, the current one is read.
        sure: How sure a net is of its answers to images (N, 28, 28): (N,). It parts digits that touch each other;
            without, they are one.

    Returns:
        The digits, line by line and from left to right.

    Raises:
        TooSmallError: There is ink, but too little of it.
        OSError: The picture's file is damaged.
    """
    picture = eight_bits(ImageOps.exif_transpose(picture))
    for longest in LONGEST:
        factor = max(1, round(max(picture.size) / longest))
        pixels = _pixels(picture, factor)
        if _is_prepared(pixels):
            return [Found(pixels[:, :, 0].astype(np.uint8), Place(0, 0, SIDE, SIDE), 1.0)]
        digits = ink.find(pixels)
        if factor == 1 or np.median([max(digit.ink.shape) for digit in digits] or [SMALL]) >= SMALL:
            break
    _check_size(digits, pixels, factor)
    if sure:
        digits = parted(digits, lambda parts: sure(np.stack([_made(part) for part in parts])))
    digits = [digit for digit in digits if digit.ink.shape[1] <= FLAT * digit.ink.shape[0]]
    return [
        Found(
            _made(digit),
            Place(digit.left, digit.top, *digit.ink.shape[::-1]).times(factor),
            digit.prominence,
        )
        for digit in digits
    ]


def _made(digit: ink.Digit) -> NDArray[np.uint8]:
    return _placed(_thickened(digit.ink))


def _check_size(digits: list[ink.Digit], pixels: Float, factor: int) -> None:
    """Tells a drawing that is too small from an empty one."""
    largest = max((digit.ink.shape for digit in digits), key=max, default=ink.drawn(pixels))
    tiny = max(largest) < LEAST or (not digits and max(largest) < TINY * max(pixels.shape))
    if tiny and any(largest):
        height, width = (side * factor for side in largest)
        raise TooSmallError(
            f"expected a digit at least {LEAST} pixels high, strokes apart, got ink of {width}x{height}; draw larger"
        )


def to_mnist(picture: Image.Image) -> NDArray[np.uint8] | None:
    """Makes of a picture's main digit what MNIST would have made of it, as :func:`find_digits` does of all.

    Returns:
        uint8 (28, 28), bright ink on black, or None where there is no digit.
    """
    largest = max(find_digits(picture), key=lambda digit: digit.prominence, default=None)
    return largest.image if largest else None


def eight_bits(picture: Image.Image) -> Image.Image:
    """A picture with a white of its own: grey or coloured, opaque or not."""
    if picture.mode[0] in "IF":  # 16 or 32 bits
        values = np.nan_to_num(np.asarray(picture, np.float32), posinf=0).clip(0)
        picture = Image.fromarray((values * (255 / max(1e-9, float(values.max())))).astype(np.uint8))
    if picture.has_transparency_data:
        return picture.convert("RGBA")
    return picture.convert("L" if picture.mode in ("1", "L") else "RGB")


def _pixels(picture: Image.Image, factor: int) -> Float:
    """A picture opaque, and shrunk by a factor: grey levels (H, W, channels) from 0 to 255."""
    picture = picture.reduce(factor)
    pixels = np.asarray(picture, np.float32).reshape(picture.height, picture.width, -1)
    return _opaque(pixels) if picture.mode == "RGBA" else pixels


def _is_prepared(pixels: Float) -> bool:
    """Whether a picture is made as MNIST's were, like those that MNIST is often unpacked to."""
    if pixels.shape != (SIDE, SIDE, 1) or border(pixels).any() or not pixels.any():
        return False
    grey = pixels[:, :, 0]
    off_centre = np.subtract(ndimage.center_of_mass(grey), CENTRE)
    return bool(max(grey[box(grey > 0)].shape) == BOX and abs(off_centre).max() < 1)


def _opaque(pixels: Float) -> Float:
    """Ink on nothing -> how opaque it is; a page with see-through edges -> the page, continued."""
    seen = pixels[:, :, 3] > 127
    if seen.mean() < 0.5 or (not seen.all() and np.ptp(pixels[seen, :3]) < 64):
        return pixels[:, :, 3:]
    return continued(pixels[:, :, :3], seen)


def _thickened(digit: Float) -> Float:
    """Broadens the strokes of a thin pen to those of MNIST's."""
    unit = max(digit.shape) / BOX  # a pixel of the box
    width = breadth(digit > 0.5)
    if width >= THIN * unit:
        return digit
    radius = (USUAL * unit - width) / 2
    distances = ndimage.distance_transform_edt(np.pad(digit <= 0.5, round(radius) + 1, constant_values=True))
    thick: Float = (radius + 0.5 - distances).clip(0, 1)
    return thick


def _placed(digit: Float) -> NDArray[np.uint8]:
    """Fits ink into the box, and the box into the image."""
    height, width = (max(1, round(side * BOX / max(digit.shape))) for side in digit.shape)
    resampling = Image.Resampling.BOX if max(digit.shape) > BOX else Image.Resampling.BILINEAR
    box = np.asarray(Image.fromarray(digit.astype(np.float32)).resize((width, height), resampling))
    top, left = (round(CENTRE - centre) for centre in ndimage.center_of_mass(box))
    top, left = min(max(top, 0), SIDE - height), min(max(left, 0), SIDE - width)
    image = np.zeros((SIDE, SIDE), np.uint8)
    image[top : top + height, left : left + width] = np.round(255 * box / box.max())
    return image
