"""Files of pictures, and folders of them, and IDX files -> images as a classifier takes them."""

import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from mnist_lightning.data.format import read_images
from mnist_lightning.data.idx import GZIP_MAGIC
from mnist_lightning.errors import UserError
from mnist_lightning.handwriting.to_mnist import LONGEST, to_mnist

FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "AVIF", "PPM")  # no EPS, which would run Ghostscript
KINDS = ", ".join(FORMATS)
IDX = re.compile(rb"\0\0[^\0]|" + re.escape(GZIP_MAGIC))  # an AVIF begins with three zeros


class Picture(NamedTuple):
    """A file's digit as an image, uint8 (28, 28), or None where there is none; or what is wrong with the file."""

    file: str
    image: NDArray[np.uint8] | None = None
    error: str | None = None


def read(paths: Sequence[str]) -> Iterator[Picture]:
    """Reads files, and the pictures of folders and of the folders in them, in the order of their names.

    An IDX file of images (N, 28, 28), uint8, gives N pictures, which are taken as they are: FILE[0], FILE[1], ...
    """
    for path in paths:
        files = _pictures(Path(path)) if Path(path).is_dir() else [Path(path)]
        if not files:
            yield Picture(path, error=f"{path}: expected pictures in this folder ({KINDS}), got none")
        for file in files:
            yield from _read_file(file)


def _pictures(folder: Path) -> list[Path]:
    Image.init()
    suffixes = {suffix for suffix, format in Image.registered_extensions().items() if format in FORMATS}
    files = (path for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in files if path.suffix.lower() in suffixes or "idx3-ubyte" in path.name)


def _read_file(path: Path) -> Iterator[Picture]:
    try:
        with path.open("rb") as file:
            start = file.read(3)
        if IDX.match(start):
            yield from (Picture(f"{path}[{index}]", image) for index, image in enumerate(read_images(path)))
        else:
            yield Picture(str(path), _read_picture(path))
    except UserError as error:
        yield Picture(str(path), error=str(error))
    except OSError as error:
        yield Picture(
            str(path), error=f"cannot read {path}: {error.strerror or error}; check that it is there and whole"
        )


def _read_picture(path: Path) -> NDArray[np.uint8] | None:
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(path, formats=FORMATS) as picture:
            picture.draft(None, (LONGEST, LONGEST))  # a JPEG of 12 megapixels is decoded at a quarter of its size
            return to_mnist(picture)
    except UnidentifiedImageError as error:
        raise UserError(f"{path}: expected a picture ({KINDS}) or an IDX file, got something else") from error
    except Exception as error:  # Pillow's readers raise whatever a damaged file makes them
        if isinstance(error, OSError) and error.errno:
            raise
        raise UserError(
            f"{path}: expected a whole picture, but it cannot be decoded ({error}); save it again"
        ) from error
