"""Images in memory: one uint8 tensor and the labels, as classes are counted; and which of them are held out."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Subset, TensorDataset

from mnist_lightning.data.format import FILES, DataError, find, read_images, read_names
from mnist_lightning.data.idx import read_idx

SPLIT_SEED = 0  # one split for everyone, whatever the seed of the run


class ImageDataset(TensorDataset):
    """uint8 images (N, H, W) or (N, H, W, 3), int64 labels (N,), fetched one at a time or in batches of indices."""

    def __getitem__(self, index: int | Tensor) -> tuple[Tensor, ...]:
        if not isinstance(index, Tensor):
            return self.tensors[0][index], self.tensors[1][index]
        # index_select copies whole images; indexing with a tensor takes ten times as long
        return tuple(t.index_select(0, index.flatten()).view(index.shape + t.shape[1:]) for t in self.tensors)


Images = ImageDataset | Subset[tuple[Tensor, ...]]


def read(part: str, folder: Path, classes: Sequence[str], shape: Sequence[int] | None = None) -> ImageDataset:
    """Reads ``train`` or ``t10k``, with labels as places among the classes; or raises a DataError or an IDXError."""
    paths = [find(folder, name) for name in FILES if name.startswith(part)]
    images = read_images(paths[0], shape)
    labels = read_idx(paths[1])
    if labels.dtype != np.uint8 or labels.shape != images.shape[:1]:
        raise DataError(
            f"{paths[1]}: expected one uint8 label for each of the {len(images):,} images in {paths[0].name}, got "
            f"{labels.dtype} of shape {labels.shape}; give two files that belong together"
        )
    names = read_names(folder)
    places = np.array([classes.index(names[label]) if names.get(label) in classes else -1 for label in range(256)])
    if (unknown := labels[places[labels] < 0]).size:
        raise DataError(
            f"{paths[1]}: expected labels of the {len(classes)} classes {classes[0]} to {classes[-1]}, which are "
            f"trained on, got {names.get(unknown[0], unknown[0])}; give images of these classes, and no others"
        )
    return ImageDataset(torch.from_numpy(images), torch.from_numpy(places[labels]))


def split(dataset: ImageDataset, val_size: float, folds: int | None, fold: int | None) -> tuple[Images, Images]:
    """Returns what to train on, and what is held out: a count, a share, or one of some folds; or raises a DataError."""
    total = len(dataset)
    count = val_size if isinstance(val_size, int) else round(val_size * total)
    order = torch.randperm(total, generator=torch.Generator().manual_seed(SPLIT_SEED))
    held_out = torch.arange(total).lt(count)
    if folds and folds > total:
        raise DataError(f"expected no more folds than the {total:,} training images, got {folds:,}; lower --data.folds")
    if folds:  # dealt like cards that were shuffled, then sorted by class
        order = order[dataset.tensors[1][order].argsort(stable=True)]
        held_out = torch.arange(total).fmod(folds).eq(fold or 0)
    elif count >= total:
        raise DataError(f"expected val_size to leave images to train on, got {count:,} of {total:,}; lower it")
    # A subset with a tensor of indices takes a tensor of positions: still one index operation, and no copy.
    train, val = (order[part].sort().values for part in (~held_out, held_out))
    return Subset(dataset, train), Subset(dataset, val)  # type: ignore[arg-type]


def channels_first(images: Tensor, colour: bool) -> Tensor:
    """Gives images the form that nets take: (..., H, W) becomes (..., 1, H, W), and (..., H, W, 3) (..., 3, H, W)."""
    return images.movedim(-1, -3) if colour else images.unsqueeze(-3)
