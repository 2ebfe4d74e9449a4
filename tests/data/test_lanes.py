"""Reading shards as a stream and as lanes, against the same tokens held in one array."""

import os
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.corpus import write_corpus, write_streams
from tst_titan.data import shards
from tst_titan.data.lanes import Lanes, check_enough, needed_per_lane
from tst_titan.data.manifest import load_manifest, training_identity
from tst_titan.data.shards import (
    ShardFile,
    TokenStream,
    block_checksums,
    iterate_documents,
    storage_dtype,
    verify_here,
    verify_shards,
)
from tst_titan.errors import UserError

EOS = 0
SIZES = (100, 1, 0, 57, 200)


def tokens_of_corpus() -> np.ndarray:
    """358 tokens, all different, so that a wrong offset cannot go unseen."""
    return np.arange(1, sum(SIZES) + 1)


def write_shards(folder: Path, dtype: str = "uint16", sizes: tuple[int, ...] = SIZES) -> list[ShardFile]:
    """Cut the tokens into shards of the given sizes."""
    files, start = [], 0
    tokens = tokens_of_corpus()
    for number, size in enumerate(sizes):
        path = folder / f"{number:03d}.ds"
        tokens[start : start + size].astype(storage_dtype(dtype)).tofile(path)
        files.append(ShardFile(path, size, storage_dtype(dtype)))
        start += size
    return files


def tiny_corpus(folder: Path, dtype: Literal["uint16", "uint32"] = "uint16") -> Path:
    """A corpus of three documents, its training split in two shards; returns the manifest's path."""
    ids = np.array([5, 6, 7, EOS, 8, EOS, 9, 10, 11, 12, EOS])
    return write_streams(folder / "tiny", ids, ids, 20, dtype)


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> TokenStream:
    """The tokens in five shards, one of them empty."""
    return TokenStream(write_shards(tmp_path_factory.mktemp("shards")))


@given(st.integers(0, sum(SIZES)), st.integers(0, sum(SIZES)))
@settings(deadline=None)
def test_stream_reads_any_range(stream: TokenStream, start: int, length: int) -> None:
    if start + length > len(stream):
        with pytest.raises(IndexError, match="not in a stream of 358"):
            stream.read(start, length)
    else:
        assert np.array_equal(stream.read(start, length), tokens_of_corpus()[start : start + length])


@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
def test_stream_reads_both_storage_types(tmp_path: Path, dtype: str) -> None:
    stream = TokenStream(write_shards(tmp_path, dtype))
    assert stream.read(0, len(stream)).dtype == np.int64
    assert np.array_equal(stream.read(0, len(stream), np.int32), tokens_of_corpus())


def test_more_shards_than_open_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "MAX_OPEN_SHARDS", 3)
    stream = TokenStream(write_shards(tmp_path, sizes=(1,) * sum(SIZES)))
    for _ in range(2):
        assert np.array_equal(stream.read(0, len(stream)), tokens_of_corpus())
    assert len(stream._open) == 3


@given(st.integers(1, 8), st.integers(1, 400), st.integers(0, 400), st.integers(1, 60))
@settings(max_examples=50, deadline=None)
def test_another_order_turns_every_lane_by_a_place_of_its_own(
    stream: TokenStream, lanes: int, order: int, position: int, length: int
) -> None:
    plain, turned = (Lanes(stream, lanes, allow_repeat=True, order=which) for which in (0, order))
    size = plain.lane_length
    own, other = (part.read(0, size) for part in (plain, turned))
    for lane in range(lanes):
        begin = np.flatnonzero(own[lane] == other[lane, 0])[0]
        assert np.array_equal(np.roll(own[lane], -begin), other[lane])
    naive = np.take(other, np.arange(position, position + length) % size, axis=1)
    assert np.array_equal(turned.read(position, length), naive)
    assert np.array_equal(turned.read(position, length, range(lanes - 1, lanes)), naive[-1:])


def test_orders_differ_and_lanes_do_not_turn_together(stream: TokenStream) -> None:
    first = {order: Lanes(stream, 4, order=order).read(0, 1)[:, 0] for order in range(4)}
    assert len({tuple(tokens) for tokens in first.values()}) == 4
    assert len(set(first[1] - first[0])) > 1
    assert first[1].tolist() == [
        40,
        171,
        253,
        326,
    ]  # for ever: finished runs of a seed must resume and be told apart


@given(
    n_lanes=st.integers(1, 40),
    position=st.integers(0, 1000),
    length=st.integers(0, 700),
    data=st.data(),
)
@settings(max_examples=200, deadline=None)
def test_lanes_read_any_offset_and_wrap(
    stream: TokenStream, n_lanes: int, position: int, length: int, data: st.DataObject
) -> None:
    lanes = Lanes(stream, n_lanes, allow_repeat=True)
    assert lanes.lane_length == len(stream) // n_lanes
    cut = tokens_of_corpus()[: lanes.lane_length * n_lanes].reshape(n_lanes, -1)
    expected = np.take(cut, np.arange(position, position + length), axis=1, mode="wrap")
    assert np.array_equal(lanes.read(position, length), expected)
    first = data.draw(st.integers(0, n_lanes))  # two ranks' slices together are the whole batch
    parts = [
        lanes.read(position, length, slice(0, first)),
        lanes.read(position, length, range(first, n_lanes)),
    ]
    assert np.array_equal(np.concatenate(parts), expected)


def test_windows_of_both_phases_read_each_token_once(stream: TokenStream) -> None:
    lanes = Lanes(stream, 2)
    seen, position = [], 0
    for bag_size, steps in ((4, 3), (1, 5)):  # a bag phase, then a token phase, L = 3
        for _ in range(steps):
            window = lanes.read(position, bag_size * (3 + 1))
            seen.append(window[:, : bag_size * 3])
            position += bag_size * 3
    inputs = np.concatenate(seen, axis=1)
    assert np.array_equal(inputs[0], tokens_of_corpus()[: 3 * 12 + 5 * 3])
    assert position == needed_per_lane(0, 3, 12, 12) + 5 * 3


def test_end_of_lane_is_an_error_unless_repetition_is_asked_for(stream: TokenStream) -> None:
    lanes = Lanes(stream, 4)
    lanes.read(lanes.lane_length - 5, 5)
    message = r"360 are needed \(90 in each of 4 lanes\), there are 358 \(89 a lane\)"
    with pytest.raises(UserError, match=message):
        lanes.read(lanes.lane_length - 5, 6)


def test_epochs_and_unique_tokens(stream: TokenStream) -> None:
    lanes = Lanes(stream, 4, allow_repeat=True)
    assert lanes.epochs(0) == 0 and lanes.epochs(178) == 2.0
    assert [lanes.unique_tokens(p) for p in (0, 10, 89, 1000)] == [0, 40, 356, 356]


def test_lane_outside_the_batch(stream: TokenStream) -> None:
    with pytest.raises(IndexError, match="lane 4 is not among 4"):
        Lanes(stream, 4).read(0, 1, range(3, 5))
    with pytest.raises(UserError, match="at least 1 sequence"):
        Lanes(stream, 0)
    with pytest.raises(UserError, match="358 tokens cannot be cut into 359 lanes"):
        Lanes(stream, 359)


def test_needed_per_lane_is_the_end_of_the_last_window() -> None:
    assert needed_per_lane(position=7, steps=0, advance=10, window=12) == 7
    assert needed_per_lane(position=0, steps=1, advance=10, window=12) == 12
    assert needed_per_lane(position=100, steps=5, advance=10, window=12) == 152


def test_check_enough(tmp_path: Path) -> None:
    manifest = load_manifest(tiny_corpus(tmp_path))
    check_enough(manifest, needed=5, n_lanes=2, allow_repeat=False)
    check_enough(manifest, needed=99, n_lanes=2, allow_repeat=True)
    with pytest.raises(UserError, match=r"corpus tiny: run a: too few tokens: 12 are needed .* there are 11"):
        check_enough(manifest, needed=6, n_lanes=2, allow_repeat=False, run="run a")
    with pytest.raises(UserError, match="12 sequences a batch, but the corpus has only 11"):
        check_enough(manifest, needed=1, n_lanes=12, allow_repeat=True)


def test_documents_of_a_split(tmp_path: Path) -> None:
    documents = list(iterate_documents(tiny_corpus(tmp_path, "uint32"), "heldout"))
    assert [d.tolist() for d in documents] == [[5, 6, 7, EOS], [8, EOS], [9, 10, 11, 12, EOS]]


def test_identity_is_that_of_the_bytes_read(tmp_path: Path) -> None:
    split = load_manifest(tiny_corpus(tmp_path)).train
    identity = training_identity(split, "uint16", "t", EOS)
    swapped = split.model_copy(update={"shards": split.shards[::-1]})
    assert identity == training_identity(split.model_copy(update={"text_bytes": 1}), "uint16", "t", EOS)
    assert (
        len(
            {
                identity,
                training_identity(swapped, "uint16", "t", EOS),
                training_identity(split, "uint32", "t", EOS),
            }
        )
        == 3
    )
    assert (
        training_identity(split, "uint16", "other", EOS)
        != identity
        != training_identity(split, "uint16", "t", 1)
    )


def damage_truncate(folder: Path) -> None:
    with (folder / "tokens/train/00001.ds").open("r+b") as file:
        file.truncate(7)


def damage_lengthen(folder: Path) -> None:
    with (folder / "tokens/train/00001.ds").open("ab") as file:
        file.write(b"xx")


def damage_bytes(folder: Path) -> None:
    with (folder / "tokens/train/00001.ds").open("r+b") as file:
        file.write(b"\x09\x01")


def damage_index(folder: Path) -> None:
    np.array([3, 3], "<u8").tofile(folder / "tokens/train/00000.ds.index")


@pytest.mark.parametrize(
    ("damage", "message", "seen_without_hashes"),
    [
        (lambda folder: (folder / "tokens/train/00001.ds").unlink(), r"001.ds: the shard is missing", True),
        (
            damage_truncate,
            r"001.ds: the shard is truncated: 7 bytes found, 10 expected \(5 tokens of uint16",
            True,
        ),
        (damage_lengthen, r"001.ds: the shard is longer than its manifest says: 12 bytes", True),
        (damage_bytes, r"001.ds: the file was altered: SHA-256", False),
        (
            lambda folder: (folder / "tokens/train/00000.ds.index").unlink(),
            r"000.ds.index: the shard's index is missing",
            True,
        ),
        (damage_index, r"000.ds.index: the index does not fit its shard \(last end 3, tokens 6\)", True),
        (
            lambda folder: (folder / "tokenizer/tokenizer.json").write_text("{ }"),
            r"tokenizer.json: the file was altered",
            True,
        ),
        (lambda folder: (folder / "tokenizer/tokenizer.json").unlink(), r"the tokenizer is missing", True),
    ],
)
def test_damaged_corpus(tmp_path: Path, damage, message: str, seen_without_hashes: bool) -> None:
    path = tiny_corpus(tmp_path)
    verify_shards(path)
    damage(path.parent)
    with pytest.raises(UserError, match=message):
        verify_shards(path)
    if seen_without_hashes:
        with pytest.raises(UserError, match=message):
            verify_shards(path, hashes=False)


def test_stream_refuses_a_truncated_shard_before_reading(tmp_path: Path) -> None:
    path = tiny_corpus(tmp_path)
    damage_truncate(path.parent)
    with pytest.raises(UserError, match="truncated"):
        TokenStream.from_manifest(path)


def test_manifest_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no data manifest; build the corpus first"):
        load_manifest(tmp_path / "manifest.json")
    path = tiny_corpus(tmp_path)
    path.write_text(path.read_text().replace('"uint16"', '"int8"'))
    with pytest.raises(UserError, match=r"dtype: .*found 'int8'"):
        load_manifest(path)


def test_a_corpus_is_hashed_once_on_a_machine_and_again_when_a_file_changes(tmp_path):
    path = write_corpus(tmp_path, tokens=50_000)
    verify_here(path)
    shard = tmp_path / load_manifest(path).train.shards[1].path
    content = bytearray(shard.read_bytes())
    content[::997] = bytes(len(content[::997]))
    times = shard.stat()
    shard.write_bytes(content)
    os.utime(shard, ns=(times.st_atime_ns, times.st_mtime_ns))
    verify_here(path)  # nothing tells: it was read on this machine
    os.utime(shard)
    with pytest.raises(UserError, match=rf"{shard}: the file was altered: SHA-256"):
        verify_here(path)
    with pytest.raises(UserError, match="altered"):  # nothing was noted
        verify_here(path)


def test_of_a_large_corpus_blocks_of_all_shards_are_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr("tst_titan.data.shards.CHECKED_BLOCK_BYTES", 1000)
    path = write_corpus(tmp_path, tokens=50_000)
    manifest = load_manifest(path)
    hashed = [
        shard.model_copy(update={"blocks": block_checksums(tmp_path / shard.path)})
        for shard in manifest.train.shards
    ]
    assert [len(shard.blocks) for shard in hashed] == [50, 50]
    train = manifest.train.model_copy(update={"shards": tuple(hashed)})
    path.write_text(manifest.model_copy(update={"train": train}).model_dump_json())
    verify_here(path, at_once=90_000)
    content = bytearray((tmp_path / hashed[0].path).read_bytes())
    content[::997] = bytes(byte ^ 1 for byte in content[::997])
    (tmp_path / hashed[0].path).write_bytes(content)
    with pytest.raises(UserError, match=r"altered within 1,000 bytes from byte [\d,]+ on"):
        verify_here(path, at_once=90_000)  # 90 of 100 blocks, of which 50 are bad


def test_a_large_corpus_of_an_earlier_version_has_its_sizes_alone(tmp_path):
    path = write_corpus(tmp_path, tokens=50_000)
    (tmp_path / load_manifest(path).train.shards[0].path).write_bytes(bytes(50_000))
    verify_here(path, at_once=90_000)
    os.utime(tmp_path / load_manifest(path).train.shards[0].path)
    with pytest.raises(UserError, match="altered"):
        verify_here(path, at_once=100_000)
