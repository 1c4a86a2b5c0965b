"""What is printed for people: an epoch in a line of their terminal, and commands that they can paste."""

import os
import shlex
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

# The longest form that fits is taken; what is said last in them is the figure that chooses, so it is cut last.
FORMS = (
    ("{stage} loss {loss} acc {accuracy}", ("train", "val")),
    ("{stage} {loss} {accuracy}", ("train", "val")),
    ("{stage} loss {loss} acc {accuracy}", ("val",)),
    ("{stage} acc {accuracy}", ("val",)),
)
BEST = "  best"

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


def columns() -> int | None:
    """The width of the terminal; None where the output is a file or a pipe, whose lines may be of any length."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def epoch_line(epoch: str, metrics: Mapping[str, float], best: bool, columns: int | None) -> str:
    """Returns what an epoch reached, in a line that fits the terminal.

    Args:
        epoch: Its name: ``epoch  3/20``.
        metrics: ``train/loss`` and ``train/accuracy``, ``val/loss`` and ``val/accuracy``, or those that there are.
        best: Whether it is the best so far.
        columns: Of the terminal; None for a line of any length.
    """
    stages = [stage for stage in ("train", "val") if {f"{stage}/loss", f"{stage}/accuracy"} <= metrics.keys()]
    line = epoch
    for form, wanted in FORMS:
        shown = [stage for stage in stages if stage in wanted] or stages  # without validation, training is all there is
        figures = [
            form.format(
                stage=stage, loss=_short(metrics[f"{stage}/loss"]), accuracy=f"{metrics[f'{stage}/accuracy']:.2%}"
            )
            for stage in shown
        ]
        line = "  ".join([epoch, *figures])
        if columns is None or len(line + BEST) <= columns:  # best or not, the lines of a run have one form
            break
    return line + BEST * best


def _short(loss: float) -> str:
    return f"{loss:.3f}" if abs(loss) < 1000 else f"{loss:.1e}"


def command(script: str, *arguments: str | Path) -> str:
    """Returns a command that runs one of the scripts when it is pasted where one stands.

    Args:
        script: Its file's name.
        arguments: What comes after it; each is quoted.
    """
    name = Path(sys.executable).name
    python = name if shutil.which(name) == sys.executable else from_here(Path(sys.executable))
    path = from_here(SCRIPTS / script) if (SCRIPTS / script).is_file() else f"scripts/{script}"  # a wheel has none
    given = [from_here(each) if isinstance(each, Path) else each for each in arguments]
    return shlex.join([python, path, *given])


def from_here(path: Path) -> str:
    """Returns a path from the current folder, or the absolute one where that is shorter."""
    return min(os.path.relpath(path), os.path.abspath(path), key=len)  # noqa: PTH100  # resolve() would leave a venv
