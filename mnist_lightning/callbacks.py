"""What hangs on a run: the lines it begins with, and the progress bar."""

import sys
from typing import Any

import lightning.pytorch as L
from lightning.pytorch.callbacks import ProgressBar
from tqdm import tqdm

from mnist_lightning.datamodule import BatchSampler, MNISTDataModule


class RunHeader(L.Callback):
    """Says what a run is about to train, on what, and where its logs go."""

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero:
            data: MNISTDataModule = trainer.datamodule  # type: ignore[attr-defined]  # set, but not declared
            parameters = sum(parameter.numel() for parameter in pl_module.parameters())
            print(
                f"data    {data.dataset_name} (from {data.folder}): {len(data.train_set):,} images to train on, "
                f"{len(data.val_set):,} to validate, {len(data.test_set):,} to test\n"
                f"model   {type(pl_module.net).__name__}, {parameters:,} parameters\n"
                f"device  {pl_module.device}, {trainer.world_size} process{'es' * (trainer.world_size > 1)}\n"
                f"logs    {trainer.log_dir}\n"
            )


class StepProgressBar(ProgressBar):
    """A line for each epoch: a bar that counts optimizer steps, not chunks, then what the epoch reached."""

    def __init__(self) -> None:
        super().__init__()
        self.enable()
        self._bar = tqdm(disable=True)

    def enable(self) -> None:
        self._enabled = True

    def disable(self) -> None:
        """Lightning calls this on every process but the first."""
        self._enabled = False

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in the chunks that ``limit_train_batches`` leaves of an epoch."""
        assert self.trainer.train_dataloader is not None
        sampler: BatchSampler = self.trainer.train_dataloader.sampler
        return min(int(self.trainer.num_training_batches) * sampler.steps, sampler.num_batches)

    def on_train_epoch_start(self, trainer: L.Trainer, *_: Any) -> None:
        self._close()
        self._open(f"epoch {trainer.current_epoch + 1:2}/{trainer.max_epochs}", self.steps_per_epoch)

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        self._bar.update((trainer.global_step - 1) % self.steps_per_epoch + 1 - self._bar.n)

    def on_train_end(self, *_: Any) -> None:
        self._close()

    def on_test_start(self, trainer: L.Trainer, *_: Any) -> None:
        self._open("test", int(trainer.num_test_batches[0]))

    def on_test_batch_end(self, *_: Any) -> None:
        self._bar.update()

    def on_test_end(self, *_: Any) -> None:
        self._close()

    def _open(self, description: str, total: int) -> None:
        bar_format = "{desc} |{bar:6}| {n_fmt}/{total_fmt}{postfix}"
        self._bar = tqdm(
            desc=description, total=total, bar_format=bar_format, file=sys.stdout, disable=not self._enabled
        )

    def _close(self) -> None:
        """Ends a line with the epoch's metrics; not before the next begins, as the module logs its own last."""
        metrics = self.trainer.progress_bar_metrics
        self._bar.set_postfix_str(
            "  ".join(
                f"{stage} loss {metrics[f'{stage}/loss']:.3f} acc {metrics[f'{stage}/accuracy']:.2%}"
                for stage in ("train", "val")
                if f"{stage}/loss" in metrics
            )
        )
        self._bar.close()
