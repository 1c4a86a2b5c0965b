"""MNISTClassifier, the LightningModule: loss, optimizer, schedule, metrics, and the training step.

Lightning's work for each batch (hooks, logging, metrics, progress bar) costs more than a training step of a net this
small. So one ``training_step`` gets a chunk of ``steps_per_execution`` mini-batches (the term is Keras's) and takes one
optimizer step for each. Every step is the one that a plain loop would have taken: the same batches, the same order,
the same numbers. Metrics and logs are computed a chunk at a time from what its steps left behind; the logged losses
stay per step, and every x-axis counts optimizer steps.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import lightning.pytorch as L
import torch
from lightning.pytorch.plugins.precision import Precision
from lightning.pytorch.strategies import SingleDeviceStrategy
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, OneCycleLR, ReduceLROnPlateau, StepLR
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import MulticlassConfusionMatrix

from mnist_lightning.data.datamodule import data_of
from mnist_lightning.data.format import CLASSES, SIDE
from mnist_lightning.errors import UserError
from mnist_lightning.model.base import LOSSES, BaseClassifier, Loss, LossName, accuracy
from mnist_lightning.model.nets import Activation, NetName, build, sizes

STEP_HOOKS = ("on_before_backward", "on_after_backward", "on_before_optimizer_step")

Scheduler = Literal["step", "plateau", "cosine", "onecycle", "none"]


class MNISTClassifier(BaseClassifier):
    """Trains a net with Adam.

    Args:
        net: The network: simple (hidden layers only), lenet5 or convnet.
        hidden: Neurons in each hidden layer, as a list: [256,128] is two layers. The net's own by default: [128] for
            simple and convnet, [120,84] for lenet5.
        channels: Feature maps of each convolution of convnet; [32,64,64] by default.
        activation: The non-linearity after each hidden layer.
        dropout: Probability of zeroing each hidden output while training (0.2 to 0.5 regularizes).
        input_dropout: The same for each pixel, for simple.
        deslant: Stands each digit upright before the net sees it, by a shear.
        ink_width: Standard deviation of a digit's ink across, in pixels, that it is stretched to first; 0 does not.
        loss: What training lowers: cross_entropy, or mse, the squared error of the probabilities.
        label_smoothing: Share of each label that cross-entropy spreads over all classes while training.
        lr: Adam's learning rate; the highest, for onecycle.
        weight_decay: L2 penalty on the weights (1e-5 to 1e-4 regularizes).
        scheduler: How the learning rate changes: step (times gamma every step_size epochs), plateau (times gamma when
            the validation loss has not improved for step_size epochs), cosine (down to 0 over the run), onecycle (up
            for a third of the run, then down to 0, changing at every step) or none.
        step_size: Epochs between two changes of the learning rate.
        gamma: What the learning rate is multiplied by.
        gradient_clip_val: Largest norm of the gradient; longer ones are scaled down. 0 does not clip.
        steps_per_execution: Optimizer steps in each call of training_step. Changes the speed, not the result.

    Raises:
        UserError: A value that cannot be.
    """

    def __init__(
        self,
        net: NetName = "simple",
        hidden: Sequence[int] | None = None,
        channels: Sequence[int] | None = None,
        activation: Activation = "relu",
        dropout: float = 0.0,
        input_dropout: float = 0.0,
        deslant: bool = False,
        ink_width: float = 0.0,
        loss: LossName = "cross_entropy",
        label_smoothing: float = 0.0,
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        scheduler: Scheduler = "step",
        step_size: int = 10,
        gamma: float = 0.1,
        gradient_clip_val: float = 0.0,
        steps_per_execution: int = 64,
    ) -> None:
        super().__init__(loss)
        _check("lr", lr, lr > 0, "above 0")
        _check("weight_decay", weight_decay, weight_decay >= 0, "at least 0")
        _check("step_size", step_size, step_size >= 1, "at least 1")
        _check("gamma", gamma, 0 < gamma <= 1, "above 0 and at most 1")
        _check("gradient_clip_val", gradient_clip_val, gradient_clip_val >= 0, "at least 0")
        _check("steps_per_execution", steps_per_execution, steps_per_execution >= 1, "at least 1")
        _check("ink_width", ink_width, 0 <= ink_width <= SIDE, f"from 0 to {SIDE}")
        _check("label_smoothing", label_smoothing, 0 <= label_smoothing < 1, "from 0 to below 1")
        _check("label_smoothing", label_smoothing, not label_smoothing or loss == "cross_entropy", f"0 for {loss}")
        hidden, channels = sizes(net, hidden, channels)
        self.save_hyperparameters()
        self.automatic_optimization = False  # training_step calls the optimizer itself, once for each mini-batch
        self.lr, self.weight_decay, self.gradient_clip_val = lr, weight_decay, gradient_clip_val
        self.scheduler, self.step_size, self.gamma = scheduler, step_size, gamma
        self.steps_per_execution = steps_per_execution
        self._rng_state: Tensor | None = None
        self._validated = False
        self.net = build(
            net,
            deslant=deslant,
            ink_width=ink_width,
            hidden=hidden,
            channels=channels,
            activation=activation,
            dropout=dropout,
            input_dropout=input_dropout or None,
        )
        smoothing = {"label_smoothing": label_smoothing} if label_smoothing else {}
        self.loss = partial(LOSSES[loss], reduction="sum", **smoothing)
        self.train_metrics = MetricCollection({"loss": MeanMetric(), "accuracy": accuracy()}, prefix="train/")
        self.train_metrics.persistent(True)  # a checkpoint from the middle of an epoch holds what it has counted
        self.val_metrics = MetricCollection({"loss": Loss(loss), "accuracy": accuracy()}, prefix="val/")
        self.val_confusion_matrix = MulticlassConfusionMatrix(CLASSES, validate_args=False)
        self.history: dict[str, list[tuple[int, float]]] = {}  # points (epoch, value) of each metric

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
            "cosine": lambda: CosineAnnealingLR(optimizer, self._epochs()),
            "onecycle": lambda: OneCycleLR(optimizer, self.lr, self._total_steps(), cycle_momentum=False),
        }
        if self.scheduler == "none":
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": schedulers[self.scheduler]()}

    def _epochs(self) -> int:
        """Epochs in the whole run."""
        epochs = self.trainer.max_epochs or 0
        if epochs < 1:
            raise UserError("expected the cosine schedule to have an end; give --max_epochs above 0")
        return epochs

    def _total_steps(self) -> int:
        """Optimizer steps in the whole run."""
        limits = {self.trainer.max_steps, (self.trainer.max_epochs or 1) * data_of(self.trainer).steps_per_epoch}
        total = min((limit for limit in limits if limit >= 0), default=0)  # a negative one is none
        if not total:
            raise UserError("expected the onecycle schedule to have an end and steps; give --max_epochs above 0")
        return total

    def on_train_start(self) -> None:
        if self._rng_state is not None:
            torch.set_rng_state(self._rng_state)
        self._bare = _nothing_listens(self.trainer) and not self.gradient_clip_val
        self._check_schedule()
        if self.gradient_clip_val and getattr(self.trainer.precision_plugin, "scaler", None):
            raise UserError(
                "expected no --model.gradient_clip_val with --trainer.precision 16-mixed, whose gradients are scaled; "
                "use bf16-mixed"
            )

    def _check_schedule(self) -> None:
        """Refuses to go on with a schedule of another length, and a plateau scheduler that would not be told."""
        scheduler = self.lr_schedulers()
        if isinstance(scheduler, OneCycleLR) and scheduler.total_steps != self._total_steps():
            raise UserError(
                f"expected the {scheduler.total_steps:,} optimizer steps of the checkpoint's onecycle schedule, got "
                f"{self._total_steps():,}; give the same --max_epochs and data, or begin anew"
            )
        if isinstance(scheduler, CosineAnnealingLR) and scheduler.T_max != self._epochs():
            raise UserError(
                f"expected the {scheduler.T_max:,} epochs of the checkpoint's cosine schedule, got {self._epochs():,}; "
                "give the same --max_epochs, or begin anew"
            )
        if self.scheduler == "plateau" and self.trainer.check_val_every_n_epoch != 1:
            raise UserError("expected a validation after each epoch for the plateau scheduler, got fewer")
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
        scheduler = self.lr_schedulers()
        cycle = scheduler if isinstance(scheduler, OneCycleLR) else None  # the one that changes at every step
        logits, losses, rates = [], [], []
        for x, y in zip(images, labels, strict=True):
            optimizer.zero_grad()
            scores = self.net(x)
            loss = self.loss(scores, y) / share
            backward(loss)
            optimizer.step()
            rates.append(optimizer.param_groups[0]["lr"])
            if cycle:
                cycle.step()
            logits.append(scores.detach())
            losses.append(loss.detach())
        if self._bare:  # Lightning counts its own optimizer's steps only
            self.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress.total.completed += len(losses)
        if labels.numel():
            self.train_metrics["accuracy"].update(torch.cat(logits), labels.flatten())
        mean_losses = self._mean(torch.stack(losses))
        self.train_metrics["loss"].update(mean_losses, weight=share)
        self._log_steps(mean_losses, rates if cycle else rates[-1:])

    def _mean(self, value: Tensor) -> Tensor:
        """Averages over the processes, whose shares of a batch differ by one image where it does not divide."""
        mean: Tensor = self.trainer.strategy.reduce(value, reduce_op="mean")
        return mean

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        if self.gradient_clip_val:  # Lightning's own refuses a fused optimizer under any mixed precision
            torch.nn.utils.clip_grad_norm_(self.parameters(), self.gradient_clip_val)

    def _log_steps(self, losses: Tensor, rates: Sequence[float]) -> None:
        """Logs the losses of the last optimizer steps and their learning rates, or the last one's alone."""
        end = self.global_step + 1
        for logger in self.loggers:
            for step, loss in enumerate(losses.tolist(), end - len(losses)):
                logger.log_metrics({"train/loss_step": loss}, step)
            for step, rate in enumerate(rates, end - len(rates)):
                logger.log_metrics({"lr": rate}, step)

    def on_train_epoch_end(self) -> None:
        self._end_epoch(self.train_metrics)
        scheduler = self.lr_schedulers()
        if isinstance(scheduler, ReduceLROnPlateau):
            if self._validated:  # not where --trainer.max_steps ended the epoch
                scheduler.step(self.trainer.callback_metrics["val/loss"])
        elif isinstance(scheduler, LRScheduler) and not isinstance(scheduler, OneCycleLR):
            scheduler.step()
        self._validated = False

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        images, labels = batch
        if len(labels):  # a process's share of a last batch can be empty
            logits = self(images)
            self.val_metrics.update(logits, labels)
            self.val_confusion_matrix.update(logits, labels)

    def on_validation_epoch_end(self) -> None:
        if self.trainer.sanity_checking:  # of a net that has not been trained, on a batch or two
            self.val_metrics.reset()
        else:
            self._end_epoch(self.val_metrics)
            self.val_confusion = self.val_confusion_matrix.compute()
            self._validated = True
        self.val_confusion_matrix.reset()

    def _end_epoch(self, metrics: MetricCollection) -> None:
        values: dict[str, Tensor] = metrics.compute()
        metrics.reset()
        for name, value in values.items():
            self.history.setdefault(name, []).append((self.current_epoch + 1, value.item()))
        self.log_epoch(values)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["rng_state"] = torch.get_rng_state()  # dropout's next draw
        checkpoint["history"] = self.history

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._rng_state = checkpoint.get("rng_state")
        self.history = {name: list(points) for name, points in checkpoint.get("history", {}).items()}


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


def _check(name: str, value: float, holds: bool, expected: str) -> None:
    if not holds:
        raise UserError(f"expected {name} to be {expected}, got {value}; change --model.{name}")
