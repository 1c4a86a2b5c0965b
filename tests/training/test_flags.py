"""The Trainer's flags on the command line do to a run what they do to a yardstick."""

import pytest
import torch
from lightning.pytorch import callbacks as C
from yardstick import EARLY, PLAIN, Case, assert_same_weights, fit, options, weights, with_callbacks

from mnist_lightning.training.chunks import StepsPerExecution
from mnist_lightning.training.cli import MNISTCLI

pytestmark = [
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*GPU available but not used"),
]


def command_line(folder, path, *flags):
    """Trains as scripts/train.py does."""
    quiet = ("--plots.every_n_epochs=0", "--accelerator=cpu")
    flags = [flag if flag.startswith("--") else f"--trainer.{flag}" for flag in flags]
    cli = MNISTCLI([f"--data.data_dir={folder}", f"--trainer.default_root_dir={path}", *quiet, *flags])
    cli.fit()
    return cli


def assert_same_run(cli, theirs, rtol=0.0):
    assert cli.trainer.global_step == theirs.trainer.global_step
    assert cli.trainer.current_epoch == theirs.trainer.current_epoch
    assert_same_weights(dict(cli.model.net.state_dict()), weights(theirs), rtol)


COMMANDS = [
    ("max_epochs=3", options(max_epochs=3)),
    *(
        (f"max_epochs=2 {name}={value}", options(**{name: value}))
        for name, value in (
            ("limit_train_batches", 1),
            ("limit_train_batches", 1.0),
            ("limit_val_batches", 0),
            ("overfit_batches", 3),
            ("val_check_interval", 4),
            ("val_check_interval", "00:00:00:01"),
            ("min_steps", 12),
            ("accumulate_grad_batches", 2),
            ("gradient_clip_val", 0.1),
            ("precision", "bf16-mixed"),
            ("reload_dataloaders_every_n_epochs", 1),
        )
    ),
    *(  # which change nothing that is compared; None: as if there were no flags
        (f"max_epochs=2 {flags}", None)
        for flags in (
            "deterministic=true benchmark=true detect_anomaly=true inference_mode=false num_sanity_val_steps=2",
            "max_time=00:00:05:00 log_every_n_steps=3 enable_model_summary=true enable_progress_bar=false",
            "profiler=simple",
            "enable_checkpointing=false",
            "logger=false",
            "logger=CSVLogger logger.save_dir=csv",
            "barebones=true",
            "callbacks=LearningRateMonitor callbacks+=DeviceStatsMonitor callbacks.cpu_stats=false "
            "callbacks+=TQDMProgressBar callbacks+=ModelSummary callbacks.max_depth=2",
            "callbacks=RichProgressBar callbacks+=RichModelSummary",
            "callbacks=ModelCheckpoint callbacks.every_n_train_steps=4",
            "callbacks=OnExceptionCheckpoint callbacks.dirpath=broken",
        )
    ),
    (
        "max_epochs=2 val_check_interval=12 check_val_every_n_epoch=null",
        options(val_check_interval=12, check_val_every_n_epoch=None),
    ),
    ("max_epochs=3 check_val_every_n_epoch=2", options(max_epochs=3, check_val_every_n_epoch=2)),
    ("max_epochs=-1 max_steps=12", options(max_epochs=-1, max_steps=12)),
    (
        "max_epochs=2 gradient_clip_val=0.01 gradient_clip_algorithm=value",
        options(gradient_clip_val=0.01, gradient_clip_algorithm="value"),
    ),
    ("fast_dev_run=3", options(fast_dev_run=3)),
    *(
        (f"max_epochs=8 {flags}", with_callbacks(lambda: C.EarlyStopping(**EARLY), max_epochs=8))
        for flags in (
            "callbacks=EarlyStopping callbacks.monitor=val/loss callbacks.patience=1 callbacks.min_delta=0.05",
            "--early_stopping.patience=1 --early_stopping.min_delta=0.05",
        )
    ),
    *(
        (f"max_epochs=2 {flags}", with_callbacks(lambda: C.EMAWeightAveraging(decay=0.9)))
        for flags in ("callbacks=EMAWeightAveraging callbacks.decay=0.9", "--ema_decay=0.9")
    ),
    (
        "max_epochs=4 callbacks=StochasticWeightAveraging callbacks.swa_lrs=0.01 callbacks.swa_epoch_start=1",
        with_callbacks(lambda: C.StochasticWeightAveraging(swa_lrs=1e-2, swa_epoch_start=1), max_epochs=4),
    ),
    (
        "max_epochs=2 callbacks=BatchSizeFinder callbacks.init_val=16 callbacks.max_trials=2 "
        "callbacks.steps_per_trial=1",
        with_callbacks(lambda: C.BatchSizeFinder(init_val=16, max_trials=2, steps_per_trial=1)),
    ),
    (
        "max_epochs=2 callbacks=LearningRateFinder callbacks.num_training_steps=16 callbacks.max_lr=0.1",
        with_callbacks(lambda: C.LearningRateFinder(num_training_steps=16, max_lr=0.1)),
    ),
    (
        "max_epochs=2 callbacks=ModelPruning callbacks.pruning_fn=l1_unstructured callbacks.amount=0.2",
        with_callbacks(lambda: C.ModelPruning("l1_unstructured", amount=0.2)),
    ),
]


@pytest.fixture(scope="module")
def plain(dataset, tmp_path_factory):
    return fit(False, dataset, tmp_path_factory.mktemp("plain"), PLAIN)


@pytest.mark.parametrize(("flags", "given"), COMMANDS, ids=lambda value: value if isinstance(value, str) else "")
def test_the_command_line_does_what_the_flags_do_to_the_yardstick(dataset, tmp_path, monkeypatch, plain, flags, given):
    monkeypatch.chdir(tmp_path)
    theirs = fit(False, dataset, tmp_path / "theirs", Case("theirs", given)) if given else plain
    assert_same_run(command_line(dataset, tmp_path / "ours", *flags.split()), theirs)


def test_callbacks_of_the_command_line_are_added_once_and_watch(dataset, tmp_path):
    flags = ("callbacks=EarlyStopping", "callbacks.monitor=val/loss", "callbacks+=LearningRateMonitor")
    cli = command_line(dataset, tmp_path, "max_epochs=2", *flags, "callbacks.logging_interval=epoch")
    kinds = [type(each) for each in cli.trainer.callbacks]
    assert max(kinds.count(kind) for kind in kinds) == 1
    assert {C.EarlyStopping, C.LearningRateMonitor, StepsPerExecution} <= set(kinds)
    (chunks,) = (each for each in cli.trainer.callbacks if isinstance(each, StepsPerExecution))
    assert chunks.reason is None


@pytest.mark.parametrize("flag", ["fast_dev_run=3", "barebones=true", "fast_dev_run=true"])
def test_runs_that_keep_nothing_leave_no_folder(dataset, tmp_path, flag):
    command_line(dataset, tmp_path, "max_epochs=1", flag)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("stopped_at", [4, 12])  # at an epoch's end Lightning itself ends that epoch once more
def test_max_steps_resumed_on_the_command_line_ends_where_one_run_does(dataset, tmp_path, stopped_at):
    whole = fit(False, dataset, tmp_path / "whole", Case("whole", options(max_epochs=-1, max_steps=22)))
    command_line(dataset, tmp_path / "ours", "max_epochs=-1", f"max_steps={stopped_at}")
    last = tmp_path / "ours/lightning_logs/version_0/checkpoints/last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == stopped_at
    resumed = command_line(dataset, tmp_path / "ours", "max_epochs=-1", "max_steps=22", f"--ckpt_path={last}")
    assert_same_run(resumed, whole)
