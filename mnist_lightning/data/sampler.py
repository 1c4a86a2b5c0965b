"""The order of an epoch: a function of (seed, epoch), served in whole batches, from any position in it.

So N processes can share every batch that one process would see, and a run can be resumed in the middle of an epoch.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler, SequentialSampler

from mnist_lightning.errors import UserError


def seeded(*numbers: int) -> torch.Generator:
    """Returns a random generator that is a function of all the numbers, such as (seed, epoch)."""
    # SeedSequence mixes them, so that (seed 0, epoch 1) and (seed 1, epoch 0) have nothing in common.
    (mixed,) = np.random.SeedSequence(numbers).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(mixed))


@dataclass(eq=False)
class ChunkSampler(DistributedSampler[Tensor]):  # the one kind that Lightning leaves alone with several processes
    """Yields the indices of whole batches, in an order that is a function of (seed, epoch).

    Where it stands in that order is a number, ``position``: batches yielded in this epoch. That is all a run needs to
    be resumed in the middle of one.

    Args:
        num_samples: Size of the dataset.
        batch_size: Indices in a batch, over all processes together; the last batch of an epoch has what is left.
        steps: Batches to yield at a time. 1 yields (batch,); more yields (up to steps, batch), and the short last
            batch alone, as (1, rest).
        seed: Shuffles each epoch anew.
        rank: Which of the processes this is: it gets every ``world_size``-th index of each batch.
        world_size: How many processes there are.
        cut_every: Ends a chunk after every so many batches of an epoch, besides; 0 does not.
        device: Where the indices shall be. The order is drawn on the CPU, and copied once an epoch.
    """

    num_samples: int
    batch_size: int
    steps: int = 1
    seed: int = 0
    rank: int = 0
    world_size: int = 1
    cut_every: int = 0
    device: torch.device | str = "cpu"

    epoch = position = _start = 0

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this before each epoch."""
        self.epoch = epoch

    @property
    def num_batches(self) -> int:
        """Batches, that is optimizer steps, in an epoch."""
        return -(-self.num_samples // self.batch_size)

    @property
    def cuts(self) -> list[int]:
        """Where chunks begin and end, in batches."""
        whole = self.num_samples // self.batch_size
        inner = (range(0, whole, n) for n in (self.steps, self.cut_every) if n)
        return sorted({0, whole, self.num_batches}.union(*inner))

    def order(self) -> Tensor:
        """Returns the epoch's indices, int64 (num_samples,)."""
        return torch.randperm(self.num_samples, generator=seeded(self.seed, self.epoch))

    def __iter__(self) -> Iterator[Tensor]:
        order, start, self._start = self.order().to(self.device), self._start, 0
        for begin, end in pairwise(self.cuts):
            if begin >= start:
                chunk = order[begin * self.batch_size : end * self.batch_size]
                self.position = end
                yield (chunk if self.steps == 1 else chunk.view(end - begin, -1))[..., self.rank :: self.world_size]

    def __len__(self) -> int:
        return len(self.cuts) - 1

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position % self.num_batches, "layout": self._layout}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Begins the next epoch at the position of a checkpoint.

        Raises:
            UserError: The checkpoint is from the middle of an epoch of other batches or chunks.
        """
        if state["position"] and state["layout"] != self._layout:
            raise UserError(
                f"expected the settings of the run to resume, as the checkpoint is from the middle of an epoch: "
                f"{state['layout']}, got {self._layout}; give the same options, or --config with the run's config.yaml"
            )
        self._start = state["position"]

    @property
    def _layout(self) -> dict[str, int]:
        names = ("num_samples", "batch_size", "steps", "cut_every", "seed")
        return {name: getattr(self, name) for name in names}


class InOrder(ChunkSampler, SequentialSampler):  # type: ignore[misc]  # the one kind that Lightning's overfit_batches leaves alone
    """Yields the indices of whole batches in the dataset's order."""

    def order(self) -> Tensor:
        return torch.arange(self.num_samples)


class ResumableDataLoader(DataLoader[tuple[Tensor, ...]]):
    """A DataLoader whose sampler's position goes into Lightning's checkpoints."""

    sampler: ChunkSampler

    def state_dict(self) -> dict[str, Any]:
        return self.sampler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.sampler.load_state_dict(state)
