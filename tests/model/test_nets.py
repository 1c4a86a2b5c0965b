"""The networks: their sizes, their shapes, their options."""

import pytest
import torch
from torch import nn

from mnist_lightning.errors import UserError
from mnist_lightning.model.nets import ACTIVATIONS, NETS, ConvNet, LeNet5, Permute, SimpleNet, SmallNet, build


def count(net):
    return sum(parameter.numel() for parameter in net.parameters())


def test_the_guides_net_has_101770_parameters_and_ends_in_raw_scores():
    net = SimpleNet()
    assert count(net) == 784 * 128 + 128 + 128 * 10 + 10 == 101_770
    assert [type(layer) for layer in net] == [nn.Flatten, nn.Linear, nn.ReLU, nn.Linear]
    logits = net(100 * torch.randn(32, 1, 28, 28))
    assert logits.shape == (32, 10)
    assert logits.min() < 0 < logits.sum(1).max()


@pytest.mark.parametrize(("name", "features"), [("simple", 128), ("lenet5", 84), ("convnet", 128), ("small", 60)])
def test_a_slice_gives_what_the_scores_are_made_of(name, features):
    net = build(name).eval()
    images = torch.rand(5, 1, 28, 28)
    assert net[:-1](images).shape == (5, features)
    assert torch.equal(net[-1](net[:-1](images)), net(images))


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


def test_a_dropout_of_pixels_that_cannot_be_is_refused_by_its_name():
    with pytest.raises(UserError, match=r"expected input_dropout .* got 1.5; change --model.input_dropout"):
        SimpleNet(input_dropout=1.5)


def shapes(net, kinds):
    """The shapes of what the layers of some kinds give for one image, batch left out."""
    found = []
    for layer in net:
        if isinstance(layer, kinds):
            layer.register_forward_hook(lambda layer, inputs, output: found.append(tuple(output.shape[1:])))
    net.eval()(torch.rand(1, 1, 28, 28))
    return found


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_every_net_gives_ten_scores_for_each_image(net, activation, dropout):
    network = build(net, hidden=[16], activation=activation, dropout=dropout)
    scores = network(torch.rand(7, 1, 28, 28))
    assert (scores.shape, scores.dtype) == ((7, 10), torch.float32)
    assert any(isinstance(layer, ACTIVATIONS[activation]) for layer in network)
    assert any(isinstance(layer, nn.Dropout) for layer in network) == (dropout > 0)


@pytest.mark.parametrize("net", NETS)
def test_an_images_scores_do_not_depend_on_the_others_when_evaluating(net):
    network = build(net, dropout=0.5).eval()
    images = torch.rand(5, 1, 28, 28)
    alone = torch.cat([network(image[None]) for image in images])
    assert torch.allclose(network(images), alone, atol=1e-5)


def test_lenet5_has_61706_parameters_and_the_papers_shapes():
    net = LeNet5()
    convolutions = 6 * (5 * 5 + 1) + 16 * (6 * 5 * 5 + 1)
    assert count(net) == convolutions + 400 * 120 + 120 + 120 * 84 + 84 + 84 * 10 + 10 == 61_706
    assert shapes(net, nn.Conv2d) == [(6, 28, 28), (16, 10, 10)]
    assert shapes(LeNet5(), nn.MaxPool2d) == [(6, 14, 14), (16, 5, 5)]
    assert shapes(LeNet5(), nn.Linear) == [(120,), (84,), (10,)]


def test_a_convnet_of_given_maps_has_the_parameters_counted_by_hand():
    net = ConvNet(hidden=[50], channels=[8, 16, 24])
    convolutions = 8 * 25 + 16 * 8 * 9 + 24 * 16 * 9  # no bias: batch norm has a scale and a bias for each map
    norms = 2 * (8 + 16 + 24)
    assert count(net) == convolutions + norms + 24 * 4 * 4 * 50 + 50 + 50 * 10 + 10


@pytest.mark.parametrize(
    ("sides", "pooled"),
    [
        ([12], 6),
        ([12, 10], 5),
        ([12, 10, 8], 4),
        ([12, 10, 8, 6], 3),
        ([12, 10, 8, 6, 4], 2),
    ],
)
def test_a_convnet_has_one_to_five_convolutions(sides, pooled):
    channels = list(range(3, 3 + len(sides)))
    net = ConvNet(channels=channels, hidden=[])
    assert shapes(net, nn.Conv2d) == [(maps, side, side) for maps, side in zip(channels, sides, strict=True)]
    assert shapes(net, nn.MaxPool2d) == [(channels[-1], pooled, pooled)]
    assert net[-1].in_features == channels[-1] * pooled**2
    assert [layer.num_features for layer in net if isinstance(layer, nn.BatchNorm2d)] == channels


def test_a_small_net_has_the_parameters_counted_by_hand_and_the_mean_of_each_map():
    assert count(SmallNet()) == 8_694
    net = SmallNet(hidden=[7], channels=[3, 5, 4])
    convolutions = 3 * 9 + (3 * 9 + 3 * 5) + (5 * 9 + 5 * 4)  # each map alone, then across
    assert count(net) == convolutions + 2 * (3 + 5 + 4) + 4 * 7 + 7 + 7 * 10 + 10
    assert shapes(net, nn.Conv2d) == [(3, 26, 26), (3, 11, 11), (5, 11, 11), (5, 9, 9), (4, 9, 9)]
    assert shapes(SmallNet(), nn.AdaptiveAvgPool2d) == [(60, 1, 1)]


@pytest.mark.parametrize("net", [ConvNet, SmallNet])
@pytest.mark.parametrize(
    ("channels", "got"),
    [([], r"\[\]"), ([4] * 6, r"\[4, 4, 4, 4, 4, 4\]"), ([8, 0], r"\[8, 0\]"), ([-1], r"\[-1\]")],
)
def test_convolutions_that_cannot_be_are_refused(net, channels, got):
    with pytest.raises(UserError, match=f"expected 1 to 5 convolutions of at least 1 channel, got {got}$"):
        net(channels=channels)


@pytest.mark.parametrize("net", [LeNet5, ConvNet, SmallNet])
@pytest.mark.parametrize("options", [{"hidden": [128, 0]}, {"dropout": 1.0}, {"dropout": -0.1}])
def test_convolutional_nets_refuse_the_same_options(net, options):
    with pytest.raises(UserError, match="expected"):
        net(**{"hidden": [16], **options})


@pytest.mark.parametrize(
    ("net", "name", "value"),
    [
        ("simple", "channels", [4]),
        ("lenet5", "channels", [4]),
        ("lenet5", "input_dropout", 0.2),
        ("convnet", "input_dropout", 0.2),
        ("small", "input_dropout", 0.2),
    ],
)
def test_an_option_that_a_net_does_not_have_is_refused_by_its_name(net, name, value):
    with pytest.raises(UserError, match=f"expected no {name} for {net}, .*; leave out --model.{name}$"):
        build(net, **{name: value})


def test_options_that_are_given_replace_a_nets_own_and_none_leaves_them():
    assert count(build("lenet5", hidden=[])) == 6 * 26 + 16 * 151 + 400 * 10 + 10
    assert count(build("convnet", hidden=[], channels=[2])) == 2 * 25 + 4 + 72 * 10 + 10
    assert count(build("simple", hidden=None, channels=None, input_dropout=None)) == 101_770


def test_input_dropout_zeroes_pixels_while_training_only():
    net = build("simple", hidden=[], input_dropout=0.5)
    images = torch.ones(1000, 1, 28, 28)
    zeroed = (net[1](net[0](images)) == 0).float().mean(0)  # the share of images in which a pixel is
    assert ((zeroed - 0.5).abs() < 0.1).all()
    net.eval()
    assert torch.equal(net[1](net[0](images)), images.flatten(1))


@pytest.mark.parametrize("shape", [(28, 28), (3, 5, 3)])
def test_pixels_are_shuffled_in_one_way_whatever_the_seed_and_none_is_lost(shape):
    torch.manual_seed(1)
    permute = Permute(shape)
    torch.manual_seed(2)
    images = torch.rand(4, *shape[2:], *shape[:2]).view(4, -1, *shape[:2])
    shuffled = permute(images)
    assert torch.equal(shuffled, Permute(shape)(images))
    order = (shuffled[0, 0].flatten()[:, None] == images[0, 0].flatten()).int().argmax(1)
    assert sorted(order.tolist()) == list(range(shape[0] * shape[1])) != order.tolist()
    assert torch.equal(shuffled.flatten(2), images.flatten(2)[..., order])  # of each image, and of each colour


def test_a_net_of_permuted_pixels_is_the_plain_one_behind_the_permutation():
    torch.manual_seed(0)
    plain = build("simple")
    torch.manual_seed(0)
    permuted = build("simple", permute_pixels=True)
    images = torch.rand(5, 1, 28, 28)
    assert torch.equal(permuted(images), plain(Permute((28, 28))(images)))
    assert not torch.equal(permuted(images), plain(images))
