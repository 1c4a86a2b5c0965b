"""Plots of digits and of what a net makes of them, drawn with Pillow: a matter of milliseconds, so each epoch can.

Right is blue and wrong is orange (Okabe and Ito's colours, which colour-blind people tell apart), never green and red.
"""

import base64
import io
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]
Array = NDArray[Any]
Points = Sequence[tuple[float, float]]  # epoch, value
History = Mapping[str, Points]

PAPER: Colour = (255, 255, 255)
INK: Colour = (32, 33, 36)
RIGHT: Colour = (0, 114, 178)
WRONG: Colour = (213, 94, 0)

SCALE = 3  # screen pixels for each pixel of a digit
GAP = 8  # screen pixels between things
CHART = 520, 360  # screen pixels
LEFT, TOP, RIGHTMOST, BOTTOM = 64, 44, CHART[0] - 92, CHART[1] - 44  # where a chart's lines are
SMOOTH = 3  # lines are drawn this much larger and shrunk, for smooth edges; text is not
FLAT = 1e-4  # of a value: ticks closer than this lets them be would all read the same
FLOAT32 = 1e39  # more than any float32 but infinity, which can't be drawn


def digits(
    images: Array,
    captions: Sequence[str] = (),
    colours: Sequence[Colour] = (),
    columns: int = 10,
    labels: Sequence[str] = (),
) -> Image.Image:
    """Draws digits in a grid, as ink on paper.

    Args:
        images: uint8 (N, H, W), bright ink.
        captions: A line below each.
        colours: Of each one's frame; a faint ink's by default.
        columns: Digits in a row.
        labels: A line on the left of each row.
    """
    high, wide = (side * SCALE for side in images.shape[1:])
    step_x, step_y = wide + GAP, high + GAP + (16 if captions else 0)
    left = max((round(font(14).getlength(label)) + GAP for label in labels), default=0)
    rows = -(-len(images) // columns)
    plot = Image.new("RGB", (left + GAP + columns * step_x, GAP + max(rows, 1) * step_y), PAPER)
    draw = ImageDraw.Draw(plot)
    for row, label in enumerate(labels):
        draw.text((GAP, GAP + row * step_y + high // 2), label, INK, font(14), anchor="lm")
    for index, image in enumerate(images):
        x, y = left + GAP + index % columns * step_x, GAP + index // columns * step_y
        colour = colours[index] if colours else mix(INK, 0.25)
        draw.rectangle((x - 2, y - 2, x + wide + 1, y + high + 1), outline=colour, width=2)
        plot.paste(_blend(image / 255, INK).resize((wide, high), 0), (x, y))
        if captions:
            draw.text((x + wide // 2, y + high + 3), captions[index], INK, font(), anchor="mt")
    return plot


def answers(images: Array, labels: Array, probabilities: NDArray[np.float32], columns: int = 10) -> Image.Image:
    """Draws digits with what a net made of them: blue where it was right, orange where not.

    Args:
        images: uint8 (N, H, W).
        labels: What they are, integers (N,).
        probabilities: What the net said of each, (N, 10).
        columns: Digits in a row.
    """
    said, sure = probabilities.argmax(1), probabilities.max(1)
    right = said == labels
    captions = [
        f"{answer}, {share:.0%}" if ok else f"{answer} for {label}, {share:.0%}"
        for answer, share, label, ok in zip(said, sure, labels, right, strict=True)
    ]
    return digits(images, captions, [RIGHT if ok else WRONG for ok in right], columns)


def worst(labels: Array, probabilities: NDArray[np.float32], count: int) -> NDArray[np.intp]:
    """The mistakes that gave the right answer the least probability, at most ``count`` of them, the worst first."""
    wrong = np.flatnonzero(probabilities.argmax(1) != labels)
    return wrong[probabilities[wrong, labels[wrong]].argsort(kind="stable")][:count]


def confusion_matrix(counts: Array, cell: int = 46) -> Image.Image:
    """Draws a confusion matrix.

    Args:
        counts: Integers (10, 10), a row for each true digit, a column for each predicted one.
        cell: Screen pixels of each count.
    """
    classes, left, top, text = len(counts), 56, 56, font(max(11, cell // 3))
    plot = Image.new("RGB", (left + classes * cell + GAP, top + classes * cell + GAP), PAPER)
    draw = ImageDraw.Draw(plot)
    draw.text((left + classes * cell // 2, GAP), "predicted", INK, font(14), anchor="mt")
    draw.text((GAP, top - GAP), "true", INK, font(14), anchor="ls")
    # the square root shows a single mistake among a thousand digits
    shares = np.sqrt(counts / np.maximum(counts.sum(1, keepdims=True), 1))
    for i in range(classes):
        middle = i * cell + cell // 2
        draw.text((left - 2 * GAP, top + middle), str(i), INK, font(16), anchor="rm")
        draw.text((left + middle, top - GAP), str(i), INK, font(16), anchor="ms")
        for j in range(classes):
            x, y = left + j * cell, top + i * cell
            share = float(shares[i, j]) if i == j else min(1.0, 4 * float(shares[i, j]))
            fill = mix(RIGHT if i == j else WRONG, share)
            draw.rectangle((x, y, x + cell - 2, y + cell - 2), fill=fill)
            if counts[i, j]:
                ink = PAPER if sum(fill) < 420 else INK
                draw.text((x + cell // 2 - 1, y + cell // 2 - 1), f"{counts[i, j]}", ink, text, anchor="mm")
    return plot


def weights(kernels: Array, columns: int = 8) -> Image.Image:
    """Draws the weights of each neuron, or kernel, of a first layer: orange above 0, blue below.

    Args:
        kernels: float (N, H, W).
        columns: Of them in a row.
    """
    count, *sides = kernels.shape
    scale = max(1, 56 // max(sides))
    high, wide = (side * scale for side in sides)
    rows = -(-count // columns)
    plot = Image.new("RGB", (GAP + min(columns, count) * (wide + GAP), GAP + rows * (high + GAP)), PAPER)
    strength = np.abs(kernels) / np.maximum(np.abs(kernels).max((1, 2), keepdims=True), 1e-12)
    for index in range(count):
        above = Image.fromarray((kernels[index] > 0).astype(np.uint8) * 255)
        neuron = Image.composite(_blend(strength[index], WRONG), _blend(strength[index], RIGHT), above)
        place = GAP + index % columns * (wide + GAP), GAP + index // columns * (high + GAP)
        plot.paste(neuron.resize((wide, high), 0), place)
    return plot


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


def font(size: int = 12) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def mix(colour: Colour, share: float) -> Colour:
    """Paper with a share of a colour."""
    red, green, blue = (round(p + (c - p) * share) for p, c in zip(PAPER, colour, strict=True))
    return red, green, blue


def _blend(shares: NDArray[np.float64], colour: Colour) -> Image.Image:
    """Paper with shares (H, W) of a colour, from 0 to 1."""
    colours = np.array(PAPER) + shares[..., None] * (np.array(colour) - np.array(PAPER))
    return Image.fromarray(colours.round().astype(np.uint8))


def png(plot: Image.Image) -> bytes:
    """Returns a plot as a PNG file."""
    file = io.BytesIO()
    plot.save(file, "PNG")
    return file.getvalue()


def data_url(png: bytes) -> str:
    """Returns a PNG as a part of the page that shows it, so that this is one file."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
