"""What the data steps give, byte for byte: frozen, since another data identity trains everybody's finished runs again.

`python -m tests.data.test_golden` writes the golden files again, after a change that is meant to change them.
"""

import hashlib
import io
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml
import zstandard
from datatrove.io import DataFolder
from tokenizers import Tokenizer, models

from tests.data.texts import base_config, build, document, near_copy, write_corpus, write_dclm, write_fineweb
from tests.shipped import shipped_root
from tst_titan.config.corpus import load_corpus
from tst_titan.data.settings import render

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "data"
SECOND = 1_700_000_000  # files of a source have a time, which is part of the steps' folder names


def sources_of_every_kind() -> None:
    """Below the current folder: parquet with the columns of two data sets, JSON lines, packages' pins, a tokenizer."""
    unique = [document(seed) for seed in range(240)]
    copies = [near_copy(unique[i], seed=i) for i in range(30)]
    dropped = [
        "Too short.",
        " ".join(str(i * 7) for i in range(90)),
        "\n".join([unique[0].splitlines()[0]] * 12),
        "x" * 400 + " " + unique[1],
        "word " * 400,
        unique[2].replace("the", "####"),
    ]
    spelled = "the end <|endoftext|> is not the end. " + unique[3]
    texts = [*unique, *copies, *unique[:10], *dropped, spelled]
    for part in range(4):
        write_dclm(Path(f"in/dclm/shard/part{part}.parquet"), texts[part::4])
    write_fineweb(Path("in/fineweb/0.parquet"), [document(5000 + i, 150) for i in range(80)])
    lines = [json.dumps({"body": document(7000 + i, 90), "other": i}) for i in range(90)]
    Path("in/lines").mkdir()
    Path("in/lines/a.jsonl").write_text("\n".join(lines[:50]))
    Path("in/lines/b.jsonl").write_text("\n".join(lines[50:]))
    Path("in/lines/c.txt").write_text("not asked for")
    vocabulary = {"<end>": 0} | {chr(code): code - 31 for code in range(32, 127)}
    Tokenizer(models.BPE(vocabulary, [])).save("in/tokenizer.json")
    shutil.copy(ROOT / "envs" / "requirements.txt", "in/pins.txt")
    for path in Path("in").rglob("*"):
        os.utime(path, (SECOND, SECOND))


DCLM: dict[str, Any] = {"kind": "parquet", "path": "in/dclm", "name": "dclm"}
EVERY_FILTER: dict[str, Any] = {
    "length": {"min_chars": 100, "max_chars": 50_000},
    "lines": {"max_line_chars": 900},
    "quality": {"min_doc_words": 20, "min_alpha_words_ratio": 0.5},
    "repetition": {"top_n_grams": {2: 0.25, 4: 0.2}, "dup_n_grams": {5: 0.2}},
    "dropped_sample": 3,
}
CORPORA: dict[str, tuple[dict[str, Any], int]] = {
    # Name -> its config, and the jobs that share each of its steps.
    "every_reader": (
        base_config(
            [
                DCLM | {"weight": 3},
                {"kind": "parquet", "path": "in/fineweb", "name": "fineweb", "weight": 1.5},
                {"kind": "jsonl", "path": "in/lines", "text_key": "body", "weight": 1, "limit_per_task": 30},
                {
                    "kind": "installed_packages",
                    "packages": ["click", "Jinja2"],
                    "parts": ["docstrings", "sources"],
                    "exclude": ["^jinja2/"],
                    "pins": "in/pins.txt",
                    "weight": 2,
                },
            ],
            filters=EVERY_FILTER,
            dedup={"num_buckets": 6, "hashes_per_bucket": 4, "tasks_per_bucket": 2},
            tokens={"seed": 3, "batch_documents": 7},
            tasks=3,
        ),
        1,
    ),
    "several_jobs": (
        base_config(
            [DCLM | {"glob": "**/part[0-2].parquet", "limit_per_task": 70}],
            tokens={"shuffle": "within_task", "tokens_per_shard": 4000},
            tasks=3,
            jobs=2,
        ),
        2,
    ),
    "tokenizer_file": (
        base_config(
            [DCLM],
            filters={},
            dedup=None,
            tokenizer={"kind": "file", "path": "in/tokenizer.json", "eos_token": "<end>"},
        ),
        1,
    ),
    "llama3": (base_config([DCLM], filters={"length": {}}, tokenizer={"kind": "llama3"}), 1),
    "qwen3": (base_config([DCLM], filters={"lines": {}}, tokenizer={"kind": "qwen3"}), 1),
}


def seen_in(folder: Path) -> dict[str, Any]:
    """What a finished corpus folder says and holds; times, versions and the hash of the code left out."""
    manifest = json.loads((folder / "manifest.json").read_text())
    # What later versions count besides changes no byte of a corpus.
    manifest["tokenizer"].pop("round_trip")
    manifest["documents"].pop("sources")
    for shard in (*manifest["train"]["shards"], *manifest["heldout"]["shards"]):
        shard.pop("blocks")
    steps = {}
    for path in sorted(folder.glob("*/*.done.json")):
        done = json.loads(path.read_text())
        for later in ("round_trip", "sources"):
            done["counts"].pop(later, None)
        steps[done["step"]] = {k: v for k, v in done.items() if k not in ("code", "seconds")}
    return {
        "manifest": {key: value for key, value in manifest.items() if key not in ("seconds", "versions")},
        "steps": steps,
        # Snakemake runs a step again when its file changes, so its text is frozen too; the sources' hash, which came
        # later, leaves the file's time (test_listing.py).
        "config": {
            path.name: path.read_text().partition("# Files of the sources")[0]
            for path in sorted(folder.glob("config/*.yaml"))
        },
        "files": {
            path.relative_to(folder).as_posix(): hash_of(path)
            for step in steps.values()
            for path in sorted((folder / step["folder"]).rglob("*"))
            if path.name.endswith((".jsonl", ".jsonl.zst", ".ds", ".index", "tokenizer.json"))
        },
    }


def hash_of(path: Path) -> str:
    """SHA-256 of a file, of the text in it where it is compressed."""
    content = path.read_bytes()
    if path.suffix == ".zst":
        content = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(content)).read()
    return hashlib.sha256(content).hexdigest()


def built(name: str) -> dict[str, Any]:
    """Build one of the corpora below the current folder; what is seen in it."""
    DataFolder.clear_instance_cache()  # one that was made for the same relative path remembers its current folder
    if name == "smoke":
        config, jobs = ROOT / "configs" / "corpora" / "smoke.yaml", 1
        root = ROOT
    else:
        sources_of_every_kind()
        settings, jobs = CORPORA[name]
        config, root = write_corpus(Path("configs"), settings, name), Path()
    build(config, Path("out") / name, jobs=jobs, root=root)
    return seen_in(Path("out") / name)


@pytest.mark.parametrize("name", ["smoke", *CORPORA])
def test_a_corpus_is_the_same_to_the_byte(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found, golden = built(name), json.loads((GOLDEN / f"{name}.json").read_text())
    for part in ("config", "steps", "files", "manifest"):
        assert found[part] == golden[part]
    manifest = found["manifest"]
    wide = manifest["tokenizer"]["vocab_size"] > 1 << 16
    assert manifest["dtype"] == ("uint32" if wide else "uint16")
    for shard in manifest["train"]["shards"]:
        assert shard["size"] == (4 if wide else 2) * shard["tokens"]


def shipped(folder: Path) -> dict[str, Any]:
    """The settings that the shipped corpora render, per corpus and step; those that follow the pins left out."""
    found: dict[str, Any] = {}
    for path in sorted((shipped_root() / "configs" / "corpora").glob("*.yaml")):
        render(load_corpus(path), folder / path.stem, ROOT)
        for step in sorted((folder / path.stem / "config").glob("*.yaml")):
            settings = yaml.safe_load(step.read_text())
            if settings.pop("versions", None):
                for source in settings["sources"]:
                    source.pop("packages", None)
            found.setdefault(path.stem, {})[step.stem] = settings
    return found


def test_shipped_corpora_ask_for_what_they_asked_for(tmp_path: Path) -> None:
    golden = json.loads((GOLDEN / "shipped.json").read_text())
    assert json.loads(json.dumps(shipped(tmp_path))) == golden


def write() -> None:
    """Build every corpus and write its golden file."""
    with tempfile.TemporaryDirectory() as folder:
        text = json.dumps(shipped(Path(folder)), indent=1, ensure_ascii=False)
    (GOLDEN / "shipped.json").write_text(text + "\n")
    for name in ["smoke", *CORPORA]:
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            text = json.dumps(built(name), indent=1, ensure_ascii=False)
            os.chdir(ROOT)
        (GOLDEN / f"{name}.json").write_text(text + "\n")


if __name__ == "__main__":
    write()
