"""Runs of 35 steps to the epoch that a test starts, stops and compares."""

import json
import os
import signal

import lightning.pytorch as L
import pytest
import torch
from helpers import Script, ok, scalars

from mnist_lightning.reporting import report
from mnist_lightning.training.cli import MNISTCLI

OPTIONS = ("--data.batch_size=16", "--model.dropout=0.3", "--steps_per_execution=8", "--accelerator=cpu")
OPTIONS += ("--model.hidden=[400,200]", "--model.step_size=20", "--checkpoint.every_n_steps=10")
LIGHT = ("--model.hidden=[32]", "--plots.every_n_epochs=0")  # for runs of which nobody has to hit a moment
LAST = "checkpoints/last.ckpt"


DISTORTED = ("--data.elastic=0.7", "--data.rotation=10", "--model.scheduler=onecycle")
FIRST = r"epoch +1/"  # an epoch is over, and its checkpoints are written


# what the scripts silence too: see quiet() in console/messages.py
ignoring_that_the_run_was_begun = pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")


class StopsItself(L.Callback):
    """Has the process ask itself to stop, as a chunk begins: the same moment each time."""

    works_with_chunks = True

    def __init__(self, chunk):
        self.left = chunk

    def on_train_batch_start(self, *_):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGTERM)


def start(cwd, dataset, *options, until=FIRST, **how):
    """Starts a run of 35 steps to the epoch, and returns when it has printed something (or has ended)."""
    return Script("train.py", "--data.data_dir", dataset, *OPTIONS, *options, cwd=cwd, **how).wait_for(until)


def stopped(script, signum):
    """Sends a signal, waits for the end, and returns the exit code and what was printed."""
    result = script.send_signal(signum).result()
    assert result.stderr == ""
    return result.returncode, result.stdout


def finished(script):
    """Waits for the end of a run that has nothing to complain of."""
    return ok(script.result())


def state(run):
    return torch.load(run / LAST, weights_only=True)


def equal(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


def assert_same_run(first, second):
    """The same weights, optimizer, schedule and random state, bit for bit; the same curves, and no step twice."""
    a, b = state(first), state(second)
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "rng_state", "global_step", "epoch"):
        assert equal(a[part], b[part]), part
    one, other = scalars(first), scalars(second)
    for name in ("train/loss_step", "train/accuracy", "train/loss", "val/accuracy", "val/loss", "test/accuracy"):
        steps = [step for step, _ in other[name]]
        assert steps == sorted(set(steps)), name
        assert one[name] == other[name], name
    results = [json.loads((run / "test" / "metrics.json").read_text()) for run in (first, second)]
    assert min(result["training"].pop("seconds") for result in results) > 0
    assert results[0] == results[1]


def train_and_test(run, dataset, *options, stop=0):
    """What train.py does, in this process: three epochs of nine chunks, on in its folder if there is one."""
    cli = MNISTCLI([f"--data.data_dir={dataset}", *OPTIONS, "--max_epochs=3", *options])
    cli.trainer.callbacks.append(StopsItself(stop))
    cli.fit(run)
    training = cli.training
    data = cli.datamodule
    results = report.metrics(cli.test(), data)
    report.write_json(results | {"training": training}, run / "test")
