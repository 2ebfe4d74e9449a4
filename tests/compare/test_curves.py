"""Stages join into one curve, and files that do not belong together are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.made_stages import Shape, write_run
from tst_titan.compare.curves import run_curve, smooth, thin
from tst_titan.compare.stages import Line, read_lines, read_path, read_stage
from tst_titan.errors import UserError

STAGES = (("bag", 4, 100), ("token", 1, 300), ("decay", 1, 340))


def straight(step: int, phase: str, bag_size: int) -> float:
    """Falls by 0.001 a step; the bag loss is 2 above, the decay twice as steep."""
    return (
        5
        - 0.001 * step
        + (2.0 if phase == "bag" else 0.0)
        - (0.001 * (step - 300) if phase == "decay" else 0)
    )


@pytest.fixture
def folders(tmp_path: Path) -> tuple[str, ...]:
    return write_run(tmp_path / "run", STAGES, straight, shape=Shape(world_size=2))


def edit(path: Path, **changes: Any) -> None:
    """Change keys of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_curve_joins_stages_over_the_whole_run(folders: tuple[str, ...]) -> None:
    curve = run_curve(read_path(folders))
    assert curve["step"].tolist() == list(range(10, 341, 10))
    assert curve["segment"].unique().tolist() == [0, 1, 2]
    assert curve["comparable"].tolist() == [False] * 10 + [True] * 24
    last = curve.iloc[-1]
    assert last["latents"] == 340 * 4096
    assert last["data_tokens"] == (100 * 4 + 240) * 4096
    assert last["flops"] == pytest.approx(340 * 4096 * 1e6)
    assert last["hours"] == pytest.approx(340 * 0.36 / 3600)
    assert last["device_hours"] == pytest.approx(2 * 340 * 0.36 / 3600)
    middle = curve[curve["step"] == 150].iloc[0]
    assert middle["hours"] == pytest.approx(150 * 0.36 / 3600)


def test_stages_of_one_phase_and_bag_size_are_one_segment(tmp_path: Path) -> None:
    folders = write_run(tmp_path, (("token", 1, 100), ("token", 1, 200), ("decay", 1, 220)), straight)
    assert run_curve(read_path(folders))["segment"].unique().tolist() == [0, 1]
    bags = write_run(tmp_path / "bags", (("bag", 8, 100), ("bag", 4, 200), ("token", 1, 300)), straight)
    assert run_curve(read_path(bags))["segment"].unique().tolist() == [0, 1, 2]


def test_smoothing_leaves_lines_alone_and_never_crosses_a_segment(folders: tuple[str, ...]) -> None:
    curve = run_curve(read_path(folders))
    assert smooth(curve, 7) == pytest.approx(curve["loss"].to_numpy(), abs=1e-12)


def test_smoothing_inside_is_the_moving_average() -> None:
    losses = np.array([3.0, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0])
    curve = pd.DataFrame({"loss": losses, "segment": 0})
    smoothed = smooth(curve, 3)
    assert smoothed[1:-1] == pytest.approx([np.mean(losses[i : i + 3]) for i in range(5)])
    assert smooth(curve.iloc[:2], 11) == pytest.approx(losses[:2])


def test_thinning_keeps_the_ends_of_every_segment(folders: tuple[str, ...]) -> None:
    curve = run_curve(read_path(folders))
    kept = thin(curve, 12)
    assert 6 <= len(kept) <= 14
    for segment, part in curve.groupby("segment"):
        steps = kept.loc[kept["segment"] == segment, "step"]
        assert (steps.iloc[0], steps.iloc[-1]) == (part["step"].iloc[0], part["step"].iloc[-1])
    assert len(thin(curve, 1000)) == len(curve)


def test_another_config_than_expected_is_refused(folders: tuple[str, ...]) -> None:
    config = Path(folders[1]) / "stage.yaml"
    config.write_text(config.read_text() + "learning_rate: 1\n")
    with pytest.raises(UserError, match=r"token-300/stage\.yaml.*different config"):
        read_path(folders)


@pytest.mark.parametrize(
    ("stage", "changes", "message"),
    [
        (1, {"parent_identity": "other"}, "trained from another parent"),
        (1, {"start_step": 90}, "start_step is 90.*ends at step 100"),
        (2, {"flops": 1.0}, "flops is 1, but its parent"),
        (0, {"start_step": 5}, "first stage of a run starts at step 5"),
        (0, {"phase": "warmup"}, "key phase: found 'warmup': Input should be 'bag'"),
        (2, {"latents": "many"}, "key latents: found 'many': Input should be a valid number"),
    ],
)
def test_stages_that_do_not_continue_each_other_are_refused(
    folders: tuple[str, ...], stage: int, changes: dict[str, Any], message: str
) -> None:
    edit(Path(folders[stage]) / "manifest.json", **changes)
    with pytest.raises(UserError, match=message):
        read_path(folders)


def test_missing_manifest_and_missing_key_name_the_file(folders: tuple[str, ...]) -> None:
    path = Path(folders[2]) / "manifest.json"
    content = json.loads(path.read_text())
    del content["unique_data_tokens"]
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"decay-340/manifest\.json: missing key unique_data_tokens"):
        read_stage(folders[2])
    path.unlink()
    with pytest.raises(UserError, match="has not finished"):
        read_stage(folders[2])


def rewrite(folder: str, line: int, **changes: Any) -> None:
    """Change keys of one line of a stage's metrics."""
    path = Path(folder) / "metrics.jsonl"
    lines = path.read_text().splitlines()
    lines[line] = json.dumps(json.loads(lines[line]) | changes)
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(
    ("stage", "line", "changes", "message"),
    [
        (1, 3, {"step": 130}, "step goes from 130 to 130"),
        (1, 3, {"latents": 1}, "latents goes from"),
        (1, 0, {"data_tokens": 41000}, "data_tokens starts at 41000, but its parent had already"),
        (1, 0, {"step": 100}, "steps 100 to 300 were logged, but .* from step 101 to 300"),
        (2, -1, {"flops": 1e15}, "flops ends at 1e.15, above"),
        (2, 0, {"loss": float("nan")}, "key loss: found nan: a run that diverged"),
        (2, 0, {"loss": None}, "key loss: found None: Input should be a valid number"),
    ],
)
def test_inconsistent_metrics_are_refused(
    folders: tuple[str, ...], stage: int, line: int, changes: dict[str, Any], message: str
) -> None:
    rewrite(folders[stage], line, **changes)
    with pytest.raises(UserError, match=message):
        run_curve(read_path(folders))


def test_a_broken_line_is_named(folders: tuple[str, ...]) -> None:
    path = Path(folders[0]) / "metrics.jsonl"
    path.write_text(path.read_text() + '{"step": 1')
    with pytest.raises(UserError, match=r"metrics\.jsonl, line 11: is not valid JSON"):
        read_lines(path, Line)
    path.write_text("")
    with pytest.raises(UserError, match="no logged step"):
        read_lines(path, Line)
