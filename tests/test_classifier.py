"""The training step against a plain loop, the schedules, the metrics, and what is logged where."""

import lightning.pytorch as L
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import scalars
from lightning.pytorch.loggers import TensorBoardLogger

from mnist_lightning.classifier import MNISTClassifier
from mnist_lightning.datamodule import MNISTDataModule
from mnist_lightning.errors import UserError
from mnist_lightning.nets import SimpleNet


def fit(folder, *, logger=False, seed=0, data=None, trainer=None, **model):
    L.seed_everything(seed)
    module = MNISTClassifier(**model)
    datamodule = MNISTDataModule(str(folder), **(data or {}))
    options = {"max_epochs": 1, "num_sanity_val_steps": 0, **(trainer or {})}
    runner = L.Trainer(
        accelerator="cpu",
        logger=logger,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    runner.fit(module, datamodule)
    return module


def same_weights(a, b):
    return all(map(torch.equal, a.state_dict().values(), b.state_dict().values()))


def plain_loop(folder, epochs=1, clip=None, **options):
    """The guide's loop, over the datamodule's order."""
    L.seed_everything(0)
    net = SimpleNet(options.pop("hidden", (128,)), dropout=options.pop("dropout", 0.0))
    data = MNISTDataModule(str(folder))
    data.setup("fit")
    loader = data.train_dataloader()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, fused=True, **options)
    for epoch in range(epochs):
        loader.sampler.set_epoch(epoch)
        for images, labels in loader:
            images = images.unsqueeze(1).float() / 255
            optimizer.zero_grad()
            loss = F.cross_entropy(net(images), labels)
            loss.backward()
            if clip:
                torch.nn.utils.clip_grad_norm_(net.parameters(), clip)
            optimizer.step()
    return net


@pytest.mark.parametrize("steps", [1, 3, 64])
def test_an_epoch_ends_with_the_weights_of_the_plain_loop_bit_for_bit(dataset, steps):
    assert same_weights(fit(dataset, steps_per_execution=steps).net, plain_loop(dataset))


@pytest.mark.slow
@pytest.mark.parametrize("steps", [1, 64])
def test_an_epoch_of_real_mnist_equals_the_plain_loop_bit_for_bit(mnist, steps):
    assert same_weights(fit(mnist, steps_per_execution=steps).net, plain_loop(mnist))


@pytest.mark.parametrize(
    ("model", "loop"),
    [
        ({"dropout": 0.3, "hidden": [50, 20]}, {"dropout": 0.3, "hidden": [50, 20]}),
        ({"weight_decay": 1e-2}, {"weight_decay": 1e-2}),
        ({"gradient_clip_val": 0.1}, {"clip": 0.1}),
    ],
)
@pytest.mark.parametrize("steps", [1, 4])
def test_regularization_too_is_that_of_the_plain_loop(dataset, model, loop, steps):
    trained = fit(dataset, steps_per_execution=steps, trainer={"max_epochs": 2}, **model)
    assert same_weights(trained.net, plain_loop(dataset, epochs=2, **loop))


class GradientWatcher(L.Callback):
    """Overrides every hook that Lightning calls between backward and step."""

    def __init__(self):
        self.calls = []

    def on_before_backward(self, trainer, pl_module, loss):
        self.calls.append(("loss", trainer.global_step))

    def on_after_backward(self, trainer, pl_module):
        self.calls.append(("gradient", trainer.global_step))

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.calls.append(("step", trainer.global_step))


def test_callbacks_that_watch_the_steps_see_each_and_change_none(dataset):
    watcher = GradientWatcher()
    watched = fit(dataset, trainer={"callbacks": [watcher]})
    assert watcher.calls == [(what, step) for step in range(9) for what in ("loss", "gradient", "step")]
    unwatched = fit(dataset)
    assert same_weights(watched, unwatched)
    assert watched.trainer.global_step == unwatched.trainer.global_step == 9


def test_the_same_seed_gives_the_same_weights_and_another_gives_others(dataset):
    first, second, other = (fit(dataset, seed=seed, dropout=0.1) for seed in (1, 1, 2))
    assert same_weights(first, second)
    assert not same_weights(first, other)


@pytest.mark.parametrize("steps", [1, 4, 64])
def test_every_step_is_counted_and_logged_once_at_its_number(dataset, tmp_path, steps):
    logger = TensorBoardLogger(tmp_path)
    module = fit(dataset, steps_per_execution=steps, logger=logger, trainer={"max_epochs": 2})
    logged = scalars(logger.log_dir)
    assert module.trainer.global_step == 18
    assert [step for step, _ in logged["train/loss_step"]] == list(range(1, 19))
    for name in ("train/loss", "train/accuracy", "val/loss", "val/accuracy"):
        assert [step for step, _ in logged[name]] == [9, 18]
    assert [step for step, _ in logged["lr"]][-1] == 18
    losses = [loss for _, loss in logged["train/loss_step"]]
    assert losses[-1] < losses[0]


def test_the_logged_losses_do_not_depend_on_the_chunks(dataset, tmp_path):
    curves = []
    for steps in (1, 5):
        logger = TensorBoardLogger(tmp_path, name=str(steps))
        fit(dataset, steps_per_execution=steps, logger=logger)
        logged = scalars(logger.log_dir)
        curves.append(logged)
    assert curves[0]["train/loss_step"] == curves[1]["train/loss_step"]
    assert curves[0]["val/loss"] == curves[1]["val/loss"]
    assert curves[0]["train/accuracy"] == curves[1]["train/accuracy"]
    assert curves[0]["train/loss"] == [(9, pytest.approx(curves[1]["train/loss"][0][1]))]  # summed in another order


def test_max_steps_stops_within_a_chunk(dataset):
    module = fit(dataset, steps_per_execution=64, trainer={"max_epochs": 5, "max_steps": 12})
    assert module.trainer.global_step == 12


@pytest.mark.parametrize(
    ("options", "rates"),
    [
        ({"scheduler": "step", "step_size": 2}, [1e-3, 1e-3, 1e-4, 1e-4, 1e-5]),
        ({"scheduler": "none"}, [1e-3] * 5),
        ({"scheduler": "cosine"}, [1e-3 * (1 + np.cos(np.pi * epoch / 5)) / 2 for epoch in range(5)]),
        ({"scheduler": "plateau", "step_size": 1, "lr": 0.0625, "gamma": 0.5}, None),
    ],
)
def test_the_learning_rate_follows_its_schedule(dataset, tmp_path, options, rates):
    logger = TensorBoardLogger(tmp_path)
    fit(dataset, logger=logger, trainer={"max_epochs": 5}, **options)
    logged = scalars(logger.log_dir)
    got = [rate for step, rate in logged["lr"] if step % 9 == 0]
    if rates is None:  # plateau: halved after each epoch without a better validation loss
        rates, best, bad, rate = [], np.inf, 0, options["lr"]
        for _, loss in logged["val/loss"]:
            rates.append(rate)
            best, bad = (loss, 0) if loss < best * (1 - 1e-4) else (best, bad + 1)
            if bad > 0:
                rate, bad = rate / 2, 0
    assert got == pytest.approx(rates, rel=1e-6)


def test_test_metrics_are_those_of_their_definitions(dataset):
    module = fit(dataset, trainer={"max_epochs": 3})
    module.trainer.test(module, module.trainer.datamodule, verbose=False)
    images, labels = module.trainer.datamodule.test_set.tensors
    with torch.inference_mode():
        logits = module(images.unsqueeze(1) / 255)
    predicted = logits.argmax(1)
    confusion = torch.zeros(10, 10, dtype=torch.long)
    for true, guess in zip(labels, predicted, strict=True):
        confusion[true, guess] += 1
    hits = confusion.diag()
    precision, recall = hits / confusion.sum(0).clamp(min=1), hits / confusion.sum(1)
    results = module.test_results
    assert torch.equal(results["confusion_matrix"], confusion)
    assert results["accuracy"] == pytest.approx((predicted == labels).float().mean())
    assert results["loss"] == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-5)
    assert torch.allclose(results["precision"], precision)
    assert torch.allclose(results["recall"], recall)
    assert torch.allclose(results["f1"], (2 * precision * recall / (precision + recall)).nan_to_num())


def test_training_on_everything_needs_no_validation(dataset):
    module = fit(dataset, data={"val_size": 0})
    assert "train/loss" in module.trainer.callback_metrics
    assert not any(name.startswith("val/") for name in module.trainer.callback_metrics)


def test_plateau_without_validation_is_refused(dataset):
    with pytest.raises(UserError, match="plateau"):
        fit(dataset, data={"val_size": 0}, scheduler="plateau")


@pytest.mark.parametrize("precision", ["bf16-mixed", "64-true"])
def test_precision_is_the_trainers_business(dataset, precision):
    module = fit(dataset, trainer={"precision": precision, "max_epochs": 3})
    assert module.trainer.callback_metrics["train/accuracy"] > 0.5


@pytest.mark.parametrize(
    "options",
    [
        {"lr": 0.0},
        {"weight_decay": -1.0},
        {"step_size": 0},
        {"gamma": 0.0},
        {"gradient_clip_val": -1.0},
        {"steps_per_execution": 0},
    ],
)
def test_values_that_cannot_be_are_refused(options):
    with pytest.raises(UserError, match=f"expected {next(iter(options))} to be"):
        MNISTClassifier(**options)
