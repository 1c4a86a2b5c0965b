"""The split, the batches, files that do not fit together; what is distorted, and when."""

from functools import cache
from types import SimpleNamespace

import lightning.pytorch as L
import numpy as np
import pytest
import torch
from helpers import fit, same_weights, write_dataset

from mnist_lightning.data.datamodule import MNISTDataModule
from mnist_lightning.data.format import FILES, DataError
from mnist_lightning.data.idx import read_idx, write_idx
from mnist_lightning.errors import UserError


def ready(folder, **options):
    data = MNISTDataModule(str(folder), **options)
    data.prepare_data()
    data.setup("fit")
    return data


def test_one_twelfth_is_held_out_and_no_image_is_lost_or_shared(dataset):
    data = ready(dataset)
    images = read_idx(dataset / FILES[0])
    assert len(data.val_set) == len(images) // 12
    split = [image.numpy().tobytes() for part in (data.train_set, data.val_set) for image, _ in part]
    assert sorted(split) == sorted(image.tobytes() for image in images)


@pytest.mark.parametrize(("val_size", "expected"), [(0, 0), (7, 7), (0.5, 300), (0.25, 150)])
def test_val_size_is_a_count_or_a_fraction(dataset, val_size, expected):
    data = ready(dataset, val_size=val_size)
    assert len(data.val_set) == expected
    assert len(data.train_set) == 600 - expected


def test_the_split_depends_on_nothing(dataset):
    torch.manual_seed(1)
    first = ready(dataset)
    torch.manual_seed(2)
    torch.rand(3)
    second = ready(dataset, batch_size=10)
    everything = torch.arange(550)
    assert torch.equal(first.val_set[everything[:50]][0], second.val_set[everything[:50]][0])
    assert torch.equal(first.train_set[everything][1], second.train_set[everything][1])


def test_loaders_are_torch_loaders_of_the_sizes_asked_for(dataset):
    data = ready(dataset, batch_size=64, eval_batch_size=40)
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        assert isinstance(loader, torch.utils.data.DataLoader)
        assert isinstance(loader.dataset, torch.utils.data.Dataset)
    assert [len(labels) for _, labels in data.train_dataloader()] == [64] * 8 + [38]
    assert [len(labels) for _, labels in data.val_dataloader()] == [40, 10]
    assert [len(labels) for _, labels in data.test_dataloader()] == [40, 40, 20]
    images, labels = next(iter(data.train_dataloader()))
    assert (images.shape, images.dtype, labels.dtype) == ((64, 28, 28), torch.uint8, torch.int64)


def test_images_become_floats_in_0_to_1_with_a_channel(dataset):
    data = ready(dataset)
    batch = (torch.arange(256, dtype=torch.uint8)[:, None, None].expand(-1, 28, 28), torch.zeros(256).long())
    images, labels = data.on_after_batch_transfer(batch, 0)
    assert (images.shape, images.dtype) == ((256, 1, 28, 28), torch.float32)
    assert torch.equal(images[:, 0, 0, 0], torch.arange(256) / 255)
    assert labels is batch[1]


def test_evaluation_keeps_the_files_order(dataset):
    labels = torch.cat([labels for _, labels in ready(dataset, eval_batch_size=30).test_dataloader()])
    assert np.array_equal(labels.numpy(), read_idx(dataset / FILES[3]))


@pytest.mark.parametrize(
    "options", [{"batch_size": 0}, {"eval_batch_size": -1}, {"val_size": -1}, {"val_size": 1.0}, {"val_size": 1.5}]
)
def test_sizes_that_cannot_be_are_refused(options):
    with pytest.raises(UserError, match=next(iter(options))):
        MNISTDataModule(**options)


def test_a_validation_split_that_takes_everything_is_refused(dataset):
    with pytest.raises(UserError, match="leave images to train on, got 600 of 600"):
        ready(dataset, val_size=600)


@pytest.mark.parametrize(
    ("broken", "array", "message"),
    [
        (FILES[1], np.arange(599, dtype=np.uint8) % 10, "one uint8 label for each of the 600 images"),
        (FILES[1], np.arange(600, dtype=np.int32) % 10, "got int32"),
        (FILES[1], np.full(600, 10, np.uint8), "2 to 256 classes .* got 1;"),
        (FILES[3], np.full(100, 10, np.uint8), "labels of the 10 classes 0 to 9, .* got 10;"),
        (
            FILES[0],
            np.zeros((600, 28, 27), np.uint8),
            "uint8 images of shape .N, 28, 28., got uint8",
        ),
        (
            FILES[2],
            np.zeros((100, 28, 1025), np.uint8),
            r"expected the shape \(1 to 1024, 1 to 1024\) or .*, got \(28, 1025\)",
        ),
        (FILES[2], np.zeros((100, 28, 28, 4), np.uint8), r"or \(1 to 1024, 1 to 1024, 3\), got \(28, 28, 4\)"),
        (FILES[0], np.zeros((600, 784), np.uint8), r"got uint8 of shape \(600, 784\)"),
        (FILES[0], np.zeros((600, 28, 28), np.float32), "got float32"),
        (FILES[2], np.zeros((99, 28, 28), np.uint8), "each of the 99 images"),
    ],
)
def test_files_that_do_not_fit_are_named(tmp_path, broken, array, message):
    write_dataset(tmp_path)
    write_idx(tmp_path / broken, array)
    with pytest.raises(DataError, match=message) as error:
        ready(tmp_path)
    assert str(tmp_path) in str(error.value)


def test_real_mnist_is_split_into_55000_5000_and_10000(mnist):
    data = ready(mnist)
    assert [len(part) for part in (data.train_set, data.val_set, data.test_set)] == [55_000, 5_000, 10_000]
    assert len(data.train_dataloader()) == 860


DISTORTED = (("rotation", 10.0), ("scale", 0.1), ("shear", 0.1), ("shift", 1.0), ("elastic", 0.7))


class ImageRecorder(L.Callback):
    """Keeps every image that a net is shown, in order, by what it is shown for."""

    works_with_chunks = True

    def __init__(self):
        self.shown = {"train": [], "val": [], "test": []}

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.shown["train"] += batch[0].clone().flatten(0, -4)  # chunks of batches, or batches

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
        self.shown["val"] += batch[0].clone()

    def on_test_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
        self.shown["test"] += batch[0].clone()

    def images(self, part):
        return torch.stack(self.shown[part])


class DrawRecorder(L.Callback):
    """Keeps the labels, and what dropout would draw next, of each batch."""

    def __init__(self):
        self.seen = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.seen.append((batch[1].flatten().tolist(), torch.get_rng_state().tolist()))


@pytest.fixture(scope="module")
def trained(dataset):
    """Trains for two epochs and tests, each kind of run once: the module, and the images that its net was shown."""

    @cache
    def train(*data, steps="auto", seed=0, again=0):
        recorder = ImageRecorder()
        module = fit(
            dataset, data=dict(data), steps=steps, seed=seed, trainer={"max_epochs": 2, "callbacks": [recorder]}
        )
        module.trainer.test(module, module.trainer.datamodule, verbose=False)
        return SimpleNamespace(module=module, net=module.net, images=recorder.images)

    return train


def test_images_are_distorted_to_train_on_and_left_alone_to_validate_and_test(trained):
    plain, distorted = trained(), trained(*DISTORTED)
    moved = (distorted.images("train") - plain.images("train")).abs().amax((1, 2, 3))
    assert moved.min() > 0.1  # every image of both epochs
    assert len(moved) == 2 * 550
    data = distorted.module.trainer.datamodule
    for part, images in (("val", data.val_set[torch.arange(50)][0]), ("test", data.test_set.tensors[0])):
        expected = (images / 255).unsqueeze(1)
        shown = distorted.images(part)
        assert torch.equal(shown, expected.repeat(len(shown) // len(expected), 1, 1, 1))


def test_every_epoch_distorts_an_image_anew(trained):
    plain = trained(("batch_size", 550)).images("train")
    place = {image.numpy().tobytes(): number for number, image in enumerate(plain[:550])}
    again = [place[image.numpy().tobytes()] for image in plain[550:]]  # its place in the first epoch
    first, second = trained(("batch_size", 550), ("shift", 3.0)).images("train").split(550)
    assert (second - first[again]).abs().amax((1, 2, 3)).min() > 0.01


def test_distorted_images_and_what_they_teach_do_not_depend_on_the_chunks(trained):
    first = trained(*DISTORTED, steps=1)
    for steps in (8, "auto"):
        other = trained(*DISTORTED, steps=steps)
        assert torch.equal(first.images("train"), other.images("train"))
        assert same_weights(first.net, other.net)


def test_the_same_seed_distorts_the_same_and_another_in_another_way(trained):
    first, again, other = trained(*DISTORTED), trained(*DISTORTED, again=1), trained(*DISTORTED, seed=1)
    assert torch.equal(first.images("train"), again.images("train"))
    assert same_weights(first.net, again.net)
    assert not torch.equal(first.images("train"), other.images("train"))
    assert not same_weights(first.net, other.net)


def test_distortions_leave_the_order_and_dropout_as_they_were(dataset):
    plain, distorted = DrawRecorder(), DrawRecorder()
    for recorder, data in ((plain, {}), (distorted, dict(DISTORTED))):
        fit(dataset, data=data, dropout=0.2, trainer={"callbacks": [recorder]})
    assert plain.seen == distorted.seen
