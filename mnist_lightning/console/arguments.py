"""The command line of scripts that start in a moment: argparse without PyTorch, and errors in one line."""

import argparse
import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from typing import Any, NoReturn

from mnist_lightning.console.hints import advice
from mnist_lightning.errors import UserError


class Arguments(argparse.ArgumentParser):
    """Complains in one line, and takes no option by its beginning."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        unknown = re.match(r"unrecognized arguments: ([^\s=]+)", message)
        raise UserError(message + (advice(unknown[1], self._option_string_actions) if unknown else "; see --help"))


@contextmanager
def one_line(extra: str | None = None) -> Iterator[None]:
    """Turns what the user got wrong into a line on standard error and exit code 2. Bugs keep their traceback.

    Ctrl-C ends with 130, and `| head`, which wants no more, with 141; both without a word.

    Args:
        extra: What installs a package that is missing.
    """
    if isinstance(sys.stdout, TextIOWrapper):  # a name that a terminal's encoding lacks is escaped, as in errors
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is flushed at the end
        raise SystemExit(128 + signal.SIGPIPE) from None
    except (UserError, OSError, ModuleNotFoundError) as error:
        message = str(error)
        if isinstance(error, ModuleNotFoundError):
            if not extra:
                raise
            message = f'this needs {error.name}; run pip install -e ".[{extra}]"'
        if isinstance(error, OSError) and error.filename is not None:
            path = os.fsdecode(error.filename)
            there = isinstance(error, FileNotFoundError)
            check = "it is there" if there else "you may use it and that there is room"
            message = f"cannot use {path}: {error.strerror}; check that {check}"
        print("error:", " ".join(message.split()), file=sys.stderr)
        raise SystemExit(2) from None
    except (KeyboardInterrupt, SystemExit) as end:
        if KeyboardInterrupt not in (type(end), type(end.__context__)):
            raise
        raise SystemExit(128 + signal.SIGINT) from None  # where Lightning ends with 1
