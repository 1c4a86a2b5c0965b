"""What hangs on a run: the lines it begins with, its clock, the average of its weights, and the progress bar."""

import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.callbacks import EarlyStopping, EMAWeightAveraging, ModelCheckpoint, ProgressBar, Timer
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason
from tqdm import tqdm

from mnist_lightning.console.terminal import columns, epoch_line, from_here
from mnist_lightning.data.datamodule import data_of
from mnist_lightning.errors import UserError
from mnist_lightning.traced import tensors_of
from mnist_lightning.training.chunks import StepsPerExecution


class RunHeader(L.Callback):
    """Says what a run is about to train, on what, and where its logs go."""

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        log_dir = trainer.log_dir  # asks all processes
        if trainer.is_global_zero:
            data = data_of(trainer)
            callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]  # set, but not declared
            reasons = [each.reason for each in callbacks if isinstance(each, StepsPerExecution) and each.reason]
            count = trainer.accelerator.auto_device_count()
            more = f"; --devices {count} trains on all {count}" if count > trainer.num_devices else ""
            parameters = sum(parameter.numel() for parameter in pl_module.parameters())
            print(
                f"data    {data.dataset_name}, from {from_here(data.folder)}\n"
                f"        {len(data.train_set):,} images to train on, {len(data.val_set):,} to validate, "
                f"{len(data.test_set):,} to test\n"
                + (f"        limited: {', '.join(limits)}\n" if (limits := _limits(trainer)) else "")
                + f"model   {type(pl_module.net).__name__}, {parameters:,} parameters\n"
                f"device  {pl_module.device}, {trainer.world_size} process{'es' * (trainer.world_size > 1)}{more}\n"
                f"{_emulated(trainer, pl_module.device)}"
                f"logs    {from_here(Path(log_dir)) if log_dir and trainer.loggers else 'nowhere'}\n"
                + "".join(f"steps   one at a time, as {reason}\n" for reason in reasons),
                end="",
            )

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Leaves a line free before the epochs, where any are left to train."""
        if trainer.is_global_zero:
            print()


class RunTimer(Timer):
    """Measures a run, and ends it after its ``max_time``. A class of its own, as a user may bring a Timer too."""

    works_with_chunks = True  # the end of a chunk is milliseconds late

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
        """Looks at the time after optimizer steps: gradients that wait for one would be lost."""
        if not trainer.fit_loop._should_accumulate():
            super().on_train_batch_end(trainer, *args, **kwargs)


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
        assert average is not None and average.avg_fn is not None
        follow = average.avg_fn
        average.to(pl_module.device)  # it was made before the module got there
        pairs = list(zip(tensors_of(average.module), tensors_of(pl_module), strict=True))
        begun = bool(average.n_averaged)

        @torch.no_grad()
        def update(*_: Any) -> None:
            """AveragedModel.update_parameters, which has a GPU wait for ``n_averaged`` at each step."""
            nonlocal begun
            for mean, value in pairs:
                mean.copy_(follow(mean, value, average.n_averaged) if begun else value)
            average.n_averaged += 1
            begun = True

        self._remove_hook = trainer.optimizers[0].register_step_post_hook(update).remove

    def on_train_batch_end(self, *_: Any) -> None:
        """The hook has done what the base class would do here."""

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._remove_hook()
        super().on_train_end(trainer, pl_module)


class Answers(L.Callback):
    """Keeps what a test answers, as its metrics count it: of that device and precision."""

    works_with_chunks = True

    def __init__(self) -> None:
        self._logits: list[torch.Tensor] = []

    def on_test_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *_: Any) -> None:
        self._logits.append(outputs["logits"])

    @property
    def probabilities(self) -> torch.Tensor:
        """Of each label, for each image: float32 (N, classes), on the CPU."""
        return torch.cat(self._logits).float().softmax(1).cpu()


def _emulated(trainer: L.Trainer, device: torch.device) -> str:
    """A line on a precision that the CPU has no instructions for."""
    # one with AVX2 alone, that is: convnet_fast.yaml took 29 s there, the whole process, and 8 s in 32-true
    if device.type == "cpu" and "bf16" in trainer.precision and torch.backends.cpu.get_cpu_capability() == "AVX2":
        return f"        {trainer.precision} is slow, as this CPU has no bfloat16: --trainer.precision 32-true\n"
    return ""


def _limits(trainer: L.Trainer) -> list[str]:
    """The limits on an epoch's batches: a count, or a share below 1.0, which is all."""
    limits = {name: getattr(trainer, name) for name in ("limit_train_batches", "limit_val_batches")}
    return [f"{name} {value}" for name, value in limits.items() if repr(value) != "1.0"]


class StepProgressBar(ProgressBar):
    """A line for each epoch with what it reached; on a terminal, a bar that counts optimizer steps until then.

    The best epoch so far is marked as it comes. Where training ends before its last epoch, a line says why.
    """

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
        self._best = _best_score(trainer)
        self._begin_epoch(trainer)  # Lightning does not call on_train_epoch_start within an epoch that is resumed

    def on_train_epoch_start(self, trainer: L.Trainer, *_: Any) -> None:
        self._end_epoch()
        self._begin_epoch(trainer)

    def on_validation_end(self, *_: Any) -> None:
        self._validated = True

    def on_train_epoch_end(self, *_: Any) -> None:
        self._ended = True

    def _begin_epoch(self, trainer: L.Trainer) -> None:
        self._validated = self._ended = False  # what Lightning has of metrics until then is of before
        last = f"/{trainer.max_epochs}" if (trainer.max_epochs or -1) > 0 else ""
        self._epoch = f"epoch {trainer.current_epoch + 1:{max(2, len(last) - 1)}}{last}"
        self._open(self._epoch, data_of(trainer).batches_per_epoch)

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        position = data_of(trainer).train_sampler.position
        self._bar.update(position - self._bar.n)
        if position >= (self._bar.total or 0):  # an epoch's end is where other callbacks print
            self._bar.close()

    def on_train_end(self, trainer: L.Trainer, *_: Any) -> None:
        self._end_epoch()
        if self._enabled and (reason := _why_stopped(trainer)):
            print(f"\nstopped in {' '.join(self._epoch.split())}: {reason}", flush=True)

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
        metrics, best = self.trainer.progress_bar_metrics, _best_score(self.trainer)
        if self._enabled and self._ended:
            metrics = {name: value for name, value in metrics.items() if self._validated or "val/" not in name}
            print(epoch_line(self._epoch, metrics, best != self._best, columns()), flush=True)
        self._best = best


def _best_score(trainer: L.Trainer) -> float | None:
    """The best validation accuracy so far, by which checkpoints are chosen."""
    kept = (each for each in trainer.checkpoint_callbacks if isinstance(each, ModelCheckpoint))
    scores = [each.best_model_score for each in kept if each.monitor == "val/accuracy"]
    return float(scores[-1]) if scores and scores[-1] is not None else None  # the user's come before ours


def _why_stopped(trainer: L.Trainer) -> str | None:
    """Says why training ended before its last epoch; None where it did not."""
    callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]  # set, but not declared
    for each in callbacks if trainer.should_stop else []:
        if isinstance(each, EarlyStopping) and each.stopping_reason is EarlyStoppingReason.PATIENCE_EXHAUSTED:
            times = f"{each.wait_count} validations" if each.wait_count > 1 else "a validation"
            return f"{each.monitor} no better than {each.best_score:.3g} for {times}"
        if isinstance(each, EarlyStopping) and each.stopping_reason_message:
            return each.stopping_reason_message.removesuffix(" Signaling Trainer to stop.")
        if isinstance(each, Timer) and (left := each.time_remaining()) is not None and left <= 0:
            return "--trainer.max_time is over"
    if trainer.fast_dev_run:  # type: ignore[attr-defined]  # set, but not declared
        return "--trainer.fast_dev_run is over"
    return f"--trainer.max_steps {trainer.max_steps} are taken" if trainer.global_step == trainer.max_steps else None
