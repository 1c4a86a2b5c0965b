"""Datasets that are not MNIST: any size, grey or in colour, any number of classes, under any labels and names."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import ok, quiet_trainer, run_script, train_checkpoint
from PIL import Image

from mnist_lightning.checkpoints.ensemble import Ensemble
from mnist_lightning.checkpoints.provenance import data_for
from mnist_lightning.checkpoints.read import load_classifier, read_checkpoint
from mnist_lightning.data.augment import Distortion
from mnist_lightning.data.datamodule import MNISTDataModule
from mnist_lightning.data.format import FILES, DataError
from mnist_lightning.data.idx import write_idx
from mnist_lightning.errors import UserError
from mnist_lightning.model.classifier import MNISTClassifier
from mnist_lightning.model.nets import NETS
from mnist_lightning.reporting import plots
from mnist_lightning.training.cli import MNISTCLI

KINDS = {  # the labels, and the shape of an image
    "47 classes": (range(47), (28, 28)),
    "letters from 1": (range(1, 27), (28, 28)),
    "colour": (range(3), (64, 64, 3)),
    "wide": ((7, 40, 255), (20, 31)),
    "two": (range(2), (12, 12)),
}


def write(folder, kind, names=None, train=300, test=100):
    """Writes a dataset whose classes differ in the brightness of a few blocks, and returns its folder."""
    labels, shape = KINDS[kind]
    templates = np.random.default_rng(0).integers(0, 2, (len(labels), 4, 4))
    folder.mkdir(parents=True)
    for part, count in (("train", train), ("t10k", test)):
        random = np.random.default_rng(count)
        places = random.permutation(np.arange(count) % len(labels))
        blocks = templates[places].repeat(-(-shape[0] // 4), 1).repeat(-(-shape[1] // 4), 2)[:, : shape[0], : shape[1]]
        light = 120 * blocks.reshape(*blocks.shape, *(1 for _ in shape[2:]))
        images = (light + random.integers(0, 100, (count, *shape))).astype(np.uint8)
        files = [name for name in FILES if name.startswith(part)]
        for name, array in zip(files, (images, np.array(labels, np.uint8)[places]), strict=True):
            write_idx(folder / name, array)
    if names:
        (folder / "classes.txt").write_text("\n".join(names))
    return folder


def fitted(data, **options):
    """A classifier that was trained on a dataset for some epochs, and its test's results."""
    model = MNISTClassifier(classes=data.classes, image_shape=data.image_shape, **options)
    trainer = quiet_trainer(max_epochs=8)
    trainer.fit(model, data)
    trainer.test(model, data, verbose=False)
    return model, model.test_results


@pytest.mark.parametrize("kind", KINDS)
def test_classes_and_shape_come_from_the_data_and_it_is_learned(tmp_path, kind):
    labels, shape = KINDS[kind]
    data = MNISTDataModule(str(write(tmp_path / kind, kind)), batch_size=16)
    assert (data.classes, data.image_shape) == ([str(label) for label in labels], list(shape))
    model, results = fitted(data, lr=0.003)
    assert results["accuracy"] > 0.9
    assert results["confusion_matrix"].shape == (len(labels), len(labels))
    images, places = (tensor.numpy() for tensor in data.test_set.tensors)
    said, probabilities = model.predict(images)
    assert probabilities.shape == (100, len(labels))
    assert (said == places).mean() == pytest.approx(results["accuracy"].item())


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("shape", [(28, 28, 3), (40, 33), (64, 64, 3)])
def test_every_net_takes_every_size(net, shape):
    model = MNISTClassifier(net=net, classes=["a", "b", "c"], image_shape=shape, deslant=True, ink_width=3.0)
    images = np.random.default_rng(0).integers(0, 256, (5, *shape), np.uint8)
    assert model.predict(images)[1].shape == (5, 3)
    assert all(parameter.numel() for parameter in model.net.parameters())


@pytest.mark.parametrize(("net", "least"), [("lenet5", 12), ("convnet", 15), ("small", 20)])
def test_images_too_small_for_convolutions_are_refused_by_the_least_size(net, least):
    MNISTClassifier(net=net, image_shape=(least, 40)).predict(np.zeros((1, least, 40), np.uint8))
    with pytest.raises(UserError, match=rf"expected images of at least {least}x{least} for .*{net}"):
        MNISTClassifier(net=net, image_shape=(40, least - 1))


def test_names_come_from_classes_txt_and_are_in_the_checkpoint(tmp_path):
    names = ["ash", "ümlaut with spaces", "<b>&c</b>"]
    folder = write(tmp_path / "trees", "wide", names)
    model = load_classifier(train_named(tmp_path / "a.ckpt", folder))
    assert (model.classes, model.image_shape) == (names, [20, 31])
    out = ok(run_script("test.py", tmp_path / "a.ckpt", cwd=tmp_path))
    assert "\n             class  precision" in out and "a row for each true class, a column" in out


def train_named(path, folder):
    data = MNISTDataModule(str(folder))
    return train_checkpoint(path, folder, classes=data.classes, image_shape=data.image_shape)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a", "b"], "a line for each of the 3 labels in the training set, got 2"),
        (["a", "b", "b"], "no two alike, got 3 with 'b'"),
        (["a", "b", "c\x1b[31m"], r"printable names .* with 'c\\x1b\[31m'"),
        (["a", "b", 51 * "c"], "up to 50 characters"),
    ],
)
def test_names_that_cannot_be_are_refused(tmp_path, names, message):
    folder = write(tmp_path / "bad", "wide", names)
    with pytest.raises(DataError, match=message):
        MNISTDataModule(str(folder)).classes  # noqa: B018


def test_a_label_that_is_not_trained_on_is_refused(tmp_path):
    folder = write(tmp_path / "odd", "wide")
    write_idx(folder / FILES[3], np.full(100, 8, np.uint8))
    with pytest.raises(DataError, match="labels of the 3 classes 7 to 255, which are trained on, got 8;"):
        MNISTDataModule(str(folder)).setup("fit")


def test_other_classes_than_are_trained_on_are_named(tmp_path):
    data = MNISTDataModule(str(write(tmp_path / "other", "wide", ["leaf", "star", "moon"])))
    data.classes = ["0", "1"]
    with pytest.raises(DataError, match=r"classes 0 to 1, which are trained on, got (leaf|star|moon); give images"):
        data.setup("test")


def test_a_classifier_for_other_data_is_refused_with_what_to_write(tmp_path, dataset):
    trainer = quiet_trainer(max_epochs=1)
    with pytest.raises(UserError, match=r"got uint8 of shape .100, 20, 31."):
        trainer.fit(MNISTClassifier(), MNISTDataModule(str(write(tmp_path / "wide", "wide"))))
    with pytest.raises(
        UserError, match=r"expected data of 47 classes, 0 to 46, .* got 10, 0 to 9; .*classes=data.classes"
    ):
        trainer.fit(MNISTClassifier(classes=[str(label) for label in range(47)]), MNISTDataModule(str(dataset)))


def test_a_part_of_the_classes_can_be_tested_when_they_are_the_classifiers(tmp_path):
    data = MNISTDataModule(str(write(tmp_path / "two", "two")))
    data.classes = ["1", "0", "2"]
    data.setup("test")
    original = MNISTDataModule(str(tmp_path / "two"))
    original.setup("test")
    assert torch.equal(data.test_set.tensors[1], 1 - original.test_set.tensors[1])


@pytest.mark.parametrize("folds", [2, 5, 7])
def test_folds_hold_out_each_image_once_and_each_class_alike(tmp_path, folds):
    folder = write(tmp_path / "wide", "wide", train=301)
    held_out, counts = [], []
    for fold in range(folds):
        torch.manual_seed(fold)  # which changes nothing
        data = MNISTDataModule(str(folder), folds=folds, fold=fold)
        data.setup("fit")
        assert len(data.train_set) + len(data.val_set) == 301
        assert not set(data.train_set.indices.tolist()) & set(data.val_set.indices.tolist())
        held_out += data.val_set.indices.tolist()
        counts.append(data.train_images.tensors[1][data.val_set.indices].bincount(minlength=3))
    assert sorted(held_out) == list(range(301))
    counts = torch.stack(counts)
    assert (counts.amax(0) - counts.amin(0)).max() <= 1
    assert counts.sum(1).max() - counts.sum(1).min() <= 1


def test_distortions_of_a_wide_image_turn_and_move_it_as_a_square_ones():
    disc = torch.zeros(1, 3, 56, 112)
    disc[:, 1, 20:36, 48:64] = 1.0
    drawn = torch.tensor([[1.0, 0, 0, 0, 0, 0]])
    turned = Distortion(rotation=90)(disc, drawn)
    assert torch.allclose(turned, disc, atol=1e-4)  # a square in the middle turns into itself, not into an oblong
    moved = Distortion(shift=2)(disc, torch.tensor([[0, 0, 0, 0, 1.0, 0]]))
    assert torch.allclose(moved, disc.roll(-8, 3), atol=1e-4)  # 2 of 28 pixels are 8 of 112
    lower = Distortion(shift=2)(disc, torch.tensor([[0, 0, 0, 0, 0, 1.0]]))
    assert torch.allclose(lower, disc.roll(-8, 2), atol=1e-4)


def test_distortions_of_colours_are_drawn(tmp_path):
    folder = write(tmp_path / "colour", "colour")
    ok(run_script("distortions.py", f"--data_dir={folder}", "--output=drawn.png", cwd=tmp_path))
    with Image.open(tmp_path / "drawn.png") as picture:
        assert picture.width > 10 * 64


def test_plots_of_many_classes_give_each_a_cell_and_long_names_their_room():
    counts = np.eye(47, dtype=int)
    small = plots.confusion_matrix(counts, [str(label) for label in range(47)], 20)
    named = plots.confusion_matrix(counts, [f"a class called {label}" for label in range(47)], 20)
    assert 47 * 20 < small.width < 47 * 20 + 100
    assert small.width + 50 < named.width < small.width + 200
    images, labels = np.zeros((3, 64, 64, 3), np.uint8), np.array([0, 1, 2])
    drawn = plots.answers(images, labels, np.eye(3, dtype=np.float32)[[0, 2, 2]], ["x" * 50, "beech", "ash"])
    assert drawn.width < 10 * 2 * 64 + 200  # a long name does not run over its neighbour


def test_a_checkpoint_of_colours_is_exported_and_answers_as_itself(tmp_path):
    folder = write(tmp_path / "colour", "colour", ["ash", "beech", "old cedar"])
    checkpoint = read_checkpoint(train_named(tmp_path / "a.ckpt", folder))
    deploy = pytest.importorskip("mnist_lightning.deploy.export", exc_type=ImportError)  # it may have been torn off
    exported = deploy.export(checkpoint, "pt2", data_for(checkpoint))
    assert exported.about["images"] == "(N, 64, 64, 3), uint8 from 0 to 255"
    assert json.loads(exported.about["labels"]) == ["ash", "beech", "old cedar"]


def test_an_ensemble_of_other_classifiers_is_for_their_classes(tmp_path):
    shape = {"classes": ["ash", "beech"], "image_shape": (16, 20)}
    ensemble = Ensemble([MNISTClassifier(**shape), MNISTClassifier(**shape)])
    assert (ensemble.classes, ensemble.image_shape) == (["ash", "beech"], [16, 20])
    with pytest.raises(UserError, match="same classes and images"):
        Ensemble([MNISTClassifier(**shape), MNISTClassifier()])


def test_a_fold_resumes_and_is_in_the_checkpoint(tmp_path, dataset):
    options = [f"--data.data_dir={dataset}", "--accelerator=cpu", "--data.folds=4", "--data.fold=2"]
    whole, cut = (MNISTCLI([*options, f"--max_epochs={epochs}"]) for epochs in (2, 1))
    whole.fit(tmp_path / "whole")
    cut.fit(tmp_path / "cut")
    resumed = MNISTCLI([*options, "--max_epochs=2"])
    resumed.fit(tmp_path / "cut")
    weights, expected = (cli.model.state_dict() for cli in (resumed, whole))
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    assert len(whole.datamodule.val_set) == 150
    checkpoint = read_checkpoint(tmp_path / "cut/checkpoints/last.ckpt")
    assert checkpoint.contents["datamodule_hyper_parameters"]["folds"] == 4


def test_fashion_mnist_as_debian_packages_it(tmp_path):
    folder = Path("/usr/share/datasets/fashion-mnist")
    if not folder.is_dir():
        pytest.skip("apt-get install dataset-fashion-mnist")
    data = MNISTDataModule(str(folder), batch_size=256)
    model = MNISTClassifier(classes=data.classes, image_shape=data.image_shape, lr=0.003)
    trainer = quiet_trainer(max_epochs=2)
    trainer.fit(model, data)
    trainer.test(model, data, verbose=False)
    assert 0.82 < model.test_results["accuracy"] < 0.95
