"""What hangs on a run: the lines it begins with, the record of where it ran, the progress bar, and its newest state."""

import json
import platform
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint, ProgressBar
from tqdm import tqdm

from mnist_lightning.datamodule import MNISTDataModule
from mnist_lightning.errors import UserError
from mnist_lightning.runs import LAST


def _data(trainer: L.Trainer) -> MNISTDataModule:
    data: MNISTDataModule = trainer.datamodule  # type: ignore[attr-defined]  # set, but not declared
    return data


class RunHeader(L.Callback):
    """Says what a run is about to train, on what, and where its logs go."""

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        log_dir = trainer.log_dir  # asks all processes
        if trainer.is_global_zero:
            data = _data(trainer)
            parameters = sum(parameter.numel() for parameter in pl_module.parameters())
            print(
                f"data    {data.dataset_name} (from {data.folder}): {len(data.train_set):,} images to train on, "
                f"{len(data.val_set):,} to validate, {len(data.test_set):,} to test\n"
                f"model   {type(pl_module.net).__name__}, {parameters:,} parameters\n"
                f"device  {pl_module.device}, {trainer.world_size} process{'es' * (trainer.world_size > 1)}\n"
                f"logs    {log_dir}\n"
            )


class RunRecord(L.Callback):
    """Writes down what a run's numbers depend on besides its configuration: ``environment.json`` in its folder."""

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        log_dir = trainer.log_dir
        if trainer.is_global_zero and trainer.loggers and log_dir:
            device = pl_module.device
            record = {
                "python": platform.python_version(),
                **{package: version(package) for package in ("torch", "lightning", "torchmetrics", "numpy")},
                "device": torch.cuda.get_device_name(device)
                if device.type == "cuda"
                else platform.processor() or "cpu",
                "threads": torch.get_num_threads(),
                "processes": trainer.world_size,
                "seed": torch.initial_seed(),
                "dataset": _data(trainer).dataset_name,
                "dataset_sha256": _data(trainer).sha256,
                "git_commit": _git_commit(),
            }
            Path(log_dir, "environment.json").write_text(json.dumps(record, indent=2) + "\n")


def _git_commit() -> str | None:
    """Returns the commit of this code, with a plus sign when files were changed since, or None outside of git."""
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"]
    try:
        return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


class BestCheckpoint(ModelCheckpoint):
    """Keeps ``best.ckpt``, the epoch with the best validation accuracy."""

    def __init__(self) -> None:
        super().__init__(
            filename="best",
            monitor="val/accuracy",
            mode="max",
            enable_version_counter=False,  # it is replaced, not kept beside
            save_on_train_epoch_end=True,  # after the schedule's step, so that training can go on from it
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from the best so far, in the run's folder as it is now, wherever it was when it was saved."""
        best = Path(self.dirpath or "", f"{self.filename}.ckpt")
        if best.is_file():
            paths = {"dirpath": self.dirpath, "best_model_path": str(best), "kth_best_model_path": str(best)}
            score = state_dict["best_model_score"]
            super().load_state_dict({**state_dict, **paths, "best_k_models": {str(best): score}})


class Stopped(Exception):  # noqa: N818  # not an error: it did what it was asked
    """A run was asked to stop, and has written its state to ``path``."""

    def __init__(self, signum: int, path: Path) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.signum, self.path = signum, path


class LastCheckpoint(Checkpoint):
    """Keeps last.ckpt, the newest state of the run: at each epoch's end, when asked to stop, and between.

    A first Ctrl-C or SIGTERM finishes the training step in hand, saves and raises :class:`Stopped`; a second one ends
    the process at once.

    Args:
        every_n_steps: Optimizer steps from one save to the next within an epoch; 0 saves at its end only.
        every_n_minutes: Minutes from one save to the next, besides; 0 does not look at the time.

    Raises:
        UserError: A negative number.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self, every_n_steps: int = 0, every_n_minutes: float = 0.0) -> None:
        if every_n_steps < 0 or every_n_minutes < 0:
            raise UserError("expected --checkpoint.every_n_steps and every_n_minutes to be at least 0; 0 switches off")
        self.every_n_steps, self.every_n_minutes = every_n_steps, every_n_minutes
        self._signum = 0
        self._handlers: dict[int, Any] = {}

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage == "fit":
            self.path = Path(trainer.log_dir or trainer.default_root_dir) / LAST
            _data(trainer).cut_every = self.every_n_steps  # a chunk has to end where its state is saved

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._saved_at = time.monotonic()
        self._end_of_epoch = _data(trainer).steps_per_epoch
        self._handlers = {signum: signal.signal(signum, self._note) for signum in self.SIGNALS}

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        position = _data(trainer).train_sampler.position
        if position == self._end_of_epoch:
            return  # the end of the epoch saves too, once it is validated
        stop = self._asked_to_stop(trainer)
        due = self.every_n_steps and position % self.every_n_steps == 0
        if self.every_n_minutes:
            due = due or trainer.strategy.broadcast(time.monotonic() - self._saved_at >= 60 * self.every_n_minutes)
        if due or stop:
            self._save(trainer, stop)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._save(trainer, self._asked_to_stop(trainer))

    def on_train_end(self, *_: Any) -> None:
        self._restore_handlers()

    def on_exception(self, *_: Any) -> None:
        self._restore_handlers()

    def _save(self, trainer: L.Trainer, stop: int) -> None:
        for logger in trainer.loggers:
            logger.save()  # the curves first: where the state goes on from, they must have got to
        trainer.save_checkpoint(self.path)
        self._saved_at = time.monotonic()
        if stop:
            raise Stopped(stop, self.path)

    def _note(self, signum: int, frame: Any) -> None:
        self._signum = signum
        for each in self.SIGNALS:
            signal.signal(each, signal.SIG_DFL)

    def _asked_to_stop(self, trainer: L.Trainer) -> int:
        """Returns the number of the signal that any of the processes got, or 0; all get the same answer."""
        if trainer.world_size == 1:
            return self._signum
        signum = torch.tensor(float(self._signum), device=trainer.strategy.root_device)
        return int(trainer.strategy.reduce(signum, reduce_op="max"))

    def _restore_handlers(self) -> None:
        for signum, handler in self._handlers.items():
            signal.signal(signum, handler)
        self._handlers = {}


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

    def on_train_epoch_start(self, trainer: L.Trainer, *_: Any) -> None:
        self._close()
        self._open(f"epoch {trainer.current_epoch + 1:2}/{trainer.max_epochs}", _data(trainer).steps_per_epoch)

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        self._bar.update(_data(trainer).train_sampler.position - self._bar.n)

    def on_train_end(self, *_: Any) -> None:
        self._close()

    def on_exception(self, *_: Any) -> None:
        self._bar.close()

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
