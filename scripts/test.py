"""Tests a checkpoint, or an ensemble of several, on the test set of their data, or on other data that is asked for."""

import os
from pathlib import Path

from mnist_lightning.console.startup import importing

with importing():
    from lightning.pytorch import Trainer

    from mnist_lightning.checkpoints.provenance import data_for, provenance
    from mnist_lightning.checkpoints.read import load_ensemble, read_checkpoint
    from mnist_lightning.checkpoints.runs import run_of, stands_for_run
    from mnist_lightning.console.messages import one_line_errors, trainer_errors
    from mnist_lightning.console.parser import Parser
    from mnist_lightning.data.download import Source
    from mnist_lightning.reporting import page, report
    from mnist_lightning.training.callbacks import StepProgressBar
    from mnist_lightning.training.cli import evaluate


def main() -> None:
    parser = Parser(description=__doc__, usage="%(prog)s CKPT [CKPT ...] [--OPTION VALUE ...]")
    parser.add_argument(
        "ckpt",
        nargs="+",
        help="A run's folder, for its best checkpoint, or a .ckpt file. Several answer together, with the mean of "
        "their probabilities.",
    )
    parser.add_argument(
        "--output",
        type=Path | None,
        help="Folder for the report (default: test, or ensemble, in the run's folder; of its last.ckpt, test_last; of "
        "other data, test_on_NAME).",
    )
    parser.add_argument("--accelerator", type=str, default="auto", help="Where to test: cpu, gpu, or auto.")
    parser.add_argument("--data.data_dir", type=str | None, help="Folder of other digits to test on.")
    parser.add_argument("--data.source", type=Source | None, help="Where they come from, as for train.py.")
    args = parser.parse_args()
    checkpoints = [read_checkpoint(path) for path in args.ckpt]
    first, *others = checkpoints
    data = data_for(first, args.data.data_dir, args.data.source)
    known = provenance(data, first)
    print(known["provenance"])

    model = load_ensemble(checkpoints) if others else first.classifier()
    with trainer_errors():
        trainer = Trainer(
            accelerator=args.accelerator,
            devices=1,
            logger=False,
            default_root_dir=os.devnull,  # where Lightning would look for a requeued SLURM job, to test that
            enable_model_summary=False,
            callbacks=[StepProgressBar()],
        )
    figures = evaluate(trainer, model, data)
    results = report.metrics(figures, data) | known
    tested = report.tested(results, model, checkpoints, data.test_set, figures.get("probabilities"))
    print(report.table(tested.results))
    folder = "ensemble" if others else "test" if stands_for_run(first.path) else f"test_{first.path.stem}"
    folder += "" if known["own_test_set"] else f"_on_{data.dataset_name}"
    output = args.output or run_of(first.path) / folder
    written = page.write(output, tested)
    print(f"\nwritten to {output}: metrics.json, the plots, and {written.name}")


if __name__ == "__main__":
    with one_line_errors():
        main()
