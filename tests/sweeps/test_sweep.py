"""A sweep: what it trains, that no kill can hurt it, that several processes share it, and what it refuses."""

import contextlib
import html
import json
import os
import random
import re
import shlex
import shutil
import signal
import statistics
import time
from pathlib import Path

import optuna
import pytest
import torch
import yaml
from helpers import ROOT, Script, refused, run_script, write_dataset

from mnist_lightning.checkpoints.runs import RUN_RECORD
from mnist_lightning.errors import UserError
from mnist_lightning.sweeps import compare, page, results, worker
from mnist_lightning.sweeps import study as store
from mnist_lightning.sweeps.space import Sweep
from mnist_lightning.sweeps.study import Plan, Point
from mnist_lightning.training.cli import MNISTCLI
from mnist_lightning.training.run_folder import LAST

FILES = ("results.csv", "results.json", "results.md", "results.html")
GRID = ("--model.lr", "[1e-4,1e-3,1e-2]", "--model.hidden", "[[8],[16],[32]]", "--seeds", "2", "--max_epochs", "2")
MOMENTS = ("", "config.yaml", "training.json", "checkpoints/last.ckpt")  # of a run: what it has just written
SMALL = ("--model.lr", "[1e-3,1e-2]", "--model.hidden", "[16]", "--max_epochs", "2", "--seeds", "2")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """50 images to validate on, so that points differ."""
    return ("--data.data_dir", write_dataset(tmp_path_factory.mktemp("few") / "digits", train=600, test=50))


def sweep(*options, cwd, **more):
    return run_script("sweep.py", *options, "--output", "out", cwd=cwd, **more)


def ok(result):
    """What it printed; its bar, and what a search says of experimental features, go to standard error."""
    assert (result.returncode, "Traceback" in result.stderr) == (0, False), result.stderr
    return result.stdout


def trials(cwd):
    return json.loads((cwd / "out/results.json").read_text())["trials"]


def contents(cwd):
    return {name: (cwd / "out" / name).read_bytes() for name in FILES if (cwd / "out" / name).exists()}


def states(cwd):
    return [
        trial.state.name
        for trial in optuna.load_study(study_name="sweep", storage=f"sqlite:///{cwd}/out/study.db").trials
    ]


def descendants(pid):
    """Processes that a process started, by /proc."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
    found = [child for child, parent in parents.items() if parent == pid]
    return [*found, *(each for child in found for each in descendants(child))]


def start(*options, cwd):
    return Script("sweep.py", *options, "--output", "out", cwd=cwd)


def kill(script):
    """The power goes: the sweep and all it started, at once."""
    for pid in [script.pid, *descendants(script.pid)]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    script.result()


@pytest.fixture(scope="module")
def small(data, tmp_path_factory):
    """Two points with two seeds, and what was printed."""
    cwd = tmp_path_factory.mktemp("small")
    return cwd, ok(sweep(*SMALL, *data, cwd=cwd))


def test_the_table_is_the_mean_of_what_the_runs_reached_on_validation_images(small):
    cwd, out = small
    rows = trials(cwd)
    assert [row["options"] for row in rows] == [{"model.lr": 0.001}, {"model.lr": 0.01}]
    for number, row in enumerate(rows):
        runs = [compare.read(cwd / f"out/trial_{number}/seed_{seed}") for seed in range(2)]
        errors = [100 * (1 - run.figures["val_accuracy"]) for run in runs]
        assert row["error"] == pytest.approx(statistics.mean(errors))
        assert row["error_std"] == pytest.approx(statistics.stdev(errors))
        assert row["loss"] == pytest.approx(statistics.mean(run.figures["val_loss"] for run in runs))
        assert [run.options["seed_everything"] for run in runs] == [0, 1]
        assert {run.options["model.lr"] for run in runs} == {row["options"]["model.lr"]}
        assert {run.figures["test_accuracy"] for run in runs} == {None}  # nobody asked for the test set
    best = min(rows, key=lambda row: (row["error"], row["loss"]))["trial"]
    results = json.loads((cwd / "out/results.json").read_text())
    assert (results["best"], results["test"]) == (best, None)
    table = (cwd / "out/results.md").read_text()
    assert table in out
    assert table.splitlines()[2].split()[1] == str(best)
    assert results["command"].removeprefix("python scripts/train.py") in out
    assert len((cwd / "out/results.csv").read_text().splitlines()) == 1 + 4


def test_its_study_says_what_it_is_to_any_of_optunas_tools(small):
    study = optuna.load_study(study_name="sweep", storage=f"sqlite:///{small[0]}/out/study.db")
    assert (study.direction.name, study.metric_names) == ("MINIMIZE", ["validation error, %"])
    assert study.user_attrs["identity"]["--seeds"] == 2
    for trial, row in zip(study.trials, trials(small[0]), strict=True):
        assert (trial.state.name, trial.params, trial.value) == ("COMPLETE", row["options"], row["error"])
        assert list(trial.intermediate_values) == [0, 1, 2, 3]  # epochs, of one seed and then the other


def test_the_winners_command_trains_that_point(small, data):
    results = json.loads((small[0] / "out/results.json").read_text())
    words = shlex.split(results["command"])
    assert words[:2] == ["python", "scripts/train.py"]
    trained = compare.read(small[0] / f"out/trial_{results['best']}/seed_0")
    config = MNISTCLI(words[2:]).plain_config
    theirs = yaml.safe_load((trained.folder / "config.yaml").read_text())
    for name in ("source", "sha256"):  # where the files were found is written down once they are
        config["data"][name] = theirs["data"][name]
    assert all(config[part] == theirs[part] for part in ("model", "data", "seed_everything"))
    assert config["trainer"]["max_epochs"] == theirs["trainer"]["max_epochs"]


def test_the_page_shows_everything_and_needs_nothing_else(small):
    content = (small[0] / "out/results.html").read_text()
    assert re.findall(r"(?:https?:)?//[a-z]", content) == []
    for heading in ("Each option against", "Spread over seeds", "Which option matters", "All curves", "All points"):
        assert heading in content
    assert content.count("<polyline") == 4 + 1  # a curve for each run, and what joins the learning rate's best


def test_a_grid_of_two_options_has_a_cell_for_each_point_and_the_best_is_strongest():
    space = {"model.lr": [0.1, 0.2], "model.hidden": [[8], [16], [32, 8]]}
    points = [{"model.lr": lr, "model.hidden": hidden} for lr in space["model.lr"] for hidden in space["model.hidden"]]
    rows = [
        {"trial": number, "state": "complete", "options": options, "error": 1.0 + number, "error_std": None}
        for number, options in enumerate(points[:5])  # the last one failed
    ]
    drawn = page.grid_chart(space, rows)
    assert [cell["text"] for cell in drawn["cells"]] == ["1.00", "2.00", "3.00", "4.00", "5.00"]
    assert [cell["dark"] for cell in drawn["cells"]] == sorted({cell["dark"] for cell in drawn["cells"]}, reverse=True)
    assert len({cell["x"] for cell in drawn["cells"]}) == 2
    assert len({cell["y"] for cell in drawn["cells"]}) == 3
    assert [label["text"] for label in drawn["labels"]] == ["hidden", "[8]", "[16]", "[32,8]"]
    assert [name for _, name in drawn["x_ticks"]] == ["0.1", "0.2"]


def test_a_second_call_trains_nothing_and_the_winner_is_tested_once_if_asked(small, data, tmp_path):
    shutil.copytree(small[0] / "out", tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("out/trial_*/*/*")}
    assert ok(sweep(*SMALL, *data, cwd=tmp_path)) == small[1]
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert contents(tmp_path) == contents(small[0])
    out = ok(sweep(*SMALL, *data, "--test_best", "true", cwd=tmp_path))
    results = json.loads((tmp_path / "out/results.json").read_text())
    tested = sorted(tmp_path.glob("out/trial_*/*/test/metrics.json"))
    assert [path.parts[-4] for path in tested] == [f"trial_{results['best']}"] * 2
    errors = [100 * (1 - json.loads(path.read_text())["accuracy"]) for path in tested]
    assert results["test"]["error"] == pytest.approx(statistics.mean(errors))
    assert f"test error of the winner: {statistics.mean(errors):.2f}%" in out
    assert all((path.parent / "report.html").is_file() for path in tested)


def test_another_sweep_in_its_folder_is_refused_with_what_differs(small, data):
    before = contents(small[0])
    refused(sweep(*SMALL, *data, "--seeds", "3", cwd=small[0]), "--seeds 2", "got 3", "--output")
    other = ("--model.lr", "[1e-3,2e-2]", *SMALL[2:])
    refused(sweep(*other, *data, cwd=small[0]), "model.lr [0.001,0.01]", "got [0.001,0.02]")
    refused(sweep(*SMALL, *data, "--model.dropout", "0.1", cwd=small[0]), "model.dropout none", "got 0.1")
    assert contents(small[0]) == before


def test_a_sweep_goes_on_with_its_own_data_alone(small, tmp_path):
    shutil.copytree(small[0] / "out", tmp_path / "out")
    before = contents(tmp_path)
    identity = json.loads(before["results.json"])["sweep"]
    (folder,) = (path for path in [identity["data.data_dir"]])
    known, other = identity["data.sha256"], write_dataset(tmp_path / "digits", train=600, test=50, seed=1)
    assert known == compare.read(tmp_path / "out/trial_0/seed_0").options["data.sha256"]
    kept = shutil.move(folder, tmp_path / "kept")
    try:
        shutil.copytree(other, folder)
        refused(sweep(*SMALL, "--data.data_dir", folder, cwd=tmp_path), f"data.sha256 {known}", "got ", "--output")
        shutil.rmtree(folder)
        refused(sweep(*SMALL, "--data.data_dir", folder, cwd=tmp_path), folder, "there is no such folder")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.move(kept, folder)
    assert contents(tmp_path) == before


def test_a_sweep_of_a_version_that_did_not_know_its_data_is_refused_in_these_words(small, data, tmp_path):
    shutil.copytree(small[0] / "out", tmp_path / "out")
    study = store.load(tmp_path / "out", "sweep")
    identity = {name: value for name, value in study.user_attrs["identity"].items() if name != store.DATA}
    study.set_user_attr("identity", identity)
    refused(sweep(*SMALL, *data, cwd=tmp_path), "an older version", "a new folder with --output")


def test_a_sweep_goes_on_with_its_config_files_as_they_were_alone(data, tmp_path):
    config = tmp_path / "fast.yaml"
    config.write_text("model: {hidden: [8]}\ntrainer: {max_epochs: 1}\n")
    asked = ("--model.lr", "[1e-3]", "--config", "fast.yaml", *data)
    ok(sweep(*asked, cwd=tmp_path))
    before = contents(tmp_path)
    config.write_text("# faster\ntrainer: {max_epochs: 1}\nmodel: {hidden: [8]}\n")
    ok(sweep(*asked, cwd=tmp_path))
    assert contents(tmp_path) == before
    known = json.loads(before["results.json"])["sweep"]["config.sha256 fast.yaml"]
    config.write_text("trainer: {max_epochs: 2}\nmodel: {hidden: [8]}\n")
    refused(sweep(*asked, cwd=tmp_path), f"begun there, with config.sha256 fast.yaml {known}, got ", "give --output")
    assert contents(tmp_path) == before
    study = store.load(tmp_path / "out", "sweep")
    identity = {name: value for name, value in study.user_attrs["identity"].items() if "config.sha256" not in name}
    study.set_user_attr("identity", identity)
    refused(sweep(*asked, cwd=tmp_path), "its --config files", "an older version", "a new folder with --output")


def test_config_files_can_be_swept_and_each_is_known(data, tmp_path):
    for number in (1, 2):
        (tmp_path / f"{number}.yaml").write_text(f"model: {{hidden: [{8 * number}]}}\n")
    swept = Sweep({data[0][2:]: str(data[1])}, {"config": ["1.yaml", "2.yaml"]}, "grid", 0, 1, 0, "median")
    with contextlib.chdir(tmp_path):
        known = worker.data_of(store.plan(swept))
    assert len({known[f"config.sha256 {number}.yaml"] for number in (1, 2)}) == 2


def test_an_argument_of_a_users_class_can_be_swept_and_is_checked():
    stops = {"trainer.callbacks": "EarlyStopping", "trainer.callbacks.monitor": "val/loss"}
    for patience, refusal in (([2, 3], contextlib.nullcontext()), ([2, "x"], pytest.raises(UserError, match="got x"))):
        with refusal:
            worker.check(store.plan(Sweep(stops, {"trainer.callbacks.patience": patience}, "grid", 0, 1, 0, "median")))


def test_the_data_of_a_runs_config_is_found_from_any_folder(small, tmp_path, monkeypatch):
    config = yaml.safe_load((small[0] / "out/trial_0/seed_0/config.yaml").read_text())
    shutil.copytree(config["data"]["data_dir"], tmp_path / "project/digits")
    path = tmp_path / "project/lightning_logs/version_0/config.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(yaml.safe_dump(config | {"data": config["data"] | {"data_dir": "digits"}}))
    monkeypatch.chdir(path.parent)
    swept = Sweep({"config": str(path)}, {"model.lr": [0.1]}, "grid", 0, 1, 0, "median")
    assert worker.data_of(store.plan(swept))[store.DATA] == config["data"]["sha256"]


def test_data_can_be_swept_and_each_is_known(data, tmp_path):
    other = write_dataset(tmp_path / "other", train=600, test=50, seed=1)
    ok(sweep("--data.data_dir", f"[{data[1]},{other}]", "--model.hidden", "[8]", "--max_epochs", "1", cwd=tmp_path))
    identity = json.loads((tmp_path / "out/results.json").read_text())["sweep"]
    known = [identity[f"data.sha256 {folder}"] for folder in (data[1], other)]
    runs = [compare.read(tmp_path / f"out/trial_{number}/seed_0").options["data.sha256"] for number in range(2)]
    assert runs == known
    assert len(set(known)) == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--model.lr", "[1,2]", "--devices", "2", "--trainer.strategy", "ddp"], ["--devices 2", "--jobs"]),
        (["--model.lrr", "[1,2]"], ["--model.lrr", "did you mean --model.lr?"]),
        (["--model.activation", "[relu,gelux]"], ["--model.activation", "gelux"]),
        (["--model.lr", "[1,2]", "--data.val_size", "0"], ["--data.val_size"]),
        (["--model.lr", "[1,2]", "--jobs", "0"], ["--jobs"]),
        (["--model.lr", "[1,2]", "--method", "grit"], ["--method", "grit"]),
        (["nowhere.yaml"], ["cannot use nowhere.yaml: ", "; check that it is there"]),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_cannot_be_swept_is_a_line_and_leaves_nothing(data, tmp_path, options, words):
    refused(sweep(*options, *data, cwd=tmp_path), *words)
    assert list(tmp_path.iterdir()) == []


def test_a_trial_that_fails_is_a_line_of_the_table(data, tmp_path):
    options = ("--model.lr", "[1e-3,1e30]", "--model.hidden", "[[8],[99999999999]]", "--max_epochs", "1")
    out = ok(sweep(*options, *data, cwd=tmp_path))
    fine, huge, lost, both = trials(tmp_path)
    assert [row["state"] for row in (fine, huge, lost, both)] == ["complete", "failed", "failed", "failed"]
    assert "memory" in huge["reason"]
    assert "loss was nan" in lost["reason"]
    for row in (huge, lost):
        assert row["reason"] in out
        assert row["reason"] in html.unescape((tmp_path / "out/results.html").read_text())


def test_runs_whose_end_is_a_number_of_steps_are_repeated_too(data, tmp_path):
    ends = ("--max_epochs=-1", "--trainer.max_steps=12", "--seeds=2")
    ok(sweep(*data, "--model.lr", "[1e-3,1e-2]", "--model.hidden", "[8]", *ends, cwd=tmp_path))
    assert [row["state"] for row in trials(tmp_path)] == ["complete"] * 2


def test_a_test_loss_that_is_no_number_is_a_failure(tmp_path):
    for part in ("test", "checkpoints"):
        (tmp_path / "trial_0/seed_0" / part).mkdir(parents=True)
    (tmp_path / "trial_0/seed_0" / LAST).touch()
    (tmp_path / "trial_0/seed_0" / compare.TESTED).write_text(json.dumps({"accuracy": 0.1, "loss": None}))
    record = {"finished": True, "parameters": 7, "epochs": 1, "seconds": 1.0}
    (tmp_path / "trial_0/seed_0" / RUN_RECORD).write_text(json.dumps(record))
    study = store.create(tmp_path, plan())
    worker.take(tmp_path, study, store.claim(tmp_path, study, plan()), "test")
    assert results.describe(study.trials[0]).endswith("failed: the test loss was not a finite number")


def test_what_another_process_has_in_hand_is_no_result_yet(tmp_path):
    swept = Sweep({}, {"model.lr": [0.1, 0.2]}, "random", 1, 1, 0, "median")
    study = store.create(tmp_path, store.plan(swept))
    first, _ = (store.claim(tmp_path, study, store.plan(swept._replace(trials=2))) for _ in range(2))
    run = {"run": "trial_0/seed_0", "error": 2.0, "loss": 0.1, "epoch": 1, "epochs": 1, "parameters": 7}
    first.trial.set_user_attr("results", [run])
    study.tell(first.trial, 2.0)
    assert [row["trial"] for row in results.write(tmp_path, study, swept)["trials"]] == [0]


@pytest.mark.parametrize("testing", [False, True], ids=["before it was ready", "while it tested"])
def test_a_process_that_is_killed_without_a_trial_is_a_line(small, data, tmp_path, testing):
    shutil.copytree(small[0] / "out", tmp_path / "out")
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\n"
        "if 'mnist_lightning.sweeps.worker' in sys.orig_argv and sys.orig_argv[-1].isdigit() == TESTING:\n"
        "    os.kill(os.getpid(), 9)\n".replace("TESTING", str(testing))
    )
    asked = (*SMALL, *data, *(("--test_best", "true") if testing else ()))
    result = sweep(*asked, cwd=tmp_path, env={"PYTHONPATH": f"{tmp_path}:{ROOT}"})
    refused(result, "a process of this sweep died of SIGKILL (out of memory?); the same command goes on from here")


def test_a_search_draws_from_its_ranges_and_stops_what_is_hopeless(data, tmp_path):
    (tmp_path / "search.yaml").write_text(
        "method: search\nmodel:\n  lr: {from: 1e-6, to: 1e-2, log: true}\n  hidden: [[8], [16]]\n"
        "  step_size: {from: 2, to: 9}\n  dropout: {from: 0.0, to: 0.4, step: 0.2}\ntrainer:\n  max_epochs: 4\n"
    )
    out = ok(sweep("search.yaml", "--trials", "8", *data, cwd=tmp_path))
    rows = trials(tmp_path)
    assert len(rows) == 8
    for row in rows:
        options = row["options"]
        assert 1e-6 <= options["model.lr"] <= 1e-2
        assert options["model.hidden"] in ([8], [16])
        assert options["model.step_size"] in range(2, 10)
        assert min(abs(options["model.dropout"] - share) for share in (0, 0.2, 0.4)) < 1e-9
    pruned = [row for row in rows if row["state"] == "pruned"]
    assert pruned and all(row["runs"][0]["epochs"] < 4 for row in pruned)
    ok(sweep("search.yaml", "--trials", "9", *data, cwd=tmp_path))  # goes on from there
    assert trials(tmp_path)[:8] == rows
    assert len(trials(tmp_path)) == 9
    assert "pruned at" in out
    count = sum(row["state"] == "pruned" for row in trials(tmp_path))
    said = (tmp_path / "out/results.html").read_text()
    assert f"9 points, {count} of them pruned;" in said and said.count('<polyline class="cut"') == count


def plan(name="sweep"):
    return Plan({}, [Point({}, [(f"trial_{number}/seed_0", [])]) for number in range(2)], name=name)


def test_a_trial_belongs_to_one_process_and_is_given_back_when_that_is_gone(tmp_path):
    study = store.create(tmp_path, plan())
    first, second = (store.claim(tmp_path, study, plan()) for _ in range(2))
    assert (first.trial.number, second.trial.number) == (0, 1)
    assert store.claim(tmp_path, study, plan()) is None
    first.lock.release()  # as the system does when a process ends
    again = store.claim(tmp_path, study, plan())
    assert again.trial.number == 0
    study.tell(second.trial, 1.0)
    assert store.claim(tmp_path, study, plan()) is None
    assert [trial.state.name for trial in study.trials] == ["RUNNING", "COMPLETE"]


def test_a_trial_on_which_three_processes_died_has_failed(tmp_path):
    study = store.create(tmp_path, plan())
    claim = store.claim(tmp_path, study, plan())
    claim.trial.set_user_attr("workers", ["here:1"])
    assert not store.given_back(tmp_path, study, plan(), "here:2", "SIGKILL")
    for _ in range(3):  # the lock is somebody's: another process took it over before the first was missed
        assert store.given_back(tmp_path, study, plan(), "here:1", "SIGKILL")
        assert study.trials[0].state.name == "RUNNING"
    claim.lock.release()
    assert store.given_back(tmp_path, study, plan(), "here:1", "SIGKILL (out of memory?)")
    assert study.trials[0].state.name == "FAIL"
    assert "died 4 times, of SIGKILL (out of memory?)" in study.trials[0].user_attrs["error"]


def test_a_trial_that_got_done_in_between_is_not_taken_over(tmp_path, monkeypatch):
    study = store.create(tmp_path, plan())
    first, _ = (store.claim(tmp_path, study, plan()) for _ in range(2))
    lock = store._lock

    def done_meanwhile(folder, asked, number):
        if number == 0 and study.trials[0].state.name == "RUNNING":
            study.tell(first.trial, 1.0)
            first.lock.release()
        return lock(folder, asked, number)

    monkeypatch.setattr(store, "_lock", done_meanwhile)
    assert store.claim(tmp_path, study, plan()) is None
    assert study.trials[0].value == 1.0


def test_a_study_that_was_killed_while_it_was_made_is_made_whole(tmp_path):
    class Power(BaseException):
        pass

    def cut(study, *_):
        if len(study.get_trials()) == 1:
            raise Power
        return add(study, *_)

    add = optuna.Study.add_trial
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Power):
        patch.setattr(optuna.Study, "add_trial", cut)
        store.create(tmp_path, plan())
    study = store.create(tmp_path, plan())
    assert [trial.user_attrs["runs"][0][0] for trial in study.trials] == ["trial_0/seed_0", "trial_1/seed_0"]


@pytest.mark.slow
def test_a_trial_that_kills_its_process_each_time_is_a_line_of_the_table(data, tmp_path):
    (tmp_path / "memory.py").write_text(
        "import os, lightning.pytorch as L\n"
        "class RunsOut(L.Callback):\n"
        "    def on_train_start(self, trainer, pl_module):\n"
        "        if pl_module.hparams.hidden == [16]:\n"
        "            os.kill(os.getpid(), 9)\n"
    )
    options = ("--model.hidden", "[[16],[8]]", "--max_epochs", "1", "--trainer.callbacks", "memory.RunsOut")
    out = ok(sweep(*options, *data, cwd=tmp_path, env={"PYTHONPATH": f"{ROOT}:{tmp_path}"}))
    assert [row["state"] for row in trials(tmp_path)] == ["failed", "complete"]
    assert "its process died 3 times, of SIGKILL (out of memory?)" in out


@pytest.mark.slow
@pytest.mark.parametrize("beside", [True, False], ids=["two sweeps", "two jobs"])
def test_two_share_the_work_and_no_run_is_trained_twice(whole, data, tmp_path, beside):
    jobs = () if beside else ("--jobs", "2")
    scripts = [start(*GRID, *data, *jobs, cwd=tmp_path) for _ in range(1 + beside)]
    for script in scripts:
        ok(script.result())
    assert contents(tmp_path) == contents(whole[0])
    study = optuna.load_study(study_name="sweep", storage=f"sqlite:///{tmp_path}/out/study.db")
    assert len({trial.user_attrs["workers"][-1] for trial in study.trials}) == 2
    runs = list(tmp_path.glob("out/trial_*/seed_*"))
    assert len(runs) == 18
    assert all(len(list(run.glob("events.*"))) == 1 for run in runs)


@pytest.mark.slow
def test_a_job_that_dies_gives_its_trial_back(whole, data, tmp_path):
    script = start(*GRID, *data, "--jobs", "2", cwd=tmp_path)
    while not list(tmp_path.glob("out/trial_2/seed_0/checkpoints/last.ckpt")):
        assert script.exit_code is None
        time.sleep(0.01)
    os.kill(descendants(script.pid)[0], signal.SIGKILL)
    ok(script.result())
    assert contents(tmp_path) == contents(whole[0])


@pytest.mark.slow
def test_ctrl_c_saves_and_says_how_to_go_on(small, data, tmp_path):
    script = start(*SMALL, *data, cwd=tmp_path)
    while not list(tmp_path.glob("out/trial_1/seed_0/config.yaml")):
        assert script.exit_code is None
        time.sleep(0.01)
    result = script.send_signal(signal.SIGINT).result()
    assert (result.returncode, "Traceback" in result.stderr) == (130, False), result.stderr
    assert "the same command goes on" in result.stderr
    assert descendants(script.pid) == []
    ok(sweep(*SMALL, *data, cwd=tmp_path))
    assert contents(tmp_path) == contents(small[0])


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """A grid of 3x3 points with two seeds that nobody disturbed."""
    cwd = tmp_path_factory.mktemp("whole")
    return cwd, ok(sweep(*GRID, *data, cwd=cwd))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds the processes to kill in /proc")
def test_a_sweep_that_is_killed_five_times_at_random_ends_bit_for_bit_as_one_that_is_not(whole, data, tmp_path):
    generator, halves = random.Random(0), 0
    for kills in range(5):
        run = f"out/trial_*/seed_*/{generator.choice(MOMENTS)}"
        script, done = start(*GRID, *data, cwd=tmp_path), len(list(tmp_path.glob(run)))
        while len(list(tmp_path.glob(run))) < done + 2:
            assert script.exit_code is None, (kills, script.result())
            time.sleep(0.001)
        kill(script)
        halves += "RUNNING" in states(tmp_path)
    assert halves  # a kill between two trials, or after a trial's last word, leaves none
    ok(sweep(*GRID, *data, cwd=tmp_path))
    assert contents(tmp_path) == contents(whole[0])
    runs = [path.relative_to(tmp_path) for path in tmp_path.glob("out/trial_*/seed_*/checkpoints/last.ckpt")]
    assert len(runs) == 18
    for run in runs:
        ours, theirs = (torch.load(cwd / run, weights_only=True)["state_dict"] for cwd in (tmp_path, whole[0]))
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
