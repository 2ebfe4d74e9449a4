"""Token superposition in a training loop of plain PyTorch: bags, then tokens, then a sample from the model.

    python examples/plain_pytorch.py [--steps 600] [--text docs/*.md]

Needs torch and tst_titan.superposition, nothing else. Bytes are the tokens, so there is no tokenizer to fetch.
"""

import argparse
from pathlib import Path

import torch
from torch import nn

from tst_titan.superposition import (
    bag_embedding,
    bag_labels,
    multi_hot_cross_entropy,
    target_weights,
    tokens_advanced,
    tokens_per_window,
)

S, LATENTS, BATCH, WIDTH, LAYERS, VOCABULARY = 4, 64, 16, 128, 2, 256


class Model(nn.Module):
    """A decoder that takes tokens (B, L) or bags (B, L, s): one line of it knows about bags."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(LATENTS, WIDTH)
        nn.init.normal_(self.tokens.weight, std=0.02)
        block = nn.TransformerEncoderLayer(WIDTH, 4, 4 * WIDTH, 0.0, batch_first=True, norm_first=True)
        self.body = nn.TransformerEncoder(block, LAYERS, nn.LayerNorm(WIDTH), enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        nn.init.normal_(self.head.weight, std=0.02)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        bags = ids if ids.ndim == 3 else ids[..., None]
        length = ids.shape[1]
        hidden = bag_embedding(self.tokens.weight, bags) + self.places.weight[:length]
        mask = nn.Transformer.generate_square_subsequent_mask(length)
        return self.head(self.body(hidden, mask=mask, is_causal=True))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--text", nargs="+", type=Path, default=sorted(Path("docs").glob("*.md")))
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)  # in so small a model, more would wait for each other
    data = torch.tensor(list(b"\n".join(path.read_bytes() for path in options.text)))
    bag_steps = int(0.3 * options.steps)
    needed = BATCH * (LATENTS * (S * bag_steps + options.steps - bag_steps) + S)
    data = data.repeat(-(-needed // len(data)))  # a short text is read again
    lanes, read = data[: len(data) // BATCH * BATCH].view(BATCH, -1), 0  # sequence i reads on in lane i
    model = Model()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=2e-3
    )  # one optimizer, and its moments, for both phases

    for step in range(1, options.steps + 1):
        s = S if step <= bag_steps else 1
        window = lanes[:, read : read + tokens_per_window(LATENTS, s)]
        read += tokens_advanced(LATENTS, s)
        inputs, labels = bag_labels(window, s)  # (BATCH, LATENTS, s) each: every bag, and the bag after it
        logits = model(inputs).flatten(0, 1)
        total = multi_hot_cross_entropy(logits, labels.flatten(0, 1), target_weights("uniform", s))
        loss = total / len(logits)  # a mean over latents: it starts near ln 256 = 5.55 for every s
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step in (1, bag_steps, bag_steps + 1, options.steps) or step % 100 == 0:
            print(f"step {step}  {'bags' if s > 1 else 'tokens'}  loss {loss.item():.3f}")

    text = list(b"The ")
    with torch.no_grad():
        while len(text) < 200:
            logits = model(torch.tensor([text[-LATENTS:]]))[0, -1]
            text.append(int(torch.multinomial((logits / 0.7).softmax(0), 1)))
    print(bytes(text).decode(errors="replace"))


if __name__ == "__main__":
    main()
