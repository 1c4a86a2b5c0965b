"""The experiment: a LightningCLI that builds classifier, data and trainer from the command line, and runs them."""

import sys
from pathlib import Path
from typing import Any

import yaml
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback, EarlyStopping, ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher
from lightning_utilities.core.rank_zero import rank_zero_only
from torch import Tensor

from mnist_lightning.checkpoints.read import Checkpoint, read_checkpoint
from mnist_lightning.checkpoints.runs import config_of, places, run_of
from mnist_lightning.console.messages import begin_loggers, class_errors, trainer_errors
from mnist_lightning.console.parser import Parser, Seed
from mnist_lightning.console.terminal import command
from mnist_lightning.data.datamodule import MNISTDataModule
from mnist_lightning.data.format import is_complete
from mnist_lightning.errors import UserError
from mnist_lightning.model.base import BaseClassifier
from mnist_lightning.model.classifier import MNISTClassifier
from mnist_lightning.model.nets import sizes
from mnist_lightning.training.callbacks import Answers, MovingAverage, RunHeader, RunTimer, StepProgressBar
from mnist_lightning.training.checkpointing import AtomicCheckpointIO, BestCheckpoint, LastCheckpoint, Stopped
from mnist_lightning.training.chunks import StepsPerExecution
from mnist_lightning.training.options import add_run_options, as_list, check_callbacks, check_effects, check_flags
from mnist_lightning.training.resuming import RESUMABLE, CheckedStates, check_resumable, one_line_until_it_trains
from mnist_lightning.training.run_folder import (
    LAST,
    RunRecord,
    alone,
    last_checkpoint,
    progress,
    resumes_its_run,
    run_logger,
)
from mnist_lightning.training.tensorboard import HyperParameters

LOG_EVERY = 10  # steps: 258 points for three epochs of MNIST


class MNISTCLI(LightningCLI):
    """Parses the command line and builds the classifier, the data and the trainer; ``fit`` and ``test`` run them."""

    def __init__(self, args: list[str] | None = None) -> None:
        self._arguments = sys.argv[1:] if args is None else args
        super().__init__(
            MNISTClassifier,
            MNISTDataModule,
            args=args,
            run=False,
            save_config_callback=RunRecord,
            seed_everything_default=0,
            parser_class=Parser,
            parser_kwargs={
                "description": "Trains a digit classifier on IDX files, then tests it on digits it has not seen.",
                "usage": "%(prog)s [--config FILE] [--OPTION VALUE ...]",
            },
            trainer_defaults={
                "max_epochs": 20,
                "devices": 1,  # a net this small gains nothing from eight, which would share batches of 64
                "log_every_n_steps": LOG_EVERY,
                "num_sanity_val_steps": 0,  # an epoch is a second: a broken validation shows soon enough
                "enable_model_summary": False,  # RunHeader says it in a line
            },
            auto_configure_optimizers=False,  # the classifier has its own
            load_from_checkpoint_support=False,  # a checkpoint holds plain values, not the name of code to run
        )

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument(
            "--seed_everything",
            type=Seed,
            default=self.seed_everything_default,
            help="Seed of the initial weights, the order of the images and dropout.",
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        assert isinstance(parser, Parser)
        add_run_options(parser)
        for name in ("image_shape", "classes", "permute_pixels"):  # so the data is read before the run has a folder
            parser.link_arguments(f"data.{name}", f"model.{name}", apply_on="instantiate")

    def before_instantiate_classes(self) -> None:
        model = self.config.model  # a run's config.yaml says the sizes that its net has
        model.hidden, model.channels = sizes(model.net, model.hidden, model.channels)
        model.betas = list(model.betas)
        check_effects(self.config)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        super().parse_arguments(parser, args)
        data = self.config.data
        if data.sha256:  # a run's config.yaml, which may be repeated from any folder
            data.data_dir = str(next(filter(is_complete, places(data.data_dir, *self._configs)), data.data_dir))

    def instantiate_classes(self) -> None:
        with class_errors():
            super().instantiate_classes()

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        config = self.config_init.trainer
        check_flags(config)
        check_callbacks(as_list(config.callbacks))
        first, *_ = [*as_list(config.logger), None]
        # Each run has a folder, with a TensorBoardLogger that fit makes when it knows it; other loggers come beside.
        off = first is False or config.fast_dev_run or config.barebones
        self._own_logger = not (off or isinstance(first, TensorBoardLogger))
        if first is None or first is True:
            kwargs["logger"] = False
        if config.barebones and config.log_every_n_steps == LOG_EVERY:
            kwargs["log_every_n_steps"] = None  # which it refuses, and this is the default here
        with trainer_errors():
            steps = StepsPerExecution(self.config_init.steps_per_execution)
            trainer = super().instantiate_trainer(
                callbacks=[steps, CheckedStates(), *as_list(config.callbacks), *self._callbacks(config)],
                plugins=[*as_list(config.plugins), AtomicCheckpointIO()],
                **kwargs,
            )
        if isinstance(trainer.strategy.launcher, _MultiProcessingLauncher):  # what it trained stays in its processes
            raise UserError(f"expected --trainer.strategy ddp, or one that starts scripts too, got {config.strategy}")
        return trainer

    def _callbacks(self, config: Any) -> list[Callback]:
        """What hangs on each run, besides what the user asks for."""
        in_passing = config.fast_dev_run or config.barebones or self.config_init.find_lr
        saves = config.enable_checkpointing is not False and not in_passing
        validates = len(self.datamodule.val_set) > 0 and config.limit_val_batches != 0
        plots = self.config_init.plots
        patience, delta = self.config_init.early_stopping.patience, self.config_init.early_stopping.min_delta
        has_bar = any(isinstance(each, ProgressBar) for each in as_list(config.callbacks))
        return [
            *([MovingAverage(decay)] if (decay := self.config_init.ema_decay) is not None else []),
            *([EarlyStopping("val/loss", delta, patience)] if patience is not None else []),
            RunHeader(),
            RunTimer(config.max_time),
            HyperParameters(),
            *([plots] if plots.every_n_epochs else []),
            *([] if config.enable_progress_bar is False or config.barebones or has_bar else [StepProgressBar()]),
            *([BestCheckpoint()] if saves and validates else []),
            *([self.config_init.checkpoint] if saves else []),
        ]

    def fit(self, run: Path | None = None) -> None:
        """Trains, from the beginning or from ``--ckpt_path``.

        Args:
            run: The run's folder, in which it is resumed if it was begun; by default, a new one in lightning_logs.

        Raises:
            UserError: The data or the checkpoint cannot be used; no run's state or record was changed.
            SystemExit: With 128 and the signal's number, when Ctrl-C or SIGTERM stopped it.
        """
        root = Path(self.trainer.default_root_dir if self.config.trainer.default_root_dir else "", "lightning_logs")
        path = run / LAST if run and (run / LAST).is_file() else self.config.ckpt_path
        checkpoint = self._checkpoint(path, root)
        self._check_folder(checkpoint)
        begin_loggers(self.trainer.loggers)
        if self._own_logger:
            if checkpoint and resumes_its_run(checkpoint.path, self.plain_config):
                run = run_of(checkpoint.path)
                self.config.ckpt_path = config_of(run).get("ckpt_path")  # a run's config.yaml says what it began with
            self.trainer.loggers = [run_logger(run, root, checkpoint, self.config.name), *self.trainer.loggers]
            self.config.name = None  # what repeats this run gets a folder of its own
        ckpt_path = checkpoint.path if checkpoint else None
        try:
            with one_line_until_it_trains(self.trainer, ckpt_path, self._own_logger), alone(self.trainer.logger):
                self.trainer.fit(self.model, self.datamodule, ckpt_path=ckpt_path, weights_only=True)
        except Stopped as stop:
            if self.trainer.is_global_zero:
                config = run_of(stop.path) / "config.yaml"
                options = ["--config", config] if config.is_file() else self._arguments
                resume = command("train.py", *options, "--ckpt_path", stop.path)
                print(f"\n{stop} at optimizer step {self.trainer.global_step:,}; to resume:\n  {resume}")
            raise SystemExit(128 + stop.signum) from None

    def _check_folder(self, resumed: Checkpoint | None) -> None:
        """Refuses to write over another run than the one that is resumed, where the folder is the user's choice."""
        saves = not self._own_logger and self.config_init.checkpoint in self.trainer.callbacks  # type: ignore[attr-defined]
        folder = Path(self.trainer.log_dir or "")
        if saves and (folder / LAST).is_file() and not (resumed and run_of(resumed.path).samefile(folder)):
            other = "logger.version" if self.trainer.loggers else "default_root_dir"
            raise UserError(f"{folder}: expected a new folder, got another run's; give another --trainer.{other}")

    @property
    def _configs(self) -> list[Path]:
        """The files that ``--config`` names; given as text, it names none."""
        return [Path(config.absolute) for config in filter(None, self.config.get("config") or [])]

    @property
    def plain_config(self) -> dict[str, Any]:
        """The whole configuration as plain values, as a run's config.yaml holds it."""
        config: dict[str, Any] = yaml.safe_load(self.parser.dump(self.config, skip_none=False))
        return config

    @property
    def training(self) -> dict[str, Any]:
        """How large the net is, how long it was trained, and the seconds that took, validation among them."""
        return progress(self.trainer, self.model)

    def _checkpoint(self, path: str | Path | None, root: Path) -> Checkpoint | None:
        """Finds and checks what ``--ckpt_path`` names: a file, a run's folder, or ``last``."""
        if path == "last":
            if not self._own_logger:
                raise UserError("expected a checkpoint's file for --ckpt_path, as this run has no folder, got last")
            path = last_checkpoint(root, self.plain_config, self.datamodule.sha256)
            if path is None:
                if rank_zero_only.rank == 0:  # type: ignore[attr-defined]
                    place = root / (self.config.name or "")
                    print(f"no checkpoint of this experiment in {place} yet: beginning at the start", file=sys.stderr)
                self.config.ckpt_path = None  # what repeats this run begins at the start too
        elif path and self._configs:
            path = next((place for place in places(path, *self._configs) if place.is_file()), path)
        if path is None and SLURMEnvironment.detect():  # of a requeued job: Lightning would load it without a check
            path = self.trainer._checkpoint_connector._hpc_resume_path
        if path is None:
            return None
        newest = Path(path, LAST)  # of a run's folder
        checkpoint = read_checkpoint(newest if newest.is_file() else path, needs=RESUMABLE)
        check_resumable(checkpoint, self.model, self.config.model, self.datamodule)
        return checkpoint

    def test(self) -> dict[str, Tensor]:
        """Tests the checkpoint that training chose and returns what :func:`evaluate` does."""
        return evaluate(self.trainer, self.model, self.datamodule, self.chosen_checkpoint)

    @property
    def chosen_checkpoint(self) -> Path | None:
        """The best checkpoint, or the last where nothing was validated, or none where none was written."""
        for callback in self.trainer.checkpoint_callbacks:
            if isinstance(callback, BestCheckpoint) and callback.best_model_path:
                return Path(callback.best_model_path)
            if isinstance(callback, LastCheckpoint) and callback.path.is_file():
                return callback.path
        return None


def evaluate(
    trainer: Trainer, model: BaseClassifier, datamodule: MNISTDataModule, ckpt_path: Path | None = None
) -> dict[str, Tensor]:
    """Tests a model, or a checkpoint of it; returns its ``test_results``, and what it answered if in one process."""
    trainer.callbacks.append(answers := Answers())  # type: ignore[attr-defined]  # set, but not declared
    trainer.test(model, datamodule, ckpt_path=ckpt_path, weights_only=True, verbose=False)
    trainer.callbacks.remove(answers)  # type: ignore[attr-defined]
    return model.test_results | ({"probabilities": answers.probabilities} if trainer.world_size == 1 else {})
