"""MNISTClassifier, the LightningModule: loss, optimizer, schedule, metrics, and the training step.

Lightning's work for each batch (hooks, logging, metrics, progress bar) costs more than a training step of a net this
small. So one ``training_step`` gets a chunk of ``steps_per_execution`` mini-batches (the term is Keras's) and takes one
optimizer step for each. Every step is the one that a plain loop would have taken: the same batches, the same order,
the same numbers. Metrics and logs are computed a chunk at a time from what its steps left behind; the logged losses
stay per step, and every x-axis counts optimizer steps.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import lightning.pytorch as L
import torch
import torch.nn.functional as F
from lightning.pytorch.plugins.precision import Precision
from lightning.pytorch.strategies import SingleDeviceStrategy
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, ReduceLROnPlateau, StepLR
from torchmetrics import MeanMetric, Metric, MetricCollection
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassConfusionMatrix,
    MulticlassF1Score,
    MulticlassPrecision,
    MulticlassRecall,
)

from mnist_lightning.errors import UserError
from mnist_lightning.nets import Activation, SimpleNet

CLASSES = 10
STEP_HOOKS = ("on_before_backward", "on_after_backward", "on_before_optimizer_step")

Scheduler = Literal["step", "plateau", "cosine", "none"]


class MNISTClassifier(L.LightningModule):
    """Trains SimpleNet with cross-entropy and Adam.

    Args:
        hidden: Neurons in each hidden layer, as a list: [128], or [256,128] for two layers.
        activation: The non-linearity after each hidden layer.
        dropout: Probability of zeroing each hidden output while training (0.2 to 0.5 regularizes).
        lr: Adam's learning rate.
        weight_decay: L2 penalty on the weights (1e-5 to 1e-4 regularizes).
        scheduler: How the learning rate changes: step (times gamma every step_size epochs), plateau (times gamma when
            the validation loss has not improved for step_size epochs), cosine (down to 0 over the run) or none.
        step_size: Epochs between two changes of the learning rate.
        gamma: What the learning rate is multiplied by.
        gradient_clip_val: Largest norm of the gradient; longer ones are scaled down. 0 does not clip.
        steps_per_execution: Optimizer steps in each call of training_step. Changes the speed, not the result.

    Raises:
        UserError: A value that cannot be.
    """

    def __init__(
        self,
        hidden: Sequence[int] = (128,),
        activation: Activation = "relu",
        dropout: float = 0.0,
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        scheduler: Scheduler = "step",
        step_size: int = 10,
        gamma: float = 0.1,
        gradient_clip_val: float = 0.0,
        steps_per_execution: int = 64,
    ) -> None:
        super().__init__()
        _check("lr", lr, lr > 0, "above 0")
        _check("weight_decay", weight_decay, weight_decay >= 0, "at least 0")
        _check("step_size", step_size, step_size >= 1, "at least 1")
        _check("gamma", gamma, 0 < gamma <= 1, "above 0 and at most 1")
        _check("gradient_clip_val", gradient_clip_val, gradient_clip_val >= 0, "at least 0")
        _check("steps_per_execution", steps_per_execution, steps_per_execution >= 1, "at least 1")
        self.save_hyperparameters()
        self.automatic_optimization = False  # training_step calls the optimizer itself, once for each mini-batch
        self.lr, self.weight_decay, self.gradient_clip_val = lr, weight_decay, gradient_clip_val
        self.scheduler, self.step_size, self.gamma = scheduler, step_size, gamma
        self.steps_per_execution = steps_per_execution
        self._rng_state: Tensor | None = None
        self.net = SimpleNet(hidden, activation, dropout)
        self.train_metrics = MetricCollection({"loss": MeanMetric(), "accuracy": _accuracy()}, prefix="train/")
        self.train_metrics.persistent(True)  # a checkpoint from the middle of an epoch holds what it has counted
        self.val_metrics = MetricCollection(_loss_and_accuracy(), prefix="val/")
        self.test_metrics = MetricCollection(
            _loss_and_accuracy()
            | {
                "precision": MulticlassPrecision(CLASSES, average="none"),
                "recall": MulticlassRecall(CLASSES, average="none"),
                "f1": MulticlassF1Score(CLASSES, average="none"),
                "confusion_matrix": MulticlassConfusionMatrix(CLASSES),
            }
        )

    def forward(self, images: Tensor) -> Tensor:
        """Maps float32 images (batch, 1, 28, 28) in [0, 1] to logits (batch, 10)."""
        logits: Tensor = self.net(images)
        return logits

    def configure_optimizers(self) -> OptimizerLRScheduler:
        # fused: one kernel for all parameters, twice as fast as the default on a net this small
        optimizer = torch.optim.Adam(self.parameters(), self.lr, weight_decay=self.weight_decay, fused=True)
        schedulers: dict[str, Callable[[], LRScheduler]] = {
            "step": lambda: StepLR(optimizer, self.step_size, self.gamma),
            "plateau": lambda: ReduceLROnPlateau(optimizer, factor=self.gamma, patience=self.step_size - 1),
            "cosine": lambda: CosineAnnealingLR(optimizer, self.trainer.max_epochs or 1),
        }
        if self.scheduler == "none":
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": schedulers[self.scheduler]()}

    def on_train_start(self) -> None:
        if self._rng_state is not None:
            torch.set_rng_state(self._rng_state)
        self._bare = _nothing_listens(self.trainer) and not self.gradient_clip_val
        if self.scheduler == "plateau" and not sum(self.trainer.num_val_batches):
            raise UserError("expected validation images for the plateau scheduler, got none; raise --data.val_size")

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Takes one optimizer step for each mini-batch of a chunk."""
        images, labels = batch
        if labels.ndim == 1:  # one mini-batch is a chunk of one
            images, labels = images[None], labels[None]
        if self.trainer.max_steps != -1:  # Lightning looks at it between chunks only
            steps = self.trainer.max_steps - self.global_step
            images, labels = images[:steps], labels[:steps]
        optimizer: Any = self.optimizers(use_pl_optimizer=not self._bare)
        backward = Tensor.backward if self._bare else self.manual_backward
        share = float(self._mean(torch.tensor(float(labels.shape[1]), device=self.device)))
        logits, losses = [], []
        for x, y in zip(images, labels, strict=True):
            optimizer.zero_grad()
            scores = self.net(x)
            loss = F.cross_entropy(scores, y, reduction="sum") / share
            backward(loss)
            optimizer.step()
            logits.append(scores.detach())
            losses.append(loss.detach())
        if self._bare:  # Lightning counts its own optimizer's steps only
            self.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress.total.completed += len(losses)
        if labels.numel():
            self.train_metrics["accuracy"].update(torch.cat(logits), labels.flatten())
        mean_losses = self._mean(torch.stack(losses))
        self.train_metrics["loss"].update(mean_losses, weight=share)
        self._log_steps(mean_losses)

    def _mean(self, value: Tensor) -> Tensor:
        """Averages over the processes, whose shares of a batch differ by one image where it does not divide."""
        mean: Tensor = self.trainer.strategy.reduce(value, reduce_op="mean")
        return mean

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        if self.gradient_clip_val:
            self.clip_gradients(optimizer, self.gradient_clip_val, "norm")

    def _log_steps(self, losses: Tensor) -> None:
        """Logs the loss of each of the last optimizer steps, and the learning rate they were taken with."""
        first = self.global_step - len(losses) + 1
        for logger in self.loggers:
            for step, loss in enumerate(losses.tolist(), first):
                logger.log_metrics({"train/loss_step": loss}, step)
            logger.log_metrics({"lr": self.trainer.optimizers[0].param_groups[0]["lr"]}, self.global_step)

    def on_train_epoch_end(self) -> None:
        self._log_epoch(self.train_metrics.compute())
        self.train_metrics.reset()
        scheduler = self.lr_schedulers()
        if isinstance(scheduler, ReduceLROnPlateau):
            scheduler.step(self.trainer.callback_metrics["val/loss"])
        elif isinstance(scheduler, LRScheduler):
            scheduler.step()

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        images, labels = batch
        if len(labels):  # a process's share of a last batch can be empty
            self.val_metrics.update(self(images), labels)

    def on_validation_epoch_end(self) -> None:
        self._log_epoch(self.val_metrics.compute())
        self.val_metrics.reset()

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        images, labels = batch
        if len(labels):
            self.test_metrics.update(self(images), labels)

    def on_test_epoch_end(self) -> None:
        """Leaves the results in ``test_results``: scalars, (10,) tensors, and the (10, 10) confusion matrix."""
        self.test_results: dict[str, Tensor] = self.test_metrics.compute()
        self.test_metrics.reset()
        self._log_epoch({f"test/{name}": value.mean() for name, value in self.test_results.items() if value.ndim < 2})

    def _log_epoch(self, values: dict[str, Tensor]) -> None:
        """Logs an epoch's metrics at its last optimizer step, now: a checkpoint that follows must not outrun them."""
        self.log_dict(values, prog_bar=True, logger=False)  # for the progress bar and for who monitors them
        for logger in self.loggers:
            logger.log_metrics({name: value.item() for name, value in values.items()}, self.global_step)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["rng_state"] = torch.get_rng_state()  # dropout's next draw

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._rng_state = checkpoint.get("rng_state")


class CrossEntropy(MeanMetric):
    """The mean cross-entropy of all samples seen, in nats."""

    def update(self, logits: Tensor, labels: Tensor) -> None:  # type: ignore[override]
        """Takes logits (batch, 10) and labels (batch,)."""
        super().update(F.cross_entropy(logits, labels, reduction="none"))


def _nothing_listens(trainer: L.Trainer) -> bool:
    """Tells whether Lightning has nothing to do between backward and step but to call hooks that nobody overrides.

    Skipping them saves a fifth of an epoch. Several processes, a gradient scaler and callbacks that look at gradients
    need them.
    """
    callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]  # set, but not declared
    return (
        isinstance(trainer.strategy, SingleDeviceStrategy)
        and type(trainer.precision_plugin) is Precision
        and not any(is_overridden(hook, callback, L.Callback) for hook in STEP_HOOKS for callback in callbacks)
    )


def _loss_and_accuracy() -> dict[str, Metric | MetricCollection]:
    return {"loss": CrossEntropy(), "accuracy": _accuracy()}


def _accuracy() -> MulticlassAccuracy:
    # labels were checked when they were read; checking them again would cost more than counting
    return MulticlassAccuracy(CLASSES, average="micro", validate_args=False)


def _check(name: str, value: float, holds: bool, expected: str) -> None:
    if not holds:
        raise UserError(f"expected {name} to be {expected}, got {value}; change --model.{name}")
