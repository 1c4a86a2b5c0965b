"""The benchmark's figures as Markdown: medians, ratios round by round, and whether the machine was quiet enough."""

import statistics
from typing import Any

import rivals

GROWTH = 8
BELIEVABLE = 0.25  # spread of the floor, (max - min) / median, above which the machine is too noisy


def median(runs: list[dict[str, float]], key: str) -> float:
    return statistics.median(run[key] for run in runs)


def ratio(runs: list[dict[str, float]], others: list[dict[str, float]], key: str = "seconds") -> float:
    """The median of the ratios round by round, which a machine that drifts leaves as it is."""
    return statistics.median(a[key] / b[key] for a, b in zip(runs, others, strict=True))


def table(results: dict[str, Any]) -> str:
    """Returns the figures as two tables and a verdict."""
    epochs = results["epochs"]
    title = f"{results['images']:,} training images of {results['dataset']}, medians of {len(epochs['ours'])}"
    parts = (f"{results['machine']}, {title}", trainings(epochs, results["images"]), processes(results["processes"]))
    return "\n\n".join([*parts, verdict([run["seconds"] for run in epochs[rivals.FLOOR]])])


def trainings(epochs: dict[str, list[dict[str, float]]], images: int) -> str:
    lines = [
        "| training | s/epoch | images/s | / floor | / ours | test accuracy |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, runs in epochs.items():
        work = GROWTH if name.endswith("times the data") else 1  # per 1 times the data, so that the ratio is growth
        scaled = [{**run, "seconds": run["seconds"] / work} for run in runs]
        seconds = median(scaled, "seconds")
        lines.append(
            f"| {name} | {seconds:.3f} | {images / seconds:,.0f} | {ratio(scaled, epochs[rivals.FLOOR]):.2f} "
            f"| {ratio(scaled, epochs['ours']):.2f} | {median(runs, 'accuracy'):.2%} |"
        )
    return "\n".join(lines)


def processes(runs_of: dict[str, list[dict[str, float]]]) -> str:
    lines = ["| process | s | to the first step, s | peak MiB |", "| --- | ---: | ---: | ---: |"]
    for name, runs in runs_of.items():
        figures = (median(runs, "seconds"), median(runs, "first_step"), median(runs, "memory"))
        lines.append("| {} | {:.2f} | {:.2f} | {:.0f} |".format(name, *figures))
    train, guide = runs_of.values()
    ratios = [f"{ratio(train, guide, key):.2f}" for key in ("seconds", "first_step", "memory")]
    return "\n".join([*lines, f"| the first / the second | {' | '.join(ratios)} |"])


def verdict(times: list[float]) -> str:
    spread = (max(times) - min(times)) / statistics.median(times)
    believed = "believable" if spread <= BELIEVABLE else "too noisy to believe: run it again on a quiet machine"
    return f"spread of the floor {spread:.0%}: {believed}"
