import pytest

from mnist_lightning.errors import UserError
from mnist_lightning.model.classifier import MNISTClassifier

REFUSED = [
    ({"lr": 0.0}, r"lr to be above 0, got 0\.0; change --model\.lr$"),
    ({"weight_decay": -1.0}, "weight_decay to be at least 0"),
    ({"betas": [0.9]}, "betas to be two shares below 1"),
    ({"betas": [0.9, 1.0]}, "betas to be two shares below 1"),
    ({"momentum": 1.0}, "momentum to be from 0 to below 1"),
    ({"nesterov": True, "momentum": 0.0}, "nesterov to be false without a momentum"),
    ({"step_size": 0}, "step_size to be at least 1"),
    ({"gamma": 0.0}, "gamma to be above 0 and at most 1"),
    ({"gamma": 1.0, "scheduler": "plateau"}, "gamma to be below 1, for plateau"),
    ({"warmup_epochs": -1}, "warmup_epochs to be at least 0"),
    ({"label_smoothing": -0.1}, "label_smoothing to be from 0 to below 1"),
    ({"label_smoothing": 1.0}, "label_smoothing to be from 0 to below 1"),
    ({"label_smoothing": 0.1, "loss": "mse"}, "label_smoothing to be 0 for mse"),
    ({"ink_width": 29.0}, "ink_width to be from 0 to 28"),
    ({"permute_pixels": True, "net": "convnet"}, "net to be simple, for permuted pixels, got convnet"),
    ({"permute_pixels": True, "deslant": True}, "deslant to be false, for permuted pixels"),
    ({"permute_pixels": True, "ink_width": 4.0}, r"ink_width to be 0, for permuted pixels, got 4\.0"),
    ({"hidden": [1] * 301}, "hidden to be at most 300 layers"),
    ({"hidden": 256}, r"hidden to be a list such as \[256,128\], got 256"),
    ({"net": "convnet", "channels": 8}, r"channels to be a list such as \[32,64\], got 8"),
    ({"net": "resnet"}, "net to be one of simple, lenet5, convnet, small, got resnet"),
    ({"activation": "swish"}, "activation to be one of relu, sigmoid, tanh, gelu, got swish"),
    ({"loss": "hinge"}, "loss to be one of cross_entropy, mse, got hinge"),
    ({"optimizer": "rmsprop"}, "optimizer to be one of adam, adamw, sgd, got rmsprop"),
    ({"scheduler": "warm"}, "scheduler to be one of step, plateau, cosine, onecycle, none, got warm"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED)
def test_an_option_that_cannot_be_is_refused_by_its_name(options, message):
    with pytest.raises(UserError, match=f"expected {message}"):
        MNISTClassifier(**options)
