"""Shards that exist already: as nanoGPT, OLMo, NumPy and datatrove leave them, against what a naive reader finds."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models

from tests.data.texts import base_config, build, document, texts_of, write_corpus
from tst_titan.data.filter import Filter
from tst_titan.data.manifest import SPLITS, DataManifest
from tst_titan.data.shards import iterate_documents, read_sources, verify_shards
from tst_titan.data.split import Split
from tst_titan.data.step import load_done
from tst_titan.data.taken import bytes_of_ids
from tst_titan.errors import UserError

EOS = 3
VOCABULARY = 500


def documents(number: int, seed: int = 0) -> list[np.ndarray]:
    """Ids of documents, each closed by EOS."""
    draw = np.random.default_rng(seed)
    return [
        np.append(draw.integers(EOS + 1, VOCABULARY, draw.integers(1, 40)), EOS).astype(np.int64)
        for _ in range(number)
    ]


def tokenizer(folder: Path, size: int = VOCABULARY) -> dict[str, Any]:
    """A tokenizer whose id 3 is the end-of-text token; every other token is `w<id>`."""
    entries = {"<end>" if index == EOS else f"w{index}": index for index in range(size)}
    Tokenizer(models.WordLevel(entries, unk_token="w0")).save(str(folder / "tokenizer.json"))
    return {"kind": "file", "path": str(folder / "tokenizer.json"), "eos_token": "<end>"}


def config(folder: Path, *sources: dict[str, Any], size: int = VOCABULARY, **changes: Any) -> Path:
    given = [{"kind": "tokens", "path": str(folder / "in")} | source for source in sources]
    settings = base_config(given, tokenizer=tokenizer(folder, size)) | changes
    for key in ("filters", "dedup"):
        if key not in changes:
            del settings[key]
    return write_corpus(folder, settings)


def write(path: Path, given: list[np.ndarray], dtype: str = "<u2", index: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    ids = np.concatenate(given).astype(dtype) if given else np.empty(0, dtype)
    ids.tofile(path)
    if index:
        np.cumsum([len(each) for each in given]).astype("<u8").tofile(f"{path}.index")


def read(folder: Path, split: Any) -> list[list[int]]:
    return [ids.tolist() for ids in iterate_documents(folder / "manifest.json", split)]


def check_sums(manifest: DataManifest, folder: Path, given: list[np.ndarray]) -> None:
    """Everything given is in one of the splits, and the manifest's numbers are theirs."""
    found = {split: read(folder, split) for split in SPLITS}
    assert sorted(found["train"] + found["heldout"]) == sorted(each.tolist() for each in given)
    for split in SPLITS:
        part = manifest.split(split)
        assert (part.documents, part.tokens) == (len(found[split]), sum(map(len, found[split])))
        assert part.text_bytes == sum(len(f"w{i}") for ids in found[split] for i in ids if i != EOS)
    assert manifest.documents.read == manifest.documents.kept == len(given)
    assert manifest.documents.read_bytes == manifest.train.text_bytes + manifest.heldout.text_bytes
    verify_shards(folder / "manifest.json")


@pytest.mark.parametrize(("dtype", "size"), [("<u2", VOCABULARY), ("<u4", VOCABULARY), ("<u4", 70_000)])
@pytest.mark.parametrize("name", ["{}.bin", "{}.npy", "{}.ds", "olmo-{}.npy"])
def test_shards_of_every_kind(tmp_path: Path, name: str, dtype: str, size: int) -> None:
    parts = [documents(60, seed=1), documents(40, seed=2), documents(50, seed=3)]
    for number, part in enumerate(parts):
        path = tmp_path / "in" / "deep" / name.format(number)
        write(path, part, dtype, index=name.endswith(".ds"))
        if name == "{}.npy":
            np.save(path, np.concatenate(part).astype(dtype))
    source = {"glob": f"**/*{name[-4:].lstrip('}')}"}
    if dtype == "<u4" and size == VOCABULARY:
        source["dtype"] = "uint32"
    manifest = build(
        config(tmp_path, source, size=size, heldout={"fraction": 0.5 / 3}), tmp_path / "out", workers=2
    )
    assert manifest and manifest.dtype == {"<u2": "uint16", "<u4": "uint32"}[dtype]
    check_sums(manifest, tmp_path / "out", [each for part in parts for each in part])
    assert manifest.heldout.documents == 25
    assert manifest.warnings == ("duplicates were not removed",)
    account = manifest.documents.sources["tokens"]
    assert (account.files, account.documents, account.records) == (3, 150, 150)
    assert account.file_bytes == sum(
        path.stat().st_size for path in tmp_path.glob(f"in/**/{name.format('?')}")
    )
    links = [(tmp_path / "out" / shard.path).is_symlink() for shard in manifest.train.shards]
    assert links.count(True) == (0 if name == "{}.npy" else 2)  # one was cut


def test_files_that_are_held_out_by_name(tmp_path: Path) -> None:
    train, val = documents(80, seed=1), documents(9, seed=2)
    write(tmp_path / "in" / "train.bin", train)
    write(tmp_path / "in" / "val.bin", val)
    write(tmp_path / "in" / "empty.bin", [])
    write(tmp_path / "in" / "meta.pkl", [])
    source = {"glob": "*.bin", "heldout_glob": "val*.bin", "name": "owt"}
    manifest = build(config(tmp_path, source), tmp_path / "out")
    assert manifest
    check_sums(manifest, tmp_path / "out", train + val)
    for step in (Filter, Split):
        line = step.summary(load_done(tmp_path / "out", step.kind.step).counts)
        assert line.startswith("nothing to ") and line.endswith("the step tokens takes the shards")
    assert read(tmp_path / "out", "heldout") == [each.tolist() for each in val]
    assert read(tmp_path / "out", "train") == [each.tolist() for each in train]  # in their order
    assert (tmp_path / "out" / manifest.train.shards[0].path).resolve() == tmp_path / "in" / "train.bin"
    account = manifest.documents.sources["owt"]
    assert (account.files, account.files_without_text, account.not_read) == (3, 1, {".pkl": 1})


def test_the_hold_out_of_several_sources(tmp_path: Path) -> None:
    parts = {name: documents(50, seed=seed) for seed, name in enumerate(("a", "b", "c", "d"))}
    for name, part in parts.items():
        write(tmp_path / name / f"{name}.bin", part)
    sources = [{"path": str(tmp_path / name), "glob": "*.bin", "name": name} for name in parts]
    found = {}
    for seed in range(4):
        folder = tmp_path / f"out{seed}"
        manifest = build(config(tmp_path, *sources, heldout={"fraction": 0.3, "seed": seed}), folder)
        assert manifest
        check_sums(manifest, folder, [each for part in parts.values() for each in part])
        assert manifest.heldout.documents == 60
        found[seed] = read(folder, "heldout")
        whose = {str(each.tolist()): name for name, part in parts.items() for each in part}
        noted = read_sources(folder / "manifest.json", manifest)
        assert noted is not None and noted.tolist() == [whose[str(each)] for each in found[seed]]
    assert len({str(each) for each in found.values()}) > 1


@pytest.mark.parametrize(
    ("ids", "source", "message"),
    [
        ([5, 600, EOS], {}, r"0.bin: id 600 is not below the vocabulary's size 500"),
        (
            [5, 6, EOS, 7],
            {},
            r"0.bin: the last document does not end with the end-of-text id 3: the last ids are \[",
        ),
        ([EOS, 6, EOS, 7], {}, "documents must end with it, not begin"),
        ([5, 0, 6, 0, EOS, 0], {}, "0.bin: .*look like ids of uint32; set dtype: uint32"),
        ([5, 6, EOS], {"dtype": "uint32"}, "0.bin: 6 bytes are not whole ids of uint32"),
        ([5, EOS], {"glob": "*.ds"}, r"no file matches '\*.ds'"),
    ],
)
def test_what_is_no_shard_of_the_tokenizer(
    tmp_path: Path, ids: list[int], source: dict, message: str
) -> None:
    write(tmp_path / "in" / "0.bin", [np.array(ids)])
    with pytest.raises(UserError, match=message):
        build(config(tmp_path, {"glob": "*.bin"} | source), tmp_path / "out")


def test_documents_begin_with_the_token_that_the_corpus_names(tmp_path: Path) -> None:
    write(tmp_path / "in" / "0.ds", [np.array([7, *each]) for each in documents(20)])
    manifest = build(config(tmp_path, {}, bos="w7"), tmp_path / "out")
    assert manifest and manifest.tokenizer.bos_id == 7
    found = sum(
        len(f"w{i}")
        for split in SPLITS
        for ids in read(tmp_path / "out", split)
        for i in ids
        if i not in (7, EOS)
    )
    assert found == manifest.documents.read_bytes
    write(tmp_path / "in" / "0.ds", [*documents(1), np.array([7, 8, EOS])])
    with pytest.raises(UserError, match=r"0.ds: bos: 1 of 2 documents do not begin with the id 7"):
        build(config(tmp_path, {}, bos="w7"), tmp_path / "out")


def test_arrays_that_are_no_ids(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for array, message in (
        (np.zeros((3, 4), "<u2"), r"an array of shape \(3, 4\) and type uint16"),
        (np.zeros(3, "<i8"), "type int64; expected a row of uint16 or uint32"),
    ):
        np.save(tmp_path / "in" / "0.npy", array)
        with pytest.raises(UserError, match=message):
            build(config(tmp_path, {"glob": "*.npy"}), tmp_path / "out")
    write(tmp_path / "in" / "0.npy", documents(5))
    np.save(tmp_path / "in" / "1.npy", np.concatenate(documents(5)).astype("<u4"))
    with pytest.raises(
        UserError, match=r"ids of types \['uint16', 'uint32'\]; all shards of a corpus have one"
    ):
        build(config(tmp_path, {"glob": "*.npy"}), tmp_path / "out")
    # The index says where documents end, and the ids have to agree.
    write(tmp_path / "in" / "0.ds", documents(5), index=True)
    (np.fromfile(tmp_path / "in" / "0.ds.index", "<u8")[[0, 4]] - np.array([1, 0], "<u8")).tofile(
        tmp_path / "in" / "0.ds.index"
    )
    with pytest.raises(UserError, match="1 of 2 documents do not end with the end-of-text id 3"):
        build(config(tmp_path, {}), tmp_path / "out")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"filters": {"length": {"min_chars": 5}}}, "filters: sources of kind tokens are taken as they are"),
        ({"dedup": {}}, "dedup: sources of kind tokens are taken as they are"),
        ({"tokenizer": {"kind": "train", "vocab_size": 300}}, "tokenizer.kind: found 'train'"),
        ({"tokens": {"seed": 5}}, "tokens: sources of kind tokens are taken as they are"),
    ],
)
def test_keys_without_effect_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    write(tmp_path / "in" / "0.ds", documents(5))
    with pytest.raises(UserError, match=message):
        build(config(tmp_path, {}, **changes), tmp_path / "out")


def test_sources_without_effect_are_refused(tmp_path: Path) -> None:
    for source, message in (
        ({"path": "s3://bucket"}, "give a local folder"),
        ({"weight": 2}, "weight: found 2.0; shards are taken whole"),
        ({"limit_per_task": 2}, "limit_per_task: found 2; shards are taken whole"),
    ):
        with pytest.raises(UserError, match=message):
            build(config(tmp_path, source), tmp_path / "out")
    with pytest.raises(UserError, match="sources of kind tokens stand alone"):
        build(config(tmp_path, {}, {"kind": "jsonl"}), tmp_path / "out")


def test_the_pipelines_own_shards_give_the_same_corpus_again(tmp_path: Path) -> None:
    """And the bytes of a byte-level vocabulary are those of the text."""
    from tests.data.test_readers import line_of

    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jsonl").write_bytes(b"".join(line_of(document(i) + " é中") for i in range(50)))
    first = build(
        write_corpus(tmp_path, base_config([{"kind": "jsonl", "path": str(tmp_path / "in")}], filters={})),
        tmp_path / "first",
    )
    assert first
    train = texts_of(tmp_path / "first", "train")
    assert first.train.text_bytes == sum(len(text.encode()) for text in train)
    shards = tmp_path / "first" / load_done(tmp_path / "first", "tokens").folder
    made = tmp_path / "first" / first.tokenizer.path
    settings = base_config(
        [{"kind": "tokens", "path": str(shards), "heldout_glob": "heldout/*.ds"}],
        tokenizer={"kind": "file", "path": str(made), "eos_token": "<|endoftext|>"},
    )
    del settings["filters"], settings["dedup"]
    again = build(write_corpus(tmp_path, settings), tmp_path / "again")
    assert again and again.identity == first.identity
    for split in SPLITS:
        one, other = first.split(split), again.split(split)
        assert (one.documents, one.tokens, one.text_bytes) == (
            other.documents,
            other.tokens,
            other.text_bytes,
        )
        assert [shard.sha256 for shard in one.shards] == [shard.sha256 for shard in other.shards]
    lengths = bytes_of_ids(Tokenizer.from_file(str(made)))
    assert lengths.min() > 0
