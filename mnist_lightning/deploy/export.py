"""Exports a checkpoint's classifier: one file, images in, probabilities out, checked before it has its name.

What every format holds is a :class:`EndToEnd`: the preprocessing, the net and the softmax, for any number of images.
ONNX and pt2 (PyTorch's own archive) are graphs of one input type and refuse another; TorchScript takes both.
"""

import importlib.util
import io
import logging
import os
import warnings
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mnist_lightning.data.datamodule import MNISTDataModule
from mnist_lightning.data.format import CLASSES, SIDE
from mnist_lightning.errors import UserError
from mnist_lightning.files import atomic_path
from mnist_lightning.model.checkpoint import load_classifier

FormatName = Literal["onnx", "torchscript", "pt2"]
InputName = Literal["uint8", "float"]
Floats = NDArray[np.float32]
Pixels = NDArray[np.uint8] | Floats

TOLERANCE = 1e-4  # of a probability; rounding is a hundredth of it
CHECKED = 1000  # test images
VALUES: dict[InputName, str] = {"uint8": "uint8 from 0 to 255", "float": "float32 from 0 to 1"}


class ExportError(UserError):
    """A classifier cannot be exported, or the file does not answer as the checkpoint does."""


class EndToEnd(nn.Module):
    """What is exported: reads digits, in bright ink on black as in MNIST's files.

    Args:
        net: Maps float images (N, 1, 28, 28) in [0, 1] to logits (N, 10).
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        """Maps images (N, 28, 28), uint8 or floats in [0, 1], to the probability of every label, float32 (N, 10)."""
        pixels = images.float().unsqueeze(1)
        if not images.is_floating_point():
            pixels = pixels / 255
        probabilities: Tensor = self.net(pixels).softmax(1)
        return probabilities


@dataclass(frozen=True)
class Export:
    """A file that was written.

    Args:
        path: Where it is.
        about: What it says of itself: its input, its output, the labels, and what it was checked on.
        difference: The largest from the checkpoint's probabilities.
    """

    path: Path
    about: dict[str, str]
    difference: float

    def __str__(self) -> str:
        return (
            f"written to {self.path} ({self.path.stat().st_size:,} bytes)\n"
            f"  images         {self.about['images']}\n"
            f"  probabilities  {self.about['probabilities']}\n"
            f"  checked on {self.about['checked_on']}: largest difference from the checkpoint {self.difference:.2g}"
        )


def export(
    ckpt: str | os.PathLike[str],
    format: FormatName,
    data: MNISTDataModule,
    output: str | os.PathLike[str] | None = None,
    input: InputName = "uint8",
) -> Export:
    """Writes a checkpoint's classifier as a model that needs nothing of this project, and runs it to check it.

    It maps ``images`` (N, 28, 28) to ``probabilities``, float32 (N, 10), for any N.

    Args:
        ckpt: A file that scripts/train.py wrote.
        format: What to write: onnx, torchscript or pt2.
        data: Its first 1,000 test images are what the file is checked on.
        output: The file; by default, beside the checkpoint.
        input: Type of the images: uint8, or float, which is float32 from 0 to 1. A torchscript takes both.

    Raises:
        CheckpointError: The checkpoint cannot be used.
        DataError: There is nothing to check on.
        ExportError: A package is missing, the file cannot be written, or its answers differ by more than 1e-4. An
            older file under its name is as it was.
    """
    kind, ckpt = FORMATS[format], Path(ckpt)
    model = load_classifier(ckpt)
    path = _destination(ckpt, output, kind.suffix)
    _require(kind.packages, format)
    data.prepare_data()
    data.setup("test")
    digits = data.test_set.tensors[0][:CHECKED].numpy()
    inputs: tuple[InputName, ...] = ("uint8", "float") if format == "torchscript" else (input,)
    about = {
        "images": f"(N, {SIDE}, {SIDE}), {' or '.join(VALUES[name] for name in inputs)}, bright ink on black",
        "probabilities": f"(N, {CLASSES}), float32, of the labels 0 to {CLASSES - 1}",
        "labels": " ".join(map(str, range(CLASSES))),
        "checked_on": f"{len(digits):,} test images of {data.dataset_name}",
    }
    example = torch.from_numpy(_as(input, digits[[0, 0]]))
    content = kind.make(EndToEnd(model.net).eval(), example, about)
    expected = model.predict(digits)[1]
    with atomic_path(path) as unfinished:
        unfinished.write_bytes(content)
        run = kind.runtime(unfinished)
        difference = max(float(np.abs(run(_as(name, digits)) - expected).max()) for name in inputs)
        if not difference <= TOLERANCE:  # nan is not
            raise ExportError(
                f"expected the exported probabilities to be {ckpt}'s to {TOLERANCE:g}, but they differ by "
                f"{difference:.2g}; nothing was written"
            )
    return Export(path, about, difference)


def _destination(ckpt: Path, output: str | os.PathLike[str] | None, suffix: str) -> Path:
    """The file to write: the one asked for, or one beside the checkpoint."""
    path = ckpt.with_name(ckpt.name.removesuffix(".ckpt") + suffix) if output is None else Path(output)
    if not path.parent.is_dir():
        raise ExportError(f"expected a folder for {path}, but there is none; make it, or give another --output")
    if path.is_dir() or (path.exists() and path.samefile(ckpt)):
        what = "a folder" if path.is_dir() else "the checkpoint itself"
        raise ExportError(f"expected a file to write, but {path} is {what}; give another --output")
    return path


def _require(packages: Sequence[str], format: FormatName) -> None:
    missing = [name for name in packages if not importlib.util.find_spec(name)]
    if missing:
        raise ExportError(f'--format {format} needs {", ".join(missing)}; run pip install -e ".[export]"')


def _as(input: InputName, digits: NDArray[np.uint8]) -> Pixels:
    return digits if input == "uint8" else np.divide(digits, 255, dtype=np.float32)


def _graph(end_to_end: EndToEnd, example: Tensor) -> torch.export.ExportedProgram:
    """The end_to_end as a graph for any number of images of the example's type."""
    graph = torch.export.export(end_to_end, (example,), dynamic_shapes=({0: torch.export.Dim("N")},))
    for node in graph.graph.nodes:
        node.meta.pop("stack_trace", None)  # it names folders of this machine
    return graph


def _make_onnx(end_to_end: EndToEnd, example: Tensor, about: dict[str, str]) -> bytes:
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns that torchvision is not there; nobody needs it
    program = torch.onnx.export(
        _graph(end_to_end, example),
        input_names=["images"],
        output_names=["probabilities"],
        dynamic_shapes=({0: "N"},),
        verbose=False,
    )
    assert program is not None
    program.model.metadata_props.update(about)
    content: bytes = program.model_proto.SerializeToString()
    return content


def _make_torchscript(end_to_end: EndToEnd, _: Tensor, about: dict[str, str]) -> bytes:
    traceable, plain, file = io.BytesIO(), io.BytesIO(), io.BytesIO()
    torch.jit.save(torch.jit.script(end_to_end), traceable)
    with zipfile.ZipFile(traceable) as old, zipfile.ZipFile(plain, "w") as new:
        for entry in old.infolist():
            if not entry.filename.endswith(".debug_pkl"):  # it names folders of this machine
                new.writestr(entry, old.read(entry))
    plain.seek(0)
    torch.jit.save(torch.jit.load(plain), file, _extra_files=about)  # in PyTorch's own layout again
    return file.getvalue()


def _make_pt2(end_to_end: EndToEnd, example: Tensor, about: dict[str, str]) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*No complete tensor found")  # what it makes of channels_last
        torch.export.save(_graph(end_to_end, example), file, extra_files=about)
    return file.getvalue()


def _onnx_runtime(path: Path) -> Callable[[Pixels], Floats]:
    import onnxruntime  # the one runtime that is an extra

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(images: Pixels) -> Floats:
        probabilities: Floats = session.run(["probabilities"], {"images": images})[0]
        return probabilities

    return run


def _pt2_runtime(path: Path) -> Callable[[Pixels], Floats]:
    with path.open("rb") as file, warnings.catch_warnings():  # by its name, it would have to end in .pt2 already
        warnings.filterwarnings("ignore", ".*buffer is not writable")  # PyTorch 2.11 says so of its own copy
        return _torch_runtime(torch.export.load(file).module())


def _torch_runtime(model: Callable[[Tensor], Tensor]) -> Callable[[Pixels], Floats]:
    @torch.inference_mode()
    def run(images: Pixels) -> Floats:
        return model(torch.from_numpy(images)).numpy()

    return run


class Format(NamedTuple):
    """The end of a file's name, what makes its content, what loads it to run it, and the packages of the extra."""

    suffix: str
    make: Callable[[EndToEnd, Tensor, dict[str, str]], bytes]
    runtime: Callable[[Path], Callable[[Pixels], Floats]]
    packages: tuple[str, ...] = ()


FORMATS: dict[FormatName, Format] = {
    "onnx": Format(".onnx", _make_onnx, _onnx_runtime, ("onnx", "onnxscript", "onnxruntime")),
    "torchscript": Format(".torchscript.pt", _make_torchscript, lambda path: _torch_runtime(torch.jit.load(path))),
    "pt2": Format(".pt2", _make_pt2, _pt2_runtime),
}
