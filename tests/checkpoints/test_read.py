"""Checkpoints are data: what a stranger's file asks for is refused, in a line, and nothing in it runs."""

import io
import pickle
import tracemalloc
import zipfile

import pytest
import torch
from helpers import Evil, refused, run_script

from mnist_lightning.checkpoints.read import CheckpointError, load_classifier, read_checkpoint
from mnist_lightning.data.datamodule import MNISTDataModule
from mnist_lightning.model.classifier import MNISTClassifier


@pytest.fixture
def good():
    """The parts of a checkpoint that loading it looks at."""
    model, data = MNISTClassifier(hidden=[16]), MNISTDataModule()
    return {
        "state_dict": model.state_dict(),
        "hyper_parameters": dict(model.hparams),
        "datamodule_hyper_parameters": dict(data.hparams),
        "pytorch-lightning_version": "2.6.6",
    }


def saved(checkpoint, tmp_path):
    path = tmp_path / "stranger.ckpt"
    torch.save(checkpoint, path)
    return path


def refusal(path, load=load_classifier):
    with pytest.raises(CheckpointError) as error:
        load(path)
    message = str(error.value)
    assert "\n" not in message
    assert str(path) in message
    return message


def test_a_good_checkpoint_loads(good, tmp_path):
    model = load_classifier(saved(good, tmp_path))
    assert torch.equal(model.net[1].weight, good["state_dict"]["net.1.weight"])


@pytest.mark.parametrize("place", ["state_dict", "hyper_parameters", "a key of its own", "everything"])
def test_a_pickle_that_would_run_code_is_refused_and_the_code_does_not_run(good, tmp_path, place):
    evil = Evil(tmp_path / "pwned")
    path = saved(evil if place == "everything" else {**good, place: evil}, tmp_path)
    assert "could run code" in refusal(path)
    assert not (tmp_path / "pwned").exists()
    with pytest.raises(FileNotFoundError):
        (tmp_path / "pwned").rmdir()


def test_the_evil_pickle_is_evil(tmp_path):
    pickle.loads(pickle.dumps(Evil(tmp_path / "pwned")))
    assert (tmp_path / "pwned").exists()


def test_a_bare_pickle_is_not_a_checkpoint(tmp_path):
    path = tmp_path / "stranger.ckpt"
    path.write_bytes(pickle.dumps(Evil(tmp_path / "pwned")))
    assert "none at all" in refusal(path)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("_instantiator", "lightning.pytorch.cli.instantiate_module"),
        ("_instantiator", "os.system"),
        ("_class_path", "subprocess.Popen"),
        ("class_path", "subprocess.Popen"),
        ("activation", "os.system"),
        ("activation", {"class_path": "torch.nn.ReLU"}),
        ("hidden", "subprocess.Popen"),
        ("hidden", ["os", "system"]),
        ("hidden", [-1]),
        ("lr", "1e-3; import os"),
        ("dropout", 2.0),
    ],
)
def test_hyperparameters_that_are_not_the_classifiers_are_refused(good, tmp_path, name, value):
    good["hyper_parameters"][name] = value
    refusal(saved(good, tmp_path))


@pytest.mark.parametrize("key", ["state_dict", "hyper_parameters", "datamodule_hyper_parameters"])
def test_a_checkpoint_of_another_project_is_told_by_what_it_lacks(good, tmp_path, key):
    del good[key]
    assert f"it has no {key}" in refusal(saved(good, tmp_path))


@pytest.mark.parametrize("other", [[1, 2], torch.zeros(3), "text", None])
def test_a_file_that_holds_something_else_is_refused(tmp_path, other):
    assert "of this project" in refusal(saved(other, tmp_path))


def test_weights_of_another_shape_missing_or_too_many_are_each_named(good, tmp_path):
    weights = good["state_dict"]
    shape = {**good, "state_dict": {**weights, "net.1.weight": torch.zeros(16, 3)}}
    assert "net.1.weight" in refusal(saved(shape, tmp_path))
    missing = {**good, "state_dict": {key: value for key, value in weights.items() if key != "net.3.bias"}}
    assert "Missing key(s)" in refusal(saved(missing, tmp_path))
    more = {**good, "state_dict": {**weights, "conv.weight": torch.zeros(3)}}
    assert "Unexpected key(s)" in refusal(saved(more, tmp_path))
    no_tensors = {**good, "state_dict": dict.fromkeys(weights, 0)}
    refusal(saved(no_tensors, tmp_path))


@pytest.mark.parametrize("damage", ["truncated", "zeros", "empty", "a zip of something else", "a byte flipped"])
def test_a_damaged_file_is_called_that(good, tmp_path, damage):
    path = saved(good, tmp_path)
    whole = path.read_bytes()
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("readme.txt", "hello")
    flipped = bytearray(whole)
    flipped[whole.index(b"data.pkl") + 200] ^= 0xFF
    content = {
        "truncated": whole[: len(whole) // 2],
        "zeros": bytes(len(whole)),
        "empty": b"",
        "a zip of something else": zipped.getvalue(),
        "a byte flipped": bytes(flipped),
    }
    path.write_bytes(content[damage])
    message = refusal(path, read_checkpoint)
    assert "damaged" in message or "could run code" in message


BOMB = [0] * 10
for _ in range(9):  # ten thousand million zeros, if anybody wrote them down
    BOMB = [BOMB] * 10


@pytest.mark.parametrize(
    "options",
    [
        {"hidden": [10**9]},
        {"hidden": [10**20]},
        {"hidden": [2**62]},
        {"hidden": [1] * 100_000},
        {"hidden": BOMB},
        {"net": "convnet", "channels": [10**6, 10**6]},
        {"activation": "relu" * 10**5},
    ],
)
def test_sizes_that_a_stranger_makes_up_cost_nothing(good, tmp_path, options):
    good["hyper_parameters"] |= options
    good["state_dict"]["net.1.weight"] = torch.zeros(1).expand(10**9, 784)  # as large as it says, in four bytes
    path = saved(good, tmp_path)
    tracemalloc.start()
    assert len(refusal(path)) < 500
    assert tracemalloc.get_traced_memory()[1] < 50e6
    tracemalloc.stop()


def test_a_small_file_that_would_unpack_to_a_large_one_is_refused(good, tmp_path):
    path = saved(good | {"ballast": torch.zeros(10**6)}, tmp_path)
    packed = tmp_path / "packed.ckpt"
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as other:
        for name in archive.namelist():
            other.writestr(name, archive.read(name))
    assert packed.stat().st_size < 1e6 < path.stat().st_size
    assert "damaged" in refusal(packed)


def test_the_scripts_refuse_a_crafted_checkpoint(good, dataset, tmp_path):
    path = saved({**good, "loops": Evil(tmp_path / "pwned")}, tmp_path)
    refused(run_script("test.py", path, cwd=tmp_path), "could run code")
    refused(run_script("train.py", "--data.data_dir", dataset, "--ckpt_path", path, cwd=tmp_path), "could run code")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["stranger.ckpt"]


def test_weights_alone_cannot_be_gone_on_from(good, dataset, tmp_path):
    path = saved(good, tmp_path)
    options = ("--data.data_dir", dataset, "--model.hidden=[16]", "--ckpt_path", path)
    refused(run_script("train.py", *options, cwd=tmp_path), "it has no optimizer_states")
