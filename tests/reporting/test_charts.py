"""The plots are drawn whatever there is to draw: lines within their frame, values where one points, names that fit."""

import math
import re
import xml.etree.ElementTree as ET
from itertools import pairwise

import numpy as np
import pytest

from mnist_lightning.reporting import charts, plots

LOST, SMALL = [(0, 2.3), (1, 0.5), (2, 0.4)], [(0, 0.1), (1, 0.2), (2, 0.15)]
HISTORIES = {
    "as usual": {"train/loss": LOST, "val/loss": SMALL, "train/accuracy": SMALL, "val/accuracy": SMALL},
    "accuracies of 100% throughout": {name: [(0, 1.0), (1, 1.0)] for name in ("train/accuracy", "val/accuracy")},
    "nothing but 0": {name: [(0, 0.0), (1, 0.0)] for name in ("train/loss", "val/loss", "train/accuracy")},
    "one epoch": {"train/loss": [(0, 0.25)], "train/accuracy": [(0, 0.9)]},
    "one late epoch": {"train/loss": [(10**6, 0.25)], "val/accuracy": [(10**6, 1.0)]},
    "the same but for rounding": {"train/loss": [(0, 0.3), (1, 0.1 + 0.2)]},
    "a loss that explodes": {"train/loss": [(0, 2.3), (1, 1e30), (2, 3e38)], "val/loss": [(0, 3e38), (1, math.inf)]},
    "a loss of 1e30 throughout": {"train/loss": [(0, 1e30), (1, math.nextafter(1e30, math.inf))]},
    "a loss beyond float32": {"train/loss": [(0, 1.7e308), (1, 1.0)]},
    "nan from the start": {"train/loss": [(0, math.nan), (1, math.nan)], "val/loss": [(0, -math.inf)]},
    "nothing at all": {},
    # of 512 images with --data.val_size 0 --max_epochs 1, of --trainer.fast_dev_run 3, and of one training image
    "one epoch without validation": {"train/loss": [(1, 2.303)], "train/accuracy": [(1, 0.125)]},
    "one epoch, all right": {"train/loss": [(1, 0.0)], "train/accuracy": [(1, 1.0)], "val/accuracy": [(1, 1.0)]},
    "one training image": {"train/loss": [(1, 2.0), (2, 1e-7)], "train/accuracy": [(1, 0.0), (2, 1.0)]},
    "one mistake among a million": {"val/accuracy": [(1, 0.999999), (2, 1.0)]},
    "two values, a bit apart": {"val/loss": [(1, 1.0), (2, math.nextafter(1.0001, 2))]},
}


SVG = "{http://www.w3.org/2000/svg}"


def drawn(svg):
    """The points of each line of a chart; its XML holds together, in a page and alone."""
    ET.fromstring(charts.alone(svg))
    lines = ET.fromstring(svg).iter(f"{SVG}polyline")
    return [[tuple(map(float, point.split(","))) for point in line.get("points").split()] for line in lines]


@pytest.mark.parametrize("kind", HISTORIES)
def test_every_history_has_its_curves_within_their_frame(kind):
    finite = {name: [point for point in points if abs(point[1]) < 1e39] for name, points in HISTORIES[kind].items()}
    curves = charts.curves(HISTORIES[kind], best=1)
    assert curves.keys() == {name.split("/")[1] for name, points in finite.items() if points}
    for name, svg in curves.items():
        lines = drawn(svg)
        wanted = [finite.get(f"{part}/{name}") for part in ("train", "val")]
        assert [len(line) for line in lines] == [len(points) for points in wanted if points]
        for x, y in (point for line in lines for point in line):
            assert charts.LEFT <= x <= charts.RIGHT
            assert charts.TOP <= y <= charts.BOTTOM
        assert "best: epoch 1<" in svg


def test_a_lower_value_is_drawn_lower_and_a_later_epoch_to_the_right():
    (line,) = drawn(charts.curves({"val/loss": LOST})["loss"])
    assert [x for x, _ in line] == sorted(x for x, _ in line)
    assert [y for _, y in line] == sorted(y for _, y in line)  # SVG counts from the top


def test_where_one_points_the_values_of_the_epoch_are_said():
    history = {"train/accuracy": [(1, 0.9), (2, 0.95)], "val/accuracy": [(1, 0.91), (2, 0.9375)]}
    svg = charts.curves(history)["accuracy"]
    assert re.findall(r'aria-label="(epoch .*?)"', svg) == [
        "epoch 1: train 90.00%, val 91.00%",
        "epoch 2: train 95.00%, val 93.75%",
    ]


def test_a_long_run_has_no_more_places_to_point_at_than_can_be_hit_its_last_among_them():
    svg = charts.curves({"val/loss": [(epoch, 1 / epoch) for epoch in range(1, 1000)]})["loss"]
    bands = ET.fromstring(svg).findall(f"{SVG}g[@class='ask']")
    assert len(bands) <= charts.BANDS + 1
    assert bands[-1].get("aria-label") == "epoch 999: val 0.0010"
    assert [float(rect.get("x")) for rect in bands[0].findall(f"{SVG}rect")] == [charts.LEFT]
    edges = [(float(r.get("x")), float(r.get("width"))) for band in bands for r in band.findall(f"{SVG}rect")]
    for (left, width), (after, _) in pairwise(edges):
        assert left + width == pytest.approx(after, abs=0.6)  # no gap where nothing is said


def test_several_runs_share_a_chart():
    histories = [{"val/loss": [(1, 0.5 + n), (2, 0.25 + n)]} for n in range(7)]
    few, many = (charts.compared(histories[:count])["loss"] for count in (2, 7))
    assert "epoch 1: 1 0.5000, 2 1.5000" in few
    assert "epoch 2: 0.2500 to 6.2500" in many  # seven names would not fit
    assert len(drawn(many)) == 7


def test_a_rate_is_marked_on_the_curve_of_rates():
    rates = [10 ** (power / 10) for power in range(-60, 0)]
    svg = charts.learning_rates(rates, [2.3 + rate for rate in rates], 30)
    assert "suggested: learning rate 0.001<" in svg
    assert "learning rate 0.001: loss 2.301" in svg


@pytest.mark.parametrize("names", [list("0123456789"), ["T-shirt/top", "<script>"], [chr(65 + n) for n in range(47)]])
def test_a_matrix_of_any_classes_says_each_count(names):
    counts = np.random.default_rng(0).integers(0, 3, (len(names), len(names)))
    svg = charts.matrix(counts, names)
    root = ET.fromstring(svg)
    _, _, wide, high = map(float, root.get("viewBox").split())
    cells = [group for group in root.iter(f"{SVG}g") if group.get("class") == "ask"]
    assert len(cells) == (counts > 0).sum()
    for cell in cells:
        rect = cell.find(f"{SVG}rect")
        x, y, side = (float(rect.get(name)) for name in ("x", "y", "width"))
        assert 0 < x <= wide - side
        assert 0 < y <= high - side
    said = [text for text in root.iter(f"{SVG}text") if text.get("x") and not text.get("text-anchor")]
    assert [text.text for text in said if float(text.get("x")) + 6 * len(text.text) > wide] == []
    i, j = np.argwhere(counts)[0]
    assert cells[0].get("aria-label").startswith(f"{names[i]} read as {names[j]}: {counts[i, j]} of {counts[i].sum()} ")
    assert "<script>" not in svg


@pytest.mark.parametrize(
    ("low", "high"),
    [(0, 0), (100, 100), (0.3, 0.1 + 0.2), (99.98, 100), (0.0012, 2.3), (1e30, 1e30), (3, 17), (-5, -5), (0, 3e38)],
)
def test_ticks_reach_from_below_to_above_and_differ_to_the_eye(low, high):
    ticks = charts.ticks(low, high)
    assert ticks[0] <= low <= high <= ticks[-1]
    assert 4 <= len({f"{tick:.6g}" for tick in ticks}) == len(ticks) <= 9


@pytest.mark.filterwarnings("error")
def test_weights_that_exploded_are_drawn_as_paper():
    kernels = np.full((2, 4, 4), np.nan, np.float32)
    kernels[1, 0] = (np.inf, -np.inf, 0, 0)
    assert (np.asarray(plots.weights(kernels)) == plots.PAPER).all()
