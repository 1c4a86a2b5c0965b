"""States that a run goes on from, forged in every part: refused by the part's name, before anything is trained."""

import copy

import pytest
import torch

from mnist_lightning.errors import UserError
from mnist_lightning.model.checkpoint import load_classifier
from mnist_lightning.training.cli import MNISTCLI
from mnist_lightning.training.restoring import check_like

OWN = {"number": 1, "tensor": torch.zeros(2, 3), "list": [0.5, {"word": "on", "flag": True}], "open": {}, "none": None}
LOOP = ("loops", "fit_loop")
ADAM = ("optimizer_states", 0)
TIMER = ("callbacks", "Timer")
GONE = object()

# what the scripts silence too: see quiet() in console.py
pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")


def command_line(dataset, root, *options):
    quiet = ("--trainer.enable_progress_bar=false", "--plots.every_n_epochs=0", "--accelerator=cpu")
    where = (f"--data.data_dir={dataset}", f"--trainer.default_root_dir={root}")
    return MNISTCLI([*where, *quiet, "--max_epochs=2", *options])


@pytest.fixture(scope="module", params=["step", "plateau", "cosine", "onecycle", "none"])
def begun(request, dataset, tmp_path_factory):
    """The options of a run with each schedule, and its newest state."""
    root = tmp_path_factory.mktemp(request.param)
    option = f"--model.scheduler={request.param}"
    command_line(dataset, root, option).fit()
    return option, root / "lightning_logs" / "version_0" / "checkpoints" / "last.ckpt"


def forged(path, place, value):
    """The checkpoint with another value in a place, or without it."""
    checkpoint = torch.load(path, weights_only=True)
    part = checkpoint
    for key in place[:-1]:
        part = part[key]
    if value is GONE:
        del part[place[-1]]
    else:
        part[place[-1]] = value
    return checkpoint


def test_a_run_goes_on_from_its_own_state(begun, dataset, tmp_path):
    option, last = begun
    cli = command_line(dataset, tmp_path, option, f"--ckpt_path={last}")
    cli.fit()
    assert cli.trainer.global_step == torch.load(last, weights_only=True)["global_step"]


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("loops",), {}),
        (LOOP, "x"),
        ((*LOOP, "epoch_progress"), None),
        ((*LOOP, "epoch_progress", "current", "completed"), "x"),
        ((*LOOP, "epoch_loop.batch_progress", "total"), GONE),
        ((*LOOP, "epoch_loop.manual_optimization.optim_step_progress", "total", "completed"), []),
        ((*LOOP, "state_dict", "combined_loader", 0, "position"), "x"),
        ((*LOOP, "state_dict", "combined_loader"), []),
        (ADAM, GONE),
        ((*ADAM, "state", 0), {}),
        ((*ADAM, "state", 0, "exp_avg"), torch.zeros(3)),
        ((*ADAM, "state", 1, "exp_avg_sq"), GONE),
        ((*ADAM, "param_groups", 0, "betas"), 0.9),
        ((*ADAM, "param_groups", 0, "lr"), "fast"),
        (("rng_state",), torch.zeros(5056)),
        (TIMER, None),
        ((*TIMER, "time_elapsed", "train"), "long"),
        (("lr_schedulers",), [{}, {}]),
    ],
)
def test_a_forged_state_is_refused_by_name_before_training(begun, dataset, tmp_path, place, value):
    option, last = begun
    torch.save(forged(last, place, value), tmp_path / "forged.ckpt")
    cli = command_line(dataset, tmp_path, option, f"--ckpt_path={tmp_path / 'forged.ckpt'}")
    message = rf"forged\.ckpt: expected {place[0]}.* to be .*, got .*; give another"
    with pytest.raises(UserError, match=message) as error:
        cli.fit()
    assert "\n" not in str(error.value)
    assert cli.trainer.global_step == 0


def test_every_part_of_a_schedule_is_looked_at(begun, dataset, tmp_path):
    option, last = begun
    (state,) = torch.load(last, weights_only=True)["lr_schedulers"] or [{}]
    for name, value in state.items():
        bad = {} if isinstance(value, str) else "x"
        torch.save(forged(last, ("lr_schedulers", 0, name), bad), tmp_path / "forged.ckpt")
        with pytest.raises(UserError, match=f"expected lr_schedulers.0.{name} to be"):
            command_line(dataset, tmp_path, option, f"--ckpt_path={tmp_path / 'forged.ckpt'}").fit()


@pytest.mark.parametrize("score", [None, "x"])
def test_a_best_state_without_a_score_is_beaten_by_the_next(dataset, tmp_path, score):
    """A run that is killed when it has saved its first best state, and not yet the newest, leaves no score."""
    command_line(dataset, tmp_path, "--max_epochs=1").fit()
    last = tmp_path / "lightning_logs" / "version_0" / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(last, weights_only=True)
    (best,) = (state for key, state in checkpoint["callbacks"].items() if key.startswith("BestCheckpoint"))
    best["best_model_score"] = score
    torch.save(checkpoint, last)
    cli = command_line(dataset, tmp_path, f"--ckpt_path={last}")
    cli.fit()
    assert cli.chosen_checkpoint == last.with_name("best.ckpt")
    assert torch.load(cli.chosen_checkpoint, weights_only=True)["epoch"] == 1


def test_a_forged_metric_is_refused_with_the_weights(dataset, tmp_path):
    command_line(dataset, tmp_path, "--max_epochs=1").fit()
    last = tmp_path / "lightning_logs" / "version_0" / "checkpoints" / "last.ckpt"
    for value in ("x", torch.zeros(7)):
        torch.save(forged(last, ("state_dict", "train_metrics.accuracy.tp"), value), tmp_path / "forged.ckpt")
        with pytest.raises(UserError, match=r"forged\.ckpt: expected weights that fit .*train_metrics\.accuracy\.tp"):
            load_classifier(tmp_path / "forged.ckpt")


def test_what_is_like_ones_own_passes():
    check_like(OWN, OWN, "it")
    given = copy.deepcopy(OWN) | {"number": 2.5, "tensor": torch.ones(2, 3, dtype=torch.float64), "open": {"a": 1}}
    check_like(OWN, given | {"none": "anything", "list": (1, {"word": "off", "flag": False})}, "it")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (None, "expected it to be a dict of 'list', 'none', 'number', 'open', 'tensor', got a NoneType"),
        ({**OWN, "more": 1}, "got a dict of 'list', 'more', 'none'"),
        ({**OWN, "number": True}, "expected it.number to be a number, got a bool"),
        ({**OWN, "number": "1"}, "expected it.number to be a number, got a str"),
        ({**OWN, "tensor": torch.zeros(3, 2)}, r"tensor of shape \(2, 3\), got a float tensor of shape \(3, 2\)"),
        ({**OWN, "tensor": torch.zeros(2, 3, dtype=int)}, r"got a torch.int64 tensor"),
        ({**OWN, "list": [0.5]}, "expected it.list to be a list of 2, got a list of 1"),
        ({**OWN, "list": [0.5, {"word": 1, "flag": True}]}, "expected it.list.1.word to be a str, got a number"),
    ],
)
def test_what_is_not_is_named(given, message):
    with pytest.raises(UserError, match=message):
        check_like(OWN, given, "it")
