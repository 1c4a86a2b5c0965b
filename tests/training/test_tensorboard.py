"""What TensorBoard shows of a run, read back from the files it wrote."""

import io
import json
import time
import urllib.request

import numpy as np
import pytest
from helpers import run_script, scalars
from PIL import Image
from tensorboard import program
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import plugin_data_pb2

from mnist_lightning.training.cli import MNISTCLI

EPOCHS, STEPS = 6, 8  # 512 training images in batches of 64


@pytest.fixture(scope="module")
def run(dataset, tmp_path_factory):
    """A run of six epochs through scripts/train.py."""
    cwd = tmp_path_factory.mktemp("run")
    options = ("--data.data_dir", dataset, "--data.val_size", 88, "--max_epochs", EPOCHS)
    options += ("--model.dropout", 0.1, "--plots.every_n_epochs", 5)
    result = run_script("train.py", *options, cwd=cwd)
    assert result.returncode == 0, result.stderr
    return cwd / "lightning_logs" / "version_0"


@pytest.fixture(scope="module")
def events(run):
    return EventAccumulator(str(run), size_guidance={"images": 0, "tensors": 0}).Reload()


def decoded(events, tag):
    return {event.step: Image.open(io.BytesIO(event.encoded_image_string)) for event in events.Images(tag)}


def test_the_confusion_matrix_is_drawn_after_each_epoch_and_the_rest_now_and_then_and_at_the_end(events):
    each = [STEPS * (epoch + 1) - 1 for epoch in range(EPOCHS)]
    assert list(decoded(events, "pictures/confusion matrix")) == each
    for tag in ("digits", "worst mistakes", "first layer"):
        assert list(decoded(events, f"pictures/{tag}")) == [each[4], each[5]]


def test_the_plots_decode_and_are_large_enough_to_read(events):
    sizes = {tag: list(decoded(events, tag).values())[-1].size for tag in events.Tags()["images"]}
    assert all(min(size) >= 60 for size in sizes.values()), sizes
    assert sizes["pictures/confusion matrix"][0] == sizes["pictures/confusion matrix"][1]
    assert sizes["pictures/digits"][0] >= 4 * 2 * 28  # four digits in a row, two screen pixels for each of theirs
    for tag in sizes.keys() - {"pictures/first layer"}:  # TensorBoard shows them in their own size, or nearly
        assert sizes[tag][0] <= 350
        assert sizes[tag][1] <= 260


def test_a_layout_puts_training_and_validation_into_one_chart(events):
    (event,) = events.Tensors("custom_scalars__config__")
    layout = layout_pb2.Layout.FromString(event.tensor_proto.string_val[0])
    charts = {chart.title: list(chart.multiline.tag) for category in layout.category for chart in category.chart}
    assert charts.keys() == {"loss", "accuracy"}
    tags = events.Tags()["scalars"]
    for name, patterns in charts.items():
        drawn = {tag for tag in tags for pattern in patterns if tag == pattern.removesuffix("$")}
        assert drawn == {f"train/{name}", f"val/{name}"}


def test_the_graph_is_the_nets(events):
    names = {node.name for node in events.Graph().node if node.op == "aten::linear"}
    assert len(names) == 2


def test_hparams_compare_runs_by_options_and_final_figures(run, events):
    start = plugin_data_pb2.HParamsPluginData.FromString(
        events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    ).session_start_info.hparams
    assert start["dropout"].number_value == pytest.approx(0.1)
    assert start["hidden"].string_value == "[128]"
    assert start["seed"].number_value == 0
    written = scalars(run)
    best = max(value for _, value in written["val/accuracy"])
    assert written["tested/val_accuracy"][-1][1] == best  # the checkpoint's, not the last epoch's


def test_what_matters_comes_first_and_options_in_which_runs_differ_too(run, dataset, tmp_path):
    (tmp_path / "version_0").symlink_to(run)
    for name, *options in (
        ("wide net", "--model.hidden=[256]"),
        ("slow", "--model.lr=1e-4"),
        ("untested", "--model.lr=1e-4", "--plots.every_n_epochs=0"),  # as those of a sweep are
    ):
        cli = MNISTCLI([f"--data.data_dir={dataset}", "--max_epochs=6", "--model.dropout=0.1", *options])
        cli.fit(tmp_path / name)
        if name != "untested":
            cli.test()
        for logger in cli.trainer.loggers:
            logger.finalize("success")
    board = program.TensorBoard()
    board.configure(argv=["", "--logdir", str(tmp_path), "--port", "0", "--load_fast=false"])
    address = board.launch()

    def ask(path, content=None):
        data = None if content is None else json.dumps(content).encode()
        request = urllib.request.Request(f"{address}data/plugin/{path}", data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)

    for _ in range(100):  # it reads in a thread
        tags = ask("scalars/tags")
        if {"version_0", "wide net", "slow", "untested"} <= tags.keys() and all(
            "tested/val_loss" in tags[name] for name in tags.keys() - {"untested"}
        ):
            break
        time.sleep(0.1)
    assert sorted(tags["slow"])[:2] == ["at a glance/validation accuracy", "at a glance/validation loss"]
    pictures = {tag for each in ask("images/tags").values() for tag in each}
    assert min(pictures) > "at a glance"
    columns = [column["name"] for column in ask("hparams/experiment", {"experimentName": ""})["hparamInfos"]]
    assert columns[:2] == ["hidden", "lr"]
    assert {"dropout", "seed", "epochs", "batch_size"} < set(columns)
    asked = {"allowedStatuses": ["STATUS_SUCCESS", "STATUS_UNKNOWN"], "colParams": [], "startIndex": 0, "sliceSize": 9}
    trials = ask("hparams/session_groups", {"experimentName": "", **asked})["sessionGroups"]
    assert {trial["name"] for trial in trials} == {"version_0", "wide net", "slow", "untested"}
    for trial in trials:
        assert "val/accuracy" in {metric["name"]["tag"] for metric in trial["metricValues"]}


def test_the_first_curves_are_those_of_validation(run):
    written = scalars(run)
    for name in ("accuracy", "loss"):
        first, own = written[f"at a glance/validation {name}"], written[f"val/{name}"]
        assert [value for _, value in first] == pytest.approx([value for _, value in own])
        assert [step for step, _ in first] == [STEPS * (epoch + 1) - 1 for epoch in range(EPOCHS)]


def test_without_validation_images_only_the_weights_are_drawn(dataset, tmp_path):
    options = ("--data.data_dir", dataset, "--data.val_size", 0, "--max_epochs", 1, "--model.net", "convnet")
    assert run_script("train.py", *options, "--model.channels", "[4,4]", cwd=tmp_path).returncode == 0
    events = EventAccumulator(str(tmp_path / "lightning_logs" / "version_0"), size_guidance={"images": 0}).Reload()
    assert events.Tags()["images"] == ["pictures/first layer"]
    assert np.asarray(decoded(events, "pictures/first layer")[9]).std() > 0


def test_nothing_is_drawn_without_a_logger(dataset, tmp_path):
    options = ("--data.data_dir", dataset, "--max_epochs", 1, "--trainer.logger", "false")
    options += ("--trainer.default_root_dir", "new/results")
    result = run_script("train.py", *options, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert not list(tmp_path.rglob("events.*"))
    assert "config.yaml" not in result.stdout  # nothing wrote one


@pytest.mark.parametrize("precision", ["64-true", "bf16-true"])
def test_any_precision_is_drawn(dataset, tmp_path, precision):
    options = ("--data.data_dir", dataset, "--max_epochs", 1, "--trainer.precision", precision)
    result = run_script("train.py", *options, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    events = EventAccumulator(str(tmp_path / "lightning_logs" / "version_0")).Reload()
    assert {"pictures/first layer", "pictures/confusion matrix"} < set(events.Tags()["images"])


def test_plots_can_be_switched_off(dataset, tmp_path):
    options = ("--data.data_dir", dataset, "--max_epochs", 1, "--plots.every_n_epochs", 0)
    assert run_script("train.py", *options, cwd=tmp_path).returncode == 0
    tags = EventAccumulator(str(tmp_path / "lightning_logs" / "version_0")).Reload().Tags()
    assert (tags["images"], tags["graph"]) == ([], False)
    assert "val/loss" in tags["scalars"]
