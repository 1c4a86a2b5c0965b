"""Optimizers and warm-up, as plain options: PyTorch's own, whatever the chunks."""

import math

import lightning.pytorch as L
import pytest
import torch
import torch.nn.functional as F
from helpers import fit, same_weights, scalars
from lightning.pytorch.loggers import TensorBoardLogger

from mnist_lightning.data.datamodule import MNISTDataModule
from mnist_lightning.errors import UserError
from mnist_lightning.model.nets import SimpleNet

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


@pytest.mark.parametrize(("options", "kind", "arguments"), OPTIMIZERS)
def test_an_optimizer_is_pytorchs_own_step_by_step(dataset, options, kind, arguments):
    L.seed_everything(0, verbose=False)
    net = SimpleNet()
    optimizer = kind(net.parameters(), **{"lr": 1e-3, "fused": True, **arguments})
    data = MNISTDataModule(str(dataset))
    data.setup("fit")
    for images, labels in data.train_dataloader():
        optimizer.zero_grad()
        F.cross_entropy(net(images.unsqueeze(1).float() / 255), labels).backward()
        optimizer.step()
    for steps in (1, "auto"):
        assert same_weights(fit(dataset, steps=steps, **options).net, net)


class Rates(L.Callback):
    """Keeps the learning rate that each epoch begins with, and one more would."""

    def __init__(self):
        self.seen = []

    def on_train_epoch_start(self, trainer, pl_module):
        self.seen.append(trainer.optimizers[0].param_groups[0]["lr"])

    on_train_end = on_train_epoch_start


RATES = [
    ({"scheduler": "step", "step_size": 2}, [1e-3, 1e-3, 1e-4, 1e-4, 1e-5, 1e-5]),
    ({"scheduler": "none"}, [1e-3] * 6),
    ({"scheduler": "cosine"}, [1e-3 * (1 + math.cos(math.pi * epoch / 5)) / 2 for epoch in range(6)]),
    (
        {"scheduler": "cosine", "warmup_epochs": 2},
        [1e-3 / 3, 2e-3 / 3, *(5e-4 * (1 + math.cos(math.pi * epoch / 3)) for epoch in range(4))],
    ),
]


@pytest.mark.parametrize(("options", "expected"), RATES)
def test_the_learning_rate_follows_its_schedule(dataset, options, expected):
    for steps in (1, "auto"):
        rates = Rates()
        fit(dataset, steps=steps, trainer={"max_epochs": 5, "callbacks": [rates]}, **options)
        assert rates.seen == pytest.approx(expected, abs=1e-9)


def test_plateau_halves_the_rate_after_each_epoch_without_a_better_validation_loss(dataset):
    rates = Rates()
    plateau = {"scheduler": "plateau", "step_size": 1, "lr": 0.1, "gamma": 0.5}
    module = fit(dataset, trainer={"max_epochs": 5, "callbacks": [rates]}, **plateau)
    expected, best, rate = [], math.inf, plateau["lr"]
    for _, loss in module.history["val/loss"]:
        expected.append(rate)
        rate, best = (rate, loss) if loss < best * (1 - 1e-4) else (rate / 2, best)
    assert rates.seen == [*expected, rate]
    assert rate < plateau["lr"]


def test_a_warm_up_longer_than_the_run_is_refused(dataset):
    with pytest.raises(UserError, match="expected warmup_epochs to be below the run's 2 epochs, got 2"):
        fit(dataset, trainer={"max_epochs": 2}, scheduler="cosine", warmup_epochs=2)


def test_an_epoch_that_ends_before_its_validation_does_not_end_plateau(dataset):
    assert fit(dataset, trainer={"max_epochs": 5, "max_steps": 2}, scheduler="plateau").trainer.global_step == 2


def test_plateau_without_validation_is_refused(dataset):
    with pytest.raises(UserError, match="plateau"):
        fit(dataset, data={"val_size": 0}, scheduler="plateau")
    with pytest.raises(UserError, match="a validation after each epoch"):
        fit(dataset, trainer={"check_val_every_n_epoch": 2}, scheduler="plateau")


def test_cosine_without_an_end_is_refused(dataset):
    with pytest.raises(UserError, match="cosine schedule to have an end"):
        fit(dataset, trainer={"max_epochs": -1, "max_steps": 4}, scheduler="cosine")


def one_cycle(steps, lr):
    """The learning rate of each step, by PyTorch's own schedule."""
    optimizer = torch.optim.Adam([torch.zeros(1, requires_grad=True)], lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, steps, cycle_momentum=False)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return rates


@pytest.mark.parametrize(
    ("trainer", "total", "steps"),
    [
        *(({"max_epochs": 3}, 27, steps) for steps in (1, 4, 64)),
        ({"max_epochs": 5, "max_steps": 12}, 12, "auto"),
        ({"max_epochs": 2, "limit_train_batches": 3}, 6, "auto"),
        ({"max_epochs": 2, "accumulate_grad_batches": 2}, 10, "auto"),
    ],
)
def test_onecycle_changes_the_learning_rate_at_every_step_of_the_run(dataset, tmp_path, trainer, total, steps):
    logger = TensorBoardLogger(tmp_path)
    fit(dataset, trainer={**trainer, "logger": logger}, scheduler="onecycle", lr=0.02, steps=steps)
    logged = scalars(logger.log_dir)["lr"]
    assert [step for step, _ in logged] == list(range(total))
    assert [rate for _, rate in logged] == pytest.approx(one_cycle(total, 0.02), rel=1e-5)
    assert max(rate for _, rate in logged) == pytest.approx(0.02, rel=0.1)


def test_onecycle_takes_the_steps_of_the_plain_loop(dataset):
    chunks = [fit(dataset, scheduler="onecycle", steps=steps) for steps in (1, 8)]
    assert same_weights(*chunks)
    assert not same_weights(chunks[0], fit(dataset, scheduler="none"))


FOREVER = {"max_epochs": -1, "max_time": {"seconds": 20}}  # should it not be refused, it must not hang


def test_onecycle_needs_an_end(dataset):
    with pytest.raises(UserError, match="expected the onecycle schedule to have an end and steps; give --max_epochs"):
        fit(dataset, scheduler="onecycle", trainer=FOREVER)


def test_onecycle_ends_at_max_steps_where_no_epochs_are_given(dataset):
    module = fit(dataset, scheduler="onecycle", trainer={**FOREVER, "max_steps": 12})
    assert module.trainer.global_step == 12
