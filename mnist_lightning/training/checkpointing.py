"""Which states of a run are kept, and how: the best epoch's, and the newest, which a run is resumed from."""

import io
import os
import signal
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch import callbacks
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor, distributed

from mnist_lightning.data.datamodule import data_of
from mnist_lightning.errors import UserError
from mnist_lightning.files import atomic_write
from mnist_lightning.training.run_folder import LAST


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints atomically, beside their place.

    Lightning's own goes through the system's folder for temporary files, and a move between two disks is a copy.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        """Saves a checkpoint.

        Raises:
            OSError: It cannot be written: a full disk, a folder that is read-only or gone. An older one stays.
        """
        data = io.BytesIO()
        torch.save(checkpoint, data)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        atomic_write(Path(path), data.getvalue())


class BestCheckpoint(callbacks.ModelCheckpoint):
    """Keeps ``best.ckpt``, the epoch with the best validation accuracy."""

    def __init__(self) -> None:
        super().__init__(
            filename="best",
            monitor="val/accuracy",
            mode="max",
            enable_version_counter=False,  # it is replaced, not kept beside
            save_on_train_epoch_end=True,  # after the schedule's step, so that training can be resumed from it
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resumes with the best so far, in the run's folder as it is now, wherever it was when it was saved."""
        best, score = Path(self.dirpath or "", f"{self.filename}.ckpt"), state_dict["best_model_score"]
        if best.is_file() and isinstance(score, Tensor):  # None: a run killed when it had saved its first best state
            paths = {"dirpath": self.dirpath, "best_model_path": str(best), "kth_best_model_path": str(best)}
            super().load_state_dict({**state_dict, **paths, "best_k_models": {str(best): score}})


class Stopped(Exception):  # noqa: N818  # not an error: it did what it was asked
    """A run was asked to stop, and has written its state to ``path``."""

    def __init__(self, signum: int, path: Path) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.signum, self.path = signum, path


class LastCheckpoint(callbacks.Checkpoint):
    """Keeps last.ckpt, the newest state of the run: at each epoch's end, when asked to stop, and between.

    A first Ctrl-C, SIGTERM or SIGHUP (the terminal was closed) finishes the training step in hand, saves and raises
    :class:`Stopped`; a second one ends the process at once.

    Args:
        every_n_steps: Optimizer steps from one save to the next within an epoch; 0 saves at its end only.
        every_n_minutes: Minutes from one save to the next, besides; 0 does not look at the time.

    Raises:
        UserError: A negative number.
    """

    works_with_chunks = True  # it has them end where it saves
    SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self, every_n_steps: int = 0, every_n_minutes: float = 0.0) -> None:
        if every_n_steps < 0 or every_n_minutes < 0:
            raise UserError("expected --checkpoint.every_n_steps and every_n_minutes to be at least 0; 0 switches off")
        self.every_n_steps, self.every_n_minutes = every_n_steps, every_n_minutes
        self.path = Path()  # none before a fit
        self._signum = self._stopped_by = 0
        self._cut_short = self._postponed = False
        self._terminals: list[int] = []
        self._handlers: dict[int, Any] = {}

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage == "fit":
            self.path = Path(trainer.log_dir or trainer.default_root_dir) / LAST
            if trainer.is_global_zero:
                self.path.parent.parent.mkdir(parents=True, exist_ok=True)
            data_of(trainer).cut_every = self.every_n_steps  # a chunk has to end where its state is saved

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._saved_at = time.monotonic()
        if trainer.world_size > 1:  # of the CPUs: NCCL's would have each step wait for the GPUs
            self._group = distributed.new_group(backend="gloo")
        self._terminals = [descriptor for descriptor in (1, 2) if os.isatty(descriptor)]
        signals = self.SIGNALS[: 2 if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else 3]  # nohup ignores it
        self._handlers = {signum: signal.signal(signum, self._note) for signum in signals}

    def on_train_batch_start(self, *_: Any) -> None:
        self._stop()  # not at the end of the one before: Lightning logs after that

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.is_last_batch:
            return  # the end of the epoch saves too, once it is validated
        stepped = not trainer.fit_loop._should_accumulate()  # or gradients wait for a step, which no state holds
        due = stepped and self._due(trainer)
        self._stopped_by = self._asked_to_stop(trainer) if stepped else 0
        # an epoch that --trainer.max_steps or max_time cuts short is resumed where it was cut
        stops = trainer.should_stop and trainer.fit_loop._can_stop_early  # not before min_epochs or min_steps
        self._cut_short = stops or trainer.global_step == trainer.max_steps
        if due or self._stopped_by or self._cut_short:
            self._postponed = _validates_next(trainer)  # a state from before that would be resumed without it
            if not self._postponed:
                self._save(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._postponed:
            self._postponed = False
            self._save(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._stopped_by = self._asked_to_stop(trainer)
        if not self._cut_short:
            self._save(trainer)
        self._stop()

    def on_train_end(self, *_: Any) -> None:
        self._restore_handlers()

    def on_exception(self, *_: Any) -> None:
        self._restore_handlers()

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        if trainer.is_global_zero:
            self.path.parent.mkdir(exist_ok=True)  # not its parents: an error, where the run's folder is gone
        for logger in trainer.loggers:
            logger.save()  # the curves first: where the state is resumed from, they must have got to

    def _due(self, trainer: L.Trainer) -> bool:
        batches = self.every_n_steps * trainer.accumulate_grad_batches
        due = bool(batches) and data_of(trainer).train_sampler.position % batches == 0
        if self.every_n_minutes:
            due |= trainer.strategy.broadcast(time.monotonic() - self._saved_at >= 60 * self.every_n_minutes)
        return due

    def _save(self, trainer: L.Trainer) -> None:
        trainer.save_checkpoint(self.path)
        self._saved_at = time.monotonic()

    def _stop(self) -> None:
        if self._stopped_by:
            raise Stopped(self._stopped_by, self.path)

    def _note(self, signum: int, frame: Any) -> None:
        self._signum = signum
        for each in self._handlers:
            signal.signal(each, signal.SIG_DFL)
        for descriptor in self._terminals if signum == signal.SIGHUP else []:  # to print there is an error now
            os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)

    def _asked_to_stop(self, trainer: L.Trainer) -> int:
        """Returns the number of the signal that any of the processes got, or 0; all get the same answer."""
        if trainer.world_size == 1:
            return self._signum
        signum = torch.tensor(self._signum)
        distributed.all_reduce(signum, distributed.ReduceOp.MAX, group=self._group)
        return int(signum)

    def _restore_handlers(self) -> None:
        for signum, handler in self._handlers.items():
            signal.signal(signum, handler)
        self._handlers = {}


def _validates_next(trainer: L.Trainer) -> bool:
    """Tells whether a validation is due after this step, and not for the reason that training stops with it."""
    stops, trainer.should_stop = trainer.should_stop, False
    loop = trainer.fit_loop
    try:
        return bool(loop._data_fetcher and loop.epoch_loop._should_check_val_fx(loop._data_fetcher))
    finally:
        trainer.should_stop = stops
