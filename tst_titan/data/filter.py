"""Step `filter`: read the sources, drop what the filters drop, and list the texts that occur more than once."""

from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.dedup import ExactDedupSignature, ExactFindDedups
from datatrove.pipeline.filters.base_filter import BaseFilter

from tst_titan.config.corpus import FileSource, Filters
from tst_titan.data.contamination import NAME, Contamination, write_index
from tst_titan.data.deduplicate import EXACT, LINES_TO_BUFFER
from tst_titan.data.documents import Tally, by_prefix, document_writer
from tst_titan.data.filters import SampleWriter, make_filters
from tst_titan.data.listing import Files, Listing, is_local, list_local
from tst_titan.data.pipelines import Part
from tst_titan.data.readers import make_reader
from tst_titan.data.settings import FilterSettings
from tst_titan.data.shards import sha256_of
from tst_titan.data.sources import account_of, check_readable, check_source
from tst_titan.data.step import Done, Step
from tst_titan.errors import UserError

# One task compares the exact hashes of this many tasks' documents.
_TASKS_PER_FINDER = 64


class Filter(Step[FilterSettings]):
    """Documents of all sources that pass the filters, and the list of exact duplicates."""

    kind = FilterSettings

    def inputs(self) -> Any:
        """What is known of the sources' files, and the tasks' items if documents are compared with them."""
        items = {task: sha256_of(path) for task, path in self.items().items() if path.is_file()}
        return {"files": self.files(), "items": items} if items else self.files()

    def items(self) -> dict[str, Path]:
        """Where the items of the tasks are that no document may share n-grams with."""
        asked = self.settings.decontamination
        return (
            {task: self.root.absolute().parents[1] / "tasks" / f"{task}.items.jsonl" for task in asked.tasks}
            if asked
            else {}
        )

    def files(self) -> list[Files]:
        """Files of each source as they were listed: changed data is other data."""
        listed = Listing.read(self.root)
        if listed:
            known = {label: files for label, files in listed.files.items() if label not in listed.taken_over}
            return [known.get(source.label, []) for source in self.settings.sources]
        return [
            list_local(source.path, source.pattern)
            if isinstance(source, FileSource) and is_local(source)
            else []
            for source in self.settings.sources
        ]

    def share(self, workers: int, part: Part) -> None:
        tasks = 1 if self.settings.takes_tokens else self.settings.tasks
        for source in self.settings.sources:
            self.warnings += check_source(source, tasks, self.settings.versions)
        if self.settings.takes_tokens:
            return
        if self.settings.decontamination:
            write_index(self.settings.decontamination, self.items(), self.folder / NAME)
        self.pipeline("filter", tasks, partial(build_filter, self.settings, self.folder), workers, part)

    def finish(self, workers: int) -> dict[str, Any]:
        if self.settings.takes_tokens:  # counted by the step `tokens`, which has their tokenizer
            nothing: dict[str, Any] = {"sources": {}, "dropped": {}}
            return {"read": 0, "read_bytes": 0, "read_by_source": {}, "kept": 0, **nothing}
        self.pipeline("exact", _finders(self.settings.tasks), partial(build_exact, self.folder), workers)
        found = self._counts()
        check_readable(found["sources"], self.settings.unreadable.max_fraction)
        for source in self.settings.sources:
            if not found["read_by_source"].get(source.label):
                raise UserError(f"source {source.label}: no document was read; see {self.logs}/filter/logs")
        if not found["kept"]:
            raise UserError(
                f"filters: all {found['read']:,} documents were dropped ({found['dropped']}); loosen them"
            )
        return found

    def publish(self, done: Done) -> Done:
        # What is allowed may have changed since the step was finished; nothing has to be read again for it.
        check_readable(done.counts["sources"], self.settings.unreadable.max_fraction)
        return super().publish(done.model_copy(update={"settings": self.settings.plain()}))

    def _counts(self) -> dict[str, Any]:
        sources = self.settings.sources
        totals = self.counted("filter", self.settings.tasks)
        readers, totals = totals[: len(sources)], totals[len(sources) :]
        filters = [*make_filters(self.settings.filters), *([NAME] if self.settings.decontamination else [])]
        read, kept = totals[0], totals[1 + len(filters)]
        by_source = by_prefix(read, "documents/")
        return {
            "read": int(read["documents"]),
            "read_bytes": int(read["bytes"]),
            "read_by_source": by_source,
            "sources": {
                source.label: account_of(
                    source, counted, by_source.get(source.label, 0), self.folder / "unreadable"
                )
                for source, counted in zip(sources, readers, strict=True)
            },
            "dropped": {name: _reasons(total) for name, total in zip(filters, totals[1:], strict=False)},
            "kept": int(kept["documents"]),
        }

    @staticmethod
    def summary(counts: dict[str, Any]) -> str:
        if not counts["read"]:
            return "nothing to read: the step tokens takes the shards"
        dropped = ", ".join(f"{sum(v.values()):,} by {k}" for k, v in counts["dropped"].items())
        line = f"{counts['read']:,} documents read, {dropped or 'none'} dropped, {counts['kept']:,} kept"
        for name, account in counts["sources"].items():
            left = {"records without text": account["without_text"]}
            left |= {
                f"records unreadable ({reason})": number for reason, number in account["unreadable"].items()
            }
            left |= {f"files not read ({kind})": number for kind, number in account["not_read"].items()}
            said = ", ".join(f"{number:,} {what}" for what, number in left.items() if number)
            line += f"; {name}: {said}" if said else ""
        return line


def build_filter(settings: FilterSettings, folder: Path) -> list[PipelineStep]:
    """Read, count, filter, count, write; hashes of the kept texts are written beside them."""
    return [
        *(make_reader(source, folder / "unreadable") for source in settings.sources),
        Tally(),
        *filters_of(settings, folder).values(),
        Tally(),
        document_writer(folder / "documents"),
        ExactDedupSignature(str(folder / "exact"), EXACT, finder_workers=_finders(settings.tasks)),
    ]


def filters_of(settings: FilterSettings, folder: Path) -> dict[str, BaseFilter]:
    """The filters that the corpus names, and last the one that compares documents with tasks' items."""
    filters = make_filters(settings.filters, folder / "dropped")
    if settings.decontamination:
        sample = SampleWriter(folder / "dropped" / NAME, Filters().dropped_sample)
        filters[NAME] = Contamination(settings.decontamination, folder / NAME, sample)
    return filters


def build_exact(folder: Path) -> list[PipelineStep]:
    """Find the texts that occur more than once."""
    return [
        ExactFindDedups(
            str(folder / "exact"), str(folder / "exact_duplicates"), EXACT, lines_to_buffer=LINES_TO_BUFFER
        )
    ]


def _reasons(total: Counter[str]) -> dict[str, int]:
    """Documents that a filter dropped, by reason: some of datatrove's give none."""
    reasons = by_prefix(total, "dropped_")
    unexplained = int(total["dropped"]) - sum(reasons.values())
    return reasons | ({"no_reason_given": unexplained} if unexplained else {})


def _finders(tasks: int) -> int:
    return 1 + (tasks - 1) // _TASKS_PER_FINDER
