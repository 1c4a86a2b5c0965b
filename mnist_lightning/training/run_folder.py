"""The folders of the runs: a new one for each, and the one that an interrupted run is resumed in."""

from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch.loggers import TensorBoardLogger
from lightning_utilities.core.rank_zero import rank_zero_only

from mnist_lightning.errors import UserError
from mnist_lightning.model.checkpoint import Checkpoint

LAST = Path("checkpoints", "last.ckpt")
# What makes two runs the same experiment; the rest is where it runs, for how long, and what it keeps.
IDENTITY = ("seed_everything", "model", "data")


def new_run(root: Path, name: str | None = None) -> Path:
    """Makes and returns a folder of that name, or the first free ``version_N``. Two processes at once get two.

    Raises:
        OSError: The folder cannot be written.
        UserError: The name is taken, or is none.
    """
    if name is not None:
        if Path(name).name != name:
            raise UserError(f"expected a name for the run's folder, without slashes, got {name}; change --name")
        try:
            (root / name).mkdir(parents=True)
        except FileExistsError as error:
            raise UserError(
                f"{root / name}: expected a new name for the run, but there is one; give another --name, or resume "
                "it with --ckpt_path last"
            ) from error
        return root / name
    for number in count(len(list(root.glob("version_*")))):
        try:
            (root / f"version_{number}").mkdir(parents=True)
        except FileExistsError:
            continue
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


def last_checkpoint(root: Path, config: Mapping[str, Any]) -> Path | None:
    """Returns the newest ``last.ckpt`` among the runs of the same experiment, or None."""
    checkpoints = list(root.glob(f"*/{LAST}"))
    same = [path for path in checkpoints if _identity(config_of(run_of(path))) == _identity(config)]
    return max(same, key=lambda path: path.stat().st_mtime_ns, default=None)


def is_run_of(run: Path, config: Mapping[str, Any]) -> bool:
    """Tells whether a run is of the same experiment, for as many epochs."""
    theirs = config_of(run)
    return _identity(theirs) == _identity(config) and _epochs(theirs) == _epochs(config)


def run_of(checkpoint: Path) -> Path:
    """Returns the run folder that a checkpoint lies in."""
    folder = checkpoint.parent
    return folder.parent if folder.name == LAST.parent.name else folder


def resumes_its_run(checkpoint: Path) -> bool:
    """Tells whether training from a checkpoint continues its run's curves: from the newest state of a run's folder."""
    return checkpoint.name == LAST.name and (run_of(checkpoint) / "config.yaml").is_file()


def config_of(run: Path) -> Mapping[str, Any]:
    """Returns what a run's config.yaml says; nothing where it cannot be read."""
    try:
        config = yaml.safe_load((run / "config.yaml").read_text())
    except (OSError, yaml.YAMLError):
        return {}
    return config if isinstance(config, dict) else {}


def _identity(config: Mapping[str, Any]) -> list[Any]:
    return [config.get(key) for key in IDENTITY]


def _epochs(config: Mapping[str, Any]) -> Any:
    return config.get("trainer", {}).get("max_epochs")
