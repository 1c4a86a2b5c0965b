"""Runs that are killed or stopped, and resumed as if they had not been. Real signals."""

import hashlib
import json
import os
import random
import re
import shutil
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

import lightning.pytorch as L
import pytest
import torch
import yaml
from filelock import FileLock
from helpers import ROOT, Script, ok, refused, run_script, scalars
from runs import (
    DISTORTED,
    FIRST,
    LAST,
    LIGHT,
    OPTIONS,
    StopsItself,
    assert_same_run,
    equal,
    finished,
    ignoring_that_the_run_was_begun,
    start,
    state,
    stopped,
    train_and_test,
)

from mnist_lightning.data.format import FILES, find
from mnist_lightning.data.idx import read_idx
from mnist_lightning.environment import git_commit
from mnist_lightning.errors import UserError
from mnist_lightning.training import run_folder
from mnist_lightning.training.callbacks import RunTimer
from mnist_lightning.training.cli import MNISTCLI
from mnist_lightning.training.run_folder import is_run_of


@pytest.fixture(scope="module")
def whole(dataset, tmp_path_factory):
    """The folder of a run of 24 epochs that nothing happened to."""
    cwd = tmp_path_factory.mktemp("whole")
    finished(start(cwd, dataset, "--max_epochs=24"))
    return cwd / "lightning_logs" / "version_0"


def saved(cwd):
    """When the newest states of the runs were written."""
    return [path.stat().st_mtime_ns for path in cwd.glob(f"lightning_logs/*/{LAST}")]


@pytest.mark.slow
def test_a_run_killed_twenty_times_ends_as_if_it_had_not_been(dataset, tmp_path, whole):
    options = ("--max_epochs=24", "--ckpt_path=last")
    training = json.loads((whole / "training.json").read_text())
    epoch, moments, reached = training["seconds"] / training["epochs"], random.Random(0), []
    for _ in range(20):
        before = saved(tmp_path)
        script = start(tmp_path, dataset, *options, until="")
        while saved(tmp_path) == before and script.exit_code is None:
            time.sleep(0.001)
        time.sleep(moments.uniform(0, 0.6 * epoch))
        killed = script.send_signal(signal.SIGKILL).result()
        assert killed.returncode == -signal.SIGKILL, "it ended before it was killed: give it more epochs"
        reached += [state(run)["global_step"] for run in tmp_path.glob("lightning_logs/*") if (run / LAST).exists()]
    assert len(set(reached)) > 10
    assert any(step % 35 for step in reached), "no kill left a state from the middle of an epoch"
    finished(start(tmp_path, dataset, *options))
    (run,) = [path.parents[1] for path in tmp_path.glob("lightning_logs/*/test/metrics.json")]
    assert_same_run(whole, run)


def test_a_run_asked_to_stop_saves_says_how_to_go_on_and_goes_on_exactly(dataset, tmp_path, whole):
    code, out = stopped(start(tmp_path, dataset, "--max_epochs=24"), signal.SIGTERM)
    assert code == 143
    run = tmp_path / "lightning_logs" / "version_0"
    assert f"stopped by SIGTERM at optimizer step {state(run)['global_step']:,}" in out
    resume = out.strip().splitlines()[-1].split()
    assert Path(resume[1]).name == "train.py"
    ok(run_script("train.py", *resume[2:], cwd=tmp_path))
    assert [path.name for path in run.parent.iterdir()] == ["version_0"]
    assert_same_run(whole, run)


TWO_SIGNALS = """
import signal, sys
import lightning.pytorch as L
from mnist_lightning.training.cli import MNISTCLI

class InOneStep(L.Callback):
    works_with_chunks = True

    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == 45:
            signal.raise_signal(signal.SIGINT)
            print("one", flush=True)
            signal.raise_signal(signal.SIGINT)

cli = MNISTCLI(sys.argv[1:])
cli.trainer.callbacks.append(InOneStep())
cli.fit()
"""


def test_a_second_ctrl_c_ends_at_once_and_leaves_whole_files(dataset, tmp_path):
    (tmp_path / "two_signals.py").write_text(TWO_SIGNALS)
    result = run_script(tmp_path / "two_signals.py", f"--data.data_dir={dataset}", *OPTIONS, cwd=tmp_path)
    assert "one" in result.stdout, result.stderr
    assert result.returncode == -signal.SIGINT
    checkpoints = list(tmp_path.glob("lightning_logs/version_0/checkpoints/*.ckpt"))
    assert sorted(path.name for path in checkpoints) == ["best.ckpt", "last.ckpt"]
    assert [torch.load(path, weights_only=True)["global_step"] for path in sorted(checkpoints)] == [35, 45]


def test_a_run_goes_on_where_its_folder_was_moved_to_and_remembers_its_best(dataset, tmp_path):
    code, out = stopped(start(tmp_path, dataset, "--max_epochs=50"), signal.SIGINT)
    assert (code, "stopped by SIGINT" in out) == (130, True)
    moved = (tmp_path / "lightning_logs").rename(tmp_path / "moved") / "version_0"
    best = torch.load(moved / "checkpoints/best.ckpt", weights_only=True)
    options = ("--data.data_dir", dataset, *OPTIONS, "--max_epochs", state(moved)["epoch"] + 1)
    ok(run_script("train.py", *options, "--ckpt_path", moved / LAST, cwd=tmp_path))
    (callback,) = [value for key, value in state(moved)["callbacks"].items() if key.startswith("BestCheckpoint")]
    (before,) = [value for key, value in best["callbacks"].items() if key.startswith("BestCheckpoint")]
    assert callback["best_model_path"] == str(moved / "checkpoints/best.ckpt")
    assert callback["best_model_score"] >= before["best_model_score"] > 0


def test_last_begins_from_the_start_when_there_is_nothing_of_this_experiment(dataset, tmp_path):
    options = ("--data.data_dir", dataset, *OPTIONS, "--max_epochs=1", "--ckpt_path=last")
    for lr in ("0.001", "0.002"):  # another learning rate is another experiment
        result = run_script("train.py", *options, f"--model.lr={lr}", cwd=tmp_path)
        assert result.returncode == 0
        assert "no checkpoint of this experiment" in result.stderr
    ok(run_script("train.py", *options, "--model.lr=0.001", "--max_epochs=2", cwd=tmp_path))
    assert state(tmp_path / "lightning_logs" / "version_0")["global_step"] == 70
    assert len(list(tmp_path.glob("lightning_logs/*"))) == 2


def test_a_name_is_of_the_run_that_is_resumed_or_of_a_new_one(dataset, tmp_path):
    options = ("--data.data_dir", dataset, *OPTIONS)
    ok(run_script("train.py", *options, "--max_epochs=1", "--name=one", cwd=tmp_path))
    one, two, three = (tmp_path / "lightning_logs" / name for name in ("one", "two", "three"))
    before = {path: path.read_bytes() for path in one.rglob("*.*")}
    result = run_script("train.py", *options, "--max_epochs=2", "--name=two", "--ckpt_path=last", cwd=tmp_path)
    assert (result.returncode, "in lightning_logs/two yet: beginning" in result.stderr) == (0, True)
    ok(run_script("train.py", *options, "--max_epochs=2", "--name=three", "--ckpt_path", one / LAST, cwd=tmp_path))
    assert {path: path.read_bytes() for path in one.rglob("*.*")} == before
    assert state(two)["global_step"] == state(three)["global_step"] == 70
    ok(run_script("train.py", *options, "--max_epochs=2", "--name=one", "--ckpt_path=last", cwd=tmp_path))
    assert state(one)["global_step"] == 70


CONVNET = ("--model.net=convnet", "--model.channels=[4,4]", "--model.hidden=[16]")


@pytest.fixture(scope="module", params=[DISTORTED, CONVNET], ids=["distorted-onecycle", "batch norm"])
def uninterrupted(request, dataset, tmp_path_factory):
    """Options with more to remember, and the folder of a run with them that nothing happened to."""
    run = tmp_path_factory.mktemp("uninterrupted") / "run"
    train_and_test(run, dataset, *request.param)
    return request.param, run


@ignoring_that_the_run_was_begun
@pytest.mark.parametrize("chunk", [1, 12, 18, 27])  # the first, one in an epoch, the last of an epoch and of the run
def test_distortions_schedules_by_the_step_and_batch_norm_go_on_exactly_too(dataset, tmp_path, uninterrupted, chunk):
    options, whole = uninterrupted
    run = tmp_path / "run"
    with pytest.raises(SystemExit, match="143"):
        train_and_test(run, dataset, *options, stop=chunk)
    assert state(run)["global_step"] == {1: 8, 12: 35 + 16, 18: 70, 27: 105}[chunk]
    train_and_test(run, dataset, *options)
    assert_same_run(whole, run)
    assert scalars(run)["lr"] == scalars(whole)["lr"]


@ignoring_that_the_run_was_begun
def test_onecycle_cannot_go_on_for_another_number_of_epochs(dataset, tmp_path):
    run = tmp_path / "lightning_logs" / "version_0"
    with pytest.raises(SystemExit, match="143"):
        train_and_test(run, dataset, *DISTORTED, stop=12)
    before = [(run / name).read_bytes() for name in (LAST, "config.yaml")]
    with pytest.raises(UserError, match=r"the 105 optimizer steps .* got 70; .*--max_epochs"):
        train_and_test(run, dataset, *DISTORTED, "--max_epochs=2")
    options = (f"--data.data_dir={dataset}", *OPTIONS, *DISTORTED, "--max_epochs=4", "--ckpt_path=last")
    refused(run_script("train.py", *options, cwd=tmp_path), "error: expected the 105 optimizer steps", "got 140")
    assert [(run / name).read_bytes() for name in (LAST, "config.yaml")] == before


@ignoring_that_the_run_was_begun
def test_cosine_cannot_go_on_for_another_number_of_epochs(dataset, tmp_path):
    run = tmp_path / "lightning_logs" / "version_0"
    with pytest.raises(SystemExit, match="143"):
        train_and_test(run, dataset, "--model.scheduler=cosine", "--max_epochs=3", stop=2)
    with pytest.raises(UserError, match=r"the 3 epochs of .* got 4; .*--max_epochs"):
        train_and_test(run, dataset, "--model.scheduler=cosine", "--max_epochs=4")


def test_a_run_that_goes_on_for_longer_says_so_in_its_config(dataset, tmp_path):
    options = ("--data.data_dir", dataset, *OPTIONS)
    for epochs in (1, 2):
        more = ("--max_epochs", epochs, "--ckpt_path=last")
        run_script("train.py", *options, *more, cwd=tmp_path).check_returncode()
    run = tmp_path / "lightning_logs" / "version_0"
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert (config["trainer"]["max_epochs"], config["ckpt_path"]) == (2, None)
    ok(run_script("train.py", "--config", run / "config.yaml", cwd=tmp_path))
    assert equal(state(run)["state_dict"], state(run.with_name("version_1"))["state_dict"])


@ignoring_that_the_run_was_begun
def test_a_run_whose_config_is_given_as_text_is_resumed_too(dataset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ("--config={model: {lr: 0.002}}", f"--data.data_dir={dataset}", *OPTIONS, "--ckpt_path=last")
    for epochs in (1, 2):
        MNISTCLI([*options, f"--max_epochs={epochs}"]).fit()
    assert state(tmp_path / "lightning_logs" / "version_0")["global_step"] == 70


def test_options_that_the_checkpoint_would_undo_are_refused(dataset, tmp_path):
    options = ("--data.data_dir", dataset, "--max_epochs=1")
    ok(run_script("train.py", *options, cwd=tmp_path))
    checkpoint = Path("lightning_logs", "version_0", LAST)
    before = sorted(tmp_path.rglob("*"))
    for option, said in (
        ("--model.lr=0.01", "--model.lr 0.001, which its optimizer resumes with, got 0.01"),
        ("--model.dropout=0.2", "--model.dropout 0.0, which its net has, got 0.2; give the same"),
        ("--model.hidden=[64]", "--model.hidden [128], which its net has, got [64]"),
    ):
        result = run_script("train.py", *options, option, f"--ckpt_path={checkpoint}", cwd=tmp_path)
        refused(result, f"last.ckpt: expected {said}")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("options", "name", "said"),
    [
        (["--max_epochs=1"], "last.ckpt", r"last\.ckpt: expected --max_epochs to be at least the 2 .* got 1; raise it"),
        (
            ["--trainer.max_steps=69", "--steps_per_execution=1"],
            "last.ckpt",
            "--trainer.max_steps to be at least the 70 .* got 69; raise it",
        ),
        (["--max_epochs=2"], "best.ckpt", "--max_epochs to be more than the 2 .* got 2; raise it"),
    ],
)
@ignoring_that_the_run_was_begun
def test_a_run_with_nothing_left_to_train_is_refused_and_leaves_no_folder(
    dataset, tmp_path, monkeypatch, options, name, said
):
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "lightning_logs" / "version_0"
    given = (f"--data.data_dir={dataset}", *OPTIONS, *LIGHT)
    MNISTCLI([*given, "--max_epochs=2"]).fit()
    shutil.copy(run / LAST, run / LAST.replace("last", "best"))  # the second epoch may not have been the best
    before = [(run / name).read_bytes() for name in (LAST, "config.yaml", "training.json")]
    with pytest.raises(UserError, match=said):
        MNISTCLI([*given, "--max_epochs=2", *options, f"--ckpt_path={run / 'checkpoints' / name}"]).fit()
    assert [(run / name).read_bytes() for name in (LAST, "config.yaml", "training.json")] == before
    assert list(run.parent.iterdir()) == [run]


@ignoring_that_the_run_was_begun
def test_a_run_that_another_process_trains_is_left_alone(dataset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "lightning_logs" / "version_0"
    options = (f"--data.data_dir={dataset}", *OPTIONS)
    MNISTCLI([*options, "--max_epochs=1"]).fit()
    before = {path: path.read_bytes() for path in run.rglob("*.*")}
    monkeypatch.setattr(run_folder, "PATIENCE", 0.1)
    with (
        FileLock(run / ".lock"),
        pytest.raises(UserError, match="expected a run that has ended, but another process trains it; wait for it"),
    ):
        MNISTCLI([*options, "--max_epochs=2", "--ckpt_path=last"]).fit()
    assert {path: path.read_bytes() for path in run.rglob("*.*")} == before
    MNISTCLI([*options, "--max_epochs=2", "--ckpt_path=last"]).fit()
    assert state(run)["global_step"] == 70


@ignoring_that_the_run_was_begun
def test_a_run_that_stopped_early_stays_so_until_its_patience_is_raised(dataset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "lightning_logs" / "version_0"
    options = (f"--data.data_dir={dataset}", *OPTIONS, "--max_epochs=9", "--early_stopping.min_delta=1000")
    impatient = (*options, "--early_stopping.patience=1")
    MNISTCLI(list(impatient)).fit()  # no loss is so much better than the first
    before = (run / LAST).read_bytes()
    assert state(run)["global_step"] == 70
    MNISTCLI([*impatient, "--ckpt_path=last"]).fit()
    assert (run / LAST).read_bytes() == before
    assert json.loads((run / "training.json").read_text())["epochs"] == 2
    with pytest.raises(
        UserError, match=r"patience of more than 1, the validations .* raise --early_stopping\.patience"
    ):
        MNISTCLI([*impatient, f"--ckpt_path={run / LAST}", "--data.batch_size=32"]).fit()
    assert list(run.parent.iterdir()) == [run]
    MNISTCLI([*options, "--early_stopping.patience=3", "--ckpt_path=last"]).fit()
    assert state(run)["global_step"] == 140


@ignoring_that_the_run_was_begun
@pytest.mark.parametrize(
    "option", ["--data.batch_size=32", "--model.dropout=0.1", "--trainer.gradient_clip_val=0.1", "--ema_decay=0.9"]
)
def test_a_state_that_is_resumed_with_other_options_begins_a_run_that_can_be_repeated_too(
    dataset, tmp_path, monkeypatch, option
):
    monkeypatch.chdir(tmp_path)
    first, second, third = (tmp_path / "lightning_logs" / f"version_{number}" for number in range(3))
    options = (f"--data.data_dir={dataset}", *OPTIONS, *LIGHT)
    MNISTCLI([*options, "--max_epochs=1"]).fit()
    before = [(first / name).read_bytes() for name in (LAST, "config.yaml")]
    MNISTCLI([*options, option, "--max_epochs=2", f"--ckpt_path={first / LAST}"]).fit()
    assert [(first / name).read_bytes() for name in (LAST, "config.yaml")] == before
    MNISTCLI([f"--config={second / 'config.yaml'}"]).fit()
    assert equal(state(second)["state_dict"], state(third)["state_dict"])
    MNISTCLI([f"--config={second / 'config.yaml'}", f"--ckpt_path={second / LAST}", "--max_epochs=3"]).fit()
    assert [path.name for path in sorted(first.parent.iterdir())] == [run.name for run in (first, second, third)]
    assert state(second)["epoch"] == 2


class Watches(L.Callback):
    """Looks after each chunk which step the newest state of a run is of."""

    works_with_chunks = True

    def __init__(self, run):
        self.run, self.steps = run, []

    def on_train_batch_end(self, *_):
        self.steps.append(state(self.run)["global_step"] if (self.run / LAST).exists() else None)


@pytest.mark.parametrize(
    ("minutes", "steps"), [(1e-9, [5, 10, 15, 20, 25, 30, 34, 34]), (60, [None] * 8), (0, [None] * 8)]
)
def test_checkpoints_come_every_so_many_minutes_too(dataset, tmp_path, minutes, steps):
    options = ("--checkpoint.every_n_steps=0", f"--checkpoint.every_n_minutes={minutes}")
    options += ("--steps_per_execution=5", "--max_epochs=1")
    cli = MNISTCLI([f"--data.data_dir={dataset}", *OPTIONS, *options])
    watches = Watches(tmp_path / "run")
    cli.trainer.callbacks.append(watches)
    cli.fit(tmp_path / "run")
    assert watches.steps == steps
    assert state(tmp_path / "run")["global_step"] == 35


def test_a_run_records_what_its_numbers_depend_on(dataset, whole):
    record = json.loads((whole / "environment.json").read_text())
    assert record["torch"] == torch.__version__
    assert record["python"] == sys.version.split()[0]
    assert record["device"]
    assert record["threads"] == 1
    data = b"".join(read_idx(find(dataset, name)).tobytes() for name in FILES)
    assert record["dataset_sha256"] == hashlib.sha256(data).hexdigest()


def test_a_run_records_the_commit_of_its_code(whole):
    record = json.loads((whole / "environment.json").read_text())
    assert record["git_commit"] == git_commit(ROOT / "mnist_lightning" / "files.py")


class TimeIsUp(L.Callback):
    """What ``--trainer.max_time`` does, after a number of chunks."""

    works_with_chunks = True

    def __init__(self, chunks):
        self.left = chunks

    def on_train_batch_end(self, trainer, *_):
        self.left -= 1
        if self.left == 0:
            trainer.should_stop = True


class OutOfTime(L.Callback):
    """Has ``--trainer.max_time`` be over after a number of batches."""

    def __init__(self, batches):
        self.left = batches

    def on_train_batch_end(self, trainer, *_):
        self.left -= 1
        if self.left == 0:
            (timer,) = [each for each in trainer.callbacks if isinstance(each, RunTimer)]
            timer._duration = 0


PLATEAU = ("--model.scheduler=plateau", "--model.step_size=1", "--max_epochs=4")
ACCUMULATED = ("--trainer.accumulate_grad_batches=3", "--steps_per_execution=auto", "--checkpoint.every_n_steps=0")
VALIDATED = ("--trainer.val_check_interval=7", "--steps_per_execution=auto")


@ignoring_that_the_run_was_begun
@pytest.mark.parametrize(
    ("options", "stops", "reached"),
    [
        (("--trainer.precision=64-true",), StopsItself(12), 51),
        (VALIDATED, StopsItself(43), 43),  # as the 43rd step begins; the 42nd was followed by a validation
        ((*VALIDATED, "--checkpoint.every_n_steps=0"), StopsItself(42), 42),  # before a validation that is due
        ((), TimeIsUp(12), 51),
        (VALIDATED, TimeIsUp(42), 42),
        (PLATEAU, StopsItself(9), 35),  # in the last chunk of the first epoch
        (PLATEAU, StopsItself(12), 51),
        (ACCUMULATED, StopsItself(40), 14),  # in the second batch of three
        (ACCUMULATED, OutOfTime(40), 14),
    ],
    ids=[
        *("64-true", "validated", "to be validated", "time", "time, validated", "plateau", "plateau, within an epoch"),
        *("accumulated", "time, accumulated"),
    ],
)
def test_nothing_is_lost_where_a_run_is_stopped(dataset, tmp_path, options, stops, reached):
    def train(name, *callbacks):
        cli = MNISTCLI([f"--data.data_dir={dataset}", *OPTIONS, *LIGHT, "--max_epochs=2", *options])
        cli.trainer.callbacks[:0] = callbacks
        cli.fit(tmp_path / name)

    train("whole")
    with suppress(SystemExit):
        train("stopped", stops)
    assert state(tmp_path / "stopped")["global_step"] == reached
    train("stopped")
    whole, resumed = state(tmp_path / "whole"), state(tmp_path / "stopped")
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "rng_state", "global_step", "epoch", "history"):
        assert equal(whole[part], resumed[part]), part


@pytest.mark.parametrize("every", [0, 5])
def test_a_run_that_may_not_stop_yet_ends_with_its_last_state(dataset, tmp_path, every):
    saves = []

    class Saves(L.Callback):
        works_with_chunks = True

        def on_save_checkpoint(self, trainer, pl_module, checkpoint):
            saves.append(trainer.global_step)

    options = (
        *OPTIONS,
        "--early_stopping.patience=1",
        "--early_stopping.min_delta=1000",
        f"--checkpoint.every_n_steps={every}",
    )
    cli = MNISTCLI([f"--data.data_dir={dataset}", *options, "--max_epochs=9", "--trainer.min_epochs=4"])
    cli.trainer.callbacks.append(Saves())
    cli.fit(tmp_path / "run")
    assert cli.trainer.global_step == state(tmp_path / "run")["global_step"] == 4 * 35
    assert len(set(saves)) == (4 if not every else 4 * 7)


IN_A_TERMINAL = """
import os, runpy, sys
terminal = sys.argv.pop(1)
os.setsid()
descriptor = os.open(terminal, os.O_RDWR)  # which is the session's terminal now
os.dup2(descriptor, 1), os.dup2(descriptor, 2)
sys.stdout = open(1, "w", closefd=False)
sys.argv[0] = sys.argv.pop(1)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_a_run_whose_terminal_is_closed_saves(dataset, tmp_path):
    (tmp_path / "terminal.py").write_text(IN_A_TERMINAL)
    ours, its = os.openpty()
    options = ("--data.data_dir", dataset, *OPTIONS, "--max_epochs=2000")
    script = Script(tmp_path / "terminal.py", os.ttyname(its), ROOT / "scripts" / "train.py", *options, cwd=tmp_path)
    printed = b""
    while not re.search(FIRST, printed.decode(errors="ignore")):
        printed += os.read(ours, 1000)
    os.close(its)
    os.close(ours)
    assert script.result().returncode == 129
    assert state(tmp_path / "lightning_logs" / "version_0")["global_step"] > 35


class HangsUp(L.Callback):
    works_with_chunks = True

    def on_train_batch_start(self, *_):
        signal.raise_signal(signal.SIGHUP)


def test_a_run_that_shall_outlive_its_terminal_does(dataset, tmp_path):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup has it
    try:
        cli = MNISTCLI([f"--data.data_dir={dataset}", *OPTIONS, "--max_epochs=1"])
        cli.trainer.callbacks.append(HangsUp())
        cli.fit(tmp_path / "run")
        assert state(tmp_path / "run")["global_step"] == 35
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


CTRL_C_IN_THE_TEST = """
import signal, sys
import lightning.pytorch as L
from mnist_lightning.console.messages import one_line_errors
from mnist_lightning.training.cli import MNISTCLI

class Interrupts(L.Callback):
    def on_test_batch_start(self, *_):
        signal.raise_signal(signal.SIGINT)

with one_line_errors():
    cli = MNISTCLI(sys.argv[1:])
    cli.trainer.callbacks.append(Interrupts())
    cli.test()
"""


def test_ctrl_c_in_the_test_ends_as_in_training(dataset, tmp_path):
    (tmp_path / "interrupted.py").write_text(CTRL_C_IN_THE_TEST)
    options = (f"--data.data_dir={dataset}", "--trainer.logger=false", "--trainer.enable_checkpointing=false")
    result = run_script(tmp_path / "interrupted.py", *options, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (130, "")


def test_what_changes_the_speed_alone_does_not_make_another_experiment(tmp_path):
    config = {"seed_everything": 0, "model": {"lr": 0.1, "trace": "auto"}, "data": {"data_dir": "x", "source": "auto"}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    assert is_run_of(tmp_path, config | {"model": {"lr": 0.1, "trace": False}})
    assert not is_run_of(tmp_path, config | {"model": {"lr": 0.2, "trace": "auto"}})


def test_a_config_that_is_no_text_is_no_run_of_this_experiment(tmp_path):
    (tmp_path / "config.yaml").write_bytes(b"seed_everything: \xff")
    assert not is_run_of(tmp_path, {"seed_everything": 0})


def test_what_a_requeued_job_left_is_loaded_with_the_checks(dataset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    slurm = {
        "NTASKS": 1,
        "NTASKS_PER_NODE": 1,
        "JOB_NAME": "digits",
        "JOB_ID": 1,
        "PROCID": 0,
        "LOCALID": 0,
        "NODEID": 0,
    }
    for name, value in slurm.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    torch.save({"state_dict": {}}, "hpc_ckpt_3.ckpt")
    with pytest.raises(UserError, match=r"hpc_ckpt_3.ckpt: expected a checkpoint of this project"):
        MNISTCLI([f"--data.data_dir={dataset}", "--accelerator=cpu"]).fit()
    assert [path.name for path in tmp_path.iterdir()] == ["hpc_ckpt_3.ckpt"]
