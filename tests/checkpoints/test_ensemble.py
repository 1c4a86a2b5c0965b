"""Ensembles: the mean of their members' probabilities, and what cannot sit in one."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import refused, run_script, write_dataset

from mnist_lightning.checkpoints import read as checkpoints
from mnist_lightning.checkpoints.ensemble import Ensemble
from mnist_lightning.checkpoints.read import CheckpointError, load_classifier, read_checkpoint
from mnist_lightning.data.format import FILES
from mnist_lightning.data.idx import read_idx
from mnist_lightning.errors import UserError
from mnist_lightning.model.classifier import MNISTClassifier
from mnist_lightning.training.cli import MNISTCLI


def load_ensemble(paths):
    return checkpoints.load_ensemble([read_checkpoint(path) for path in paths])


# Unlike in every way, and each with something that training does and testing must not
MEMBERS = (
    ("--model.hidden=[16]", "--model.dropout=0.5", "--seed_everything=1"),
    ("--model.net=convnet", "--model.channels=[4,4]", "--model.loss=mse", "--seed_everything=2"),
    ("--model.net=lenet5", "--data.shift=1.0", "--seed_everything=3"),
)


def train(run, data, *options):
    """Trains a small classifier for an epoch, and returns its checkpoint."""
    cli = MNISTCLI([f"--data.data_dir={data}", "--max_epochs=1", "--accelerator=cpu", *options])
    cli.fit(run)
    return run / "checkpoints" / "last.ckpt"


@pytest.fixture(scope="module")
def members(dataset, tmp_path_factory):
    """The checkpoints of three classifiers that were trained on one dataset."""
    folder = tmp_path_factory.mktemp("members")
    return [train(folder / f"run_{number}", dataset, *options) for number, options in enumerate(MEMBERS)]


@pytest.fixture(scope="module")
def stranger(tmp_path_factory):
    """A checkpoint that was trained on another dataset."""
    folder = tmp_path_factory.mktemp("stranger")
    return train(folder / "run", write_dataset(folder / "other", seed=1), "--model.hidden=[16]")


@torch.inference_mode()
def mean_probabilities(checkpoints, images):
    """By hand: each classifier alone, and the mean of what they say."""
    return sum(load_classifier(path).eval()(images).softmax(1) for path in checkpoints) / len(checkpoints)


def test_an_ensemble_answers_with_the_mean_of_its_members_probabilities():
    nets = ("simple", "lenet5", "convnet")
    members = [MNISTClassifier(net=net) for net in nets]
    ensemble = Ensemble(members).eval()
    images = torch.rand(20, 1, 28, 28)
    expected = sum(member(images).softmax(1) for member in members) / 3
    assert torch.allclose(ensemble(images).softmax(1), expected, atol=1e-6)
    assert torch.allclose(ensemble(images).exp(), expected, atol=1e-6)  # they are the logarithm of it


def test_answers_that_are_sure_beyond_what_a_float_holds_stay_finite():
    class Sure(MNISTClassifier):
        def __init__(self, digit):
            super().__init__(hidden=[])
            self.digit = digit

        def forward(self, images):
            return 1e4 * F.one_hot(torch.full((len(images),), self.digit), 10).float()

    logits = Ensemble([Sure(3), Sure(3), Sure(7)])(torch.rand(2, 1, 28, 28))
    assert logits.isfinite().all()
    assert torch.allclose(logits.softmax(1)[:, [3, 7]], torch.tensor([2 / 3, 1 / 3]))


def test_an_ensemble_of_one_is_its_member(members):
    images = torch.rand(20, 1, 28, 28)
    for path in members:
        alone, ensemble = load_classifier(path).eval(), load_ensemble([path]).eval()
        assert torch.allclose(ensemble(images).softmax(1), alone(images).softmax(1), atol=1e-6)


def test_an_ensemble_of_none_is_refused():
    for empty in (lambda: Ensemble([]), lambda: load_ensemble([])):
        with pytest.raises(UserError, match="expected an ensemble of at least one classifier, got none"):
            empty()


def test_testing_several_checkpoints_tests_the_ensemble(dataset, members, tmp_path):
    result = run_script("test.py", *members, "--accelerator=cpu", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert "together, the mean of their probabilities" in result.stdout
    written = json.loads((members[0].parents[1] / "ensemble" / "metrics.json").read_text())
    images, labels = (read_idx(dataset / name) for name in FILES[2:])
    probabilities = mean_probabilities(members, torch.from_numpy(images).unsqueeze(1) / 255).numpy()
    right = probabilities[np.arange(100), labels]
    assert written["accuracy"] == pytest.approx((probabilities.argmax(1) == labels).mean())
    assert written["loss"] == pytest.approx(-np.log(right).mean(), rel=1e-4)
    confusion = np.zeros((10, 10), int)
    np.add.at(confusion, (labels, probabilities.argmax(1)), 1)
    assert written["confusion_matrix"] == confusion.tolist()
    assert f"test accuracy {written['accuracy']:.2%}" in result.stdout
    assert list(tmp_path.iterdir()) == []  # it went into the folder of the first run


def test_members_that_were_trained_on_different_data_are_refused(dataset, members, stranger, tmp_path):
    options = ("--output=out", "--data.data_dir", dataset)  # what they are tested on does not matter
    result = run_script("test.py", members[0], members[1], stranger, *options, cwd=tmp_path)
    refused(result, f"error: {stranger}: expected an ensemble trained on one dataset, but {members[0]} was", "another")
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_checkpoint_among_others_ends_in_a_line(members, tmp_path):
    whole = members[1].read_bytes()
    (tmp_path / "half.ckpt").write_bytes(whole[: len(whole) // 2])
    refused(run_script("test.py", members[0], "half.ckpt", cwd=tmp_path), "half.ckpt: expected a checkpoint", "damaged")


FORGED = {
    "no state of data": lambda checkpoint: checkpoint.pop("MNISTDataModule"),
    "a tensor for the state of data": lambda checkpoint: checkpoint.update(MNISTDataModule=torch.zeros(3)),
    "a tensor for the data's identity": lambda checkpoint: checkpoint["MNISTDataModule"].update(sha256=torch.zeros(3)),
    "a word for the state of data": lambda checkpoint: checkpoint.update(MNISTDataModule="mnist"),
    "weights of another net": lambda checkpoint: checkpoint["hyper_parameters"].update(hidden=[17]),
    "an unknown net": lambda checkpoint: checkpoint["hyper_parameters"].update(net="resnet"),
    "sizes that no net has": lambda checkpoint: checkpoint["hyper_parameters"].update(channels=[4]),
}


@pytest.mark.parametrize("kind", FORGED)
@pytest.mark.parametrize("place", [0, 1])
def test_a_forged_checkpoint_is_refused_wherever_it_stands(members, tmp_path, kind, place):
    checkpoint = torch.load(members[0], weights_only=True)
    FORGED[kind](checkpoint)
    torch.save(checkpoint, tmp_path / "forged.ckpt")
    paths = [members[1]]
    paths.insert(place, tmp_path / "forged.ckpt")
    with pytest.raises(CheckpointError) as error:
        load_ensemble(paths)
    assert str(tmp_path / "forged.ckpt") in str(error.value)
    assert "\n" not in str(error.value)


def test_two_forged_checkpoints_cannot_vouch_for_each_other(members, tmp_path):
    for name in ("a.ckpt", "b.ckpt"):
        checkpoint = torch.load(members[0], weights_only=True)
        checkpoint["MNISTDataModule"]["sha256"] = torch.zeros(3)
        torch.save(checkpoint, tmp_path / name)
    with pytest.raises(CheckpointError, match="expected"):
        load_ensemble([tmp_path / "a.ckpt", tmp_path / "b.ckpt"])
