"""Charts of what changes over epochs or steps, drawn with Pillow: axes, lines, and each line's last value."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw

from mnist_lightning.reporting.plots import GAP, INK, PAPER, RIGHT, WRONG, Colour, font, mix

Points = Sequence[tuple[float, float]]  # epoch, value
History = Mapping[str, Points]

CHART = 520, 360  # screen pixels
LEFT, TOP, RIGHTMOST, BOTTOM = 64, 44, CHART[0] - 92, CHART[1] - 44  # where a chart's lines are
SMOOTH = 3  # lines are drawn this much larger and shrunk, for smooth edges; text is not
FLAT = 1e-4  # of a value: ticks closer than this lets them be would all read the same
FLOAT32 = 1e39  # more than any float32 but infinity, which can't be drawn


def curves(history: History) -> Image.Image:
    """Draws loss and accuracy over the epochs, of training and of validation; what is not finite is left out.

    Args:
        history: Points (epoch, value) of each of ``train/loss``, ``val/loss``, ``train/accuracy``, ``val/accuracy``.
    """
    wide, high = CHART
    plot = Image.new("RGB", (2 * wide, high), PAPER)
    for number, (name, title, unit) in enumerate((("loss", "loss", 1), ("accuracy", "accuracy, %", 100))):
        lines = {}
        for part in ("train", "val"):
            points = [(epoch, unit * value) for epoch, value in history.get(f"{part}/{name}", [])]
            lines[part] = [point for point in points if abs(point[1]) < FLOAT32]  # nan is not
        chart = _chart(title, {part: points for part, points in lines.items() if points})
        plot.paste(chart, (number * wide, 0))
    return plot


def learning_rates(rates: Sequence[float], losses: Sequence[float], chosen: int) -> Image.Image:
    """Draws the loss while the learning rate was raised from step to step, and the step whose rate was chosen."""
    points = [(math.log10(rate), loss) for rate, loss in zip(rates, losses, strict=True)]
    lines = {"loss": [point for point in points if abs(point[1]) < FLOAT32], "chosen": points[chosen : chosen + 1]}
    return _chart("loss", lines, "learning rate", "1e{}".format)


class _Scales(NamedTuple):
    """The scales of a chart: the first epoch and the last, and the values that have a tick."""

    first: int
    last: int
    ticks: Sequence[float]

    def place(self, epoch: float, value: float) -> tuple[float, float]:
        """Where a point is on the chart, in screen pixels."""
        along = (epoch - self.first) / (self.last - self.first)
        up = (value - self.ticks[0]) / (self.ticks[-1] - self.ticks[0])
        return LEFT + along * (RIGHTMOST - LEFT), BOTTOM - up * (BOTTOM - TOP)


def _chart(
    title: str, lines: Mapping[str, Points], axis: str = "epoch", name: Callable[[int], str] = str
) -> Image.Image:
    """Lines with their last values, a grid that can be read, and epochs, or what ``name`` makes of them, across."""
    epochs = [epoch for points in lines.values() for epoch, _ in points] or [0]
    values = [value for points in lines.values() for _, value in points] or [0]
    scales = _Scales(
        math.floor(min(epochs)), math.ceil(max(*epochs, min(epochs) + 1)), _ticks(min(values), max(values))
    )
    colours = {"train": WRONG, "val": RIGHT, "loss": WRONG, "chosen": RIGHT}
    chart = _lines(scales, {colours[part]: points for part, points in lines.items()})
    draw = ImageDraw.Draw(chart)
    draw.text((LEFT, GAP), title, INK, font(18))
    draw.text((RIGHTMOST, CHART[1] - 4), axis, INK, font(14), anchor="rs")
    for tick in scales.ticks:
        draw.text((LEFT - GAP, scales.place(scales.first, tick)[1]), f"{tick:.6g}", INK, font(14), anchor="rm")
    for epoch in {scales.first, *map(round, _ticks(scales.first, scales.last))}:
        if scales.first <= epoch <= scales.last:
            draw.text((scales.place(epoch, 0)[0], BOTTOM + GAP), name(epoch), INK, font(14), anchor="mt")
    ends = sorted((scales.place(*points[-1])[1], part, points[-1][1]) for part, points in lines.items())
    below = 0.0
    for level, part, value in ends:
        below = max(level, below + 18)  # two names at one height would hide each other
        draw.text((RIGHTMOST + GAP, below), f"{part} {round(value, 4):.4g}", colours[part], font(14), anchor="lm")
    return chart


def _lines(scales: _Scales, lines: Mapping[Colour, Points]) -> Image.Image:
    """A chart without its text: lines, their ends, and the grid behind them."""
    canvas = Image.new("RGB", (CHART[0] * SMOOTH, CHART[1] * SMOOTH), PAPER)
    draw = ImageDraw.Draw(canvas)
    for tick in scales.ticks:
        level = scales.place(scales.first, tick)[1] * SMOOTH
        draw.line((LEFT * SMOOTH, level, RIGHTMOST * SMOOTH, level), mix(INK, 0.15), SMOOTH)
    for colour, points in lines.items():
        track = [(x * SMOOTH, y * SMOOTH) for x, y in (scales.place(*point) for point in points)]
        draw.line(track, colour, 2 * SMOOTH, joint="curve")
        for x, y in (track[0], track[-1]):
            draw.circle((x, y), 3 * SMOOTH, colour)
    return canvas.resize(CHART, Image.Resampling.LANCZOS)


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers from below ``low`` to above ``high``, 4 to 9 of them; from 0 where the two are as good as one."""
    if high - low <= FLAT * abs(high):
        low, high = min(low, 0), max(high, 0) or 1
    span = high - low
    power = 10.0 ** math.floor(math.log10(span / 4))
    step = next(power * factor for factor in (1, 2, 5, 10) if span / (power * factor) <= 6)
    return [step * count for count in range(math.floor(low / step), math.ceil(high / step) + 1)]
