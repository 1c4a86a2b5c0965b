"""Test results as a person reads them (a table, plots, a page) and as a machine does (JSON)."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mnist_lightning import files
from mnist_lightning.data.images import ImageDataset
from mnist_lightning.model.base import BaseClassifier
from mnist_lightning.reporting import charts, plots
from mnist_lightning.reporting.charts import History

MISTAKES = 50  # of them, at most, in a plot

Mistakes = tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.float32]]  # images, labels, probabilities


def metrics(results: Mapping[str, Tensor], classes: Sequence[str], dataset: str, sha256: str) -> dict[str, Any]:
    """Turns test results into plain values.

    Args:
        results: ``MNISTClassifier.test_results``: loss (nats) and accuracy, scalars; precision, recall and f1, float32
            (10,); confusion_matrix, int64 (10, 10), a row for each true digit, a column for each predicted one.
        classes: The names of these ten, or of as many as there are.
        dataset: What was tested on.
        sha256: Its identity.

    Returns:
        What ``metrics.json`` holds. ``precision``, ``recall`` and ``f1`` are macro: the mean over the classes.
    """
    confusion = results["confusion_matrix"]
    scores = {name: results[name] for name in ("precision", "recall", "f1")}
    return {
        "dataset": dataset,
        "sha256": sha256,
        "num_samples": int(confusion.sum()),
        "accuracy": results["accuracy"].item(),
        "loss": results["loss"].item(),
        **{name: values.mean().item() for name, values in scores.items()},
        "per_class": [
            {"class": name, **{score: values[place].item() for score, values in scores.items()}, "support": support}
            for place, (name, support) in enumerate(zip(classes, confusion.sum(1).tolist(), strict=True))
        ],
        "confusion_matrix": confusion.tolist(),
    }


def summary(results: Mapping[str, Any]) -> str:
    """Returns accuracy, loss and what they were measured on, in a line."""
    seen = results.get("seen_in_training", 0)
    caution = "; whether it was trained on any is unknown" if seen is None else f", {seen:,} of which it was trained on"
    return (
        f"test accuracy {results['accuracy']:.2%}, loss {results['loss']:.4f} "
        f"({results['num_samples']:,} test images of {results['dataset']}{'' if seen == 0 else caution})"
    )


def table(results: Mapping[str, Any]) -> str:
    """Returns the results of :func:`metrics` as text for a terminal."""
    macro = {"class": "mean", **{name: results[name] for name in ("precision", "recall", "f1")}}
    macro["support"] = results["num_samples"]
    lines = [
        summary(results),
        "",
        "digit  precision  recall      F1  images",
        *(
            f"{row['class']:>5}  {row['precision']:9.4f}  {row['recall']:6.4f}  {row['f1']:6.4f}  {row['support']:6,}"
            for row in [*results["per_class"], macro]
        ),
        "",
        "confusion matrix (a row for each true digit, a column for each predicted one)",
        "      " + "".join(f"{row['class']:>6}" for row in results["per_class"]),
        *(
            f"{true['class']:>6}" + "".join(f"{count or '.':>6}" for count in row)
            for true, row in zip(results["per_class"], results["confusion_matrix"], strict=True)
        ),
    ]
    return "\n".join(lines)


def write_json(results: Mapping[str, Any], folder: Path) -> Path:
    """Writes ``metrics.json`` into a folder, made if need be, and returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "metrics.json"
    loss = results["loss"] if math.isfinite(results["loss"]) else None  # JSON has no NaN
    files.atomic_write(path, json.dumps({**results, "loss": loss}, indent=2) + "\n")
    return path


def write(
    folder: Path, title: str, results: Mapping[str, Any], model: BaseClassifier, dataset: ImageDataset, history: History
) -> Path:
    """Writes ``metrics.json``, ``report.html`` and its plots into a folder, made if need be.

    Args:
        folder: Where to.
        title: What was tested.
        results: Of :func:`metrics`, and whatever else ``metrics.json`` shall hold.
        model: What was tested.
        dataset: What it was tested on.
        history: How training went, for :func:`charts.curves`; nothing is drawn of an empty one.

    Returns:
        The path of ``report.html``.

    Raises:
        OSError: A file cannot be written.
    """
    images, labels = (part.numpy() for part in dataset.tensors)
    _, probabilities = model.predict(images)
    shown = plots.worst(labels, probabilities, MISTAKES)
    pngs = _pngs(results, history, model.classes, (images[shown], labels[shown], probabilities[shown]))
    page = _page(
        title=title,
        results=results,
        plots={name: plots.data_url(png) for name, png in pngs.items()},
        shown=len(shown),
        mistakes=int((probabilities.argmax(1) != labels).sum()),
        options={name: value for name, value in model.hparams.items() if value is not None},
    )
    write_json(results, folder)
    for name, png in pngs.items():
        files.atomic_write(folder / f"{name}.png", png)
    path = folder / "report.html"
    files.atomic_write(path, page)
    return path


def _pngs(results: Mapping[str, Any], history: History, classes: Sequence[str], mistakes: Mistakes) -> dict[str, bytes]:
    """Draws the plots of a report, as PNG, by their names; none of what there is not."""
    drawn = {"confusion_matrix": plots.confusion_matrix(np.array(results["confusion_matrix"]), classes)}
    if history:
        drawn["curves"] = charts.curves(history)
    if len(mistakes[0]):
        drawn["mistakes"] = plots.answers(*mistakes, classes)
    return {name: plots.png(plot) for name, plot in drawn.items()}


def _page(**content: Any) -> str:
    """Fills in report.html."""
    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("mnist_lightning.reporting", ""),
        autoescape=True,  # a checkpoint's options may be a stranger's
        trim_blocks=True,
    )
    return templates.get_template("report.html").render(**content)
