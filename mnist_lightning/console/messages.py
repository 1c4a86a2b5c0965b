"""What a script's console says when something is wrong: one line, an exit code, nothing that only developers need."""

import logging
import re
import threading
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch.distributed
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.loggers import Logger

from mnist_lightning.console.arguments import one_line
from mnist_lightning.errors import UserError
from mnist_lightning.traced import UntraceableError


@contextmanager
def trainer_errors() -> Iterator[None]:
    """Says what is wrong with the arguments that a Trainer refuses."""
    try:
        yield
    except UserError:
        raise
    except (ValueError, TypeError, ModuleNotFoundError, MisconfigurationException) as error:
        message = f"the Trainer refuses these options: {error}"
        if "gpu backend" in str(error) or "CUDAAccelerator` can not run" in str(error):
            message = "expected a GPU for --accelerator, but found none; use --accelerator cpu or auto"
        raise UserError(message) from error


def is_lightnings(error: Exception) -> bool:
    """Tells whether Lightning itself raised an error, to say what is wrong with an option or a callback's argument."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    said = isinstance(error, ValueError | RuntimeError | ModuleNotFoundError) and not isinstance(error, UserError)
    return said and str(frame.f_globals["__name__"]).startswith("lightning.")


@contextmanager
def class_errors() -> Iterator[None]:
    """Says what a class that the user named complains of: a logger that lacks its package, say; or a net its memory."""
    try:
        yield
    except RuntimeError as error:
        if "allocate memory" not in str(error):
            raise
        raise UserError("expected a net that fits into memory, got a larger one; lower --model.hidden") from error
    except (TypeError, ValueError) as error:
        cause: BaseException = error
        while isinstance(cause, TypeError | ValueError) and (deeper := cause.__cause__ or cause.__context__):
            cause = deeper
        if cause is error or isinstance(error, UserError):
            raise
        raise UserError(_of_a_class(str(error)) or str(cause)) from error


def _of_a_class(message: str) -> str | None:
    """What a class that could not be made complained of, among what jsonargparse says of all types that it tried."""
    named = re.search(r"class_path='(\S+?)'", message)
    tried = re.split(r"^  - ", message.partition("\nGiven value type")[0], flags=re.MULTILINE)[1:]
    said = [each for each in tried if not each.startswith(("Expected a ", "Not a valid subclass"))]
    if not (named and said):
        return None
    reason = re.sub(r"Problem with given class_path \S+:", "", said[0]).strip()
    return f"{named[1]} cannot be made ({reason or 'it does not say why'}); see its manual"


def begin_loggers(loggers: Sequence[Logger]) -> None:
    """Has the user's loggers begin before the run has a folder: some fail only then, for want of a login, say."""
    for logger in loggers:
        try:
            logger.experiment  # type: ignore[attr-defined]  # noqa: B018  # what it makes then it keeps
        except Exception as error:  # another package's
            reason = " ".join(str(error).split())
            raise UserError(f"{type(logger).__name__} cannot begin ({reason}); see its manual") from error


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Does what :func:`one_line` does, for what Lightning and a trace complain of too.

    At a good end, processes that trained together part: a thread of gloo's that still runs would abort the exit.
    """
    quiet()
    with one_line():
        try:
            yield
        except (UntraceableError, MisconfigurationException) as error:
            raise UserError(str(error)) from error
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()  # Lightning sees to it for GPUs only


def _thread_failed(failure: threading.ExceptHookArgs) -> None:
    """Leaves the OSErrors of TensorBoard's writing thread to the main thread, where they come up again."""
    if not isinstance(failure.exc_value, OSError):
        threading.__excepthook__(failure)


def quiet() -> None:
    """Silences what only Lightning's developers care about."""
    threading.excepthook = _thread_failed
    # what callbacks, tuners and profilers say stays
    for name in ("fabric", "pytorch.accelerators", "pytorch.trainer", "pytorch.utilities"):
        logging.getLogger(f"lightning.{name}").setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",  # the data is in memory: a worker would only copy it
        ".*smaller than the logging interval.*",  # a small dataset's epoch has fewer steps
        ".*Total length of `list` across ranks is zero.*",  # no validation: what --data.val_size 0 asks for
        ".*LightningCLI's args parameter.*",  # a script that calls it from Python may have arguments of its own
        ".*but have no logger configured.*",  # scripts/test.py: its figures are the report's
        ".*sync_dist=True.*",  # torchmetrics has seen to it
        ".*Checkpoint directory .* exists and is not empty.*",  # it is the run's own, which is resumed
        ".*could not find the monitored key.*",  # --trainer.max_steps ended the run before its first validation
        ".*LeafSpec.*is deprecated.*",  # Lightning's own use of PyTorch
    ):
        warnings.filterwarnings("ignore", message)
