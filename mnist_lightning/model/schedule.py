"""The optimizer, and its learning rate over a run: what there is, and what each needs of the run."""

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import lightning.pytorch as L
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim import lr_scheduler as schedules

from mnist_lightning.data.datamodule import MNISTDataModule
from mnist_lightning.errors import UserError

OptimizerName = Literal["adam", "adamw", "sgd"]
ScheduleName = Literal["step", "plateau", "cosine", "onecycle", "none"]


def build_optimizer(options: Mapping[str, Any], parameters: Iterable[nn.Parameter], fused: bool) -> Optimizer:
    """Returns the optimizer that a MNISTClassifier's options describe.

    Args:
        options: Of the MNISTClassifier.
        parameters: What it changes.
        fused: Whether one kernel changes all of them, which is twice as fast on a net this small.
    """
    common = {"lr": options["lr"], "weight_decay": options["weight_decay"], "fused": fused}
    if options["optimizer"] == "sgd":
        return SGD(parameters, momentum=options["momentum"], nesterov=options["nesterov"], **common)
    first, second = options["betas"]
    return (Adam if options["optimizer"] == "adam" else AdamW)(parameters, betas=(first, second), **common)


def build_schedule(options: Mapping[str, Any], optimizer: Optimizer, trainer: L.Trainer) -> dict[str, Any] | None:
    """Returns Lightning's description of the schedule in a MNISTClassifier's options, or None for ``none``.

    Raises:
        UserError: The run has no end, where the schedule needs one.
    """
    name, step_size, gamma = options["scheduler"], options["step_size"], options["gamma"]
    if name == "none":
        return None
    if name == "onecycle":
        cycle = schedules.OneCycleLR(optimizer, options["lr"], total_steps(trainer), cycle_momentum=False)
        return {"scheduler": cycle, "interval": "step"}
    if name == "plateau":
        plateau = schedules.ReduceLROnPlateau(optimizer, factor=gamma, patience=step_size - 1)
        return {"scheduler": plateau, "monitor": "val/loss"}
    if name == "cosine":
        return {"scheduler": _cosine(optimizer, epochs(trainer), options["warmup_epochs"])}
    return {"scheduler": schedules.StepLR(optimizer, step_size, gamma)}


def step_schedules(trainer: L.Trainer) -> float:
    """Changes the learning rate between two steps of a chunk, where the schedule does, and returns it."""
    for config in trainer.lr_scheduler_configs:
        if config.interval == "step":
            config.scheduler.step()  # type: ignore[call-arg]  # no plateau steps here
    return learning_rate(trainer)


def learning_rate(trainer: L.Trainer) -> float:
    return trainer.optimizers[0].param_groups[0]["lr"]  # type: ignore[no-any-return]


def _cosine(optimizer: Optimizer, epochs: int, warmup: int) -> schedules.LRScheduler:
    """Down to 0 over the run, after some epochs of the way up; resuming compares ``T_max`` with the run."""
    if not warmup:
        return schedules.CosineAnnealingLR(optimizer, epochs)
    if warmup >= epochs:
        raise UserError(f"expected warmup_epochs to be below the run's {epochs} epochs, got {warmup}; lower it")
    up = schedules.LinearLR(optimizer, 1 / (warmup + 1), total_iters=warmup)
    return schedules.SequentialLR(optimizer, [up, schedules.CosineAnnealingLR(optimizer, epochs - warmup)], [warmup])


def epochs(trainer: L.Trainer) -> int:
    """Returns the epochs of the whole run, or raises a UserError where it has no end."""
    if (limit := trainer.max_epochs or 0) < 1:
        raise UserError("expected the cosine schedule to have an end; give --max_epochs above 0")
    return limit


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
