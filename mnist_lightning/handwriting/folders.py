"""A folder of pictures in folders by class, as everybody has it -> the four IDX files and classes.txt."""

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mnist_lightning.data.format import FILES, NAMES, DataError, check_classes, check_shape, is_complete
from mnist_lightning.data.idx import write_idx
from mnist_lightning.errors import UserError
from mnist_lightning.files import atomic_folder
from mnist_lightning.handwriting.read import open_picture, visible
from mnist_lightning.handwriting.to_image import to_image

SEED = 0  # of the split and the order: the same pictures give the same files

Labelled = list[tuple[NDArray[np.uint8], int]]


class Made(NamedTuple):
    """What became of a folder.

    Attributes:
        train, test: How many images of each class, by its name.
        skipped: What is wrong with each picture that was left out.
    """

    train: dict[str, int]
    test: dict[str, int]
    skipped: list[str]


def make_idx(
    folder: Path,
    output: Path,
    image_shape: Sequence[int] = (64, 64, 3),
    test_size: float = 0.2,
    progress: Callable[[list[Any]], Iterable[Any]] = iter,
) -> Made:
    """Makes of a folder of pictures, in folders that are named by class, a dataset that can be trained on.

    Args:
        folder: Of folders; each is a class, with all pictures that are in it and below.
        output: Folder for the four IDX files and classes.txt.
        image_shape: (H, W), or (H, W, 3) in colour, as :func:`to_image` takes it.
        test_size: The share of each class that is held out for the test, above 0 and below 1.
        progress: Wraps the list of pictures, to show how far it is.

    Raises:
        DataError: The classes are fewer than 2, or one has no two pictures that can be read; or a size cannot be.
        OSError: A folder cannot be read or written. No file appears.
    """
    check_shape(image_shape, "the images")
    if not 0 < test_size < 1:
        raise DataError(f"expected the share of the test to be above 0 and below 1, got {test_size}; 0.2 is usual")
    if is_complete(output) or output.resolve().is_relative_to(folder.resolve()):
        raise DataError(f"{output}: expected a new folder outside of {folder}; give another --output")
    classes = _classes(folder)
    files = [(path, label) for label, name in enumerate(classes) for path in visible(folder / name)]
    images, skipped = _read(progress(files), image_shape)
    train, test = _split(images, classes, test_size)
    with atomic_folder(output) as unfinished:
        (unfinished / NAMES).write_text("".join(f"{name}\n" for name in classes), "utf-8")
        for part, names in ((train, FILES[:2]), (test, FILES[2:])):
            write_idx(unfinished / names[0], np.array([image for image, _ in part]))
            write_idx(unfinished / names[1], np.array([label for _, label in part], np.uint8))
    return Made(_counts(train, classes), _counts(test, classes), skipped)


def _classes(folder: Path) -> list[str]:
    """The folders in a folder; 10 comes after 9."""
    if not folder.is_dir():
        raise DataError(f"{folder}: expected a folder with a folder of pictures for each class, but there is none")
    names = [path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
    names.sort(key=lambda name: [(int(part) if part.isdecimal() else -1, part) for part in re.split(r"(\d+)", name)])
    check_classes(names, f"{folder}, a folder for each class")
    return names


def _read(files: Iterable[tuple[Path, int]], image_shape: Sequence[int]) -> tuple[Labelled, list[str]]:
    """The images and labels of files, and what is wrong with those that have none."""
    images: Labelled = []
    skipped = []
    for path, label in files:
        try:
            with open_picture(path) as picture:
                image = to_image(picture, image_shape)
            if image is None:
                raise UserError(f"{path}: expected a digit, or the like, in ink on paper, found none")
            images.append((image, label))
        except UserError as error:
            skipped.append(str(error))
        except OSError as error:
            skipped.append(f"{path}: cannot be read: {error.strerror}")
    return images, skipped


def _split(images: Labelled, classes: Sequence[str], test_size: float) -> tuple[Labelled, Labelled]:
    """Shuffles, and holds out a share of each class, at least one image and not all of them."""
    shuffled = _shuffled(images)
    train: Labelled = []
    test: Labelled = []
    for label, (name, count) in enumerate(_counts(images, classes).items()):
        if count < 2:
            raise DataError(
                f"{name}: expected at least 2 pictures of each class that can be read, got {count}; add some"
            )
        own = [each for each in shuffled if each[1] == label]
        held_out = min(max(round(test_size * count), 1), count - 1)
        test += own[:held_out]
        train += own[held_out:]
    return _shuffled(train), _shuffled(test)


def _shuffled(images: Labelled) -> Labelled:
    return [images[place] for place in np.random.default_rng(SEED).permutation(len(images))]


def _counts(images: Labelled, classes: Sequence[str]) -> dict[str, int]:
    return {name: sum(each == label for _, each in images) for label, name in enumerate(classes)}
