"""A small corpus and an exported model of random weights, made once for all tests of evaluation."""

from pathlib import Path

import pytest
import torch

from tests.corpus import write_corpus

VOCABULARY = 64


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> Path:
    """Manifest of a corpus with 6,000 held-out tokens in 60 documents."""
    return write_corpus(tmp_path_factory.mktemp("data") / "tiny", tokens=60_000, vocab_size=VOCABULARY)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory, corpus) -> Path:
    """A random Llama with the corpus's tokenizer, as an export leaves it."""
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=128,
        initializer_range=0.5,  # losses that differ from token to token
        bos_token_id=None,
        eos_token_id=0,
    )
    LlamaForCausalLM(shape).save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_file=str(corpus.parent / "tokenizer/tokenizer.json"), eos_token="<|endoftext|>"
    ).save_pretrained(folder)
    (folder / "export.json").write_text('{"manifest": "results/train/tiny/manifest.json"}')
    return folder
