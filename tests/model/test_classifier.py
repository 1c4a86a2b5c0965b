"""The training step against a plain loop; what it logs, and where; the losses it lowers."""

import pickle
from functools import partial

import lightning.pytorch as L
import pytest
import torch
import torch.nn.functional as F
from helpers import fit, quiet_trainer, same_weights, scalars
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.data import DataLoader, TensorDataset

from mnist_lightning.data.datamodule import MNISTDataModule
from mnist_lightning.model.classifier import MNISTClassifier
from mnist_lightning.model.nets import build
from mnist_lightning.training.chunks import StepsPerExecution


def plain_loop(folder, epochs=1, clip=None, net="simple", model=None, **options):
    """The guide's loop, over the datamodule's order."""
    L.seed_everything(0, verbose=False)
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


DROPOUT = {"dropout": 0.3, "hidden": [50, 20]}
LOOPS = {  # options of ours, and of the loop
    "plain": ({}, {}),
    "dropout": (DROPOUT, {"model": DROPOUT}),
    "weight decay": ({"weight_decay": 1e-2}, {"weight_decay": 1e-2}),
    "clipping": ({"trainer": {"gradient_clip_val": 0.1}}, {"clip": 0.1}),
}


@pytest.mark.parametrize("name", LOOPS)
def test_training_ends_with_the_weights_of_the_plain_loop_bit_for_bit(dataset, name):
    ours, loop = LOOPS[name]
    expected = plain_loop(dataset, epochs=2, **loop)
    for steps in (1, 4, 64):
        trained = fit(dataset, steps=steps, **{**ours, "trainer": {"max_epochs": 2, **ours.get("trainer", {})}})
        assert same_weights(trained.net, expected), steps


@pytest.mark.slow
def test_an_epoch_of_real_mnist_equals_the_plain_loop_bit_for_bit(mnist):
    assert same_weights(fit(mnist, steps=64).net, plain_loop(mnist))


NETS = {  # those of the results table, small
    "linear": {"hidden": []},
    "mlp": {"hidden": [30, 20, 10]},
    "dropout": {"hidden": [30, 20], "dropout": 0.5, "input_dropout": 0.2},
    "upright": {"deslant": True, "ink_width": 5.0},
    "lenet5": {"net": "lenet5"},
    "convnet": {"net": "convnet", "channels": [4, 6], "dropout": 0.3},
    "small": {"net": "small", "channels": [4, 6]},
}


@pytest.mark.parametrize("name", NETS)
def test_a_trace_of_each_net_trains_it_as_the_plain_loop_does(dataset, name):
    net, model = NETS[name].get("net", "simple"), {key: NETS[name][key] for key in NETS[name].keys() - {"net"}}
    trained = fit(dataset, steps=4, trace=True, **NETS[name])
    assert same_weights(trained.net, plain_loop(dataset, net=net, model=model))


def test_a_convnets_statistics_do_not_depend_on_the_chunks(dataset):
    options = {"net": "convnet", "channels": [4, 4], "hidden": []}
    assert same_weights(fit(dataset, **options, steps=1), fit(dataset, **options))


@pytest.mark.parametrize("channels", [[4], [2] * 5])
def test_batch_norm_takes_a_last_batch_of_one_image(dataset, channels):
    module = fit(dataset, net="convnet", channels=channels, data={"batch_size": 61})  # 550 = 9 * 61 + 1
    assert module.trainer.global_step == 10


def test_module_and_data_go_to_processes_that_are_spawned(dataset):
    module, data = pickle.loads(pickle.dumps((MNISTClassifier(), MNISTDataModule(str(dataset)))))
    trainer = quiet_trainer(max_epochs=1, callbacks=[StepsPerExecution()])
    trainer.fit(module, data)
    pickle.dumps(module)  # with what its steps were traced to
    assert trainer.global_step == 9


class OtherNet(L.Callback):
    works_with_chunks = True

    def on_train_start(self, trainer, pl_module):
        pl_module.net = torch.nn.Sequential(torch.nn.Threshold(0.5, 0.0), pl_module.net)


class OtherLoss(L.Callback):
    works_with_chunks = True

    def on_train_epoch_end(self, trainer, pl_module):
        pl_module.loss = partial(F.cross_entropy, reduction="sum", label_smoothing=0.3)


class LossThatChanges(L.Callback):
    works_with_chunks = True

    def on_train_epoch_start(self, trainer, pl_module):
        smoothing = trainer.current_epoch / 2
        pl_module.loss = lambda logits, labels: F.cross_entropy(
            logits, labels, reduction="sum", label_smoothing=smoothing
        )


class OtherOptimizer(L.Callback):
    works_with_chunks = True

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch:
            trainer.optimizers = [torch.optim.SGD(pl_module.parameters(), 0.01)]


class LaterClipping(L.Callback):
    works_with_chunks = True

    def on_train_epoch_start(self, trainer, pl_module):
        trainer.gradient_clip_val = 0.01 if trainer.current_epoch else None


@pytest.mark.parametrize("callback", [OtherNet, OtherLoss, LossThatChanges, OtherOptimizer, LaterClipping])
def test_what_a_callback_brings_is_what_is_trained(dataset, callback):
    trainers = ({"max_epochs": 2, "callbacks": [callback()]} for _ in range(2))
    options = {"data": {"val_size": 0}, "scheduler": "none"}
    one, several = (
        fit(dataset, steps=steps, trainer=trainer, **options) for steps, trainer in zip((1, 4), trainers, strict=True)
    )
    assert same_weights(one, several)
    assert not same_weights(one, fit(dataset, trainer={"max_epochs": 2}, **options))


@pytest.mark.parametrize("hook", ["register_forward_hook", "register_forward_pre_hook"])
def test_a_hook_of_the_module_sees_each_step(dataset, hook):
    seen = []

    class Hooks(L.Callback):
        def on_train_start(self, trainer, pl_module):
            getattr(pl_module, hook)(lambda module, *_: seen.append(1) if module.training else None)

    fit(dataset, trainer={"callbacks": [Hooks()]})
    assert len(seen) == 9


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


def test_every_step_is_logged_once_at_its_number_whatever_the_chunks(dataset, tmp_path):
    curves = []
    for steps in (1, 4, 64):
        logger = TensorBoardLogger(tmp_path, name=str(steps))
        module = fit(dataset, steps=steps, trainer={"max_epochs": 2, "logger": logger})
        logged = scalars(logger.log_dir)
        assert module.trainer.global_step == 18
        assert [step for step, _ in logged["train/loss_step"]] == [step for step, _ in logged["lr"]] == list(range(18))
        for name in ("train/loss", "train/accuracy", "val/loss", "val/accuracy"):
            assert [step for step, _ in logged[name]] == [8, 17]
        curves.append(logged)
    first, *others = curves
    assert first["train/loss_step"][-1][1] < first["train/loss_step"][0][1]
    for other in others:
        for name in ("train/loss_step", "val/loss", "train/accuracy"):
            assert other[name] == first[name]
        losses = ([loss for _, loss in curve["train/loss"]] for curve in (other, first))
        assert next(losses) == pytest.approx(next(losses))  # summed in another order


def test_max_steps_stops_within_an_epoch(dataset):
    module = fit(dataset, trainer={"max_epochs": 5, "max_steps": 12})
    assert module.trainer.global_step == 12


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


def test_gradients_are_clipped_in_mixed_precision_too(dataset):
    clipped, free = (
        fit(dataset, trainer={"precision": "bf16-mixed", "gradient_clip_val": value}) for value in (0.01, None)
    )
    assert not same_weights(clipped, free)


def test_the_validation_that_lightning_tries_first_is_no_point_of_the_curves(dataset):
    module = fit(dataset, trainer={"max_epochs": 2, "num_sanity_val_steps": 2})
    assert module.history.keys() == {"val/loss", "val/accuracy", "train/loss", "train/accuracy"}
    assert all([epoch for epoch, _ in points] == [1, 2] for points in module.history.values())


@pytest.mark.parametrize("precision", ["bf16-mixed", "64-true"])
def test_precision_is_the_trainers_business(dataset, precision):
    module = fit(dataset, trainer={"precision": precision, "max_epochs": 3})
    assert module.trainer.callback_metrics["train/accuracy"] > 0.5


def test_it_learns_from_dataloaders_of_ones_own(dataset):
    data = MNISTDataModule(str(dataset))
    data.setup("fit")
    images, labels = data.train_set[torch.arange(len(data.train_set))]
    loader = DataLoader(TensorDataset(images.unsqueeze(1) / 255, labels), 64, shuffle=True)
    module, trainer = MNISTClassifier(), quiet_trainer(max_epochs=3)
    trainer.fit(module, loader, loader)
    assert trainer.callback_metrics["val/accuracy"] > 0.9
    assert module.predict(images[:100].numpy())[0].tolist() == module(images[:100, None] / 255).argmax(1).tolist()


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
    module = fit(dataset, trainer={"max_epochs": 3, "logger": logger}, **options)
    logged = scalars(logger.log_dir)
    L.seed_everything(0, verbose=False)
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
