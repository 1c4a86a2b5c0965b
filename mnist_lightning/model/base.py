"""How well logits do: the losses, and a LightningModule's validation, and its test with every metric of the report."""

from collections.abc import Callable, Sequence
from typing import Literal

import lightning.pytorch as L
import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch.trainer.states import TrainerFn
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassF1Score,
    MulticlassPrecision,
    MulticlassRecall,
)

from mnist_lightning.data.datamodule import MNISTDataModule
from mnist_lightning.data.format import DIGITS, IMAGE_SHAPE, check_classes, check_images, check_shape
from mnist_lightning.data.images import channels_first
from mnist_lightning.devices import ConfusionMatrix, Mean
from mnist_lightning.errors import UserError

BATCH = 1000  # images at a time, to predict

LossName = Literal["cross_entropy", "mse"]


def squared_error(logits: Tensor, labels: Tensor, reduction: Literal["none", "sum"]) -> Tensor:
    """The squared distance of the probabilities (softmax) from 1 for the label and 0 for the others."""
    # one_hot would read the labels' largest value, which no trace can hold and a GPU has to wait for
    right = labels[:, None] == torch.arange(logits.shape[1], device=logits.device)
    errors = (logits.softmax(1) - right.to(logits.dtype)).square().sum(1)
    return errors.sum() if reduction == "sum" else errors


# Each takes logits (batch, classes), labels (batch,) and a reduction, and gives a loss for each image, or their sum.
LOSSES: dict[LossName, Callable[..., Tensor]] = {"cross_entropy": F.cross_entropy, "mse": squared_error}


class Loss(Mean):
    """The mean loss of all samples seen."""

    def __init__(self, name: LossName) -> None:
        super().__init__()
        self.loss = LOSSES[name]

    def update(self, logits: Tensor, labels: Tensor) -> None:  # type: ignore[override]
        """Takes logits (batch, classes) and labels (batch,)."""
        super().update(self.loss(logits, labels, reduction="none"))


def accuracy(classes: Sequence[str]) -> MulticlassAccuracy:
    """The share of all samples seen that were right."""
    # labels were checked when they were read; checking them again would cost more than counting
    return MulticlassAccuracy(len(classes), average="micro", validate_args=False)


class BaseClassifier(L.LightningModule):
    """A module whose ``forward`` maps float images (batch, C, H, W) to logits (batch, classes), validated and tested.

    Args:
        loss: What its ``loss`` is measured with.
        classes: Their names, in the order of the logits.
        image_shape: (H, W) of the images, or (H, W, 3) in colour.

    Raises:
        UserError: Classes or images that cannot be; in a run, other ones than those of its MNISTDataModule.
    """

    def __init__(
        self, loss: LossName, classes: Sequence[str] = DIGITS, image_shape: Sequence[int] = IMAGE_SHAPE
    ) -> None:
        super().__init__()
        check_classes(classes, "the classifier")
        check_shape(image_shape, "the classifier")
        self.classes, self.image_shape, count = list(classes), list(image_shape), len(classes)
        metrics: dict[str, Metric | MetricCollection] = {
            "loss": Loss(loss),
            "accuracy": accuracy(classes),
            "precision": MulticlassPrecision(count, average="none"),
            "recall": MulticlassRecall(count, average="none"),
            "f1": MulticlassF1Score(count, average="none"),
            "confusion_matrix": ConfusionMatrix(count),
        }
        self.test_metrics = MetricCollection(metrics)
        self.val_metrics = MetricCollection({"loss": Loss(loss), "accuracy": accuracy(classes)}, prefix="val/")
        self.val_confusion_matrix = ConfusionMatrix(count)
        self.history: dict[str, list[tuple[int, float]]] = {}  # points (epoch, value) of each metric

    def setup(self, stage: str) -> None:
        data = self.trainer.datamodule  # type: ignore[attr-defined]  # set, but not declared
        if isinstance(data, MNISTDataModule):
            check_images(data.test_set.tensors[0].numpy(), str(data.folder), self.image_shape)
            if data.classes != self.classes:
                raise UserError(
                    f"expected data of {len(self.classes)} classes, {self.classes[0]} to {self.classes[-1]}, as the "
                    f"classifier's, got {len(data.classes)}, {data.classes[0]} to {data.classes[-1]}; make it with "
                    "classes=data.classes"
                )

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
        training = self.training
        self.eval()
        batches = channels_first(torch.from_numpy(images), colour=images.ndim == 4).split(BATCH)
        logits = [self(batch.to(self.device, self.dtype) / 255) for batch in batches]
        self.train(training)
        probabilities = torch.cat(logits).softmax(1).float().cpu().numpy()
        return probabilities.argmax(1), probabilities

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        images, labels = batch
        if len(labels):  # a process's part of a last batch can be empty
            logits = self(images)
            self.val_metrics.update(logits, labels)
            self.val_confusion_matrix.update(logits, labels)

    def on_validation_epoch_end(self) -> None:
        if self.trainer.sanity_checking:  # of a net that has not been trained, on a batch or two
            self.val_metrics.reset()
        else:
            self._end_epoch(self.val_metrics)
            self.val_confusion = self.val_confusion_matrix.compute()
        self.val_confusion_matrix.reset()

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Tensor]:
        images, labels = batch
        logits = self(images)
        if len(labels):  # a process's part of a last batch can be empty
            self.test_metrics.update(logits, labels)
        return {"logits": logits}

    def predict_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Returns the probability of each label, float32 (batch, 10), for ``Trainer.predict``."""
        return self(batch[0]).softmax(1)  # type: ignore[no-any-return]

    def on_test_epoch_end(self) -> None:
        """Leaves the results in ``test_results``: scalars, (10,) tensors, and the (10, 10) confusion matrix."""
        self.test_results: dict[str, Tensor] = {n: value.cpu() for n, value in self.test_metrics.compute().items()}
        self.test_metrics.reset()
        self.log_epoch({f"test/{name}": value.mean() for name, value in self.test_results.items() if value.ndim < 2})

    def _end_epoch(self, metrics: MetricCollection, before: int = 0) -> None:
        values = metrics.compute()
        values = dict(zip(values, torch.stack([*values.values()]).cpu(), strict=True))  # a GPU waits once
        metrics.reset()
        if self.trainer.state.fn == TrainerFn.FITTING:  # not for a validation that somebody asked for
            for name, value in values.items():
                self.history.setdefault(name, []).append((self.current_epoch + 1, value.item()))
        self.log_epoch(values, before)

    def log_epoch(self, values: dict[str, Tensor], before: int = 0) -> None:
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
