"""What keeps a class that the user named from being taken, and which one may have been meant."""

import difflib
import importlib
import inspect
import re
import traceback
from collections.abc import Sequence
from pathlib import Path

from mnist_lightning.console.terminal import from_here


def class_refused(message: str) -> str | None:
    """Says what is wrong with a class that the user named, or with its arguments; None where it is something else.

    Args:
        message: What jsonargparse says of it.
    """
    key = re.search(r'Parser key "(\S+)"', message)
    if not key:
        return None
    if absent := re.search(r"expected --(\w+) \(.*?\), got none", message, re.DOTALL):  # Parser.error of the class
        return f"expected --{key[1]}.{absent[1]}, which the class needs, got none; give it"
    if given := re.search(r"NestedArg\(key='(\w+)', val='?(.*?)'?\)", message):
        wanted = re.search(rf"--{given[1]}:\s+(expected .*?), got", message)
        what = wanted[1] if wanted else "expected an argument of the class that was named before it"
        return f"--{key[1]}.{given[1]}: {what}, got {given[2]}; see the class's manual"
    if named := re.search(r"dot import path string: (\S+)|given class_path '(\S+)':\s+(.+?)\n\s+- ", message):
        name, why = (named[1], "") if named[1] else (named[2], named[3].strip())
        got = f"{name} ({why})" if why else name
        return f"--{key[1]}: expected a class, by its name or its import path, got {got}{_remedy(name, why)}"
    there = re.search(r"xpected a path but ((?:\w+\.)*\w+) either", message)
    wrong = _unfit(there[1], message) if there else None
    return wrong and f"--{key[1]}: {wrong}"


def file_named(words: Sequence[str]) -> str | None:
    """Says of a file that was given instead of a class, among the words of a command line, how its class is named."""
    given = re.search(r"(--trainer\.(?:callbacks|logger|plugins|profiler))\+?[ =](\S+)\.py(?: |$)", " ".join(words))
    if not given:
        return None
    path = Path(given[2])
    module = path.name if path.is_absolute() else ".".join(part for part in path.parts if part != "..")
    return f"{given[1]}: expected a class, got the file {given[2]}.py; name the class in it: {module}.CLASS"


def _close(given: str, count: int, cutoff: float) -> list[str]:
    """Which of Lightning's classes that can be made have a name like this one; none where it is one's own."""
    from lightning.pytorch import callbacks, loggers, profilers  # here, as few scripts take classes

    known = {name.lower(): getattr(room, name) for room in (callbacks, loggers, profilers) for name in room.__all__}
    concrete = [name for name, kind in known.items() if not inspect.isabstract(kind)]
    name = given.rpartition(".")[2].lower()
    if name in concrete:
        return []
    return [known[each].__name__ for each in difflib.get_close_matches(name, concrete, count, cutoff)]


def _remedy(given: str, why: str) -> str:
    """What to do about a class that cannot be found, as the end of a message."""
    if close := _close(given, 1, 0.8):
        return f"; did you mean {close[0]}?"
    if "." not in given:
        return f"; name one of your own with its module: MODULE.{given}"
    module = given.partition(".")[0]
    if why != f"No module named {module!r}":
        return "; correct that"
    here = Path(f"{module}.py").is_file() or Path(module).is_dir()
    return f"; put PYTHONPATH={'.' if here else 'ITS_FOLDER'} before the command"


def _unfit(given: str, message: str) -> str | None:
    """What is wrong with a class that is there: it is of another kind, or its module's import fails."""
    if base := re.search(r"not correspond to a subclass of (\w+)", message):
        return f"expected a {base[1]}, got {given}, which is none; name a subclass of {base[1]}"
    if "is abstract" in message:
        such = f", such as {', '.join(close)}" if (close := _close(given, 3, 0.6)) else ""
        return f"expected a class that can be made, got {given}, which is abstract; name one that is not{such}"
    try:
        importlib.import_module(given.rpartition(".")[0] or given)
    except ImportError:
        return None
    except Exception as error:  # of the user's own module
        at = error if isinstance(error, SyntaxError) else traceback.extract_tb(error.__traceback__)[-1]
        what = f"{type(error).__name__}: {error.msg if isinstance(error, SyntaxError) else error}"
        place = f"{from_here(Path(str(at.filename)))}, line {at.lineno}"
        return f"expected a class, got {given}, whose import fails in {place} ({what}); mend that"
    return None
