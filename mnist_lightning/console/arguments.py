"""The command line of scripts that start in a moment: argparse without PyTorch, and errors in one line."""

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from mnist_lightning.errors import UserError


class Arguments(argparse.ArgumentParser):
    """Complains in one line."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see --help")


@contextmanager
def one_line(extra: str | None = None) -> Iterator[None]:
    """Turns what the user got wrong into a line on standard error and exit code 2. Bugs keep their traceback.

    Args:
        extra: What installs a package that is missing.
    """
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:  # of `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (UserError, OSError, ModuleNotFoundError) as error:
        if isinstance(error, ModuleNotFoundError) and not extra:
            raise
        needs = f'this needs {error.name}; run pip install -e ".[{extra}]"' if isinstance(error, ImportError) else error
        print("error:", " ".join(str(needs).split()), file=sys.stderr)
        raise SystemExit(2) from None
