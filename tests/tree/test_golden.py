"""What must never change by accident: every shipped stage's name and identity, and what plans count.

``python -m tests.tree.test_golden`` writes the golden files anew; a changed identity trains finished runs again, so
docs/architecture.md must then say why.
"""

from __future__ import annotations

import csv
import json
import lzma
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.shipped import shipped_root
from tst_titan.run.upgrade import parse_format_1
from tst_titan.tree.folder import sha256_of, stage_yaml
from tst_titan.tree.plan import Plan
from tst_titan.tree.project import Project
from tst_titan.tree.resolve import Stage

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests/golden"
SCALES = ("smoke", "cpu", "gpu", "paper")
# Experiments that came later are not frozen: they may add stages, and rename none of these.
EXPERIMENTS = tuple(json.loads((GOLDEN / "plans.json").read_text())["smoke"]["experiments"])


@cache
def project(scale: str) -> Project:
    return Project.open(
        shipped_root(), {"scale": scale, "experiments": EXPERIMENTS, "results": "/nonexistent"}
    )


def identities(stages: dict[str, Stage]) -> dict[str, str]:
    return {path: sha256_of(stage_yaml(stage.config)) for path, stage in sorted(stages.items())}


def plan(scale: str) -> dict[str, Any]:
    opened = project(scale)
    content = Plan(opened, opened.config.plan).as_json()
    return {key: value for key, value in content.items() if key not in ("stages", "results")}


@pytest.mark.parametrize("scale", SCALES)
def test_every_stage_keeps_its_name_and_its_text(scale):
    with (GOLDEN / "stages.csv").open(encoding="utf8") as file:
        golden = {row["path"]: row["sha256"] for row in csv.DictReader(file) if row["scale"] == scale}
    assert golden
    assert {path: sha[:16] for path, sha in identities(project(scale).stages).items()} == golden


@pytest.mark.parametrize("scale", SCALES)
def test_plans_count_what_they_counted(scale):
    golden = json.loads((GOLDEN / "plans.json").read_text())[scale]
    assert json.loads(json.dumps(plan(scale))) == golden


def test_stages_of_format_1_are_what_they_are_today():
    """Each stage.yaml that commit 6d325f6 wrote for these experiments means today's config of the same path."""
    with lzma.open(GOLDEN / "stages-format1.jsonl.xz", "rt", encoding="utf8") as file:
        old = [json.loads(line) for line in file]
    assert len(old) == 2115
    for row in old:
        today = project(row["scale"]).stages[row["path"]].config
        found = parse_format_1(row["stage_yaml"])
        assert found is not None and today is not None
        assert (
            found.data.order == 0
        )  # it had one order for all seeds, so what further seeds trained is not today's
        if found.seed:
            assert today.data.order == found.seed
            today = today.model_copy(update={"data": found.data})
        assert found == today, row["path"]


def _write() -> None:
    with (GOLDEN / "stages.csv").open("w", encoding="utf8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["scale", "path", "sha256"])
        for scale in SCALES:
            writer.writerows(
                (scale, path, sha[:16]) for path, sha in identities(project(scale).stages).items()
            )
    plans = {scale: plan(scale) for scale in SCALES}
    (GOLDEN / "plans.json").write_text(json.dumps(plans, indent=1) + "\n")


if __name__ == "__main__":
    _write()
