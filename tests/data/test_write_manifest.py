"""The last step refuses shards that are not what they should be."""

from pathlib import Path

import numpy as np
import pytest

from tst_titan.data.write_manifest import check_shard
from tst_titan.errors import UserError

GOOD = [5, 6, 0, 7, 0, 0]
ENDS = [3, 5, 6]


def write(folder: Path, ids: list[int], ends: list[int], dtype: str = "<u2") -> Path:
    """A shard and its index."""
    path = folder / "000.ds"
    np.array(ids, dtype).tofile(path)
    np.array(ends, "<u8").tofile(f"{path}.index")
    return path


def check(path: Path, dtype: str = "uint16") -> tuple[int, int, int]:
    """Tokens, documents and EOS tokens inside documents of a shard that passes."""
    shard, inner = check_shard(path.parent, path, dtype, vocab_size=8, eos_id=0)
    return shard.tokens, shard.documents, inner


@pytest.mark.parametrize(("dtype", "storage"), [("uint16", "<u2"), ("uint32", "<u4")])
def test_good_shard(tmp_path: Path, dtype: str, storage: str) -> None:
    assert check(write(tmp_path, GOOD, ENDS, storage), dtype) == (6, 3, 0)


def test_eos_inside_a_document_is_counted(tmp_path: Path) -> None:
    assert check(write(tmp_path, GOOD, [5, 6])) == (6, 2, 1)


@pytest.mark.parametrize(
    ("ids", "ends", "error", "message"),
    [
        ([5, 8, 0, 7, 0, 0], ENDS, ValueError, "id 8 is not below the vocabulary's size 8"),
        ([5, 6, 1, 7, 0, 0], ENDS, ValueError, "a document does not end with the EOS id 0"),
        (GOOD, [3, 5], UserError, "the index does not fit its shard"),
        (GOOD, [3, 3, 6], UserError, "the index does not fit its shard"),
    ],
)
def test_bad_shards(
    tmp_path: Path, ids: list[int], ends: list[int], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        check(write(tmp_path, ids, ends))


def test_half_an_id(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD, ENDS)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="11 bytes are not whole uint16 ids"):
        check(path)


def test_blocks_are_all_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tst_titan.data.write_manifest._BLOCK_TOKENS", 2)
    assert check(write(tmp_path, GOOD, ENDS)) == (6, 3, 0)
    with pytest.raises(ValueError, match="id 9 is not below"):
        check(write(tmp_path, [5, 6, 0, 7, 9, 0], [3, 6]))
