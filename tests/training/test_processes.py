"""Runs beside one another, short of disk, and spread over processes. Real processes, real signals."""

import json
import os
import resource
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from helpers import ROOT, Script, ok, refused, run_script, scalars, write_dataset
from runs import DISTORTED, assert_same_run, finished, start, state, stopped

from mnist_lightning.training.run_folder import new_run


def test_a_full_disk_ends_in_a_line(dataset, tmp_path):
    refused(start(tmp_path, dataset, "--max_epochs=2", max_file_size=800_000).result(), "cannot use", ".ckpt")


def test_a_disk_that_fills_up_leaves_the_last_checkpoint_whole(dataset, tmp_path):
    script = start(tmp_path, dataset, "--max_epochs=2000")
    resource.prlimit(script.pid, resource.RLIMIT_FSIZE, (800_000, 800_000))
    refused(script.result(), "cannot use", ".ckpt")
    run = tmp_path / "lightning_logs" / "version_0"
    step = state(run)["global_step"]
    assert [path.name for path in (run / "checkpoints").iterdir() if path.suffix != ".ckpt"] == []
    options = ("--config", run / "config.yaml", "--max_epochs", step // 35 + 2, "--ckpt_path=last")
    ok(run_script("train.py", *options, cwd=tmp_path))


def test_a_run_whose_folder_vanishes_ends_in_a_line(dataset, tmp_path):
    script = start(tmp_path, dataset, "--max_epochs=2000")
    (tmp_path / "lightning_logs" / "version_0").rename(tmp_path / "elsewhere")
    refused(script.result(), "lightning_logs/version_0")
    state(tmp_path / "elsewhere")


def test_a_logs_folder_that_cannot_be_is_an_error(dataset, tmp_path):
    (tmp_path / "file").touch()
    refused(start(tmp_path, dataset, "--trainer.default_root_dir=file").result(), "file")


def test_two_runs_at_once_get_a_folder_each_and_do_not_disturb_each_other(dataset, tmp_path):
    options = ("--max_epochs=1", "--model.hidden=[32]")
    both = [start(tmp_path, dataset, *options, until="") for _ in range(2)]
    for script in both:
        finished(script)
    assert_same_run(tmp_path / "lightning_logs" / "version_0", tmp_path / "lightning_logs" / "version_1")


def test_any_number_of_runs_at_once_get_a_folder_each(tmp_path):
    together = threading.Barrier(8)

    def one(_):
        together.wait()
        return new_run(tmp_path)

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(one, range(8))) == [tmp_path / f"version_{number}" for number in range(8)]


DDP = ("--devices=2", "--trainer.strategy=ddp", "--steps_per_execution=auto")


@pytest.fixture(scope="module")
def uneven(tmp_path_factory):
    """Sizes that two processes cannot share evenly: 551 to train on in batches of 17, 50, and 101 in batches of 10."""
    return write_dataset(tmp_path_factory.mktemp("uneven") / "digits", train=601, test=101)


@pytest.mark.parametrize("more", [(), DISTORTED], ids=["", "distorted-onecycle"])
def test_two_processes_train_and_test_like_one(uneven, tmp_path, more):
    options = ("--data.data_dir", uneven, "--data.batch_size=17", "--data.eval_batch_size=10", "--accelerator=cpu")
    options += ("--max_epochs=2", "--trainer.log_every_n_steps=1", *more)
    for ddp in ((), DDP):
        out = ok(Script("train.py", *options, *ddp, cwd=tmp_path, real=bool(ddp)).result())
        assert out.count("test accuracy") == 1
    one, two = (tmp_path / "lightning_logs" / f"version_{number}" for number in (0, 1))
    assert sorted(path.name for path in tmp_path.glob("lightning_logs/*")) == ["version_0", "version_1"]
    a, b = state(one), state(two)
    assert a["global_step"] == b["global_step"] == 66
    for name, weight in a["state_dict"].items():
        if name.startswith("net."):
            assert (weight - b["state_dict"][name]).norm() <= 1e-5 * weight.norm()
    logged, again = scalars(one), scalars(two)
    for name in ("train/loss_step", "train/loss", "train/accuracy", "val/loss", "val/accuracy"):
        assert [step for step, _ in logged[name]] == [step for step, _ in again[name]]
        assert [value for _, value in again[name]] == pytest.approx([value for _, value in logged[name]], rel=1e-4)
    first, second = (json.loads((run / "test" / "metrics.json").read_text()) for run in (one, two))
    assert first["confusion_matrix"] == second["confusion_matrix"]
    assert (first["num_samples"], second["num_samples"]) == (101, 101)


def test_a_process_that_dies_ends_the_run_with_an_error(uneven, tmp_path):
    script = start(tmp_path, uneven, "--max_epochs=2000", *DDP, real=True)
    children = subprocess.run(["pgrep", "-P", str(script.pid)], capture_output=True, text=True, check=True)
    os.kill(int(children.stdout), signal.SIGKILL)
    result = script.result()
    assert result.returncode != 0
    assert result.stderr.strip()


def test_ctrl_c_stops_all_processes_and_saves(uneven, tmp_path):
    code, out = stopped(start(tmp_path, uneven, "--max_epochs=2000", *DDP, real=True), signal.SIGINT)
    assert code == 130
    assert out.count("stopped by SIGINT") == 1
    run = tmp_path / "lightning_logs" / "version_0"
    step = state(run)["global_step"]
    assert step > 0
    epochs = step // 35 + 1
    options = ("--config", run / "config.yaml", "--max_epochs", epochs, "--ckpt_path=last")
    ok(Script("train.py", *options, cwd=tmp_path, real=True).result())
    assert state(run)["global_step"] == 35 * epochs
    assert [path.name for path in run.parent.iterdir()] == ["version_0"]


@pytest.mark.slow
def test_torchrun_starts_the_processes_too(uneven, tmp_path):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    options = ["--data.data_dir", uneven, "--accelerator=cpu", *DDP, "--max_epochs=1"]
    command = [*launcher, ROOT / "scripts" / "train.py", *options]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("cpu, 2 processes") == result.stdout.count("test accuracy") == 1
    assert [path.name for path in tmp_path.glob("lightning_logs/*")] == ["version_0"]
