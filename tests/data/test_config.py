"""Corpus configs: what is refused and how, what is rendered, and which edit touches which step."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from datatrove.utils import word_tokenizers

from tests.data.texts import base_config, write_corpus
from tests.shipped import shipped_root
from tst_titan.config.corpus import CorpusConfig, load_corpus
from tst_titan.data.filters import WORDS
from tst_titan.data.settings import SETTINGS, FilterSettings, SplitSettings, render
from tst_titan.errors import UserError

ROOT = Path(__file__).parents[2]
CORPORA = shipped_root() / "configs" / "corpora"
SOURCES = [{"kind": "parquet", "path": "hf://datasets/some/where"}]


def test_every_field_is_described() -> None:
    def check(schema: dict[str, Any]) -> None:
        for name, field in schema.get("properties", {}).items():
            assert field.get("description"), f"{schema['title']}.{name}"

    schema = CorpusConfig.model_json_schema()
    for part in (schema, *schema["$defs"].values()):
        check(part)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"fliters": {}},
            r"unknown key fliters \(did you mean 'filters'\?\); valid keys here: .*sources, unreadable, filters",
        ),
        (
            {"filters": {"length": {"min_char": 3}}},
            r"unknown key filters.length.min_char \(did you mean 'min_chars'\?\); valid keys here: .*max_chars",
        ),
        (
            {"sources": [{"kind": "parquet", "path": "p", "textkey": "a"}]},
            r"unknown key sources.0.parquet.textkey \(did you mean 'text_key'\?\); valid keys here: .*kind, text_key",
        ),
        (
            {"sources": [{"kind": "installed_packages", "part": ["docs"]}]},
            r"sources.0.installed_packages.part \(did you mean 'parts'\?\); valid keys here: .*exclude",
        ),
        ({"sources": [{"kind": "csv", "path": "p"}]}, r"key sources.0: .*'csv'.*'parquet'"),
        ({"sources": [{"kind": "parquet"}]}, "missing key sources.0.parquet.path"),
        ({"sources": []}, "sources: found .*at least 1 item"),
        ({"tasks": True}, "tasks: found True: Input should be a valid integer"),
        (
            {"tokens": {"tokens_per_shard": 1.5}},
            "tokens.tokens_per_shard: found 1.5: Input should be a valid integer",
        ),
        ({"tasks": 0}, "tasks: found 0: Input should be greater than 0"),
        ({"tasks": "many"}, "tasks: found 'many': Input should be a valid integer"),
        ({"heldout": {"fraction": 1.0}}, "heldout.fraction: found 1.0: Input should be less than 0.5"),
        ({"tokenizer": {"kind": "train", "vocab_size": 100}}, "tokenizer.train.vocab_size: found 100: .*257"),
        (
            {"tokenizer": {"kind": "bert"}},
            "key tokenizer: .*'bert'.*'train', 'file', 'hub', 'llama3', 'qwen3'",
        ),
        (
            {"tokens": {"shuffle": "none"}},
            "tokens.shuffle: found 'none': Input should be 'global' or 'within_task'",
        ),
        ({"sources": SOURCES * 2}, r"sources need different names, found \['parquet', 'parquet'\]"),
        (
            {"sources": [SOURCES[0] | {"weight": 1.0}, SOURCES[0] | {"name": "b"}]},
            "either every source has a weight or none has",
        ),
        (
            {"sources": [{"kind": "installed_packages", "exclude": ["^a/", "b("]}]},
            r"sources.0.installed_packages.exclude.1: found 'b\(': not a regular expression: missing \), .*position 1",
        ),
        ({"unreadable": {"max_fraction": 2}}, "unreadable.max_fraction: found 2: .* less than or equal to 1"),
        ({"jobs": 3}, r"jobs \(3\) must not exceed tasks \(2\)"),
        ({"name": "other"}, "name: found 'other'; the name is the file's"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = write_corpus(tmp_path, base_config(SOURCES) | changes)
    with pytest.raises(UserError, match=message) as caught:
        load_corpus(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        (
            ["C4Quality"],
            r"key filters.0: found 'C4Quality': no filter has this name \(did you mean 'C4QualityFilter'\?\); there "
            "are: length, lines, quality, repetition, C4BadWordsFilter",
        ),
        (
            [{"length": {"min_char": 3}}],
            r"unknown key filters.0.length.min_char \(did you mean 'min_chars'\?\)",
        ),
        (
            ["length", {"C4QualityFilter": {"min_sentences": 3}}],
            r"key filters.1.C4QualityFilter: no argument 'min_sentences' \(did you mean 'min_num_sentences'\?\), found "
            "with value 3; C4QualityFilter takes: split_paragraph, ",
        ),
        (
            [{"C4QualityFilter": {"min_num_sentences": "many"}}],
            "key filters.0.C4QualityFilter.min_num_sentences: found 'many': Input should be a valid number",
        ),
        (
            [{"GopherRepetitionFilter": {"top_n_grams": [[2, "a"]]}}],
            "key filters.0.GopherRepetitionFilter.top_n_grams.0.1: found 'a': Input should be a valid number",
        ),
        (["SamplerFilter"], "missing key filters.0.SamplerFilter.seed"),
        ([{"RegexFilter": {}}], "missing key filters.0.RegexFilter.regex_exp"),
        (
            [{"LengthFilter": {}, "LinesFilter": {}}],
            "key filters.0: expected a filter's name, or its name and arg",
        ),
        (
            {"C4QualityFilter": {}},
            r"key filters: datatrove's filters are given as a list, in their order: \[{C4",
        ),
        (
            [{"FineWebQualityFilter": {"language": "english"}}],
            "0.FineWebQualityFilter.language: found 'english': datatrove",
        ),
        (
            {"quality": {"language": "german"}},
            "key filters.quality.language: found 'german': datatrove knows no such language",
        ),
    ],
)
def test_mistakes_in_filters_are_named(tmp_path: Path, filters: object, message: str) -> None:
    path = write_corpus(tmp_path, base_config(SOURCES, filters=filters))
    with pytest.raises(UserError, match=message) as caught:
        load_corpus(path)
    assert str(path) in str(caught.value)


def test_a_language_needs_its_package_and_its_stop_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(language: str) -> None:
        raise ImportError(f"Please install `spacy` to use {language} word tokenizer (`pip install spacy`).")

    monkeypatch.setattr(word_tokenizers, "load_word_tokenizer", refuse)
    path = write_corpus(tmp_path, base_config(SOURCES, filters={"repetition": {"language": "deu"}}))
    with pytest.raises(
        UserError, match=r"filters.repetition.language: found 'deu': .*cannot be used here: .*spacy"
    ):
        load_corpus(path)
    monkeypatch.setattr(word_tokenizers, "load_word_tokenizer", lambda language: WORDS)
    chinese = write_corpus(tmp_path, base_config(SOURCES, filters={"repetition": {"language": "zho"}}))
    with pytest.raises(UserError, match=r"'zho': datatrove looks for words between spaces .*: zho_Hani"):
        load_corpus(chinese)
    path = write_corpus(tmp_path, base_config(SOURCES, filters={"repetition": {"language": "deu"}}))
    load_corpus(path)
    path = write_corpus(tmp_path, base_config(SOURCES, filters={"quality": {"language": "deu"}}))
    with pytest.raises(
        UserError, match=r"filters.quality: language 'deu': min_stop_words \(2\) counts English words"
    ):
        load_corpus(path)
    words = {"language": "deu", "stop_words": ["der", "die", "und"]}
    load_corpus(write_corpus(tmp_path, base_config(SOURCES, filters={"quality": words})))


def test_a_list_of_filters_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    filters = [{"length": {"min_chars": 7}}, "C4ParagraphFilter", {"SamplerFilter": {"rate": 1, "seed": 3}}]
    render(load_corpus(write_corpus(tmp_path, base_config(SOURCES, filters=filters))), tmp_path)
    written = yaml.safe_load(FilterSettings.path(tmp_path).read_text())["filters"]
    length = {"length": {"max_chars": 1_000_000, "min_chars": 7}}
    assert written == [length, {"C4ParagraphFilter": {}}, {"SamplerFilter": {"rate": 1, "seed": 3}}]
    assert list(FilterSettings.read(tmp_path).plain()["filters"]) == written


def test_a_whole_number_may_be_written_with_an_exponent(tmp_path: Path) -> None:
    path = write_corpus(tmp_path, base_config(SOURCES))
    path.write_text(path.read_text() + "tokens: {tokens_per_shard: 1e9}\n")
    assert load_corpus(path).tokens.tokens_per_shard == 10**9


def test_all_mistakes_are_listed_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        load_corpus(write_corpus(tmp_path, base_config(SOURCES) | {"tasks": 0, "job": 1}))
    assert len(str(caught.value).splitlines()) == 2


def test_files_that_are_no_configs(tmp_path: Path) -> None:
    write_corpus(tmp_path, base_config(SOURCES), name="known")
    with pytest.raises(UserError, match=r"unknown corpus 'unknown'.*has: .*known"):
        load_corpus(tmp_path / "unknown.yaml")
    (tmp_path / "broken.yaml").write_text("a: [")
    with pytest.raises(UserError, match="not valid YAML"):
        load_corpus(tmp_path / "broken.yaml")
    (tmp_path / "list.yaml").write_text("[1]")
    with pytest.raises(UserError, match="expected a mapping of keys to values, found list"):
        load_corpus(tmp_path / "list.yaml")


def rendered(corpus: CorpusConfig, root: Path = Path()) -> dict[str, dict[str, Any]]:
    """The settings of each step."""
    return {step: kind.of(corpus, root).plain() for step, kind in SETTINGS.items()}


def test_rendering_writes_only_what_changes(tmp_path: Path) -> None:
    corpus = load_corpus(write_corpus(tmp_path, base_config(SOURCES)))
    render(corpus, tmp_path / "out")
    paths = {step: kind.path(tmp_path / "out") for step, kind in SETTINGS.items()}
    before = {step: path.stat().st_mtime_ns for step, path in paths.items()}
    render(corpus, tmp_path / "out")
    assert before == {step: path.stat().st_mtime_ns for step, path in paths.items()}
    assert yaml.safe_load(paths["split"].read_text()) == {"heldout": {"fraction": 0.1, "seed": 0}, "tasks": 2}


@pytest.mark.parametrize("path", sorted(CORPORA.glob("*.yaml")), ids=lambda path: path.stem)
def test_settings_are_read_back_as_they_were_written(path: Path, tmp_path: Path) -> None:
    corpus = load_corpus(path)
    render(corpus, tmp_path, ROOT)
    for kind in SETTINGS.values():
        assert kind.read(tmp_path) == kind.of(corpus, ROOT)


def test_settings_of_another_version_are_named(tmp_path: Path) -> None:
    render(load_corpus(write_corpus(tmp_path, base_config(SOURCES))), tmp_path)
    path = SplitSettings.path(tmp_path)
    path.write_text(path.read_text().replace("fraction", "share"))
    with pytest.raises(UserError, match=r"config/split.yaml: unknown key heldout.share"):
        SplitSettings.read(tmp_path)


@pytest.mark.parametrize(
    ("changes", "touched"),
    [
        ({"filters": {"length": {"min_chars": 101}}}, {"filter"}),
        ({"sources": [SOURCES[0] | {"limit_per_task": 9}]}, {"filter"}),
        ({"dedup": {"num_buckets": 9}}, {"deduplicate"}),
        ({"heldout": {"seed": 1}}, {"split"}),
        ({"tokenizer": {"kind": "train", "vocab_size": 500}}, {"tokenizer"}),
        ({"tokens": {"seed": 1}}, {"tokens"}),
        ({"tasks": 3}, {"filter", "deduplicate", "split", "tokens"}),
        ({"jobs": 2}, set()),
    ],
)
def test_an_edit_touches_its_step(tmp_path: Path, changes: dict[str, Any], touched: set[str]) -> None:
    old = rendered(load_corpus(write_corpus(tmp_path, base_config(SOURCES))))
    new = rendered(load_corpus(write_corpus(tmp_path, base_config(SOURCES) | changes)))
    assert {step for step in SETTINGS if old[step] != new[step]} == touched


def test_pins_and_tokenizer_files_are_part_of_the_settings(tmp_path: Path) -> None:
    (tmp_path / "pins.txt").write_text("click==1.0\nRich==2.0  # comment\nother==3.0\n")
    (tmp_path / "tokenizer.json").write_text("{}")
    source = {"kind": "installed_packages", "packages": ["rich", "click"], "pins": "pins.txt"}
    tokenizer = {"kind": "file", "path": "tokenizer.json", "eos_token": "e"}
    corpus = load_corpus(write_corpus(tmp_path, base_config([source], tokenizer=tokenizer)))
    settings = rendered(corpus, tmp_path)
    assert settings["filter"]["versions"] == {"click": "1.0", "rich": "2.0"}
    assert settings["filter"]["sources"][0]["packages"] == ["click", "rich"]
    (tmp_path / "pins.txt").write_text("click==1.0\nRich==2.0\nother==4.0\n")
    assert rendered(corpus, tmp_path) == settings  # a pin that the corpus does not read
    (tmp_path / "pins.txt").write_text("click==1.1\nRich==2.0\n")
    assert rendered(corpus, tmp_path)["filter"] != settings["filter"]
    (tmp_path / "tokenizer.json").write_text("{ }")
    assert rendered(corpus, tmp_path)["tokenizer"] != settings["tokenizer"]


@pytest.mark.parametrize(
    ("source", "tokenizer", "message"),
    [
        ({"packages": ["absent"]}, {}, r"packages \['absent'\] are not pinned in pins.txt"),
        ({"pins": "no.txt"}, {}, "no.txt: the file of pinned packages is missing"),
        ({"pins": "empty.txt"}, {}, "empty.txt: no line pins a package as name==version"),
        ({}, {"kind": "file", "path": "no.json", "eos_token": "e"}, "tokenizer.path: .*no.json is missing"),
    ],
)
def test_what_cannot_be_resolved(tmp_path: Path, source: dict, tokenizer: dict, message: str) -> None:
    (tmp_path / "pins.txt").write_text("click==1.0\n")
    (tmp_path / "empty.txt").write_text("# nothing\n")
    given = {"kind": "installed_packages", "packages": "pinned", "pins": "pins.txt"} | source
    changes = {"tokenizer": tokenizer} if tokenizer else {}
    corpus = load_corpus(write_corpus(tmp_path, base_config([given], **changes)))
    with pytest.raises(UserError, match=message):
        render(corpus, tmp_path / "out", tmp_path)


def test_a_local_source_that_is_not_there_is_refused_when_the_config_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    corpus = load_corpus(write_corpus(tmp_path, base_config([{"kind": "jsonl", "path": "in/lines"}])))
    with pytest.raises(
        UserError, match=r"corpus small: source jsonl: path: found 'in/lines'; there is no such folder"
    ):
        render(corpus, tmp_path / "out")
    (tmp_path / "in" / "lines").mkdir(parents=True)
    render(corpus, tmp_path / "out")
    # Whoever has a finished corpus may clear its sources away.
    (tmp_path / "in" / "lines").rmdir()
    (tmp_path / "out" / "manifest.json").touch()
    render(corpus, tmp_path / "out")
