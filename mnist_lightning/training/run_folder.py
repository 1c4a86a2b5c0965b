"""The folders of the runs: a new one for each, the one that an interrupted run is resumed in, and their records."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from filelock import FileLock, Timeout
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning_utilities.core.rank_zero import rank_zero_only

from mnist_lightning.checkpoints.read import Checkpoint
from mnist_lightning.checkpoints.runs import RUN_LOCK, RUN_RECORD, config_of, load_json, part_of, run_of
from mnist_lightning.data.datamodule import data_of
from mnist_lightning.environment import environment
from mnist_lightning.errors import UserError
from mnist_lightning.files import atomic_write
from mnist_lightning.training.callbacks import RunTimer

LAST = Path("checkpoints", "last.ckpt")
PATIENCE = 5  # seconds for a lock: who looks whether it is locked holds it for a moment
# What makes two runs the same experiment; the rest is where it runs, for how long, and what it keeps. The data is what
# its hash says, wherever it is.
EXPERIMENT = ("seed_everything", "ema_decay")
OF_TRAINER: tuple[str, ...] = ("accumulate_grad_batches", "gradient_clip_val", "gradient_clip_algorithm", "precision")
OF_TRAINER += ("limit_train_batches", "overfit_batches")
WHEREABOUTS = ("data_dir", "source", "mirrors", "sha256")


def new_run(root: Path, name: str | None = None) -> Path:
    """Makes and returns a folder of that name, or the first free ``version_N``. Two processes at once get two.

    Raises:
        OSError: The folder cannot be written.
        UserError: The name is taken, or is none.
    """
    if name is not None:
        if not name or Path(name).name != name:
            raise UserError(f"expected a name for the run's folder, without slashes, got {name!r}; change --name")
        try:
            (root / name).mkdir(parents=True)
        except FileExistsError as error:
            raise UserError(
                f"{root / name}: expected a new name for the run, but there is one; give another --name, or resume "
                "it with its own options and --ckpt_path last"
            ) from error
        return root / name
    for number in count(len(list(root.glob("version_*")))):
        with suppress(FileExistsError):
            (root / f"version_{number}").mkdir(parents=True)
            return root / f"version_{number}"
    raise AssertionError("the numbers do not end")


def run_logger(
    run: Path | None, root: Path, checkpoint: Checkpoint | None, name: str | None = None
) -> TensorBoardLogger:
    """Returns the logger of a run.

    Args:
        run: Its folder; a new one below the root by default.
        root: The folder of all runs.
        checkpoint: What the run is resumed from, if it is.
        name: Of a new folder; the first free ``version_N`` by default.

    Raises:
        UserError: The name is taken, or is none.
    """
    resumed = checkpoint and run == run_of(checkpoint.path)
    # what was logged after the checkpoint, before the end, is hidden
    options = {"purge_step": checkpoint.contents["global_step"]} if checkpoint and resumed else {}
    if run is None:
        run = new_run(root, name) if rank_zero_only.rank == 0 else root  # type: ignore[attr-defined]
    # max_queue: the default, 10 events, would make training wait for the thread that writes them
    return TensorBoardLogger(run.parent, "", run.name, default_hp_metric=False, max_queue=1000, **options)


def last_checkpoint(root: Path, config: Mapping[str, Any], sha256: str) -> Path | None:
    """Returns the newest ``last.ckpt`` among the runs of the same experiment, and of a name that is given, or None.

    Where none of them is on the data of this SHA-256, it is one that was asked for by the same options: the data has
    changed under it, which :func:`~mnist_lightning.training.resuming.check_resumable` refuses.
    """
    found = []
    for path in root.glob(f"*/{LAST}"):
        if not _may_be(run_of(path), config):
            continue
        theirs = config_of(run_of(path))
        same_data = part_of(theirs, "data").get("sha256") == sha256
        if _options(theirs) == _options(config) and (same_data or _asks_for(config, part_of(theirs, "data"))):
            found.append((same_data, path.stat().st_mtime_ns, path))
    return max(found)[-1] if found else None


def is_run_of(run: Path, config: Mapping[str, Any]) -> bool:
    """Tells whether a run is of the same experiment, by the same options, for as many epochs."""
    theirs = config_of(run)
    same = _options(theirs) == _options(config) and _asks_for(config, part_of(theirs, "data"))
    return same and _of_trainer(theirs, "max_epochs") == _of_trainer(config, "max_epochs")


def resumes_its_run(checkpoint: Path, config: Mapping[str, Any]) -> bool:
    """Tells whether training from a checkpoint continues its run: from the newest state, with the run's own options."""
    run = run_of(checkpoint)
    return checkpoint.name == LAST.name and _may_be(run, config) and _options(config_of(run)) == _options(config)


def _may_be(run: Path, config: Mapping[str, Any]) -> bool:
    """Tells whether a run has the name that options ask for, if they do."""
    return config.get("name") in (None, run.resolve().name)


def _options(config: Mapping[str, Any]) -> list[Any]:
    """What an experiment is, but for its data."""
    model = {name: value for name, value in part_of(config, "model").items() if name != "trace"}  # changes the speed
    data = {name: value for name, value in part_of(config, "data").items() if name not in WHEREABOUTS}
    return [*map(config.get, EXPERIMENT), *_of_trainer(config, *OF_TRAINER), model, data]


def _asks_for(config: Mapping[str, Any], data: Mapping[str, Any]) -> bool:
    """Tells whether options are those that gave a run its data, whose source its record has found out."""
    asked = part_of(config, "data")
    return asked.get("data_dir") == data.get("data_dir") and asked.get("source") in ("auto", data.get("source"))


def _of_trainer(config: Mapping[str, Any], *names: str) -> list[Any]:
    return [part_of(config, "trainer").get(name) for name in names]


def progress(trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
    """How large the net is, how long it was trained, and the seconds that took, validation among them."""
    callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]  # set, but not declared
    epochs: Any = trainer.fit_loop.epoch_progress.current
    return {
        "parameters": sum(parameter.numel() for parameter in pl_module.parameters()),
        "epochs": epochs.processed,  # not completed: a state from an epoch's end lacks that
        "optimizer_steps": trainer.global_step,
        "seconds": next(each.time_elapsed() for each in callbacks if isinstance(each, RunTimer)),
    }


class RunRecord(SaveConfigCallback):
    """Writes ``config.yaml``, every option of the run, and ``environment.json``, what else its numbers depend on.

    Both when the first training step is taken: a checkpoint that cannot be resumed from leaves those of its run alone.
    Then ``training.json``, how far the run is and how it went, after each epoch.
    """

    works_with_chunks = True
    _run: Path | None = None  # its folder, once it trains; in the first process only

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """The base class would write here, before it is known that the checkpoint can be resumed from."""

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Gathers what takes time before the clock runs."""
        self._environment = _environment(trainer, pl_module)
        data = data_of(trainer)  # config.yaml names it, so that what repeats the run has the same, or is refused
        self.config.data.source, self.config.data.sha256 = data.hparams["source"], data.sha256

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *_: Any) -> None:
        if not self.already_saved:
            self.already_saved = True
            log_dir = trainer.log_dir  # asks all processes
            if trainer.is_global_zero and trainer.loggers and log_dir:
                Path(log_dir).mkdir(parents=True, exist_ok=True)
                self._open(run := Path(log_dir), trainer)
                atomic_write(run / "config.yaml", self.parser.dump(self.config, skip_none=False))
                atomic_write(run / "environment.json", json.dumps(self._environment, indent=2) + "\n")
                self._write(trainer, pl_module)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        self._write(trainer, pl_module)  # not at the end of the one before: the module logs its own last

    def teardown(self, trainer: L.Trainer, pl_module: Any, stage: str) -> None:
        log_dir = trainer.log_dir if stage == "fit" else None  # asks all processes
        if not self._run and trainer.is_global_zero and log_dir and Path(log_dir, RUN_RECORD).is_file():
            self._open(Path(log_dir), trainer)  # killed between its last state and record
        if stage == "fit":
            self._write(trainer, pl_module, finished=True)

    def _open(self, run: Path, trainer: L.Trainer) -> None:
        self._run = run
        before = load_json(run / RUN_RECORD)  # a run begun from another's state has that one's history too
        self._first_epoch = before.get("first_epoch", 1 if before else trainer.current_epoch + 1)

    def _write(self, trainer: L.Trainer, pl_module: Any, finished: bool = False) -> None:
        if self._run:
            record = {**progress(trainer, pl_module), "max_epochs": trainer.max_epochs, "finished": finished}
            record |= {"history": _finite(pl_module.history), "first_epoch": self._first_epoch}
            atomic_write(self._run / RUN_RECORD, json.dumps(record) + "\n")


@contextmanager
def alone(logger: object) -> Iterator[None]:
    """Locks a run's folder, from before its log is opened; the system lets go of it, however the process ends.

    Args:
        logger: Of the run, whose folder is that of its TensorBoardLogger.

    Raises:
        UserError: Another process trains this run.
    """
    if rank_zero_only.rank or not isinstance(logger, TensorBoardLogger):  # type: ignore[attr-defined]
        yield
        return
    run = Path(logger.log_dir)
    run.mkdir(parents=True, exist_ok=True)
    lock = FileLock(run / RUN_LOCK)
    try:
        lock.acquire(timeout=PATIENCE)
    except Timeout as error:
        raise UserError(f"{run}: expected a run that has ended, but another process trains it; wait for it") from error
    try:
        yield
    finally:
        lock.release()


def _finite(history: Mapping[str, Sequence[tuple[int, float]]]) -> dict[str, Any]:
    """A module's history as JSON can hold it, which has no NaN."""
    return {name: [(x, y if math.isfinite(y) else None) for x, y in points] for name, points in history.items()}


def _environment(trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
    data = data_of(trainer)
    return {
        **environment(pl_module.device),
        "processes": trainer.world_size,
        "seed": torch.initial_seed(),
        "dataset": data.dataset_name,
        **{f"dataset_{name}": value for name, value in data.state_dict().items() if name != "name"},
    }
