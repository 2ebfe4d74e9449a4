"""Parameters and FLOPs of a decoder in closed form, for whoever plans before anything is built.

Pure Python. Tests hold it against torchtitan's built modules, transformers' models and torch's FLOP counter.
"""

from __future__ import annotations

from dataclasses import dataclass

from tst_titan.config.schema import ModelConfig


@dataclass(frozen=True)
class ParameterCounts:
    """How many parameters a model has, by four conventions."""

    total: int
    """Everything that is trained, both embedding matrices included."""
    active: int
    """What one latent can reach: ``total`` without the experts that it is not routed to."""
    non_embedding: int
    """``total`` without the input embedding and the LM head."""
    multiplied: int
    """Elements of the weight matrices that one latent is multiplied with: ``active`` without the input
    embedding, which is looked up, and without the norms' gains. FLOPs follow this number."""

    def as_manifest(self) -> dict[str, int]:
        """The three counts that a stage's manifest holds."""
        return {"total": self.total, "active": self.active, "non_embedding": self.non_embedding}


def count_parameters(model: ModelConfig) -> ParameterCounts:
    """Parameters of ``model`` from its shape (untied embeddings, no biases; expert biases are buffers)."""
    embedding = model.vocab_size * model.dim
    heads = model.n_heads + model.n_kv_heads
    attention = 2 * model.dim * model.resolved_head_dim * heads  # q and o have n_heads, k and v n_kv_heads
    if model.moe is None:
        ffn = used_ffn = 3 * model.dim * (model.ffn_dim or 0)
    else:
        router = model.dim * model.moe.n_experts
        expert = 3 * model.dim * model.moe.expert_ffn_dim
        ffn = router + model.moe.n_experts * expert
        used_ffn = router + model.moe.top_k * expert
    # Two norms a layer, one at the end; Qwen3 also normalises queries and keys per head.
    norms = model.dim * (2 * model.n_layers + 1)
    if model.family == "qwen3":
        norms += 2 * model.resolved_head_dim * model.n_layers
    layers = model.n_layers * (attention + ffn)
    used_layers = model.n_layers * (attention + used_ffn)
    return ParameterCounts(
        total=2 * embedding + layers + norms,
        active=2 * embedding + used_layers + norms,
        non_embedding=layers + norms,
        multiplied=embedding + used_layers,
    )


def flops_per_latent(model: ModelConfig, sequence_length: int) -> float:
    """FLOPs of one latent's forward and backward pass in a sequence of ``sequence_length`` latents.

    Six per element of the matrices that multiply the latent (a multiplication and an addition, once forward and
    twice backward; LM head included, embedding look-up excluded) plus the two matrix products of attention over
    the whole sequence, 12 * layers * heads * head width * length. As in PaLM (arXiv 2204.02311, appendix B) and in
    torchtitan's MFU the causal mask does not halve the attention term, and recomputation, norms, softmax and
    rotations do not count. A bag step and a token step of equal latents cost the same by this count: the mean over
    a bag's embeddings and the extra targets are sums and look-ups, not matrix products.
    """
    attention = 12 * model.n_layers * model.n_heads * model.resolved_head_dim * sequence_length
    return float(6 * count_parameters(model).multiplied + attention)
