"""Tests a checkpoint, or an ensemble of several. They know their model and data settings; flags override the data's."""

from pathlib import Path

from mnist_lightning.console.startup import importing

with importing():
    from lightning.pytorch import Trainer

    from mnist_lightning.console.messages import one_line_errors, trainer_errors
    from mnist_lightning.console.parser import Parser
    from mnist_lightning.data.datamodule import MNISTDataModule
    from mnist_lightning.model.checkpoint import load_ensemble, read_checkpoint
    from mnist_lightning.reporting import report
    from mnist_lightning.training.callbacks import StepProgressBar
    from mnist_lightning.training.cli import evaluate
    from mnist_lightning.training.run_folder import run_of


def main() -> None:
    parser = Parser(description=__doc__, usage="%(prog)s CKPT [CKPT ...] [--OPTION VALUE ...]")
    parser.add_argument(
        "ckpt",
        nargs="+",
        help="A run's folder, for its best checkpoint, or a .ckpt file. Several answer together, with the mean of "
        "their probabilities.",
    )
    parser.add_argument(
        "--output", type=Path | None, help="Folder for the report (default: test, or ensemble, in the run's folder)."
    )
    parser.add_argument("--accelerator", type=str, default="auto", help="Where to test: cpu, gpu, or auto.")
    parser.add_class_arguments(MNISTDataModule, "data")
    parser.set_defaults({"data.data_dir": None})  # to tell what the user gives
    given = parser.parse_args()
    checkpoints = [read_checkpoint(path) for path in given.ckpt]
    first, *others = checkpoints
    parser.set_defaults({f"data.{name}": value for name, value in first.data_options(given.data.data_dir).items()})
    args = parser.instantiate(parser.parse_args())

    model = load_ensemble(checkpoints) if others else first.classifier()
    with trainer_errors():
        trainer = Trainer(
            accelerator=args.accelerator,
            devices=1,
            logger=False,
            enable_model_summary=False,
            callbacks=[StepProgressBar()],
        )
    tested = evaluate(trainer, model, args.data)
    results = report.metrics(tested, args.data.dataset_name, args.data.test_sha256)
    name = f"ensemble of {len(checkpoints)}" if others else str(first.path)
    if others:
        print(f"{name}: the mean of their probabilities")
    print(report.table(results))
    output = args.output or run_of(first.path) / ("ensemble" if others else "test")
    page = report.write(output, name, results, model, args.data.test_set, {} if others else first.history)
    print(f"\nwritten to {output}: metrics.json, the plots, and {page.name}")


if __name__ == "__main__":
    with one_line_errors():
        main()
