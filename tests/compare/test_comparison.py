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
from fake_runs import SLOPE, baseline, law, make, texts, tst, wsd
from fake_stages import write_heldout, write_run, write_tasks

from tst_titan.compare import ComparisonSpec, load_spec, write_comparison
from tst_titan.compare.measured import Measured, difference, missing
from tst_titan.errors import UserError
from tst_titan.paper import SEVEN_TASKS


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
    # By the time that the baseline ends, the run of 2.5 times the data is still reading bags.
    by_data = comparison.pairs[0].equal_data
    assert not by_data.fair and by_data.winner is None
    assert "no token loss at 8.192e+06 data tokens" in (by_data.difference.reason or "")


def test_an_undecayed_curve_does_not_lose_to_a_decayed_end(tmp_path: Path) -> None:
    run = tst(tmp_path, 2000, 2100, bag_size=2, noise=0.001)
    by_data = make("pair", [baseline(tmp_path, 2000, 0.001), run]).pairs[0].equal_data
    assert not by_data.fair and "favours the reference" in by_data.note
    # The favoured side is ahead: that decides nothing.
    assert by_data.difference.low is not None and by_data.difference.low > 0
    assert by_data.winner == "undecided"


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


def test_too_few_logged_steps_decide_nothing(tmp_path: Path) -> None:
    """Smoke scale: a decay of two logged steps says nothing about its noise."""
    plan = (("token", 1, 180), ("decay", 1, 200))
    runs = [
        {
            "name": name,
            "label": name,
            "role": role,
            "stages": write_run(tmp_path / name, plan, wsd(2000), 0.1, seed),
        }
        for seed, (name, role) in enumerate((("a", "baseline"), ("b", "tst")))
    ]
    comparison = make("pair", runs)
    assert comparison.pairs[0].equal_flops.winner == "undecided"
    assert comparison.runs[0].metrics["final_loss"].stderr is None
    assert "too few logged steps to know the noise" in texts(comparison, "result")


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


def test_difference_of_two_numbers_adds_their_errors() -> None:
    first, second = Measured(3.0, "nats/token", ("a",), 0.03), Measured(3.5, "nats/token", ("b",), 0.04)
    found = difference(first, second, quantile=2.0)
    assert found.number == pytest.approx(-0.5) and found.stderr == pytest.approx(0.05)
    assert (found.low, found.high) == pytest.approx((-0.6, -0.4))
    assert found.sources == ("a", "b")
    assert difference(first, Measured(3.5), 2.0).low is None
    assert difference(first, missing("no reason to live"), 2.0).reason == "no reason to live"
    with pytest.raises(ValueError, match="needs a reason"):
        Measured(None)
    with pytest.raises(ValueError, match="value is nan"):
        Measured(float("nan"))


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
