"""Speed and memory of the superposition core: `python -m benchmarks.superposition [--output PATH]`.

Run it from the repository's root, on a machine that has at least torch (no torchtitan is needed). On the CPU it
compares with the paper's own loops and with the memory's bandwidth, on one thread; where there is a CUDA device it
also takes the real head's size. Everything compared is interleaved in this one process and reported as ratios.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import torch
from torch.nn import functional

from benchmarks import measure
from benchmarks.measure import Action, Pages, Ratio
from tst_titan.superposition import (
    LOSSES,
    bag_embedding,
    bag_loss,
    multi_hot_cross_entropy,
    target_weights,
)


@dataclass(frozen=True, kw_only=True)
class Head:
    """Logits of one step: latents x vocabulary in ``dtype``, handed to the loss in ``chunks`` pieces."""

    latents: int
    vocab: int
    dtype: torch.dtype = torch.float32
    chunks: int = 1

    def __str__(self) -> str:
        kind = str(self.dtype).removeprefix("torch.")
        return f"{self.latents} x {self.vocab} {kind}" + (f" in {self.chunks}" if self.chunks > 1 else "")


@dataclass(frozen=True, kw_only=True)
class Lookup:
    """Bag embedding of one step; ids follow Zipf's law, as text does, or are uniform."""

    latents: int
    vocab: int
    width: int
    zipf: bool = True
    dtype: torch.dtype = torch.float32

    def __str__(self) -> str:
        kind = str(self.dtype).removeprefix("torch.")
        law = "" if self.zipf else " uniform ids"
        return f"{self.latents} of {self.vocab} x {self.width} {kind}{law}"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is measured on one device."""

    heads: tuple[Head, ...]
    lookups: tuple[Lookup, ...]
    bag_sizes: tuple[int, ...] = (2, 4, 8, 16)
    rounds: int = 15


CPU_PLAN = Plan(
    heads=(Head(latents=1024, vocab=4096),),
    lookups=(
        Lookup(latents=4096, vocab=4096, width=576),
        Lookup(latents=4096, vocab=4096, width=576, zipf=False),
        Lookup(latents=4096, vocab=2048, width=128),
        Lookup(latents=8192, vocab=128256, width=576),
    ),
)
CUDA_PLAN = Plan(
    heads=(Head(latents=8192, vocab=128256, dtype=torch.bfloat16, chunks=8),),
    lookups=(
        Lookup(latents=8192, vocab=128256, width=576, dtype=torch.bfloat16),
        Lookup(latents=8192, vocab=128256, width=2048, dtype=torch.bfloat16),
    ),
    rounds=25,
)


class Bench:
    """Measures a plan on one device and collects ratios and seconds."""

    def __init__(self, plan: Plan, device: torch.device, pages: str) -> None:
        self.plan, self.device, self.pages = plan, device, pages
        self.ratios: list[Ratio] = []
        self.seconds: dict[str, dict[str, list[float]]] = {}

    def run(self) -> None:
        for head in self.plan.heads:
            self.cross_entropy(head)
            self.flatness(head)
            self.other_losses(head)
        for lookup in self.plan.lookups:
            self.embedding(lookup)

    def _time(self, what: str, actions: dict[str, Action]) -> dict[str, list[float]]:
        seconds = measure.interleave(actions, self.plan.rounds, self.device)
        self.seconds[f"{self.device.type} {self.pages} {what}"] = seconds
        return seconds

    def _ratio(
        self,
        group: str,
        name: str,
        shape: object,
        over: list[float],
        under: list[float],
        target: str | None = None,
    ) -> None:
        self.ratios.append(
            measure.ratio(
                over,
                under,
                group=group,
                name=name,
                shape=str(shape),
                device=self.device,
                pages=self.pages,
                target=target,
            )
        )

    def cross_entropy(self, head: Head, bag_size: int = 8) -> None:
        """MCE against the paper's loop, one ordinary cross-entropy and, on CUDA, a copy of the logits."""
        logits, labels = _logits(head, bag_size, self.device)
        weights = target_weights("uniform", bag_size, device=self.device)
        actions = {
            "ours": _step(head, logits, labels, lambda z, y: multi_hot_cross_entropy(z, y, weights)),
            "loop": _step(head, logits, labels, _paper_loop),
            "one label": _step(head, logits, labels, _one_label),
            "copy": _copy(logits),
        }
        # Its logits become something else in every round: they are a copy.
        actions["overwriting"] = _step(
            head,
            logits.clone(),
            labels,
            lambda z, y: multi_hot_cross_entropy(z, y, weights, overwrite_logits=True),
        )
        seconds = self._time(f"cross_entropy {head}", actions)
        on_cpu = self.device.type == "cpu"
        fast, slow = (">= 8", "<= 1") if on_cpu else (None, None)
        self._ratio("MCE s=8", "paper's loop / ours", head, seconds["loop"], seconds["ours"], fast)
        self._ratio(
            "MCE s=8", "ours / one-label cross-entropy", head, seconds["ours"], seconds["one label"], slow
        )
        # A copy moves two tensors; reading twice and writing once moves three.
        for name in ("ours", "overwriting"):
            if not on_cpu:
                moved = [1.5 * copy for copy in seconds["copy"]]
                self._ratio("MCE s=8", f"bandwidth / copy's, {name}", head, moved, seconds[name])
        self._ratio("MCE s=8", "overwriting / ours", head, seconds["overwriting"], seconds["ours"])
        self._memory("MCE s=8", head, actions, logits)

    def _memory(self, group: str, head: Head, actions: dict[str, Action], logits: torch.Tensor) -> None:
        chunk = logits.numel() * logits.element_size() / head.chunks
        for name in ("ours", "overwriting", "loop", "one label"):
            peak = measure.peak_extra_bytes(actions[name], self.device) / chunk
            target = "<= 1.1" if name == "ours" else None
            self._ratio(group, f"peak memory / a chunk's logits, {name}", head, [peak], [1.0], target)

    def flatness(self, head: Head) -> None:
        """Time against bag size: the slowest by the fastest."""
        actions: dict[str, Action] = {}
        logits, labels = _logits(head, self.plan.bag_sizes[-1], self.device)
        for bag_size in self.plan.bag_sizes:
            bags = labels[:, :bag_size].contiguous()
            actions[str(bag_size)] = _step(head, logits, bags, _mce(bag_size, self.device))
        seconds = self._time(f"flatness {head}", actions)
        smallest, largest = str(self.plan.bag_sizes[0]), str(self.plan.bag_sizes[-1])
        name = f"time at s={largest} / at s={smallest}"
        self._ratio("MCE", name, head, seconds[largest], seconds[smallest], "<= 1.15")

    def other_losses(self, head: Head, bag_size: int = 8) -> None:
        """The paper's other bag losses, against one ordinary cross-entropy."""
        logits, labels = _logits(head, bag_size, self.device)
        actions = {"one label": _step(head, logits, labels, _one_label)}
        others = [name for name in LOSSES if not LOSSES[name].takes_weights]
        for name in others:
            actions[name] = _step(head, logits, labels, _by_name(name))
        seconds = self._time(f"other losses {head}", actions)
        for name in others:
            self._ratio(
                f"{name} s=8", "ours / one-label cross-entropy", head, seconds[name], seconds["one label"]
            )

    def embedding(self, lookup: Lookup, bag_size: int = 16) -> None:
        """The bag embedding against the paper's loop of look-ups and against the memory's bandwidth."""
        weight, tokens, upstream = _embedding(lookup, bag_size, self.device)
        rows = torch.empty(tokens.numel(), lookup.width, dtype=lookup.dtype, device=self.device).normal_()

        def step(forward: Callable[[], torch.Tensor]) -> Action:
            return lambda: torch.autograd.grad(forward(), weight, upstream)

        actions = {
            "ours": step(lambda: bag_embedding(weight, tokens)),
            "loop": step(lambda: _lookup_loop(weight, tokens)),
            "embedding_bag": step(lambda: functional.embedding_bag(tokens, weight, mode="mean")),
            "one look-up": step(lambda: functional.embedding(tokens[:, 0], weight)),
            "copy": _copy(rows),
            "dense gradient": lambda: torch.zeros_like(weight),
        }
        seconds = self._time(f"embedding {lookup}", actions)
        group = f"bag embedding s={bag_size}"
        on_cpu = self.device.type == "cpu"
        wide = lookup.width >= 512
        loop_target = ">= 5" if on_cpu else None
        self._ratio(group, "paper's loop / ours", lookup, seconds["loop"], seconds["ours"], loop_target)
        self._ratio(group, "torch's embedding_bag / ours", lookup, seconds["embedding_bag"], seconds["ours"])
        self._ratio(group, "ours / one plain look-up", lookup, seconds["ours"], seconds["one look-up"])
        # Copying the rows reads each once and writes as much: what the issue of the bound allows.
        bound_target = "<= 1.5" if on_cpu and wide and lookup.vocab <= lookup.latents * bag_size else None
        self._ratio(group, "ours / copy of the rows", lookup, seconds["ours"], seconds["copy"], bound_target)
        with_fill = [a + b for a, b in zip(seconds["copy"], seconds["dense gradient"], strict=True)]
        self._ratio(group, "ours / copy of the rows + empty gradient", lookup, seconds["ours"], with_fill)
        peak = measure.peak_extra_bytes(actions["ours"], self.device)
        gradient = weight.numel() * weight.element_size()
        self._ratio(
            group, "peak memory beyond the gradient / the rows", lookup, [peak - gradient], [_bytes(rows)]
        )


def _bytes(tensor: torch.Tensor) -> float:
    return float(tensor.numel() * tensor.element_size())


def _logits(head: Head, bag_size: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator(device=device).manual_seed(0)
    logits = torch.empty(head.latents, head.vocab, dtype=head.dtype, device=device).normal_(
        generator=generator
    )
    labels = torch.randint(0, head.vocab, (head.latents, bag_size), generator=generator, device=device)
    return logits, labels


def _step(
    head: Head,
    logits: torch.Tensor,
    labels: torch.Tensor,
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
) -> Action:
    """Forward and backward, chunk by chunk, with the division by the number of latents that training does."""
    parts = list(zip(logits.chunk(head.chunks), labels.chunk(head.chunks), strict=True))

    def run() -> None:
        for part, bags in parts:
            leaf = part.detach().requires_grad_()
            torch.autograd.grad(loss(leaf, bags) / head.latents, leaf)

    return run


def _mce(bag_size: int, device: torch.device) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    weights = target_weights("uniform", bag_size, device=device)
    return lambda z, y: multi_hot_cross_entropy(z, y, weights)


def _by_name(name: str) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    return lambda z, y: bag_loss(name, z, y)


def _paper_loop(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The bag's loss as the paper computes it: one cross-entropy a target."""
    total = torch.zeros((), device=logits.device)
    for k in range(labels.shape[1]):
        total = total + functional.cross_entropy(logits.float(), labels[:, k], reduction="sum")
    return total / labels.shape[1]


def _one_label(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """What the token phase computes."""
    return functional.cross_entropy(logits.float(), labels[:, 0], reduction="sum")


def _copy(source: torch.Tensor) -> Action:
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def _embedding(
    lookup: Lookup, bag_size: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    weight = (
        torch.randn(lookup.vocab, lookup.width, generator=generator).to(device, lookup.dtype).requires_grad_()
    )
    shape = (lookup.latents, bag_size)
    if lookup.zipf:
        frequency = 1.0 / torch.arange(1, lookup.vocab + 1, dtype=torch.float64)
        ranks = torch.multinomial(frequency, lookup.latents * bag_size, replacement=True, generator=generator)
        tokens = torch.randperm(lookup.vocab, generator=generator)[ranks].view(shape)
    else:
        tokens = torch.randint(0, lookup.vocab, shape, generator=generator)
    upstream = torch.randn(lookup.latents, lookup.width, generator=generator).to(device, lookup.dtype)
    return weight, tokens.to(device), upstream


def _lookup_loop(weight: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """The bag's embedding as a loop of look-ups, accumulated in float32."""
    total = functional.embedding(tokens[:, 0], weight).float()
    for k in range(1, tokens.shape[1]):
        total = total + functional.embedding(tokens[:, k], weight).float()
    return (total / tokens.shape[1]).to(weight.dtype)


def shrunk(plan: Plan) -> Plan:
    """The same plan at sizes that take a second, for trying the script out; its numbers mean nothing."""
    heads = tuple(replace(head, latents=64, vocab=300) for head in plan.heads)
    lookups = tuple(
        replace(lookup, latents=64, vocab=min(lookup.vocab, 300), width=16) for lookup in plan.lookups
    )
    return replace(plan, heads=heads, lookups=lookups, rounds=2)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--output", type=Path, default=Path("results/bench/superposition.json"))
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), help="default: cuda where there is one, else cpu"
    )
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default 1)")
    parser.add_argument("--rounds", type=int, help="rounds of every comparison")
    parser.add_argument("--try-out", action="store_true", help="tiny sizes: is everything there to run it?")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(chosen.threads)
    device = torch.device(chosen.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    plan = CUDA_PLAN if device.type == "cuda" else CPU_PLAN
    plan = shrunk(plan) if chosen.try_out else plan
    plan = replace(plan, rounds=chosen.rounds) if chosen.rounds else plan

    ratios: list[Ratio] = []
    seconds: dict[str, dict[str, list[float]]] = {}
    ways: tuple[Pages, ...] = get_args(Pages) if device.type == "cpu" else ()
    for pages in ways or ("kept",):
        told = device.type == "cpu" and measure.set_pages(pages)
        bench = Bench(plan, device, pages if told or device.type == "cuda" else "system")
        bench.run()
        ratios += bench.ratios
        seconds |= bench.seconds
        if device.type == "cpu" and not told:
            break
    print(measure.table(ratios))
    measure.write(chosen.output, device, ratios, seconds)
    print(f"\nwritten to {chosen.output}")


if __name__ == "__main__":
    main()
