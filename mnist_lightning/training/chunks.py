"""How many optimizer steps one ``training_step`` may take: as many as nobody notices.

Chunks change the speed, never a result and never what a callback sees. So where something watches or counts batches,
``training_step`` gets one batch at a time, as in every Lightning project.
"""

from typing import Any, Literal

import lightning.pytorch as L
from lightning.pytorch.callbacks import (
    BatchSizeFinder,
    GradientAccumulationScheduler,
    LearningRateFinder,
    LearningRateMonitor,
    ModelCheckpoint,
    StochasticWeightAveraging,
    Timer,
)
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.strategies import SingleDeviceStrategy
from lightning.pytorch.utilities.model_helpers import is_overridden

from mnist_lightning.data.datamodule import MNISTDataModule, data_of
from mnist_lightning.errors import UserError
from mnist_lightning.model.classifier import MNISTClassifier

IMAGES = 4096  # of an automatic chunk: fewer cost more of Lightning's work, and more no longer fit into the cache

BATCH_HOOKS = (
    "on_train_batch_start",
    "on_train_batch_end",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
)
STEP_HOOKS = ("backward", "optimizer_step", "optimizer_zero_grad", "configure_gradient_clipping", "lr_scheduler_step")
TRANSFER_HOOKS = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")
COUNTING_FLAGS = {  # of the Trainer, and what they are when they do not count batches
    "max_steps": -1,
    "min_steps": None,
    "limit_train_batches": 1.0,
    "overfit_batches": 0.0,
    "val_check_interval": 1.0,
    "accumulate_grad_batches": 1,
}
# They change how steps are taken from hooks that most callbacks may have.
STEERING = (BatchSizeFinder, GradientAccumulationScheduler, LearningRateFinder, StochasticWeightAveraging)


class StepsPerExecution(L.Callback):
    """Has the training loader of a MNISTDataModule give chunks of batches, for a MNISTClassifier to step through.

    Args:
        steps: Optimizer steps in each call of training_step: a number, or auto for as many as nobody notices. It
            changes the speed, never the result.

    Attributes:
        reason: Why a chunk has one step; None where it has more, or was asked for.

    Raises:
        UserError: A number below 1; in a run, one above 1 where chunks would change what happens.
    """

    works_with_chunks = True

    def __init__(self, steps: int | Literal["auto"] = "auto") -> None:
        if steps != "auto" and steps < 1:
            raise UserError(f"expected steps_per_execution to be auto or at least 1, got {steps}; change it")
        self.steps = steps
        self.reason: str | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage != "fit" or self.steps == 1:
            return
        self.reason = who_notices(trainer, pl_module)
        if self.reason and self.steps != "auto":
            raise UserError(f"expected --steps_per_execution auto or 1, as {self.reason}; got {self.steps}")
        if not self.reason:
            data = data_of(trainer)
            data.steps_per_execution = (
                max(1, IMAGES // data.hparams["batch_size"]) if self.steps == "auto" else self.steps
            )


def who_notices(trainer: L.Trainer, module: L.LightningModule) -> str | None:
    """Says what in a run watches or counts batches; None where nothing does."""
    for flag, silent in COUNTING_FLAGS.items():
        if getattr(trainer, flag) != silent:
            return f"{flag} counts batches"
    if not isinstance(trainer.strategy, SingleDeviceStrategy):
        return f"{trainer.world_size} processes share each batch"
    if getattr(trainer.precision_plugin, "scaler", None):
        return f"precision {trainer.precision} scales gradients"
    profiler = trainer.profiler  # type: ignore[attr-defined]  # set, but not declared
    if not isinstance(profiler, PassThroughProfiler):
        return f"{type(profiler).__name__} measures each batch"
    watching = (f"{type(each).__name__} looks at each batch" for each in _callbacks(trainer) if _watches(each))
    return (
        _overrides(module, MNISTClassifier, (*BATCH_HOOKS, *STEP_HOOKS, *TRANSFER_HOOKS, "training_step"))
        or _overrides(trainer.datamodule, MNISTDataModule, TRANSFER_HOOKS)  # type: ignore[attr-defined]
        or next(watching, None)
    )


def _overrides(instance: Any, base: type, hooks: tuple[str, ...]) -> str | None:
    if not isinstance(instance, base):
        return f"{type(instance).__name__} is no {base.__name__}"
    found = (f"{type(instance).__name__} overrides {hook}" for hook in hooks if is_overridden(hook, instance, base))
    return next(found, None)


def _callbacks(trainer: L.Trainer) -> list[L.Callback]:
    callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]  # set, but not declared
    return callbacks


def _watches(callback: L.Callback) -> bool:
    """Whether a callback would notice that batches come in chunks. One that would not may say so itself."""
    if getattr(callback, "works_with_chunks", False) or isinstance(callback, Timer):  # a chunk is milliseconds
        return False
    if isinstance(callback, ModelCheckpoint):
        return callback._every_n_train_steps > 0  # it has no public name
    if isinstance(callback, LearningRateMonitor):
        return callback.logging_interval != "epoch"
    return isinstance(callback, STEERING) or any(is_overridden(hook, callback, L.Callback) for hook in BATCH_HOOKS)
