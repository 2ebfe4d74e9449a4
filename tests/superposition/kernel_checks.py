"""The Triton kernels against the formulas; test_superposition_kernels.py runs this file in a process of its own.

Triton's interpreter (TRITON_INTERPRET=1) has to be chosen before anything imports Triton.
"""

from __future__ import annotations

import pytest
import superposition_reference as reference
import torch

from tst_titan.superposition import LOSSES, dense, kernels, target_weights
from tst_titan.superposition import bag_loss as package_bag_loss

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture
def bag_loss(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(dense, "_kernels", lambda logits: kernels)
    monkeypatch.setattr(dense, "builds_gradient_early", lambda loss, logits: False)
    return package_bag_loss


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("vocab", "bag_size"), [(50, 1), (100, 3), (4096, 8), (9000, 16)])
@pytest.mark.parametrize("name", ["mce", "mce_alt"])
def test_value_and_gradient_equal_the_formula(
    bag_loss, name: str, vocab: int, bag_size: int, dtype: torch.dtype, overwrite: bool
) -> None:
    generator = torch.Generator().manual_seed(vocab)
    logits = torch.randn(5, vocab, generator=generator).mul_(3).to(dtype)
    labels = torch.randint(0, vocab, (5, bag_size), generator=generator)
    labels[0], labels[1], labels[2, 0] = labels[0, 0], reference.IGNORED, vocab - 1
    logits[3, : vocab - bag_size] = -torch.inf  # in the largest vocabulary that is the whole first block
    labels[3] = vocab - 1 - torch.arange(bag_size)
    logits[4, 0], logits[4, -1] = 12.0, 13.0  # the maximum grows from the first block to the last
    weights = target_weights("power", bag_size) if LOSSES[name].takes_weights else None
    exact = logits.double().requires_grad_()
    expected = reference.loss(name, exact, labels, target_weights("power", bag_size).double().tolist())
    (expected_gradient,) = torch.autograd.grad(expected / 3, exact)

    leaf = logits.to(DEVICE).requires_grad_()
    loss = bag_loss(
        name,
        leaf,
        labels.to(DEVICE),
        None if weights is None else weights.to(DEVICE),
        overwrite_logits=overwrite,
    )
    (gradient,) = torch.autograd.grad(loss / 3, leaf)
    torch.testing.assert_close(loss.double().cpu(), expected, rtol=1e-5, atol=1e-5)
    # The interpreter truncates to bfloat16 where the hardware rounds: one unit in the last place, not half.
    rtol = 2.0**-7 if dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(gradient.double().cpu(), expected_gradient, rtol=rtol, atol=1e-7)
    assert (gradient.data_ptr() == leaf.data_ptr()) == overwrite


def test_overwriting_logits_that_autograd_still_needs_raises(bag_loss) -> None:
    produced = torch.randn(4, 60, device=DEVICE).requires_grad_().tanh()
    labels = torch.zeros(4, 2, dtype=torch.long, device=DEVICE)
    loss = bag_loss(
        "mce", produced, labels, target_weights("uniform", 2, device=DEVICE), overwrite_logits=True
    )
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_rows_with_a_stride_are_read_where_they_lie(bag_loss) -> None:
    wide = torch.randn(4, 80, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    labels = torch.tensor([[1, 2], [3, 4], [5, 5], [59, 0]], device=DEVICE)
    weights = target_weights("uniform", 2, device=DEVICE)
    gradients = []
    for part in (wide[:, :60], wide[:, :60].contiguous()):
        leaf = part.detach().requires_grad_()
        gradients.append(torch.autograd.grad(bag_loss("mce", leaf, labels, weights), leaf)[0])
    assert torch.equal(*gradients)
