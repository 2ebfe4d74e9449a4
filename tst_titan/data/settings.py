"""The settings of the data steps: what determines each step's own result, cut from a corpus's config.

They are written to <corpus folder>/config/<step>.yaml, which Snakemake takes as the step's input, and the step reads
them back by the same model. So an edit reruns the step that it touches and what follows, not what precedes.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

import yaml
from pydantic import Field

from tst_titan.config.corpus import (
    CorpusConfig,
    Decontamination,
    Dedup,
    FileSource,
    FileTokenizer,
    FilterConfig,
    Heldout,
    HubTokenizer,
    InstalledPackages,
    Llama3Tokenizer,
    Qwen3Tokenizer,
    Source,
    Tokens,
    TokensSource,
    TrainTokenizer,
    UnreadableRecords,
    is_default,
)
from tst_titan.config.load import load
from tst_titan.config.strict import Strict
from tst_titan.data.listing import Listing
from tst_titan.data.packages import canonical, read_pins
from tst_titan.errors import UserError
from tst_titan.files import write_if_changed


class StepSettings(Strict):
    """Settings of one step, named as in the corpus's config; the folder it works in and the step it follows."""

    step: ClassVar[str]
    place: ClassVar[str] = "documents"
    after: ClassVar[str | None] = None

    @classmethod
    def of(cls, corpus: CorpusConfig, root: Path) -> Self:
        """Cut the settings from the config; its relative paths start from `root`.

        Raises:
            UserError: a file that the config names is missing or lacks what is looked up in it.
        """
        return cls(**{key: getattr(corpus, key) for key in cls.model_fields})

    @classmethod
    def path(cls, folder: Path) -> Path:
        """Where the settings of the corpus in `folder` are written."""
        return folder / "config" / f"{cls.step}.yaml"

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The settings as they were rendered.

        Raises:
            UserError: they have not been rendered, or are not of this version.
        """
        path = cls.path(folder)
        if not path.is_file():
            raise UserError(f"{path}: the settings of this step are missing; render the corpus config first")
        return load(cls, path)

    def plain(self) -> dict[str, Any]:
        """The settings as they are written and hashed."""
        return self.model_dump(mode="json")

    def determining(self) -> dict[str, Any]:
        """The settings that what the step writes depends on; they name its folder."""
        return self.plain()


class FilterSettings(StepSettings):
    """Read the sources and drop what the filters drop."""

    step = "filter"
    sources: tuple[Source, ...]
    versions: dict[str, str] = Field(description="Pinned version of every package that is read.")
    filters: FilterConfig
    tasks: int
    unreadable: UnreadableRecords = Field(default=UnreadableRecords(), exclude_if=is_default)
    decontamination: Decontamination | None = Field(default=None, exclude_if=lambda value: value is None)

    @property
    def takes_tokens(self) -> bool:
        """Whether the sources are token shards, which no step before `tokens` reads."""
        return isinstance(self.sources[0], TokensSource)

    def determining(self) -> dict[str, Any]:
        return {key: value for key, value in self.plain().items() if key != "unreadable"}

    @classmethod
    def of(cls, corpus: CorpusConfig, root: Path) -> Self:
        sources: list[Any] = []
        versions: dict[str, str] = {}
        for source in corpus.sources:
            if isinstance(source, InstalledPackages):
                pinned = pinned_packages(source, root)
                source = source.model_copy(update={"packages": tuple(pinned)})
                versions |= pinned
            sources.append(source)
        return cls(
            sources=tuple(sources),
            versions=versions,
            filters=corpus.filters,
            tasks=corpus.tasks,
            unreadable=corpus.unreadable,
            decontamination=corpus.decontamination,
        )


class DeduplicateSettings(StepSettings):
    """List the documents that are near copies of another."""

    step, after = "deduplicate", "filter"
    dedup: Dedup | None
    tasks: int


class SplitSettings(StepSettings):
    """Hold documents out."""

    step, after = "split", "deduplicate"
    heldout: Heldout
    tasks: int


class HashedFileTokenizer(FileTokenizer):
    """A tokenizer.json and its hash: another file of the same name is another tokenizer."""

    sha256: str = Field(description="SHA-256 of the file.")


class TokenizerSettings(StepSettings):
    """Make or take the tokenizer."""

    step, place, after = "tokenizer", "tokenizer", "split"
    tokenizer: Annotated[
        TrainTokenizer | HashedFileTokenizer | HubTokenizer | Llama3Tokenizer | Qwen3Tokenizer,
        Field(discriminator="kind"),
    ]
    bos: bool | str = Field(default=False, exclude_if=lambda bos: bos is False)

    @classmethod
    def of(cls, corpus: CorpusConfig, root: Path) -> Self:
        tokenizer = corpus.tokenizer
        if isinstance(tokenizer, FileTokenizer):
            path = root / tokenizer.path
            try:
                digest = hashlib.sha256(path.read_bytes()).hexdigest()
            except OSError:
                raise UserError(f"tokenizer.path: {path} is missing; it must be a tokenizer.json") from None
            tokenizer = HashedFileTokenizer(sha256=digest, **tokenizer.model_dump())
        return cls(tokenizer=tokenizer, bos=corpus.bos)


class TokensSettings(StepSettings):
    """Write the token shards."""

    step, place, after = "tokens", "tokens", "tokenizer"
    tokens: Tokens
    weights: dict[str, float] = Field(description="Weight of each source in the mixture; none for all text.")
    tasks: int

    @classmethod
    def of(cls, corpus: CorpusConfig, root: Path) -> Self:
        weights = {source.label: source.weight for source in corpus.sources if source.weight is not None}
        return cls(tokens=corpus.tokens, weights=weights, tasks=corpus.tasks)


# By step, in the order in which they run.
SETTINGS: dict[str, type[StepSettings]] = {
    settings.step: settings
    for settings in (FilterSettings, DeduplicateSettings, SplitSettings, TokenizerSettings, TokensSettings)
}


def render(corpus: CorpusConfig, folder: Path | str, root: Path | str = ".") -> None:
    """Write the settings of each step, and the list of the sources' files, only where they changed.

    Args:
        corpus: the config.
        folder: results/data/<corpus>.
        root: the folder that relative paths of the config start from.

    Raises:
        UserError: the pins, the tokenizer file, or the folder of a source are missing.
    """
    if not (Path(folder) / "manifest.json").is_file():  # a finished corpus does not need its sources
        for source in corpus.sources:
            path = getattr(source, "path", "://")
            if "://" not in path and not Path(path).is_dir():
                raise UserError(
                    f"corpus {corpus.name}: source {source.label}: path: found {path!r}; there is no such folder "
                    f"(relative paths start from {Path.cwd()})"
                )
    for kind in SETTINGS.values():
        header = f"# Settings of the step {kind.step} of corpus {corpus.name}, written by the pipeline.\n"
        text = header + yaml.safe_dump(kind.of(corpus, Path(root)).plain(), sort_keys=True)
        path = kind.path(Path(folder))
        if kind is FilterSettings and any(isinstance(source, FileSource) for source in corpus.sources):
            _render_with_files(corpus, Path(folder), path, text)
        else:
            write_if_changed(path, text)


def _render_with_files(corpus: CorpusConfig, folder: Path, path: Path, text: str) -> None:
    """Write the list of the sources' files, and its hash into the settings that Snakemake takes as input."""
    before = Listing.read(folder)
    made_without = before is None and path.is_file() and path.read_text(encoding="utf-8") == text
    times = path.stat() if made_without else None
    listing = Listing.of(corpus.sources, corpus.sources_are_fixed, before, exists=made_without)
    write_if_changed(
        path,
        f"{text}# Files of the sources, listed in {listing.path(folder).name}: {digest(listing.files)}\n",
    )
    if times:  # what an earlier version made from these settings stays as it is
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    write_if_changed(listing.path(folder), listing.text())


def pinned_packages(source: InstalledPackages, root: Path) -> dict[str, str]:
    """The packages of a source with their pinned versions, sorted; `root` is the folder that `pins` is relative to.

    Raises:
        UserError: the pins are missing or do not name one of the packages.
    """
    pins = read_pins(root / source.pins)
    if source.packages == "pinned":
        return dict(sorted(pins.items()))
    unknown = [name for name in source.packages if canonical(name) not in pins]
    if unknown:
        raise UserError(
            f"source installed_packages: packages {unknown} are not pinned in {source.pins}; "
            "pin them or take them off the list"
        )
    return {name: pins[name] for name in sorted(map(canonical, source.packages))}


def digest(value: Any) -> str:
    """SHA-256 (hex) of plain data, independent of key order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
