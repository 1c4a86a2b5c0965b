"""Flags, callbacks and hooks do to ours, in chunks, what they do to a yardstick.

As many steps, validations and checkpoints, the same weights, the same points in the log at the same steps.
"""

import csv
import math
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path

import lightning.pytorch as L
import pytest
import torch
import torch.nn.functional as F
from helpers import quiet_trainer
from lightning.pytorch import callbacks as C
from lightning.pytorch.callbacks.spike import SpikeDetection
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.tuner import Tuner
from torch.utils.data import DataLoader, TensorDataset
from yardstick import (
    BATCHES,
    EARLY,
    PLAIN,
    Case,
    Points,
    Yardstick,
    YardstickData,
    assert_same,
    assert_same_checkpoints,
    assert_same_points,
    assert_same_weights,
    callback_of,
    checkpoints,
    fit,
    options,
    weights,
    with_callbacks,
    with_checkpoints,
)

from mnist_lightning.data.datamodule import MNISTDataModule
from mnist_lightning.model.classifier import MNISTClassifier
from mnist_lightning.training.chunks import StepsPerExecution

pytestmark = [
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*GPU available but not used"),
]


class SameSteps(L.Callback):
    """Hooks of the run and of its epochs: what a Trainer says of itself when they are called."""

    def __init__(self, *names):
        self.names, self.seen = names, []

    def _note(self, trainer, where):
        self.seen.append(
            (where, trainer.current_epoch, trainer.global_step, *map(trainer.__getattribute__, self.names))
        )

    def on_train_start(self, trainer, pl_module):
        self._note(trainer, "start")

    def on_train_epoch_start(self, trainer, pl_module):
        self._note(trainer, "epoch start")

    def on_validation_start(self, trainer, pl_module):
        self._note(trainer, "validation")

    def on_train_epoch_end(self, trainer, pl_module):
        self._note(trainer, "epoch end")

    def on_train_end(self, trainer, pl_module):
        self._note(trainer, "end")


class Near(float):
    """A mean, that may have been summed in another order."""

    __hash__ = None

    def __eq__(self, other):
        return math.isclose(self, other, rel_tol=1e-5)


class ReadsMetrics(L.Callback):
    """What a callback finds in ``trainer.callback_metrics``, in each hook of a run's epochs."""

    def __init__(self):
        self.seen = []

    def _note(self, hook, trainer):
        found = trainer.callback_metrics
        metrics = {name: Near(found[name]) for name in ("train/loss", "val/loss", "val/accuracy") if name in found}
        self.seen.append((hook, trainer.current_epoch, metrics))

    def on_train_epoch_start(self, trainer, pl_module):
        self._note("train start", trainer)

    def on_validation_epoch_end(self, trainer, pl_module):
        self._note("validation epoch", trainer)

    def on_validation_end(self, trainer, pl_module):
        self._note("validation", trainer)

    def on_train_epoch_end(self, trainer, pl_module):
        self._note("train", trainer)

    def on_train_end(self, trainer, pl_module):
        self._note("end", trainer)


class ReadsOutputs(L.Callback):
    """What a callback is given of each batch."""

    def __init__(self):
        self.seen = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.seen.append((batch_idx, trainer.global_step, outputs["loss"].item(), batch[1].tolist()))


class GradientHooks:
    """Every hook of a module about gradients; the loss and the gradients that it sees."""

    def setup(self, stage):
        self.calls = []

    def _note(self, hook):
        gradients = [None if each.grad is None else each.grad.norm().item() for each in self.net.parameters()]
        self.calls.append((hook, self.global_step, gradients))

    def on_before_zero_grad(self, optimizer):
        self._note("zero_grad")

    def on_before_backward(self, loss):
        self.calls.append(("loss", self.global_step, loss.item()))

    def on_after_backward(self):
        self._note("after_backward")

    def on_before_optimizer_step(self, optimizer):
        self._note("before_step")

    def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None):
        self._note("clip")
        self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def optimizer_step(self, *args, **kwargs):
        super().optimizer_step(*args, **kwargs)
        self._note("step")


def only(*names):
    """GradientHooks with some of its hooks alone."""
    kept = {name: vars(GradientHooks)[name] for name in (*names, "setup", "_note")}
    if "optimizer_step" in names:
        kept["optimizer_step"] = stepping
    return type("Hooks", (), kept)


def stepping(self, epoch, batch_idx, optimizer, optimizer_closure=None):
    optimizer.step(closure=optimizer_closure)
    self._note("step")


class BatchHooks:
    """The hooks of a module around a batch."""

    def setup(self, stage):
        self.calls = []

    def on_train_batch_start(self, batch, batch_idx):
        self.calls.append(("start", batch_idx, self.global_step, batch[1].tolist()))

    def on_train_batch_end(self, outputs, batch, batch_idx):
        self.calls.append(("end", batch_idx, self.global_step, outputs["loss"].item()))


class SkipsAfterFour:
    """Ends each epoch after 4 batches, as the manual says: by returning -1."""

    def on_train_batch_start(self, batch, batch_idx):
        return -1 if batch_idx == 4 else None


class Backbone:
    """A net whose first layers have the name that BackboneFinetuning looks for."""

    @property
    def backbone(self):
        return self.net[:2]


class Accuracies:
    """A training_step of one's own, with the loss of the base."""

    def training_step(self, batch, batch_idx):
        images, labels = batch
        loss = F.cross_entropy(self(images), labels) * 2
        self.log("twice", loss)
        return loss


class OwnSteps(Accuracies):
    """All steps of one's own."""

    def validation_step(self, batch, batch_idx):
        images, labels = batch
        self.log("val/loss", F.cross_entropy(self(images), labels) * 2, batch_size=len(labels))

    def test_step(self, batch, batch_idx):
        self.log("tested", float(batch_idx))


class OneCycle:
    """The manual's example of a schedule that steps with the optimizer."""

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=1e-3, fused=True)
        total = self.trainer.estimated_stepping_batches
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.02, total_steps=total)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class EveryThirdStep:
    """A schedule that steps with every third step of the optimizer."""

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=1e-3, fused=True)
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        config = {"scheduler": schedule, "interval": "step", "frequency": 3}
        return {"optimizer": optimizer, "lr_scheduler": config}


class PlainSGD:
    """Another optimizer, without a schedule."""

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


class ClosureTwice:
    """An optimizer that evaluates its loss more than once a step."""

    def configure_optimizers(self):
        return torch.optim.LBFGS(self.parameters(), lr=0.1, max_iter=3)


class EpochLog:
    """Logs in hooks of its own, as the manual shows."""

    def on_train_epoch_end(self):
        super().on_train_epoch_end()
        self.log("epochs", float(self.current_epoch))

    def on_validation_epoch_end(self):
        super().on_validation_epoch_end()
        self.log("validated", float(self.global_step))


def recorder(kind, names):
    """A LambdaCallback that notes when each hook is called."""

    def make():
        calls = []

        def note(name):
            return lambda trainer, *_: calls.append((name, trainer.current_epoch, trainer.global_step))

        made = kind(**{name: note(name) for name in names})
        made.calls = calls
        return made

    return make


RUN_HOOKS = ("on_fit_start", "on_train_start", "on_train_epoch_start", "on_validation_start", "on_validation_end")
RUN_HOOKS += ("on_train_epoch_end", "on_train_end", "on_fit_end")
BATCH_HOOKS = ("on_train_batch_start", "on_before_zero_grad", "on_before_backward", "on_after_backward")
BATCH_HOOKS += ("on_before_optimizer_step", "on_train_batch_end")


def calls(run):
    return callback_of(run, C.LambdaCallback).calls


def all_logged(run):
    """The names of all that was logged, in a test too."""
    names = set(run.trainer.callback_metrics)
    run.trainer.test(run.module, DataLoader(TensorDataset(torch.zeros(2, 1, 28, 28), torch.tensor([0, 1]))))
    return names, set(run.trainer.callback_metrics)


FLAGS = [
    Case("nothing", chunks=True),
    *(Case(f"log_every_n_steps {n}", options(log_every_n_steps=n), chunks=True) for n in (0, 4, 50)),
    Case("clip by norm", options(gradient_clip_val=0.1), chunks=True),
    Case("clip by value", options(gradient_clip_val=0.01, gradient_clip_algorithm="value"), chunks=True),
    *(Case(f"accumulate_grad_batches {n}", options(accumulate_grad_batches=n)) for n in (2, 4, 20)),
    Case("accumulate and clip", options(accumulate_grad_batches=2, gradient_clip_val=0.1, log_every_n_steps=2)),
    Case("limit_train_batches 4", options(limit_train_batches=4)),
    Case("limit_train_batches 0.5", options(limit_train_batches=0.5)),
    Case("limit_train_batches 100", options(limit_train_batches=100)),
    Case("limit_train_batches 1", options(limit_train_batches=1)),
    Case("limit_train_batches 1.0", options(limit_train_batches=1.0), chunks=True),
    Case("val_check_interval 1", options(val_check_interval=1)),
    Case("val_check_interval 1.0", options(val_check_interval=1.0), chunks=True),
    Case("limit_train_batches 0", options(limit_train_batches=0)),
    Case("limit_val_batches 2", options(limit_val_batches=2), chunks=True, data={"eval_batch_size": 10}),
    Case("limit_val_batches 0.4", options(limit_val_batches=0.4), chunks=True, data={"eval_batch_size": 10}),
    Case("limit_val_batches 0", options(limit_val_batches=0), chunks=True),
    Case("val_check_interval 0.5", options(val_check_interval=0.5)),
    Case("val_check_interval 2", options(val_check_interval=2)),
    Case("val_check_interval 4 over epochs", options(val_check_interval=4, check_val_every_n_epoch=None)),
    Case("val_check_interval 12 over epochs", options(val_check_interval=12, check_val_every_n_epoch=None)),
    Case("val_check_interval a time", options(val_check_interval=timedelta(microseconds=1)), chunks=None),
    Case("val_check_interval a long time", options(val_check_interval="00:01:00:00"), chunks=None),
    Case("check_val_every_n_epoch 2", options(check_val_every_n_epoch=2, max_epochs=3), chunks=True),
    Case("overfit_batches 3", options(overfit_batches=3)),
    Case("overfit_batches 0.4", options(overfit_batches=0.4), data={"eval_batch_size": 10}),
    Case("overfit_batches 1", options(overfit_batches=1)),
    Case("overfit_batches 1.0", options(overfit_batches=1.0)),
    Case("max_steps 0", options(max_steps=0)),
    Case("max_steps 5", options(max_steps=5)),
    Case("max_steps 12", options(max_steps=12, max_epochs=5)),
    Case("max_steps 18, no end", options(max_steps=18, max_epochs=-1)),
    Case("max_epochs 0", options(max_epochs=0), chunks=None),
    Case("min_epochs", options(min_epochs=2), chunks=True),
    Case("min_steps", options(min_steps=11, max_epochs=1)),
    Case("max_time, far", options(max_time={"minutes": 5}), chunks=None),
    Case("fast_dev_run", options(fast_dev_run=3)),
    Case("fast_dev_run true", options(fast_dev_run=True)),
    Case("fast_dev_run 0", options(fast_dev_run=0), chunks=True),
    Case("detect_anomaly", options(detect_anomaly=True), chunks=True),
    Case("deterministic", options(deterministic=True), chunks=True),
    Case("benchmark", options(benchmark=True), chunks=True),
    *(
        Case(f"precision {name}", options(precision=name), chunks=True, rtol=rtol)
        for name, rtol in (("32-true", 0.0), ("bf16-mixed", 0.0), ("64-true", 1e-6), ("bf16-true", 1e-2))
    ),
    Case("precision and clip", options(precision="64-true", gradient_clip_val=0.1), chunks=True, rtol=1e-6),
    Case("barebones", options(barebones=True), chunks=True),
    Case("reload_dataloaders_every_n_epochs", options(reload_dataloaders_every_n_epochs=1), chunks=True),
    Case("num_sanity_val_steps", options(num_sanity_val_steps=2), chunks=True),
    Case("inference_mode", options(inference_mode=False), chunks=True),
    Case("use_distributed_sampler", options(use_distributed_sampler=False), chunks=True),
    Case(
        "several loggers",
        lambda path: {"logger": [Points(), CSVLogger(path), Points()]},
        lambda run: run.trainer.loggers[0].points == run.trainer.loggers[2].points,
        chunks=True,
    ),
    Case("summary", options(enable_model_summary=True), chunks=True),
]

TOP = {"monitor": "val/loss", "filename": "{epoch}-{step}-{val/loss:.3f}"}
CALLBACKS = [
    Case("EarlyStopping", with_callbacks(lambda: C.EarlyStopping(**EARLY), max_epochs=8), chunks=True),
    Case(
        "EarlyStopping on the training loss",
        with_callbacks(lambda: C.EarlyStopping("train/loss", 0.3, 1, check_on_train_epoch_end=True), max_epochs=6),
        chunks=True,
    ),
    Case(
        "EarlyStopping on the last step's loss",
        with_callbacks(lambda: C.EarlyStopping("train/loss_step", 0.3, 1, check_on_train_epoch_end=True), max_epochs=6),
        chunks=None,
    ),
    Case(
        "EarlyStopping and min_epochs",
        with_callbacks(lambda: C.EarlyStopping("val/loss", stopping_threshold=10.0), max_epochs=5, min_epochs=3),
        chunks=True,
    ),
    Case(
        "EarlyStopping and min_steps",
        with_callbacks(lambda: C.EarlyStopping("val/loss", stopping_threshold=10.0), max_epochs=5, min_steps=20),
    ),
    Case(
        "EarlyStopping within an epoch",
        with_callbacks(lambda: C.EarlyStopping("val/loss", stopping_threshold=10.0), val_check_interval=4),
    ),
    Case(
        "EarlyStopping that logs",
        with_callbacks(lambda: C.EarlyStopping("val/loss", stopping_threshold=1.0, strict=True), max_epochs=4),
        chunks=True,
    ),
    Case("EMAWeightAveraging", with_callbacks(lambda: C.EMAWeightAveraging(decay=0.9))),
    Case(
        "EMAWeightAveraging, sometimes",
        with_callbacks(lambda: C.EMAWeightAveraging(decay=0.9, update_every_n_steps=2, update_starting_at_step=3)),
    ),
    Case("WeightAveraging", with_callbacks(C.WeightAveraging)),
    Case(
        "StochasticWeightAveraging",
        with_callbacks(lambda: C.StochasticWeightAveraging(swa_lrs=1e-2, swa_epoch_start=1), max_epochs=4),
    ),
    Case(
        "GradientAccumulationScheduler",
        with_callbacks(lambda: C.GradientAccumulationScheduler({1: 2, 2: 4}), max_epochs=3),
    ),
    *(
        Case(
            f"LearningRateMonitor {interval}",
            with_callbacks(lambda interval=interval: C.LearningRateMonitor(interval), log_every_n_steps=2),
            chunks=interval == "epoch",
        )
        for interval in ("epoch", "step", None)
    ),
    Case(
        "LearningRateMonitor with more",
        with_callbacks(lambda: C.LearningRateMonitor("epoch", log_momentum=True, log_weight_decay=True)),
        chunks=True,
    ),
    Case(
        "Timer",
        with_callbacks(lambda: C.Timer({"minutes": 5})),
        lambda run: callback_of(run, C.Timer).time_elapsed() > 0,
        chunks=None,
    ),
    Case("Timer at its end", with_callbacks(lambda: C.Timer(timedelta(0)), limit_val_batches=0), chunks=None),
    Case("Timer that ends on a step", with_callbacks(lambda: Ends(), limit_val_batches=0), chunks=None),
    Case(
        "Timer that ends on an epoch",
        with_callbacks(lambda: C.Timer(timedelta(microseconds=1), "epoch"), limit_val_batches=0),
        chunks=None,
    ),
    Case("LambdaCallback around a run", with_callbacks(recorder(C.LambdaCallback, RUN_HOOKS)), calls, chunks=True),
    Case("LambdaCallback around a batch", with_callbacks(recorder(C.LambdaCallback, BATCH_HOOKS)), calls),
    *(
        Case(f"LambdaCallback {name}", with_callbacks(recorder(C.LambdaCallback, [name])), calls)
        for name in BATCH_HOOKS
    ),
    Case("outputs", with_callbacks(ReadsOutputs), lambda run: callback_of(run, ReadsOutputs).seen),
    Case("metrics", with_callbacks(ReadsMetrics), lambda run: callback_of(run, ReadsMetrics).seen, chunks=True),
    Case("hooks of epochs", with_callbacks(SameSteps), lambda run: callback_of(run, SameSteps).seen, chunks=True),
    *(
        Case(
            f"a callback that asks for {name}",
            with_callbacks(lambda name=name: SameSteps(name)),
            lambda run: callback_of(run, SameSteps).seen,
            chunks=None,
        )
        for name in ("num_training_batches", "estimated_stepping_batches", "is_last_batch", "should_stop")
    ),
    *(
        Case(f"stops in {hook}", with_callbacks(lambda hook=hook: stops(hook), log_every_n_steps=50), chunks=None)
        for hook in ("on_train_batch_start", "on_train_batch_end", "on_validation_end", "on_train_epoch_end")
    ),
    Case("SpikeDetection", with_callbacks(lambda: SpikeDetection(warmup=5), max_epochs=3)),
    Case(
        "ModelPruning",
        with_callbacks(lambda: C.ModelPruning("l1_unstructured", amount=0.2)),
        lambda run: [(each == 0).sum().item() for each in run.module.net.parameters()],
        chunks=True,
    ),
    Case(
        "ModelSummary",
        with_callbacks(lambda: C.ModelSummary(max_depth=2), enable_model_summary=True),
        chunks=None,
    ),
    Case("RichModelSummary", with_callbacks(C.RichModelSummary, enable_model_summary=True), chunks=None),
    Case(
        "ThroughputMonitor",
        with_callbacks(lambda: C.ThroughputMonitor(lambda batch: len(batch[1]), window_size=3), log_every_n_steps=3),
        lambda run: {
            name: points
            for name, points in run.points.items()
            if name.startswith("train|") and name.rsplit("|", 1)[1] in ("samples", "batches")
        },
    ),
    Case(
        "TQDMProgressBar",
        with_callbacks(C.TQDMProgressBar, enable_progress_bar=True),
        lambda run: (run.trainer.progress_bar_callback.total_train_batches,),
    ),
    Case(
        "RichProgressBar",
        with_callbacks(C.RichProgressBar, enable_progress_bar=True),
        lambda run: (run.trainer.progress_bar_callback.total_train_batches,),
    ),
    Case(
        "BatchSizeFinder",
        with_callbacks(lambda: C.BatchSizeFinder(init_val=16, max_trials=3, steps_per_trial=2)),
        lambda run: (run.data.hparams["batch_size"], callback_of(run, C.BatchSizeFinder).optimal_batch_size),
    ),
    Case(
        "BatchSizeFinder by bisection",
        with_callbacks(lambda: C.BatchSizeFinder("binsearch", init_val=16, max_trials=4, steps_per_trial=2)),
        lambda run: (run.data.hparams["batch_size"], callback_of(run, C.BatchSizeFinder).optimal_batch_size),
    ),
    Case(
        "LearningRateFinder",
        with_callbacks(lambda: C.LearningRateFinder(num_training_steps=16, max_lr=0.1)),
        lambda run: (run.module.hparams["lr"], callback_of(run, C.LearningRateFinder).optimal_lr.results),
    ),
    *(
        Case(
            name,
            with_callbacks(make, max_epochs=3),
            lambda run: [each["lr"] for each in run.trainer.optimizers[0].param_groups],
            chunks=True,
            hooks=Backbone,
        )
        for name, make in (
            ("BaseFinetuning", lambda: Unfreezes()),
            ("BackboneFinetuning", lambda: C.BackboneFinetuning(1, verbose=False)),
        )
    ),
]


def stops(hook):
    """A callback that asks the Trainer to stop, from a hook."""

    def ask(trainer, *_):
        trainer.should_stop = trainer.global_step >= 3

    return C.LambdaCallback(**{hook: ask})


class Ends(C.Timer):
    """A Timer whose time is up when the first step has been taken."""

    def __init__(self):
        super().__init__(timedelta(days=1))

    def time_elapsed(self, stage="train"):
        return 1e9 if self.started else 0.0

    @property
    def started(self):
        return getattr(self, "trainer", None) is not None and self.trainer.global_step > 0

    def setup(self, trainer, pl_module, stage):
        self.trainer = trainer


class Unfreezes(C.BaseFinetuning):
    """Trains all but the first layer for an epoch, then all."""

    def freeze_before_training(self, pl_module):
        self.freeze(next(each for each in pl_module.net.modules() if isinstance(each, torch.nn.Linear)))

    def finetune_function(self, pl_module, epoch, optimizer):
        if epoch == 1:
            first = next(each for each in pl_module.net.modules() if isinstance(each, torch.nn.Linear))
            self.unfreeze_and_add_param_group(first, optimizer, lr=1e-4)


CHECKPOINTS = [
    Case("ModelCheckpoint", with_checkpoints({}), chunks=True),
    Case("the Trainer's own", options(enable_checkpointing=True), chunks=True),
    Case("every_n_epochs", with_checkpoints({"every_n_epochs": 2, "save_top_k": -1}), chunks=True),
    Case("every_n_train_steps", with_checkpoints({"every_n_train_steps": 4, "save_top_k": -1})),
    Case("every_n_train_steps, the newest", with_checkpoints({"every_n_train_steps": 4, "save_last": True})),
    Case(
        "every_n_train_steps of the training loss",
        with_checkpoints({"every_n_train_steps": 4, "save_top_k": 2, "monitor": "train/loss_step"}),
    ),
    Case(
        "train_time_interval",
        with_checkpoints({"train_time_interval": timedelta(microseconds=1), "save_top_k": -1}, max_epochs=1),
        chunks=None,
    ),
    Case("save_top_k", with_checkpoints({**TOP, "save_top_k": 2}), chunks=True),
    Case("save_top_k of all", with_checkpoints({**TOP, "save_top_k": -1, "save_last": True}), chunks=True),
    Case("save_last alone", with_checkpoints({"save_top_k": 0, "save_last": True}), chunks=True),
    Case("save_last as a link", with_checkpoints({"save_last": "link"}), chunks=True),
    Case(
        "the training loss",
        with_checkpoints({"monitor": "train/loss", "save_top_k": 1, "save_on_train_epoch_end": True}),
        chunks=True,
    ),
    Case("at the epoch's end", with_checkpoints({**TOP, "save_on_train_epoch_end": True}), chunks=True),
    Case("after a validation", with_checkpoints({**TOP, "save_on_train_epoch_end": False}), chunks=True),
    Case("worst", with_checkpoints({"monitor": "val/loss", "mode": "max"}), chunks=True),
    Case("weights only", with_checkpoints({"save_weights_only": True, "save_last": True}), chunks=True),
    Case("val_check_interval", with_checkpoints({**TOP, "save_top_k": -1}, val_check_interval=3)),
    Case("two", with_checkpoints({**TOP}, {"every_n_train_steps": 5, "save_top_k": -1})),
    Case("and EMA", lambda path: {**(made := with_checkpoints({})(path)), "callbacks": [*made["callbacks"], ema()]}),
]


def ema():
    return C.EMAWeightAveraging(decay=0.9)


def seen(run):
    return run.module.calls


MODULES = [
    *(Case(name, hooks=only(name), facts=seen, model={"lr": 1e-3}) for name in vars(GradientHooks) if name[:2] == "on"),
    Case(
        "configure_gradient_clipping", options(gradient_clip_val=0.1), seen, hooks=only("configure_gradient_clipping")
    ),
    Case("optimizer_step", hooks=only("optimizer_step"), facts=seen),
    Case("all hooks", options(gradient_clip_val=0.1), seen, hooks=GradientHooks),
    Case("all hooks, accumulating", options(accumulate_grad_batches=2), seen, hooks=GradientHooks),
    Case("batch hooks", hooks=BatchHooks, facts=seen),
    Case("batch hooks, limited", options(limit_train_batches=3), seen, hooks=BatchHooks),
    Case("on_train_batch_start ends an epoch", hooks=SkipsAfterFour),
    Case("training_step", hooks=Accuracies, facts=lambda run: set(run.trainer.callback_metrics)),
    Case("steps of its own", hooks=OwnSteps, facts=all_logged),
    Case("estimated_stepping_batches", options(log_every_n_steps=2), hooks=OneCycle, chunks=None),
    Case("a schedule's frequency", hooks=EveryThirdStep, chunks=None),
    Case("another optimizer", hooks=PlainSGD, chunks=None),
    Case("an optimizer with a closure", hooks=ClosureTwice, chunks=None),
    Case("logs of its own", hooks=EpochLog, chunks=True),
    Case("another learning rate", model={"lr": 0.01}, chunks=True),
]

ALL = [*FLAGS, *CALLBACKS, *CHECKPOINTS, *MODULES]


@pytest.mark.parametrize("case", ALL, ids=lambda case: case.name)
def test_it_means_what_lightnings_manual_says(dataset, tmp_path, case):
    theirs = fit(False, dataset, tmp_path / "theirs", case)
    ours = fit(True, dataset, tmp_path / "ours", case)
    assert_same(ours, theirs, case.rtol)
    facts = case.facts(theirs)
    assert case.facts(ours) == facts
    assert facts is not False
    in_chunks = ours.validations.steps > 1
    assert in_chunks == (ours.chunks.reason is None)
    assert case.chunks in (in_chunks, None)
    if in_chunks:  # the epoch is one; more are other ones
        ours = fit(True, dataset, tmp_path / "in threes", case, steps=3)
        assert_same(ours, theirs, case.rtol)
        assert case.facts(ours) == facts


def test_a_run_that_nobody_watches_is_in_chunks_and_one_that_somebody_does_says_who(dataset, tmp_path):
    unwatched = fit(True, dataset, tmp_path / "unwatched", PLAIN)
    assert (unwatched.validations.steps, unwatched.chunks.reason) == (64, None)
    watcher = Case("watcher", with_callbacks(recorder(C.LambdaCallback, ["on_train_batch_end"])))
    watched = fit(True, dataset, tmp_path / "watched", watcher)
    assert (watched.validations.steps, watched.chunks.reason) == (1, "LambdaCallback looks at each batch")


def test_a_second_fit_is_watched_anew(dataset, tmp_path):
    """The same data and module, first with nobody, then with a callback that watches."""
    runs = []
    for ours in (False, True):
        run = fit(ours, dataset, tmp_path / str(ours), PLAIN)
        watcher = recorder(C.LambdaCallback, BATCH_HOOKS)()
        more = [StepsPerExecution()] if ours else []
        trainer = quiet_trainer(max_epochs=1, callbacks=[watcher, *more])
        trainer.fit(run.module, run.data)
        runs.append((watcher.calls, weights(run)))
    (theirs, their_weights), (ours, our_weights) = runs
    assert ours == theirs
    assert_same_weights(our_weights, their_weights)


@pytest.mark.parametrize("fails", [False, True])
def test_the_data_of_a_run_in_chunks_is_ordinary_to_the_next_trainer(dataset, fails):
    class Fails(L.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            1 / (not fails)

    data = MNISTDataModule(str(dataset), batch_size=16)
    with pytest.raises(ZeroDivisionError) if fails else nullcontext():
        quiet_trainer(max_epochs=1, callbacks=[StepsPerExecution(), Fails()]).fit(MNISTClassifier(hidden=[8]), data)
    plain = quiet_trainer(max_epochs=1, max_steps=5)
    plain.fit(module := MNISTClassifier(hidden=[8]), data)
    assert plain.global_step == 5 == next(iter(plain.optimizers[0].state.values()))["step"]
    assert next(iter(data.train_dataloader()))[0].shape == (16, 28, 28)
    assert module.history


class EveryBatch(C.ModelCheckpoint):
    def on_train_batch_end(self, trainer, *args):
        super().on_train_batch_end(trainer, *args)
        self.batches = getattr(self, "batches", 0) + 1


class EveryRate(C.LearningRateMonitor):
    batches = 0

    def on_train_batch_start(self, trainer, *args):
        super().on_train_batch_start(trainer, *args)
        self.batches += 1


@pytest.mark.parametrize("kind", [EveryBatch, EveryRate])
def test_a_subclass_of_lightnings_own_callbacks_sees_each_batch(dataset, tmp_path, kind):
    watcher = kind(logging_interval="epoch") if kind is EveryRate else kind(tmp_path)
    trainer = quiet_trainer(
        max_epochs=1, callbacks=[StepsPerExecution(), watcher], logger=CSVLogger(tmp_path), enable_checkpointing=True
    )
    trainer.fit(MNISTClassifier(hidden=[8]), MNISTDataModule(str(dataset)))
    assert watcher.batches == 9


@pytest.mark.parametrize("metrics", ["callback_metrics", "logged_metrics"])
def test_the_trainers_metrics_are_those_of_the_yardstick(dataset, tmp_path, metrics):
    ours, theirs = (getattr(fit(who, dataset, tmp_path / str(who), PLAIN).trainer, metrics) for who in (True, False))
    assert theirs.keys() - ours.keys() == set()
    for name in theirs:
        torch.testing.assert_close(ours[name], theirs[name], msg=name)


def test_csv_logger(dataset, tmp_path):
    """A row for each step and each epoch, and the epoch that it was in."""
    tables = []
    for who in (True, False):
        run = fit(who, dataset, tmp_path / str(who), PLAIN, logger=CSVLogger(tmp_path / str(who)))
        with Path(run.trainer.logger.log_dir, "metrics.csv").open() as file:
            rows = list(csv.DictReader(file))
        names = ("train/loss_step", "train/loss", "val/loss", "epoch")
        tables.append(
            {
                name: [(int(row["step"]), row.get("epoch"), float(row[name])) for row in rows if row.get(name)]
                for name in names
            }
        )
    ours, theirs = tables
    for name, rows in theirs.items():
        assert [(step, value) for step, _, value in ours[name]] == [
            (step, pytest.approx(value)) for step, _, value in rows
        ], name
        assert [epoch for _, epoch, _ in ours[name]] == [epoch for _, epoch, _ in rows], name


def measured(run):
    """How often the simple profiler timed what, besides callbacks."""
    counts = {name: len(times) for name, times in run.trainer.profiler.recorded_durations.items()}
    ours, plain = type(run.module).__name__, type(run.data).__name__
    names = {name: name.replace(ours, "module").replace(plain, "data") for name in counts if "[Callback]" not in name}
    hooks = ("_step", "_batch", "_backward", "backward", "_zero_grad", "_clipping", "batch_to_device")
    return {names[name]: counts[name] for name in names if name.endswith(hooks)}


@pytest.mark.parametrize("name", ["simple", "advanced", "pytorch"])
def test_profilers_see_each_step(dataset, tmp_path, name):
    theirs, ours = (fit(who, dataset, tmp_path / str(who), PLAIN, profiler=name) for who in (False, True))
    assert_same(ours, theirs)
    assert ours.validations.steps == 1
    if name == "simple":
        assert measured(theirs)["[Strategy]SingleDeviceStrategy.training_step"] == 2 * BATCHES
        assert measured(ours) == measured(theirs)


def test_device_stats_monitor(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr("lightning.pytorch.accelerators.cpu._PSUTIL_AVAILABLE", True)
    monkeypatch.setattr("lightning.pytorch.callbacks.device_stats_monitor._PSUTIL_AVAILABLE", True, raising=False)
    monkeypatch.setattr("lightning.pytorch.accelerators.cpu.get_cpu_stats", lambda: {"cpu": 1.0})
    case = Case("stats", with_callbacks(lambda: C.DeviceStatsMonitor(cpu_stats=True), log_every_n_steps=2))
    theirs, ours = (fit(who, dataset, tmp_path / str(who), case) for who in (False, True))
    assert any(name.startswith("DeviceStatsMonitor.on_train_batch_end/") for name in theirs.points)
    assert_same(ours, theirs)


class Breaks(L.Callback):
    """Fails, in a hook of the second epoch."""

    def on_validation_start(self, trainer, pl_module):
        if trainer.current_epoch == 1:
            raise RuntimeError("broken")


class BreaksInABatch(L.Callback):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == 13:
            raise RuntimeError("broken")


@pytest.mark.parametrize("breaks", [Breaks, BreaksInABatch])
def test_on_exception_checkpoint(dataset, tmp_path, breaks):
    case = Case(
        "exception", lambda path: {"enable_checkpointing": True, "callbacks": [C.OnExceptionCheckpoint(path), breaks()]}
    )
    for who in (True, False):
        with pytest.raises(RuntimeError, match="broken"):
            fit(who, dataset, tmp_path / str(who), case)
    assert checkpoints(tmp_path / "False")
    assert_same_checkpoints(tmp_path / "True", tmp_path / "False")


def test_an_anomaly_is_found_at_the_same_step(dataset, tmp_path):
    class Nan(L.Callback):
        def on_validation_end(self, trainer, pl_module):
            next(pl_module.net.parameters()).data.fill_(torch.nan)

    for who in (True, False):
        case = Case("nan", with_callbacks(Nan, detect_anomaly=True))
        with pytest.raises(RuntimeError, match="returned nan values"):
            fit(who, dataset, tmp_path / str(who), case)


TUNED = [
    ("lr_find", {"num_training": 16, "max_lr": 0.1}),
    ("lr_find", {"num_training": 16, "mode": "linear", "early_stop_threshold": None, "update_attr": True}),
    ("scale_batch_size", {"init_val": 16, "max_trials": 3, "steps_per_trial": 2}),
]


@pytest.mark.parametrize(("method", "arguments"), TUNED, ids=["lr_find", "lr_find linear", "scale_batch_size"])
def test_the_tuner_finds_the_same_and_training_goes_on_from_there(dataset, tmp_path, method, arguments):
    found = []
    for ours in (False, True):
        L.seed_everything(0, verbose=False)
        module = (MNISTClassifier if ours else Yardstick)()
        data = (MNISTDataModule if ours else YardstickData)(str(dataset))
        callbacks = [StepsPerExecution()] if ours else []
        trainer = quiet_trainer(max_epochs=2, default_root_dir=tmp_path, callbacks=callbacks)
        result = getattr(Tuner(trainer), method)(module, datamodule=data, **arguments)
        trainer.fit(module, data)
        result = result if isinstance(result, int) else (result.suggestion(), result.results)
        numbers = module.hparams["lr"], data.hparams["batch_size"], trainer.global_step, trainer.current_epoch
        found.append((result, numbers, module.net.state_dict()))
    (theirs, their_numbers, their_weights), (ours, our_numbers, our_weights) = found
    assert ours == theirs
    assert our_numbers == their_numbers
    assert_same_weights(our_weights, their_weights)
    assert list(tmp_path.iterdir()) == []


def test_validate_gives_the_same_and_leaves_a_later_fit_alone(dataset, tmp_path):
    results = []
    for who in (True, False):
        run = fit(who, dataset, tmp_path / str(who), PLAIN, logger=False)
        (result,) = run.trainer.validate(run.module, run.data, verbose=False)
        run.trainer.fit_loop.max_epochs = 3
        run.trainer.fit(run.module, run.data)
        results.append(result | {"loss after a third epoch": run.trainer.callback_metrics["val/loss"].item()})
    assert results[0] == pytest.approx(results[1], rel=1e-5)


@pytest.mark.parametrize("steps", ["auto", 3, 1])
def test_resuming_after_an_epoch_ends_where_the_yardstick_does(dataset, tmp_path, steps):
    case = Case("resumed", with_checkpoints({"save_last": True}))
    whole = fit(False, dataset, tmp_path / "whole", Case("whole"), max_epochs=3)
    for who in (True, False):
        begun = fit(who, dataset, tmp_path / f"begun {who}", case, steps=steps, max_epochs=1)
        last = begun.path / "0" / "last.ckpt"
        resumed = fit(who, dataset, tmp_path / f"on {who}", Case("on"), steps=steps, max_epochs=3, ckpt_path=last)
        assert_same_weights(weights(resumed), weights(whole))
        assert (resumed.trainer.global_step, resumed.trainer.current_epoch) == (27, 3)
        for name in ("train/loss_step", "val/loss"):
            assert_same_points(name, begun.points[name] + resumed.points[name], whole.points[name])


@pytest.mark.parametrize(
    "flags",
    [{"every_n_train_steps": 4}, {"every_n_train_steps": 9}, {"train_time_interval": timedelta(microseconds=1)}],
    ids=["steps", "an epoch's last step", "time"],
)
def test_resuming_within_an_epoch_ends_where_the_yardstick_that_was_not_stopped_does(dataset, tmp_path, flags):
    case = Case("begun", with_checkpoints({**flags, "save_top_k": -1}, max_epochs=2))
    whole = fit(False, dataset, tmp_path / "whole", Case("whole"))
    begun = fit(True, dataset, tmp_path / "begun", case)
    assert_same_weights(weights(begun), weights(whole))
    kept = sorted((begun.path / "0").glob("*.ckpt"))
    assert kept
    for number, path in enumerate(kept[:: max(1, len(kept) // 4)]):
        resumed = fit(True, dataset, tmp_path / str(number), case, ckpt_path=path)
        assert resumed.trainer.global_step == 18, path
        assert_same_weights(weights(resumed), weights(whole))


def test_a_state_from_within_an_epoch_is_resumed_without_the_callback_that_wrote_it_too(dataset, tmp_path):
    case = Case("begun", with_checkpoints({"every_n_train_steps": 13, "save_top_k": -1}, max_epochs=2))
    begun = fit(True, dataset, tmp_path / "begun", case)
    (path,) = (begun.path / "0").glob("*.ckpt")
    resumed = fit(True, dataset, tmp_path / "on", PLAIN, ckpt_path=path)
    assert resumed.trainer.global_step == 18
    assert_same_weights(weights(resumed), weights(begun))


def test_max_steps_resumed_with_more_of_them_does_what_it_does_to_the_yardstick(dataset, tmp_path):
    case = Case("more steps", with_checkpoints({"save_last": True}, max_epochs=-1))
    counts = []
    for who in (False, True):
        begun = fit(who, dataset, tmp_path / f"begun {who}", case, max_steps=9)
        last = begun.path / "0" / "last.ckpt"
        resumed = fit(who, dataset, tmp_path / f"on {who}", case, max_steps=22, ckpt_path=last)
        counts.append((resumed.trainer.global_step, resumed.trainer.current_epoch, resumed.validations.ran))
        points = begun.points["train/loss_step"] + resumed.points["train/loss_step"]
        counts[-1] += ([step for step, _ in points], weights(resumed))
    (*theirs, their_weights), (*ours, our_weights) = counts
    assert ours == theirs
    assert_same_weights(our_weights, their_weights)


def test_resuming_from_a_validation_within_an_epoch(dataset, tmp_path):
    case = Case("begun", with_checkpoints({"monitor": "val/loss", "save_top_k": -1}, val_check_interval=4))
    whole = fit(False, dataset, tmp_path / "whole", case, max_epochs=2)
    begun = fit(True, dataset, tmp_path / "begun", case, max_epochs=2)
    assert_same(begun, whole)
    for number, path in enumerate(sorted((begun.path / "0").glob("*.ckpt"))):
        resumed = fit(True, dataset, tmp_path / str(number), case, ckpt_path=path, max_epochs=2)
        assert_same_weights(weights(resumed), weights(whole))
