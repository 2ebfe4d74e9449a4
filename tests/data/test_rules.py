"""The rules through real Snakemake: a whole corpus, what an edit reruns, and a step spread over jobs."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.data.texts import base_config, document, write_corpus, write_dclm
from tst_titan.data.manifest import load_manifest
from tst_titan.data.step import load_done

REPOSITORY = Path(__file__).parents[2]
SNAKEFILE = f"""
from functools import cache
from pathlib import Path
ROOT = Path(workflow.basedir)
RESULTS = "results"
def cores(kind):
    return 1
def asks(kind, **computed):
    return computed
from tst_titan.config.corpus import load_corpus
from tst_titan.data.settings import render
if workflow.is_main_process:
    for name in ("small", "spread"):
        path = ROOT / "configs" / "corpora" / f"{{name}}.yaml"
        if path.is_file():
            render(load_corpus(path), f"{{RESULTS}}/data/{{name}}")
include: "{REPOSITORY}/workflow/rules/data.smk"
"""
RULES = [
    "filter_documents",
    "deduplicate_documents",
    "split_documents",
    "make_tokenizer",
    "tokenize",
    "data_manifest",
]


def snakemake(folder: Path, *arguments: str) -> str:
    """Run Snakemake in a folder; returns everything it says."""
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(REPOSITORY),
    }
    command = [sys.executable, "-m", "snakemake", "--cores", "1", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def planned(folder: Path, target: str) -> list[str]:
    """Rules that a dry run would run, in the pipeline's order."""
    said = snakemake(folder, "-n", target)
    return [rule for rule in RULES if f"rule {rule}:" in said]


def settings(folder: Path, **changes: Any) -> dict[str, Any]:
    """Config of the small corpus."""
    return base_config([{"kind": "parquet", "path": str(folder / "in")}]) | changes


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a Snakefile, a corpus, and everything built once."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "Snakefile").write_text(SNAKEFILE)
    for part in range(2):
        write_dclm(folder / "in" / f"{part}.parquet", [document(part * 100 + i) for i in range(60)])
    write_corpus(folder / "configs" / "corpora", settings(folder))
    said = snakemake(folder, "results/data/small/manifest.json")
    for line in (
        "data: small: filter: 120 documents read",
        "data: small: tokens:",
        "shards checked, identity",
    ):
        assert line in said
    return folder


@pytest.mark.slow
def test_everything_is_built_and_nothing_is_left_to_do(project: Path) -> None:
    load_manifest(project / "results" / "data" / "small" / "manifest.json")
    assert "Nothing to be done" in snakemake(project, "-n", "results/data/small/manifest.json")
    log = (project / "results" / "data" / "small" / "logs" / "filter.log").read_text()
    assert "datatrove" in log


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "first"),
    [
        ({"filters": {"length": {"min_chars": 150}}}, "filter_documents"),
        ({"dedup": None}, "deduplicate_documents"),
        ({"tokenizer": {"kind": "train", "vocab_size": 500}}, "make_tokenizer"),
        ({"tokens": {"seed": 9}}, "tokenize"),
    ],
)
def test_an_edit_reruns_its_step_and_what_follows(project: Path, changes: dict[str, Any], first: str) -> None:
    corpora = project / "configs" / "corpora"
    config = project / "results" / "data" / "small" / "config"
    saved = {path: (path.read_text(), path.stat()) for path in config.iterdir()}
    write_corpus(corpora, settings(project, **changes))
    try:
        assert planned(project, "results/data/small/manifest.json") == RULES[RULES.index(first) :]
    finally:  # a rendered config is newer than what was made from it, even if its text is back to what it was
        write_corpus(corpora, settings(project))
        for path, (text, state) in saved.items():
            path.write_text(text)
            os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


@pytest.mark.slow
def test_steps_spread_over_jobs_give_the_same_corpus(project: Path) -> None:
    write_corpus(project / "configs" / "corpora", settings(project, jobs=2), name="spread")
    said = snakemake(project, "results/data/spread/documents/deduplicate.done.json")
    assert said.count("rule data_part:") == 4
    assert "data: spread: filter: part 2 of 2 done" in said
    for step in ("filter", "deduplicate"):
        small, spread = (load_done(project / "results" / "data" / name, step) for name in ("small", "spread"))
        assert (small.counts, small.folder) == (spread.counts, spread.folder)


@pytest.mark.slow
def test_a_mistake_reaches_the_terminal(project: Path) -> None:
    changes = {"filters": {"length": {"min_chars": 10**6}}}
    write_corpus(project / "configs" / "corpora", settings(project, **changes), name="spread")
    with pytest.raises(
        AssertionError, match=r"data: spread: filter: filters: all 120 documents were dropped"
    ):
        snakemake(project, "results/data/spread/manifest.json")


@pytest.mark.slow
def test_lines_appended_to_a_source_rerun_everything(project: Path) -> None:
    """Unless the corpus says that its sources are fixed."""
    (project / "lines").mkdir()
    file = project / "lines" / "a.jsonl"
    file.write_text("".join(json.dumps({"text": document(500 + i)}) + "\n" for i in range(60)))
    lines = settings(project, sources=[{"kind": "jsonl", "path": "lines"}], tasks=1)
    write_corpus(project / "configs" / "corpora", lines, name="spread")
    target = "results/data/spread/manifest.json"
    snakemake(project, target)
    assert planned(project, target) == []
    with file.open("a") as more:
        more.write(json.dumps({"text": document(999)}) + "\n")
    write_corpus(project / "configs" / "corpora", lines | {"sources_are_fixed": True}, name="spread")
    assert planned(project, target) == []
    write_corpus(project / "configs" / "corpora", lines, name="spread")
    assert planned(project, target) == RULES
    assert "data: spread: filter: 61 documents read" in snakemake(project, target)
    assert planned(project, target) == []
    # As a version without lists left it: a list is written, and nothing reruns.
    config = project / "results" / "data" / "spread" / "config"
    state = (config / "filter.yaml").stat()
    (config / "sources.json").unlink()
    (config / "filter.yaml").write_text((config / "filter.yaml").read_text().partition("# Files of")[0])
    os.utime(config / "filter.yaml", ns=(state.st_atime_ns, state.st_mtime_ns))
    assert planned(project, target) == []
    assert (config / "sources.json").is_file()


QUIZ = """
task: quiz
dataset_path: json
dataset_kwargs: {{data_files: {{test: '{0}'}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "Question: {{{{question}}}}\\nAnswer:"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: label
"""


@pytest.mark.slow
def test_items_of_tasks_are_fetched_before_documents_are_compared_with_them(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real task of the harness, from its YAML to the documents that are dropped."""
    monkeypatch.setenv("HF_HOME", str(project / "hf"))
    question = "which of the three towers of the old castle was built before the others"
    items = project / "items.jsonl"
    items.write_text(
        json.dumps({"question": question, "choices": ["the east tower", "none"], "label": 0}) + "\n"
    )
    (project / "configs" / "tasks").mkdir()
    (project / "configs" / "tasks" / "quiz.yaml").write_text(QUIZ.format(items))
    (project / "known").mkdir()
    texts = [document(600 + i) for i in range(40)]
    texts += [
        f"{document(700)} {question}.",
        f"{document(701)} castle was built before the others? Answer: the east tower.",
    ]
    (project / "known" / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    asked = {"tasks": ["quiz"], "n_grams": 9}
    changes = {"sources": [{"kind": "jsonl", "path": "known"}], "decontamination": asked, "jobs": 2}
    write_corpus(project / "configs" / "corpora", settings(project, **changes), name="spread")
    target = "results/data/spread/documents/filter.done.json"
    assert "rule task_items:" in snakemake(project, "-n", target)
    snakemake(project, target)
    lines = (project / "results" / "tasks" / "quiz.items.jsonl").read_text().splitlines()
    assert [json.loads(line)["text"] for line in lines] == [
        f"Question: {question}\nAnswer: {choice}" for choice in ("the east tower", "none")
    ]
    dropped = load_done(project / "results" / "data" / "spread", "filter").counts["dropped"]
    assert dropped["decontamination"] == {"quiz": 2}
