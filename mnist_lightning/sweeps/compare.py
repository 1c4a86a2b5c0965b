"""Runs side by side, best first. It reads what runs leave for machines and imports no PyTorch: hundreds in a second."""

import csv
import io
import os
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mnist_lightning.checkpoints.runs import RUN_LOCK, RUN_RECORD, best_epoch, config_of, is_locked, load_json
from mnist_lightning.console.terminal import from_here
from mnist_lightning.errors import UserError
from mnist_lightning.sweeps.space import text

# Options that change where a run is kept and what it shows, not what comes out
SILENT = (
    *("ckpt_path", "name", "find_lr", "steps_per_execution", "checkpoint.", "plots.", "model.trace", "data.mirrors"),
    *("trainer.default_root_dir", "trainer.enable_", "trainer.log_every_n_steps", "trainer.profiler"),
)
SHOWN = {"data.sha256": 12}  # characters, in a table
WIDE = 200  # characters of a table in a file or a pipe, where --csv has all of it
CELL = 16  # characters of an option, at most, where a table has to fit
TEXT = ("run", "state", "rest")  # columns that are read, where others are compared

TESTED = "test/metrics.json"  # in a run's folder
FIGURES = ("val_accuracy", "val_loss", "test_accuracy", "test_loss", "parameters", "epochs", "seconds")
FORMATS = ("{:.2%}", "{:.4f}", "{:.2%}", "{:.4f}", "{:,}", "{}", "{:.1f}")


class Run(NamedTuple):
    """A run: its folder, its options by their dotted names, and its figures, None where it has none."""

    folder: Path
    state: str  # finished, running or stopped
    options: Mapping[str, Any]
    figures: Mapping[str, Any]

    @property
    def rank(self) -> tuple[bool, float, float, str]:
        """What sorts runs: by validation accuracy, then validation loss; those without come last."""
        accuracy, loss = self.figures["val_accuracy"], self.figures["val_loss"]
        return accuracy is None, -(accuracy or 0), loss or 0, str(self.folder)


def find(folders: Sequence[Path]) -> list[Run]:
    """Returns the runs in folders and the folders in them, best first.

    Raises:
        UserError: There are none.
    """
    runs = {path: run for folder in folders for path in _run_folders(folder) if (run := read(path))}
    if not runs:
        raise UserError(f"expected folders of runs, got none in {', '.join(map(str, folders))}; give another folder")
    return sorted(runs.values(), key=lambda run: run.rank)


def _run_folders(folder: Path) -> Iterator[Path]:
    if not folder.is_dir():
        raise UserError(f"{folder}: expected a folder of runs, but there is none; give another")
    for path, folders, names in os.walk(folder):
        if "config.yaml" in names:
            folders.clear()  # what a run holds is its own
            yield Path(path)
        folders.sort()


def read(run: Path) -> Run | None:
    """Reads what a run's folder says; None where its options cannot be read."""
    if not (config := config_of(run)):
        return None
    record, tested = load_json(run / RUN_RECORD), load_json(run / TESTED)
    record = record or tested.get("training", {}) | {"finished": bool(tested)}  # of a run from before it was kept
    state = "finished" if record.get("finished") else "running" if is_locked(run / RUN_LOCK) else "stopped"
    _, accuracy, loss = best_epoch(record)
    values = accuracy, loss, tested.get("accuracy"), tested.get("loss"), *map(record.get, FIGURES[4:])
    return Run(run, state, dict(_flat(config)), dict(zip(FIGURES, values, strict=True)))


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        parts = [each for each in (value if isinstance(value, list) else [value]) if isinstance(each, dict)]
        classes: dict[str, Any] = {}  # callbacks, loggers: one, or a list of them
        for each in (part for part in parts if "class_path" in part):
            name = each["class_path"].rpartition(".")[2]
            again = sum(known.partition(" ")[0] == name for known in classes)
            classes[f"{name} {again + 1}" if again else name] = each.get("init_args") or {}
        if classes:
            yield f"{prefix}{key}", ", ".join(classes)
            yield from _flat(classes, f"{prefix}{key}.")
        elif isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def differing(runs: Sequence[Run]) -> list[str]:
    """The options in which runs differ; one that only some of them know is none."""
    names = dict.fromkeys(name for run in runs for name in run.options if not name.startswith(SILENT))
    return [name for name in names if len({_text(run.options[name]) for run in runs if name in run.options}) > 1]


def rows(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Runs as JSON can hold them: folder, state, the options in which they differ by their full names, figures."""
    names = differing(runs)
    return [
        {
            "run": str(run.folder),
            "state": run.state,
            "options": {name: run.options.get(name) for name in names},
            **run.figures,
        }
        for run in runs
    ]


def as_csv(runs: Sequence[Run]) -> str:
    """The rows as CSV, with a column for each option."""
    file = io.StringIO()
    names = differing(runs)
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["run", "state", *names, *FIGURES])
    for run in runs:
        options = (_text(run.options.get(name)) for name in names)
        writer.writerow([run.folder, run.state, *options, *run.figures.values()])
    return file.getvalue()


def table(runs: Sequence[Run], wide: int = WIDE) -> str:
    """The rows for people: figures that no run has are left out, and options go by their short names.

    Args:
        runs: Best first.
        wide: Columns that it has to fit. Where there is no room for all, it goes to the options in which most runs are
            unlike the others; what else is special about a run stands in the last column.
    """
    names = differing(runs)
    columns = {"run": ["run", *(str(run.folder) for run in runs)]}
    for name, title in zip(names, short(names), strict=True):
        columns[name] = [title, *(_brief(name, run.options[name]) if name in run.options else "" for run in runs)]
    for name, pattern in zip(FIGURES, FORMATS, strict=True):
        if any(run.figures[name] is not None for run in runs):
            values = (run.figures[name] for run in runs)
            columns[name] = [name.replace("_", " "), *("" if v is None else pattern.format(v) for v in values)]
    columns["state"] = ["", *(run.state.replace("finished", "") for run in runs)]
    if _width(columns.values()) <= wide:
        return aligned(columns)
    folders = [os.path.abspath(run.folder) for run in runs]  # noqa: PTH100  # of some the user may have given just that
    common = Path(os.path.commonpath([Path(folder).parent for folder in folders]))
    columns["run"] = ["run", *(os.path.relpath(folder, common) for folder in folders)]
    where = f"runs are in {place}; " if (place := from_here(common)) != "." else ""
    return f"{_fitted(columns, names, wide)}\n\n{where}--csv and --json have all of it"


def _fitted(columns: Mapping[str, Sequence[str]], names: Sequence[str], wide: int) -> str:
    """A table no wider than that: what most runs have in common is said once, and in a row what is different there."""
    usual = {name: Counter(columns[name][1:]).most_common(1)[0] for name in names}
    varied = [
        name for name in sorted(names, key=lambda name: usual[name][1]) if 2 * usual[name][1] < len(columns["run"])
    ]
    narrow = {name: [_cut(cell.replace("accuracy", "acc"), CELL) for cell in cells] for name, cells in columns.items()}
    narrow["run"] = [_cut(cell, wide // 4) for cell in columns["run"]]
    shown = {"run", "val_accuracy"} & columns.keys()
    for name in [*varied[:1], "test_accuracy", *varied[1:], "val_loss", "parameters", "seconds", "epochs"]:
        if name in columns and _width(narrow[each] for each in shown | {name}) <= 0.65 * wide:
            shown.add(name)
    kept = {name: cells for name, cells in narrow.items() if name in shown}
    left = {columns[name][0]: (columns[name][1:], usual[name][0]) for name in names if name not in shown}
    said = [
        ", ".join(
            [state] * bool(state) + [f"{t} {c[row] or 'none'}" for t, (c, most) in left.items() if c[row] != most]
        )
        for row, state in enumerate(columns["state"][1:])
    ]
    room = wide - _width(kept.values()) - 2
    table = aligned(kept | {"rest": ["different in", *(_cut(cell, room) for cell in said)]})
    usually = ", ".join(f"{t} {most}" for t, (_, most) in left.items() if most)
    return f"{table}\n\n{textwrap.fill(f'usually {usually}', wide)}" if usually else table


def _brief(name: str, value: Any) -> str:
    """A value for the eye."""
    return f"{value:.4g}" if isinstance(value, float) else _text(value)[: SHOWN.get(name)]


def _cut(cell: str, room: int) -> str:
    """What fits: the beginning and the end of a name or a path, the beginning of anything else."""
    if len(cell) <= room:
        return cell
    end = 0 if " " in cell or cell.startswith("[") else room // 2
    return f"{cell[: room - end - 1]}…{cell[len(cell) - end :]}"


def _width(columns: Iterable[Sequence[str]]) -> int:
    return sum(2 + max(map(len, column)) for column in columns) - 2


def aligned(columns: Mapping[str, Sequence[str]]) -> str:
    """Columns side by side: text begins at one place, and what is compared ends there."""
    padded = [
        [cell.ljust(width) if name in TEXT else cell.rjust(width) for cell in cells]
        for name, cells in columns.items()
        for width in [max(map(len, cells))]
    ]
    return "\n".join("  ".join(line).rstrip() for line in zip(*padded, strict=True))


def short(names: Sequence[str]) -> list[str]:
    """Options by the last part of their names, where that is enough to tell them apart."""
    count = Counter(name.rpartition(".")[2] for name in names)
    return [last if count[last := name.rpartition(".")[2]] == 1 else name for name in names]


def _text(value: Any) -> str:
    return "" if value is None else text(value)
