"""A process that trains what a sweep asks for, trial by trial, until there is nothing left to take.

A process of its own, as one that runs out of memory is killed: then its trial fails, and not the sweep.
``python -m mnist_lightning.sweeps.worker FOLDER`` reads its plan from standard input, which stays open as long as the
sweep lives; when that ends, however it ends, the run in hand is saved and the process ends too. With the number of a
trial after the folder it tests the runs of that trial instead.
"""

from mnist_lightning.console.startup import importing

with importing():
    import itertools
    import math
    import os
    import shutil
    import signal
    import socket
    import statistics
    import sys
    import threading
    import time
    from collections.abc import Sequence
    from pathlib import Path
    from typing import Any

    import lightning.pytorch as L
    import optuna
    from lightning.pytorch import Trainer
    from optuna.trial import Trial, TrialState

    from mnist_lightning.checkpoints.provenance import provenance
    from mnist_lightning.checkpoints.read import read_checkpoint
    from mnist_lightning.checkpoints.runs import RUN_RECORD, best_epoch, load_json
    from mnist_lightning.console.messages import one_line_errors, trainer_errors
    from mnist_lightning.data.datamodule import MNISTDataModule
    from mnist_lightning.errors import UserError
    from mnist_lightning.reporting import page, report
    from mnist_lightning.sweeps import study as store
    from mnist_lightning.sweeps.compare import TESTED
    from mnist_lightning.sweeps.space import ends, fingerprint, text
    from mnist_lightning.sweeps.study import CONFIG, DATA, PRUNERS, Claim, Plan
    from mnist_lightning.training.cli import MNISTCLI, evaluate
    from mnist_lightning.training.run_folder import LAST, is_run_of

QUIET = "--trainer.enable_progress_bar=false"
WHERE = ("config", "data.data_dir", "data.source")  # options that say which data
WAIT = 0.5  # seconds, to see whether somebody gives a trial back


class Parsed(MNISTCLI):
    """A command line that was read, and nothing built of it."""

    def before_instantiate_classes(self) -> None:
        pass

    def instantiate_classes(self) -> None:
        pass


def data_of(plan: Plan) -> dict[str, str]:
    """Returns the identity of a sweep's data, ready to train on, and of its --config files; of each that is swept.

    Raises:
        UserError: It can't be used.
    """
    space = plan.sweep.space if plan.sweep else {}
    swept = [name for name in WHERE if name in space]
    found = {}
    for values in itertools.product(*(space[name] for name in swept)):
        more = [f"--{name}={text(value)}" for name, value in zip(swept, values, strict=True)]
        config = Parsed([*_first(plan), *more, QUIET]).config
        data = MNISTDataModule(**config.data.as_dict())
        data.prepare_data()
        data.setup("fit")
        if plan.measure == "validation" and not len(data.val_set):
            raise UserError("expected validation images, by which a sweep compares, got none; raise --data.val_size")
        found[" ".join([DATA, *map(text, values)])] = data.sha256
        files = filter(None, config.config or [])  # an option's value can be the content itself
        found |= {f"{CONFIG} {file}": fingerprint(Path(file.absolute)) for file in files}
    return found


def check(plan: Plan) -> None:
    """Checks that every value of each option can be one, before there is a study.

    Raises:
        UserError: One can't; or runs would be spread over several processes.
    """
    cli = Parsed([*_first(plan), QUIET])
    for name, values in (plan.sweep.space if plan.sweep else {}).items():
        for value in ends(values):
            cli.parser.parse_args([*_first(plan), f"--{name}={text(value)}"])
    options = cli.config.trainer
    with trainer_errors():
        trainer = Trainer(**{name: options[name] for name in ("accelerator", "devices", "num_nodes")}, logger=False)
    if trainer.world_size > 1:
        raise UserError(
            f"expected one device for each run of a sweep, got --devices {options.devices}; sweep.py --jobs shares the "
            "work"
        )


def _first(plan: Plan) -> Sequence[str]:
    """What train.py is given for the first run."""
    if plan.points or not plan.sweep:
        return plan.points[0].runs[0][1]
    return plan.sweep.runs({name: ends(values)[0] for name, values in plan.sweep.space.items()}, 0)[0][1]


def work(folder: Path, plan: Plan) -> None:
    """Takes trials until all are done, by this process or others."""
    plan = plan._replace(identity={**plan.identity, **data_of(plan)})
    if not store.load(folder, plan.name):
        check(plan)
    study = store.create(folder, plan)
    print(store.READY, flush=True)  # for the supervisor; and no more: what runs print is for nobody
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    study.pruner = PRUNERS[plan.sweep.pruner]() if plan.sweep and plan.sweep.method == "search" else PRUNERS["none"]()
    worker = f"{socket.gethostname()}:{os.getpid()}"
    while True:
        if claim := store.claim(folder, study, plan):
            claim.trial.set_user_attr("workers", [*claim.trial.user_attrs.get("workers", []), worker])
            with claim.lock:
                take(folder, study, claim, plan.measure)
        elif any(not trial.state.is_finished() for trial in study.get_trials(deepcopy=False)):
            time.sleep(WAIT)
        else:
            return


def take(folder: Path, study: optuna.Study, claim: Claim, measure: str) -> None:
    """Trains the runs of a trial and tells the study what came of it. What goes wrong with it is its result."""
    trial, runs = claim.trial, claim.trial.user_attrs["runs"]
    results: list[dict[str, Any]] = []
    watch = Watch(study, trial)
    try:
        for name, args in runs:
            results.append({"run": name, **train(folder / name, [*args, QUIET], watch, measure)})
            watch.before.append(results[-1]["error"])
            if watch.pruned:
                break
        trial.set_user_attr("results", results)
        if watch.pruned:
            study.tell(trial, state=TrialState.PRUNED)
        else:
            study.tell(trial, statistics.mean(result["error"] for result in results))
    except (OSError, optuna.exceptions.StorageInternalError):
        raise  # the disk is full, say: every other trial would fail too
    except Exception as error:  # whatever PyTorch makes of these options
        kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
        trial.set_user_attr("results", results)
        store.fail(study, trial, f"{kind}{error}")


class Watch(L.Callback):
    """Reports a trial's validation after each epoch, and ends it when it is hopeless or has lost its numbers."""

    def __init__(self, study: optuna.Study, trial: Trial) -> None:
        self.trial, self.pruned = trial, "pruned" in trial.user_attrs
        self.before: list[float] = []  # the errors of its runs that are done
        self._reported = set(study.get_trials(deepcopy=False)[trial.number].intermediate_values)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        if "val/loss" not in pl_module.history:
            return
        (_, loss), (_, accuracy) = (pl_module.history[f"val/{name}"][-1] for name in ("loss", "accuracy"))
        if not math.isfinite(loss):
            raise UserError(f"the validation loss was {loss} after epoch {trainer.current_epoch + 1}")
        step = len(self.before) * max(trainer.max_epochs or 1, trainer.max_steps, 1) + trainer.current_epoch
        if step not in self._reported:  # before a kill
            self.trial.report(statistics.mean([*self.before, 100 * (1 - accuracy)]), step)
        if self.trial.should_prune():
            self.trial.set_user_attr("pruned", True)
            self.pruned = trainer.should_stop = True


def train(run: Path, args: list[str], watch: Watch, measure: str) -> dict[str, Any]:
    """Trains a run, or resumes it, or reads what it reached.

    Returns:
        Its ``error`` in percent, of validation or of the test, and what else a table tells of it.

    Raises:
        UserError: Its options cannot be, or its folder is of a run with others.
    """
    if run.exists() and not (run / LAST).is_file():
        shutil.rmtree(run)  # it was stopped before its first epoch ended: there is no state to resume from
    done = run / (TESTED if measure == "test" else RUN_RECORD)
    if not (load_json(done).get("finished") if done.name == RUN_RECORD else done.is_file()):
        cli = MNISTCLI(args)
        if run.exists() and not is_run_of(run, cli.plain_config):
            raise UserError(f"{run}: expected a run with these options, but its settings were others; move it away")
        cli.trainer.callbacks.append(watch)  # type: ignore[attr-defined]  # set, but not declared
        cli.fit(run)
        if measure == "test":
            test(cli, run)
    record = load_json(run / RUN_RECORD)
    epoch, accuracy, loss = best_epoch(record)
    if measure == "test":
        tested = load_json(done)
        accuracy, loss = tested["accuracy"], tested["loss"]
        if loss is None:  # what JSON has for NaN
            raise UserError("the test loss was not a finite number")
    if accuracy is None:
        raise UserError("expected a validated epoch, got none; raise --max_epochs or --trainer.max_steps")
    reached = {"error": 100 * (1 - accuracy), "loss": loss, "epoch": epoch}
    return reached | {name: record[name] for name in ("parameters", "epochs", "seconds")}


def test(cli: MNISTCLI, run: Path) -> None:
    """Tests what a run chose, and writes its figures where scripts/test.py does."""
    data, tested = cli.datamodule, cli.test()
    results = report.metrics(tested, data) | provenance(data)
    report.write_json(results | {"training": cli.training}, run / "test")


def test_trial(folder: Path, study: optuna.Study, number: int) -> None:
    """Tests the runs of a trial, and writes their reports; those that were tested are not tested again."""
    for name, args in study.get_trials(deepcopy=False)[number].user_attrs["runs"]:
        if not (folder / name / TESTED).is_file():
            cli, checkpoint = MNISTCLI([*args, QUIET, "--trainer.logger=false"]), read_checkpoint(folder / name)
            data, model = cli.datamodule, checkpoint.classifier()
            figures = evaluate(cli.trainer, model, data)
            results = report.metrics(figures, data) | provenance(data, checkpoint)
            tested = report.tested(results, model, [checkpoint], data.test_set, figures.get("probabilities"))
            page.write(folder / name / "test", tested)


def stop_with(pipe: int) -> None:
    """Has this process stop as Ctrl-C would have it when a pipe ends: its other end let go of it, or is dead."""

    def wait() -> None:
        os.read(pipe, 1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


if __name__ == "__main__":
    with one_line_errors():
        plan = Plan.load(sys.stdin.readline())
        stop_with(sys.stdin.fileno())
        folder = Path(sys.argv[1])
        if len(sys.argv) > 2:
            study = store.load(folder, plan.name)
            assert study
            test_trial(folder, study, int(sys.argv[2]))
        else:
            work(folder, plan)
