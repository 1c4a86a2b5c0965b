"""Trains a digit classifier, tests the best checkpoint, and says where things are and what to do next."""

from mnist_lightning.console.startup import importing

with importing():
    import logging
    import shlex
    import sys
    from contextlib import nullcontext, redirect_stderr
    from io import StringIO
    from pathlib import Path

    from lightning.pytorch.loggers import TensorBoardLogger
    from lightning.pytorch.tuner.tuning import Tuner

    from mnist_lightning.checkpoints.provenance import provenance
    from mnist_lightning.checkpoints.read import read_checkpoint
    from mnist_lightning.checkpoints.runs import run_of
    from mnist_lightning.console.messages import one_line_errors
    from mnist_lightning.console.terminal import command, from_here
    from mnist_lightning.errors import UserError
    from mnist_lightning.files import atomic_write
    from mnist_lightning.reporting import charts, page, report
    from mnist_lightning.training.cli import MNISTCLI


LOWEST = 1e-6  # learning rate to begin the search with; it ends at 1, or where the loss is four times its best
UNSETTLED = 10  # steps whose loss, a running mean, is not one yet: lr_find's suggestion leaves them out too


def find_lr(cli: MNISTCLI) -> None:
    """Searches for a learning rate in a hundred steps of training, which it takes back."""
    logging.getLogger("lightning.pytorch.tuner").setLevel(logging.CRITICAL)  # the curve shows where it stopped
    with nullcontext() if sys.stderr.isatty() else redirect_stderr(StringIO()):  # where Lightning draws a bar
        finder = Tuner(cli.trainer).lr_find(cli.model, datamodule=cli.datamodule, min_lr=LOWEST, update_attr=False)
    rate = finder.suggestion() if finder else None
    if finder is None or rate is None:
        how = "leave out --trainer.fast_dev_run" if cli.config.trainer.fast_dev_run else "raise --max_epochs"
        raise UserError(f"expected enough steps to see the loss change, got too few; {how}")
    rates, losses = (finder.results[name][UNSETTLED:] for name in ("lr", "loss"))
    path = Path(cli.config.trainer.default_root_dir or "", "lightning_logs", "learning_rate.svg")
    path.parent.mkdir(exist_ok=True, parents=True)
    atomic_write(path, charts.alone(charts.learning_rates(rates, losses, rates.index(rate))))
    options = [option for option in sys.argv[1:] if option != "--find_lr"]
    print(
        f"learning rate    {rate:.1e}, where the loss fell fastest; {cli.model.hparams['lr']} is set\n"
        f"the curve        {from_here(path)}\n\nnext\n"
        f"  train with it  {command('train.py', *options, '--model.lr', f'{rate:.1e}')}"
    )


def train(cli: MNISTCLI) -> None:
    cli.fit()
    training = cli.training
    # --trainer.max_steps, max_time and fast_dev_run end within an epoch
    whole = cli.trainer.is_last_batch and not cli.trainer.fast_dev_run  # type: ignore[attr-defined]
    tested = cli.test()
    if not cli.trainer.is_global_zero:
        return
    results = report.metrics(tested, cli.datamodule) | provenance(cli.datamodule)
    count, unit = (training["epochs"], "epoch") if whole else (training["optimizer_steps"], "optimizer step")
    print(f"\ntrained {count:,} {unit}{'s' * (count != 1)} in {training['seconds']:.1f} s", end="")
    if not (checkpoint := cli.chosen_checkpoint):
        off = next((name for name in ("fast_dev_run", "barebones") if cli.config.trainer[name]), None)
        reason = off or "enable_checkpointing false"
        print(f"\n{report.summary(results)}\nno checkpoint, and so no report, because of --trainer.{reason}")
        return
    run, found = run_of(checkpoint), [read_checkpoint(checkpoint)]
    results |= {"training": training}
    answers = report.tested(results, cli.model, found, cli.datamodule.test_set, tested.get("probabilities"))
    path = page.write(run / "test", answers)
    best = answers.records[0].epoch if checkpoint.stem == "best" else None
    print(f"; epoch {best} was the best on validation" if best else "", report.summary(results), sep="\n")
    print(f"{checkpoint.stem} checkpoint  {from_here(checkpoint)}\nreport           {from_here(path)}\n\nnext")
    if isinstance(cli.trainer.logger, TensorBoardLogger):
        print(f"  curves   tensorboard --logdir {shlex.quote(from_here(run.parent))}")
    print(f"  figures  {command('test.py', run)}\n  predict  {command('predict.py', run)} IMAGE ...")
    if (run / "config.yaml").is_file():  # --trainer.logger false writes none
        print(f"  repeat   {command('train.py', '--config', run / 'config.yaml')}")


if __name__ == "__main__":
    with one_line_errors():
        cli = MNISTCLI()
        (find_lr if cli.config.find_lr else train)(cli)
