"""The formats of an exported net: how each is written, and how whoever was given the file runs it.

ONNX and pt2 (PyTorch's own archive) are graphs of one input type and refuse another; TorchScript takes both. None of
them names a folder of the machine that made it.
"""

import io
import logging
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

FormatName = Literal["onnx", "torchscript", "pt2"]
Floats = NDArray[np.float32]
Pixels = NDArray[np.uint8] | Floats
Run = Callable[[Pixels], Floats]


def _graph(net: nn.Module, example: Tensor) -> torch.export.ExportedProgram:
    """A net as a graph for any number of images of the example's type."""
    graph = torch.export.export(net, (example,), dynamic_shapes=({0: torch.export.Dim("N")},))
    for node in graph.graph.nodes:
        node.meta.pop("stack_trace", None)  # it names folders of this machine
    return graph


def _serialize_onnx(net: nn.Module, example: Tensor, about: dict[str, str]) -> bytes:
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns that torchvision is not there; nobody needs it
    program = torch.onnx.export(
        _graph(net, example),
        input_names=["images"],
        output_names=["probabilities"],
        dynamic_shapes=({0: "N"},),
        verbose=False,
    )
    assert program is not None
    program.model.metadata_props.update(about)
    content: bytes = program.model_proto.SerializeToString()
    return content


def _serialize_torchscript(net: nn.Module, _: Tensor, about: dict[str, str]) -> bytes:
    traceable, plain, file = io.BytesIO(), io.BytesIO(), io.BytesIO()
    torch.jit.save(torch.jit.script(net), traceable)
    with zipfile.ZipFile(traceable) as old, zipfile.ZipFile(plain, "w") as new:
        for entry in old.infolist():
            if not entry.filename.endswith(".debug_pkl"):  # it names folders of this machine
                new.writestr(entry, old.read(entry))
    plain.seek(0)
    torch.jit.save(torch.jit.load(plain), file, _extra_files=about)  # in PyTorch's own layout again
    return file.getvalue()


def _serialize_pt2(net: nn.Module, example: Tensor, about: dict[str, str]) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*No complete tensor found")  # what it makes of channels_last
        torch.export.save(_graph(net, example), file, extra_files=about)
    return file.getvalue()


def _load_onnx(path: Path) -> Run:
    import onnxruntime  # the one runtime that is an extra

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(images: Pixels) -> Floats:
        probabilities: Floats = session.run(["probabilities"], {"images": images})[0]
        return probabilities

    return run


def _load_pt2(path: Path) -> Run:
    with path.open("rb") as file, warnings.catch_warnings():  # by its name, it would have to end in .pt2 already
        warnings.filterwarnings("ignore", ".*buffer is not writable")  # PyTorch 2.11 says so of its own copy
        return _run_torch(torch.export.load(file).module())


def _run_torch(model: Callable[[Tensor], Tensor]) -> Run:
    @torch.inference_mode()
    def run(images: Pixels) -> Floats:
        return model(torch.from_numpy(images)).numpy()

    return run


class Format(NamedTuple):
    """The end of a file's name, what makes its content, what loads it to be run, and the packages of the extra."""

    suffix: str
    serialize: Callable[[nn.Module, Tensor, dict[str, str]], bytes]
    load: Callable[[Path], Run]
    packages: tuple[str, ...] = ()


FORMATS: dict[FormatName, Format] = {
    "onnx": Format(".onnx", _serialize_onnx, _load_onnx, ("onnx", "onnxscript", "onnxruntime")),
    "torchscript": Format(".torchscript.pt", _serialize_torchscript, lambda path: _run_torch(torch.jit.load(path))),
    "pt2": Format(".pt2", _serialize_pt2, _load_pt2),
}
