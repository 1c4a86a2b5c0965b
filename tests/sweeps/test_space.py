"""What is swept: lists, ranges and files are told from values, and what goes together is checked."""

import itertools
import runpy

import pytest
from helpers import ROOT

from mnist_lightning.errors import UserError
from mnist_lightning.sweeps import space
from mnist_lightning.sweeps.space import Sweep
from mnist_lightning.sweeps.study import plan
from mnist_lightning.sweeps.worker import check
from mnist_lightning.training.cli import MNISTCLI

SWEEP = runpy.run_path(str(ROOT / "scripts" / "sweep.py"))


def divide(line):
    return space.divide(space.typed(line.split()))


def sweep(swept, **more):
    return Sweep(
        {"data.batch_size": "32"},
        swept,
        **{"method": "grid", "trials": 0, "seeds": 1, "folds": 0, "pruner": "none", **more},
    )


def test_a_list_is_several_values_but_where_an_option_takes_a_list():
    fixed, swept = divide("--model.lr [1e-4,1e-3] --model.hidden [64,32] --model.net=convnet --max_epochs 5")
    assert swept == {"model.lr": [1e-4, 1e-3]}
    assert fixed == {"model.hidden": "[64,32]", "model.net": "convnet", "trainer.max_epochs": "5"}
    assert divide("--model.hidden [[64,32],[]] --max_epochs [1,2]")[1] == {
        "model.hidden": [[64, 32], []],
        "trainer.max_epochs": [1, 2],
    }


def test_the_options_that_take_a_list_are_those_that_the_parser_says():
    actions = MNISTCLI(["--trainer.logger=false"]).parser._actions
    takes = {
        a.dest
        for a in actions
        if any(word in str(getattr(a, "_typehint", "")) for word in ("Sequence", "Iterable", "List[", "list["))
        and not a.dest.endswith(".help")
    }
    assert takes == space.LISTS


def test_a_file_says_the_same_as_the_command_line(tmp_path):
    path = tmp_path / "sweep.yaml"
    path.write_text(
        "model:\n  lr: {from: 1e-4, to: 1e-2, log: true}\n  hidden: [[64], [128]]\n  net: simple\n"
        "trainer:\n  max_epochs: 3\n"
    )
    assert space.divide(space.read(path)) == (
        {"model.net": "simple", "trainer.max_epochs": "3"},
        {"model.lr": {"from": 1e-4, "to": 1e-2, "log": True}, "model.hidden": [[64], [128]]},
    )


def test_the_command_line_wins_by_an_options_short_name_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "sweep.yaml"
    path.write_text("model: {lr: [0.1, 0.2]}\ntrainer: {max_epochs: [1, 2]}\naccelerator: cpu\n")
    asked, _ = SWEEP["read"]([str(path), "--max_epochs", "3", "--trainer.accelerator", "auto"])
    assert (asked.options, list(asked.space)) == (
        {"trainer.max_epochs": "3", "trainer.accelerator": "auto"},
        ["model.lr"],
    )


def test_a_grid_has_every_combination_and_each_run_its_seed_and_fold():
    asked = sweep({"model.lr": [0.1, 0.2], "model.hidden": [[8], [16, 8]], "config": ["a", "b"]}, seeds=2, folds=3)
    points = asked.grid()
    assert [tuple(point.values()) for point in points] == list(
        itertools.product([0.1, 0.2], ["[8]", "[16,8]"], ["a", "b"])
    )
    runs = asked.runs(points[2], 2)
    assert [name for name, _ in runs] == [f"trial_2/seed_{s}_fold_{f}" for s in range(2) for f in range(3)]
    args = runs[5][1]
    assert args[0] == "--config=a"  # what comes after a config wins
    assert args[-3:] == ["--seed_everything=1", "--data.folds=3", "--data.fold=2"]
    assert {"--model.lr=0.1", "--model.hidden=[16,8]", "--data.batch_size=32"} < set(args)


def test_the_command_of_a_point_can_be_pasted():
    asked = sweep({"model.hidden": [[8]], "data.data_dir": ["my data"]})
    command = asked.command({"model.hidden": "[8]", "data.data_dir": "my data"})
    assert command == "python scripts/train.py --data.batch_size 32 --model.hidden '[8]' --data.data_dir 'my data'"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--model.lr", "expected a value after --model.lr"),
        ("model.lr 3", "expected an option such as --model.lr, got model.lr"),
        ("--model.lr []", "expected values for --model.lr"),
        ("--model.lr [1,2,1]", "each once"),
        ("--name [a,b]", "leave it out"),
    ],
)
def test_what_no_sweep_can_have_is_a_line(line, words):
    with pytest.raises(UserError, match=words.replace("[", "\\[")):
        divide(line)


@pytest.mark.parametrize(
    "given",
    [
        {"from": 1},
        {"from": 2, "to": 1},
        {"from": 0, "to": 1, "log": True},
        {"from": "a", "to": 1},
        {"from": 0, "to": 1, "by": 2},
    ],
)
def test_a_range_that_is_none_is_a_line(given):
    with pytest.raises(UserError, match=r"model\.lr"):
        space.divide({"model.lr": given})


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (sweep({}), "several values"),
        (sweep({})._replace(options={"model.hidden": "[64,32]"}), r"--model.hidden \[64,32\] is one value"),
        (sweep({"model.lr": {"from": 1, "to": 2}}), "--method random or search"),
        (sweep({"model.lr": [1]}, method="search"), "--trials"),
        (sweep({"model.lr": [1]}, trials=3), "--trials"),
        (sweep({"model.lr": [1]}, folds=1), "--folds"),
        (sweep({"seed_everything": [1, 2]}, seeds=2), "got both"),
    ],
)
def test_what_does_not_go_together_is_a_line(asked, words):
    with pytest.raises(UserError, match=words):
        asked.checked()


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "sweeps").glob("*.yaml")), ids=lambda path: path.stem)
def test_each_sweep_of_the_configs_is_one_whose_options_are_train_pys(path, dataset):
    own = {"method", "trials", "seeds", "folds", "pruner"}
    given = space.read(path)
    fixed, swept = space.divide({name: value for name, value in given.items() if name not in own})
    kept = {"method": "grid", "trials": 0, "seeds": 1, "folds": 0, "pruner": "median"}
    asked = Sweep(fixed, swept, **(kept | {name: given[name] for name in own & given.keys()})).checked()
    check(plan(asked._replace(options={**fixed, "data.data_dir": str(dataset)})))
