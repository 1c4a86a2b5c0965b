"""Why a classifier answers as it does: what each pixel says, which hidden units are awake, which images are alike.

With at most one hidden layer, what a pixel says is exact: a unit that makes f(a) of a = W x + b lets the share f(a) / a
of each pixel's part in a through (all of it or nothing, if f is a ReLU), and shares of one sum add up. With more layers
there is no such sum, and what is shown is the gradient times the pixel: right for small changes of the image.
"""

from copy import copy
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mnist_lightning.data.images import channels_first
from mnist_lightning.model.base import BATCH
from mnist_lightning.model.classifier import MNISTClassifier
from mnist_lightning.model.deslant import Deslant
from mnist_lightning.model.nets import ACTIVATIONS, Permute

Floats = NDArray[np.float32]
Kind = Literal["labels", "voters", "kernels", "others"]

ACTIVATION = tuple(ACTIVATIONS.values())
BEFORE = Deslant | Permute  # what a net may have before the layers that learn


class Evidence(NamedTuple):
    """What speaks for and against each label: logits, less the mean of all labels', which tells nothing apart.

    Attributes:
        pixels: What each pixel says, (labels, H, W); above 0 for the label.
        rest: What the biases say, (labels,); if not exact, whatever else. With the pixels', the whole of the logits.
        exact: Whether pixels are what the net adds up, or the gradient times the pixel.
    """

    pixels: Floats
    rest: Floats
    exact: bool


class Units(NamedTuple):
    """The units of the first layer; those of a net without hidden layers are its labels.

    Attributes:
        weights: What each looks for, (units, h, w): the image, or a part of it if the layer is a convolution.
        outputs: How awake each is, (units,); of a convolution, where it is most so.
        votes: What each adds to each label's logit, less the mean of all labels', (labels, units); None if other layers
            are between.
    """

    weights: Floats
    outputs: Floats
    votes: Floats | None


def seen(model: MNISTClassifier, images: NDArray[np.uint8]) -> Tensor:
    """What the layers with weights see of uint8 images (N, H, W) or (N, H, W, 3): upright or shuffled, (N, C, H, W)."""
    pixels = channels_first(torch.from_numpy(images), colour=images.ndim == 4).to(model.device) / 255
    first: nn.Module = model.net[0]
    return first(pixels) if isinstance(first, BEFORE) else pixels


def evidence(model: MNISTClassifier, image: NDArray[np.uint8]) -> Evidence:
    """Finds out what each pixel of an image, uint8 (H, W) or (H, W, 3), says for each label."""
    x, layers = seen(model, image[None]), _layers(model)
    logits = _run(layers, x)[0].detach()
    exact = kind(model) in ("labels", "voters")
    pixels = _added_up(layers, x) if exact else _gradient_times_input(layers, x, len(logits))
    pixels, logits = pixels - pixels.mean(0), logits - logits.mean()
    return Evidence(_numpy(pixels), _numpy(logits - pixels.sum((1, 2))), exact)


def _layers(model: MNISTClassifier) -> list[nn.Module]:
    """What does something to an image once the net is trained, and it is upright or shuffled."""
    layers = (layer for layer in model.net if not isinstance(layer, BEFORE | nn.Dropout | nn.Flatten))
    return [copy(layer).eval() for layer in layers]  # with the same weights; the net stays in the mode it is in


def _run(layers: list[nn.Module], x: Tensor) -> Tensor:
    for layer in layers:
        x = layer(x.flatten(1) if isinstance(layer, nn.Linear) else x)
    return x


@torch.no_grad()
def _added_up(layers: list[nn.Module], x: Tensor) -> Tensor:
    """What each pixel (labels, H, W) adds to the logits of a net with one hidden layer, or none."""
    weights = _weight(layers[0])
    if len(layers) > 1:
        total: Tensor = layers[0](x.flatten(1))[0]
        zero = torch.zeros_like(total)
        share = torch.where(total == 0, zero, (layers[1](total) - layers[1](zero)) / total)
        weights = _weight(layers[2]) * share @ weights
    added: Tensor = weights.unflatten(1, x.shape[1:]) * x[0]
    return added.sum(1)  # of the colours, if there are any


def _weight(layer: nn.Module) -> Tensor:
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight


@torch.enable_grad()
def _gradient_times_input(layers: list[nn.Module], x: Tensor, labels: int) -> Tensor:
    copies = x.detach().expand(labels, *x.shape[1:]).clone().requires_grad_()
    (gradients,) = torch.autograd.grad(_run(layers, copies).diagonal().sum(), copies)  # a copy for each logit
    return (gradients * x).sum(1)


def kind(model: MNISTClassifier) -> Kind:
    """What the units of the first layer are: labels, voters on them, a convolution's kernels, or others before more."""
    learned = [type(layer) for layer in _layers(model) if not isinstance(layer, ACTIVATION)]
    if learned == [nn.Linear]:
        return "labels"
    if learned == [nn.Linear] * 2:
        return "voters"
    return "kernels" if learned[0] == nn.Conv2d else "others"


@torch.no_grad()
def units(model: MNISTClassifier, image: NDArray[np.uint8]) -> Units:
    """Finds out which units of the first layer an image, uint8 (H, W), wakes."""
    x, layers = seen(model, image[None]), _layers(model)
    end = next((i for i, layer in enumerate(layers, 1) if isinstance(layer, ACTIVATION)), len(layers))
    outputs = _run(layers[:end], x)[0]
    weights = _weight(layers[0])
    weights = (weights if weights.ndim == 4 else weights.unflatten(1, x.shape[1:])).mean(1)
    votes = None
    if [type(layer) for layer in layers[end:]] == [nn.Linear] and outputs.ndim == 1:
        added = _weight(layers[end]) * outputs
        votes = _numpy(added - added.mean(0))
    return Units(_numpy(weights), _numpy(outputs.flatten(1).amax(1) if outputs.ndim > 1 else outputs), votes)


class Neighbours:
    """Finds the images that a net finds most alike: the nearest by what its last hidden layer makes of them.

    Args:
        model: A classifier.
        images: To search, uint8 (N, H, W).
    """

    def __init__(self, model: MNISTClassifier, images: NDArray[np.uint8]) -> None:
        self.model = model
        batches = np.array_split(images, -(-len(images) // BATCH))
        self.features = torch.cat([self._features(batch) for batch in batches])

    @torch.no_grad()
    def _features(self, images: NDArray[np.uint8]) -> Tensor:
        return _run(_layers(self.model)[:-1], seen(self.model, images)).flatten(1)

    def nearest(self, image: NDArray[np.uint8], count: int = 3) -> list[int]:
        """Returns the positions of the images that are most like an image, uint8 (H, W), the most alike first."""
        distances = torch.cdist(self._features(image[None]), self.features)[0]
        nearest: list[int] = distances.topk(min(count, len(distances)), largest=False).indices.tolist()
        return nearest


def _numpy(values: Tensor) -> Floats:
    array: Floats = values.detach().float().cpu().numpy()
    return array
