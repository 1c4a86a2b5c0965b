"""What training on a GPU takes that a CPU does not ask for. Nothing here knows of MNIST.

A GPU works through a queue. Who reads a number of its waits until the queue is empty, and it idles until there is more:
so numbers stay on it for as long as nobody has to see them. It also has a memory and a random generator of its own.
"""

from collections.abc import Iterable

import torch
from torch import Tensor
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassConfusionMatrix
from torchmetrics.utilities.distributed import gather_all_tensors


class Mean(MeanMetric):
    """torchmetrics' own, which reads all values to look for NaN; here a NaN shows in the mean."""

    def update(self, value: Tensor, weight: float | Tensor = 1.0) -> None:  # type: ignore[override]
        self.mean_value += (value * weight).sum()
        self.weight += weight * value.numel()


class ConfusionMatrix(MulticlassConfusionMatrix):
    """torchmetrics' own, which counts with ``bincount``, that reads the largest value."""

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Takes logits (batch, classes) and labels (batch,)."""
        places = labels * self.num_classes + logits.argmax(1)
        self.confmat.view(-1).index_add_(0, places, torch.ones_like(places))


def fits(tensors: Iterable[Tensor], device: torch.device) -> bool:
    """Tells whether a device that is not the CPU has room for tensors, and for as much again."""
    if device.type == "cpu":
        return False
    memory = getattr(torch.get_device_module(device), "mem_get_info", None)  # MPS has the CPU's, and no such function
    return memory is None or 2 * sum(tensor.nbytes for tensor in tensors) <= memory(device)[0]


def random_states(device: torch.device, world_size: int) -> Tensor:
    """Returns the random states of all processes, of CPU and device: uint8 (processes, n)."""
    state = _random_state(device).to(device)
    return torch.stack(gather_all_tensors(state) if world_size > 1 else [state]).cpu()


def _random_state(device: torch.device) -> Tensor:
    own = [] if device.type == "cpu" else [torch.get_device_module(device).get_rng_state()]
    return torch.cat([torch.get_rng_state(), *own])


def set_random_state(states: Tensor, rank: int, device: torch.device) -> None:
    """Has a process draw on from its state of those; on a device only if they are of such a device."""
    states = torch.atleast_2d(states)  # earlier versions kept that of one process
    state, size = states[rank % len(states)], len(torch.get_rng_state())
    torch.set_rng_state(state[:size].clone())  # it misreads a view, and may crash
    if device.type != "cpu" and len(state) == len(_random_state(device)):
        torch.get_device_module(device).set_rng_state(state[size:].clone())


def reseed(seed: int, device: torch.device) -> None:
    """Draws random numbers from another seed; ``torch.initial_seed``, which images are ordered by, stays."""
    state = torch.Generator().manual_seed(seed).get_state()
    state[:8] = torch.get_rng_state()[:8]  # where a generator's state has its seed
    torch.set_rng_state(state)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)
