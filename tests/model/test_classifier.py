"""The training step against a plain loop, the losses, the schedules, the metrics, and what is logged where."""

from functools import partial
from typing import get_args

import lightning.pytorch as L
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import scalars
from lightning.pytorch.loggers import TensorBoardLogger

from mnist_lightning.data.datamodule import MNISTDataModule
from mnist_lightning.errors import UserError
from mnist_lightning.model.classifier import MNISTClassifier
from mnist_lightning.model.nets import build
from mnist_lightning.model.schedule import ScheduleName
from mnist_lightning.training.chunks import StepsPerExecution
from mnist_lightning.training.resuming import CheckedStates


def fit(folder, *, steps="auto", logger=False, seed=0, data=None, trainer=None, **model):
    L.seed_everything(seed)
    module = MNISTClassifier(**model)
    datamodule = MNISTDataModule(str(folder), **(data or {}))
    options = {"max_epochs": 1, "num_sanity_val_steps": 0, "log_every_n_steps": 1, **(trainer or {})}
    callbacks = [StepsPerExecution(steps), CheckedStates(), *options.pop("callbacks", [])]
    runner = L.Trainer(
        accelerator="cpu",
        logger=logger,
        callbacks=callbacks,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    runner.fit(module, datamodule)
    return module


def same_weights(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def plain_loop(folder, epochs=1, clip=None, net="simple", model=None, **options):
    """The guide's loop, over the datamodule's order."""
    L.seed_everything(0)
    net = build(net, **(model or {}))
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
    assert same_weights(fit(dataset, steps=steps).net, plain_loop(dataset))


@pytest.mark.slow
@pytest.mark.parametrize("steps", [1, 64])
def test_an_epoch_of_real_mnist_equals_the_plain_loop_bit_for_bit(mnist, steps):
    assert same_weights(fit(mnist, steps=steps).net, plain_loop(mnist))


@pytest.mark.parametrize(
    ("model", "loop"),
    [
        ({"dropout": 0.3, "hidden": [50, 20]}, {"model": {"dropout": 0.3, "hidden": [50, 20]}}),
        ({"weight_decay": 1e-2}, {"weight_decay": 1e-2}),
    ],
)
@pytest.mark.parametrize("steps", [1, 4])
def test_regularization_too_is_that_of_the_plain_loop(dataset, model, loop, steps):
    trained = fit(dataset, steps=steps, trainer={"max_epochs": 2}, **model)
    assert same_weights(trained.net, plain_loop(dataset, epochs=2, **loop))


NETS = {  # those of the results table, small
    "linear": {"hidden": []},
    "mlp": {"hidden": [30, 20, 10]},
    "dropout": {"hidden": [30, 20], "dropout": 0.5, "input_dropout": 0.2},
    "upright": {"deslant": True, "ink_width": 5.0},
    "lenet5": {"net": "lenet5"},
    "convnet": {"net": "convnet", "channels": [4, 6], "dropout": 0.3},
}


@pytest.mark.parametrize("name", NETS)
def test_a_trace_of_each_net_trains_it_as_the_plain_loop_does(dataset, name):
    net, model = NETS[name].get("net", "simple"), {key: NETS[name][key] for key in NETS[name].keys() - {"net"}}
    trained = fit(dataset, steps=4, trace=True, **NETS[name])
    assert same_weights(trained.net, plain_loop(dataset, net=net, model=model))


@pytest.mark.parametrize("steps", [1, 4])
def test_clipping_too_is_that_of_the_plain_loop(dataset, steps):
    trained = fit(dataset, steps=steps, trainer={"max_epochs": 2, "gradient_clip_val": 0.1})
    assert same_weights(trained.net, plain_loop(dataset, epochs=2, clip=0.1))


class OtherNet(L.Callback):
    works_with_chunks = True

    def on_train_start(self, trainer, pl_module):
        pl_module.net = torch.nn.Sequential(torch.nn.Threshold(0.5, 0.0), pl_module.net)


class OtherLoss(L.Callback):
    works_with_chunks = True

    def on_train_epoch_end(self, trainer, pl_module):
        pl_module.loss = partial(F.cross_entropy, reduction="sum", label_smoothing=0.3)


@pytest.mark.parametrize("callback", [OtherNet, OtherLoss])
def test_a_net_or_a_loss_that_a_callback_brings_is_what_is_trained(dataset, callback):
    one, several = (fit(dataset, steps=steps, trainer={"max_epochs": 2, "callbacks": [callback()]}) for steps in (1, 4))
    assert same_weights(one, several)


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
    module = fit(dataset, steps=steps, logger=logger, trainer={"max_epochs": 2})
    logged = scalars(logger.log_dir)
    assert module.trainer.global_step == 18
    assert [step for step, _ in logged["train/loss_step"]] == list(range(18))
    for name in ("train/loss", "train/accuracy", "val/loss", "val/accuracy"):
        assert [step for step, _ in logged[name]] == [8, 17]
    assert [step for step, _ in logged["lr"]][-1] == 17
    losses = [loss for _, loss in logged["train/loss_step"]]
    assert losses[-1] < losses[0]


def test_the_logged_losses_do_not_depend_on_the_chunks(dataset, tmp_path):
    curves = []
    for steps in (1, 5):
        logger = TensorBoardLogger(tmp_path, name=str(steps))
        fit(dataset, steps=steps, logger=logger)
        logged = scalars(logger.log_dir)
        curves.append(logged)
    assert curves[0]["train/loss_step"] == curves[1]["train/loss_step"]
    assert curves[0]["val/loss"] == curves[1]["val/loss"]
    assert curves[0]["train/accuracy"] == curves[1]["train/accuracy"]
    assert curves[0]["train/loss"] == [(8, pytest.approx(curves[1]["train/loss"][0][1]))]  # summed in another order


def test_max_steps_stops_within_an_epoch(dataset):
    module = fit(dataset, trainer={"max_epochs": 5, "max_steps": 12})
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
    got = [rate for step, rate in logged["lr"] if step % 9 == 8]
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


def test_an_epoch_that_ends_before_its_validation_does_not_end_plateau(dataset):
    assert fit(dataset, trainer={"max_epochs": 5, "max_steps": 2}, scheduler="plateau").trainer.global_step == 2


def test_gradients_are_clipped_in_mixed_precision_too(dataset):
    clipped, free = (
        fit(dataset, trainer={"precision": "bf16-mixed", "gradient_clip_val": value}) for value in (0.01, None)
    )
    assert not same_weights(clipped, free)


def test_the_validation_that_lightning_tries_first_is_no_point_of_the_curves(dataset):
    module = fit(dataset, trainer={"max_epochs": 2, "num_sanity_val_steps": 2})
    assert module.history.keys() == {"val/loss", "val/accuracy", "train/loss", "train/accuracy"}
    assert all([epoch for epoch, _ in points] == [1, 2] for points in module.history.values())


def test_plateau_without_validation_is_refused(dataset):
    with pytest.raises(UserError, match="plateau"):
        fit(dataset, data={"val_size": 0}, scheduler="plateau")
    with pytest.raises(UserError, match="a validation after each epoch"):
        fit(dataset, trainer={"check_val_every_n_epoch": 2}, scheduler="plateau")


def test_cosine_without_an_end_is_refused(dataset):
    with pytest.raises(UserError, match="cosine schedule to have an end"):
        fit(dataset, trainer={"max_epochs": -1, "max_steps": 4}, scheduler="cosine")


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
    ],
)
def test_values_that_cannot_be_are_refused(options):
    with pytest.raises(UserError, match=f"expected {next(iter(options))} to be"):
        MNISTClassifier(**options)


DISTORTED = {"rotation": 10.0, "scale": 0.1, "shear": 0.1, "shift": 1.0, "elastic": 0.7}


class ImageRecorder(L.Callback):
    """Keeps every image that a net is shown, in order, by what it is shown for."""

    works_with_chunks = True

    def __init__(self):
        self.shown = {"train": [], "val": [], "test": []}

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.shown["train"] += batch[0].clone().flatten(0, -4)  # chunks of batches, or batches

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
        self.shown["val"] += batch[0].clone()

    def on_test_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
        self.shown["test"] += batch[0].clone()

    def images(self, part):
        return torch.stack(self.shown[part])


def fit_and_record(folder, **options):
    recorder = ImageRecorder()
    module = fit(folder, trainer={"max_epochs": 2, "callbacks": [recorder]}, **options)
    module.trainer.test(module, module.trainer.datamodule, verbose=False)
    return module, recorder


def test_images_are_distorted_to_train_on_and_left_alone_to_validate_and_test(dataset):
    _, plain = fit_and_record(dataset)
    module, recorder = fit_and_record(dataset, data=DISTORTED)
    moved = (recorder.images("train") - plain.images("train")).abs().amax((1, 2, 3))
    assert moved.min() > 0.1  # every image of both epochs
    assert len(moved) == 2 * 550
    data = module.trainer.datamodule
    for part, images in (("val", data.val_set[torch.arange(50)][0]), ("test", data.test_set.tensors[0])):
        expected = (images / 255).unsqueeze(1)
        assert torch.equal(recorder.images(part), expected.repeat(len(recorder.shown[part]) // len(expected), 1, 1, 1))


def test_every_epoch_distorts_an_image_anew(dataset):
    everything = {"batch_size": 550, "shift": 3.0}
    _, plain = fit_and_record(dataset, data={"batch_size": 550})
    _, recorder = fit_and_record(dataset, data=everything)
    place = {image.numpy().tobytes(): number for number, image in enumerate(plain.images("train")[:550])}
    again = [place[image.numpy().tobytes()] for image in plain.images("train")[550:]]  # its place in the first epoch
    first, second = recorder.images("train").split(550)
    assert (second - first[again]).abs().amax((1, 2, 3)).min() > 0.01


@pytest.mark.parametrize("steps", [8, 64])
def test_distorted_images_and_what_they_teach_do_not_depend_on_the_chunks(dataset, steps):
    one_by_one, first = fit_and_record(dataset, data=DISTORTED, steps=1)
    in_chunks, second = fit_and_record(dataset, data=DISTORTED, steps=steps)
    assert torch.equal(first.images("train"), second.images("train"))
    assert same_weights(one_by_one.net, in_chunks.net)


def test_the_same_seed_distorts_the_same_and_another_in_another_way(dataset):
    runs = [fit_and_record(dataset, data=DISTORTED, seed=seed) for seed in (1, 1, 2)]
    (a, first), (b, second), (c, other) = runs
    assert torch.equal(first.images("train"), second.images("train"))
    assert same_weights(a, b)
    assert not torch.equal(first.images("train"), other.images("train"))
    assert not same_weights(a, c)


def test_distortions_leave_the_order_and_dropout_as_they_were(dataset):
    class LabelRecorder(L.Callback):
        def __init__(self):
            self.labels, self.states = [], []

        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            self.labels += batch[1].flatten().tolist()
            self.states.append(torch.get_rng_state())  # dropout's next draw

    recorders = LabelRecorder(), LabelRecorder()
    for recorder, data in zip(recorders, ({}, DISTORTED), strict=True):
        fit(dataset, data=data, dropout=0.2, trainer={"callbacks": [recorder]})
    assert recorders[0].labels == recorders[1].labels
    assert all(map(torch.equal, recorders[0].states, recorders[1].states))


def squared_error(logits, labels):
    """The mean squared distance of probabilities from the truth, by hand."""
    return (logits.softmax(1) - torch.eye(10)[labels]).pow(2).sum(1).mean()


def first_batch(module):
    sampler = module.trainer.datamodule.train_sampler
    sampler.set_epoch(0)
    images, labels = module.trainer.datamodule.train_set[sampler.order()[: sampler.batch_size]]
    return images.unsqueeze(1) / 255, labels


LOSS_OPTIONS = [
    ({"loss": "mse"}, squared_error, squared_error),
    ({"label_smoothing": 0.2}, lambda *batch: F.cross_entropy(*batch, label_smoothing=0.2), F.cross_entropy),
]


@pytest.mark.parametrize(("options", "train_loss", "val_loss"), LOSS_OPTIONS, ids=["mse", "label smoothing"])
def test_training_lowers_the_loss_it_was_told_and_validation_measures_without_smoothing(
    dataset, tmp_path, options, train_loss, val_loss
):
    logger = TensorBoardLogger(tmp_path)
    module = fit(dataset, logger=logger, trainer={"max_epochs": 3}, **options)
    logged = scalars(logger.log_dir)
    L.seed_everything(0)
    images, labels = first_batch(module)
    untrained = MNISTClassifier(**options)
    assert logged["train/loss_step"][0][1] == pytest.approx(train_loss(untrained(images), labels).item(), rel=1e-5)
    data = module.trainer.datamodule
    images, labels = data.val_set[torch.arange(50)]
    with torch.inference_mode():
        expected = val_loss(module(images.unsqueeze(1) / 255), labels).item()
    assert logged["val/loss"][-1][1] == pytest.approx(expected, rel=1e-5)
    for name in ("train/loss", "val/loss"):
        assert logged[name][-1][1] < 0.9 * logged[name][0][1]
    module.trainer.test(module, data, verbose=False)
    with torch.inference_mode():
        expected = val_loss(module(data.test_set.tensors[0].unsqueeze(1) / 255), data.test_set.tensors[1]).item()
    assert module.test_results["loss"].item() == pytest.approx(expected, rel=1e-5)


def test_label_smoothing_with_squared_error_is_refused():
    with pytest.raises(UserError, match=r"label_smoothing to be 0 for mse, got 0\.1; .*--model\.label_smoothing"):
        MNISTClassifier(loss="mse", label_smoothing=0.1)


@pytest.mark.parametrize("value", [-0.1, 1.0])
def test_label_smoothing_that_cannot_be_is_refused(value):
    with pytest.raises(UserError, match="expected label_smoothing to be from 0 to below 1"):
        MNISTClassifier(label_smoothing=value)


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
        *(({"max_epochs": epochs}, 9 * epochs, steps) for epochs in (1, 3) for steps in (1, 4, 64)),
        ({"max_epochs": 5, "max_steps": 12}, 12, "auto"),
        ({"max_epochs": 2, "limit_train_batches": 3}, 6, "auto"),
        ({"max_epochs": 2, "accumulate_grad_batches": 2}, 10, "auto"),
    ],
)
def test_onecycle_changes_the_learning_rate_at_every_step_of_the_run(dataset, tmp_path, trainer, total, steps):
    logger = TensorBoardLogger(tmp_path)
    fit(dataset, logger=logger, trainer=trainer, scheduler="onecycle", lr=0.02, steps=steps)
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


@pytest.mark.parametrize("scheduler", get_args(ScheduleName))
@pytest.mark.parametrize("net", ["simple", "lenet5", "convnet"])
def test_every_net_trains_with_every_scheduler(dataset, scheduler, net):
    module = fit(dataset, net=net, scheduler=scheduler)
    assert module.trainer.global_step == 9
    assert module.trainer.callback_metrics["train/loss"].isfinite()


@pytest.mark.parametrize("steps", [1, 4])
def test_a_convnets_statistics_do_not_depend_on_the_chunks(dataset, steps):
    options = {"net": "convnet", "channels": [4, 4], "hidden": []}
    assert same_weights(fit(dataset, **options, steps=steps), fit(dataset, **options))


@pytest.mark.parametrize("channels", [[4], [2] * 5])
def test_batch_norm_takes_a_last_batch_of_one_image(dataset, channels):
    module = fit(dataset, net="convnet", channels=channels, data={"batch_size": 61})  # 550 = 9 * 61 + 1
    assert module.trainer.global_step == 10
