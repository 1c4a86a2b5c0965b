"""A traced step is an ordinary one, to the last bit, for any net, loss and optimizer; or a reason says why not."""

import pickle
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import SGD, Adam, AdamW

from mnist_lightning.metrics import squared_error
from mnist_lightning.model.nets import build
from mnist_lightning.traced import StepTracer, UntraceableError

NETS = {
    "simple": {"net": "simple"},
    "linear": {"net": "simple", "hidden": []},
    "dropout": {"net": "simple", "hidden": [50, 20], "dropout": 0.3, "input_dropout": 0.1, "activation": "gelu"},
    "deslanted": {"net": "simple", "deslant": True, "ink_width": 3.0},
    "permuted": {"net": "simple", "permute_pixels": True},
    "lenet5": {"net": "lenet5", "activation": "tanh"},
    "convnet": {"net": "convnet", "channels": [4, 8], "dropout": 0.2},
    "small": {"net": "small", "channels": [4, 8]},
}
LOSSES = {
    "cross_entropy": F.cross_entropy,
    "smoothed": lambda logits, labels: F.cross_entropy(logits, labels, label_smoothing=0.1),
    "mse": lambda logits, labels: squared_error(logits, labels, "sum") / len(labels),
}
OPTIMIZERS = {
    "adam": lambda parameters: Adam(parameters, 1e-2, weight_decay=1e-3, fused=True),
    "adam, not fused": lambda parameters: Adam(parameters, 1e-2),
    "amsgrad": lambda parameters: Adam(parameters, 1e-2, amsgrad=True, fused=True),
    "adamw": lambda parameters: AdamW(parameters, 1e-2, betas=(0.8, 0.99), fused=True),
    "sgd": lambda parameters: SGD(parameters, 0.1, fused=True),
    "nesterov": lambda parameters: SGD(parameters, 0.1, momentum=0.9, nesterov=True, weight_decay=1e-3, fused=True),
    "two groups": lambda parameters: Adam(
        [{"params": [p], "lr": lr} for p, lr in zip(parameters, (1e-2, 1e-3, 1e-3, 1e-3), strict=True)], fused=True
    ),
}


@pytest.fixture
def batches():
    """Six batches of 32 images with labels."""
    chance = torch.Generator().manual_seed(0)
    return [(torch.rand(32, 1, 28, 28, generator=chance), torch.arange(32) % 10) for _ in range(6)]


def trained(batches, *, traced, net="simple", loss="cross_entropy", optimizer="adam", clip=None, before=None):
    """Six steps; returns all they leave: the state of net and optimizer, the losses, and the next random number."""
    torch.manual_seed(0)
    model = build(**NETS[net])
    optimizer, loss = OPTIMIZERS[optimizer](list(model.parameters())), LOSSES[loss]
    clipping = (lambda: nn.utils.clip_grad_norm_(model.parameters(), clip)) if clip else None
    tracer = StepTracer(model, loss, optimizer, clipping, required=True)
    losses = []
    for number, (images, labels) in enumerate(batches):
        if before:
            before(number, model, optimizer)
        if traced:
            value, logits = tracer.step_for(images, labels)(images, labels)
            assert not value.requires_grad and logits.shape == (len(images), 10)
        else:
            optimizer.zero_grad()
            value = loss(model(images), labels)
            value.backward()
            if clipping:
                clipping()
            optimizer.step()
        losses.append(value.item())
    return {"net": model.state_dict(), "optimizer": optimizer.state_dict(), "losses": losses, "next": torch.rand(1)}


def assert_same(batches, **options):
    torch.testing.assert_close(
        trained(batches, traced=True, **options), trained(batches, traced=False, **options), rtol=0, atol=0
    )


@pytest.mark.parametrize("net", NETS)
def test_each_net_is_trained_to_the_same_bits(batches, net):
    assert_same(batches, net=net)


@pytest.mark.parametrize("loss", LOSSES)
def test_with_each_loss(batches, loss):
    assert_same(batches, loss=loss, net="dropout")


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_with_each_optimizer(batches, optimizer):
    assert_same(batches, optimizer=optimizer)


def test_with_gradients_that_are_clipped(batches):
    assert_same(batches, clip=0.05)


def test_batches_of_other_shapes_have_a_trace_of_their_own(batches):
    assert_same([*batches, (batches[0][0][:5], batches[0][1][:5]), batches[1]], net="convnet")


def test_what_changes_on_the_way_is_heeded(batches):
    def change(number, model, optimizer):
        dropout = next(module for module in model if isinstance(module, nn.Dropout))
        if number == 1:
            optimizer.param_groups[0]["lr"] = 1e-4
        elif number == 2:
            dropout.p = 0.7
        elif number == 3:
            dropout.eval()
        elif number == 4:
            model[-1].bias.requires_grad_(False)
        elif number == 5:
            optimizer.load_state_dict(optimizer.state_dict())

    assert_same(batches, net="dropout", before=change)


def test_a_parameter_that_is_frozen_leaves_no_gradient_to_be_clipped_with(batches):
    def freeze(number, model, optimizer):
        model[-1].bias.requires_grad_(number < 4)

    assert_same(batches, clip=0.05, before=freeze)


def test_a_function_that_a_net_calls_is_part_of_it(batches):
    class Activation(nn.Module):
        def forward(self, values):
            return self.function(values)

    def change(number, model, optimizer):
        if number == 0:
            model.insert(2, Activation())
        model[2].function = torch.tanh if number < 3 else F.gelu

    assert_same(batches, before=change)


def test_a_hook_of_the_optimizer_is_called_at_each_step(batches):
    seen = []

    def watch(number, model, optimizer):
        if number == 2:
            optimizer.register_step_post_hook(lambda *_: seen.append(number))

    assert_same(batches, before=watch)
    assert len(seen) == 2 * 4


def test_tracing_changes_nothing(batches):
    model = build("convnet", channels=[4, 8], dropout=0.2)
    optimizer = Adam(model.parameters(), fused=True)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.manual_seed(1)
    assert StepTracer(model, F.cross_entropy, optimizer).step_for(*batches[0])
    drawn = torch.rand(1)
    assert drawn == torch.rand(1, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert not optimizer.state and all(parameter.grad is None for parameter in model.parameters())


class Odd(nn.Module):
    """A layer whose forward does what no record can hold."""

    def __init__(self, change):
        super().__init__()
        self.change, self.calls = change, 0

    def forward(self, images):
        return self.change(self, images)


def count(layer, images):
    layer.calls += 1
    return images / layer.calls


ODD = {
    "looks at values": lambda layer, images: images if images.mean() > 0 else images / 2,
    "a tensor is neither": lambda layer, images: images / torch.from_numpy(np.full(1, 2, np.float32)),
    "numpy looks at values": lambda layer, images: torch.from_numpy(images.numpy() / 2),
    "tolist looks at values": lambda layer, images: images / max(images.flatten().tolist()),
    r"index.Tensor looks at values": lambda layer, images: images / images[images > 0].mean(),
    "keeps no count": count,
    "no chance but PyTorch's": lambda layer, images: images * random.random(),
    "chance but": lambda layer, images: images * np.random.rand(),
}


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda model: model.register_forward_hook(lambda *_: None), "hooks"),
        (lambda model: model[-1].weight.register_hook(lambda _: None), "hooks"),
        (lambda model: model[-1].weight.register_post_accumulate_grad_hook(lambda _: None), "hooks"),
        *((lambda model, change=change: model.insert(0, Odd(change)), reason) for reason, change in ODD.items()),
    ],
)
def test_what_cannot_be_traced_is_refused_or_left_to_autograd(batches, caplog, spoil, reason):
    model = build("simple")
    spoil(model)
    optimizer = Adam(model.parameters(), fused=True)
    with pytest.raises(UntraceableError, match=reason):
        StepTracer(model, F.cross_entropy, optimizer, required=True).step_for(*batches[0])
    tracer = StepTracer(model, F.cross_entropy, optimizer)
    with caplog.at_level("DEBUG", logger="mnist_lightning.traced"):
        assert tracer.step_for(*batches[0]) is None and tracer.step_for(*batches[1]) is None
    assert caplog.text.count("steps are left to autograd") == 1


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
@pytest.mark.parametrize("circumstance", [lambda: torch.autocast("cpu", torch.bfloat16), torch.autograd.detect_anomaly])
def test_neither_mixed_precision_nor_anomalies_are_traced(batches, circumstance):
    model = build("simple")
    tracer = StepTracer(model, F.cross_entropy, Adam(model.parameters(), fused=True))
    assert tracer.step_for(*batches[0])
    with circumstance():
        assert tracer.step_for(*batches[0]) is None


def test_a_module_with_a_tracer_can_be_pickled(batches):
    model = build("simple")
    tracer = StepTracer(model, F.cross_entropy, Adam(model.parameters(), fused=True))
    tracer.step_for(*batches[0])(*batches[0])
    assert pickle.loads(pickle.dumps(tracer)).step_for(*batches[0])
