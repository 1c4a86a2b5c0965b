"""How well logits do: the losses, and a LightningModule's test with every metric of the report."""

from collections.abc import Callable
from typing import Literal

import lightning.pytorch as L
import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch.trainer.states import TrainerFn
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import MeanMetric, Metric, MetricCollection
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassConfusionMatrix,
    MulticlassF1Score,
    MulticlassPrecision,
    MulticlassRecall,
)

from mnist_lightning.data.format import CLASSES, check_images

BATCH = 1000  # images at a time, to predict

LossName = Literal["cross_entropy", "mse"]


def squared_error(logits: Tensor, labels: Tensor, reduction: Literal["none", "sum"]) -> Tensor:
    """The squared distance of the probabilities (softmax) from 1 for the label and 0 for the others."""
    # one_hot would read the labels' largest value, which no trace can hold and a GPU has to wait for
    right = labels[:, None] == torch.arange(logits.shape[1], device=logits.device)
    errors = (logits.softmax(1) - right.to(logits.dtype)).square().sum(1)
    return errors.sum() if reduction == "sum" else errors


# Each takes logits (batch, 10), labels (batch,) and a reduction, and gives a loss for each image, or their sum.
LOSSES: dict[LossName, Callable[..., Tensor]] = {"cross_entropy": F.cross_entropy, "mse": squared_error}


class Loss(MeanMetric):
    """The mean loss of all samples seen."""

    def __init__(self, name: LossName) -> None:
        super().__init__()
        self.loss = LOSSES[name]

    def update(self, logits: Tensor, labels: Tensor) -> None:  # type: ignore[override]
        """Takes logits (batch, 10) and labels (batch,)."""
        super().update(self.loss(logits, labels, reduction="none"))


def accuracy() -> MulticlassAccuracy:
    """The share of all samples seen that were right."""
    # labels were checked when they were read; checking them again would cost more than counting
    return MulticlassAccuracy(CLASSES, average="micro", validate_args=False)


class BaseClassifier(L.LightningModule):
    """A module whose ``forward`` maps float images (batch, 1, 28, 28) to logits (batch, 10), and its test.

    Args:
        loss: What its ``loss`` is measured with.
    """

    def __init__(self, loss: LossName) -> None:
        super().__init__()
        metrics: dict[str, Metric | MetricCollection] = {
            "loss": Loss(loss),
            "accuracy": accuracy(),
            "precision": MulticlassPrecision(CLASSES, average="none"),
            "recall": MulticlassRecall(CLASSES, average="none"),
            "f1": MulticlassF1Score(CLASSES, average="none"),
            "confusion_matrix": MulticlassConfusionMatrix(CLASSES),
        }
        self.test_metrics = MetricCollection(metrics)

    @torch.inference_mode()
    def predict(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Reads digits.

        Args:
            images: uint8 (N, 28, 28), bright ink on black, as in MNIST's files.

        Returns:
            The most probable label of each image, int64 (N,), and the probability of every label, float32 (N, 10).

        Raises:
            DataError: The images are of another type or shape.
        """
        check_images(images, "predict")
        training = self.training
        self.eval()
        batches = torch.from_numpy(images).unsqueeze(1).split(BATCH)
        logits = [self(batch.to(self.device, self.dtype) / 255) for batch in batches]
        self.train(training)
        probabilities = torch.cat(logits).softmax(1).float().cpu().numpy()
        return probabilities.argmax(1), probabilities

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        images, labels = batch
        if len(labels):  # a process's part of a last batch can be empty
            self.test_metrics.update(self(images), labels)

    def predict_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Returns the probability of each label, float32 (batch, 10), for ``Trainer.predict``."""
        return self(batch[0]).softmax(1)  # type: ignore[no-any-return]

    def on_test_epoch_end(self) -> None:
        """Leaves the results in ``test_results``: scalars, (10,) tensors, and the (10, 10) confusion matrix."""
        self.test_results: dict[str, Tensor] = self.test_metrics.compute()
        self.test_metrics.reset()
        self.log_epoch({f"test/{name}": value.mean() for name, value in self.test_results.items() if value.ndim < 2})

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
