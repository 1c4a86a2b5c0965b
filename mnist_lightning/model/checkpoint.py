"""Checkpoints are data: written whole, read with ``weights_only=True``, checked before use, and never run."""

import io
import os
import pickle
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor

from mnist_lightning import files
from mnist_lightning.data.datamodule import MNISTDataModule
from mnist_lightning.data.download import sample_dir
from mnist_lightning.errors import UserError
from mnist_lightning.model.classifier import MNISTClassifier
from mnist_lightning.model.ensemble import Ensemble
from mnist_lightning.training.restoring import check_like

# Lightning's names in a checkpoint for the options of the model, those of the data, and the data's own state
MODEL, DATA, STATE = "hyper_parameters", "datamodule_hyper_parameters", MNISTDataModule.__qualname__
RESUMES = {
    "optimizer_states": list,
    "lr_schedulers": list,
    "loops": dict,
    "callbacks": dict,
    "global_step": int,
    "epoch": int,
    "pytorch-lightning_version": str,
    "rng_state": Tensor,
}
# options of the model that the optimizer's and the schedule's states hold
RESTORED = ("lr", "weight_decay", "scheduler", "step_size", "gamma")


class CheckpointError(UserError):
    """A file is not a checkpoint of this project."""


def read_checkpoint(path: str | os.PathLike[str], needs: Mapping[str, type] = {}) -> dict[str, Any]:
    """Reads a checkpoint's contents onto the CPU. Nothing in it can run code.

    Args:
        path: A file that scripts/train.py wrote, or that somebody says it did.
        needs: Parts it must have besides weights and hyperparameters, and their types.

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
    for key, kind in {"state_dict": dict, MODEL: dict, DATA: dict, **needs}.items():
        if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get(key), kind):
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


def load_ensemble(paths: Sequence[str | os.PathLike[str]]) -> Ensemble:
    """Builds a committee of the classifiers in several checkpoints, on the CPU.

    Raises:
        CheckpointError: As :func:`load_classifier`; or they were trained on different datasets.
        UserError: There are none.
    """
    identities = []
    for path in paths:
        identity = read_checkpoint(path, needs={STATE: dict})[STATE].get("sha256")
        if not isinstance(identity, str):
            raise CheckpointError(f"{path}: expected a checkpoint that says what data it was trained on; give another")
        identities.append(identity)
        if identity != identities[0]:
            raise CheckpointError(
                f"{path}: expected a committee trained on one dataset, but {paths[0]} was trained on another; "
                "give checkpoints of the same data"
            )
    return Ensemble([load_classifier(path) for path in paths])


def load_weights(model: MNISTClassifier, checkpoint: dict[str, Any], path: str | os.PathLike[str]) -> None:
    """Loads a checkpoint's weights into a classifier.

    Raises:
        CheckpointError: They are another net's.
    """
    own, given = model.state_dict(), checkpoint["state_dict"]
    try:
        for name, value in own.items():
            if name in given:
                check_like(value, given[name], name)  # metrics would take anything
        model.load_state_dict(given)
    except (UserError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(
            f"{path}: expected weights that fit the model, but they are another's ({reason})"
        ) from error


def check_restored(checkpoint: dict[str, Any], options: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Checks that a run that goes on from a checkpoint does not ask for what the checkpoint's state would undo.

    Raises:
        CheckpointError: It has other options of the optimizer or the schedule.
    """
    theirs = _checked(MNISTClassifier, checkpoint[MODEL], path)
    for name in RESTORED:
        if options[name] != theirs[name]:
            raise CheckpointError(
                f"{path}: expected --model.{name} {theirs[name]}, which its optimizer goes on with, got "
                f"{options[name]}; give the same options, or --config with the run's config.yaml"
            )


def data_settings(
    checkpoint: dict[str, Any], path: str | os.PathLike[str], data_dir: str | None = None
) -> dict[str, Any]:
    """Returns the MNISTDataModule options that a checkpoint was trained with.

    Outside the current folder they only read: a stranger's checkpoint shall not choose where files are written.

    Args:
        checkpoint: Of :func:`read_checkpoint`.
        path: Its file, for the errors.
        data_dir: A folder of other files to use instead.

    Raises:
        CheckpointError: They are not such options.
    """
    settings = _checked(MNISTDataModule, checkpoint[DATA], path)
    folder = Path(settings["data_dir"])
    if data_dir is not None:
        settings |= {"data_dir": data_dir, "source": "auto"}
    elif not folder.resolve().is_relative_to(Path.cwd()):
        sample = settings["source"] == "sample"
        settings |= {"data_dir": str(sample_dir(folder) if sample else folder), "source": "files"}
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


class AtomicCheckpointIO(TorchCheckpointIO):
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
            files.atomic_write(path, data.getvalue())
        except OSError as error:
            raise CheckpointError(
                f"cannot write {path}: {error.strerror}; what was saved before is whole: make room, or the folder "
                "writable, and go on with --ckpt_path last"
            ) from error
