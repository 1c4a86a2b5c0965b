"""How what was tested came to be: all that a checkpoint, and the run's folder around it, know of that."""

import inspect
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lightning.pytorch import Trainer

from mnist_lightning.checkpoints import runs
from mnist_lightning.checkpoints.read import DATA, Checkpoint
from mnist_lightning.data.datamodule import MNISTDataModule
from mnist_lightning.model.classifier import MNISTClassifier
from mnist_lightning.model.nets import sizes
from mnist_lightning.reporting.charts import History

WHEREABOUTS = ("data_dir", "source", "mirrors")
# Options of the Trainer that change where a run is and what it shows, not what comes out; or that the page has anyway
SILENT = ["accelerator", "devices", "num_nodes", "max_epochs", "logger", "log_every_n_steps", "num_sanity_val_steps"]
SILENT += ["default_root_dir", "profiler", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"]


class Record(NamedTuple):
    """How a checkpoint came to be: what it knows itself, and what the run's folder around it knows.

    Attributes:
        name: Of its run's folder, or its own path where that has a better one.
        checkpoint: Its path.
        options: Of the model and of its data.
        asked: Of config.yaml: the run's other options that change what comes out, where they are not the default ones.
        environment: Of environment.json; ``training`` of training.json; both empty where they are not there.
        history: Points (epoch, value) of each metric.
        epoch: The newest that it went through.
        cut: Whether it is of a state from within the next one.
        best: The run's epoch with the best validation accuracy; None where nothing was validated.
        validation: ``epoch``, ``accuracy`` and ``loss`` of the checkpoint; empty where it was not validated.
    """

    name: str
    checkpoint: Path
    options: Mapping[str, Any]
    asked: Mapping[str, Any]
    environment: Mapping[str, Any]
    training: Mapping[str, Any]
    history: History
    epoch: int
    cut: bool
    best: int | None
    validation: Mapping[str, float | None]


def record(checkpoint: Checkpoint) -> Record:
    """Gathers what is known of how a checkpoint came to be.

    Raises:
        CheckpointError: What it says of itself is not what it should be.
    """
    run = runs.run_of(checkpoint.path)
    environment, training = (runs.load_json(run / name) for name in ("environment.json", runs.RUN_RECORD))
    history = checkpoint.history
    accuracies, losses = (dict(history.get(f"val/{name}", ())) for name in ("accuracy", "loss"))
    epoch = max((epoch for points in history.values() for epoch, _ in points), default=0)
    cut = checkpoint.contents.get("epoch") == epoch  # Lightning counts from 0, and goes on at an epoch's end
    figures = {"epoch": epoch, "accuracy": accuracies.get(epoch), "loss": finite(losses.get(epoch))}
    whole = _history(training.get("history")) or history  # of the epochs after this checkpoint's too
    best, *_ = runs.best_epoch(training | {"history": whole})
    return Record(
        str(run if runs.stands_for_run(checkpoint.path) else checkpoint.path),
        checkpoint.path,
        {**checkpoint.model_options, **checkpoint.contents[DATA]},
        _asked(runs.config_of(run)),
        environment,
        training,
        whole,
        epoch,
        cut,
        best,
        figures if epoch in accuracies and not cut else {},
    )


def _asked(config: Mapping[str, Any]) -> dict[str, Any]:
    """Of a run's options those that are neither the model's nor the data's, and change what comes out."""
    usual = {name: each.default for name, each in inspect.signature(Trainer).parameters.items() if name not in SILENT}
    given = runs.part_of(config, "trainer")
    found = {f"trainer.{name}": given[name] for name in usual if name in given and given[name] != usual[name]}
    stopping = runs.part_of(config, "early_stopping")
    found["early_stopping.patience"] = patience = stopping.get("patience")
    found["early_stopping.min_delta"] = stopping.get("min_delta") if patience is not None else None
    found |= {name: config.get(name) for name in ("ema_decay", "ckpt_path")}
    return {name: _as_called(value) for name, value in found.items() if value is not None}


def _as_called(value: Any) -> Any:
    """A class of the user's, or several, as Python would make them; another value as it is."""
    if isinstance(value, list):
        return ", ".join(str(_as_called(each)) for each in value)
    if not isinstance(value, dict) or "class_path" not in value:
        return value
    given = {name: each for name, each in runs.part_of(value, "init_args").items() if each is not None}
    return f"{value['class_path']}({', '.join(f'{name}={each!r}' for name, each in given.items())})"


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
