"""Tests a checkpoint. It knows its own model and data settings; flags override the data's."""

from pathlib import Path

from mnist_lightning.startup import importing

with importing():
    from lightning.pytorch import Trainer

    from mnist_lightning import report
    from mnist_lightning.callbacks import StepProgressBar
    from mnist_lightning.checkpoints import data_settings, load_classifier, read_checkpoint
    from mnist_lightning.cli import Parser, evaluate, one_line_errors, trainer_errors
    from mnist_lightning.datamodule import MNISTDataModule
    from mnist_lightning.runs import run_of


def main() -> None:
    parser = Parser(description=__doc__, usage="%(prog)s CKPT [--OPTION VALUE ...]")
    parser.add_argument("ckpt", help="The checkpoint: a .ckpt file that scripts/train.py wrote.")
    parser.add_argument(
        "--output", type=Path | None, help="Folder for metrics.json (default: test, in the run's folder)."
    )
    parser.add_argument("--accelerator", type=str, default="auto", help="Where to test: cpu, gpu, or auto.")
    parser.add_class_arguments(MNISTDataModule, "data")
    ckpt = parser.parse_args().ckpt
    settings = data_settings(read_checkpoint(ckpt), ckpt)
    parser.set_defaults({f"data.{name}": value for name, value in settings.items()})
    args = parser.instantiate(parser.parse_args())

    with trainer_errors():
        trainer = Trainer(
            accelerator=args.accelerator,
            devices=1,
            logger=False,
            enable_model_summary=False,
            callbacks=[StepProgressBar()],
        )
    results = evaluate(trainer, load_classifier(args.ckpt), args.data)
    print(report.table(results))
    output = args.output or run_of(Path(args.ckpt)) / "test"
    print(f"\nwritten to {report.write_json(results, output)}")


if __name__ == "__main__":
    with one_line_errors():
        main()
