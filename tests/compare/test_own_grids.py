"""From own runs through a comparison to a recommendation, by the commands that a user calls."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from fake_runs import law, wsd

from tests.made_stages import Shape, write_measurements, write_run
from tst_titan import cli

SHAPE = Shape(parameters=10_000_000)
STEPS = 2000
ASK = ["recommend", "--model", "10M", "--latents", str(STEPS * SHAPE.latents_per_step), "--json"]


def write_grid(
    root: Path, name: str = "figure_4", caveat: str | None = None, heldout: bool = False, **axes: str
) -> None:
    """Runs of a grid and its comparison in ``root``/results; a cell of s and r is worth s * r * 100 more steps.

    On held-out text, where that is measured, a third of these.
    """
    runs: list[dict[str, object]] = []

    def add(run: str, plan: tuple, worth: float, **keys: object) -> None:
        loss = wsd(STEPS, final_step=STEPS + worth)
        stages = write_run(root / "results/train/cpu" / run, plan, loss, shape=SHAPE)
        if heldout:
            lower = wsd(STEPS, final_step=STEPS + worth / 3)
            write_measurements(stages, lower, np.linspace(-1, 1, 50), noise=1e-3, seed=len(runs))
        runs.append({"name": run, "label": run, "group": "small-short", "stages": stages, **keys})

    add("baseline", (("token", 1, 1600), ("decay", 1, STEPS)), 0, role="baseline")
    for s in (2, 4, 8):
        for r in (0.2, 0.4):
            plan = (("bag", s, round(r * STEPS)), ("token", 1, 1600), ("decay", 1, STEPS))
            cell = {"bag_size": s, "bag_fraction": r, **axes}
            add(f"s{s}-r{r}", plan, s * r * 100, role="tst", axes=cell)
    spec = {"experiment": name, "scale": "cpu", "kind": "grid", "caveat": caveat, "runs": runs}
    path = root / f"{name}.yaml"
    path.write_text(yaml.safe_dump(json.loads(json.dumps(spec))))
    command = ["-m", "tst_titan.cli", "compare", str(path), "--out", f"results/compare/cpu/{name}"]
    subprocess.run([sys.executable, *command], cwd=root, check=True, capture_output=True)


@pytest.fixture
def ask(tmp_path, monkeypatch, capsys):
    """Ask for a recommendation where the results lie; the answer and what was said beside it."""
    monkeypatch.chdir(tmp_path)

    def recommend(*more: str) -> tuple[dict, str]:
        assert cli.main([*ASK, *more]) == 0
        said = capsys.readouterr()
        return json.loads(said.out), said.err

    return recommend


OWN = ("--results", "results")


def test_own_grids_join_when_asked_and_change_the_answer(tmp_path, ask):
    published, said = ask()
    assert said == "" and any(
        "outside" in reason or "param" in reason for reason in published["extrapolates"]
    )
    write_grid(tmp_path)
    own, said = ask(*OWN)
    assert "cpu-10M-2000: 6 own cells, best s = 8, r = 0.4 with 0.04" in said
    # The law that the runs were made from promises less than the paper's models do.
    expected = law(STEPS) - law(STEPS + 8 * 0.4 * 100)
    assert expected == pytest.approx(0.0445, abs=0.001)
    assert abs(own["best"]["gain"] - expected) < abs(published["best"]["gain"] - expected)
    assert own["extrapolates"] == []
    assert ask() == (published, "")
    assert ask("--results", "elsewhere") == (published, "")


def test_held_out_gains_are_taken_where_they_were_measured(tmp_path, ask):
    write_grid(tmp_path, heldout=True)
    _, said = ask(*OWN)
    assert ": 6 own cells, best s = 8, r = 0.4 with 0.015" in said
    assert law(STEPS) - law(STEPS + 8 * 0.4 * 100 / 3) == pytest.approx(0.0156, abs=1e-4)


def test_a_grid_that_two_experiments_share_counts_once(tmp_path, ask):
    write_grid(tmp_path)
    once, _ = ask(*OWN)
    write_grid(tmp_path, "figure_5")
    twice, said = ask(*OWN)
    assert twice == once and ": 6 own cells" in said
    # Named as well as found: the same cells again.
    assert ask(*OWN, "--comparison", "results/compare/cpu/figure_4/comparison.json")[0] == once


def test_a_scale_that_means_nothing_is_left_out(tmp_path, ask):
    published, _ = ask()
    write_grid(tmp_path, "plumbing", caveat="These numbers mean nothing.")
    assert ask(*OWN) == (published, "")


def test_a_comparison_that_cannot_be_read_is_named_and_left_out(tmp_path, ask):
    published, _ = ask()
    broken = tmp_path / "results/compare/cpu/broken/comparison.json"
    broken.parent.mkdir(parents=True)
    broken.write_text("{")
    found, said = ask(*OWN)
    assert found == published and "results/compare/cpu/broken/comparison.json is left out" in said


def test_a_grid_of_other_weights_does_not_join_the_uniform_ones(tmp_path, ask, capsys):
    published, _ = ask()
    write_grid(tmp_path, "power", weighting="power")
    assert ask(*OWN) == (published, "")
    assert cli.main([*ASK, "--comparison", "results/compare/cpu/power/comparison.json"]) == 2
    assert "no grid" in capsys.readouterr().err
