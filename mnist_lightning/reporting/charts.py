"""Plots as SVG, from templates: sharp on every screen, light and dark, with values on hover or touch and no script.

They are drawn 360 pixels wide, as a phone shows them; where there is room they grow, and their text with them.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mnist_lightning.reporting.plots import shades

Points = Sequence[tuple[float, float]]  # epoch, value
History = Mapping[str, Points]

LEFT, TOP, RIGHT, BOTTOM = 48, 56, 348, 214  # where a chart's lines are
FLAT = 1e-4  # of a value: ticks closer than this lets them be would all read the same
FLOAT32 = 1e39  # more than any float32 but infinity, which can't be drawn
BANDS = 120  # places across a chart whose values can be asked for; more could not be hit
NAMED = 4  # lines that have room for their names; of more the range is said
LETTER = 7  # width of one, in a plot's own pixels
SAID = 310, 480  # what is said below a matrix is as wide as that; of longer names the end is cut off
ROOMY = 12  # classes whose counts can be read in the cells of a matrix


def render(template: str, **content: Any) -> str:
    """Fills in one of this folder's templates."""
    return str(_templates().get_template(template).render(**content))


def alone(svg: str) -> str:
    """Returns a plot as a file of its own, with the colours that a page gives it."""
    begin, end = svg.split(">", 1)
    return f"{begin}><style>{render('plot.css')}</style>{end}"


@cache
def _templates() -> Any:
    import jinja2  # here, as a third of the scripts draw nothing

    return jinja2.Environment(
        loader=jinja2.PackageLoader("mnist_lightning.reporting", "templates"),
        autoescape=True,  # a checkpoint's options may be a stranger's
        trim_blocks=True,
        lstrip_blocks=True,
    )


def curves(history: History, best: int | None = None) -> dict[str, str]:
    """Draws loss and accuracy over the epochs, of training and of validation; what is not finite is left out.

    Args:
        history: Points (epoch, value) of each of ``train/loss``, ``val/loss``, ``train/accuracy``, ``val/accuracy``.
        best: The epoch to mark.

    Returns:
        The charts by their names, ``loss`` and ``accuracy``; none of what there is nothing to draw of.
    """
    return {
        name: chart(title, lines, best, form=form)
        for name, title, form in (("loss", "Loss", "{:.4f}"), ("accuracy", "Accuracy", "{:.2%}"))
        if (lines := _drawable({part: history.get(f"{part}/{name}", ()) for part in ("train", "val")}))
    }


def compared(histories: Sequence[History]) -> dict[str, str]:
    """Draws the validation loss and accuracy of several runs, as :func:`curves` does of one."""
    return {
        name: chart(title, lines, form=form)
        for name, title, form in (
            ("loss", "Validation loss", "{:.4f}"),
            ("accuracy", "Validation accuracy", "{:.2%}"),
        )
        if (lines := _drawable({str(number): each.get(f"val/{name}", ()) for number, each in enumerate(histories, 1)}))
    }


def learning_rates(rates: Sequence[float], losses: Sequence[float], chosen: int) -> str:
    """Draws the loss while the learning rate was raised from step to step, and the step whose rate was chosen."""
    points = [(math.log10(rate), loss) for rate, loss in zip(rates, losses, strict=True)]
    lines = _drawable({"loss": points})
    return chart("Loss", lines, points[chosen][0], "learning rate", lambda power: f"{10**power:.2g}", mark="suggested")


def _drawable(lines: Mapping[str, Points]) -> dict[str, list[tuple[float, float]]]:
    finite = {name: [point for point in points if abs(point[1]) < FLOAT32] for name, points in lines.items()}
    return {name: points for name, points in finite.items() if points}  # nan is not below anything


class _Scales(NamedTuple):
    """The scales of a chart: the first epoch and the last, and the values that have a tick."""

    first: float
    last: float
    ticks: Sequence[float]

    def x(self, epoch: float) -> float:
        """Where an epoch is across the chart, in its pixels."""
        return round(LEFT + (epoch - self.first) / (self.last - self.first) * (RIGHT - LEFT), 1)

    def y(self, value: float) -> float:
        """Where a value is, from the top."""
        return round(BOTTOM - (value - self.ticks[0]) / (self.ticks[-1] - self.ticks[0]) * (BOTTOM - TOP), 1)

    def track(self, points: Points) -> list[tuple[float, float]]:
        """Where a line goes."""
        return [(self.x(epoch), self.y(value)) for epoch, value in points]


def chart(
    title: str,
    lines: Mapping[str, Points],
    marked: float | None = None,
    axis: str = "epoch",
    name: Callable[[float], str] = "{:g}".format,
    form: str = "{:.4g}",
    mark: str = "best",
) -> str:
    """Draws lines over epochs, or over anything else.

    Args:
        title: What their values are.
        lines: Points (epoch, value) of each, by its name; finite, and at least one.
        marked: The epoch to mark.
        axis: What runs across.
        name: Says an epoch.
        form: Says a value.
        mark: What is marked.
    """
    scales = _scales(lines, marked)
    across = [tick for tick in ticks(scales.first, scales.last) if scales.first <= tick <= scales.last]
    return render(
        "chart.svg",
        title=title,
        axis=axis,
        values=[(scales.y(tick), _tick(tick, form)) for tick in scales.ticks],
        epochs=[(scales.x(tick), name(tick)) for tick in across if axis != "epoch" or tick == round(tick)],
        lines=[
            {
                "track": scales.track(points),
                "name": part if len(lines) <= NAMED else "",
                "last": form.format(points[-1][1]),
            }
            for part, points in lines.items()
        ],
        mark=None if marked is None else _mark(scales, lines, marked, f"{mark}: {axis} {name(marked)}"),
        bands=_bands(scales, lines, lambda epoch: f"{axis} {name(epoch)}", form),
    )


def _scales(lines: Mapping[str, Points], marked: float | None) -> _Scales:
    """Scales that have room for all that is drawn."""
    epochs = [epoch for points in lines.values() for epoch, _ in points] + ([] if marked is None else [marked])
    values = [value for points in lines.values() for _, value in points]
    first, last = min(epochs), max(epochs)
    return _Scales(first, last if last > first else first + 1, ticks(min(values), max(values)))


def _tick(value: float, form: str) -> str:
    return f"{100 * value:.6g}%" if form.endswith("%}") else f"{value:.6g}"


def _mark(scales: _Scales, lines: Mapping[str, Points], marked: float, text: str) -> dict[str, Any]:
    """Where a mark stands and where its text has room: left or right of it, above or below the last line."""
    x, *_, points = scales.x(marked), *lines.values()
    low = scales.y(min(points, key=lambda point: abs(point[0] - marked))[1]) > (TOP + BOTTOM) / 2
    anchor, along = ("end", x - 5) if x > (LEFT + RIGHT) / 2 else ("start", x + 5)
    return {"x": x, "text": text, "anchor": anchor, "along": along, "down": TOP + 12 if low else BOTTOM - 8}


def _bands(
    scales: _Scales, lines: Mapping[str, Points], name: Callable[[float], str], form: str
) -> list[dict[str, Any]]:
    """What is said where a pointer is: the values of the epoch there."""
    by_epoch: dict[float, dict[str, float]] = {}
    for part, points in lines.items():
        for epoch, value in points:
            by_epoch.setdefault(epoch, {})[part] = value
    every = -(-len(by_epoch) // BANDS)
    epochs = sorted({*sorted(by_epoch)[::every], max(by_epoch)})
    edges = [LEFT, *(scales.x((one + other) / 2) for one, other in pairwise(epochs)), RIGHT]
    bands = []
    for epoch, (left, right) in zip(epochs, pairwise(edges), strict=True):
        there = by_epoch[epoch]
        said = [f"{part} {form.format(value)}" for part, value in there.items()]
        if len(there) > NAMED:
            said = [f"{form.format(min(there.values()))} to {form.format(max(there.values()))}"]
        bands.append(
            {
                "left": left,
                "width": round(right - left, 1),
                "x": scales.x(epoch),
                "dots": [scales.y(value) for value in there.values()],
                "tip": ": ".join([name(epoch), ", ".join(said)]),
            }
        )
    return bands


def ticks(low: float, high: float) -> list[float]:
    """Round numbers from below ``low`` to above ``high``, 4 to 9 of them; from 0 where the two are as good as one."""
    if high - low <= FLAT * abs(high):
        low, high = min(low, 0), max(high, 0) or 1
    span = high - low
    power = 10.0 ** math.floor(math.log10(span / 4))
    step = next(power * factor for factor in (1, 2, 5, 10) if span / (power * factor) <= 6)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [step * count for count in range(first, max(last, first + 1) + 1)]


def matrix(counts: NDArray[np.int64], classes: Sequence[str]) -> str:
    """Draws a confusion matrix.

    Args:
        counts: Integers (classes, classes), a row for each true class, a column for each answer.
        classes: Their names.
    """
    roomy, longest = len(classes) <= ROOMY, max(map(len, classes))
    cell, margin = 14 if not roomy else 30 if len(classes) > 6 else 44, 24 + LETTER * longest
    totals, shares = np.maximum(counts.sum(1, keepdims=True), 1), shades(counts)
    cells = [
        {
            "x": int(j * cell + margin),
            "y": int(i * cell + margin),
            "right": i == j,
            "share": round(float(shares[i, j]), 3),
            "count": int(counts[i, j]) if roomy else "",
            "tip": f"{classes[i]} read as {classes[j]}: {counts[i, j]:,} of {counts[i].sum():,} "
            f"({counts[i, j] / totals[i, 0]:.1%})",
        }
        for i, j in np.argwhere(counts)
    ]
    side, said = len(classes) * cell, min(SAID[1], max(SAID[0], *(6.5 * len(each["tip"]) for each in cells)))
    wide = max(margin + side + 4, said + 8)
    return render(
        "matrix.svg",
        wide=wide,
        along=min(margin, wide - said - 4),  # where what is said below begins, so that it has room
        classes=classes,
        cells=cells,
        cell=cell,
        margin=margin,
        turned=longest > 1 + roomy,
        roomy=roomy,
        side=side,
    )
