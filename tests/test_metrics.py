"""The losses against their definitions, and metrics against torchmetrics' own."""

import numpy as np
import pytest
import torch
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassConfusionMatrix

from mnist_lightning.metrics import LOSSES, ConfusionMatrix, Loss, Mean


def by_hand(name, logits, labels):
    """Each sample's loss, from its definition, in double precision."""
    exponentials = np.exp(np.asarray(logits, np.float64))
    probabilities = exponentials / exponentials.sum(1, keepdims=True)
    truth = np.eye(10)[labels]
    return -np.log((probabilities * truth).sum(1)) if name == "cross_entropy" else ((probabilities - truth) ** 2).sum(1)


def answers(count):
    random = torch.Generator().manual_seed(count)
    return 3 * torch.randn(count, 10, generator=random), torch.randint(10, (count,), generator=random)


@pytest.mark.parametrize("name", ["cross_entropy", "mse"])
def test_a_loss_is_that_of_its_definition_for_each_sample_and_in_sum(name):
    logits, labels = answers(50)
    expected = by_hand(name, logits, labels)
    assert LOSSES[name](logits, labels, reduction="none").numpy() == pytest.approx(expected, rel=1e-5)
    assert LOSSES[name](logits, labels, reduction="sum").item() == pytest.approx(expected.sum(), rel=1e-5)


@pytest.mark.parametrize("name", ["cross_entropy", "mse"])
def test_the_mean_loss_counts_every_sample_alike_whatever_the_batches(name):
    logits, labels = answers(50)
    for sizes in ([50], [1, 9, 40], [25, 25]):
        metric = Loss(name)
        for some_logits, some_labels in zip(logits.split(sizes), labels.split(sizes), strict=True):
            metric.update(some_logits, some_labels)
        assert metric.compute().item() == pytest.approx(by_hand(name, logits, labels).mean(), rel=1e-5)


@pytest.mark.parametrize(
    ("name", "unsure", "right", "wrong"), [("cross_entropy", np.log(10), 0.0, 100.0), ("mse", 0.9, 0.0, 2.0)]
)
def test_losses_of_answers_that_anyone_can_check(name, unsure, right, wrong):
    label = torch.tensor([3])
    sure = 100.0 * torch.eye(10)
    for logits, expected in ((torch.zeros(1, 10), unsure), (sure[3:4], right), (sure[4:5], wrong)):
        metric = Loss(name)
        metric.update(logits, label)
        assert metric.compute().item() == pytest.approx(expected, abs=1e-5)


def test_metrics_that_need_no_wait_are_torchmetrics_own():
    logits, labels = torch.rand(7, 20, 5), torch.randint(0, 5, (7, 20))
    ours, theirs = ConfusionMatrix(5), MulticlassConfusionMatrix(5)
    mean, its = Mean(), MeanMetric()
    for scores, true in zip(logits, labels, strict=True):
        for matrix in (ours, theirs):
            matrix.update(scores, true)
        for metric in (mean, its):
            metric.update(scores.flatten(), weight=3.0)
    assert torch.equal(ours.compute(), theirs.compute())
    assert torch.equal(mean.compute(), its.compute())
    mean.update(torch.tensor([torch.nan]))
    assert mean.compute().isnan()
