"""Pictures of digits and of what a net makes of them, drawn with Pillow: a matter of milliseconds, so each epoch can.

Right is blue and wrong is orange (Okabe and Ito's colours, which colour-blind people tell apart), never green and red.
"""

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]
Array = NDArray[Any]
Points = Sequence[tuple[int, float]]
History = Mapping[str, Points]

SCALE = 3  # screen pixels for each pixel of a digit
GAP = 8  # screen pixels between things


@dataclass(frozen=True)
class Theme:
    """The colours of paper, of ink, and of what is right and wrong."""

    paper: Colour
    ink: Colour
    right: Colour
    wrong: Colour

    def mix(self, colour: Colour, share: float) -> Colour:
        """Paper with a share of a colour."""
        red, green, blue = (round(p + (c - p) * share) for p, c in zip(self.paper, colour, strict=True))
        return red, green, blue


LIGHT = Theme((255, 255, 255), (32, 33, 36), (0, 114, 178), (213, 94, 0))
DARK = Theme((24, 26, 30), (232, 234, 237), (86, 180, 233), (230, 159, 0))


def digits(
    images: Array,
    captions: Sequence[str] = (),
    colours: Sequence[Colour] = (),
    columns: int = 10,
    labels: Sequence[str] = (),
    theme: Theme = LIGHT,
) -> Image.Image:
    """Draws digits in a grid, as ink on paper.

    Args:
        images: uint8 (N, H, W), bright ink.
        captions: A line below each.
        colours: Of each one's frame; a faint ink's by default.
        columns: Digits in a row.
        labels: A line on the left of each row.
        theme: Its colours.
    """
    high, wide = (side * SCALE for side in images.shape[1:])
    step_x, step_y = wide + GAP, high + GAP + (16 if captions else 0)
    left = max((round(font(14).getlength(label)) + GAP for label in labels), default=0)
    rows = -(-len(images) // columns)
    picture = Image.new("RGB", (left + GAP + columns * step_x, GAP + max(rows, 1) * step_y), theme.paper)
    draw = ImageDraw.Draw(picture)
    for row, label in enumerate(labels):
        draw.text((GAP, GAP + row * step_y + high // 2), label, theme.ink, font(14), anchor="lm")
    for index, image in enumerate(images):
        x, y = left + GAP + index % columns * step_x, GAP + index // columns * step_y
        colour = colours[index] if colours else theme.mix(theme.ink, 0.25)
        draw.rectangle((x - 2, y - 2, x + wide + 1, y + high + 1), outline=colour, width=2)
        picture.paste(_blend(image.astype(np.float64) / 255, theme.paper, theme.ink).resize((wide, high), 0), (x, y))
        if captions:
            draw.text((x + wide // 2, y + high + 3), captions[index], theme.ink, font(), anchor="mt")
    return picture


def confusion_matrix(counts: Array, theme: Theme = LIGHT, cell: int = 46) -> Image.Image:
    """Draws a confusion matrix.

    Args:
        counts: Integers (10, 10), a row for each true digit, a column for each predicted one.
        theme: Its colours.
        cell: Screen pixels of each count.
    """
    classes, left, top, text = len(counts), 56, 56, font(max(11, cell // 3))
    picture = Image.new("RGB", (left + classes * cell + GAP, top + classes * cell + GAP), theme.paper)
    draw = ImageDraw.Draw(picture)
    draw.text((left + classes * cell // 2, GAP), "predicted", theme.ink, font(14), anchor="mt")
    draw.text((GAP, top - GAP), "true", theme.ink, font(14), anchor="ls")
    # the square root shows a single mistake among a thousand digits
    shares = np.sqrt(counts / np.maximum(counts.sum(1, keepdims=True), 1))
    for i in range(classes):
        middle = i * cell + cell // 2
        draw.text((left - 2 * GAP, top + middle), str(i), theme.ink, font(16), anchor="rm")
        draw.text((left + middle, top - GAP), str(i), theme.ink, font(16), anchor="ms")
        for j in range(classes):
            x, y = left + j * cell, top + i * cell
            share = float(shares[i, j]) if i == j else min(1.0, 4 * float(shares[i, j]))
            fill = theme.mix(theme.right if i == j else theme.wrong, share)
            draw.rectangle((x, y, x + cell - 2, y + cell - 2), fill=fill)
            if counts[i, j]:
                ink = (255, 255, 255) if sum(fill) < 420 else (0, 0, 0)
                draw.text((x + cell // 2 - 1, y + cell // 2 - 1), f"{counts[i, j]}", ink, text, anchor="mm")
    return picture


def weights(kernels: Array, columns: int = 8, theme: Theme = LIGHT) -> Image.Image:
    """Draws the weights of each neuron, or kernel, of a first layer: orange above 0, blue below.

    Args:
        kernels: float (N, H, W).
        columns: Of them in a row.
        theme: Its colours.
    """
    count, *sides = kernels.shape
    scale = max(1, 56 // max(sides))
    high, wide = (side * scale for side in sides)
    rows = -(-count // columns)
    size = GAP + min(columns, count) * (wide + GAP), GAP + rows * (high + GAP)
    picture = Image.new("RGB", size, theme.paper)
    strength = np.abs(kernels) / np.maximum(np.abs(kernels).max((1, 2), keepdims=True), 1e-12)
    for index in range(count):
        above = _blend(strength[index], theme.paper, theme.wrong)
        below = _blend(strength[index], theme.paper, theme.right)
        image = Image.composite(above, below, Image.fromarray((kernels[index] > 0).astype(np.uint8) * 255))
        place = GAP + index % columns * (wide + GAP), GAP + index // columns * (high + GAP)
        picture.paste(image.resize((wide, high), 0), place)
    return picture


def curves(history: History, theme: Theme = LIGHT) -> Image.Image:
    """Draws loss and accuracy over the epochs, of training and of validation; what is not finite is left out.

    Args:
        history: Points (epoch, value) of each of ``train/loss``, ``val/loss``, ``train/accuracy``, ``val/accuracy``.
        theme: Its colours.
    """
    wide, high = 520, 360
    picture = Image.new("RGB", (2 * wide, high), theme.paper)
    for number, (name, title, unit) in enumerate((("loss", "loss", 1), ("accuracy", "accuracy, %", 100))):
        lines = {part: history.get(f"{part}/{name}", []) for part in ("train", "val")}
        finite = {
            part: [(epoch, value * unit) for epoch, value in points if math.isfinite(value)]
            for part, points in lines.items()
        }
        panel = _panel(title, {part: points for part, points in finite.items() if points}, (wide, high), theme)
        picture.paste(panel, (number * wide, 0))
    return picture


def _panel(title: str, lines: Mapping[str, Points], size: tuple[int, int], theme: Theme) -> Image.Image:
    """One chart: its lines with their last values, a grid that can be read, epochs from left to right."""
    smooth = 3  # lines are drawn this much larger and shrunk, for smooth edges; text is not
    left, top, right, bottom = 64, 44, size[0] - 92, size[1] - 44
    values = np.array([value for points in lines.values() for _, value in points] or [0.0, 1.0])
    epochs = np.array([epoch for points in lines.values() for epoch, _ in points] or [0, 1])
    steps, first, last = _ticks(values.min(), values.max()), min(epochs), max(*epochs, min(epochs) + 1)

    def place(epoch: float, value: float) -> tuple[float, float]:
        share = (epoch - first) / (last - first), (value - steps[0]) / (steps[-1] - steps[0])
        return left + share[0] * (right - left), bottom - share[1] * (bottom - top)

    canvas = Image.new("RGB", (size[0] * smooth, size[1] * smooth), theme.paper)
    draw = ImageDraw.Draw(canvas)
    colours = {"train": theme.wrong, "val": theme.right}
    for step in steps:
        level = place(first, step)[1] * smooth
        draw.line((left * smooth, level, right * smooth, level), theme.mix(theme.ink, 0.15), smooth)
    for part, points in lines.items():
        track = [(x * smooth, y * smooth) for x, y in (place(*point) for point in points)]
        draw.line(track, colours[part], 2 * smooth, joint="curve")
        for x, y in (track[0], track[-1]):
            draw.circle((x, y), 3 * smooth, colours[part])
    panel = canvas.resize(size, Image.Resampling.LANCZOS)
    draw = ImageDraw.Draw(panel)
    draw.text((left, GAP), title, theme.ink, font(18))
    for step in steps:
        draw.text((left - GAP, place(first, step)[1]), f"{step:.4g}", theme.ink, font(14), anchor="rm")
    for epoch in sorted({int(tick) for tick in _ticks(first, last) if first <= tick <= last} | {first}):
        draw.text((place(epoch, 0)[0], bottom + GAP), f"{epoch}", theme.ink, font(14), anchor="mt")
    draw.text((right, size[1] - 4), "epoch", theme.ink, font(14), anchor="rs")
    names = sorted((place(*points[-1])[1], part, points[-1][1]) for part, points in lines.items())
    below = 0.0
    for level, part, value in names:
        below = max(level, below + 18)  # two names at one height would hide each other
        draw.text((right + GAP, below), f"{part} {round(value, 4):.4g}", colours[part], font(14), anchor="lm")
    return panel


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers from below ``low`` to above ``high``, 4 to 9 of them."""
    span = max(high - low, 1e-6)
    power = 10.0 ** math.floor(math.log10(span / 4))
    step = next(power * factor for factor in (1, 2, 5, 10) if span / (power * factor) <= 6)
    return [step * count for count in range(math.floor(low / step), math.ceil(high / step) + 1)]


def answers(
    images: Array, labels: Array, probabilities: NDArray[np.float32], columns: int = 10, theme: Theme = LIGHT
) -> Image.Image:
    """Draws digits with what a net made of them: blue where it was right, orange where not.

    Args:
        images: uint8 (N, H, W).
        labels: What they are, integers (N,).
        probabilities: What the net said of each, (N, 10).
        columns: Digits in a row.
        theme: Its colours.
    """
    said, sure = probabilities.argmax(1), probabilities.max(1)
    right = said == labels
    captions = [
        f"{answer}, {share:.0%}" if ok else f"{answer} for {label}, {share:.0%}"
        for answer, share, label, ok in zip(said, sure, labels, right, strict=True)
    ]
    return digits(images, captions, [theme.right if ok else theme.wrong for ok in right], columns, theme=theme)


def worst(labels: Array, probabilities: NDArray[np.float32], count: int) -> NDArray[np.intp]:
    """The mistakes that gave the right answer the least probability, at most ``count`` of them, the worst first."""
    wrong = np.flatnonzero(probabilities.argmax(1) != labels)
    return wrong[probabilities[wrong, labels[wrong]].argsort(kind="stable")][:count]


def font(size: int = 12) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _blend(shares: NDArray[np.float64], paper: Colour, ink: Colour) -> Image.Image:
    """Shares of ink (H, W), from 0 to 1, as a picture."""
    colours = np.array(paper) + shares[..., None] * (np.array(ink) - np.array(paper))
    return Image.fromarray(colours.round().astype(np.uint8))


def png(picture: Image.Image) -> bytes:
    """Returns a picture as a PNG file."""
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def data_url(png: bytes) -> str:
    """Returns a PNG as a part of the page that shows it, so that this is one file."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
