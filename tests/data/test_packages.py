"""The embedded corpus: what is taken from a module, a prose file and a package."""

import ast
from collections import Counter
from importlib import metadata
from pathlib import Path

import pytest
from datatrove.data import Document
from datatrove.pipeline.filters import C4QualityFilter, FineWebQualityFilter

from tests.data.texts import base_config, build, texts_of, write_corpus
from tst_titan.data.filters import WORDS
from tst_titan.data.manifest import load_manifest
from tst_titan.data.packages import check_installed, documents_of, pack, package_files, read_pins
from tst_titan.data.step import load_done
from tst_titan.errors import UserError

ROOT = Path(__file__).parents[2]
MODULE = '''# Copyright of somebody,
# a licence header.
"""The module speaks.

Second paragraph."""

import os

# Why the limit is three.
LIMIT = 3


@decorated
def short(a):
    """Short says little."""
    return a  # kept


class Large:
    """Large has a long story to tell: {filler}"""

    value = 1

    def method(self):
        r"""Method docs."""

    async def other(self):
        def inner():
            "Inner docs."
            return 1

        return inner


if os.name:

    def hidden():
        """Hidden docs."""
        return 2
'''.replace("{filler}", "word " * 120)


@pytest.fixture
def module(tmp_path: Path) -> Path:
    """A module with every kind of docstring."""
    path = tmp_path / "module.py"
    path.write_text(MODULE)
    return path


def test_docstrings_are_taken_in_order_and_large_classes_stand_alone(module: Path) -> None:
    documents = dict(documents_of("pkg/module.py", module, ["docstrings"], 6000))
    assert list(documents) == ["pkg/module.py:doc/0", "pkg/module.py:doc/1"]
    large, rest = documents.values()
    assert large.startswith("Large has a long story") and large.endswith("Method docs.\n\nInner docs.")
    assert rest == "The module speaks.\n\nSecond paragraph.\n\nShort says little.\n\nHidden docs."


def test_sources_have_neither_docstrings_nor_the_licence(module: Path) -> None:
    ((_, source),) = documents_of("pkg/module.py", module, ["sources"], 6000)
    ast.parse(source)
    for absent in ("docs.", "speaks", "story", "little", "Copyright", "licence"):
        assert absent not in source
    for present in (
        "import os",
        "# Why the limit is three.",
        "@decorated",
        "# kept",
        "        ...\n",
        "return 2",
    ):
        assert present in source


def test_no_text_is_taken_twice(module: Path) -> None:
    both = [text for _, text in documents_of("m.py", module, ["docstrings", "sources"], 6000)]
    assert sum(text.count("Method docs.") for text in both) == 1


def test_prose_leaves_out_the_headers_of_metadata(tmp_path: Path) -> None:
    path = tmp_path / "METADATA"
    path.write_text("Name: x\nVersion: 1\n\n# Title\n\n\n\nWords of prose.\n")
    assert list(documents_of("x.dist-info/METADATA", path, ["prose"], 100)) == [
        ("x.dist-info/METADATA/0", "# Title\n\nWords of prose.")
    ]
    assert not list(documents_of("x.dist-info/METADATA", path, ["sources"], 100))


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"def broken(:\n"])
def test_unreadable_modules_give_nothing(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.py"
    path.write_bytes(content)
    assert not list(documents_of("bad.py", path, ["docstrings", "sources"], 100))


def test_pack_joins_up_to_the_target_and_cuts_no_piece() -> None:
    assert list(pack(["aa", "bb", "cc", "d" * 20, "e"], 6)) == ["aa\n\nbb", "cc", "d" * 20, "e"]
    assert list(pack([], 6)) == []


def test_files_of_a_package_are_sorted_text_and_say_nothing_of_this_machine() -> None:
    files = package_files("click")
    names = [name for name, _ in files]
    assert names == sorted(names) and "click/core.py" in names
    assert all(name.endswith((".py", ".md", ".rst", ".txt", "METADATA")) for name in names)
    assert not [
        name for name in names if name.startswith(("..", "/")) or "RECORD" in name or "licenses" in name
    ]
    torch = [name for name, _ in package_files("torch", [r"^torch/nn/"])]
    assert "torch/version.py" not in torch and not [
        n for n in torch if n.startswith(("torch/testing/", "torch/nn/"))
    ]
    identifiers = [
        i for name, path in files for i, _ in documents_of(name, path, ["docstrings", "prose"], 6000)
    ]
    assert not [i for i in identifiers if str(ROOT) in i or i.startswith("/")]
    assert len(set(identifiers)) == len(identifiers)


def test_pins(tmp_path: Path) -> None:
    path = tmp_path / "requirements.txt"
    path.write_text("# c\nZope.Interface==1.2\nA_b-C==3.4+cpu ; python_version > '3'\nunpinned>=1\n")
    assert read_pins(path) == {"zope-interface": "1.2", "a-b-c": "3.4+cpu"}


def test_another_version_is_a_warning_and_a_missing_package_an_error() -> None:
    version = metadata.version("click")
    assert check_installed({"click": version}) == []
    assert check_installed({"click": version + "+local"}) == []
    (warning,) = check_installed({"click": "0.1"})
    assert f"click {version} is installed, 0.1 is pinned" in warning
    with pytest.raises(UserError, match="package 'not-there' is not installed"):
        check_installed({"not-there": "1"})


def test_embedded_corpus_end_to_end(tmp_path: Path) -> None:
    source = {
        "kind": "installed_packages",
        "packages": ["click", "Jinja2"],
        "parts": ["docstrings", "prose", "sources"],
        "pins": str(ROOT / "envs" / "requirements.txt"),
    }
    filters = {
        "length": {"min_chars": 200},
        "lines": {},
        "quality": {"min_alpha_words_ratio": 0.5, "min_stop_words": 1},
    }
    path = write_corpus(tmp_path, base_config([source], filters=filters, tasks=3))
    build(path, tmp_path / "out")
    manifest = load_manifest(tmp_path / "out" / "manifest.json")
    assert manifest.train.tokens > 100_000 and manifest.heldout.documents > 5
    assert str(tmp_path) not in "".join(texts_of(tmp_path / "out", "train"))
    # The same documents, whatever the number of tasks.
    other = write_corpus(tmp_path, base_config([source], filters=filters, tasks=1), name="one")
    build(other, tmp_path / "one", until="filter")
    one = load_done(tmp_path / "one", "filter").counts
    assert (one["read"], one["read_bytes"]) == (manifest.documents.read, manifest.documents.read_bytes)


NEW_FILTERS = f"""
sources:
  - kind: installed_packages
    packages: [click, Jinja2]
    parts: [docstrings, prose]
    pins: {ROOT}/envs/requirements.txt
filters:
  - C4QualityFilter: {{filter_no_terminal_punct: false, min_num_sentences: 3}}
  - FineWebQualityFilter: {{line_punct_thr: 0.3}}
tokenizer: {{kind: train, vocab_size: 400}}
tasks: 2
"""


def test_filters_that_the_project_never_used_need_yaml_alone(tmp_path: Path) -> None:
    (tmp_path / "new.yaml").write_text(NEW_FILTERS)
    build(tmp_path / "new.yaml", tmp_path / "out", until="filter")
    counts = load_done(tmp_path / "out", "filter").counts
    # The same documents through datatrove's filters by hand.
    c4 = C4QualityFilter(filter_no_terminal_punct=False, min_num_sentences=3, language=WORDS)
    fineweb = FineWebQualityFilter(line_punct_thr=0.3, language=WORDS)
    dropped: dict[str, Counter[str]] = {"C4QualityFilter": Counter(), "FineWebQualityFilter": Counter()}
    kept = 0
    for package in ("click", "jinja2"):
        for inner, path in package_files(package):
            for name, text in documents_of(inner, path, ("docstrings", "prose"), 6000):
                document = Document(text=text, id=name)
                for each in (c4, fineweb):
                    found = each.filter(document)
                    if isinstance(found, tuple):
                        dropped[type(each).__name__][found[1]] += 1
                        break
                else:
                    kept += 1
    assert counts["dropped"] == dropped
    assert all(len(reasons) > 1 for reasons in dropped.values())
    assert counts["kept"] == kept == counts["read"] - sum(sum(each.values()) for each in dropped.values()) > 0
    samples = (tmp_path / "out").glob("documents/filter-*/dropped/C4QualityFilter/*.jsonl")
    assert sum(len(path.read_text().splitlines()) for path in samples) == sum(
        dropped["C4QualityFilter"].values()
    )
