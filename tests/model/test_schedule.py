"""Optimizers and warm-up, as plain options: PyTorch's own, whatever the chunks."""

import math

import lightning.pytorch as L
import pytest
import torch
import torch.nn.functional as F
from helpers import quiet_trainer

from mnist_lightning.data.datamodule import MNISTDataModule
from mnist_lightning.errors import UserError
from mnist_lightning.model.classifier import MNISTClassifier
from mnist_lightning.model.nets import SimpleNet
from mnist_lightning.training.chunks import StepsPerExecution

OPTIMIZERS = [
    ({"optimizer": "adam", "betas": [0.7, 0.9]}, torch.optim.Adam, {"betas": (0.7, 0.9)}),
    ({"optimizer": "adamw", "weight_decay": 0.1}, torch.optim.AdamW, {"weight_decay": 0.1}),
    ({"optimizer": "sgd", "lr": 0.1}, torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}),
    (
        {"optimizer": "sgd", "lr": 0.1, "momentum": 0.8, "nesterov": True},
        torch.optim.SGD,
        {"lr": 0.1, "momentum": 0.8, "nesterov": True},
    ),
]


def fit(dataset, steps, epochs=1, **options):
    L.seed_everything(0)
    model = MNISTClassifier(**options)
    rates = []

    class Rates(L.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    trainer = quiet_trainer(max_epochs=epochs, callbacks=[StepsPerExecution(steps), Rates()])
    trainer.fit(model, MNISTDataModule(str(dataset)))
    return model, rates


@pytest.mark.parametrize("steps", [1, "auto"])
@pytest.mark.parametrize(("options", "kind", "arguments"), OPTIMIZERS)
def test_an_optimizer_is_pytorchs_own_step_by_step(dataset, steps, options, kind, arguments):
    L.seed_everything(0)
    net = SimpleNet()
    optimizer = kind(net.parameters(), **{"lr": 1e-3, "fused": True, **arguments})
    data = MNISTDataModule(str(dataset))
    data.setup("fit")
    for images, labels in data.train_dataloader():
        optimizer.zero_grad()
        F.cross_entropy(net(images.unsqueeze(1).float() / 255), labels).backward()
        optimizer.step()
    model, _ = fit(dataset, steps, **options)
    for ours, theirs in zip(model.net.parameters(), net.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("steps", [1, "auto"])
def test_cosine_rises_for_its_warm_up_and_falls_to_0(dataset, steps):
    _, rates = fit(dataset, steps, epochs=6, scheduler="cosine", warmup_epochs=2, lr=0.01)
    used = [0.01 / 3, *rates]  # a rate that an epoch ends with is the next one's
    expected = [0.01 / 3, 0.02 / 3, *(0.005 * (1 + math.cos(math.pi * epoch / 4)) for epoch in range(5))]
    assert used == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"betas": [0.9]}, "expected betas to be two shares below 1"),
        ({"betas": [0.9, 1.0]}, "expected betas to be two shares below 1"),
        ({"momentum": 1.0}, "expected momentum to be from 0 to below 1, got 1.0; change --model.momentum"),
        ({"nesterov": True, "momentum": 0.0}, "expected nesterov to be false without a momentum"),
        ({"warmup_epochs": -1}, "expected warmup_epochs to be at least 0"),
    ],
)
def test_values_that_cannot_be_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        MNISTClassifier(**options)


def test_a_warm_up_longer_than_the_run_is_refused(dataset):
    with pytest.raises(UserError, match="expected warmup_epochs to be below the run's 2 epochs, got 2"):
        fit(dataset, "auto", epochs=2, scheduler="cosine", warmup_epochs=2)
