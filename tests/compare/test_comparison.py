"""Whole comparisons over stage folders whose curves follow known formulas."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from fake_runs import SLOPE, baseline, first_pair, law, make, pairs, texts, tst, wsd

from tests.made_stages import write_heldout, write_run, write_tasks
from tst_titan.compare import ComparisonSpec, load_spec, read_results, write_results
from tst_titan.compare.kinds import kind_of
from tst_titan.compare.metrics import metric_of
from tst_titan.compare.numbers import Number, difference, from_csv, missing, to_csv
from tst_titan.config.load import dump, parse
from tst_titan.errors import UserError
from tst_titan.paper import SEVEN_TASKS
from tst_titan.report.tables import run_text


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
    results = make("pair", figure_3)
    assert pairs(results) == [(f"base-{end}", "tst-s6-r0.3-0") for end in (2000, 3600, 5000)]
    pair = first_pair(results)
    by_flops, by_data = pair["equal_flops.difference"], pair["equal_data.difference"]
    assert not by_flops.bound and by_flops.winner == "run"
    assert by_flops.number == pytest.approx(law(3000) - law(2000), abs=0.002)
    assert not by_data.bound and by_data.winner == "reference"
    assert by_data.number == pytest.approx(law(3000) - law(5000), abs=0.002)
    assert pair["equal_loss.at.steps"].method == "interpolated final losses"
    assert pair["equal_loss.at.steps"].number == pytest.approx(3000, rel=0.005)
    assert pair["equal_loss.at.data_tokens"].number == pytest.approx(3000 * 4096, rel=0.005)
    for budget in ("steps", "flops", "hours"):
        assert pair[f"equal_loss.speedup.{budget}"].number == pytest.approx(1.5, rel=0.005)
    assert pair["equal_loss.speedup.steps"].interval is not None
    low, high = pair["equal_loss.speedup.steps"].interval
    assert low < 1.5 < high and high - low < 0.03


def test_run_reaches_the_reference_inside_its_own_curve(figure_3: list[dict[str, Any]]) -> None:
    pair = first_pair(make("pair", figure_3))
    at, times = pair["reaches.at.steps"], pair["reaches.speedup.steps"]
    assert at.bound == times.bound == "at_least"
    # Before the decay the run is at law(3000) + 0.1 + SLOPE * log(1600 / step), and law(2000) is above that.
    assert law(2000) - law(3000) > 0.1
    expected = 1600 * math.exp(-(law(2000) - law(3000) - 0.1) / SLOPE)
    assert at.number == pytest.approx(expected, rel=0.01)
    assert times.number == pytest.approx(2000 / expected, rel=0.01)
    assert times.interval is not None and times.interval[0] <= times.number <= times.interval[1]


def test_switch_is_described(figure_3: list[dict[str, Any]]) -> None:
    pair = first_pair(make("pair", figure_3))
    assert pair["switch.step"].number == 600
    # The spike sits on a trend that is SLOPE * log(1.5) below the baseline's.
    first = 1.5 * (1 - 10 / 200) - SLOPE * math.log(1.5)
    assert pair["switch.height_over_reference"].number == pytest.approx(first, abs=0.01)
    gap = SLOPE * math.log(1.5)
    assert pair["switch.steps_to_recover"].number == pytest.approx(200 * (1 - gap / 1.5), abs=25)


def test_verdict_holds_the_runs_against_the_paper(figure_3: list[dict[str, Any]]) -> None:
    comparison = make("pair", figure_3, paper="figure_3")
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


def test_the_answer_says_who_by_how_much_how_sure_and_at_what_cost(figure_3: list[dict[str, Any]]) -> None:
    assert re.fullmatch(
        r"TST s=6 r=0.3 ends 0\.12\d\d nats per training token lower than baseline 2000 "
        r"\(0\.1[12]\d\d to 0\.1[23]\d\d noise of the logged loss\), at the same FLOPs, "
        r"having read 2\.50 times the text\. "
        r"A baseline needs 1\.5\d times its steps \(1\.\d\d to 1\.\d\d\) to end at its training loss\. One seed: .*",
        make("pair", figure_3).facts.answer,
    )


def test_the_answer_of_several_runs_counts_sides_and_names_the_best(tmp_path: Path) -> None:
    better, worse = (
        tst(tmp_path, 2000, like, noise=0.001, name=f"like-{like}", label=f"like {like}")
        for like in (3000, 1700)
    )
    answer = make("pair", [baseline(tmp_path, 2000, 0.001), better, worse]).facts.answer
    assert answer.startswith(
        "Of 2 runs 1 end lower than the baseline, 1 end higher than the baseline. Best: like 3000,"
    )


def test_a_reversed_result_is_not_called_reproduced(tmp_path: Path) -> None:
    runs = [
        baseline(tmp_path, 2000, 0.001, paper={"model": "3B", "variant": "baseline", "total_steps": 20000}),
        tst(tmp_path, 2000, 1700, noise=0.001, paper={"model": "3B", "variant": "tst", "total_steps": 20000}),
    ]
    comparison = make("pair", runs)
    assert "direction not reproduced" in texts(comparison, "reproduction")
    assert first_pair(comparison)["equal_flops.difference"].winner == "reference"


def test_single_equal_flops_baseline_is_not_reached(tmp_path: Path) -> None:
    comparison = make("pair", [baseline(tmp_path, 2000, 0.001), tst(tmp_path, 2000, 3000, noise=0.001)])
    pair = first_pair(comparison)
    at, times = pair["equal_loss.at.steps"], pair["equal_loss.speedup.steps"]
    assert not at.exists and not times.exists and not times.bound and "not reached" in times.reason
    assert "not reached: the reference ends at" in texts(comparison, "result")
    # By the time that the baseline ends, the run of 2.5 times the data is still reading bags.
    by_data = pair["equal_data.difference"]
    assert not by_data.exists and not by_data.winner
    assert "no token loss at 8.192e+06 data tokens" in by_data.reason


def test_an_undecayed_curve_does_not_lose_to_a_decayed_end(tmp_path: Path) -> None:
    run = tst(tmp_path, 2000, 2100, bag_size=2, noise=0.001)
    by_data = first_pair(make("pair", [baseline(tmp_path, 2000, 0.001), run]))["equal_data.difference"]
    assert by_data.bound == "at_most" and "favours the reference" in by_data.note
    # The favoured side is ahead: that decides nothing.
    assert by_data.low is not None and by_data.low > 0
    assert by_data.winner == "undecided"


def test_longer_single_baseline_bounds_the_speedup(tmp_path: Path) -> None:
    """Figure 1: the baseline is 2.5 times longer and still ends above."""
    comparison = make("pair", [baseline(tmp_path, 5000, 0.001), tst(tmp_path, 2000, 5500, noise=0.001)])
    pair = first_pair(comparison)
    assert not pair["equal_loss.at.steps"].exists
    assert pair["equal_loss.speedup.steps"].bound == "at_least"
    assert pair["equal_loss.speedup.steps"].number == pytest.approx(2.5)
    assert "at least 2.50 times" in texts(comparison, "result")


def test_worse_run_is_met_inside_the_baselines_curve(tmp_path: Path) -> None:
    """The run ends where the baseline's undecayed curve is at step 1,200: the speed-up is at most 0.6."""
    target = law(2000) + 0.1 + SLOPE * math.log(1600 / 1200)
    like = math.exp((5 - target) / SLOPE)
    comparison = make("pair", [baseline(tmp_path, 2000, 0.001), tst(tmp_path, 2000, like, noise=0.001)])
    pair = first_pair(comparison)
    at, times = pair["equal_loss.at.steps"], pair["equal_loss.speedup.steps"]
    assert (at.bound, at.method) == ("at_most", "curve crossing")
    assert at.number == pytest.approx(1200, rel=0.01)
    assert times.number == pytest.approx(0.6, rel=0.01)


def test_undecided_within_the_noise(tmp_path: Path) -> None:
    comparison = make("pair", [baseline(tmp_path, 2000, 0.1), tst(tmp_path, 2000, 2010, noise=0.1)])
    assert first_pair(comparison)["equal_flops.difference"].winner == "undecided"
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
    assert first_pair(comparison)["equal_flops.difference"].winner == "undecided"
    assert comparison.metrics("a")["final_loss"].stderr is None
    assert "too few logged steps to know the noise" in texts(comparison, "result")


def test_training_losses_over_seeds_are_paired_on_the_same_text_alone(tmp_path: Path) -> None:
    bags = tst(tmp_path, 2000, 3000, bag_size=2, seed=1)
    runs = [baseline(tmp_path, 2000, 0.005, seed) for seed in (1, 2, 3)]
    same = [tst(tmp_path, 2000, 3000, 1, noise=0.005, seed=seed) for seed in (1, 2, 3)]
    assert make("seeds", [*runs, *same]).select("seeds")[-1].note == "paired"
    assert make("seeds", [*runs, bags]).select("seeds")[-1].note == "unpaired"


def test_seeds_are_stated(tmp_path: Path) -> None:
    runs = [baseline(tmp_path, 2000, 0.005, seed) for seed in (1, 2, 3)]
    runs += [tst(tmp_path, 2000, 3000, noise=0.005, seed=seed) for seed in (1, 2, 3)]
    comparison = make("seeds", runs)
    assert pairs(comparison) == [(f"base-2000-{seed}", f"tst-s6-r0.3-{seed}") for seed in (1, 2, 3)]
    (reference, run, found) = comparison.select("seeds")
    assert found.note == "unpaired" and reference.n == run.n == 3 and found.excludes_zero
    assert found.number == pytest.approx(law(3000) - law(2000), abs=0.01)
    losses = {number.run: number.number for number in comparison.select("run", metric="final_loss")}
    by_hand = np.mean([losses[f"tst-s6-r0.3-{s}"] - losses[f"base-2000-{s}"] for s in (1, 2, 3)])
    assert found.number == pytest.approx(by_hand)
    assert (
        "lower than baseline 2000 (" in comparison.facts.answer and "over 3 seeds)" in comparison.facts.answer
    )
    assert "One seed" not in comparison.facts.answer and "seed 1" not in comparison.facts.answer


def test_a_tasks_own_metric_is_shown_with_its_direction(tmp_path: Path) -> None:
    runs = []
    for number, run in enumerate((baseline(tmp_path, 2000, 0.001), tst(tmp_path, 2000, 3000, noise=0.001))):
        path = write_tasks(tmp_path / f"e/{number}.json", {"local": 0.5})
        content = json.loads(Path(path).read_text())
        entry = content["tasks"]["local"] | {"acc": None, "acc_norm": None}
        for name, value, higher in (
            ("exact_match", 0.25, True),
            ("word_perplexity", [math.inf, 31.5][number], False),
        ):
            metric = {"name": name, "value": value, "stderr": None, "higher_is_better": higher}
            content["tasks"][f"t_{name}"] = entry | {"metric": metric}
        Path(path).write_text(json.dumps(content))
        runs.append(run | {"tasks": path})
    comparison = make("pair", runs)
    base, other = (comparison.metrics(name) for name in ("base-2000", "tst-s6-r0.3-0"))
    name = "lower/t_word_perplexity/word_perplexity"
    assert base["higher/t_exact_match/exact_match"].number == 0.25
    assert base[name].reason == "word_perplexity is inf" and other[name].number == 31.5
    assert metric_of(name).lower_is_better and metric_of(name).measured
    terminal = run_text(comparison)
    assert "t_exact_match ↑" in terminal and "t_word_perplexity ↓" in terminal
    assert "0.25 exact_match" in terminal and "31.5 word_perplexity" in terminal


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
    base_numbers, run_numbers = (comparison.metrics(name) for name in ("base-2000", "tst-s6-r0.3-0"))
    # boolq (index 2) and winogrande (index 6) have no acc_norm; their acc is 0.1 lower.
    assert base_numbers["average_accuracy"].number == pytest.approx(100 * (0.43 - 0.2 / 7))
    assert base_numbers["accuracy/boolq"].number == pytest.approx(32)
    assert base_numbers["mmlu"].number == pytest.approx(30)
    assert not any("mmlu_law" in name for name in base_numbers)
    assert "accuracy/local" in base_numbers and "accuracy/local" not in run_numbers
    assert "not evaluated: winogrande" in run_numbers["average_accuracy"].reason
    pair = first_pair(comparison)
    assert pair["heldout.difference"].winner == "run"
    assert pair["heldout.difference"].number == pytest.approx(-0.1)
    assert not pair["accuracy.difference"].exists and not pair["accuracy.difference"].winner
    assert "No average accuracy for tst-s6-r0.3-0" in texts(comparison, "gap")
    assert "part of their items only: arc_challenge" in texts(comparison, "warning")
    terminal = run_text(comparison)
    assert "] needs all of the paper's seven tasks" in terminal
    assert "] not among this run's evaluated tasks" in terminal
    assert base["stages"][-1] + "/manifest.json" in terminal


def test_written_files_are_complete_and_every_number_names_an_existing_file(
    tmp_path: Path, figure_3: list[dict[str, Any]]
) -> None:
    comparison = make("pair", figure_3, caveat="Means nothing.", options={"curve_points": 50})
    folder = tmp_path / "out" / "figure_3"
    write_results(comparison, folder)
    assert sorted(path.name for path in folder.iterdir()) == ["comparison.json", "curves.csv", "table.csv"]
    found = read_results(folder)
    assert found.facts == comparison.facts and list(found.numbers) == list(comparison.numbers)
    assert found.facts.verdict[0].text == "Means nothing." and found.facts.verdict[0].kind == "caveat"
    assert len(found.numbers) > 100
    for number in found.numbers:
        assert number.exists or number.reason
        if number.exists and not number.metric.endswith(".ratio"):
            assert number.sources
            assert all(Path(s).is_file() or s.startswith("arXiv 2605.06546, table") for s in number.sources)
    assert [run.manifest for run in found.runs] == [run["stages"][-1] + "/manifest.json" for run in figure_3]
    assert found.value("tst-s6-r0.3-0", "data_tokens") == (600 * 6 + 1400) * 4096
    assert [n.number for n in found.select("paper", metric="final_loss")] == [2.808, 2.677, 2.640, 2.676]
    curves = pd.read_csv(folder / "curves.csv")
    assert set(curves["run"]) == {run["name"] for run in figure_3}
    assert (curves.groupby("run").size() <= 54).all()
    tst_curve = curves[curves["role"] == "tst"]
    assert not tst_curve[tst_curve["phase"] == "bag"]["comparable"].any()
    assert tst_curve["step"].iloc[-1] == 2000


def test_difference_of_two_numbers_adds_their_errors() -> None:
    first, second = Number(3.0, "nats/token", ("a",), 0.03), Number(3.5, "nats/token", ("b",), 0.04)
    found = difference(first, second, quantile=2.0)
    assert found.number == pytest.approx(-0.5) and found.stderr == pytest.approx(0.05)
    assert (found.low, found.high) == pytest.approx((-0.6, -0.4))
    assert found.sources == ("a", "b")
    assert difference(first, Number(3.5), 2.0).low is None
    assert difference(first, missing("no reason to live"), 2.0).reason == "no reason to live"
    with pytest.raises(ValueError, match="needs a reason"):
        Number(None)
    with pytest.raises(ValueError, match="value is nan"):
        Number(float("nan"))


def test_the_table_keeps_every_number_and_its_type(tmp_path: Path) -> None:
    """Floats to the last bit, empty against 0, lists with any name in them."""
    place = {"group": "a, b", "run": 'x"y', "seed": 0, "bag_size": 4.0, "runs": ("r; 1", "r2"), "n": 3}
    rows = [
        Number(0.1 + 0.2, "nats/token", ("results/a b.csv", 'say "c"'), 1e-17, -0.0, 2.5e300).at(
            "run", "m", **place
        ),
        missing("not; run\nyet", "%").at("pair", "equal_flops.difference", reference="base"),
    ]
    assert from_csv(to_csv(rows)) == rows
    with pytest.raises(ValueError, match="its columns are"):
        from_csv("a,b\n1,2\n")


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
        ({"kind": "pears"}, r"key kind: found 'pears': .*'pair'"),
        ({"scal": "x"}, r"unknown key scal \(did you mean 'scale'\?\)"),
        ({"paper": "figure_99"}, r"'figure_99' is unknown; known: table_1"),
        ({"kind": "grid"}, r"'a' lacks axes.bag_size, which kind 'grid' needs; it has: none"),
        ({"options": {"smoothing_window": 10}}, r"smoothing_window \(10\) must be odd"),
        ({"runs": []}, "key runs: "),
    ],
)
def test_wrong_specs_name_the_key(changes: dict[str, Any], message: str) -> None:
    run = {"name": "a", "label": "a", "role": "tst", "stages": ["x"]}
    spec = {"experiment": "e", "scale": "cpu", "kind": "pair", "runs": [run]} | changes
    with pytest.raises(UserError, match=message):
        kind_of(parse(ComparisonSpec, spec, "spec"))


def test_same_name_twice_and_spec_files(tmp_path: Path) -> None:
    run = {"name": "a", "label": "a", "role": "tst", "stages": ["x"], "axes": {"lr": 0.001}}
    spec = {"experiment": "e", "scale": "cpu", "kind": "pair", "runs": [run, run]}
    with pytest.raises(UserError, match="name 'a' is used twice"):
        parse(ComparisonSpec, spec, "spec")
    path = tmp_path / "spec.yaml"
    path.write_text(dump(parse(ComparisonSpec, spec | {"runs": [run]}, "spec")))
    loaded = load_spec(path)
    assert loaded.runs[0].axes == {"lr": 0.001}
    assert dump(loaded) == path.read_text()
    with pytest.raises(UserError, match=r"none\.yaml"):
        load_spec(tmp_path / "none.yaml")
