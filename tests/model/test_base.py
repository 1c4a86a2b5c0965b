"""A test, and predictions, of a module whose answers are known."""

import re

import lightning.pytorch as L
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import quiet_trainer, train_checkpoint
from torch.utils.data import DataLoader, TensorDataset

from mnist_lightning.data.datamodule import MNISTDataModule
from mnist_lightning.errors import UserError
from mnist_lightning.metrics import LOSSES
from mnist_lightning.model.base import BaseClassifier
from mnist_lightning.model.classifier import MNISTClassifier


class ReadsTheAnswer(BaseClassifier):
    """Takes an image's first ten pixels for its logits."""

    def forward(self, images):
        return images.flatten(1)[:, :10]


@pytest.mark.parametrize("name", ["cross_entropy", "mse"])
def test_a_test_measures_with_the_loss_it_was_told(name):
    logits, labels = 3 * torch.randn(50, 10), torch.randint(10, (50,))
    images = torch.zeros(50, 1, 28, 28)
    images[:, 0, 0, :10] = logits
    module = ReadsTheAnswer(name)
    quiet_trainer().test(module, DataLoader(TensorDataset(images, labels), batch_size=20), verbose=False)
    results = module.test_results
    assert results["loss"].item() == pytest.approx(LOSSES[name](logits, labels, reduction="sum").item() / 50, rel=1e-5)
    assert results["accuracy"].item() == pytest.approx((logits.argmax(1) == labels).double().mean().item())
    assert results["confusion_matrix"].sum() == 50


@pytest.mark.parametrize("count", [0, 1, 1000, 1001])  # it takes a thousand at a time
def test_predictions_are_the_most_probable_labels_and_all_probabilities(count):
    images = np.random.default_rng(count).integers(0, 256, (count, 28, 28), np.uint8)
    labels, probabilities = ReadsTheAnswer("cross_entropy").predict(images)
    exponentials = np.exp(images[:, 0, :10] / 255)
    assert (labels.shape, labels.dtype) == ((count,), np.int64)
    assert (probabilities.shape, probabilities.dtype) == ((count, 10), np.float32)
    assert probabilities == pytest.approx(exponentials / exponentials.sum(1, keepdims=True), rel=1e-5)
    assert np.array_equal(labels, probabilities.argmax(1))


def test_predicting_drops_nothing_out_and_leaves_training_as_it_was():
    module = MNISTClassifier(dropout=0.9)
    images = np.random.default_rng(0).integers(0, 256, (5, 28, 28), np.uint8)
    first, second = (module.predict(images)[1] for _ in range(2))
    assert np.array_equal(first, second)
    assert module.training
    assert module.net.training


def test_predicting_leaves_what_is_frozen_frozen():
    module = MNISTClassifier(net="convnet").train()
    module.net[1].eval()
    module.predict(np.zeros((1, 28, 28), np.uint8))
    assert [layer for layer in module.modules() if not layer.training] == [module.net[1]]


def test_a_trainer_goes_from_one_module_to_another(dataset):
    class Other(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(784, 10)

        def training_step(self, batch):
            return F.cross_entropy(self.layer(batch[0].flatten(1)), batch[1])

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    trainer, data = quiet_trainer(max_epochs=1), MNISTDataModule(str(dataset))
    trainer.fit(MNISTClassifier(hidden=[8]), data)
    trainer.fit_loop.max_epochs = 2
    trainer.fit(Other(), data)
    assert trainer.global_step == 18


def test_a_checkpoint_that_is_loaded_brings_weights_and_no_chance(dataset, tmp_path):
    path = train_checkpoint(tmp_path / "one.ckpt", dataset, dropout=0.5)
    modules = []
    for seed in (1, 2):
        L.seed_everything(seed, verbose=False)
        modules.append(MNISTClassifier.load_from_checkpoint(path, weights_only=True))
        loader = DataLoader(TensorDataset(torch.rand(64, 1, 28, 28), torch.zeros(64, dtype=torch.long)), 16)
        torch.manual_seed(seed)
        quiet_trainer(max_epochs=1).fit(modules[-1], loader)
        assert torch.initial_seed() == seed


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((5, 28, 28), np.float32),
        np.zeros((28, 28), np.uint8),
        np.zeros((5, 1, 28, 28), np.uint8),
        np.zeros((5, 32, 32), np.uint8),
    ],
    ids=["float", "one", "channel", "size"],
)
def test_what_is_not_digits_is_refused(images):
    with pytest.raises(UserError, match=r"expected uint8 images of shape \(N, 28, 28\), got "):
        MNISTClassifier(hidden=[]).predict(images)


def test_images_are_an_array_which_may_be_read_only(recwarn):
    images = np.zeros((1, 28, 28), np.uint8)
    images.flags.writeable = False
    MNISTClassifier(hidden=[]).predict(images)
    assert not recwarn.list
    with pytest.raises(UserError, match="predict: expected images in a NumPy array, got a list; give"):
        MNISTClassifier(hidden=[]).predict(images.tolist())


def test_a_trainer_predicts_and_loads_checkpoints_as_lightnings_manual_says(dataset, tmp_path):
    data = MNISTDataModule(str(dataset))
    path = train_checkpoint(tmp_path / "one.ckpt", dataset)
    model = MNISTClassifier.load_from_checkpoint(path, weights_only=True)
    probabilities = torch.cat(quiet_trainer().predict(model, data))
    expected = model.predict(data.test_set.tensors[0].numpy())[1]
    np.testing.assert_allclose(probabilities.numpy(), expected, rtol=1e-5, atol=1e-7)
    assert MNISTDataModule.load_from_checkpoint(path, weights_only=True).hparams == data.hparams


def test_from_python_validate_and_test_return_their_figures_and_print_lightnings_table(dataset, capsys):
    torch.manual_seed(0)
    model, data, trainer = MNISTClassifier(hidden=[16]), MNISTDataModule(str(dataset)), quiet_trainer(max_epochs=3)
    trainer.fit(model, data)
    capsys.readouterr()
    for stage, run, others in (("val", trainer.validate, ()), ("test", trainer.test, ("f1", "precision", "recall"))):
        (figures,) = run(model, data)
        table = capsys.readouterr().out
        assert set(figures) == {f"{stage}/{name}" for name in ("accuracy", "loss", *others)}
        assert figures[f"{stage}/accuracy"] > 0.5  # of ten classes
        for name, value in figures.items():
            assert float(re.search(rf"{name}\W+([\d.]+)", table)[1]) == pytest.approx(value)
