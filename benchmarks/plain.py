"""The reference of whole steps: what someone writes by hand for the demo's model, in PyTorch and nothing else."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention, silu

from benchmarks.measure import Action
from tst_titan.config.schema import ModelConfig
from tst_titan.superposition.bags import tokens_advanced, tokens_per_window


class _Block(nn.Module):
    """Attention and SwiGLU of a Llama, each behind its norm."""

    def __init__(self, dim: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.RMSNorm(dim, eps=1e-5) for _ in range(2))
        self.query, self.key, self.value, self.out = (nn.Linear(dim, dim, bias=False) for _ in range(4))
        self.gate, self.up = (nn.Linear(dim, hidden, bias=False) for _ in range(2))
        self.down = nn.Linear(hidden, dim, bias=False)

    def forward(self, x: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> torch.Tensor:
        """One layer of (B, L, dim)."""
        batch, length, dim = x.shape
        inner = self.norms[0](x)
        query, key, value = (
            part(inner).view(batch, length, self.heads, -1).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )

        def rotated(heads: torch.Tensor) -> torch.Tensor:
            first, second = heads.chunk(2, -1)
            return heads * cosine + torch.cat((-second, first), -1) * sine

        seen = scaled_dot_product_attention(rotated(query), rotated(key), value, is_causal=True)
        x = x + self.out(seen.transpose(1, 2).reshape(batch, length, dim))
        inner = self.norms[1](x)
        return x + self.down(silu(self.gate(inner)) * self.up(inner))


class PlainLlama(nn.Module):
    """A Llama with as many heads for keys as for queries."""

    def __init__(self, shape: ModelConfig, length: int) -> None:
        super().__init__()
        assert shape.n_kv_heads == shape.n_heads and shape.ffn_dim is not None
        self.embedding = nn.Embedding(shape.vocab_size, shape.dim)
        self.blocks = nn.ModuleList(
            _Block(shape.dim, shape.n_heads, shape.ffn_dim) for _ in range(shape.n_layers)
        )
        self.norm = nn.RMSNorm(shape.dim, eps=1e-5)
        self.head = nn.Linear(shape.dim, shape.vocab_size, bias=False)
        for parameter in self.parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=0.02)
        width = shape.dim // shape.n_heads
        angles = torch.outer(torch.arange(length), shape.rope_theta ** (-torch.arange(0, width, 2) / width))
        self.register_buffer("cosine", torch.cat((angles, angles), -1).cos())
        self.register_buffer("sine", torch.cat((angles, angles), -1).sin())

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Logits (B, L, V) of tokens (B, L), or of bags (B, L, s) by the paper's loop of look-ups."""
        if ids.ndim == 3:
            x = sum(self.embedding(ids[..., k]) for k in range(ids.shape[-1])) / ids.shape[-1]
        else:
            x = self.embedding(ids)
        for block in self.blocks:
            x = block(x, self.cosine, self.sine)
        return self.head(self.norm(x))


def plain_step(shape: ModelConfig, sequences: int, length: int, bag_size: int = 1) -> Action:
    """One optimizer step of the loop: fused AdamW, clipped gradients, the paper's loop of cross-entropies for bags."""
    torch.manual_seed(0)
    model = PlainLlama(shape, length)
    assert sum(parameter.numel() for parameter in model.parameters()) == shape.count_parameters().total
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True
    )
    window, advance = tokens_per_window(length, bag_size), tokens_advanced(length, bag_size)
    lanes = torch.randint(shape.vocab_size, (sequences, 20 * window))
    read = 0

    def step() -> None:
        nonlocal read
        read = read if read + window <= lanes.shape[1] else 0
        ids = lanes[:, read : read + window]
        read += advance
        if bag_size == 1:
            loss = cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
        else:
            bags = ids.reshape(sequences, length + 1, bag_size)
            logits, targets = model(bags[:, :-1]).flatten(0, 1), bags[:, 1:].flatten(0, 1)
            losses = [cross_entropy(logits, targets[:, k]) for k in range(bag_size)]
            loss = torch.stack(losses).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        loss.item()  # torchtitan reads it too, to see whether it is finite

    return step
