"""Other loggers, with their real packages and no server: curves and plots arrive, and a run lies in its folder."""

import csv

import pytest
import torch
from helpers import run_script, scalars

from mnist_lightning.errors import UserError
from mnist_lightning.training.cli import MNISTCLI

CURVES = ("train/loss", "train/accuracy", "val/loss", "val/accuracy")

# what the scripts silence too: see quiet() in console/messages.py
pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")


def trained(dataset, *options, epochs=2):
    quiet = ("--trainer.enable_progress_bar=false", "--accelerator=cpu", f"--max_epochs={epochs}")
    cli = MNISTCLI([f"--data.data_dir={dataset}", *quiet, *options])
    cli.fit()
    return cli


def own_curves(run):
    """What the run's own folder has of each curve."""
    logged = scalars(run)
    return {name: logged[name] for name in CURVES}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder of its own."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def assert_lies_in_its_folder(run):
    names = {"checkpoints", "config.yaml", "environment.json"}
    assert names <= {path.name for path in run.iterdir()}
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    assert not names & {path.name for path in run.parents[1].iterdir()}


def test_csv_has_the_curves_of_the_runs_folder_and_the_run_is_resumed(dataset, here):
    options = ("--trainer.logger=CSVLogger", "--trainer.logger.save_dir=csv")
    trained(dataset, *options, epochs=1)
    trained(dataset, *options, "--ckpt_path=last")
    run = here / "lightning_logs" / "version_0"
    assert_lies_in_its_folder(run)
    rows = []
    for file in sorted(here.glob("csv/lightning_logs/*/metrics.csv")):  # each of the two runs has its own
        with file.open() as lines:
            rows += csv.DictReader(lines)
    for name, points in own_curves(run).items():
        written = [(int(row["step"]), float(row[name])) for row in rows if row.get(name)]
        assert written == [(step, pytest.approx(value)) for step, value in points]
        assert [step for step, _ in points] == [8, 17]


def test_mlflow_has_the_curves_and_the_plots(dataset, here):
    mlflow = pytest.importorskip("mlflow")
    options = ("--trainer.logger=MLFlowLogger", "--trainer.logger.tracking_uri=sqlite:///runs.db")
    logger = trained(dataset, *options).trainer.loggers[1]
    run = here / "lightning_logs" / "version_0"
    assert_lies_in_its_folder(run)
    client = mlflow.MlflowClient("sqlite:///runs.db")
    for name, points in own_curves(run).items():
        history = client.get_metric_history(logger.run_id, name)
        assert [(point.step, point.value) for point in history] == [(s, pytest.approx(v)) for s, v in points]
    drawn = {path.path for path in client.list_artifacts(logger.run_id, "plots")}
    assert drawn == {f"plots/{tag}" for tag in ("confusion matrix", "digits", "first layer", "worst mistakes")}


def test_wandb_offline_has_the_curves_and_the_plots_and_each_run_its_folder(dataset, here, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    for number in range(2):
        logger = trained(dataset, "--trainer.logger=WandbLogger", "--trainer.logger.offline=true").trainer.loggers[1]
        run = here / "lightning_logs" / f"version_{number}"
        assert_lies_in_its_folder(run)
        summary = dict(logger.experiment.summary)
        for name, points in own_curves(run).items():
            assert summary[name] == pytest.approx(points[-1][1])
        assert {"confusion matrix", "digits", "first layer"} <= summary.keys()
        logger.experiment.finish()
    assert len(list(here.glob("wandb/offline-run-*"))) == 2


def test_a_logger_that_cannot_begin_is_a_line_and_leaves_no_run(dataset, tmp_path):
    pytest.importorskip("wandb")
    env = {"WANDB_MODE": "online", "WANDB_API_KEY": "", "NETRC": str(tmp_path / "nothing"), "WANDB_SILENT": "true"}
    result = run_script("train.py", "--data.data_dir", dataset, "--trainer.logger=WandbLogger", cwd=tmp_path, env=env)
    assert "error: WandbLogger cannot begin (No API key configured." in result.stderr.splitlines()[-1]
    assert result.returncode == 2 and not (tmp_path / "lightning_logs").exists()


def test_a_tensorboard_logger_of_ones_own_does_not_write_over_another_run(dataset, here):
    options = ("--trainer.logger=TensorBoardLogger", "--trainer.logger.save_dir=mine", "--trainer.logger.version=3")
    trained(dataset, *options, epochs=1)
    run = here / "mine" / "lightning_logs" / "version_3"
    assert_lies_in_its_folder(run)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=r"version_3: expected a new folder, got another run's"):
        trained(dataset, *options, epochs=1)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    trained(dataset, *options, f"--ckpt_path={run / 'checkpoints/last.ckpt'}", epochs=2)
    assert torch.load(run / "checkpoints/last.ckpt", weights_only=True)["epoch"] == 1
    assert not (here / "lightning_logs").exists()


def test_without_a_logger_a_run_lies_in_the_trainers_root_and_not_over_another(dataset, here, capsys):
    options = ("--trainer.logger=false", "--trainer.enable_progress_bar=true")
    for root, more in ((here, ()), (here / "mine", ("--trainer.default_root_dir=mine",))):
        trained(dataset, *options, *more, epochs=1)
        assert "\nlogs    nowhere\n" in capsys.readouterr().out
        assert {path.name for path in (root / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    before = {path: path.read_bytes() for path in here.rglob("*.*")}
    with pytest.raises(UserError, match=r"another run's; give another --trainer.default_root_dir"):
        trained(dataset, *options, epochs=1)
    trained(dataset, *options, "--trainer.fast_dev_run=true")
    with pytest.raises(UserError, match=r"^mine: expected a new folder, got another run's"):
        trained(dataset, *options, *more, "--ckpt_path=checkpoints/last.ckpt", epochs=2)
    assert {path: path.read_bytes() for path in here.rglob("*.*")} == before
    trained(dataset, *options, "--ckpt_path=checkpoints/last.ckpt", epochs=2)
    assert torch.load(here / "checkpoints" / "last.ckpt", weights_only=True)["epoch"] == 1
    assert {path.name for path in here.iterdir()} == {"checkpoints", "mine"}
