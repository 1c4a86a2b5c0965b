"""What somebody may have meant: the option behind a name that is none, the run behind a checkpoint that is missing."""

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path

from mnist_lightning.console.terminal import command

# The last part of an option's name, by what others call it: the field, other libraries, earlier versions of this one
SYNONYMS = {
    "learning_rate": "lr",
    "rate": "lr",
    "epochs": "max_epochs",
    "n_epochs": "max_epochs",
    "num_epochs": "max_epochs",
    "steps": "max_steps",
    "batch": "batch_size",
    "bs": "batch_size",
    "test_batch_size": "eval_batch_size",
    "wd": "weight_decay",
    "l2": "weight_decay",
    "decay": "weight_decay",
    "layers": "hidden",
    "hidden_size": "hidden",
    "hidden_dim": "hidden",
    "units": "hidden",
    "neurons": "hidden",
    "filters": "channels",
    "act": "activation",
    "nonlinearity": "activation",
    "drop": "dropout",
    "dropout_rate": "dropout",
    "opt": "optimizer",
    "lr_scheduler": "scheduler",
    "schedule": "scheduler",
    "criterion": "loss",
    "loss_fn": "loss",
    "smoothing": "label_smoothing",
    "model": "net",
    "arch": "net",
    "network": "net",
    "warmup": "warmup_epochs",
    "data": "data_dir",
    "dataset": "data_dir",
    "validation_split": "val_size",
    "val_split": "val_size",
    "random_seed": "seed_everything",
    "seed": "seed_everything",
    "early_stopping": "patience",
    "gpu": "accelerator",
    "cuda": "accelerator",
    "device": "accelerator",
    "gpus": "devices",
    "clip": "gradient_clip_val",
    "grad_clip": "gradient_clip_val",
    "ema": "ema_decay",
    "resume": "ckpt_path",
    "checkpoint": "ckpt_path",
    "run_name": "name",
    "width": "ink_width",
    "plots": "every_n_epochs",
    "pictures": "every_n_epochs",
    "output_dir": "output",
}
# What loaders that fetch image by image have options for
NEEDLESS = ("num_workers", "workers", "pin_memory", "persistent_workers", "prefetch_factor")


def advice(given: str, options: Iterable[str]) -> str:
    """Returns what to do instead of giving an option that there is not, as the end of a message.

    Args:
        given: ``--learning_rate``, or a word without a dash where none was expected.
        options: All that there are.
    """
    if given.startswith("-") and _last(given) in NEEDLESS:
        return "; leave it out: the images are in memory, where a loader's workers have nothing to do"
    meant = option_meant(given, options)
    return f"; did you mean {meant}?" if meant else "; see --help"


def option_meant(given: str, options: Iterable[str]) -> str | None:
    """Returns the option that somebody may have meant, or None.

    Args:
        given: ``--learning_rate``, or a word without a dash where none was expected.
        options: All that there are.
    """
    known = [each for each in options if each.startswith("--")]
    if not given.startswith("-"):
        return _file_meant(given, known)
    group, _, name = given.strip("-").replace("-", "_").rpartition(".")
    name = SYNONYMS.get(name, name)
    by_name = {_last(each): each for each in sorted(known, key=lambda each: (group in each, -len(each)))}
    if name in by_name:  # of several options the one of the same group, or else the shortest
        return by_name[name]
    whole = difflib.get_close_matches(given, known, n=1, cutoff=0.8)
    close = [by_name[each] for each in difflib.get_close_matches(name, by_name, n=1, cutoff=0.7)]
    return next(iter([*whole, *close]), None)


def _last(option: str) -> str:
    return option.strip("-").rpartition(".")[2].replace("-", "_")


def _file_meant(given: str, known: list[str]) -> str | None:
    """An option for a file that was given without one."""
    path = Path(given)
    path = path / "config.yaml" if path.is_dir() else path
    option = {".yaml": "--config", ".yml": "--config", ".ckpt": "--ckpt_path"}.get(path.suffix)
    return f"{option} {path}" if option in known else None


def lacking(arguments: Sequence[str], script: str) -> str:
    """Says that a script was called without what it needs, and what might be given.

    Args:
        arguments: Those that lack: ``CKPT``, ``IMAGE``, ``--format FORMAT``.
        script: Its file's name.
    """
    message = f"expected {' and '.join(arguments)}, got none"
    if "CKPT" not in arguments:
        return f"{message}; see --help"
    states = Path("lightning_logs").glob("*/checkpoints/*.ckpt")
    newest = max(states, key=lambda path: path.stat().st_mtime_ns, default=None)
    if newest is None:
        return f"{message}: a run's folder, or one of its checkpoints; to train one: {command('train.py')}"
    others = " ".join(arguments[1:])
    return f"{message}; for the newest run: {command(script, newest.parents[1])} {others}".rstrip()
