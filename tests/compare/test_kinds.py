"""The kinds of experiment beyond a pair: grids, sweeps, curricula, transfer; which runs are compared."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from fake_runs import baseline, law, make, texts, tst, wsd
from fake_stages import Shape, write_run


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


def test_runs_of_two_models_never_pair(tmp_path: Path) -> None:
    """Table 1: several models in one group, told apart by the manifests alone."""
    plan = [("token", 1, 1600), ("decay", 1, 2000)]
    runs = []
    for parameters, corpus in ((1000, "a"), (9000, "b")):
        shape = Shape(parameters=parameters, data_identity=corpus)
        for name, stages in (("base", plan), ("tst", [("bag", 6, 600), *plan])):
            folder = tmp_path / f"{name}{parameters}"
            runs.append(
                {"name": folder.name, "label": name, "role": "baseline" if name == "base" else "tst",
                 "stages": write_run(folder, stages, wsd(2000), 0.001, parameters, shape)}
            )  # fmt: skip
    comparison = make("pair", runs)
    assert [(pair.reference, pair.run) for pair in comparison.pairs] == [
        ("base1000", "tst1000"), ("base9000", "tst9000"),
    ]  # fmt: skip
    assert [(item.n_reference, item.n_run) for item in comparison.seeds] == [(1, 1), (1, 1)]
    assert texts(comparison, "warning") == ""


def test_different_corpora_and_devices_are_warned_of(tmp_path: Path) -> None:
    other = Shape(data_identity="other", device="gpu")
    stages = write_run(tmp_path / "o", [("bag", 6, 600), ("token", 1, 2000)], wsd(2000), 0.001, shape=other)
    run = {"name": "o", "label": "o", "role": "tst", "stages": stages}
    warning = texts(make("pair", [baseline(tmp_path, 2000, 0.001), run]), "warning")
    assert "different corpora (data, other): their losses cannot be compared" in warning
    assert "different devices (cpu, gpu): hours cannot be compared" in warning


def test_grids_of_different_weights_stand_apart_and_share_the_baseline(tmp_path: Path) -> None:
    """Figure 8: the same cells twice in one group, with uniform and with power-law weights."""
    runs = [baseline(tmp_path, 2000, 0.001, group="medium")]
    for weighting, like in (("uniform", 2500), ("power", 3000)):
        run = tst(tmp_path, 2000, like, noise=0.001, name=weighting, label=weighting, group="medium")
        runs.append(run | {"axes": run["axes"] | {"weighting": weighting}})
    grids = [grid for grid in make("grid", runs).grids if grid.metric == "final_loss"]
    assert [grid.group for grid in grids] == ["medium weighting uniform", "medium weighting power"]
    assert [cell.runs for grid in grids for cell in grid.cells] == [["uniform"], ["power"]]
    assert grids[1].cells[0].gain.number == pytest.approx(law(2000) - law(3000), abs=0.002)


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
    runs.insert(0, baseline(tmp_path, 3000, 0.001, name="base-3000-wide", axes={"width": 128}))
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


def test_a_wanted_metric_that_no_run_has_is_a_grid_of_gaps_with_the_reason(tmp_path: Path) -> None:
    runs = [baseline(tmp_path, 2000, 0.001), tst(tmp_path, 2000, 3000, noise=0.001)]
    comparison = make("grid", runs, metrics=["average_accuracy", "accuracy"])
    (grid,) = comparison.grids
    assert grid.metric == "average_accuracy" and not grid.cells[0].value.exists
    assert grid.cells[0].value.reason == "not evaluated: the experiment asks for none"
    assert "No average accuracy of any run: not evaluated" in texts(comparison, "gap")


def test_published_numbers_of_what_was_not_measured_are_said_to_be_out_of_reach(tmp_path: Path) -> None:
    paper = {"model": "270M", "total_steps": 20000, "bag_weighting": "uniform"}
    runs = [baseline(tmp_path, 2000, 0.001, paper=paper), tst(tmp_path, 2000, 3000, noise=0.001, paper=paper)]
    comparison = make("grid", runs, metrics=["average_accuracy"], paper={"experiment": "figure_5"})
    assert "What the paper's figure 5 shows was not measured here" in texts(comparison, "reproduction")
