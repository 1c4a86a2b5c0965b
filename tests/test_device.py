"""Training on a device that is not the CPU: a stand-in for a GPU (stand_in.py), and a real one where there is one.

The stand-in has to be registered before anything takes a gradient, and for good, so a process of its own has it.
"""

import itertools
import json
import os
from concurrent.futures import ProcessPoolExecutor

import lightning.pytorch as L
import numpy as np
import pytest
import torch
from helpers import Script, ok, quiet_trainer, scalars, write_dataset
from lightning.pytorch.loggers import Logger

from mnist_lightning.checkpoints.read import load_ensemble, read_checkpoint
from mnist_lightning.data.datamodule import MNISTDataModule
from mnist_lightning.model.classifier import MNISTClassifier
from mnist_lightning.training.callbacks import MovingAverage
from mnist_lightning.training.checkpointing import LastCheckpoint
from mnist_lightning.training.chunks import StepsPerExecution
from mnist_lightning.training.cli import MNISTCLI, evaluate

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
    chunks = StepsPerExecution()
    trainer = quiet_trainer(max_epochs=2, callbacks=[chunks], **options)
    trainer.fit(classifier, digits)
    trainer.test(classifier, digits, verbose=False)
    assert chunks.reason is None
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
    "traced, or an error": ({"trace": True}, {}),
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
    few, many = (elsewhere(waits, small, tmp_path, batch_size, **options) for batch_size in (60, 15))
    assert few == many
    assert sum(few[0].values()) < 60


def run(folder, cwd, device, *options):
    """What a run from the command line in a folder comes to: its weights, and its test's figures."""
    cwd.mkdir(exist_ok=True)
    os.chdir(cwd)
    where = (f"--accelerator={device}", *([f"--trainer.strategy={device}"] if device == "standin" else []))
    quiet = ("--trainer.enable_progress_bar=false", "--trainer.log_every_n_steps=1")
    cli = MNISTCLI([f"--data.data_dir={folder}", *where, *quiet, *options])
    cli.fit()
    weights = {name: value.numpy(force=True) for name, value in cli.model.net.state_dict().items()}
    return weights | {name: value.numpy() for name, value in cli.test().items()}


def equal(ours, theirs, **tolerance):
    for name, value in ours.items():
        np.testing.assert_allclose(theirs[name], value, **tolerance, err_msg=name)


OPTIONS = ("--data.elastic=0.7", "--data.rotation=10", "--ema_decay=0.8", "--checkpoint.every_n_steps=3")
LOGS = "lightning_logs/version_0"


def test_a_run_on_the_device_is_resumed_exactly_with_its_dropout_and_no_point_of_its_curves_is_lost(
    elsewhere, small, tmp_path
):
    options = (*OPTIONS, "--model.dropout=0.2")
    whole = elsewhere(run, small, tmp_path / "whole", "standin", "--max_epochs=4", *options)
    elsewhere(run, small, tmp_path / "parts", "standin", "--max_epochs=2", *options)
    resumed = elsewhere(run, small, tmp_path / "parts", "standin", "--max_epochs=4", "--ckpt_path=last", *options)
    equal(whole, resumed, rtol=0)
    one, other = (scalars(tmp_path / name / LOGS) for name in ("whole", "parts"))
    assert [step for step, _ in one["train/loss_step"]] == list(range(4 * 5))
    assert one["train/loss_step"] == other["train/loss_step"]
    assert one["val/loss"] == other["val/loss"]


@pytest.mark.parametrize("devices", [("cpu", "standin"), ("standin", "cpu")], ids="-".join)
def test_a_run_begun_on_one_device_goes_on_on_the_other_to_the_same_end(elsewhere, small, tmp_path, devices):
    whole = elsewhere(run, small, tmp_path / "whole", "cpu", "--max_epochs=4", *OPTIONS)
    elsewhere(run, small, tmp_path / "parts", devices[0], "--max_epochs=2", *OPTIONS)
    ended = elsewhere(run, small, tmp_path / "parts", devices[1], "--max_epochs=4", "--ckpt_path=last", *OPTIONS)
    equal(whole, ended, rtol=1e-3, atol=1e-5)
    one, other = (scalars(tmp_path / name / LOGS) for name in ("whole", "parts"))
    assert one.keys() == other.keys()
    for name in one.keys() & {"train/loss_step", "lr", "train/loss", "val/loss"}:
        np.testing.assert_allclose(other[name], one[name], rtol=1e-3, atol=1e-5, err_msg=name)


def answers(device, folder, paths):
    """What one checkpoint and an ensemble of all answer on a device, and how they test."""
    checkpoints = [read_checkpoint(path) for path in paths]
    options = {} if device == "cpu" else STANDIN
    both = {}
    for name, model in (("one", checkpoints[0].classifier()), ("all", load_ensemble(checkpoints))):
        trainer, data = quiet_trainer(**options), MNISTDataModule(str(folder), eval_batch_size=30)
        tested = evaluate(trainer, model, data)
        assert {value.device.type for value in tested.values()} == {"cpu"}  # nobody has to wait again
        both |= {f"{name} {figure}": value.numpy() for figure, value in tested.items()}
        both[name] = torch.cat([part.cpu() for part in trainer.predict(model, data)]).numpy()
        model.to(device)
        both[f"{name}, from NumPy"] = model.predict(data.test_set.tensors[0].numpy())[1]
    return both


def test_checkpoints_and_ensembles_answer_and_test_alike_on_both_devices(elsewhere, small, tmp_path):
    for device in ("cpu", "standin"):
        elsewhere(run, small, tmp_path / device, device, "--max_epochs=1", "--model.deslant=true")
    paths = [tmp_path / device / LOGS / "checkpoints/best.ckpt" for device in ("cpu", "standin")]
    here, there = (elsewhere(answers, device, small, paths) for device in ("cpu", "standin"))
    assert {"one", "all", "one accuracy", "all confusion_matrix"} < here.keys() == there.keys()
    equal(here, there, rtol=1e-4, atol=1e-6)
    for each in (here, there):
        np.testing.assert_allclose(each["one"], each["one, from NumPy"], rtol=1e-4)
        np.testing.assert_allclose(each["one"], each["one probabilities"], rtol=1e-6)


def test_several_devices_are_offered_and_one_is_used(small, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("lightning.pytorch.accelerators.CPUAccelerator.auto_device_count", staticmethod(lambda: 8))
    run(small, tmp_path, "cpu", "--max_epochs=1", "--plots.every_n_epochs=0")
    assert "device  cpu, 1 process; --devices 8 trains on all 8\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("capability", "precision", "is_slow"),
    [("AVX2", "bf16-mixed", True), ("AVX2", "32-true", False), ("AVX512", "bf16-mixed", False)],
)
def test_a_precision_that_the_cpu_lacks_is_said_to_be_slow(
    small, tmp_path, monkeypatch, capsys, capability, precision, is_slow
):
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: capability)
    run(small, tmp_path, "cpu", "--max_epochs=1", "--plots.every_n_epochs=0", f"--trainer.precision={precision}")
    hint = "        bf16-mixed is slow, as this CPU has no bfloat16: --trainer.precision 32-true\n"
    assert (hint in capsys.readouterr().out) == is_slow


def trained_by_a_script(folder, cwd, *options):
    """The folder of a run, and the weights of its best epoch."""
    ok(Script("train.py", f"--data.data_dir={folder}", "--max_epochs=4", *options, cwd=cwd, real=True).result())
    checkpoint = torch.load(cwd / LOGS / "checkpoints/best.ckpt", map_location="cpu", weights_only=True)
    return {name: value.numpy() for name, value in checkpoint["state_dict"].items() if name.startswith("net.")}


GPU = ("--accelerator=gpu", "--trainer.deterministic=true")
needs_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.mark.gpu
@needs_a_gpu
@pytest.mark.parametrize("options", [(), OPTIONS[:3], ("--model.net=lenet5",), ("--model.scheduler=onecycle",)])
def test_a_gpu_trains_to_the_weights_of_the_cpu(small, tmp_path_factory, options):
    here, there = (tmp_path_factory.mktemp(device) for device in ("cpu", "gpu"))
    exact = (*options, "--model.optimizer=sgd", "--model.lr=0.01")
    ours, theirs = (
        trained_by_a_script(small, cwd, *device, *exact)
        for cwd, device in ((here, ["--accelerator=cpu"]), (there, GPU))
    )
    equal(ours, theirs, rtol=0.02, atol=1e-3)  # convolutions of another library, in TF32
    record = json.loads((there / LOGS / "environment.json").read_text())
    assert record["device"] == torch.cuda.get_device_name()
    assert record["cudnn"] and record["driver"]


@pytest.mark.gpu
@needs_a_gpu
def test_a_run_on_a_gpu_is_resumed_exactly_and_its_checkpoint_tests_on_both(small, tmp_path_factory):
    whole, parts = (tmp_path_factory.mktemp(name) for name in ("whole", "parts"))
    options = (*GPU, *OPTIONS, "--model.dropout=0.2")
    expected = trained_by_a_script(small, whole, *options)
    trained_by_a_script(small, parts, *options, "--max_epochs=2")
    equal(expected, trained_by_a_script(small, parts, *options, "--ckpt_path=last"), rtol=0)
    for device in ("cpu", "gpu"):
        ok(Script("test.py", whole / LOGS, f"--accelerator={device}", cwd=whole, real=True).result())
