"""Test results as a machine reads them (JSON) and as a terminal shows them."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mnist_lightning import files
from mnist_lightning.checkpoints.ensemble import Ensemble
from mnist_lightning.checkpoints.read import Checkpoint
from mnist_lightning.data.datamodule import MNISTDataModule
from mnist_lightning.data.format import DIGITS
from mnist_lightning.data.images import ImageDataset
from mnist_lightning.model.base import BaseClassifier
from mnist_lightning.reporting.records import Record, changed, finite, record

COLUMNS = 80  # of a terminal, which a confusion matrix of many classes does not fit
PAIRS = 6  # of classes that were confused

Probabilities = NDArray[np.float32]  # (N, classes)


class Tested(NamedTuple):
    """What was tested on a dataset, and what came out: what ``metrics.json`` holds, and each image's probabilities."""

    model: BaseClassifier
    records: Sequence[Record]
    dataset: ImageDataset
    results: Mapping[str, Any]
    probabilities: Probabilities


def metrics(results: Mapping[str, Tensor], data: MNISTDataModule) -> dict[str, Any]:
    """Turns test results into plain values.

    Args:
        results: ``MNISTClassifier.test_results``: loss (nats) and accuracy, scalars; precision, recall and f1, float32
            (10,); confusion_matrix, int64 (10, 10), a row for each true digit, a column for each predicted one.
        data: What was tested on; its classes are these ten, or as many as there are.

    Returns:
        What ``metrics.json`` holds. ``precision``, ``recall`` and ``f1`` are macro: the mean over the classes.
    """
    confusion = results["confusion_matrix"]
    scores = {name: results[name] for name in ("precision", "recall", "f1")}
    return {
        "dataset": data.dataset_name,
        "sha256": data.test_sha256,
        "num_samples": int(confusion.sum()),
        "accuracy": results["accuracy"].item(),
        "loss": results["loss"].item(),
        **{name: values.mean().item() for name, values in scores.items()},
        "per_class": [
            {"class": name, **{score: values[place].item() for score, values in scores.items()}, "support": support}
            for place, (name, support) in enumerate(zip(data.classes, confusion.sum(1).tolist(), strict=True))
        ],
        "confusion_matrix": confusion.tolist(),
    }


def tested(
    results: Mapping[str, Any],
    model: BaseClassifier,
    checkpoints: Sequence[Checkpoint],
    dataset: ImageDataset,
    probabilities: Tensor | None = None,
) -> Tested:
    """Asks a model, and each member of an ensemble, for its answers, and gathers what is known of how it came to be.

    Args:
        results: Of :func:`metrics`, and whatever else ``metrics.json`` shall hold.
        model: What was tested.
        checkpoints: What it was read from: one, or each member's.
        dataset: What it was tested on.
        probabilities: What it answered there, so that the mistakes shown are those that were counted: another device
            or precision may make others. By default it is asked again.
    """
    images, labels = (part.numpy() for part in dataset.tensors)
    records = [record(checkpoint) for checkpoint in checkpoints]
    given = model.predict(images)[1] if probabilities is None else probabilities.numpy()
    if isinstance(model, Ensemble):
        answers = [member.predict(images)[1] for member in model.members]  # type: ignore[operator]
        members = [_member(*each, labels) for each in zip(records, answers, strict=True)]
        return Tested(model, records, dataset, {**results, "members": members}, given)
    known = {"validation": records[0].validation or None, "training": _without_history(records[0].training) or None}
    results = {**results, **{name: value for name, value in known.items() if value}}
    return Tested(model, records, dataset, results, given)


def _without_history(training: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in training.items() if name not in ("history", "finished")}


def _member(record: Record, answers: Probabilities, labels: NDArray[np.int64]) -> dict[str, Any]:
    """A member's figures beside those of the others; the loss is cross-entropy for each, in nats."""
    given = np.maximum(answers[np.arange(len(labels)), labels], 1e-12)
    return {
        "name": record.name,
        "validation_accuracy": record.validation.get("accuracy"),
        "accuracy": float((answers.argmax(1) == labels).mean()),
        "loss": finite(float(-np.log(given).mean())),
        "epoch": record.epoch,
        "seed": record.environment.get("seed"),
        "options": {name: record.options[name] for name in changed(record.options)},
    }


def pairs(counts: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Returns the classes that were most often confused, the true one and the answer: the most frequent first."""
    wrong = np.where(np.eye(len(counts), dtype=bool), 0, counts)
    order = (-wrong).argsort(axis=None, kind="stable")[:PAIRS]
    places = np.column_stack(np.unravel_index(order, wrong.shape)).tolist()
    return [(true, answer) for true, answer in places if wrong[true, answer]]


def summary(results: Mapping[str, Any]) -> str:
    """Returns accuracy, loss and what they were measured on, in a line."""
    seen = results.get("seen_in_training", 0)
    caution = "; whether it was trained on any is unknown" if seen is None else f", {seen:,} of which it was trained on"
    return (
        f"test accuracy {results['accuracy']:.2%}, loss {results['loss']:.4f} "
        f"({results['num_samples']:,} test images of {results['dataset']}{'' if seen == 0 else caution})"
    )


def table(results: Mapping[str, Any]) -> str:
    """Returns the results of :func:`tested` as text for a terminal."""
    macro = {"class": "mean", **{name: results[name] for name in ("precision", "recall", "f1")}}
    macro["support"] = results["num_samples"]
    names = [str(row["class"]) for row in results["per_class"]]
    counts = np.array(results["confusion_matrix"])
    what, wide = "digit" if set(names) <= set(DIGITS) else "class", max(5, *map(len, names))
    lines = [
        *_members_table(results),
        summary(results),
        "",
        f"{what:>{wide}}  precision  recall      F1  images",
        *(
            f"{row['class']:>{wide}}  {row['precision']:9.4f}  {row['recall']:6.4f}  {row['f1']:6.4f}  "
            f"{row['support']:6,}"
            for row in [*results["per_class"], macro]
        ),
    ]
    cell = max(6, wide + 1)
    if cell * (len(names) + 1) <= COLUMNS:
        cells = [["", *names], *([name, *map(_count, row)] for name, row in zip(names, counts.tolist(), strict=True))]
        lines += ["", f"confusion matrix (a row for each true {what}, a column for each predicted one)"]
        lines += ["".join(f"{each:>{cell}}" for each in row) for row in cells]
    confused = [f"  {names[i]} read as {names[j]}: {counts[i, j]:,} of {counts[i].sum():,}" for i, j in pairs(counts)]
    return "\n".join([*lines, *(["", "most often confused", *confused] if confused else [])])


def _count(count: int) -> str:
    return str(count or ".")


def _members_table(results: Mapping[str, Any]) -> list[str]:
    """The members of an ensemble and what they reach together; nothing where there is one classifier."""
    rows = [*results.get("members", ()), {"name": "together, the mean of their probabilities", **results}]
    if len(rows) == 1:
        return []
    wide = max(len(row["name"]) for row in rows)
    lines = [f"{'':{wide}}  val acc  test acc    loss"]
    for row in rows:
        validation = row.get("validation_accuracy")
        loss = math.nan if row["loss"] is None else row["loss"]
        shown = "" if validation is None else f"{validation:.2%}"
        lines.append(f"{row['name']:{wide}}  {shown:>7}  {row['accuracy']:8.2%}  {loss:6.4f}")
    return [*lines, ""]


def write_json(results: Mapping[str, Any], folder: Path) -> None:
    """Writes ``metrics.json`` into a folder, made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {**results, "loss": finite(results["loss"])}
    files.atomic_write(folder / "metrics.json", json.dumps(content, indent=2) + "\n")
