"""Results made by an earlier commit, and by a later schema, are what they are: nothing trains again."""

from __future__ import annotations

import ast
import json
import shutil
import tarfile
from pathlib import Path

import pytest

from tests.workflow.project import REPOSITORY, ProjectCopy
from tst_titan.config.load import models_in
from tst_titan.config.schema import StageConfig
from tst_titan.tree.folder import StageFolder, complete_checkpoints

# Figure 3a at scale smoke as commit 6d325f6 left it. Of the checkpoints only one came along.
OLD_RESULTS = REPOSITORY / "tests/golden/results-6d325f6.tar.xz"
TST_RUN = "train/smoke-small/bag2-5/token-18/decay-20"
BEFORE_THE_COMPARISON = {"train", "filter_documents", "data_step", "tokenize", "export", "heldout"}


@pytest.fixture
def old(tmp_path: Path) -> ProjectCopy:
    """The present project with the old commit's results."""
    project = ProjectCopy.make(tmp_path / "project")
    with tarfile.open(OLD_RESULTS) as archive:
        archive.extractall(project.folder / "results", filter="data")
    return project


def test_old_results_train_nothing(old):
    manifests = {
        path: json.loads(path.read_text()) for path in old.folder.glob("results/train/**/manifest.json")
    }
    assert len(manifests) == 5
    assert not BEFORE_THE_COMPARISON & set(old.would_run("figure_3a"))
    for path, before in manifests.items():
        folder = StageFolder.at(path.parent)
        assert (path.parent / "stage.yaml").read_text().startswith("format: 2\n")
        assert folder.is_finished() and folder.manifest()["identity"] != before["identity"]
        translated = ("identity", "stage_sha256", "parent_identity", "checkpoint", "format_1")
        assert {k: v for k, v in folder.manifest().items() if k not in translated} == {
            k: v for k, v in before.items() if k not in translated
        }
    times = {path: path.stat().st_mtime_ns for path in old.folder.glob("results/train/**/*.*")}
    old.would_run("figure_3a")
    assert {path: path.stat().st_mtime_ns for path in times} == times


def test_an_old_checkpoint_is_trained_on(old):
    manifest = old.folder / "results" / TST_RUN / "manifest.json"
    before = json.loads(manifest.read_text())
    manifest.unlink()
    old.run(f"results/{TST_RUN}/manifest.json")
    after = json.loads(manifest.read_text())
    assert after["final_loss"] == pytest.approx(before["final_loss"], rel=1e-6)
    parent = StageFolder.at(manifest.parent.parent)
    assert after["parent_identity"] == parent.manifest()["identity"] != before["parent_identity"]
    assert complete_checkpoints(parent.checkpoint_folder(parent.manifest()["identity"]))


def test_an_old_stage_with_another_config_trains(old):
    old.edit("configs/scales/smoke.yaml", "learning_rate: 3e-3", "learning_rate: 4e-3")
    assert old.would_run("figure_3a")["train"] == 5


def test_keys_that_a_later_release_adds_change_no_stage(old):
    """An optional key with a default is added to every model that stage.yaml is made of."""
    old.would_run("figure_3a")
    texts = {path: path.read_text() for path in old.folder.glob("results/train/**/stage.yaml")}
    names = {model.__name__ for model in _models_of(StageConfig)}
    found = set()
    for path in old.folder.glob("tst_titan/**/*.py"):
        lines = path.read_text().splitlines()
        for node in sorted(ast.walk(ast.parse("\n".join(lines))), key=lambda n: -getattr(n, "lineno", 0)):
            if isinstance(node, ast.ClassDef) and node.name in names:
                found.add(node.name)
                first = node.body[0]  # the docstring
                lines.insert(first.end_lineno or first.lineno, "    added_later: int = 7")
        path.write_text("\n".join(lines) + "\n")
    assert found == names and len(names) > 5
    assert not BEFORE_THE_COMPARISON & set(old.would_run("figure_3a"))
    assert {path: path.read_text() for path in texts} == texts
    shutil.rmtree(old.folder / "results/train")
    old.would_run("figure_3a")
    assert {path: path.read_text() for path in texts} == texts


def _models_of(model: type) -> set[type]:
    """A config model and all models that it may hold."""
    inner = {each for field in model.model_fields.values() for each in models_in(field.annotation)}  # type: ignore[attr-defined]
    return {model}.union(*map(_models_of, inner))
