"""Repeats the published results: trains each configuration with several seeds, and sets its error beside the paper."""

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mnist_lightning.checkpoints.runs import load_json
from mnist_lightning.console.arguments import Arguments, one_line
from mnist_lightning.errors import UserError
from mnist_lightning.files import atomic_write

with one_line(extra="sweep"):
    from optuna.trial import FrozenTrial

    from mnist_lightning.sweeps import results, supervisor
    from mnist_lightning.sweeps.compare import TESTED
    from mnist_lightning.sweeps.study import STORE, Plan, Point

CONFIGS = Path(__file__).resolve().parents[1] / "configs"

UPRIGHT = "--model.deslant=true"
# Each kind sees other digits: on 10,000 held-out images upright nets of equal distortions had an error of 0.51 to 0.57
# together, and 0.47 when one of them had learned from stronger ones.
MEMBERS = (
    (),
    (UPRIGHT, "--model.ink_width=4"),
    (UPRIGHT, "--model.ink_width=5"),
    (UPRIGHT, "--model.ink_width=6"),
    (UPRIGHT, "--model.ink_width=5", "--data.elastic=1.0"),
)

LECUN = "LeCun et al. 1998"
SIMARD = "Simard et al. 2003"
CIRESAN = "Ciresan et al. 2012"


class Row(NamedTuple):
    """A line of the table: a configuration, and the test error (percent) that its source reports."""

    config: str
    published: float | None
    source: str | None
    seeds: int = 3
    members: tuple[tuple[str, ...], ...] = ()  # of an ensemble: the options of the first, the second, ...; then again
    of: str | None = None  # of an ensemble of another row's runs: that row

    @property
    def file(self) -> str:
        return self.of or self.config


ROWS = (
    Row("linear", 12.0, LECUN),
    Row("mlp_300_mse", 4.7, LECUN),
    Row("mlp_500_150", 2.95, LECUN),
    Row("mlp_800", 1.6, SIMARD),
    Row("mlp_800_affine", 1.1, SIMARD),
    Row("mlp_800_elastic", 0.7, SIMARD),
    Row("mlp_800_ensemble", 0.39, "Meier et al. 2011", seeds=25, members=MEMBERS),
    Row("mlp_1024_dropout", 1.25, "Srivastava et al. 2014"),
    Row("lenet5", 0.95, LECUN),
    Row("lenet5_distorted", 0.8, LECUN),
    Row("convnet", 0.4, SIMARD, seeds=6),
    Row("convnet_ensemble", 0.23, CIRESAN, seeds=6, of="convnet"),
    Row("mlp_2500_deep", 0.35, "Ciresan et al. 2010", seeds=1),
    Row("simplenet", None, None, seeds=5),
    Row("simplenet_best", None, None, seeds=5),
    Row("convnet_fast", 0.96, "train_mnist_fast", seeds=5),
    Row("convnet_10s", None, None, seeds=5),
    Row("small_10k", 0.5, "era-s6-ram"),
    Row("small_1k", 0.97, "JoshWarn"),
    Row("mlp_permuted", 0.57, "Pezeshki et al. 2016"),
)


def main() -> None:
    parser = Arguments(description=__doc__)
    parser.add_argument("config", nargs="*", help="Rows of the table; all by default.")
    parser.add_argument("--seeds", type=int, help="Runs of each, with seeds 0, 1, ...; the row's own by default.")
    parser.add_argument("--data_dir", help="Folder of the four IDX files; the row's own by default.")
    parser.add_argument("--jobs", type=int, default=1, help="Processes to train in, with a thread each if several.")
    parser.add_argument("--output", type=Path, default=Path("lightning_logs", "reproduce"), help="Folder to write to.")
    args = parser.parse_args()
    known = [row.config for row in ROWS]
    for name in args.config:
        if name not in known:
            raise UserError(f"expected rows of {', '.join(known)}; got {name}")
    for name in ("seeds", "jobs"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise UserError(f"expected --{name} to be at least 1, got {getattr(args, name)}")
    rows = read(args.output)
    for row in ROWS:
        if not args.config or row.config in args.config:
            made = reproduce(row, args.seeds or row.seeds, args.data_dir, args.output, args.jobs)
            rows = read(args.output) | {row.config: made}  # with what another terminal has written meanwhile
            rows = {name: rows[name] for name in known if name in rows}
            write(list(rows.values()), args.output)
    print(table(list(rows.values())))
    print(f"\nwritten to {args.output / 'results.json'} and {args.output / 'results.md'}")


def reproduce(row: Row, seeds: int, data_dir: str | None, output: Path, jobs: int) -> dict[str, Any]:
    """Trains what of a row is not trained yet, a sweep over its seeds, and returns its line of results.json."""
    points = [Point({}, [(f"{row.file}/seed_{seed}", arguments(row, seed, data_dir))]) for seed in range(seeds)]
    plan = Plan({"row": row.file}, points, measure="test", name=row.file)
    trials = supervisor.run(output, plan, jobs, describe).get_trials(deepcopy=False)[:seeds]
    for trial in trials:
        if "error" in trial.user_attrs:
            again = f"to try it again, move {output / STORE} away: what is trained stays"
            raise UserError(f"{describe(trial)}; {again}")
    tested = [trial.user_attrs["results"][0] for trial in trials]
    errors = [run["error"] for run in tested]
    (images,) = {load_json(output / run["run"] / TESTED)["num_samples"] for run in tested}
    mean, std = statistics.mean(errors), statistics.stdev(errors) if seeds > 1 else None
    if row.members or row.of:
        mean, std = ensemble_error([output / run["run"] for run in tested]), None
    return {
        "config": row.config,
        "published_error": row.published,
        "error_mean": round(mean, 3),
        "error_std": None if std is None else round(std, 3),
        "seeds": seeds,
        "parameters": tested[0]["parameters"],
        "epochs": tested[0]["epochs"],
        "seconds": round(statistics.median(run["seconds"] for run in tested), 1),
        "source": row.source,
        "error_interval": interval(mean, images),
    }


def interval(error: float, images: int = 10_000) -> list[float]:
    """The 95% interval (Wilson's) of an error, in percent, that so many test images leave; more seeds do not help."""
    from scipy.stats import binomtest  # takes half a second

    bounds = binomtest(round(error / 100 * images), images).proportion_ci(method="wilson")
    return [round(100 * bound, 2) for bound in bounds]


def arguments(row: Row, seed: int, data_dir: str | None) -> list[str]:
    """What ``scripts/train.py`` would be given."""
    # never the offline sample, which the papers did not use
    data = [f"--data.data_dir={data_dir}", "--data.source=files"] if data_dir else ["--data.source=download"]
    member = row.members[seed % len(row.members)] if row.members else ()
    return [f"--config={CONFIGS / row.file}.yaml", f"--seed_everything={seed}", *data, *member]


def describe(trial: FrozenTrial) -> str:
    return f"{trial.user_attrs['runs'][0][0]}  {results.outcome(results.as_row(trial))}"


def ensemble_error(runs: Sequence[Path]) -> float:
    """The test error of the members together, in percent."""
    from mnist_lightning.console.startup import importing

    with importing():  # where a row asks for it: it takes a second
        from lightning.pytorch import Trainer

        from mnist_lightning.checkpoints.provenance import data_for
        from mnist_lightning.checkpoints.read import load_ensemble, read_checkpoint
        from mnist_lightning.console.messages import quiet
        from mnist_lightning.training.cli import evaluate
        from mnist_lightning.training.run_folder import LAST

    quiet()
    members = [read_checkpoint(run / LAST) for run in runs]
    trainer = Trainer(devices=1, logger=False, enable_model_summary=False, enable_progress_bar=False)
    return 100 * (1 - float(evaluate(trainer, load_ensemble(members), data_for(members[0]))["accuracy"]))


def read(output: Path) -> dict[str, dict[str, Any]]:
    """Returns the lines of an earlier results.json by their configuration."""
    path = output / "results.json"
    try:
        rows = {row["config"]: row for row in json.loads(path.read_text())} if path.is_file() else {}
        for row in rows.values():
            if "error_interval" not in row:  # a table from before there were intervals
                row["error_interval"] = interval(row["error_mean"])
        return rows
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: expected what this script wrote, but it is damaged; move it away") from error


def write(rows: Sequence[dict[str, Any]], output: Path) -> None:
    """Writes results.json and results.md."""
    output.mkdir(parents=True, exist_ok=True)
    atomic_write(output / "results.json", json.dumps(rows, indent=2) + "\n")
    atomic_write(output / "results.md", table(rows) + "\n")


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Returns the results as a Markdown table."""
    lines = [
        "| configuration | published error | from | our error | 95% | seeds | parameters | epochs | seconds each |",
        "| --- | ---: | --- | ---: | :---: | ---: | ---: | ---: | ---: |",
    ]
    files = {row.config: row.file for row in ROWS}
    for row in rows:
        published = "" if row["published_error"] is None else f"{row['published_error']:.2f}%"
        spread = "" if row["error_std"] is None else f" ± {row['error_std']:.2f}"
        low, high = row["error_interval"]
        lines.append(
            f"| [`{row['config']}`](configs/{files[row['config']]}.yaml) | {published} | {row['source'] or ''} "
            f"| **{row['error_mean']:.2f}%**{spread} | {low:.2f} to {high:.2f} | {row['seeds']} "
            f"| {row['parameters']:,} | {row['epochs']} | {row['seconds']:.1f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    with one_line():
        main()
