"""The command line: options that cannot be are refused by their names, in a line, and leave nothing."""

import json
import warnings

import pytest
import torch
from helpers import quiet_trainer
from jsonargparse._util import JsonargparseWarning
from lightning.pytorch.callbacks import Callback, LambdaCallback

from mnist_lightning.checkpoints.read import load_classifier
from mnist_lightning.data.datamodule import MNISTDataModule
from mnist_lightning.errors import UserError
from mnist_lightning.model.classifier import MNISTClassifier
from mnist_lightning.training.cli import MNISTCLI
from mnist_lightning.training.run_folder import LAST

BAD_OPTIONS = [
    (["--ckpt_path", "last", "--trainer.logger", "false"], ["expected a checkpoint's file", "got last"]),
    (["--model.hiden", "[3]"], ["did you mean --model.hidden?"]),
    (["--lr", "0.01"], ["--lr 0.01; did you mean --model.lr?"]),
    (["configs/lenet5.yaml"], ["did you mean --config configs/lenet5.yaml?"]),
    (["--trainer.callbacks=EarlyStopping"], ["expected --trainer.callbacks.monitor, which the class needs, got none"]),
    (
        ["--trainer.callbacks=Erly"],
        ["--trainer.callbacks: expected a class, by its name or its import path, got Erly; name one"],
    ),
    (["--trainer.callbacks=Timer", "--trainer.callbacks.foo=3"], ["--trainer.callbacks.foo: expected an arg", "got 3"]),
    (["--trainer.callbacks=RichProgressBar", "--trainer.callbacks.leave=x"], [".leave: expected bool, got x"]),
    (
        ["--trainer.callbacks=EarlyStopping", "--trainer.callbacks.monitor=val_loss"],
        ["got val_loss; did you mean val/loss?"],
    ),
    (
        ["--trainer.callbacks=ModelCheckpoint", "--trainer.callbacks.monitor=val_acc"],
        ["got val_acc; did you mean val/accuracy?"],
    ),
    (
        ["--trainer.callbacks=ModelCheckpoint", "--trainer.callbacks.filename=best"],
        ["beside the run's own best.ckpt and last.ckpt, got filename best; leave it out"],
    ),
    (["--trainer.callbacks=ModelCheckpoint", "--trainer.callbacks.save_last=true"], ["got save_last; leave it out"]),
    (["--trainer.callbacks=EarlyStoping"], ["got EarlyStoping; did you mean EarlyStopping?"]),
    (["--trainer.logger=lightning.pytorch.loggers.WandLogger"], ["did you mean WandbLogger?"]),
    (
        ["--trainer.callbacks=no_such.Callback"],
        ["got no_such.Callback (No module named 'no_such'); put PYTHONPATH=ITS_FOLDER before the command"],
    ),
    (["--trainer.callbacks=mine.Printer"], ["got mine.Printer (No module named 'mine'); put PYTHONPATH=. before"]),
    (
        ["--trainer.callbacks", "./mine.py"],
        ["--trainer.callbacks: expected a class, got the file ./mine.py", ": mine.CLASS"],
    ),
    (["--trainer.callbacks=/a/folder/mine.py"], ["got the file /a/folder/mine.py; name the class in it: mine.CLASS"]),
    (
        ["--trainer.callbacks=half.A"],
        ["half.A, whose import fails in own/half.py, line 2 (SyntaxError: ", "; mend that"],
    ),
    (["--trainer.callbacks=broken.A"], ["own/broken.py, line 1 (ZeroDivisionError: division by zero); mend that"]),
    (["--trainer.callbacks=broken.A", "--trainer.callbacks+=Timer"], ["own/broken.py, line 1 (ZeroDivisionError"]),
    (["--trainer.callbacks=test_cli.Nope"], ["(module 'test_cli' has no attribute 'Nope'); correct that"]),
    (["--trainer.callbacks=test_cli.MNISTCLI"], ["expected a Callback, got test_cli.MNISTCLI, which is none; name a"]),
    (["--trainer.logger=Logger"], ["expected a class that can be made, got Logger, which is abstract", "CSVLogger"]),
    (["--trainer.logger=MyLogger"], ["got MyLogger; name one of your own with its module: MODULE.MyLogger"]),
    (["--model", "convnet"], ["unrecognized arguments: --model convnet; did you mean --model.net?"]),
    (["--data", "digits"], ["did you mean --data.data_dir?"]),
    (["--checkpoint", "last.ckpt"], ["did you mean --ckpt_path?"]),
    (["--plots", "5"], ["did you mean --plots.every_n_epochs?"]),
    (["--trainer", "5"], ["unrecognized arguments: --trainer 5; see --help"]),
    (["--trainer.callbacks=test_cli.Silent"], ["test_cli.Silent cannot be made (it does not say why); see its manual"]),
    (["--trainer.callbacks=test_cli.Saying"], ["test_cli.Saying cannot be made (the moon is not up); see its manual"]),
    (["--model.hidden", "3"], ["--model.hidden: expected a list: [3], got 3"]),
    (["--model.hidden", "256,128"], ["--model.hidden: expected a list: [256,128], got 256,128"]),
    (["--model.hidden", "wide"], ["--model.hidden", "a list such as [256,128]", "got wide"]),
    (["--model.hidden", "[100000000000]"], ["expected a net that fits into memory", "lower --model.hidden"]),
    (["--model.net=small", "--model.dropout=0.2"], ["--model.dropout to be 0 without --model.hidden layers, got 0.2"]),
    (["--model.nesterov=true"], ["expected --model.nesterov to be false without --model.optimizer sgd, got True"]),
    (["--model.warmup_epochs=2"], ["expected --model.warmup_epochs to be 0 without --model.scheduler cosine, got 2"]),
    (["--model.activation", "swish"], ["expected one of relu, sigmoid, tanh, gelu, got swish"]),
    (["--model.lr", "fast"], ["--model.lr", "expected float, got fast"]),
    (["--model.lr", "-1"], ["expected lr to be above 0, got -1.0"]),
    (["--data.batch_size", "0"], ["expected batch_size to be at least 1, got 0"]),
    (["--data.val_size", "600"], ["600 of 600"]),
    (["--data.val_size", "1.5"], ["val_size", "1.5"]),
    (["--data.val_size", ".nan"], ["expected val_size to be a count or a fraction from 0 to below 1, got nan"]),
    (["--early_stopping.min_delta=1"], ["expected --early_stopping.min_delta to be 0 without --early_stopping.pat"]),
    (
        ["--early_stopping.patience=1", "--data.val_size=0"],
        ["expected validation images for EarlyStopping on val/loss"],
    ),
    (["--name=it", "--trainer.logger=false"], ["expected --name to be unset, as --trainer.logger false makes no"]),
    (["--find_lr", "--ckpt_path=last"], ["expected --ckpt_path to be unset, as --find_lr begins at the start, got"]),
    (["--trainer.max_epochs", "x"], ["--trainer.max_epochs", "got x"]),
    (["--trainer.precision=fp16"], ["transformer-engine-float16, 16-mixed, bf16-true", "bf16, got fp16; see --help"]),
    (["--trainer.fast_dev_run"], ["--trainer.fast_dev_run: expected a value, such as true, got none"]),
    (["--max_epochs"], ["--max_epochs: expected a value, got none; see --help"]),
    (["--max_epoch=3"], ["--max_epoch=3; did you mean --max_epochs?"]),
    (["--trainer.max_epoch", "3"], ["--trainer.max_epoch 3; did you mean --trainer.max_epochs?"]),
    (["--seed", "1"], ["--seed 1; did you mean --seed_everything?"]),
    (["--early_stopping", "5"], ["--early_stopping 5; did you mean --early_stopping.patience?"]),
    (["--num_workers", "4"], ["--num_workers 4; leave it out: the images are in memory"]),
    (["--data.pin-memory=true"], ["--data.pin-memory=true; leave it out: the images are in memory"]),
    (["--trainer.precision", "16-true"], ["expected --trainer.precision", "got 16-true; 16-mixed and bf16-true do"]),
    (["--trainer.accelerator", "abacus"], ["abacus", "cpu"]),
    (["--trainer.limit_test_batches", "0"], ["expected --trainer.limit_test_batches to be unset, got 0"]),
    (["--max_epochs", "0"], ["expected --trainer.max_epochs to be above 0, got 0; use scripts/test.py"]),
    (["--trainer.max_steps", "0"], ["expected --trainer.max_steps to be above 0, got 0; use scripts/test.py"]),
    (
        ["--trainer.limit_train_batches", "0.0"],
        ["--trainer.limit_train_batches to be above 0, got 0.0; use scripts/te"],
    ),
    (
        ["--trainer.accumulate_grad_batches", "0"],
        ["expected --trainer.accumulate_grad_batches to be at least 1, got 0"],
    ),
    (["--trainer.check_val_every_n_epoch", "0"], ["expected --trainer.check_val_every_n_epoch to be above 0, got 0"]),
    (["--trainer.val_check_interval", "0"], ["expected --trainer.val_check_interval to be above 0, got 0"]),
    (["--devices", "-1", "--accelerator", "cpu"], ["the Trainer refuses these options", "should be an int > 0"]),
    (["--trainer.strategy=ddp_spawn", "--accelerator=cpu"], ["expected --trainer.strategy ddp", "got ddp_spawn"]),
    (["--trainer.strategy=ddp_notebook", "--accelerator=cpu"], ["expected --trainer.strategy ddp", "got ddp_notebook"]),
    (["--data.data_dir", "d\udcff"], ["expected a name in UTF-8, got 'd\\udcff'"]),
    (["--seed_everything", "-1"], ["--seed_everything: expected from 0 to below 4294967296, got -1"]),
    (["--config", "none.yaml"], ["--config", "none.yaml"]),
    (["--config", "notes.md"], ["notes.md: expected options in YAML, but line 2 is none: while scanning an alias"]),
    (["--config", "words.txt"], ["words.txt: expected options in YAML, got something else"]),
    (["--config", "bytes"], ["bytes: 'utf-8' codec can't decode"]),
    (["--config", "."], ["--config: expected a file, such as", "/config.yaml, got a folder"]),
    (["--name="], ["expected a name for the run's folder", "got ''; change --name"]),
    (["--ckpt_path", "none.ckpt"], ["no such file", "none.ckpt"]),
    (
        ["--data.data_dir", "none"],
        ["none", "no such folder", "give as data_dir a folder with the four IDX files"],
    ),
    (["--data.source", "cloud"], ["auto, files, download, sample", "got cloud"]),
    (["--model.loss", "hinge"], ["--model.loss: expected one of cross_entropy, mse, got hinge"]),
    (["--model.net", "resnet"], ["--model.net: expected one of simple, lenet5, convnet, small, got resnet"]),
    (["--model.scheduler", "warm"], ["--model.scheduler: expected one of step, ", "onecycle, none, got warm"]),
    (["--model.channels", "[4]"], ["expected no channels for simple, ", "leave out --model.channels"]),
    (["--model.net=convnet", "--model.channels=4"], ["--model.channels: expected a list: [4], got 4"]),
    (["--model.loss", "mse", "--model.label_smoothing", "0.1"], ["--model.label_smoothing"]),
    (["--data.permute_pixels=true", "--data.rotation=5"], ["expected no distortions", "--data.permute_pixels"]),
    (
        ["--data.permute_pixels=true", "--model.net=lenet5"],
        ["expected net to be simple, for permuted pixels, got lenet5"],
    ),
    (["--data.permute_pixels=true", "--model.deslant=true"], ["expected deslant to be false, for permuted pixels"]),
    (["--model.permute_pixels=true"], ["must be given via", "data.permute_pixels"]),
    (["--data.elastic=-1"], ["expected elastic to be from 0 to 28, got -1.0; change --data.elastic"]),
    (["--data.folds=1", "--data.fold=0"], ["expected 2 folds or more, and a fold from 0 to below that, got 1 and 0"]),
    (["--data.folds=3", "--data.fold=3"], ["got 3 and 3"]),
    (["--data.folds=3"], ["got 3 and None; give both, such as --data.folds 5 --data.fold 0"]),
    (["--model.dropout=1"], ["expected dropout to be from 0 to below 1, got 1.0; change --model.dropout"]),
    (["--data.fold=1"], ["got None and 1"]),
    (["--data.folds=601", "--data.fold=600"], ["expected no more folds than the 600 training images, got 601"]),
    (["--model.classes=[a,b]"], ["expected no --model.classes, which is as the data is; leave it out"]),
    (["--data.shift", "nan"], ["--data.shift"]),
    (["--steps_per_execution", "0"], ["expected steps_per_execution to be auto or at least 1, got 0"]),
    (["--steps_per_execution", "many"], ["--steps_per_execution: expected number or auto, got many"]),
    (["--steps_per_execution=8", "--trainer.max_steps=9"], ["auto or 1, as max_steps counts batches; got 8"]),
    (["--steps_per_execution=8", "--trainer.fast_dev_run=3"], ["as fast_dev_run counts batches; got 8"]),
    (["--steps_per_execution=8", "--trainer.overfit_batches=3"], ["as overfit_batches counts batches; got 8"]),
    (["--model.width", "4"], ["--model.width", "did you mean --model.ink_width?"]),
    (["--pictures.every_n_epochs", "4"], ["did you mean --plots.every_n_epochs?"]),
    (["--model.gradient_clip_val", "4"], ["did you mean --trainer.gradient_clip_val?"]),
    (["--model.steps_per_execution", "4"], ["did you mean --steps_per_execution?"]),
    (["--config", "width.yaml"], ["'width'", "did you mean model.ink_width?"]),
    (["--config", "pictures.yaml"], ["pictures.every_n_epochs", "did you mean plots.every_n_epochs?"]),
]
if not torch.cuda.is_available():
    BAD_OPTIONS += [
        (["--accelerator", name], ["expected a GPU", "--accelerator cpu or auto"]) for name in ("gpu", "cuda")
    ]


class Silent(Callback):
    def __init__(self):
        raise AssertionError


class Saying(Callback):
    def __init__(self, phase: str = "new"):
        raise ValueError("the moon is not up")


@pytest.mark.parametrize(("options", "words"), BAD_OPTIONS, ids=lambda value: " ".join(value)[:40])
def test_options_that_cannot_be_are_refused_by_their_names_and_leave_nothing(
    dataset, tmp_path, monkeypatch, options, words
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").touch()
    (tmp_path / "own").mkdir()
    (tmp_path / "own/half.py").write_text("import sys\nclass A(:")
    (tmp_path / "own/broken.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path / "own")
    (tmp_path / "width.yaml").write_text("model: {width: 3.0}")
    (tmp_path / "pictures.yaml").write_text("pictures: {every_n_epochs: 3}")
    (tmp_path / "notes.md").write_text("# Notes\n**Not YAML**")
    (tmp_path / "words.txt").write_text("not YAML either")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError) as error:
        MNISTCLI([f"--data.data_dir={dataset}", *options]).fit()
    message = " ".join(str(error.value).split())  # as scripts print it
    for word in words:
        assert word in message
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--trainer.callbacks=EarlyStopping", "--trainer.callbacks.monitor=top5"], "`top5` which is not"),
        (["--trainer.val_check_interval=5000"], "less than or equal to the number of the training batches"),
    ],
)
def test_what_lightning_says_of_an_option_only_when_it_trains_is_a_line_too(
    dataset, tmp_path, monkeypatch, options, words
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=words):
        MNISTCLI([f"--data.data_dir={dataset}", "--accelerator=cpu", "--max_epochs=1", *options]).fit()


def test_a_mistake_of_a_users_callback_keeps_its_traceback(dataset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cli = MNISTCLI([f"--data.data_dir={dataset}", "--accelerator=cpu", "--max_epochs=1"])
    cli.trainer.callbacks.append(LambdaCallback(on_train_start=lambda *_: int("x")))
    with pytest.raises(ValueError, match="invalid literal") as error:
        cli.fit()
    assert not isinstance(error.value, UserError)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB."),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.\nMore"),
    ],
    ids=["GPU", "CPU"],
)
def test_no_memory_to_train_in_is_a_line_that_says_what_to_lower(dataset, tmp_path, monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.chdir(tmp_path)
    cli = MNISTCLI([f"--data.data_dir={dataset}", "--accelerator=cpu", "--max_epochs=1"])
    cli.trainer.callbacks.append(LambdaCallback(on_train_epoch_end=fail))
    with pytest.raises(UserError, match=r"enough memory to train \(.* allocate 9 \w+\.\); lower --data\.batch_size"):
        cli.fit()


def test_what_was_not_trained_can_be_tested_too(dataset):
    tested = MNISTCLI([f"--data.data_dir={dataset}", "--accelerator=cpu"]).test()
    assert tested["confusion_matrix"].sum() == 100
    assert tested["accuracy"] < 0.5


def test_a_run_with_a_name_is_repeated_from_its_config_in_a_folder_of_its_own(dataset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    MNISTCLI([f"--data.data_dir={dataset}", "--accelerator=cpu", "--max_epochs=1", "--name=wide"]).fit()
    MNISTCLI(["--config=lightning_logs/wide/config.yaml"]).fit()
    assert sorted(path.name for path in (tmp_path / "lightning_logs").iterdir()) == ["version_0", "wide"]


@pytest.mark.parametrize(
    "callback",
    [
        ["--trainer.callbacks=StochasticWeightAveraging", "--trainer.callbacks.swa_lrs=0.01"],
        ["--trainer.callbacks=Timer", "--trainer.callbacks.duration=00:01:00:00"],
    ],
    ids=["a device", "an enum"],
)
def test_a_run_with_a_callback_that_has_more_than_numbers_is_repeated_from_its_config(
    dataset, tmp_path, monkeypatch, callback
):
    monkeypatch.chdir(tmp_path)
    options = ["--max_epochs=2", *callback]
    with warnings.catch_warnings(action="error", category=JsonargparseWarning):
        MNISTCLI([f"--data.data_dir={dataset}", "--accelerator=cpu", *options]).fit()
        MNISTCLI(["--config=lightning_logs/version_0/config.yaml"]).fit()
    first, second = (
        torch.load(path, weights_only=True)["state_dict"]
        for path in tmp_path.glob("lightning_logs/*/checkpoints/last.ckpt")
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("callback", "where"),
    [
        (["--trainer.callbacks.filename={epoch}-{val/loss:.1f}"], "lightning_logs/version_0/checkpoints"),
        (["--trainer.callbacks.dirpath=a/b", "--trainer.callbacks.filename=best"], "a/b"),
    ],
)
def test_a_checkpoint_of_the_users_is_where_it_was_asked_for(dataset, tmp_path, monkeypatch, callback, where):
    monkeypatch.chdir(tmp_path)
    options = ["--max_epochs=1", "--trainer.callbacks=ModelCheckpoint", "--trainer.callbacks.monitor=val/loss"]
    MNISTCLI([f"--data.data_dir={dataset}", "--accelerator=cpu", *options, *callback]).fit()
    kept = {path.parent.name for path in (tmp_path / where).rglob("*.ckpt") if path.name != "last.ckpt"}
    assert kept == ({"b"} if where == "a/b" else {"checkpoints", "epoch=0-val"})


def test_a_run_killed_between_its_last_state_and_its_last_record_is_finished_when_it_is_resumed(
    dataset, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    options = [f"--data.data_dir={dataset}", "--accelerator=cpu", "--max_epochs=2"]
    MNISTCLI(options).fit()
    record = tmp_path / "lightning_logs" / "version_0" / "training.json"
    whole = json.loads(record.read_text())
    record.write_text(json.dumps(whole | {"finished": False, "epochs": 1, "optimizer_steps": 9, "history": {}}))
    MNISTCLI([*options, "--ckpt_path=last"]).fit()
    again = json.loads(record.read_text())
    assert {**again, "seconds": 0} == {**whole, "seconds": 0}


def test_permuted_pixels_are_the_checkpoints_own(dataset, tmp_path):
    run, options = tmp_path / "run", [f"--data.data_dir={dataset}", "--accelerator=cpu", "--max_epochs=3"]
    cli = MNISTCLI([*options, "--data.permute_pixels=true", "--data.val_size=0"])
    cli.fit(run)
    accuracy = cli.test()["accuracy"]
    assert accuracy > 0.5
    images, labels = (tensor.numpy() for tensor in cli.datamodule.test_set.tensors)
    model = load_classifier(run / LAST)
    assert (model.predict(images)[0] == labels).mean() == pytest.approx(accuracy.item())
    assert MNISTCLI(["--config", str(run / "config.yaml")]).model.hparams.permute_pixels


def test_data_of_permuted_pixels_does_not_train_a_net_that_sees_them_in_order(dataset):
    with pytest.raises(UserError, match="expected permute_pixels=True, as the data's, got False of the net"):
        quiet_trainer().fit(MNISTClassifier(), MNISTDataModule(str(dataset), permute_pixels=True))
