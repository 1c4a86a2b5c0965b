"""Checkpoints are data: read with ``weights_only=True``, checked before use, and never run."""

import os
import pickle
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from lightning.pytorch.cli import LightningArgumentParser

from mnist_lightning.checkpoints.ensemble import Ensemble
from mnist_lightning.checkpoints.runs import checkpoint_of
from mnist_lightning.data.datamodule import MNISTDataModule
from mnist_lightning.errors import UserError
from mnist_lightning.model.classifier import MNISTClassifier
from mnist_lightning.model.nets import LAYERS

# Lightning's names in a checkpoint for the options of the model, those of the data, and the data's own state
MODEL, DATA, DATA_STATE = "hyper_parameters", "datamodule_hyper_parameters", MNISTDataModule.__qualname__
IDENTITY = ("name", "source", "sha256", "test_sha256")  # of the data, in its state
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
        for value in given.values():
            items = value if isinstance(value, list | tuple) else [value]
            if len(items) > LAYERS or not all(isinstance(item, int | float | str | None) for item in items):
                raise self.error(f"expected options that are numbers, words or lists of up to {LAYERS}, got others")
        parser = LightningArgumentParser(exit_on_error=False)  # which checks that they can name nothing else
        parser.add_class_arguments(MNISTClassifier, "model")
        try:
            return dict(parser.parse_object({"model": given}).model.as_dict())
        except Exception as error:  # whatever a parser raises at a stranger's values
            raise self.error(f"expected the options of MNISTClassifier ({shorten(str(error), 300)})") from error

    @property
    def trained_on(self) -> dict[str, str]:
        """The data that it was trained on: its MNISTDataModule's ``state_dict``, and where it was, which is a hint."""
        state, hint = self.contents.get(DATA_STATE), str(self.contents[DATA].get("data_dir"))
        if not isinstance(state, dict) or not isinstance(state.get("sha256"), str):
            raise self.error("expected a checkpoint that says what data it was trained on; give another")
        known = {"name": Path(hint).name, **state}  # an older version's state was the SHA-256 alone
        printable = {name: "".join(filter(str.isprintable, str(known.get(name, "")))) for name in IDENTITY}
        return printable | {"data_dir": hint}

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
            with torch.device("meta"):  # where sizes that a stranger makes up cost nothing
                size = sum(parameter.numel() for parameter in MNISTClassifier(**options).parameters())
            if size > max(self.path.stat().st_size, 2**24):  # 64 MB are nothing to anybody
                raise UserError(f"expected a file that holds the {size:,} weights of its net, got a smaller one")
            model = MNISTClassifier(**options)
        except (UserError, RuntimeError, TypeError, OverflowError) as error:
            raise self.error(f"its net cannot be built ({shorten(str(error), 300)})") from error
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
            raise self.error(f"expected weights that fit the model, got others ({shorten(str(error), 300)})") from error

    def error(self, message: str) -> CheckpointError:
        """Returns an error that names the file."""
        return CheckpointError(f"{self.path}: {message}")


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
        but = "this folder has no checkpoint" if path.is_dir() else "there is no such file"
        raise CheckpointError(f"expected a checkpoint or a run's folder at {path}, but {but}; give one")
    with path.open("rb") as file:  # of a path, is_zipfile says no where it cannot be read
        whole = zipfile.is_zipfile(file)
    if not whole:
        raise CheckpointError(f"{path}: expected a checkpoint, but it is damaged, or none at all; give another file")
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(part.file_size for part in archive.infolist()) > path.stat().st_size:
                raise zipfile.BadZipFile("compressed, which could make any size of a small file")
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
        if checkpoint.trained_on["sha256"] != checkpoints[0].trained_on["sha256"]:
            raise checkpoint.error(
                f"expected an ensemble trained on one dataset, but {checkpoints[0].path} was trained on another; "
                "give checkpoints of the same data"
            )
    return Ensemble([checkpoint.classifier() for checkpoint in checkpoints])
