"""What came of a sweep: its table as Markdown, CSV and JSON, and which point won.

Nothing here is a matter of time: a sweep that was stopped and went on has the same files, bit for bit. Seconds are in
the table of scripts/compare.py.
"""

import csv
import io
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from mnist_lightning.checkpoints.runs import load_json
from mnist_lightning.files import atomic_write
from mnist_lightning.sweeps.compare import TESTED, short
from mnist_lightning.sweeps.space import Sweep, text

STATES = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}
TIMED = ("seconds",)

Row = Mapping[str, Any]


def describe(trial: FrozenTrial) -> str:
    """A trial that is done, in a line."""
    options = zip(short(sorted(trial.params)), sorted(trial.params), strict=True)
    return "  ".join([*(f"{name} {brief(trial.params[full])}" for name, full in options), outcome(as_row(trial))])


def brief(value: Any) -> str:
    """A value for the eye: what was drawn has more digits than anybody reads; JSON, CSV and the command have all."""
    return f"{value:.4g}" if isinstance(value, float) else text(value)


def outcome(row: Row) -> str:
    """What came of a point, in words."""
    if row["state"] == "failed":
        return f"failed: {row['reason']}"
    reached = f"error {row['error']:.2f}%" + (f" ± {row['error_std']:.2f}" if row["error_std"] is not None else "")
    return reached if row["state"] == "complete" else f"pruned at {reached}"


def as_row(trial: FrozenTrial) -> dict[str, Any]:
    """A trial as JSON can hold it: options, the mean over its runs and their standard deviation, and its runs."""
    runs = [
        {name: each for name, each in run.items() if name not in TIMED} for run in trial.user_attrs.get("results", [])
    ]
    errors = [run["error"] for run in runs]
    return {
        "trial": trial.number,
        "state": STATES[trial.state],
        "options": {name: _decoded(trial.params[name]) for name in sorted(trial.params)},
        "error": statistics.mean(errors) if errors else None,
        "error_std": statistics.stdev(errors) if len(errors) > 1 else None,
        "loss": statistics.mean(run["loss"] for run in runs) if runs else None,
        "parameters": runs[0]["parameters"] if runs else None,
        "runs": runs,
        "reason": trial.user_attrs.get("error"),
    }


def _decoded(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) and value.startswith("[") else value


def rank(row: Row) -> tuple[int, float, float, int]:
    """What sorts rows, the best first: those that can be compared, then the pruned, then the failed."""
    return list(STATES.values()).index(row["state"]), row["error"] or 0, row["loss"] or 0, row["trial"]


def write(folder: Path, study: optuna.Study, sweep: Sweep) -> dict[str, Any]:
    """Writes ``results.json``, ``results.csv`` and ``results.md``, and returns what the first of them holds."""
    # what another process of a search for more trials has in hand is not a result yet
    rows = [as_row(trial) for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()]
    complete = [row for row in sorted(rows, key=rank) if row["state"] == "complete"]
    results = {
        "sweep": study.user_attrs["identity"],
        "best": complete[0]["trial"] if complete else None,
        "command": sweep.command(complete[0]["options"]) if complete else None,
        "test": tested(folder, complete[0]) if complete else None,
        "importance": importance(study, rows, sweep),
        "trials": rows,
    }
    atomic_write(folder / "results.json", json.dumps(results, indent=2) + "\n")
    atomic_write(folder / "results.csv", as_csv(rows, sweep))
    atomic_write(folder / "results.md", markdown(rows, sweep))
    return results


def tested(folder: Path, row: Row) -> dict[str, Any] | None:
    """The test figures of a point, where its runs were tested: the mean over them."""
    metrics = [load_json(folder / run["run"] / TESTED) for run in row["runs"]]
    errors = [100 * (1 - each["accuracy"]) for each in metrics if each]
    if len(errors) < len(metrics):
        return None
    std = statistics.stdev(errors) if len(errors) > 1 else None
    return {"error": statistics.mean(errors), "error_std": std, "loss": statistics.mean(m["loss"] for m in metrics)}


def importance(study: optuna.Study, rows: Sequence[Row], sweep: Sweep) -> dict[str, float]:
    """How much of the difference between points each option explains; nothing where there is nothing to explain.

    Of a grid, its share of the variance: of the means over all points with one value of it. Of others, PED-ANOVA's.
    """
    errors = [row["error"] for row in rows if row["state"] == "complete"]
    if len(set(errors)) < 2:
        return {}
    if sweep.method == "grid":
        shares = {name: _explained(name, rows) / statistics.pvariance(errors) for name in sweep.space}
    else:
        evaluator = optuna.importance.PedAnovaImportanceEvaluator()  # the other one needs scikit-learn
        shares = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return dict(sorted(shares.items(), key=lambda share: (-share[1], share[0])))


def _explained(name: str, rows: Sequence[Row]) -> float:
    groups: dict[str, list[float]] = {}
    for row in rows:
        if row["state"] == "complete":
            groups.setdefault(text(row["options"][name]), []).append(row["error"])
    return statistics.pvariance([statistics.mean(group) for group in groups.values() for _ in group])


def markdown(rows: Sequence[Row], sweep: Sweep) -> str:
    """The table, best first."""
    names = list(sweep.space)
    lines = [["trial", *short(names), "validation error", "validation loss", "parameters", "runs"]]
    for row in sorted(rows, key=rank):
        reached = outcome(row).replace("error ", "").replace("|", "\\|")
        loss = "" if row["loss"] is None else f"{row['loss']:.4f}"
        parameters = "" if row["parameters"] is None else f"{row['parameters']:,}"
        options = [brief(row["options"].get(name)) for name in names]
        lines.append([str(row["trial"]), *options, reached, loss, parameters, str(len(row["runs"]))])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * (width - 1) + ":" for width in widths])
    cells = ([cell.rjust(width) for cell, width in zip(line, widths, strict=True)] for line in lines)
    return "".join(f"| {' | '.join(line)} |\n" for line in cells)


def as_csv(rows: Sequence[Row], sweep: Sweep) -> str:
    """A line for each run, in the order of the trials; a trial that has none has one without figures."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    figures = ("run", "error", "loss", "epoch", "epochs", "parameters")
    writer.writerow(["trial", "state", *sweep.space, *figures, "reason"])
    for row in rows:
        for run in row["runs"] or [{}]:
            options = [text(row["options"].get(name)) for name in sweep.space]
            writer.writerow([row["trial"], row["state"], *options, *map(run.get, figures), row["reason"]])
    return file.getvalue()
