"""Token superposition in Hugging Face's Trainer: a small Llama reads bags, then tokens.

    python examples/huggingface_trainer.py [--steps 200] [--text docs/*.md]

Bytes are the tokens, so there is no tokenizer to fetch; with your own, pack its ids into rows of one length.
"""

import argparse
import tempfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, TrainingArguments, set_seed

from tst_titan.superposition.huggingface import SuperposedTrainer

S, LATENTS, BATCH, VOCABULARY = 4, 64, 16, 256


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--text", nargs="+", type=Path, default=sorted(Path("docs").glob("*.md")))
    options = parser.parse_args()
    set_seed(0)
    torch.set_num_threads(1)  # in so small a model, more would wait for each other
    bag_steps = int(0.3 * options.steps)
    tokens = b"\n".join(path.read_bytes() for path in options.text)
    count = BATCH * (S * bag_steps + options.steps - bag_steps + 2)
    while len(tokens) < count * LATENTS:  # a short text is read again
        tokens += tokens
    rows = [{"input_ids": list(tokens[i * LATENTS : (i + 1) * LATENTS])} for i in range(count)]
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=LATENTS,
    )
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=options.steps,
            per_device_train_batch_size=BATCH,
            learning_rate=2e-3,
            lr_scheduler_type="warmup_stable_decay",  # over the steps of both phases
            lr_scheduler_kwargs={"num_decay_steps": options.steps // 5},
            warmup_steps=options.steps // 20,
            logging_steps=max(bag_steps // 3, 1),
            logging_first_step=True,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        trainer = SuperposedTrainer(
            AutoModelForCausalLM.from_config(config),
            arguments,
            train_dataset=rows,
            bag_size=S,
            bag_steps=bag_steps,
        )
        trainer.train()


if __name__ == "__main__":
    main()
