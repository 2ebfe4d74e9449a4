"""The list of the sources' files: what datatrove's readers will find, and what a change of it does."""

import os
from pathlib import Path
from typing import Any, ClassVar

import pytest
from datatrove.io import get_datafolder

from tests.data.texts import base_config, build, document, write_corpus, write_dclm
from tst_titan.config.corpus import load_corpus
from tst_titan.data.listing import Listing, list_local
from tst_titan.data.settings import FilterSettings, render
from tst_titan.data.step import load_done


@pytest.mark.parametrize(
    "pattern",
    [
        "**/*.json*",
        "*.jsonl",
        ".jsonl",
        "a/*.jsonl",
        "a/**/*.jsonl",
        "*/*.jsonl",
        "**",
        "[ab]/x?.jsonl",
        "linked/*",
    ],
)
def test_the_list_is_what_datatrove_reads(tmp_path: Path, pattern: str) -> None:
    names = [
        "x.jsonl",
        "a/x1.jsonl",
        "a/b/x.jsonl.gz",
        "b/x2.jsonl",
        ".hidden.jsonl",
        "a/.h/y.jsonl",
        "b/z.txt",
    ]
    for name in [*names, "a/strange [1] ünï.jsonl", "a/new\nline.jsonl"]:
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_text(name)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "far.jsonl").write_text("far")
    (tmp_path / "in" / "linked").symlink_to(tmp_path / "other")
    (tmp_path / "in" / "file.jsonl").symlink_to(tmp_path / "other" / "far.jsonl")
    (tmp_path / "in" / "nowhere.jsonl").symlink_to(tmp_path / "absent")
    found = list_local(tmp_path / "in", pattern)
    assert [name for name, *_ in found] == get_datafolder(str(tmp_path / "in")).list_files(
        glob_pattern=pattern
    )
    assert found
    for name, size, time in found:
        path = tmp_path / "in" / name
        assert (size, time) == ((path.stat().st_size, path.stat().st_mtime_ns) if path.exists() else (-1, -1))


def config(folder: Path, **changes: Any) -> Path:
    source = {"kind": "parquet", "path": str(folder / "in")}
    return write_corpus(folder, base_config([source], tasks=1, **changes))


def test_results_without_a_list_get_one_and_stay_as_they_are(tmp_path: Path) -> None:
    write_dclm(tmp_path / "in" / "0.parquet", [document(i) for i in range(30)])
    build(config(tmp_path), tmp_path / "out", until="filter")
    done = load_done(tmp_path / "out", "filter")
    rendered = FilterSettings.path(tmp_path / "out")
    # As an earlier version left it.
    Listing.path(tmp_path / "out").unlink()
    rendered.write_text("".join(rendered.read_text().splitlines(keepends=True)[:-1]))
    os.utime(rendered, (1_700_000_000, 1_700_000_000))
    render(load_corpus(config(tmp_path)), tmp_path / "out")
    assert rendered.stat().st_mtime == 1_700_000_000
    assert Listing.path(tmp_path / "out").is_file()
    build(config(tmp_path), tmp_path / "out", until="filter")
    assert load_done(tmp_path / "out", "filter") == done
    # From here on it notices, and that a file is back to what it was as well.
    write_dclm(tmp_path / "in" / "1.parquet", [document(100)])
    render(load_corpus(config(tmp_path)), tmp_path / "out")
    assert rendered.stat().st_mtime > 1_700_000_000


def test_fixed_sources_are_listed_once(tmp_path: Path) -> None:
    file = tmp_path / "in" / "0.parquet"
    write_dclm(file, [document(0)])
    render(load_corpus(config(tmp_path, sources_are_fixed=True)), tmp_path / "out")
    listed = Listing.path(tmp_path / "out").read_text()
    os.utime(file, (1, 1))
    render(load_corpus(config(tmp_path, sources_are_fixed=True)), tmp_path / "out")
    assert Listing.path(tmp_path / "out").read_text() == listed
    render(load_corpus(config(tmp_path)), tmp_path / "out")
    assert Listing.path(tmp_path / "out").read_text() != listed


def test_a_finished_corpus_keeps_its_list_when_its_sources_are_gone(tmp_path: Path) -> None:
    file = tmp_path / "in" / "0.parquet"
    write_dclm(file, [document(0)])
    render(load_corpus(config(tmp_path)), tmp_path / "out")
    listed = Listing.path(tmp_path / "out").read_text()
    (tmp_path / "out" / "manifest.json").touch()
    file.unlink()
    render(load_corpus(config(tmp_path)), tmp_path / "out")
    file.parent.rmdir()
    render(load_corpus(config(tmp_path)), tmp_path / "out")
    assert Listing.path(tmp_path / "out").read_text() == listed


class Remote:
    """What stands for a file system behind a network: names with blob ids, or no answer."""

    found: ClassVar[dict[str, dict[str, Any]] | None] = {
        "a.parquet": {"type": "file", "size": 3, "blob_id": "1"}
    }

    def glob(self, pattern: str, detail: bool, expand_info: bool) -> dict[str, dict[str, Any]]:
        if self.found is None:
            raise ConnectionError
        return self.found


def test_remote_sources_by_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datatrove.io.get_datafolder", lambda path: Remote())
    source = {"kind": "parquet", "path": "hf://datasets/owner/name"}
    corpus = load_corpus(write_corpus(tmp_path, base_config([source])))
    render(corpus, tmp_path / "out")
    first = Listing.read(tmp_path / "out")
    assert first and first.files == {"parquet": [("a.parquet", 3, "1")]} and not first.taken_over
    monkeypatch.setattr(Remote, "found", None)
    render(corpus, tmp_path / "out")
    again = Listing.read(tmp_path / "out")
    assert again and again.files == first.files
    # An earlier version's corpus has no revision in its folder's name: until it changes, it stays out of it.
    monkeypatch.undo()
    monkeypatch.setattr("datatrove.io.get_datafolder", lambda path: Remote())
    rendered = FilterSettings.path(tmp_path / "out")
    rendered.write_text("".join(rendered.read_text().splitlines(keepends=True)[:-1]))
    Listing.path(tmp_path / "out").unlink()
    for blob, taken_over in (("1", ["parquet"]), ("1", ["parquet"]), ("2", [])):
        monkeypatch.setattr(Remote, "found", {"a.parquet": {"type": "file", "size": 3, "blob_id": blob}})
        render(corpus, tmp_path / "out")
        found = Listing.read(tmp_path / "out")
        assert found and found.taken_over == taken_over
