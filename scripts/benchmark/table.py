"""The benchmark's figures as Markdown: medians, ratios round by round, and whether the machine was quiet enough."""

import statistics
from itertools import pairwise
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
    """Returns the figures as three tables and a verdict."""
    epochs = results["epochs"]
    title = f"{results['images']:,} training images of {results['dataset']}, medians of {len(epochs['ours'])}"
    parts = [f"{results['machine']}, {title}", trainings(epochs, results["images"])]
    parts += [nets(results["nets"]), processes(results["processes"])]
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


def nets(runs_of: dict[str, list[dict[str, float]]]) -> str:
    lines = [
        "| an epoch of | bare loop, s | ours, s | ours / bare loop |",
        "| --- | ---: | ---: | ---: |",
    ]
    for (name, bare), (_, ours) in list(pairwise(runs_of.items()))[::2]:  # bare loop and ours, net by net
        seconds = f"{median(bare, 'seconds'):.3f} | {median(ours, 'seconds'):.3f}"
        lines.append(f"| {name.partition(',')[0]} | {seconds} | {ratio(ours, bare):.2f} |")
    return "\n".join(lines)


def processes(runs_of: dict[str, list[dict[str, float]]]) -> str:
    lines = [
        "| process | s | to the first step, s | from there on, s | peak MiB |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    keys = ("seconds", "first_step", "after", "memory")
    for name, runs in runs_of.items():
        figures = (median(runs, key) for key in keys)
        lines.append("| {} | {:.2f} | {:.2f} | {:.2f} | {:.0f} |".format(name, *figures))
    train, guide, two = runs_of.values()
    for name, runs, others in (("the first / the second", train, guide), ("the third / the first", two, train)):
        lines.append(f"| {name} | {' | '.join(f'{ratio(runs, others, key):.2f}' for key in keys)} |")
    return "\n".join(lines)


def verdict(times: list[float]) -> str:
    spread = (max(times) - min(times)) / statistics.median(times)
    believed = "believable" if spread <= BELIEVABLE else "too noisy to believe: run it again on a quiet machine"
    return f"spread of the floor {spread:.0%}: {believed}"
