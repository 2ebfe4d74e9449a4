"""The plan's estimate of disk against real checkpoints, dense and with experts."""

import pytest

from tests.stages import DENSE, MOE, Tree, final_tensors, train
from tst_titan.tree.folder import complete_checkpoints
from tst_titan.tree.plan import checkpoint_bytes, checkpoints_kept
from tst_titan.tree.resolve import Stage

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("shape", [DENSE, MOE], ids=["dense", "experts"])
def test_bytes_on_disk_are_the_planned_ones(tmp_path, shape):
    tree = Tree.make(tmp_path, model={**shape, "dim": 128, "vocab_size": 1024})
    folder = tree.stage("bag2-10")
    train(folder)
    stage = Stage(folder.recipe, folder.lineage, folder.stage, folder.runtime)
    found = complete_checkpoints(folder.path / "checkpoint" / folder.manifest()["identity"][:12])
    # Every 4 steps and at the end, the newest 2.
    assert list(found) == [8, 10] and checkpoints_kept(stage) == 2
    tensors = final_tensors(folder)
    size = sum(tensor.nbytes for tensor in tensors.values())
    assert size == pytest.approx(checkpoint_bytes(stage), rel=1e-3)
    weights = sum("optimizer" not in name for name in tensors)
    for path in found.values():
        on_disk = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        assert 0 < on_disk - size < 30_000 * weights
