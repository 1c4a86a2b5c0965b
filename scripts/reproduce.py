"""Repeats the published results: trains each configuration with several seeds, and sets its error beside the paper."""

import json
import os
import shutil
import statistics
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

from mnist_lightning.console.startup import importing

with importing():
    import lightning.pytorch as L
    from lightning.pytorch import Trainer
    from tqdm import tqdm

    from mnist_lightning import files
    from mnist_lightning.console.messages import one_line_errors
    from mnist_lightning.console.parser import Parser
    from mnist_lightning.errors import UserError
    from mnist_lightning.model.checkpoint import load_ensemble, read_checkpoint
    from mnist_lightning.training.cli import MNISTCLI, evaluate
    from mnist_lightning.training.run_folder import LAST, is_run_of

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


class Row(NamedTuple):
    """A line of the table: a configuration, and the test error (percent) that its source reports."""

    config: str
    published: float | None
    source: str | None
    seeds: int = 3
    members: tuple[tuple[str, ...], ...] = ()  # of an ensemble: the options of the first, the second, ...; then again


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
    Row("convnet", 0.4, SIMARD),
    Row("mlp_2500_deep", 0.35, "Ciresan et al. 2010", seeds=1),
    Row("simplenet", None, None, seeds=5),
    Row("simplenet_best", None, None, seeds=5),
    Row("convnet_fast", 0.96, "train_mnist_fast", seeds=5),
)


def main() -> None:
    parser = Parser(description=__doc__, usage="%(prog)s [CONFIG ...] [--OPTION VALUE ...]")
    parser.add_argument(
        "config", nargs="*", help="Rows to run, by the names of their files in configs; all by default."
    )
    parser.add_argument(
        "--seeds", type=int | None, help="Runs of each, with seeds 0, 1, ...; the row's own by default."
    )
    parser.add_argument("--data_dir", type=str | None, help="Folder of the four IDX files; the row's own by default.")
    parser.add_argument("--output", type=Path, default=Path("lightning_logs", "reproduce"), help="Folder to write to.")
    args = parser.parse_args()
    known = [row.config for row in ROWS]
    for name in args.config:
        if name not in known:
            raise UserError(f"expected rows of {', '.join(known)}; got {name}")
    if args.seeds is not None and args.seeds < 1:
        raise UserError(f"expected --seeds to be at least 1, got {args.seeds}")
    results = read(args.output)
    for row in ROWS:
        if not args.config or row.config in args.config:
            results[row.config] = reproduce(row, args.seeds or row.seeds, args.data_dir, args.output)
            results = {name: results[name] for name in known if name in results}
            write(list(results.values()), args.output)
    print(table(list(results.values())))
    print(f"\nwritten to {args.output / 'results.json'} and {args.output / 'results.md'}")


def reproduce(row: Row, seeds: int, data_dir: str | None, output: Path) -> dict[str, Any]:
    """Trains what of a row is not trained yet, and returns its line of results.json."""
    runs = [output / row.config / f"seed_{seed}" for seed in range(seeds)]
    with tqdm(
        desc=row.config, unit="epoch", bar_format="{desc:18} |{bar:20}| {n_fmt}/{total_fmt} epochs{postfix}"
    ) as bar:
        tested = [train(row, seed, run, data_dir, len(runs), bar) for seed, run in enumerate(runs)]
    errors = [100 * (1 - results["accuracy"]) for results in tested]
    mean, std = statistics.mean(errors), statistics.stdev(errors) if seeds > 1 else None
    if row.members:
        mean, std = ensemble_error([run / LAST for run in runs], row, data_dir), None
    return {
        "config": row.config,
        "published_error": row.published,
        "error_mean": round(mean, 3),
        "error_std": None if std is None else round(std, 3),
        "seeds": seeds,
        "parameters": tested[0]["parameters"],
        "epochs": tested[0]["epochs"],
        "seconds": round(statistics.median(results["seconds"] for results in tested), 1),
        "source": row.source,
    }


def train(row: Row, seed: int, run: Path, data_dir: str | None, runs: int, bar: "tqdm[Any]") -> dict[str, Any]:
    """Trains and tests one run, or resumes it, or reads what it reached."""
    cli = command_line(row, seed, data_dir)
    epochs = cli.trainer.max_epochs or 0
    bar.total = runs * epochs
    if run.exists() and not (run / LAST).is_file():
        shutil.rmtree(run)  # it was stopped before its first epoch ended: there is no state to resume from
    if run.exists() and not is_run_of(run, cli.plain_config):
        raise UserError(
            f"{run}: expected a run of {row.config}, but its settings were others; move it away, or give --output"
        )
    result = run / "result.json"
    if not result.is_file():
        cli.trainer.callbacks.append(EpochCounter(bar, seed * epochs))  # type: ignore[attr-defined]  # set, but not declared
        with stop_said(), Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
            cli.fit(run)
            training = cli.training
            files.atomic_write(
                result, json.dumps({"accuracy": cli.test()["accuracy"].item(), **training}, indent=2) + "\n"
            )
    results: dict[str, Any] = json.loads(result.read_text())
    bar.update((seed + 1) * epochs - bar.n)
    bar.set_postfix_str(f"seed {seed}: error {1 - results['accuracy']:.2%}")
    return results


@contextmanager
def stop_said() -> Iterator[None]:
    """Says how to resume when Ctrl-C or SIGTERM stops a run."""
    try:
        yield
    except SystemExit:
        print("\nstopped; the same command resumes here", file=sys.stderr)
        raise


def command_line(row: Row, seed: int, data_dir: str | None) -> MNISTCLI:
    """What ``scripts/train.py --config`` makes of a configuration."""
    # never the offline sample, which the papers did not use
    data = ["--data.data_dir", data_dir, "--data.source", "files"] if data_dir else ["--data.source", "download"]
    options = ["--seed_everything", str(seed), "--trainer.enable_progress_bar", "false"]
    member = row.members[seed % len(row.members)] if row.members else ()
    return MNISTCLI(["--config", str(CONFIGS / f"{row.config}.yaml"), *options, *data, *member])


class EpochCounter(L.Callback):
    """Moves a bar on at the end of each epoch."""

    def __init__(self, bar: "tqdm[Any]", before: int) -> None:
        self.bar, self.before = bar, before

    def on_train_epoch_end(self, trainer: Trainer, *_: Any) -> None:
        self.bar.update(self.before + trainer.current_epoch + 1 - self.bar.n)


def ensemble_error(paths: Sequence[Path], row: Row, data_dir: str | None) -> float:
    """The test error of the members together, in percent."""
    trainer = Trainer(devices=1, logger=False, enable_model_summary=False, enable_progress_bar=False)
    data = command_line(row, 0, data_dir).datamodule
    return 100 * (
        1 - float(evaluate(trainer, load_ensemble([read_checkpoint(path) for path in paths]), data)["accuracy"])
    )


def read(output: Path) -> dict[str, dict[str, Any]]:
    """Returns the lines of an earlier results.json by their configuration."""
    path = output / "results.json"
    try:
        return {row["config"]: row for row in json.loads(path.read_text())} if path.is_file() else {}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: expected what this script wrote, but it is damaged; move it away") from error


def write(results: Sequence[dict[str, Any]], output: Path) -> None:
    """Writes results.json and results.md."""
    output.mkdir(parents=True, exist_ok=True)
    files.atomic_write(output / "results.json", json.dumps(results, indent=2) + "\n")
    files.atomic_write(output / "results.md", table(results) + "\n")


def table(results: Sequence[dict[str, Any]]) -> str:
    """Returns the results as a Markdown table."""
    lines = [
        "| configuration | published error | from | our error | seeds | parameters | epochs | seconds each |",
        "| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in results:
        published = "" if row["published_error"] is None else f"{row['published_error']:.2f}%"
        spread = "" if row["error_std"] is None else f" ± {row['error_std']:.2f}"
        lines.append(
            f"| [`{row['config']}`](configs/{row['config']}.yaml) | {published} | {row['source'] or ''} "
            f"| **{row['error_mean']:.2f}%**{spread} | {row['seeds']} | {row['parameters']:,} | {row['epochs']} "
            f"| {row['seconds']:.1f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    with one_line_errors():
        main()
