"""A run's folder: which run a checkpoint is of, what the run says of itself, and where what it names may lie."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

# How far it is, for who does not want to open a checkpoint; and what is locked while it trains
RUN_RECORD = "training.json"
RUN_LOCK = ".lock"

YAML_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # in C, four times as fast, where PyYAML was built with it
PROJECT = Path(__file__).resolve().parents[2]


def is_locked(path: Path) -> bool:
    """Tells whether a process that lives holds the lock of a file."""
    try:
        if path.exists():
            FileLock(path, blocking=False).acquire().lock.release()
    except Timeout:
        return True
    except OSError:  # another user's, or an archive: it is not for us to take
        return False
    return False


def checkpoint_of(path: Path) -> Path:
    """The best checkpoint of a run's folder, or its last where nothing was validated; another path as it is."""
    names = (path / "checkpoints" / name for name in ("best.ckpt", "last.ckpt"))
    return next((name for name in names if name.is_file()), path)


def places(path: str | Path, *files: Path) -> list[Path]:
    """Returns where a path that files name may lead: from the current folder, those above the files, the project's."""
    bases = [Path(), *(folder for file in files for folder in file.resolve().parents), PROJECT]
    return list(dict.fromkeys(base / path for base in bases))


def run_of(checkpoint: Path) -> Path:
    """Returns the run folder that a checkpoint lies in."""
    folder = checkpoint.parent if checkpoint.parent.name else checkpoint.absolute().parent
    return folder.parent if folder.name == "checkpoints" else folder


def stands_for_run(checkpoint: Path) -> bool:
    """Tells whether a checkpoint is the one that its run's folder is taken for."""
    return checkpoint_of(run_of(checkpoint)).absolute() == checkpoint.absolute()


def load_json(path: Path) -> dict[str, Any]:
    """What a file holds; nothing where it is not there, or damaged."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def best_epoch(record: Mapping[str, Any]) -> tuple[int | None, float | None, float | None]:
    """The epoch that ``best.ckpt`` is of, the run's first with the highest validation accuracy; that; and its loss."""
    history, first = record.get("history", {}), record.get("first_epoch", 1)
    accuracies = {epoch: accuracy for epoch, accuracy in history.get("val/accuracy", []) if epoch >= first}
    if not accuracies:
        return None, None, None
    best = max(accuracies, key=accuracies.__getitem__)
    return best, accuracies[best], dict(map(tuple, history.get("val/loss", []))).get(best)


def config_of(run: Path) -> Mapping[str, Any]:
    """Returns what a run's config.yaml says; nothing where it cannot be read."""
    try:
        config = yaml.load((run / "config.yaml").read_text(), YAML_LOADER)
    except (OSError, ValueError, yaml.YAMLError):  # ValueError: it is not UTF-8
        return {}
    return config if isinstance(config, dict) else {}


def part_of(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Returns a group of the options in a config.yaml; nothing where there is none."""
    part = config.get(name)
    return part if isinstance(part, dict) else {}
