"""Why a net answers as it does: held against autograd, and against doing it by hand."""

import numpy as np
import pytest
import torch
from helpers import make_digits

from mnist_lightning.deploy.explain import Neighbours, evidence, kind, seen, units
from mnist_lightning.model.classifier import MNISTClassifier

IMAGE = make_digits(1)[0][0]
NETS = {
    "linear": {"hidden": []},
    "relu": {"hidden": [16]},
    "tanh": {"hidden": [16], "activation": "tanh"},
    "sigmoid": {"hidden": [16], "activation": "sigmoid"},
    "gelu, dropout": {"hidden": [16], "activation": "gelu", "dropout": 0.5, "input_dropout": 0.2},
    "deslanted": {"hidden": [16], "deslant": True},
    "permuted": {"hidden": [16], "permute_pixels": True},
    "two layers": {"hidden": [16, 8]},
    "lenet5": {"net": "lenet5"},
    "convnet": {"net": "convnet", "channels": [4, 8], "hidden": [16]},
    "small": {"net": "small", "channels": [4, 8]},
}


def classifier(kind):
    torch.manual_seed(0)
    return MNISTClassifier(**NETS[kind]).eval()


def logits_of(model):
    with torch.no_grad():
        logits = model(torch.from_numpy(IMAGE)[None, None] / 255)[0].numpy()
    return logits - logits.mean()


@pytest.mark.parametrize("net", NETS)
def test_what_pixels_say_and_the_rest_are_the_logits(net):
    model = classifier(net)
    says = evidence(model, IMAGE)
    assert says.pixels.shape == (10, 28, 28)
    assert says.pixels.sum((1, 2)) + says.rest == pytest.approx(logits_of(model), abs=1e-4)
    assert says.exact == (net in list(NETS)[:7])
    assert not says.pixels[:, seen(model, IMAGE[None])[0, 0].numpy() == 0].any()  # where there is no ink


@pytest.mark.parametrize("net", ["gelu, dropout", "convnet", "small"])
def test_a_net_that_is_training_is_explained_as_it_answers_and_goes_on_as_it_was(net):
    model, before = classifier(net).train(), classifier(net)
    assert np.array_equal(evidence(model, IMAGE).pixels, evidence(before, IMAGE).pixels)
    assert np.array_equal(units(model, IMAGE).outputs, units(before, IMAGE).outputs)
    assert Neighbours(model, IMAGE[None]).nearest(IMAGE) == [0]
    assert all(layer.training for layer in model.modules())
    assert all(torch.equal(value, before.state_dict()[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("kind", ["linear", "relu", "two layers", "lenet5", "convnet", "small"])
def test_it_is_autograds_gradient_times_the_image(kind):
    model = classifier(kind)
    image = (torch.from_numpy(IMAGE)[None, None] / 255).requires_grad_()
    jacobian = torch.autograd.functional.jacobian(lambda x: model.net(x)[0], image)[:, 0, 0]
    expected = (jacobian - jacobian.mean(0)) * image[0, 0]
    assert evidence(model, IMAGE).pixels == pytest.approx(expected.detach().numpy(), abs=1e-5)


def test_the_exact_rest_of_a_relu_net_is_what_the_awake_units_biases_say():
    model = classifier("relu")
    _, first, _, last = model.net
    awake = (first(torch.from_numpy(IMAGE).flatten() / 255) > 0).float()
    rest = last.weight @ (awake * first.bias) + last.bias
    assert evidence(model, IMAGE).rest == pytest.approx((rest - rest.mean()).detach().numpy(), abs=1e-5)


@pytest.mark.parametrize("kind", ["relu", "tanh"])
def test_the_votes_of_the_units_are_the_logits_but_for_the_biases(kind):
    model = classifier(kind)
    bias = model.net[-1].bias.detach().numpy()
    weights, outputs, votes = units(model, IMAGE)
    assert (weights.shape, outputs.shape, votes.shape) == ((16, 28, 28), (16,), (10, 16))
    assert votes.sum(1) + bias - bias.mean() == pytest.approx(logits_of(model), abs=1e-5)
    assert (weights == model.net[1].weight.detach().numpy().reshape(16, 28, 28)).all()


def test_the_units_of_a_convolution_are_its_kernels_and_of_a_linear_net_its_labels():
    weights, outputs, votes = units(classifier("convnet"), IMAGE)
    assert (weights.shape, outputs.shape, votes) == ((4, 5, 5), (4,), None)
    linear = classifier("linear")
    outputs = units(linear, IMAGE).outputs
    assert outputs - outputs.mean() == pytest.approx(logits_of(linear), abs=1e-5)


@pytest.mark.parametrize("net", NETS)
def test_units_are_labels_or_vote_or_are_kernels_or_have_more_layers_after_them(net):
    layers = {"linear": "labels", "two layers": "others", "lenet5": "kernels", "convnet": "kernels", "small": "kernels"}
    assert kind(classifier(net)) == layers.get(net, "voters")
    assert (units(classifier(net), IMAGE).votes is not None) == (net not in layers)


@pytest.mark.parametrize("kind", ["linear", "relu", "convnet"])
def test_the_nearest_images_are_those_of_the_last_hidden_layer(kind):
    model, images = classifier(kind), make_digits(2100)[0]  # more than two batches
    with torch.no_grad():
        features = model.net[:-1](torch.from_numpy(images[:, None]) / 255).flatten(1).numpy()
    neighbours = Neighbours(model, images)
    assert neighbours.nearest(images[2000], 1) == [2000]
    distances = np.linalg.norm(features - features[7], axis=1)
    assert distances[neighbours.nearest(images[7], 3)] == pytest.approx(np.sort(distances)[:3], abs=1e-3)
    assert len(Neighbours(model, images[:2]).nearest(images[0], 3)) == 2


def test_images_in_colour_are_explained_too():
    torch.manual_seed(0)
    image = np.random.default_rng(0).integers(0, 256, (12, 10, 3), np.uint8)
    model = MNISTClassifier(hidden=[8], classes=["cat", "dog"], image_shape=[12, 10, 3]).eval()
    says = evidence(model, image)
    with torch.no_grad():
        logits = model(torch.from_numpy(image).movedim(-1, 0)[None] / 255)[0].numpy()
    assert says.exact and says.pixels.shape == (2, 12, 10)
    assert says.pixels.sum((1, 2)) + says.rest == pytest.approx(logits - logits.mean(), abs=1e-4)
    assert units(model, image).weights.shape == (8, 12, 10)
    assert Neighbours(model, image[None]).nearest(image) == [0]
