"""The plots are drawn whatever there is to draw."""

import math

import numpy as np
import pytest

from mnist_lightning.reporting import charts

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
}


@pytest.mark.parametrize("kind", HISTORIES)
def test_every_history_has_its_curves(kind):
    pixels = np.asarray(charts.curves(HISTORIES[kind]))
    assert pixels.shape == (360, 1040, 3)
    coloured = (pixels.max(2).astype(int) - pixels.min(2) > 100).sum()  # neither paper, grid nor text in ink
    assert bool(coloured) == any(0 <= value < 1e39 for points in HISTORIES[kind].values() for _, value in points)


@pytest.mark.parametrize(
    ("low", "high"),
    [(0, 0), (100, 100), (0.3, 0.1 + 0.2), (99.98, 100), (0.0012, 2.3), (1e30, 1e30), (3, 17), (-5, -5)],
)
def test_ticks_reach_from_below_to_above_and_differ_to_the_eye(low, high):
    ticks = charts._ticks(low, high)
    assert ticks[0] <= low <= high <= ticks[-1]
    assert 4 <= len({f"{tick:.6g}" for tick in ticks}) == len(ticks) <= 9
