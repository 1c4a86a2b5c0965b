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


def test_two_processes_train_and_test_like_one(uneven, tmp_path):
    options = ("--data.data_dir", uneven, "--data.batch_size=17", "--data.eval_batch_size=10", "--accelerator=cpu")
    options += ("--max_epochs=2", "--trainer.log_every_n_steps=1", *DISTORTED)
    for ddp in ((), DDP):
        out = ok(run_script("train.py", *options, *ddp, cwd=tmp_path))
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
    script = start(tmp_path, uneven, "--max_epochs=2000", *DDP)
    children = subprocess.run(["pgrep", "-P", str(script.pid)], capture_output=True, text=True, check=True)
    os.kill(int(children.stdout), signal.SIGKILL)
    result = script.result()
    assert result.returncode != 0
    assert result.stderr.strip()


def test_ctrl_c_stops_all_processes_and_saves(uneven, tmp_path):
    code, out = stopped(start(tmp_path, uneven, "--max_epochs=2000", *DDP), signal.SIGINT)
    assert code == 130
    assert out.count("stopped by SIGINT") == 1
    run = tmp_path / "lightning_logs" / "version_0"
    step = state(run)["global_step"]
    assert step > 0
    epochs = step // 35 + 1
    options = ("--config", run / "config.yaml", "--max_epochs", epochs, "--ckpt_path=last")
    ok(run_script("train.py", *options, cwd=tmp_path))
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


PLAIN = """
import json, sys, zlib
import lightning.pytorch as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from mnist_lightning.data.datamodule import MNISTDataModule
from mnist_lightning.model.classifier import MNISTClassifier

class Seen(L.Callback):
    "Writes down the random state that each process begins with, and the seed that the images are ordered by."
    def on_train_batch_start(self, trainer, *_):
        with open(f"rank_{trainer.global_rank}", "a") as file:
            print(torch.initial_seed(), zlib.crc32(bytes(torch.get_rng_state().tolist()[8:])), file=file)

def fit(trainer, ckpt_path=None):
    L.seed_everything(0)
    model = MNISTClassifier(hidden=[32])
    trainer.fit(model, MNISTDataModule(sys.argv[1], batch_size=17, eval_batch_size=10), ckpt_path=ckpt_path)
    return model

def trainer(*callbacks):
    off = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)
    devices = {"strategy": sys.argv[2], "devices": 2} if len(sys.argv) > 2 else {"devices": 1}
    keeps = {"enable_checkpointing": bool(callbacks)}
    return L.Trainer(accelerator="cpu", max_epochs=2, callbacks=list(callbacks), **devices, **keeps, **off)

if __name__ == "__main__":
    every = ModelCheckpoint("states", "{step}", save_top_k=-1, every_n_train_steps=50)
    first = trainer(every, Seen())
    model = fit(first)
    steps = first.global_step
    test = first.test(model, MNISTDataModule(sys.argv[1], eval_batch_size=10), verbose=False)[0]
    weights = [parameter.double().sum().item() for parameter in model.parameters()]
    found = {"test": test, "weights": weights, "history": model.history, "steps": steps}
    if len(sys.argv) < 3 or sys.argv[2] == "ddp":
        found["resumed"] = fit(trainer(), "states/step=50.ckpt").history
    if first.is_global_zero:
        json.dump(found, open("found.json", "w"))
"""


@pytest.fixture(scope="module")
def alone(uneven, tmp_path_factory):
    return plain(uneven, cwd=tmp_path_factory.mktemp("alone"))


def plain(*options, cwd):
    """Trains and tests with a Trainer as it comes, and returns what was found."""
    (cwd / "plain.py").write_text(PLAIN)
    result = Script(cwd / "plain.py", *options, cwd=cwd).result()
    assert result.returncode == 0, result.stderr
    return json.loads((cwd / "found.json").read_text())


@pytest.mark.parametrize("strategy", ["ddp", "ddp_fork"])
def test_a_plain_trainer_trains_and_tests_on_every_image_once_in_two_processes(uneven, tmp_path, alone, strategy):
    found = plain(uneven, strategy, cwd=tmp_path)
    assert found["weights"] == pytest.approx(alone["weights"], rel=1e-4)
    assert found["test"] == pytest.approx(alone["test"], rel=1e-4)
    first, second = ((tmp_path / f"rank_{rank}").read_text().splitlines()[0].split() for rank in (0, 1))
    assert first[0] == second[0] == "0"
    assert first[1] != second[1]  # or dropout would draw one mask for both
    if strategy == "ddp":
        assert found["steps"] == alone["steps"] == 66
        for history in (found["history"], found["resumed"], alone["resumed"]):  # the last two from within an epoch
            for name, points in alone["history"].items():
                assert [value for _, value in history[name]] == pytest.approx([value for _, value in points], rel=1e-4)


@pytest.mark.slow
def test_folds_hold_out_each_image_once_whichever_process_looks(uneven, tmp_path):
    """Two folds, two processes each: what both call the held-out part, and what they validate on of it."""
    (tmp_path / "seen.py").write_text(
        "import atexit, json, torch, lightning.pytorch as L\n"
        "atexit.register(lambda: print('still one group:', torch.distributed.is_initialized()))\n"
        "class Seen(L.Callback):\n"
        "    works_with_chunks = True\n"
        "    def on_validation_epoch_start(self, trainer, *_):\n"
        "        held = trainer.datamodule.val_set.indices.tolist()\n"
        "        mine = [held[i] for batch in trainer.val_dataloaders.sampler for i in batch.tolist()]\n"
        "        fold = trainer.datamodule.hparams['fold']\n"
        "        json.dump([held, mine], open(f'fold_{fold}_rank_{trainer.global_rank}.json', 'w'))\n"
    )
    env = {"PYTHONPATH": f"{ROOT}:{tmp_path}"}
    options = ("--data.data_dir", uneven, "--accelerator=cpu", "--max_epochs=1", "--trainer.callbacks=seen.Seen")
    everything = []
    for fold in range(2):
        folds = ("--data.folds=2", f"--data.fold={fold}")
        out = ok(run_script("train.py", *options, *DDP, *folds, cwd=tmp_path, env=env, real=False))
        assert out.count("still one group: False") == 2  # or threads abort the end of the process, now and then
        (held, first), (same, second) = (
            json.loads((tmp_path / f"fold_{fold}_rank_{rank}.json").read_text()) for rank in (0, 1)
        )
        assert held == same == sorted(first + second)
        assert abs(len(first) - len(second)) <= 10
        everything += held
    assert sorted(everything) == list(range(601))
