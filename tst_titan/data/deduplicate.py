"""Step `deduplicate`: list the near copies among the documents that are no exact copies.

Duplicates are looked for before the hold-out is split off: no held-out document has a near copy in training.
"""

from functools import partial
from pathlib import Path
from typing import Any

from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.dedup import (
    ExactDedupFilter,
    MinhashDedupBuckets,
    MinhashDedupCluster,
    MinhashDedupSignature,
)
from datatrove.pipeline.dedup.exact_dedup import ExactDedupConfig
from datatrove.pipeline.dedup.minhash import MinhashConfig

from tst_titan.config.corpus import Dedup
from tst_titan.data.documents import TaskReader
from tst_titan.data.filters import WORDS
from tst_titan.data.pipelines import Part
from tst_titan.data.settings import DeduplicateSettings
from tst_titan.data.step import Step

LINES_TO_BUFFER = 1000  # datatrove's 5 makes reading signatures many times slower


def _text(document: Document) -> str:
    return document.text


EXACT = ExactDedupConfig(content_getter=_text)


class Deduplicate(Step[DeduplicateSettings]):
    """The list of near-duplicates to remove; nothing is listed with `dedup: null`."""

    kind = DeduplicateSettings

    def share(self, workers: int, part: Part) -> None:
        dedup, tasks = self.settings.dedup, self.settings.tasks
        if dedup:
            build = partial(build_sign, dedup, self.folder_of("filter"), self.folder)
            self.pipeline("sign", tasks, build, workers, part)

    def finish(self, workers: int) -> dict[str, Any]:
        dedup, tasks = self.settings.dedup, self.settings.tasks
        if not dedup:
            self.warnings.append("duplicates were not removed")
            return {}
        signatures, pairs, near_duplicates = (
            self.folder / name for name in ("signatures", "pairs", "near_duplicates")
        )
        buckets = partial(build_compare, MinhashDedupBuckets, dedup, signatures, pairs)
        self.pipeline("buckets", dedup.num_buckets * dedup.tasks_per_bucket, buckets, workers)
        self.pipeline(
            "cluster", 1, partial(build_compare, MinhashDedupCluster, dedup, pairs, near_duplicates)
        )
        near = int(self.counted("cluster", 1)[0]["to_remove"])
        return {"exact": int(self.counted("sign", tasks)[1]["dropped"]), "near": near}

    @staticmethod
    def summary(counts: dict[str, Any]) -> str:
        return ", ".join(f"{value:,} {kind} duplicates" for kind, value in counts.items()) or "kept all"


def drop_exact(filtered: Path) -> ExactDedupFilter:
    """Drops the exact copies that the step `filter` listed in its folder."""
    return ExactDedupFilter(str(filtered / "exact_duplicates"), EXACT)


def build_sign(dedup: Dedup, filtered: Path, folder: Path) -> list[PipelineStep]:
    """MinHash signatures of the documents that are not exact duplicates."""
    return [
        TaskReader(filtered / "documents"),
        drop_exact(filtered),
        MinhashDedupSignature(str(folder / "signatures"), _minhash(dedup), language=WORDS),
    ]


def build_compare(
    comparison: type[PipelineStep], dedup: Dedup, source: Path, output: Path
) -> list[PipelineStep]:
    """`MinhashDedupBuckets` finds pairs that agree in a bucket; `MinhashDedupCluster` lists all but one of a group."""
    options = {"config": _minhash(dedup), "lines_to_buffer": LINES_TO_BUFFER}
    return [comparison(str(source), str(output), **options)]


def _minhash(dedup: Dedup) -> MinhashConfig:
    return MinhashConfig(**dedup.model_dump(exclude={"tasks_per_bucket"}))
