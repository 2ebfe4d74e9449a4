"""The kinds of experiment beyond a pair: grids, sweeps, curricula, transfer; which runs are compared."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from fake_runs import baseline, law, make, pairs, texts, tst, wsd

from tests.made_stages import Shape, write_run
from tst_titan.compare.kinds.grid import BAG_LOSS, best_of, cells_of, grids_of
from tst_titan.compare.kinds.lr_sweep import AT_THE_EDGE


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
    comparison = make("grid", runs, paper="figure_4")
    values, gains, published, published_gains = (
        cells_of(comparison, "", "final_loss", what) for what in ("", ".gain", ".paper", ".paper_gain")
    )
    one = {row.metric: row for row in comparison.select("grid") if not row.runs}
    assert len(values) == 6 and one["final_loss.cells_in_common"].number == 5
    assert gains[6, 0.3].number == pytest.approx(law(2000) - law(3200), abs=0.002)
    assert gains[16, 0.9].number == pytest.approx(law(2000) - law(1200), abs=0.002)
    assert published[6, 0.3].number == 3.1423
    assert published_gains[6, 0.3].number == pytest.approx(3.2124 - 3.1423)
    assert values[6, 1.0].note == BAG_LOSS and not gains[6, 1.0].exists
    assert published[6, 1.0].number == 6.0365
    assert best_of(comparison, "", "final_loss") == (6, 0.3)
    assert best_of(comparison, "", "final_loss", ".paper_best") in published
    assert one["final_loss.paper_best"].bag_size == 6
    assert one["final_loss.rank_correlation"].number == pytest.approx(0.9)
    assert {name.rpartition(".")[2]: row.number for name, row in one.items() if ".beats." in name} == {
        "cells": 5, "ours": 3, "published": 3, "ours_and_published": 3, "same_side": 5,
    }  # fmt: skip
    assert comparison.facts.answer.startswith(
        "Of 5 cells 3 beat the baseline of equal FLOPs in final loss, 3 of them by "
    )
    assert "Best: s = 6, r = 0.3, 0.14" in comparison.facts.answer
    assert "direction reproduced" in texts(comparison, "reproduction")
    assert not any(row.metric.startswith("equal_loss") for row in comparison.select("pair"))


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
    assert pairs(comparison) == [("base1000", "tst1000"), ("base9000", "tst9000")]
    assert [row.n for row in comparison.select("seeds")] == [1, 1, None] * 2
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
    results = make("grid", runs)
    groups = [group for group, metric in grids_of(results) if metric == "final_loss"]
    assert groups == ["medium weighting uniform", "medium weighting power"]
    cells = [cells_of(results, group, "final_loss", ".gain") for group in groups]
    assert [cell.runs for part in cells for cell in part.values()] == [("uniform",), ("power",)]
    assert next(iter(cells[1].values())).number == pytest.approx(law(2000) - law(3000), abs=0.002)


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
    best = {row.run: row for row in comparison.select("sweep", metric="best")}
    assert set(best) == {"baseline", "tst"} and best["baseline"].x == 2e-3
    assert (best["baseline"].note, best["tst"].note) == ("", AT_THE_EDGE)
    gaps = comparison.select("sweep", metric="difference")
    assert [(gap.run, gap.x) for gap in gaps] == [("tst", rate) for rate in rates]
    assert gaps[0].number == pytest.approx(law(2500) - law(1800), abs=0.003)
    (gap,) = comparison.select("sweep", metric="best_difference")
    assert gap.run == "tst" and gap.number == pytest.approx(law(2700) - law(2000), abs=0.003)
    assert "its optimum may lie beyond" in texts(comparison, "warning")
    assert len(pairs(comparison)) == 3


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
    assert pairs(comparison) == [("b1", "o1"), ("b4", "o4")]
    assert comparison.value("o4", "epochs") == pytest.approx(4)
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
    assert pairs(comparison) == [("base-2000", "control"), ("base-2000", "c"), ("control", "c")]
    assert comparison.run_named["c"].bag_sizes == (16, 8, 2)
    assert comparison.value("c", "bag_steps") == 600
    feeding = make("feeding", runs)
    assert pairs(feeding) == [("base-2000", "control"), ("base-2000", "c"), ("control", "c")]


def test_transfer_counts_the_token_steps_that_a_bag_step_replaces(tmp_path: Path) -> None:
    """A run of 2,000 steps, 600 of them bags, that ends like 3,500 steps: (3500 - 1400) / 600 = 3.5."""
    paper = {"model": "3B", "total_steps": 20000, "variant": "tst"}
    runs = [baseline(tmp_path, end, 0.001, axes={"width": 64}) for end in (2000, 4000, 8000)]
    for like, name in ((3500, "inside"), (9000, "beyond"), (1500, "below")):
        run = tst(tmp_path, 2000, like, noise=0.001, name=name, label=name, paper=paper)
        runs.append(run | {"axes": run["axes"] | {"width": 64}})
    runs.insert(0, baseline(tmp_path, 3000, 0.001, name="base-3000-wide", axes={"width": 128}))
    comparison = make("transfer", runs)
    inside, beyond, below = comparison.select("transfer", metric="worth")
    assert (inside.run, inside.bound, inside.bag_size, inside.bag_fraction) == ("inside", "", 6, 0.3)
    assert inside.number == pytest.approx(3.5, abs=0.05)
    assert inside.interval is not None and inside.interval[0] < 3.5 < inside.interval[1]
    assert "base-3000" not in str(inside.sources)
    assert beyond.bound == "at_least" and beyond.number == pytest.approx(11)
    assert below.bound == "at_most" and below.number == pytest.approx(1)
    # 3B: 36,000 steps end at 2.677, 50,000 at 2.640; TST's 2.676 lies 1/37 of the way in log steps.
    expected = (36000 * (50 / 36) ** (1 / 37) - 14000) / 6000
    published = comparison.get("transfer", "inside", "paper.worth")
    assert published is not None and published.number == pytest.approx(expected, rel=1e-3)
    assert re.search(r"A bag step of inside .* replaces 3\.[45]\d token steps", texts(comparison, "result"))


def test_a_wanted_metric_that_no_run_has_is_a_grid_of_gaps_with_the_reason(tmp_path: Path) -> None:
    runs = [baseline(tmp_path, 2000, 0.001), tst(tmp_path, 2000, 3000, noise=0.001)]
    comparison = make("grid", runs, metrics=["average_accuracy", "accuracy"])
    assert grids_of(comparison) == [("", "average_accuracy")]
    (cell,) = cells_of(comparison, "", "average_accuracy").values()
    assert not cell.exists and cell.reason == "not evaluated: the experiment asks for none"
    assert "No average accuracy of any run: not evaluated" in texts(comparison, "gap")


def test_published_numbers_of_what_was_not_measured_are_said_to_be_out_of_reach(tmp_path: Path) -> None:
    paper = {"model": "270M", "total_steps": 20000, "bag_weighting": "uniform"}
    runs = [baseline(tmp_path, 2000, 0.001, paper=paper), tst(tmp_path, 2000, 3000, noise=0.001, paper=paper)]
    comparison = make("grid", runs, metrics=["average_accuracy"], paper="figure_5")
    assert "What the paper's figure 5 shows was not measured here" in texts(comparison, "reproduction")
