"""The options of a run besides the model's, the data's and the Trainer's; and what of the Trainer's cannot be."""

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from mnist_lightning.console.parser import HelpAll, Parser
from mnist_lightning.errors import UserError
from mnist_lightning.training.checkpointing import LastCheckpoint
from mnist_lightning.training.tensorboard import TensorBoardPlots

TO_TEST = "above 0, got {}; use scripts/test.py to test a checkpoint"
TO_VALIDATE = "above 0, got {}; --trainer.limit_val_batches 0 turns validation off"
# Flags of the Trainer, what they cannot be, and what is expected instead
REFUSED: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    ("limit_test_batches", lambda value: value is not None, "unset, got {}: the report is of the whole test set"),
    ("max_epochs", lambda value: value == 0, TO_TEST),
    ("max_steps", lambda value: value == 0, TO_TEST),
    ("limit_train_batches", lambda value: value == 0, TO_TEST),
    ("accumulate_grad_batches", lambda value: value < 1, "at least 1, got {}; leave it out to step with each batch"),
    ("check_val_every_n_epoch", lambda value: value == 0, TO_VALIDATE),
    ("val_check_interval", lambda value: value == 0, TO_VALIDATE),
    ("precision", lambda value: value == "16-true", "one that trains, got {}; 16-mixed and bf16-true do"),
)

# Options, when they would have no effect, and what is expected then
IDLE: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    ("model.dropout", lambda c: not c.model.hidden, "0 without --model.hidden layers"),
    ("model.nesterov", lambda c: c.model.optimizer != "sgd", "false without --model.optimizer sgd"),
    ("model.warmup_epochs", lambda c: c.model.scheduler != "cosine", "0 without --model.scheduler cosine"),
    ("early_stopping.min_delta", lambda c: c.early_stopping.patience is None, "0 without --early_stopping.patience"),
    ("name", lambda c: c.trainer.logger is False, "unset, as --trainer.logger false makes no folder"),
    ("ckpt_path", lambda c: c.find_lr, "unset, as --find_lr begins at the start"),
)

MONITORED = ("val/loss", "val/accuracy", "train/loss", "train/accuracy")
LOGGED = (*MONITORED, "train/loss_step", "lr")


def check_flags(trainer: Mapping[str, Any]) -> None:
    """Refuses what a Trainer takes, to divide by zero, to train nothing, or to lose the test."""
    for name, refused, expected in REFUSED:
        if refused(trainer[name]):
            raise UserError(f"expected --trainer.{name} to be {expected.format(trainer[name])}")


def check_effects(config: Any) -> None:
    """Refuses an option that would do nothing and say nothing."""
    for name, is_idle, expected in IDLE:
        if config[name] and is_idle(config):
            raise UserError(f"expected --{name} to be {expected}, got {config[name]}")


def check_callbacks(callbacks: Sequence[Callback]) -> None:
    """Refuses a callback of the user's that would write over the run's checkpoints, or that misspells its monitor."""
    # what a class of the user's logs may have any name
    names_are_known = all(type(each).__module__.startswith("lightning.") for each in callbacks)
    for each in callbacks:
        if isinstance(each, ModelCheckpoint) and each.dirpath is None:
            given = "save_last" if each.save_last else f"filename {each.filename}"
            if given in ("save_last", "filename best", "filename last"):
                raise UserError(
                    f"expected a ModelCheckpoint beside the run's own best.ckpt and last.ckpt, got {given}; leave it "
                    "out, or give a dirpath"
                )
        monitor = getattr(each, "monitor", None) if names_are_known else None
        meant = difflib.get_close_matches(str(monitor).replace("_", "/"), MONITORED, n=1, cutoff=0.7)
        if meant and monitor not in LOGGED:
            raise UserError(f"expected a metric that is logged to monitor, got {monitor}; did you mean {meant[0]}?")


def add_run_options(parser: Parser) -> None:
    """Adds how long a run lasts, what it keeps, where it is resumed and what it shows."""
    parser.add_argument("--help_all", action=HelpAll, help="Show every option, the Trainer's forty too, and exit.")
    parser.add_short_flag("accelerator", "Where to train: cpu, gpu, or auto for the best there is.")
    parser.add_short_flag("devices", "How many of them, or which: 2, [0,3], auto.")
    parser.add_short_flag("max_epochs", "Passes through the training images.")
    parser.add_argument(
        "--ckpt_path", type=str | None, help="Checkpoint to resume from; last: this experiment's newest, if any."
    )
    parser.add_argument(
        "--steps_per_execution",
        type=int | Literal["auto"],
        default="auto",
        help="Optimizer steps in each call of training_step: a number, or auto for as many as nobody notices. "
        "Changes the speed, never the result.",
    )
    help = "Draw how the loss changes with the learning rate, say which one it suggests, and exit."
    parser.add_argument("--find_lr", action="store_true", help=help)
    parser.add_argument("--name", type=str | None, help="Name of the run's folder; version_0, 1, ... by default.")
    parser.add_argument(
        "--early_stopping.patience",
        type=int | None,
        help="Validations, one an epoch, without a better loss before training stops; by default it does not.",
    )
    help = "What counts as better, at the least."
    parser.add_argument("--early_stopping.min_delta", type=float, default=0.0, help=help)
    parser.add_argument(
        "--ema_decay",
        type=float | None,
        help="Share of a moving average of the weights that stays at each optimizer step, such as 0.999; "
        "validation, checkpoints and the test are then of the average.",
    )
    parser.add_class_arguments(LastCheckpoint, "checkpoint")
    parser.add_class_arguments(TensorBoardPlots, "plots")


def as_list(value: Any) -> list[Any]:
    """What an option that takes one or several was given; nothing, where it was none."""
    return value if isinstance(value, list) else [] if value is None else [value]
