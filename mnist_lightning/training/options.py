"""The options of a run besides those of the model, the data and Lightning's Trainer."""

from typing import Literal

from mnist_lightning.console.parser import HelpAll, Parser
from mnist_lightning.training.checkpointing import LastCheckpoint
from mnist_lightning.training.tensorboard import TensorBoardPlots


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
        help="Epochs without a better validation loss before training stops; by default it does not.",
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
