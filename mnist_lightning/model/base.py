"""BaseClassifier, a LightningModule that knows how it does: in training, in validation, and in a test."""

from collections.abc import Sequence
from typing import Any

import lightning.pytorch as L
import numpy as np
import torch
from lightning.pytorch.trainer.states import TrainerFn
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import MetricCollection

from mnist_lightning.data.datamodule import MNISTDataModule
from mnist_lightning.data.format import DIGITS, IMAGE_SHAPE, check_classes, check_images, check_shape
from mnist_lightning.data.images import channels_first
from mnist_lightning.data.sampler import seeded
from mnist_lightning.devices import random_states, reseed, set_random_state
from mnist_lightning.errors import UserError
from mnist_lightning.metrics import Loss, LossName, Mean, accuracy, report_metrics

BATCH = 1000  # images at a time, to predict


class EpochEnd(L.Callback):
    """Calls the module's hooks first, as callbacks look for its metrics in theirs; Lightning's own finds none left."""

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        if isinstance(pl_module, BaseClassifier):  # or the Trainer has another by now
            BaseClassifier.on_train_epoch_end(pl_module)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        if isinstance(pl_module, BaseClassifier):
            BaseClassifier.on_validation_epoch_end(pl_module)


class BaseClassifier(L.LightningModule):
    """A module whose ``forward`` maps float images (batch, C, H, W) to logits (batch, classes), and that measures it.

    Args:
        loss: What its ``loss`` is measured with.
        classes: Their names, in the order of the logits.
        image_shape: (H, W) of the images, or (H, W, 3) in colour.

    Raises:
        UserError: Classes or images that cannot be; in a run, other ones than those of its MNISTDataModule.
    """

    _random_states: Tensor | None = None

    def __init__(
        self, loss: LossName, classes: Sequence[str] = DIGITS, image_shape: Sequence[int] = IMAGE_SHAPE
    ) -> None:
        super().__init__()
        check_classes(classes, "the classifier")
        check_shape(image_shape, "the classifier")
        self.classes, self.image_shape, count = list(classes), list(image_shape), len(classes)
        self.train_metrics = MetricCollection({"loss": Mean(), "accuracy": accuracy(count)}, prefix="train/")
        self.train_metrics.persistent(True)  # a checkpoint from the middle of an epoch holds what it has counted
        self.val_metrics = MetricCollection({"loss": Loss(loss), "accuracy": accuracy(count)}, prefix="val/")
        self.test_metrics = report_metrics(loss, count)
        self.history: dict[str, list[tuple[int, float]]] = {}  # points (epoch, value) of each metric

    def setup(self, stage: str) -> None:
        self._random_states = None  # of a checkpoint that was loaded, not resumed
        callbacks: list[L.Callback] = self.trainer.callbacks  # type: ignore[attr-defined]  # set, but not declared
        if not any(isinstance(each, EpochEnd) for each in callbacks):
            callbacks.insert(0, EpochEnd())
        data = self.trainer.datamodule  # type: ignore[attr-defined]  # set, but not declared
        if isinstance(data, MNISTDataModule):
            check_images(data.test_set.tensors[0].numpy(), str(data.folder), self.image_shape)
            if data.classes != self.classes:
                raise UserError(
                    f"expected data of {len(self.classes)} classes, {self.classes[0]} to {self.classes[-1]}, as the "
                    f"classifier's, got {len(data.classes)}, {data.classes[0]} to {data.classes[-1]}; make it with "
                    "classes=data.classes"
                )
            if stage == "fit" and data.permute_pixels != (ours := self.hparams.get("permute_pixels", False)):
                raise UserError(f"expected permute_pixels={data.permute_pixels}, as the data's, got {ours} of the net")

    @torch.inference_mode()
    def predict(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Reads digits, or whatever it was trained on.

        Args:
            images: uint8 (N, 28, 28), bright ink on black, as in MNIST's files; or as ``image_shape`` says.

        Returns:
            The most probable label of each image, int64 (N,), and the probability of every label, float32 (N, 10). A
            label is a place in ``classes``.

        Raises:
            DataError: The images are of another type or shape.
        """
        check_images(images, "predict", self.image_shape)
        modes = {module: module.training for module in self.modules()}  # some may be frozen
        self.eval()
        batches = channels_first(torch.tensor(images), colour=images.ndim == 4).split(BATCH)
        logits = [self(batch.to(self.device, self.dtype) / 255) for batch in batches]
        for module, training in modes.items():
            module.training = training
        probabilities = torch.cat(logits).softmax(1).float().cpu().numpy()
        return probabilities.argmax(1), probabilities

    def on_train_start(self) -> None:
        if self._random_states is not None:
            set_random_state(self._random_states, self.global_rank, self.device)
        elif self.global_rank:  # dropout draws for each process
            reseed(seeded(torch.initial_seed(), self.global_rank).initial_seed(), self.device)
        if self.global_rank:  # the first has what all had counted, if resumed within an epoch
            self.train_metrics.reset()

    def measure_steps(self, steps: Sequence[tuple[Tensor, Tensor]], labels: Tensor) -> Tensor:
        """Counts loss and logits of steps into the metrics; returns each step's loss, over all processes, (steps,)."""
        losses, logits = zip(*steps, strict=True)
        mean: Tensor = self.trainer.strategy.reduce(torch.stack(losses), reduce_op="mean")
        self.train_metrics["loss"].update(mean, weight=labels.shape[-1])
        if labels.numel():  # a process's part of a last batch can be empty
            self.train_metrics["accuracy"].update(torch.cat(logits), labels.flatten())
        return mean

    def on_train_epoch_end(self) -> None:
        if self._counted(self.train_metrics):
            self._end_epoch(self.train_metrics, before=1)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["rng_state"] = random_states(self.device, self.trainer.world_size)  # dropout's next draw
        checkpoint["history"] = self.history
        for name, metric in self.train_metrics.items(keep_base=True):
            with metric.sync_context():  # what all processes have counted
                checkpoint["state_dict"].update(metric.state_dict(prefix=f"train_metrics.{name}."))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._random_states = checkpoint.get("rng_state")
        self.history = {name: list(points) for name, points in checkpoint.get("history", {}).items()}

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Tensor]:
        return self._measure(self.val_metrics, *batch)

    @torch.inference_mode(False)  # so that a fit can count into what is reset in a validation that somebody asked for
    def on_validation_epoch_end(self) -> None:
        if self.trainer.sanity_checking:  # of a net that has not been trained, on a batch or two
            self.val_metrics.reset()
        elif self._counted(self.val_metrics):
            self._end_epoch(self.val_metrics)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Tensor]:
        return self._measure(self.test_metrics, *batch)

    def _measure(self, metrics: MetricCollection, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self(images)
        if len(labels):  # a process's part of a last batch can be empty
            metrics.update(logits, labels)
        return {"logits": logits}

    def predict_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Returns the probability of each label, (batch, classes), for ``Trainer.predict``."""
        return self(batch[0]).softmax(1)  # type: ignore[no-any-return]

    def on_test_epoch_end(self) -> None:
        """Leaves the results in ``test_results``: scalars, (10,) tensors, and the (10, 10) confusion matrix."""
        if not self._counted(self.test_metrics):
            return
        self.test_results: dict[str, Tensor] = {n: value.cpu() for n, value in self.test_metrics.compute().items()}
        self.test_metrics.reset()
        self._log_epoch({f"test/{name}": value.mean() for name, value in self.test_results.items() if value.ndim < 2})

    def _counted(self, metrics: MetricCollection) -> bool:
        """Whether a step has counted into metrics: one of a subclass's own logs what it likes instead."""
        return self.trainer.strategy.reduce_boolean_decision(bool(metrics["loss"].weight), all=False)

    def _end_epoch(self, metrics: MetricCollection, before: int = 0) -> None:
        values = metrics.compute()
        values = dict(zip(values, torch.stack([*values.values()]).cpu(), strict=True))  # a GPU waits once
        metrics.reset()
        if self.trainer.state.fn == TrainerFn.FITTING:  # not for a validation that somebody asked for
            for name, value in values.items():
                self.history.setdefault(name, []).append((self.current_epoch + 1, value.item()))
        self._log_epoch(values, before)

    def _log_epoch(self, values: dict[str, Tensor], before: int = 0) -> None:
        """Logs an epoch's metrics as Lightning would; in a fit at once: a checkpoint that follows must not outrun them.

        ``before`` are the steps by which Lightning's count of them is ahead of the last one.
        """
        fits = self.trainer.state.fn == TrainerFn.FITTING
        self.log_dict(values, prog_bar=True, logger=not fits)
        if fits:
            numbers = {name: value.item() for name, value in values.items()} | {"epoch": self.current_epoch}
            self.trainer.logged_metrics.update(values)
            for logger in self.loggers:
                logger.log_metrics(numbers, self.trainer.fit_loop.epoch_loop._batches_that_stepped - before)
