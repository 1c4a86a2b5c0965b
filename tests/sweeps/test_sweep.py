"""A sweep: what it trains, that no kill can hurt it, that several processes share it, and what it refuses."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
import torch
from helpers import ROOT, run_script, write_dataset

FILES = ("results.csv", "results.json", "results.md", "results.html")
GRID = ("--model.lr", "[1e-4,1e-3,1e-2]", "--model.hidden", "[[8],[16],[32]]", "--seeds", "2", "--max_epochs", "2")
SMALL = ("--model.lr", "[1e-3,1e-2]", "--model.hidden", "[16]", "--max_epochs", "2")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """50 images to validate on, so that points differ."""
    return ("--data.data_dir", write_dataset(tmp_path_factory.mktemp("few") / "digits", train=600, test=50))


def sweep(*options, cwd, **more):
    return run_script("sweep.py", *options, "--output", "out", cwd=cwd, **more)


def ok(result):
    """What it printed; its bar, and what a search says of experimental features, go to standard error."""
    assert (result.returncode, "Traceback" in result.stderr) == (0, False), result.stderr
    return result.stdout


def trials(cwd):
    return json.loads((cwd / "out/results.json").read_text())["trials"]


def contents(cwd):
    return {name: (cwd / "out" / name).read_bytes() for name in FILES if (cwd / "out" / name).exists()}


def states(cwd):
    return [
        trial.state.name
        for trial in optuna.load_study(study_name="sweep", storage=f"sqlite:///{cwd}/out/study.db").trials
    ]


def descendants(pid):
    """Processes that a process started, by /proc."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
    found = [child for child, parent in parents.items() if parent == pid]
    return [*found, *(each for child in found for each in descendants(child))]


def start(*options, cwd):
    command = [sys.executable, ROOT / "scripts/sweep.py", *options, "--output", "out"]
    return subprocess.Popen(list(map(str, command)), cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def kill(process):
    """The power goes: the sweep and all it started, at once."""
    for pid in [process.pid, *descendants(process.pid)]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.communicate()


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """A grid of 3x3 points with two seeds that nobody disturbed."""
    cwd = tmp_path_factory.mktemp("whole")
    return cwd, ok(sweep(*GRID, *data, cwd=cwd))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds the processes to kill in /proc")
def test_a_sweep_that_is_killed_five_times_at_random_ends_bit_for_bit_as_one_that_is_not(whole, data, tmp_path):
    generator = random.Random(0)
    kills = 0
    while kills < 5:
        process = start(*GRID, *data, cwd=tmp_path)
        done = len(list(tmp_path.glob("out/trial_*/seed_*")))
        while len(list(tmp_path.glob("out/trial_*/seed_*"))) < done + 2 and process.poll() is None:
            time.sleep(0.01)  # so that it gets on, however busy the machine is
        time.sleep(generator.uniform(0, 0.5))
        assert process.poll() is None, process.communicate()
        kill(process)
        kills += 1
    assert "RUNNING" in states(tmp_path)
    ok(sweep(*GRID, *data, cwd=tmp_path))
    assert contents(tmp_path) == contents(whole[0])
    runs = [path.relative_to(tmp_path) for path in tmp_path.glob("out/trial_*/seed_*/checkpoints/last.ckpt")]
    assert len(runs) == 18
    for run in runs:
        ours, theirs = (torch.load(cwd / run, weights_only=True)["state_dict"] for cwd in (tmp_path, whole[0]))
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
