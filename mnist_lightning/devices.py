"""What a GPU has of its own: a memory, which may be full, and a random generator. Nothing here knows of MNIST."""

from collections.abc import Iterable

import torch
from torch import Tensor
from torchmetrics.utilities.distributed import gather_all_tensors


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
