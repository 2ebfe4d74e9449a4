"""Corpus configs: what is refused and how, what is rendered, and which edit touches which step."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.data.texts import base_config, write_corpus
from tst_titan.data.config import load_corpus, render_steps
from tst_titan.data.corpus import STEPS, CorpusConfig, corpus_identity, step_settings
from tst_titan.errors import UserError

ROOT = Path(__file__).parents[2]
SOURCES = [{"kind": "parquet", "path": "somewhere"}]


@pytest.mark.parametrize(
    "path", sorted((ROOT / "configs" / "corpora").glob("*.yaml")), ids=lambda path: path.stem
)
def test_shipped_corpora_load_and_resolve(path: Path) -> None:
    corpus = load_corpus(path)
    assert corpus.name == path.stem
    assert set(step_settings(corpus, ROOT)) == set(STEPS)


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
            r"unknown key fliters \(did you mean 'filters'\?\); valid keys here: .*sources, filters, dedup",
        ),
        (
            {"filters": {"length": {"min_char": 3}}},
            r"unknown key filters.length.min_char \(did you mean 'min_chars'\?\); valid keys here: .*max_chars",
        ),
        (
            {"sources": [{"kind": "parquet", "path": "p", "textkey": "a"}]},
            r"unknown key sources.0.parquet.textkey \(did you mean 'text_key'\?\); valid keys here: .*glob, text_key",
        ),
        (
            {"sources": [{"kind": "installed_packages", "part": ["docs"]}]},
            r"sources.0.installed_packages.part \(did you mean 'parts'\?\); valid keys here: .*exclude",
        ),
        ({"sources": [{"kind": "csv", "path": "p"}]}, r"key sources.0: .*'csv'.*'parquet'"),
        ({"sources": [{"kind": "parquet"}]}, "missing key sources.0.parquet.path"),
        ({"sources": []}, "sources: found .*at least 1 item"),
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
        ({"jobs": 3}, r"jobs \(3\) must not exceed tasks \(2\)"),
        ({"name": "other"}, "name: found 'other'; the name is the file's"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = write_corpus(tmp_path, base_config(SOURCES) | changes)
    with pytest.raises(UserError, match=message) as caught:
        load_corpus(path)
    assert str(path) in str(caught.value)


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


def test_rendering_writes_only_what_changes(tmp_path: Path) -> None:
    config = write_corpus(tmp_path, base_config(SOURCES))
    paths = render_steps(load_corpus(config), tmp_path / "out")
    before = {step: path.stat().st_mtime_ns for step, path in paths.items()}
    render_steps(load_corpus(config), tmp_path / "out")
    assert before == {step: path.stat().st_mtime_ns for step, path in paths.items()}
    assert yaml.safe_load(paths["split"].read_text()) == {"heldout": {"fraction": 0.1, "seed": 0}, "tasks": 2}


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
    old = step_settings(load_corpus(write_corpus(tmp_path, base_config(SOURCES))))
    corpus = load_corpus(write_corpus(tmp_path, base_config(SOURCES) | changes))
    new = step_settings(corpus)
    assert {step for step in STEPS if old[step] != new[step]} == touched
    assert (
        corpus_identity(corpus) == corpus_identity(load_corpus(write_corpus(tmp_path, base_config(SOURCES))))
    ) == (not touched)


def test_pins_and_tokenizer_files_are_part_of_the_settings(tmp_path: Path) -> None:
    (tmp_path / "pins.txt").write_text("click==1.0\nRich==2.0  # comment\nother==3.0\n")
    (tmp_path / "tokenizer.json").write_text("{}")
    source = {"kind": "installed_packages", "packages": ["rich", "click"], "pins": "pins.txt"}
    tokenizer = {"kind": "file", "path": "tokenizer.json", "eos_token": "e"}
    corpus = load_corpus(write_corpus(tmp_path, base_config([source], tokenizer=tokenizer)))
    settings = step_settings(corpus, tmp_path)
    assert settings["filter"]["versions"] == {"click": "1.0", "rich": "2.0"}
    assert settings["filter"]["sources"][0]["packages"] == ["click", "rich"]
    identity = corpus_identity(corpus, tmp_path)
    (tmp_path / "pins.txt").write_text("click==1.0\nRich==2.0\nother==4.0\n")
    assert corpus_identity(corpus, tmp_path) == identity  # a pin that the corpus does not read
    (tmp_path / "pins.txt").write_text("click==1.1\nRich==2.0\n")
    assert corpus_identity(corpus, tmp_path) != identity
    identity = corpus_identity(corpus, tmp_path)
    (tmp_path / "tokenizer.json").write_text("{ }")
    assert corpus_identity(corpus, tmp_path) != identity


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
        render_steps(corpus, tmp_path / "out", tmp_path)
