"""Runs side by side: which are best, in what they differ, what they reached, and which are not done."""

import csv
import io
import json
import os
import shutil
import sys
import time
from pathlib import Path
from subprocess import run as call

import lightning.pytorch as L
import pytest
from filelock import FileLock
from helpers import ROOT, ok, refused, run_script

from mnist_lightning.checkpoints.read import read_checkpoint
from mnist_lightning.checkpoints.runs import RUN_LOCK, RUN_RECORD
from mnist_lightning.reporting import report
from mnist_lightning.reporting.records import record as reported
from mnist_lightning.sweeps import compare
from mnist_lightning.training.cli import MNISTCLI

pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")


class Breaks(L.Callback):
    def on_validation_end(self, trainer, pl_module):
        if trainer.current_epoch == 1:
            raise RuntimeError("somebody pulled the plug")


@pytest.fixture(scope="module")
def runs(dataset, tmp_path_factory):
    """Three runs: a tested one, one of another width that was not tested, and one that broke in its second epoch."""
    root = tmp_path_factory.mktemp("runs")

    def train(name, *options):
        off = ("--trainer.enable_progress_bar=false", "--plots.every_n_epochs=0", "--accelerator=cpu", "--max_epochs=2")
        cli = MNISTCLI([f"--data.data_dir={dataset}", *off, *options])
        cli.trainer.callbacks += [Breaks()] * (name == "broken")
        cli.fit(root / name)
        return cli

    cli = train("tested", "--model.lr=0.01")
    tested = report.metrics(cli.test(), cli.datamodule)
    report.write_json(tested, root / "tested" / "test")
    train("wide", "--model.hidden=[256]", "--model.lr=0.0001")
    with pytest.raises(RuntimeError, match="plug"):
        train("broken", "--model.hidden=[8]", "--model.lr=1e-5")
    return root


def test_runs_are_best_first_by_their_best_validated_epoch_and_show_what_they_reached(runs):
    found = compare.find([runs])
    assert [run.folder.name for run in found] == ["tested", "wide", "broken"]
    for run in found:
        history = json.loads((run.folder / RUN_RECORD).read_text())["history"]
        best = max(history["val/accuracy"], key=lambda point: point[1])
        assert [run.figures["val_accuracy"], best[0]] == [best[1], history["val/accuracy"].index(best) + 1]
        assert run.figures["val_loss"] == history["val/loss"][best[0] - 1][1]
    tested, wide, _ = found
    metrics = json.loads((runs / "tested/test/metrics.json").read_text())
    assert (tested.figures["test_accuracy"], tested.figures["test_loss"]) == (metrics["accuracy"], metrics["loss"])
    assert (wide.figures["test_accuracy"], wide.figures["parameters"]) == (None, 785 * 256 + 257 * 10)
    assert [run.figures["epochs"] for run in found] == [2, 2, 1]
    assert tested.figures["seconds"] > 0
    assert [run.state for run in found] == ["finished", "finished", "stopped"]


def test_only_options_in_which_they_differ_are_shown_and_none_that_changes_no_result(runs, tmp_path):
    assert compare.differing(compare.find([runs])) == ["model.hidden", "model.lr"]
    shutil.copytree(runs / "tested", tmp_path / "again")
    config = tmp_path / "again/config.yaml"
    config.write_text(
        config.read_text().replace("every_n_epochs: 0", "every_n_epochs: 3").replace("momentum: 0.9\n", "")
    )
    assert compare.differing(compare.find([runs / "tested", tmp_path])) == []


def test_callbacks_and_loggers_are_compared_by_name_and_argument_however_they_are_spelled(tmp_path):
    says_hi = {"class_path": "mine.Printer", "init_args": {"word": "hi"}}
    given = {
        "none": (None, None),
        "alone": (says_hi, None),
        "list": ([says_hi], None),
        "csv": ([{"class_path": "mine.Printer", "init_args": {"word": "bye"}}], {"class_path": "CSVLogger"}),
    }
    for name, (callbacks, logger) in given.items():
        (tmp_path / name).mkdir()
        options = {"callbacks": callbacks, "logger": logger, "enable_model_summary": name == "csv"}
        (tmp_path / name / "config.yaml").write_text(json.dumps({"trainer": options}))
    assert compare.differing(compare.find([tmp_path / "alone", tmp_path / "list"])) == []
    printer = ("trainer.callbacks", "trainer.callbacks.Printer.word")
    table = {row["run"]: row["options"] for row in compare.rows(compare.find([tmp_path]))}
    assert table[str(tmp_path / "none")] == {"trainer.callbacks": None, printer[1]: None, "trainer.logger": None}
    for name in ("alone", "list"):
        assert table[str(tmp_path / name)] == {printer[0]: "Printer", printer[1]: "hi", "trainer.logger": None}
    assert table[str(tmp_path / "csv")] == {printer[0]: "Printer", printer[1]: "bye", "trainer.logger": "CSVLogger"}


def test_two_callbacks_of_a_class_are_both_compared(tmp_path):
    for name, second in (("a", 5), ("b", 7)):
        callbacks = [{"class_path": "mine.Printer", "init_args": {"every": every}} for every in (3, second)]
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text(json.dumps({"trainer": {"callbacks": callbacks}}))
    runs = compare.find([tmp_path])
    assert [run.options["trainer.callbacks"] for run in runs] == ["Printer, Printer 2"] * 2
    assert compare.differing(runs) == ["trainer.callbacks.Printer 2.every"]


def test_the_best_epoch_of_a_run_that_began_from_anothers_state_is_one_of_its_own(runs, dataset, tmp_path):
    options = (
        f"--data.data_dir={dataset}",
        "--model.lr=0.01",
        "--model.label_smoothing=0.1",
        f"--ckpt_path={runs / 'tested'}",
    )
    off = ("--trainer.enable_progress_bar=false", "--plots.every_n_epochs=0", "--accelerator=cpu")
    for epochs in (3, 4):  # begun, and resumed
        MNISTCLI([*options, *off, f"--max_epochs={epochs}"]).fit(tmp_path / "run")
    record = json.loads((tmp_path / "run" / RUN_RECORD).read_text())
    record["history"]["val/accuracy"] = [[1, 0.8], [2, 0.9], [3, 0.7], [4, 0.6]]
    (tmp_path / "run" / RUN_RECORD).write_text(json.dumps(record))
    assert compare.read(tmp_path / "run").figures["val_accuracy"] == 0.7
    assert reported(read_checkpoint(tmp_path / "run")).best == 3


def test_a_lock_that_one_may_not_take_keeps_no_run_from_being_compared(runs, tmp_path, monkeypatch):
    shutil.copytree(runs / "broken", tmp_path / "run")
    (tmp_path / "run" / RUN_LOCK).touch()
    opens = os.open

    def refuse(path, flags, *args, **kwargs):
        if str(path).endswith(RUN_LOCK) and flags & os.O_RDWR:
            raise PermissionError(13, "Permission denied", str(path))
        return opens(path, flags, *args, **kwargs)

    monkeypatch.setattr(os, "open", refuse)
    assert [run.state for run in compare.find([tmp_path])] == ["stopped"]


def test_a_run_is_running_while_its_process_trains_it(runs, tmp_path):
    shutil.copytree(runs / "broken", tmp_path / "run")
    with FileLock(tmp_path / "run" / RUN_LOCK):
        assert [run.state for run in compare.find([tmp_path])] == ["running"]
    assert [run.state for run in compare.find([tmp_path])] == ["stopped"]


def test_a_run_holds_its_lock_while_it_trains_and_not_after(dataset, tmp_path):
    states = []

    class Looks(L.Callback):
        def on_train_epoch_end(self, *_):
            states.append(compare.read(tmp_path / "run").state)

    options = ("--trainer.enable_progress_bar=false", "--plots.every_n_epochs=0", "--accelerator=cpu", "--max_epochs=2")
    cli = MNISTCLI([f"--data.data_dir={dataset}", *options])
    cli.trainer.callbacks.append(Looks())
    cli.fit(tmp_path / "run")
    assert [*states, compare.read(tmp_path / "run").state] == ["running", "running", "finished"]


def test_the_table_csv_and_json_say_the_same(runs):
    (head, *lines), found = compare.table(compare.find([runs])).splitlines(), compare.find([runs])
    assert head.split()[:3] == ["run", "hidden", "lr"]
    assert [line.split()[:3] for line in lines] == [
        [str(runs / "tested"), "[128]", "0.01"],
        [str(runs / "wide"), "[256]", "0.0001"],
        [str(runs / "broken"), "[8]", "1e-05"],
    ]
    assert lines[2].endswith("stopped")
    rows = compare.rows(found)
    assert [row["options"] for row in rows][1] == {"model.hidden": [256], "model.lr": 1e-4}
    for line, row in zip(csv.DictReader(io.StringIO(compare.as_csv(found))), rows, strict=True):
        assert (line["run"], line["state"]) == (row["run"], row["state"])
        assert float(line["val_accuracy"]) == row["val_accuracy"]
        assert json.loads(line["model.hidden"]) == row["options"]["model.hidden"]


@pytest.fixture(scope="module")
def varied(tmp_path_factory):
    """45 runs, each of which is special in options of its own; all have tried another learning rate."""
    root = tmp_path_factory.mktemp("varied")
    for number in range(45):
        run = root / "some" / f"a_run_with_quite_a_long_name_{number}"
        run.mkdir(parents=True)
        options = [f"model: {{lr: {0.001 * (number + 1)}, hidden: [128], dropout: {0.1 * (number % 5 == 0)}}}"]
        options += [f"data: {{data_dir: {'/far/away' * 9 if number % 7 == 0 else 'here'}, val_size: 0.08333333333}}"]
        options += [f"option_{own}: {int(own == number)}" for own in range(45)]
        (run / "config.yaml").write_text("\n".join(options))
        history = {"val/accuracy": [[1, 0.99 - number / 1000]], "val/loss": [[1, 0.1]]}
        record = {"finished": number != 3, "parameters": 101_770, "epochs": 20, "seconds": 9.5, "history": history}
        (run / RUN_RECORD).write_text(json.dumps(record))
    return compare.find([root])


@pytest.mark.parametrize("wide", [60, 80, 120, 200])
def test_a_table_fits_the_terminal_and_says_what_is_special_about_each_run(varied, wide, monkeypatch):
    monkeypatch.chdir(varied[0].folder.parents[1])
    head, *lines = compare.table(varied, wide).splitlines()
    *lines, where = lines
    assert max(map(len, [head, *lines])) <= wide
    assert head.split()[:2] == ["run", "lr"]
    assert ("parameters" in head) == (wide >= 120)
    assert where.startswith("runs are in some;")
    for number, line in enumerate(lines[:45]):
        assert line.startswith("a_run_") and line.split()[0].endswith(f"_{number}")
        assert f"{0.001 * (number + 1):.4g}" in line.split()
        special = ["stopped"] * (number == 3) + ["dropout 0.1"] * (number % 5 == 0)
        special += [f"data_dir {'/far/away' * 9}"] * (number % 7 == 0) + [f"option_{number} 1"]
        assert ", ".join(special).startswith(line[head.index("different in") :].removesuffix("…"))
    said = " ".join(lines[45:])
    assert "usually dropout 0, data_dir here, option_0 0" in said
    assert all(f"option_{number} 0" in said for number in range(45))
    assert "val_size" not in said
    assert max(map(len, compare.table(varied, 5000).splitlines())) > 500
    assert compare.table(varied) == compare.table(varied, 200)  # in a pipe


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["lightning_logs"], "lightning_logs"),
        (["{here}/lightning_logs", "lightning_logs/a/one"], "lightning_logs"),
        (["lightning_logs", "{here}/more"], None),
        (["lightning_logs/a", "../elsewhere"], ".."),
    ],
    ids=["relative", "both", "of two folders", "above"],
)
def test_a_narrow_table_says_where_runs_are_however_their_folders_were_given(tmp_path, monkeypatch, given, said):
    for place in ("here/lightning_logs/a/one", "here/lightning_logs/b/two", "here/more/three", "elsewhere/four"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "config.yaml").write_text(f"model: {{name: {place.replace('/', ' ') * 9}}}")
    monkeypatch.chdir(tmp_path / "here")
    found = compare.find([Path(folder.format(here=Path.cwd())) for folder in given])
    *lines, where = compare.table(found, 120).splitlines()
    assert where == (f"runs are in {said}; " if said else "") + "--csv and --json have all of it"
    for run, line in zip(found, lines[1:], strict=False):
        assert Path(said or ".", line.split()[0]).resolve() == run.folder.resolve()


def test_the_script_prints_the_table_and_says_in_a_line_what_it_cannot_read(runs, tmp_path):
    assert ok(run_script("compare.py", runs, cwd=tmp_path)) == compare.table(compare.find([runs])) + "\n"
    assert json.loads(ok(run_script("compare.py", runs, "--json", cwd=tmp_path))) == compare.rows(compare.find([runs]))
    assert ok(run_script("compare.py", runs, "--csv", cwd=tmp_path)) == compare.as_csv(compare.find([runs]))
    refused(run_script("compare.py", cwd=tmp_path), "lightning_logs", "give another")
    refused(run_script("compare.py", tmp_path, cwd=tmp_path), "expected folders of runs, got none")
    refused(run_script("compare.py", "--jsn", cwd=tmp_path), "--jsn; did you mean --json?")


def test_what_is_damaged_is_passed_over(runs, tmp_path):
    shutil.copytree(runs / "tested", tmp_path / "no_record")
    (tmp_path / "no_record" / RUN_RECORD).write_text('{"parameters": ')
    shutil.copytree(runs / "tested", tmp_path / "no_config")
    (tmp_path / "no_config" / "config.yaml").write_text("model: [")
    (run,) = compare.find([tmp_path])
    assert (run.folder.name, run.figures["val_accuracy"], run.state) == ("no_record", None, "finished")


def test_hundreds_of_runs_are_read_in_a_moment_and_without_pytorch(runs, tmp_path):
    for number in range(300):
        shutil.copytree(
            runs / "wide", tmp_path / f"run_{number}", ignore=shutil.ignore_patterns("checkpoints", "events*")
        )
    start = time.process_time()
    assert len(compare.find([tmp_path])) == 300
    assert time.process_time() - start < 2
    code = "import sys; from mnist_lightning.sweeps import compare; print('torch' in sys.modules)"
    assert call([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stdout == "False\n"
