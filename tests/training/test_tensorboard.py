"""What TensorBoard shows of a run, read back from the files it wrote."""

import io
import json

import numpy as np
import pytest
from helpers import run_script, scalars
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import plugin_data_pb2

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
    assert list(decoded(events, "confusion matrix")) == each
    for tag in ("digits", "worst mistakes", "first layer"):
        assert list(decoded(events, tag)) == [each[4], each[5]]


def test_the_plots_decode_and_are_large_enough_to_read(events):
    sizes = {tag: list(decoded(events, tag).values())[-1].size for tag in events.Tags()["images"]}
    assert all(min(size) >= 100 for size in sizes.values()), sizes
    assert sizes["confusion matrix"][0] == sizes["confusion matrix"][1]
    assert sizes["digits"][0] >= 5 * 3 * 28  # five digits in a row, three screen pixels for each of theirs


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
    test = json.loads((run / "test" / "metrics.json").read_text())
    assert written["final/test_accuracy"][-1][1] == pytest.approx(test["accuracy"])
    assert written["final/test_loss"][-1][1] == pytest.approx(test["loss"], rel=1e-5)
    assert written["final/val_accuracy"][-1][1] == max(
        value for _, value in written["val/accuracy"]
    )  # the best epoch's


def test_without_validation_images_only_the_weights_are_drawn(dataset, tmp_path):
    options = ("--data.data_dir", dataset, "--data.val_size", 0, "--max_epochs", 1, "--model.net", "convnet")
    assert run_script("train.py", *options, "--model.channels", "[4,4]", cwd=tmp_path).returncode == 0
    events = EventAccumulator(str(tmp_path / "lightning_logs" / "version_0"), size_guidance={"images": 0}).Reload()
    assert events.Tags()["images"] == ["first layer"]
    assert np.asarray(decoded(events, "first layer")[9]).std() > 0


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
    assert {"first layer", "confusion matrix"} < set(events.Tags()["images"])


def test_plots_can_be_switched_off(dataset, tmp_path):
    options = ("--data.data_dir", dataset, "--max_epochs", 1, "--plots.every_n_epochs", 0)
    assert run_script("train.py", *options, cwd=tmp_path).returncode == 0
    tags = EventAccumulator(str(tmp_path / "lightning_logs" / "version_0")).Reload().Tags()
    assert (tags["images"], tags["graph"]) == ([], False)
    assert "val/loss" in tags["scalars"]
