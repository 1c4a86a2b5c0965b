"""A sweep from start to end: processes that train, a bar that says how far they are, and what to do when one dies."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import optuna
from optuna.trial import FrozenTrial, TrialState
from tqdm import tqdm

from mnist_lightning.checkpoints.runs import RUN_RECORD, load_json
from mnist_lightning.errors import UserError
from mnist_lightning.sweeps import study as store
from mnist_lightning.sweeps.results import as_row, rank
from mnist_lightning.sweeps.study import Plan

EVERY = 0.25  # seconds between two looks at what the workers do
BAR = "{desc} |{bar:20}| {n:.1f}/{total:.0f} points, {elapsed} gone, {remaining} left{postfix}"

Describe = Callable[[FrozenTrial], str]  # a trial that is done, in a line


def run(folder: Path, plan: Plan, jobs: int, describe: Describe) -> optuna.Study:
    """Has a sweep done, from where it is, and returns its study.

    Args:
        folder: Of the sweep.
        plan: What it shall hold.
        jobs: Processes, with a thread each where there are several.
        describe: What is printed of a trial when it is done.

    Raises:
        UserError: A worker was killed, and no trial is to blame.
        SystemExit: A worker met what no other trial would survive either; or Ctrl-C or SIGTERM stopped it.
    """
    workers = [_start(folder, plan, jobs)]
    previous = signal.signal(signal.SIGTERM, _stop)
    study = None
    try:
        # it checks options and data, and makes the study; the others need not say the same
        if f"{store.READY}\n" in workers[0].stdout and (study := store.load(folder, plan.name)):  # type: ignore[operator]  # a pipe
            workers += [_start(folder, plan, jobs) for _ in range(1, jobs)]
            _watch(folder, study, plan, workers, jobs, describe)
        for worker in workers:
            _check_end(worker)
    except KeyboardInterrupt:
        _stop(signal.SIGINT, None)
    finally:
        signal.signal(signal.SIGTERM, previous)
        for worker in workers:
            worker.stdin.close()  # type: ignore[union-attr]  # a pipe: its end asks the worker to save and stop
        for worker in workers:
            worker.wait()
    assert study
    return study


def _stop(signum: int, frame: FrameType | None) -> None:
    print("\nstopped; the same command goes on from here", file=sys.stderr)
    raise SystemExit(128 + signum)


def test(folder: Path, plan: Plan, trial: int) -> None:
    """Tests the runs of a trial, in a process of its own.

    Raises:
        UserError: It was killed.
        SystemExit: It could not, and has said why.
    """
    worker = _start(folder, plan, 1, str(trial))
    try:
        _check_end(worker)
    finally:
        worker.kill()


def _check_end(worker: "subprocess.Popen[str]") -> None:
    """Ends as a worker did, if that was not well."""
    if (code := worker.wait()) < 0:
        raise _killed(code)
    if code:
        raise SystemExit(code)  # it has said why


def _killed(code: int) -> UserError:
    return UserError(f"a process of this sweep died of {_signal(code)}; the same command goes on from here")


def _signal(code: int) -> str:
    return signal.Signals(-code).name + (" (out of memory?)" if code == -signal.SIGKILL else "")


def _start(folder: Path, plan: Plan, jobs: int, *action: str) -> "subprocess.Popen[str]":
    alone = {} if jobs == 1 else {"OMP_NUM_THREADS": "1"}
    # -P: what lies in the user's folder is none of ours; a session of its own: Ctrl-C is for this process to pass on
    worker = subprocess.Popen(
        [sys.executable, "-P", "-m", "mnist_lightning.sweeps.worker", str(folder), *action],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL if action else subprocess.PIPE,
        env={**os.environ, **alone},
        start_new_session=True,
        text=True,
    )
    assert worker.stdin
    worker.stdin.write(plan.dump() + "\n")
    worker.stdin.flush()
    return worker


def _watch(
    folder: Path, study: optuna.Study, plan: Plan, workers: "list[subprocess.Popen[str]]", jobs: int, describe: Describe
) -> None:
    """Shows how far the trials are until the workers find no more to do; replaces one that dies of its trial."""
    trials = study.get_trials(deepcopy=False)
    done = {trial.number for trial in trials if trial.state.is_finished()}
    total = max(len(trials), plan.sweep.trials if plan.sweep else 0)
    begun, hidden = sum(_share(folder, trial) for trial in trials), not sys.stderr.isatty()
    with tqdm(desc=plan.name, bar_format=BAR, initial=begun, total=total, disable=hidden) as bar:
        working = True
        while working:
            working = any(worker.poll() is None for worker in workers)
            trials = study.get_trials(deepcopy=False)
            for trial in trials:
                if trial.state.is_finished() and trial.number not in done:
                    done.add(trial.number)
                    bar.write(f"{len(done):{len(str(total))}}/{total}  {describe(trial)}", sys.stderr)
            bar.n = sum(_share(folder, trial) for trial in trials)
            complete = (trial for trial in trials if trial.state == TrialState.COMPLETE)
            best = min(complete, key=lambda trial: rank(as_row(trial)), default=None)
            bar.set_postfix_str(f"best {describe(best)}" if best else "")
            for number, worker in enumerate(workers):
                if _died(folder, study, plan, worker):
                    workers[number], working = _start(folder, plan, jobs), True
            if any(worker.poll() for worker in workers):
                return  # one has met what the others would too
            time.sleep(EVERY * working)


def _died(folder: Path, study: optuna.Study, plan: Plan, worker: "subprocess.Popen[str]") -> bool:
    """Whether a worker was ended by a signal, not by what it met; then its trial is given back.

    Raises:
        UserError: It had none: what ended it is no trial's doing.
    """
    code = worker.poll() or 0
    who = f"{socket.gethostname()}:{worker.pid}"
    if code < 0 and not store.given_back(folder, study, plan, who, _signal(code)):
        raise _killed(code)
    return code < 0 or code == 128 + signal.SIGTERM


def _share(folder: Path, trial: FrozenTrial) -> float:
    """How much of a trial is done, from 0 to 1, by the records of its runs."""
    if trial.state.is_finished():
        return 1.0
    records = [load_json(folder / name / RUN_RECORD) for name, _ in trial.user_attrs.get("runs", [])]
    whole = [record for record in records if record and (record["max_epochs"] or 0) > 0]
    done = sum(min(1.0, float(record["epochs"] / record["max_epochs"])) for record in whole)
    return done / max(1, len(records))
