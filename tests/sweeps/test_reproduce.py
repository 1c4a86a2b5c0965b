"""The table of published results: its figures are those of its runs, and what it was stopped in is resumed."""

import json
import math
import runpy
import shutil
import signal
import statistics
import time
from pathlib import Path
from subprocess import CompletedProcess

import helpers
import numpy as np
import pytest
import torch
from helpers import ROOT, Script, run_script, write_dataset

from mnist_lightning.checkpoints.read import load_classifier, load_ensemble, read_checkpoint
from mnist_lightning.data.format import FILES
from mnist_lightning.data.idx import read_idx, write_idx
from mnist_lightning.sweeps import study as store

REPRODUCE = runpy.run_path(str(ROOT / "scripts" / "reproduce.py"))
KEYS = ["config", "published_error", "error_mean", "error_std", "seeds", "parameters", "epochs", "seconds", "source"]
KEYS += ["error_interval"]
LAST = "checkpoints/last.ckpt"


def hard(folder, train):
    """A dataset whose test images are two digits laid over each other, so that each net errs in its own way."""
    write_dataset(folder, train=train, test=1000)
    images = read_idx(folder / FILES[2])
    write_idx(folder / FILES[2], images // 2 + np.roll(images, 1, axis=0) // 2)
    return folder


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """5,120 images to train on, so that a run of the fastest row can be stopped in the middle."""
    return hard(tmp_path_factory.mktemp("hard") / "digits", 5_120)


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    return hard(tmp_path_factory.mktemp("hard") / "few", 100)


@pytest.fixture(scope="module")
def done(digits, tmp_path_factory):
    """The folder in which one row was reproduced with two seeds, and what was printed."""
    cwd = tmp_path_factory.mktemp("done")
    return cwd, ok(reproduce("linear", "--seeds", 2, "--data_dir", digits, cwd=cwd))


def reproduce(*options, cwd):
    return run_script("reproduce.py", *options, "--output", "out", cwd=cwd)


def ok(result):
    """What it printed; its bars go to standard error."""
    assert (result.returncode, "Traceback" in result.stderr) == (0, False), result.stderr
    return result.stdout


def refused(result, *words):
    """Nothing but a line that says what is wrong (and the bar of a row that was begun)."""
    *bars, line = result.stderr.splitlines()
    assert all("epochs" in bar for bar in bars if bar)
    helpers.refused(CompletedProcess(result.args, result.returncode, result.stdout, line), *words)


def rows(cwd):
    return {row["config"]: row for row in json.loads((cwd / "out" / "results.json").read_text())}


def weights(run):
    return torch.load(run / LAST, weights_only=True)["state_dict"]


@torch.inference_mode()
def error(model, data):
    """The share of test images, in percent, that a model gets wrong: by hand."""
    images, labels = (torch.from_numpy(read_idx(data / name)) for name in FILES[2:])
    return 100 * (model.eval()(images.unsqueeze(1) / 255).argmax(1) != labels).double().mean().item()


def wilson(share, count, z=1.96):
    """The ends, in percent, of Wilson's interval: the shares from which what was counted is z deviations off."""
    middle, square = share + z**2 / (2 * count), z**2 / count
    half = z * math.sqrt(share * (1 - share) / count + square / (4 * count))
    return [100 * (middle + sign * half) / (1 + square) for sign in (-1, 1)]


def test_a_row_is_what_its_runs_reached(done, digits):
    cwd, out = done
    (row,) = rows(cwd).values()
    assert list(row) == KEYS
    runs = [cwd / "out" / "linear" / f"seed_{seed}" for seed in range(2)]
    errors = [error(load_classifier(run / LAST), digits) for run in runs]
    assert min(errors) > 0
    assert row["error_mean"] == pytest.approx(statistics.mean(errors), abs=1e-3)
    assert row["error_std"] == pytest.approx(statistics.stdev(errors), abs=1e-3)
    assert (row["config"], row["published_error"], row["source"]) == ("linear", 12.0, "LeCun et al. 1998")
    assert (row["seeds"], row["parameters"], row["epochs"]) == (2, 7_850, 10)
    assert row["seconds"] >= 0
    low, high = row["error_interval"]  # of 1,000 images
    assert (low, high) == pytest.approx(wilson(row["error_mean"] / 100, 1000), abs=0.06)  # half an image is 0.05
    table = (cwd / "out" / "results.md").read_text()
    assert (
        f"| 12.00% | LeCun et al. 1998 | **{row['error_mean']:.2f}%** ± {row['error_std']:.2f} "
        f"| {low:.2f} to {high:.2f} | 2 | 7,850 |"
    ) in table
    assert out.startswith(table)


def test_the_seeds_are_the_runs_seeds(done):
    cwd, _ = done
    runs = [cwd / "out" / "linear" / f"seed_{seed}" for seed in range(2)]
    assert [json.loads((run / "environment.json").read_text())["seed"] for run in runs] == [0, 1]
    first, second = map(weights, runs)
    assert not torch.equal(first["net.1.weight"], second["net.1.weight"])


def test_a_second_call_trains_nothing_and_says_the_same(done, digits):
    cwd, out = done
    files = [path for path in (cwd / "out" / "linear").rglob("*") if path.is_file()]
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files}
    assert any(path.name == "last.ckpt" for path in files)
    table = (cwd / "out" / "results.json").read_text()
    assert ok(reproduce("linear", "--seeds", 2, "--data_dir", digits, cwd=cwd)) == out
    assert (cwd / "out" / "results.json").read_text() == table
    assert {path for path in (cwd / "out" / "linear").rglob("*") if path.is_file()} == set(files)
    assert before == {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def test_what_was_stopped_while_it_trained_is_resumed_and_ends_the_same(done, digits, tmp_path):
    options = ("linear", "--seeds", "2", "--data_dir", digits)
    script = Script("reproduce.py", *options, "--output", "out", cwd=tmp_path)
    run = tmp_path / "out" / "linear" / "seed_0"
    while not (run / LAST).exists() and script.exit_code is None:  # its first epoch is over
        time.sleep(0.001)
    result = script.send_signal(signal.SIGTERM).result()
    assert result.returncode == 143, result.stderr
    assert "Traceback" not in result.stderr
    assert 0 < torch.load(run / LAST, weights_only=True)["global_step"] < 400
    assert not (tmp_path / "out" / "results.json").exists()
    ok(reproduce(*options, cwd=tmp_path))
    cwd, _ = done
    for seed in range(2):
        first, second = (weights(folder / "out" / "linear" / f"seed_{seed}") for folder in (cwd, tmp_path))
        assert first.keys() == second.keys()
        assert all(torch.equal(first[name], second[name]) for name in first)
    whole, stopped = ({**rows(folder)["linear"], "seconds": None} for folder in (cwd, tmp_path))
    assert whole == stopped


def test_a_run_that_left_no_state_begins_anew(few, tmp_path):
    (tmp_path / "out" / "linear" / "seed_0").mkdir(parents=True)
    ok(reproduce("linear", "--seeds", 1, "--data_dir", few, cwd=tmp_path))
    row = rows(tmp_path)["linear"]
    assert (row["seeds"], row["error_std"]) == (1, None)
    assert " ± " not in (tmp_path / "out" / "results.md").read_text()


def test_an_ensembles_row_is_the_error_of_all_together_and_the_rows_before_stay_in_order(done, few, tmp_path):
    shutil.copytree(done[0] / "out", tmp_path / "out")
    before = rows(tmp_path)
    later = {**before["linear"], "config": "convnet_fast"}  # as if another row had been reproduced too
    interval = later.pop("error_interval")  # by an earlier version, which wrote none, and knew MNIST alone
    (tmp_path / "out" / "results.json").write_text(json.dumps([*before.values(), later]))
    for part in ("scripts/reproduce.py", "configs/mlp_800_ensemble.yaml"):  # of 3 epochs
        (tmp_path / part).parent.mkdir()
        (tmp_path / part).write_text((ROOT / part).read_text().replace("max_epochs: 150", "max_epochs: 3"))
    script = tmp_path / "scripts/reproduce.py"
    options = ("mlp_800_ensemble", "--seeds", 2, "--data_dir", few, "--output", "out")
    out = ok(run_script(script, *options, cwd=tmp_path))
    results = rows(tmp_path)
    assert list(results) == ["linear", "mlp_800_ensemble", "convnet_fast"]
    low, high = results["convnet_fast"].pop("error_interval")
    assert interval[0] < low < later["error_mean"] < high < interval[1]
    assert (results["linear"], results["convnet_fast"]) == (before["linear"], later)
    results["convnet_fast"]["error_interval"] = [low, high]
    row = results["mlp_800_ensemble"]
    checkpoints = [tmp_path / "out" / "mlp_800_ensemble" / f"seed_{seed}" / LAST for seed in range(2)]
    assert row["error_mean"] == pytest.approx(
        error(load_ensemble(list(map(read_checkpoint, checkpoints))), few), abs=1e-3
    )
    assert (row["error_std"], row["seeds"], row["parameters"], row["epochs"]) == (None, 2, 636_010, 3)
    first, second = (load_classifier(path).hparams for path in checkpoints)
    assert (first.deslant, first.ink_width, second.deslant, second.ink_width) == (False, 0, True, 4)
    table = (tmp_path / "out" / "results.md").read_text()
    assert table == REPRODUCE["table"](list(results.values())) + "\n"
    assert out.startswith(table)


def test_an_ensemble_of_another_rows_runs_trains_none(done, digits, tmp_path, monkeypatch):
    shutil.copytree(done[0] / "out", tmp_path / "out")
    monkeypatch.chdir(tmp_path)
    runs = {path: path.read_bytes() for path in (tmp_path / "out").glob("linear/seed_*/**/*") if path.is_file()}
    row = REPRODUCE["Row"]("together", 5.0, "somebody", of="linear")
    found = REPRODUCE["reproduce"](row, 2, str(digits), Path("out"), 1)
    assert list(found) == KEYS
    members = load_ensemble([read_checkpoint(Path(f"out/linear/seed_{seed}") / LAST) for seed in range(2)])
    assert found["error_mean"] == pytest.approx(error(members, digits), abs=1e-3)
    assert found["error_mean"] != rows(tmp_path)["linear"]["error_mean"]
    assert (found["config"], found["error_std"], found["seeds"], found["epochs"]) == ("together", None, 2, 10)
    assert runs == {path: path.read_bytes() for path in (tmp_path / "out").glob("linear/**/*") if path.is_file()}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["linear", "lenet6"], ["got lenet6", *(row.config for row in REPRODUCE["ROWS"])]),
        (["linear", "--seeds", "0"], ["expected --seeds to be at least 1, got 0"]),
    ],
    ids=["row", "seeds"],
)
def test_options_that_cannot_be_end_in_a_line_and_leave_nothing(tmp_path, options, words):
    result = reproduce(*options, cwd=tmp_path)
    refused(result, *words)
    assert len(result.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_a_run_with_other_settings_is_refused_and_left_alone(done, few):
    cwd, _ = done
    before = {path: path.read_bytes() for path in cwd.rglob("*") if path.is_file()}
    refused(reproduce("linear", "--seeds", 1, "--data_dir", few, cwd=cwd), "out/linear/seed_0", "settings", "--output")
    assert before == {path: path.read_bytes() for path in cwd.rglob("*") if path.is_file()}


def test_a_run_that_failed_is_tried_again_without_the_study_and_what_is_trained_stays(few, tmp_path):
    damaged = tmp_path / "out/linear/seed_1" / LAST
    damaged.parent.mkdir(parents=True)
    damaged.write_text("not a checkpoint")
    asked = ("linear", "--seeds", 2, "--data_dir", few)
    for _ in range(2):
        said = reproduce(*asked, cwd=tmp_path).stderr.splitlines()[-1]
        assert said.startswith("error: linear/seed_1 failed: ")
        assert said.endswith("; to try it again, move out/study.db away: what is trained stays")
    trained = (tmp_path / "out/linear/seed_0" / LAST).stat().st_mtime_ns
    shutil.rmtree(damaged.parents[1])
    (tmp_path / "out/study.db").unlink()
    ok(reproduce(*asked, cwd=tmp_path))
    assert rows(tmp_path)["linear"]["seeds"] == 2
    assert (tmp_path / "out/linear/seed_0" / LAST).stat().st_mtime_ns == trained


def test_a_row_whose_configuration_was_changed_since_is_refused(done, digits, tmp_path):
    shutil.copytree(done[0] / "out", tmp_path / "out")
    study = store.load(tmp_path / "out", "linear")
    (name,) = (name for name in study.user_attrs["identity"] if name.startswith(store.CONFIG))
    assert name.endswith("configs/linear.yaml")
    study.set_user_attr("identity", study.user_attrs["identity"] | {name: "what it was"})
    again = reproduce("linear", "--seeds", 2, "--data_dir", digits, cwd=tmp_path)
    refused(again, f"with {name} what it was, got ", "give --output")


def test_a_table_that_cannot_be_read_ends_in_a_line(few, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "results.json").write_text('[{"config": "linear", ')
    refused(reproduce("linear", "--seeds", 1, "--data_dir", few, cwd=tmp_path), "results.json")


def test_the_readmes_table_is_that_of_the_results():
    results = json.loads((ROOT / "configs" / "results.json").read_text())
    for row, known in zip(results, REPRODUCE["ROWS"], strict=True):
        assert list(row) == KEYS
        said = (row["config"], row["published_error"], row["source"], row["seeds"])
        assert said == (known.config, known.published, known.source, known.seeds)
        assert row["error_interval"] == pytest.approx(wilson(row["error_mean"] / 100, 10_000), abs=0.011)
    readme = (ROOT / "README.md").read_text()
    shown = readme.split("<!-- results -->")[1].split("<!-- /results -->")[0]
    assert shown.strip() == REPRODUCE["table"](results)
