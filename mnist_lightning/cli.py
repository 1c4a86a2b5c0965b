"""The command line: a LightningCLI with short flags, a help that can be read, one-line errors and exit codes."""

import argparse
import difflib
import logging
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from jsonargparse import DefaultHelpFormatter
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger

from mnist_lightning import report
from mnist_lightning.callbacks import RunHeader, StepProgressBar
from mnist_lightning.checkpoints import read_checkpoint
from mnist_lightning.classifier import MNISTClassifier
from mnist_lightning.datamodule import MNISTDataModule
from mnist_lightning.errors import UserError

# jsonargparse's way of saying things -> ours: expected this, got that
MESSAGES = (
    (r'Parser key "([\w.]+)":', r"--\1:"),
    (
        r"Does not validate against any of the Union subtypes.*?Subtypes: \[(.*?)\].*Given value: (.*)",
        r"Expected \1. Got value: \2",
    ),
    (r"<class '(?:\w+\.)*(\w+)'>", r"\1"),
    (r"Expected an? (?:typing\.)?Literal\[(.*?)\]", r"expected one of \1"),
    (r"Expected a Sequence", "expected a list such as [256,128]"),
    (r"Expected (?:an? )?(.*?)\. Got value: (.*)", r"expected \1, got \2; see --help"),
    (r"expected (.*?)\. Got value: (.*)", r"expected \1, got \2; see --help"),
)


class BriefHelp(DefaultHelpFormatter):
    """One spelling of each option, and its default without its Python type."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        metavar = self._format_args(action, self._get_default_metavar_for_optional(action))
        name = next((name for name in action.option_strings if name.startswith("--")), "")
        return " ".join([*([name] if name else []), *([metavar] if action.nargs != 0 else [])])

    def _get_help_string(self, action: argparse.Action) -> str:
        has_default = action.default not in (None, argparse.SUPPRESS)
        return f"{action.help} (default: %(default)s)" if has_default else action.help or ""


class Parser(LightningArgumentParser):
    """Shows the options of the experiment with --help, and those of the whole Trainer with --help_all."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs, formatter_class=BriefHelp)

    def add_short_flag(self, name: str, help: str) -> None:
        """Lets ``--name`` stand for ``--trainer.name``."""
        action = self._option_string_actions[f"--trainer.{name}"]
        action.option_strings = [f"--{name}", *action.option_strings]
        action.help = help
        self._option_string_actions[f"--{name}"] = action

    def format_help(self, formatter: argparse.HelpFormatter | None = None) -> str:
        if self.formatter_class is not BriefHelp:
            return super().format_help(formatter)
        hidden = {
            action: action.help
            for action in self._actions
            if any(map(re.compile(r"--trainer\b|--(model|data)$|--data.mirrors").match, action.option_strings[:1]))
        }
        for action in hidden:
            action.help = argparse.SUPPRESS
        try:
            return super().format_help(formatter)
        finally:
            for action, text in hidden.items():
                action.help = text

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Replaces jsonargparse's usage and message by a UserError."""
        if unknown := re.match(r"unrecognized arguments: (--[\w.]+)", message, re.IGNORECASE):
            close = difflib.get_close_matches(unknown[1], self._option_string_actions, n=1)
            message += f"; did you mean {close[0]}?" if close else "; see --help"
        for pattern, plain in MESSAGES:
            message = re.sub(pattern, plain, message, flags=re.DOTALL)
        raise UserError(message) from ex


class HelpAll(argparse.Action):
    """Prints the help with nothing left out."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "nargs": 0, "default": argparse.SUPPRESS})

    def __call__(self, parser: Any, *_: Any) -> None:
        parser.formatter_class = DefaultHelpFormatter
        parser.print_help()
        parser.exit()


class MNISTCLI(LightningCLI):
    """Parses the command line and builds the classifier, the data and the trainer; ``fit`` and ``test`` run them."""

    def __init__(self, args: list[str] | None = None) -> None:
        super().__init__(
            MNISTClassifier,
            MNISTDataModule,
            args=args,
            run=False,
            seed_everything_default=0,
            parser_class=Parser,
            parser_kwargs={
                "description": "Trains a digit classifier on IDX files, then tests it on digits it has not seen.",
                "usage": "%(prog)s [--config FILE] [--OPTION VALUE ...]",
            },
            trainer_defaults={
                "max_epochs": 20,
                "num_sanity_val_steps": 0,  # an epoch is a second: a broken validation shows soon enough
                "use_distributed_sampler": False,  # ours shares each batch; Lightning's would share out chunks
                "enable_model_summary": False,  # RunHeader says it in a line
            },
            auto_configure_optimizers=False,  # the classifier has its own
            load_from_checkpoint_support=False,  # a checkpoint holds plain values, not the name of code to run
        )

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument(
            "--seed_everything",
            type=bool | int,
            default=self.seed_everything_default,
            help="Seed of the initial weights, the order of the images and dropout; true draws one.",
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        assert isinstance(parser, Parser)
        parser.add_argument("--help_all", action=HelpAll, help="Show every option, the Trainer's forty too, and exit.")
        parser.add_short_flag("accelerator", "Where to train: cpu, gpu, or auto for the best there is.")
        parser.add_short_flag("devices", "How many of them, or which: 2, [0,3], auto.")
        parser.add_short_flag("max_epochs", "Passes through the training images.")
        parser.add_argument("--ckpt_path", type=str | None, help="Checkpoint of a run to go on from.")

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        config = self.config_init.trainer
        if config.gradient_clip_val:  # Lightning does not clip where training_step calls the optimizer itself
            raise UserError("expected no --trainer.gradient_clip_val; use --model.gradient_clip_val for the same")
        given = config.callbacks or []
        callbacks: list[Callback] = [*(given if isinstance(given, list) else [given]), RunHeader()]
        if config.enable_progress_bar is not False:
            callbacks.append(StepProgressBar())
        if config.enable_checkpointing is not False:
            validates = self.datamodule.val_size > 0 and config.limit_val_batches != 0
            callbacks.append(self._checkpoints(validates))
        if config.logger in (None, True):
            # a queue of the default 10 events would make training wait for the thread that writes them
            kwargs["logger"] = TensorBoardLogger(config.default_root_dir or "", default_hp_metric=False, max_queue=1000)
        elif config.logger is False:
            self.save_config_callback = None  # there is no folder of the run's own to save it in
        with trainer_errors():
            return super().instantiate_trainer(callbacks=callbacks, **kwargs)

    @staticmethod
    def _checkpoints(validates: bool) -> ModelCheckpoint:
        """Keeps last.ckpt and, where there is an accuracy to choose by, best.ckpt."""
        if not validates:
            return ModelCheckpoint(save_top_k=0, save_last=True)
        return ModelCheckpoint(
            filename="best", monitor="val/accuracy", mode="max", save_last=True, enable_version_counter=False
        )

    def fit(self) -> None:
        """Trains, from the beginning or from ``--ckpt_path``."""
        if self.config.ckpt_path:
            read_checkpoint(self.config.ckpt_path)  # for its errors: Lightning's would be tracebacks
        self.datamodule.prepare_data()  # before Lightning makes the run's folder: bad files leave nothing behind
        self.datamodule.setup("fit")
        self.trainer.fit(self.model, self.datamodule, ckpt_path=self.config.ckpt_path, weights_only=True)

    def test(self) -> dict[str, Any]:
        """Tests the checkpoint that training chose and returns :func:`report.metrics`."""
        return evaluate(self.trainer, self.model, self.datamodule, self.chosen_checkpoint)

    @property
    def chosen_checkpoint(self) -> str | None:
        """The best checkpoint, or the last where nothing was validated, or none where none was written."""
        checkpoints = self.trainer.checkpoint_callback
        if not isinstance(checkpoints, ModelCheckpoint):
            return None
        return checkpoints.best_model_path or checkpoints.last_model_path or None


def evaluate(
    trainer: Trainer, model: MNISTClassifier, datamodule: MNISTDataModule, ckpt_path: str | None = None
) -> dict[str, Any]:
    """Runs the test set through a model, or through a checkpoint of it, and returns :func:`report.metrics`."""
    trainer.test(model, datamodule, ckpt_path=ckpt_path, weights_only=True, verbose=False)
    return report.metrics(model.test_results, datamodule.dataset_name)


@contextmanager
def trainer_errors() -> Iterator[None]:
    """Says what is wrong with the arguments that a Trainer refuses."""
    try:
        yield
    except (ValueError, MisconfigurationException) as error:
        message = f"the Trainer refuses these options: {error}"
        if "gpu backend" in str(error):
            message = "expected a GPU for --accelerator gpu, but found none; use --accelerator cpu or auto"
        raise UserError(message) from error


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turns what the user got wrong into a line on standard error and exit code 2. Bugs keep their traceback."""
    quiet()
    try:
        yield
    except (UserError, MisconfigurationException, OSError) as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        raise SystemExit(2) from None


def quiet() -> None:
    """Silences what only Lightning's developers care about."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",  # the data is in memory: a worker would only copy it
        ".*smaller than the logging interval.*",  # the classifier logs every step itself
        ".*Total length of `list` across ranks is zero.*",  # no validation: what --data.val_size 0 asks for
        ".*LightningCLI's args parameter.*",  # a script that calls it from Python may have arguments of its own
        ".*LeafSpec.*is deprecated.*",  # Lightning's own use of PyTorch
    ):
        warnings.filterwarnings("ignore", message)
