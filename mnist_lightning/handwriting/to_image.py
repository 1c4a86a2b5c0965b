"""Any picture -> an image of the size that a classifier takes, grey or in colour."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from mnist_lightning.data.format import IMAGE_SHAPE
from mnist_lightning.handwriting.to_mnist import Found, Place, Sure, eight_bits, find_digits, to_mnist

LYING = range(5, 9)  # EXIF orientations of pictures whose sides change places when they are stood upright


def to_image(picture: Image.Image, image_shape: Sequence[int]) -> NDArray[np.uint8] | None:
    """Makes of a picture an image: for MNIST's 28x28, its main digit, as MNIST's were made; for others, all of it.

    Args:
        picture: Of any size and mode. Its EXIF orientation is honoured; of several frames, the current one is read.
        image_shape: (H, W), or (H, W, 3) in colour. What is too long for it is cut off, as much on either side.

    Returns:
        uint8 of that shape; None where there is no digit.

    Raises:
        TooSmallError: As :func:`to_mnist`.
        OSError: The picture's file is damaged.
    """
    if tuple(image_shape) == IMAGE_SHAPE:
        return to_mnist(picture)
    high, wide, *colours = image_shape
    picture.draft(None, (2 * wide, 2 * high))  # a JPEG of 12 megapixels is decoded small, but no smaller than this
    picture = eight_bits(ImageOps.exif_transpose(picture))
    if picture.mode == "RGBA":  # see-through is white
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return np.asarray(ImageOps.fit(picture.convert("RGB" if colours else "L"), (wide, high), Image.Resampling.LANCZOS))


def find_images(picture: Image.Image, image_shape: Sequence[int], sure: Sure | None = None) -> list[Found]:
    """Makes images of a picture.

    Of each digit in it, as :func:`find_digits` does, for MNIST's shape; for others, of all of it, as :func:`to_image`.
    """
    if tuple(image_shape) == IMAGE_SHAPE:
        return find_digits(picture, sure)
    size = picture.size  # before a JPEG is decoded smaller
    image = to_image(picture, image_shape)
    if picture.getexif().get(ExifTags.Base.Orientation) in LYING:
        size = size[::-1]
    return [] if image is None else [Found(image, Place(0, 0, *size), 1.0)]
