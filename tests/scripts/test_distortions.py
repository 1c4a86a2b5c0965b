"""scripts/distortions.py: it takes the flags of train.py, and draws the same again."""

import re

import numpy as np
from helpers import ok, refused, run_script, write_dataset
from PIL import Image


def test_distortions_are_drawn_as_the_flags_of_train_say(dataset, tmp_path):
    plots = []
    for name, elastic in (("one.png", "0.7"), ("same.png", "0.7"), ("other.png", "3")):
        options = ("--data_dir", dataset, "--data.elastic", elastic, "--output", name)
        assert ok(run_script("distortions.py", *options, cwd=tmp_path)) == f"written to {name}\n"
        with Image.open(tmp_path / name) as plot:
            plots.append(np.asarray(plot))
    one, same, other = plots
    assert one.shape == same.shape == other.shape
    assert (one == same).all()
    assert (one != other).any()


def test_of_few_images_all_are_drawn(tmp_path):
    widths = []
    for count in (4, 5):
        few = write_dataset(tmp_path / f"{count}", train=count, test=1)
        ok(run_script("distortions.py", "--data_dir", few, "--output", "few.png", cwd=tmp_path))
        with Image.open(tmp_path / "few.png") as plot:
            widths.append(plot.width)
    assert 4 * 28 < widths[0] < widths[1]


def test_data_that_is_not_there_is_a_line_that_names_no_option_of_other_scripts(tmp_path):
    line = refused(
        run_script("distortions.py", "--data_dir", "none", cwd=tmp_path), "no such folder", "give as data_dir"
    )
    assert "--data." not in line.replace("train.py's --data.source", "")


def test_its_help_is_that_of_train_with_other_defaults(tmp_path):
    (line,) = re.findall(
        r"--data.shift SHIFT\s(.*?)--", ok(run_script("distortions.py", "--help", cwd=tmp_path)), re.DOTALL
    )
    text = "Largest move along each axis, in pixels of which the longer side has 28, as the next two. (default: 1.5)"
    assert " ".join(line.split()) == text
