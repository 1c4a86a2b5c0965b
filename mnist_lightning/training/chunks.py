"""How many optimizer steps one ``training_step`` may take: as many as nobody notices.

Chunks change the speed, never a result and never what a callback sees. So where something watches or counts batches,
``training_step`` gets one batch at a time, as in every Lightning project.
"""

from collections.abc import Sequence
from itertools import chain, count
from typing import Any, Literal

import lightning.pytorch as L
import torch
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
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor

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
STEP_HOOKS = (
    "configure_optimizers",
    "backward",
    "optimizer_step",
    "optimizer_zero_grad",
    "configure_gradient_clipping",
    "lr_scheduler_step",
)
TRANSFER_HOOKS = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")
COUNTING_FLAGS = {  # of the Trainer, and what they are when they do not count batches; the first two set others
    "fast_dev_run": False,
    "overfit_batches": 0.0,
    "max_steps": -1,
    "min_steps": None,
    "limit_train_batches": 1.0,
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
        self._unlogged: list[tuple[int, Tensor, list[float]]] = []  # chunks: first step, losses, learning rates

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        data = trainer.datamodule  # type: ignore[attr-defined]  # set, but not declared
        if stage != "fit" or not isinstance(data, MNISTDataModule):
            return
        self.reason = None if self.steps == 1 else who_notices(trainer, pl_module)
        if self.reason and self.steps != "auto":
            raise UserError(f"expected --steps_per_execution auto or 1, as {self.reason}; got {self.steps}")
        automatic = 1 if self.reason else max(1, IMAGES // data.hparams["batch_size"])
        data.steps_per_execution = automatic if self.steps == "auto" else self.steps
        if getattr(pl_module, "trace", None) is True:
            single = "steps come singly" if data.steps_per_execution == 1 else None
            if reason := self.reason or single or _overrides(pl_module, MNISTClassifier, ("forward",)):
                raise UserError(f"expected --model.trace auto or false, as {reason}; got true")
        callbacks = _callbacks(trainer)  # first in line, so that the others find num_training_batches set
        callbacks.insert(0, callbacks.pop(callbacks.index(self)))

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Leaves the data as it was, for a Trainer without this callback."""
        if isinstance(data := trainer.datamodule, MNISTDataModule):  # type: ignore[attr-defined]
            data.steps_per_execution = 1

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self.teardown(trainer, pl_module, "fit")  # which Lightning does not call then

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Ends an epoch as it was begun: Lightning counts what was served of it."""
        if trainer.state.fn == TrainerFn.FITTING and self.steps == "auto":
            loaders = checkpoint["loops"]["fit_loop"]["state_dict"].get("combined_loader", [])
            if any(loader["position"] and loader["layout"]["steps"] == 1 for loader in loaders):
                self.reason = "the checkpoint is from within an epoch that was"
                data_of(trainer).steps_per_execution = 1

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._unlogged.clear()  # of a training that failed
        self.on_train_epoch_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Has ``trainer.num_training_batches`` count batches, for who looks at it; the loader's end ends the epoch."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        if isinstance(data, MNISTDataModule) and data.steps_per_execution > 1:
            trainer.fit_loop.max_batches = data.batches_per_epoch

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Counts and logs the steps of a chunk as Lightning would, which takes a chunk for one."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        if isinstance(data, MNISTDataModule) and data.steps_per_execution > 1 and len(outputs["rates"]) > 1:
            loop, before = trainer.fit_loop.epoch_loop, len(outputs["rates"]) - 1
            losses, rates = outputs["losses"], outputs["rates"]
            trainer.callback_metrics.update({"train/loss_step": losses[-1], "lr": torch.tensor(rates[-1])})
            self._unlogged.append((loop._batches_that_stepped, losses, rates))
            if losses.is_cpu:  # a GPU would be waited for
                self._log(trainer)
            progress = loop.automatic_optimization.optim_progress.optimizer.step.total
            progress.ready += before
            progress.completed += before
            loop._batches_that_stepped += before

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._log(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._log(trainer)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        self._log(trainer)

    def _log(self, trainer: L.Trainer) -> None:
        """Logs the chunks since the last time, with one look at the device."""
        if self._unlogged:
            starts, losses, rates = zip(*self._unlogged, strict=True)
            _log(trainer, starts[0], torch.cat(losses).tolist(), [*chain(*rates)])
            self._unlogged.clear()


def _log(trainer: L.Trainer, start: int, losses: Sequence[float], rates: Sequence[float]) -> None:
    """Logs every ``log_every_n_steps``-th loss and learning rate where Lightning would: steps count from 0."""
    every = trainer.log_every_n_steps  # type: ignore[attr-defined]  # set, but not declared
    values: dict[str, float] = {}
    for step, loss, rate in zip(count(start), losses, rates):
        if every and (step + 1) % every == 0:
            values = {"train/loss_step": loss, "lr": rate}
            for logger in trainer.loggers:
                logger.log_metrics(values | {"epoch": trainer.current_epoch}, step)
    if values:  # the last ones alone, as Lightning gathers all metrics to give them
        trainer.logged_metrics.update({name: torch.tensor(value) for name, value in values.items()})


def who_notices(trainer: L.Trainer, module: L.LightningModule) -> str | None:
    """Says what in a run watches or counts batches; None where nothing does."""
    for flag, silent in COUNTING_FLAGS.items():
        value = getattr(trainer, flag, None)
        if value != silent or (value == 1 and type(value) is not type(silent)):  # 1.0 of the batches is all, 1 is one
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
    if getattr(callback, "works_with_chunks", False) or type(callback) is Timer:  # a chunk is milliseconds
        return False
    base: type[L.Callback] = L.Callback
    if isinstance(callback, ModelCheckpoint):  # its triggers have no public names
        base, looks = ModelCheckpoint, callback._every_n_train_steps > 0 or callback._train_time_interval is not None
    elif isinstance(callback, LearningRateMonitor):
        base, looks = LearningRateMonitor, callback.logging_interval != "epoch"
    else:
        looks = isinstance(callback, STEERING)
    return looks or any(is_overridden(hook, callback, base) for hook in BATCH_HOOKS)
