"""The short flags that hang a callback on a run: a moving average of the weights, early stopping, a name."""

import re
import sys

import lightning.pytorch as L
import pytest
import torch
from helpers import quiet_trainer, write_dataset

from mnist_lightning.checkpoints.read import load_classifier
from mnist_lightning.data.datamodule import MNISTDataModule
from mnist_lightning.data.format import FILES
from mnist_lightning.data.idx import read_idx, write_idx
from mnist_lightning.errors import UserError
from mnist_lightning.model.classifier import MNISTClassifier
from mnist_lightning.training.chunks import StepsPerExecution
from mnist_lightning.training.cli import MNISTCLI, evaluate

# what the scripts silence too: see quiet() in console/messages.py
pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")


def command_line(dataset, root, *options):
    quiet = ("--trainer.enable_progress_bar=false", "--plots.every_n_epochs=0", "--accelerator=cpu")
    return MNISTCLI([f"--data.data_dir={dataset}", f"--trainer.default_root_dir={root}", *quiet, *options])


def load(path):
    return torch.load(path, weights_only=True)


class Average(L.Callback):
    """The average by its definition: the first step's weights, then decay of it and the rest of each later step's."""

    works_with_chunks = True

    def __init__(self, decay):
        self.decay, self.weights = decay, None

    def on_train_start(self, trainer, pl_module):
        def follow(*_):
            now = [parameter.detach().clone() for parameter in pl_module.parameters()]
            old = self.weights or now
            self.weights = [a + (b - a) * (1 - self.decay) for a, b in zip(old, now, strict=True)]

        trainer.optimizers[0].register_step_post_hook(follow)


@pytest.mark.parametrize("steps", [1, 4, "auto"])
def test_the_moving_average_is_of_each_optimizer_step_and_is_what_is_saved_and_tested(dataset, tmp_path, steps):
    cli = command_line(dataset, tmp_path, "--ema_decay=0.9", f"--steps_per_execution={steps}", "--max_epochs=2")
    by_hand = Average(0.9)
    cli.trainer.callbacks.append(by_hand)
    cli.fit()
    last = load_classifier(tmp_path / "lightning_logs/version_0/checkpoints/last.ckpt")
    for parameter, tested, expected in zip(last.parameters(), cli.model.parameters(), by_hand.weights, strict=True):
        torch.testing.assert_close(parameter, expected)
        assert torch.equal(parameter, tested)
    results = cli.test()
    images, labels = cli.datamodule.test_set.tensors
    chosen = load_classifier(cli.chosen_checkpoint)
    right = chosen.predict(images.numpy())[0] == labels.numpy()
    assert results["accuracy"].item() == pytest.approx(right.mean())


@pytest.mark.parametrize(
    "options",
    [
        ["--ema_decay=0.99"],
        ["--trainer.callbacks=EMAWeightAveraging", "--trainer.callbacks.decay=0.99"],
        ["--trainer.callbacks=WeightAveraging"],
        ["--trainer.callbacks=StochasticWeightAveraging", "--trainer.callbacks.swa_lrs=0.01"],
    ],
    ids=" ".join,
)
def test_what_a_run_tests_of_its_average_is_what_its_best_checkpoint_answers(dataset, tmp_path, options):
    cli = command_line(dataset, tmp_path, *options, "--max_epochs=3")
    cli.fit()
    tested = cli.test()
    chosen = load_classifier(cli.chosen_checkpoint)
    again = evaluate(quiet_trainer(), chosen, MNISTDataModule(str(dataset)))
    assert tested["loss"] == again["loss"]


def test_a_moving_average_is_resumed_bit_for_bit(dataset, tmp_path):
    options = ("--ema_decay=0.9", "--data.batch_size=16", "--model.dropout=0.2", "--max_epochs=2")
    whole = command_line(dataset, tmp_path / "whole", *options)
    whole.fit()
    stopped = command_line(dataset, tmp_path / "stopped", *options, "--checkpoint.every_n_steps=20")

    class Breaks(L.Callback):
        works_with_chunks = True

        def on_train_batch_end(self, trainer, *_):
            if trainer.global_step > 40:
                raise KeyError("a power cut")

    stopped.trainer.callbacks.append(Breaks())
    with pytest.raises(KeyError):
        stopped.fit()
    resumed = command_line(dataset, tmp_path / "stopped", *options, "--checkpoint.every_n_steps=20", "--ckpt_path=last")
    resumed.fit()
    assert resumed.trainer.global_step == whole.trainer.global_step == 70
    for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_training_stops_early_on_the_validation_loss_and_says_so(dataset, tmp_path, capsys):
    options = ("--early_stopping.patience=1", "--early_stopping.min_delta=1000", "--max_epochs=20")
    cli = command_line(dataset, tmp_path, *options, "--trainer.enable_progress_bar=true")
    cli.fit()
    *_, first, second, _, stop = capsys.readouterr().out.splitlines()
    assert first.startswith("epoch  1/20  train loss ")
    assert first.endswith("%  best")
    assert second.endswith("%  best") == (cli.chosen_checkpoint and load(cli.chosen_checkpoint)["epoch"] == 1)
    assert re.fullmatch(r"stopped in epoch 2/20: val/loss no better than \d\.\d+ for a validation", stop)
    assert cli.training["epochs"] == 2  # the first sets the mark, the second does not beat it by 1,000
    (chunks,) = (each for each in cli.trainer.callbacks if isinstance(each, StepsPerExecution))
    assert chunks.reason is None
    cli.test()  # its checkpoint holds plain values


@pytest.mark.parametrize(
    ("option", "reason"),
    [
        ("--trainer.max_steps=3", "--trainer.max_steps 3 are taken"),
        ("--trainer.max_time=00:00:00:01", "max_time is over"),
    ],
)
def test_a_run_without_a_last_epoch_counts_them_and_says_why_it_stopped(dataset, tmp_path, capsys, option, reason):
    options = ("--trainer.enable_progress_bar=true", "--max_epochs=-1")
    command_line(dataset, tmp_path, *options, option).fit()
    out = capsys.readouterr().out
    assert "\nepoch  1  train loss " in out
    assert f"{reason}\n" in out


def test_the_epochs_marked_best_are_the_runs_own_whatever_a_users_callback_keeps(dataset, tmp_path, capsys):
    theirs = ("ModelCheckpoint", "--trainer.callbacks.monitor=val/accuracy", "--trainer.callbacks.mode=min")
    marked = []
    for name, more in (("own", ()), ("both", ("--trainer.callbacks", *theirs, "--trainer.callbacks.filename=worst"))):
        options = ("--trainer.enable_progress_bar=true", "--max_epochs=3", "--model.lr=1e-4")
        command_line(dataset, tmp_path / name, *options, *more).fit()
        lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch")]
        marked.append([line.endswith("  best") for line in lines])
    assert marked[0] == marked[1]
    assert sum(marked[0]) > 1  # or the worst so far could pass for the best


def test_a_batch_norm_that_gets_one_image_is_a_line(tmp_path):
    folder = write_dataset(tmp_path / "small", train=65, test=10)
    for name in FILES[::2]:
        write_idx(folder / name, read_idx(folder / name)[:, :16, :16])  # convnet leaves one pixel of such images
    cli = command_line(folder, tmp_path, "--model.net=convnet", "--data.val_size=0", "--max_epochs=1")
    with pytest.raises(UserError, match=r"two images or more in a batch, for batch norm; change --data\.batch_size"):
        cli.fit()


def test_an_epoch_that_was_not_validated_says_nothing_of_validation(dataset, tmp_path, capsys):
    options = ("--trainer.enable_progress_bar=true", "--trainer.check_val_every_n_epoch=2", "--max_epochs=3")
    command_line(dataset, tmp_path, *options).fit()
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch")]
    assert ["val loss" in line for line in lines] == [False, True, False]


def test_a_resumed_run_marks_what_is_better_than_before(dataset, tmp_path, capsys):
    run = tmp_path / "run"
    for epochs in (1, 3):
        cli = command_line(dataset, tmp_path, "--trainer.enable_progress_bar=true", "--model.lr=1e-9")
        cli.trainer.fit_loop.max_epochs = epochs
        cli.fit(run)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch")]
    reached = [float(line.split("%  val")[1].split("acc ")[1].split("%")[0]) for line in lines]
    best = [accuracy > max([0, *reached[:number]]) for number, accuracy in enumerate(reached)]
    assert [line.endswith("  best") for line in lines] == best == [True, False, False]


def test_a_run_has_the_name_it_was_given_and_another_cannot_take_it(dataset, tmp_path):
    for _ in range(2):
        cli = command_line(dataset, tmp_path, "--name=wide net", "--max_epochs=1", "--ckpt_path=last")
        cli.fit()  # the second finds the first
    assert [path.name for path in (tmp_path / "lightning_logs").iterdir()] == ["wide net"]
    with pytest.raises(UserError, match=r"wide net: expected a new name .* --ckpt_path last"):
        command_line(dataset, tmp_path, "--name=wide net", "--max_epochs=1").fit()
    with pytest.raises(UserError, match="without slashes, got 'a/b'"):
        command_line(dataset, tmp_path, "--name=a/b", "--max_epochs=1").fit()


@pytest.mark.parametrize("decay", ["1", "-0.1"])
def test_an_average_that_cannot_be_is_refused(dataset, tmp_path, decay):
    with pytest.raises(UserError, match="expected --ema_decay to be from 0 to below 1, got"):
        command_line(dataset, tmp_path, f"--ema_decay={decay}")


def test_the_mistakes_of_a_report_are_those_that_were_counted_whatever_the_precision(dataset):
    torch.manual_seed(0)
    model, data = MNISTClassifier(), MNISTDataModule(str(dataset), eval_batch_size=30)
    last = model.net[-1]  # whose first two answers are so close together that rounding decides
    last.bias.data[:2] = 10
    last.weight.data[1] = last.weight[0].detach() + 1e-4 * torch.randn(128)
    tested = evaluate(quiet_trainer(precision="bf16-mixed"), model, data)
    answers, labels = tested["probabilities"].argmax(1), data.test_set.tensors[1]
    assert (tested["probabilities"].shape, tested["probabilities"].dtype) == ((100, 10), torch.float32)
    assert (answers == labels).float().mean() == tested["accuracy"]
    assert torch.equal(torch.bincount(labels * 10 + answers, minlength=100).view(10, 10), tested["confusion_matrix"])
    again = model.predict(data.test_set.tensors[0].numpy())[0]
    assert (again != answers.numpy()).any()


class Prints(L.Callback):
    works_with_chunks = True

    def on_train_epoch_end(self, *_):
        print("MINE")


def test_what_a_callback_prints_at_an_epochs_end_does_not_stick_to_the_bar(dataset, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    cli = command_line(dataset, tmp_path, "--trainer.enable_progress_bar=true", "--max_epochs=1")
    cli.trainer.callbacks.insert(0, Prints())
    cli.fit()
    printed = capsys.readouterr().out
    assert "epoch  1/1 |" in printed
    assert re.search(r"\r +\rMINE\n", printed)
