"""What is allocated: no (latents, s, width) tensor, and one tensor of the logits' size at most."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from tst_titan.superposition import LOSSES, bag_embedding, bag_loss, dense, target_weights

LATENTS, VOCAB, WIDTH, BAG = 256, 1024, 64, 16


class Sizes(TorchDispatchMode):
    """Shapes of all tensors that operations return, backward included."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else (result,):
            if isinstance(value, torch.Tensor) and not func.is_view:
                self.shapes.append(tuple(value.shape))
        return result

    def largest(self) -> int:
        return max(torch.Size(shape).numel() for shape in self.shapes)


def peak_extra_bytes(run: Callable[[], object], folder: Path) -> int:
    """Most memory that ``run`` holds beyond what it found, as the allocator saw it, inside operations too."""
    run()
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        run()
    trace = folder / "trace.json"
    profile.export_chrome_trace(str(trace))
    events = [event for event in json.loads(trace.read_text())["traceEvents"] if event["name"] == "[memory]"]
    level = peak = 0
    for event in sorted(events, key=lambda event: event["ts"]):
        level += event["args"]["Bytes"]
        peak = max(peak, level)
    assert events
    return peak


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dense, "_CPU_BLOCK", VOCAB * 8)


def _embedding_case(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(VOCAB, WIDTH, generator=generator).to(dtype).requires_grad_()
    return weight, torch.randint(0, VOCAB, (LATENTS, BAG), generator=generator)


def _logits(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(LATENTS, VOCAB, generator=generator).to(dtype).requires_grad_()
    return logits, torch.randint(0, VOCAB, (LATENTS, BAG), generator=generator)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_tensor_holds_the_embedding_of_every_token(dtype: torch.dtype, tmp_path: Path) -> None:
    weight, tokens = _embedding_case(dtype)
    upstream = torch.ones(LATENTS, WIDTH, dtype=dtype)
    every_token = LATENTS * BAG * WIDTH
    with Sizes() as sizes:
        torch.autograd.grad(bag_embedding(weight, tokens), weight, upstream)
    assert sizes.largest() == VOCAB * WIDTH < every_token
    # Nor does it exist inside an operation: dense gradient and int64 ids, in all less than the half of it.
    peak = peak_extra_bytes(
        lambda: torch.autograd.grad(bag_embedding(weight, tokens), weight, upstream), tmp_path
    )
    assert VOCAB * WIDTH * weight.element_size() <= peak < every_token * 4 / 1.5


def test_the_measurement_sees_the_tensor_that_plain_code_makes(tmp_path: Path) -> None:
    weight, tokens = _embedding_case(torch.float32)
    upstream = torch.ones(LATENTS, WIDTH)
    peak = peak_extra_bytes(
        lambda: torch.autograd.grad(functional.embedding(tokens, weight).mean(1), weight, upstream), tmp_path
    )
    assert peak > LATENTS * BAG * WIDTH * 4


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_tensor_of_the_logits_size_is_made(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    logits, labels = _logits(dtype)
    weights = target_weights("uniform", BAG) if name == "mce" else None
    with Sizes() as sizes:
        torch.autograd.grad(bag_loss(name, logits, labels, weights), logits)
    full = [shape for shape in sizes.shapes if shape == (LATENTS, VOCAB)]
    in_place = 3  # the fills, scatters and scalings of that one tensor come by as results, too
    assert 1 <= len(full) <= 1 + in_place
    others = [torch.Size(shape).numel() for shape in sizes.shapes if shape != (LATENTS, VOCAB)]
    assert max(others) <= LATENTS * VOCAB / 16
    peak = peak_extra_bytes(
        lambda: torch.autograd.grad(bag_loss(name, logits, labels, weights), logits), tmp_path
    )
    gradient = logits.numel() * logits.element_size()
    assert gradient <= peak <= 1.35 * gradient + 4 * labels.numel() * 8


@pytest.mark.parametrize("name", LOSSES)
def test_overwriting_the_logits_makes_none(name: str, tmp_path: Path) -> None:
    logits, labels = _logits()
    weights = target_weights("uniform", BAG) if name == "mce" else None
    leaf = logits.detach()

    def run() -> None:
        leaf.requires_grad_()
        torch.autograd.grad(bag_loss(name, leaf, labels, weights, overwrite_logits=True), leaf)
        leaf.requires_grad_(False)

    assert peak_extra_bytes(run, tmp_path) < 0.5 * logits.numel() * 4
