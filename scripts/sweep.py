"""Sweeps options of train.py: a grid, random draws or a search, with several seeds and folds, that can be stopped."""

import argparse
import shlex
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from mnist_lightning.console.arguments import Arguments, one_line
from mnist_lightning.console.terminal import command
from mnist_lightning.errors import UserError
from mnist_lightning.sweeps import space
from mnist_lightning.sweeps.space import Sweep

with one_line(extra="sweep"):
    from mnist_lightning.sweeps import page, results, supervisor
    from mnist_lightning.sweeps.study import PRUNERS, plan

USAGE = """sweep.py [FILE.yaml] [--OPTION VALUE ...]

  sweep.py configs/sweeps/width_and_rate.yaml
  sweep.py --model.lr [1e-4,1e-3,1e-2] --model.hidden [[64],[128],[256]] --seeds 3 --max_epochs 5
  sweep.py configs/sweeps/search.yaml --trials 40"""


def parser() -> Arguments:
    parser = Arguments(
        description=f"{__doc__} Any option of train.py can be given: one value is for all runs; a list is a choice; "
        "{from: 1e-4, to: 1e-2, log: true} is a range, for --method random or search.",
        usage=USAGE,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--method", choices=("grid", "random", "search"), default="grid", help="How points are chosen.")
    parser.add_argument("--trials", type=int, default=0, help="Points of a random sweep or a search.")
    parser.add_argument("--seeds", type=int, default=1, help="Runs of each point, with seeds 0, 1, ...")
    parser.add_argument("--folds", type=int, default=0, help="Folds of the training images, each held out once.")
    parser.add_argument("--pruner", choices=PRUNERS, default="median", help="What stops a search's hopeless trials.")
    parser.add_argument("--test_best", choices=("true", "false"), default="false", help="Test the winner, at the end.")
    parser.add_argument("--jobs", type=int, default=1, help="Processes to train in, with a thread each if several.")
    help = "Folder; lightning_logs/NAME_OF_THE_FILE by default."
    parser.add_argument("--output", type=Path, default=argparse.SUPPRESS, help=help)
    return parser


def read(words: list[str]) -> tuple[Sweep, argparse.Namespace]:
    """Reads the file, if there is one, and the options on the command line, which win."""
    path = Path(words.pop(0)) if words and not words[0].startswith("-") else None
    if "--help" in words or "-h" in words:
        parser().print_help()
        raise SystemExit(0)
    known = {action.dest for action in parser()._actions}
    given = {**(space.read(path) if path else {}), **space.typed(words)}
    args = parser().parse_args(
        [f"--{name}={space.text(given.pop(name))}" for name in list(given) if name in known],
        argparse.Namespace(output=Path("lightning_logs", path.stem if path else "sweep")),
    )
    fixed, swept = space.divide(given)
    return Sweep(fixed, swept, args.method, args.trials, args.seeds, args.folds, args.pruner).checked(), args


def main() -> None:
    sweep, args = read(sys.argv[1:])
    if args.jobs < 1:
        raise UserError(f"expected --jobs to be at least 1, got {args.jobs}")
    study = supervisor.run(args.output, plan(sweep), args.jobs, results.describe)
    with FileLock(args.output / ".results.lock"):  # in another terminal it ends now too
        found = results.write(args.output, study, sweep)
        if args.test_best == "true" and found["best"] is not None:
            supervisor.test(args.output, plan(sweep), found["best"])
            found = results.write(args.output, study, sweep)
        page.write(args.output, found, sweep)
    print((args.output / "results.md").read_text())
    if found["command"] is None:
        raise UserError("expected a point that can be compared, but all failed; the table has the reasons")
    if tested := found["test"]:
        mean = f", the mean of its {sweep.repeats} runs" if sweep.repeats > 1 else ""
        print(f"test error of the winner: {tested['error']:.2f}%{mean}\n")
    print(f"written to {args.output}: results.md, results.csv, results.json, results.html\n\nnext")
    lines = list(following(sweep, args, found))
    width = max(len(what) for what, _ in lines)
    print("\n".join(f"  {what:{width}}  {line}" for what, line in lines))


def following(sweep: Sweep, args: argparse.Namespace, found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What to do next, and the command that does it."""
    if not found["test"]:
        whose = "the winner's run" if sweep.repeats == 1 else f"the winner's {sweep.repeats} runs"
        yield f"test {whose}", command("sweep.py", *sys.argv[1:], "--test_best", "true")
    retrain = command("train.py", *shlex.split(found["command"])[2:])
    yield "train and test it anew" + (", seed 0" if sweep.seeds > 1 else ""), retrain
    yield "curves", shlex.join(["tensorboard", "--logdir", str(args.output)])


if __name__ == "__main__":
    with one_line():
        main()
