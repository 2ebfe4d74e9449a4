"""Small corpora for the tests: seeded text, files with the columns of the real data sets, and whole pipelines."""

import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from tst_titan.config.corpus import load_corpus
from tst_titan.data.command import steps
from tst_titan.data.documents import read_texts
from tst_titan.data.manifest import DataManifest
from tst_titan.data.pipelines import Part
from tst_titan.data.settings import render
from tst_titan.data.step import load_done
from tst_titan.data.write_manifest import write_manifest

_SYLLABLES = [a + b for a in "bdfgklmnprstvz" for b in ("a", "e", "i", "o", "u", "an", "el", "or")]
_JOINERS = ["the", "of", "and", "to", "that", "with", "be", "have"]


def document(seed: int, words: int = 120) -> str:
    """A text of made-up words with English stop words, in sentences and paragraphs; `seed` decides all of it."""
    generator = random.Random(seed)
    sentences = []
    while words > 0:
        length = min(words, generator.randint(6, 14))
        picked = [
            generator.choice(_JOINERS)
            if generator.random() < 0.35
            else "".join(generator.choices(_SYLLABLES, k=generator.randint(1, 3)))
            for _ in range(length)
        ]
        sentences.append(" ".join(picked).capitalize() + ".")
        words -= length
    return "\n".join(" ".join(sentences[i : i + 3]) for i in range(0, len(sentences), 3))


def near_copy(text: str, seed: int, changes: int = 3) -> str:
    """The text with a few words replaced: Jaccard similarity of its 5-grams stays near 0.8 or above."""
    generator = random.Random(seed)
    lines = text.split(" ")
    for place in generator.sample(range(len(lines)), changes):
        lines[place] = "changed"
    return " ".join(lines)


def write_dclm(path: Path, texts: list[str]) -> None:
    """A parquet file with columns as DCLM-baseline's: no id, nested metadata."""
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {
        "bff_contained_ngram_count_before_dedupe": [0] * len(texts),
        "language_id_whole_page_fasttext": [{"en": 0.9}] * len(texts),
        "metadata": [{"Content-Length": "1", "WARC-Date": "2020-01-01"}] * len(texts),
        "previous_word_count": [len(text.split()) for text in texts],
        "text": texts,
        "url": [f"https://example.org/{i}" for i in range(len(texts))],
        "warcinfo": ["x"] * len(texts),
        "fasttext_openhermes_reddit_eli5_vs_rw_v2_bigram_200k_train_prob": [0.5] * len(texts),
    }
    pq.write_table(pa.table(columns), path)


def write_fineweb(path: Path, texts: list[str]) -> None:
    """A parquet file with columns as FineWeb-Edu's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {
        "text": texts,
        "id": [f"<urn:uuid:{i}>" for i in range(len(texts))],
        "dump": ["CC-MAIN-2020-05"] * len(texts),
        "url": [f"https://example.com/{i}" for i in range(len(texts))],
        "file_path": ["s3://somewhere"] * len(texts),
        "language": ["en"] * len(texts),
        "language_score": [0.9] * len(texts),
        "token_count": [len(text.split()) for text in texts],
        "score": [3.0] * len(texts),
        "int_score": [3] * len(texts),
    }
    pq.write_table(pa.table(columns), path)


def write_corpus(folder: Path, config: dict[str, Any], name: str = "small") -> Path:
    """Write a corpus config; returns its path."""
    path = folder / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(config))
    return path


def base_config(sources: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    """A config whose steps all do something, small enough to run in seconds."""
    return {
        "sources": sources,
        "filters": {"length": {"min_chars": 100}, "quality": {"min_doc_words": 20}},
        "dedup": {"num_buckets": 8, "hashes_per_bucket": 4},
        "heldout": {"fraction": 0.1},
        "tokenizer": {"kind": "train", "vocab_size": 400},
        "tasks": 2,
    } | changes


def build(
    config: Path, folder: Path, workers: int = 1, until: str = "manifest", jobs: int = 1, root: Path = Path()
) -> DataManifest | None:
    """Render the config and run the steps up to `until`, each in `jobs` parts; the manifest if that is the last."""
    render(load_corpus(config), folder, root)
    for name, step in steps().items():
        for part in range(jobs if jobs > 1 and name != "tokenizer" else 0):
            step(folder).run(workers, Part(part, jobs))
        step(folder).run(workers)
        if name == until:
            return None
    return write_manifest(folder, workers)


def texts_of(folder: Path, split: str) -> list[str]:
    """Texts of a split's documents as the step `split` wrote them."""
    return list(read_texts(folder / load_done(folder, "split").folder / split))
