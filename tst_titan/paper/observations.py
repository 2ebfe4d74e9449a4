"""Gains over the baseline as a data frame: the paper's, and a user's own, in the same columns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tst_titan import paper
from tst_titan.compare.kinds.grid import baseline_of, cells_of, grids_of
from tst_titan.compare.numbers import ON_HELDOUT
from tst_titan.compare.results import Results, read_results
from tst_titan.errors import UserError
from tst_titan.files import read_object
from tst_titan.text import amount

COLUMNS = (
    "group", "model", "parameters", "total_steps", "latents", "bag_size", "bag_fraction", "baseline_loss",
    "loss", "gain", "stderr", "source",
)  # fmt: skip
"""One row a TST run: group is model x steps; latents of the whole run; losses and gain in nats/token.

``stderr`` is the gain's measured noise; the paper gives none, which is 0 here.
"""

OWN_COLUMNS = (
    "model", "total_steps", "bag_weighting", "metric", "bag_size", "bag_step_ratio", "value", "parameters",
    "latents_per_step",
)  # fmt: skip
"""What a user's own table needs: the columns of the published sweeps and two that the paper's models imply.

``stderr``, the standard error of a loss, may come with them.
"""


PLAIN_BAGS = {"weighting": "uniform", "sides": "full", "feeding": "longer_sequences"}
"""Axes of a run and what they are in the published grids that the fit rests on."""


def published_observations(bag_weighting: str = "uniform") -> pd.DataFrame:
    """Every published gain over an equal-FLOPs baseline, with columns ``COLUMNS``.

    The grids of tables 4 to 6 (7 for "power_law") with bag fractions inside (0, 1), and the 3B run of table 1.
    The mixture of experts is left out: its baseline has 2.5 times its steps.
    """
    sweeps = paper.published_sweeps(metric="loss", bag_weighting=bag_weighting)
    facts = [paper.MODELS[name] for name in sweeps["model"]]
    sweeps["parameters"] = [fact.parameters for fact in facts]
    sweeps["latents_per_step"] = [fact.latents_per_step for fact in facts]
    found = _from_sweeps(sweeps)
    if bag_weighting == "uniform":
        found = pd.concat([found, _published_3b()], ignore_index=True)
    return found


def measured_observations() -> pd.DataFrame:
    """The short runs of this project (experiment `map` at scale `cpu`), with columns ``COLUMNS``.

    Made by ``tst-titan recommend --results results --keep tst_titan/paper/measured.csv``, never by hand.
    """
    return pd.read_csv(Path(__file__).with_name("measured.csv"))


def own_observations(sweeps: pd.DataFrame, where: str = "own results") -> pd.DataFrame:
    """A user's final losses as observations.

    Args:
        sweeps: columns ``OWN_COLUMNS``; rows of bag size 1 are the baselines, metric "loss" only is used.

    Raises:
        UserError: a column is missing, or a group (model and steps) has no baseline.
    """
    lacking = [column for column in OWN_COLUMNS if column not in sweeps]
    if lacking:
        found = ", ".join(str(column) for column in sweeps.columns)
        raise UserError(f"{where}: column '{lacking[0]}' is missing; found: {found}")
    sweeps = sweeps[sweeps["metric"] == "loss"].assign(source=where)
    return _from_sweeps(sweeps, where)


def results_observations(results: Path) -> tuple[list[pd.DataFrame], list[str]]:
    """The grids of all comparisons below a results folder, and a line for each that had to be left out.

    Comparisons with a caveat (of scales that only test the plumbing) and those without a grid do not count.
    """
    found, left_out = [], []
    for path in sorted(results.glob("compare/*/*/comparison.json")):
        try:
            compared = read_results(path)
            rows = [] if compared.facts.caveat else _rows_of(compared)
        except UserError as error:
            left_out.append(f"{path} is left out: {error}")
            continue
        if rows:
            found.append(pd.DataFrame(rows, columns=list(COLUMNS)))
    return found, left_out


def without_repetition(observations: pd.DataFrame) -> pd.DataFrame:
    """Each cell of a group once: experiments share runs."""
    return observations.drop_duplicates(["group", "bag_size", "bag_fraction"], ignore_index=True)


def comparison_observations(path: Path) -> pd.DataFrame:
    """The grids of a comparison.json as observations; parameters come from the runs' manifests.

    Raises:
        UserError: the file is no comparison, has no grid of final losses, or a manifest is unreadable.
    """
    rows = _rows_of(read_results(path))
    if not rows:
        raise UserError(
            f"{path}: holds no grid of final losses over bag size and bag fraction with ordinary bags and a known error"
        )
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _rows_of(compared: Results) -> list[dict[str, Any]]:
    """Cells with a gain of a comparison's grids of final losses, with bags as in the published grids."""
    rows = []
    for group, metric in grids_of(compared, best=True):
        baseline = baseline_of(compared, group, metric)
        if metric.removeprefix(ON_HELDOUT) != "final_loss" or baseline is None:
            continue
        losses, gains = (cells_of(compared, group, metric, what) for what in ("", ".gain"))
        for (size, fraction), gain in gains.items():
            run = compared.run_named[gain.runs[0]]
            plain = all(run.axes.get(axis, value) == value for axis, value in PLAIN_BAGS.items())
            if not gain.exists or gain.stderr is None or not 0 < fraction < 1 or not plain:
                continue
            steps = compared.metrics(run.name)["steps"].number
            parameters = _active_parameters(run.manifest)
            model = f"{compared.scale}-{amount(parameters)}"
            rows.append({
                "group": f"{model}-{steps:.0f}", "model": model, "parameters": parameters,
                "total_steps": steps, "latents": compared.value(run.name, "latents"), "bag_size": size,
                "bag_fraction": fraction, "baseline_loss": baseline.value, "loss": losses[size, fraction].value,
                "gain": gain.value, "stderr": gain.stderr, "source": run.manifest,
            })  # fmt: skip
    return rows


def _active_parameters(manifest: str) -> float:
    """Parameters that process a latent, from a run's last manifest."""
    try:
        return float(read_object(Path(manifest), "the run's folder is gone")["parameters"]["active"])
    except (KeyError, TypeError) as error:
        raise UserError(f"{manifest}: parameters cannot be read: {error}") from error


def _from_sweeps(sweeps: pd.DataFrame, where: str = "published sweeps") -> pd.DataFrame:
    """Rows with bags, beside the baseline of their model, steps and weighting."""
    keys = ["model", "total_steps", "bag_weighting"]
    if "stderr" not in sweeps:
        sweeps = sweeps.assign(stderr=0.0)
    of_baselines = sweeps[sweeps["bag_size"] == 1].groupby(keys)[["value", "stderr"]].mean()
    baselines = of_baselines["value"]
    inside = (sweeps["bag_size"] > 1) & (sweeps["bag_step_ratio"] > 0) & (sweeps["bag_step_ratio"] < 1)
    rows = sweeps[inside].reset_index(drop=True)
    places = list(zip(*(rows[key] for key in keys), strict=True))
    without = [place for place in places if place not in baselines.index]
    if without:
        raise UserError(
            f"{where}: no baseline (bag_size 1) for model {without[0][0]}, {without[0][1]} steps, "
            f"{without[0][2]} weights"
        )
    made = pd.DataFrame(
        {
            "group": [f"{model}-{steps}" for model, steps, _ in places],
            "model": rows["model"],
            "parameters": rows["parameters"].astype(float),
            "total_steps": rows["total_steps"],
            "latents": rows["total_steps"] * rows["latents_per_step"].astype(float),
            "bag_size": rows["bag_size"].astype(float),
            "bag_fraction": rows["bag_step_ratio"].astype(float),
            "baseline_loss": [float(baselines[place]) for place in places],
            "loss": rows["value"].astype(float),
            "stderr": np.hypot(rows["stderr"], [float(of_baselines["stderr"][place]) for place in places]),
            "source": rows["source"],
        }
    )
    made["gain"] = made["baseline_loss"] - made["loss"]
    return made[list(COLUMNS)]


def _published_3b() -> pd.DataFrame:
    """The one 3B run with an equal-FLOPs baseline (table 1)."""
    runs = paper.published_runs(model="3B")
    runs = runs[runs["total_steps"] == 20000]
    facts = paper.MODELS["3B"]
    losses = dict(zip(runs["variant"], runs["final_loss"].astype(float), strict=True))
    loss, baseline = losses["tst"], losses["baseline"]
    row = {
        "group": "3B-20000", "model": "3B", "parameters": facts.parameters, "total_steps": 20000,
        "latents": 20000.0 * facts.latents_per_step, "bag_size": 6.0, "bag_fraction": 0.3,
        "baseline_loss": baseline, "loss": loss, "gain": baseline - loss, "stderr": 0.0,
        "source": f"{paper.SOURCE_SHORT}, tables 1 and 3",
    }  # fmt: skip
    return pd.DataFrame([row], columns=list(COLUMNS))


def published_baselines() -> pd.DataFrame:
    """Final losses of the paper's dense baselines: model, parameters, total_steps, latents, loss, source.

    Four digits from tables 4 to 6 where they have the run, else three from table 1.
    """
    sweeps = paper.published_sweeps(metric="loss", bag_weighting="uniform")
    cells = sweeps[sweeps["bag_size"] == 1].rename(columns={"value": "loss"})
    runs = paper.published_runs(variant="baseline").rename(columns={"final_loss": "loss"})
    columns = ["model", "total_steps", "loss", "source"]
    rows = pd.concat([cells[columns], runs.loc[runs["architecture"] == "dense", columns]])
    rows = rows.drop_duplicates(["model", "total_steps"]).reset_index(drop=True)
    facts = [paper.MODELS[name] for name in rows["model"]]
    rows["parameters"] = [fact.parameters for fact in facts]
    rows["latents"] = rows["total_steps"] * pd.Series([float(fact.latents_per_step) for fact in facts])
    return rows
