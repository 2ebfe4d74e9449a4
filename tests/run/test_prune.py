"""Which checkpoints pruning removes, on stages that were never trained: manifests and files alone."""

import fcntl
import json

import pytest
import yaml

from tests.stages import Tree
from tst_titan import cli
from tst_titan.errors import UserError
from tst_titan.run.prune import Pruning, check_parents
from tst_titan.tree.checkpoint import write_list
from tst_titan.tree.resolve import Stage

BYTES = 1000


@pytest.fixture
def tree(tmp_path):
    return Tree.make(tmp_path / "results")


def finish(folder, *earlier, identity=None):
    """Pretend that a stage was trained, with its last checkpoint and some earlier ones."""
    manifest = {
        "stage_sha256": folder.stage_sha256,
        "identity": identity or f"{folder.lineage.replace('/', '_')[-12:]:_>12}",
        "parent_identity": folder.parent.manifest()["identity"] if folder.parent else None,
        "data_identity": json.loads(folder.data_manifest.read_text())["identity"],
        "end_step": folder.stage.end_step,
        "stage_device_hours": 1.5,
    }
    manifest["checkpoint"] = f"checkpoint/{manifest['identity'][:12]}/step-{folder.stage.end_step}"
    for step in (*earlier, folder.stage.end_step):
        checkpoint_at(folder, manifest["identity"], step)
    folder.write_manifest(manifest)
    return folder


def checkpoint_at(folder, identity, step):
    path = folder.path / "checkpoint" / identity[:12] / f"step-{step}"
    path.mkdir(parents=True)
    (path / ".metadata").write_text("")
    (path / "__0_0.distcp").write_bytes(b"0" * BYTES)
    return path


def compared(tree, **runs):
    """A rendered comparison, which says what the final stages are."""
    spec = {"runs": [{"name": name, "stages": [f"results/train/test/{line}"]} for name, line in runs.items()]}
    path = tree.results / "compare/s/figure/spec.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(yaml.safe_dump(spec))


def left(tree, keep, **options):
    """Prune, and the checkpoints that are left, as lineage: steps."""
    Pruning(tree.results, keep, **options).remove()
    found: dict[str, list[int]] = {}
    for path in sorted(tree.results.glob("train/test/**/step-*")):
        lineage = str(path.parents[2].relative_to(tree.results / "train/test"))
        found.setdefault(lineage, []).append(int(path.name[5:]))
    return {lineage: sorted(steps) for lineage, steps in found.items()}


@pytest.fixture
def finished(tree):
    """A trunk from which two decays branch, and a bag run without branches, all finished."""
    finish(tree.stage("token-8"), 4)
    finish(tree.stage("token-8/decay-10"))
    finish(tree.stage("token-8/token-12"), 10)
    finish(tree.stage("token-8/token-12/decay-14"), 12)
    finish(tree.stage("bag2-4"))
    finish(tree.stage("bag2-4/decay-6"))
    compared(tree, short="token-8/decay-10", long="token-8/token-12/decay-14", bags="bag2-4/decay-6")
    return tree


def planned(*folders):
    """The stages of a call, with their ancestors."""
    found = {}
    for folder in folders:
        while folder is not None:
            found[folder.lineage] = Stage("test", folder.lineage, folder.stage, folder.runtime)
            folder = folder.parent
    return found


FINALS = {"token-8/decay-10": [10], "token-8/token-12/decay-14": [14], "bag2-4/decay-6": [6]}


@pytest.mark.parametrize(
    ("keep", "more"),
    [("final", {}), ("branch_points", {"token-8": [8]})],
)
def test_what_each_setting_leaves(finished, keep, more):
    assert left(finished, keep) == {**FINALS, **more}
    assert left(finished, keep) == {**FINALS, **more}


def test_all_removes_nothing(finished):
    before = left(finished, "all")
    assert before["token-8"] == [4, 8] and len(before) == 6


def test_the_parent_of_an_unfinished_stage_stays_though_no_present_target_names_it(finished):
    finished.stage("bag2-4/token-8")
    assert left(finished, "final") == {**FINALS, "bag2-4": [4]}


def test_an_unfinished_stage_keeps_all_its_own_checkpoints(finished):
    running = finished.stage("bag2-4/token-12")
    checkpoint_at(running, "resumes_here", 6)
    checkpoint_at(running, "resumes_here", 8)
    assert left(finished, "final")["bag2-4/token-12"] == [6, 8]


def test_a_changed_parent_and_what_follows_it_count_as_unfinished(finished):
    finished.stage("bag2-4", optimizer={"learning_rate": 0.5})
    found = left(finished, "final")
    assert found["bag2-4"] == [4] and found["bag2-4/decay-6"] == [6]


def test_a_final_model_that_others_go_on_from_stays(tree):
    finish(tree.stage("token-8"))
    finish(tree.stage("token-8/token-16"))
    compared(tree, short="token-8", long="token-8/token-16")
    assert left(tree, "final") == {"token-8": [8], "token-8/token-16": [16]}


def test_a_leaf_that_no_comparison_names_stays(tree):
    finish(tree.stage("token-8"))
    assert left(tree, "final") == {"token-8": [8]}


def test_checkpoints_of_earlier_configs_go_only_when_asked(finished):
    folder = finished.stage("token-8/decay-10")
    checkpoint_at(folder, "earlierconfig", 9)
    assert left(finished, "final")["token-8/decay-10"] == [9, 10]
    text = Pruning(finished.results, "final").text()
    assert "of another config" in text and "--other-configs" in text
    assert left(finished, "final", other_configs=True)["token-8/decay-10"] == [10]
    assert not (folder.path / "checkpoint/earlierconfi").exists()


@pytest.mark.parametrize("path", ["checkpoint/{identity}/step-8", "checkpoint/{identity}/step-4"])
def test_a_checkpoint_that_runs_start_from_stays(finished, path):
    trunk = finished.stage("token-8")
    source = trunk.path / path.format(identity=trunk.manifest()["identity"][:12])
    config = finished.results / "start/mine/config.yaml"
    config.parent.mkdir(parents=True)
    config.write_text(yaml.safe_dump({"path": str(source), "trust": False}))
    assert left(finished, "final", other_configs=True)["token-8"] == [int(path[-1])]


def test_a_stage_that_is_being_trained_is_left_alone(finished):
    with (finished.results / "train/test/bag2-4/.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "bag2-4" in left(finished, "final")
    assert "bag2-4" not in left(finished, "final")


def test_the_command_says_what_it_removes_and_a_dry_run_removes_nothing(
    finished, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo.yaml").write_text("experiments: [e]\nkeep_checkpoints: final\n")
    command = ["prune", "--configfile", "demo.yaml"]
    assert cli.main([*command, "--dry-run"]) == 0
    text = capsys.readouterr().out
    # token-8: 4 and 8; token-12: 10 and 12; decay-14: 12; bag2-4: 4.
    assert "would remove 6 checkpoints, 6 kB; kept 3, 3 kB" in text
    assert "final model of figure: bags" in text
    assert (finished.results / "train/test/bag2-4/checkpoint").exists()
    assert cli.main([*command, "--keep", "branch_points"]) == 0
    assert "removed 5 checkpoints, 5 kB; kept 4" in capsys.readouterr().out


def test_a_new_stage_of_a_pruned_parent_is_refused_with_the_way_back(finished):
    left(finished, "final")
    new = finished.stage("bag2-4/decay-7")
    stages = planned(new)
    with pytest.raises(UserError) as error:
        check_parents(stages, finished.results)
    words = (
        "test/bag2-4/decay-7",
        "step-4 was pruned on",
        "keep_checkpoints: final",
        "tst-titan restore",
        "1.5",
    )
    assert all(word in str(error.value) for word in words), error.value
    with pytest.raises(UserError, match="was pruned on"):
        new.parent_manifest()
    # A finished stage needs its parent no more, and a parent that will be trained again has no checkpoint to miss.
    check_parents(planned(finished.stage("bag2-4/decay-6")), finished.results)
    finished.stage("bag2-4", optimizer={"learning_rate": 0.5})
    check_parents(stages, finished.results)


def test_a_parent_whose_corpus_changed_is_trained_again_anyway(finished):
    left(finished, "final")
    new = finished.stage("bag2-4/decay-7")
    data = json.loads(new.data_manifest.read_text())
    new.data_manifest.write_text(json.dumps({**data, "identity": "f" * 64}))
    check_parents(planned(new), finished.results)


def test_a_restoration_that_was_killed_before_its_end_puts_the_first_manifest_back(finished, capsys):
    folder = finished.stage("bag2-4")
    write_list(folder.last_checkpoint(folder.manifest()), 0)
    first = folder.manifest_path.read_text()
    backup = folder.path / "logs/before_restore"
    backup.mkdir(parents=True)
    (backup / "manifest.json").write_text(first)
    (backup / "metrics.jsonl").write_text("of the first training\n")
    folder.manifest_path.write_text(first.replace("1.5", "9.5"))
    folder.metrics_path.write_text("of the second training\n")
    assert cli.main(["restore", str(folder.path)]) == 0
    assert folder.manifest_path.read_text() == first and not backup.exists()
    assert folder.metrics_path.read_text() == "of the first training\n"
    assert "has its checkpoint" in capsys.readouterr().err


def test_an_unfinished_stage_is_not_restored(finished, capsys):
    assert cli.main(["restore", str(finished.stage("bag2-4/token-8").path)]) == 2
    assert "not finished" in capsys.readouterr().err
