"""What hangs on a run: the lines it begins with, its clock, the average of its weights, and the progress bar."""

import sys
from typing import Any

import lightning.pytorch as L
from lightning.pytorch.callbacks import EMAWeightAveraging, ProgressBar, Timer
from lightning.pytorch.trainer.states import TrainerFn
from tqdm import tqdm

from mnist_lightning.data.datamodule import data_of
from mnist_lightning.errors import UserError
from mnist_lightning.training.chunks import StepsPerExecution


class RunHeader(L.Callback):
    """Says what a run is about to train, on what, and where its logs go."""

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        log_dir = trainer.log_dir  # asks all processes
        if trainer.is_global_zero:
            data = data_of(trainer)
            callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]  # set, but not declared
            reasons = [each.reason for each in callbacks if isinstance(each, StepsPerExecution) and each.reason]
            parameters = sum(parameter.numel() for parameter in pl_module.parameters())
            print(
                f"data    {data.dataset_name} (from {data.folder}): {len(data.train_set):,} images to train on, "
                f"{len(data.val_set):,} to validate, {len(data.test_set):,} to test\n"
                f"model   {type(pl_module.net).__name__}, {parameters:,} parameters\n"
                f"device  {pl_module.device}, {trainer.world_size} process{'es' * (trainer.world_size > 1)}\n"
                f"logs    {log_dir or 'nowhere'}\n"
                + "".join(f"steps   one at a time, as {reason}\n" for reason in reasons)
            )


class RunTimer(Timer):
    """Measures a run, and ends it after its ``max_time``. A class of its own, as a user may bring a Timer too."""

    works_with_chunks = True  # the end of a chunk is milliseconds late


class MovingAverage(EMAWeightAveraging):
    """Lightning's moving average of the weights, taken by a hook of the optimizer: after each step of a chunk, too.

    Validation, checkpoints and the test are of the average.

    Args:
        decay: Share of the average that stays at each optimizer step.

    Raises:
        UserError: A share that cannot be.
    """

    works_with_chunks = True

    def __init__(self, decay: float) -> None:
        if not 0 <= decay < 1:
            raise UserError(f"expected --ema_decay to be from 0 to below 1, got {decay}; 0.999 is usual")
        super().__init__(decay=decay)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        average = self._average_model
        assert average is not None
        hook = trainer.optimizers[0].register_step_post_hook(lambda *_: average.update_parameters(pl_module))
        self._remove_hook = hook.remove

    def on_train_batch_end(self, *_: Any) -> None:
        """The hook has done what the base class would do here."""

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._remove_hook()
        super().on_train_end(trainer, pl_module)

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn == TrainerFn.FITTING:  # a test is of the average, where the base class loads the weights
            super().on_load_checkpoint(trainer, pl_module, checkpoint)


class StepProgressBar(ProgressBar):
    """A line for each epoch with what it reached; on a terminal, a bar that counts optimizer steps until then."""

    works_with_chunks = True

    def __init__(self) -> None:
        super().__init__()
        self.enable()
        self._bar = tqdm(disable=True)

    def enable(self) -> None:
        self._enabled = True

    def disable(self) -> None:
        """Lightning calls this on every process but the first."""
        self._enabled = False

    def on_train_start(self, trainer: L.Trainer, *_: Any) -> None:
        self._begin_epoch(trainer)  # Lightning does not call on_train_epoch_start within an epoch that is resumed

    def on_train_epoch_start(self, trainer: L.Trainer, *_: Any) -> None:
        self._end_epoch()
        self._begin_epoch(trainer)

    def _begin_epoch(self, trainer: L.Trainer) -> None:
        last = f"/{trainer.max_epochs}" if (trainer.max_epochs or -1) > 0 else ""
        self._epoch = f"epoch {trainer.current_epoch + 1:{max(2, len(last) - 1)}}{last}"
        self._open(self._epoch, data_of(trainer).batches_per_epoch)

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        self._bar.update(data_of(trainer).train_sampler.position - self._bar.n)

    def on_train_end(self, *_: Any) -> None:
        self._end_epoch()

    def on_exception(self, *_: Any) -> None:
        self._bar.close()

    def on_test_start(self, trainer: L.Trainer, *_: Any) -> None:
        self._open("test", int(trainer.num_test_batches[0]))

    def on_test_batch_end(self, *_: Any) -> None:
        self._bar.update()

    def on_test_end(self, *_: Any) -> None:
        self._bar.close()

    def _open(self, description: str, total: int) -> None:
        bar_format = "{desc} |{bar:20}| {n_fmt}/{total_fmt}"
        hidden = not (self._enabled and sys.stdout.isatty())
        self._bar = tqdm(
            desc=description, total=total, bar_format=bar_format, file=sys.stdout, leave=False, disable=hidden
        )

    def _end_epoch(self) -> None:
        """Says what an epoch reached; not before the next begins, as the module logs its own last."""
        self._bar.close()
        metrics = self.trainer.progress_bar_metrics
        reached = [
            f"{stage} loss {metrics[f'{stage}/loss']:.3f} acc {metrics[f'{stage}/accuracy']:.2%}"
            for stage in ("train", "val")
            if f"{stage}/loss" in metrics
        ]
        if self._enabled and reached:
            print("  ".join([self._epoch, *reached]), flush=True)
