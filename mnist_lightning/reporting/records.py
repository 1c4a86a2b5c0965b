"""How what was tested came to be: all that a checkpoint, and the run's folder around it, know of that."""

import inspect
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mnist_lightning import files
from mnist_lightning.checkpoints.read import DATA, Checkpoint
from mnist_lightning.data.datamodule import MNISTDataModule
from mnist_lightning.model.classifier import MNISTClassifier
from mnist_lightning.model.nets import sizes
from mnist_lightning.reporting.charts import History

WHEREABOUTS = ("data_dir", "source", "mirrors")


class Record(NamedTuple):
    """How a checkpoint came to be: what it knows itself, and what the run's folder around it knows.

    Attributes:
        name: Of its run's folder, or its own path where that has a better one.
        checkpoint: Its path.
        options: Of the model and of its data.
        environment: Of environment.json; ``training`` of training.json; both empty where they are not there.
        history: Points (epoch, value) of each metric.
        epoch: The one that it is of.
        best: The one with the best validation accuracy; None where nothing was validated.
        validation: ``epoch``, ``accuracy`` and ``loss`` of the checkpoint; empty where nothing was validated.
    """

    name: str
    checkpoint: Path
    options: Mapping[str, Any]
    environment: Mapping[str, Any]
    training: Mapping[str, Any]
    history: History
    epoch: int
    best: int | None
    validation: Mapping[str, float | None]


def record(checkpoint: Checkpoint) -> Record:
    """Gathers what is known of how a checkpoint came to be.

    Raises:
        CheckpointError: What it says of itself is not what it should be.
    """
    run = files.run_of(checkpoint.path)
    environment, training = (files.load_json(run / name) for name in ("environment.json", files.RUN_RECORD))
    history = checkpoint.history
    accuracies, losses = (dict(history.get(f"val/{name}", ())) for name in ("accuracy", "loss"))
    epoch = max((epoch for points in history.values() for epoch, _ in points), default=0)
    figures = {"epoch": epoch, "accuracy": accuracies.get(epoch), "loss": finite(losses.get(epoch))}
    whole = _history(training.get("history")) or history  # of the epochs after this checkpoint's too
    scores = dict(whole.get("val/accuracy", ()))  # the last one in each epoch, which checkpoints are chosen by
    return Record(
        str(run if files.checkpoint_of(run) == checkpoint.path else checkpoint.path),
        checkpoint.path,
        {**checkpoint.model_options, **checkpoint.contents[DATA]},
        environment,
        training,
        whole,
        epoch,
        max(scores, key=lambda each: scores[each], default=None),
        figures if epoch in accuracies else {},
    )


def _history(given: Any) -> dict[str, list[tuple[int, float]]]:
    """The history in a training.json; none where it is damaged."""
    try:
        return {
            name: [(int(epoch), math.nan if value is None else float(value)) for epoch, value in points]
            for name, points in given.items()
        }
    except (TypeError, ValueError, AttributeError):
        return {}


def finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None  # JSON has no NaN


def changed(options: Mapping[str, Any]) -> list[str]:
    """Returns the names of the options, of a model and of its data, whose values are not the default ones.

    Where the data lies is none of them.
    """
    usual = {
        name: parameter.default
        for cls in (MNISTClassifier, MNISTDataModule)
        for name, parameter in inspect.signature(cls).parameters.items()
    }
    usual["hidden"], usual["channels"] = sizes(options["net"], None, None)
    for name in WHEREABOUTS:
        del usual[name]
    return [name for name, value in options.items() if name in usual and _plain(value) != _plain(usual[name])]


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
