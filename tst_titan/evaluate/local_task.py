"""A multiple-choice task made from held-out documents, for where no benchmark can be fetched.

Each item is a piece of a held-out document and four endings: the one that follows, and three pieces of other held-out
documents. Chance is 25 %. Written as JSON lines and lm-eval's own task YAML.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from tst_titan.data.manifest import load_manifest
from tst_titan.data.shards import iterate_documents
from tst_titan.errors import UserError
from tst_titan.files import write_if_changed

TASK = "heldout_continuation"
CONTEXT_TOKENS, ENDING_TOKENS, CHOICES = 64, 24, 4


def make_items(documents: list[np.ndarray], decode: Any, count: int, seed: int) -> list[dict[str, Any]]:
    """``count`` items, as many as can be made from the documents at most.

    Args:
        documents: token ids without their end-of-text token.
        decode: ids to text.
        count: items wanted.
        seed: of the draw; the same documents and seed give the same items.
    """
    generator = np.random.default_rng(seed)
    need = CONTEXT_TOKENS + ENDING_TOKENS
    long_enough = [document for document in documents if len(document) >= need]
    items: list[dict[str, Any]] = []
    # Round after round over the documents, a new piece of each, until there are enough or no more can be made.
    contexts: set[str] = set()
    before = -1
    while len(items) < count and len(items) > before:
        before = len(items)
        for index in generator.permutation(len(long_enough)):
            item = _item(long_enough, int(index), decode, generator)
            if item is not None and item["context"] not in contexts:
                contexts.add(item["context"])
                items.append(item)
            if len(items) == count:
                break
    return items


def _item(
    documents: list[np.ndarray], index: int, decode: Any, generator: np.random.Generator
) -> dict[str, Any] | None:
    """One item from a random place of a document; None if a piece is cut inside a character or endings coincide."""
    need = CONTEXT_TOKENS + ENDING_TOKENS
    document = documents[index]
    start = int(generator.integers(0, len(document) - need + 1))
    context = decode(document[start : start + CONTEXT_TOKENS].tolist())
    endings = [decode(document[start + CONTEXT_TOKENS : start + need].tolist())]
    others = generator.choice(np.delete(np.arange(len(documents)), index), size=CHOICES - 1, replace=False)
    for other in others:
        piece = documents[other]
        at = int(generator.integers(0, len(piece) - ENDING_TOKENS + 1))
        endings.append(decode(piece[at : at + ENDING_TOKENS].tolist()))
    place = generator.permutation(CHOICES)
    if any("\ufffd" in text for text in (context, *endings)) or len(set(endings)) < CHOICES:
        return None
    return {
        "context": context,
        "endings": [endings[i] for i in place],
        "label": int(np.flatnonzero(place == 0)[0]),
    }


def write_task(data_manifest: Path, out: Path, count: int, seed: int) -> int:
    """Write items.jsonl, the task's YAML and done.json to ``out``; returns the number of items.

    Raises:
        UserError: the held-out documents give no item.
    """
    from tokenizers import Tokenizer

    manifest = load_manifest(data_manifest)
    tokenizer = Tokenizer.from_file(str(data_manifest.parent / manifest.tokenizer.path))
    documents = [document[:-1] for document in iterate_documents(data_manifest, split="heldout")]
    need = CONTEXT_TOKENS + ENDING_TOKENS
    if sum(len(document) >= need for document in documents) < CHOICES:
        raise UserError(
            f"{data_manifest}: fewer than {CHOICES} held-out documents have {need} tokens; task {TASK} needs them. "
            "Hold out a larger fraction or leave the task out of the scale's evaluation.tasks"
        )
    items = make_items(documents, tokenizer.decode, count, seed)
    lines = "".join(json.dumps(item) + "\n" for item in items)
    write_if_changed(out / "items.jsonl", lines)
    write_if_changed(out / f"{TASK}.yaml", yaml.safe_dump(_definition(out / "items.jsonl"), sort_keys=False))
    write_if_changed(
        out / "done.json", json.dumps({"items": len(items), "seed": seed, "wanted": count}) + "\n"
    )
    return len(items)


def _definition(items: Path) -> dict[str, Any]:
    """lm-eval's definition of the task."""
    return {
        "task": TASK,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(items.resolve())}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{context}}",
        "doc_to_choice": "endings",
        "doc_to_target": "label",
        "target_delimiter": "",
        "num_fewshot": 0,
        "metric_list": [
            {"metric": name, "aggregation": "mean", "higher_is_better": True} for name in ("acc", "acc_norm")
        ],
        "metadata": {"version": 1.0},
    }


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Make a multiple-choice task from held-out documents.")
    parser.add_argument("--data-manifest", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder of items.jsonl and the task's YAML")
    parser.add_argument("--items", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parsed = parser.parse_args(arguments)
    try:
        made = write_task(parsed.data_manifest, parsed.out, parsed.items, parsed.seed)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{parsed.out}  {made} items", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
