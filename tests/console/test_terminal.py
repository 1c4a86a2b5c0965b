"""Lines that fit the terminal, with the figure that chooses to the last; commands that can be pasted."""

import shlex
import subprocess
import sys

import pytest
from helpers import ROOT

from mnist_lightning.console.terminal import command, epoch_line, from_here

REACHED = {"train/loss": 0.3614, "train/accuracy": 0.8999, "val/loss": 0.21, "val/accuracy": 0.9382}
LOST = {"train/loss": 3e38, "train/accuracy": 1.0, "val/loss": float("nan"), "val/accuracy": 0.1}


@pytest.mark.parametrize("columns", [None, 200, 80, 60, 40, 33])
@pytest.mark.parametrize("metrics", [REACHED, LOST])
def test_a_line_fits_and_keeps_validation_accuracy_to_the_last(columns, metrics):
    for epoch in ("epoch  1/20", "epoch 150/200"):
        line = epoch_line(epoch, metrics, True, columns)
        assert line.startswith(epoch)
        assert f" {metrics['val/accuracy']:.2%}  best" in line
        assert len(line) <= (columns or 80) or columns == 33  # there is no shorter one
        assert epoch_line(epoch, metrics, False, columns) == line.removesuffix("  best")


def test_eighty_columns_hold_it_all_and_sixty_all_figures():
    assert epoch_line("epoch  1/20", REACHED, False, 80) == (
        "epoch  1/20  train loss 0.361 acc 89.99%  val loss 0.210 acc 93.82%"
    )
    assert epoch_line("epoch  1/20", REACHED, True, 60) == ("epoch  1/20  train 0.361 89.99%  val 0.210 93.82%  best")


def test_without_validation_training_is_said():
    only = {name: value for name, value in REACHED.items() if name.startswith("train")}
    assert epoch_line("epoch 1", only, False, 20) == "epoch 1  train acc 89.99%"


def test_a_command_runs_where_it_is_pasted(tmp_path, monkeypatch):
    folder = tmp_path / "a run's folder"
    folder.mkdir()
    monkeypatch.chdir(folder)
    pasted = command("train.py", folder / "x y.yaml", "--name=$HOME", "[3]")
    python, script, *arguments = shlex.split(pasted)
    assert arguments == ["x y.yaml", "--name=$HOME", "[3]"]
    shown = subprocess.run(
        f"{shlex.join([python, '-c', 'import sys; print(sys.executable)'])}; ls {shlex.quote(script)}",
        shell=True,
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout.splitlines() == [sys.executable, script]


def test_paths_are_from_where_one_stands(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert command("test.py", ROOT / "lightning_logs" / "version_0").endswith(
        "scripts/test.py lightning_logs/version_0"
    )
    monkeypatch.chdir(ROOT / "scripts")
    assert command("test.py").endswith(" test.py")
    assert from_here(ROOT / "configs") == "../configs"
    monkeypatch.chdir(tmp_path)
    assert from_here(tmp_path) == "."
