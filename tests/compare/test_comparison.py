"""Whole comparisons over stage folders whose curves follow known formulas."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from fake_stages import Shape, write_heldout, write_run, write_tasks

from tst_titan.compare import Comparison, ComparisonSpec, compare, load_spec, write_comparison
from tst_titan.errors import UserError
from tst_titan.paper import SEVEN_TASKS

SLOPE = 0.3


def law(step: float) -> float:
    """Final loss of a baseline of that many steps."""
    return 5 - SLOPE * math.log(step)


def wsd(
    end: int, shift: float = 0.0, spike: float = 0.0, switch: int = 0, final_step: float | None = None
) -> Any:
    """A run of ``end`` steps that is 0.1 above its final law before the decay; flat over the last 100 steps.

    The flat end makes the mean over the last logged steps equal the final loss exactly.
    """
    start = int(0.8 * end)
    last = law(final_step or end) + shift

    def loss(step: int, phase: str, bag_size: int) -> float:
        if phase == "bag":
            return 6.0 - 0.0001 * step
        if phase == "decay":
            share = min(1.0, (step - start) / (end - 100 - start))
            return last + 0.1 * (1 - share) ** 2
        above = spike * max(0.0, 1 - (step - switch) / 200)
        return last + 0.1 + SLOPE * math.log(start / step) + above

    return loss


def baseline(root: Path, end: int, noise: float = 0.0, seed: int = 0, **keys: Any) -> dict[str, Any]:
    """Spec of a baseline that ends at ``law(end)``."""
    start = int(0.8 * end)
    folder = root / f"base-{end}-{seed}-{keys.get('name', '')}"
    stages = write_run(folder, (("token", 1, start), ("decay", 1, end)), wsd(end), noise, 7 * end + seed)
    name = f"base-{end}" if not seed else f"base-{end}-{seed}"
    return {
        "name": name,
        "label": f"baseline {end}",
        "role": "baseline",
        "seed": seed,
        "stages": stages,
    } | keys


def tst(
    root: Path,
    end: int,
    like: float,
    bag_size: int = 6,
    fraction: float = 0.3,
    noise: float = 0.0,
    seed: int = 0,
    **keys: Any,
) -> dict[str, Any]:
    """Spec of a TST run of ``end`` steps that ends where a baseline of ``like`` steps ends."""  # fmt: skip
    switch, start = round(fraction * end), int(0.8 * end)
    loss = wsd(end, spike=1.5, switch=switch, final_step=like)
    folder = root / f"tst-{end}-{bag_size}-{fraction}-{seed}-{keys.get('name', '')}"
    middle = (("token", 1, start),) if switch < start else ()
    plan = (("bag", bag_size, switch), *middle, ("decay", 1, end))
    stages = write_run(folder, plan, loss, noise, 3 * end + seed)
    return {
        "name": f"tst-s{bag_size}-r{fraction}-{seed}", "label": f"TST s={bag_size} r={fraction}", "role": "tst",
        "seed": seed, "axes": {"bag_size": bag_size, "bag_fraction": fraction}, "stages": stages,
    } | keys  # fmt: skip


def make(kind: str, runs: list[dict[str, Any]], **keys: Any) -> Comparison:
    """Compare these runs."""
    spec = {"experiment": "test", "scale": "cpu", "kind": kind, "runs": runs} | keys
    return compare(ComparisonSpec.from_mapping(spec))


def texts(comparison: Comparison, kind: str) -> str:
    """All sentences of one kind."""
    return "\n".join(item.text for item in comparison.verdict if item.kind == kind)


@pytest.fixture
def figure_3(tmp_path: Path) -> list[dict[str, Any]]:
    """Baselines of 2,000, 3,600 and 5,000 steps and a TST run that is worth 3,000 steps."""
    paper = {"model": "3B", "variant": "baseline"}
    runs = [
        baseline(tmp_path, end, noise=0.001, paper=paper | {"total_steps": 10 * end})
        for end in (2000, 3600, 5000)
    ]
    run = tst(
        tmp_path, 2000, like=3000, noise=0.001, paper={"model": "3B", "variant": "tst", "total_steps": 20000}
    )
    return [*runs, run]


def test_equal_flops_data_and_loss_have_the_known_answers(figure_3: list[dict[str, Any]]) -> None:
    comparison = make("pair", figure_3)
    assert [(pair.reference, pair.run) for pair in comparison.pairs] == [
        (f"base-{end}", "tst-s6-r0.3-0") for end in (2000, 3600, 5000)
    ]
    pair = comparison.pairs[0]
    assert pair.equal_flops.fair and pair.equal_flops.winner == "run"
    assert pair.equal_flops.difference.number == pytest.approx(law(3000) - law(2000), abs=0.002)
    assert pair.equal_data.fair and pair.equal_data.winner == "reference"
    assert pair.equal_data.difference.number == pytest.approx(law(3000) - law(5000), abs=0.002)
    found = pair.equal_loss
    assert found is not None and found.status == "reached" and found.method == "interpolated final losses"
    assert found.at["steps"].number == pytest.approx(3000, rel=0.005)
    assert found.speedup["steps"].number == pytest.approx(1.5, rel=0.005)
    assert found.speedup["flops"].number == pytest.approx(1.5, rel=0.005)
    assert found.speedup["hours"].number == pytest.approx(1.5, rel=0.005)
    assert found.at["data_tokens"].number == pytest.approx(3000 * 4096, rel=0.005)
    low, high = found.speedup["steps"].low, found.speedup["steps"].high
    assert low is not None and high is not None and low < 1.5 < high and high - low < 0.03


def test_run_reaches_the_reference_inside_its_own_curve(figure_3: list[dict[str, Any]]) -> None:
    pair = make("pair", figure_3).pairs[0]
    found = pair.run_reaches_reference
    assert found is not None and found.status == "reached" and found.bound == "at_least"
    # Before the decay the run is at law(3000) + 0.1 + SLOPE * log(1600 / step), and law(2000) is above that.
    assert law(2000) - law(3000) > 0.1
    expected = 1600 * math.exp(-(law(2000) - law(3000) - 0.1) / SLOPE)
    assert found.at["steps"].number == pytest.approx(expected, rel=0.01)
    assert found.speedup["steps"].number == pytest.approx(2000 / expected, rel=0.01)
    assert found.speedup["steps"].low is not None and found.speedup["steps"].high is not None
    assert found.speedup["steps"].low <= found.speedup["steps"].number <= found.speedup["steps"].high


def test_switch_is_described(figure_3: list[dict[str, Any]]) -> None:
    pair = make("pair", figure_3).pairs[0]
    assert pair.switch is not None and pair.switch.step == 600
    # The spike sits on a trend that is SLOPE * log(1.5) below the baseline's.
    first = 1.5 * (1 - 10 / 200) - SLOPE * math.log(1.5)
    assert pair.switch.height_over_reference == pytest.approx(first, abs=0.01)
    gap = SLOPE * math.log(1.5)
    assert pair.switch.steps_to_recover == pytest.approx(200 * (1 - gap / 1.5), abs=25)


def test_verdict_holds_the_runs_against_the_paper(figure_3: list[dict[str, Any]]) -> None:
    comparison = make("pair", figure_3, paper={"experiment": "figure_3"})
    said = texts(comparison, "reproduction")
    assert "baseline 2000, final loss: ours -0.122, the paper's -0.132" in said
    assert "direction reproduced" in said
    assert "TST s=6 r=0.3 minus baseline 3600" in said and "the paper's two runs tie; ours differ" in said
    assert "Order of the 4 final losses: 5 of 5 pairs as in the paper" in said
    assert "ours 1.50 times, the paper's 1.82 times" in said
    results = texts(comparison, "result")
    assert re.search(r"At equal FLOPs TST s=6 r=0.3 ends 0.12\d\d nats/token below baseline 2000", results)
    assert re.search(r"At equal data TST s=6 r=0.3 ends 0.15\d\d nats/token above baseline 5000", results)
    assert "cannot be told from the noise over seeds" in texts(comparison, "noise")


def test_a_reversed_result_is_not_called_reproduced(tmp_path: Path) -> None:
    runs = [
        baseline(tmp_path, 2000, 0.001, paper={"model": "3B", "variant": "baseline", "total_steps": 20000}),
        tst(tmp_path, 2000, 1700, noise=0.001, paper={"model": "3B", "variant": "tst", "total_steps": 20000}),
    ]
    comparison = make("pair", runs)
    assert "direction not reproduced" in texts(comparison, "reproduction")
    assert comparison.pairs[0].equal_flops.winner == "reference"


def test_single_equal_flops_baseline_is_not_reached(tmp_path: Path) -> None:
    comparison = make("pair", [baseline(tmp_path, 2000, 0.001), tst(tmp_path, 2000, 3000, noise=0.001)])
    found = comparison.pairs[0].equal_loss
    assert found is not None
    assert (found.status, found.bound, found.method) == ("not_reached", None, "none")
    assert not found.speedup["steps"].exists and "not reached" in (found.speedup["steps"].reason or "")
    assert "not reached: the reference ends at" in texts(comparison, "result")
    # No baseline of equal data either: the run read 2.5 times the data, and only its curve could be cut.
    assert comparison.pairs[0].equal_data.winner != "run"
    assert not comparison.pairs[0].equal_data.fair


def test_longer_single_baseline_bounds_the_speedup(tmp_path: Path) -> None:
    """Figure 1: the baseline is 2.5 times longer and still ends above."""
    comparison = make("pair", [baseline(tmp_path, 5000, 0.001), tst(tmp_path, 2000, 5500, noise=0.001)])
    found = comparison.pairs[0].equal_loss
    assert found is not None
    assert (found.status, found.bound) == ("not_reached", "at_least")
    assert found.speedup["steps"].number == pytest.approx(2.5)
    assert "at least 2.50 times" in texts(comparison, "result")


def test_worse_run_is_met_inside_the_baselines_curve(tmp_path: Path) -> None:
    """The run ends where the baseline's undecayed curve is at step 1,200: the speed-up is at most 0.6."""
    target = law(2000) + 0.1 + SLOPE * math.log(1600 / 1200)
    like = math.exp((5 - target) / SLOPE)
    comparison = make("pair", [baseline(tmp_path, 2000, 0.001), tst(tmp_path, 2000, like, noise=0.001)])
    found = comparison.pairs[0].equal_loss
    assert found is not None
    assert (found.status, found.bound, found.method) == ("reached", "at_most", "curve crossing")
    assert found.at["steps"].number == pytest.approx(1200, rel=0.01)
    assert found.speedup["steps"].number == pytest.approx(0.6, rel=0.01)


def test_undecided_within_the_noise(tmp_path: Path) -> None:
    comparison = make("pair", [baseline(tmp_path, 2000, 0.1), tst(tmp_path, 2000, 2010, noise=0.1)])
    assert comparison.pairs[0].equal_flops.winner == "undecided"
    assert "within the noise of the logged loss" in texts(comparison, "result")


def test_seeds_are_paired_and_stated(tmp_path: Path) -> None:
    runs = [baseline(tmp_path, 2000, 0.005, seed) for seed in (1, 2, 3)]
    runs += [tst(tmp_path, 2000, 3000, noise=0.005, seed=seed) for seed in (1, 2, 3)]
    comparison = make("seeds", runs)
    assert [(pair.reference, pair.run) for pair in comparison.pairs] == [
        (f"base-2000-{seed}", f"tst-s6-r0.3-{seed}") for seed in (1, 2, 3)
    ]
    (found,) = comparison.seeds
    assert found.paired and found.n_run == 3 and found.outside_noise
    assert found.difference.number == pytest.approx(law(3000) - law(2000), abs=0.01)
    losses = comparison.table.set_index("name")["final_loss"]
    by_hand = np.mean([losses[f"tst-s6-r0.3-{s}"] - losses[f"base-2000-{s}"] for s in (1, 2, 3)])
    assert found.difference.number == pytest.approx(by_hand)


def test_grid_has_cells_gains_and_the_papers_cells(tmp_path: Path) -> None:
    """Two cells in the wrong order, two worse than the baseline, and r = 1 kept apart."""
    paper = {"model": "270M", "total_steps": 20000, "bag_weighting": "uniform"}
    worth = {(2, 0.3): 3000, (6, 0.3): 3200, (6, 0.9): 1500, (16, 0.3): 2900, (16, 0.9): 1200}
    runs = [baseline(tmp_path, 2000, 0.001, paper=paper)]
    runs += [tst(tmp_path, 2000, like, s, r, 0.001, paper=paper) for (s, r), like in worth.items()]
    only_bags = write_run(tmp_path / "bags", (("bag", 6, 1600), ("bag", 6, 2000)), wsd(2000), 0.001)
    runs.append(
        {"name": "r1", "label": "r1", "role": "tst", "stages": only_bags, "paper": paper,
         "axes": {"bag_size": 6, "bag_fraction": 1.0}}
    )  # fmt: skip
    comparison = make("grid", runs, paper={"experiment": "figure_4"})
    grid = next(grid for grid in comparison.grids if grid.metric == "final_loss")
    cells = {(cell.bag_size, cell.bag_fraction): cell for cell in grid.cells}
    assert len(cells) == 6 and grid.cells_in_common == 5
    assert cells[6, 0.3].gain.number == pytest.approx(law(2000) - law(3200), abs=0.002)
    assert cells[16, 0.9].gain.number == pytest.approx(law(2000) - law(1200), abs=0.002)
    assert cells[6, 0.3].published is not None and cells[6, 0.3].published.number == 3.1423
    assert cells[6, 0.3].published_gain is not None
    assert cells[6, 0.3].published_gain.number == pytest.approx(3.2124 - 3.1423)
    assert cells[6, 1.0].bag_loss_only and not cells[6, 1.0].gain.exists
    assert cells[6, 1.0].published is not None and cells[6, 1.0].published.number == 6.0365
    assert grid.best is not None and (grid.best.bag_size, grid.best.bag_fraction) == (6, 0.3)
    assert grid.published_best is not None and grid.published_best.bag_size == 6
    assert grid.rank_correlation.number == pytest.approx(0.9)
    assert grid.beats_baseline == {
        "cells": 5, "ours": 3, "published": 3, "ours_and_published": 3, "same_side": 5,
    }  # fmt: skip
    assert "direction reproduced" in texts(comparison, "reproduction")
    assert all(pair.equal_loss is None for pair in comparison.pairs)


def test_lr_sweep_compares_at_each_and_at_the_best_rate(tmp_path: Path) -> None:
    rates = (1e-3, 2e-3, 3e-3)
    runs = []
    for lr, base_like, tst_like in zip(rates, (1800, 2000, 1900), (2500, 2600, 2700), strict=True):
        name = f"lr{lr}"
        base = baseline(tmp_path, 2000, 0.001, name=f"b-{name}", axes={"lr": lr})
        stages = write_run(
            tmp_path / name, (("token", 1, 1600), ("decay", 1, 2000)), wsd(2000, final_step=base_like), 0.001
        )
        runs += [base | {"stages": stages}]
        run = tst(tmp_path, 2000, tst_like, noise=0.001, name=f"t-{name}")
        runs.append(run | {"axes": run["axes"] | {"lr": lr}})
    comparison = make("lr_sweep", runs)
    (sweep,) = comparison.sweeps
    series = {item.name: item for item in sweep.series}
    assert set(series) == {"baseline", "tst"}
    assert series["baseline"].best is not None and series["baseline"].best.x == 2e-3
    assert not series["baseline"].best_at_edge and series["tst"].best_at_edge
    assert [gap.x for gap in sweep.differences] == list(rates)
    assert sweep.differences[0].difference.number == pytest.approx(law(2500) - law(1800), abs=0.003)
    assert sweep.best_against_best["tst"].number == pytest.approx(law(2700) - law(2000), abs=0.003)
    assert "its optimum may lie beyond" in texts(comparison, "warning")
    assert len(comparison.pairs) == 3


def test_data_bound_pairs_by_epochs_and_warns_of_repetition(tmp_path: Path) -> None:
    runs = []
    for epochs in (1, 4):
        shape = Shape(corpus_tokens=2000 * 4096 // epochs)
        plan = [("token", 1, 1600), ("decay", 1, 2000)]
        base = write_run(tmp_path / f"b{epochs}", plan, wsd(2000), 0.001, shape=shape)
        plan = [("bag", 1, 600), *plan]
        out = write_run(tmp_path / f"o{epochs}", plan, wsd(2000, final_step=2100), 0.001, 1, shape)
        axes = {"epochs": epochs}
        runs += [
            {
                "name": f"b{epochs}",
                "label": f"baseline {epochs}",
                "role": "baseline",
                "axes": axes,
                "stages": base,
            },
            {
                "name": f"o{epochs}",
                "label": f"output only {epochs}",
                "role": "tst",
                "axes": axes,
                "stages": out,
            },
        ]
    comparison = make("data_bound", runs)
    assert [(pair.reference, pair.run) for pair in comparison.pairs] == [("b1", "o1"), ("b4", "o4")]
    assert comparison.table.set_index("name").loc["o4", "epochs"] == pytest.approx(4)
    warning = texts(comparison, "warning")
    assert "baseline 4 4.00 epochs of 2.05M unique tokens" in warning and "output only 1" not in warning


def test_curriculum_and_feeding_compare_with_their_controls(tmp_path: Path) -> None:
    plan = (("bag", 16, 200), ("bag", 8, 400), ("bag", 2, 600), ("token", 1, 1600), ("decay", 1, 2000))
    curriculum = write_run(tmp_path / "c", plan, wsd(2000, final_step=3100), 0.001)
    control = tst(tmp_path, 2000, 2900, noise=0.001, role="same_steps", name="control")
    runs = [
        baseline(tmp_path, 2000, 0.001), control,
        {"name": "c", "label": "curriculum", "role": "curriculum", "stages": curriculum},
    ]  # fmt: skip
    comparison = make("curriculum", runs)
    assert [(pair.reference, pair.run) for pair in comparison.pairs] == [
        ("base-2000", "control"), ("base-2000", "c"), ("control", "c"),
    ]  # fmt: skip
    assert comparison.table.set_index("name").loc["c", "bag_size"] == "16>8>2"
    assert comparison.runs[2].bag_sizes == [16, 8, 2]
    assert comparison.runs[2].metrics["bag_steps"].number == 600
    feeding = make("feeding", runs)
    assert [(pair.reference, pair.run) for pair in feeding.pairs] == [
        ("base-2000", "control"), ("base-2000", "c"), ("control", "c"),
    ]  # fmt: skip


def test_transfer_counts_the_token_steps_that_a_bag_step_replaces(tmp_path: Path) -> None:
    """A run of 2,000 steps, 600 of them bags, that ends like 3,500 steps: (3500 - 1400) / 600 = 3.5."""
    paper = {"model": "3B", "total_steps": 20000, "variant": "tst"}
    runs = [baseline(tmp_path, end, 0.001, axes={"width": 64}) for end in (2000, 4000, 8000)]
    for like, name in ((3500, "inside"), (9000, "beyond"), (1500, "below")):
        run = tst(tmp_path, 2000, like, noise=0.001, name=name, label=name, paper=paper)
        runs.append(run | {"axes": run["axes"] | {"width": 64}})
    runs.append(baseline(tmp_path, 3000, 0.001, name="other-width", axes={"width": 128}))
    comparison = make("transfer", runs)
    inside, beyond, below = comparison.transfer
    assert inside.status == "reached" and inside.width == 64
    assert inside.token_steps_per_bag_step.number == pytest.approx(3.5, abs=0.05)
    low, high = inside.token_steps_per_bag_step.low, inside.token_steps_per_bag_step.high
    assert low is not None and high is not None and low < 3.5 < high
    assert "base-3000" not in str(inside.token_steps_per_bag_step.sources)
    assert beyond.bound == "at_least" and beyond.token_steps_per_bag_step.number == pytest.approx(11)
    assert below.bound == "at_most" and below.token_steps_per_bag_step.number == pytest.approx(1)
    # 3B: 36,000 steps end at 2.677, 50,000 at 2.640; TST's 2.676 lies 1/37 of the way in log steps.
    expected = (36000 * (50 / 36) ** (1 / 37) - 14000) / 6000
    assert inside.published is not None and inside.published.number == pytest.approx(expected, rel=1e-3)
    assert re.search(r"A bag step of inside .* replaces 3\.[45]\d token steps", texts(comparison, "result"))


def test_evaluations_enter_table_pairs_and_gaps(tmp_path: Path) -> None:
    base, run = baseline(tmp_path, 2000, 0.001), tst(tmp_path, 2000, 3000, noise=0.001)
    scores = {task: 0.4 + 0.01 * i for i, task in enumerate(SEVEN_TASKS)}
    base |= {
        "heldout": write_heldout(tmp_path / "e/b.json", base["stages"][-1] + "/manifest.json", 3.1),
        "tasks": write_tasks(tmp_path / "e/bt.json", scores | {"mmlu": 0.3, "mmlu_law": 0.9, "local": 0.5}),
    }
    run |= {
        "heldout": write_heldout(tmp_path / "e/t.json", run["stages"][-1] + "/manifest.json", 3.0),
        "tasks": write_tasks(
            tmp_path / "e/tt.json", {k: v + 0.05 for k, v in list(scores.items())[:6]}, limit=50
        ),
    }
    comparison = make("pair", [base, run])
    rows = comparison.table.set_index("name")
    # boolq (index 2) and winogrande (index 6) have no acc_norm; their acc is 0.1 lower.
    assert rows.loc["base-2000", "average_accuracy"] == pytest.approx(100 * (0.43 - 0.2 / 7))
    assert rows.loc["base-2000", "boolq"] == pytest.approx(32)
    assert rows.loc["base-2000", "mmlu"] == pytest.approx(30)
    assert "mmlu_law" not in rows.columns
    assert bool(rows["average_accuracy"].isna()["tst-s6-r0.3-0"])
    gaps = {(gap["run"], gap["metric"]): gap["reason"] for gap in comparison.to_mapping()["gaps"]}
    assert "not evaluated: winogrande" in gaps["tst-s6-r0.3-0", "average_accuracy"]
    assert gaps["tst-s6-r0.3-0", "local"] == "not among this run's evaluated tasks"
    assert ("base-2000", "mmlu") not in gaps
    pair = comparison.pairs[0]
    assert pair.heldout.winner == "run" and pair.heldout.difference.number == pytest.approx(-0.1)
    assert pair.accuracy.winner is None
    assert "No average accuracy for tst-s6-r0.3-0" in texts(comparison, "gap")
    assert "part of their items only: arc_challenge" in texts(comparison, "warning")
    terminal = comparison.text()
    assert "average_accuracy (tst-s6-r0.3-0): needs all of the paper's seven tasks" in terminal
    assert base["stages"][-1] + "/manifest.json" in terminal


def numbers(value: Any) -> Iterator[dict[str, Any]]:
    """Every number object inside comparison.json."""
    if isinstance(value, dict):
        if {"value", "sources", "reason"} <= set(value):
            yield value
        else:
            for item in value.values():
                yield from numbers(item)
    elif isinstance(value, list):
        for item in value:
            yield from numbers(item)


def test_written_files_are_complete_and_every_number_names_an_existing_file(
    tmp_path: Path, figure_3: list[dict[str, Any]]
) -> None:
    comparison = make("pair", figure_3, caveat="Means nothing.", options={"curve_points": 50})
    folder = tmp_path / "out" / "figure_3"
    write_comparison(comparison, folder)
    assert sorted(path.name for path in folder.iterdir()) == ["comparison.json", "curves.csv", "table.csv"]
    found = json.loads((folder / "comparison.json").read_text())
    assert found["verdict"][0] == {"kind": "caveat", "text": "Means nothing."}
    every = list(numbers(found))
    assert len(every) > 100
    for number in every:
        assert number["value"] is not None or number["reason"]
        if number["value"] is not None:
            assert number["sources"]
            assert all(
                Path(s).is_file() or s.startswith("arXiv 2605.06546, table") for s in number["sources"]
            )
    table = pd.read_csv(folder / "table.csv")
    assert table["manifest"].tolist() == [run["stages"][-1] + "/manifest.json" for run in figure_3]
    assert table["data_tokens"].tolist()[-1] == (600 * 6 + 1400) * 4096
    assert table["paper_final_loss"].tolist() == [2.808, 2.677, 2.640, 2.676]
    curves = pd.read_csv(folder / "curves.csv")
    assert set(curves["run"]) == {run["name"] for run in figure_3}
    assert (curves.groupby("run").size() <= 54).all()
    tst_curve = curves[curves["role"] == "tst"]
    assert not tst_curve[tst_curve["phase"] == "bag"]["comparable"].any()
    assert tst_curve["step"].iloc[-1] == 2000


def test_wrong_evaluations_and_manifests_are_refused(tmp_path: Path) -> None:
    base, other = baseline(tmp_path, 2000), baseline(tmp_path, 3000)
    wrong = write_heldout(tmp_path / "h.json", other["stages"][-1] + "/manifest.json", 3.0)
    with pytest.raises(UserError, match=r"h\.json: scores the model of .*3000.*ends with .*2000"):
        make("pair", [base | {"heldout": wrong}])
    path = Path(base["stages"][-1]) / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"final_loss": 1.0}))
    with pytest.raises(UserError, match=r"final_loss is 1.0, but .*metrics\.jsonl ends with"):
        make("pair", [base])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "pears"}, r"kind: .*'pair'.*found 'pears'"),
        ({"scal": "x"}, r"scal: Extra inputs are not permitted"),
        ({"paper": {"experiment": "figure_99"}}, r"'figure_99' is unknown; known: table_1"),
        ({"kind": "grid"}, r"'a' lacks axes.bag_size, which kind 'grid' needs; it has: none"),
        ({"options": {"smoothing_window": 10}}, r"smoothing_window \(10\) must be odd"),
        ({"runs": []}, "runs: "),
    ],
)
def test_wrong_specs_name_the_key(changes: dict[str, Any], message: str) -> None:
    run = {"name": "a", "label": "a", "role": "tst", "stages": ["x"]}
    spec = {"experiment": "e", "scale": "cpu", "kind": "pair", "runs": [run]} | changes
    with pytest.raises(UserError, match=message):
        ComparisonSpec.from_mapping(spec)


def test_same_name_twice_and_spec_files(tmp_path: Path) -> None:
    run = {"name": "a", "label": "a", "role": "tst", "stages": ["x"], "axes": {"lr": 0.001}}
    spec = {"experiment": "e", "scale": "cpu", "kind": "pair", "runs": [run, run]}
    with pytest.raises(UserError, match="name 'a' is used twice"):
        ComparisonSpec.from_mapping(spec)
    path = tmp_path / "spec.json"
    path.write_text(json.dumps(spec | {"runs": [run]}))
    loaded = load_spec(path)
    assert loaded.runs[0].axes == {"lr": 0.001}
    assert ComparisonSpec.from_mapping(loaded.to_mapping()) == loaded
    with pytest.raises(UserError, match=r"none\.yaml: cannot be read"):
        load_spec(tmp_path / "none.yaml")
