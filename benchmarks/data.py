"""Speed of the data path: `python -m benchmarks.data [--output PATH] [--cores N]`.

Reading: windows from memory-mapped shards through lanes, on one core. Tokenizing: the pipeline's own step, from
compressed documents to shards, against `tokenizers.encode_batch` alone on the same documents and cores. Accounting
for records: what the readers need more than datatrove's own, as a share of the step `filter`. The documents are
those of installed packages, so nothing has to be built or downloaded first.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
from collections import deque
from functools import partial
from pathlib import Path

import numpy as np
import torch
from datatrove.data import Document
from datatrove.pipeline.readers import JsonlReader
from tokenizers import Tokenizer

from benchmarks import measure
from benchmarks.measure import Ratio
from tst_titan.config.corpus import (
    Filters,
    LengthFilter,
    QualityFilter,
    RecordSource,
    RepetitionFilter,
    Tokens,
    TrainTokenizer,
)
from tst_titan.data.documents import document_writer
from tst_titan.data.filter import build_filter
from tst_titan.data.lanes import Lanes
from tst_titan.data.packages import documents_of, package_files
from tst_titan.data.pipelines import Pipeline, run_pipeline
from tst_titan.data.readers import make_reader
from tst_titan.data.settings import FilterSettings
from tst_titan.data.shards import ShardFile, TokenStream, storage_dtype
from tst_titan.data.tokenizer import train_bpe
from tst_titan.data.tokens import build_tokenize

PACKAGES = ("scipy", "pandas", "sqlalchemy", "matplotlib", "networkx")
READ_TARGET = 20e6  # tokens a second on one core
STREAM_TOKENS = 100_000_000
TOKENS_A_ROUND = 20_000_000
SEQUENCE_LENGTH = 2048
LANES = 8
DEMO_LENGTH, DEMO_LANES = 128, 32
BATCH_DOCUMENTS = 1000
CPU = torch.device("cpu")
Seconds = dict[str, dict[str, list[float]]]


cpu_ratio = partial(measure.ratio, device=CPU, pages="kept")


def read_round(lanes: Lanes, length: int) -> None:
    """Read about TOKENS_A_ROUND tokens, window after window."""
    position = 0
    for _ in range(TOKENS_A_ROUND // (lanes.n_lanes * length)):
        lanes.read(position, length)
        position += length


def bench_reading(folder: Path, rounds: int) -> tuple[list[Ratio], Seconds]:
    """Tokens a second at the sequence lengths of the token phase and of the bag phase, for both id types."""
    generator = np.random.default_rng(0)
    ratios: list[Ratio] = []
    seconds: Seconds = {}
    for name in ("uint16", "uint32"):
        path = folder / f"{name}.ds"
        generator.integers(0, 50_000, STREAM_TOKENS, np.uint16).astype(storage_dtype(name)).tofile(path)
        stream = TokenStream([ShardFile(path, STREAM_TOKENS, storage_dtype(name))])
        wide, demo = Lanes(stream, LANES, True), Lanes(stream, DEMO_LANES, True)
        times = measure.interleave(
            {
                "s=1": partial(read_round, wide, SEQUENCE_LENGTH),
                "s=16": partial(read_round, wide, 16 * SEQUENCE_LENGTH),
                "demo s=8": partial(read_round, demo, 8 * DEMO_LENGTH),
            },
            rounds,
            CPU,
        )
        seconds[f"reading {name}"] = times
        unit = [TOKENS_A_ROUND / READ_TARGET] * rounds
        ratio = partial(cpu_ratio, group=f"reading {name}")
        wide_shape, demo_shape = f"{LANES} x {SEQUENCE_LENGTH}", f"{DEMO_LANES} x 8 x {DEMO_LENGTH}"
        ratios += [
            ratio(unit, times["s=1"], name="over 20 M tokens/s", shape=wide_shape, target=">= 1"),
            ratio(times["s=16"], times["s=1"], name="s=16 / s=1 a token", shape=wide_shape, target="<= 1"),
            ratio(unit, times["demo s=8"], name="over 20 M tokens/s", shape=demo_shape),
        ]
    return ratios, seconds


def package_texts() -> list[str]:
    """Documents of the packages that are installed."""
    return [
        text
        for package in PACKAGES
        for inner, path in package_files(package)
        for _, text in documents_of(inner, path, ("docstrings", "sources"), 6000)
    ]


def encode_alone(tokenizer: Tokenizer, texts: list[str]) -> None:
    """What the library needs for the texts."""
    for start in range(0, len(texts), BATCH_DOCUMENTS):
        tokenizer.encode_batch(texts[start : start + BATCH_DOCUMENTS])


def tokenize_step(documents: Path, tokenizer: Path, folder: Path, cores: int) -> None:
    """The pipeline's step from documents to shuffled shards, afresh."""
    shutil.rmtree(folder, ignore_errors=True)
    tokens = Tokens(shuffle="global", batch_documents=BATCH_DOCUMENTS)
    build = partial(
        build_tokenize,
        tokens,
        {},
        documents,
        tokenizer,
        None,
        "<|endoftext|>",
        folder / "shards",
        shuffle=True,
    )
    run_pipeline(Pipeline("tokenize", cores, build), folder / "logs", cores)


def bench_tokenizing(folder: Path, rounds: int, cores: int) -> tuple[list[Ratio], Seconds]:
    """Rate of the pipeline's step over that of encode_batch with as many threads."""
    os.environ["RAYON_NUM_THREADS"] = str(cores)  # read once, at the first use in this process
    texts = package_texts()
    tokenizer = train_bpe(iter(texts[::10]), TrainTokenizer(kind="train", vocab_size=2048))
    tokenizer.save(str(folder / "tokenizer.json"))
    for rank in range(cores):
        with document_writer(folder / "documents") as writer:
            for text in texts[rank::cores]:
                writer.write(Document(text=text, id="", metadata={"source": "a"}), rank)
    encode_alone(tokenizer, texts[:10])
    del os.environ["RAYON_NUM_THREADS"]  # the workers choose for themselves
    step = partial(tokenize_step, folder / "documents", folder / "tokenizer.json", folder / "step", cores)
    times = measure.interleave(
        {"encode_batch": partial(encode_alone, tokenizer, texts), "step": step}, rounds, CPU
    )
    size = sum(len(text.encode()) for text in texts)
    ratio = cpu_ratio(
        times["encode_batch"],
        times["step"],
        group="tokenizing",
        name="rate of the step / encode_batch",
        shape=f"{size / 1e6:.0f} MB, {cores} cores",
        target=">= 0.7",
    )
    return [ratio], {"tokenizing": times}


def filter_step(settings: FilterSettings, folder: Path) -> None:
    """The pipeline's step from JSON lines to filtered documents, afresh."""
    shutil.rmtree(folder, ignore_errors=True)
    run_pipeline(Pipeline("filter", 1, partial(build_filter, settings, folder)), folder / "logs", 1)


def bench_accounting(folder: Path, rounds: int) -> tuple[list[Ratio], Seconds]:
    """The step `filter`, with what the readers' accounting adds to reading, over the step without it."""
    texts = package_texts()
    (folder / "lines").mkdir()
    with (folder / "lines" / "a.jsonl").open("w") as file:
        file.writelines(json.dumps({"text": text}) + "\n" for text in texts)
    source = RecordSource(kind="jsonl", path=str(folder / "lines"))
    filters = Filters(length=LengthFilter(), quality=QualityFilter(), repetition=RepetitionFilter())
    settings = FilterSettings(sources=(source,), versions={}, filters=filters, tasks=1)
    times = measure.interleave(
        {
            "datatrove": lambda: deque(JsonlReader(source.path, glob_pattern=source.pattern).run(), 0),
            "reader": lambda: deque(make_reader(source).run(), 0),
            "step": partial(filter_step, settings, folder / "filter"),
        },
        rounds,
        CPU,
    )
    rows = zip(times["step"], times["reader"], times["datatrove"], strict=True)
    ratio = cpu_ratio(
        times["step"],
        [step - (reader - theirs) for step, reader, theirs in rows],
        group="accounting",
        name="step / step without it",
        shape=f"{len(texts):,} documents of JSON lines, 1 core",
        target="<= 1.02",
    )
    return [ratio], {"accounting": times}


def main() -> None:
    """Measure, print the ratios, write the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("results/bench/data.json"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cores", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    measure.set_pages("kept")
    with tempfile.TemporaryDirectory() as name:
        ratios, seconds = bench_reading(Path(name), arguments.rounds)
        more, accounting = bench_accounting(Path(name), arguments.rounds)
        most, tokenizing = bench_tokenizing(Path(name), max(2, arguments.rounds - 1), arguments.cores)
    ratios += more + most
    measure.write(arguments.output, CPU, ratios, seconds | accounting | tokenizing)
    print(measure.table(ratios))
    rates = {key: [TOKENS_A_ROUND / min(t) / 1e6 for t in times.values()] for key, times in seconds.items()}
    print(
        "million tokens a second, best round:",
        json.dumps({k: [round(v) for v in r] for k, r in rates.items()}),
    )


if __name__ == "__main__":
    main()
