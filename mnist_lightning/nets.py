"""The networks: plain nn.Modules, images in, raw scores out. No Lightning here."""

from collections.abc import Sequence
from typing import Literal

from torch import nn

from mnist_lightning.errors import UserError

Activation = Literal["relu", "sigmoid", "tanh", "gelu"]

ACTIVATIONS = {"relu": nn.ReLU, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh, "gelu": nn.GELU}


class SimpleNet(nn.Sequential):
    """The guide's network: flatten, 784 -> 128 -> 10, ReLU between; 101,770 parameters.

    Maps float images (batch, 1, 28, 28) in [0, 1] to logits (batch, 10).

    Logits are raw scores: cross-entropy applies the softmax itself, so there is no activation at the end.

    Args:
        hidden: Neurons in each hidden layer; an empty list makes a linear classifier.
        activation: The non-linearity after each hidden layer.
        dropout: Probability of zeroing each hidden output while training.

    Raises:
        UserError: A layer without neurons, or a probability outside [0, 1).
    """

    def __init__(self, hidden: Sequence[int] = (128,), activation: Activation = "relu", dropout: float = 0.0) -> None:
        if any(width < 1 for width in hidden):
            raise UserError(f"expected hidden layers of at least 1 neuron, got {list(hidden)}")
        if not 0 <= dropout < 1:
            raise UserError(f"expected dropout to be a probability from 0 to below 1, got {dropout}")
        layers: list[nn.Module] = [nn.Flatten()]
        inputs = 28 * 28
        for width in hidden:
            layers += [nn.Linear(inputs, width), ACTIVATIONS[activation]()]
            if dropout:
                layers.append(nn.Dropout(dropout))
            inputs = width
        super().__init__(*layers, nn.Linear(inputs, 10))
