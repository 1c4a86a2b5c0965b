"""Any picture of a digit -> 28x28 pixels as MNIST's were made.

LeCun et al. 1998 (Gradient-Based Learning Applied to Document Recognition, III.A): the digit, bright on black, is
size-normalised to fit a 20x20 box while its aspect ratio is kept, and put into 28x28 pixels with its centre of mass in
the middle.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from scipy import ndimage

from mnist_lightning.data.format import SIDE
from mnist_lightning.handwriting import ink
from mnist_lightning.handwriting.ink import Float

LONGEST = 512  # pixels of the longer side that pictures are shrunk to
BOX = 20  # pixels of MNIST's box; the rest of 28 is margin
CENTRE = 14  # the pixel that MNIST's centres of mass are rounded to
THIN, USUAL = 1.8, 2.4  # pixels in the box: 5% of MNIST's strokes are narrower than the one; the other is usual


def to_mnist(picture: Image.Image) -> NDArray[np.uint8] | None:
    """Makes of a picture of a digit what MNIST would have made of it.

    Ink may be darker or lighter than its paper, or differ in colour only; paper may be unevenly lit, noisy, turned, or
    transparent. An MNIST digit comes out nearly as it went in.

    Args:
        picture: Of any size and mode. Its EXIF orientation is honoured; of several frames, the current one is read.

    Returns:
        uint8 (28, 28), bright ink on black, or None where there is no digit.

    Raises:
        OSError: The picture's file is damaged.
    """
    pixels = _pixels(picture)
    if _is_prepared(pixels):
        return pixels[:, :, 0].astype(np.uint8)
    digit = ink.find(pixels)
    return None if digit is None else _placed(_thickened(digit))


def _pixels(picture: Image.Image) -> Float:
    """The picture upright, opaque and shrunk: grey levels (H, W, channels) from 0 to 255."""
    picture = ImageOps.exif_transpose(picture)
    if picture.mode[0] in "IF":  # 16 or 32 bits, which have no white of their own
        values = np.nan_to_num(np.asarray(picture, np.float32), posinf=0).clip(0)
        picture = Image.fromarray((values * (255 / max(1e-9, float(values.max())))).astype(np.uint8))
    see_through = picture.has_transparency_data
    picture = picture.convert("RGBA" if see_through else "L" if picture.mode in ("1", "L") else "RGB")
    picture = picture.reduce(max(1, round(max(picture.size) / LONGEST)))
    pixels = np.asarray(picture, np.float32).reshape(picture.height, picture.width, -1)
    return _opaque(pixels) if see_through else pixels


def _is_prepared(pixels: Float) -> bool:
    """Whether a picture is made as MNIST's were, like those that MNIST is often unpacked to."""
    if pixels.shape != (SIDE, SIDE, 1) or ink.border(pixels).any() or not pixels.any():
        return False
    grey = pixels[:, :, 0]
    off_centre = np.subtract(ndimage.center_of_mass(grey), CENTRE)
    return bool(max(grey[ink.box(grey > 0)].shape) == BOX and abs(off_centre).max() < 1)


def _opaque(pixels: Float) -> Float:
    """Ink on nothing -> how opaque it is; a page with see-through edges -> the page, continued."""
    seen = pixels[:, :, 3] > 127
    if seen.mean() < 0.5 or (not seen.all() and np.ptp(pixels[seen, :3]) < 64):
        return pixels[:, :, 3:]
    return ink.continued(pixels[:, :, :3], seen)


def _thickened(digit: Float) -> Float:
    """Broadens the strokes of a thin pen to those of MNIST's."""
    unit = max(digit.shape) / BOX  # a pixel of the box
    width = ink.width(digit > 0.5)
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
