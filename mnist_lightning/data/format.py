"""MNIST's format: the four files and what they hold. The one place that says 10 classes and 28 pixels."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnist_lightning.data.idx import read_idx
from mnist_lightning.errors import UserError

CLASSES = 10
SIDE = 28  # pixels
FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


class DataError(UserError):
    """The data asked for is not there, or is not what it should be."""


def find(folder: Path, name: str) -> Path:
    """Returns the path of one of the four :data:`FILES` in a folder: raw or gzipped, in either published spelling.

    Raises:
        DataError: It is not there.
    """
    if path := locate(folder, name):
        return path
    what = "it has no such file" if folder.is_dir() else "there is no such folder"
    raise DataError(
        f"expected {name}[.gz] in {folder}, but {what}; point --data.data_dir at a folder with the four IDX files, "
        "or fetch MNIST into it with --data.source download"
    )


def locate(folder: Path, name: str) -> Path | None:
    spellings = (name, name.replace("-idx", ".idx"))
    candidates = (folder / (spelling + ending) for ending in ("", ".gz") for spelling in spellings)
    return next((path for path in candidates if path.is_file()), None)


def is_complete(folder: Path) -> bool:
    return all(locate(folder, name) for name in FILES)


def check_images(images: NDArray[Any], name: str) -> NDArray[np.uint8]:
    """Returns an array if it holds images in MNIST's format.

    Args:
        images: What shall be uint8 (N, 28, 28).
        name: What the error calls it.

    Raises:
        DataError: It is of another type or shape.
    """
    if images.dtype != np.uint8 or images.ndim != 3 or images.shape[1:] != (SIDE, SIDE):
        raise DataError(
            f"{name}: expected uint8 images of shape (N, {SIDE}, {SIDE}), got {images.dtype} of shape {images.shape}; "
            "give images in MNIST's format"
        )
    return images


def read_images(path: Path) -> NDArray[np.uint8]:
    """Reads an IDX file of images, uint8 (N, 28, 28) for N above 0.

    Raises:
        DataError: It holds something else, or none; an IDXError, if it is damaged.
    """
    images = check_images(read_idx(path), str(path))
    if not len(images):
        raise DataError(f"{path}: expected images, got none; give another file")
    return images


def read_part(part: str, folder: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Reads ``train`` or ``t10k``: images, uint8 (N, 28, 28), and their labels, uint8 (N,) from 0 to 9.

    Raises:
        DataError: A file is not there, or the two do not fit together.
        IDXError: A file is damaged.
    """
    paths = [find(folder, name) for name in FILES if name.startswith(part)]
    images, labels = read_images(paths[0]), read_idx(paths[1])
    if labels.dtype != np.uint8 or labels.shape != images.shape[:1]:
        raise DataError(
            f"{paths[1]}: expected one uint8 label for each of the {len(images):,} images in {paths[0].name}, got "
            f"{labels.dtype} of shape {labels.shape}; give two files that belong together"
        )
    if labels.max() >= CLASSES:
        raise DataError(f"{paths[1]}: expected labels from 0 to {CLASSES - 1}, got {labels.max()}; relabel the classes")
    return images, labels
