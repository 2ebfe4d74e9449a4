"""Two real ranks, each with a part of the vocabulary, against one process with all of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import Shard, distribute_tensor

from tst_titan.superposition import LOSSES, VocabShard, bag_embedding, bag_loss, target_weights

RANKS, VOCAB, WIDTH, LATENTS = 2, 37, 12, 11  # 37 is odd: the shards differ in size


def _embedding_ranks_agree(shard: VocabShard) -> None:
    generator = torch.Generator().manual_seed(1)
    for bag_size in (1, 3, 16):
        weight = torch.randn(VOCAB, WIDTH, generator=generator, dtype=torch.float64).requires_grad_()
        tokens = torch.randint(0, VOCAB, (LATENTS, bag_size), generator=generator)
        upstream = torch.randn(LATENTS, WIDTH, generator=generator, dtype=torch.float64)
        expected = bag_embedding(weight, tokens)
        (expected_gradient,) = torch.autograd.grad(expected, weight, upstream)

        local = weight.detach()[shard.start : shard.end].clone().requires_grad_()
        part = bag_embedding(local, tokens, shard)
        assert not torch.allclose(part, expected), "the part is already the whole: nothing was sharded"
        total = part.detach().clone()
        dist.all_reduce(total)
        torch.testing.assert_close(total, expected)
        (gradient,) = torch.autograd.grad(part, local, upstream)
        torch.testing.assert_close(gradient, expected_gradient[shard.start : shard.end])


def _losses_agree(shard: VocabShard) -> None:
    generator = torch.Generator().manual_seed(2)
    for name in LOSSES:
        for bag_size in (1, 5, 16):
            for dtype in (torch.float64, torch.float32, torch.bfloat16):
                logits = (
                    torch.randn(LATENTS, VOCAB, generator=generator, dtype=torch.float64).mul_(4).to(dtype)
                )
                # The greatest logit on the first rank, on the second, and -inf on all of one rank.
                logits[0, 0], logits[1, -1], logits[2, : VOCAB // 2 + 1] = 30.0, 30.0, -torch.inf
                labels = torch.randint(0, VOCAB, (LATENTS, bag_size), generator=generator)
                labels[2], labels[3], labels[4] = VOCAB - 1, labels[3, 0], -100
                if bag_size > 1:
                    labels[5, 1] = -100
                _one_loss_agrees(name, logits, labels, shard)


def _one_loss_agrees(name: str, logits: torch.Tensor, labels: torch.Tensor, shard: VocabShard) -> None:
    weights = target_weights("power", labels.shape[1]) if LOSSES[name].takes_weights else None
    whole = logits.clone().requires_grad_()
    expected = bag_loss(name, whole, labels, weights)
    (expected_gradient,) = torch.autograd.grad(expected / 3, whole)
    for overwrite in (False, True):
        local = logits[:, shard.start : shard.end].clone().requires_grad_()
        loss = bag_loss(name, local, labels, weights, shard=shard, overwrite_logits=overwrite)
        (gradient,) = torch.autograd.grad(loss / 3, local)
        exact = logits.dtype == torch.float64
        torch.testing.assert_close(loss, expected, rtol=1e-9 if exact else 2e-6, atol=0)
        rtol = 2.0**-7 if logits.dtype == torch.bfloat16 else 1e-9 if exact else 1e-5
        torch.testing.assert_close(
            gradient, expected_gradient[:, shard.start : shard.end], rtol=rtol, atol=1e-12 if exact else 1e-6
        )
    both = [torch.empty_like(loss.detach()) for _ in range(RANKS)]
    dist.all_gather(both, loss.detach())
    assert torch.equal(*both), "the ranks see different losses"


def _shards_are_dtensor_s(shard: VocabShard) -> None:
    weight = torch.arange(VOCAB)
    placed = distribute_tensor(weight, DeviceMesh("cpu", list(range(RANKS))), [Shard(0)])
    assert placed.to_local().tolist() == weight[shard.start : shard.end].tolist()


def _rank(rank: int, rendezvous: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=RANKS)
    try:
        group = dist.group.WORLD
        assert group is not None
        shard = VocabShard.of_group(VOCAB, group)
        _shards_are_dtensor_s(shard)
        _embedding_ranks_agree(shard)
        _losses_agree(shard)
    finally:
        dist.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_equal_one_process(tmp_path: Path) -> None:
    mp.spawn(_rank, args=(str(tmp_path / "rendezvous"),), nprocs=RANKS)
