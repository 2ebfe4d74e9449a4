"""The formulas of arXiv 2605.06546 written out token by token in float64; slow, and sharing no code with the package.

Gradients come from autograd over these elementary operations.
"""

from __future__ import annotations

import torch

IGNORED = -100


def law(distance: float) -> float:
    """The fitted mutual information of two tokens, figure 10."""
    return 3.63 + 1.35 * distance**-1.25


def bag_mean(weight: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """(V, D), (N, s) -> (N, D)."""
    rows = []
    for bag in tokens.tolist():
        total = torch.zeros(weight.shape[1], dtype=torch.float64)
        for token in bag:
            total = total + weight[token].double()
        rows.append(total / len(bag))
    return torch.stack(rows)


def loss(name: str, logits: torch.Tensor, labels: torch.Tensor, weights: list[float]) -> torch.Tensor:
    """Sum over positions; (N, V), (N, s), s numbers that sum to 1 -> scalar."""
    per_position = {"mce": _mce, "mce_alt": _mce_alt, "bce": _bce, "hinge": _hinge}[name]
    total = torch.zeros((), dtype=torch.float64)
    for z, bag in zip(logits.double(), labels.tolist(), strict=True):
        if any(token != IGNORED for token in bag):
            total = total + per_position(z, bag, weights)
    return total


def _probabilities(z: torch.Tensor) -> torch.Tensor:
    powers = torch.exp(z - z.max().detach())
    return powers / powers.sum()


def _mce(z: torch.Tensor, bag: list[int], weights: list[float]) -> torch.Tensor:
    p = _probabilities(z)
    terms = [-g * torch.log(p[token]) for g, token in zip(weights, bag, strict=True) if token != IGNORED]
    return torch.stack(terms).sum()


def _mce_alt(z: torch.Tensor, bag: list[int], weights: list[float]) -> torch.Tensor:
    p = _probabilities(z)
    return -torch.log(torch.stack([p[token] for token in set(bag) - {IGNORED}]).sum())


def _bce(z: torch.Tensor, bag: list[int], weights: list[float]) -> torch.Tensor:
    terms = []
    for entry in range(len(z)):
        p = 1.0 / (1.0 + torch.exp(-z[entry]))
        terms.append(-torch.log(p if entry in bag else 1.0 - p))
    return torch.stack(terms).mean()


def _hinge(z: torch.Tensor, bag: list[int], weights: list[float]) -> torch.Tensor:
    terms = []
    for entry in range(len(z)):
        sign = 1.0 if entry in bag else -1.0
        terms.append(torch.relu(1.0 - sign * z[entry]))
    return torch.stack(terms).mean()
