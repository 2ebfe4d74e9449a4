"""The regression finds what it was made from, its errors are recomputed by other means, advice keeps its limits."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import least_squares

from tst_titan import paper
from tst_titan.compare import Results, write_results
from tst_titan.compare.curves import CURVE_COLUMNS
from tst_titan.compare.numbers import Number, missing
from tst_titan.compare.results import Facts, RunFacts, StageFacts
from tst_titan.errors import UserError
from tst_titan.paper import recommend as command
from tst_titan.paper.advice import BAG_FRACTIONS, make_target, recommend
from tst_titan.paper.fit import (
    BaselineModel,
    Correction,
    GainModel,
    Recovery,
    cell_noise,
    correct,
    features,
    fit,
    fit_baseline,
    fit_recovery,
    held_out,
    held_out_recovery,
)
from tst_titan.paper.observations import (
    COLUMNS,
    comparison_observations,
    measured_observations,
    own_observations,
    published_baselines,
    published_observations,
)

PUBLISHED, MEASURED = published_observations(), measured_observations()


def errors_of(group: str) -> dict[str, Any]:
    """A group's row of the published held-out table."""
    table = held_out(PUBLISHED, published_baselines()).table
    rows = table.to_dict("records")
    return next({str(key): value for key, value in row.items()} for row in rows if row["group"] == group)


def synthetic(model: GainModel) -> pd.DataFrame:
    """A grid of gains without noise for four models and lengths."""
    rows = []
    for parameters, latents in ((1e8, 2e9), (1e8, 2e10), (5e8, 1e10), (2e9, 4e10)):
        s, r = (axis.ravel() for axis in np.meshgrid(np.arange(2, 13), np.arange(1, 10) / 10))
        gains = model.gain(parameters, latents, s, r)
        part = pd.DataFrame({"bag_size": s, "bag_fraction": r, "gain": gains, "loss": 3 - gains})
        name = f"{parameters:g}-{latents:g}"
        rows.append(
            part.assign(parameters=parameters, latents=latents, total_steps=latents / 1e6, group=name)
        )
    return pd.concat(rows, ignore_index=True).assign(model="x", source="s", baseline_loss=3.0, stderr=0.0)[
        list(COLUMNS)
    ]


@pytest.fixture(autouse=True)
def no_results_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Grids in the results folder of whoever runs the tests would join the fit."""
    monkeypatch.chdir(tmp_path)


def test_published_observations_are_all_gains_with_an_equal_flops_baseline() -> None:
    counts = PUBLISHED.groupby("group").size().to_dict()
    assert counts == {"270M-20000": 135, "270M-100000": 108, "600M-20000": 108, "3B-20000": 1}
    row = PUBLISHED[(PUBLISHED["group"] == "600M-20000") & (PUBLISHED["bag_size"] == 8)].iloc[1]
    assert (row["bag_fraction"], row["loss"]) == (0.2, 2.9434)
    assert row["gain"] == pytest.approx(3.0186 - 2.9434)
    assert row["latents"] == 20000 * 2**21
    assert PUBLISHED[PUBLISHED["model"] == "3B"]["gain"].item() == pytest.approx(2.808 - 2.676)


def test_fit_recovers_the_model_that_made_the_data() -> None:
    coefficients = np.array([0.3, 1.3, -0.3, 0.25, -0.7, 0.05, -0.12])
    coefficients /= features(6, 0.3) @ coefficients
    truth = GainModel(coefficients, -1.3, 0.25, {})
    found = fit(synthetic(truth))
    assert found.coefficients == pytest.approx(coefficients, abs=1e-6)
    assert (found.log_amplitude, found.gamma) == pytest.approx((-1.3, 0.25), abs=1e-6)
    assert features(6, 0.3) @ found.coefficients == pytest.approx(1)


def test_alternating_fit_is_the_joint_least_squares_solution() -> None:
    """Shape and amplitudes together, found by SciPy from another start, leave the same residual."""
    found = fit(PUBLISHED)
    names = list(found.amplitudes)
    index = PUBLISHED["group"].map(names.index).to_numpy()
    design = features(PUBLISHED["bag_size"].to_numpy(float), PUBLISHED["bag_fraction"].to_numpy(float))
    gains = PUBLISHED["gain"].to_numpy(float)

    def residual(values: np.ndarray) -> np.ndarray:
        amplitude = np.r_[0.07, values[7:]]  # the first amplitude only sets the scale
        return amplitude[index] * (design @ values[:7]) - gains

    joint = least_squares(
        residual, np.r_[np.ones(7) * 0.1, 0.05 * np.ones(len(names) - 1)], xtol=1e-12, ftol=1e-12
    )
    own = np.array([found.amplitudes[name] for name in names])[index] * (design @ found.coefficients) - gains
    assert 2 * joint.cost == pytest.approx(float(own @ own), rel=1e-6)
    ratio = joint.x[7:] / 0.07
    assert ratio == pytest.approx(
        [found.amplitudes[name] / found.amplitudes[names[0]] for name in names[1:]], rel=1e-3
    )


def test_recovery_is_found_in_gains_that_were_made_with_it() -> None:
    truth = Recovery(level=0.3, bags=0.5, reach=6000.0)
    model = fit(PUBLISHED, truth)
    made = MEASURED.assign(gain=model.predict(MEASURED))
    row = MEASURED.iloc[0]
    token_latents = (1 - row["bag_fraction"]) * row["latents"]
    lost = 0.3 * np.log(row["bag_size"]) ** 0.5 * np.exp(-token_latents / (6000 * np.sqrt(row["parameters"])))
    assert truth.of(MEASURED)[0] == pytest.approx(lost)
    scale = row["latents"] / row["parameters"]
    shape = features(row["bag_size"], row["bag_fraction"]) @ model.coefficients
    assert made["gain"][0] == pytest.approx(float(model.amplitude(scale) * shape) - lost)
    found = fit_recovery(PUBLISHED, made)
    assert (found.level, found.bags, found.reach) == pytest.approx((0.3, 0.5, 6000.0), rel=1e-3)


def test_recovery_changes_no_published_answer_and_predicts_short_runs_that_it_has_not_seen() -> None:
    with_it, without = fit(PUBLISHED, fit_recovery(PUBLISHED, MEASURED)), fit(PUBLISHED)
    assert np.abs(with_it.predict(PUBLISHED) - without.predict(PUBLISHED)).max() < 1e-9
    errors = held_out_recovery(PUBLISHED, MEASURED)
    assert (errors["rmse_model"] < errors["rmse_without"] / 3).all()
    # The first of its rows, by hand.
    name = errors["group"][0]
    rest, cells = MEASURED[MEASURED["group"] != name], MEASURED[MEASURED["group"] == name]
    misses = fit(PUBLISHED, fit_recovery(PUBLISHED, rest)).predict(cells) - cells["gain"]
    assert errors["rmse_model"][0] == pytest.approx(float(np.sqrt((misses**2).mean())))
    # Where bags lost and where they won, but for cells within the law's error.
    clear = MEASURED[MEASURED["gain"].abs() > 0.03]
    assert (np.sign(with_it.predict(clear)) == np.sign(clear["gain"])).all()
    assert (without.predict(clear) > 0).all()


def test_a_budget_is_told_from_where_on_it_pays(capsys: pytest.CaptureFixture[str]) -> None:
    """A model of the map: its runs of 1,000 steps lost, those of 4,000 won."""

    def of(steps: int, **more: Any) -> Any:
        return recommend(make_target("231744", steps * 4096, 4096), **more)

    short, long = of(500), of(4000)
    assert short.best.gain < 0 < long.best.gain_low and short.extrapolates == long.extrapolates == []
    assert short.pays.expected == pytest.approx(long.pays.expected, rel=0.02)
    assert 500 * 4096 < short.pays.expected < short.pays.surely < 4000 * 4096
    at = of(round(short.pays.surely / 4096) + 20).best
    assert 0 < at.gain_low < 0.01
    assert of(4000, max_data_tokens=1e8).pays.until == pytest.approx(1e8 / 1.1)
    assert command.main(["--model", "231744", "--latents", "2e6", "--latents-per-step", "4096"]) == 0
    assert "use bags?           no" in capsys.readouterr().out
    assert command.main(["--model", "600M", "--latents", "1e9"]) == 0
    assert "cannot be told: no run was measured that is as short" in capsys.readouterr().out
    large = recommend(make_target("600M", 42e9)).pays
    assert large.expected == large.shortest == pytest.approx(561e6 * 1.536e6 / 664192, rel=0.01)


def test_the_picture_names_every_group_and_own_cells_are_kept_as_they_are_read(tmp_path: Path) -> None:
    assert command.main(["--draw", str(tmp_path / "gains.svg")]) == 0
    drawn = (tmp_path / "gains.svg").read_text()
    assert all(f"<!-- {words} -->" in drawn for words in ("254M, 100,000 steps", "664k, 375 steps"))
    own_frame(2.0).to_csv(tmp_path / "own.csv", index=False)
    kept = tmp_path / "kept.csv"
    assert command.main(["--own-results", str(tmp_path / "own.csv"), "--keep", str(kept)]) == 0
    pd.testing.assert_frame_equal(
        pd.read_csv(kept), own_observations(own_frame(2.0)).assign(source=str(tmp_path / "own.csv")),
        check_dtype=False, rtol=1e-5,
    )  # fmt: skip
    assert command.main(["--keep", str(kept)]) == 2


def test_held_out_errors_recomputed() -> None:
    """Fit without 270M, 100,000 steps by hand and compare its row of the table."""
    row = errors_of("270M-100000")
    train = PUBLISHED[PUBLISHED["group"] != "270M-100000"]
    test = PUBLISHED[PUBLISHED["group"] == "270M-100000"]
    model = fit(train)
    predicted = np.exp(model.log_amplitude - model.gamma * np.log(test["latents"] / test["parameters"])) * (
        features(test["bag_size"].to_numpy(), test["bag_fraction"].to_numpy()) @ model.coefficients
    )
    errors = (predicted - test["gain"]).to_numpy()
    assert row["rmse_model"] == pytest.approx(float(np.sqrt(np.mean(errors**2))))
    chosen = test.iloc[int(predicted.to_numpy().argmax())]
    regret = test["gain"].max() - chosen["gain"]
    assert row["regret_model"] == pytest.approx(regret)
    assert (row["s_model"], row["r_model"]) == (
        chosen["bag_size"],
        chosen["bag_fraction"],
    )


def test_baselines_of_the_held_out_table_recomputed_from_the_published_cells() -> None:
    """Fixed choice and nearest published cell for 270M, 20,000 steps, straight from table 4 and 6."""
    row = errors_of("270M-20000")
    four, six = token_losses(4), token_losses(6)
    best = min(four.values())
    assert row["regret_fixed"] == pytest.approx(four[6, 0.3] - best)
    assert min(six, key=lambda cell: six[cell]) == (8, 0.2)
    assert row["nearest"] == "600M-20000"
    assert row["regret_nearest"] == pytest.approx(four[8, 0.2] - best)
    # Bag sizes up to 13 exist in both grids; 14 to 16 are nearest to 13.
    errors = [
        (six[1, 0.0] - six[min(s, 13), r]) - (four[1, 0.0] - loss) for (s, r), loss in four.items() if s > 1
    ]
    assert row["rmse_nearest"] == pytest.approx(float(np.sqrt(np.mean(np.square(errors)))))


def token_losses(table: int) -> dict[tuple[int, float], float]:
    """Token losses of a table of the paper by bag size and bag fraction."""
    cells = paper.published_sweeps(table=table)
    places = zip(cells["bag_size"].astype(int), cells["bag_step_ratio"].astype(float), strict=True)
    return {place: float(loss) for place, loss in zip(places, cells["value"], strict=True) if place[1] < 1}


def test_the_fit_beats_both_baselines_where_the_docs_say_so() -> None:
    table = held_out(PUBLISHED, published_baselines()).table

    def pooled(name: str) -> float:
        return float(np.sqrt((table[name] ** 2).mean()))

    assert pooled("rmse_model") < pooled("rmse_nearest") < pooled("rmse_fixed")
    assert pooled("rmse_loss_model") < pooled("rmse_loss_nearest")
    regrets = {name: float(table[f"regret_{name}"].mean()) for name in ("model", "nearest", "fixed")}
    assert regrets["model"] < regrets["nearest"] < regrets["fixed"]
    # And where they say that it does not: two lengths of which the nearest grid is a near twin.
    for group in ("270M-20000", "600M-20000"):
        assert errors_of(group)["rmse_model"] > errors_of(group)["rmse_nearest"]


def test_cell_noise_finds_the_scatter_that_was_put_in() -> None:
    truth = fit(PUBLISHED)
    data = synthetic(truth)
    smooth = cell_noise(data)
    noisy = data.assign(gain=data["gain"] + np.random.default_rng(0).normal(0, 0.01, len(data)))
    assert smooth < 0.001
    assert cell_noise(noisy) == pytest.approx(0.01, rel=0.15)


def test_baseline_fit_and_its_left_out_error() -> None:
    frame = pd.DataFrame({"parameters": [1e8, 1e8, 4e8, 3e9, 3e9], "latents": [1e10, 5e10, 2e10, 1e10, 9e10]})
    truth = BaselineModel(np.array([9.0, -0.2, -0.1]), 0.0)
    frame["loss"] = [truth.loss(a, b) for a, b in zip(frame["parameters"], frame["latents"], strict=True)]
    found = fit_baseline(frame)
    assert found.coefficients == pytest.approx([9.0, -0.2, -0.1])
    assert found.held_out_rmse < 1e-9
    published = published_baselines()
    errors = []
    for left_out in range(len(published)):
        rest = fit_baseline(published.drop(index=left_out))
        row = published.iloc[left_out]
        errors.append(rest.loss(float(row["parameters"]), float(row["latents"])) - float(row["loss"]))
    expected = float(np.sqrt(np.mean(np.square(errors))))
    assert fit_baseline(published).held_out_rmse == pytest.approx(expected)


def test_interval_comes_from_the_held_out_errors() -> None:
    errors = held_out(PUBLISHED, published_baselines())
    logs = errors.table["log_error"].to_numpy(float)
    assert errors.groups == 4
    # Student's t with 3 degrees of freedom, 95 %: 3.1824.
    assert errors.factor(0.95) == pytest.approx(np.exp(3.18245 * np.sqrt(np.mean(logs**2))), rel=1e-4)
    found = recommend(make_target("600M", 42e9))
    assert found.best.gain_low == pytest.approx(found.best.gain / errors.factor(0.95))
    assert found.best.gain_high == pytest.approx(found.best.gain * errors.factor(0.95))
    assert recommend(make_target("600M", 42e9), confidence=0.8).best.gain_low > found.best.gain_low


def test_advice_for_a_published_size_is_near_its_optimum_and_not_extrapolated() -> None:
    found = recommend(make_target("600M", 20000 * 2**21))
    assert found.extrapolates == []
    assert recommend(make_target("600M", 0.993 * 20000 * 2**21)).extrapolates == []
    assert 5 <= found.best.bag_size <= 9 and 0.15 <= found.best.bag_fraction <= 0.35
    s, r = found.best.bag_size, found.best.bag_fraction
    assert found.best.data_tokens == pytest.approx(20000 * 2**21 * (1 - r + r * s))
    assert found.device_hours == pytest.approx(61)
    assert found.published_best is not None and found.published_best.startswith("s = 8, r = 0.2")
    assert found.frugal.data_tokens < found.best.data_tokens
    assert found.best.gain - 0.002 <= found.frugal.gain <= found.best.gain


def test_data_limit_is_kept_and_too_little_data_is_refused() -> None:
    target = make_target("600M", 42e9)
    limited = recommend(target, max_data_tokens=60e9)
    assert limited.best.data_tokens <= 60e9
    assert limited.best.gain < recommend(target).best.gain
    with pytest.raises(UserError, match=r"43B is less than the 46\.2B.*Output-only"):
        recommend(target, max_data_tokens=43e9)


@pytest.mark.parametrize(
    ("model", "latents", "words"),
    [
        ("10B-A1B", 419e9, "mixture of experts"),
        ("7B", 100e9, "7B parameters lie outside"),
        ("600M", 1e12, "1T latents lie outside"),
        ("1.3B", 100e9, "outside the convex hull"),
        ("3B", 42e9, "rests on single runs"),
    ],
)
def test_extrapolation_is_said(model: str, latents: float, words: str) -> None:
    assert any(re.search(words, reason) for reason in recommend(make_target(model, latents)).extrapolates)


def test_hours_from_throughput_mfu_or_the_paper() -> None:
    target = make_target("1.3B", 90e9)
    assert recommend(target, latents_per_second=1e6).device_hours == pytest.approx(25)
    found = recommend(target, mfu=0.4, peak_tflops=1000)
    assert found.device_hours == pytest.approx(6 * 1.3e9 * 90e9 / 4e14 / 3600)
    between = recommend(target).device_hours
    assert between is not None and 61 * 90 / 42 < between < 247 * 90 / 42
    unknown = recommend(make_target("7B", 90e9))
    assert unknown.device_hours is None and "--latents-per-second" in unknown.hours_from
    with pytest.raises(UserError, match="go together"):
        recommend(target, mfu=0.4)
    with pytest.raises(UserError, match=r"--mfu 40 must lie in"):
        recommend(target, mfu=40, peak_tflops=1000)


def test_models_are_parsed() -> None:
    assert make_target("600M", 1e9).parameters == paper.MODELS["600M"].parameters
    assert make_target("601M", 1e9).parameters == 601e6
    with pytest.raises(UserError, match=r"neither a model of the paper .*270M, 600M"):
        make_target("big", 1e9)


def own_frame(scale: float) -> pd.DataFrame:
    """A user's grid of a small model whose gains are ``scale`` times what the paper's fit expects."""
    model, parameters, steps, batch = fit(PUBLISHED), 1e7, 4000, 2**18
    rows = [{"bag_size": 1, "bag_step_ratio": 0.0, "value": 4.0}]
    for s in (2, 4, 8):
        for r in (0.2, 0.4):
            gain = scale * float(model.gain(parameters, steps * batch, np.array(s), np.array(r)))
            rows.append({"bag_size": s, "bag_step_ratio": r, "value": 4.0 - gain})
    return pd.DataFrame(rows).assign(
        model="mine", total_steps=steps, bag_weighting="uniform", metric="loss", parameters=parameters,
        latents_per_step=batch,
    )  # fmt: skip


MINE = {"parameters": 1e7, "latents": 4000.0 * 2**18}


def own_correction(*own: pd.DataFrame) -> Correction:
    return correct(fit(PUBLISHED), PUBLISHED, pd.concat(own))


@pytest.mark.parametrize("times", [0.1, 0.5, 2.0])
def test_own_results_correct_the_law_where_they_were_measured_and_nowhere_else(
    times: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target, own = make_target("10M", MINE["latents"]), own_observations(own_frame(times))
    before, after = recommend(target), recommend(target, own)
    assert after.best.gain == pytest.approx(times * before.best.gain, rel=0.02, abs=0.005)
    assert after.extrapolates == [] and before.extrapolates != []
    for name in ("270M", "600M", "3B"):
        published = make_target(name, 20000 * paper.MODELS[name].latents_per_step)
        mine, theirs = (recommend(published, own=part).best for part in (own, None))
        assert mine.bag_size == theirs.bag_size and mine.gain == pytest.approx(theirs.gain, rel=1e-6)
    path = tmp_path / "own.csv"
    own_frame(times).to_csv(path, index=False)
    arguments = ["--model", "10M", "--latents", str(4000 * 2**18), "--own-results", str(path), "--json"]
    assert command.main(arguments) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["best"]["gain"] == pytest.approx(after.best.gain)
    assert "mine-4000: 6 own cells, best s = 8, r = 0.2" in said.err


def test_answers_never_get_worse_on_the_published_cells_whatever_was_measured() -> None:
    """A toy grid, a near twin of a published group, and noise: the predictions for published groups stay."""
    near = own_frame(0.3).assign(parameters=3e8, latents_per_step=2**20, total_steps=20000, model="near")
    toy = own_frame(3.0).assign(parameters=84_000, latents_per_step=2048, total_steps=300, model="toy")
    found = own_correction(own_observations(near), own_observations(toy))
    places = PUBLISHED.groupby("group")[["parameters", "latents"]].first()
    factors = [found.factor(*place) for place in places.to_numpy(float)]
    assert factors == pytest.approx([1.0] * len(factors), abs=1e-5)
    law = fit(PUBLISHED)
    measured = 3.0 * law.amplitude(MINE["latents"] / MINE["parameters"]) / law.amplitude(300 * 2048 / 84_000)
    assert found.factor(84_000, 300 * 2048) == pytest.approx(float(measured), rel=0.02)


def test_a_noisy_grid_corrects_less_than_a_sure_one() -> None:
    sure, noisy = (own_observations(own_frame(0.5).assign(stderr=error)) for error in (0.0005, 0.05))
    corrections = [own_correction(part).factor(**MINE) for part in (sure, noisy)]
    assert 0.49 < corrections[0] < 0.52 and 0.9 < corrections[1] < 1.0


def test_where_bags_lost_the_answer_says_so() -> None:
    target = make_target("10M", MINE["latents"])
    losing = recommend(target, own_observations(own_frame(-0.5)))
    assert losing.best == recommend(target).best
    assert "bags lost in your own runs" in losing.extrapolates[0]


def test_own_results_that_do_not_fit_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="column 'parameters' is missing"):
        own_observations(own_frame(1).drop(columns="parameters"))
    with pytest.raises(UserError, match=r"no baseline .* for model mine, 4000 steps"):
        own_observations(own_frame(1).iloc[1:])
    assert (
        command.main(["--model", "600M", "--latents", "1e9", "--own-results", str(tmp_path / "no.csv")]) == 2
    )
    assert "cannot be read" in capsys.readouterr().err


def test_grids_of_a_comparison_enter_the_fit(tmp_path: Path) -> None:
    manifest = tmp_path / "manifest.json"
    manifest.write_text(json.dumps({"parameters": {"total": 12, "active": 10, "non_embedding": 8}}))
    stage = StageFacts(directory=str(tmp_path), phase="token", bag_size=1, start_step=0, end_step=200)
    run = RunFacts(name="a", label="a", role="tst", bag_sizes=(4,), bag_loss_only=False, stages=(stage,),
                   parameters=12, device="cpu", data_identity="d")  # fmt: skip
    facts = Facts(experiment="figure_4", scale="cpu", kind="grid", runs=(run,))
    curves = pd.DataFrame([dict.fromkeys(CURVE_COLUMNS, 0) | {"run": "a", "label": "", "role": "", "seed": 0,
                           "group": "", "smoothed": 0}])  # fmt: skip
    place = {"group": "small", "bag_size": 4.0, "bag_fraction": 0.3, "runs": ("a",)}
    bag = place | {"bag_fraction": 1.0}
    budgets = [
        Number(200, "steps").at("run", "steps", run="a"),
        Number(5e6, "latents").at("run", "latents", run="a"),
    ]
    cells = [
        Number(3.0).at("grid", "final_loss", group="small", bag_size=1.0, bag_fraction=0.0),
        Number(2.9).at("grid", "final_loss", **place),
        Number(0.1, stderr=0.01).at("grid", "final_loss.gain", **place),
        Number(2.9).at("grid", "final_loss", **bag), missing("r = 1").at("grid", "final_loss.gain", **bag),
    ]  # fmt: skip
    write_results(Results(facts, [*budgets, *cells], curves), tmp_path)
    found = comparison_observations(tmp_path / "comparison.json")
    assert len(found) == 1 and list(found.columns) == list(COLUMNS)
    assert found.iloc[0][["group", "parameters", "latents", "gain"]].tolist() == [
        "cpu-10-200",
        10.0,
        5e6,
        0.1,
    ]
    write_results(Results(facts, budgets, curves), tmp_path)
    with pytest.raises(UserError, match="holds no grid"):
        comparison_observations(tmp_path / "comparison.json")


def test_command_answers_and_reports_mistakes(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--model", "600M", "--latents", "42e9", "--max-data-tokens", "100e9"]) == 0
    said = capsys.readouterr().out
    for words in ("bag size s", "bag fraction r", "95% interval", "data tokens", "B200-hours"):
        assert words in said
    assert "Extrapolated" not in said
    assert command.main(["--model", "70B", "--latents", "1T"]) == 0
    assert "Extrapolated: 70B parameters" in capsys.readouterr().out
    assert command.main(["--model", "600M"]) == 2
    assert "--model and --latents are needed" in capsys.readouterr().err
    assert BAG_FRACTIONS.min() == 0.1 and BAG_FRACTIONS.max() == 0.9


def test_docs_show_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    """docs/recommend.md quotes ``tst-titan recommend --evaluate`` line by line."""
    assert command.main(["--evaluate"]) == 0
    docs = (Path(__file__).parents[2] / "docs" / "recommend.md").read_text()
    missing = [line for line in capsys.readouterr().out.splitlines() if line.rstrip() not in docs]
    assert missing == []
