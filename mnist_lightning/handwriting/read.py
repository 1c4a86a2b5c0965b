"""Files of pictures, and folders of them, and IDX files -> images as a classifier takes them."""

import os
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from mnist_lightning.data.format import IMAGE_SHAPE, read_images
from mnist_lightning.data.idx import GZIP_MAGIC
from mnist_lightning.errors import UserError
from mnist_lightning.handwriting.to_image import find_images
from mnist_lightning.handwriting.to_mnist import LONGEST, Found, Place, Sure

FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "AVIF", "PPM")  # no EPS, which would run Ghostscript
KINDS = ", ".join(FORMATS)
MOST = 50_000_000  # pixels of a picture: up to 0.8 GB to decode and to prepare
IDX = re.compile(rb"\0\0[^\0]|" + re.escape(GZIP_MAGIC))  # an AVIF begins with three zeros


class Picture(NamedTuple):
    """One of a file's digits as an image, uint8 (28, 28); None where there is none; or what is wrong with the file."""

    file: str
    image: NDArray[np.uint8] | None = None
    place: Place | None = None
    error: str | None = None


def read(
    paths: Sequence[str], one: bool = False, image_shape: Sequence[int] = IMAGE_SHAPE, sure: Sure | None = None
) -> Iterator[Picture]:
    """Reads files, and the pictures of folders and of the folders in them, in the order of their names.

    Each digit in a file is a picture of its own, line by line and from left to right. An IDX file of images
    (N, 28, 28), uint8, gives N, which are taken as they are: FILE[0], FILE[1], ...

    Args:
        paths: Of files and folders.
        one: Whether to take only the most prominent digit of each file.
        image_shape: Of the images that are asked for.
        sure: As :func:`~mnist_lightning.handwriting.to_mnist.find_digits` takes it.
    """
    for path in paths:
        # pathlib's is_dir raises where one may not look, and the others shall be answered
        files = _pictures(Path(path)) if os.path.isdir(path) else [Path(path)]  # noqa: PTH112
        if not files:
            yield Picture(path, error=f"{path}: expected pictures in this folder ({KINDS}), got none")
        for file in files:
            yield from _read_file(file, one, image_shape, sure)


def _pictures(folder: Path) -> list[Path]:
    Image.init()
    suffixes = {suffix for suffix, format in Image.registered_extensions().items() if format in FORMATS}
    return [path for path in visible(folder) if path.suffix.lower() in suffixes or "idx3-ubyte" in path.name]


def visible(folder: Path) -> list[Path]:
    """The files in a folder and the folders in it; not a system's own (``._IMG.jpg``, ``.thumbnails``)."""
    files = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(folder / path for path in files if not any(part.startswith(".") for part in path.parts))


def _read_file(path: Path, one: bool, image_shape: Sequence[int], sure: Sure | None) -> Iterator[Picture]:
    try:
        with path.open("rb") as file:
            start = file.read(3)
        if IDX.match(start):
            for index, image in enumerate(read_images(path, image_shape)):
                yield Picture(f"{path}[{index}]", image, Place(0, 0, image_shape[1], image_shape[0]))
        else:
            digits = _read_picture(path, image_shape, sure)
            if one and digits:
                digits = [max(digits, key=lambda digit: digit.prominence)]
            for digit in digits:
                yield Picture(str(path), digit.image, digit.place)
            if not digits:
                yield Picture(str(path))
    except UserError as error:
        yield Picture(str(path), error=str(error))
    except OSError as error:
        yield Picture(
            str(path), error=f"cannot read {path}: {error.strerror or error}; check that it is there and whole"
        )


def _read_picture(path: Path, image_shape: Sequence[int], sure: Sure | None) -> list[Found]:
    with open_picture(path) as picture:
        size = picture.size
        picture.draft(None, (LONGEST[-1],) * 2)  # a JPEG of 12 megapixels is decoded at a quarter of its size
        shrunk = max(size) / max(picture.size)
        return [digit._replace(place=digit.place.times(shrunk)) for digit in find_images(picture, image_shape, sure)]


@contextmanager
def open_picture(path: Path) -> Iterator[Image.Image]:
    """Opens a picture, to be read within.

    Raises:
        UserError: It cannot be decoded, or is too large; or what is done within says so.
        OSError: The file cannot be read.
    """
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(path, formats=FORMATS) as picture:
            size = picture.size
            if size[0] * size[1] > MOST:  # before a pixel is decoded: the smallest file can hold any number of them
                raise UserError(f"expected at most {MOST:,} pixels, got {size[0]:,}x{size[1]:,}; shrink it")
            yield picture
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except Image.DecompressionBombError as error:  # Pillow's own bound is higher
        raise UserError(f"{path}: expected at most {MOST:,} pixels, got far more; shrink it") from error
    except UnidentifiedImageError as error:
        raise UserError(f"{path}: expected a picture ({KINDS}) or an IDX file, got something else") from error
    except Exception as error:  # Pillow's readers raise whatever a damaged file makes them
        if isinstance(error, OSError) and error.errno:
            raise
        raise UserError(
            f"{path}: expected a whole picture, but it cannot be decoded ({error}); save it again"
        ) from error
