"""The pipeline on real datatrove, from parquet and JSON lines made here to checked shards."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from tests.data.texts import (
    base_config,
    build,
    document,
    near_copy,
    texts_of,
    write_corpus,
    write_dclm,
    write_fineweb,
)
from tst_titan.cli import main
from tst_titan.config.corpus import load_corpus
from tst_titan.data.documents import TaskReader
from tst_titan.data.filter import Filter
from tst_titan.data.manifest import DataManifest, load_manifest
from tst_titan.data.settings import render
from tst_titan.data.shards import iterate_documents, read_sources, sha256_of, verify_shards
from tst_titan.data.step import Done, load_done, prune
from tst_titan.errors import UserError

UNIQUE = 300
COPIES = 40


def all_texts() -> list[str]:
    """Unique documents, near-copies and exact copies of the first of them, and some that filters drop."""
    unique = [document(seed) for seed in range(UNIQUE)]
    near = [near_copy(unique[i], seed=i) for i in range(COPIES)]
    short = ["Too short." for _ in range(5)]
    wordless = [" ".join(str(i * j) for i in range(80)) for j in range(1, 4)]
    return [
        *unique,
        *near,
        *unique[:10],
        *short,
        *wordless,
        "the end <|endoftext|> is not the end. " + unique[299],
    ]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Parquet files in a nested folder, copies far from their originals."""
    folder = tmp_path_factory.mktemp("data")
    texts = all_texts()
    for part in range(4):
        write_dclm(folder / "dclm" / "global-shard" / f"part{part}.parquet", texts[part::4])
    return folder


@pytest.fixture(scope="module")
def config(data: Path) -> Path:
    """Config of the parquet corpus."""
    sources = [{"kind": "parquet", "path": str(data / "dclm"), "name": "dclm"}]
    return write_corpus(data, base_config(sources))


@pytest.fixture(scope="module")
def built(data: Path, config: Path) -> Path:
    """Folder of the finished corpus, made by one worker."""
    build(config, data / "one", workers=1)
    return data / "one"


@pytest.fixture(scope="module")
def manifest(built: Path) -> DataManifest:
    """Its manifest."""
    return load_manifest(built / "manifest.json")


def test_counts_add_up(manifest: DataManifest) -> None:
    documents = manifest.documents
    dropped = sum(sum(reasons.values()) for reasons in documents.dropped.values())
    assert documents.read == len(all_texts()) == documents.read_by_source["dclm"]
    assert documents.read == dropped + sum(documents.duplicates.values()) + documents.kept
    assert documents.kept == manifest.train.documents + manifest.heldout.documents
    assert documents.dropped["length"] == {"too_short": 5}
    assert documents.dropped["quality"] == {"gopher_below_avg_threshold": 3}
    assert documents.duplicates["exact"] == 10
    assert documents.read_bytes == sum(len(text.encode()) for text in all_texts())
    assert not manifest.warnings


def test_near_duplicates_do_not_reach_both_splits(built: Path, manifest: DataManifest) -> None:
    train, heldout = texts_of(built, "train"), texts_of(built, "heldout")
    originals = [document(seed) for seed in range(COPIES)]
    copies = [near_copy(text, seed=seed) for seed, text in enumerate(originals)]
    kept = set(train) | set(heldout)
    survivors = [(a in kept) + (b in kept) for a, b in zip(originals, copies, strict=True)]
    assert min(survivors) == 1  # one of each pair stays
    assert survivors.count(1) >= COPIES - 1  # and with these settings all but a stray pair are found
    assert manifest.documents.duplicates["near"] >= COPIES - 1
    assert len(kept) == len(train) + len(heldout)


def test_holdout_depends_on_the_text_alone(built: Path, tmp_path: Path) -> None:
    heldout = set(texts_of(built, "heldout"))
    assert 0.04 * UNIQUE < len(heldout) < 0.2 * UNIQUE
    # The same documents in another format, order and number of tasks: the same hold-out.
    texts = sorted(text for text in all_texts() if len(text) > 100)
    lines = "\n".join(json.dumps({"body": text, "other": 1}) for text in texts)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jsonl").write_text(lines)
    source = {"kind": "jsonl", "path": str(tmp_path / "in"), "text_key": "body"}
    path = write_corpus(tmp_path, base_config([source], tasks=1, dedup=None))
    build(path, tmp_path / "out", until="split")
    again = set(texts_of(tmp_path / "out", "heldout"))
    assert heldout <= again  # what the first corpus lacks is what it removed as a duplicate
    assert not again & set(texts_of(built, "train"))


def test_shards_decode_to_the_documents(built: Path, manifest: DataManifest) -> None:
    tokenizer = Tokenizer.from_file(str(built / manifest.tokenizer.path))
    for split in ("train", "heldout"):
        found = []
        for ids in iterate_documents(built / "manifest.json", split):
            assert ids[-1] == manifest.tokenizer.eos_id
            assert (ids[:-1] != manifest.tokenizer.eos_id).all()  # also where the text spells the token
            found.append(tokenizer.decode(ids[:-1].tolist(), skip_special_tokens=False))
        assert Counter(found) == Counter(texts_of(built, split))
        part = manifest.split(split)
        assert part.text_bytes == sum(len(text.encode()) for text in found)
        assert part.documents == len(found)
    assert "<|endoftext|>" in "".join(texts_of(built, "train") + texts_of(built, "heldout"))


def test_training_documents_are_shuffled_across_tasks(built: Path, manifest: DataManifest) -> None:
    tokenizer = Tokenizer.from_file(str(built / manifest.tokenizer.path))
    order = {text: place for place, text in enumerate(texts_of(built, "train"))}
    places = [
        order[tokenizer.decode(ids[:-1].tolist(), skip_special_tokens=False)]
        for ids in iterate_documents(built / "manifest.json", "train")
    ]
    assert abs(np.corrcoef(places, range(len(places)))[0, 1]) < 0.25
    half = len(places) // 2
    assert 0.3 < np.mean(np.array(places[:half]) < half) < 0.7  # both tasks' documents come early and late


def test_same_bytes_for_any_number_of_workers(data: Path, config: Path, built: Path) -> None:
    build(config, data / "two", workers=2)
    one, two = load_manifest(built / "manifest.json"), load_manifest(data / "two" / "manifest.json")
    ignored = {"seconds", "corpus"}
    assert one.model_dump(exclude=ignored) == two.model_dump(exclude=ignored)
    for shard in (*one.train.shards, *one.heldout.shards):
        assert (built / shard.path).read_bytes() == (data / "two" / shard.path).read_bytes()


def test_a_second_run_changes_nothing(built: Path, config: Path) -> None:
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in built.rglob("*.ds*")}
    text = (built / "manifest.json").read_text()
    done = (built / "documents" / "filter.done.json").read_text()
    (built / "documents" / "filter.done.json").unlink()  # as Snakemake does before it runs a rule again
    build(config, built)
    assert (built / "documents" / "filter.done.json").read_text() == done
    assert (built / "manifest.json").read_text() == text
    assert before == {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in built.rglob("*.ds*")}


def test_new_threshold_works_in_a_new_folder(data: Path, config: Path, built: Path, tmp_path: Path) -> None:
    old = load_done(built, "filter")
    changed = load_corpus(config).model_dump(mode="json", exclude={"name"}, exclude_none=True)
    changed["filters"]["length"]["min_chars"] = 630
    path = write_corpus(tmp_path, changed)
    folder = tmp_path / "out"
    build(config, folder, until="filter")
    build(path, folder, until="filter")
    new = load_done(folder, "filter")
    assert new.folder != old.folder
    assert new.counts["dropped"]["length"]["too_short"] > old.counts["dropped"]["length"]["too_short"]
    assert [f.name for f in prune(folder)] == [Path(old.folder).name]
    assert (folder / new.folder).is_dir()


def test_changed_data_and_changed_code_are_not_taken_for_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "in" / "0.parquet"
    write_dclm(file, [document(i) for i in range(30)])
    path = write_corpus(tmp_path, base_config([{"kind": "parquet", "path": str(tmp_path / "in")}], tasks=1))
    folder = tmp_path / "out"
    seen = []

    def filtered() -> Done:
        build(path, folder, until="filter")
        done = load_done(folder, "filter")
        seen.append(done.folder)
        return done

    first = filtered()
    assert filtered() == first
    write_dclm(file, [document(i) for i in range(40)])  # the config is the same, the data are not
    assert filtered().counts["read"] == 40
    monkeypatch.setattr("tst_titan.data.step.code_digest", lambda: "edited")
    assert filtered().code == "edited"
    assert filtered().folder == seen[-2]  # and once more with the same code: nothing to do
    assert len(set(seen)) == 3


def test_documents_hold_nothing_of_this_machine(built: Path, data: Path) -> None:
    done = load_done(built, "filter")
    found = list(TaskReader(str(built / done.folder / "documents")).run(rank=0))
    assert found and all(item.metadata == {"source": "dclm"} for item in found)
    assert found[0].id == "global-shard/part0.parquet/0"


def test_a_killed_step_resumes_task_by_task(data: Path, tmp_path: Path) -> None:
    for part in range(6):
        write_fineweb(
            tmp_path / "in" / f"{part}.parquet", [document(part * 1000 + i, 200) for i in range(400)]
        )
    source = {"kind": "parquet", "path": str(tmp_path / "in")}
    path = write_corpus(tmp_path, base_config([source], tasks=6))
    folder = tmp_path / "killed"
    render(load_corpus(path), folder)
    process = subprocess.Popen(
        [sys.executable, "-m", "tst_titan.cli", "data", "filter", "--folder", str(folder)],
        stderr=subprocess.DEVNULL,
    )
    marks: list[Path] = []
    while len(marks) < 2:
        assert process.poll() is None, "the step ended before it could be killed: give it more documents"
        marks = list(folder.glob("documents/filter-*/logs/filter/completions/*"))
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (folder / "documents" / "filter.done.json").exists()
    finished = {
        mark: mark.stat().st_mtime_ns for mark in folder.glob("documents/filter-*/logs/filter/completions/*")
    }
    assert len(finished) < 6
    Filter(folder).run(1)
    for mark, changed in finished.items():
        assert mark.stat().st_mtime_ns == changed, "a finished task was run again"
    build(path, tmp_path / "straight", until="filter")
    assert hashes(folder) == hashes(tmp_path / "straight")
    assert load_done(folder, "filter").counts == load_done(tmp_path / "straight", "filter").counts


def hashes(folder: Path) -> dict[str, str]:
    """Hash of every document file of a corpus folder."""
    return {str(path.relative_to(folder)): sha256_of(path) for path in folder.rglob("*.jsonl.zst")}


def test_parts_in_several_jobs_equal_one_job(config: Path, built: Path, tmp_path: Path) -> None:
    folder = tmp_path / "small"
    render(load_corpus(config), folder)
    for step in ("filter", "deduplicate", "split", "tokenizer", "tokens", "manifest"):
        if step in ("filter", "deduplicate", "split", "tokens"):
            for part in (1, 0):
                done = folder / "parts" / f"{step}-{part}.json"
                flags = ["--part", str(part), "--parts", "2", "--done", str(done)]
                assert main(["data", step, "--folder", str(folder), *flags]) == 0
                assert done.is_file()
        assert main(["data", step, "--folder", str(folder)]) == 0
    assert load_manifest(folder / "manifest.json").identity == load_manifest(built / "manifest.json").identity


def test_mixture_keeps_the_shares_asked_for(tmp_path: Path) -> None:
    write_dclm(tmp_path / "a" / "0.parquet", [document(i, 100) for i in range(900)])
    write_fineweb(tmp_path / "b" / "0.parquet", [document(5000 + i, 150) for i in range(250)])
    sources = [
        {"kind": "parquet", "path": str(tmp_path / "a"), "name": "a", "weight": 3},
        {"kind": "parquet", "path": str(tmp_path / "b"), "name": "b", "weight": 2},
    ]
    path = write_corpus(tmp_path, base_config(sources, tasks=1, dedup=None))
    manifest = build(path, tmp_path / "out")
    assert manifest is not None
    share = manifest.train.text_bytes_by_source["a"] / manifest.train.text_bytes
    assert share == pytest.approx(0.6, abs=0.03)
    # The scarcer source is used whole, the other one thinned out, and the manifest says so.
    dropped = manifest.documents.dropped["mixture"]
    assert dropped["b"] == 0 and 100 < dropped["a"] < 900
    assert manifest.documents.kept == 1150 - sum(dropped.values())
    # And which held-out document is whose.
    noted = read_sources(tmp_path / "out/manifest.json", manifest)
    assert noted is not None
    tokenizer = Tokenizer.from_file(str(tmp_path / "out" / manifest.tokenizer.path))
    source_of = {document(i, 100): "a" for i in range(900)} | {
        document(5000 + i, 150): "b" for i in range(250)
    }
    held = [
        tokenizer.decode(ids[:-1].tolist())
        for ids in iterate_documents(tmp_path / "out/manifest.json", "heldout")
    ]
    assert noted.tolist() == [source_of[text] for text in held] and set(noted) == {"a", "b"}
    assert (
        sum(len(text.encode()) for text in held if source_of[text] == "a")
        == (manifest.heldout.text_bytes_by_source["a"])
    )


def test_filters_see_the_columns_that_a_source_keeps(data: Path, tmp_path: Path) -> None:
    source = {"kind": "parquet", "path": str(data / "dclm"), "metadata": ["url"]}
    url = {"URLFilter": {"use_integrated_lists": False, "extra_urls": ["https://example.org/3"]}}
    short = {"RegexFilter": {"regex_exp": "^Too short"}}
    build(
        write_corpus(tmp_path, base_config([source], filters=[short, url])), tmp_path / "out", until="filter"
    )
    counts = load_done(tmp_path / "out", "filter").counts
    assert counts["dropped"]["RegexFilter"] == {"no_reason_given": 5}
    assert sum(counts["dropped"]["URLFilter"].values()) == 4
    assert counts["kept"] == counts["read"] - 9
    wrong = source | {"metadata": ["uri"]}
    with pytest.raises(UserError, match=r"metadata: 'uri' is not in .*there are: .*url"):
        build(write_corpus(tmp_path, base_config([wrong], filters=[url])), tmp_path / "out", until="filter")


def test_within_task_shuffle_and_small_shards(data: Path, tmp_path: Path) -> None:
    source = {"kind": "parquet", "path": str(data / "dclm"), "limit_per_task": 60}
    tokens = {"shuffle": "within_task", "tokens_per_shard": 4000}
    path = write_corpus(tmp_path, base_config([source], tokens=tokens))
    manifest = build(path, tmp_path / "out")
    assert manifest is not None
    assert manifest.documents.read == 120
    assert len(manifest.train.shards) > 4
    assert sum(shard.documents for shard in manifest.train.shards) == manifest.train.documents
    verify_shards(tmp_path / "out" / "manifest.json")


@pytest.mark.parametrize(
    ("source", "changes", "message"),
    [
        ({"path": "{data}/nowhere"}, {}, "there is no such folder"),
        ({"text_key": "content"}, {}, "text_key: 'content' is not in .*there are: .*text, url"),
        ({"glob": "*.txt"}, {}, r"no file matches '\*.txt'"),
        ({}, {"filters": {"length": {"min_chars": 10**6}}}, "all .* documents were dropped .*too_short"),
        ({}, {"heldout": {"fraction": 1e-9}}, "heldout.fraction: 1e-09 leaves no heldout document"),
    ],
)
def test_user_errors(data: Path, tmp_path: Path, source: dict, changes: dict, message: str) -> None:
    given = {"kind": "parquet", "path": str(data / "dclm")} | {
        k: v.format(data=data) for k, v in source.items()
    }
    path = write_corpus(tmp_path, base_config([given], **changes))
    with pytest.raises(UserError, match=message):
        build(path, tmp_path / "out", until="split")
    assert not (tmp_path / "out" / "manifest.json").exists()


@pytest.mark.parametrize("fraction", [0.0001, 0.01])
def test_a_hold_out_of_nothing_says_which_fraction_would_do(tmp_path: Path, fraction: float) -> None:
    write_dclm(tmp_path / "in" / "0.parquet", [document(i) for i in range(30)])
    source = {"kind": "parquet", "path": str(tmp_path / "in")}
    config = base_config([source], heldout={"fraction": fraction})
    with pytest.raises(UserError, match=f"{fraction} leaves no heldout document of 30; ") as error:
        build(write_corpus(tmp_path, config), tmp_path / "out", until="split")
    found = re.search(r"; (0\.\d+) would hold out (\d+)$", str(error.value))
    assert found
    config["heldout"]["fraction"] = float(found[1])
    build(write_corpus(tmp_path, config), tmp_path / "out", until="split")
    assert len(texts_of(tmp_path / "out", "heldout")) == int(found[2]) > 0


def test_a_remote_source_out_of_reach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    source = {"kind": "parquet", "path": "hf://datasets/nobody/nothing"}
    path = write_corpus(tmp_path, base_config([source]))
    with pytest.raises(
        UserError, match=r"source parquet: path: cannot read hf://datasets/nobody/nothing: .*offline"
    ):
        build(path, tmp_path / "out", until="filter")


def test_command_line_reports_user_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "filter", "--folder", str(tmp_path)]) == 2
    assert "render the corpus config first" in capsys.readouterr().err
