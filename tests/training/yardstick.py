"""A yardstick: an ordinary LightningModule on an ordinary DataLoader, as the manual shows; how runs are compared."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as L
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import callbacks as C
from lightning.pytorch.loggers.logger import Logger
from torch.utils.data import DataLoader, Sampler, TensorDataset

from mnist_lightning.data.datamodule import MNISTDataModule
from mnist_lightning.data.sampler import ChunkSampler
from mnist_lightning.model.classifier import MNISTClassifier
from mnist_lightning.model.nets import SimpleNet
from mnist_lightning.training.chunks import StepsPerExecution

NOT_THE_SAME = ("epoch", "_per_sec", "/time", "flops")  # Lightning's own column; and how fast a run was
BATCHES = 9  # in an epoch of the 550 images that the shared dataset leaves to train on


class Yardstick(L.LightningModule):
    """What the manual shows."""

    def __init__(self, lr=1e-3):
        super().__init__()
        self.save_hyperparameters()
        self.net = SimpleNet()

    def forward(self, images):
        return self.net(images)

    def training_step(self, batch, batch_idx):
        images, labels = batch
        loss = F.cross_entropy(self(images), labels)
        self.log("train/loss_step", loss, on_step=True, on_epoch=False)
        self.log("train/loss", loss, on_step=False, on_epoch=True, batch_size=len(labels))
        return loss

    def validation_step(self, batch, batch_idx):
        images, labels = batch
        logits = self(images)
        self.log("val/loss", F.cross_entropy(logits, labels), batch_size=len(labels))
        self.log("val/accuracy", (logits.argmax(1) == labels).float().mean(), batch_size=len(labels))

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=self.hparams["lr"], fused=True)
        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 10, 0.1)}


class Shuffled(Sampler):
    """The order that our epochs have, image by image."""

    def __init__(self, size):
        self.order = ChunkSampler(size, 1, seed=torch.initial_seed())

    def set_epoch(self, epoch):
        self.order.set_epoch(epoch)

    def __len__(self):
        return self.order.num_samples

    def __iter__(self):
        return iter(self.order.order().tolist())


class YardstickData(L.LightningDataModule):
    """Float images, in the DataLoaders that the manual shows."""

    def __init__(self, data_dir, batch_size=64, eval_batch_size=1000):
        super().__init__()
        self.save_hyperparameters()

    def setup(self, stage):
        ours = MNISTDataModule(self.hparams["data_dir"])
        ours.setup("fit")
        self.train_set, self.val_set = (
            TensorDataset(images.unsqueeze(1).float() / 255, labels)
            for images, labels in (part[torch.arange(len(part))] for part in (ours.train_set, ours.val_set))
        )

    def train_dataloader(self):
        sampler = Shuffled(len(self.train_set))
        return DataLoader(self.train_set, self.hparams["batch_size"], sampler=sampler, generator=torch.Generator())

    def val_dataloader(self):
        return DataLoader(self.val_set, self.hparams["eval_batch_size"], generator=torch.Generator())


class Points(Logger):
    """Keeps what is logged: {name: [(step, value)]}."""

    name = version = "points"

    def __init__(self):
        super().__init__()
        self.points = {}

    def log_hyperparams(self, *_, **__):
        pass

    def log_metrics(self, metrics, step=None):
        for name, value in metrics.items():
            self.points.setdefault(name, []).append((step, float(value)))


class Validations(L.Callback):
    """Notes when validations ran, and how many steps are in a chunk. It watches no batch."""

    def __init__(self):
        self.ran = []
        self.steps = 1

    def on_fit_start(self, trainer, pl_module):
        self.steps = getattr(trainer.datamodule, "steps_per_execution", 1)

    def on_validation_end(self, trainer, pl_module):
        self.ran.append((trainer.sanity_checking, trainer.current_epoch, trainer.global_step))


@dataclass
class Case:
    """What is given to both, and what is compared besides."""

    name: str
    options: Callable[[Path], dict[str, Any]] = lambda path: {}
    facts: Callable[[Any], Any] = lambda run: None
    chunks: bool | None = False  # whether ours takes steps in chunks; None: as it likes
    rtol: float = 0.0  # of the weights; 0: bit for bit
    hooks: type = object  # a subclass of the module adds these
    data: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)


def fit(ours, folder, path, case, steps="auto", ckpt_path=None, **more):
    """Trains, and returns all that there is to compare."""
    L.seed_everything(0, verbose=False)
    base = MNISTClassifier if ours else Yardstick
    module = type(base.__name__, (case.hooks, base), {})(**case.model) if case.hooks is not object else base()
    if case.hooks is object and case.model:
        module = base(**case.model)
    data = (MNISTDataModule if ours else YardstickData)(str(folder), **case.data)
    options = {"max_epochs": 2, "log_every_n_steps": 1, "num_sanity_val_steps": 0, "enable_checkpointing": False}
    options |= {"enable_progress_bar": False, "enable_model_summary": False, "logger": Points()}
    path.mkdir(exist_ok=True)
    options |= {"accelerator": "cpu", "default_root_dir": path, **case.options(path), **more}
    if options.get("barebones"):
        kept = ("accelerator", "default_root_dir", "max_epochs", "barebones", "callbacks")
        options = {name: value for name, value in options.items() if name in kept}
    chunks, validations = StepsPerExecution(steps), Validations()
    callbacks = [*options.pop("callbacks", []), validations, *([chunks] if ours else [])]
    trainer = L.Trainer(**options, callbacks=callbacks)
    trainer.fit(module, data, ckpt_path=ckpt_path, weights_only=False)
    run = SimpleNamespace(trainer=trainer, module=module, data=data, chunks=chunks, validations=validations, path=path)
    run.points = next((logger.points for logger in trainer.loggers if isinstance(logger, Points)), {})
    return run


def weights(run):
    return dict(run.module.net.state_dict())


def checkpoints(path):
    """Every checkpoint below a folder: its name, step and epoch, and the weights in it."""
    found = {}
    for file in sorted(path.rglob("*.ckpt")):
        state = torch.load(file, weights_only=False)
        net = {name: value for name, value in state["state_dict"].items() if name.startswith("net.")}
        found[str(file.relative_to(path))] = (state["global_step"], state["epoch"], net)
    return found


def assert_same_weights(ours, theirs, rtol=0.0):
    assert ours.keys() == theirs.keys()
    for name in theirs:
        if rtol:
            torch.testing.assert_close(ours[name], theirs[name], rtol=rtol, atol=rtol)
        else:
            assert torch.equal(ours[name], theirs[name]), name


def assert_same(ours, theirs, rtol=0.0):
    """Compares two runs."""
    assert ours.trainer.global_step == theirs.trainer.global_step
    assert ours.trainer.current_epoch == theirs.trainer.current_epoch
    assert ours.validations.ran == theirs.validations.ran
    assert_same_weights(weights(ours), weights(theirs), rtol)
    for name in sorted(name for name in theirs.points if not name.endswith(NOT_THE_SAME)):
        assert_same_points(name, ours.points.get(name, []), theirs.points[name], rtol)
    assert_same_checkpoints(ours.path, theirs.path, rtol)


def assert_same_points(name, ours, theirs, rtol=0.0):
    assert [step for step, _ in ours] == [step for step, _ in theirs], name
    if name != "train/loss_step":  # a mean, summed in another order
        rtol = max(rtol, 1e-5)
    expected = [value for _, value in theirs]
    assert [value for _, value in ours] == (pytest.approx(expected, rel=rtol, nan_ok=True) if rtol else expected), name


def assert_same_checkpoints(ours, theirs, rtol=0.0):
    ours, theirs = checkpoints(ours), checkpoints(theirs)
    assert list(ours) == list(theirs)
    for name, (step, epoch, net) in theirs.items():
        assert ours[name][:2] == (step, epoch), name
        assert_same_weights(ours[name][2], net, rtol)


def options(**given):
    """Trainer flags that need no making."""
    return lambda path: given


def with_callbacks(*makers, **given):
    """Trainer flags, and callbacks made anew for each run."""
    return lambda path: {**given, "callbacks": [make() for make in makers]}


def with_checkpoints(*many, **given):
    """Trainer flags, and a ModelCheckpoint for each dictionary of its options."""

    def make(path):
        each = [C.ModelCheckpoint(dirpath=path / str(n), **options) for n, options in enumerate(many)]
        return {"enable_checkpointing": True, "max_epochs": 3, **given, "callbacks": each}

    return make


def callback_of(run, kind):
    return next(each for each in run.trainer.callbacks if isinstance(each, kind))


PLAIN = Case("plain")
EARLY = {"monitor": "val/loss", "min_delta": 0.05, "patience": 1}
