"""The order of an epoch, its chunks, and any position in it."""

import pytest
import torch

from mnist_lightning.data.sampler import ChunkSampler
from mnist_lightning.errors import UserError


def test_an_epochs_order_is_a_function_of_seed_and_epoch():
    def order(seed, epoch):
        torch.manual_seed(order.calls)  # what else is drawn must not matter
        order.calls += 1
        sampler = ChunkSampler(1000, 64, seed=seed)
        sampler.set_epoch(epoch)
        return torch.cat(list(sampler)).tolist()

    order.calls = 0
    assert order(0, 0) == order(0, 0)
    assert sorted(order(0, 0)) == list(range(1000))
    assert len({tuple(order(seed, epoch)) for seed in (0, 1, 2**63) for epoch in (0, 1, 2)}) == 9


@pytest.mark.parametrize("num_samples", [1, 10, 63, 64, 65, 128, 1000])
@pytest.mark.parametrize("steps", [2, 8, 1000])
def test_chunks_hold_the_same_batches_whatever_their_size(num_samples, steps):
    one_by_one = list(ChunkSampler(num_samples, 64, seed=3))
    sampler = ChunkSampler(num_samples, 64, steps, seed=3)
    chunks = list(sampler)
    assert len(chunks) == len(sampler)
    assert all(len(chunk) <= steps for chunk in chunks)
    batches = [batch for chunk in chunks for batch in chunk]
    assert len(batches) == len(one_by_one) == sampler.num_batches
    assert all(map(torch.equal, batches, one_by_one))


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("world_size", [2, 3, 5])
def test_processes_share_every_batch_and_nothing_is_padded(steps, world_size):
    whole = list(ChunkSampler(1001, 64, steps, seed=3))
    shares = [list(ChunkSampler(1001, 64, steps, 3, rank, world_size)) for rank in range(world_size)]
    for chunk, *parts in zip(whole, *shares, strict=True):
        together = torch.cat(parts, dim=-1).sort(dim=-1).values
        assert torch.equal(together, chunk.sort(dim=-1).values)


def stopped_after(chunks, sampler):
    iterator = iter(sampler)
    return [next(iterator) for _ in range(chunks)], sampler.state_dict()


def same(chunks, others):
    return len(chunks) == len(others) and all(map(torch.equal, chunks, others))


@pytest.mark.parametrize("chunks", range(1, 6))
def test_an_epoch_is_resumed_from_its_position(chunks):
    whole = list(ChunkSampler(551, 16, 8, seed=3, cut_every=10))
    before, state = stopped_after(chunks, ChunkSampler(551, 16, 8, seed=3, cut_every=10))
    again = ChunkSampler(551, 16, 8, seed=3, cut_every=10)
    again.load_state_dict(state)
    assert same([*before, *again], whole)
    assert same(list(again), whole)  # and the next epoch begins at its beginning


def test_chunks_end_where_a_checkpoint_is_to_be_written():
    sampler = ChunkSampler(551, 16, 8, seed=3, cut_every=10)
    assert sampler.cuts == [0, 8, 10, 16, 20, 24, 30, 32, 34, 35]
    assert [len(chunk) for chunk in sampler] == [8, 2, 6, 4, 4, 6, 2, 2, 1]


@pytest.mark.parametrize("other", [{"batch_size": 32}, {"steps": 4}, {"seed": 4}, {"cut_every": 0}, {"num_samples": 9}])
def test_an_epoch_cannot_be_resumed_with_other_batches_but_the_next_can(other):
    options = {"num_samples": 551, "batch_size": 16, "steps": 8, "seed": 3, "cut_every": 10}
    _, state = stopped_after(2, ChunkSampler(**options))
    with pytest.raises(UserError, match="middle of an epoch"):
        ChunkSampler(**{**options, **other}).load_state_dict(state)
    _, state = stopped_after(9, ChunkSampler(**options))
    ChunkSampler(**{**options, **other}).load_state_dict(state)
