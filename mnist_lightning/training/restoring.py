"""A run goes on only from states that are like its own, all the way down: the same names, kinds and shapes.

Lightning and PyTorch believe what they restore, and a stranger's string in the place of a number would show up as a
traceback, here or an epoch later.
"""

from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.optim import Optimizer

from mnist_lightning.data.datamodule import data_of
from mnist_lightning.errors import UserError
from mnist_lightning.training.checkpointing import BestCheckpoint


class CheckedStates(L.Callback):
    """Refuses a checkpoint with states that are not like those that the run has itself.

    Raises:
        UserError: A part is missing, or of another kind.
    """

    def __init__(self) -> None:
        self._checkpoint: dict[str, Any] = {}

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Lightning calls this before it restores the callbacks; for a test too, when theirs have gone on."""
        if trainer.state.fn != TrainerFn.FITTING:
            return
        self._checkpoint = checkpoint
        callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]  # set, but not declared
        own = {each.state_key: each.state_dict() for each in callbacks if isinstance(each, Timer | BestCheckpoint)}
        given = {key: state for key, state in checkpoint["callbacks"].items() if key in own}
        _check(trainer, "callbacks", {key: own[key] for key in given}, given)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Lightning calls this when it has made the optimizer and the schedule, and before it restores them."""
        if not self._checkpoint:
            return
        loader = data_of(trainer).train_dataloader()
        loop = {**trainer.fit_loop.state_dict(), "state_dict": {"combined_loader": [loader.state_dict()]}}
        own = {
            "loops": {"fit_loop": loop},
            "optimizer_states": [_adam(optimizer) for optimizer in trainer.optimizers],
            "lr_schedulers": [config.scheduler.state_dict() for config in trainer.lr_scheduler_configs],
            "rng_state": torch.get_rng_state(),
        }
        loops = {"fit_loop": self._checkpoint["loops"].get("fit_loop")}  # the others are not restored
        given = {**self._checkpoint, "loops": loops}
        self._checkpoint = {}  # it is as large as the weights and the optimizer together
        for name in own:
            _check(trainer, name, own[name], given[name])


def _check(trainer: L.Trainer, name: str, own: Any, given: Any) -> None:
    try:
        check_like(own, given, name)
    except UserError as error:
        raise UserError(f"{trainer.ckpt_path}: {error}; give another checkpoint") from error


def check_like(own: Any, given: Any, place: str) -> None:
    """Checks that a state has the names, kinds and shapes of another; None and {} may have become anything.

    Args:
        own: A state: numbers, strings, tensors, and dicts and lists of them.
        given: What may be such a state.
        place: Its name, for the error.

    Raises:
        UserError: It is not.
    """
    if own is None or own == {}:
        return
    if _kind(own) != _kind(given):
        raise UserError(f"expected {place} to be {_kind(own)}, got {_kind(given)}")
    if isinstance(own, dict | list | tuple):
        for key in own if isinstance(own, dict) else range(len(own)):
            check_like(own[key], given[key], f"{place}.{key}")


def _kind(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a {'float' if value.is_floating_point() else value.dtype} tensor of shape {tuple(value.shape)}"
    if isinstance(value, dict):
        return f"a dict of {', '.join(sorted(map(repr, value)))}"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    return "a number" if type(value) in (int, float) else f"a {type(value).__name__}"


def _adam(optimizer: Optimizer) -> dict[str, Any]:
    """The state of an Adam that has taken a step; before the first it has none for its parameters."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state = {
        number: {"step": torch.tensor(0.0), "exp_avg": parameter, "exp_avg_sq": parameter}
        for number, parameter in enumerate(parameters)
    }
    return {**optimizer.state_dict(), "state": state}
