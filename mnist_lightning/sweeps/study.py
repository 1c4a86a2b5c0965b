"""The store of a sweep, Optuna's, in one SQLite file; and who may take which trial of it.

A trial is a point: its value is the mean over the runs with all seeds and folds. Who works on one holds a lock that
the system lets go of when the process ends, however it ends; so a trial that is running without its lock was given up,
and is taken over under its own number, at once and by one. No clock is asked, as heartbeats would.
"""

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import optuna
from filelock import FileLock, Timeout
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import FrozenTrial, Trial, TrialState

from mnist_lightning.errors import UserError
from mnist_lightning.files import atomic_path
from mnist_lightning.sweeps.space import Sweep, encoded, text

STORE = "study.db"
READY = "ready"  # what a worker prints once there is a study
DATA = "data.sha256"  # in an identity: of the data; where several are swept, with the values that say which
CONFIG = "config.sha256"  # likewise, of what a file of --config says; with its path
DEATHS = 3  # of processes that work on a trial, and it has failed: one is bad luck, and memory that ran out is not
PRUNERS: dict[str, Callable[[], optuna.pruners.BasePruner]] = {
    "median": lambda: optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=2),
    "hyperband": optuna.pruners.HyperbandPruner,
    "none": optuna.pruners.NopPruner,
}

optuna.logging.set_verbosity(optuna.logging.WARNING)
warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)


class Point(NamedTuple):
    """A trial that is known beforehand: its options, and its runs, each a folder's name and train.py's arguments."""

    params: Mapping[str, Any]
    runs: Sequence[tuple[str, Sequence[str]]]


class Claim(NamedTuple):
    """A trial, and the lock that says whose it is."""

    trial: Trial
    lock: FileLock


class Plan(NamedTuple):
    """What a folder is asked to hold.

    Attributes:
        identity: What a sweep must have in common with the one in its folder.
        points: Those that are known beforehand.
        sweep: Where the others come from, and what is known of the options; the published results have none.
        measure: What a trial is measured by: validation or test.
        name: Of its study; a folder can hold several.
    """

    identity: Mapping[str, Any]
    points: Sequence[Point]
    sweep: Sweep | None = None
    measure: str = "validation"
    name: str = "sweep"

    def dump(self) -> str:
        return json.dumps([self.identity, self.points, self.sweep, self.measure, self.name])

    @classmethod
    def load(cls, dumped: str) -> "Plan":
        identity, points, sweep, *rest = json.loads(dumped)
        return cls(identity, [Point(*point) for point in points], Sweep(*sweep) if sweep else None, *rest)


def plan(sweep: Sweep) -> Plan:
    """Returns the plan of a sweep."""
    grid = sweep.grid() if sweep.method == "grid" else []
    points = [Point(params, sweep.runs(params, number)) for number, params in enumerate(grid)]
    return Plan(sweep.identity, points, sweep)


def load(folder: Path, name: str) -> optuna.Study | None:
    """Opens a study of a folder; None where it is not there, or was not begun."""
    if not (folder / STORE).is_file():
        return None
    storage = _storage(folder / STORE)
    study = optuna.load_study(study_name=name, storage=storage) if name in optuna.get_all_study_names(storage) else None
    return study if study and "identity" in study.user_attrs else None


def _storage(path: Path) -> optuna.storages.RDBStorage:
    # a minute, where another process writes; each write takes milliseconds
    return optuna.storages.RDBStorage(f"sqlite:///{path}", engine_kwargs={"connect_args": {"timeout": 60}})


def check(folder: Path, study: optuna.Study, plan: Plan) -> None:
    """Checks that a study is of this plan.

    Raises:
        UserError: It is of another one, in a line that says what differs.
    """
    theirs, ours, different = study.user_attrs["identity"], plan.identity, _different(study, plan)
    for name in dict.fromkeys([*ours, *theirs]):
        found = name.startswith((DATA, CONFIG))  # what the settings name: where these differ, they say more
        if theirs.get(name) != ours.get(name) and not (different and found):
            if found and name not in theirs:
                raise UserError(
                    f"{folder}: expected a sweep that knows its data and its --config files, got one that an older "
                    "version began; begin a new folder with --output"
                )
            there, here = (text(side[name]) if name in side else "none" for side in (theirs, ours))
            raise UserError(
                f"{folder}: expected the sweep that was begun there, with {name} {there}, got {here}; give --output"
            )
    for name, args, planned in different:
        differing = [word for word in planned if word not in args] or planned
        raise UserError(
            f"{folder / name}: expected the settings that it was begun with, got {' '.join(differing)}; move it away, "
            "or give --output"
        )


def _different(study: optuna.Study, plan: Plan) -> list[tuple[str, Sequence[str], Sequence[str]]]:
    known = {
        name: args for trial in study.get_trials(deepcopy=False) for name, args in trial.user_attrs.get("runs", [])
    }
    runs = [(name, args) for point in plan.points for name, args in point.runs]
    return [(name, known[name], args) for name, args in runs if list(args) != known.get(name, list(args))]


def create(folder: Path, plan: Plan) -> optuna.Study:
    """Opens the study of a folder, made and filled with the points if need be: whole, or not there.

    Raises:
        UserError: As :func:`check`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        if study := load(folder, plan.name):
            check(folder, study, plan)
        else:
            if not (folder / STORE).is_file():
                with atomic_path(folder / STORE) as path:
                    _storage(path)
            study = optuna.create_study(storage=_storage(folder / STORE), study_name=plan.name, load_if_exists=True)
            study.set_metric_names([f"{plan.measure} error, %"])  # what optuna-dashboard calls it
            study.set_user_attr("identity", dict(plan.identity))
        for point in new_points(study, plan):
            study.add_trial(_waiting(point, plan.sweep))
    return study


def new_points(study: optuna.Study, plan: Plan) -> list[Point]:
    """The points that are not in a study yet."""
    known = {name for trial in study.get_trials(deepcopy=False) for name, _ in trial.user_attrs.get("runs", [])}
    return [point for point in plan.points if point.runs[0][0] not in known]


def _waiting(point: Point, sweep: Sweep | None) -> FrozenTrial:
    space = sweep.space if sweep else {}
    choices: dict[str, BaseDistribution] = {
        name: CategoricalDistribution([encoded(value) for value in values]) for name, values in space.items()
    }
    attrs, params = {"runs": point.runs}, dict(point.params)
    return optuna.create_trial(state=TrialState.WAITING, params=params, distributions=choices, user_attrs=attrs)


def claim(folder: Path, study: optuna.Study, plan: Plan) -> Claim | None:
    """Takes a trial: one that was given up, or else the next. None where there is none to take now."""
    with FileLock(folder / ".lock"):  # one process at a time: SQLite does not see to it
        trials = study.get_trials(deepcopy=False)
        for trial in trials:
            if trial.state == TrialState.RUNNING and (lock := _lock(folder, plan, trial.number)):
                if study.get_trials(deepcopy=False)[trial.number].state == TrialState.RUNNING:
                    if plan.sweep:
                        study.sampler = _sampler(plan.sweep, trial.number)
                    return _begun(Trial(study, trial._trial_id), lock, plan)
                lock.release()  # it got done while we looked
        if plan.sweep and plan.sweep.method != "grid" and len(trials) < plan.sweep.trials:
            study.sampler = _sampler(plan.sweep, len(trials))
        elif not any(trial.state == TrialState.WAITING for trial in trials):
            return None
        new = study.ask()
        lock = _lock(folder, plan, new.number)
        assert lock, "a new trial is nobody's"
        return _begun(new, lock, plan)


def _begun(trial: Trial, lock: FileLock, plan: Plan) -> Claim:
    """Sees that a trial has its options and its runs: a new one of a search does not, nor one killed in between."""
    if plan.sweep and "runs" not in trial.user_attrs:
        params = {name: _suggest(trial, name, values) for name, values in plan.sweep.space.items()}
        trial.set_user_attr("runs", plan.sweep.runs(params, trial.number))
    return Claim(trial, lock)


def _suggest(trial: Trial, name: str, values: Any) -> Any:
    if isinstance(values, list):
        return trial.suggest_categorical(name, [encoded(value) for value in values])
    low, high, step, log = values["from"], values["to"], values.get("step"), values.get("log", False)
    if all(isinstance(number, int) for number in (low, high, step or 1)):
        return trial.suggest_int(name, low, high, step=step or 1, log=log)
    return trial.suggest_float(name, low, high, step=step, log=log)


def _sampler(sweep: Sweep, number: int) -> optuna.samplers.BaseSampler:
    """A sampler for one trial: with a seed of its own, what is drawn does not depend on how often we were stopped."""
    if sweep.method == "random":
        return optuna.samplers.RandomSampler(seed=number)
    return optuna.samplers.TPESampler(seed=number, constant_liar=True)  # trials that run beside count as bad ones


def _lock(folder: Path, plan: Plan, number: int) -> FileLock | None:
    (folder / ".locks").mkdir(exist_ok=True)
    lock = FileLock(folder / ".locks" / f"{plan.name}_{number}", blocking=False)
    try:
        lock.acquire()
    except Timeout:
        return None
    return lock


def given_back(folder: Path, study: optuna.Study, plan: Plan, worker: str, reason: str) -> bool:
    """Notes that a process died on its trial, which the next one takes over; a trial that many die on has failed.

    Returns:
        Whether it had ever taken one.
    """
    took = [trial for trial in study.get_trials(deepcopy=False) if worker in trial.user_attrs.get("workers", [])]
    for frozen in took:
        if frozen.state == TrialState.RUNNING:
            deaths = frozen.user_attrs.get("deaths", 0) + 1
            trial = Trial(study, frozen._trial_id)
            trial.set_user_attr("deaths", deaths)
            if deaths >= DEATHS and (lock := _lock(folder, plan, frozen.number)):  # and nobody else is at it already
                with lock:
                    fail(study, trial, f"its process died {deaths} times, of {reason}")
    return bool(took)


def fail(study: optuna.Study, trial: Trial, reason: str) -> None:
    """Ends a trial as failed, with its reason for the table."""
    trial.set_user_attr("error", " ".join(reason.split())[:300])
    study.tell(trial, state=TrialState.FAIL)
