"""From sources to documents: read and filter, remove duplicates, hold some out.

Duplicates are looked for before the hold-out is split off: no held-out document has a near-copy in training.
"""

import hashlib
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.dedup import (
    ExactDedupFilter,
    ExactDedupSignature,
    ExactFindDedups,
    MinhashDedupBuckets,
    MinhashDedupCluster,
    MinhashDedupFilter,
    MinhashDedupSignature,
)
from datatrove.pipeline.dedup.exact_dedup import ExactDedupConfig
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.pipeline.writers import JsonlWriter

from tst_titan.data.config import parse, read_settings
from tst_titan.data.corpus import Dedup, Filters, Heldout, Source, source_names
from tst_titan.data.filters import WORDS, make_filters
from tst_titan.data.sources import TaskReader, check_source, list_local, make_reader
from tst_titan.data.stages import WHOLE, Part, Stage, counts, run_stage
from tst_titan.data.work import Done, Workplace, load_done
from tst_titan.errors import UserError

# One task compares the exact hashes of this many tasks' documents.
_TASKS_PER_FINDER = 64
_LINES_TO_BUFFER = 1000  # datatrove's 5 makes reading signatures many times slower


class Tally(PipelineStep):
    """Counts documents and UTF-8 bytes of text, in all and by source; passes documents on."""

    type = "🧮 - TALLY"
    name = "documents"

    def __init__(self, by: str = "source"):
        super().__init__()
        self.by = by

    def run(self, data: Iterator[Document], rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Count and pass on."""
        for document in data:
            size = len(document.text.encode())
            group = document.metadata.get(self.by, "")
            self.stat_update("documents", f"documents/{group}")
            self.stat_update("bytes", f"bytes/{group}", value=size)
            yield document


class AssignSplit(PipelineStep):
    """Writes `train` or `heldout` into the document's metadata, by the hash of its text alone."""

    type = "✂️ - SPLIT"
    name = "hold-out"

    def __init__(self, config: Heldout):
        super().__init__()
        self.config = config

    def run(self, data: Iterator[Document], rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Assign and pass on."""
        for document in data:
            held = text_fraction(document.text, f"heldout-{self.config.seed}") < self.config.fraction
            split = "heldout" if held else "train"
            source = document.metadata["source"]
            document.metadata = {"source": source, "split": split, "group": f"{split}/{source}"}
            yield document


def text_fraction(text: str, salt: str) -> float:
    """A number in [0, 1) that depends on the text and the salt alone."""
    digest = hashlib.blake2b(text.encode(), digest_size=8, key=hashlib.sha256(salt.encode()).digest())
    return int.from_bytes(digest.digest(), "big") / 2**64


def document_text(document: Document) -> str:
    """What exact duplicates have in common."""
    return document.text


def document_writer(folder: Path | str, filename: str = "${rank}.jsonl.zst") -> JsonlWriter:
    """Writer of one compressed file a task."""
    return JsonlWriter(str(folder), output_filename=filename, compression="zstd")


def _exact_config() -> ExactDedupConfig:
    return ExactDedupConfig(content_getter=document_text)


def _finders(tasks: int) -> int:
    return 1 + (tasks - 1) // _TASKS_PER_FINDER


def _minhash_config(dedup: Dedup) -> MinhashConfig:
    return MinhashConfig(
        n_grams=dedup.n_grams,
        num_buckets=dedup.num_buckets,
        hashes_per_bucket=dedup.hashes_per_bucket,
        seed=dedup.seed,
    )


# --- filter ---


def build_filter(settings: dict[str, Any], folder: Path) -> list[PipelineStep]:
    """Read, count, filter, count, write; hashes of the kept texts are written beside them."""
    sources = parse(tuple[Source, ...], settings["sources"])
    readers = [make_reader(source, name) for source, name in zip(sources, source_names(sources), strict=True)]
    filters = make_filters(parse(Filters, settings["filters"]), str(folder / "dropped"))
    return [
        *readers,
        Tally(),
        *(step for _, step in filters),
        Tally(),
        document_writer(folder / "documents"),
        ExactDedupSignature(
            str(folder / "exact"), _exact_config(), finder_workers=_finders(settings["tasks"])
        ),
    ]


def build_exact(folder: Path) -> list[PipelineStep]:
    """Find the texts that occur more than once."""
    return [
        ExactFindDedups(
            str(folder / "exact"),
            str(folder / "exact_duplicates"),
            _exact_config(),
            lines_to_buffer=_LINES_TO_BUFFER,
        )
    ]


def filter_documents(folder: Path | str, workers: int, part: Part = WHOLE) -> Done | None:
    """Step `filter`: documents of all sources that pass the filters, and the list of exact duplicates.

    Args:
        folder: the corpus folder.
        workers: tasks at the same time.
        part: one job's part of the tasks leaves the step unfinished; the whole finishes it.

    Raises:
        UserError: a source cannot be read, or nothing is left.
    """
    place = Workplace(folder, "filter", inputs=local_files(folder))
    if done := place.finished():
        return place.publish(done)
    started = time.monotonic()
    tasks = place.settings["tasks"]
    sources = parse(tuple[Source, ...], place.settings["sources"])
    names = source_names(sources)
    warnings = [
        text
        for source, name in zip(sources, names, strict=True)
        for text in check_source(source, name, tasks, place.settings["versions"])
    ]
    stage = Stage("filter", tasks, partial(build_filter, place.settings, place.folder))
    run_stage(stage, place.logs, workers, part)
    if part.index is not None:
        return None
    run_stage(Stage("exact", _finders(tasks), partial(build_exact, place.folder)), place.logs, workers)
    found = _filter_counts(place, len(sources))
    for name in names:
        if not found["read_by_source"].get(name):
            raise UserError(f"source {name}: no document was read; see {place.logs}/filter/logs")
    if not found["kept"]:
        raise UserError(
            f"filters: all {found['read']:,} documents were dropped ({found['dropped']}); loosen them"
        )
    return place.finish(found, warnings, time.monotonic() - started)


def local_files(folder: Path | str) -> list[list[tuple[str, int, int]]]:
    """Files of each source that lies on this machine: name, bytes, time of change; changed data is other data."""
    settings = read_settings(Path(folder) / "config" / "filter.yaml")
    return [list_local(source) for source in parse(tuple[Source, ...], settings["sources"])]


def _filter_counts(place: Workplace, n_sources: int) -> dict[str, Any]:
    totals = counts(place.logs / "filter", place.settings["tasks"])
    named = make_filters(parse(Filters, place.settings["filters"]), "")
    read, kept = totals[n_sources], totals[n_sources + 1 + len(named)]
    dropped = {}
    for (name, _), total in zip(named, totals[n_sources + 1 :], strict=False):
        reasons = {
            label.removeprefix("dropped_"): int(value)
            for label, value in sorted(total.items())
            if label.startswith("dropped_")
        }
        dropped[name] = reasons
    return {
        "read": int(read["documents"]),
        "read_bytes": int(read["bytes"]),
        "read_by_source": by_prefix(read, "documents/"),
        "dropped": dropped,
        "kept": int(kept["documents"]),
        "kept_bytes": int(kept["bytes"]),
    }


def by_prefix(total: Counter[str], prefix: str) -> dict[str, int]:
    """The counters whose label starts with `prefix`, without it."""
    return {k.removeprefix(prefix): int(v) for k, v in sorted(total.items()) if k.startswith(prefix)}


# --- deduplicate ---


def build_sign(dedup: Dedup, filtered: Path, folder: Path) -> list[PipelineStep]:
    """MinHash signatures of the documents that are not exact duplicates."""
    return [
        TaskReader(str(filtered / "documents")),
        ExactDedupFilter(str(filtered / "exact_duplicates"), _exact_config()),
        MinhashDedupSignature(str(folder / "signatures"), _minhash_config(dedup), language=WORDS),
    ]


def build_buckets(dedup: Dedup, folder: Path) -> list[PipelineStep]:
    """Pairs of documents that agree in a bucket."""
    return [
        MinhashDedupBuckets(
            str(folder / "signatures"),
            str(folder / "pairs"),
            config=_minhash_config(dedup),
            lines_to_buffer=_LINES_TO_BUFFER,
        )
    ]


def build_cluster(dedup: Dedup, folder: Path) -> list[PipelineStep]:
    """Groups of pairs; all but one document of a group are listed for removal."""
    return [
        MinhashDedupCluster(
            str(folder / "pairs"),
            str(folder / "near_duplicates"),
            config=_minhash_config(dedup),
            lines_to_buffer=_LINES_TO_BUFFER,
        )
    ]


def deduplicate(folder: Path | str, workers: int, part: Part = WHOLE) -> Done | None:
    """Step `deduplicate`: the list of near-duplicates to remove. Arguments as in `filter_documents`.

    With `dedup: null` nothing is listed.
    """
    place = Workplace(folder, "deduplicate")
    if done := place.finished():
        return place.publish(done)
    started = time.monotonic()
    dedup = parse(Dedup | None, place.settings["dedup"])
    if dedup is None:
        return place.finish({}, ["duplicates were not removed"], 0.0)
    filtered = place.previous_folder()
    stage = Stage("sign", place.settings["tasks"], partial(build_sign, dedup, filtered, place.folder))
    run_stage(stage, place.logs, workers, part)
    if part.index is not None:
        return None
    buckets = dedup.num_buckets * dedup.tasks_per_bucket
    run_stage(Stage("buckets", buckets, partial(build_buckets, dedup, place.folder)), place.logs, workers)
    run_stage(Stage("cluster", 1, partial(build_cluster, dedup, place.folder)), place.logs, 1)
    near = int(counts(place.logs / "cluster", 1)[0]["to_remove"])
    exact = int(counts(place.logs / "sign", place.settings["tasks"])[1]["dropped"])
    return place.finish({"exact": exact, "near": near}, [], time.monotonic() - started)


# --- split ---


def build_split(
    settings: dict[str, Any], filtered: Path, near: Path | None, folder: Path
) -> list[PipelineStep]:
    """Drop the listed duplicates, assign splits, write each split to a folder of its own.

    `near` is the folder of the step `deduplicate`, or None if duplicates are kept.
    """
    drop: list[PipelineStep] = []
    if near:
        drop.append(ExactDedupFilter(str(filtered / "exact_duplicates"), _exact_config()))
        drop.append(MinhashDedupFilter(str(near / "near_duplicates")))
    return [
        TaskReader(str(filtered / "documents")),
        *drop,
        AssignSplit(parse(Heldout, settings["heldout"])),
        Tally(by="group"),
        document_writer(folder, "${split}/${rank}.jsonl.zst"),
    ]


def split_documents(folder: Path | str, workers: int, part: Part = WHOLE) -> Done | None:
    """Step `split`: the final documents, for training and held out. Arguments as in `filter_documents`.

    Raises:
        UserError: one of the splits is empty.
    """
    place = Workplace(folder, "split")
    if done := place.finished():
        return place.publish(done)
    started = time.monotonic()
    assert place.previous is not None
    filtered = place.root / load_done(place.root, "filter").folder
    near = place.previous_folder() if place.previous.settings["dedup"] else None
    build = partial(build_split, place.settings, filtered, near, place.folder)
    run_stage(Stage("split", place.settings["tasks"], build), place.logs, workers, part)
    if part.index is not None:
        return None
    total = counts(place.logs / "split", place.settings["tasks"])[-2]
    found = {
        split: {
            "documents": by_prefix(total, f"documents/{split}/"),
            "bytes": by_prefix(total, f"bytes/{split}/"),
        }
        for split in ("train", "heldout")
    }
    for split, numbers in found.items():
        if not numbers["documents"]:
            raise UserError(
                f"heldout.fraction: {place.settings['heldout']['fraction']} leaves no {split} document of "
                f"{int(total['documents']):,}"
            )
    return place.finish(found, [], time.monotonic() - started)
