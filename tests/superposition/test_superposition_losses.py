"""Every loss of a bag against its formula: values, gradients, special cases."""

from __future__ import annotations

import math

import pytest
import superposition_reference as reference
import torch
from torch.nn import functional

from tst_titan.superposition import (
    LOSSES,
    WEIGHT_KINDS,
    bag_loss,
    dense,
    multi_hot_cross_entropy,
    target_weights,
)

VOCAB = 23


@pytest.fixture(params=["gradient in forward", "gradient in backward"], autouse=True)
def route(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both places where the gradient can be built; accelerators and low precision use the second. Blocks of
    three rows, so that the last of the seven is alone."""
    if request.param == "gradient in backward":
        monkeypatch.setattr(dense, "builds_gradient_early", lambda loss, logits: False)
    monkeypatch.setattr(dense, "_CPU_BLOCK", 3 * VOCAB)


def _case(bag_size: int, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (7, VOCAB) and labels (7, bag_size): the first bag repeats one token, others repeat by chance."""
    generator = torch.Generator().manual_seed(bag_size)
    logits = (
        torch.randn(7, VOCAB, generator=generator, dtype=torch.float64).mul_(3).to(dtype).requires_grad_()
    )
    labels = torch.randint(0, VOCAB, (7, bag_size), generator=generator)
    labels[0] = labels[0, 0]
    return logits, labels


def _weights(name: str, kind: str, bag_size: int) -> torch.Tensor | None:
    return target_weights(kind, bag_size, law=reference.law) if LOSSES[name].takes_weights else None


def _gradient(loss: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    return torch.autograd.grad(loss, logits)[0]


def _compare(
    name: str, kind: str, labels: torch.Tensor, logits: torch.Tensor, rtol: float, atol: float
) -> None:
    bag_size = labels.shape[1]
    exact_logits = logits.detach().double().requires_grad_()
    listed = target_weights(kind, bag_size, law=reference.law).double().tolist()
    expected = reference.loss(name, exact_logits, labels, listed)
    loss = bag_loss(name, logits, labels, _weights(name, kind, bag_size))
    assert loss.dtype == torch.promote_types(logits.dtype, torch.float32)
    torch.testing.assert_close(loss.double(), expected, rtol=rtol, atol=atol)
    # An upstream factor, as of the division by the number of latents.
    gradient = _gradient(loss / 3, logits)
    assert gradient.dtype == logits.dtype
    gradient_rtol = max(rtol, 2.0**-8) if logits.dtype == torch.bfloat16 else rtol
    torch.testing.assert_close(
        gradient.double(), _gradient(expected / 3, exact_logits), rtol=gradient_rtol, atol=atol
    )


@pytest.mark.parametrize("bag_size", range(1, 17))
@pytest.mark.parametrize("name", LOSSES)
def test_value_and_gradient_equal_the_formula(name: str, bag_size: int) -> None:
    logits, labels = _case(bag_size)
    _compare(name, "uniform", labels, logits, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("bag_size", [1, 2, 5, 16])
@pytest.mark.parametrize("kind", WEIGHT_KINDS)
def test_every_kind_of_weights_in_the_cross_entropy(kind: str, bag_size: int) -> None:
    logits, labels = _case(bag_size)
    _compare("mce", kind, labels, logits, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", LOSSES)
def test_low_precision_logits_are_computed_in_float32(name: str, dtype: torch.dtype) -> None:
    logits, labels = _case(6, dtype)
    if dtype == torch.float16:
        logits = logits.detach().mul(2).requires_grad_()
    rounding = 2.0**-8 if dtype == torch.bfloat16 else 2.0**-10 if dtype == torch.float16 else 1e-5
    bag_size = labels.shape[1]
    exact_logits = logits.detach().double().requires_grad_()
    expected = reference.loss(name, exact_logits, labels, target_weights("power", bag_size).double().tolist())
    loss = bag_loss(name, logits, labels, _weights(name, "power", bag_size))
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-5)
    gradient, exact_gradient = _gradient(loss / 3, logits), _gradient(expected / 3, exact_logits)
    torch.testing.assert_close(gradient.double(), exact_gradient, rtol=rounding, atol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_gradcheck(name: str) -> None:
    logits, labels = _case(4)
    weights = _weights(name, "power", 4)
    assert torch.autograd.gradcheck(lambda z: bag_loss(name, z, labels, weights), (logits,))


@pytest.mark.parametrize("name", ["mce", "mce_alt"])
def test_a_bag_of_one_is_ordinary_cross_entropy(name: str) -> None:
    logits, labels = _case(1, torch.float32)
    loss = bag_loss(name, logits, labels, _weights(name, "uniform", 1))
    plain = functional.cross_entropy(logits, labels[:, 0], reduction="sum")
    torch.testing.assert_close(loss, plain, rtol=3e-7, atol=0)
    torch.testing.assert_close(_gradient(loss, logits), _gradient(plain, logits), rtol=1e-5, atol=1e-7)


def test_cross_entropy_equals_the_loop_of_the_paper() -> None:
    logits, labels = _case(8, torch.float32)
    weights = target_weights("power", 8)
    loop = sum(
        (weights[k] * functional.cross_entropy(logits, labels[:, k], reduction="sum") for k in range(8)),
        start=torch.zeros(()),
    )
    loss = multi_hot_cross_entropy(logits, labels, weights)
    torch.testing.assert_close(loss, loop, rtol=1e-6, atol=0)
    torch.testing.assert_close(_gradient(loss, logits), _gradient(loop, logits), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", LOSSES)
def test_ignored_labels_drop_their_term_and_ignored_positions_everything(name: str) -> None:
    logits, labels = _case(5)
    labels[2] = reference.IGNORED
    labels[3, 1:4] = reference.IGNORED
    labels[0, 0] = reference.IGNORED
    _compare(name, "power", labels, logits, rtol=1e-9, atol=1e-12)
    gradient = _gradient(bag_loss(name, logits, labels, _weights(name, "power", 5)), logits)
    assert not gradient[2].any()


@pytest.mark.parametrize("name", LOSSES)
def test_extreme_logits_stay_finite(name: str) -> None:
    logits = torch.tensor([[1e4, -1e4, 0.0, 3.0], [-1e4, -1e4, -1e4, -1e4]], requires_grad=True)
    labels = torch.tensor([[1, 2], [0, 3]])
    loss = bag_loss(name, logits, labels, _weights(name, "uniform", 2))
    assert loss.isfinite() and _gradient(loss, logits).isfinite().all()
    if name == "mce":
        torch.testing.assert_close(loss.item(), 1.5e4 + math.log(4), rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", LOSSES)
def test_a_masked_entry_of_minus_infinity_has_no_gradient(name: str) -> None:
    logits = torch.tensor([[0.5, -math.inf, 0.25, 1.0]], requires_grad=True)
    labels = torch.tensor([[0, 3]])
    loss = bag_loss(name, logits, labels, _weights(name, "uniform", 2))
    gradient = _gradient(loss, logits)
    assert loss.isfinite() and gradient.isfinite().all() and gradient[0, 1] == 0.0


def test_nan_logits_give_a_nan_loss() -> None:
    logits = torch.zeros(2, 4, requires_grad=True)
    poisoned = logits + torch.tensor([[0.0, math.nan, 0.0, 0.0], [0.0] * 4])
    assert multi_hot_cross_entropy(poisoned, torch.tensor([[0], [1]]), target_weights("uniform", 1)).isnan()


def test_summed_probability_counts_a_repeated_token_once() -> None:
    """As a multiset the bag {0, 0} would have a probability of nearly 2, and a loss of -ln 2."""
    logits = torch.tensor([[30.0, 0.0, 0.0]], dtype=torch.float64)
    assert bag_loss("mce_alt", logits, torch.tensor([[0, 0]])).item() == pytest.approx(0.0, abs=1e-12)
    everything = torch.randn(1, 6, dtype=torch.float64)
    assert bag_loss("mce_alt", everything, torch.tensor([[5, 3, 1, 0, 2, 4]])).item() == pytest.approx(
        0.0, abs=1e-12
    )


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("bag_size", [1, 4, 16])
def test_the_expected_first_loss_is_that_of_equal_logits(name: str, bag_size: int) -> None:
    labels = torch.arange(bag_size).repeat(10, 1)
    loss = bag_loss(name, torch.zeros(10, VOCAB), labels, _weights(name, "power", bag_size)) / 10
    assert loss.item() == pytest.approx(LOSSES[name].initial(VOCAB, bag_size), rel=1e-5)
    if name == "mce":
        assert loss.item() == pytest.approx(math.log(VOCAB), rel=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_overwriting_the_logits_changes_nothing_but_their_storage(name: str) -> None:
    logits, labels = _case(5, torch.float32)
    weights = _weights(name, "power", 5)
    expected = bag_loss(name, logits, labels, weights)
    expected_gradient = _gradient(expected / 3, logits)

    produced = logits * 1.0  # its multiplication by a number needs no output in backward
    produced.retain_grad()
    storage = produced.data_ptr()
    loss = bag_loss(name, produced, labels, weights, overwrite_logits=True)
    (loss / 3).backward()
    assert produced.grad is not None
    torch.testing.assert_close(loss, expected, rtol=1e-7, atol=0)
    torch.testing.assert_close(produced.grad, expected_gradient, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(logits.grad, expected_gradient, rtol=1e-6, atol=1e-9)
    assert produced.data_ptr() == storage
    torch.testing.assert_close(produced.detach(), expected_gradient, rtol=1e-6, atol=1e-9)


def test_overwriting_logits_that_autograd_still_needs_raises() -> None:
    logits, labels = _case(5, torch.float32)
    produced = logits.tanh()  # its backward reads its output
    loss = bag_loss("mce", produced, labels, target_weights("uniform", 5), overwrite_logits=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("name", LOSSES)
def test_blocks_do_not_show_in_the_result(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    logits, labels = _case(5, torch.float32)
    results = []
    for elements in (1, 2 * VOCAB, 10**9):
        monkeypatch.setattr(dense, "_CPU_BLOCK", elements)
        loss = bag_loss(name, logits, labels, _weights(name, "power", 5))
        results.append((loss.detach(), _gradient(loss, logits)))
    for loss, gradient in results[1:]:
        torch.testing.assert_close(loss, results[0][0], rtol=1e-6, atol=0)
        torch.testing.assert_close(gradient, results[0][1], rtol=1e-5, atol=1e-9)


def test_logits_are_left_alone_unless_asked() -> None:
    for name in LOSSES:
        logits, labels = _case(5, torch.float32)
        before = logits.detach().clone()
        bag_loss(name, logits, labels, _weights(name, "uniform", 5)).backward()
        assert torch.equal(logits.detach(), before)


def test_a_second_backward_is_an_error_or_right_but_never_wrong() -> None:
    logits, labels = _case(5, torch.float32)
    loss = multi_hot_cross_entropy(logits, labels, target_weights("uniform", 5)) / 3
    (first,) = torch.autograd.grad(loss, logits, retain_graph=True)
    first = first.clone()
    try:
        (second,) = torch.autograd.grad(loss, logits)
    except RuntimeError as error:
        assert "inplace" in str(error)
    else:
        torch.testing.assert_close(first, second)


def test_without_gradients_nothing_is_kept() -> None:
    logits, labels = _case(5, torch.float32)
    for name in LOSSES:
        expected = bag_loss(name, logits, labels, _weights(name, "power", 5)).detach()
        before = logits.detach().clone()
        with torch.no_grad():
            loss = bag_loss(name, logits, labels, _weights(name, "power", 5), overwrite_logits=True)
        assert not loss.requires_grad
        assert torch.equal(logits, before)
        torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)


def test_invalid_arguments_are_named() -> None:
    logits, labels = _case(5, torch.float32)
    weights = target_weights("uniform", 5)
    with pytest.raises(ValueError, match=f"loss: 'nll' is not valid; it must be one of {', '.join(LOSSES)}"):
        bag_loss("nll", logits, labels, weights)
    with pytest.raises(ValueError, match=r"weights: None is not valid; 'mce' needs the shape \(5,\)"):
        bag_loss("mce", logits, labels)
    with pytest.raises(ValueError, match=r"weights: shape \(4,\) is not valid"):
        bag_loss("mce", logits, labels, weights[:4])
    with pytest.raises(ValueError, match="weights: they have no effect on the loss 'hinge'"):
        bag_loss("hinge", logits, labels, weights)
    with pytest.raises(ValueError, match=r"logits, labels: shapes \(7, 23\) and \(6, 5\) are not valid"):
        bag_loss("mce", logits, labels[:6], weights)
    with pytest.raises(ValueError, match="strided ones cannot be overwritten"):
        bag_loss("mce", logits.t().contiguous().t(), labels, weights, overwrite_logits=True)
