"""The figures draw the comparison's numbers, in looks that do not rely on colour, with the same bytes each time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from tests import made_stages as stages
from tests.report import experiments
from tests.report.conftest import Site, figures_folder
from tst_titan.cli import main
from tst_titan.compare import Results, drawing, read_results
from tst_titan.compare.drawing.style import BAG_DASH, SERIES, looks_of, styled
from tst_titan.compare.kinds import kind_named
from tst_titan.compare.kinds.corpus_statistics import draw_mutual_information
from tst_titan.compare.kinds.grid import paper_grid
from tst_titan.compare.numbers import Number, from_csv, to_csv
from tst_titan.data.mutual_information import Row, fit_power_law
from tst_titan.paper import published_runs, published_sweeps
from tst_titan.report import draw_curves
from tst_titan.report.chart import loss_chart
from tst_titan.report.draw_results import draw_accuracy, draw_seeds

CURVES = ["loss_steps", "loss_flops", "loss_data_tokens", "loss_hours"]


def built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Any) -> Results:
    """One of the small experiments, compared and read back."""
    monkeypatch.chdir(tmp_path)
    return read_results(experiments.build(Path("results"), make(Path("results"))))


def test_lines_at_one_x_stand_beside_each_other_inside_the_axes() -> None:
    with styled():
        figure, ((axes,),) = drawing.figure_of(1, 1, row_height=3.0)
        for look, shift in zip(drawing.looks_of_sizes([2, 4]).values(), drawing.shifts(2), strict=True):
            numbers = [Number(3.0 + x, low=2.5 + x, high=3.5 + x, x=x) for x in (0.1, 0.9)]
            drawing.line(axes, numbers, "x", look, shift=shift)
        figure.canvas.draw()
        (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
        assert left < 0.1 and right > 0.9 and low < 2.6 and high > 4.4
        first, second = (
            line.get_transform().transform((0.1, 2.6))[0] for line in (axes.lines[1], axes.lines[4])
        )
        assert second - first == pytest.approx(3 / 72 * figure.dpi)
        plt.close(figure)


@pytest.mark.parametrize(
    ("experiment", "panels"),
    [
        ("figure_3", ["final_loss", "accuracy", *CURVES]),
        ("figure_4", ["grid_final_loss", "gain_final_loss", *CURVES]),
        ("figure_1", ["final_loss", *CURVES, "expert_load"]),
        ("figure_6", ["final_loss", *CURVES]),
    ],
)
def test_panels_of_every_kind_are_written_whole(site: Site, experiment: str, panels: list[str]) -> None:
    folder = site.root / figures_folder(site.folders[experiment])
    index = json.loads((folder / "figures.json").read_text())
    assert [panel["name"] for panel in index["panels"]] == panels
    assert (
        index["source"] == f"{site.folders[experiment].as_posix()}/comparison.json"
        and index["experiment"] == experiment
    )
    for panel in index["panels"]:
        assert (panel["role"] == "curves") == panel["name"].startswith("loss_")
        assert panel["title"] and panel["caption"].endswith(".") and len(panel["alt"]) > 40
        root = ElementTree.fromstring((folder / panel["svg"]).read_text())
        assert root.tag.endswith("svg") and root.find(".//{*}text") is not None
        assert (folder / panel["pdf"]).read_bytes().startswith(b"%PDF")
    assert not list(folder.glob("*.tmp"))


def test_curves_are_drawn_as_logged_with_the_bag_phase_dashed_and_lighter(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(site.root)
    experiment = read_results(site.folders["figure_3"])
    _, axes = plt.subplots()
    looks = looks_of(experiment.runs)
    switches = draw_curves._draw_group(axes, experiment.curves, experiment.runs, looks, "data_tokens")
    tst = experiment.curve("tst")
    bag, token = tst[~tst["comparable"]], tst[tst["comparable"]]
    assert switches == [bag["data_tokens"].iloc[-1]]
    mine = [line for line in axes.lines if line.get_color() == looks["tst"].colour]
    dashed = [line for line in mine if line.get_linestyle() == "--" and (line.get_alpha() or 1) < 1]
    assert len(dashed) == 1
    np.testing.assert_array_equal(dashed[0].get_xydata(), bag[["data_tokens", "smoothed"]])
    strong = [line for line in mine if line.get_marker() == looks["tst"].marker]
    assert len(strong) == 1 and strong[0].get_linestyle() == "-"
    np.testing.assert_array_equal(strong[0].get_xydata(), token[["data_tokens", "smoothed"]])
    vertical = [line for line in mine if line.get_linestyle() == ":"]
    assert [line.get_xdata()[0] for line in vertical] == switches  # type: ignore[index]
    plt.close()
    assert BAG_DASH != "-"


def test_held_out_curves_come_first_and_training_losses_faint_behind_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    spec = experiments.smoke(Path("results"))
    for run in spec["runs"]:
        stages.write_measurements(
            run["stages"], lambda step, *_: 8 - step / 100, np.linspace(-1, 1, 9), every=50
        )
    results = read_results(experiments.build(Path("results"), spec))
    looks = looks_of(results.runs)
    curves, behind = draw_curves.curves_of(results, results.runs)
    _, axes = plt.subplots()
    switches = draw_curves._draw_group(axes, curves, results.runs, looks, "step")
    (strong,) = (
        line
        for line in axes.lines
        if line.get_color() == looks["tst"].colour and line.get_marker() == looks["tst"].marker
    )
    points = [0, 50, 60, 61, 62, 64, 68, 76, 92, 100, 150, 180, 200]
    np.testing.assert_allclose(
        np.asarray(strong.get_xydata()), np.array([(step, 8 - step / 100) for step in points])
    )
    assert switches == [60]
    drawn = len(axes.lines)
    draw_curves._draw_behind(axes, behind, looks, "step")
    assert all(line.get_alpha() == 0.3 for line in axes.lines[drawn:]) and len(axes.lines) == drawn + 4
    plt.close()
    with styled():
        (panel, *_) = draw_curves.draw_curves(results, tmp_path / "figures")
    assert panel.caption.startswith("Held-out loss against steps.") and "tst 6.0000" in panel.alt
    kinds = [trace["meta"]["kind"] for trace in json.loads(str(loss_chart(results)))["traces"]]
    assert kinds == ["bag", "switch", "token", "final", "training", "token", "final", "training"]


def test_readable_range_shows_the_token_phases(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(site.root)
    experiment = read_results(site.folders["figure_3"])
    view = draw_curves.view_of(experiment.curves)
    token = experiment.curves[experiment.curves["comparable"]]
    low, high = view.readable
    assert low < token["smoothed"].min() and high < experiment.curves["smoothed"].max()
    last_half = token[token["step"] > 500]
    assert last_half["smoothed"].between(low, high).all()
    ends = token.groupby("run")["smoothed"].last()
    gap = abs(ends["tst"] - ends["baseline"])
    assert gap > 0.08 * (high - low)
    assert (
        view.whole[0]
        < experiment.curves["smoothed"].min()
        < experiment.curves["smoothed"].max()
        < view.whole[1]
    )


def test_no_two_runs_differ_by_colour_alone(site: Site) -> None:
    for experiment in ("figure_3", "figure_4", "figure_1"):
        runs = site.comparison(experiment).runs
        looks = {look.key: look for look in looks_of(runs).values()}
        assert len({look.marker for look in looks.values()}) == len(looks)
        assert len({look.colour for look in looks.values()}) == len(looks)


def test_grid_csv_holds_every_cell_and_the_papers(site: Site) -> None:
    folder = site.root / figures_folder(site.folders["figure_4"])
    rows = from_csv((folder / "grid_final_loss.csv").read_text())
    wanted = {"final_loss", "final_loss.gain", "final_loss.paper", "final_loss.paper_gain"}
    drawn = [row for row in site.comparison("figure_4").select("grid") if row.metric in wanted]
    assert rows == drawn and {row.metric for row in rows} == wanted
    assert {row.group for row in rows} == {"small-short", "medium-short"}


def test_the_papers_panel_is_its_table_of_the_same_model(site: Site) -> None:
    results = site.comparison("figure_4")
    for group, table in (("small-short", 4), ("medium-short", 6)):
        published = published_sweeps(table=table)
        assert paper_grid(results, group, "final_loss")["value"].tolist() == published["value"].tolist()
    without = replace(results, numbers=[row for row in results.numbers if row.metric != "final_loss.paper"])
    assert paper_grid(without, "small-short", "final_loss").empty


def test_sweeps_draw_every_point_and_ring_the_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = built(tmp_path, monkeypatch, experiments.lr_sweep)
    with styled():
        (panel,) = kind_named("lr_sweep").draw(experiment, tmp_path / "figures")
    rows = from_csv((tmp_path / "figures" / "sweep_lr.csv").read_text())
    assert rows == experiment.select("sweep", metric="final_loss")
    best = experiment.select("sweep", metric="best")
    assert [row.run for row in best] == ["baseline", "tst"]
    for row in best:
        assert [point.x for point in rows if point.run == row.run] == [0.001, 0.002, 0.004, 0.006]
        assert f"{row.run} best at {row.x:g}" in panel.alt


def test_transfer_draws_bounds_as_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = built(tmp_path, monkeypatch, experiments.transfer)
    with styled():
        (panel,) = kind_named("transfer").draw(experiment, tmp_path / "figures")
    assert from_csv((tmp_path / "figures" / "transfer.csv").read_text()) == experiment.select("transfer")
    bounded = [row for row in experiment.select("transfer", metric="worth") if row.bound]
    assert bounded and all(f"{row.run} at least" in panel.alt for row in bounded)
    svg = (tmp_path / "figures" / panel.svg).read_text()
    assert svg.count('id="patch_') - _patches_without_arrows(experiment, tmp_path) == len(bounded)


def _patches_without_arrows(experiment: Results, tmp_path: Path) -> int:
    """Patches of the same figure with nothing bounded: the frame around the arrows."""
    free = replace(experiment, numbers=[replace(row, bound="") for row in experiment.numbers])
    with styled():
        (panel,) = kind_named("transfer").draw(free, tmp_path / "free")
    return (tmp_path / "free" / panel.svg).read_text().count('id="patch_')


def test_seeds_are_filled_only_outside_the_noise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = built(tmp_path, monkeypatch, experiments.seeds)
    with styled():
        panel = draw_seeds(experiment, tmp_path / "figures")
    assert panel is not None
    drawn = from_csv((tmp_path / "figures" / "seeds.csv").read_text())
    assert drawn and drawn == [
        row for row in experiment.select("seeds") if row.metric.endswith(".difference")
    ]
    assert all(row.excludes_zero for row in drawn)
    wide = replace(
        experiment,
        numbers=[replace(row, low=-9.0, high=9.0) if row in drawn else row for row in experiment.numbers],
    )
    with styled():
        draw_seeds(wide, tmp_path / "wide")
    filled = f"fill: {SERIES[0]}"
    assert filled in (tmp_path / "figures" / panel.svg).read_text()
    assert filled not in (tmp_path / "wide" / panel.svg).read_text()


def test_accuracies_stand_beside_the_papers(
    site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(site.root)
    experiment = read_results(site.folders["figure_3"])
    # as if arc_easy had been scored here too
    scored = experiment.select("run", metric="accuracy/heldout_continuation")
    more = [replace(number, metric="accuracy/arc_easy") for number in scored]
    experiment = replace(experiment, numbers=[*experiment.numbers, *more])
    with styled():
        panel = draw_accuracy(experiment, tmp_path)
    assert panel is not None
    drawn = from_csv((tmp_path / "accuracy.csv").read_text())
    papers = {
        number.run: number.value
        for number in drawn
        if number.part == "paper" and number.metric != "average_accuracy"
    }
    short = {run: published_runs("3B", run)["arc_easy"].iloc[0] for run in ("tst", "baseline")}
    longer = published_runs("3B", "baseline").set_index("total_steps").loc[36_000, "arc_easy"]
    assert papers == {**short, "baseline-1.8x": longer}
    assert [number for number in drawn if number.metric == "accuracy/heldout_continuation"] == scored


def test_expert_load_is_the_logged_one(site: Site) -> None:
    folder = site.root / figures_folder(site.folders["figure_1"])
    frame = pd.read_csv(folder / "expert_load.csv")
    run = site.comparison("figure_1").runs[0]
    lines = [
        json.loads(line)
        for stage in run.stages
        for line in (site.root / stage.metrics).read_text().splitlines()
    ]
    logged = {line["step"]: line["expert_load"] for line in lines}
    mine = frame[frame["run"] == run.name]
    assert set(mine["layer"]) == {0, 1} and set(mine["step"]) == set(logged)
    for row in mine.to_dict("records"):
        assert [row[f"expert_{i}"] for i in range(8)] == logged[row["step"]][row["layer"]]


def test_mutual_information_is_drawn_beside_the_papers_law(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "mutual_information.json"
    rows = [Row(d, 9_000, 900, 1.6 + 2 / d, 1.4 + 2 / d, 1.2 + 2 / d) for d in range(1, 101)]
    content = {
        "format": 1, "corpus": "packages", "vocab_size": 1024, "tokens_sampled": 3_000_000, "unit": "nats",
        "estimator": "grassberger", "table": [asdict(row) for row in rows],
        "shuffled": asdict(Row(None, 9_000, 900, 0.4, 0.2, 0.012)),
        "fits": {name: asdict(fit_power_law(rows, name)) for name in ("grassberger", "plug_in")},
    }  # fmt: skip
    source.write_text(json.dumps(content))
    out = tmp_path / "figures"
    arguments = ["report", "figures", str(source), "--out", str(out)]
    assert main(arguments) == 2
    assert "say whose figures these are" in capsys.readouterr().err
    arguments += ["--experiment", "figure_10", "--scale", "cpu"]
    assert main(arguments) == 0
    (panel,) = json.loads((out / "figures.json").read_text())["panels"]
    assert "3.70 to" not in panel["alt"] and "3.200 to 1.220 nats" in panel["alt"]
    assert "1.2 + 2 d^(-1)" in panel["alt"] and "the paper's 3.63 + 1.35 d^(-1.25)" in panel["alt"]
    assert "(0.012)" in panel["caption"]
    assert "differ by +0.25, more than two" in panel["caption"] and "another exponent" in panel["caption"]
    frame = pd.read_csv(out / "mutual_information.csv")
    assert frame["grassberger"].tolist() == [row.grassberger for row in rows]
    source.write_text(json.dumps({**content, "fits": {}}))
    assert main(arguments) == 2
    assert "fits has no 'grassberger'" in capsys.readouterr().err


def test_the_papers_exponent_is_recognised_within_the_fits_error(tmp_path: Path) -> None:
    noise = 0.02 * np.random.default_rng(0).standard_normal(100)
    values = [0.1 + 2 * d**-1.25 + noise[d - 1] for d in range(1, 101)]
    rows = [Row(d, 9_000, 900, value, value, value) for d, value in enumerate(values, 1)]
    content = {
        "corpus": "packages", "vocab_size": 1024, "tokens_sampled": 3_000_000, "unit": "nats",
        "estimator": "grassberger", "table": [asdict(row) for row in rows], "shuffled": {"grassberger": 0.012},
        "fits": {"grassberger": asdict(fit_power_law(rows))},
    }  # fmt: skip
    (tmp_path / "mi.json").write_text(json.dumps(content))
    panel = draw_mutual_information(tmp_path / "mi.json", tmp_path)
    assert "the paper's as d^(-1.25)" in panel.caption and panel.caption.endswith(": reproduced.")


def test_another_process_draws_the_same_bytes(site: Site, tmp_path: Path) -> None:
    before = {
        file.name: file.read_bytes() for file in (site.root / "results/figures/smoke/figure_6").iterdir()
    }
    command = [sys.executable, "-m", "tst_titan.cli", "report", "figures"]
    command += [str(site.folders["figure_6"]), "--out", str(tmp_path)]
    repository = Path(__file__).parents[2]
    environment = {
        **os.environ,
        "PYTHONHASHSEED": "7",
        "PYTHONPATH": str(repository),
        "SOURCE_DATE_EPOCH": "0",
    }
    subprocess.run(command, cwd=site.root, env=environment, check=True, capture_output=True)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "comparison.json").write_text("{"), "is not valid JSON"),
        (
            lambda folder: (folder / "comparison.json").write_text('{"format": 1}'),
            "format is 1; this version reads",
        ),
        (
            lambda folder: (folder / "comparison.json").write_text('{"format": 2}'),
            "missing key experiment",
        ),
        (lambda folder: (folder / "table.csv").write_text("a,b\n1,2\n"), "its columns are a, b, not part"),
        (lambda folder: (folder / "curves.csv").unlink(), "curves.csv: cannot be read"),
        (lambda folder: (folder / "curves.csv").write_text("a,b\n1,2\n"), "column 'run' is missing"),
        (lambda folder: _drop_run(folder / "table.csv"), "is not of the same comparison"),
    ],
)
def test_a_damaged_comparison_is_refused(
    site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Any, message: str
) -> None:
    for name in ("comparison.json", "curves.csv", "table.csv"):
        (tmp_path / name).write_bytes((site.root / site.folders["figure_6"] / name).read_bytes())
    change(tmp_path)
    out = tmp_path / "figures"
    assert main(["report", "figures", str(tmp_path), "--out", str(out)]) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


def _drop_run(path: Path) -> None:
    rows = from_csv(path.read_text())
    path.write_text(to_csv(row for row in rows if row.run != rows[0].run))
