"""Exports a checkpoint's classifier: one file, images in, probabilities out, checked before it has its name.

What every format holds is a :class:`Predictor`: the preprocessing, the net and the softmax, for any number of images.
"""

import importlib.util
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mnist_lightning.checkpoints.read import Checkpoint
from mnist_lightning.data.datamodule import MNISTDataModule
from mnist_lightning.data.format import IMAGE_SHAPE
from mnist_lightning.deploy.formats import FORMATS, FormatName, Pixels
from mnist_lightning.errors import UserError
from mnist_lightning.files import atomic_path
from mnist_lightning.model.base import BaseClassifier

InputName = Literal["uint8", "float"]

TOLERANCE = 1e-4  # of a probability; rounding is a hundredth of it
CHECKED = 1000  # test images
VALUES: dict[InputName, str] = {"uint8": "uint8 from 0 to 255", "float": "float32 from 0 to 1"}


class Predictor(nn.Module):
    """What is exported: reads digits, in bright ink on black as in MNIST's files.

    Args:
        net: Maps float images (N, C, H, W) in [0, 1] to logits (N, classes).
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        """Maps images (N, H, W) or (N, H, W, 3), uint8 or floats in [0, 1], to probabilities, float32 (N, classes)."""
        pixels = images.float()
        pixels = pixels.movedim(-1, 1) if images.dim() == 4 else pixels.unsqueeze(1)
        if not images.is_floating_point():
            pixels = pixels / 255
        probabilities: Tensor = self.net(pixels).softmax(1)
        return probabilities


@dataclass(frozen=True)
class Export:
    """A file that was written.

    Attributes:
        path: Where it is.
        about: What it says of itself: its input, its output, the labels, and what it was checked on.
        difference: The largest from the checkpoint's probabilities.
    """

    path: Path
    about: dict[str, str]
    difference: float

    def __str__(self) -> str:
        return (
            f"written to {self.path} ({self.path.stat().st_size:,} bytes)\n"
            f"  images         {self.about['images']}\n"
            f"  probabilities  {self.about['probabilities']}\n"
            f"  checked on {self.about['checked_on']}: largest difference from the checkpoint {self.difference:.2g}"
        )


def export(
    checkpoint: Checkpoint,
    format: FormatName,
    data: MNISTDataModule,
    output: str | os.PathLike[str] | None = None,
    input: InputName = "uint8",
) -> Export:
    """Writes a checkpoint's classifier as a model that needs nothing of this project, and runs it to check it.

    It maps ``images`` (N, 28, 28) to ``probabilities``, float32 (N, 10), for any N.

    Args:
        checkpoint: Whose classifier.
        format: What to write: onnx, torchscript or pt2.
        data: Ready for a test; its first 1,000 test images are what the file is checked on.
        output: The file; by default, beside the checkpoint.
        input: Type of the images: uint8, or float, which is float32 from 0 to 1. A torchscript takes both.

    Raises:
        CheckpointError: The checkpoint holds no such classifier.
        UserError: A package is missing, or the file's answers differ by more than 1e-4. An older file stays.
        OSError: The file cannot be written. An older one stays.
    """
    model = checkpoint.classifier()
    path = _destination(checkpoint.path, output, FORMATS[format].suffix)
    _require(format)
    images: NDArray[np.uint8] = data.test_set.tensors[0][:CHECKED].numpy()
    inputs: tuple[InputName, ...] = ("uint8", "float") if format == "torchscript" else (input,)
    about = _about(model, inputs, f"{len(images):,} test images of {data.dataset_name}")
    example = torch.from_numpy(_as(input, images[[0, 0]]))
    content = FORMATS[format].serialize(Predictor(model.net).eval(), example, about)
    with atomic_path(path) as unfinished:
        unfinished.write_bytes(content)
        predict, expected = FORMATS[format].load(unfinished), model.predict(images)[1]
        difference = max(float(np.abs(predict(_as(name, images)) - expected).max()) for name in inputs)
        _check(difference, checkpoint.path)
    return Export(path, about, difference)


def _destination(ckpt: Path, output: str | os.PathLike[str] | None, suffix: str) -> Path:
    """The file to write: the one asked for, or one beside the checkpoint."""
    path = ckpt.with_name(ckpt.name.removesuffix(".ckpt") + suffix) if output is None else Path(output)
    if not path.parent.is_dir():
        raise UserError(f"expected a folder for {path}, but there is none; make it, or give another --output")
    if path.is_dir() or (path.exists() and path.samefile(ckpt)):
        what = "a folder" if path.is_dir() else "the checkpoint itself"
        raise UserError(f"expected a file to write, but {path} is {what}; give another --output")
    return path


def _require(format: FormatName) -> None:
    missing = [name for name in FORMATS[format].packages if not importlib.util.find_spec(name)]
    if missing:
        raise UserError(f'--format {format} needs {", ".join(missing)}; run pip install -e ".[export]"')


def _about(model: BaseClassifier, inputs: tuple[InputName, ...], checked_on: str) -> dict[str, str]:
    shape, classes = ", ".join(map(str, model.image_shape)), model.classes
    ink = ", bright ink on black" if model.image_shape == list(IMAGE_SHAPE) else ""
    return {
        "images": f"(N, {shape}), {' or '.join(VALUES[name] for name in inputs)}{ink}",
        "probabilities": f"(N, {len(classes)}), float32, of the labels {classes[0]} to {classes[-1]}",
        "labels": json.dumps(classes),
        "checked_on": checked_on,
    }


def _as(input: InputName, images: NDArray[np.uint8]) -> Pixels:
    return images if input == "uint8" else np.divide(images, 255, dtype=np.float32)


def _check(difference: float, ckpt: Path) -> None:
    if not difference <= TOLERANCE:  # nan is not
        raise UserError(
            f"expected the exported probabilities to be {ckpt}'s to {TOLERANCE:g}, but they differ by "
            f"{difference:.2g}; nothing was written"
        )
