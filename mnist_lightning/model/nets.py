"""The networks: plain nn.Modules, images in, raw scores out. No Lightning here.

Each maps float images (batch, 1, 28, 28) in [0, 1] to logits (batch, 10), or images of another ``image_shape``, (H, W)
or in colour (H, W, 3), to as many logits as there are classes. Logits are raw scores: the loss applies the softmax
itself, so there is no activation at the end. Convolutions are in channels_last, a third faster on CPUs.
"""

import inspect
import math
from collections.abc import Callable, Sequence
from itertools import count, pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mnist_lightning.data.format import DIGITS, IMAGE_SHAPE
from mnist_lightning.errors import UserError
from mnist_lightning.model.deslant import Deslant

Activation = Literal["relu", "sigmoid", "tanh", "gelu"]
NetName = Literal["simple", "lenet5", "convnet", "small"]
PERMUTATION = 0  # the seed of the one order of pixels, whatever the run's
LAYERS = 300  # that a net may have: a parser's time grows with their square, and a checkpoint may be a stranger's

ACTIVATIONS = {"relu": nn.ReLU, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh, "gelu": nn.GELU}


class Net(nn.Sequential):
    """Layers that make a vector of ``inputs`` of an image, then hidden ones, then the scores."""

    def __init__(
        self,
        layers: Sequence[nn.Module],
        inputs: int,
        hidden: Sequence[int],
        activation: Activation,
        dropout: float,
        classes: int,
    ) -> None:
        if any(width < 1 for width in hidden):
            raise UserError(f"expected hidden layers of at least 1 neuron, got {list(hidden)}")
        layers = list(layers)
        for width in hidden:
            layers += [nn.Linear(inputs, width), ACTIVATIONS[activation](), *_dropout(dropout)]
            inputs = width
        super().__init__(*layers, nn.Linear(inputs, classes))
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # the stubs lack it

    def __getitem__(self, index: int | slice) -> Any:  # PyTorch would make net[:-1] another net
        return nn.Sequential(*self)[index]


class SimpleNet(Net):
    """The guide's network: flatten, 784 -> 128 -> 10, ReLU between; 101,770 parameters.

    Args:
        hidden: Neurons in each hidden layer; an empty list makes a linear classifier.
        activation: The non-linearity after each hidden layer.
        dropout: Probability of zeroing each hidden output while training.
        input_dropout: Probability of zeroing each pixel while training.
        image_shape: (H, W) of the images, or (H, W, 3).
        classes: How many there are.

    Raises:
        UserError: A layer without neurons, or a probability outside [0, 1).
    """

    def __init__(
        self,
        hidden: Sequence[int] = (128,),
        activation: Activation = "relu",
        dropout: float = 0.0,
        input_dropout: float = 0.0,
        image_shape: Sequence[int] = IMAGE_SHAPE,
        classes: int = len(DIGITS),
    ) -> None:
        layers = [nn.Flatten(), *_dropout(input_dropout, "input_dropout")]
        super().__init__(layers, math.prod(image_shape), hidden, activation, dropout, classes)


class LeNet5(Net):
    """The convolutional network of LeCun et al. 1998, 61,706 parameters; arguments and errors as :class:`SimpleNet`.

    Two 5x5 convolutions, each followed by 2x2 pooling, then 120 and 84 neurons. Where the paper's ways have not lasted,
    later ones: each map of the second convolution sees all six of the first (the paper's see some), pooling takes the
    largest value (the paper's a scaled sum), and the output is a layer (the paper's compares with drawn digits).
    """

    def __init__(
        self,
        hidden: Sequence[int] = (120, 84),
        activation: Activation = "relu",
        dropout: float = 0.0,
        image_shape: Sequence[int] = IMAGE_SHAPE,
        classes: int = len(DIGITS),
    ) -> None:
        left = _pixels_left("lenet5", image_shape, lambda side: (side // 2 - 4) // 2, (6, 16))
        layers = [nn.Conv2d(math.prod(image_shape[2:]), 6, 5, padding=2), ACTIVATIONS[activation](), nn.MaxPool2d(2)]
        layers += [nn.Conv2d(6, 16, 5), ACTIVATIONS[activation](), nn.MaxPool2d(2), nn.Flatten()]
        super().__init__(layers, 16 * left, hidden, activation, dropout, classes)


class ConvNet(Net):
    """A small modern network: batch norm after each convolution, and no full-size feature maps.

    The first convolution is 5x5 and halves the image, the others are 3x3; 2x2 pooling before the last one's batch
    norm. Without padding, the images go 28 -> 12 -> 10 -> 8 -> 4 pixels for three convolutions.

    Args:
        hidden, dropout, image_shape, classes: As :class:`SimpleNet`.
        activation: As :class:`SimpleNet`; after each convolution too.
        channels: Feature maps of each convolution.

    Raises:
        UserError: As :class:`SimpleNet`; not 1 to 5 convolutions, one without maps, or no room for them.
    """

    def __init__(
        self,
        hidden: Sequence[int] = (128,),
        activation: Activation = "relu",
        dropout: float = 0.0,
        channels: Sequence[int] = (32, 64, 64),
        image_shape: Sequence[int] = IMAGE_SHAPE,
        classes: int = len(DIGITS),
    ) -> None:
        left = _pixels_left("convnet", image_shape, lambda n: ((n - 5) // 2 + 3 - 2 * len(channels)) // 2, channels)
        layers: list[nn.Module] = []
        for number, (maps, width) in enumerate(pairwise([math.prod(image_shape[2:]), *channels]), 1):
            size, stride = (5, 2) if number == 1 else (3, 1)
            layers.append(nn.Conv2d(maps, width, size, stride, bias=False))  # batch norm has a bias
            layers += [nn.BatchNorm2d(width), ACTIVATIONS[activation]()]
        layers.insert(-2, nn.MaxPool2d(2))
        super().__init__([*layers, nn.Flatten()], channels[-1] * left, hidden, activation, dropout, classes)


class SmallNet(Net):
    """Few parameters, 8,694: separable convolutions, and of each feature map its mean; after JoshWarn's of 697.

    A 3x3 convolution and 2x2 pooling, then 3x3 convolutions of each map alone with 1x1 ones across the maps behind
    them; batch norm after each. Without padding, the images go 28 -> 26 -> 13 -> 11 -> 9 -> 7 -> 5 pixels.
    Arguments and errors as :class:`ConvNet`.
    """

    def __init__(
        self,
        hidden: Sequence[int] = (),
        activation: Activation = "relu",
        dropout: float = 0.0,
        channels: Sequence[int] = (12, 24, 40, 52, 60),
        image_shape: Sequence[int] = IMAGE_SHAPE,
        classes: int = len(DIGITS),
    ) -> None:
        _pixels_left("small", image_shape, lambda side: side // 2 + 1 - 2 * len(channels), channels)
        first = nn.Conv2d(math.prod(image_shape[2:]), channels[0], 3, bias=False)
        layers = [first, nn.MaxPool2d(2), nn.BatchNorm2d(channels[0]), ACTIVATIONS[activation]()]
        for maps, width in pairwise(channels):
            layers += [nn.Conv2d(maps, maps, 3, groups=maps, bias=False), nn.Conv2d(maps, width, 1, bias=False)]
            layers += [nn.BatchNorm2d(width), ACTIVATIONS[activation]()]
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        super().__init__(layers, channels[-1], hidden, activation, dropout, classes)


class Permute(nn.Module):
    """Shuffles the pixels of all images in one way, so that nothing after it knows which were neighbours."""

    order: Tensor

    def __init__(self, image_shape: Sequence[int]) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(PERMUTATION)
        order = torch.randperm(math.prod(image_shape[:2]), generator=generator, device="cpu")
        self.register_buffer("order", order, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Maps images (batch, C, H, W) to such images."""
        return images.flatten(2).index_select(2, self.order).view(images.shape)


def _pixels_left(net: NetName, shape: Sequence[int], shrink: Callable[[int], int], channels: Sequence[int]) -> int:
    """The pixels that convolutions, which shrink its sides, leave of an image; or a UserError for what cannot be."""
    if not 1 <= len(channels) <= 5 or any(maps < 1 for maps in channels):
        raise UserError(f"expected 1 to 5 convolutions of at least 1 channel, got {list(channels)}")
    if shrink(min(shape[:2])) < 1:
        least = next(side for side in count(1) if shrink(side) >= 1)
        what = f"{least}x{least} for {net} with {len(channels)} convolutions"
        raise UserError(f"expected images of at least {what}, got {shape}; use another net")
    return math.prod(map(shrink, shape[:2]))


def _dropout(probability: float, name: str = "dropout") -> list[nn.Module]:
    if not 0 <= probability < 1:
        raise UserError(f"expected {name} to be from 0 to below 1, got {probability}; change --model.{name}")
    return [nn.Dropout(probability)] if probability else []


NETS: dict[NetName, Callable[..., Net]] = {"simple": SimpleNet, "lenet5": LeNet5, "convnet": ConvNet, "small": SmallNet}


def defaults(net: NetName) -> dict[str, Any]:
    """The options that a network has, with their default values."""
    return {name: parameter.default for name, parameter in inspect.signature(NETS[net]).parameters.items()}


def sizes(
    net: NetName, hidden: Sequence[int] | None, channels: Sequence[int] | None
) -> tuple[list[int], list[int] | None]:
    """Returns the sizes of a network: those given, or its own where they are None."""
    own = defaults(net)
    hidden = own["hidden"] if hidden is None else hidden
    channels = own.get("channels") if channels is None else channels
    return list(hidden), None if channels is None else list(channels)


def build(
    net: NetName, deslant: bool = False, ink_width: float = 0.0, permute_pixels: bool = False, **options: Any
) -> Net:
    """Builds a network by its name, with a :class:`Deslant` or :class:`Permute` before it if that has something to do.

    Options that are None are left to the network's own defaults.

    Raises:
        UserError: An option that the network does not have, or a value that it cannot have.
    """
    given = {name: value for name, value in options.items() if value is not None}
    for name in given.keys() - defaults(net).keys():
        raise UserError(f"expected no {name} for {net}, which has none, got {given[name]}; leave out --model.{name}")
    built, image_shape = NETS[net](**given), given.get("image_shape", IMAGE_SHAPE)
    if permute_pixels:
        return built.insert(0, Permute(image_shape))
    return built.insert(0, Deslant(deslant, ink_width)) if deslant or ink_width else built
