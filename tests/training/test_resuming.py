"""States that a run is resumed from, forged in many parts: refused in a line, and nothing written."""

import os
import shutil
import signal
from functools import cache

import lightning.pytorch as L
import pytest
import torch

from mnist_lightning.checkpoints.read import load_classifier
from mnist_lightning.errors import UserError
from mnist_lightning.training.cli import MNISTCLI

LOOP = ("loops", "fit_loop")
ADAM = ("optimizer_states", 0)
TIMER = ("callbacks", "RunTimer")
GONE = object()
SCHEDULES = ("step", "plateau", "cosine", "onecycle", "none")

# what the scripts silence too: see quiet() in console/messages.py
pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")


def command_line(dataset, root, *options):
    quiet = ("--trainer.enable_progress_bar=false", "--plots.every_n_epochs=0", "--accelerator=cpu")
    where = (f"--data.data_dir={dataset}", f"--trainer.default_root_dir={root}")
    return MNISTCLI([*where, *quiet, "--max_epochs=2", *options])


class StopsAfterAnEpoch(L.Callback):
    def on_train_epoch_end(self, trainer, pl_module):
        os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture(scope="module")
def begun(dataset, tmp_path_factory):
    """Gives the newest state of a run with a schedule, that was stopped after an epoch of two."""

    @cache
    def train(schedule):
        root = tmp_path_factory.mktemp(schedule)
        cli = command_line(dataset, root, f"--model.scheduler={schedule}")
        cli.trainer.callbacks.append(StopsAfterAnEpoch())
        with pytest.raises(SystemExit, match="143"):
            cli.fit()
        last = root / "lightning_logs" / "version_0" / "checkpoints" / "last.ckpt"
        return shutil.copy(last, root / "elsewhere.ckpt")

    return train


def resumed(dataset, root, state, schedule):
    """What resumes a state."""
    return command_line(dataset, root, f"--model.scheduler={schedule}", f"--ckpt_path={state}")


def forged(path, place, value):
    """The checkpoint with another value in a place, or without it."""
    checkpoint = torch.load(path, weights_only=True)
    part = checkpoint
    for key in place[:-1]:
        part = part[key]
    if value is GONE:
        del part[place[-1]]
    else:
        part[place[-1]] = value
    return checkpoint


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_run_is_resumed_from_its_own_state_and_a_schedule_that_is_missing_is_begun_anew(
    begun, dataset, tmp_path, schedule
):
    last, other = begun(schedule), tmp_path / "forged.ckpt"
    torch.save(forged(last, ("lr_schedulers",), [{}, {}]), other)
    for state in (last, other):
        cli = resumed(dataset, tmp_path, state, schedule)
        cli.fit()
        assert cli.trainer.global_step == 2 * torch.load(last, weights_only=True)["global_step"] == 18


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("loops",), {}),
        (LOOP, "x"),
        ((*LOOP, "epoch_progress"), None),
        ((*LOOP, "epoch_progress", "current", "completed"), "x"),
        ((*LOOP, "epoch_loop.batch_progress", "total"), GONE),
        ((*ADAM, "state", 0, "exp_avg"), torch.zeros(3)),
        ((*ADAM, "state", 1, "exp_avg_sq"), GONE),
        ((*ADAM, "param_groups", 0, "betas"), 0.9),
        ((*ADAM, "param_groups", 0, "lr"), "fast"),
        (("rng_state",), torch.zeros(5056)),
    ],
)
def test_a_forged_state_is_refused_in_a_line_and_nothing_is_written(begun, dataset, tmp_path, place, value):
    torch.save(forged(begun("onecycle"), place, value), tmp_path / "forged.ckpt")
    cli = resumed(dataset, tmp_path, tmp_path / "forged.ckpt", "onecycle")
    with pytest.raises(UserError, match=r"forged\.ckpt: (cannot be resumed \(|expected )") as error:
        cli.fit()
    assert "\n" not in str(error.value)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / "forged.ckpt"]


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ((*LOOP, "state_dict", "combined_loader"), []),
        (ADAM, GONE),
        ((*ADAM, "state", 0), {}),
        (TIMER, None),
    ],
)
def test_a_part_that_is_missing_is_begun_anew(begun, dataset, tmp_path, place, value):
    torch.save(forged(begun("step"), place, value), tmp_path / "forged.ckpt")
    cli = resumed(dataset, tmp_path, tmp_path / "forged.ckpt", "step")
    cli.fit()
    assert cli.trainer.global_step == 18


def test_a_run_that_called_its_optimizer_by_hand_is_resumed_too(begun, dataset, tmp_path):
    """Until 0.1, steps were counted elsewhere, and the model's options had other names."""
    checkpoint = forged(begun("onecycle"), ("hyper_parameters", "width"), 0.0)
    del checkpoint["hyper_parameters"]["ink_width"]
    checkpoint["hyper_parameters"] |= {"steps_per_execution": 64, "gradient_clip_val": 0.0}
    loop = checkpoint["loops"]["fit_loop"]
    total = loop["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]["step"]["total"]
    loop["epoch_loop.manual_optimization.optim_step_progress"]["total"]["completed"] = total["completed"]
    total.update(ready=0, completed=0)
    torch.save(checkpoint, tmp_path / "old.ckpt")
    cli = resumed(dataset, tmp_path, tmp_path / "old.ckpt", "onecycle")
    cli.fit()
    assert cli.trainer.global_step == 18
    assert load_classifier(tmp_path / "old.ckpt").hparams["ink_width"] == 0


@pytest.mark.parametrize("score", [None, "x"])
def test_a_best_state_without_a_score_is_beaten_by_the_next(dataset, tmp_path, score):
    """A run that is killed when it has saved its first best state, and not yet the newest, leaves no score."""
    command_line(dataset, tmp_path, "--max_epochs=1").fit()
    last = tmp_path / "lightning_logs" / "version_0" / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(last, weights_only=True)
    (best,) = (state for key, state in checkpoint["callbacks"].items() if key.startswith("BestCheckpoint"))
    best["best_model_score"] = score
    torch.save(checkpoint, last)
    cli = command_line(dataset, tmp_path, f"--ckpt_path={last}")
    cli.fit()
    assert cli.chosen_checkpoint == last.with_name("best.ckpt")
    assert torch.load(cli.chosen_checkpoint, weights_only=True)["epoch"] == 1


def test_a_forged_metric_is_refused_with_the_weights(dataset, tmp_path):
    command_line(dataset, tmp_path, "--max_epochs=1").fit()
    last = tmp_path / "lightning_logs" / "version_0" / "checkpoints" / "last.ckpt"
    for value in ("x", torch.zeros(7)):
        torch.save(forged(last, ("state_dict", "train_metrics.accuracy.tp"), value), tmp_path / "forged.ckpt")
        with pytest.raises(UserError, match=r"forged\.ckpt: expected weights that fit .*train_metrics\.accuracy\.tp"):
            load_classifier(tmp_path / "forged.ckpt")
