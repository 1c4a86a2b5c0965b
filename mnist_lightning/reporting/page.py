"""The report of a test: one page to forward, with its plots and digits in it; it asks nothing of anywhere."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mnist_lightning import files
from mnist_lightning.reporting import charts, plots
from mnist_lightning.reporting.records import Record, changed
from mnist_lightning.reporting.report import Tested, pairs, write_json

MISTAKES = 48  # of them, at most, on the page: whole rows of 12, 8, 6 or 4
EXAMPLES = 5  # of each pair of classes that were confused
THUMB = 64  # pixels of an image's longer side, at most

DISTORTIONS = ("rotation", "scale", "shear", "shift", "elastic")
VERSIONS = ("python", "torch", "lightning", "torchmetrics", "numpy")


def write(folder: Path, tested: Tested) -> Path:
    """Writes ``metrics.json``, ``report.html`` and its plots into a folder, made if need be.

    Returns:
        The path of ``report.html``.

    Raises:
        OSError: A file cannot be written.
    """
    write_json(tested.results, folder)
    drawn = _plots(tested)
    for name, svg in drawn.items():
        files.atomic_write(folder / f"{name}.svg", charts.alone(svg))
    labels = tested.dataset.tensors[1].numpy()
    shown = plots.worst(labels, tested.probabilities, MISTAKES)
    page = charts.render(
        "report.html",
        title=_title(tested),
        results=tested.results,
        plots=drawn,
        mistakes=[_picture(tested, index) for index in shown.tolist()],
        wrong=int((tested.probabilities.argmax(1) != labels).sum()),
        pairs=_pairs(tested),
        records=[_facts(record) for record in tested.records],
    )
    path = folder / "report.html"
    files.atomic_write(path, page)
    return path


def _title(tested: Tested) -> str:
    """The result, in a sentence."""
    results, count = tested.results, len(tested.records)
    right = int(np.trace(results["confusion_matrix"]))
    who = f"An ensemble of {count}" if count > 1 else type(getattr(tested.model, "net", tested.model)).__name__
    return f"{who} reads {right:,} of {results['num_samples']:,} test images of {results['dataset']} right"


def _plots(tested: Tested) -> dict[str, str]:
    """Draws the plots of a report, by their names; none of what there is not."""
    first, *others = tested.records
    drawn = charts.curves(first.history, first.best)
    if others:
        drawn = charts.compared([record.history for record in tested.records])
    counts = np.array(tested.results["confusion_matrix"])
    return {**drawn, "confusion_matrix": charts.matrix(counts, tested.model.classes)}


def _pairs(tested: Tested) -> list[dict[str, Any]]:
    """The pairs of classes that were most often confused, with the images of which the net was surest."""
    labels, counts = tested.dataset.tensors[1].numpy(), np.array(tested.results["confusion_matrix"])
    said, sure = tested.probabilities.argmax(1), tested.probabilities.max(1)
    classes, found = tested.model.classes, []
    for true, answer in pairs(counts):
        there = np.flatnonzero((labels == true) & (said == answer))
        examples = there[(-sure[there]).argsort(kind="stable")][:EXAMPLES]
        found.append(
            {
                "true": classes[true],
                "answer": classes[answer],
                "count": int(counts[true, answer]),
                "of": int(counts[true].sum()),
                "images": [_picture(tested, index) for index in examples.tolist()],
            }
        )
    return found


def _picture(tested: Tested, index: int) -> dict[str, Any]:
    """An image of the test set as the page shows it, with what was made of it."""
    image = tested.dataset.tensors[0][index].numpy()
    answer, classes = int(tested.probabilities[index].argmax()), tested.model.classes
    return {
        "source": plots.data_url(plots.png(_thumb(image))),
        "colour": image.ndim == 3,
        "wide": image.shape[1],
        "high": image.shape[0],
        "true": classes[int(tested.dataset.tensors[1][index])],
        "answer": classes[answer],
        "sure": float(tested.probabilities[index, answer]),
        "number": index,
    }


def _thumb(image: NDArray[np.uint8]) -> Image.Image:
    """An image as dark ink on white, or in its colours; none larger than the page shows it."""
    thumb = Image.fromarray(image if image.ndim == 3 else 255 - image)
    thumb.thumbnail((THUMB, THUMB))
    return thumb


def _facts(record: Record) -> dict[str, Any]:
    """What the page says of how something came to be: in words, and every option."""
    options, environment, training = record.options, record.environment, record.training
    distorted = [f"{name} {options[name]}" for name in DISTORTIONS if options.get(name)]
    epochs = [str(training.get("epochs", f"at least {record.epoch}"))]
    epochs += [] if record.best is None else [f"the best on validation was epoch {record.best}"]
    if record.cut:
        epochs.append(f"tested as within epoch {record.epoch + 1}")
    elif record.epoch != record.best:
        epochs.append(f"tested as after epoch {record.epoch}")
    given = {
        "parameters": _number("{:,}", training.get("parameters")),
        "epochs": "; ".join(epochs),
        "batch size": options.get("batch_size"),
        "learning rate": f"{options['lr']}, {options['optimizer']}, schedule {options['scheduler']}",
        "distortions": ", ".join(distorted) or "none",
        "seed": environment.get("seed"),
        "training took": _number("{:.1f} s", training.get("seconds")),
        "date": environment.get("date"),
        "device": environment.get("device"),
        "threads": environment.get("threads"),
        "processes": environment.get("processes"),
        "versions": ", ".join(f"{name} {environment[name]}" for name in VERSIONS if name in environment),
        "git commit": environment.get("git_commit"),
        "data": environment.get("dataset"),
        "SHA-256 of the data": environment.get("dataset_sha256"),
        "checkpoint": record.checkpoint,
    }
    first = changed(options)
    return {
        "name": record.name,
        "facts": {name: value for name, value in given.items() if value not in (None, "")},
        "changed": {name: options[name] for name in first} | dict(record.asked),
        "usual": {name: value for name, value in options.items() if name not in first and value is not None},
    }


def _number(form: str, value: Any) -> str | None:
    return form.format(value) if isinstance(value, int | float) else None
