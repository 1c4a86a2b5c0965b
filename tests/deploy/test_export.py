"""What is exported answers as its checkpoint does, in its own runtime; what cannot be ends in a line, and no file."""

import importlib.util
import json
import resource
import zipfile
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import ROOT, Evil, make_digits, ok, refused, run_script, train_checkpoint

from mnist_lightning.checkpoints.provenance import data_for
from mnist_lightning.checkpoints.read import load_classifier, read_checkpoint
from mnist_lightning.data.datamodule import MNISTDataModule
from mnist_lightning.data.format import FILES, find
from mnist_lightning.data.idx import read_idx
from mnist_lightning.deploy import export as exporting
from mnist_lightning.deploy.export import Predictor, export
from mnist_lightning.deploy.formats import FORMATS
from mnist_lightning.errors import UserError

NETS = {
    "simple": {"hidden": [16], "dropout": 0.5},
    "deslanted": {"hidden": [16], "deslant": True, "ink_width": 4.5},
    "lenet5": {"net": "lenet5", "hidden": [16], "activation": "tanh"},
    "small": {"net": "small", "channels": [4, 4]},
    "convnet": {"net": "convnet", "hidden": [16], "channels": [4, 4], "dropout": 0.5, "activation": "gelu"},
}
SUFFIXES = {"onnx": ".onnx", "torchscript": ".torchscript.pt", "pt2": ".pt2"}
HAVE_ONNX = all(map(importlib.util.find_spec, FORMATS["onnx"].packages))
EVERY_FORMAT = [
    pytest.param(name, marks=pytest.mark.skipif(name == "onnx" and not HAVE_ONNX, reason="needs the extra export"))
    for name in FORMATS
]


@pytest.fixture(scope="module")
def checkpoints(dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    return {net: train_checkpoint(folder / f"{net}.ckpt", dataset, **options) for net, options in NETS.items()}


@pytest.fixture
def simple(checkpoints, tmp_path):
    """A checkpoint's file in a folder of its own."""
    path = tmp_path / "best.ckpt"
    path.write_bytes(checkpoints["simple"].read_bytes())
    return path


@pytest.fixture(scope="module")
def data(dataset):
    data = MNISTDataModule(str(dataset))
    data.setup("test")
    return data


@pytest.fixture(scope="module")
def exported(checkpoints, data, tmp_path_factory):
    """The file of a net in a format, made when it is first asked for."""
    folder = tmp_path_factory.mktemp("exported")

    def file(net, format):
        return export(read_checkpoint(checkpoints[net]), format, data, folder / f"{net}{SUFFIXES[format]}").path

    return cache(file)


def run(path, images):
    """Runs a file as who was given it would, with none of this project."""
    if path.suffix == ".onnx":
        import onnxruntime

        return onnxruntime.InferenceSession(path).run(None, {"images": images})[0]
    model = torch.export.load(path).module() if path.suffix == ".pt2" else torch.jit.load(path)
    return model(torch.from_numpy(images)).detach().numpy()


def agrees(path, checkpoint, images, given=None):
    given = images if given is None else given
    probabilities = run(path, given)
    expected = load_classifier(checkpoint).predict(images)[1]
    assert (probabilities.dtype, probabilities.shape) == (np.float32, (len(images), 10))
    np.testing.assert_allclose(probabilities, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("format", EVERY_FORMAT)
def test_every_net_in_every_format_answers_as_its_checkpoint_for_any_number_of_images(
    checkpoints, exported, format, net
):
    images, _ = make_digits(30, seed=9)
    for count in (0, 1, 30):
        agrees(exported(net, format), checkpoints[net], images[:count])


@pytest.mark.parametrize("format", EVERY_FORMAT)
def test_float_images_go_in_too_and_no_format_takes_one_type_for_the_other(checkpoints, data, tmp_path, format):
    path = tmp_path / f"net{SUFFIXES[format]}"
    export(read_checkpoint(checkpoints["simple"]), format, data, path, input="float")
    images, _ = make_digits(30, seed=9)
    agrees(path, checkpoints["simple"], images, given=images.astype(np.float32) / 255)
    if format == "torchscript":
        agrees(path, checkpoints["simple"], images)
    else:
        with pytest.raises(Exception, match=r"(?i)float"):
            run(path, images)


@pytest.mark.parametrize("format", EVERY_FORMAT)
def test_the_script_writes_beside_the_checkpoint_over_an_older_export_and_says_what_it_did(simple, tmp_path, format):
    path = tmp_path / f"best{SUFFIXES[format]}"
    path.write_text("an older export")
    result = run_script("export.py", "best.ckpt", "--format", format, cwd=tmp_path)
    assert result.stderr == ""
    stdout = ok(result)
    assert f"written to {path.name} ({path.stat().st_size:,} bytes)" in stdout
    assert "images         (N, 28, 28), uint8 from 0 to 255" in stdout
    assert "probabilities  (N, 10), float32" in stdout
    assert "checked on 100 test images of digits: largest difference from the checkpoint" in stdout
    assert sorted(tmp_path.iterdir()) == sorted([simple, path])
    agrees(path, simple, make_digits(5, seed=9)[0])


@pytest.mark.parametrize("format", EVERY_FORMAT)
def test_a_file_names_no_folder_of_the_machine_that_made_it(exported, format):
    path = exported("deslanted", format)
    contents = [path.read_bytes()]
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            contents = [archive.read(name) for name in archive.namelist()]
    for content in contents:
        for folder in (ROOT, Path(torch.__file__).parent, path.parent):
            assert str(folder).encode() not in content


def test_a_file_says_what_it_is(exported):
    told = {"images": "", "labels": ""}
    torch.jit.load(exported("simple", "torchscript"), _extra_files=told)
    assert json.loads(told["labels"]) == list("0123456789")
    assert b"uint8 from 0 to 255 or float32 from 0 to 1" in told["images"]
    told = {"checked_on": ""}
    torch.export.load(exported("simple", "pt2"), extra_files=told)
    assert told["checked_on"] == "100 test images of digits"
    if HAVE_ONNX:
        import onnxruntime

        session = onnxruntime.InferenceSession(exported("simple", "onnx"))
        assert json.loads(session.get_modelmeta().custom_metadata_map["labels"]) == list("0123456789")
        (images,), (probabilities,) = session.get_inputs(), session.get_outputs()
        assert (images.name, images.type, images.shape) == ("images", "tensor(uint8)", ["N", 28, 28])
        assert (probabilities.name, probabilities.type, probabilities.shape) == (
            "probabilities",
            "tensor(float)",
            ["N", 10],
        )


@pytest.fixture(scope="module")
def real(mnist, tmp_path_factory):
    """A checkpoint of a net trained for an epoch on the real MNIST."""
    return train_checkpoint(tmp_path_factory.mktemp("real") / "best.ckpt", mnist, dropout=0.2)


@pytest.mark.parametrize("format", EVERY_FORMAT)
def test_an_export_agrees_on_1000_real_digits(mnist, real, format):
    checkpoint = read_checkpoint(real)
    exported = export(checkpoint, format, data_for(checkpoint, str(mnist)))
    assert exported.about["checked_on"].startswith("1,000 test images")
    assert exported.difference < 1e-5
    images, labels = (read_idx(find(mnist, name))[:1000] for name in FILES[2:])
    path = real.with_name(f"best{SUFFIXES[format]}")
    agrees(path, real, images)
    assert (run(path, images).argmax(1) == labels).mean() > 0.9


def refusal(checkpoint, *args):
    """The one line of an export that is refused."""
    before = {path: path.read_bytes() for path in checkpoint.parent.iterdir() if path.is_file()}
    with pytest.raises((UserError, OSError)) as error:
        export(read_checkpoint(checkpoint), *args)
    assert {path: path.read_bytes() for path in checkpoint.parent.iterdir() if path.is_file()} == before
    assert "\n" not in str(error.value)
    return str(error.value)


class Unscaled(Predictor):
    """Forgets to divide by 255."""

    def forward(self, images):
        return self.net(images.float().unsqueeze(1)).softmax(1)


@pytest.mark.parametrize("format", EVERY_FORMAT)
def test_a_file_that_answers_otherwise_is_not_kept(simple, data, monkeypatch, format):
    monkeypatch.setattr(exporting, "Predictor", Unscaled)
    simple.with_name(f"best{SUFFIXES[format]}").write_text("an older export")
    assert "differ by" in refusal(simple, format, data)


def test_a_net_that_answers_nan_is_not_exported(simple, data):
    checkpoint = torch.load(simple, weights_only=True)
    checkpoint["state_dict"]["net.1.bias"][0] = torch.nan
    torch.save(checkpoint, simple)
    assert "differ by nan" in refusal(simple, "pt2", data)


def test_without_the_extra_onnx_names_it(simple, data, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    message = refusal(simple, "onnx", data)
    assert "onnxruntime" in message
    assert 'pip install -e ".[export]"' in message


def test_a_folder_that_is_not_there_and_files_that_are_something_else_are_refused(simple, data, tmp_path):
    assert "expected a folder for" in refusal(simple, "pt2", data, tmp_path / "none" / "best.pt2")
    assert "expected a folder for" in refusal(simple, "pt2", data, simple / "best.pt2")
    assert "is a folder" in refusal(simple, "pt2", data, tmp_path)
    assert "is the checkpoint itself" in refusal(simple, "pt2", data, simple)


def test_without_a_checkpoint_there_is_nothing_to_export(data, tmp_path):
    assert "no such file" in refusal(tmp_path / "best.ckpt", "pt2", data)


def test_a_full_disk_leaves_the_older_export(simple, data):
    simple.with_name("best.pt2").write_text("an older export")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        message = refusal(simple, "pt2", data)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert message.endswith(f"File too large: '{simple.with_name('best.pt2')}'")


BAD = {
    "no format": ([], ["expected --format (what to write: onnx, torchscript or pt2), got none; give that"]),
    "format": (["--format", "tflite"], ["one of onnx, torchscript, pt2, got tflite"]),
    "data": (["--format", "pt2", "--data.data_dir", "none"], ["none", "no such folder", "give as data_dir a folder"]),
    "damaged": (["--format", "pt2"], ["best.ckpt", "damaged"]),
    "crafted": (["--format", "pt2"], ["best.ckpt", "could run code"]),
}


@pytest.mark.parametrize("bad", BAD)
def test_what_cannot_be_ends_in_a_line_and_leaves_nothing(simple, tmp_path, bad):
    if bad == "damaged":
        simple.write_bytes(simple.read_bytes()[:1000])
    if bad == "crafted":
        torch.save({**torch.load(simple, weights_only=True), "loops": Evil(tmp_path / "pwned")}, simple)
    options, words = BAD[bad]
    refused(run_script("export.py", "best.ckpt", *options, cwd=tmp_path), *words)
    assert list(tmp_path.iterdir()) == [simple]
