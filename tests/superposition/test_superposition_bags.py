"""Windows, bags and target weights."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import superposition_reference as reference
import torch
from hypothesis import given
from hypothesis import strategies as st

from tst_titan.superposition import (
    SIDES,
    WEIGHT_KINDS,
    bag_labels,
    target_weights,
    tokens_advanced,
    tokens_per_window,
)

sizes = st.integers(1, 16)


@given(latents=st.integers(1, 12), bag_size=sizes, sides=st.sampled_from(SIDES))
def test_bags_hold_the_tokens_that_the_formulas_name(latents: int, bag_size: int, sides: str) -> None:
    width = tokens_per_window(latents, bag_size, sides)
    tokens = torch.arange(2 * width).view(2, width)
    inputs, labels = bag_labels(tokens, bag_size, sides)
    for b in range(2):
        row = tokens[b].tolist()
        for j in range(latents):
            if sides == "output_only":
                assert inputs[b, j].item() == row[j]
                assert labels[b, j].tolist() == [row[j + 1 + k] for k in range(bag_size)]
                continue
            assert inputs[b, j].tolist() == [row[j * bag_size + k] for k in range(bag_size)]
            following = [row[(j + 1) * bag_size + k] for k in range(1 if sides == "input_only" else bag_size)]
            assert labels[b, j].tolist() == (following[0] if sides == "input_only" else following)
    assert inputs.shape[:2] == labels.shape[:2] == (2, latents)
    assert labels.reshape(2, -1)[0, -1] == width - 1, "the window holds a token that nothing uses"


@given(latents=st.integers(1, 12), bag_size=sizes, sides=st.sampled_from(SIDES))
def test_consecutive_windows_read_every_input_once(latents: int, bag_size: int, sides: str) -> None:
    width, step = tokens_per_window(latents, bag_size, sides), tokens_advanced(latents, bag_size, sides)
    stream = torch.arange(3 * step + width)
    seen = [bag_labels(stream[None, i * step : i * step + width], bag_size, sides)[0] for i in range(3)]
    assert torch.cat([inputs.flatten() for inputs in seen]).tolist() == list(range(3 * step))


@pytest.mark.parametrize("sides", SIDES)
def test_a_bag_of_one_is_the_ordinary_next_token_window(sides: str) -> None:
    tokens = torch.arange(9)[None]
    assert tokens_per_window(8, 1, sides) == 9 and tokens_advanced(8, 1, sides) == 8
    inputs, labels = bag_labels(tokens, 1, sides)
    assert inputs.flatten().tolist() == list(range(8))
    assert labels.flatten().tolist() == list(range(1, 9))


@pytest.mark.parametrize(
    ("width", "sides", "valid"),
    [
        (11, "full", "8 and any multiple of 4"),
        (8, "input_only", "5 and any multiple of 4"),
        (4, "output_only", "5"),
    ],
)
def test_a_window_that_fits_no_number_of_latents_is_refused(width: int, sides: str, valid: str) -> None:
    with pytest.raises(ValueError, match=rf"tokens: {width} tokens .* there must be {valid}"):
        bag_labels(torch.zeros(2, width, dtype=torch.long), 4, sides)


def test_arguments_out_of_range_are_named() -> None:
    with pytest.raises(ValueError, match="bag_size: 0 is not valid"):
        tokens_per_window(4, 0)
    with pytest.raises(ValueError, match="latents: 0 is not valid"):
        tokens_advanced(0, 4)
    with pytest.raises(ValueError, match="sides: 'both' is not valid; it must be one of full, input_only"):
        tokens_per_window(4, 4, "both")
    with pytest.raises(ValueError, match=r"tokens: shape \(8,\) is not valid"):
        bag_labels(torch.zeros(8, dtype=torch.long), 4)


@pytest.mark.parametrize("bag_size", range(1, 17))
@pytest.mark.parametrize("kind", WEIGHT_KINDS)
def test_named_weights_follow_their_formula(kind: str, bag_size: int) -> None:
    formula = {
        "uniform": lambda i: 1.0,
        "power": lambda i: 1.0 / i,
        "exponential": lambda i: math.exp(-i),
        "first": lambda i: float(i == 1),
        "mutual_information": reference.law,
    }[kind]
    raw = [formula(i) for i in range(1, bag_size + 1)]
    expected = torch.tensor([value / math.fsum(raw) for value in raw], dtype=torch.float64)
    weights = target_weights(kind, bag_size, law=reference.law)
    assert weights.dtype == torch.float32
    torch.testing.assert_close(weights, expected.float(), rtol=2e-7, atol=0)


@given(st.lists(st.floats(0.0, 1e6), min_size=1, max_size=64).filter(lambda values: sum(values) > 1e-3))
def test_listed_weights_keep_their_ratios_and_sum_to_one(values: list[float]) -> None:
    weights = target_weights(values, len(values)).double()
    torch.testing.assert_close(weights.sum().item(), 1.0, rtol=0, atol=1e-6)
    torch.testing.assert_close(weights * sum(values), torch.tensor(values).double(), rtol=1e-5, atol=1e-9)


def test_a_bag_of_thousands_has_exponential_weights_without_nan() -> None:
    weights = target_weights("exponential", 2000)
    assert weights.isfinite().all() and weights[0].item() == pytest.approx(1 - math.exp(-1), rel=1e-6)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ([1.0, 2.0], "weights has 2 numbers; a bag of 3 needs 3"),
        ([1.0, -2.0, 3.0], "none negative"),
        ([0.0, 0.0, 0.0], "not all zero"),
        ([1.0, math.nan, 1.0], "finite"),
        ("mutual_information", "'mutual_information' needs a law of the distance"),
        ("unifrom", "weights: 'unifrom' is not valid; it must be one of uniform, power, exponential"),
    ],
)
def test_invalid_weights_are_refused_with_what_would_be_valid(kind: str | list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        target_weights(kind, 3)


def test_what_a_bag_may_be_is_known_without_importing_torch() -> None:
    code = "import sys, tst_titan.tree.plan; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
