"""Training on a device that is not the CPU: a stand-in for a GPU (stand_in.py), and a real one where there is one.

The stand-in has to be registered before anything takes a gradient, and for good, so a process of its own has it.
"""

import itertools
import os
from concurrent.futures import ProcessPoolExecutor

import lightning.pytorch as L
import numpy as np
import pytest
import torch
from helpers import Script, quiet_trainer, write_dataset
from lightning.pytorch.loggers import Logger

from mnist_lightning.data.datamodule import MNISTDataModule
from mnist_lightning.model.classifier import MNISTClassifier
from mnist_lightning.training.callbacks import MovingAverage
from mnist_lightning.training.checkpointing import LastCheckpoint
from mnist_lightning.training.chunks import StepsPerExecution

STANDIN = {"accelerator": "standin", "strategy": "standin"}

DISTORTED = {"rotation": 10.0, "scale": 0.1, "shear": 0.1, "shift": 1.0, "elastic": 0.7}


def register():
    import stand_in  # noqa: F401

    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def elsewhere():
    """Calls a function of this file in the process that has the stand-in, and returns what that did."""
    with ProcessPoolExecutor(1, Script.FORKS, register) as pool:
        yield lambda function, *args, **options: pool.submit(function, *args, **options).result()


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("small") / "digits", train=300, test=100)


def trained(device, folder, model, data):
    """What training on a device comes to, on the CPU: the weights, the losses of the epochs, and the test's figures."""
    torch.manual_seed(0)
    options = {} if device == "cpu" else STANDIN
    classifier, digits = MNISTClassifier(**model), MNISTDataModule(str(folder), batch_size=32, **data)
    trainer = quiet_trainer(max_epochs=2, callbacks=[StepsPerExecution()], **options)
    trainer.fit(classifier, digits)
    trainer.test(classifier, digits, verbose=False)
    assert digits.steps_per_execution > 1
    results = {name: value.cpu().numpy() for name, value in classifier.test_results.items()}
    return {name: value.numpy() for name, value in classifier.net.state_dict().items()}, classifier.history, results


CONVNET = {"net": "convnet", "channels": [4, 8], "hidden": [16], "optimizer": "sgd", "lr": 0.01}
EXPERIMENTS = {
    "the default": ({}, {}),
    "lenet5, distorted": ({"net": "lenet5", "optimizer": "sgd", "lr": 0.01}, DISTORTED),
    "convnet, one-cycle": ({**CONVNET, "scheduler": "onecycle"}, {"rotation": 10.0}),
    "cosine, adamw": ({"scheduler": "cosine", "warmup_epochs": 1, "optimizer": "adamw", "weight_decay": 0.01}, {}),
    "plateau, mse": ({"scheduler": "plateau", "step_size": 1, "loss": "mse", "activation": "tanh"}, {}),
    "upright, of one width": ({"deslant": True, "ink_width": 5.0, "label_smoothing": 0.1}, {"elastic": 1.0}),
    "autograd": ({"trace": False}, {}),
}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_ends_as_on_the_cpu(elsewhere, small, name):
    here, there = (elsewhere(trained, device, small, *EXPERIMENTS[name]) for device in ("cpu", "standin"))
    for ours, theirs in zip(here, there, strict=True):
        assert ours.keys() == theirs.keys()
        for key, value in ours.items():
            np.testing.assert_allclose(theirs[key], value, rtol=1e-3, atol=1e-5, err_msg=f"{name}: {key}")


def batches(folder, free):
    """The devices of the set, of its batches and of the order, and the waits for three epochs of batches."""
    import stand_in

    stand_in.generator.free = free
    data = MNISTDataModule(str(folder), batch_size=32)
    data.trainer = quiet_trainer(**STANDIN)
    data.prepare_data()
    data.setup("fit")
    data.steps_per_execution = 4
    loader = data.train_dataloader()
    stand_in.WAITS.clear()
    labels = [batch[1].cpu().numpy() for _ in range(3) for batch in loader]
    kinds = {tensor.device.type for tensor in (*loader.dataset[next(iter(loader.sampler))], next(iter(loader))[1])}
    return kinds, dict(stand_in.WAITS), np.concatenate([part.flatten() for part in labels])


def test_the_set_is_on_the_device_where_it_fits_and_its_batches_are_copied_from_nowhere(elsewhere, small):
    kinds, waits, labels = elsewhere(batches, small, free=1 << 30)
    assert kinds == {"standin"}
    assert waits == {"copy to the CPU": 9, "copy to the device": 5}  # the labels here; the order once an epoch
    kinds, waits, same = elsewhere(batches, small, free=1000)
    assert (kinds, waits) == ({"cpu"}, {})
    assert np.array_equal(labels, same)


class Steps(Logger):
    """Notes the steps that were logged, and how many when they were saved."""

    name = version = "steps"

    def __init__(self):
        super().__init__()
        self.logged, self.saved = [], []

    def log_metrics(self, metrics, step=None):
        self.logged += [step] if "train/loss_step" in metrics else []

    def log_hyperparams(self, *args, **kwargs): ...

    def save(self):
        self.saved.append(len(self.logged))


def waits(folder, cwd, batch_size, decay=None, **data):
    """What the device was waited for in each epoch of a run, and in each of its validations."""
    import stand_in

    os.chdir(cwd)
    counts = []

    class Counter(L.Callback):
        works_with_chunks = True

        def on_train_epoch_start(self, *_):
            counts.append(stand_in.WAITS.copy())

        def on_train_end(self, *_):
            counts.append(stand_in.WAITS.copy())

    callbacks = [StepsPerExecution(4), Counter(), LastCheckpoint(), *([MovingAverage(decay)] if decay else [])]
    trainer = quiet_trainer(
        max_epochs=3, callbacks=callbacks, logger=Steps(), log_every_n_steps=3, enable_checkpointing=True, **STANDIN
    )
    data = MNISTDataModule(str(folder), batch_size=batch_size, eval_batch_size=batch_size, **data)
    trainer.fit(MNISTClassifier(dropout=0.1, scheduler="onecycle"), data)
    assert trainer.global_step == 3 * data.train_dataloader().sampler.num_batches
    return [dict(after - before) for before, after in itertools.pairwise(counts)][1:]


@pytest.mark.parametrize("options", [{}, {"decay": 0.9}, DISTORTED], ids=["plain", "moving average", "distorted"])
def test_an_epoch_of_many_steps_waits_for_the_device_as_often_as_one_of_few(elsewhere, small, tmp_path, options):
    few, many = (elsewhere(waits, small, tmp_path, batch_size, **options) for batch_size in (25, 5))
    assert few == many
    assert sum(few[0].values()) < 60
