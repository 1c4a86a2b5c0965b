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
def one_line() -> Iterator[None]:
    """Turns what the user got wrong into a line on standard error and exit code 2. Bugs keep their traceback."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:  # of `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (UserError, OSError) as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        raise SystemExit(2) from None
