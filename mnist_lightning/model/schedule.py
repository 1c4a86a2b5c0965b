"""The learning rate over a run: the schedules there are, and what each needs of the run."""

from typing import Any, Literal

import lightning.pytorch as L
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR, ReduceLROnPlateau, StepLR

from mnist_lightning.data.datamodule import MNISTDataModule
from mnist_lightning.errors import UserError

ScheduleName = Literal["step", "plateau", "cosine", "onecycle", "none"]


def build_schedule(
    name: ScheduleName, optimizer: Optimizer, trainer: L.Trainer, step_size: int, gamma: float
) -> dict[str, Any] | None:
    """Returns Lightning's description of a schedule, or None for ``none``.

    Args:
        name: Which.
        optimizer: Its learning rate is the highest for onecycle, and the first for the others.
        trainer: Of the run, which cosine and onecycle end with.
        step_size: Epochs between two changes (step), or without improvement of the validation loss (plateau).
        gamma: What step and plateau multiply by.

    Raises:
        UserError: The run has no end, where the schedule needs one.
    """
    if name == "none":
        return None
    if name == "onecycle":
        rate = optimizer.param_groups[0]["lr"]
        return {
            "scheduler": OneCycleLR(optimizer, rate, total_steps(trainer), cycle_momentum=False),
            "interval": "step",
        }
    if name == "plateau":
        plateau = ReduceLROnPlateau(optimizer, factor=gamma, patience=step_size - 1)
        return {"scheduler": plateau, "monitor": "val/loss"}
    if name == "cosine":
        return {"scheduler": CosineAnnealingLR(optimizer, epochs(trainer))}
    return {"scheduler": StepLR(optimizer, step_size, gamma)}


def epochs(trainer: L.Trainer) -> int:
    """Returns the epochs of the whole run.

    Raises:
        UserError: It has no end.
    """
    if (trainer.max_epochs or 0) < 1:
        raise UserError("expected the cosine schedule to have an end; give --max_epochs above 0")
    return trainer.max_epochs or 0


def total_steps(trainer: L.Trainer) -> int:
    """Returns the optimizer steps of the whole run.

    Raises:
        UserError: It has no end, or no step.
    """
    data = trainer.datamodule  # type: ignore[attr-defined]  # set, but not declared
    if not isinstance(data, MNISTDataModule):
        return int(trainer.estimated_stepping_batches)
    steps_per_epoch = -(-data.batches_per_epoch // trainer.accumulate_grad_batches)
    limits = {trainer.max_steps, (trainer.max_epochs or 1) * steps_per_epoch}
    total = min((limit for limit in limits if limit >= 0), default=0)  # a negative one is none
    if not total:
        raise UserError("expected the onecycle schedule to have an end and steps; give --max_epochs above 0")
    return total
