"""What the options of a MNISTClassifier may be, beyond their types."""

from collections.abc import Callable, Collection, Mapping
from typing import Any, get_args

from mnist_lightning.data.augment import SIDE
from mnist_lightning.errors import UserError
from mnist_lightning.metrics import LOSSES
from mnist_lightning.model.nets import ACTIVATIONS, LAYERS, NETS
from mnist_lightning.model.schedule import OptimizerName, ScheduleName

Bound = tuple[str, Callable[[Any], bool], str]  # an option, what must hold of all options, and how an error says so


def _one_of(name: str, names: Collection[str]) -> Bound:
    return name, lambda o: o[name] in names, f"one of {', '.join(names)}"


BOUNDS: tuple[Bound, ...] = (
    _one_of("net", NETS),
    _one_of("activation", ACTIVATIONS),
    _one_of("loss", LOSSES),
    _one_of("optimizer", get_args(OptimizerName)),
    _one_of("scheduler", get_args(ScheduleName)),
    ("hidden", lambda o: not isinstance(o["hidden"], int), "a list such as [256,128]"),
    ("channels", lambda o: not isinstance(o["channels"], int), "a list such as [32,64]"),
    ("hidden", lambda o: len(o["hidden"] or ()) <= LAYERS, f"at most {LAYERS} layers"),
    ("ink_width", lambda o: 0 <= o["ink_width"] <= SIDE, f"from 0 to {SIDE}"),
    ("net", lambda o: o["net"] == "simple" or not o["permute_pixels"], "simple, for permuted pixels"),
    ("deslant", lambda o: not (o["deslant"] and o["permute_pixels"]), "false, for permuted pixels"),
    ("ink_width", lambda o: not (o["ink_width"] and o["permute_pixels"]), "0, for permuted pixels"),
    ("label_smoothing", lambda o: 0 <= o["label_smoothing"] < 1, "from 0 to below 1"),
    ("label_smoothing", lambda o: not o["label_smoothing"] or o["loss"] == "cross_entropy", "0 for mse"),
    ("lr", lambda o: o["lr"] > 0, "above 0"),
    ("weight_decay", lambda o: o["weight_decay"] >= 0, "at least 0"),
    ("betas", lambda o: len(o["betas"]) == 2 and all(0 <= beta < 1 for beta in o["betas"]), "two shares below 1"),
    ("momentum", lambda o: 0 <= o["momentum"] < 1, "from 0 to below 1"),
    ("nesterov", lambda o: not o["nesterov"] or o["momentum"] > 0, "false without a momentum"),
    ("step_size", lambda o: o["step_size"] >= 1, "at least 1"),
    ("gamma", lambda o: 0 < o["gamma"] <= 1, "above 0 and at most 1"),
    ("gamma", lambda o: o["gamma"] < 1 or o["scheduler"] != "plateau", "below 1, for plateau"),
    ("warmup_epochs", lambda o: o["warmup_epochs"] >= 0, "at least 0"),
)


def check_options(options: Mapping[str, Any]) -> None:
    """Raises a UserError for the first option that cannot be."""
    for name, holds, expected in BOUNDS:
        if not holds(options):
            raise UserError(f"expected {name} to be {expected}, got {options[name]}; change --model.{name}")
