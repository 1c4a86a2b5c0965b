"""Checkpoints are data: written whole, read with ``weights_only=True``, checked before use, and never run."""

import io
import os
import pickle
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.plugins.io import TorchCheckpointIO

from mnist_lightning.classifier import MNISTClassifier
from mnist_lightning.committee import Committee
from mnist_lightning.datamodule import MNISTDataModule
from mnist_lightning.errors import UserError
from mnist_lightning.files import whole

# Lightning's names in a checkpoint for the options of the model, those of the data, and the data's own state
MODEL, DATA, STATE = "hyper_parameters", "datamodule_hyper_parameters", MNISTDataModule.__qualname__
RESUMES = ("optimizer_states", "lr_schedulers", "loops", "callbacks", "global_step", "epoch")


class CheckpointError(UserError):
    """A file is not a checkpoint of this project."""


def read_checkpoint(path: str | os.PathLike[str], needs: Sequence[str] = ()) -> dict[str, Any]:
    """Reads a checkpoint's contents onto the CPU. Nothing in it can run code.

    Args:
        path: A file that scripts/train.py wrote, or that somebody says it did.
        needs: Parts it must have besides weights and hyperparameters.

    Raises:
        CheckpointError: The file is missing, damaged, not a checkpoint of this project, or holds more than data.
    """
    if not Path(path).is_file():
        raise CheckpointError(f"expected a checkpoint at {path}, but there is no such file; give the path of a .ckpt")
    if not zipfile.is_zipfile(path):
        raise CheckpointError(f"{path}: expected a checkpoint, but it is damaged, or none at all; give another file")
    try:
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: expected tensors and plain values, but it holds Python objects, which could run code; it was not "
            "loaded: give a checkpoint that scripts/train.py wrote"
        ) from error
    except Exception as error:  # a stranger's bytes: there is no end to what torch.load raises at them
        raise CheckpointError(f"{path}: expected a checkpoint, but it is damaged; give another file") from error
    for key in ("state_dict", MODEL, DATA, *needs):
        if not isinstance(checkpoint, dict) or key not in checkpoint:
            raise CheckpointError(f"{path}: expected a checkpoint of this project, but it has no {key}; give another")
    return checkpoint


def load_classifier(path: str | os.PathLike[str]) -> MNISTClassifier:
    """Builds the classifier that a checkpoint describes, with its weights, on the CPU.

    Raises:
        CheckpointError: As :func:`read_checkpoint`; or its hyperparameters or weights are not a MNISTClassifier's.
    """
    checkpoint = read_checkpoint(path)
    try:
        model = MNISTClassifier(**_checked(MNISTClassifier, checkpoint[MODEL], path))
    except UserError as error:
        raise CheckpointError(f"{path}: {error}") from error
    load_weights(model, checkpoint, path)
    return model


def load_committee(paths: Sequence[str | os.PathLike[str]]) -> Committee:
    """Builds a committee of the classifiers in several checkpoints, on the CPU.

    Raises:
        CheckpointError: As :func:`load_classifier`; or they were trained on different datasets.
        UserError: There are none.
    """
    identities = []
    for path in paths:
        state = read_checkpoint(path, needs=[STATE])[STATE]
        identity = state.get("sha256") if isinstance(state, dict) else None
        if not isinstance(identity, str):
            raise CheckpointError(f"{path}: expected a checkpoint that says what data it was trained on; give another")
        identities.append(identity)
        if identity != identities[0]:
            raise CheckpointError(
                f"{path}: expected a committee trained on one dataset, but {paths[0]} was trained on another; "
                "give checkpoints of the same data"
            )
    return Committee([load_classifier(path) for path in paths])


def load_weights(model: MNISTClassifier, checkpoint: dict[str, Any], path: str | os.PathLike[str]) -> None:
    """Loads a checkpoint's weights into a classifier.

    Raises:
        CheckpointError: They are another net's.
    """
    try:
        model.load_state_dict(checkpoint["state_dict"])
    except (RuntimeError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(
            f"{path}: expected weights that fit the model, but they are another's ({reason})"
        ) from error


def data_settings(checkpoint: dict[str, Any], path: str | os.PathLike[str]) -> dict[str, Any]:
    """Returns the MNISTDataModule options that a checkpoint was trained with.

    Outside the current folder they only read: a stranger's checkpoint shall not choose where files are written.

    Raises:
        CheckpointError: They are not such options.
    """
    settings = _checked(MNISTDataModule, checkpoint[DATA], path)
    if not Path(settings["data_dir"]).resolve().is_relative_to(Path.cwd()):
        settings["source"] = "files"
    return settings


def history(checkpoint: dict[str, Any], path: str | os.PathLike[str]) -> dict[str, list[tuple[int, float]]]:
    """Returns the points (epoch, value) of each metric that a checkpoint's training went through.

    Raises:
        CheckpointError: They are not such points.
    """
    try:
        return {
            str(name): [(int(epoch), float(value)) for epoch, value in points]
            for name, points in checkpoint.get("history", {}).items()
        }
    except (TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{path}: expected a history of training, got something else ({error})") from error


def _checked(cls: type, values: Any, path: str | os.PathLike[str]) -> dict[str, Any]:
    """Checks a checkpoint's hyperparameters against a class's names and types, so that they can name nothing else."""
    parser = LightningArgumentParser(exit_on_error=False)
    parser.add_class_arguments(cls, "it")
    try:
        checked: dict[str, Any] = parser.parse_object({"it": values}).it.as_dict()
    except Exception as error:  # whatever a parser raises at a stranger's values
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path}: expected the options of {cls.__name__}, got others ({reason})") from error
    return checked


class WholeFiles(TorchCheckpointIO):
    """Writes checkpoints so that a file under its own name is always whole: beside it first, then moved over it.

    Lightning's own goes through the system's folder for temporary files, and a move between two disks is a copy.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        """Saves a checkpoint.

        Raises:
            CheckpointError: It cannot be written: a full disk, a folder that is read-only or gone. An older one stays.
        """
        path = Path(path)
        data = io.BytesIO()
        torch.save(checkpoint, data)
        try:
            path.parent.mkdir(exist_ok=True)
            with whole(path) as unfinished:
                unfinished.write_bytes(data.getbuffer())
        except OSError as error:
            raise CheckpointError(
                f"cannot write {path}: {error.strerror}; what was saved before is whole: make room, or the folder "
                "writable, and go on with --ckpt_path last"
            ) from error
