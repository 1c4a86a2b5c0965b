"""Images in memory: one uint8 tensor and the labels; and which of them are held out."""

from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Subset, TensorDataset

from mnist_lightning.data.format import DataError, read_part

SPLIT_SEED = 0  # one split for everyone, whatever the seed of the run


class ImageDataset(TensorDataset):
    """uint8 images (N, 28, 28) and int64 labels (N,), fetched one at a time or in whole batches of indices."""

    def __getitem__(self, index: int | Tensor) -> tuple[Tensor, ...]:
        if not isinstance(index, Tensor):
            return self.tensors[0][index], self.tensors[1][index]
        # index_select copies whole images; indexing with a tensor takes ten times as long
        return tuple(t.index_select(0, index.flatten()).view(index.shape + t.shape[1:]) for t in self.tensors)


Images = ImageDataset | Subset[tuple[Tensor, ...]]


def read(part: str, folder: Path) -> ImageDataset:
    """Reads ``train`` or ``t10k``, or raises a DataError or an IDXError."""
    images, labels = (torch.from_numpy(array) for array in read_part(part, folder))
    return ImageDataset(images, labels.long())


def split(dataset: ImageDataset, val_size: float) -> tuple[Images, Images]:
    """Returns what is left to train on, and what is held out: a count, or a fraction; or raises a DataError."""
    total = len(dataset)
    count = val_size if isinstance(val_size, int) else round(val_size * total)
    if count >= total:
        raise DataError(f"expected val_size to leave images to train on, got {count:,} of {total:,}; lower it")
    order = torch.randperm(total, generator=torch.Generator().manual_seed(SPLIT_SEED))
    # A subset with a tensor of indices takes a tensor of positions: still one index operation, and no copy.
    train, val = (indices.sort().values for indices in (order[count:], order[:count]))
    return Subset(dataset, train), Subset(dataset, val)  # type: ignore[arg-type]
