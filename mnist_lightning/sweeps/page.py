"""The page of a sweep: each option against the error, the spread over seeds, what matters most, all curves."""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2

from mnist_lightning.checkpoints.runs import RUN_RECORD, load_json
from mnist_lightning.files import atomic_write
from mnist_lightning.sweeps.compare import short
from mnist_lightning.sweeps.results import Row, brief, outcome, rank
from mnist_lightning.sweeps.space import Sweep, text

ROWS = 25  # points whose spread is shown, the best ones
LEFT, RIGHT, TOP, BOTTOM = 52, 16, 14, 44  # around a chart's marks, in pixels
LINE = 22  # from one row of a chart to the next
WIDE, LETTER, LONGEST = 560, 6.6, 36  # of a large chart, in pixels; of a letter; characters of a point's name beside it


class Axis(NamedTuple):
    """Values on a scale, and where it lies on a chart, in pixels."""

    low: float
    high: float
    log: bool
    start: float
    end: float

    def place(self, value: float) -> float:
        low, high, value = (math.log(each) if self.log else each for each in (self.low, self.high, value))
        return round(self.start + (value - low) / (high - low) * (self.end - self.start), 1)

    @property
    def ticks(self) -> list[float]:
        """Round numbers on the scale."""
        if self.log:
            decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            factors = (1,) if len(decades) > 4 else (1, 2, 5)
            found = [factor * 10.0**decade for decade in decades for factor in factors]
        else:
            power = 10.0 ** math.floor(math.log10((self.high - self.low) / 3))
            step = next(power * factor for factor in (1, 2, 5, 10) if (self.high - self.low) / (power * factor) <= 5)
            found = [step * count for count in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]
        return [tick for tick in found if self.low * (1 - 1e-9) <= tick <= self.high * (1 + 1e-9)]


def axis(values: Sequence[float], start: float, end: float, log: bool | None = None) -> Axis:
    """A scale for values; by default a logarithmic one where they differ tenfold."""
    low, high = min(values), max(values)
    log = low > 0 and high / low > 10 if log is None else log
    if low == high:
        low, high = (low / 2, high * 2) if log else (low - 0.5, high + 0.5)
    margin = (high / low) ** 0.05 if log else 0.05 * (high - low)
    return (
        Axis(low / margin, high * margin, True, start, end)
        if log
        else Axis(low - margin if low > margin or low < 0 else low, high + margin, False, start, end)
    )


def write(folder: Path, results: Mapping[str, Any], sweep: Sweep) -> None:
    """Writes ``results.html`` into the folder of a sweep."""
    rows = sorted(results["trials"], key=rank)
    compared = [row for row in rows if row["state"] == "complete"]
    best = compared[0] if compared else None
    charts = {
        "options": [option_chart(name, sweep.space[name], compared) for name in sweep.space] if best else [],
        "grid": grid_chart(sweep.space, compared)
        if best and sweep.method == "grid" and len(sweep.space) == 2
        else None,
        "spread": spread_chart(compared[:ROWS]) if best and len(best["runs"]) > 1 else None,
        "importance": bar_chart(results["importance"]) if results["importance"] else None,
        "curves": curve_chart(folder, [row for row in rows if row["runs"]]),
    }
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mnist_lightning.sweeps", ""), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    page = environment.get_template("page.html").render(
        title=folder.resolve().name,
        sweep=sweep,
        results=results,
        rows=rows,
        best=best,
        names=list(sweep.space),
        short=short(list(sweep.space)),
        label=label,
        outcome=outcome,
        brief=brief,
        charts=charts,
        shown=ROWS,
        words=re.split(r" (?=--)", results["command"] or ""),
    )
    atomic_write(folder / "results.html", page)


def label(row: Row) -> str:
    """A point by its options."""
    options = row["options"]
    return ", ".join(
        f"{name} {brief(value)}" for name, value in zip(short(list(options)), options.values(), strict=True)
    )


def option_chart(name: str, values: Any, rows: Sequence[Row]) -> dict[str, Any]:
    """A dot for each point, the option across and the error up; choices are joined at the best of each."""
    wide, high = 340, 240
    if isinstance(values, list):
        places = {text(value): float(index) for index, value in enumerate(values)}
        scale = Axis(-0.5, len(values) - 0.5, False, LEFT, wide - RIGHT)

        def across(value: Any) -> float:
            return scale.place(places[text(value)])

        x_ticks = [(across(value), brief(value)) for value in values]
    else:
        scale = axis([values["from"], values["to"]], LEFT, wide - RIGHT, log=bool(values.get("log")))
        across = scale.place
        x_ticks = [(across(tick), f"{tick:g}") for tick in scale.ticks]
    up = axis([row["error"] for row in rows], high - BOTTOM, TOP)
    dots = [
        {"x": across(row["options"][name]), "y": up.place(row["error"]), "best": row is rows[0], "title": title(row)}
        for row in reversed(rows)  # the best on top
    ]
    lines = []
    if isinstance(values, list):
        lowest: dict[Any, Any] = {dot["x"]: dot["y"] for dot in dots}
        lines = [{"points": " ".join(f"{x},{lowest[x]}" for x in sorted(lowest))}]
    return chart(wide, high, x_ticks, up, short([name])[0], dots=dots, lines=lines)


def grid_chart(space: Mapping[str, Sequence[Any]], rows: Sequence[Row]) -> dict[str, Any]:
    """A cell for each point of two options, one across and one down: the lower its error, the stronger its colour."""
    wide, high, (across, down) = 340, 240, space
    left, top = 14 + LETTER * max(map(len, [short([down])[0], *map(text, space[down])])), TOP + 8
    side, tall = (wide - RIGHT - left) / len(space[across]), (high - BOTTOM - top) / len(space[down])
    worst, places = rows[-1]["error"], {name: [text(value) for value in space[name]] for name in space}
    labels = [{"x": left - 8, "y": 8, "text": short([down])[0]}]
    labels += [{"x": left - 8, "y": top + tall * (n + 0.5), "text": name} for n, name in enumerate(places[down])]
    cells = [
        {
            "x": round(left + side * places[across].index(text(row["options"][across])), 1),
            "y": round(top + tall * places[down].index(text(row["options"][down])), 1),
            "text": f"{row['error']:.2f}" if side > 5 * LETTER else "",
            "dark": round(0.08 + 0.92 * (worst - row["error"]) / (worst - rows[0]["error"] or 1), 2),
            "title": title(row),
        }
        for row in rows
    ]
    x_ticks = [(left + side * (n + 0.5), name) for n, name in enumerate(places[across])]
    sizes = {"side": round(side, 1), "tall": round(tall, 1)}
    return chart(wide, high, x_ticks, None, short([across])[0], labels=labels, cells=cells, **sizes)


def spread_chart(rows: Sequence[Row]) -> dict[str, Any]:
    """A row for each point, best first: a dot for each run, and a line at their mean."""
    names = [label(row) for row in rows]
    if max(map(len, names)) > LONGEST:
        names = [f"trial {row['trial']}" for row in rows]
    left = 14 + LETTER * max(map(len, names))
    scale = axis([run["error"] for row in rows for run in row["runs"]], left, WIDE - RIGHT)
    marks: dict[str, list[Any]] = {"dots": [], "bars": [], "labels": []}
    for place, row in enumerate(rows):
        y = TOP + LINE * (place + 0.5)
        marks["labels"].append({"x": left - 8, "y": y, "text": names[place]})
        marks["bars"].append(
            {"x": scale.place(row["error"]) - 1, "y": y - 7, "width": 2, "height": 14, "title": title(row)}
        )
        for run in row["runs"]:
            dot = {"x": scale.place(run["error"]), "y": y, "best": False, "title": f"{run['run']}: {run['error']:.2f}%"}
            marks["dots"].append(dot)
    ticks = [(scale.place(tick), f"{tick:g}%") for tick in scale.ticks]
    return chart(WIDE, TOP + LINE * len(rows) + BOTTOM, ticks, None, "validation error", **marks)


def bar_chart(shares: Mapping[str, float]) -> dict[str, Any]:
    """A bar for each option."""
    names = short(list(shares))
    left = 14 + 9.5 * max(map(len, names))  # the letters of a phone are larger
    marks: dict[str, list[Any]] = {"bars": [], "labels": []}
    for place, (name, share) in enumerate(zip(names, shares.values(), strict=True)):
        y, end = TOP + LINE * place, round(share * (WIDE - left - 60), 1)
        marks["bars"].append({"x": left, "y": y + 3, "width": max(1, end), "height": LINE - 6, "title": f"{share:.3f}"})
        marks["labels"] += [
            {"x": left - 8, "y": y + LINE / 2, "text": name},
            {"x": left + end + 44, "y": y + LINE / 2, "text": f"{share:.0%}"},
        ]
    return chart(WIDE, TOP + LINE * len(names), [], None, "", **marks)


def curve_chart(folder: Path, rows: Sequence[Row]) -> dict[str, Any] | None:
    """The validation error over the epochs of every run, the best point's on top."""
    high, curves = 300, []
    for row in reversed(rows):
        for run in row["runs"]:
            points = load_json(folder / run["run"] / RUN_RECORD).get("history", {}).get("val/accuracy", [])
            if points:
                curves.append((row, run, [(epoch, 100 * (1 - accuracy)) for epoch, accuracy in points]))
    if not curves:
        return None
    errors = [error for *_, points in curves for _, error in points]
    last = max(epoch for *_, points in curves for epoch, _ in points)
    up, along = axis(errors, high - BOTTOM, TOP), Axis(0.5, last + 0.5, False, LEFT, WIDE - RIGHT)
    lines = [
        {
            "points": " ".join(f"{along.place(epoch)},{up.place(error)}" for epoch, error in points),
            "kind": "best" if row is rows[0] else "cut" if row["state"] == "pruned" else "other",
            "title": f"{label(row)} ({run['run']}): {run['error']:.2f}% at best",
        }
        for row, run, points in curves
    ]
    ticks = [(along.place(tick), f"{tick:g}") for tick in along.ticks if tick == int(tick) >= 1]
    ends = [
        {
            "x": line["points"].split()[-1].split(",")[0],
            "y": line["points"].rpartition(",")[2],
            "best": False,
            "title": line["title"],
        }
        for line in lines
        if len(line["points"].split()) == 1
    ]
    return chart(WIDE, high, ticks, up, "epoch", lines=lines, dots=ends)


def title(row: Row) -> str:
    return f"trial {row['trial']}: {label(row)}; {outcome(row)}"


def chart(
    wide: float, high: float, x_ticks: Sequence[tuple[float, str]], up: Axis | None, name: str, **marks: Any
) -> dict[str, Any]:
    """What page.html draws: marks, ticks, and the names of the axes."""
    y_ticks = [(up.place(tick), f"{tick:g}%") for tick in up.ticks] if up else []
    return {
        "wide": wide,
        "high": high,
        "x_ticks": x_ticks,
        "y_ticks": y_ticks,
        "name": name,
        "crowded": any(LETTER * (1 + len(text)) > (wide - LEFT) / len(x_ticks) for _, text in x_ticks),
        "floor": high - BOTTOM,
        "left": LEFT,
        "right": wide - RIGHT,
        "top": TOP,
        **marks,
    }
