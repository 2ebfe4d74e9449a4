"""Does an exported model compute what torchtitan's does? Logits on held-out tokens, in float32."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from tst_titan.models.exported import EXPERT_BIAS_FILE, load_weights, restore_expert_bias

# Two float32 programs that sum in another order differ by a few units in the last place of the largest term.
RELATIVE_TOLERANCE = 2e-5
# Where the last chosen expert and the first one left out are closer than rounding, two programs may choose
# differently and both be right.
TIE = 1e-6


def expert_biases(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Biases (experts,) by the name ``layers.N.moe.expert_bias_E``; none in a dense model."""
    return {name: bias for name, bias in model.named_buffers() if name.endswith("expert_bias_E")}


def _is_tie(scores: torch.Tensor, chosen: int) -> torch.Tensor:
    """Whether the last of the ``chosen`` greatest scores (..., n) and the first one left out are as good as equal."""
    if chosen == scores.shape[-1]:
        return torch.zeros(scores.shape[:-1], dtype=torch.bool)
    best = scores.topk(chosen + 1, dim=-1).values
    return best[..., -2] - best[..., -1] < TIE


@dataclass(frozen=True)
class Answers:
    """What torchtitan's model says to the probe.

    Attributes:
        logits: float32, shape (B, L, V).
        clean: bool, shape (B, L): no choice of experts up to this position was a tie.
    """

    logits: torch.Tensor
    clean: torch.Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, model: torch.nn.Module, tokens: torch.Tensor) -> Answers:
        """Run the model on ``tokens`` (B, L) and watch its routers."""
        from torchtitan.models.common.moe import TokenChoiceTopKRouter

        tied = torch.zeros(tokens.shape, dtype=torch.bool)

        def watch(router: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
            scores = output[2] if inputs[1] is None else output[2] + inputs[1]
            if router.num_expert_groups is not None:
                # Of every group the best two experts count, and the best groups' experts are chosen among.
                groups = scores.unflatten(-1, (router.num_expert_groups, -1)).topk(2, dim=-1).values.sum(-1)
                tied.logical_or_(_is_tie(groups, router.num_limited_groups))
                scores = router._get_node_limited_routing_scores(scores)
            tied.logical_or_(_is_tie(scores, router.top_k))

        routers = [part for part in model.modules() if isinstance(part, TokenChoiceTopKRouter)]
        hooks = [router.register_forward_hook(watch) for router in routers]
        logits = model(tokens)
        for hook in hooks:
            hook.remove()
        # Attention carries another choice to every later position.
        return cls(logits, tied.cumsum(1) == 0)

    def difference(self, logits: torch.Tensor) -> float:
        """Largest difference over the clean positions; NaN if a logit is."""
        return (self.logits - logits).abs()[self.clean].max().item()


@dataclass(frozen=True)
class Probe:
    """Held-out tokens and torchtitan's answers: as trained, and with the expert biases left out.

    Attributes:
        tokens: int64, shape (B, L).
        trained: answers of the model as it was trained.
        plain: without expert biases, where that is all that transformers alone can compute; else None.
        largest_bias: largest absolute expert bias.
    """

    tokens: torch.Tensor
    trained: Answers
    plain: Answers | None = None
    largest_bias: float = 0.0

    @classmethod
    def of(cls, model: torch.nn.Module, tokens: torch.Tensor, *, bias_apart: bool) -> Probe:
        """Ask torchtitan's model; with ``bias_apart`` without expert biases too, which are zero afterwards."""
        trained = Answers.of(model, tokens)
        biases = list(expert_biases(model).values()) if bias_apart else []
        if not biases:
            return cls(tokens, trained)
        largest = max(bias.abs().max().item() for bias in biases)
        for bias in biases:
            bias.zero_()
        return cls(tokens, trained, Answers.of(model, tokens), largest)

    @torch.no_grad()
    def compare(self, out: Path) -> dict[str, Any]:
        """Hold the exported model's logits against torchtitan's, in float32.

        Raises:
            RuntimeError: they differ by more than rounding, or are not finite.
        """
        model = load_weights(out).eval()
        difference = self._checked(out, self.plain or self.trained, model(self.tokens).logits)
        report: dict[str, Any] = {
            "max_abs_logit_difference": difference,
            "max_abs_logit": self.trained.logits.abs().max().item(),
            "probe_tokens": self.tokens.numel(),
            "probe_tokens_compared": int(self.trained.clean.sum()),
            "expert_bias": None,
        }
        if self.plain is not None:
            restore_expert_bias(model, out)
            restored = self._checked(out, self.trained, model(self.tokens).logits)
            report["expert_bias"] = {
                "file": EXPERT_BIAS_FILE,
                "max_abs": self.largest_bias,
                "max_abs_logit_difference_with": restored,
                "max_abs_logit_difference_without": (self.trained.logits - self.plain.logits)
                .abs()
                .max()
                .item(),
                "probe_nats_per_token_with": self._loss(self.trained.logits),
                "probe_nats_per_token_without": self._loss(self.plain.logits),
            }
        return report

    def rounding(self, exact: torch.Tensor) -> dict[str, float]:
        """What rounding the weights changed, from the logits (B, L, V) of the exact ones."""
        return {
            "max_abs_logit_difference": (self.trained.logits - exact).abs().max().item(),
            "probe_nats_per_token": self._loss(self.trained.logits),
            "probe_nats_per_token_exact": self._loss(exact),
        }

    def _checked(self, out: Path, expected: Answers, found: torch.Tensor) -> float:
        if not expected.clean.any():
            raise RuntimeError(
                f"{out}: the routers of torchtitan's model are undecided between experts at every position of the "
                "probe, so that its logits cannot be compared; is the model untrained?"
            )
        difference = expected.difference(found)
        scale = max(expected.logits.abs().max().item(), 1.0)
        # Written so that NaN is refused too.
        if not difference <= RELATIVE_TOLERANCE * scale:
            raise RuntimeError(
                f"{out}: the exported model's logits differ from torchtitan's by {difference:.3g} (largest logit "
                f"{scale:.3g}); nothing that uses this export can be trusted"
            )
        return difference

    def _loss(self, logits: torch.Tensor) -> float:
        """Next-token loss over the probe in nats per token."""
        return functional.cross_entropy(logits[:, :-1].flatten(0, 1), self.tokens[:, 1:].flatten()).item()
