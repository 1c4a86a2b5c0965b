"""Test results in words and numbers: the table a person reads, the JSON a machine reads."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor


def metrics(results: Mapping[str, Tensor], dataset: str) -> dict[str, Any]:
    """Turns test results into plain values.

    Args:
        results: ``MNISTClassifier.test_results``: loss (nats) and accuracy, scalars; precision, recall and f1, float32
            (10,); confusion_matrix, int64 (10, 10), a row for each true digit, a column for each predicted one.
        dataset: What was tested on.

    Returns:
        What ``metrics.json`` holds. ``precision``, ``recall`` and ``f1`` are macro: the mean over the classes.
    """
    confusion = results["confusion_matrix"]
    scores = {name: results[name] for name in ("precision", "recall", "f1")}
    return {
        "dataset": dataset,
        "num_samples": int(confusion.sum()),
        "accuracy": results["accuracy"].item(),
        "loss": results["loss"].item(),
        **{name: values.mean().item() for name, values in scores.items()},
        "per_class": [
            {"class": digit, **{name: values[digit].item() for name, values in scores.items()}, "support": support}
            for digit, support in enumerate(confusion.sum(1).tolist())
        ],
        "confusion_matrix": confusion.tolist(),
    }


def write_json(results: Mapping[str, Any], folder: Path) -> Path:
    """Writes ``metrics.json`` into a folder, made if need be, and returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "metrics.json"
    path.write_text(json.dumps(results, indent=2) + "\n")
    return path


def summary(results: Mapping[str, Any]) -> str:
    """Returns accuracy, loss and what they were measured on, in a line."""
    return (
        f"test accuracy {results['accuracy']:.2%}, loss {results['loss']:.4f} "
        f"({results['num_samples']:,} test images of {results['dataset']})"
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
        "      " + "".join(f"{digit:6}" for digit in range(10)),
        *(
            f"{digit:6}" + "".join(f"{count or '.':>6}" for count in row)
            for digit, row in enumerate(results["confusion_matrix"])
        ),
    ]
    return "\n".join(lines)
