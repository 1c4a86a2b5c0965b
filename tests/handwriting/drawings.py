"""Digits drawn by hand, and what a camera makes of them on a page."""

import math

import numpy as np
from PIL import Image, ImageDraw


def arc(x, y, rx, ry, start, stop):
    """Points of an ellipse's arc; degrees, clockwise from the right."""
    angles = np.radians(np.linspace(start, stop, 24))
    return np.c_[x + rx * np.cos(angles), y + ry * np.sin(angles)]


def line(*points):
    return np.array(points, float)


# The strokes of each digit in a box 0.7 wide and 1 high, y going down.
STROKES = (
    [arc(0.35, 0.5, 0.3, 0.5, -80, 290)],
    [line((0.3, 0.12), (0.4, 0), (0.4, 1))],
    [np.r_[arc(0.35, 0.27, 0.28, 0.27, -170, 40), line((0.05, 1), (0.65, 1))]],
    [np.r_[arc(0.33, 0.25, 0.26, 0.25, -150, 80), arc(0.33, 0.74, 0.3, 0.26, -80, 150)]],
    [line((0.1, 0), (0.08, 0.5), (0.6, 0.5)), line((0.6, 0), (0.58, 1))],
    [np.r_[line((0.12, 0.02), (0.1, 0.42)), arc(0.33, 0.68, 0.3, 0.32, -130, 140)], line((0.12, 0.02), (0.62, 0))],
    [np.r_[line((0.5, 0), (0.2, 0.3), (0.06, 0.65)), arc(0.35, 0.72, 0.28, 0.28, 180, -180)]],
    [line((0.03, 0.03), (0.62, 0), (0.25, 1))],
    [arc(0.35, 0.25, 0.24, 0.25, 90, 450), arc(0.35, 0.75, 0.3, 0.26, -90, 270)],
    [np.r_[arc(0.33, 0.28, 0.27, 0.28, 0, -360), line((0.6, 0.28), (0.55, 1))]],
)


def draw(digit, paper=255, ink=0, size=(400, 320), height=150, pen=5, place=(110, 90), mode="L"):
    """A digit on a page of ``size`` pixels, ``height`` pixels high, written with a pen of ``pen`` pixels."""
    image = Image.new(mode, size, paper)
    brush = ImageDraw.Draw(image)
    for stroke in STROKES[digit]:
        points = [tuple(point) for point in stroke * height + place]
        brush.line(points, ink, pen, joint="curve")
        for x, y in points:
            brush.ellipse((x - pen / 2, y - pen / 2, x + pen / 2, y + pen / 2), ink)
    return image


def photograph(digit, seed, pen=3):
    """A digit in thin blue ink on a turned page on a desk, half of it in a shadow, with a camera's noise."""
    random = np.random.default_rng(seed)
    page = draw(digit, (245, 240, 222), (28, 34, 105), (520, 440), 150, pen, (190, 140), "RGB")
    page = page.rotate(random.uniform(-8, 8), Image.Resampling.BICUBIC, expand=True, fillcolor=(92, 66, 44))
    pixels = np.asarray(page, float)
    y, x = np.mgrid[: page.height, : page.width] / max(page.size) - 0.5
    angle = random.uniform(0, 2 * math.pi)
    across = x * math.cos(angle) + y * math.sin(angle)
    light = (1 - 0.3 * (across + 0.5)) * (1 - 0.35 / (1 + np.exp(-(across - 0.1) / 0.02)))
    noise = random.normal(0, 3, pixels.shape)
    return Image.fromarray((pixels * light[..., None] + noise).clip(0, 255).astype(np.uint8))
