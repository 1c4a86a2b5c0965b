"""MNIST's format: four files of uint8 images, of any one size, grey or in colour, and a label for each.

The classes are the labels of the training set, in their order; a fifth file, ``classes.txt``, may name them.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnist_lightning.data.idx import read_idx
from mnist_lightning.errors import UserError

DIGITS = tuple("0123456789")  # MNIST's classes, and
IMAGE_SHAPE = (28, 28)  # its pixels: what a classifier is made for if it isn't told
MAX_SIDE, MAX_CLASSES, MAX_NAME = 1024, 256, 50  # pixels; what a uint8 label tells apart; characters
NAMES = "classes.txt"
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
        f"expected {name}[.gz] in {folder}, but {what}; give as data_dir a folder with the four IDX files, or fetch "
        "MNIST into it with train.py's --data.source download"
    )


def locate(folder: Path, name: str) -> Path | None:
    spellings = (name, name.replace("-idx", ".idx"))
    candidates = (folder / (spelling + ending) for ending in ("", ".gz") for spelling in spellings)
    return next((path for path in candidates if path.is_file()), None)


def is_complete(folder: Path) -> bool:
    try:
        return all(locate(folder, name) for name in FILES)
    except OSError:  # another user's folder, or no name that can be
        return False


def check_classes(names: Sequence[str], source: str) -> None:
    """Raises a DataError, which names their source, if names of classes can't be told apart or shown."""
    many = len(names) > MAX_CLASSES
    bad = [name for name in names if many or names.count(name) > 1 or not name.isprintable() or len(name) > MAX_NAME]
    if len(names) < 2 or bad or "" in names:
        raise DataError(
            f"{source}: expected 2 to {MAX_CLASSES} classes with printable names of up to {MAX_NAME} characters, no "
            f"two alike, got {len(names)}{f' with {bad[0][:MAX_NAME]!r}' if bad else ''}; change that"
        )


def check_images(images: NDArray[Any], source: str, shape: Sequence[int] | None = None) -> None:
    """Raises a DataError, which names their source, if an array is not uint8 (N, H, W) or (N, H, W, 3), of a shape."""
    if not isinstance(images, np.ndarray):
        given = type(images).__name__
        raise DataError(f"{source}: expected images in a NumPy array, got a {given}; give np.array(images, np.uint8)")
    if images.dtype != np.uint8 or images.shape[1:] != tuple(shape or images.shape[1:]):
        expected = ", ".join(map(str, shape or ("height", "width[, 3]")))
        raise DataError(
            f"{source}: expected uint8 images of shape (N, {expected}), got {images.dtype} of shape {images.shape}; "
            "give images in MNIST's format"
        )
    check_shape(images.shape[1:], source)


def check_shape(shape: Sequence[int], source: str) -> None:
    """Raises a DataError, which names its source, if images cannot have a shape: (H, W), or (H, W, 3) in colour."""
    if len(shape) < 2 or tuple(shape[2:]) not in ((), (3,)) or not 1 <= min(shape) <= max(shape) <= MAX_SIDE:
        sides = f"1 to {MAX_SIDE}, 1 to {MAX_SIDE}"
        raise DataError(f"{source}: expected the shape ({sides}) or ({sides}, 3), got {tuple(shape)}; change it")


def read_images(path: Path, shape: Sequence[int] | None = None) -> NDArray[np.uint8]:
    """Reads an IDX file of images, uint8 (N, H, W) or (N, H, W, 3) for N above 0, of a shape if one is given.

    Raises:
        DataError: It holds something else, or none; an IDXError, if it is damaged.
    """
    images = read_idx(path)
    check_images(images, str(path), shape)
    if not len(images):
        raise DataError(f"{path}: expected images, got none; give another file")
    return images


def read_names(folder: Path) -> dict[int, str]:
    """Returns the labels of the training set in their order, and their names: those in classes.txt, or themselves.

    Raises:
        DataError: The names are not as many, or cannot be names; an IDXError, if the labels are damaged.
    """
    source = find(folder, FILES[1])
    labels = np.unique(read_idx(source)).tolist()
    names = [str(label) for label in labels]
    if (folder / NAMES).is_file():
        source = folder / NAMES
        names = [line.strip() for line in source.read_text("utf-8-sig", "replace").splitlines() if line.strip()]
        if len(names) != len(labels):
            raise DataError(
                f"{source}: expected a line for each of the {len(labels)} labels in the training set, got "
                f"{len(names)}; name each, in the order of the labels"
            )
    check_classes(names, str(source))
    return dict(zip(labels, names, strict=True))
