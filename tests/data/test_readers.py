"""The law of conservation, for every reader and compression: records are documents, without text, or unreadable."""

import bz2
import gzip
import io
import json
import lzma
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from tests.data.texts import base_config, build, document, write_corpus
from tst_titan.data.documents import TaskReader
from tst_titan.data.manifest import DataManifest, SourceAccount
from tst_titan.data.step import load_done
from tst_titan.errors import UserError

GOOD = [document(seed) for seed in range(60)]


def line_of(text: Any) -> bytes:
    """One record as people write it."""
    return json.dumps({"text": text}).encode() + b"\n"


# A line, and the reason that it is counted under: None for a document, "" for no record at all.
LINES: list[tuple[bytes, str | None]] = [
    (b'\xef\xbb\xbf{"text": "begins with a byte order mark"}\n', None),
    (b'{"text": "caf\xe9 in Latin-1"}\n', "not_utf8"),
    (b"null\n", "not_an_object"),
    (b"[1, 2]\n", "not_an_object"),
    (b'"text"\n', "not_an_object"),
    (b"17\n", "not_an_object"),
    (b'{"text": "half a pair \\ud83d"}\n', "lone_surrogate"),
    (b'{"text": "cut of\n', "not_json"),
    (b'{"text": "two"} {"text": "objects"}\n', "not_json"),
    (b"[" * 100_000 + b"\n", "not_json"),
    (b'{"text": "media", "media": null}\n', None),
    (b'{"text": "not a number", "score": NaN, "other": Infinity}\n', None),
    (b'{"text": null}\n', "without_text"),
    (b'{"text": ""}\n', "without_text"),
    (b'{"content": "under another key"}\n', "no_text_key"),
    (b"{}\n", "no_text_key"),
    (b'{"text": 5}\n', "text_is_not_a_string"),
    (b'{"text": ["a", "b"]}\n', "text_is_not_a_string"),
    (b"\n", ""),
    (b"  \r\n", ""),
    (b'{"text": "Windows"}\r\n', None),
    (b'{"text": "line\\u2028separator"}\n', None),
    ('{"text": "line\u2028separator as it is"}\n'.encode(), None),
    (b'{"text": "the last line has no end"}', None),
]
WRITERS: dict[str, Callable[[bytes], bytes]] = {
    "": lambda content: content,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.ZstdCompressor().compress,
}


def zipped(*contents: bytes) -> bytes:
    """A zip archive of some files."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for number, content in enumerate(contents):
            archive.writestr(f"{number}.jsonl", content)
    return file.getvalue()


def corpus(folder: Path, **changes: Any) -> Path:
    """Config of a corpus of all that lies in <folder>/in."""
    source = {"kind": "jsonl", "path": str(folder / "in")} | changes.pop("source", {})
    return write_corpus(folder, base_config([source], filters={}, tasks=1) | changes)


def filtered(folder: Path, config: Path) -> SourceAccount:
    """Run the first step; its account of the only source."""
    build(config, folder / "out", until="filter")
    (account,) = load_done(folder / "out", "filter").counts["sources"].values()
    return SourceAccount.model_validate(account)


def write(folder: Path, name: str, content: bytes) -> None:
    """A file of the source."""
    (folder / "in" / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / "in" / name).write_bytes(content)


@pytest.mark.parametrize("ending", [*WRITERS, ".zip"])
def test_every_line_is_accounted_for(tmp_path: Path, ending: str) -> None:
    content = b"".join(line for line, _ in LINES)
    # As tools that compress in parallel write it: the second half is a frame, a stream, a member of its own.
    middle = content.index(b"null\n") + 2
    halves = content[:middle], content[middle:]
    packed = zipped(content) if ending == ".zip" else b"".join(map(WRITERS[ending], halves))
    write(tmp_path, f"a.jsonl{ending}", packed)
    write(tmp_path, f"b.jsonl{ending}", (WRITERS.get(ending) or zipped)(b"".join(map(line_of, GOOD))))
    expected = [reason for _, reason in LINES if reason]
    account = filtered(tmp_path, corpus(tmp_path, unreadable={"max_fraction": 0.9}))
    assert account.unreadable == {
        reason: expected.count(reason) for reason in set(expected) - {"without_text"}
    }
    assert account.without_text == expected.count("without_text") == 2
    assert account.documents == len(GOOD) + sum(reason is None for _, reason in LINES)
    assert account.records == len(GOOD) + sum(reason != "" for _, reason in LINES)
    assert account.records == account.documents + account.without_text + sum(account.unreadable.values())
    assert account.files == 2
    assert account.file_bytes == sum(path.stat().st_size for path in (tmp_path / "in").iterdir())
    assert account.examples[0].startswith("a.jsonl" + ending + ", line 2: not_utf8: ")
    assert "caf\\xe9 in Latin-1" in account.examples[0]


def test_records_that_cannot_be_read_end_the_step_unless_a_share_is_allowed(tmp_path: Path) -> None:
    lines = [line_of(text) for text in GOOD]
    lines[50] = lines[50].replace(b" ", b"\xff", 1)
    write(tmp_path, "a.jsonl", b"".join(lines))
    with pytest.raises(
        UserError, match=r"source jsonl: 1 of 60 records cannot be read \(1 not_utf8\)"
    ) as error:
        filtered(tmp_path, corpus(tmp_path))
    assert "a.jsonl, line 51: not_utf8: " in str(error.value)
    assert "unreadable: {max_fraction: 0.017} (now 0)" in str(error.value)
    with pytest.raises(UserError, match=r"\(now 0.016\)"):
        filtered(tmp_path, corpus(tmp_path, unreadable={"max_fraction": 0.016}))
    marks = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("completions/*")}
    account = filtered(tmp_path, corpus(tmp_path, unreadable={"max_fraction": 0.017}))
    assert account.documents == 59
    assert marks == {
        path: path.stat().st_mtime_ns for path in tmp_path.rglob("completions/*")
    }  # nothing read again
    with pytest.raises(UserError, match="now 0"):  # a finished step is held to what is allowed now
        filtered(tmp_path, corpus(tmp_path))


@pytest.mark.parametrize("ending", [".gz", ".bz2", ".xz", ".zst"])
def test_a_file_that_ends_early_ends_the_step(tmp_path: Path, ending: str) -> None:
    packed = WRITERS[ending](b"".join(map(line_of, GOOD)))
    write(tmp_path, f"a.jsonl{ending}", WRITERS[ending](line_of(GOOD[0])))
    write(tmp_path, f"b.jsonl{ending}", packed[: len(packed) // 2])
    with pytest.raises(
        UserError, match=rf"source jsonl: .*in/b.jsonl{ending}: cannot be read after line \d+: .*glob"
    ):
        filtered(tmp_path, corpus(tmp_path, unreadable={"max_fraction": 1.0}))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("b.jsonl.gz", b"this is no gzip", "Not a gzipped file"),
        ("b.jsonl.zst", b"this is no zstd", "cannot be read after line 0: "),
        ("b.jsonl.zip", zipped(line_of("one"), line_of("two")), "the archive holds 2 files"),
        ("b.jsonl", None, "No such file"),
    ],
)
def test_a_file_that_cannot_be_opened_ends_the_step(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    write(tmp_path, "a.jsonl", line_of(GOOD[0]))
    if content is None:
        (tmp_path / "in" / name).symlink_to("nowhere")
    else:
        write(tmp_path, name, content)
    with pytest.raises(UserError, match=rf"source jsonl: .*{name}.*{message}"):
        filtered(tmp_path, corpus(tmp_path, unreadable={"max_fraction": 1.0}))


@pytest.mark.parametrize("indent", [None, 1])
def test_one_array_is_not_json_lines(tmp_path: Path, indent: int | None) -> None:
    write(tmp_path, "a.json", json.dumps([{"text": text} for text in GOOD], indent=indent).encode())
    with pytest.raises(UserError, match=r"a.json: the first line is not a JSON object: .*jq -c '.\[\]'"):
        filtered(tmp_path, corpus(tmp_path))


def parquet(path: Path, column: pa.Array, name: str = "text") -> None:
    """A parquet file with the column and another one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({name: column, "other": list(range(len(column)))}), path)


def test_every_row_is_accounted_for(tmp_path: Path) -> None:
    spoiled = pa.array([GOOD[0].encode(), b"caf\xe9", b"", None, GOOD[1].encode()])
    strings = pa.StringArray.from_buffers(5, *spoiled.buffers()[1:], spoiled.buffers()[0])
    parquet(tmp_path / "in" / "a.parquet", strings)
    parquet(tmp_path / "in" / "b.parquet", pa.array(GOOD[2:]))
    config = corpus(tmp_path, source={"kind": "parquet"}, unreadable={"max_fraction": 0.1})
    account = filtered(tmp_path, config)
    assert (account.records, account.documents, account.without_text) == (63, 60, 2)
    assert account.unreadable == {"not_utf8": 1}
    assert account.examples[0].startswith("a.parquet, row 2: not_utf8: ")
    assert account.files == 2


def test_parquet_files_that_cannot_be_read_end_the_step(tmp_path: Path) -> None:
    config = corpus(tmp_path, source={"kind": "parquet"}, unreadable={"max_fraction": 1.0})
    parquet(tmp_path / "in" / "a.parquet", pa.array(GOOD))
    second = tmp_path / "in" / "b.parquet"
    parquet(second, pa.array(GOOD), "content")
    with pytest.raises(UserError, match=r"b.parquet: it has no column text; there are: content, other"):
        filtered(tmp_path, config)
    parquet(second, pa.array(GOOD))
    second.write_bytes(second.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"source parquet: .*b.parquet: cannot be read after row 0: .*footer"):
        filtered(tmp_path, config)
    parquet(second, pa.array(list(range(60))))
    assert filtered(tmp_path, config).unreadable == {"text_is_not_a_string": 60}


@pytest.mark.parametrize("ending", [*WRITERS, ".zip"])
@pytest.mark.parametrize("documents", ["files", "paragraphs"])
def test_plain_text_is_accounted_for(tmp_path: Path, ending: str, documents: str) -> None:
    contents = {
        "a": b"\xef\xbb\xbffirst line\nsecond \xe4\xb8\xad\n\n \t\r\n\nnext\r\nparagraph\r\n\r\n  indented\n",
        "b": b"good\n\ncaf\xe9\n\ngood again\n\nspoiled \xff, too",
        "c": b"",
        "d": b" \n\n",
        "e": "\n\nline\u2028separator\x0c\n".encode(),
    }
    for name, content in contents.items():
        write(tmp_path, f"{name}.txt{ending}", (WRITERS.get(ending) or zipped)(content))
    source = {"kind": "text", "documents": documents}
    account = filtered(tmp_path, corpus(tmp_path, source=source, unreadable={"max_fraction": 0.5}))
    found = [
        document.text
        for document in TaskReader(
            tmp_path / "out" / load_done(tmp_path / "out", "filter").folder / "documents"
        ).run()
    ]
    if documents == "files":
        assert found == [contents["a"].decode("utf-8-sig"), contents["e"].decode()]
        assert (account.without_text, account.unreadable) == (2, {"not_utf8": 1})
        assert account.examples[0].startswith(f"b.txt{ending}, line 1: not_utf8: good")
    else:
        paragraphs = ["first line\nsecond 中", "next\r\nparagraph", "  indented", "good", "good again"]
        assert found == [*paragraphs, "line\u2028separator\x0c"]
        assert (account.without_text, account.unreadable) == (0, {"not_utf8": 2})
        assert account.examples[1].startswith(f"b.txt{ending}, line 7: not_utf8: spoiled")
    assert account.records == account.documents + account.without_text + sum(account.unreadable.values())
    assert (account.files, account.documents) == (5, len(found))


def test_files_that_are_not_read_are_counted(tmp_path: Path) -> None:
    write(tmp_path, "a.jsonl", b"".join(map(line_of, GOOD)))
    write(tmp_path, ".hidden/.b.jsonl.gz", gzip.compress(line_of("a hidden file is a file")))
    for name in ("c.txt", "d.txt", "e.csv.gz", "README", ".DS_Store", "deep/down/F.JSONL"):
        write(tmp_path, name, b"not asked for")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "g.jsonl").write_bytes(line_of("behind a linked folder"))
    (tmp_path / "in" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in" / "h.jsonl").symlink_to(tmp_path / "elsewhere" / "g.jsonl")
    account = filtered(tmp_path, corpus(tmp_path))
    assert (account.files, account.documents) == (3, 62)
    assert account.not_read == {
        ".txt": 2, ".csv.gz": 1, "no ending": 2, ".JSONL": 1, "linked folder": 1,
    }  # fmt: skip


def test_a_limit_leaves_the_sums_closed(tmp_path: Path) -> None:
    lines = [line_of(text) for text in GOOD]
    lines[3:3] = [line_of(None)]
    for name in "abc":
        write(tmp_path, f"{name}.jsonl", b"".join(lines))
    account = filtered(tmp_path, corpus(tmp_path, source={"limit_per_task": 70}))
    assert (account.documents, account.without_text, account.records) == (70, 2, 72)
    assert (account.files, account.not_read) == (2, {"after limit_per_task": 1})


def test_packages_are_accounted_for(tmp_path: Path) -> None:
    source = {"kind": "installed_packages", "packages": ["click", "Jinja2"]}
    build(write_corpus(tmp_path, base_config([source], filters={})), tmp_path / "out", until="filter")
    counts = load_done(tmp_path / "out", "filter").counts
    account = SourceAccount.model_validate(counts["sources"]["installed_packages"])
    assert account.records == account.documents == counts["read"] > 0
    assert 0 < account.files_without_text < account.files <= account.documents + account.files_without_text
    assert account.file_bytes > 0 and not account.not_read


def test_the_manifest_and_the_last_line_say_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, "a.jsonl", b"".join(map(line_of, [*GOOD, None, 5])))
    write(tmp_path, "b.txt", b"x")
    manifest = build(corpus(tmp_path, unreadable={"max_fraction": 0.02}), tmp_path / "out")
    assert manifest is not None
    account = manifest.documents.sources["jsonl"]
    assert (account.records, account.documents, account.without_text) == (62, 60, 1)
    from tst_titan.data.filter import Filter

    line = Filter.summary(load_done(tmp_path / "out", "filter").counts)
    assert line.endswith(
        "; jsonl: 1 records without text, 1 records unreadable (text_is_not_a_string), 1 files not read (.txt)"
    )
    # A manifest of an earlier version has no such accounts, and is still one.
    old = json.loads(manifest.model_dump_json())
    del old["documents"]["sources"], old["tokenizer"]["round_trip"]
    assert DataManifest.model_validate(old).documents.sources == {}
