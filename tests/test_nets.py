"""SimpleNet: its size, its shape, its options."""

import pytest
import torch
from torch import nn

from mnist_lightning.errors import UserError
from mnist_lightning.nets import SimpleNet


def count(net):
    return sum(parameter.numel() for parameter in net.parameters())


def test_the_guides_net_has_101770_parameters_and_ends_in_raw_scores():
    net = SimpleNet()
    assert count(net) == 784 * 128 + 128 + 128 * 10 + 10 == 101_770
    assert [type(layer) for layer in net] == [nn.Flatten, nn.Linear, nn.ReLU, nn.Linear]
    logits = net(100 * torch.randn(32, 1, 28, 28))
    assert logits.shape == (32, 10)
    assert logits.min() < 0 < logits.sum(1).max()


@pytest.mark.parametrize(("hidden", "parameters"), [([], 7_850), ([300], 238_510), ([500, 150], 469_160)])
def test_hidden_is_a_list_of_layers(hidden, parameters):
    assert count(SimpleNet(hidden)) == parameters


@pytest.mark.parametrize(
    ("activation", "function"),
    [("relu", torch.relu), ("sigmoid", torch.sigmoid), ("tanh", torch.tanh), ("gelu", nn.functional.gelu)],
)
def test_activation_is_what_its_name_says(activation, function):
    net = SimpleNet([4], activation)
    images = torch.rand(5, 1, 28, 28)
    assert torch.equal(net(images), net[-1](function(net[1](images.flatten(1)))))


def test_dropout_zeroes_hidden_outputs_while_training_only():
    net = SimpleNet([1000], dropout=0.5)
    images = torch.rand(1, 1, 28, 28)
    assert not torch.equal(net(images), net(images))
    net.eval()
    assert torch.equal(net(images), net(images))


@pytest.mark.parametrize("options", [{"hidden": [128, 0]}, {"dropout": 1.0}, {"dropout": -0.1}])
def test_options_that_cannot_be_are_refused(options):
    with pytest.raises(UserError, match="expected"):
        SimpleNet(**options)
