"""Each YAML of configs: it parses, is the net it says, learns, and cites what the table compares it with."""

import functools
import json
import re
from itertools import pairwise

import pytest
import yaml
from helpers import ROOT, scalars, write_dataset

from mnist_lightning.training.cli import MNISTCLI

CONFIGS = {path.stem: path for path in sorted((ROOT / "configs").glob("*.yaml"))}
ROWS = {row["config"]: row for row in json.loads((ROOT / "configs" / "results.json").read_text())}
FILES = {name: "convnet" if name == "convnet_ensemble" else name for name in ROWS}  # an ensemble of its runs


def layers(*widths):
    """Parameters of fully connected layers: a weight for each pair of neurons, a bias for each neuron."""
    return sum((inputs + 1) * outputs for inputs, outputs in pairwise(widths))


def convnet(channels, hidden=(128,)):
    """Parameters of a ConvNet: 5x5, then 3x3, without a bias; two for each map's batch norm; then the layers."""
    maps = [1, *channels]
    sides = [12, 10, 8, 6, 4]  # of the images after each convolution
    kernels = [25, *[9] * (len(channels) - 1)]
    convolutions = sum(a * b * area for a, b, area in zip(maps, channels, kernels, strict=False))
    return convolutions + 2 * sum(channels) + layers(channels[-1] * (sides[len(channels) - 1] // 2) ** 2, *hidden, 10)


def small_net(channels):
    """Parameters of a SmallNet: 3x3; then 3x3 for each map, and 1x1 across; two for each batch norm; the scores."""
    separable = sum(a * 9 + a * b for a, b in pairwise(channels))
    return channels[0] * 9 + separable + 2 * sum(channels) + layers(channels[-1], 10)


PARAMETERS = {
    "linear": 7_850,
    "mlp_300_mse": 238_510,
    "mlp_500_150": 469_160,
    "mlp_800": 636_010,
    "mlp_800_affine": 636_010,
    "mlp_800_elastic": 636_010,
    "mlp_800_ensemble": 636_010,
    "mlp_1024_dropout": 784 * 1024 + 1024 + 2 * (1024 * 1024 + 1024) + 1024 * 10 + 10,
    "mlp_permuted": layers(784, 1024, 1024, 10),
    "mlp_2500_deep": layers(784, 2500, 2000, 1500, 1000, 500, 10),
    "lenet5": 61_706,
    "lenet5_distorted": 61_706,
    "simplenet": 101_770,
    "simplenet_best": 101_770,
}


def comment(name):
    """The lines that a file begins with, as one."""
    return re.match(r"(?:# .*\n)+", CONFIGS[name].read_text())[0].replace("\n#", "")


@functools.cache
def values(name):
    return yaml.safe_load(CONFIGS[name].read_text())


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """96 images to train on: six steps of 16 to the epoch."""
    return write_dataset(tmp_path_factory.mktemp("small") / "digits", train=96, test=10)


def command_line(name, data, *options):
    options = ("--data.data_dir", str(data), "--accelerator=cpu", "--trainer.enable_progress_bar=false", *options)
    return MNISTCLI(["--config", str(CONFIGS[name]), *options])


def test_every_file_is_a_row_of_the_table_and_every_row_a_file():
    assert CONFIGS.keys() == set(FILES.values())


@pytest.mark.parametrize("name", CONFIGS)
def test_what_a_file_says_is_what_is_built(name, small):
    cli = command_line(name, small)
    for part in ("model", "data", "trainer"):
        for option, value in values(name)[part].items():
            assert cli.config[part][option] == value
    assert cli.trainer.max_epochs == values(name)["trainer"]["max_epochs"]
    assert cli.datamodule.distortion.is_identity == (not values(name)["data"].keys() & {"rotation", "elastic"})


@pytest.mark.parametrize("name", CONFIGS)
def test_a_net_has_the_parameters_counted_by_hand(name, small):
    model = values(name)["model"]
    by_hand = {"convnet": convnet, "small": small_net}.get(model.get("net"))
    expected = by_hand(model["channels"]) if by_hand else PARAMETERS[name]
    assert command_line(name, small).training["parameters"] == expected


def test_the_counts_by_hand_are_those_of_the_papers():
    assert layers(784, 10) == 7_850
    assert layers(784, 800, 10) == 636_010
    assert PARAMETERS["mlp_1024_dropout"] == layers(784, 1024, 1024, 1024, 10) == 2_913_290
    assert PARAMETERS["mlp_2500_deep"] == 11_972_510


@pytest.mark.parametrize("name", CONFIGS)
def test_a_few_epochs_lower_the_loss(name, small, tmp_path):
    options = ("--data.batch_size=16", "--max_epochs=3", "--trainer.enable_checkpointing=false")
    cli = command_line(name, small, *options)
    cli.fit(tmp_path / "run")
    losses = [loss for _, loss in scalars(tmp_path / "run")["train/loss"]]
    assert len(losses) == 3
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row["published_error"] is not None])
def test_a_file_begins_with_the_source_and_the_figure_that_the_table_compares_it_with(name):
    row = ROWS[name]
    for word in re.findall(r"\w+", row["source"].replace(" et al.", "")):  # the first author and the year
        assert re.search(rf"\b{word}\b", comment(FILES[name]))
    assert row["published_error"] in [float(figure) for figure in re.findall(r"([\d.]+)%", comment(FILES[name]))]


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row["published_error"] is None])
def test_a_file_without_a_source_says_what_it_is_and_cites_nothing(name):
    assert ROWS[name]["source"] is None
    assert "Published" not in comment(name)
    assert comment(name).count("%") == 1  # what it reached


@pytest.mark.parametrize("name", ROWS)
def test_a_file_says_what_it_reached_in_how_long_as_the_table_does(name):
    row = ROWS[name]
    spread = "" if row["error_std"] is None else f" ± {row['error_std']:.2f}"
    reached = f"{row['error_mean']:.2f}%{spread} "
    if name in CONFIGS:
        assert f"# Reached {reached}" in CONFIGS[name].read_text()
    else:  # an ensemble, in the file of its nets
        assert f"nets {reached}together. " in comment(FILES[name])
    assert f" in {row['seconds']:.1f} s " in comment(FILES[name])
