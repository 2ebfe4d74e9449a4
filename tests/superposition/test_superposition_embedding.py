"""The bag embedding against the formula, whole and in vocabulary shards."""

from __future__ import annotations

import pytest
import superposition_reference as reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from tst_titan.superposition import VocabShard, bag_embedding, embedding


def _case(
    bag_size: int, dtype: torch.dtype, latents: int = 9
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Weight (37, 12), tokens (latents, bag_size) with repetitions within and across bags, upstream gradient."""
    generator = torch.Generator().manual_seed(bag_size)
    weight = torch.randn(37, 12, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    tokens = torch.randint(0, 37, (latents, bag_size), generator=generator)
    tokens[0] = tokens[0, 0]
    upstream = torch.randn(latents, 12, generator=generator, dtype=torch.float64).to(dtype)
    return weight, tokens, upstream


@pytest.mark.parametrize("bag_size", range(1, 17))
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_value_and_gradient_equal_the_formula(bag_size: int, dtype: torch.dtype) -> None:
    weight, tokens, upstream = _case(bag_size, dtype)
    exact_weight = weight.detach().double().requires_grad_()
    expected = reference.bag_mean(exact_weight, tokens)
    (expected_gradient,) = torch.autograd.grad(expected, exact_weight, upstream.double())

    mean = bag_embedding(weight, tokens)
    (gradient,) = torch.autograd.grad(mean, weight, upstream)
    assert mean.dtype == gradient.dtype == dtype
    # One rounding to the weight's dtype (2^-8 in bfloat16), nothing worse.
    rtol = {torch.float64: 1e-14, torch.float32: 1e-6, torch.bfloat16: 2.0**-7.99}[dtype]
    atol = 1e-14 if dtype == torch.float64 else 1e-6
    torch.testing.assert_close(mean.double(), expected, rtol=rtol, atol=atol)
    torch.testing.assert_close(gradient.double(), expected_gradient, rtol=rtol, atol=atol)


def test_low_precision_sums_do_not_stall() -> None:
    """In bfloat16, 256 + 1 is 256: a frequent token's gradient would stop growing."""
    weight = torch.zeros(3, 4, dtype=torch.bfloat16, requires_grad=True)
    tokens = torch.ones(600, 2, dtype=torch.long)
    bag_embedding(weight, tokens).sum().backward()
    assert weight.grad is not None
    assert weight.grad.tolist() == [[0.0] * 4, [600.0] * 4, [0.0] * 4]


def test_low_precision_gradients_are_summed_in_blocks_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, tokens, upstream = _case(5, torch.bfloat16)
    (whole,) = torch.autograd.grad(bag_embedding(weight, tokens), weight, upstream)
    for rows in (1, 7, 37):
        monkeypatch.setattr(embedding, "_GRADIENT_ROWS", rows)
        (blocks,) = torch.autograd.grad(bag_embedding(weight, tokens), weight, upstream)
        assert torch.equal(whole, blocks)


@pytest.mark.parametrize("vocab", [32767, 32768, 32769, 70000])
def test_ids_past_16_bits_are_not_confused(vocab: int) -> None:
    """The sort uses 16-bit keys where they hold every id and the one past the end."""
    weight = torch.randn(vocab, 2, generator=torch.Generator().manual_seed(0)).requires_grad_()
    tokens = torch.tensor([[vocab - 1, 0], [vocab - 1, vocab - 2], [min(vocab - 1, 65536), vocab // 2]])
    upstream = torch.tensor([[1.0, 10.0], [2.0, 20.0], [4.0, 40.0]])
    for part, shard in ((weight, None), (weight.detach()[1:].requires_grad_(), VocabShard(1, vocab, vocab))):
        (gradient,) = torch.autograd.grad(bag_embedding(part, tokens, shard), part, upstream)
        expected = torch.zeros(vocab, 2).index_add_(0, tokens.flatten(), upstream.repeat_interleave(2, 0) / 2)
        torch.testing.assert_close(gradient, expected if shard is None else expected[1:])


@given(divisor=st.integers(1, 1 << 20), place=st.integers(0, (1 << 31) - 1))
@settings(max_examples=300, deadline=None)
def test_the_product_with_a_reciprocal_divides_exactly(divisor: int, place: int) -> None:
    # The places beside a multiple are where a reciprocal that is a little off would show.
    multiple = place // divisor * divisor
    places = [
        place,
        multiple,
        max(multiple - 1, 0),
        min(multiple + divisor - 1, (1 << 31) - 1),
        (1 << 31) - 1,
    ]
    found = embedding._divided(torch.tensor(places), divisor).tolist()
    assert found == [value // divisor for value in places]


def test_a_bag_of_one_is_the_plain_embedding() -> None:
    weight, tokens, upstream = _case(1, torch.float32)
    ours, plain = bag_embedding(weight, tokens), functional.embedding(tokens[:, 0], weight)
    assert torch.equal(ours, plain)
    gradients = [torch.autograd.grad(out, weight, upstream)[0] for out in (ours, plain)]
    assert torch.equal(*gradients)


def test_gradcheck() -> None:
    weight, tokens, _ = _case(6, torch.float64, latents=3)
    assert torch.autograd.gradcheck(lambda w: bag_embedding(w, tokens), (weight,))


def test_leading_dimensions_and_strides_are_kept() -> None:
    weight, tokens, _ = _case(4, torch.float32, latents=30)
    batched = tokens.view(5, 6, 4)
    assert torch.equal(bag_embedding(weight, batched), bag_embedding(weight, tokens).view(5, 6, 12))
    overlapping = torch.arange(12)[None].unfold(1, 4, 1)
    assert torch.equal(bag_embedding(weight, overlapping), bag_embedding(weight, overlapping.contiguous()))


@settings(deadline=None)
@given(
    bag_size=st.integers(1, 16),
    latents=st.integers(1, 20),
    cuts=st.lists(st.integers(1, 36), max_size=4, unique=True).map(sorted),
    dtype=st.sampled_from([torch.float64, torch.float32]),
)
def test_vocabulary_shards_sum_to_the_whole(
    bag_size: int, latents: int, cuts: list[int], dtype: torch.dtype
) -> None:
    weight, tokens, upstream = _case(bag_size, dtype, latents)
    (expected_gradient,) = torch.autograd.grad(bag_embedding(weight, tokens), weight, upstream)
    total, gradients = torch.zeros_like(upstream), []
    for start, end in zip([0, *cuts], [*cuts, 37], strict=True):
        local = weight.detach()[start:end].clone().requires_grad_()
        part = bag_embedding(local, tokens, VocabShard(start, end, 37))
        total += part.detach()
        gradients.append(torch.autograd.grad(part, local, upstream)[0])
    torch.testing.assert_close(total, bag_embedding(weight.detach(), tokens), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(torch.cat(gradients), expected_gradient, rtol=1e-5, atol=1e-6)


def test_a_shard_that_holds_no_token_contributes_zero() -> None:
    weight, tokens, upstream = _case(4, torch.float32)
    local = weight.detach()[:5].clone().requires_grad_()
    part = bag_embedding(local, tokens.clamp(min=5), VocabShard(0, 5, 37))
    (gradient,) = torch.autograd.grad(part, local, upstream)
    assert not part.any() and not gradient.any()


def test_shards_of_low_precision_weights_round_once_each() -> None:
    weight, tokens, upstream = _case(6, torch.bfloat16)
    expected = reference.bag_mean(weight.detach()[:20].double(), tokens.clamp(max=19))
    local = weight.detach()[:20].clone().requires_grad_()
    part = bag_embedding(local, tokens.clamp(max=19), VocabShard(0, 20, 37))
    torch.testing.assert_close(part.double(), expected, rtol=2.0**-7.99, atol=1e-6)
    assert torch.autograd.grad(part, local, upstream)[0].dtype == torch.bfloat16


def test_the_route_for_accelerators_agrees() -> None:
    """The function for other devices is torch's own embedding_bag, which also runs on the CPU."""
    weight, tokens, upstream = _case(6, torch.float32)
    shard = VocabShard(10, 30, 37)
    for part, of_shard in ((weight, None), (weight.detach()[10:30].clone().requires_grad_(), shard)):
        ours, theirs = bag_embedding(part, tokens, of_shard), embedding._bag_mean(part, tokens, of_shard)
        torch.testing.assert_close(ours, theirs)
        torch.testing.assert_close(
            torch.autograd.grad(ours, part, upstream)[0], torch.autograd.grad(theirs, part, upstream)[0]
        )


def test_wrong_shapes_are_named() -> None:
    weight, tokens, _ = _case(4, torch.float32)
    with pytest.raises(ValueError, match=r"weight: shape \(37,\) is not valid"):
        bag_embedding(weight[:, 0], tokens)
    with pytest.raises(ValueError, match=r"tokens: shape \(9, 0\) is not valid"):
        bag_embedding(weight, tokens[:, :0])
    with pytest.raises(ValueError, match=r"weight: 37 rows are not valid for the shard \[0, 19\)"):
        bag_embedding(weight, tokens, VocabShard(0, 19, 37))
    with pytest.raises(ValueError, match=r"vocabulary shard: \[4, 4\) is not valid"):
        VocabShard(4, 4, 37)
    with pytest.raises(RuntimeError):
        bag_embedding(weight, tokens + 37)
