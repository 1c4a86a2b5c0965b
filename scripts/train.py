"""Trains a digit classifier, tests the best checkpoint, and says where things are and what to do next."""

from mnist_lightning.console.startup import importing

with importing():
    from lightning.pytorch.loggers import TensorBoardLogger

    from mnist_lightning.console.messages import one_line_errors
    from mnist_lightning.reporting import report
    from mnist_lightning.training.cli import MNISTCLI
    from mnist_lightning.training.run_folder import run_of


def main() -> None:
    cli = MNISTCLI()
    cli.fit()
    training, history = cli.training, cli.model.history
    tested = cli.test()
    if cli.trainer.is_global_zero:
        results = report.metrics(tested, cli.datamodule.dataset_name, cli.datamodule.test_sha256)
        print(f"\ntrained {training['epochs']} epochs in {training['seconds']:.1f} s; {report.summary(results)}")
        if checkpoint := cli.chosen_checkpoint:
            run = run_of(checkpoint)
            results |= {"training": training}
            logged = isinstance(cli.trainer.logger, TensorBoardLogger)
            curves = f"  curves         tensorboard --logdir {run.parent}\n" if logged else ""
            page = report.write(run / "test", f"{checkpoint}", results, cli.model, cli.datamodule.test_set, history)
            print(
                f"{checkpoint.stem} checkpoint  {checkpoint}\n"
                f"report           {page}\n\nnext\n"
                f"{curves}"
                f"  every figure   python scripts/test.py {checkpoint}\n"
                f"  your digits    python scripts/predict.py {checkpoint} IMAGE ..."
            )
            if (run / "config.yaml").is_file():  # --trainer.logger false writes none
                print(f"  the same again python scripts/train.py --config {run / 'config.yaml'}")


if __name__ == "__main__":
    with one_line_errors():
        main()
