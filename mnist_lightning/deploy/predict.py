"""Answers to pictures of digits: what each is, how sure a classifier is, what else it might be, and where it is."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import NamedTuple

import numpy as np

from mnist_lightning.handwriting.read import Picture
from mnist_lightning.handwriting.to_mnist import Sure
from mnist_lightning.model.base import BATCH, BaseClassifier


class Answer(NamedTuple):
    """What a digit in a file is, and where.

    Nothing but the file's name where no digit was found, and what is wrong with it where it is bad.
    """

    file: str
    digit: str | None = None
    probability: float | None = None
    runner_up: str | None = None
    runner_up_probability: float | None = None
    x: int | None = None
    y: int | None = None
    width: int | None = None
    height: int | None = None
    error: str | None = None


def sureness(model: BaseClassifier) -> Sure:
    """How probable a model finds its answers to images: by it, digits that touch each other are parted."""
    return lambda images: model.predict(images)[1].max(1)


def predict(model: BaseClassifier, pictures: Iterable[Picture]) -> Iterator[Answer]:
    """Gives a model's answer to each picture, in their order.

    Args:
        model: Reads the digits, many at a time.
        pictures: Of :func:`mnist_lightning.handwriting.read.read`.
    """
    pictures = iter(pictures)
    while chunk := list(islice(pictures, BATCH)):
        images = np.array([picture.image for picture in chunk if picture.image is not None], np.uint8)
        rows = iter(model.predict(images.reshape(-1, *model.image_shape))[1])
        for picture in chunk:
            if picture.image is None or picture.place is None:
                yield Answer(picture.file, error=picture.error)
            else:
                row = next(rows)
                *_, second, first = row.argsort().tolist()
                names = model.classes[first], model.classes[second]
                yield Answer(picture.file, names[0], float(row[first]), names[1], float(row[second]), *picture.place)
