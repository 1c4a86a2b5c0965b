"""Checkpoints are data: read with ``weights_only=True``, checked before use, and never run."""

import os
import pickle
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.cli import LightningArgumentParser

from mnist_lightning.data.datamodule import MNISTDataModule
from mnist_lightning.data.download import sample_dir
from mnist_lightning.errors import UserError
from mnist_lightning.files import checkpoint_of
from mnist_lightning.model.classifier import MNISTClassifier
from mnist_lightning.model.ensemble import Ensemble

# Lightning's names in a checkpoint for the options of the model, those of the data, and the data's own state
MODEL, DATA, DATA_STATE = "hyper_parameters", "datamodule_hyper_parameters", MNISTDataModule.__qualname__
RENAMED = {"width": "ink_width"}  # options of the model that earlier versions called otherwise
GONE = ("steps_per_execution", "gradient_clip_val")  # and those that are no longer the model's


class CheckpointError(UserError):
    """A file is not a checkpoint of this project."""


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds, as :func:`read_checkpoint` found it.

    Attributes:
        path: Its file.
        contents: Lightning's dictionary: tensors and plain values.

    Raises:
        CheckpointError: In each method, where that part of it is not what it should be.
    """

    path: Path
    contents: Mapping[str, Any]

    @property
    def model_options(self) -> dict[str, Any]:
        """The options of its MNISTClassifier."""
        given = {RENAMED.get(name, name): value for name, value in self.contents[MODEL].items() if name not in GONE}
        return self._checked(MNISTClassifier, given)

    def data_options(self, data_dir: str | None = None) -> dict[str, Any]:
        """The options of the MNISTDataModule that it was trained with.

        Outside the current folder they only read: a stranger's checkpoint shall not choose where files are written.

        Args:
            data_dir: A folder of other files to use instead.
        """
        options = self._checked(MNISTDataModule, self.contents[DATA])
        folder = Path(options["data_dir"])
        if data_dir is not None:
            return options | {"data_dir": data_dir, "source": "auto"}
        if folder.resolve().is_relative_to(Path.cwd()):
            return options
        folder = sample_dir(folder) if options["source"] == "sample" else folder
        return options | {"data_dir": str(folder), "source": "files"}

    @property
    def data_sha256(self) -> str:
        """The identity of the data that it was trained on."""
        state = self.contents.get(DATA_STATE)
        identity = state.get("sha256") if isinstance(state, dict) else None
        if not isinstance(identity, str):
            raise self.error("expected a checkpoint that says what data it was trained on; give another")
        return identity

    @property
    def history(self) -> dict[str, list[tuple[int, float]]]:
        """The points (epoch, value) of each metric that its training went through."""
        try:
            return {
                str(name): [(int(epoch), float(value)) for epoch, value in points]
                for name, points in self.contents.get("history", {}).items()
            }
        except (TypeError, ValueError, AttributeError) as error:
            raise self.error(f"expected a history of training, got something else ({error})") from error

    def classifier(self) -> MNISTClassifier:
        """Builds the classifier that it describes, with its weights, on the CPU."""
        options = self.model_options
        try:
            model = MNISTClassifier(**options)
        except UserError as error:
            raise self.error(str(error)) from error
        self.load_weights(model)
        return model

    def load_weights(self, model: MNISTClassifier) -> None:
        """Loads its weights into a classifier."""
        given = self.contents["state_dict"]
        try:
            for name, value in model.state_dict().items():  # metrics would take anything
                if name in given and getattr(given[name], "shape", None) != value.shape:
                    raise RuntimeError(f"{name} is no tensor of shape {tuple(value.shape)}")
            model.load_state_dict(given)
        except (RuntimeError, TypeError, AttributeError) as error:
            reason = " ".join(str(error).split())
            raise self.error(f"expected weights that fit the model, but they are another's ({reason})") from error

    def error(self, message: str) -> CheckpointError:
        """Returns an error that names the file."""
        return CheckpointError(f"{self.path}: {message}")

    def _checked(self, cls: type, values: Mapping[str, Any]) -> dict[str, Any]:
        """Checks options against a class's names and types, so that they can name nothing else."""
        parser = LightningArgumentParser(exit_on_error=False)
        parser.add_class_arguments(cls, "it")
        try:
            checked: dict[str, Any] = parser.parse_object({"it": dict(values)}).it.as_dict()
        except Exception as error:  # whatever a parser raises at a stranger's values
            reason = " ".join(str(error).split())
            raise self.error(f"expected the options of {cls.__name__}, got others ({reason})") from error
        return checked


def read_checkpoint(path: str | os.PathLike[str], needs: Mapping[str, type] = {}) -> Checkpoint:
    """Reads a checkpoint onto the CPU. Nothing in it can run code.

    Args:
        path: A file that scripts/train.py wrote, or that somebody says it did; or a run's folder, for its best one.
        needs: Parts it must have besides weights and options, and their types.

    Raises:
        CheckpointError: The file is missing, damaged, not a checkpoint of this project, or holds more than data.
    """
    path = checkpoint_of(Path(path))
    if not path.is_file():
        raise CheckpointError(f"expected a checkpoint or a run's folder at {path}, but there is no such file; give one")
    if not zipfile.is_zipfile(path):
        raise CheckpointError(f"{path}: expected a checkpoint, but it is damaged, or none at all; give another file")
    try:
        contents: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: expected tensors and plain values, but it holds Python objects, which could run code; it was not "
            "loaded: give a checkpoint that scripts/train.py wrote"
        ) from error
    except Exception as error:  # a stranger's bytes: there is no end to what torch.load raises at them
        raise CheckpointError(f"{path}: expected a checkpoint, but it is damaged; give another file") from error
    for key, kind in {"state_dict": dict, MODEL: dict, DATA: dict, **needs}.items():
        if not isinstance(contents, dict) or not isinstance(contents.get(key), kind):
            raise CheckpointError(f"{path}: expected a checkpoint of this project, but it has no {key}; give another")
    return Checkpoint(path, contents)


def load_classifier(path: str | os.PathLike[str]) -> MNISTClassifier:
    """Builds the classifier that a checkpoint describes, with its weights, on the CPU.

    Raises:
        CheckpointError: As :func:`read_checkpoint` and :meth:`Checkpoint.classifier`.
    """
    return read_checkpoint(path).classifier()


def load_ensemble(checkpoints: Sequence[Checkpoint]) -> Ensemble:
    """Builds an ensemble of the classifiers in several checkpoints, on the CPU.

    Raises:
        CheckpointError: As :meth:`Checkpoint.classifier`; or they were trained on different datasets.
        UserError: There are none.
    """
    for checkpoint in checkpoints:
        if checkpoint.data_sha256 != checkpoints[0].data_sha256:
            raise checkpoint.error(
                f"expected an ensemble trained on one dataset, but {checkpoints[0].path} was trained on another; "
                "give checkpoints of the same data"
            )
    return Ensemble([checkpoint.classifier() for checkpoint in checkpoints])
