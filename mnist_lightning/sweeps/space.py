"""What is swept: options of train.py that were given several values, or a range, instead of one."""

import hashlib
import itertools
import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml

from mnist_lightning.errors import UserError

# Options that take a list: one list is one value, and only a list of lists is several (a test asks the parser)
LISTS = {"model.hidden", "model.channels", "model.betas", "data.mirrors"}
LISTS |= {f"trainer.{name}" for name in ("devices", "logger", "callbacks", "plugins")}
# Names of train.py's for options whose own are longer; a sweep knows the longer ones alone
SHORT = {name: f"trainer.{name}" for name in ("accelerator", "devices", "max_epochs")}
# Of a run, what a sweep sees to itself
TAKEN = ("name", "ckpt_path", "find_lr", "print_config", "trainer.default_root_dir", "data.folds", "data.fold")
# What a run of a sweep is asked for unless the user says otherwise
DEFAULTS = {"plots.every_n_epochs": "0", "checkpoint.every_n_minutes": "1"}

Method = Literal["grid", "random", "search"]


class Sweep(NamedTuple):
    """An experiment: what is fixed, what is swept, and how.

    Attributes:
        options: Of train.py, the same for all, as text.
        space: Of train.py, to a list of choices or a range: a mapping with from, to, and log or step.
        method: A grid of all choices, random draws, or a search that learns from what it saw.
        trials: Points to draw or to search; a grid has its own number.
        seeds: Runs of each point, with seeds 0, 1, ...
        folds: Parts of the training images, each held out once by each of these; 0 holds out the usual ones.
        pruner: What stops a search's hopeless trials: median, hyperband or none.
    """

    options: Mapping[str, str]
    space: Mapping[str, Any]
    method: Method
    trials: int
    seeds: int
    folds: int
    pruner: str

    @property
    def identity(self) -> dict[str, Any]:
        """What makes it this sweep; a search may go on for more trials."""
        plain = {**self.options, **self.space}
        rest = {name: getattr(self, name) for name in ("method", "seeds", "folds", "pruner")}
        return json.loads(json.dumps(plain | {f"--{name}": value for name, value in rest.items()}))  # type: ignore[no-any-return]

    def checked(self) -> "Sweep":
        """Returns itself.

        Raises:
            UserError: What was given does not go together.
        """
        ranges = [name for name, values in self.space.items() if isinstance(values, dict)]
        if not self.space:
            lists = [f"; --{name} {value} is one value" for name, value in self.options.items() if name in LISTS]
            example = "--model.lr [1e-3,1e-2] or --model.hidden [[64],[128,64]]"
            raise UserError(f"expected an option with several values, such as {example}, got none{''.join(lists)}")
        if self.method == "grid" and ranges:
            raise UserError(f"expected --method random or search for the range of --{ranges[0]}, got grid")
        if (self.method == "grid") != (self.trials == 0) or self.trials < 0:
            raise UserError(f"expected --trials for random and search, and none for a grid, got {self.trials}")
        if self.seeds < 1 or self.folds == 1 or self.folds < 0:
            raise UserError(
                f"expected 1 of --seeds or more, and 0, 2 or more --folds, got {self.seeds} and {self.folds}"
            )
        if self.seeds > 1 and "seed_everything" in {**self.options, **self.space}:
            raise UserError("expected --seeds, or else --seed_everything, got both")
        return self

    def grid(self) -> list[dict[str, Any]]:
        """The points of a grid, the last option changing fastest."""
        choices = [[encoded(value) for value in values] for values in self.space.values()]
        return [dict(zip(self.space, values, strict=True)) for values in itertools.product(*choices)]

    def arguments(self, params: Mapping[str, Any]) -> list[str]:
        """What train.py is given for a point; a --config first, as what comes after wins."""
        options = {**DEFAULTS, **self.options} | {name: text(value) for name, value in params.items()}
        return [f"--{name}={options[name]}" for name in sorted(options, key=lambda name: name != "config")]

    @property
    def repeats(self) -> int:
        """Runs of each point."""
        return self.seeds * max(1, self.folds)

    def runs(self, params: Mapping[str, Any], number: int) -> list[tuple[str, list[str]]]:
        """The runs of a point: their folders' names in that of the sweep, and what train.py is given for each."""
        base = self.arguments(params)
        runs = []
        for seed, fold in itertools.product(range(self.seeds), range(self.folds or 1)):
            name, more = f"trial_{number}/seed_{seed}", [f"--seed_everything={seed}"] if self.seeds > 1 else []
            if self.folds:
                name, more = f"{name}_fold_{fold}", [*more, f"--data.folds={self.folds}", f"--data.fold={fold}"]
            runs.append((name, [*base, *more]))
        return runs

    def command(self, params: Mapping[str, Any]) -> str:
        """The command that trains and tests a point."""
        options = {**self.options} | {name: text(value) for name, value in params.items()}
        words = [(f"--{name}", options[name]) for name in sorted(options, key=lambda name: name != "config")]
        return shlex.join(["python", "scripts/train.py", *itertools.chain.from_iterable(words)])


def read(path: Path) -> dict[str, Any]:
    """Reads a sweep's YAML: options of train.py as its configs nest them, flattened to dotted names.

    Raises:
        UserError: It is no such file.
    """
    try:
        content = yaml.safe_load(path.read_text())
    except (ValueError, yaml.YAMLError) as error:
        raise UserError(f"{path}: expected YAML, got {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected options and their values, got {content!r}")
    return {SHORT.get(name, name): value for name, value in _flat(content)}


def _flat(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        if isinstance(value, dict) and not value.keys() & {"from", "to", "class_path"}:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def typed(words: Sequence[str]) -> dict[str, str]:
    """Splits a command line into options and their values.

    Raises:
        UserError: A word is neither.
    """
    options, words = {}, list(words)
    while words:
        name, given, value = words.pop(0).partition("=")
        if not name.startswith("--"):
            raise UserError(f"expected an option such as --model.lr, got {name}; see --help")
        if not given:
            if not words or words[0].startswith("--"):
                raise UserError(f"expected a value after {name}, got none")
            value = words.pop(0)
        options[SHORT.get(name[2:], name[2:])] = value
    return options


def divide(given: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, Any]]:
    """Divides options of train.py into those that are fixed, as text, and those that are swept.

    Raises:
        UserError: An option that no sweep can have, or a range that is none.
    """
    fixed: dict[str, str] = {}
    space: dict[str, Any] = {}
    for name, value in given.items():
        if name in TAKEN:
            raise UserError(f"expected no --{name}: a sweep sees to it itself; leave it out")
        plain = _plain(_parsed(value) if isinstance(value, str) else value)
        if isinstance(plain, dict) and plain.keys() & {"from", "to"}:
            space[name] = _range(name, plain)
        elif isinstance(plain, list) and (name not in LISTS or any(isinstance(each, list) for each in plain)):
            if not plain or any(plain.count(each) > 1 for each in plain):
                raise UserError(f"expected values for --{name}, each once, got {text(plain)}")
            space[name] = plain
        else:
            fixed[name] = value if isinstance(value, str) else text(plain)
    return fixed, space


def _parsed(value: str) -> Any:
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError:
        return value


def _plain(value: Any) -> Any:
    """Reads 1e-4 as a number, as train.py does and YAML does not."""
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    return float(value) if isinstance(value, str) and re.fullmatch(r"[-+]?[\d.]*\d[\d.]*e[-+]?\d+", value) else value


def _range(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    numbers = [given.get("from"), given.get("to"), given.get("step", 1)]
    if given.keys() - {"from", "to", "step", "log"} or not all(type(each) in (int, float) for each in numbers):
        raise UserError(f"expected a range such as {{from: 1e-4, to: 1e-2, log: true}} for {name}, got {text(given)}")
    low, high, step = numbers
    if low >= high or step <= 0 or (given.get("log") and ("step" in given or low <= 0)):
        expected = "from to be below to, and log to begin above 0 and have no step"
        raise UserError(f"expected {expected}, got {text(given)} for {name}")
    return dict(given)


def ends(values: Any) -> list[Any]:
    """Choices, or the ends of a range."""
    return values if isinstance(values, list) else [values["from"], values["to"]]


def fingerprint(path: Path) -> str:
    """The SHA-256 of what a YAML file says, whatever its comments and its order."""
    content = json.dumps(yaml.safe_load(path.read_text()), sort_keys=True, default=str)
    return hashlib.sha256(content.encode()).hexdigest()


def encoded(value: Any) -> Any:
    """A value as a study can store it: lists as text."""
    return text(value) if isinstance(value, list) else value


def text(value: Any) -> str:
    """A value as it is typed."""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
