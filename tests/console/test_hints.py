"""Whoever types another's word for an option, or forgets the checkpoint, is told what to type."""

import os

import pytest

from mnist_lightning.console.hints import lacking, option_meant
from mnist_lightning.training.cli import MNISTCLI

MEANT = {
    "--lr": "--model.lr",
    "--learning_rate": "--model.lr",
    "--learning-rate": "--model.lr",
    "--model.learning_rate": "--model.lr",
    "--epochs": "--max_epochs",
    "--trainer.epochs": "--trainer.max_epochs",
    "--batch": "--data.batch_size",
    "--model.batch_size": "--data.batch_size",
    "--wd": "--model.weight_decay",
    "--optimizer": "--model.optimizer",
    "--layers": "--model.hidden",
    "--hiden": "--model.hidden",
    "--model.hiden": "--model.hidden",
    "--patience": "--early_stopping.patience",
    "--gpus": "--devices",
    "--resume": "--ckpt_path",
    "--seed": "--seed_everything",
    "--early_stopping": "--early_stopping.patience",
    "--dataset": "--data.data_dir",
    "--pictures.every_n_epochs": "--plots.every_n_epochs",
    "--quux": None,
    "configs/lenet5.yaml": "--config configs/lenet5.yaml",
    "run/best.ckpt": "--ckpt_path run/best.ckpt",
    "stray": None,
}


@pytest.fixture(scope="module")
def options():
    return MNISTCLI(["--trainer.logger=false"]).parser._option_string_actions


@pytest.mark.parametrize("given", MEANT)
def test_the_last_part_of_a_name_and_the_fields_words_find_the_option(options, given):
    assert option_meant(given, options) == MEANT[given]


def test_every_word_that_is_a_synonym_finds_an_option(options):
    from mnist_lightning.console.hints import SYNONYMS

    lost = {word for word in SYNONYMS if option_meant(f"--{word}", options) is None}
    assert lost == {"output_dir"}  # of other scripts


def test_a_run_is_named_where_a_config_was_meant(tmp_path, options):
    (tmp_path / "config.yaml").touch()
    assert option_meant(str(tmp_path), options) == f"--config {tmp_path / 'config.yaml'}"


def test_without_a_checkpoint_the_newest_run_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "got none: a run's folder, or one of its checkpoints; to train one: " in lacking(["CKPT"], "test.py")
    for age, name in enumerate(("version_1", "my net", "version_0")):
        path = tmp_path / "lightning_logs" / name / "checkpoints" / "best.ckpt"
        path.parent.mkdir(parents=True)
        path.touch()
        os.utime(path, (age == 1, age == 1))
    assert lacking(["CKPT", "IMAGE"], "predict.py").endswith("predict.py 'lightning_logs/my net' IMAGE")
    assert lacking(["CKPT", "--format FORMAT"], "export.py").endswith(
        "export.py 'lightning_logs/my net' --format FORMAT"
    )
    assert lacking(["IMAGE"], "predict.py") == "expected IMAGE, got none; see --help"
