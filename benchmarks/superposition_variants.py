"""The ways of computing the same thing that were tried and not kept: `python -m benchmarks.superposition_variants`.

Each is checked against the kept one before it is timed; docs/performance.md says why it was not kept.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional

from benchmarks import measure
from benchmarks.measure import Action
from benchmarks.superposition import Head, Lookup, _embedding, _logits, _lookup_loop, _paper_loop, _step
from tst_titan.superposition import bag_embedding, dense, multi_hot_cross_entropy, target_weights

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Forward = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

BAG_SIZE = 8


def one_log_softmax(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """One log-softmax, then s negative log-likelihoods."""
    log_p = functional.log_softmax(logits, 1)
    terms = [functional.nll_loss(log_p, labels[:, k], reduction="sum") for k in range(labels.shape[1])]
    return torch.stack(terms).mean()


def gathered(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Log-sum-exp minus the mean of the gathered logits, derived by autograd."""
    return (logits.logsumexp(1) - logits.gather(1, labels).mean(1)).sum()


def multi_hot_target(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """F.cross_entropy with a dense target of probabilities."""
    share = torch.full(labels.shape, 1.0 / labels.shape[1])
    return functional.cross_entropy(
        logits, torch.zeros_like(logits).scatter_add_(1, labels, share), reduction="sum"
    )


def kept(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return multi_hot_cross_entropy(logits, labels, target_weights("uniform", labels.shape[1]))


def in_backward(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The package's route for low precision and accelerators: the gradient is built in backward."""
    original = dense.builds_gradient_early
    dense.builds_gradient_early = lambda loss, logits: False
    try:
        return kept(logits, labels)
    finally:
        dense.builds_gradient_early = original


LOSSES: dict[str, Loss] = {
    "kept": kept,
    "the paper's loop": _paper_loop,
    "one log_softmax, s nll_loss": one_log_softmax,
    "logsumexp - gathered, autograd": gathered,
    "cross_entropy with a dense target": multi_hot_target,
    "gradient built in backward": in_backward,
}


def sparse_product(weight: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """A sparse (latents, vocabulary) matrix times the weight."""
    latents, bag_size = tokens.shape
    bounds = torch.arange(0, tokens.numel() + 1, bag_size)
    shares = torch.full((tokens.numel(),), 1.0 / bag_size)
    ordered = tokens.sort(1).values
    bags = torch.sparse_csr_tensor(bounds, ordered.flatten(), shares, size=(latents, weight.shape[0]))
    return torch.sparse.mm(bags, weight)


class ScatteredGradient(torch.autograd.Function):
    """embedding_bag forward, s index_add_ backward."""

    @staticmethod
    def forward(ctx, weight: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(tokens)
        ctx.rows = weight.shape[0]
        return functional.embedding_bag(tokens, weight, mode="mean")

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        (tokens,) = ctx.saved_tensors
        result = gradient.new_zeros(ctx.rows, gradient.shape[1])
        share = gradient / tokens.shape[1]
        for k in range(tokens.shape[1]):
            result.index_add_(0, tokens[:, k], share)
        return result, None


EMBEDDINGS: dict[str, Forward] = {
    "kept": bag_embedding,
    "the paper's loop": _lookup_loop,
    "one look-up of all, mean": lambda w, t: functional.embedding(t, w).mean(1),
    "torch's embedding_bag": lambda w, t: functional.embedding_bag(t, w, mode="mean"),
    "embedding_bag, s index_add_ back": ScatteredGradient.apply,
    "sparse matrix product": sparse_product,
}


def _compare_losses(rounds: int) -> None:
    head = Head(latents=1024, vocab=4096)
    logits, labels = _logits(head, BAG_SIZE, torch.device("cpu"))
    leaf = logits.clone().requires_grad_()
    expected = torch.autograd.grad(kept(leaf, labels), leaf)[0]
    for loss in LOSSES.values():
        torch.testing.assert_close(
            torch.autograd.grad(loss(leaf, labels), leaf)[0], expected, rtol=1e-4, atol=1e-7
        )
    _print(
        f"MCE, {head}, s={BAG_SIZE}",
        {n: _step(head, logits, labels, loss) for n, loss in LOSSES.items()},
        rounds,
    )


def _compare_embeddings(lookup: Lookup, rounds: int) -> None:
    weight, tokens, upstream = _embedding(lookup, 16, torch.device("cpu"))

    def action(forward: Forward) -> Action:
        return lambda: torch.autograd.grad(forward(weight, tokens), weight, upstream)

    expected = torch.autograd.grad(bag_embedding(weight, tokens), weight, upstream)[0]
    for forward in EMBEDDINGS.values():
        gradient = torch.autograd.grad(forward(weight, tokens), weight, upstream)[0]
        gradient = gradient.to_dense() if gradient.layout != torch.strided else gradient
        torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-3)
    _print(f"bag embedding, {lookup}, s=16", {n: action(f) for n, f in EMBEDDINGS.items()}, rounds)


def _print(title: str, actions: dict[str, Action], rounds: int) -> None:
    seconds = measure.interleave(actions, rounds, torch.device("cpu"))
    print(f"\n{title}: time by the kept one's")
    for name, times in seconds.items():
        low, middle, high = measure.quartiles([a / b for a, b in zip(times, seconds["kept"], strict=True)])
        print(
            f"  {name:<36} {middle:6.2f}   ({low:.2f}..{high:.2f})   {measure.quartiles(times)[1] * 1e3:8.2f} ms"
        )


def main() -> None:
    torch.set_num_threads(1)
    measure.set_pages("kept")
    _compare_losses(rounds=15)
    for lookup in (
        Lookup(latents=4096, vocab=4096, width=576),
        Lookup(latents=4096, vocab=2048, width=128),
    ):
        _compare_embeddings(lookup, rounds=9)


if __name__ == "__main__":
    main()
