"""A run is of its data: it is resumed and repeated on the same, wherever that lies now, or refused in a line."""

import json
import shutil

import pytest
import torch
import yaml
from helpers import quiet_trainer, write_dataset

from mnist_lightning.data import download
from mnist_lightning.data.datamodule import MNISTDataModule
from mnist_lightning.data.format import FILES, DataError
from mnist_lightning.data.idx import read_idx
from mnist_lightning.errors import UserError
from mnist_lightning.mirror import DownloadError
from mnist_lightning.model.classifier import MNISTClassifier
from mnist_lightning.training.cli import MNISTCLI

RUN = "lightning_logs/version_0"
LAST = f"{RUN}/checkpoints/last.ckpt"
CONFIG = f"{RUN}/config.yaml"

# what the scripts silence too: see quiet() in console/messages.py
pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")


def train(*options, epochs=1):
    quiet = ("--trainer.enable_progress_bar=false", "--plots.every_n_epochs=0", "--accelerator=cpu")
    cli = MNISTCLI([*quiet, f"--max_epochs={epochs}", *map(str, options)])
    cli.fit()
    return cli


def on(folder):
    return "--model.hidden=[]", f"--data.data_dir={folder}"


def epochs_of(run):
    return torch.load(f"{run}/checkpoints/last.ckpt", weights_only=True)["epoch"] + 1


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def begun(tmp_path, monkeypatch):
    """A folder in which a run of an epoch was trained on data/digits, and one stands."""
    monkeypatch.chdir(tmp_path)
    write_dataset("data/digits", train=60, test=20)
    train(*on("data/digits"))
    return tmp_path


@pytest.fixture
def sample(tmp_path, monkeypatch):
    """No mirror, and a sample that takes no time to write."""
    monkeypatch.setattr(download, "download_mnist", unreachable)
    folder = write_dataset(tmp_path / "other", 60, 20, seed=1)
    parts = [read_idx(folder / name) for name in FILES]
    monkeypatch.setattr(download, "read_sample", lambda: parts)


def unreachable(*_):
    raise DownloadError("no mirror")


def test_resuming_on_other_data_is_refused_and_says_which_it_was_and_where_it_is(begun):
    write_dataset("data/other", train=60, test=20, seed=1)
    before = contents(begun)
    with pytest.raises(UserError) as error:
        train(*on("data/other"), f"--ckpt_path={LAST}", epochs=2)
    for words in ("was trained on, digits (SHA-256", "got other (SHA-256", "from data/other", "is in data/digits now"):
        assert words in str(error.value)
    assert contents(begun) == before
    shutil.rmtree("data/digits")
    with pytest.raises(UserError, match=r"the former is not where it was: give its folder as --data\.data_dir"):
        train(*on("data/other"), f"--ckpt_path={LAST}", epochs=2)


def test_last_is_refused_where_the_data_changed_under_the_run(begun):
    shutil.rmtree("data/digits")
    write_dataset("data/digits", train=60, test=20, seed=1)
    before = contents(begun)
    with pytest.raises(UserError, match=r"was trained on, digits .* got digits .* from data/digits"):
        train(*on("data/digits"), "--ckpt_path=last", epochs=2)
    assert contents(begun) == before


def test_last_is_the_run_on_the_same_data_wherever_that_is_now(begun):
    write_dataset("data/other", train=60, test=20, seed=1)
    train(*on("data/other"))
    shutil.move("data/digits", "moved")
    train(*on(begun / "moved"), "--ckpt_path=last", epochs=2)
    assert [epochs_of(f"lightning_logs/version_{number}") for number in (0, 1)] == [2, 1]


def test_last_on_other_data_that_is_asked_for_begins_at_the_start(begun, capsys):
    write_dataset("data/other", train=60, test=20, seed=1)
    train(*on("data/other"), "--ckpt_path=last", epochs=2)
    assert "no checkpoint of this experiment" in capsys.readouterr().err
    assert epochs_of("lightning_logs/version_1") == 2


def test_a_run_that_fell_back_to_the_sample_does_not_go_on_with_mnist(tmp_path, monkeypatch, sample):
    monkeypatch.chdir(tmp_path)
    train("--model.hidden=[]")
    write_dataset("data/mnist", train=60, test=20)  # which has come meanwhile
    with pytest.raises(UserError, match=r"was trained on, mnist-sample .* got mnist .* is in data/mnist-sample now"):
        train("--model.hidden=[]", "--ckpt_path=last", epochs=2)
    train("--config", CONFIG, "--name=again")
    first, again = (torch.load(f"lightning_logs/{run}/checkpoints/last.ckpt") for run in ("version_0", "again"))
    assert all(torch.equal(value, again["state_dict"][name]) for name, value in first["state_dict"].items())
    assert again["MNISTDataModule"] == first["MNISTDataModule"]
    assert first["MNISTDataModule"]["source"] == "sample"


def test_a_runs_records_say_which_data_it_is_of(begun):
    data = MNISTDataModule("data/digits")
    data.setup("fit")
    config = yaml.safe_load((begun / CONFIG).read_text())["data"]
    assert (config["data_dir"], config["source"], config["sha256"]) == ("data/digits", "files", data.sha256)
    record = json.loads((begun / RUN / "environment.json").read_text())
    recorded = {name.removeprefix("dataset_"): value for name, value in record.items() if name.startswith("dataset_")}
    assert recorded == {"source": "files", "sha256": data.sha256, "test_sha256": data.test_sha256}
    assert record["dataset"] == "digits"


def test_a_config_whose_data_has_changed_is_refused(begun):
    shutil.rmtree("data/digits")
    write_dataset("data/digits", train=60, test=20, seed=1)
    before = contents(begun)
    with pytest.raises(UserError, match=r"^data/digits: expected the data of SHA-256 .*--data.sha256") as error:
        train("--config", CONFIG)
    assert "\n" not in str(error.value)
    assert contents(begun) == before
    train("--config", CONFIG, "--data.sha256=null")
    assert epochs_of("lightning_logs/version_1") == 1


def test_a_config_is_repeated_from_any_folder(begun, monkeypatch):
    (begun / "elsewhere").mkdir()
    monkeypatch.chdir(begun / "elsewhere")
    train("--config", begun / CONFIG)
    states = [torch.load(folder / LAST)["state_dict"] for folder in (begun, begun / "elsewhere")]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_a_config_finds_the_checkpoint_that_its_run_began_with(begun, monkeypatch):
    shutil.copy(LAST, "first.ckpt")
    train(*on("data/digits"), "--ckpt_path=first.ckpt", epochs=2)
    (begun / "elsewhere").mkdir()
    monkeypatch.chdir(begun / "elsewhere")
    train("--config", begun / "lightning_logs/version_1/config.yaml")
    assert epochs_of(RUN) == 2


def test_data_that_comes_while_a_run_trains_is_not_what_it_is_tested_on(tmp_path, monkeypatch, sample):
    monkeypatch.chdir(tmp_path)
    cli = train("--model.hidden=[]")
    write_dataset("data/mnist", train=60, test=30)
    cli.test()
    assert cli.datamodule.dataset_name == "mnist-sample"
    assert len(cli.datamodule.test_set) == 20


def test_hparams_name_the_data_that_was_used(tmp_path, monkeypatch, sample):
    monkeypatch.chdir(tmp_path)
    cli = train("--model.hidden=[]", "--plots.every_n_epochs=1")
    cli.test()
    events = (path.read_bytes() for path in (tmp_path / RUN).glob("events.*"))
    assert yaml.safe_load((tmp_path / RUN / "hparams.yaml").read_text())["source"] == "sample"
    assert any(b"data/mnist-sample" in content and cli.datamodule.sha256.encode() in content for content in events)


def test_lightnings_own_trainer_refuses_to_resume_on_other_data_too(begun):
    write_dataset("data/other", train=60, test=20, seed=1)
    with pytest.raises(DataError, match="which the checkpoint was trained on"):
        quiet_trainer(max_epochs=2).fit(
            MNISTClassifier(hidden=[]), MNISTDataModule("data/other"), ckpt_path=LAST, weights_only=True
        )
    quiet_trainer().test(MNISTClassifier(hidden=[]), MNISTDataModule("data/other"), ckpt_path=LAST, weights_only=True)
