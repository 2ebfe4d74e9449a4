"""The published numbers are complete, carry their units, and are the ones the paper prints."""

from __future__ import annotations

import math

import pytest

from tst_titan import paper
from tst_titan.errors import UserError


def test_number_of_cells_is_as_published() -> None:
    assert len(paper.published_sweeps()) == 2973
    per_table = paper.published_sweeps().groupby("table").size().to_dict()
    assert [per_table[table] for table in (4, 5, 6, 7)] == [151, 121, 120, 110]
    assert [per_table[table] for table in range(8, 29)] == [135] * 7 + [109] * 14
    assert len(paper.published_runs()) == 13


@pytest.mark.parametrize(
    ("table", "bag_size", "ratio", "value"),
    [
        (4, 1, 0.0, 3.2124),
        (4, 7, 0.3, 3.1392),
        (5, 5, 0.3, 3.0459),
        (6, 8, 0.2, 2.9434),
        (7, 8, 0.2, 2.9435),
        (8, 6, 0.1, 26.45),
        (6, 2, 1.0, 4.3622),
    ],
)
def test_known_cells(table: int, bag_size: int, ratio: float, value: float) -> None:
    frame = paper.published_sweeps(table=table)
    cell = frame[(frame["bag_size"] == bag_size) & (abs(frame["bag_step_ratio"] - ratio) < 1e-9)]
    assert len(cell) == 1
    assert cell["value"].item() == pytest.approx(value)
    assert cell["source"].item() == f"arXiv 2605.06546, table {table}"


def test_runs_have_numbers_and_the_average_of_seven_tasks() -> None:
    runs = paper.published_runs(model="10B-A1B", variant="tst")
    assert runs["total_tokens"].item() == pytest.approx(2e12)
    assert runs["b200_hours"].item() == 4768
    assert runs["average_accuracy"].item() == pytest.approx(
        (71.2 + 74.2 + 47.3 + 69.4 + 43.2 + 77.4 + 63.0) / 7
    )
    reinitialized = paper.published_runs(variant="tst_reinitialized_io")
    assert math.isnan(reinitialized["average_accuracy"].item())
    assert reinitialized["source"].item() == "arXiv 2605.06546, table 2"


def test_runs_and_sweeps_agree_on_the_unit_of_accuracies() -> None:
    """The files differ (percent, fractions); the accessors must not."""
    run = paper.published_runs(model="270M", variant="baseline").iloc[0]
    cell = paper.published_sweeps(table=8)
    baseline = cell[cell["bag_size"] == 1]
    assert baseline["value"].item() == pytest.approx(run["arc_challenge"], abs=0.06)
    assert set(baseline["unit"]) == {"%"}


def test_published_averages_match_the_run_tables() -> None:
    averages = paper.average_accuracy(paper.published_sweeps(model="600M"))
    cell = averages[(averages["bag_size"] == 6) & (abs(averages["bag_step_ratio"] - 0.3) < 1e-9)]
    run = paper.published_runs(model="600M", variant="tst").iloc[0]
    assert cell["value"].item() == pytest.approx(run["average_accuracy"], abs=0.1)
    assert cell["source"].item() == "arXiv 2605.06546, mean of tables 22 to 28"


def test_an_incomplete_cell_has_no_average() -> None:
    cells = paper.published_sweeps(model="600M")
    keep = ~((cells["metric"] == "piqa") & (cells["bag_size"] == 6))
    averages = paper.average_accuracy(cells[keep])
    assert not (averages["bag_size"] == 6).any() and (averages["bag_size"] == 7).any()


def test_every_table_and_figure_with_results_has_a_name() -> None:
    tables = {f"table_{n}" for n in (1, 2, 3, *range(4, 29))}
    assert set(paper.EXPERIMENTS) == tables | {f"figure_{n}" for n in (1, 3, 4, 5, 6, 7, 8, 9, 10, 11)}
    assert set(paper.published_sweeps()["table"]) == set(range(4, 29))


def test_unknown_values_list_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"no model '1T'.*270M"):
        paper.published_sweeps(model="1T")


def test_callers_cannot_spoil_the_cached_numbers() -> None:
    frame = paper.published_sweeps()
    frame["value"] = 0.0
    assert paper.published_sweeps()["value"].max() > 1
