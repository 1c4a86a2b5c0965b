"""What a run can be resumed from: a checkpoint with all its states, of a run with the same options and length."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.distributed import DistError
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, OneCycleLR, ReduceLROnPlateau, SequentialLR

from mnist_lightning.checkpoints.provenance import named, own_data
from mnist_lightning.checkpoints.read import Checkpoint, CheckpointError
from mnist_lightning.console.messages import is_lightnings
from mnist_lightning.data.datamodule import MNISTDataModule
from mnist_lightning.errors import UserError
from mnist_lightning.model.classifier import MNISTClassifier
from mnist_lightning.model.schedule import epochs, total_steps
from mnist_lightning.training.run_folder import LAST, RunRecord

# Parts that a checkpoint needs to be resumed from, and their types
RESUMABLE = {
    "optimizer_states": list,
    "lr_schedulers": list,
    "loops": dict,
    "callbacks": dict,
    "global_step": int,
    "epoch": int,
    "pytorch-lightning_version": str,
    "rng_state": Tensor,
}
# Options of the model that the optimizer's and the schedule's states hold
RESTORED = ["optimizer", "lr", "weight_decay", "betas", "momentum", "nesterov"]
RESTORED += ["scheduler", "step_size", "gamma", "warmup_epochs"]
# Those that its weights may not fit: dropout is a layer, which is there or not
SHAPES = ["net", "hidden", "channels", "dropout", "input_dropout", "deslant", "ink_width", "permute_pixels"]

NO_IMAGES = "expected validation images for {}, got none; raise --data.val_size"


def check_resumable(
    checkpoint: Checkpoint, model: MNISTClassifier, options: Mapping[str, Any], data: MNISTDataModule
) -> None:
    """Checks that a run goes on with what a checkpoint was trained on, and does not ask for what its states would undo.

    Args:
        checkpoint: What the run shall be resumed from.
        model: Of the run.
        options: Of that.
        data: Of the run, ready to train on.

    Raises:
        CheckpointError: It is of other data, or has other options of the net, the optimizer or the schedule; or its
            history is none.
    """
    _check_data(checkpoint, data)
    checkpoint.history  # noqa: B018  # for its error
    _check_options(checkpoint, options, RESTORED, "its optimizer resumes with")
    try:
        checkpoint.load_weights(model)  # for its error; Lightning loads them again, with all the rest
    except CheckpointError:
        _check_options(checkpoint, options, SHAPES, "its net has")
        raise


def _check_options(checkpoint: Checkpoint, options: Mapping[str, Any], names: Sequence[str], whose: str) -> None:
    theirs = checkpoint.model_options
    for name in names:
        if options[name] != theirs[name]:
            raise checkpoint.error(
                f"expected --model.{name} {theirs[name]}, which {whose}, got {options[name]}; give the same options, "
                "or --config with the run's config.yaml"
            )


def _check_data(checkpoint: Checkpoint, data: MNISTDataModule) -> None:
    theirs, ours = checkpoint.trained_on, data.state_dict()
    if theirs["sha256"] != ours["sha256"]:
        try:
            advice = f"is in {(place := own_data(checkpoint).folder)} now: give --data.data_dir {place}"
        except CheckpointError:
            advice = "is not where it was: give its folder as --data.data_dir"
        raise checkpoint.error(
            f"expected the data that it was trained on, {named(theirs)}, got {named(ours)} from {data.folder}; the "
            f"former {advice}, or begin anew without --ckpt_path"
        )


@contextmanager
def one_line_until_it_trains(trainer: L.Trainer, ckpt_path: Path | None, new_run: bool) -> Iterator[None]:
    """Says in a line what of a checkpoint cannot be resumed, and takes back the folder that a new run was given.

    Args:
        trainer: Which trains within.
        ckpt_path: The checkpoint, if there is one.
        new_run: Whether the run's folder is this project's to take back.

    Raises:
        UserError: The checkpoint cannot be resumed; or another process of the run died.
    """
    try:
        yield
    except Exception as error:  # a stranger's states: there is no end to what restoring them raises
        callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]  # set, but not declared
        trained = any(isinstance(each, RunRecord) and each.already_saved for each in callbacks)
        log_dir = Path(trainer.log_dir or "")
        if new_run and not trained and not (log_dir / "config.yaml").exists():
            shutil.rmtree(log_dir, ignore_errors=True)
            with suppress(OSError):  # others have runs in it
                log_dir.parent.rmdir()
        if trainer.world_size > 1 and (isinstance(error, DistError) or "peer" in str(error)):  # NCCL's, or gloo's
            raise UserError(
                "another process of this run died; resume from its last state with --ckpt_path last"
            ) from error
        if "more than 1 value per channel" in str(error):
            raise UserError(
                "expected two images or more in a batch, for batch norm; change --data.batch_size"
            ) from error
        if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error):
            reason = str(error).splitlines()[0]
            raise UserError(f"expected enough memory to train ({reason}); lower --data.batch_size") from error
        if (trained or ckpt_path is None) and is_lightnings(error):
            raise UserError(str(error)) from error
        if trained or ckpt_path is None or isinstance(error, UserError | OSError):
            raise
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise UserError(f"{ckpt_path}: cannot be resumed ({reason}); give another checkpoint") from error


class CheckedStates(L.Callback):
    """Checks the states that training is about to begin with, restored or not.

    Raises:
        RuntimeError: The optimizer's would be written to beyond their end.
        UserError: The run and its schedule do not fit, or it is no longer than what it is resumed from.
    """

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Converts the module now: Lightning would after the weights are restored, those of 64-true through float32."""
        trainer.precision_plugin.convert_module(pl_module)
        # before states are restored, which bring theirs
        self._patience = {each: each.patience for each in trainer.early_stopping_callbacks}

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Counts the steps of a run from before 0.2, which called its optimizer by hand, where they are counted now."""
        if trainer.state.fn != TrainerFn.FITTING:
            if "current_model_state" in checkpoint:  # WeightAveraging's, which would test these, not the average
                checkpoint["current_model_state"] = checkpoint["state_dict"]
        else:
            loop = checkpoint["loops"]["fit_loop"]
            total = loop["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]["step"]["total"]
            if total["completed"] == 0:
                steps = loop["epoch_loop.manual_optimization.optim_step_progress"]["total"]["completed"]
                total.update(ready=steps, completed=steps)
                loop["epoch_loop.state_dict"]["_batches_that_stepped"] = steps - 1
            _check_length(checkpoint, trainer)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Has a run that stopped early stay so, as Timer does; but a patience is what is asked for now."""
        for each, patience in self._patience.items():
            each.patience = patience
            if trainer.ckpt_path and each.wait_count >= max(1, patience):
                trainer.should_stop = True
                if not _is_resumed_in_its_folder(trainer):
                    raise UserError(
                        f"{trainer.ckpt_path}: expected a patience of more than {each.wait_count}, the validations "
                        f"that it has waited, got {patience}; raise --early_stopping.patience, or leave it out"
                    )

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        for optimizer in trainer.optimizers:
            _check_fused(optimizer)
        for config in trainer.lr_scheduler_configs:
            _check_schedule(config.scheduler, trainer)
        for each in self._patience:
            if each.monitor.startswith("val/") and not sum(trainer.num_val_batches):
                raise UserError(NO_IMAGES.format(f"EarlyStopping on {each.monitor}"))

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Tells a plateau schedule what it missed: Lightning does after an epoch's states are saved."""
        losses = pl_module.history.get("val/loss")
        for config in trainer.lr_scheduler_configs:
            plateau = config.scheduler
            if isinstance(plateau, ReduceLROnPlateau) and plateau.last_epoch < trainer.current_epoch and losses:
                plateau.step(losses[-1][1])


def _is_resumed_in_its_folder(trainer: L.Trainer) -> bool:
    return Path(trainer.log_dir or "", LAST).is_file()


def _check_length(checkpoint: Mapping[str, Any], trainer: L.Trainer) -> None:
    """Refuses a run with nothing left to train, but for one that ended, which may be asked for again in its folder."""
    ended = _is_resumed_in_its_folder(trainer)
    epochs = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]
    for name, limit, done in (
        ("max_epochs", trainer.max_epochs or -1, epochs),
        ("trainer.max_steps", trainer.max_steps, checkpoint["global_step"]),
    ):
        if 0 <= limit < done or (limit == done and not ended):
            least = f"{'at least' if ended else 'more than'} the {done}"
            raise UserError(
                f"{trainer.ckpt_path}: expected --{name} to be {least} that the checkpoint has behind it, got {limit}; "
                "raise it, or use scripts/test.py to test the checkpoint"
            )


def _check_fused(optimizer: Optimizer) -> None:
    """Refuses states that a fused kernel, which trusts them to be like their parameters, would write beyond."""
    for group in optimizer.param_groups:
        for parameter in group["params"] if group.get("fused") else []:
            for name, value in optimizer.state[parameter].items():
                if not isinstance(value, Tensor) or (value.ndim and value.shape != parameter.shape):
                    raise RuntimeError(f"the optimizer's {name} is not shaped like its parameter")


def _check_schedule(schedule: LRScheduler, trainer: L.Trainer) -> None:
    """Refuses to resume a schedule of another length, and a plateau schedule that would not be told."""
    if isinstance(schedule, OneCycleLR) and schedule.total_steps != total_steps(trainer):
        raise UserError(
            f"expected the {schedule.total_steps:,} optimizer steps of the checkpoint's onecycle schedule, got "
            f"{total_steps(trainer):,}; give the same --max_epochs and data, or begin anew"
        )
    if isinstance(schedule, CosineAnnealingLR | SequentialLR) and _epochs_of(schedule) != epochs(trainer):
        raise UserError(
            f"expected the {_epochs_of(schedule):,} epochs of the checkpoint's cosine schedule, got "
            f"{epochs(trainer):,}; give the same --max_epochs, or begin anew"
        )
    if isinstance(schedule, ReduceLROnPlateau):
        if trainer.check_val_every_n_epoch != 1:
            raise UserError("expected a validation after each epoch for the plateau scheduler, got fewer")
        if not sum(trainer.num_val_batches):
            raise UserError(NO_IMAGES.format("the plateau scheduler"))


def _epochs_of(schedule: LRScheduler) -> int:
    """The epochs of a cosine schedule, with those of its warm-up."""
    state = schedule.state_dict()
    if isinstance(schedule, SequentialLR):
        return int(state["_milestones"][0] + state["_schedulers"][-1]["T_max"])
    return int(state["T_max"])
