"""How well logits do: the losses, and what is measured over an epoch and of a test. Nothing here knows of MNIST.

A GPU works through a queue. Who reads a number of its waits until the queue is empty, and it idles until there is more:
so numbers stay on it for as long as nobody has to see them.
"""

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import MeanMetric, Metric, MetricCollection
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassConfusionMatrix,
    MulticlassF1Score,
    MulticlassPrecision,
    MulticlassRecall,
)

LossName = Literal["cross_entropy", "mse"]


def squared_error(logits: Tensor, labels: Tensor, reduction: Literal["none", "sum"]) -> Tensor:
    """The squared distance of the probabilities (softmax) from 1 for the label and 0 for the others."""
    # one_hot would read the labels' largest value, which no trace can hold and a GPU has to wait for
    right = labels[:, None] == torch.arange(logits.shape[1], device=logits.device)
    errors = (logits.softmax(1) - right.to(logits.dtype)).square().sum(1)
    return errors.sum() if reduction == "sum" else errors


# Each takes logits (batch, classes), labels (batch,) and a reduction, and gives a loss for each image, or their sum.
LOSSES: dict[LossName, Callable[..., Tensor]] = {"cross_entropy": F.cross_entropy, "mse": squared_error}


class Mean(MeanMetric):
    """torchmetrics' own, which reads all values to look for NaN; here a NaN shows in the mean."""

    def update(self, value: Tensor, weight: float | Tensor = 1.0) -> None:  # type: ignore[override]
        self.mean_value += (value * weight).sum()
        self.weight += weight * value.numel()


class ConfusionMatrix(MulticlassConfusionMatrix):
    """torchmetrics' own, which counts with ``bincount``, that reads the largest value."""

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Takes logits (batch, classes) and labels (batch,)."""
        places = labels * self.num_classes + logits.argmax(1)
        self.confmat.view(-1).index_add_(0, places, torch.ones_like(places))


class Loss(Mean):
    """The mean loss of all samples seen."""

    def __init__(self, name: LossName) -> None:
        super().__init__()
        self.loss = LOSSES[name]

    def update(self, logits: Tensor, labels: Tensor) -> None:  # type: ignore[override]
        """Takes logits (batch, classes) and labels (batch,)."""
        super().update(self.loss(logits, labels, reduction="none"))


def accuracy(classes: int) -> MulticlassAccuracy:
    """The share of all samples seen that were right."""
    # labels were checked when they were read; checking them again would cost more than counting
    return MulticlassAccuracy(classes, average="micro", validate_args=False)


def report_metrics(loss: LossName, classes: int) -> MetricCollection:
    """What a report says of a test, of each class for itself too."""
    metrics: dict[str, Metric | MetricCollection] = {
        "loss": Loss(loss),
        "accuracy": accuracy(classes),
        "precision": MulticlassPrecision(classes, average="none"),
        "recall": MulticlassRecall(classes, average="none"),
        "f1": MulticlassF1Score(classes, average="none"),
        "confusion_matrix": ConfusionMatrix(classes),
    }
    return MetricCollection(metrics)
