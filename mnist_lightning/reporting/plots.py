"""Plots of digits and of what a net makes of them, drawn with Pillow: a matter of milliseconds, so each epoch can.

Right is blue and wrong is orange (Okabe and Ito's colours, which colour-blind people tell apart), never green and red.
"""

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]
Array = NDArray[Any]

PAPER: Colour = (255, 255, 255)
INK: Colour = (32, 33, 36)
RIGHT: Colour = (0, 114, 178)
WRONG: Colour = (213, 94, 0)

DIGIT = 84  # screen pixels of an image's longer side, more or less: three for each of MNIST's
SMALL = 56  # the same, where a line of captions needs the room
GAP = 8  # screen pixels between things
COLUMNS = 8  # kernels in a row


def digits(
    images: Array,
    captions: Sequence[str] = (),
    colours: Sequence[Colour] = (),
    columns: int = 10,
    labels: Sequence[str] = (),
    side: int = DIGIT,
) -> Image.Image:
    """Draws digits in a grid, as ink on paper.

    Args:
        images: uint8 (N, H, W), bright ink, or colours (N, H, W, 3), which stay as they are.
        captions: A line below each.
        colours: Of each one's frame; a faint ink's by default.
        columns: Digits in a row.
        labels: A line on the left of each row.
        side: Screen pixels of a digit's longer side, about.
    """
    high, wide = _sides(images.shape[1:3], side)
    longest = max((font().getlength(line) for caption in captions for line in caption.split("\n")), default=0)
    cell = max(wide, min(round(longest), DIGIT))
    lines = max((caption.count("\n") + 1 for caption in captions), default=0)
    step_x, step_y = cell + GAP, high + GAP + 16 * lines
    left = max((round(font(14).getlength(label)) + GAP for label in labels), default=0)
    rows = -(-len(images) // columns)
    plot = Image.new("RGB", (left + GAP + columns * step_x, GAP + max(rows, 1) * step_y), PAPER)
    draw = ImageDraw.Draw(plot)
    for row, label in enumerate(labels):
        draw.text((GAP, GAP + row * step_y + high // 2), label, INK, font(14), anchor="lm")
    for index, image in enumerate(images):
        x, y = left + GAP + (cell - wide) // 2 + index % columns * step_x, GAP + index // columns * step_y
        colour = colours[index] if colours else mix(INK, 0.25)
        draw.rectangle((x - 2, y - 2, x + wide + 1, y + high + 1), outline=colour, width=2)
        drawn = _blend(image / 255, INK) if image.ndim == 2 else Image.fromarray(image)
        plot.paste(drawn.resize((wide, high), 0), (x, y))
        for line, text in enumerate(captions[index].split("\n") if captions else ()):
            place = x + wide // 2, y + high + 3 + 16 * line
            draw.text(place, _shortened(text, cell + GAP - 2), INK, font(), anchor="mt")
    return plot


def answers(
    images: Array, labels: Array, probabilities: NDArray[np.float32], classes: Sequence[str], columns: int = 10
) -> Image.Image:
    """Draws digits with what a net made of them: blue where it was right, orange where not.

    Args:
        images: uint8 (N, H, W) or (N, H, W, 3).
        labels: What they are, integers (N,).
        probabilities: What the net said of each, (N, classes).
        classes: Their names.
        columns: Digits in a row.
    """
    said, sure = probabilities.argmax(1), probabilities.max(1)
    right = said == labels
    between = "{} for {}, {:.0%}" if max(map(len, classes)) < 3 else "{0}, {2:.0%}\nfor {1}"
    captions = [
        f"{classes[answer]}, {share:.0%}" if ok else between.format(classes[answer], classes[label], share)
        for answer, share, label, ok in zip(said, sure, labels, right, strict=True)
    ]
    return digits(images, captions, [RIGHT if ok else WRONG for ok in right], columns, side=SMALL)


def worst(labels: Array, probabilities: NDArray[np.float32], count: int) -> NDArray[np.intp]:
    """The mistakes of which the net was surest, at most ``count`` of them, the surest first."""
    wrong = np.flatnonzero(probabilities.argmax(1) != labels)
    order: NDArray[np.intp] = (-probabilities[wrong].max(1)).argsort(kind="stable")
    return wrong[order][:count]


def shades(counts: Array) -> Array:
    """How strong the colour of each cell of a confusion matrix is, from 0 to 1."""
    # the square root shows a single mistake among a thousand digits
    shares: Array = np.sqrt(counts / np.maximum(counts.sum(1, keepdims=True), 1))
    return np.where(np.eye(len(counts), dtype=bool), shares, np.minimum(1, 4 * shares))


def confusion_matrix(counts: Array, classes: Sequence[str], cell: int) -> Image.Image:
    """Draws a confusion matrix.

    Args:
        counts: Integers (classes, classes), a row for each true class, a column for each predicted one.
        classes: Their names.
        cell: Screen pixels of each count.
    """
    side, text, naming = len(counts) * cell, font(max(9, cell // 3)), font(min(16, cell - 4))
    shown = [_shortened(name, 150, naming) for name in classes]
    margin = round(max(map(naming.getlength, shown)))
    turned = margin > cell
    left, top = margin + 48, (margin if turned else 16) + 40
    plot = Image.new("RGB", (left + side + GAP, top + side + GAP), PAPER)
    draw = ImageDraw.Draw(plot)
    draw.text((left + side // 2, GAP), "predicted", INK, font(14), anchor="mt")
    draw.text((GAP, top - GAP), "true", INK, font(14), anchor="ls")
    shares = shades(counts)
    for i, name in enumerate(shown):
        middle = i * cell + cell // 2
        draw.text((left - GAP, top + middle), name, INK, naming, anchor="rm")
        if turned:
            upwards = ImageFont.TransposedFont(naming, Image.Transpose.ROTATE_90)
            draw.text((left + middle - naming.size // 2, top - GAP // 2 - naming.getlength(name)), name, INK, upwards)
        else:
            draw.text((left + middle, top - GAP), name, INK, naming, anchor="ms")
        for j in range(len(classes)):
            x, y = left + j * cell, top + i * cell
            fill = mix(RIGHT if i == j else WRONG, float(shares[i, j]))
            draw.rectangle((x, y, x + cell - 2, y + cell - 2), fill=fill)
            if counts[i, j]:
                ink = PAPER if sum(fill) < 420 else INK
                draw.text((x + cell // 2 - 1, y + cell // 2 - 1), f"{counts[i, j]}", ink, text, anchor="mm")
    return plot


def weights(kernels: Array) -> Image.Image:
    """Draws the weights of each neuron, or kernel, of a first layer: blue above 0, orange below.

    Args:
        kernels: float (N, H, W).
    """
    kernels = np.nan_to_num(kernels, posinf=0, neginf=0)  # a net that exploded
    count, *sides = kernels.shape
    scale = max(1, 56 // max(sides))
    high, wide = (side * scale for side in sides)
    rows = -(-count // COLUMNS)
    plot = Image.new("RGB", (GAP + min(COLUMNS, count) * (wide + GAP), GAP + rows * (high + GAP)), PAPER)
    strength = np.abs(kernels) / np.maximum(np.abs(kernels).max((1, 2), keepdims=True), 1e-12)
    for index in range(count):
        above = Image.fromarray((kernels[index] > 0).astype(np.uint8) * 255)
        neuron = Image.composite(_blend(strength[index], RIGHT), _blend(strength[index], WRONG), above)
        place = GAP + index % COLUMNS * (wide + GAP), GAP + index // COLUMNS * (high + GAP)
        plot.paste(neuron.resize((wide, high), 0), place)
    return plot


def _sides(sides: Sequence[int], wanted: int) -> tuple[int, int]:
    """Screen pixels of an image's height and width: a multiple of its own, where it isn't large."""
    longer = max(sides)
    factor = -(-wanted // longer) if longer <= wanted else min(1, 2 * wanted / longer)
    return max(1, round(sides[0] * factor)), max(1, round(sides[1] * factor))


def _shortened(text: str, wide: int, naming: ImageFont.FreeTypeFont | None = None) -> str:
    """A text, without its end where it is wider than so many screen pixels."""
    naming = naming or font()
    if naming.getlength(text) <= wide:
        return text
    while text and naming.getlength(text + "…") > wide:
        text = text[:-1]
    return text + "…"


def font(size: int = 12) -> ImageFont.FreeTypeFont:
    default = ImageFont.load_default(size)
    assert isinstance(default, ImageFont.FreeTypeFont)  # Pillow has FreeType, unless somebody built it without
    return default


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
