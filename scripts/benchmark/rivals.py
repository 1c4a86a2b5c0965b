"""The ways to train SimpleNet that the benchmark compares, each as its users would write it: batch 64, Adam at 1e-3."""

import importlib.util
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import lightning.pytorch as L
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import Timer
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchmetrics.classification import MulticlassAccuracy

from mnist_lightning.data.datamodule import MNISTDataModule
from mnist_lightning.data.images import Images
from mnist_lightning.model.nets import build
from mnist_lightning.training.cli import MNISTCLI

sys.path.append(str(Path(__file__).resolve().parents[1]))  # the guide's script is one that people run
import guide

HAVE_KERAS = bool(importlib.util.find_spec("keras") and importlib.util.find_spec("jax"))
HAVE_SKLEARN = bool(importlib.util.find_spec("sklearn"))
if HAVE_KERAS:
    os.environ["KERAS_BACKEND"] = "jax"
    import keras
if HAVE_SKLEARN:
    from sklearn.neural_network import MLPClassifier

FLOOR = "bare loop, fused Adam (the floor)"
EPOCHS = 3
BATCH = 64


class Run(NamedTuple):
    """Seconds for each training epoch, and the accuracy on the test set that shows the work was done."""

    seconds: float
    accuracy: float


def floats(dataset: Images) -> tuple[Tensor, Tensor]:
    """Images (N, 1, 28, 28) in [0, 1] and labels (N,)."""
    images, labels = dataset[torch.arange(len(dataset))]  # by a tensor: all at once
    return images.unsqueeze(1).float() / 255, labels


def accuracy(model: nn.Module, data: MNISTDataModule) -> float:
    """Share of the test images that a model gets right."""
    images, labels = floats(data.test_set)
    with torch.inference_mode():
        correct = model.cpu().eval()(images).argmax(1) == labels
    return int(correct.sum()) / len(labels)


def bare_loop(data: MNISTDataModule, net: Callable[[], nn.Module] = guide.simple_net, epochs: int = EPOCHS) -> Run:
    """The floor: tensors in memory, fused Adam, nothing logged."""
    images, labels = floats(data.train_set)
    model = net()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    start = time.perf_counter()
    for _ in range(epochs):
        for batch in torch.randperm(len(labels)).split(BATCH):
            optimizer.zero_grad()
            F.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
    return Run((time.perf_counter() - start) / epochs, accuracy(model, data))


def guides_loop(data: MNISTDataModule) -> Run:
    """The guide's: a Dataset of single images, a DataLoader, the default Adam."""
    model = guide.simple_net()
    loader = DataLoader(guide.Digits(*floats(data.train_set)), batch_size=BATCH, shuffle=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    start = time.perf_counter()
    for _ in range(EPOCHS):
        guide.train_epoch(model, loader, optimizer)
    return Run((time.perf_counter() - start) / EPOCHS, accuracy(model, data))


class UsualModule(L.LightningModule):
    """The LightningModule of most tutorials."""

    def __init__(self) -> None:
        super().__init__()
        self.model = guide.simple_net()
        self.accuracy = MulticlassAccuracy(10, average="micro")

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(images)
        return logits

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        logits = self(images)
        loss = F.cross_entropy(logits, labels)
        self.log("train_loss", loss, prog_bar=True)
        self.log("train_acc", self.accuracy(logits, labels), prog_bar=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-3)


def usual_lightning(data: MNISTDataModule) -> Run:
    """The usual Lightning recipe: the guide's loader, ``self.log`` and a metric in each step, the progress bar."""
    module, timer = UsualModule(), Timer()
    loader = DataLoader(guide.Digits(*floats(data.train_set)), batch_size=BATCH, shuffle=True)
    with tempfile.TemporaryDirectory() as folder:
        L.Trainer(accelerator="cpu", max_epochs=EPOCHS, callbacks=[timer], default_root_dir=folder).fit(module, loader)
    return Run(timer.time_elapsed("train") / EPOCHS, accuracy(module, data))


def ours(data: MNISTDataModule, options: Sequence[str] = (), epochs: int = EPOCHS) -> Run:
    """What scripts/train.py runs: progress bar, losses, metrics, validation, plots, checkpoints."""
    with tempfile.TemporaryDirectory() as folder:
        files = ("--data.data_dir", str(data.folder), "--data.source", "files", "--trainer.default_root_dir", folder)
        cli = MNISTCLI([*files, "--accelerator=cpu", f"--max_epochs={epochs}", *options])
        cli.fit()
    return Run(cli.training["seconds"] / epochs, accuracy(cli.model, data))


def keras_on_jax(data: MNISTDataModule) -> Run:
    """Keras, compiled by JAX, 64 steps to an execution."""
    images, labels = (tensor.numpy() for tensor in floats(data.train_set))
    layers = [keras.layers.Flatten(), keras.layers.Dense(128, activation="relu"), keras.layers.Dense(10)]
    model = keras.Sequential([keras.layers.Input(images.shape[1:]), *layers])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-3), loss, metrics=["accuracy"], steps_per_execution=64)
    model.optimizer.build(model.trainable_variables)
    states = [(variable, variable.numpy()) for variable in (*model.variables, *model.optimizer.variables)]
    model.fit(images, labels, batch_size=BATCH, epochs=1)  # compiles
    for variable, first in states:
        variable.assign(first)
    start = time.perf_counter()
    model.fit(images, labels, batch_size=BATCH, epochs=EPOCHS)
    seconds = (time.perf_counter() - start) / EPOCHS
    images, labels = (tensor.numpy() for tensor in floats(data.test_set))
    return Run(seconds, float((model.predict(images, verbose=0).argmax(1) == labels).mean()))


def scikit_learn(data: MNISTDataModule) -> Run:
    """scikit-learn's MLPClassifier."""
    images, labels = (tensor.numpy() for tensor in floats(data.train_set))
    model = MLPClassifier((128,), alpha=0.0, batch_size=BATCH, max_iter=EPOCHS)
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that three epochs are not convergence is no news
        model.fit(images.reshape(len(images), -1), labels)
    seconds = (time.perf_counter() - start) / EPOCHS
    images, labels = (tensor.numpy() for tensor in floats(data.test_set))
    return Run(seconds, float(model.score(images.reshape(len(images), -1), labels)))


def larger_nets() -> dict[str, Callable[[MNISTDataModule], Run]]:
    """An epoch of larger nets, each in a bare loop and then here."""
    nets: dict[str, tuple[list[str], Callable[[], nn.Module]]] = {
        "800 hidden units": (["--model.hidden=[800]"], partial(build, "simple", hidden=[800])),
        "LeNet-5": (["--model.net=lenet5"], partial(build, "lenet5")),
        "ConvNet": (["--model.net=convnet"], partial(build, "convnet")),
    }
    runs: dict[str, Callable[[MNISTDataModule], Run]] = {}
    for name, (options, net) in nets.items():
        runs[f"{name}, bare loop"] = partial(bare_loop, net=net, epochs=1)
        runs[f"{name}, ours"] = partial(ours, options=options, epochs=1)
    return runs


def available(data: MNISTDataModule) -> dict[str, Callable[[MNISTDataModule], Run]]:
    """Every rival that is installed, by the name it has in the table."""
    runs: dict[str, Callable[[MNISTDataModule], Run]] = {
        FLOOR: bare_loop,
        "the guide's loop": guides_loop,
        "the usual Lightning recipe": usual_lightning,
        "ours": ours,
        "ours, no plots": partial(ours, options=["--plots.every_n_epochs=0"]),
    }
    for steps in (1, 8, 64, -(-len(data.train_set) // BATCH)):
        options = [f"--steps_per_execution={steps}"]
        runs[f"ours, steps_per_execution {steps}"] = partial(ours, options=options)
    if HAVE_KERAS:
        runs["Keras on JAX, steps_per_execution 64"] = keras_on_jax
    if HAVE_SKLEARN:
        runs["scikit-learn's MLPClassifier"] = scikit_learn
    return runs
