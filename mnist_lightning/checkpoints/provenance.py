"""Which data a checkpoint is of: found again wherever it lies now; and what a score on some data may be called.

A checkpoint says where its data was and which it was. The first is a hint, and may be a stranger's: files are read
there, and nothing is written or fetched. The second, a SHA-256, is what counts.
"""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from torch import Tensor

from mnist_lightning.checkpoints.read import Checkpoint
from mnist_lightning.checkpoints.runs import places
from mnist_lightning.data.datamodule import MNISTDataModule
from mnist_lightning.data.download import DEFAULT_DATA_DIR, Source, sample_dir
from mnist_lightning.data.format import is_complete
from mnist_lightning.data.images import ImageDataset
from mnist_lightning.errors import UserError

# The SHA-256 of what --data.source download and sample give; and of the sample's test set
MNIST = "06b0d1f124c4e5fa796686ade41a9b778edacc8622f2195a352ef479ad44fc16"
SAMPLE = "6f1dec24eae41a252e3fca6a88ec181b02f7b1216ac93dfe6f7b9ad531d0aaef"
SAMPLE_TEST = "87ca2c1c1558368698b5e136db434103325f1d910540472c14bdf08314ec3419"
GIVEN_BY = {MNIST: "download", SAMPLE: "sample"}


def own_data(checkpoint: Checkpoint) -> MNISTDataModule:
    """Finds the data that a checkpoint was trained on, ready for a test.

    It is looked for where it was, from the current folder, from those above the checkpoint, and from the project's.

    Raises:
        CheckpointError: It is nowhere there; or the checkpoint does not say which data that is.
    """
    known = checkpoint.trained_on
    for place in places(known["data_dir"], checkpoint.path):
        for folder in (place, sample_dir(place)):
            data = MNISTDataModule(str(folder), "files")
            with suppress(UserError, OSError):  # damaged, others altogether, or not for us to read
                if is_complete(folder) and is_own(data, known):
                    return data
    source = GIVEN_BY.get(known["sha256"])
    raise checkpoint.error(
        f"its data, {named(known)}, is not in {known['data_dir']!r} now, seen from here, from the folders above the "
        "checkpoint or from the project's; give its folder as --data.data_dir"
        + (f", or get it with --data.source {source}" if source else "")
    )


def data_for(checkpoint: Checkpoint, data_dir: str | None = None, source: Source | None = None) -> MNISTDataModule:
    """Returns the data to test a checkpoint on, ready for it: what is asked for, or else its own.

    Raises:
        CheckpointError: As :func:`own_data`.
        DataError: What is asked for is not there.
    """
    if data_dir is None and source is None:
        return own_data(checkpoint)
    data = MNISTDataModule(data_dir or DEFAULT_DATA_DIR, source or "auto")
    data.classes = checkpoint.model_options["classes"]  # a part of them will do
    data.prepare_data()
    data.setup("test")
    return data


def is_own(data: MNISTDataModule, known: Mapping[str, str]) -> bool:
    """Tells whether the test set is that of a checkpoint's own data, by what the checkpoint knows of that."""
    data.setup("test")
    if known["test_sha256"]:
        return data.test_sha256 == known["test_sha256"]
    data.setup("fit")
    return data.sha256 == known["sha256"]


def provenance(data: MNISTDataModule, checkpoint: Checkpoint | None = None) -> dict[str, Any]:
    """What a test on some data is worth.

    Args:
        data: What is tested on, ready for it.
        checkpoint: What is tested; by default, a net that was just trained on this data.

    Returns:
        ``trained_on``, the identity of the data that it was trained on; ``own_test_set``, whether the test set is of
        that data; ``seen_in_training``, how many test images are among its training images, or None where these cannot
        be had; ``provenance``, all of this in a sentence.
    """
    known = checkpoint.trained_on if checkpoint else data.state_dict()
    training, seen = training_images(checkpoint, data) if checkpoint else data.train_images, None
    if training is not None:
        seen = count_common(data.test_set.tensors[0], training.tensors[0])
    elif (known["sha256"], data.test_sha256) == (MNIST, SAMPLE_TEST):
        seen = len(data.test_set)
    own, name, theirs = is_own(data, known), data.dataset_name, known["name"]
    which = f"the test set of its own data, {name}"
    if not own:
        which = f"{name}, not on its own data, {'another ' * (name == theirs)}{theirs}"
    sentence = f"tested on {which}; {_what(seen, len(data.test_set))}"
    return {"trained_on": known, "own_test_set": own, "seen_in_training": seen, "provenance": sentence}


def count_common(images: Tensor, others: Tensor) -> int:
    """Counts the images, uint8 (N, 28, 28), that are among others, pixel for pixel; MNIST's in a tenth of a second."""
    # each image as the bytes that it is, for all of them in one step
    rows, known = (each.numpy().reshape(len(each), -1).view(f"V{each[0].numel()}") for each in (images, others))
    common = set(rows.ravel().tolist()).intersection(known.ravel().tolist())
    return sum(row in common for row in rows.ravel().tolist())


def named(known: Mapping[str, str]) -> str:
    """Names data by its identity."""
    return f"{known['name']} (SHA-256 {known['sha256'][:12]})"


def training_images(checkpoint: Checkpoint, data: MNISTDataModule | None = None) -> ImageDataset | None:
    """The images that a checkpoint was trained and validated on, or None where they cannot be had.

    Args:
        checkpoint: What was trained.
        data: What may be its own; by default, that is looked for.
    """
    with suppress(UserError, OSError):  # they are damaged, or gone
        own = data if data and is_own(data, checkpoint.trained_on) else own_data(checkpoint)
        own.setup("fit")
        if own.sha256 == checkpoint.trained_on["sha256"]:  # it was found by its test images alone
            return own.train_images
    return None


def _what(seen: int | None, count: int) -> str:
    if seen is None:
        return f"whether it was trained on any of the {count:,} images is unknown, as its training images are not here"
    if seen:
        return f"CAUTION: it was trained on {seen:,} of the {count:,} images, so this is no score on new ones"
    return f"none of the {count:,} images is among those it was trained on"
