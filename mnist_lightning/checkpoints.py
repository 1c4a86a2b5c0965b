"""Checkpoints are data: read with ``weights_only=True``, checked before use, and nothing in them is ever run."""

import os
import pickle
from pathlib import Path
from typing import Any

import torch

from mnist_lightning.classifier import MNISTClassifier
from mnist_lightning.errors import UserError


class CheckpointError(UserError):
    """A file is not a checkpoint of this project."""


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads a checkpoint's contents onto the CPU.

    Raises:
        CheckpointError: The file is missing, is not a checkpoint, or is one of another model.
    """
    if not Path(path).is_file():
        raise CheckpointError(f"expected a checkpoint at {path}, but there is no such file; give the path of a .ckpt")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{path}: expected a checkpoint that scripts/train.py wrote, but it is damaged, or holds other things than "
            "tensors and plain values; give another file"
        ) from error
    keys = ("state_dict", "hyper_parameters", "datamodule_hyper_parameters")
    if not isinstance(checkpoint, dict) or not all(isinstance(checkpoint.get(key), dict) for key in keys):
        raise CheckpointError(f"{path}: expected a checkpoint that scripts/train.py wrote, but it lacks {keys}")
    return checkpoint


def load_classifier(path: str | os.PathLike[str]) -> MNISTClassifier:
    """Builds the classifier that a checkpoint describes, with its weights, on the CPU.

    Raises:
        CheckpointError: As :func:`read_checkpoint`; or its weights do not fit its hyperparameters.
    """
    checkpoint = read_checkpoint(path)
    try:
        model = MNISTClassifier(**checkpoint["hyper_parameters"])
        model.load_state_dict(checkpoint["state_dict"])
    except (TypeError, RuntimeError, UserError) as error:
        raise CheckpointError(
            f"{path}: expected the hyperparameters and weights of a MNISTClassifier, but it is of another model "
            f"({' '.join(str(error).split())})"
        ) from error
    return model
